//! Snapshots for followers that the log does not reach back to, as their leader sees them.
//!
//! Paper: §7; dissertation 5.1, 10.2. Rules upheld here: S5, S6, S8.
//!
//! A delivery begins with the wish and ends when the follower acknowledges what the snapshot held, not when
//! the transport is done: installing takes time, and until it is over the log must still reach back to the
//! snapshot (rule S8), and nobody must send another. Few are under way at once, none to a peer that is
//! silent, and after a failure the next waits.

use super::Raft;
use super::outbox::Vouches;
use super::progress::Delivery;
use super::role::Role;
use crate::event::{Effect, ReplicationMode};
use crate::message::Message;
use crate::transport::SnapshotOutcome;
use crate::types::{Index, LogId, NodeId, Term};

impl Raft {
    /// Sends `to` a snapshot, if it may be sent one now. If not, the next answer of the follower
    /// tries again. It must hold `least`. Says whether one is to be sent.
    pub(super) fn maybe_send_snapshot(&mut self, to: NodeId, least: Index) -> bool {
        let (term, applied) = (self.hard.term, self.applied);
        let Role::Leader(leader) = &mut self.role else { return false };
        let on_their_way = |delivery: Delivery| !delivery.arrived;
        let busy =
            leader.progress.values().filter(|p| p.snapshot.is_some_and(on_their_way)).count();
        let leaves = leader.leaving.contains_key(&to);
        let Some(follower) = leader.progress.get_mut(&to) else { return false };
        // Nobody who is away is sent a snapshot: it would keep the log from being compacted for
        // nothing. Nor is one who leaves: a notice is enough for it.
        let may = follower.is_active(&self.config)
            && follower.snapshot.is_none()
            && follower.snapshot_wait == 0
            && busy < self.config.snapshots_at_once
            && !leaves;
        if may {
            follower.begin_snapshot(applied, least);
            self.outbox.effect(Effect::SendSnapshot { to, term });
        }
        may
    }

    /// Whether a snapshot that was just taken for `to` in the name of `term` is to be sent: it is still
    /// awaited, and what it holds, up to `last`, is enough. A state machine may give an older state
    /// than it has; the log goes on from there, but a follower that repairs itself needs more.
    pub fn awaits_snapshot(&self, to: NodeId, term: Term, last: LogId) -> bool {
        self.awaited(to, term).is_some_and(|delivery| delivery.least <= last.index)
    }

    /// Whether a snapshot for `to` is not acknowledged yet.
    pub(crate) fn awaits_delivery(&self, to: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        leader.progress.get(&to).is_some_and(|follower| follower.snapshot.is_some())
    }

    fn awaited(&self, to: NodeId, term: Term) -> Option<Delivery> {
        let Role::Leader(leader) = &self.role else { return None };
        let delivery = leader.progress.get(&to)?.snapshot?;
        (self.hard.term == term && delivery.last.is_none()).then_some(delivery)
    }

    /// What the log must go on reaching back to, because of snapshots that are not acknowledged.
    pub fn pinned(&self) -> Option<Index> {
        let Role::Leader(leader) = &self.role else { return None };
        if mutant!(raft_mutant = "snapshots_pin_nothing") {
            return None;
        }
        let deliveries = leader.progress.values().filter_map(|follower| follower.snapshot);
        deliveries.map(|delivery| delivery.pin()).min()
    }

    /// The snapshot for `to` was taken and, if it is of use, is on its way.
    pub(super) fn on_snapshot_taken(&mut self, to: NodeId, term: Term, last: LogId) {
        let Some(delivery) = self.awaited(to, term) else { return };
        if delivery.least > last.index {
            // It was not sent. The follower asks again, and the state machine will have come further.
            return self.snapshot_lost(to);
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&to) else { return };
        if let Some(delivery) = &mut follower.snapshot {
            delivery.last = Some(last);
        }
    }

    /// What became of a snapshot, as far as the transport can say. One of an earlier term, or one
    /// that was given up, is nobody's any more.
    pub(super) fn on_snapshot_sent(
        &mut self,
        to: NodeId,
        term: Term,
        last: LogId,
        outcome: SnapshotOutcome,
    ) {
        if term != self.hard.term
            || (mutant!(raft_mutant = "failed_snapshot_is_not_noticed")
                && outcome == SnapshotOutcome::Failed)
        {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&to) else { return };
        let Some(delivery) = &mut follower.snapshot else { return };
        if delivery.last.is_some_and(|sent| sent != last) {
            return;
        }
        match (outcome, follower.mode) {
            (SnapshotOutcome::Failed, _) => self.snapshot_lost(to),
            (SnapshotOutcome::Delivered, ReplicationMode::Snapshot) => {
                delivery.last = Some(last);
                delivery.arrived = true;
            }
            // It had asked for it, and was sent entries all the while.
            (SnapshotOutcome::Delivered, ReplicationMode::Probe | ReplicationMode::Replicate) => {
                follower.snapshot_acknowledged();
                follower.snapshot_wait = self.config.election_timeout.0;
            }
        }
    }

    /// The snapshot is gone: it did not arrive, or its receiver crashed before it was installed. The
    /// follower is probed once it is heard, and sent another after a while (rule S6).
    pub(super) fn snapshot_lost(&mut self, to: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&to) else { return };
        follower.snapshot_failed(&self.config);
        if follower.mode == ReplicationMode::Snapshot {
            follower.become_probe(follower.next);
            follower.paused = true;
        }
    }

    /// Asks a follower whose snapshot has arrived how it is getting on, without disturbing it: while it
    /// installs it does not answer appends. If it answers that it has the entry, it is done; if not,
    /// the snapshot was lost after all.
    pub(super) fn probe_installation(&mut self, to: NodeId) {
        let commit = self.commit;
        let Role::Leader(leader) = &self.role else { return };
        let delivery = leader.progress.get(&to).and_then(|follower| follower.snapshot);
        let Some(prev) = delivery.filter(|delivery| delivery.arrived).and_then(|d| d.last) else {
            return;
        };
        self.send(to, Message::Append { prev, entries: Vec::new(), commit }, Vouches::Term);
    }

    /// A tick: a follower that has fallen silent over its snapshot may never come back for it.
    pub(super) fn tick_snapshots(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let abandoned = leader.progress.iter().filter(|(_, follower)| {
            follower.snapshot.is_some_and(|delivery| delivery.arrived)
                && !follower.is_active(&self.config)
        });
        let abandoned: Vec<_> = abandoned.map(|(&id, _)| id).collect();
        for id in abandoned {
            self.snapshot_lost(id);
        }
    }
}
