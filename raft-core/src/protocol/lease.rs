//! Leader leases: reads without a round of heartbeats, for those who trust their clocks.
//!
//! Dissertation 6.4.1. Rules upheld here: R5, R6, T3, E14. Off unless [`crate::Config::lease`] gives a bound on
//! how far clocks may drift apart.
//!
//! A voter that answers a heartbeat promises, in the answer, to vote for nobody else for so many ticks of its
//! own clock. The leader counts that promise from when it *sent* the heartbeat: the voter cannot have heard
//! it earlier. While promises of a quorum run, no other leader can be elected, so nobody else can have
//! acknowledged a write, and what this leader knows to be committed is all there is.
//!
//! What could break a promise, and why it does not:
//!
//! - *The voter restarts* and has forgotten it: with leases on it promises itself one whole election timeout
//!   whenever it starts (`Raft::new`).
//! - *The voter's term rises*, so that it has no leader any more: the promise is kept apart from the term.
//! - *The leader asks somebody to campaign*, who then is not refused: from then on the leader has no lease,
//!   in this term not again, for the request may be late.
//! - *Nodes are configured differently*: the promise travels in the answer, and is none from a node without
//!   leases or without check-quorum.
//! - *The membership changes*: quorums of consecutive configurations overlap, as for commitment, and the
//!   promises are counted in the one in force, both halves of a joint one.
//! - *A clock runs fast or slow*: that is what the bound is for.
//! - *Ticks come late*, or not at all while a process is stopped: voter and leader each take off what may be
//!   made up for; if more was missed, [`crate::Event::TicksSkipped`] says so, and every promise is void for
//!   the leader. A voter that missed some only keeps its promise for longer.

use std::collections::VecDeque;

use super::Raft;
use super::quorum;
use super::role::{Leader, Role};
use crate::config::Config;
use crate::event::{Effect, Refusal, Ticket};
use crate::types::{Index, NodeId, Ticks};

/// What a leader knows of its lease, besides the promises themselves.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// When rounds began: the first round of a tick, and the tick; ascending. Not older than a lease.
    sent: VecDeque<(u64, u64)>,
    /// Promises in answers to earlier rounds are void.
    valid_from: u64,
    /// Somebody was asked to campaign.
    given_up: bool,
}

impl Lease {
    /// Round `round` begins at tick `now`.
    fn round_sent(&mut self, round: u64, now: u64, config: &Config) {
        if self.sent.back().is_none_or(|&(_, tick)| tick < now) {
            self.sent.push_back((round, now));
        }
        let oldest = now.saturating_sub(u64::from(config.election_timeout.0));
        while self.sent.front().is_some_and(|&(_, tick)| tick < oldest) {
            self.sent.pop_front();
        }
    }

    /// The tick at which `round` began, unless that is too long ago.
    fn sent_at(&self, round: u64) -> Option<u64> {
        let after = self.sent.partition_point(|&(first, _)| first <= round);
        Some(self.sent[after.checked_sub(1)?].1)
    }
}

impl Leader {
    /// A round of heartbeats begins.
    pub(super) fn lease_round_sent(&mut self, round: u64, config: &Config) {
        if config.lease.is_some() {
            self.lease.round_sent(round, self.now, config);
        }
    }

    /// `from` answers `round` and promises not to vote for anybody else for so long (rule R5: counted
    /// from when the round was sent).
    pub(super) fn promised(&mut self, from: NodeId, round: u64, shield: Ticks, config: &Config) {
        if round < self.lease.valid_from || shield.0 == 0 {
            return;
        }
        let mut sent_at = self.lease.sent_at(round);
        if mutant!(raft_mutant = "lease_counts_from_the_answer") {
            sent_at = Some(self.now);
        }
        let Some(sent_at) = sent_at else { return };
        let length = config.lease_ticks(shield.min(config.election_timeout));
        if let Some(follower) = self.progress.get_mut(&from) {
            follower.shields_until = follower.shields_until.max(sent_at + u64::from(length.0));
        }
    }
}

impl Raft {
    /// Whether this node leads and may serve a read without asking anybody.
    pub fn has_lease(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        if mutant!(raft_mutant = "lease_needs_no_promise") {
            return self.config.lease.is_some() && self.commit >= leader.first;
        }
        if self.config.lease.is_none() || leader.lease.given_up || self.commit < leader.first {
            return false; // Rules R6, T3, R1.
        }
        // Until when a quorum's promises run. We would not vote for anybody else while we lead.
        let until = quorum::committed(&self.members, |id| {
            let promised = leader.progress.get(&id).map(|follower| follower.shields_until);
            if self.is_me(id) { Some(Index(u64::MAX)) } else { promised.map(Index) }
        });
        until > Index(leader.now)
    }

    /// A read that a lease will do for. Without one it takes a round like any other: a lease is a
    /// shorter way, not another promise.
    pub(super) fn on_lease_read_requested(&mut self, ticket: Ticket) {
        if self.config.lease.is_none() {
            return self.refuse(ticket, Refusal::LeasesOff);
        }
        if self.has_lease() {
            let index = self.commit;
            return self.outbox.effect(Effect::ReadReady { ticket, index });
        }
        self.on_read_requested(ticket);
    }

    /// Somebody is about to be asked to campaign, and voters will not refuse it (rule T3).
    pub(super) fn give_up_lease(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.lease.given_up = !mutant!(raft_mutant = "lease_outlives_a_transfer");
        }
    }

    /// More time has passed than was counted (rule E14). Promises may have run out in it.
    pub(super) fn on_ticks_skipped(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        if mutant!(raft_mutant = "lease_sleeps_through") {
            return;
        }
        leader.lease.valid_from = leader.round + 1;
        for follower in leader.progress.values_mut() {
            follower.shields_until = 0;
        }
    }

    /// What this node promises a leader that it answers now: its own election timeout, if leases are
    /// on. The promise outlives whatever term and leader follow.
    pub(super) fn promise_shield(&mut self) -> Ticks {
        if self.config.lease.is_none() {
            return Ticks(0);
        }
        self.shield = self.config.election_timeout;
        self.config.for_sure(self.shield)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule R5: from the send of the very round, however many rounds a tick has.
    #[test]
    fn a_promise_counts_from_when_its_round_was_sent() {
        let config = Config::new(NodeId::new(1).unwrap());
        let mut lease = Lease::default();
        for (round, now) in [(1, 5), (2, 5), (3, 5), (4, 15), (5, 16), (9, 110)] {
            lease.round_sent(round, now, &config);
        }
        assert_eq!(lease.sent_at(3), None, "too long ago");
        assert_eq!(lease.sent_at(4), Some(15));
        assert_eq!(lease.sent_at(8), Some(16));
        assert_eq!(lease.sent_at(9), Some(110));
        assert_eq!(lease.sent.len(), 3);
    }
}
