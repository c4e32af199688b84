//! Ring 0: the protocol, as one struct and one function.
//!
//! Paper: all of it; Figure 2 is the map. [`Raft::step`] takes an [`Event`] and answers with [`Effect`]s.
//! It never fails, blocks, reads a clock, spawns, or sees a disk, a socket or a payload: commands pass
//! through on their way to the log and are not kept. The same events give the same effects.
//!
//! This file settles the term, once, and then asks the role: `follower.rs`, `candidate.rs`,
//! `leader.rs`. `outbox.rs` withholds what the disk must have first.

mod candidate;
pub mod change;
mod follower;
mod invariants;
mod leader;
mod lease;
mod leaving;
mod members;
mod met;
mod plausible;
mod preference;
mod progress;
pub mod quorum;
mod reads;
mod reconfigure;
mod repair;
mod role;
mod shape;
mod snapshots;
mod transfer;

mod outbox;

use rand_pcg::Pcg32;
use rand_pcg::rand_core::{RngCore, SeedableRng};

use self::invariants::Before;
use self::leaving::Removal;
use self::members::Members;
use self::met::Met;
use self::outbox::{Outbox, Vouches};
use self::plausible::{is_asked_for, is_from_leader, is_plausible};
use self::reads::Forwarded;
use self::repair::Repair;
use self::role::{Follower, Role};
use self::shape::LogShape;
use crate::config::Config;
use crate::entry::Membership;
use crate::event::{Effect, Event, FollowerStatus, Refusal, RoleName, Span, Status, Ticket};
use crate::log_store::Recovered;
use crate::message::{Campaign, Envelope, Message};
use crate::snapshot::SnapshotMeta;
use crate::transport::Peers;
use crate::types::{HardState, Index, LogId, NodeId, Term, Ticks};

/// One replica of the protocol.
#[derive(Debug)]
pub struct Raft {
    config: Config,
    rng: Pcg32,
    /// Term and vote; written before they are spoken of.
    hard: HardState,
    log: LogShape,
    members: Members,
    /// The last entry known to be committed, and the last one applied.
    commit: Index,
    applied: Index,
    role: Role,
    /// Ticks since this node heard its leader, granted a vote or began to campaign. Means nothing
    /// for a leader.
    election_elapsed: u32,
    /// How many ticks that may become; drawn anew each time (rule E4).
    election_timeout: u32,
    /// Since a leader was last heard, and though we are no voter, somebody asked for our vote and could not
    /// have it, for our log is better (rule E11).
    called: bool,
    /// A snapshot is being installed; the log is about to be replaced.
    installing: Option<SnapshotMeta>,
    /// The state machine is damaged, and a snapshot was asked for.
    repair: Option<Repair>,
    /// For so many more ticks this node votes for nobody that its leader has not asked to campaign: it
    /// has promised, or has forgotten what it promised (rule R5).
    shield: Ticks,
    /// Reads that were passed on to the leader.
    forwarded: Forwarded,
    met: Met,
    removal: Removal,
    outbox: Outbox,
    dropped: u64,
    before: Before,
    /// What [`Effect::RoleChanged`] last said.
    shown: (Term, RoleName, Option<NodeId>),
}

