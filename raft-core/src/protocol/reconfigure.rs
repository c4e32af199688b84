//! How a leader changes the membership, and leaves office when it is not part of it any more.
//!
//! Paper: §6; dissertation 4.1 (one change at a time), 4.2.1 (newcomers catch up first), 4.2.2 (a leader
//! that is removed), 4.3 (joint consensus). Rules upheld here: M1, M2, M4, M5, M7, M12.
//!
//! What the next configuration is, is decided by the pure functions in `change.rs`; what is pending and
//! who may ask is decided here.

use super::Raft;
use super::change;
use super::outbox::Vouches;
use super::progress::Progress;
use super::role::Role;
use crate::entry::{Entry, Membership, Payload};
use crate::event::{Change, ChangeStep, Effect, Refusal, ReplicationMode, Ticket};
use crate::message::Message;
use crate::types::{LogId, NodeId};

impl Raft {
    pub(super) fn on_change_requested(&mut self, ticket: Ticket, change: &Change) {
        match self.judge_change(change) {
            Ok(membership) => {
                let id = self.next_id();
                self.outbox.effect(Effect::Appended { ticket, id });
                self.append_membership(id, membership);
            }
            Err(Refusal::ChangePending { .. }) if self.can_hold() => {
                self.hold(ticket, change.clone())
            }
            Err(why) => self.refuse(ticket, why),
        }
    }

    /// Whether all that is pending is the recording of incarnations, which is this leader's own doing:
    /// nobody is refused for it. One change may wait until it is committed.
    fn can_hold(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let committed = self.members.in_force_at(self.commit).0.index;
        let recording = self.members.is_same_since(committed) && !self.members.is_joint();
        recording && leader.held.is_none()
    }

    fn hold(&mut self, ticket: Ticket, change: Change) {
        if let Role::Leader(leader) = &mut self.role {
            leader.held = Some((ticket, change));
        }
    }

    /// What the membership becomes, or why it may not change now.
    fn judge_change(&self, change: &Change) -> Result<Membership, Refusal> {
        let Role::Leader(leader) = &self.role else { return Err(self.not_leader()) };
        if let Some(transfer) = &leader.transfer {
            return Err(Refusal::Transferring { to: transfer.to });
        }
        if self.commit < leader.first && !mutant!(raft_mutant = "change_before_own_commit") {
            return Err(Refusal::NotReady); // Rule M2: two changes of two leaders could part ways.
        }
        let found = self.members.at().index;
        let pending = found > self.commit && !mutant!(raft_mutant = "two_changes_at_once");
        if pending || self.members.is_joint() {
            return Err(Refusal::ChangePending { since: found }); // Rule M1.
        }
        match change.expected_at {
            Some(expected) if !self.members.is_same_since(expected) => {
                Err(Refusal::MembershipMoved { found, expected })
            }
            Some(_) | None => change::next(&self.members, change),
        }
    }

    /// Makes `id` a voter if that was asked for and it has caught up: it is heard, and at most a
    /// heartbeat behind (dissertation 4.2.1, rule M12). A voter further behind could stop the cluster
    /// from committing for as long as it takes to catch up.
    pub(super) fn maybe_promote(&mut self, id: NodeId) {
        if !self.members.promoting.contains(&id) {
            return;
        }
        let Role::Leader(leader) = &self.role else { return };
        let caught_up = leader.progress.get(&id).is_some_and(|follower| {
            follower.mode == ReplicationMode::Replicate && follower.matched >= leader.ends.0
        });
        if !caught_up {
            return;
        }
        let promote = Change { steps: vec![ChangeStep::AddVoter(id, None)], expected_at: None };
        // Refused while another change is pending; the next answer of the learner tries again.
        if let Ok(membership) = self.judge_change(&promote) {
            let next = self.next_id();
            self.append_membership(next, membership);
        }
    }

    /// Appends a configuration: it is in force from here on (§6).
    pub(super) fn append_membership(&mut self, id: LogId, membership: Membership) {
        // Whoever comes (back) is to be met anew: it may be in another life by now (rule M10).
        let before = self.peers();
        self.met.retain(&before);
        self.append(vec![Entry { id, payload: Payload::Membership(Box::new(membership)) }]);
        self.membership_changed();
        let last = self.log.last().index;
        let members = self.members.members();
        let me = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        // Who leaves is still sent entries, until it knows (rule M13).
        leader.part_with(id, &members, &before);
        for id in members.into_iter().filter(|id| *id != me) {
            // A newcomer counts as heard, or it would never be sent a snapshot.
            leader.progress.entry(id).or_insert_with(|| Box::new(Progress::new(last)));
        }
        self.check_transferee();
        self.replicate_to_all();
        // A smaller quorum may already hold what waited (rule M7).
        self.maybe_commit();
        self.maybe_confirm_reads();
    }

    /// The configuration in force is committed: leave it if it is joint (rule M4: also if an earlier
    /// leader entered it), leave office if we are not in it (rule M5).
    pub(super) fn on_membership_committed(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        if self.members.is_joint() {
            let stays = mutant!(raft_mutant = "successor_stays_joint")
                && self.members.at().term != self.hard.term;
            if self.members.auto_leave && self.commit >= leader.first && !stays {
                let id = self.next_id();
                let membership = change::leave_joint(&self.members);
                self.append_membership(id, membership);
            }
            return;
        }
        if self.members.is_voter(self.config.id) {
            let Role::Leader(leader) = &mut self.role else { return };
            if let Some((ticket, change)) = leader.held.take() {
                self.on_change_requested(ticket, &change);
            }
            return;
        }
        // Whoever has most goes next; it need not wait for its timeout.
        let best = leader
            .progress
            .iter()
            .filter(|(id, _)| self.members.is_voter(**id))
            .max_by_key(|(_, follower)| follower.matched)
            .map(|(&id, _)| id);
        // The others learn that the change is committed before we fall silent.
        self.broadcast_heartbeat();
        self.notify_all_leaving();
        if let Some(best) = best {
            self.give_up_lease();
            self.send(best, Message::TimeoutNow, Vouches::Term);
        }
        self.become_follower(self.hard.term, None, None);
    }
}
