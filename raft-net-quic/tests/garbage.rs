//! Parties that prove who they are and then break the rules: they are disconnected with a reason,
//! and nobody else notices.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::time::{Duration, Instant};

use raft_core::{Message, Sent, Transport};
use tokio::runtime::Runtime;

use common::raw::{CLIENT, Hello, PEER, Raw, frame};
use common::{Authority, Node, PATIENCE, config, identity, noise, runtime, until};

const MALFORMED: u64 = 8;
const SLOW: u64 = 10;

struct Scene {
    runtime: Runtime,
    authority: Authority,
    target: Node,
    witness: Node,
}

impl Scene {
    /// Node 1 under attack, and node 3 that talks to it all the while.
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut raft_net_quic::QuicConfig)) -> Self {
        let (runtime, authority) = (runtime(), Authority::new());
        let mut config_of_target = config(&authority, 1);
        change(&mut config_of_target);
        let target = Node::start(&runtime, config_of_target);
        let witness = Node::start(&runtime, config(&authority, 3));
        witness.name(&[(1, target.address)]);
        witness.reach(&target, 1);
        Self { runtime, authority, target, witness }
    }

    async fn peer(&self) -> Raw {
        let raw = Raw::connect(&self.authority.node(2), PEER, self.target.address, 1).await;
        raw.greet(&Hello::new(identity(2), 1)).await;
        raw
    }

    async fn client(&self) -> Raw {
        Raw::connect(&self.authority.client(), CLIENT, self.target.address, 1).await
    }

    /// What node 1 says to this on a lane of node 2.
    fn lane(&self, byte: u8, bytes: &[u8]) -> (u64, String) {
        self.runtime.block_on(async {
            let raw = self.peer().await;
            let mut stream = raw.lane(byte, bytes).await;
            let _ = stream.finish();
            raw.refusal().await
        })
    }

    /// Node 3 was not disconnected and is heard.
    fn check(&self) {
        assert_eq!(self.witness.transport.send(self.witness.heartbeat(1, 2)), Sent::Queued);
        until("the witness is heard", || {
            let heard = self.target.next();
            matches!(&heard, raft_core::Arrival::Messages(found)
                if found.contains(&self.witness.heartbeat(1, 2)))
        });
    }
}

#[test]
fn nonsense_on_a_lane() {
    let scene = Scene::new();
    let envelope = raft_core::Envelope {
        from: common::node(2),
        to: common::node(1),
        term: raft_core::Term(1),
        message: Message::TimeoutNow,
    };
    let good = postcard::to_stdvec(&envelope).unwrap();
    let mut trailing = good.clone();
    trailing.push(0);
    let foreign = raft_core::Envelope { to: common::node(3), ..envelope };
    let cases: [(&str, u8, Vec<u8>); 9] = [
        ("unknown kind", 9, vec![]),
        ("at most", 1, u32::MAX.to_le_bytes().to_vec()),
        ("at most", 1, 65_537_u32.to_le_bytes().to_vec()),
        ("at most", 2, (8_u32 * 1024 * 1024 + 1).to_le_bytes().to_vec()),
        ("inside a frame", 1, frame(&good)[..good.len()].to_vec()),
        ("left over", 1, frame(&trailing)),
        ("decoded", 1, frame(&[2, 1, 1, 200])),
        ("decoded", 2, frame(&[])),
        ("for node 3", 1, frame(&postcard::to_stdvec(&foreign).unwrap())),
    ];
    for (expected, byte, bytes) in cases {
        let (code, reason) = scene.lane(byte, &bytes);
        assert_eq!(code, MALFORMED, "{reason}");
        assert!(reason.contains(expected), "{reason:?} does not say {expected:?}");
    }
    scene.check();
}

#[test]
fn random_bytes_on_every_kind_of_stream() {
    let scene = Scene::new();
    for seed in 0..10 {
        let mut bytes = noise(10_000, seed);
        bytes[3] = 0; // A length within the limit of the bulk lane.
        bytes[2] = 0;
        assert_eq!(scene.lane(2, &bytes).0, MALFORMED);
        scene.runtime.block_on(async {
            let raw = scene.peer().await;
            let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
            send.write_all(&noise(10_000, seed)).await.unwrap();
            let _ = send.finish();
            // A snapshot is refused without ending the connection.
            assert!(!recv.read_to_end(10_000).await.unwrap().is_empty());
            let raw = Raw::connect(&scene.authority.node(2), PEER, scene.target.address, 1).await;
            let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
            let _ = send.write_all(&noise(2_000, seed)).await;
            assert_eq!(raw.refusal().await.0, MALFORMED);
            let raw = scene.client().await;
            let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
            let _ = send.write_all(&noise(2_000, seed)).await;
            assert_eq!(raw.refusal().await.0, MALFORMED);
        });
    }
    scene.check();
}

