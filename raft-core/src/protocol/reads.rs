//! Reads that see every write acknowledged before them, without a log entry.
//!
//! Paper: §8; dissertation 6.4 (read index). Rules upheld here: R1, R2, R3, R4 (with the ring around).
//!
//! The leader notes its commit index and makes sure, by a round of heartbeats that starts *after* the read
//! arrived, that it still leads. One round confirms all reads that waited for it. Rounds are counted by
//! the leader within its term; nothing a client chooses identifies them, so a repeated request can
//! never be confirmed by an old answer.

use std::collections::{BTreeMap, VecDeque};

use super::Raft;
use super::outbox::Vouches;
use super::quorum;
use super::role::Role;
use crate::event::{Effect, Refusal, Ticket};
use crate::message::Message;
use crate::types::{Index, NodeId, Ticks};

/// At most this many reads wait at a leader, and as many that were passed on wait at a follower.
const WAITING_MAX: usize = 1 << 16;

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A client of this node.
    Local(Ticket),
    /// A client of that follower, which recognises the answer by its number.
    Remote(NodeId, u64),
}

/// The reads that wait at a leader.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Not in a round yet.
    waiting: Vec<Reader>,
    /// In a round: its number, the commit index when it began, and who waits.
    rounds: VecDeque<(u64, Index, Vec<Reader>)>,
}

impl Reads {
    /// How many wait.
    fn len(&self) -> usize {
        self.waiting.len() + self.rounds.iter().map(|(_, _, readers)| readers.len()).sum::<usize>()
    }

    /// A round of heartbeats begins: it confirms whatever has arrived before it.
    pub(super) fn begin_round(&mut self, round: u64, commit: Index) {
        if !self.waiting.is_empty() {
            self.rounds.push_back((round, commit, std::mem::take(&mut self.waiting)));
        }
    }

    /// A quorum has answered `round`: takes out what it and earlier rounds confirm.
    fn confirmed(&mut self, round: u64) -> Vec<(Index, Vec<Reader>)> {
        if mutant!(raft_mutant = "round_confirms_only_itself") {
            self.rounds.retain(|(number, _, _)| *number >= round);
        }
        let done = self.rounds.partition_point(|(number, _, _)| *number <= round);
        self.rounds.drain(..done).map(|(_, index, readers)| (index, readers)).collect()
    }

    /// Leadership is lost: takes out everybody who waits.
    pub(super) fn abandon(&mut self) -> Vec<Reader> {
        let in_rounds = self.rounds.drain(..).flat_map(|(_, _, readers)| readers);
        let mut all: Vec<_> = in_rounds.collect();
        all.append(&mut self.waiting);
        all
    }
}

/// The reads that a follower has passed on to its leader.
#[derive(Debug)]
pub(super) struct Forwarded {
    /// The next number. Starts anywhere, so that an answer meant for an earlier run of this node is
    /// not taken for one of this run (rule R2).
    next: u64,
    /// The ticket of each, and how many ticks it has waited.
    waiting: BTreeMap<u64, (Ticket, u32)>,
}

impl Forwarded {
    /// Numbers start at `start`, drawn at random.
    pub(super) fn new(start: u64) -> Self {
        Self { next: start, waiting: BTreeMap::new() }
    }

    /// A tick: takes out those that have waited for `limit`. The question or its answer was lost.
    pub(super) fn expired(&mut self, limit: Ticks) -> Vec<Ticket> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        for (_, waited) in self.waiting.values_mut() {
            *waited += 1;
        }
        let mut expired = Vec::new();
        self.waiting.retain(|_, (ticket, waited)| {
            let keep = *waited < limit.0;
            if !keep {
                expired.push(*ticket);
            }
            keep
        });
        expired
    }
}

impl Raft {
    pub(super) fn on_read_requested(&mut self, ticket: Ticket) {
        if let Role::Leader(_) = &self.role {
            return self.lead_read(Reader::Local(ticket));
        }
        if mutant!(raft_mutant = "follower_reads_by_its_own_commit") {
            let index = self.commit;
            return self.outbox.effect(Effect::ReadReady { ticket, index });
        }
        let Some(leader) = self.role.known_leader() else {
            let why = self.not_leader();
            return self.refuse(ticket, why);
        };
        if self.forwarded.waiting.len() >= WAITING_MAX {
            return self.refuse(ticket, Refusal::Busy { waiting_bytes: 0 });
        }
        let number = self.forwarded.next;
        if !mutant!(raft_mutant = "reuses_read_numbers") || !self.forwarded.waiting.is_empty() {
            self.forwarded.next = number.wrapping_add(1);
        }
        self.forwarded.waiting.insert(number, (ticket, 0));
        self.send(leader, Message::ReadIndex { ticket: number }, Vouches::Term);
    }

