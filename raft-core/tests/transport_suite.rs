//! The network inside one process does what every transport must do; and the suite that says so finds
//! those that do not, each broken in one way.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use raft_core::testing::suites::transport::{self as suite, Network};
use raft_core::testing::{MemNet, MemTransport};
use raft_core::{
    Envelope, Identity, Inbox, Peers, Sent, SnapshotHeader, SnapshotOutcome, SnapshotSource,
    SnapshotTicket, Term, Transport,
};

#[derive(Default)]
struct InProcess(MemNet);

impl Network for InProcess {
    type Transport = MemTransport;
    const QUEUES: bool = false;

    fn open(&self, identity: Identity) -> (MemTransport, String) {
        (self.0.join(identity), format!("node-{}", identity.node))
    }

    fn vanish(&self, transport: MemTransport) {
        drop(transport);
    }
}

raft_core::transport_suite!(in_process, InProcess::default);

/// What is wrong with a transport.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Repeats,
    Changes,
    ReportsTwice,
    HearsTheRemoved,
    HearsAnotherLife,
    NeverFull,
}

struct BrokenNet(MemNet, Fault);

struct Broken {
    inner: MemTransport,
    fault: Fault,
    inbox: Option<Inbox>,
    sent: AtomicU64,
}

impl Network for BrokenNet {
    type Transport = Broken;
    const QUEUES: bool = false;

    fn open(&self, identity: Identity) -> (Broken, String) {
        let (inner, fault) = (self.0.join(identity), self.1);
        (Broken { inner, fault, inbox: None, sent: AtomicU64::new(0) }, String::new())
    }

    fn vanish(&self, transport: Broken) {
        drop(transport);
    }
}

impl Transport for Broken {
    fn start(&mut self, inbox: Inbox) {
        self.inbox = Some(inbox.clone());
        self.inner.start(inbox);
    }

    fn send(&self, mut envelope: Envelope) -> Sent {
        let now = self.sent.fetch_add(1, Ordering::Relaxed) % 10 == 9;
        match self.fault {
            Fault::Repeats if now => _ = self.inner.send(envelope.clone()),
            Fault::Changes if now => envelope.term = Term(envelope.term.0 + 1),
            Fault::NeverFull if now => return Sent::Queued,
            Fault::Repeats
            | Fault::Changes
            | Fault::NeverFull
            | Fault::ReportsTwice
            | Fault::HearsTheRemoved
            | Fault::HearsAnotherLife => {}
        }
        self.inner.send(envelope)
    }

    fn send_snapshot(
        &self,
        header: SnapshotHeader,
        source: Box<dyn SnapshotSource>,
    ) -> SnapshotTicket {
        let to = header.to;
        let ticket = self.inner.send_snapshot(header, source);
        if self.fault == Fault::ReportsTwice {
            let inbox = self.inbox.as_ref().unwrap();
            inbox.snapshot_sent(to, ticket, SnapshotOutcome::Delivered);
        }
        ticket
    }

    fn set_peers(&self, peers: &Peers) {
        let mut peers = peers.clone();
        match self.fault {
            Fault::HearsAnotherLife => peers.values_mut().for_each(|info| info.incarnation = None),
            Fault::HearsTheRemoved if peers.len() < 3 => return,
            Fault::HearsTheRemoved
            | Fault::Repeats
            | Fault::Changes
            | Fault::NeverFull
            | Fault::ReportsTwice => {}
        }
        self.inner.set_peers(&peers);
    }
}

/// Whether `case` finds the fault.
fn found(fault: Fault, case: fn(&BrokenNet)) -> bool {
    catch_unwind(AssertUnwindSafe(|| case(&BrokenNet(MemNet::new(), fault)))).is_err()
}

#[test]
fn broken_transports_are_found() {
    assert!(found(Fault::Repeats, suite::a_lane_keeps_the_order));
    assert!(found(Fault::Changes, suite::every_message_arrives_as_it_was));
    assert!(found(Fault::ReportsTwice, suite::every_snapshot_has_one_outcome));
    assert!(found(Fault::HearsAnotherLife, suite::another_life_is_not_heard));
    // These show as something that never comes, which takes the suite's patience to see.
    std::thread::scope(|scope| {
        let lost = scope.spawn(|| found(Fault::NeverFull, suite::a_lane_keeps_the_order));
        let heard = scope.spawn(|| {
            found(Fault::HearsTheRemoved, suite::who_is_not_named_any_more_is_disconnected)
        });
        assert!(lost.join().unwrap() && heard.join().unwrap());
    });
}
