//! What every [`Transport`] must do. Rules L17, M10, S6.
//!
//! To test a transport of your own, say how a node gets one by implementing [`Network`], and let
//! [`transport_suite!`](crate::transport_suite) make a test of each case:
//!
//! ```ignore
//! raft_core::transport_suite!(my_transport, MyNetwork::new);
//! ```
//!
//! The contract lets a transport lose, repeat, delay and reorder, because networks do. The suite asks
//! for more where nothing is broken: there, what was taken arrives once and in order, lane by lane, for
//! a leader that has to repeat is slow. A complete transport over TCP that passes is in
//! `tests/examples/tcp_transport.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "the cases are tests: they fail by panicking, and have to wait for real networks"
)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::entry::{Entry, Membership, Payload, PeerInfo};
use crate::message::{AppendOutcome, Campaign, Envelope, Message, VoteOutcome};
use crate::snapshot::{SnapshotFile, SnapshotHeader, SnapshotMeta, SnapshotReader, SnapshotSource};
use crate::transport::{Arrival, Inbox, Peers, Sent, SnapshotOutcome, SnapshotTicket, Transport};
use crate::types::{ClusterId, Identity, Incarnation, Index, LogId, NodeId, Term, Ticks};

/// A network under test: whatever joins the nodes of one case.
pub trait Network {
    /// What a node uses of it.
    type Transport: Transport;

    /// Whether a queue can be found full: `false` where all is delivered within `send`.
    const QUEUES: bool = true;

    /// Makes the transport of the node `identity`, which the suite starts, and says at which address
    /// others find it. When the same node opens one again, the earlier one was dropped or has
    /// vanished; others must find it where it was.
    fn open(&self, identity: Identity) -> (Self::Transport, String);

    /// Takes a node away without a word, as a power cut would, or as nearly so as possible.
    fn vanish(&self, transport: Self::Transport);
}

/// Makes a module `$name` with a test of each case; `$make` gives a new
/// [`Network`](crate::testing::suites::transport::Network).
#[macro_export]
macro_rules! transport_suite {
    ($name:ident, $make:expr) => {
        $crate::transport_suite! { @tests $name, $make,
            every_message_arrives_as_it_was
            large_messages_arrive_as_they_were
            a_lane_keeps_the_order
            all_hear_one_another
            a_flood_is_refused_not_lost
            heartbeats_do_not_wait_behind_data
            who_is_not_there_is_unreachable
            a_peer_that_comes_back_is_found_again
            a_peer_that_vanishes_is_noticed
            who_is_not_named_any_more_is_disconnected
            another_cluster_is_not_heard
            another_life_is_not_heard
            nobody_speaks_for_another
            snapshots_arrive_as_they_were
            every_snapshot_has_one_outcome
            a_broken_snapshot_can_be_sent_again
            a_snapshot_is_never_a_mixture
            messages_do_not_wait_behind_a_snapshot
            a_snapshot_to_a_peer_that_vanishes_fails
        }
    };
    (@tests $name:ident, $make:expr, $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports, reason = "what the maker is may be named in full")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::testing::suites::transport::$case(&($make)());
                }
            )*
        }
    };
}

/// Every kind of message, with every kind of content.
pub fn every_message_arrives_as_it_was<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    let messages = every_message();
    for message in &messages {
        a.send(a.envelope(2, message.clone()));
    }
    // Lanes may overtake one another.
    let mut found = b.messages(messages.len());
    for message in messages {
        let expected = a.envelope(2, message);
        let at = found.iter().position(|envelope| *envelope == expected);
        found.remove(at.unwrap_or_else(|| panic!("{expected:?} is not among {found:?}")));
    }
}

/// Entries of all sizes up to 4 MiB, alone and together.
pub fn large_messages_arrive_as_they_were<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    let sizes = [0, 1, 1_199, 1_200, 4_095, 4_096, 65_535, 65_536, 1 << 20, 4 << 20];
    let appends = sizes.map(|bytes| a.envelope(2, append(7, &[bytes])));
    let together = a.envelope(2, append(7, &[100; 5_000]));
    for envelope in appends.iter().chain([&together]) {
        a.send(envelope.clone());
        assert!(b.messages(1) == [envelope.clone()], "an append was changed on its way");
    }
}

