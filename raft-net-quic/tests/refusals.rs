//! Who is not let in, and what both sides get to know about it. Rules L17 and M10.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Arrival, ClusterId, Incarnation, Message, Sent, Transport};
use raft_net_quic::{
    CallError, CertificateFault, ClientLimits, ConnectError, NetError, QuicClient, QuicTransport,
    RefusalKind,
};
use std::sync::Arc;

use common::raw::{CLIENT, Hello, PEER, Raw, frame};
use common::{
    Authority, NoService, Node, PATIENCE, Validity, config, identity, node, runtime, until,
};

const CLUSTER: u64 = 3;
const NODE: u64 = 4;
const CERTIFICATE: u64 = 5;
const INCARNATION: u64 = 6;
const MALFORMED: u64 = 8;
const BUSY: u64 = 9;

fn hello(id: u64, to: u64) -> Hello {
    Hello::new(identity(id), to)
}

/// Node 1, and the refusal that a party with the certificate of `certificate` gets for this hello.
fn refused(certificate: u64, hello: &Hello) -> (u64, String) {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let tls = authority.node(certificate);
    let refusal = runtime.block_on(async {
        let raw = Raw::connect(&tls, PEER, target.address, 1).await;
        raw.greet(hello).await;
        raw.refusal().await
    });
    assert!(target.arrivals.try_recv().is_err(), "nothing of it reaches the node");
    refusal
}

/// Rule L17.
#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut stranger = hello(2, 1);
    stranger.cluster = 8;
    let (code, reason) = refused(2, &stranger);
    assert_eq!(code, CLUSTER);
    assert!(reason.contains(&format!("{}", ClusterId(8))), "{reason}");
    assert!(reason.contains(&format!("{}", ClusterId(7))), "{reason}");
}

/// Rule L17.
#[test]
fn a_node_that_claims_to_be_another_is_refused() {
    let (code, reason) = refused(3, &hello(2, 1));
    assert_eq!(code, CERTIFICATE);
    assert!(reason.contains("node 2") && reason.contains("node 3"), "{reason}");
}

#[test]
fn a_node_that_looks_for_another_is_refused() {
    assert_eq!(refused(2, &hello(2, 3)).0, NODE);
}

#[test]
fn a_second_process_of_the_same_node_is_refused() {
    assert_eq!(refused(1, &hello(1, 1)).0, NODE);
}

#[test]
fn another_version_is_refused_whatever_its_hello_looks_like() {
    let mut newer = hello(2, 1);
    newer.version += 1;
    let (code, reason) = refused(2, &newer);
    assert_eq!(code, 2);
    assert!(reason.contains(&format!("version {}", newer.version)), "{reason}");
}

#[test]
fn the_certificate_of_a_client_cannot_speak_as_a_node() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let (code, reason) = runtime.block_on(async {
        let raw = Raw::connect(&authority.client(), PEER, target.address, 1).await;
        raw.greet(&hello(2, 1)).await;
        raw.refusal().await
    });
    assert_eq!(code, CERTIFICATE);
    assert!(reason.contains("names no node"), "{reason}");
    assert!(target.arrivals.try_recv().is_err());
}

#[test]
fn a_certificate_with_the_names_of_two_nodes_is_refused() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let names = ["node-2.raft".to_owned(), "node-3.raft".to_owned()];
    let tls = authority.issue("two", &names, true, Validity::Now);
    let (code, _) = runtime.block_on(async {
        let raw = Raw::connect(&tls, PEER, target.address, 1).await;
        raw.greet(&hello(2, 1)).await;
        raw.refusal().await
    });
    assert_eq!(code, CERTIFICATE);
}

/// Rule L17: the certificate decides, also after the handshake.
#[test]
fn a_message_in_the_name_of_another_node_ends_the_connection() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let other = Node::start(&runtime, config(&authority, 3));
    let (honest, forged) =
        (frame_of(&other.envelope(1, Message::TimeoutNow), 2), frame_of_three(&other));
    let tls = authority.node(2);
    let (code, reason) = runtime.block_on(async {
        let raw = Raw::connect(&tls, PEER, target.address, 1).await;
        raw.greet(&hello(2, 1)).await;
        raw.lane(1, &[honest, forged].concat()).await;
        raw.refusal().await
    });
    assert_eq!(code, MALFORMED);
    assert!(reason.contains("node 2 speaks in the name of node 3"), "{reason}");
    let heard = target.messages(1);
    assert_eq!(heard[0].from, node(2), "what was honest arrives, what was forged does not");
    target.drain();
}