    /// A follower asks for one of its clients.
    pub(super) fn on_read_index(&mut self, from: NodeId, ticket: u64) {
        match &self.role {
            Role::Leader(leader) if leader.progress.contains_key(&from) => {
                self.lead_read(Reader::Remote(from, ticket));
            }
            Role::Leader(_) | Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {
                self.send(from, Message::ReadIndexReply { ticket, index: None }, Vouches::Term);
            }
        }
    }

    /// The leader has answered.
    pub(super) fn on_read_index_reply(&mut self, from: NodeId, number: u64, index: Option<Index>) {
        if self.role.known_leader() != Some(from) {
            return; // Of another leader; its answer does not count any more (rule R3).
        }
        let Some((ticket, _)) = self.forwarded.waiting.remove(&number) else { return };
        match index {
            Some(index) => self.outbox.effect(Effect::ReadReady { ticket, index }),
            None => {
                let why = self.not_leader();
                self.refuse(ticket, why);
            }
        }
    }

    /// Queues a read at the leader. It joins the next round; one is begun at once unless reads are
    /// already waiting for one that is under way, so that under load a round serves many.
    fn lead_read(&mut self, reader: Reader) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.len() >= WAITING_MAX {
            return self.refuse_read(reader, Refusal::Busy { waiting_bytes: 0 });
        }
        leader.reads.waiting.push(reader);
        if leader.reads.rounds.is_empty() {
            self.maybe_begin_read_round();
        }
    }

    /// Begins a round for the reads that wait, if the leader may serve any: only once it has committed an
    /// entry of its own term does it know what is committed (rule R1), a lone voter no less.
    pub(super) fn maybe_begin_read_round(&mut self) {
        let commit = self.commit;
        let Role::Leader(leader) = &self.role else { return };
        if !leader.reads.waiting.is_empty() && commit >= leader.first {
            self.broadcast_heartbeat();
            self.maybe_confirm_reads();
        }
    }

    /// Serves the reads whose round a quorum has answered: of both halves of a joint configuration
    /// (rule M3). A voter answers its own round at once.
    pub(super) fn maybe_confirm_reads(&mut self) {
        let me = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.rounds.is_empty() {
            return;
        }
        let current = leader.round;
        let answered = quorum::committed(&self.members, |id| {
            let own = (id == me).then_some(current);
            own.or_else(|| leader.progress.get(&id).map(|p| p.round)).map(Index)
        });
        let mut answered = answered;
        if mutant!(raft_mutant = "joint_read_asks_one_half") {
            answered = quorum::majority_committed(&self.members.voters, |id| {
                let own = (id == me).then_some(current);
                own.or_else(|| leader.progress.get(&id).map(|p| p.round)).map(Index)
            });
        }
        if mutant!(raft_mutant = "reads_without_a_round") {
            answered = Index(current);
        }
        let confirmed = leader.reads.confirmed(answered.0.min(current));
        if confirmed.is_empty() {
            return;
        }
        for (index, readers) in confirmed {
            for reader in readers {
                match reader {
                    Reader::Local(ticket) => {
                        self.outbox.effect(Effect::ReadReady { ticket, index });
                    }
                    Reader::Remote(follower, ticket) => {
                        let reply = Message::ReadIndexReply { ticket, index: Some(index) };
                        self.send(follower, reply, Vouches::Term);
                    }
                }
            }
        }
        // What arrived during that round needs one of its own (rule R2).
        self.maybe_begin_read_round();
    }

    /// Tells everybody who waited at this leader that it leads no more (rule R3).
    pub(super) fn abandon_reads(&mut self, readers: Vec<Reader>) {
        for reader in readers {
            let why = Refusal::NotLeader { leader: None, term: self.hard.term };
            self.refuse_read(reader, why);
        }
    }

    /// Forgets what was passed on to a leader that is followed no more: it may never answer, and
    /// must not be believed if it does.
    pub(super) fn forget_forwarded_reads(&mut self) {
        for (_, (ticket, _)) in std::mem::take(&mut self.forwarded.waiting) {
            let why = Refusal::NotLeader { leader: None, term: self.hard.term };
            self.refuse(ticket, why);
        }
    }

    fn refuse_read(&mut self, reader: Reader, why: Refusal) {
        match reader {
            Reader::Local(ticket) => self.refuse(ticket, why),
            Reader::Remote(follower, ticket) => {
                let reply = Message::ReadIndexReply { ticket, index: None };
                self.send(follower, reply, Vouches::Term);
            }
        }
    }
}