/// What was taken arrives once and in order, in each lane, while the connection stays the same.
pub fn a_lane_keeps_the_order<N: Network>(net: &N) {
    const ROUNDS: u64 = 20_000;
    let [a, b] = parties(net);
    a.reach(&b);
    b.reach(&a);
    a.calm_down();
    b.calm_down();
    for round in 1..=ROUNDS {
        a.send(a.heartbeat(2, round));
        if round % 10 == 0 {
            a.send(a.envelope(2, append(round, &[64])));
        }
    }
    let (mut rounds, mut appends) = (Vec::new(), Vec::new());
    for envelope in b.messages(usize::try_from(ROUNDS + ROUNDS / 10).unwrap()) {
        if let Message::HeartbeatReply { round, .. } = envelope.message {
            rounds.push(round);
        } else if let Message::Append { prev, .. } = envelope.message {
            appends.push(prev.index.0);
        } else {
            panic!("nobody sent {envelope:?}");
        }
    }
    assert!(rounds.into_iter().eq(1..=ROUNDS), "heartbeats out of order");
    assert!(appends.into_iter().eq((1..=ROUNDS).filter(|n| n % 10 == 0)), "appends out of order");
}

/// Three nodes, every pair in both directions; each is told in which life it has met the others.
pub fn all_hear_one_another<N: Network>(net: &N) {
    let parties: [_; 3] = parties(net);
    for from in &parties {
        for to in parties.iter().filter(|to| to.id() != from.id()) {
            from.reach(to);
            // A message may come in before the connection is reported.
            until("it is told whom it met", || {
                to.met.load(Ordering::Relaxed) & (1 << from.id()) != 0
            });
        }
    }
}

/// Whoever sends faster than the network carries is told `Full`, at once; what was taken arrives.
pub fn a_flood_is_refused_not_lost<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    let flood = a.envelope(2, append(7, &[4096]));
    let (mut taken, mut refused, mut longest) = (0, 0, Duration::ZERO);
    while taken < 100_000 && refused < 3 {
        let started = Instant::now();
        match a.transport.send(flood.clone()) {
            Sent::Queued => taken += 1,
            Sent::Full => refused += 1,
            Sent::Unreachable => panic!("the connection broke"),
        }
        longest = longest.max(started.elapsed());
    }
    assert_eq!(refused > 0, N::QUEUES, "{taken} messages were taken, {refused} refused");
    assert!(longest < Duration::from_secs(2), "sending blocked for {longest:?}");
    assert!(b.messages(taken).iter().all(|found| *found == flood));
    a.reach(&b); // There is room again, and nothing else was under way.
}

/// Rule R1's rounds and elections go on while data is queued.
pub fn heartbeats_do_not_wait_behind_data<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    let data = a.envelope(2, append(7, &[256 << 10]));
    let before = b.seen.load(Ordering::Relaxed);
    let mut queued = 0;
    while queued < 200 && a.transport.send(data.clone()) == Sent::Queued {
        queued += 1;
    }
    let waiting = queued - (b.seen.load(Ordering::Relaxed) - before).min(queued);
    a.send(a.heartbeat(2, 1));
    let found = b.messages(usize::try_from(queued + 1).unwrap());
    let heartbeat = a.heartbeat(2, 1);
    let behind = found.iter().rev().position(|envelope| *envelope == heartbeat).unwrap();
    assert!(
        behind as u64 >= waiting / 2,
        "{queued} appends were queued and {waiting} not there yet, but only {behind} came after \
         the heartbeat"
    );
}

/// No connection, no name, no node: nothing is queued for it, and nothing blocks.
pub fn who_is_not_there_is_unreachable<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    assert_eq!(a.transport.send(a.heartbeat(9, 1)), Sent::Unreachable, "never named");
    let mut peers = named(&[&a, &b]);
    peers.insert(node(3), PeerInfo::at("127.0.0.1:9".to_owned()));
    a.transport.set_peers(&peers);
    for _ in 0..20 {
        assert_eq!(a.transport.send(a.heartbeat(3, 1)), Sent::Unreachable, "nobody is there");
        a.reach(&b);
    }
}

