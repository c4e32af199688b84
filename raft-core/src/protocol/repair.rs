//! A follower whose state machine is damaged asks its leader for a fresh one.
//!
//! Paper: §7. Rules upheld here: S1, S5, R4. Nothing is wrong with the log, so entries and acknowledgements go
//! on; only applying stops, until a snapshot comes that holds at least what was committed when it was asked
//! for. So the state machine never goes back, and whatever it had applied by then is replaced as a whole.
//!
//! The wish is not written down: after a restart it has to be repeated.

use super::Raft;
use super::outbox::Vouches;
use super::role::Role;
use crate::event::{Effect, Refusal, Ticket};
use crate::message::Message;
use crate::types::{Index, NodeId};

/// A snapshot that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repair {
    ticket: Ticket,
    /// It must hold this at least: what was committed when it was asked for. Nothing beyond it is
    /// applied until it has come.
    pub(super) from: Index,
    /// Ticks since the leader was asked last.
    waited: u32,
}

impl Raft {
    pub(super) fn on_snapshot_requested(&mut self, ticket: Ticket) {
        if let Role::Leader(_) = &self.role {
            let why = "this node leads: nobody else has a newer state; hand leadership over first";
            return self.refuse(ticket, Refusal::Invalid(why.to_owned()));
        }
        if self.repair.is_some() || self.installing.is_some() {
            return self.refuse(ticket, Refusal::SnapshotPending);
        }
        if self.role.known_leader().is_none() {
            let why = self.not_leader();
            return self.refuse(ticket, why);
        }
        self.repair = Some(Repair { ticket, from: self.commit, waited: 0 });
        self.ask_for_snapshot();
    }

    fn ask_for_snapshot(&mut self) {
        let Some(Repair { from, .. }) = self.repair else { return };
        if let Some(leader) = self.role.known_leader() {
            self.send(leader, Message::SnapshotRequest { from }, Vouches::Term);
        }
    }

    /// A tick: asks again once an election timeout. The question may be lost, the leader another, or
    /// not far enough itself. A leader that is sending one already does not mind.
    pub(super) fn tick_repair(&mut self) {
        let limit = self.config.election_timeout.0;
        let Some(repair) = &mut self.repair else { return };
        repair.waited += 1;
        if repair.waited >= limit {
            repair.waited = 0;
            self.ask_for_snapshot();
        }
    }

    /// A follower of ours wants a snapshot although the log would do. One is sent like any other: not
    /// while one is on its way, not too many at once, and not again before an election timeout.
    pub(super) fn on_snapshot_request(&mut self, asking: NodeId, from: Index) {
        // A state machine that has applied nothing has nothing to repair another with.
        if from <= self.applied && self.applied > Index::ZERO {
            self.maybe_send_snapshot(asking, from);
        }
    }

    /// The snapshot is installed: applying goes on.
    pub(super) fn end_repair(&mut self) {
        if let Some(repair) = self.repair.take() {
            self.outbox.effect(Effect::Done(repair.ticket));
        }
    }

    /// This node leads now. Nobody can send it a snapshot, and a leader must apply.
    pub(super) fn abandon_repair(&mut self) {
        let Some(repair) = self.repair.take() else { return };
        let why = "this node leads now; hand leadership over and ask again";
        self.refuse(repair.ticket, Refusal::Invalid(why.to_owned()));
        if self.commit > repair.from {
            self.outbox.effect(Effect::Apply { through: self.commit });
        }
    }
}
