//! Ring 1, the blocking half: carries out on the log and on the state machine what the pump wants.
//!
//! No clock, no thread, no queue: `threads.rs` runs each worker on a thread of its own, the simulator
//! runs them one step at a time and can crash between any two.

use std::collections::VecDeque;

use bytes::Bytes;

use super::handle::{Committed, RequestError, StopCause};
use super::requests::Applying;
use crate::entry::Entry;
use crate::event::Span;
use crate::log_store::{Batch, LogReader, LogStore};
use crate::snapshot::{SnapshotMeta, SnapshotReader, SnapshotSource};
use crate::state_machine::StateMachine;
use crate::types::{Index, LogId, NodeId, Term};

/// Something for the log worker.
#[derive(Debug)]
pub(crate) enum LogWork {
    /// Make this durable.
    Persist(Batch),
    /// Forget the entries up to this base.
    Compact(SnapshotMeta),
}

/// Something for the worker that reads the log for followers that are behind.
#[derive(Debug)]
pub(crate) struct FetchWork {
    /// What the follower is to be sent.
    pub(crate) span: Span,
    /// At most so many bytes, but at least one entry.
    pub(crate) max_bytes: usize,
}

/// Something for the apply worker.
#[derive(Debug)]
pub(crate) enum ApplyWork {
    /// Apply committed entries.
    Apply(ApplyEntries),
    /// Make durable what was applied.
    Flush,
    /// Take a snapshot for this follower.
    Snapshot {
        /// The follower.
        to: NodeId,
        /// The term in whose name it is sent.
        term: Term,
    },
    /// Replace the state machine's data by this snapshot, which stands for this.
    Restore(SnapshotMeta, Box<dyn SnapshotReader>),
    /// Drop this.
    Discard(Garbage),
}

/// A snapshot that nobody wants. To drop it takes a while.
#[derive(Debug)]
#[expect(dead_code, reason = "all that is done with it is to drop it")]
pub(crate) enum Garbage {
    /// It has arrived.
    Reader(Box<dyn SnapshotReader>),
    /// It was taken.
    Source(Box<dyn SnapshotSource>),
}

/// Consecutive committed entries to apply, and who waits for them.
#[derive(Debug)]
pub(crate) struct ApplyEntries {
    /// The first index.
    pub(crate) first: Index,
    /// The last index, inclusive.
    pub(crate) through: Index,
    /// The entries, or `None` if they are to be read from the log, where they are durable.
    pub(crate) entries: Option<Vec<Entry>>,
    /// Who waits for which of them, in order.
    pub(crate) waiting: Vec<(LogId, Applying)>,
}

/// What a worker has done.
#[derive(Debug)]
pub(crate) enum Done {
    /// Everything up to batch `seq` is durable.
    Persisted(u64),
    /// The log begins after this base.
    Compacted(SnapshotMeta),
    /// Entries were read.
    Fetched(Span, Vec<Entry>),
    /// Everything up to here is applied.
    Applied(Index),
    /// Everything up to here that was applied is durable.
    Flushed(Index),
    /// A snapshot was taken for this follower.
    SnapshotTaken(NodeId, Term, Box<dyn SnapshotSource>),
    /// The state machine holds what this snapshot held.
    Restored(SnapshotMeta),
    /// Something was dropped.
    Discarded,
}

/// Writes the log.
pub(crate) struct LogWorker {
    store: Box<dyn LogStore>,
}

impl LogWorker {
    pub(crate) fn new(store: Box<dyn LogStore>) -> Self {
        Self { store }
    }

    /// Does all of `work`, in order. Batches that follow one another go down as one: this is group
    /// commit, and whatever queued while the last write was under way is in `work` now.
    pub(crate) fn run(
        &mut self,
        work: Vec<LogWork>,
        done: &mut Vec<Done>,
    ) -> Result<(), StopCause> {
        let mut open: Option<Batch> = None;
        for work in work {
            match work {
                LogWork::Persist(batch) => match &mut open {
                    Some(before) => {
                        if let Err(apart) = before.merge(batch) {
                            self.persist(open.replace(*apart), done)?;
                        }
                    }
                    None => open = Some(batch),
                },
                LogWork::Compact(base) => {
                    self.persist(open.take(), done)?;
                    self.store.compact(&base).map_err(StopCause::log)?;
                    done.push(Done::Compacted(base));
                }
            }
        }
        self.persist(open, done)
    }

    fn persist(&mut self, batch: Option<Batch>, done: &mut Vec<Done>) -> Result<(), StopCause> {
        let Some(batch) = batch else { return Ok(()) };
        // A write that failed is never tried again, and nothing is acknowledged after it (rule L14).
        let result = self.store.persist(&batch).map_err(StopCause::log);
        if !mutant!(raft_mutant = "goes_on_after_a_failed_write") {
            result?;
        }
        done.push(Done::Persisted(batch.seq));
        Ok(())
    }
}