/// A node that starts again is found where it was, in both directions; its end is reported
/// (rule S6).
pub fn a_peer_that_comes_back_is_found_again<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    b.reach(&a);
    let peers = named(&[&a, &b]);
    let identity = b.identity;
    drop(b);
    a.notices_the_loss_of(2);
    let b = Party::start(net, identity);
    b.transport.set_peers(&peers);
    a.reach(&b);
    b.reach(&a);
}

/// A node that is gone without a word is found out (rule S6), and others are not disturbed.
pub fn a_peer_that_vanishes_is_noticed<N: Network>(net: &N) {
    let [a, b, c] = parties(net);
    a.reach(&b);
    a.reach(&c);
    net.vanish(b.transport);
    a.reach(&c);
    a.notices_the_loss_of(2);
    a.reach(&c);
    c.reach(&a);
}

/// A node that was removed is not talked to.
pub fn who_is_not_named_any_more_is_disconnected<N: Network>(net: &N) {
    let [a, b, c] = parties(net);
    a.reach(&b);
    a.reach(&c);
    // The one who is removed must not dial again, or it would be connected again at once.
    c.transport.set_peers(&Peers::new());
    a.transport.set_peers(&named(&[&a, &b]));
    until("nobody is there any more", || a.transport.send(a.heartbeat(3, 1)) == Sent::Unreachable);
    a.reach(&b);
}

/// Rule L17: a node of another cluster is not heard, whatever addresses say.
pub fn another_cluster_is_not_heard<N: Network>(net: &N) {
    let other = Identity { cluster: ClusterId(8), ..identity(2) };
    let [a, b, c] = [identity(1), other, identity(3)].map(|who| Party::start(net, who));
    introduce(&[&a, &b, &c]);
    strangers(&a, &b, &c);
}

/// Rule M10: a node whose recorded incarnation is another is not heard.
pub fn another_life_is_not_heard<N: Network>(net: &N) {
    let [a, b, c] = [1, 2, 3].map(|id| Party::start(net, identity(id)));
    let mut recorded = named(&[&a, &b, &c]);
    recorded.get_mut(&node(2)).unwrap().incarnation = Some(Incarnation(1));
    a.transport.set_peers(&recorded);
    b.transport.set_peers(&recorded);
    c.transport.set_peers(&recorded);
    strangers(&a, &b, &c);
    recorded.get_mut(&node(2)).unwrap().incarnation = Some(b.identity.incarnation);
    a.transport.set_peers(&recorded);
    a.reach(&b);
    b.reach(&a);
}

/// Rule L17: what claims to be from another node than its sender is not delivered.
pub fn nobody_speaks_for_another<N: Network>(net: &N) {
    let [a, b, c] = parties(net);
    a.reach(&b);
    c.reach(&b);
    for round in 1..=20 {
        let _ = a.transport.send(Envelope { from: node(3), ..a.heartbeat(2, round) });
        sleep(Duration::from_millis(1));
    }
    // It may be disconnected for it, and has to be let in again.
    let forged = |envelope: &Envelope| envelope.from != node(1);
    assert!(!a.reaches(&b).iter().any(forged), "delivered in the name of another");
    c.reach(&b);
}

/// Several files, of all sizes: they arrive with their header, byte for byte.
pub fn snapshots_arrive_as_they_were<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    let files = [("EMPTY", 0), ("000012.sst", 1), ("state", 3_000_000), ("a-b_c", 70_001)];
    let source = Files::new(1, &files);
    let ticket = a.transport.send_snapshot(header(2), Box::new(source.clone()));
    let (found, mut reader) = b.snapshot();
    assert_eq!(found, header(2));
    source.check(&mut *reader);
    assert_eq!(a.outcomes(1), [(ticket, SnapshotOutcome::Delivered)]);
    drop(reader);
    a.reach(&b);
}

