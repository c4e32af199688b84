//! Arbitrary events, in any order, for one replica of ring 0.
//!
//! The replica stands on a disk that writes what it is asked to, when the script says so, and its peers
//! are whatever the script makes of them: they answer, lie, repeat, forge, or are strangers. Nothing is
//! excluded but one thing: a voter that claims to lead the very term which this replica leads. That has to
//! stop the node (rule E5, golden script 017).
//!
//! After every event, from outside, besides the core's own invariants: terms, votes and the commit index
//! never go back, what is committed stays what it is, nothing is promised before it is on disk, nobody gets
//! two votes of one term across crashes, what cannot be meant moves nothing, each request is answered at most
//! once, and no event has more effects than it may.

use std::collections::{BTreeSet, VecDeque};

use raft_core::testing::{MemDisk, MemLog};
use raft_core::{
    AppendOutcome, Batch, Config, Effect, Envelope, Event, HardState, Index, LogId, LogStore,
    Message, NodeId, Payload, Raft, Recovered, RoleName, Sent, SnapshotMeta, SnapshotOutcome, Span,
    Term, Ticket,
};

use crate::events::{self, Answer, Around, ME, Rarely};
use crate::promises::Promises;
use crate::script::{Chore, Claim, Script, Start, Step, Wish};

/// Runs a script. Panics if anything is not as it must be. With `tell`, prints what happens.
pub(crate) fn run(script: &Script, tell: bool) {
    let mut replica = Replica::new(script.start, tell);
    for step in &script.steps {
        replica.happen(step);
    }
}

/// A replica with its surroundings.
struct Replica {
    raft: Raft,
    config: Config,
    disk: MemDisk,
    log: MemLog,
    tell: bool,
    lives: u64,

    /// Batches that are not written, spans that are not sent, and so on.
    writes: VecDeque<Batch>,
    spans: VecDeque<Span>,
    snapshots: VecDeque<(NodeId, Term)>,
    on_their_way: VecDeque<(NodeId, Term, LogId)>,
    installs: VecDeque<SnapshotMeta>,
    to_apply: Index,

    /// The last messages it has sent, newest first.
    sent: VecDeque<Envelope>,
    tickets: u64,
    /// How many reads peers have asked for.
    remote_reads: usize,
    waiting: BTreeSet<Ticket>,
    /// Over all its lives.
    promises: Promises,
    /// Places that were once the last committed entry.
    committed: VecDeque<LogId>,
    /// The term in which it last gave up entries.
    truncated_in: Option<Term>,
    hard: HardState,
}

/// What no senseless message may move.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    hard: (Term, Option<NodeId>),
    role: RoleName,
    leader: Option<NodeId>,
    log: (LogId, LogId, Index),
    commit: Index,
    membership: LogId,
    /// What a leader knows its followers to have.
    matched: Vec<(NodeId, Index)>,
}

impl Replica {
    fn new(start: Start, tell: bool) -> Self {
        let disk = start.disk();
        let mut log = disk.log();
        let found = log.recover().expect("the disk works");
        let config = start.options.config();
        let applied = Index(u64::from(start.seed)).min(found.last);
        let raft = Raft::new(config.clone(), found, applied, u64::from(start.seed));
        let replica = Self {
            config,
            disk,
            log,
            tell,
            lives: u64::from(start.seed),
            writes: VecDeque::new(),
            spans: VecDeque::new(),
            snapshots: VecDeque::new(),
            on_their_way: VecDeque::new(),
            installs: VecDeque::new(),
            to_apply: applied,
            sent: VecDeque::new(),
            tickets: 0,
            remote_reads: 0,
            waiting: BTreeSet::new(),
            promises: Promises::default(),
            committed: VecDeque::new(),
            truncated_in: None,
            hard: HardState { term: raft.term(), vote: raft.status().vote },
            raft,
        };
        replica.say(|replica| format!("comes up: {:?}", replica.raft.status()));
        replica
    }

    fn say(&self, what: impl FnOnce(&Self) -> String) {
        if self.tell {
            println!("{}", what(self));
        }
    }

    fn happen(&mut self, step: &Step) {
        match step {
            Step::Ticks(count) => (0..1 + count % 16).for_each(|_| self.step(Event::Tick)),
            Step::Hear(said) | Step::HearAlso(said) => {
                let envelope = self.around().envelope(said);
                self.hear(envelope);
            }
            Step::Answer(answer) => self.answer(*answer),
            Step::Do(chore) => self.do_chore(*chore),
            Step::Ask(wish) => self.ask(wish),
            Step::Report(claim) => self.report(claim),
            Step::Crash(Rarely(None)) => {}
            Step::Crash(Rarely(Some(written))) => self.crash(usize::from(*written % 4)),
        }
    }

