//! What a leader does: replicate, commit, keep its followers.
//!
//! Paper: §5.3, §5.4.2, Figure 2 (`Rules for Servers: Leaders`), §7, Figure 8; dissertation 6.2, 10.2.
//! Rules upheld here: E13, L1, L2, L5, L7, L8, L9, L10, S5. Snapshots are in `snapshots.rs`, changes of
//! the membership in `reconfigure.rs`.
//!
//! A leader's own disk is one of the disks that count: it sends while it writes, and counts itself once
//! its own write is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use super::Raft;
use super::lease::Lease;
use super::outbox::{ROOM, Vouches};
use super::progress::Progress;
use super::quorum;
use super::reads::Reads;
use super::role::{Leader, Role};
use crate::entry::{Entry, Payload};
use crate::event::{Effect, Refusal, ReplicationMode, Span, Ticket};
use crate::message::{AppendOutcome, Message};
use crate::transport::Sent;
use crate::types::{Index, LogId, NodeId, Ticks};

/// Whether an append without entries is worth sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    /// Yes: to find out where the logs agree, or that something was lost.
    Send,
    /// No: there is nothing new.
    Skip,
}

impl Raft {
    // Coming and going.

    /// A quorum has voted for us (§5.2).
    pub(super) fn become_leader(&mut self) {
        invariant!(matches!(self.role, Role::Candidate(_)), "only a candidate can be elected");
        invariant!(self.outbox.is_term_durable(), "elected in a term that is not durable");
        let last = self.log.last().index;
        // Who leaves by a change that is not committed yet is to be told as well (rule M13).
        let mut peers = self.members.peers(self.commit);
        peers.remove(&self.config.id);
        let progress = |&id| (id, Box::new(Progress::new(last.next())));
        let progress = peers.keys().map(progress).collect();
        let mut leader = Box::new(Leader {
            now: 0,
            progress,
            lease: Lease::default(),
            leaving: BTreeMap::new(),
            first: last.next(),
            heartbeat_elapsed: 0,
            chores_elapsed: 0,
            ends: (last.next(), last.next()),
            round: 0,
            reads: Reads::default(),
            transfer: None,
            yield_wait: 0,
            held: None,
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
        });
        leader.part_with(self.members.at(), &self.members.members(), &peers);
        self.role = Role::Leader(leader);
        self.abandon_repair();
        self.reset_election_timer();
        // Entries of older terms commit only together with one of ours (§5.4.2, rules L1, L2).
        let id = self.next_id();
        if !mutant!(raft_mutant = "no_empty_entry") {
            self.append(vec![Entry { id, payload: Payload::Empty }]);
        }
        self.replicate_to_all();
        self.maybe_commit();
    }

    /// Leadership is lost. What waited for it is told; what is in the log stays there and may commit.
    pub(super) fn abandon_leadership(&mut self, cause: Option<NodeId>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let transfer = leader.transfer.take();
        let held = leader.held.take();
        let mut readers = leader.reads.abandon();
        if mutant!(raft_mutant = "serves_reads_of_a_lost_leadership") {
            let index = self.commit;
            for reader in readers.drain(..) {
                if let super::reads::Reader::Local(ticket) = reader {
                    self.outbox.effect(Effect::ReadReady { ticket, index });
                }
            }
        }
        if let Some(transfer) = transfer {
            self.end_transfer(transfer, cause);
        }
        if let Some((ticket, _)) = held {
            let why = Refusal::NotLeader { leader: None, term: self.hard.term };
            self.refuse(ticket, why);
        }
        self.abandon_reads(readers);
    }