/// Delivered or not, at once or one after the other: each ticket is reported exactly once.
pub fn every_snapshot_has_one_outcome<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    let send = |to: u64, source: Files| a.transport.send_snapshot(header(to), Box::new(source));
    let good = || Files::new(1, &[("state", 500_000)]);
    // They may arrive at the same time, so a receiver may refuse some of them.
    let mut tickets: Vec<_> = (0..4).map(|_| send(2, good())).collect();
    tickets.push(send(9, good()));
    tickets.push(send(2, Files { fails_at: 100_000, ..good() }));
    let mut found = a.outcomes(tickets.len());
    found.sort_by_key(|(ticket, _)| *ticket);
    let (reported, outcomes): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    tickets.sort();
    assert_eq!(reported, tickets);
    let delivered = outcomes.iter().filter(|o| **o == SnapshotOutcome::Delivered).count();
    assert!((1..=4).contains(&delivered), "{outcomes:?}");
    for _ in 0..delivered {
        good().check(&mut *b.snapshot().1);
    }
    a.reach(&b);
    b.check_no_snapshot();
}

/// A transfer that broke off leaves nothing that would spoil the next one.
pub fn a_broken_snapshot_can_be_sent_again<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    let files = [("one", 2_500_000), ("two", 2_500_000)];
    for fails_at in [0, 1_300_000, 2_499_999] {
        let broken = Files { fails_in: 1, fails_at, ..Files::new(1, &files) };
        a.transport.send_snapshot(header(2), Box::new(broken));
        assert_eq!(a.outcomes(1)[0].1, SnapshotOutcome::Failed);
    }
    let whole = Files::new(1, &files);
    a.transport.send_snapshot(header(2), Box::new(whole.clone()));
    assert_eq!(a.outcomes(1)[0].1, SnapshotOutcome::Delivered);
    whole.check(&mut *b.snapshot().1);
    b.check_no_snapshot();
}

/// A snapshot that looks like one that broke off, but is another, may have to be sent twice; never
/// is a part of each delivered.
pub fn a_snapshot_is_never_a_mixture<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    let files = [("one", 2_500_000), ("two", 2_500_000)];
    let broken = Files { fails_in: 1, fails_at: 1_300_000, ..Files::new(1, &files) };
    a.transport.send_snapshot(header(2), Box::new(broken));
    assert_eq!(a.outcomes(1)[0].1, SnapshotOutcome::Failed);
    let other = Files::new(77, &files);
    let outcome = (0..3).find_map(|_| {
        a.transport.send_snapshot(header(2), Box::new(other.clone()));
        let outcome = a.outcomes(1)[0].1;
        (outcome == SnapshotOutcome::Delivered).then_some(outcome)
    });
    assert_eq!(outcome, Some(SnapshotOutcome::Delivered));
    other.check(&mut *b.snapshot().1);
    b.check_no_snapshot();
}

/// Heartbeats and data pass a snapshot on its way.
pub fn messages_do_not_wait_behind_a_snapshot<N: Network>(net: &N) {
    let [a, b] = parties(net);
    a.reach(&b);
    a.transport.send_snapshot(header(2), Box::new(Files::new(1, &[("state", 96 << 20)])));
    let early = a.transport.send(a.heartbeat(2, 1)) == Sent::Queued;
    let data = a.transport.send(a.envelope(2, append(7, &[1000]))) == Sent::Queued;
    assert!(early && data, "a snapshot must not fill the queues of messages");
    let mut messages = 0;
    loop {
        match b.next() {
            Arrival::Messages(found) => messages += found.len(),
            // Where all is delivered at once, it is there before the messages are sent.
            Arrival::Snapshot(..) if messages == 2 || !N::QUEUES => break,
            Arrival::Snapshot(..) => panic!("{messages} messages passed 96 MiB of a snapshot"),
            Arrival::SnapshotSent(..) | Arrival::Met(..) | Arrival::Unreachable(_) => {}
        }
    }
}

/// The sender gets its answer although nobody is left to give one.
pub fn a_snapshot_to_a_peer_that_vanishes_fails<N: Network>(net: &N) {
    let [a, b, c] = parties(net);
    a.reach(&b);
    a.reach(&c);
    let slow = Files { pause: Duration::from_millis(20), ..Files::new(1, &[("state", 64 << 20)]) };
    let ticket = a.transport.send_snapshot(header(2), Box::new(slow));
    net.vanish(b.transport);
    let outcomes = a.outcomes(1);
    assert_eq!(outcomes[0].0, ticket);
    if N::QUEUES {
        assert_eq!(outcomes[0].1, SnapshotOutcome::Failed);
    }
    a.reach(&c);
}

