//! Parties that use QUIC itself against a node: many connections that are never finished, early data,
//! streams that nobody asked for, sockets that move. Others are not disturbed.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{ConnectionError, Endpoint};
use raft_core::Message;
use raft_net_quic::{ClientLimits, ClusterName, QuicClient, QuicConfig, Responder, node_name};
use tokio::runtime::Runtime;

use common::log::Warnings;
use common::raw::{CLIENT, Hello, PEER, Raw, frame};
use common::{
    Authority, Node, PATIENCE, Service, Validity, any_port, config, identity, node, runtime, until,
};

/// Node 1, which answers clients with what they ask.
fn target(runtime: &Runtime, authority: &Authority) -> Node {
    serve_echo(runtime, config(authority, 1))
}

fn serve_echo(runtime: &Runtime, config: QuicConfig) -> Node {
    let echo = Arc::new(Service(|request, reply: Responder| reply.send(request)));
    Node::serve(runtime, config, echo)
}

/// Passes on what comes in to `to`, and nothing that comes back; counts what it has passed on.
fn one_way_street(to: SocketAddr) -> (SocketAddr, Arc<AtomicU64>) {
    let socket = UdpSocket::bind(any_port()).unwrap();
    let (address, passed) = (socket.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&passed);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 2048];
        while let Ok((bytes, from)) = socket.recv_from(&mut packet) {
            if from != to && socket.send_to(&packet[..bytes], to).is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (address, passed)
}

/// Thousands of handshakes begin and none goes on: nodes and clients get in all the same.
#[test]
fn thousands_of_half_open_connections_keep_nobody_out() {
    const CONNECTIONS: u64 = 4000;
    let (runtime, authority) = (runtime(), Authority::new());
    let target = target(&runtime, &authority);
    let witness = Node::start(&runtime, config(&authority, 3));
    witness.name(&[(1, target.address)]);
    witness.reach(&target, 1);
    target.drain();

    let (address, passed) = one_way_street(target.address);
    let _within = runtime.enter();
    let flooder = Endpoint::client(any_port()).unwrap();
    let flooding = Raw::config(&authority.client(), CLIENT);
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let connecting = flooder.connect_with(flooding.clone(), address, "node-1.raft");
        open.push(connecting.unwrap());
        if open.len() % 100 == 0 {
            std::thread::sleep(Duration::from_millis(5)); // Lets the packets out.
        }
    }
    until("they are under way", || passed.load(Ordering::Relaxed) >= CONNECTIONS);

    let client = QuicClient::new(&authority.client(), ClientLimits::default()).unwrap();
    let endpoint = target.address.to_string();
    until("a client gets in", || {
        let deadline = Instant::now() + PATIENCE;
        let call = client.call(&endpoint, Bytes::from_static(b"hello"), deadline);
        runtime.block_on(call).is_ok_and(|reply| reply == "hello")
    });
    let late = Node::start(&runtime, config(&authority, 2));
    late.name(&[(1, target.address)]);
    late.reach(&target, 2);
    witness.send(&witness.heartbeat(1, 3));
    let heard = target.messages(1);
    assert_eq!(heard, [witness.heartbeat(1, 3)], "the one who was there was not disturbed");
    drop(open);
}

/// What is sent before a handshake is over could be sent twice by anybody who has seen it.
#[test]
fn there_is_no_early_data() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = target(&runtime, &authority);
    let config = Raw::config(&authority.client(), CLIENT); // Remembers sessions.
    runtime.block_on(async {
        let endpoint = Endpoint::client(any_port()).unwrap();
        let connect =
            || endpoint.connect_with(config.clone(), target.address, "node-1.raft").unwrap();
        for _ in 0..3 {
            let Err(connecting) = connect().into_0rtt() else { panic!("early data is possible") };
            let connection = connecting.await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await; // A ticket would come now.
            connection.close(0_u32.into(), b"");
        }
    });
}

