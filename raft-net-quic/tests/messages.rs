//! Nodes exchange messages: order, bounds, loss and return.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Arrival, Entry, Envelope, Index, LogId, Message, Payload, Sent, Term, Transport};

use common::{Authority, Node, cluster, config, node, runtime, until};

fn append(from: &Node, to: u64, index: u64, bytes: usize) -> Envelope {
    let payload = Payload::Command(Bytes::from(common::noise(bytes, index)));
    let id = LogId::new(Term(1), Index(index));
    let prev = LogId::new(Term(1), Index(index - 1));
    let entries = vec![Entry { id, payload }];
    from.envelope(to, Message::Append { prev, entries, commit: Index(index) })
}

#[test]
fn three_nodes_hear_one_another() {
    let (runtime, authority) = (runtime(), Authority::new());
    let nodes = cluster(&runtime, &authority, 3);
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.id != from.id) {
            from.reach(to, from.id * 10 + to.id);
        }
    }
}

/// When both dial at once, one of the two connections goes, and nothing with it.
#[test]
fn nodes_that_dial_at_once_settle_on_one_connection() {
    let (runtime, authority) = (runtime(), Authority::new());
    let pairs: Vec<_> = (0..8)
        .map(|_| (Node::start(&runtime, config(&authority, 1)), config(&authority, 2)))
        .map(|(a, config)| (a, Node::start(&runtime, config)))
        .collect();
    for (a, b) in &pairs {
        a.name(&[(2, b.address)]);
        b.name(&[(1, a.address)]);
    }
    // Longer than the connection that goes is kept.
    let (started, mut round) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_millis(1500) {
        round += 1;
        for (a, b) in &pairs {
            a.send(&a.heartbeat(2, round));
            b.send(&b.heartbeat(1, round));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for node in pairs.iter().flat_map(|(a, b)| [a, b]) {
        let mut rounds = Vec::new();
        while rounds.len() < usize::try_from(round).unwrap() {
            match node.next() {
                Arrival::Messages(found) => rounds.extend(found),
                Arrival::Met(..) => {}
                other @ (Arrival::Unreachable(_)
                | Arrival::Snapshot(..)
                | Arrival::SnapshotSent(..)) => panic!("node {}: {other:?}", node.id),
            }
        }
        assert_eq!(rounds.len(), usize::try_from(round).unwrap());
    }
}

#[test]
fn a_lane_keeps_the_order_and_loses_nothing_while_connected() {
    let (runtime, authority) = (runtime(), Authority::new());
    let nodes = cluster(&runtime, &authority, 2);
    let [a, b] = &nodes[..] else { unreachable!() };
    a.reach(b, 0);
    b.reach(a, 0);
    const COUNT: u64 = 20_000;
    for round in 1..=COUNT {
        a.send(&a.heartbeat(2, round));
        b.send(&b.heartbeat(1, round));
    }
    let count = usize::try_from(COUNT).unwrap();
    assert!(b.rounds(count).into_iter().eq(1..=COUNT));
    assert!(a.rounds(count).into_iter().eq(1..=COUNT));
}

#[test]
fn appends_of_every_size_arrive_as_they_were() {
    let (runtime, authority) = (runtime(), Authority::new());
    let nodes = cluster(&runtime, &authority, 2);
    let [a, b] = &nodes[..] else { unreachable!() };
    a.reach(b, 0);
    let sizes = [0, 1, 100, 1200, 4096, 65_536, 1 << 20, (1 << 20) + 1, 5 << 20];
    let sent: Vec<_> = (1..).zip(sizes).map(|(index, size)| append(a, 2, index, size)).collect();
    sent.iter().for_each(|envelope| a.send(envelope));
    assert_eq!(b.messages(sent.len()), sent);
}

#[test]
fn control_messages_do_not_wait_behind_data() {
    let (runtime, authority) = (runtime(), Authority::new());
    let nodes = cluster(&runtime, &authority, 2);
    let [a, b] = &nodes[..] else { unreachable!() };
    a.reach(b, 0);
    // More data than the windows of QUIC hold, then a heartbeat.
    let data: Vec<_> = (1..=15).map(|index| append(a, 2, index, 1 << 20)).collect();
    data.iter().for_each(|envelope| a.send(envelope));
    a.send(&a.heartbeat(2, 99));
    let found = b.messages(data.len() + 1);
    let place = found.iter().position(|envelope| *envelope == a.heartbeat(2, 99)).unwrap();
    assert!(place < data.len() / 2, "the heartbeat came after {place} appends");
}

#[test]
fn who_is_not_named_or_not_there_is_unreachable() {
    let (runtime, authority) = (runtime(), Authority::new());
    let a = Node::start(&runtime, config(&authority, 1));
    assert_eq!(a.transport.send(a.heartbeat(2, 1)), Sent::Unreachable);
    a.name(&[(2, "127.0.0.1:9".parse().unwrap())]);
    assert_eq!(a.transport.send(a.heartbeat(2, 1)), Sent::Unreachable);
}

#[test]
fn a_newcomer_answers_a_leader_it_was_not_told_of() {
    let (runtime, authority) = (runtime(), Authority::new());
    let leader = Node::start(&runtime, config(&authority, 1));
    let newcomer = Node::start(&runtime, config(&authority, 2));
    leader.name(&[(2, newcomer.address)]);
    leader.reach(&newcomer, 1);
    newcomer.reach(&leader, 2);
}

#[test]
fn a_message_too_large_for_a_frame_is_dropped_and_others_are_not() {
    let (runtime, authority) = (runtime(), Authority::new());
    let mut small = config(&authority, 1);
    small.limits.bulk_frame_bytes = 10_000;
    let a = Node::start(&runtime, small);
    let b = Node::start(&runtime, config(&authority, 2));
    a.name(&[(2, b.address)]);
    a.reach(&b, 0);
    a.send(&append(&a, 2, 1, 20_000));
    a.send(&append(&a, 2, 2, 100));
    assert_eq!(b.messages(1), [append(&a, 2, 2, 100)]);
}

#[test]
fn a_peer_that_restarts_is_found_again() {
    let (runtime, authority) = (runtime(), Authority::new());
    let a = Node::start(&runtime, config(&authority, 1));
    let b = Node::start(&runtime, config(&authority, 2));
    a.name(&[(2, b.address)]);
    a.reach(&b, 1);
    let address = b.address;
    drop(b);
    until("the loss is noticed", || matches!(a.next(), Arrival::Unreachable(id) if id == node(2)));
    until("sending fails", || a.transport.send(a.heartbeat(2, 9)) == Sent::Unreachable);
    let mut again = config(&authority, 2);
    again.listen = address;
    let b = Node::start(&runtime, again);
    a.reach(&b, 10);
    b.reach(&a, 11);
}

#[test]
fn a_peer_that_dies_without_a_word_is_noticed_within_the_idle_timeout() {
    let (ours, theirs, authority) = (runtime(), runtime(), Authority::new());
    let mut quick = config(&authority, 1);
    quick.idle_timeout = Duration::from_millis(300);
    let a = Node::start(&ours, quick);
    let b = Node::start(&theirs, config(&authority, 2));
    a.name(&[(2, b.address)]);
    a.reach(&b, 1);
    a.drain();
    theirs.shutdown_background(); // Its tasks stop in the middle of whatever they do.
    let started = Instant::now();
    until("the loss is noticed", || matches!(a.next(), Arrival::Unreachable(id) if id == node(2)));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn who_is_no_member_any_more_is_disconnected() {
    let (runtime, authority) = (runtime(), Authority::new());
    let nodes = cluster(&runtime, &authority, 3);
    let [a, b, c] = &nodes[..] else { unreachable!() };
    a.reach(b, 1);
    a.reach(c, 1);
    b.reach(a, 1);
    // The one who is removed must not dial again, or it would be connected again at once.
    c.name(&[]);
    a.name(&[(2, b.address)]);
    assert_eq!(a.transport.send(a.heartbeat(3, 2)), Sent::Unreachable);
    a.reach(b, 3);
}

#[test]
fn a_new_address_is_used() {
    let (runtime, authority) = (runtime(), Authority::new());
    let a = Node::start(&runtime, config(&authority, 1));
    let b = Node::start(&runtime, config(&authority, 2));
    a.name(&[(2, "127.0.0.1:9".parse().unwrap())]);
    assert_eq!(a.transport.send(a.heartbeat(2, 1)), Sent::Unreachable);
    a.name(&[(2, b.address)]);
    a.reach(&b, 1);
}
