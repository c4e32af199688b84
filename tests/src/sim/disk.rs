//! The log on a simulated disk: the one of `raft_core::testing`, with a witness who notes what is written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::testing::{MemDisk, MemLog};
use raft_core::{
    Batch, Entry, HardState, LogId, LogReader, LogStore, Payload, Recovered, SnapshotMeta,
    StoreError, Term,
};

use super::machine::mix;

/// What was written in one go.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) hard: Option<HardState>,
    /// Entries were overwritten.
    pub(crate) truncated: bool,
    pub(crate) compacted: bool,
    /// The term of the entry before the first of `entries`.
    pub(crate) before: Term,
    /// Each with a hash of its payload.
    pub(crate) entries: Vec<(LogId, u64)>,
}

/// What was written since anybody looked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witness(Arc<Mutex<Vec<Written>>>);

/// A log whose writes are noted.
#[derive(Debug)]
pub(crate) struct WitnessedLog {
    log: MemLog,
    disk: MemDisk,
    witness: Witness,
}

impl Witness {
    pub(crate) fn open(&self, disk: &MemDisk) -> WitnessedLog {
        WitnessedLog { log: disk.log(), disk: disk.clone(), witness: self.clone() }
    }

    pub(crate) fn take(&self) -> Vec<Written> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore for WitnessedLog {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.log.recover()
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let written = self.log.persist(batch);
        // A failed write may have left everything on the disk all the same.
        let there = batch.entries.last().is_none_or(|last| self.disk.holds(last.id));
        if written.is_ok() || (there && !batch.entries.is_empty()) {
            let before = batch.entries.first().map_or(Term(0), |first| self.before(first));
            let entry = |entry: &Entry| (entry.id, fingerprint(&entry.payload));
            self.witness.lock().push(Written {
                hard: batch.hard.filter(|_| written.is_ok()),
                truncated: batch.truncate_from.is_some(),
                compacted: false,
                before,
                entries: batch.entries.iter().map(entry).collect(),
            });
        }
        written
    }

    fn compact(&mut self, base: &SnapshotMeta) -> Result<(), StoreError> {
        self.log.compact(base)?;
        self.witness.lock().push(Written {
            hard: None,
            truncated: false,
            compacted: true,
            before: Term(0),
            entries: Vec::new(),
        });
        Ok(())
    }

    fn reader(&self) -> Box<dyn LogReader> {
        self.log.reader()
    }
}

impl WitnessedLog {
    /// The term of the entry before this one, which is on the disk.
    fn before(&self, first: &Entry) -> Term {
        let prev = first.id.index.prev();
        let base = self.disk.base();
        if prev == base.index {
            return base.term;
        }
        self.disk.entry(prev).map_or(Term(0), |entry| entry.id.term)
    }
}

/// Tells payloads apart.
fn fingerprint(payload: &Payload) -> u64 {
    match payload {
        Payload::Empty => 1,
        Payload::Command(bytes) => bytes.chunks(8).fold(2, |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(hash, u64::from_le_bytes(word))
        }),
        Payload::Membership(membership) => {
            let sets = [&membership.voters, &membership.outgoing, &membership.learners];
            sets.iter().fold(3, |hash, set| {
                set.iter().fold(mix(hash, 7), |hash, id| mix(hash, id.as_u64()))
            })
        }
    }
}