    fn around(&self) -> Around<'_> {
        Around { raft: &self.raft }
    }

    // What happens.

    fn hear(&mut self, envelope: Envelope) {
        self.remote_reads += usize::from(matches!(envelope.message, Message::ReadIndex { .. }));
        let leads = matches!(
            envelope.message,
            Message::Append { .. } | Message::Heartbeat { .. } | Message::Snapshot(_)
        );
        let rival = leads && self.raft.role() == RoleName::Leader && self.may_vote(envelope.from);
        if !rival || envelope.term != self.raft.term() {
            self.step(Event::Received(envelope));
        }
    }

    /// Whether it votes in the committed configuration or in a later one.
    fn may_vote(&self, id: NodeId) -> bool {
        let indices = self.raft.commit().0..=self.raft.last().index.0;
        indices.map(Index).any(|index| self.raft.membership_at(index).1.is_voter(id))
    }

    fn answer(&mut self, answer: Answer) {
        let Some(asked) = self.sent.get(usize::from(answer.which) % 16) else { return };
        if let Some(envelope) = self.around().answer(asked, answer) {
            self.hear(envelope);
        }
    }

    fn do_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Persist(count) => self.persist(usize::from(count % 4)),
            Chore::PersistAll => self.persist(usize::MAX),
            Chore::Apply => {
                let through = self.to_apply;
                self.step(Event::Applied { through });
            }
            Chore::Replicate { entries, sent } => self.replicate(entries, sent),
            Chore::TakeSnapshot => {
                let Some((to, term)) = self.snapshots.pop_front() else { return };
                let Some(meta) = self.raft.meta_at(self.raft.status().applied) else { return };
                if self.raft.awaits_snapshot(to, term, meta.last) {
                    self.on_their_way.push_back((to, term, meta.last));
                }
                self.step(Event::SnapshotTaken { to, term, last: meta.last });
            }
            Chore::SnapshotSent { arrived } => {
                let Some((to, term, last)) = self.on_their_way.pop_front() else { return };
                self.step(Event::SnapshotSent { to, term, last, outcome: fate(arrived) });
            }
            Chore::Install => {
                if let Some(meta) = self.installs.pop_front() {
                    self.to_apply = meta.last.index;
                    self.step(Event::SnapshotInstalled(Box::new(meta)));
                    self.persist(usize::MAX);
                }
            }
            Chore::Compact { keep } => self.compact(keep),
        }
    }

    /// Writes what was asked for first, and says so.
    fn persist(&mut self, count: usize) {
        let count = count.min(self.writes.len());
        let Some(seq) = self.write(count) else { return };
        self.step(Event::Persisted { seq });
    }

    fn write(&mut self, count: usize) -> Option<u64> {
        let batches: Vec<_> = self.writes.drain(..count).collect();
        for batch in &batches {
            self.log.persist(batch).expect("what it asks for can be written");
        }
        batches.last().map(|batch| batch.seq)
    }

    fn replicate(&mut self, entries: u8, sent: u8) {
        let Some(span) = self.spans.pop_front() else { return };
        let current = self.raft.is_current(&span);
        let count = span.through.since(span.prev.index).min(u64::from(entries));
        let through = span.prev.index.plus(if current { count } else { 0 });
        let bytes = usize::from(entries) * 16;
        self.step(Event::Replicated { span, through, bytes, sent: sent_as(sent) });
    }

    fn compact(&mut self, keep: u8) {
        let applied = self.raft.status().applied;
        let at = Index(applied.0.saturating_sub(u64::from(keep % 8)));
        let Some(base) = self.raft.meta_at(at) else { return };
        // The log's worker does what it was asked to do before.
        self.persist(usize::MAX);
        self.log.compact(&base).expect("the disk works");
        self.step(Event::Compacted(Box::new(base)));
    }

    fn ask(&mut self, wish: &Wish) {
        let event = match wish {
            Wish::Propose(sizes) => {
                let commands = sizes.0.iter().map(|size| (self.ticket(), events::command(*size)));
                Event::Proposed(commands.collect())
            }
            Wish::Read => Event::ReadRequested(self.ticket()),
            Wish::LeaseRead => Event::LeaseReadRequested(self.ticket()),
            Wish::Change(change) => {
                let change = self.around().change(change);
                Event::ChangeRequested(self.ticket(), change)
            }
            Wish::Transfer(to) => {
                let to = self.around().node(*to);
                Event::TransferRequested(self.ticket(), to)
            }
            Wish::Forget(Rarely(Some(()))) => Event::ForgetRequested(self.ticket()),
            Wish::Repair(Rarely(Some(()))) => Event::SnapshotRequested(self.ticket()),
            Wish::Forget(Rarely(None)) | Wish::Repair(Rarely(None)) => return,
        };
        self.step(event);
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.waiting.insert(Ticket(self.tickets));
        Ticket(self.tickets)
    }

    fn report(&mut self, claim: &Claim) {
        let around = self.around();
        let event = match *claim {
            Claim::TicksSkipped => Event::TicksSkipped,
            Claim::Persisted(seq) => {
                let asked = self.writes.iter().any(|batch| batch.seq <= seq.number());
                if asked {
                    return; // A disk that lies is no disk.
                }
                Event::Persisted { seq: seq.number() }
            }
            Claim::Applied(through) => Event::Applied { through: around.index(through) },
            Claim::Compacted(base) => Event::Compacted(Box::new(around.meta(base))),
            Claim::Replicated { to, term, prev, ends, bytes, sent } => {
                let span = Span {
                    to: around.node(to),
                    term: around.term(term),
                    prev: around.id(prev),
                    through: around.index(ends.0),
                    commit: Index(0),
                };
                let bytes = usize::try_from(bytes.number()).unwrap_or(usize::MAX);
                let through = around.index(ends.1);
                Event::Replicated { span, through, bytes, sent: sent_as(sent) }
            }
            Claim::SnapshotTaken { to, term, last } => Event::SnapshotTaken {
                to: around.node(to),
                term: around.term(term),
                last: around.id(last),
            },
            Claim::SnapshotSent { to, term, last, arrived } => Event::SnapshotSent {
                to: around.node(to),
                term: around.term(term),
                last: around.id(last),
                outcome: fate(arrived),
            },
            Claim::SnapshotInstalled(meta) => Event::SnapshotInstalled(Box::new(around.meta(meta))),
            Claim::Met(peer, life) => Event::Met(around.node(peer), events::life(life)),
            Claim::Unreachable(peer) => Event::Unreachable(around.node(peer)),
        };
        self.step(event);
    }

    /// It loses what is not written, and everything else that it knew.
    fn crash(&mut self, written: usize) {
        self.write(written.min(self.writes.len()));
        let found: Recovered = self.log.recover().expect("the disk works");
        let applied = self.applied_and_durable(&found);
        self.say(|_| format!("crashes, and finds {found:?}, applied {applied}"));
        self.lives += 1;
        self.hard = found.hard;
        // What is committed is not written down; what is applied is the least it can be.
        self.committed.retain(|id| id.index <= applied);
        self.raft = Raft::new(self.config.clone(), found, applied, self.lives);
        self.to_apply = applied;
        self.writes.clear();
        self.spans.clear();
        self.snapshots.clear();
        self.on_their_way.clear();
        self.installs.clear();
        self.sent.clear();
        self.waiting.clear();
        self.truncated_in = None;
    }

    /// How far a state machine had got that makes durable only what its own log has as well.
    fn applied_and_durable(&self, found: &Recovered) -> Index {
        let mut applied = self.raft.status().applied.min(found.last);
        while applied > found.base.last.index {
            let term = self.raft.term_at(applied);
            if term.is_some_and(|term| self.disk.holds(LogId::new(term, applied))) {
                return applied;
            }
            applied = applied.prev();
        }
        found.base.last.index
    }

    // What it does about it.

    fn step(&mut self, event: Event) {
        let before = self.standing();
        let (mut senseless, mut commits_at_most) = (false, None);
        if let Event::Received(envelope) = &event {
            senseless = cannot_be_meant(envelope) || self.is_nobodys_business(envelope);
            commits_at_most = vouched_for(&envelope.message);
        }
        let reports = matches!(&event, Event::Persisted { .. });
        self.say(|_| format!("{event:?}"));
        let mut effects = Vec::new();
        let most = self.most_effects(&event);
        self.raft.step(event, &mut effects);
        self.say(|replica| format!("    {:?}", replica.standing()));
        let after = self.standing();
        if senseless {
            assert_eq!(before, after, "what cannot be meant has moved it");
        }
        if let Some(most) = commits_at_most {
            let most = most.max(before.commit);
            assert!(after.commit <= most, "{} is committed, {most} may be", after.commit);
        }
        assert!(effects.len() <= most || reports, "{} effects, at most {most}", effects.len());
        self.check_progress(&before, &after);
        for effect in effects {
            self.say(|_| format!("    -> {effect:?}"));
            self.carry_out(effect);
        }
    }

    /// Whether nothing that is said so may move this replica: a message of an earlier term, unless it is true in
    /// any; an answer of a stranger; a question.
    fn is_nobodys_business(&self, envelope: &Envelope) -> bool {
        let Envelope { from, term, message, .. } = envelope;
        let timeless = matches!(message, Message::Snapshot(_) | Message::Removed { .. });
        let answers = matches!(
            message,
            Message::PreVoteReply { .. }
                | Message::VoteReply(_)
                | Message::AppendReply(_)
                | Message::HeartbeatReply { .. }
        );
        let asks = matches!(
            message,
            Message::PreVote { .. }
                | Message::ReadIndex { .. }
                | Message::ReadIndexReply { .. }
                | Message::SnapshotRequest { .. }
        );
        let stranger = !self.raft.peers().contains_key(from);
        let now = *term == self.raft.term();
        (*term < self.raft.term() && !timeless) || now && (asks || answers && stranger)
    }

    /// Each peer may be told a few things, each request answered, and a few things be done besides.
    fn most_effects(&self, event: &Event) -> usize {
        let more = if let Event::Received(envelope) = event
            && let Message::Append { entries, .. } = &envelope.message
        {
            entries.len()
        } else if let Event::Proposed(proposals) = event {
            proposals.len()
        } else {
            0
        };
        let requests = 2 * self.waiting.len() + self.remote_reads;
        16 + 8 * (self.raft.peers().len() + 8) + requests + more
    }

    fn standing(&self) -> Standing {
        let status = self.raft.status();
        Standing {
            hard: (status.term, status.vote),
            role: self.raft.role(),
            leader: status.leader,
            log: (status.base, status.last, status.applied),
            commit: status.commit,
            membership: status.membership_at,
            matched: status.followers.iter().map(|who| (who.id, who.matched)).collect(),
        }
    }

    fn check_progress(&mut self, before: &Standing, after: &Standing) {
        assert!(after.hard.0 >= before.hard.0, "the term fell: {before:?} {after:?}");
        if after.hard.0 == before.hard.0 && before.hard.1.is_some() {
            assert_eq!(after.hard.1, before.hard.1, "the vote changed in its term");
        }
        assert!(after.commit >= before.commit, "the commit index fell: {before:?} {after:?}");
        assert!(after.log.2 >= before.log.2, "what is applied fell: {before:?} {after:?}");
        assert!(after.log.2 <= after.commit && after.commit <= after.log.1.index, "{after:?}");
        assert!(after.log.0.index <= after.commit, "the base is not committed: {after:?}");
        assert!(self.raft.membership().fault().is_none(), "a faulty configuration is in force");
        let same = (before.hard.0, before.membership) == (after.hard.0, after.membership);
        for (was, is) in before.matched.iter().zip(&after.matched).filter(|_| same) {
            assert!(was.0 != is.0 || was.1 <= is.1, "what {:?} has fell: {was:?} {is:?}", is.0);
        }
        for id in &self.committed {
            let found = self.raft.term_at(id.index);
            assert!(found.is_none_or(|term| term == id.term), "committed {id} is now of {found:?}");
        }
        if after.commit > before.commit
            && let Some(term) = self.raft.term_at(after.commit)
        {
            self.committed.push_front(LogId::new(term, after.commit));
            self.committed.truncate(32);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(batch) => self.on_persist(batch),
            Effect::Send(envelope) => {
                self.check_promise(&envelope);
                self.sent.push_front(envelope);
                self.sent.truncate(16);
            }
            Effect::Replicate(span) => {
                assert_eq!(span.term, self.raft.term());
                assert!(span.prev.index < span.through, "nothing to send: {span:?}");
                assert!(span.through <= self.raft.last().index, "no such entries: {span:?}");
                self.spans.push_back(span);
            }
            Effect::SendSnapshot { to, term } => self.snapshots.push_back((to, term)),
            Effect::InstallSnapshot(meta) => self.installs.push_back(*meta),
            Effect::Apply { through } => {
                assert!(through <= self.raft.commit(), "it is not committed");
                self.to_apply = self.to_apply.max(through);
            }
            Effect::Appended { ticket, id } => {
                assert!(id.index <= self.raft.last().index, "it is not in the log");
                self.answered(ticket);
            }
            Effect::ReadReady { ticket, .. } | Effect::Refuse { ticket, .. } => {
                self.answered(ticket);
            }
            Effect::Done(ticket) => self.answered(ticket),
            Effect::DropSnapshot(_)
            | Effect::MembershipChanged(_)
            | Effect::MembershipCommitted(_)
            | Effect::PeerDismissed(_)
            | Effect::Removed { .. }
            | Effect::RoleChanged(_) => {}
        }
    }

    fn answered(&mut self, ticket: Ticket) {
        assert!(self.waiting.remove(&ticket), "{ticket:?} was not asked, or answered before");
    }

    fn on_persist(&mut self, batch: Batch) {
        if let Some(hard) = batch.hard {
            assert!(hard.term >= self.hard.term, "{hard:?} after {:?}", self.hard);
            let changed = hard.term == self.hard.term && hard.vote != self.hard.vote;
            assert!(!changed || self.hard.vote.is_none(), "{hard:?} after {:?}", self.hard);
            self.hard = hard;
        }
        if batch.truncate_from.is_some() || batch.snapshot.is_some() {
            self.truncated_in = Some(self.raft.term());
        }
        self.writes.push_back(batch);
    }

    /// Nothing is acknowledged that is not on disk (rule L10).
    fn check_promise(&mut self, envelope: &Envelope) {
        self.promises.check(&self.disk, envelope);
        let Envelope { term, message, .. } = envelope;
        // What a leader took back in the term of the acknowledgement is its own business.
        if let Message::AppendReply(AppendOutcome::Matched { through }) = message
            && self.truncated_in != Some(*term)
        {
            let last = self.disk.last();
            assert!(*through <= last.index, "acknowledges {through}, {last} is durable");
        }
    }
}

