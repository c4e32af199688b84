//! What may leave now, and what has to wait for the disk.
//!
//! Paper: Figure 2 ("updated on stable storage before responding"); dissertation 3.8, 10.2.1.
//! Rules upheld here: E1, E2, L10, L11, L12.
//!
//! This is why the caller needs no ordering contract: every effect that leaves here is safe to carry
//! out at once. A message that vouches for something is withheld until the batch that makes
//! it durable has been reported. All other public cores put that duty on their users, in prose.

use std::collections::VecDeque;

use crate::entry::Entry;
use crate::event::Effect;
use crate::log_store::{Batch, Installed};
use crate::message::{AppendOutcome, Envelope, Message};
use crate::types::{HardState, Index, Term};

/// More messages than this are not withheld; the oldest are dropped, as a network might. A disk
/// that stalls must not let a chatty peer fill our memory.
const WITHHELD_MAX: usize = 4096;

/// Room for so many of everything is kept while nothing happens.
pub(super) const ROOM: usize = 4;

/// What a message vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vouches {
    /// The sender's term, and its vote in it.
    Term,
    /// That, and every entry the log has at this moment.
    Entries,
}

/// Collects the effects of one step, and keeps back what is not safe yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// What this step wants to be durable.
    batch: Batch,
    /// The last batch handed out, and the last reported durable.
    seq: u64,
    persisted_seq: u64,
    /// The last batch that carried a term or vote.
    hard_seq: u64,
    /// Where the log ended after each batch that is not durable yet, in order of `seq`.
    writing: VecDeque<(u64, Index)>,
    /// The last index that is durable and has not been overwritten since.
    persisted: Index,
    /// Messages, and the batch that each waits for.
    withheld: Vec<(u64, Envelope)>,
    ready: Vec<Effect>,
}

impl Outbox {
    /// For a node whose log was found to end at `last`.
    pub(crate) fn new(last: Index) -> Self {
        Self { persisted: last, ..Self::default() }
    }

    // What is durable.

    /// The last durable index. Our own vote for commitment (rule L10).
    pub(crate) fn persisted(&self) -> Index {
        self.persisted
    }

    /// Whether the current term and vote are durable.
    pub(crate) fn is_term_durable(&self) -> bool {
        self.batch.hard.is_none() && self.persisted_seq >= self.hard_seq
    }

    /// Everything up to batch `seq` is durable. A number that was never handed out is ignored.
    pub(crate) fn on_persisted(&mut self, seq: u64) {
        if seq > self.seq {
            return;
        }
        self.persisted_seq = self.persisted_seq.max(seq);
        while let Some(&(batch, last)) = self.writing.front() {
            if batch > self.persisted_seq {
                break;
            }
            self.writing.pop_front();
            self.persisted = last;
        }
    }

    // What is to become durable.

    /// The term and vote have changed.
    pub(crate) fn write_hard(&mut self, hard: HardState) {
        self.batch.hard = Some(hard);
        // A message of an older term says nothing that anybody needs; in particular an
        // acknowledgement must not outlive the term in which it was meant (rule L12).
        if !mutant!(raft_mutant = "acknowledgement_outlives_its_term") {
            self.withheld.retain(|(_, envelope)| envelope.term >= hard.term);
        }
    }

    /// Entries were appended at the end of the log.
    pub(crate) fn write_entries(&mut self, entries: Vec<Entry>) {
        if self.batch.entries.is_empty() {
            self.batch.entries = entries; // All there is in nearly every step: nothing is copied.
        } else {
            self.batch.entries.extend(entries);
        }
    }

    /// The entries from `from` on are void. What is being written of them does not become durable
    /// in our eyes, even when the disk reports it (rule L12).
    pub(crate) fn truncate(&mut self, from: Index) {
        invariant!(self.batch.entries.is_empty(), "truncation after entries within one step");
        self.batch.truncate_from = Some(self.batch.truncate_from.map_or(from, |at| at.min(from)));
        self.persisted = self.persisted.min(from.prev());
        if mutant!(raft_mutant = "overwritten_write_counts") {
            return;
        }
        for (_, last) in &mut self.writing {
            *last = (*last).min(from.prev());
        }
    }

    /// A snapshot has replaced the log.
    pub(crate) fn install(&mut self, installed: Installed) {
        let base = installed.meta.last.index;
        self.batch.snapshot = Some(Box::new(installed));
        self.persisted = base;
        // Older writes are on their way to a log that is gone.
        for (_, last) in &mut self.writing {
            *last = base;
        }
    }

    // What leaves.