#[test]
fn nonsense_from_a_client() {
    let scene = Scene::new();
    let head = |kind: u8| [&7_u64.to_le_bytes()[..], &[kind]].concat();
    let cases: [(&str, Vec<u8>); 4] = [
        ("at most", (3_u32 << 20).to_le_bytes().to_vec()),
        ("inside a frame", frame(&head(0))[..10].to_vec()),
        ("inside a frame", frame(&[1, 2, 3])),
        ("unknown kind 77", frame(&head(77))),
    ];
    for (expected, bytes) in cases {
        let (code, reason) = scene.runtime.block_on(async {
            let raw = scene.client().await;
            let (mut send, _recv) = raw.calls(&bytes).await;
            let _ = send.finish();
            raw.refusal().await
        });
        assert_eq!(code, MALFORMED, "{reason}");
        assert!(reason.contains(expected), "{reason:?} does not say {expected:?}");
    }
    scene.check();
}

#[test]
fn who_says_nothing_is_sent_away() {
    let scene = Scene::with(|config| config.limits.handshake_timeout = Duration::from_millis(100));
    scene.runtime.block_on(async {
        let raw = Raw::connect(&scene.authority.node(2), PEER, scene.target.address, 1).await;
        assert_eq!(raw.refusal().await.0, SLOW);
        let raw = scene.client().await;
        assert_eq!(raw.refusal().await.0, SLOW);
        // A stream that is opened and then left alone.
        let raw = scene.client().await;
        let (mut send, _recv) = raw.connection.open_bi().await.unwrap();
        send.write_all(&[1]).await.unwrap();
        assert_eq!(raw.refusal().await.0, SLOW);
    });
    scene.check();
}

/// A peer that is connected and reads nothing costs a bounded amount of memory, and the sender is
/// told.
#[test]
fn a_peer_that_does_not_read_fills_the_queue_and_no_more() {
    let scene = Scene::with(|config| {
        config.limits.queue_messages = 100;
        config.limits.queue_bytes = 1 << 20;
    });
    let raw = scene.runtime.block_on(scene.peer());
    let data = |index| {
        let entry = raft_core::Entry {
            id: raft_core::LogId::new(raft_core::Term(1), raft_core::Index(index)),
            payload: raft_core::Payload::Command(noise(100_000, index).into()),
        };
        let (prev, commit) = (raft_core::LogId::ZERO, raft_core::Index(0));
        scene.target.envelope(2, Message::Append { prev, entries: vec![entry], commit })
    };
    let started = Instant::now();
    let mut taken = 0_u64;
    while scene.target.transport.send(data(taken)) != Sent::Full {
        taken += 1;
        assert!(taken < 1000, "a peer that does not read takes {taken} messages");
        assert!(started.elapsed() < PATIENCE);
    }
    // Once the windows are full, it stays full.
    until("nothing is taken any more", || {
        std::thread::sleep(Duration::from_millis(20));
        (0..200).all(|index| scene.target.transport.send(data(index)) == Sent::Full)
    });
    // Data does not hold up what is urgent: that has a queue of its own.
    assert_eq!(scene.target.transport.send(scene.target.heartbeat(2, 1)), Sent::Queued);
    scene.check();
    drop(raw);
}

/// Connections that are begun and never finished occupy a bounded number of places.
#[test]
fn half_open_connections_do_not_keep_others_out() {
    let scene = Scene::with(|config| {
        config.limits.handshakes = 8;
        config.limits.handshake_timeout = Duration::from_millis(500);
    });
    scene.runtime.block_on(async {
        let mut idle = Vec::new();
        for _ in 0..6 {
            idle.push(Raw::connect(&scene.authority.node(2), PEER, scene.target.address, 1).await);
        }
        // There are places for the next one, and they become free again.
        for _ in 0..10 {
            let raw = scene.peer().await;
            assert!(raw.stays(Duration::from_millis(20)).await);
        }
        for raw in idle {
            assert_eq!(raw.refusal().await.0, SLOW);
        }
    });
    scene.check();
}