impl Raft {
    /// A replica as it comes up: a follower without a leader (§5.2), with what its log store found,
    /// and a state machine that has applied everything up to `applied`.
    ///
    /// `seed` draws the timeouts and must differ between nodes and runs.
    ///
    /// # Panics
    ///
    /// If what was found contradicts itself: `applied` outside the log, or a term below the log's.
    pub fn new(config: Config, found: Recovered, applied: Index, seed: u64) -> Self {
        invariant!(applied >= found.base.last.index, "the log begins after what was applied");
        invariant!(applied <= found.last, "the log ends before what was applied");
        let mut found = found;
        if mutant!(raft_mutant = "forgets_vote_at_restart") {
            found.hard.vote = None; // E1
        }
        let log = LogShape::new(found.base.last, found.runs, found.last);
        invariant!(log.last().term <= found.hard.term, "the log is ahead of the term");
        let mut rng = Pcg32::seed_from_u64(seed);
        let forwarded = Forwarded::new(rng.next_u64());
        let mut raft = Self {
            hard: found.hard,
            members: Members::new(&found.base, found.memberships),
            // The state machine holds only what was committed (rule R7: reads wait for more).
            commit: applied,
            applied,
            role: Role::Follower(Follower::default()),
            election_elapsed: 0,
            election_timeout: 0,
            called: false,
            installing: None,
            repair: None,
            shield: if config.lease.is_some() && !mutant!(raft_mutant = "restart_forgets_a_promise")
            {
                config.election_timeout
            } else {
                Ticks(0)
            },
            forwarded,
            met: Met::default(),
            removal: Removal::default(),
            outbox: Outbox::new(found.last),
            dropped: 0,
            before: Before::default(),
            shown: (found.hard.term, RoleName::Follower, None),
            log,
            rng,
            config,
        };
        raft.reset_election_timer();
        raft.review_removal();
        raft.check_invariants();
        raft
    }

    // Looking at it.

    /// What this replica shows of itself.
    pub fn status(&self) -> Status {
        let membership = Membership::clone(&self.members);
        let learner = !membership.is_voter(self.config.id);
        let role = match self.role.name() {
            RoleName::Follower if learner => RoleName::Learner,
            role @ (RoleName::Follower
            | RoleName::PreCandidate
            | RoleName::Candidate
            | RoleName::Leader
            | RoleName::Learner) => role,
        };
        Status {
            id: self.config.id,
            role,
            term: self.hard.term,
            vote: self.hard.vote,
            leader: self.leader(),
            base: self.log.base(),
            last: self.log.last(),
            persisted: self.outbox.persisted(),
            commit: self.commit,
            applied: self.applied,
            membership,
            membership_at: self.members.at(),
            followers: self.follower_statuses(),
            removed: self.removed(),
            lease: self.has_lease(),
            dropped: self.dropped,
        }
    }