    pub(super) fn tick_leader(&mut self) {
        self.tick_transfer();
        let Role::Leader(leader) = &mut self.role else { return };
        leader.now += 1;
        leader.uncommitted.shrink_to(ROOM); // See `Outbox::shrink`.
        for follower in leader.progress.values_mut() {
            follower.tick(&self.config);
        }
        let deaf = self.config.check_quorum && !self.hears_quorum();
        if deaf && !mutant!(raft_mutant = "never_steps_down") {
            // Nobody hears us, or we hear nobody. There may be another leader (rule E13).
            return self.become_follower(self.hard.term, None, None);
        }
        self.tick_snapshots();
        self.tick_leaving();
        self.tick_heartbeat();
    }

    /// What is done once a heartbeat interval.
    fn tick_heartbeat(&mut self) {
        let interval = self.config.heartbeat_interval.0;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_elapsed += 1;
        leader.chores_elapsed += 1;
        if leader.chores_elapsed >= interval {
            leader.chores_elapsed = 0;
            leader.ends = (leader.ends.1, self.log.last().index);
            self.maybe_record_incarnations();
            self.maybe_yield();
        }
        let Role::Leader(leader) = &self.role else { return };
        if leader.heartbeat_elapsed >= interval {
            self.broadcast_heartbeat();
            self.maybe_confirm_reads();
        }
    }

    /// Whether a quorum was heard within an election timeout, of both halves of a joint configuration
    /// (rule M3). Each follower is timed for itself, so a leader that is cut off stops within one
    /// timeout, not two. A lone voter always hears itself.
    fn hears_quorum(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        quorum::is_quorum(&self.members, |id| {
            let active = |id| leader.progress.get(id).is_some_and(|p| p.is_active(&self.config));
            self.is_me(id) || active(&id)
        })
    }

    /// Tells everybody that we lead, and begins a round for the reads that wait. Heartbeats do not
    /// queue behind entries, neither here nor in a transport, nor behind the disk.
    pub(super) fn broadcast_heartbeat(&mut self) {
        let commit = self.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_elapsed = 0;
        leader.round += 1;
        let round = leader.round;
        if commit >= leader.first || mutant!(raft_mutant = "reads_before_own_commit") {
            let joins = u64::from(mutant!(raft_mutant = "read_joins_an_older_round"));
            leader.reads.begin_round(round.saturating_sub(joins), commit);
        }
        leader.tell_leaving(round, commit);
        leader.lease_round_sent(round, &self.config);
        // A follower may hold less than what is committed, or something else there (rule L5).
        let known: Vec<_> =
            leader.progress.iter().map(|(&id, p)| (id, p.matched.min(commit))).collect();
        let known = if mutant!(raft_mutant = "heartbeat_carries_full_commit") {
            known.into_iter().map(|(id, _)| (id, commit)).collect()
        } else {
            known
        };
        for (id, commit) in known {
            self.send(id, Message::Heartbeat { commit, round }, Vouches::Term);
        }
    }