    /// Lets `envelope` leave as soon as what it vouches for is durable.
    pub(crate) fn send(&mut self, envelope: Envelope, vouches: Vouches) {
        let after = match vouches {
            Vouches::Term if self.batch.hard.is_none() => self.hard_seq,
            Vouches::Entries if self.batch.is_empty() => self.seq,
            // The batch of this step will get the next number.
            Vouches::Term | Vouches::Entries => self.seq + 1,
        };
        let early = match &envelope.message {
            Message::VoteReply(_) => mutant!(raft_mutant = "votes_before_fsync"),
            Message::Vote { .. } => mutant!(raft_mutant = "campaigns_before_fsync"),
            Message::AppendReply(_) => mutant!(raft_mutant = "acknowledges_before_fsync"),
            Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::Append { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Snapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::SnapshotRequest { .. }
            | Message::Removed { .. }
            | Message::ReadIndexReply { .. } => false,
        };
        if after <= self.persisted_seq || early {
            self.ready.push(Effect::Send(envelope));
            return;
        }
        if self.withheld.len() == WITHHELD_MAX {
            self.withheld.remove(0);
        }
        self.withheld.push((after, envelope));
    }

    /// An effect that does not depend on the disk.
    pub(crate) fn effect(&mut self, effect: Effect) {
        self.ready.push(effect);
    }

    /// Ends a step: hands out its batch, and everything that is safe now. `last` is where the log ends.
    pub(crate) fn drain_ready(&mut self, last: Index, effects: &mut Vec<Effect>) {
        if !self.batch.is_empty() {
            self.seq += 1;
            let mut batch = std::mem::take(&mut self.batch);
            batch.seq = self.seq;
            if mutant!(raft_mutant = "writes_term_and_vote_apart")
                && let Some(hard) = batch.hard
            {
                // What waits for this write leaves after its first half.
                let first = Some(HardState { vote: None, ..hard });
                effects.push(Effect::Persist(Batch { hard: first, ..batch.clone() }));
                batch = Batch { hard: Some(hard), ..Batch::default() };
            }
            if batch.hard.is_some() {
                self.hard_seq = self.seq;
            }
            self.writing.push_back((self.seq, last));
            effects.push(Effect::Persist(batch));
        }
        effects.append(&mut self.ready);
        if self.withheld.is_empty() {
            return;
        }
        let persisted = self.persisted_seq;
        let first = effects.len();
        for (_, envelope) in self.withheld.extract_if(.., |(after, _)| *after <= persisted) {
            // One write has made many appends durable: the last acknowledgement says it for all.
            match effects.get_mut(first..).and_then(<[Effect]>::last_mut) {
                Some(Effect::Send(before)) if is_outdone(before, &envelope) => *before = envelope,
                Some(_) | None => effects.push(Effect::Send(envelope)),
            }
        }
    }

    /// Gives back the room that a burst has taken: a process may hold thousands of replicas, most of
    /// them idle.
    pub(crate) fn shrink(&mut self) {
        self.ready.shrink_to(ROOM);
        self.withheld.shrink_to(ROOM);
        self.writing.shrink_to(ROOM);
    }

    /// Facts for the invariants: the newest term among what is withheld.
    pub(crate) fn newest_withheld_term(&self) -> Option<Term> {
        self.withheld.iter().map(|(_, envelope)| envelope.term).max()
    }
}

/// Whether `later` says all that `before` does: both acknowledge entries to the same leader.
fn is_outdone(before: &Envelope, later: &Envelope) -> bool {
    let matched = |envelope: &Envelope| match &envelope.message {
        Message::AppendReply(AppendOutcome::Matched { through }) => Some(*through),
        Message::AppendReply(AppendOutcome::Rejected { .. })
        | Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::Vote { .. }
        | Message::VoteReply(_)
        | Message::Append { .. }
        | Message::Heartbeat { .. }
        | Message::HeartbeatReply { .. }
        | Message::Snapshot(_)
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::SnapshotRequest { .. }
        | Message::Removed { .. } => None,
    };
    (before.to, before.term) == (later.to, later.term)
        && matched(before).zip(matched(later)).is_some_and(|(before, later)| before <= later)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Payload;
    use crate::types::{LogId, NodeId};

    fn ack(through: u64) -> Envelope {
        let node = |id| NodeId::new(id).unwrap();
        let message = Message::AppendReply(AppendOutcome::Matched { through: Index(through) });
        Envelope { from: node(2), to: node(1), term: Term(1), message }
    }

    fn entry(index: u64) -> Entry {
        Entry { id: LogId::new(Term(1), Index(index)), payload: Payload::Empty }
    }

    fn drained(outbox: &mut Outbox, last: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        outbox.drain_ready(Index(last), &mut effects);
        effects
    }

    /// Rule L10, and group commit: one write, one acknowledgement.
    #[test]
    fn an_acknowledgement_waits_for_its_write_and_the_last_speaks_for_all() {
        let mut outbox = Outbox::new(Index(0));
        for index in 1..=3 {
            outbox.write_entries(vec![entry(index)]);
            outbox.send(ack(index), Vouches::Entries);
            let effects = drained(&mut outbox, index);
            assert!(matches!(effects[..], [Effect::Persist(_)]), "{effects:?}");
        }
        outbox.on_persisted(2);
        assert_eq!(drained(&mut outbox, 3), [Effect::Send(ack(2))]);
        assert_eq!(outbox.persisted(), Index(2));
    }

    /// Rule L12: what a newer leader has overwritten does not become durable when the disk reports the
    /// older write, and its acknowledgement does not leave.
    #[test]
    fn an_overwritten_entry_is_not_durable_when_its_write_is_reported() {
        let mut outbox = Outbox::new(Index(0));
        outbox.write_entries(vec![entry(1), entry(2)]);
        outbox.send(ack(2), Vouches::Entries);
        drained(&mut outbox, 2);
        outbox.write_hard(HardState { term: Term(2), vote: None });
        outbox.truncate(Index(2));
        outbox.write_entries(vec![entry(2)]);
        drained(&mut outbox, 2);
        outbox.on_persisted(1);
        assert_eq!(outbox.persisted(), Index(1));
        assert_eq!(drained(&mut outbox, 2), []);
        outbox.on_persisted(2);
        assert_eq!(outbox.persisted(), Index(2));
    }
}
