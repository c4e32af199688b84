//! An invariant of ours that breaks stops the node, and everybody who waits learns why.
//!
//! Nothing can be trusted any more once a quorum has voted twice in a term (rule E5), so a node that sees it must
//! not vote again. The protocol panics with the facts; the threads around it turn that into a cause.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::sync::mpsc;
use std::time::Duration;

use raft_core::testing::{MemDisk, MemMachine, MemNet, MemStore};
use raft_core::{
    Arrival, Config, Envelope, Inbox, LogId, Membership, Message, Node, NodeId, NodeOptions,
    ReadLevel, RequestError, StopCause, Term, Ticks, Transport, VoteOutcome,
};

const SOON: Duration = Duration::from_secs(20);

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Rule E5: a broken invariant is a stop with a typed cause, for the caller that waits, for the one that
/// comes later, and for whoever holds the handle.
#[test]
fn a_broken_invariant_stops_the_node_and_everybody_learns_the_facts() {
    let net = MemNet::new();
    let (heard, hears) = mpsc::channel();
    let mut two = net.transport(node(2));
    two.start(Inbox::new(move |arrival| drop(heard.send(arrival))));
    let voters = [1, 2].map(|id| (node(id), format!("host{id}:1")));
    let disk = MemDisk::founded(Membership::of_voters(voters));
    let mut config = Config::new(node(1));
    config.pre_vote = false;
    // Node 2 falls silent once it has voted, and must be heard for long enough.
    config.election_timeout = Ticks(2000);
    config.heartbeat_interval = Ticks(5);
    let mut options = NodeOptions::new(config);
    options.tick = Duration::from_micros(100);
    let machine = MemStore::new().machine();
    let handle = Node::start(options, disk.log(), net.transport(node(1)), machine).unwrap();

    let say = |term, message| {
        let envelope = Envelope { from: node(2), to: node(1), term, message };
        two.send(envelope);
    };
    // The request for a vote, then the first append of the leader: nothing is committed without node 2.
    let campaign = wait_for(&hears, |message| matches!(message, Message::Vote { .. }));
    say(campaign.term, Message::VoteReply(VoteOutcome::Granted));
    wait_for(&hears, |message| matches!(message, Message::Append { .. }));
    let (tell, told) = mpsc::channel();
    let waits = tell.clone();
    handle.propose(MemMachine::put(b"k", b"v"), move |result| {
        waits.send(result.map(drop).unwrap_err()).unwrap();
    });
    let (prev, entries) = (LogId::ZERO, Vec::new());
    say(campaign.term, Message::Append { prev, entries, commit: raft_core::Index(0) });

    let broken = |cause: &StopCause| {
        let StopCause::Bug(facts) = cause else { panic!("it has stopped because {cause}") };
        let said = format!("two leaders in term {}: n1 and n2", campaign.term);
        assert!(facts.contains(&said), "{facts}");
    };
    let stopped = |why: RequestError| {
        let RequestError::Stopped(cause) = why else { panic!("{why}") };
        broken(&cause);
    };
    stopped(told.recv_timeout(SOON).unwrap());
    broken(&handle.wait());
    broken(&handle.stopped().unwrap());
    handle.read_barrier(ReadLevel::Linearizable, move |result| {
        tell.send(result.unwrap_err()).unwrap();
    });
    stopped(told.recv_timeout(SOON).unwrap());
}

/// The first message to node 2 that is one of these.
fn wait_for(hears: &mpsc::Receiver<Arrival>, wanted: impl Fn(&Message) -> bool) -> Envelope {
    loop {
        let Arrival::Messages(envelopes) = hears.recv_timeout(SOON).unwrap() else { continue };
        let found = envelopes.into_iter().find(|envelope| wanted(&envelope.message));
        if let Some(envelope) = found {
            assert!(envelope.term > Term(0));
            return envelope;
        }
    }
}
