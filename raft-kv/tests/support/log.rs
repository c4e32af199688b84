//! A log in memory, for a node of the tests.

use std::sync::{Arc, Mutex};

use raft_core::{
    Batch, Entry, HardState, Index, LogReader, LogStore, Recovered, SnapshotMeta, StoreError,
};

pub(crate) struct MemLog {
    hard: HardState,
    base: SnapshotMeta,
    entries: Arc<Mutex<Vec<Entry>>>,
}

struct Reader(Arc<Mutex<Vec<Entry>>>);

impl MemLog {
    pub(crate) fn new(founding: SnapshotMeta) -> Self {
        Self { hard: HardState::default(), base: founding, entries: Arc::default() }
    }
}

impl LogStore for MemLog {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        assert!(self.entries.lock().unwrap().is_empty(), "these tests do not restart a node");
        let base = self.base.clone();
        Ok(Recovered { hard: self.hard, last: base.last.index, base, ..Recovered::default() })
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.hard = batch.hard.unwrap_or(self.hard);
        let mut entries = self.entries.lock().unwrap();
        if let Some(from) = batch.truncate_from {
            entries.retain(|entry| entry.id.index < from);
        }
        entries.extend(batch.entries.iter().cloned());
        Ok(())
    }

    fn compact(&mut self, base: &SnapshotMeta) -> Result<(), StoreError> {
        self.base = base.clone();
        self.entries.lock().unwrap().retain(|entry| entry.id.index > base.last.index);
        Ok(())
    }

    fn reader(&self) -> Box<dyn LogReader> {
        Box::new(Reader(self.entries.clone()))
    }
}

impl LogReader for Reader {
    fn read(
        &self,
        first: Index,
        max_entries: usize,
        _max_bytes: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let entries = self.0.lock().unwrap();
        let from = entries.iter().filter(|entry| entry.id.index >= first);
        Ok(from.take(max_entries).cloned().collect())
    }
}