/// A node, and what it has been told.
struct Party<T> {
    transport: T,
    arrivals: Receiver<Arrival>,
    identity: Identity,
    address: String,
    /// How many messages have arrived.
    seen: Arc<AtomicU64>,
    /// A bit for each node that was met.
    met: Arc<AtomicU64>,
    reached: AtomicU64,
}

impl<T: Transport> Party<T> {
    fn start(net: &impl Network<Transport = T>, identity: Identity) -> Self {
        let (mut transport, address) = net.open(identity);
        let (sender, arrivals) = channel();
        let (seen, met) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (seeing, meeting) = (Arc::clone(&seen), Arc::clone(&met));
        transport.start(Inbox::new(move |arrival| {
            if let Arrival::Messages(found) = &arrival {
                seeing.fetch_add(found.len() as u64, Ordering::Relaxed);
            }
            if let Arrival::Met(peer, incarnation) = arrival {
                assert_eq!(incarnation, self::identity(peer.as_u64()).incarnation);
                meeting.fetch_or(1 << peer.as_u64(), Ordering::Relaxed);
            }
            let _ = sender.send(arrival); // The case may have ended.
        }));
        let reached = AtomicU64::new(0);
        Self { transport, arrivals, identity, address, seen, met, reached }
    }

    fn id(&self) -> u64 {
        self.identity.node.as_u64()
    }

    fn envelope(&self, to: u64, message: Message) -> Envelope {
        Envelope { from: self.identity.node, to: node(to), term: Term(5), message }
    }

    fn heartbeat(&self, to: u64, round: u64) -> Envelope {
        self.envelope(to, Message::HeartbeatReply { round, shield: Ticks(3), priority: 1 })
    }

    /// Sends until it is taken.
    fn send(&self, envelope: Envelope) {
        until("a message is taken", || {
            let sent = self.transport.send(envelope.clone());
            assert_ne!(sent, Sent::Unreachable, "the connection broke");
            sent == Sent::Queued
        });
    }

    fn next(&self) -> Arrival {
        match self.arrivals.recv_timeout(PATIENCE) {
            Ok(arrival) => arrival,
            Err(error) => panic!("node {}: nothing arrived: {error}", self.id()),
        }
    }

    /// The next `count` messages, and no more come with them.
    fn messages(&self, count: usize) -> Vec<Envelope> {
        let mut found = Vec::new();
        while found.len() < count {
            if let Arrival::Messages(envelopes) = self.next() {
                found.extend(envelopes);
            }
        }
        assert_eq!(found.len(), count, "more arrived than was sent");
        found
    }

    fn snapshot(&self) -> (SnapshotHeader, Box<dyn SnapshotReader>) {
        loop {
            if let Arrival::Snapshot(header, reader) = self.next() {
                return (header, reader);
            }
        }
    }

    fn check_no_snapshot(&self) {
        sleep(A_WHILE);
        let found = self.arrivals.try_iter().any(|one| matches!(one, Arrival::Snapshot(..)));
        assert!(!found, "delivered twice, or a broken one");
    }

    /// So many outcomes of snapshots, and no more in a while.
    fn outcomes(&self, count: usize) -> Vec<(SnapshotTicket, SnapshotOutcome)> {
        let mut found = Vec::new();
        while found.len() < count {
            if let Arrival::SnapshotSent(_, ticket, outcome) = self.next() {
                found.push((ticket, outcome));
            }
        }
        sleep(A_WHILE);
        let more = self.arrivals.try_iter().find(|one| matches!(one, Arrival::SnapshotSent(..)));
        assert!(more.is_none(), "reported too often: {more:?}");
        found
    }

    /// Sends to `to` until something of it arrives, for a connection may have to be made first.
    fn reach(&self, to: &Self) {
        self.reaches(to);
    }

