//! Two clusters under one authority have nothing to do with each other. Rule L17.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Sent, Transport};
use raft_net_quic::{
    CallError, CertificateFault, ClientLimits, ClusterName, ConnectError, QuicClient, QuicConfig,
    Responder, TlsFiles, client_name, node_name,
};

use common::raw::{CLIENT, Hello, PEER, Raw};
use common::{Authority, Node, PATIENCE, Service, Validity, config, identity, node, runtime};

const CLUSTER: u64 = 3;

fn other() -> ClusterName {
    ClusterName::new("db-2.example").unwrap()
}

/// The certificate of a node of the other cluster.
fn stranger(authority: &Authority, id: u64) -> TlsFiles {
    authority.issue(&format!("other-{id}"), &[node_name(node(id), &other())], true, Validity::Now)
}

/// The configuration of such a node: all but its certificate is as if it belonged to ours.
fn strange(authority: &Authority, id: u64) -> QuicConfig {
    QuicConfig { tls: stranger(authority, id), ..config(authority, id) }
}

/// Rule L17: whoever calls.
#[test]
fn nodes_of_two_clusters_do_not_hear_each_other() {
    let (runtime, authority) = (runtime(), Authority::new());
    let ours = Node::start(&runtime, config(&authority, 1));
    let theirs = Node::start(&runtime, strange(&authority, 2));
    let silent = |from: &Node, to: &Node| {
        from.name(&[(to.id, to.address)]);
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(300) {
            assert_eq!(from.transport.send(from.heartbeat(to.id, 1)), Sent::Unreachable);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(to.arrivals.try_recv().is_err(), "nothing of it reaches node {}", to.id);
    };
    silent(&ours, &theirs);
    silent(&theirs, &ours);
    // Two nodes of the other cluster do hear each other.
    let friend = Node::start(&runtime, strange(&authority, 3));
    theirs.name(&[(3, friend.address)]);
    theirs.reach(&friend, 2);
}

#[test]
fn a_node_of_another_cluster_learns_why_it_is_refused() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let (code, reason) = runtime.block_on(async {
        let raw = Raw::connect(&stranger(&authority, 2), PEER, target.address, 1).await;
        raw.greet(&Hello::new(identity(2), 1)).await;
        raw.refusal().await
    });
    assert_eq!(code, CLUSTER);
    assert!(reason.contains("cluster db-2.example") && reason.contains("cluster raft"), "{reason}");
    assert!(target.arrivals.try_recv().is_err(), "nothing of it reaches the node");
}

fn call(tls: &TlsFiles, target: &Node) -> Result<Bytes, ConnectError> {
    let runtime = runtime();
    let client = QuicClient::new(tls, ClientLimits::default()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let endpoint = target.address.to_string();
    match runtime.block_on(client.call(&endpoint, Bytes::from_static(b"?"), deadline)) {
        Ok(reply) => Ok(reply),
        Err(CallError::NotSent { cause, .. }) => Err(cause),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_client_of_one_cluster_is_none_of_the_other() {
    let (runtime, authority) = (runtime(), Authority::new());
    let echo = || Arc::new(Service(|request: Bytes, reply: Responder| reply.send(request)));
    let ours = Node::serve(&runtime, config(&authority, 1), echo());
    let theirs = Node::serve(&runtime, strange(&authority, 1), echo());

    let client = authority.client();
    assert!(call(&client, &ours).is_ok());
    let fault = CertificateFault::OtherCluster {
        theirs: "db-2.example".to_owned(),
        ours: "raft".to_owned(),
    };
    assert_eq!(call(&client, &theirs), Err(ConnectError::TheirsRefused(fault)));

    let names = [client_name(&other()), client_name(&ClusterName::default())];
    let both = authority.issue("both", &names, false, Validity::Now);
    assert!(call(&both, &ours).is_ok() && call(&both, &theirs).is_ok());
    let any = authority.issue("any", &["alice".to_owned()], false, Validity::Now);
    assert!(call(&any, &ours).is_ok() && call(&any, &theirs).is_ok());
}

/// What an honest client finds out by itself, the node does not leave to it.
#[test]
fn a_node_refuses_the_client_of_another_cluster() {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let client = authority.issue("theirs", &[client_name(&other())], false, Validity::Now);
    for tls in [client, stranger(&authority, 2)] {
        let (code, reason) = runtime.block_on(async {
            let raw = Raw::connect(&tls, CLIENT, target.address, 1).await;
            raw.refusal().await
        });
        assert_eq!(code, CLUSTER);
        assert!(reason.contains("db-2.example") && reason.contains("raft"), "{reason}");
    }
}