fn frame_of(envelope: &raft_core::Envelope, from: u64) -> Vec<u8> {
    let envelope = raft_core::Envelope { from: node(from), ..envelope.clone() };
    frame(&postcard::to_stdvec(&envelope).unwrap())
}

fn frame_of_three(other: &Node) -> Vec<u8> {
    frame_of(&other.envelope(1, Message::TimeoutNow), 3)
}

/// Rule M10: as recorded in the membership, and before that as seen first.
#[test]
fn a_node_that_lost_its_disk_is_refused_under_its_old_id() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let mut peers = common::peers(&[(2, "127.0.0.1:9".parse().unwrap())]);
    target.transport.set_peers(&peers);
    let mut wiped = hello(2, 1);
    wiped.incarnation = 999;
    let tls = authority.node(2);
    runtime.block_on(async {
        let first = Raw::connect(&tls, PEER, target.address, 1).await;
        first.greet(&hello(2, 1)).await;
        let again = Raw::connect(&tls, PEER, target.address, 1).await;
        again.greet(&wiped).await;
        let (code, reason) = again.refusal().await;
        assert_eq!(code, INCARNATION);
        assert!(reason.contains("--node-id NEW --join"), "{reason}");
        assert!(first.stays(Duration::from_millis(50)).await, "the true one is not disturbed");

        // The membership says that the other one is right after all.
        peers.values_mut().for_each(|info| info.incarnation = Some(Incarnation(999)));
        target.transport.set_peers(&peers);
        assert_eq!(first.refusal().await.0, INCARNATION);
        let again = Raw::connect(&tls, PEER, target.address, 1).await;
        again.greet(&wiped).await;
        assert!(again.stays(Duration::from_millis(50)).await);
    });
    let met: Vec<_> = target
        .arrivals
        .try_iter()
        .filter_map(|arrival| match arrival {
            Arrival::Met(id, incarnation) => Some((id, incarnation.0)),
            Arrival::Messages(_)
            | Arrival::Snapshot(..)
            | Arrival::SnapshotSent(..)
            | Arrival::Unreachable(_) => None,
        })
        .collect();
    assert_eq!(met, [(node(2), 200), (node(2), 999)]);
}

