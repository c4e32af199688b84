//! The disk of a replica, as a model: what batches make of it, and what is found after a crash.
//!
//! The same type serves twice for each node: as the log in memory, to which a batch is applied when
//! it is handed out, and as the disk, to which it is applied when it has been written.

use raft_core::{
    Batch, Entry, HardState, Index, LogId, Membership, Payload, Recovered, SnapshotMeta, Term,
};

/// Term, vote and log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    pub(crate) base: SnapshotMeta,
    /// Consecutive, from after the base.
    pub(crate) entries: Vec<Entry>,
}

impl Disk {
    /// Applies one batch: all of it, in the order of its fields.
    ///
    /// # Panics
    ///
    /// If it would leave a hole, or void what is committed: the contract of `LogStore` forbids both.
    pub(crate) fn write(&mut self, batch: &Batch) {
        if let Some(hard) = batch.hard {
            assert!(hard.term >= self.hard.term, "the term on disk falls to {}", hard.term);
            self.hard = hard;
        }
        if let Some(installed) = &batch.snapshot {
            let last = installed.meta.last;
            if installed.keep_tail {
                assert_eq!(self.term_at(last.index), Some(last.term), "no tail to keep");
                self.entries.retain(|entry| entry.id.index > last.index);
            } else {
                self.entries.clear();
            }
            self.base = installed.meta.clone();
        }
        if let Some(from) = batch.truncate_from {
            assert!(from > self.base.last.index, "truncation from {from} cuts the base");
            self.entries.retain(|entry| entry.id.index < from);
        }
        for entry in &batch.entries {
            assert_eq!(entry.id.index, self.last().index.next(), "a hole in the log");
            self.entries.push(entry.clone());
        }
    }

    /// Forgets the entries up to `base`.
    pub(crate) fn compact(&mut self, base: &SnapshotMeta) {
        if base.last.index > self.base.last.index {
            self.entries.retain(|entry| entry.id.index > base.last.index);
            self.base = base.clone();
        }
    }

    pub(crate) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base.last, |entry| entry.id)
    }

    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.last.index {
            return Some(self.base.last.term);
        }
        self.entry(index).map(|entry| entry.id.term)
    }

    pub(crate) fn entry(&self, index: Index) -> Option<&Entry> {
        let first = self.base.last.index.next();
        let place = usize::try_from(index.0.checked_sub(first.0)?).ok()?;
        self.entries.get(place)
    }

    /// What a node that comes up finds.
    pub(crate) fn recover(&self) -> Recovered {
        let mut runs: Vec<(Term, Index)> = Vec::new();
        let mut memberships: Vec<(LogId, Membership)> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|(term, _)| *term != entry.id.term) {
                runs.push((entry.id.term, entry.id.index));
            }
            if let Payload::Membership(membership) = &entry.payload {
                memberships.push((entry.id, Membership::clone(membership)));
            }
        }
        let last = self.last().index;
        Recovered { hard: self.hard, base: self.base.clone(), runs, last, memberships }
    }
}
