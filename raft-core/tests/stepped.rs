//! One node, stepped by hand, with the test in the part of its peer.
//!
//! For what ring 1 adds to the protocol and golden scripts cannot see: requests, stops, callbacks.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use raft_core::testing::{MemDisk, MemNet, MemStore, SteppedNode};
use raft_core::{
    AppendOutcome, Arrival, Campaign, Config, Envelope, Index, LogId, Membership, Message, NodeId,
    NodeOptions, Term, VoteOutcome,
};

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Node 1 of two, which leads term 1 and has its first entry committed.
fn leader() -> SteppedNode {
    let voters = [1, 2].map(|id| (node(id), format!("host{id}:1")));
    let disk = MemDisk::founded(Membership::of_voters(voters));
    let mut config = Config::new(node(1));
    config.pre_vote = false;
    let options = NodeOptions::new(config);
    let transport = MemNet::new().transport(node(1));
    let machine = MemStore::new().machine();
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