#[test]
fn nodes_of_two_authorities_do_not_hear_each_other() {
    let (runtime, ours, theirs) = (runtime(), Authority::new(), Authority::new());
    let a = Node::start(&runtime, config(&ours, 1));
    let b = Node::start(&runtime, config(&theirs, 2));
    a.name(&[(2, b.address)]);
    b.name(&[(1, a.address)]);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        assert_eq!(a.transport.send(a.heartbeat(2, 1)), Sent::Unreachable);
        assert_eq!(b.transport.send(b.heartbeat(1, 1)), Sent::Unreachable);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_address_that_leads_to_another_node_is_not_used() {
    let (runtime, authority) = (runtime(), Authority::new());
    let a = Node::start(&runtime, config(&authority, 1));
    let c = Node::start(&runtime, config(&authority, 3));
    let b = Node::start(&runtime, config(&authority, 2));
    a.name(&[(2, c.address)]);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(300) {
        assert_eq!(a.transport.send(a.heartbeat(2, 1)), Sent::Unreachable);
        std::thread::sleep(Duration::from_millis(5));
    }
    a.name(&[(2, b.address)]);
    a.reach(&b, 2);
}

fn bind(runtime: &tokio::runtime::Runtime, config: raft_net_quic::QuicConfig) -> NetError {
    match QuicTransport::bind(runtime.handle().clone(), config, Arc::new(NoService)) {
        Ok(_) => panic!("bound"),
        Err(error) => error,
    }
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_to_do() {
    let (runtime, authority, other) = (runtime(), Authority::new(), Authority::new());
    let good = config(&authority, 1);
    let with = |change: &dyn Fn(&mut raft_net_quic::QuicConfig)| {
        let mut config = good.clone();
        change(&mut config);
        let error = bind(&runtime, config);
        let line = error.to_string();
        assert!(!line.contains('\n'), "{line}");
        (error, line)
    };
    let (error, line) = with(&|config| config.tls.ca = "/nowhere/ca.pem".into());
    assert!(matches!(error, NetError::Unreadable { .. }), "{line}");
    assert!(line.contains("/nowhere/ca.pem") && line.contains("raft tls init"), "{line}");

    let garbage = authority.dir.path().join("garbage");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let empty = authority.dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    for path in [&garbage, &empty] {
        let (error, line) = with(&|config| config.tls.ca.clone_from(path));
        assert!(matches!(error, NetError::Garbled { .. }), "{line}");
        let (error, line) = with(&|config| config.tls.certificate.clone_from(path));
        assert!(matches!(error, NetError::Garbled { .. }), "{line}");
        let (error, line) = with(&|config| config.tls.key.clone_from(path));
        assert!(matches!(error, NetError::Garbled { .. }), "{line}");
    }

    let expired = authority.issue("old", &["node-1.raft".to_owned()], true, Validity::Past);
    let (error, line) = with(&|config| config.tls = expired.clone());
    assert!(matches!(error, NetError::Expired { .. }), "{line}");
    let future = authority.issue("new", &["node-1.raft".to_owned()], true, Validity::Future);
    let (error, line) = with(&|config| config.tls = future.clone());
    assert!(matches!(error, NetError::NotYetValid { .. }), "{line}");

    let (error, line) = with(&|config| config.tls.key = authority.node(2).key);
    assert!(matches!(error, NetError::KeyMismatch { .. }), "{line}");
    let foreign = other.dir.path().join("ca.pem");
    let (error, line) = with(&|config| config.tls.ca.clone_from(&foreign));
    assert!(matches!(error, NetError::OtherAuthority { .. }), "{line}");
    let (error, line) = with(&|config| config.tls = authority.node(2));
    assert!(
        matches!(error, NetError::OtherNode { names: Some(id), .. } if id == node(2)),
        "{line}"
    );
    let (error, line) = with(&|config| config.tls = authority.client());
    assert!(matches!(error, NetError::OtherNode { names: None, .. }), "{line}");
    let blocked = garbage.join("below-a-file");
    let (error, line) = with(&|config| config.incoming.clone_from(&blocked));
    assert!(matches!(error, NetError::Incoming { .. }), "{line}");
    let (error, line) = with(&|config| config.idle_timeout = Duration::ZERO);
    assert!(matches!(error, NetError::IdleTimeout { .. }), "{line}");
    let (error, line) = with(&|config| config.listen = "192.0.2.1:0".parse().unwrap());
    assert!(matches!(error, NetError::Socket { .. }), "{line}");

    let first = Node::start(&runtime, good.clone());
    let (error, line) = with(&|config| config.listen = first.address);
    assert!(matches!(error, NetError::PortInUse { address } if address == first.address), "{line}");
}

fn call(tls: &raft_net_quic::TlsFiles, endpoint: &str) -> CallError {
    let runtime = runtime();
    let client = QuicClient::new(tls, ClientLimits::default()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let called = runtime.block_on(client.call(endpoint, Bytes::from_static(b"?"), deadline));
    called.expect_err("nobody should answer")
}

#[test]
fn a_client_learns_why_it_is_refused() {
    let (runtime, authority, other) = (runtime(), Authority::new(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let endpoint = target.address.to_string();

    // The client believes neither the node's authority nor would it be believed; it sees the
    // former.
    let error = call(&other.client(), &endpoint);
    let CallError::NotSent { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(*cause, ConnectError::TheirsRefused(CertificateFault::OtherAuthority), "{error}");

    // It believes the node, but is not believed.
    let mut mixed = other.client();
    let both = other.dir.path().join("both.pem");
    let read = |authority: &Authority| fs::read_to_string(authority.dir.path().join("ca.pem"));
    fs::write(&both, read(&authority).unwrap() + &read(&other).unwrap()).unwrap();
    mixed.ca = both;
    let error = call(&mixed, &endpoint);
    let CallError::NotSent { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(*cause, ConnectError::OursRefused(CertificateFault::OtherAuthority), "{error}");
}

#[test]
fn a_client_does_not_take_a_client_for_a_node() {
    // An impostor with the certificate of a client serves; with the purpose of a server, even.
    let (runtime, authority) = (runtime(), Authority::new());
    let names = ["client.raft".to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
    let tls = authority.issue("impostor", &names, true, Validity::Now);
    let address = runtime.block_on(async { serve_raw(&tls) });
    let error = call(&authority.client(), &address.to_string());
    let CallError::NotSent { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(*cause, ConnectError::TheirsRefused(CertificateFault::OtherName), "{error}");
}

#[test]
fn a_client_refuses_an_expired_node() {
    let (runtime, authority) = (runtime(), Authority::new());
    let names = ["node-1.raft".to_owned()];
    for (file, valid) in [("old", Validity::Past), ("new", Validity::Future)] {
        let tls = authority.issue(file, &names, true, valid);
        let address = runtime.block_on(async { serve_raw(&tls) });
        let error = call(&authority.client(), &address.to_string());
        let CallError::NotSent { cause, .. } = &error else { panic!("{error}") };
        assert_eq!(*cause, ConnectError::TheirsRefused(CertificateFault::Expired), "{error}");
    }
}

/// Listens with a certificate that `QuicTransport` would not, and completes handshakes.
fn serve_raw(tls: &raft_net_quic::TlsFiles) -> std::net::SocketAddr {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&tls.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&tls.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![CLIENT.to_vec()];
    let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = quinn::Endpoint::server(config, common::any_port()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            });
        }
    });
    address
}

/// One that opens connection after connection takes its own places only.
#[test]
fn too_many_connections_from_one_address_leave_room_for_others() {
    let (runtime, authority) = (runtime(), Authority::new());
    let mut narrow = config(&authority, 1);
    narrow.limits.client_connections_per_address = 2;
    let target = Node::start(&runtime, narrow);
    let (tls, to) = (authority.client(), target.address);
    runtime.block_on(async {
        let _held =
            [Raw::connect(&tls, CLIENT, to, 1).await, Raw::connect(&tls, CLIENT, to, 1).await];
        let third = Raw::connect(&tls, CLIENT, to, 1).await;
        let (code, reason) = third.refusal().await;
        assert_eq!(code, BUSY);
        assert!(reason.contains("from this address"), "{reason}");

        let endpoint = quinn::Endpoint::client("127.0.0.2:0".parse().unwrap()).unwrap();
        let config = Raw::config(&tls, CLIENT);
        let connection = endpoint.connect_with(config, to, "node-1.raft").unwrap().await.unwrap();
        let elsewhere = Raw { endpoint, connection };
        let (_send, mut recv) = elsewhere.calls(&[]).await;
        let mut hello = [0; 4];
        recv.read_exact(&mut hello).await.unwrap();
        assert!(elsewhere.stays(Duration::from_millis(50)).await);
    });
    // A place that was left is free again.
    let client = QuicClient::new(&tls, ClientLimits::default()).unwrap();
    until("there is room", || {
        let deadline = Instant::now() + PATIENCE;
        runtime.block_on(client.server(&to.to_string(), deadline)).is_ok()
    });
}

#[test]
fn too_many_clients_are_told_so_and_nodes_still_get_in() {
    let (runtime, authority) = (runtime(), Authority::new());
    let mut narrow = config(&authority, 1);
    narrow.limits.client_connections = 1;
    let target = Node::start(&runtime, narrow);
    let peer = Node::start(&runtime, config(&authority, 2));
    let tls = authority.client();
    let endpoint = target.address.to_string();
    let deadline = Instant::now() + PATIENCE;
    let [first, second] =
        [(), ()].map(|()| QuicClient::new(&tls, ClientLimits::default()).unwrap());
    runtime.block_on(async {
        assert_eq!(first.server(&endpoint, deadline).await.unwrap(), identity(1));
        let error = second.server(&endpoint, deadline).await.unwrap_err();
        let CallError::NotSent { cause: ConnectError::Refused(refusal), .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(refusal.kind, RefusalKind::Busy);
        first.close().await;
    });
    until("the place is free again", || {
        runtime.block_on(second.server(&endpoint, deadline)).is_ok()
    });
    peer.name(&[(1, target.address)]);
    peer.reach(&target, 1);
}
