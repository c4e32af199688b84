//! What a leader does: replicate, commit, keep its followers, change the membership.
//!
//! Paper: §5.3, §5.4.2, Figure 2 (`Rules for Servers: Leaders`), §6, §7, Figure 8; dissertation 4, 6.2,
//! 10.2. Rules upheld here: E13, L1, L2, L5, L7, L8, L9, L10, M1, M2, M4, M5, M7, S5, S6.
//!
//! A leader's own disk is one of the disks that count: it sends while it writes, and counts itself once
//! its own write is done.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Raft;
use super::change;
use super::outbox::Vouches;
use super::progress::Progress;
use super::quorum;
use super::reads::Reads;
use super::role::{Leader, Role};
use crate::entry::{Entry, Membership, Payload};
use crate::event::{Change, ChangeStep, Effect, Refusal, ReplicationMode, Span, Ticket};
use crate::message::{AppendOutcome, Message};
use crate::transport::{Sent, SnapshotOutcome};
use crate::types::{Index, LogId, NodeId};

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
        let others = self.members.members().into_iter().filter(|id| *id != self.config.id);
        let progress = others.map(|id| (id, Progress::new(last.next(), true))).collect();
        self.role = Role::Leader(Box::new(Leader {
            progress,
            first: last.next(),
            heartbeat_elapsed: 0,
            chores_elapsed: 0,
            ends: (last.next(), last.next()),
            round: 0,
            reads: Reads::default(),
            transfer: None,
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
        }));
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
        self.abandon_reads(readers);
    }

    pub(super) fn tick_leader(&mut self) {
        self.tick_transfer();
        if self.election_elapsed >= self.config.election_timeout.0 {
            self.election_elapsed = 0;
            if self.config.check_quorum
                && !self.has_quorum()
                && !mutant!(raft_mutant = "never_steps_down")
            {
                // Nobody hears us, or we hear nobody. There may be another leader (rule E13).
                return self.become_follower(self.hard.term, None, None);
            }
        }
        let interval = self.config.heartbeat_interval.0;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_elapsed += 1;
        leader.chores_elapsed += 1;
        if leader.chores_elapsed >= interval {
            leader.chores_elapsed = 0;
            leader.ends = (leader.ends.1, self.log.last().index);
            self.maybe_record_incarnations();
        }
        let Role::Leader(leader) = &self.role else { return };
        if leader.heartbeat_elapsed >= interval {
            self.broadcast_heartbeat();
            self.maybe_confirm_reads();
        }
    }

    /// Whether a quorum was heard since the last time this was asked. A lone voter always is one.
    fn has_quorum(&mut self) -> bool {
        let me = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return false };
        let progress = &mut leader.progress;
        let quorum = quorum::is_quorum(&self.members, |id| {
            id == me || progress.get(&id).is_some_and(|p| p.active)
        });
        for follower in progress.values_mut() {
            follower.active = false;
        }
        quorum
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

    pub(super) fn on_heartbeat_reply(&mut self, from: NodeId, round: u64) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let newest = leader.round;
        let Some(follower) = leader.progress.get_mut(&from) else { return self.drop_message() };
        if round > newest {
            return self.drop_message(); // Nobody has asked that yet.
        }
        follower.active = true;
        follower.round = follower.round.max(round);
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
            ReplicationMode::Replicate | ReplicationMode::Snapshot => {}
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
        let Role::Leader(leader) = &self.role else { return };
        let ready: Vec<_> = leader
            .progress
            .iter()
            .filter(|(_, follower)| !follower.is_paused(&self.config))
            .map(|(&id, _)| id)
            .collect();
        for id in ready {
            self.maybe_replicate(id, Empty::Skip);
        }
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
            // The log does not reach back that far any more (§7). Nobody who is away is sent a
            // snapshot: it would keep the log from being compacted for nothing (rule S6).
            if follower.active {
                follower.become_snapshot();
                self.outbox.effect(Effect::SendSnapshot { to, term });
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
        follower.active = true;
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
        match follower.mode {
            // It has been sent a snapshot and says how far it was before. Another would not help.
            ReplicationMode::Probe if follower.matched < base && follower.next > base.next() => {
                return;
            }
            ReplicationMode::Probe => follower.become_replicate(),
            // Wherever it got it from: the log reaches back far enough again (rule S5).
            ReplicationMode::Snapshot if follower.matched >= base => follower.become_replicate(),
            ReplicationMode::Replicate => follower.paused = false,
            ReplicationMode::Snapshot => return,
        }
        self.maybe_commit();
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
            ReplicationMode::Replicate | ReplicationMode::Probe | ReplicationMode::Snapshot => {
                return;
            }
        };
        follower.become_probe(next);
        self.maybe_replicate(from, Empty::Send);
    }

    /// What became of a snapshot. Either way the follower is probed, once it is heard again (rule S6).
    pub(super) fn on_snapshot_sent(&mut self, to: NodeId, last: LogId, outcome: SnapshotOutcome) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(follower) = leader.progress.get_mut(&to) else { return };
        if follower.mode != ReplicationMode::Snapshot
            || (mutant!(raft_mutant = "failed_snapshot_is_not_noticed")
                && outcome == SnapshotOutcome::Failed)
        {
            return; // It has caught up some other way, or leadership came back in between.
        }
        let next = match outcome {
            SnapshotOutcome::Delivered => last.index.next(),
            SnapshotOutcome::Failed => follower.next,
        };
        follower.become_probe(next);
        follower.paused = true;
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
        let mut voters = self.members.voters.clone();
        match () {
            () if mutant!(raft_mutant = "joint_commit_asks_one_half") => {}
            () if mutant!(raft_mutant = "learners_count") => {
                voters.extend(&self.members.learners);
            }
            () if mutant!(raft_mutant = "removed_leader_counts_itself") => {
                voters.insert(self.config.id);
            }
            () => return counted,
        }
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

    // Membership.

    pub(super) fn on_change_requested(&mut self, ticket: Ticket, change: &Change) {
        match self.judge_change(change) {
            Ok(membership) => {
                let id = self.next_id();
                self.outbox.effect(Effect::Appended { ticket, id });
                self.append_membership(id, membership);
            }
            Err(why) => self.refuse(ticket, why),
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
            Some(expected) if expected != found => {
                Err(Refusal::MembershipMoved { found, expected })
            }
            Some(_) | None => change::next(&self.members, change),
        }
    }

    /// Makes `id` a voter if that was asked for and it has caught up: it is heard, and at most a
    /// heartbeat behind (dissertation 4.2.1, rule M12). A voter further behind could stop the cluster
    /// from committing for as long as it takes to catch up.
    fn maybe_promote(&mut self, id: NodeId) {
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
        self.met.retain_members(&self.members);
        self.append(vec![Entry { id, payload: Payload::Membership(membership) }]);
        self.membership_changed();
        let last = self.log.last().index;
        let members = self.members.members();
        let me = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.progress.retain(|id, _| members.contains(id));
        for id in members.into_iter().filter(|id| *id != me) {
            // A newcomer counts as heard, or it would never be sent a snapshot.
            leader.progress.entry(id).or_insert_with(|| Progress::new(last, true));
        }
        self.check_transferee();
        self.replicate_to_all();
        // A smaller quorum may already hold what waited (rule M7).
        self.maybe_commit();
        self.maybe_confirm_reads();
    }

    /// The configuration in force is committed: leave it if it is joint (rule M4: also if an earlier
    /// leader entered it), leave office if we are not in it (rule M5).
    fn on_membership_committed(&mut self) {
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
        if let Some(best) = best {
            self.send(best, Message::TimeoutNow, Vouches::Term);
        }
        self.become_follower(self.hard.term, None, None);
    }
}