    /// The same; what else has arrived there by then.
    fn reaches(&self, to: &Self) -> Vec<Envelope> {
        let round = u64::MAX - self.reached.fetch_add(1, Ordering::Relaxed);
        let marker = self.heartbeat(to.id(), round);
        let started = Instant::now();
        let (mut others, mut sent) = (Vec::new(), 0);
        while started.elapsed() < PATIENCE {
            sent += u64::from(self.transport.send(marker.clone()) == Sent::Queued);
            match to.arrivals.recv_timeout(Duration::from_millis(5)) {
                Ok(Arrival::Messages(found)) => {
                    let (markers, rest): (Vec<_>, _) =
                        found.into_iter().partition(|one| *one == marker);
                    others.extend(rest);
                    sent -= (markers.len() as u64).min(sent);
                    if !markers.is_empty() {
                        self.settle(to, &marker, sent, &mut others);
                        return others;
                    }
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        panic!("node {} does not reach node {}", self.id(), to.id());
    }

    /// Waits for what is left of the markers; those sent on a connection that broke do not come.
    fn settle(&self, to: &Self, marker: &Envelope, mut left: u64, others: &mut Vec<Envelope>) {
        while left > 0 {
            match to.arrivals.recv_timeout(A_WHILE) {
                Ok(Arrival::Messages(found)) => {
                    let count = found.len();
                    others.extend(found.into_iter().filter(|one| one != marker));
                    left = left.saturating_sub(count as u64);
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits until nothing arrives any more. Two nodes that dial each other at once may have two
    /// connections first and one later, and what travels on the two is in no order.
    fn calm_down(&self) {
        while self.arrivals.recv_timeout(A_WHILE).is_ok() {}
    }

    fn notices_the_loss_of(&self, id: u64) {
        until("the loss is reported", || {
            self.arrivals
                .try_iter()
                .any(|one| matches!(one, Arrival::Unreachable(peer) if peer == node(id)))
        });
        until("sending fails", || self.transport.send(self.heartbeat(id, 1)) == Sent::Unreachable);
    }
}

/// `b` must not be heard by `a`, nor `a` by `b`, while `a` and `c` talk.
fn strangers<T: Transport>(a: &Party<T>, b: &Party<T>, c: &Party<T>) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        let _ = a.transport.send(a.heartbeat(2, 1));
        let _ = b.transport.send(b.heartbeat(1, 1));
        assert!(a.reaches(c).iter().all(|envelope| envelope.from == node(1)));
        assert!(c.reaches(a).iter().all(|envelope| envelope.from == node(3)), "it was heard");
    }
    assert_eq!(a.met.load(Ordering::Relaxed) & (1 << 2), 0, "it was met");
    let heard = b.arrivals.try_iter().any(|one| matches!(one, Arrival::Messages(_)));
    assert!(!heard, "it hears a node that does not accept it");
}

/// A snapshot of noise, which fails where it is told to.
#[derive(Clone, Debug)]
struct Files {
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    contents: Vec<Bytes>,
    fails_in: usize,
    fails_at: u64,
    pause: Duration,
}

impl Files {
    fn new(seed: u64, files: &[(&str, usize)]) -> Self {
        let contents = (seed..).zip(files).map(|(seed, (_, bytes))| noise(*bytes, seed)).collect();
        let files = files
            .iter()
            .map(|(name, bytes)| SnapshotFile { name: (*name).to_owned(), bytes: *bytes as u64 });
        let files = files.collect();
        Self {
            meta: meta(),
            files,
            contents,
            fails_in: 0,
            fails_at: u64::MAX,
            pause: Duration::ZERO,
        }
    }

    /// Checks what has arrived of it.
    fn check(&self, reader: &mut dyn SnapshotReader) {
        assert_eq!((reader.meta(), reader.files()), (&self.meta, &self.files[..]));
        for (number, content) in self.contents.iter().enumerate() {
            let mut found = vec![0; content.len() + 1];
            let mut filled = 0;
            loop {
                match reader.read_at(number, filled as u64, &mut found[filled..]).unwrap() {
                    0 => break,
                    bytes => filled += bytes,
                }
            }
            assert!(found[..filled] == content[..], "file {number} was changed on its way");
            if let Some(directory) = reader.directory() {
                let on_disk = std::fs::read(directory.join(&self.files[number].name)).unwrap();
                assert!(on_disk == content[..], "file {number} differs on disk");
            }
        }
    }
}

impl SnapshotSource for Files {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        sleep(self.pause);
        let end = offset.saturating_add(buffer.len() as u64);
        if file == self.fails_in && end > self.fails_at {
            if offset >= self.fails_at {
                return Err(io::Error::other("told to fail"));
            }
            let left = usize::try_from(self.fails_at - offset).unwrap();
            return self.read_at(file, offset, &mut buffer[..left]);
        }
        let rest = &self.contents[file][usize::try_from(offset).unwrap()..];
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }
}

/// Nodes 1 to `COUNT`, each of which was told of the others.
fn parties<N: Network, const COUNT: usize>(net: &N) -> [Party<N::Transport>; COUNT] {
    let parties: [_; COUNT] =
        std::array::from_fn(|index| Party::start(net, identity(index as u64 + 1)));
    introduce(&parties.each_ref());
    parties
}

fn introduce<T: Transport>(parties: &[&Party<T>]) {
    let peers = named(parties);
    parties.iter().for_each(|party| party.transport.set_peers(&peers));
}

fn named<T>(parties: &[&Party<T>]) -> Peers {
    let info = |party: &&Party<T>| (party.identity.node, PeerInfo::at(party.address.clone()));
    parties.iter().map(info).collect()
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn identity(id: u64) -> Identity {
    Identity { cluster: ClusterId(7), node: node(id), incarnation: Incarnation(id * 100) }
}

fn meta() -> SnapshotMeta {
    let membership = Membership::of_voters([(node(1), "a:1".to_owned())]);
    let last = LogId::new(Term(3), Index(500));
    SnapshotMeta { last, membership, membership_at: LogId::new(Term(1), Index(1)) }
}

fn header(to: u64) -> SnapshotHeader {
    SnapshotHeader { from: node(1), to: node(to), term: Term(4), meta: meta() }
}

/// An append after `prev` with commands of these sizes.
fn append(prev: u64, sizes: &[usize]) -> Message {
    let entry = |(index, bytes): (u64, &usize)| Entry {
        id: LogId::new(Term(4), Index(index)),
        payload: Payload::Command(noise(*bytes, index)),
    };
    let entries = (prev + 1..).zip(sizes).map(entry).collect();
    Message::Append { prev: LogId::new(Term(4), Index(prev)), entries, commit: Index(prev) }
}

fn every_message() -> Vec<Message> {
    let id = |index| LogId::new(Term(4), Index(index));
    let membership =
        Membership::of_voters([(node(1), "a:1".to_owned()), (node(2), "b".to_owned())]);
    let entries = vec![
        Entry { id: id(8), payload: Payload::Empty },
        Entry { id: id(9), payload: Payload::Membership(Box::new(membership)) },
        Entry { id: id(10), payload: Payload::Command(Bytes::new()) },
    ];
    vec![
        Message::PreVote { term: Term(6), last: id(7) },
        Message::PreVoteReply { term: Term(6), outcome: VoteOutcome::Granted },
        Message::Vote { last: id(7), campaign: Campaign::Timeout },
        Message::Vote { last: id(7), campaign: Campaign::Transfer },
        Message::VoteReply(VoteOutcome::Refused),
        Message::Append { prev: id(7), entries, commit: Index(3) },
        Message::Append { prev: id(7), entries: vec![], commit: Index(u64::MAX) },
        Message::AppendReply(AppendOutcome::Matched { through: Index(9) }),
        Message::AppendReply(AppendOutcome::Rejected { prev: id(7), hint: id(5) }),
        Message::Heartbeat { commit: Index(3), round: 12 },
        Message::HeartbeatReply { round: 12, shield: Ticks(10), priority: 255 },
        Message::TimeoutNow,
        Message::ReadIndex { ticket: 1 },
        Message::ReadIndexReply { ticket: 1, index: Some(Index(9)) },
        Message::ReadIndexReply { ticket: u64::MAX, index: None },
        Message::SnapshotRequest { from: Index(4) },
        Message::Removed { at: id(3) },
    ]
}

/// Bytes that do not repeat soon.
fn noise(bytes: usize, mut seed: u64) -> Bytes {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_le_bytes()[7]
    };
    (0..bytes).map(|_| next()).collect()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_micros(200));
    }
}

/// Longer than anything takes, for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long something is waited for that must not come.
const A_WHILE: Duration = Duration::from_millis(100);