/// Whether no peer that follows the protocol can have said this to this replica, whatever has happened.
/// Written apart from the core, from what the messages mean.
fn cannot_be_meant(envelope: &Envelope) -> bool {
    let Envelope { from, to, term, message } = envelope;
    let huge = |number: u64| number >= 1 << 63;
    let wrong = |id: LogId| huge(id.index.0) || id.term > *term;
    if *to != events::id(ME) || from == to || huge(term.0) {
        return true;
    }
    match message {
        Message::PreVote { last, .. } => wrong(*last),
        Message::Vote { last, .. } => wrong(*last) || last.term == *term,
        Message::Append { prev, entries, .. } => {
            let faulty = |entry: &raft_core::Entry| match &entry.payload {
                Payload::Membership(membership) => membership.fault().is_some(),
                Payload::Empty | Payload::Command(_) => false,
            };
            let mut last = *prev;
            let mut broken = wrong(*prev);
            for entry in entries {
                let follows = last.index.0.checked_add(1) == Some(entry.id.index.0);
                broken |= !follows || entry.id.term < last.term || wrong(entry.id) || faulty(entry);
                last = entry.id;
            }
            broken
        }
        Message::AppendReply(AppendOutcome::Rejected { prev, hint }) => {
            wrong(*prev) || wrong(*hint)
        }
        Message::Snapshot(meta) => wrong(meta.last) || meta.membership.fault().is_some(),
        Message::Removed { at } => wrong(*at),
        Message::PreVoteReply { .. }
        | Message::VoteReply(_)
        | Message::AppendReply(AppendOutcome::Matched { .. })
        | Message::Heartbeat { .. }
        | Message::HeartbeatReply { .. }
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::SnapshotRequest { .. } => false,
    }
}

/// Up to where this message can commit the log, if it is one that tells a follower (rules L4, L5).
fn vouched_for(message: &Message) -> Option<Index> {
    if let Message::Append { prev, entries, commit } = message {
        Some(entries.last().map_or(prev.index, |entry| entry.id.index).min(*commit))
    } else if let Message::Heartbeat { commit, .. } = message {
        Some(*commit)
    } else {
        None
    }
}

fn sent_as(number: u8) -> Sent {
    match number % 4 {
        0 => Sent::Unreachable,
        1 => Sent::Full,
        _ => Sent::Queued,
    }
}

fn fate(arrived: bool) -> SnapshotOutcome {
    if arrived { SnapshotOutcome::Delivered } else { SnapshotOutcome::Failed }
}
