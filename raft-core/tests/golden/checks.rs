//! What must hold in every script, whatever its expected output says.
//!
//! Paper: Figure 3 (the five properties), Figure 2 ("updated on stable storage before responding").
//! A check that fails ends the script with a panic that names the facts.

use std::collections::BTreeMap;

use raft_core::{
    AppendOutcome, Entry, Envelope, Index, LogId, Message, NodeId, Payload, Term, VoteOutcome,
};

use crate::disk::Disk;

/// What the whole cluster has ever done.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    /// What was applied at each index, by whoever was first.
    applied: BTreeMap<Index, Entry>,
}

impl Checks {
    /// Election safety: at most one leader in a term. Leader completeness: it has everything that
    /// any state machine has applied.
    pub(crate) fn leads(&mut self, id: NodeId, term: Term, log: &Disk) {
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "election safety: {leader:?} and {id:?} both lead term {term}");
        for (index, entry) in self.applied.range(log.base.last.index.next()..) {
            assert_eq!(
                log.term_at(*index),
                Some(entry.id.term),
                "leader completeness: {id:?} leads term {term} without {}",
                entry.id
            );
        }
    }

    /// State machine safety: nobody applies another entry at the same index.
    pub(crate) fn applies(&mut self, id: NodeId, entry: &Entry) {
        let first = self.applied.entry(entry.id.index).or_insert_with(|| entry.clone());
        assert_eq!(first, entry, "state machine safety: {id:?} applies something else");
    }

    /// Nothing is promised before it is on the sender's disk (rules E1, E2, L10).
    pub(crate) fn sends(envelope: &Envelope, disk: &Disk) {
        let Envelope { from, to, term, message } = envelope;
        let hard = disk.hard;
        match message {
            Message::Vote { .. } => assert!(
                hard.term > *term || (hard.term == *term && hard.vote == Some(*from)),
                "{from:?} campaigns in term {term}, its disk says {hard:?} (rule E2)"
            ),
            Message::VoteReply(VoteOutcome::Granted) => assert!(
                hard.term > *term || (hard.term == *term && hard.vote == Some(*to)),
                "{from:?} votes for {to:?} in term {term}, its disk says {hard:?} (rule E1)"
            ),
            Message::AppendReply(AppendOutcome::Matched { through }) => assert!(
                hard.term >= *term && disk.last().index >= *through,
                "{from:?} acknowledges {through}, its disk ends at {} (rule L10)",
                disk.last()
            ),
            Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::VoteReply(VoteOutcome::Refused)
            | Message::Append { .. }
            | Message::AppendReply(AppendOutcome::Rejected { .. })
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Snapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::SnapshotRequest { .. }
            | Message::Removed { .. } => assert!(
                hard.term >= *term,
                "{from:?} speaks in term {term}, its disk says {hard:?} (rule E1)"
            ),
        }
    }

    /// Log matching: logs that share an entry share all that is before it.
    pub(crate) fn logs_match(logs: &BTreeMap<NodeId, &Disk>) {
        let mut seen: BTreeMap<LogId, (NodeId, Option<Term>, &Payload)> = BTreeMap::new();
        for (&id, log) in logs {
            for entry in &log.entries {
                let before = log.term_at(entry.id.index.prev());
                let found = (id, before, &entry.payload);
                let (other, other_before, payload) = *seen.entry(entry.id).or_insert(found);
                assert!(
                    payload == &entry.payload && before == other_before,
                    "log matching: {other:?} and {id:?} differ at or before {}",
                    entry.id
                );
            }
        }
    }
}
