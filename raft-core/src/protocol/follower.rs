//! What a follower does, and what every role does for a leader that turns up.
//!
//! Paper: §5.2, §5.3, Figure 2 (`AppendEntries` receiver), §7 and Figure 13 (`InstallSnapshot` receiver).
//! Rules upheld here: E4, E5, L3, L4, L5, L6, L9, L10, S1, S5, S7.
//!
//! The order in the paper is kept: is the term right (settled before we get here), do the logs agree at
//! `prev`, delete what conflicts, append what is new, raise the commit index.

use super::Raft;
use super::outbox::Vouches;
use super::role::Role;
use crate::entry::{Entry, Membership, Payload};
use crate::event::Effect;
use crate::log_store::Installed;
use crate::message::{AppendOutcome, Message};
use crate::snapshot::SnapshotMeta;
use crate::types::{Index, LogId, NodeId};

impl Raft {
    /// A leader of our own term has spoken. Whoever we were, we follow it now (§5.2).
    ///
    /// # Panics
    ///
    /// If we lead this term ourselves: a quorum has voted twice, nothing can be trusted any more
    /// (rule E5).
    pub(super) fn follow(&mut self, leader: NodeId) {
        match &self.role {
            Role::Leader(_) => invariant!(
                false,
                "two leaders in term {}: {:?} and {leader:?}; votes were lost or forged",
                self.hard.term,
                self.config.id
            ),
            Role::Follower(follower) if follower.leader == Some(leader) => {
                self.reset_election_timer();
            }
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {
                self.become_follower(self.hard.term, Some(leader), Some(leader));
            }
        }
    }

