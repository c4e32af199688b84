//! What must hold after every step, in release builds too.
//!
//! Paper: Figure 3. A node that breaks one of these must not vote any more, so it panics with the facts
//! and the ring around it turns that into a stop with a typed cause.
//!
//! These are the cheap checks, a few comparisons a step. What takes several nodes to see (election safety,
//! log matching, state machine safety) is checked by the simulator.

use super::Raft;
use super::role::Role;
use crate::types::{HardState, Index, LogId};

/// What the last step left behind, to see that nothing fell that may only rise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    hard: HardState,
    commit: Index,
    base: LogId,
}

impl Raft {
    /// Compares this step with the last and the parts of the state with one another.
    pub(super) fn check_invariants(&mut self) {
        let (log, before) = (&self.log, self.before);
        let facts = || {
            format!(
                "node {:?} term {} vote {:?} log {}..{} persisted {} commit {} applied {}",
                self.config.id,
                self.hard.term,
                self.hard.vote,
                log.base(),
                log.last(),
                self.outbox.persisted(),
                self.commit,
                self.applied
            )
        };

        // Terms only rise, and within one a vote stands (rules E1, B5).
        invariant!(
            self.hard.term >= before.hard.term,
            "the term fell from {:?}: {}",
            before.hard,
            facts()
        );
        if self.hard.term == before.hard.term && before.hard.vote.is_some() {
            invariant!(self.hard.vote == before.hard.vote, "the vote changed: {}", facts());
        }
        // The log's last term is never beyond our own.
        invariant!(log.last().term <= self.hard.term, "the log is ahead of the term: {}", facts());

        // What is committed stays committed, and is in the log or in the snapshot before it.
        invariant!(self.commit >= before.commit, "commit fell from {}: {}", before.commit, facts());
        invariant!(self.commit <= log.last().index, "commit beyond the log: {}", facts());
        invariant!(self.applied <= self.commit, "applied beyond commit: {}", facts());
        invariant!(log.base() >= before.base, "the base fell from {}: {}", before.base, facts());
        invariant!(log.base().index <= self.commit, "the base is not committed: {}", facts());
        invariant!(
            self.outbox.persisted() <= log.last().index,
            "persisted beyond the log: {}",
            facts()
        );
        invariant!(
            self.outbox.newest_withheld_term().is_none_or(|term| term <= self.hard.term),
            "a withheld message is of a later term: {}",
            facts()
        );

        if let Role::Leader(leader) = &self.role {
            invariant!(
                self.hard.vote == Some(self.config.id),
                "a leader voted for another: {}",
                facts()
            );
            for (id, progress) in &leader.progress {
                invariant!(progress.next > progress.matched, "next of {id:?} fell: {}", facts());
                invariant!(progress.matched <= log.last().index, "{id:?} is ahead: {}", facts());
            }
        }
        self.before = Before { hard: self.hard, commit: self.commit, base: log.base() };
    }
}
