//! Preferred leaders: who has a higher priority leads, when it can.
//!
//! Dissertation 3.10 (leadership transfer as a means to choose the leader). Rules upheld here: T1.
//!
//! A priority is a wish, not a right: elections do not look at it, so it can neither keep a cluster without a
//! leader nor elect one with a log that is too short. A leader that sees a voter of higher priority hands
//! leadership to it, like an operator would, once that node has been heard without a pause for two election
//! timeouts and is at most a heartbeat behind. The order is strict and the better one never gives it back by
//! itself, so leadership does not go back and forth; and if a hand-over fails, the next waits.
//!
//! Each node says its own priority with every heartbeat it answers. It is a property of the machine and its
//! place, set where the node is configured; a change needs a restart of that node, and no change of the
//! membership.

use super::Raft;
use super::role::Role;
use super::transfer::Transfer;
use crate::event::ReplicationMode;
use crate::types::NodeId;

impl Raft {
    /// Once a heartbeat interval: hands over to a voter that is preferred, if one is ready.
    pub(super) fn maybe_yield(&mut self) {
        let Some(to) = self.preferred() else { return };
        let Role::Leader(leader) = &mut self.role else { return };
        leader.transfer = Some(Transfer::of_preference(to));
        self.begin_transfer(to);
    }

    /// Who should lead instead of us, and can.
    fn preferred(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let settled = self.commit >= leader.first
            && self.members.at().index <= self.commit
            && !self.members.is_joint()
            && leader.transfer.is_none()
            && leader.yield_wait == 0;
        if !settled {
            return None;
        }
        let steady = self.config.election_timeout.0.saturating_mul(2);
        let ready = leader.progress.iter().filter(|(id, follower)| {
            self.members.is_voter(**id)
                && follower.priority > self.config.priority
                && follower.mode == ReplicationMode::Replicate
                && follower.snapshot.is_none()
                && follower.steady >= steady
                && follower.matched >= leader.ends.0
        });
        ready.max_by_key(|(_, follower)| (follower.priority, follower.matched)).map(|(&id, _)| id)
    }
}