    /// The leader of the current term, if this node knows it; it may be itself.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.config.id),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {
                self.role.known_leader()
            }
        }
    }

    /// Who this is.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// What it is doing. A learner is a follower here; [`Raft::status`] tells the two apart.
    pub fn role(&self) -> RoleName {
        self.role.name()
    }

    /// The last entry of the log.
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// Where the configuration in force was appended.
    pub fn membership_id(&self) -> LogId {
        self.members.at()
    }

    /// The term of the entry at `index`, if the log has it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The start of the log.
    pub fn base(&self) -> LogId {
        self.log.base()
    }

    /// The last durable index.
    pub fn persisted(&self) -> Index {
        self.outbox.persisted()
    }

    /// The configuration in force at `index`, and where it was appended; the oldest known if `index`
    /// is before all of them.
    pub fn membership_at(&self, index: Index) -> &(LogId, Membership) {
        self.members.in_force_at(index)
    }

    /// The last entry known to be committed, and the last one known to be applied.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// Everybody this node may have to hear: the members, those who leave until that is committed, and
    /// at a leader until they know.
    pub fn peers(&self) -> Peers {
        let mut peers = self.members.peers(self.commit);
        if let Role::Leader(leader) = &self.role {
            peers.extend(leader.leaving_peers());
        }
        peers
    }

    /// The configuration in force.
    pub fn membership(&self) -> &Membership {
        &self.members
    }

    /// The head of a snapshot of the first `index` entries, for compaction. `None` if the log does not
    /// have that entry.
    pub fn meta_at(&self, index: Index) -> Option<SnapshotMeta> {
        let term = self.log.term_at(index)?;
        let (membership_at, membership) = self.membership_at(index).clone();
        Some(SnapshotMeta { last: LogId::new(term, index), membership, membership_at })
    }

    /// Whether a span that was handed out may still be sent: a late read may have found what a newer
    /// leader wrote.
    pub fn is_current(&self, span: &Span) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        self.hard.term == span.term
            && self.log.has(span.prev)
            && leader.progress.get(&span.to).is_some_and(|p| p.sending == Some(span.prev.index))
    }

    fn follower_statuses(&self) -> Vec<FollowerStatus> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        leader
            .progress
            .iter()
            .map(|(&id, progress)| FollowerStatus {
                id,
                matched: progress.matched,
                next: progress.next,
                active: progress.is_active(&self.config),
                mode: progress.mode,
                leaving: leader.leaving.contains_key(&id),
                priority: progress.priority,
                snapshot: progress.snapshot.map(|delivery| delivery.status()),
            })
            .collect()
    }

    // Moving it on.

    /// Feeds one event to the node and collects what must be done about it.
    ///
    /// Never fails and never blocks. A message from a confused or hostile peer is dropped and
    /// counted; a broken invariant panics, because a node that is wrong must not vote.
    ///
    /// # Panics
    ///
    /// If an invariant of this crate is broken. The message has the facts.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => self.on_tick(),
            Event::TicksSkipped => self.on_ticks_skipped(),
            Event::Received(envelope) => self.on_envelope(envelope),
            Event::Proposed(proposals) => self.on_proposed(proposals),
            Event::ReadRequested(ticket) => self.on_read_requested(ticket),
            Event::LeaseReadRequested(ticket) => self.on_lease_read_requested(ticket),
            Event::ChangeRequested(ticket, change) => self.on_change_requested(ticket, &change),
            Event::TransferRequested(ticket, to) => self.on_transfer_requested(ticket, to),
            Event::ForgetRequested(ticket) => self.on_forget_requested(ticket),
            Event::SnapshotRequested(ticket) => self.on_snapshot_requested(ticket),
            Event::Replicated { span, through, bytes, sent } => {
                self.on_replicated(&span, through, bytes, sent);
            }
            Event::Persisted { seq } => self.on_persisted(seq),
            Event::Applied { through } => self.on_applied(through),
            Event::Compacted(base) => self.on_compacted(&base),
            Event::SnapshotTaken { to, term, last } => self.on_snapshot_taken(to, term, last),
            Event::SnapshotSent { to, term, last, outcome } => {
                self.on_snapshot_sent(to, term, last, outcome);
            }
            Event::SnapshotInstalled(meta) => self.on_snapshot_installed(&meta),
            Event::Met(peer, incarnation) => self.on_met(peer, incarnation),
            Event::Unreachable(peer) => self.on_unreachable(peer),
        }
        self.show_role();
        self.check_invariants();
        self.outbox.drain_ready(self.log.last().index, effects);
    }

    fn on_tick(&mut self) {
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        self.shield.0 = self.shield.0.saturating_sub(1);
        self.outbox.shrink();
        self.tick_repair();
        for ticket in self.forwarded.expired(self.config.election_timeout) {
            self.refuse(ticket, Refusal::TimedOut);
        }
        match &self.role {
            Role::Leader(_) => self.tick_leader(),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {
                if self.election_elapsed >= self.election_timeout && self.shield.0 == 0 {
                    self.on_election_timeout();
                }
            }
        }
    }

    fn on_persisted(&mut self, seq: u64) {
        self.outbox.on_persisted(seq);
        match &self.role {
            // Our own vote counts from now on (rule E2).
            Role::Candidate(_) => self.count_own_vote(),
            // Our own copy counts from now on (rule L10).
            Role::Leader(_) => {
                self.maybe_commit();
                self.release_admitted();
            }
            Role::Follower(_) | Role::PreCandidate(_) => {}
        }
    }

    fn on_applied(&mut self, through: Index) {
        let asked = self.repair.map_or(self.commit, |repair| repair.from);
        if through > asked {
            return self.drop_message(); // Nobody was asked to apply that.
        }
        self.applied = self.applied.max(through);
    }

    fn on_compacted(&mut self, base: &SnapshotMeta) {
        if base.last.index > self.applied {
            return self.drop_message(); // Nobody was asked to forget that.
        }
        // A snapshot that was installed meanwhile has moved the base further already.
        if base.last.index > self.log.base().index && self.log.has(base.last) {
            self.log.compact(base.last);
            self.members.compact(base.last.index);
        }
    }

    // The term gate (§5.1): settled here, once, before any role is asked.

    fn on_envelope(&mut self, envelope: Envelope) {
        let Envelope { from, to, term, message } = envelope;
        if to != self.config.id || from == self.config.id || !is_plausible(term, &message) {
            return self.drop_message();
        }
        match &message {
            // Known to be true whatever the term (rule M13).
            Message::Removed { at } => return self.on_removed(from, *at),
            Message::PreVote { .. } | Message::Vote { .. } => self.tell_if_removed(from),
            Message::PreVoteReply { .. }
            | Message::VoteReply(_)
            | Message::Append { .. }
            | Message::AppendReply(_)
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Snapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::SnapshotRequest { .. } => {}
        }
        if self.is_shielded_from(&message) {
            // A leader is alive. Neither the vote nor the term is heard (rule E6, dissertation 4.2.3).
            return;
        }
        if term > self.hard.term && self.is_gone(from) {
            // It campaigned alone before it heard. Its term is nobody's business any more.
            return self.part_with_late(from);
        }
        if term > self.hard.term {
            let leader = is_from_leader(&message).then_some(from);
            let taken_over = leader.is_some() || is_asked_for(&message);
            self.become_follower(term, leader, taken_over.then_some(from));
        } else if term < self.hard.term {
            return self.on_stale(from, message);
        }
        if is_from_leader(&message) && self.cannot_be_rival(from) {
            return self.drop_message();
        }
        match message {
            Message::PreVote { term, last } => self.on_pre_vote(from, term, last),
            Message::PreVoteReply { term, outcome } => self.on_pre_vote_reply(from, term, outcome),
            Message::Vote { last, campaign: _ } => self.on_vote(from, last),
            Message::VoteReply(outcome) => self.on_vote_reply(from, outcome),
            Message::Append { prev, entries, commit } => {
                self.on_append(from, prev, entries, commit);
            }
            Message::AppendReply(outcome) => self.on_append_reply(from, outcome),
            Message::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round),
            Message::HeartbeatReply { round, shield, priority } => {
                self.on_heartbeat_reply(from, round, shield, priority);
            }
            Message::Snapshot(meta) => {
                self.follow(from);
                self.on_snapshot(from, meta);
            }
            Message::TimeoutNow => self.on_timeout_now(from),
            Message::ReadIndex { ticket } => self.on_read_index(from, ticket),
            Message::ReadIndexReply { ticket, index } => {
                self.on_read_index_reply(from, ticket, index);
            }
            Message::SnapshotRequest { from: at } => self.on_snapshot_request(from, at),
            Message::Removed { .. } => {} // Was heard before the term was looked at.
        }
    }

    /// Whether this node leads, and `from` cannot have been elected in the same term because it votes in
    /// no configuration that may be in force: a stranger that speaks like a leader is not worth a panic
    /// (rule L17), a voter that does is (rule E5).
    fn cannot_be_rival(&self, from: NodeId) -> bool {
        matches!(self.role, Role::Leader(_)) && !self.members.may_vote(from, self.commit)
    }

    /// Answers a message of an earlier term, so that its sender learns of ours (rules E7, E8).
    /// Without an answer, a leader that was left behind and a node that campaigned alone could ignore
    /// each other for ever. Replies are not answered, so this ends.
    fn on_stale(&mut self, from: NodeId, message: Message) {
        use crate::message::VoteOutcome::Refused;
        if mutant!(raft_mutant = "counts_votes_of_older_terms")
            && let Message::VoteReply(outcome) = message
        {
            return self.on_vote_reply(from, outcome);
        }
        if mutant!(raft_mutant = "counts_pre_votes_as_votes")
            && let Message::PreVoteReply { outcome, .. } = message
        {
            return self.on_vote_reply(from, outcome);
        }
        if mutant!(raft_mutant = "accepts_appends_of_older_terms")
            && let Message::Append { prev, entries, commit } = message
        {
            return match &self.role {
                Role::Follower(_) => self.on_append(from, prev, entries, commit),
                Role::PreCandidate(_) | Role::Candidate(_) | Role::Leader(_) => {}
            };
        }
        let reply = match message {
            Message::PreVote { term, .. } => Message::PreVoteReply { term, outcome: Refused },
            Message::Vote { .. } => Message::VoteReply(Refused),
            Message::Append { .. } => self.heartbeat_reply(0, Ticks(0)),
            Message::Heartbeat { round, .. } => self.heartbeat_reply(round, Ticks(0)),
            Message::ReadIndex { ticket } => Message::ReadIndexReply { ticket, index: None },
            // What it holds was committed, whoever sends it now (rule S7).
            Message::Snapshot(meta) => return self.on_snapshot(from, meta),
            Message::PreVoteReply { .. }
            | Message::VoteReply(_)
            | Message::AppendReply(_)
            | Message::HeartbeatReply { .. }
            | Message::TimeoutNow
            | Message::ReadIndexReply { .. }
            | Message::SnapshotRequest { .. }
            | Message::Removed { .. } => return,
        };
        self.send(from, reply, Vouches::Term);
    }

    /// Whether a campaign is not to be heard, because this node has a leader that lives (rule E6). A
    /// campaign that the leader itself asked for is heard.
    fn is_shielded_from(&self, message: &Message) -> bool {
        let disturbing = match message {
            Message::PreVote { .. } => true,
            Message::Vote { campaign, .. } => *campaign == Campaign::Timeout,
            Message::PreVoteReply { .. }
            | Message::VoteReply(_)
            | Message::Append { .. }
            | Message::AppendReply(_)
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Snapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::SnapshotRequest { .. }
            | Message::Removed { .. } => false,
        };
        if !disturbing || !self.config.check_quorum {
            return false;
        }
        if self.shield.0 > 0 {
            return true; // It has promised, whatever its term and leader are by now (rule R5).
        }
        match &self.role {
            Role::Leader(_) => true, // It would have stepped down if it heard no quorum.
            Role::Follower(Follower { leader }) => {
                leader.is_some() && self.election_elapsed < self.config.election_timeout.0
            }
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }

    // Changes of role.

    /// Follows `leader`, or nobody yet, in `term`; `cause` is who has taken over or is about to.
    ///
    /// A vote is forgotten only with its term: stepping down within a term keeps it (rule E1). The
    /// election timer starts anew only if there is a leader to wait for: a candidate that cannot
    /// win must not keep those that can from campaigning, however high its term (rule E4).
    fn become_follower(&mut self, term: Term, leader: Option<NodeId>, cause: Option<NodeId>) {
        invariant!(
            term >= self.hard.term,
            "cannot follow in term {term}, is in {}",
            self.hard.term
        );
        let was_leader = matches!(self.role, Role::Leader(_));
        if was_leader {
            self.abandon_leadership(cause);
        }
        if was_leader && mutant!(raft_mutant = "deposed_leader_rolls_back") {
            self.log.truncate(self.commit.next());
            self.outbox.truncate(self.commit.next());
            self.members.truncate(self.commit.next());
        }
        if term > self.hard.term {
            self.set_hard(HardState { term, vote: None });
            if was_leader && mutant!(raft_mutant = "deposed_leader_appends_again") {
                let id = self.next_id();
                self.append(vec![crate::entry::Entry { id, payload: crate::Payload::Empty }]);
            }
        } else if mutant!(raft_mutant = "stepping_down_clears_vote") {
            self.set_hard(HardState { term, vote: None });
        }
        self.forget_forwarded_reads();
        self.role = Role::Follower(Follower { leader });
        if was_leader || leader.is_some() {
            self.reset_election_timer();
        }
        self.called &= leader.is_none();
    }

    fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
        self.outbox.write_hard(hard);
    }

    /// Starts to count anew, to a number drawn anew: equal timeouts would collide again and again
    /// (§5.2, rule E4).
    fn reset_election_timer(&mut self) {
        let base = self.config.election_timeout.0;
        self.election_elapsed = 0;
        self.election_timeout = base + self.rng.next_u32() % base.max(1);
        if mutant!(raft_mutant = "timeouts_are_not_redrawn") {
            self.election_timeout = base;
        }
    }

    /// Says so if role, term or leader are others than last time.
    fn show_role(&mut self) {
        let now = (self.hard.term, self.role.name(), self.leader());
        if now != self.shown {
            self.shown = now;
            let status = self.status();
            self.outbox.effect(Effect::RoleChanged(Box::new(status)));
        }
    }

    // Small things that every role does.

    fn is_me(&self, id: NodeId) -> bool {
        id == self.config.id
    }

    /// Whether this node may campaign: a voter, as far as is settled.
    fn is_promotable(&self) -> bool {
        if mutant!(raft_mutant = "learner_campaigns") && self.members.contains(self.config.id) {
            return true;
        }
        self.members.may_vote(self.config.id, self.commit) && self.may_stand_in()
    }

    /// Whether this node may campaign if its vote counts for somebody: its log is not about to be
    /// replaced (rule E12), and it was not removed (rule M13).
    ///
    /// A voter that the last leader did not know to be one is a learner, or nobody, by its own log, and
    /// yet its log may be the best that is left: then those who count its vote cannot win without it, and
    /// would ask it in vain for ever (rule E11).
    fn may_stand_in(&self) -> bool {
        (self.installing.is_none() || mutant!(raft_mutant = "campaigns_while_installing"))
            && self.removed().is_none()
    }

    fn send(&mut self, to: NodeId, message: Message, vouches: Vouches) {
        let envelope = Envelope { from: self.config.id, to, term: self.hard.term, message };
        self.outbox.send(envelope, vouches);
    }

    fn refuse(&mut self, ticket: Ticket, why: Refusal) {
        self.outbox.effect(Effect::Refuse { ticket, why });
    }

    fn not_leader(&self) -> Refusal {
        Refusal::NotLeader { leader: self.leader(), term: self.hard.term }
    }

    fn heartbeat_reply(&self, round: u64, shield: Ticks) -> Message {
        Message::HeartbeatReply { round, shield, priority: self.config.priority }
    }

    fn drop_message(&mut self) {
        self.dropped += 1;
    }

    /// Raises the commit index; nothing is ever taken back (rule B16). The state machine may go on
    /// at once: what a quorum has is safe, also while our own disk is still busy.
    fn commit_to(&mut self, index: Index) {
        if index <= self.commit && !mutant!(raft_mutant = "commit_set_not_raised") {
            return;
        }
        let last = self.log.last();
        invariant!(index <= last.index, "commit {index} beyond the last entry {last}");
        let settled = (self.commit.next()..=index).contains(&self.members.at().index);
        self.commit = index;
        if settled {
            let membership = Membership::clone(&self.members);
            self.outbox.effect(Effect::MembershipCommitted(Box::new(membership)));
            self.review_removal();
        }
        // What is being installed takes the place of all of this.
        if self.installing.is_none() && self.repair.is_none() {
            self.outbox.effect(Effect::Apply { through: index });
        }
    }

    fn membership_changed(&mut self) {
        let membership = Membership::clone(&self.members);
        self.outbox.effect(Effect::MembershipChanged(Box::new(membership)));
        self.review_removal();
    }
}