    /// A follower answers heartbeat `round`; it promises not to vote for others for the time of `shield`.
    pub(super) fn on_heartbeat_reply(
        &mut self,
        from: NodeId,
        round: u64,
        shield: Ticks,
        priority: u8,
    ) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let newest = leader.round;
        let left = leader.knows_it_left(from, round);
        let Some(follower) = leader.progress.get_mut(&from) else { return self.drop_message() };
        if round > newest {
            return self.drop_message(); // Nobody has asked that yet.
        }
        if left {
            return self.dismiss(from);
        }
        follower.silent = 0;
        follower.round = follower.round.max(round);
        follower.priority = priority;
        follower.paused &= mutant!(raft_mutant = "paused_for_ever");
        let full = follower.is_window_full(&self.config);
        match follower.mode {
            // It lacks something, or it is not known what. If entries were lost on the way, only an
            // empty append finds out, however full the window is (rule L8).
            ReplicationMode::Probe => self.maybe_replicate(from, Empty::Send),
            ReplicationMode::Replicate if full => {
                if !mutant!(raft_mutant = "full_window_sends_nothing") {
                    self.send_empty(from);
                }
            }
            ReplicationMode::Replicate if follower.matched < last => {
                self.maybe_replicate(from, Empty::Send);
            }
            ReplicationMode::Replicate => {}
            ReplicationMode::Snapshot => self.probe_installation(from),
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.promised(from, round, shield, &self.config);
        }
        self.maybe_promote(from);
        self.maybe_confirm_reads();
    }

    // Proposals.

    pub(super) fn on_proposed(&mut self, proposals: Vec<(Ticket, Bytes)>) {
        let mut entries = Vec::with_capacity(proposals.len());
        let mut id = self.next_id();
        for (ticket, command) in proposals {
            let payload = Payload::Command(command);
            match self.admit(id.index, payload.len_bytes()) {
                Ok(()) => {
                    self.outbox.effect(Effect::Appended { ticket, id });
                    entries.push(Entry { id, payload });
                    id.index = id.index.next();
                }
                Err(why) => self.refuse(ticket, why),
            }
        }
        if entries.is_empty() {
            return;
        }
        self.append(entries);
        self.replicate_to_all();
    }

    /// Whether a proposal may be appended at `index`. One that is over the limit alone is taken when
    /// nothing else waits, or it could never be.
    fn admit(&mut self, index: Index, bytes: usize) -> Result<(), Refusal> {
        let not_leader = self.not_leader();
        let limit = self.config.uncommitted_bytes;
        let Role::Leader(leader) = &mut self.role else { return Err(not_leader) };
        if let Some(transfer) = &leader.transfer {
            return Err(Refusal::Transferring { to: transfer.to });
        }
        let waiting_bytes = leader.uncommitted_bytes;
        if waiting_bytes > 0 && waiting_bytes.saturating_add(bytes) > limit {
            return Err(Refusal::Busy { waiting_bytes });
        }
        leader.uncommitted.push_back((index, bytes));
        leader.uncommitted_bytes += bytes;
        Ok(())
    }

    pub(super) fn next_id(&self) -> LogId {
        LogId::new(self.hard.term, self.log.last().index.next())
    }

    // Replication.

    pub(super) fn replicate_to_all(&mut self) {
        // One after the other by id, so that the ids need not be put aside first.
        let mut next = self.first_follower_after(None);
        while let Some(id) = next {
            self.maybe_replicate(id, Empty::Skip);
            next = self.first_follower_after(Some(id));
        }
    }

    fn first_follower_after(&self, id: Option<NodeId>) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let after = id.map_or(Bound::Unbounded, Bound::Excluded);
        leader.progress.range((after, Bound::Unbounded)).next().map(|(&id, _)| id)
    }

    /// Sends `to` what it needs next, if it may be sent anything now.
    pub(super) fn maybe_replicate(&mut self, to: NodeId, empty: Empty) {
        let last = self.log.last().index;
        let (term, commit) = (self.hard.term, self.commit);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&to) else { return };
        if follower.is_paused(&self.config) {
            return;
        }
        let before = follower.next.prev();
        let Some(prev_term) = self.log.term_at(before) else {
            // The log does not reach back that far any more (§7).
            if self.maybe_send_snapshot(to, Index::ZERO)
                && let Role::Leader(leader) = &mut self.role
                && let Some(follower) = leader.progress.get_mut(&to)
            {
                follower.become_snapshot();
            }
            return;
        };
        if follower.next > last {
            if empty == Empty::Send {
                self.send_empty(to);
            }
            return;
        }
        follower.sending = Some(before);
        let prev = LogId::new(prev_term, before);
        self.outbox.effect(Effect::Replicate(Span { to, term, prev, through: last, commit }));
    }

    /// An append without entries at the place where the next ones would go.
    fn send_empty(&mut self, to: NodeId) {
        let commit = self.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&to) else { return };
        let before = follower.next.prev();
        let Some(prev_term) = self.log.term_at(before) else {
            // The log was cut beyond what is on its way: start over, with a snapshot if need be.
            let next = follower.matched.next();
            follower.become_probe(next);
            return self.maybe_replicate(to, Empty::Skip);
        };
        if follower.mode == ReplicationMode::Probe {
            follower.paused = true;
        }
        let prev = LogId::new(prev_term, before);
        self.send(to, Message::Append { prev, entries: Vec::new(), commit }, Vouches::Term);
    }

    /// A span has been sent, as far as one message goes; or it could not be.
    pub(super) fn on_replicated(&mut self, span: &Span, through: Index, bytes: usize, sent: Sent) {
        if self.hard.term != span.term {
            return;
        }
        if through > span.through.min(self.log.last().index) {
            return self.drop_message(); // Nobody was asked to send that.
        }
        let bytes = bytes.min(self.config.window_bytes); // More than full it cannot be.
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&span.to) else { return };
        if follower.sending != Some(span.prev.index) {
            return; // The follower was given up or started over meanwhile.
        }
        follower.sending = None;
        match sent {
            Sent::Queued if through > span.prev.index => {
                follower.sent(through, bytes);
                self.maybe_replicate(span.to, Empty::Skip);
            }
            // The network is the narrow place. Wait until something is heard.
            Sent::Queued | Sent::Full => follower.paused = true,
            Sent::Unreachable => self.on_unreachable(span.to),
        }
    }

    /// What was sent to `peer` may be lost: find out where it is, one message at a time.
    pub(super) fn on_unreachable(&mut self, peer: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&peer) else { return };
        match follower.mode {
            ReplicationMode::Replicate | ReplicationMode::Probe => {
                let next = follower.matched.next();
                let next =
                    if follower.mode == ReplicationMode::Probe { follower.next } else { next };
                follower.become_probe(next);
                follower.paused = true;
            }
            // The transfer itself reports whether it arrives.
            ReplicationMode::Snapshot => {}
        }
    }

    pub(super) fn on_append_reply(&mut self, from: NodeId, outcome: AppendOutcome) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&from) else { return self.drop_message() };
        follower.silent = 0;
        match outcome {
            AppendOutcome::Matched { through } => self.on_matched(from, through),
            AppendOutcome::Rejected { prev, hint } => self.on_rejected(from, prev, hint),
        }
    }

    /// The follower has everything up to `through` on disk.
    fn on_matched(&mut self, from: NodeId, through: Index) {
        if through > self.log.last().index {
            // It can only have that from a leader of a later term, and would then be in that term.
            return self.drop_message();
        }
        let base = self.log.base().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&from) else { return };
        follower.acknowledged(through);
        match (follower.mode, follower.snapshot) {
            (ReplicationMode::Probe, _) => follower.become_replicate(),
            (ReplicationMode::Replicate, _) => follower.paused = false,
            // Wherever it got it from: the log reaches back far enough again (rule S5).
            (ReplicationMode::Snapshot, _) if follower.matched >= base => {
                follower.snapshot_acknowledged();
                follower.become_replicate();
            }
            // It has installed what it was sent, but the log was cut beyond that.
            (ReplicationMode::Snapshot, Some(delivery))
                if delivery.last.is_some_and(|last| last.index <= follower.matched) =>
            {
                follower.snapshot_acknowledged();
                follower.become_probe(follower.matched.next());
            }
            // It says how far it was before.
            (ReplicationMode::Snapshot, Some(_) | None) => return,
        }
        if through > self.commit {
            self.maybe_commit(); // Nothing else can be news to it.
        }
        self.maybe_promote(from);
        self.maybe_tell_transferee();
        self.maybe_replicate(from, Empty::Skip);
    }

    /// The follower does not have `prev`. An answer that does not fit what was asked last is late and
    /// says nothing new (rule L7).
    fn on_rejected(&mut self, from: NodeId, prev: LogId, hint: LogId) {
        let guess = self.log.conflict_hint(hint).index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&from) else { return };
        let next = match follower.mode {
            ReplicationMode::Replicate if prev.index > follower.matched => follower.matched.next(),
            ReplicationMode::Probe if mutant!(raft_mutant = "conflict_search_stalls") => {
                follower.next
            }
            ReplicationMode::Probe if prev.index == follower.next.prev() => {
                // Strictly before the last guess, so the search ends (rule L9).
                guess.next().min(prev.index)
            }
            ReplicationMode::Snapshot => {
                let arrived = follower.snapshot.filter(|delivery| delivery.arrived);
                if arrived.and_then(|delivery| delivery.last) == Some(prev) {
                    self.snapshot_lost(from); // It has arrived, yet the follower is without it.
                }
                return;
            }
            ReplicationMode::Replicate | ReplicationMode::Probe => return,
        };
        follower.become_probe(next);
        self.maybe_replicate(from, Empty::Send);
    }

    // Commitment.

    /// Moves the commit index to the highest entry a quorum holds on disk.
    ///
    /// Counting is only sound for entries of our own term: an older entry can sit on a majority and
    /// still be overwritten (§5.4.2, Figure 8). Older entries ride along with a newer one, which is
    /// why a new leader appends an empty entry at once (rules L1, L2).
    pub(super) fn maybe_commit(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let (me, mut own) = (self.config.id, self.outbox.persisted());
        if mutant!(raft_mutant = "leader_counts_unsynced_entries") {
            own = self.log.last().index;
        }
        let quorum = quorum::committed(&self.members, |id| {
            let own = (id == me).then_some(own);
            own.or_else(|| leader.progress.get(&id).map(|p| p.matched))
        });
        let quorum = self.mutated_quorum(quorum, own);
        if quorum <= self.commit {
            return; // Nothing new. Acknowledgements may be old or repeated.
        }
        if self.log.term_at(quorum) != Some(self.hard.term)
            && !mutant!(raft_mutant = "commits_older_terms_by_counting")
        {
            return; // Figure 8.
        }
        let before = self.commit;
        self.commit_to(quorum);
        self.on_commit_moved(before);
    }

    /// What is counted for the commit index where a fault is built in; `counted` everywhere else.
    fn mutated_quorum(&self, counted: Index, own: Index) -> Index {
        let Role::Leader(leader) = &self.role else { return counted };
        let voters = match &self.members.voters {
            voters if mutant!(raft_mutant = "joint_commit_asks_one_half") => voters.clone(),
            voters if mutant!(raft_mutant = "learners_count") => voters | &self.members.learners,
            voters if mutant!(raft_mutant = "removed_leader_counts_itself") => {
                voters | &BTreeSet::from([self.config.id])
            }
            _ => return counted,
        };
        quorum::majority_committed(&voters, |id| {
            let own = (id == self.config.id).then_some(own);
            own.or_else(|| leader.progress.get(&id).map(|p| p.matched))
        })
    }

    fn on_commit_moved(&mut self, before: Index) {
        self.release_admitted();
        let commit = self.commit;
        let Role::Leader(leader) = &self.role else { return };
        if before < leader.first {
            self.maybe_begin_read_round(); // Now we know what is committed (rule R1).
        }
        let changed_at = self.members.at().index;
        if changed_at <= commit {
            self.on_membership_committed();
        }
    }

    /// Proposals that are committed, and on our own disk, make room for others. Without the latter a
    /// leader whose disk has stalled would take in more and more: the followers commit without it.
    pub(super) fn release_admitted(&mut self) {
        let through = self.commit.min(self.outbox.persisted());
        let Role::Leader(leader) = &mut self.role else { return };
        while let Some(&(index, bytes)) = leader.uncommitted.front() {
            if index > through || mutant!(raft_mutant = "room_is_never_released") {
                break;
            }
            leader.uncommitted.pop_front();
            leader.uncommitted_bytes -= bytes;
        }
    }
}
