//! One node, stepped by hand, with the test in the part of its peer.
//!
//! For what ring 1 adds to the protocol and golden scripts cannot see: requests, stops, callbacks.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::sync::Mutex;

use bytes::Bytes;
use raft_core::testing::{MemDisk, MemMachine, MemNet, MemSnapshot, MemStore, SteppedNode};
use raft_core::{
    AppendOutcome, Applied, Arrival, Campaign, Config, Entry, Envelope, Index, LogId, MachineError,
    Membership, Message, NodeId, NodeOptions, SnapshotMeta, SnapshotReader, SnapshotSource,
    StateMachine, Term, VoteOutcome,
};

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Node 1 of two, which leads term 1 and has its first entry committed.
fn leader() -> SteppedNode {
    leader_with(MemStore::new().machine())
}

/// The same, with `machine` for a state machine.
fn leader_with(machine: impl StateMachine) -> SteppedNode {
    let voters = [1, 2].map(|id| (node(id), format!("host{id}:1")));
    let disk = MemDisk::founded(Membership::of_voters(voters));
    let mut config = Config::new(node(1));
    config.pre_vote = false;
    let options = NodeOptions::new(config);
    let transport = MemNet::new().transport(node(1));
    let mut one = SteppedNode::start(&options, disk.log(), transport, machine).unwrap();
    while one.raft().term() == Term(0) {
        one.tick();
        settle(&mut one);
    }
    hear(&mut one, 1, Message::VoteReply(VoteOutcome::Granted));
    hear(&mut one, 1, Message::AppendReply(AppendOutcome::Matched { through: Index(1) }));
    assert_eq!(one.raft().commit(), Index(1));
    one
}

/// Node 2 says `message` in `term`.
fn hear(one: &mut SteppedNode, term: u64, message: Message) {
    let envelope = Envelope { from: node(2), to: node(1), term: Term(term), message };
    one.arrive(Arrival::Messages(vec![envelope]));
    settle(one);
}

/// Does all that waits.
fn settle(one: &mut SteppedNode) {
    loop {
        one.run();
        if one.stopped().is_some() {
            return;
        }
        let mut reports = Vec::new();
        if let Some(job) = one.take_log_job() {
            one.run_log_job(job, &mut reports).unwrap();
        }
        if let Some(job) = one.take_apply_job() {
            reports.push(one.run_apply_job(job).unwrap());
        }
        if reports.is_empty() {
            return;
        }
        reports.into_iter().for_each(|report| one.report(report));
    }
}

/// Gives away what was asked for last time, as a database does that flushes in its own time.
struct Lagging {
    machine: MemMachine,
    before: Mutex<MemSnapshot>,
}

impl StateMachine for Lagging {
    fn applied(&self) -> Applied {
        self.machine.applied()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        self.machine.apply(entries, outcomes)
    }

    fn durable(&mut self) -> Result<Index, MachineError> {
        Ok(Index(0))
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let mut now = self.machine.snapshot()?;
        let now = MemSnapshot::receive(now.meta().clone(), &mut *now).unwrap();
        Ok(Box::new(std::mem::replace(&mut *self.before.lock().unwrap(), now)))
    }

    fn restore(&mut self, snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        self.machine.restore(snapshot)
    }
}

/// Rule S5. A follower that repairs itself is not sent a state from before what it may have applied, only to
/// throw it away; it is sent the next that is good enough.
#[test]
fn a_snapshot_that_is_too_old_for_a_repair_is_not_sent() {
    let empty = MemSnapshot::new(SnapshotMeta::default(), Bytes::new());
    let machine = Lagging { machine: MemStore::new().machine(), before: Mutex::new(empty) };
    let mut one = leader_with(machine);
    one.propose(MemMachine::put(b"key", b"value"), |done| drop(done.unwrap()));
    settle(&mut one);
    hear(&mut one, 1, Message::AppendReply(AppendOutcome::Matched { through: Index(2) }));
    let delivery = |one: &SteppedNode| one.raft().status().followers[0].snapshot;
    hear(&mut one, 1, Message::SnapshotRequest { from: Index(2) });
    assert_eq!(delivery(&one), None, "it holds nothing");
    for _ in 0..Config::new(node(1)).election_timeout.0 {
        one.tick();
        settle(&mut one);
        hear(&mut one, 1, Message::AppendReply(AppendOutcome::Matched { through: Index(2) }));
    }
    hear(&mut one, 1, Message::SnapshotRequest { from: Index(2) });
    assert_eq!(delivery(&one).unwrap().last, Some(LogId::new(Term(1), Index(2))));
    let snapshot = one.status().followers[0].snapshot.unwrap();
    assert!(snapshot.total_bytes > 0 && snapshot.bytes <= snapshot.total_bytes, "{snapshot:?}");
}

/// A stop that comes while an operator's hand-over is under way does not break it off.
#[test]
fn a_stop_waits_for_a_transfer_that_is_under_way() {
    let mut one = leader();
    one.transfer(node(2), |done| done.unwrap());
    settle(&mut one);
    one.stop(50);
    settle(&mut one);
    assert!(one.stopped().is_none(), "node 2 was told to campaign and is about to");
    let last = LogId::new(Term(1), Index(1));
    hear(&mut one, 2, Message::Vote { last, campaign: Campaign::Transfer });
    assert!(one.stopped().is_some());
}

/// Nor does it wait for longer than it may.
#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut one = leader();
    one.transfer(node(2), |done| drop(done.unwrap_err()));
    one.stop(50);
    settle(&mut one);
    let mut ticks = 0;
    while one.stopped().is_none() {
        one.tick();
        settle(&mut one);
        ticks += 1;
    }
    assert_eq!(ticks, 50);
}
