//! What a node must keep, over all its lives: seen in what it sends, and in what is on its disk then.

use std::collections::BTreeMap;

use raft_core::testing::MemDisk;
use raft_core::{Envelope, HardState, Message, NodeId, Term, VoteOutcome};

use crate::events::{self, ME};

/// Whom it has voted for.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    votes: BTreeMap<Term, NodeId>,
}

impl Promises {
    /// Nothing is said that a crash right now could make untrue, and no term gets two votes (rules E1, E2).
    pub(crate) fn check(&mut self, disk: &MemDisk, envelope: &Envelope) {
        let (hard, me) = (disk.hard(), events::id(ME));
        let Envelope { from, to, term, message } = envelope;
        assert_eq!(*from, me);
        assert_ne!(*to, me, "it talks to itself");
        assert!(*term <= hard.term, "speaks in term {term}, {hard:?} is durable");
        let asks = matches!(message, Message::Vote { .. }).then_some(me);
        let grants = (*message == Message::VoteReply(VoteOutcome::Granted)).then_some(*to);
        if let Some(vote) = asks.or(grants) {
            assert_eq!(
                hard,
                HardState { term: *term, vote: Some(vote) },
                "the vote is not durable"
            );
            let first = *self.votes.entry(*term).or_insert(vote);
            assert_eq!(first, vote, "two votes in term {term}");
        }
    }
}