/// Reads the log for followers that are behind.
pub(crate) struct FetchWorker {
    reader: Box<dyn LogReader>,
}

impl FetchWorker {
    pub(crate) fn new(reader: Box<dyn LogReader>) -> Self {
        Self { reader }
    }

    /// Reads what a follower needs next. Empty if the log does not have it any more.
    pub(crate) fn run(&self, work: FetchWork) -> Result<Done, StopCause> {
        let FetchWork { span, max_bytes } = work;
        let count = usize::try_from(span.through.since(span.prev.index)).unwrap_or(usize::MAX);
        let entries =
            self.reader.read(span.prev.index.next(), count, max_bytes).map_err(StopCause::log)?;
        Ok(Done::Fetched(span, entries))
    }
}

/// Owns the state machine.
pub(crate) struct ApplyWorker {
    machine: Box<dyn StateMachine>,
    reader: Box<dyn LogReader>,
    /// At most so many bytes of entries are read from the log at a time.
    read_bytes: usize,
    outcomes: Vec<Bytes>,
    /// Who waits for entries of the work at hand. Not on the stack: if the state machine fails or panics
    /// they learn why, when the node has stopped.
    waiting: VecDeque<(LogId, Applying)>,
}

impl ApplyWorker {
    pub(crate) fn new(
        machine: Box<dyn StateMachine>,
        reader: Box<dyn LogReader>,
        read_bytes: usize,
    ) -> Self {
        Self { machine, reader, read_bytes, outcomes: Vec::new(), waiting: VecDeque::new() }
    }

    /// Does `work`.
    pub(crate) fn run(&mut self, work: ApplyWork) -> Result<Done, StopCause> {
        match work {
            ApplyWork::Apply(work) => self.apply(work),
            ApplyWork::Flush => {
                self.machine.durable().map(Done::Flushed).map_err(StopCause::machine)
            }
            ApplyWork::Snapshot { to, term } => {
                let source = self.machine.snapshot().map_err(StopCause::machine)?;
                Ok(Done::SnapshotTaken(to, term, source))
            }
            ApplyWork::Discard(garbage) => {
                drop(garbage);
                Ok(Done::Discarded)
            }
            ApplyWork::Restore(meta, reader) => {
                // Before anything is replaced: what the protocol decided on, or nothing.
                invariant!(*reader.meta() == meta, "another snapshot than the one decided on");
                let applied = self.machine.restore(reader).map_err(StopCause::machine)?;
                invariant!(applied.last == meta.last, "the state machine restored something else");
                Ok(Done::Restored(meta))
            }
        }
    }

    fn apply(&mut self, work: ApplyEntries) -> Result<Done, StopCause> {
        let ApplyEntries { first, through, entries, waiting } = work;
        self.waiting.extend(waiting);
        if let Some(entries) = entries {
            self.apply_run(&entries)?;
            return Ok(Done::Applied(through));
        }
        let mut next = first;
        while next <= through {
            let count =
                usize::try_from(through.since(next)).unwrap_or(usize::MAX).saturating_add(1);
            let entries = self.reader.read(next, count, self.read_bytes).map_err(StopCause::log)?;
            let last = entries.last().map(|entry| entry.id.index);
            // A committed entry that is not there would leave a hole in the state (rule L16).
            let last = last.unwrap_or_else(|| panic!("committed entry {next} is not in the log"));
            self.apply_run(&entries)?;
            next = last.next();
            if mutant!(raft_mutant = "page_skips_an_entry") && last < through {
                next = next.next();
            }
        }
        Ok(Done::Applied(through))
    }

    /// Applies consecutive entries and answers those who wait for them.
    fn apply_run(&mut self, entries: &[Entry]) -> Result<(), StopCause> {
        self.outcomes.clear();
        self.machine.apply(entries, &mut self.outcomes).map_err(StopCause::machine)?;
        invariant!(self.outcomes.len() == entries.len(), "one outcome an entry, no more, no less");
        for (entry, outcome) in entries.iter().zip(self.outcomes.drain(..)) {
            let mut outcome = Some(outcome);
            let waits = |(id, _): &(LogId, Applying)| id.index <= entry.id.index;
            while self.waiting.front().is_some_and(waits) {
                let Some((id, waiter)) = self.waiting.pop_front() else { break };
                // Only the very entry counts: the same index may hold another leader's (rule C4).
                if id != entry.id && !mutant!(raft_mutant = "answers_by_index_alone") {
                    waiter.fail(RequestError::Superseded);
                    continue;
                }
                let outcome = outcome.take().unwrap_or_default();
                match waiter {
                    Applying::Command(waiter) => waiter.answer(Ok(Committed { id, outcome })),
                    Applying::Membership(waiter) => waiter.answer(Ok(id)),
                }
            }
        }
        Ok(())
    }
}
