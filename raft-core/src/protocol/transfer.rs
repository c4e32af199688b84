//! Handing leadership over, and forgetting who leads.
//!
//! Dissertation 3.10. Rules upheld here: T1, T2, T3.
//!
//! The leader takes no more proposals, brings the target up to date, and tells it to campaign at once. If
//! that does not happen within an election timeout it goes on leading.

use super::Raft;
use super::outbox::Vouches;
use super::role::{Follower, Role};
use crate::event::{Effect, Refusal, Ticket};
use crate::message::Message;
use crate::types::NodeId;

/// A handing-over that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// Who asked for it; nobody if the target is preferred.
    ticket: Option<Ticket>,
    pub(super) to: NodeId,
    /// Ticks since it began.
    elapsed: u32,
    /// The target was told to campaign.
    told: bool,
}

impl Transfer {
    /// One that nobody asked for: `to` has a higher priority.
    pub(super) fn of_preference(to: NodeId) -> Self {
        Self { ticket: None, to, elapsed: 0, told: false }
    }
}

impl Raft {
    pub(super) fn on_transfer_requested(&mut self, ticket: Ticket, to: NodeId) {
        let not_leader = self.not_leader();
        let Role::Leader(leader) = &mut self.role else {
            return self.refuse(ticket, not_leader);
        };
        if to == self.config.id {
            return self.outbox.effect(Effect::Done(ticket)); // It leads already.
        }
        if !self.members.is_voter(to) || !leader.progress.contains_key(&to) {
            let why = format!("node {to} is not a voter; leadership can go to a voter only");
            return self.refuse(ticket, Refusal::Invalid(why));
        }
        if let Some(pending) = &leader.transfer {
            let why = Refusal::Transferring { to: pending.to };
            return self.refuse(ticket, why);
        }
        leader.transfer = Some(Transfer { ticket: Some(ticket), to, elapsed: 0, told: false });
        self.begin_transfer(to);
    }

    pub(super) fn begin_transfer(&mut self, to: NodeId) {
        self.maybe_tell_transferee();
        self.maybe_replicate(to, super::leader::Empty::Skip);
    }

    /// Tells the target to campaign once it has everything (rule T1). The lease goes first (rule T3).
    pub(super) fn maybe_tell_transferee(&mut self) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let to = transfer.to;
        let caught_up = leader.progress.get(&to).is_some_and(|p| p.matched == last);
        if caught_up && !transfer.told {
            transfer.told = true;
            self.give_up_lease();
            self.send(to, Message::TimeoutNow, Vouches::Term);
        }
    }

    /// A tick of a leader. The target may be dead: after an election timeout it is given up.
    pub(super) fn tick_transfer(&mut self) {
        let limit = self.config.election_timeout.0;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.yield_wait = leader.yield_wait.saturating_sub(1);
        let Some(transfer) = &mut leader.transfer else { return };
        transfer.elapsed += 1;
        if transfer.elapsed >= limit && !mutant!(raft_mutant = "transfer_never_ends") {
            let ticket = transfer.ticket;
            leader.transfer = None;
            // Whoever did not come when it was called is not called again soon.
            leader.yield_wait = limit.saturating_mul(YIELD_WAIT_TIMEOUTS);
            self.refuse_transfer(ticket, Refusal::TimedOut);
        }
    }

    /// Another configuration is in force: a target that is no voter any more cannot be waited for.
    pub(super) fn check_transferee(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let gone = leader.transfer.take_if(|transfer| !self.members.is_voter(transfer.to));
        if let Some(Transfer { ticket, to, .. }) = gone {
            let why = format!("node {to} is not a voter any more");
            self.refuse_transfer(ticket, Refusal::Invalid(why));
        }
    }

    /// Leadership is lost; `cause` is who took it.
    pub(super) fn end_transfer(&mut self, transfer: Transfer, cause: Option<NodeId>) {
        match transfer.ticket {
            Some(ticket) if cause == Some(transfer.to) => {
                self.outbox.effect(Effect::Done(ticket));
            }
            ticket => self.refuse_transfer(ticket, Refusal::TimedOut),
        }
    }

    fn refuse_transfer(&mut self, ticket: Option<Ticket>, why: Refusal) {
        if let Some(ticket) = ticket {
            self.refuse(ticket, why);
        }
    }

    /// Forgets who leads, but neither the term nor the time since it was heard: somebody who knows that
    /// the leader is dead need not make the others wait until they have noticed, for a voter that knows
    /// of no leader listens to campaigns. If the leader lives after all, its next message brings it back.
    pub(super) fn on_forget_requested(&mut self, ticket: Ticket) {
        if self.config.lease.is_some() {
            return self.refuse(ticket, Refusal::LeasesOn); // It has promised (rule T3).
        }
        match &self.role {
            Role::Leader(_) => {
                let why = "this node leads; it cannot forget itself, only hand leadership over";
                self.refuse(ticket, Refusal::Invalid(why.to_owned()));
            }
            Role::Follower(_) => {
                self.forget_forwarded_reads();
                self.role = Role::Follower(Follower { leader: None });
                self.outbox.effect(Effect::Done(ticket));
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {
                self.outbox.effect(Effect::Done(ticket)); // It knows of none.
            }
        }
    }
}

/// After a hand-over that came to nothing the next waits for so many election timeouts, if nobody asks.
const YIELD_WAIT_TIMEOUTS: u32 = 16;