    /// `AppendEntries` (Figure 2), for a message of our own term.
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev: LogId,
        entries: Vec<Entry>,
        commit: Index,
    ) {
        self.follow(from);
        if self.installing.is_some() {
            return; // The log is about to be replaced. The leader asks again.
        }
        if prev.index < self.commit {
            // What is committed agrees with every leader; say how far that goes (rule L6).
            let through = self.commit;
            return self.reply_matched(from, through);
        }
        let checks = !mutant!(raft_mutant = "appends_without_agreement")
            || prev.index > self.log.last().index;
        if !self.log.has(prev) && checks {
            if mutant!(raft_mutant = "conflict_truncates_to_commit")
                && prev.index <= self.log.last().index
            {
                self.log.truncate(self.commit.next());
                self.outbox.truncate(self.commit.next());
                self.members.truncate(self.commit.next());
            }
            let hint = self.log.conflict_hint(prev);
            let outcome = AppendOutcome::Rejected { prev, hint };
            return self.send(from, Message::AppendReply(outcome), Vouches::Term);
        }

        // Everything up to here is verified by this message, and nothing beyond it (rule L4).
        let mut through = entries.last().map_or(prev.index, |entry| entry.id.index);
        self.accept(entries);
        if mutant!(raft_mutant = "commits_own_last_entry") {
            self.commit_to(commit.min(self.log.last().index));
        }
        self.commit_to(commit.min(through));
        if mutant!(raft_mutant = "acknowledges_own_last_entry") {
            through = self.log.last().index;
        }
        self.reply_matched(from, through);
    }

    /// Appends what is new of `entries`, after voiding what conflicts with it.
    ///
    /// Only a real conflict truncates: the message may be old or shorter than the log, and what follows
    /// an agreeing entry may have been acknowledged (rule L3).
    fn accept(&mut self, entries: Vec<Entry>) {
        let has = |id: LogId| match () {
            () if mutant!(raft_mutant = "every_append_truncates") => false,
            () if mutant!(raft_mutant = "conflict_is_not_truncated") => {
                id.index <= self.log.last().index
            }
            () => self.log.has(id),
        };
        let known = entries.iter().take_while(|entry| has(entry.id)).count();
        let mut new = entries;
        new.drain(..known);
        let Some(first) = new.first().map(|entry| entry.id) else { return };

        let mut membership_changed = false;
        if first.index <= self.log.last().index {
            invariant!(
                first.index > self.commit,
                "a leader of term {} overwrites committed entry {} with {first}; commit is {}",
                self.hard.term,
                first.index,
                self.commit
            );
            self.log.truncate(first.index);
            self.outbox.truncate(first.index);
            if !mutant!(raft_mutant = "membership_is_not_rolled_back") {
                membership_changed = self.members.truncate(first.index);
            }
        }
        membership_changed |= self.append(new);
        if membership_changed {
            self.membership_changed();
        }
    }

    /// Appends consecutive entries at the end of the log. Says whether a configuration was among them:
    /// it is in force from now on (§6).
    pub(super) fn append(&mut self, entries: Vec<Entry>) -> bool {
        let mut membership_changed = false;
        for entry in &entries {
            self.log.append(entry.id.term, 1);
            if let Payload::Membership(membership) = &entry.payload {
                self.members.append(entry.id, Membership::clone(membership));
                membership_changed = true;
            }
        }
        self.outbox.write_entries(entries);
        membership_changed
    }

    /// Says that the logs agree up to `through`, as soon as that is on disk (rule L10).
    fn reply_matched(&mut self, to: NodeId, through: Index) {
        let outcome = AppendOutcome::Matched { through };
        self.send(to, Message::AppendReply(outcome), Vouches::Entries);
    }

    /// A heartbeat of the leader of our term.
    pub(super) fn on_heartbeat(&mut self, from: NodeId, commit: Index, round: u64) {
        self.follow(from);
        if commit > self.log.last().index {
            // The leader says only what we have acknowledged (rule L5): this one is confused.
            return self.drop_message();
        }
        if self.installing.is_none() {
            self.commit_to(commit);
        }
        let shield = self.promise_shield();
        let reply = self.heartbeat_reply(round, shield);
        self.send(from, reply, Vouches::Term);
    }

    /// A snapshot has arrived, whole and verified (§7). It may be of an earlier term: what it holds is
    /// committed all the same (rule S7).
    pub(super) fn on_snapshot(&mut self, from: NodeId, meta: Box<SnapshotMeta>) {
        if let Role::Leader(_) = &self.role {
            // Of an earlier term. We hold everything that is committed (§5.4.3): nothing to learn.
            return self.outbox.effect(Effect::DropSnapshot(meta));
        }
        let contradicts = self.log.term_at(self.commit).is_some_and(|term| meta.last.term < term);
        if self.installing.is_some() || (contradicts && meta.last.index > self.commit) {
            // One is enough; its answer comes when it is installed. Saying how far we are now would
            // only make the leader send a third. And what follows what is committed is not older.
            return self.outbox.effect(Effect::DropSnapshot(meta));
        }
        if self.is_repair(&meta) {
            return self.install(meta);
        }
        if meta.last.index <= self.commit && !mutant!(raft_mutant = "installs_old_snapshots") {
            let through = self.commit;
            self.outbox.effect(Effect::DropSnapshot(meta));
            return self.reply_matched(from, through);
        }
        if self.log.has(meta.last) && !mutant!(raft_mutant = "matching_snapshot_drops_tail") {
            // We have its last entry, so all before it is the same, and what follows stays (rule S1).
            let through = meta.last.index;
            self.commit_to(through);
            self.outbox.effect(Effect::DropSnapshot(meta));
            return self.reply_matched(from, through);
        }
        self.install(meta);
    }

    /// Hands the snapshot to the state machine. Until it is installed nobody may elect this node: its
    /// log is about to be replaced (rule E12).
    fn install(&mut self, meta: Box<SnapshotMeta>) {
        if matches!(self.role, Role::PreCandidate(_) | Role::Candidate(_)) {
            self.become_follower(self.hard.term, None, None);
        }
        self.installing = Some(SnapshotMeta::clone(&meta));
        self.outbox.effect(Effect::InstallSnapshot(meta));
    }

    /// Whether this is the snapshot that was asked for to repair the state machine: it must hold what
    /// may have been applied, and belong to this log as far as that goes.
    fn is_repair(&self, meta: &SnapshotMeta) -> bool {
        let enough = self.repair.is_some_and(|repair| meta.last.index >= repair.from);
        enough && (meta.last.index > self.log.last().index || self.log.has(meta.last))
    }

    /// The state machine holds the snapshot durably. Now the log may forget (rule S4): all of it, since
    /// it does not have the snapshot's last entry and so may conflict anywhere (rule S1).
    pub(super) fn on_snapshot_installed(&mut self, meta: &SnapshotMeta) {
        if self.installing.take_if(|installing| installing == meta).is_none() {
            return self.drop_message();
        }
        self.applied = meta.last.index;
        if self.log.has(meta.last) {
            // It was asked for to repair the state machine: the log was good and stays. What follows
            // in it is applied again.
            self.commit = self.commit.max(meta.last.index);
            self.end_repair();
            if self.commit > self.applied {
                self.outbox.effect(Effect::Apply { through: self.commit });
            }
        } else {
            self.log.reset(meta.last);
            if !mutant!(raft_mutant = "snapshot_keeps_old_membership") {
                self.members.reset(meta);
            }
            let keep_tail = mutant!(raft_mutant = "conflicting_snapshot_keeps_tail");
            self.outbox.install(Installed { meta: meta.clone(), keep_tail });
            self.commit = meta.last.index;
            self.membership_changed();
            self.end_repair();
        }
        if let Some(leader) = self.role.known_leader() {
            self.reply_matched(leader, meta.last.index);
        }
    }
}