/// A client has a stream for calls and so many more; beyond, QUIC holds it up, and its calls go on.
#[test]
fn the_streams_of_a_client_are_bounded() {
    let (runtime, authority) = (runtime(), Authority::new());
    let mut narrow = config(&authority, 1);
    narrow.limits.client_subscriptions = 5;
    let target = serve_echo(&runtime, narrow);
    runtime.block_on(async {
        let raw = Raw::connect(&authority.client(), CLIENT, target.address, 1).await;
        let request = [&7_u64.to_le_bytes()[..], &[0], b"hello"].concat();
        let (_send, mut recv) = raw.calls(&frame(&request)).await;
        let mut found = Vec::new();
        while !found.ends_with(b"hello") {
            let chunk = recv.read_chunk(1000, true).await.unwrap().unwrap();
            found.extend_from_slice(&chunk.bytes);
        }
        // Opened and left alone: the node does not even know of them.
        let mut open = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(stream) = tokio::time::timeout(patience, raw.connection.open_bi()).await {
            open.push(stream.unwrap());
        }
        assert_eq!(open.len(), 5);
        let one_way = tokio::time::timeout(patience, raw.connection.open_uni()).await;
        assert!(one_way.is_err(), "a stream of one direction");
    });
}

/// Rule L17: the address is no part of who somebody is. A machine may get another one.
#[test]
fn an_endpoint_that_moves_is_still_who_it_was() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = target(&runtime, &authority);
    let said = |round| {
        let reply = Message::HeartbeatReply { round, shield: raft_core::Ticks(0), priority: 0 };
        let term = raft_core::Term(1);
        raft_core::Envelope { from: node(2), to: node(1), term, message: reply }
    };
    let bytes = |round| frame(&postcard::to_stdvec(&said(round)).unwrap());
    runtime.block_on(async {
        let raw = Raw::connect(&authority.node(2), PEER, target.address, 1).await;
        raw.greet(&Hello::new(identity(2), 1)).await;
        let mut lane = raw.lane(1, &bytes(1)).await;
        assert_eq!(target.messages(1), [said(1)]);
        for round in 2..5 {
            raw.endpoint.rebind(UdpSocket::bind(any_port()).unwrap()).unwrap();
            lane.write_all(&bytes(round)).await.unwrap();
            assert_eq!(target.messages(1), [said(round)]);
        }
        assert!(raw.stays(Duration::from_millis(50)).await);
    });
}

/// Whoever's time is over, or has not come, is told so in the handshake.
#[test]
fn a_certificate_out_of_its_time_is_refused_by_the_node() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = target(&runtime, &authority);
    for (valid, protocol) in [
        (Validity::Past, PEER),
        (Validity::Future, PEER),
        (Validity::Past, CLIENT),
        (Validity::Future, CLIENT),
    ] {
        let tls =
            authority.issue("other", &[node_name(node(2), &ClusterName::default())], true, valid);
        let closed = runtime.block_on(async {
            let raw = Raw::connect(&tls, protocol, target.address, 1).await;
            raw.connection.closed().await
        });
        let ConnectionError::ConnectionClosed(close) = &closed else { panic!("{closed}") };
        assert_eq!(u64::from(close.error_code), 0x100 + 45, "certificate_expired: {closed}");
    }
    assert!(target.arrivals.try_recv().is_err(), "nothing of it reaches the node");
}

/// Who keeps coming with nonsense fills no disk: one line says who it was and what was wrong, and the next one,
/// seconds later, how many were left out.
#[test]
fn one_line_tells_who_misbehaves_and_how() {
    let log = Warnings::keep();
    let (runtime, authority) = (runtime(), Authority::new());
    let target = target(&runtime, &authority);
    let request = [&7_u64.to_le_bytes()[..], &[77]].concat();
    let started = Instant::now();
    for _ in 0..20 {
        runtime.block_on(async {
            let raw = Raw::connect(&authority.client(), CLIENT, target.address, 1).await;
            let (_send, _recv) = raw.calls(&frame(&request)).await;
            assert!(raw.refusal().await.1.contains("unknown kind 77"));
        });
    }
    let lines = log.with("unknown kind 77");
    let most = 1 + started.elapsed().as_secs() / 5;
    assert!((1..=most).contains(&(lines.len() as u64)), "{lines:?}");
    assert!(lines[0].contains("from=127.0.0.1:") && lines[0].contains("suppressed=0"), "{lines:?}");
}
