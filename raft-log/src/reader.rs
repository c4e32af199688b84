//! Reads entries beside the writer.
//!
//! # Why a reader sees only what is durable
//!
//! RocksDB carries out a write with `sync` in this order (`DBImpl::WriteImpl`): append the batch to
//! the write-ahead log, fsync it, insert it into the memtables, and only then publish the sequence
//! number up to which snapshots see. A failed fsync ends the write before the insert. So a snapshot
//! never holds a write that is not durable. That is not so for writes without `sync`, and would have
//! to be thought through again for `unordered_write`, `two_write_queues` or pipelined writes: this
//! crate uses none of them. After a failure nothing is read any more (rule L14).

use std::sync::Arc;

use raft_core::{Entry, Index, LogReader, StoreError, Term};
use rocksdb::ReadOptions;

use crate::database::Database;
use crate::record::{self, EntryRecord};

/// A [`LogReader`] of a [`RocksLog`](crate::RocksLog).
#[derive(Debug)]
pub(crate) struct Reader {
    database: Arc<Database>,
}

impl Reader {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    fn read_at_some_moment(
        &self,
        first: Index,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        loop {
            match self.try_read(first, max_entries, max_bytes)? {
                Seen::Entries(entries) => return Ok(entries),
                Seen::MissingAt(index) => {
                    // Whole files of entries before a new base go at once, also for snapshots that
                    // were taken before. The base is durable by then: look again.
                    let state = self.database.state()?;
                    if state.is_none_or(|state| state.base.index < index) {
                        return Err(self.database.corrupt(format!("entry {index} is missing")));
                    }
                }
            }
        }
    }

    fn try_read(
        &self,
        first: Index,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Seen, StoreError> {
        let database = &*self.database;
        let snapshot = database.db().snapshot();
        let state = database.state_in(&snapshot)?;
        if first <= state.base.index || first > state.last.index {
            return Ok(Seen::Entries(Vec::new()));
        }

        let mut rows = snapshot.raw_iterator_cf_opt(database.entries(), ReadOptions::default());
        rows.seek(record::key(first));
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0_usize;
        let mut next = first;
        while next <= state.last.index && (entries.is_empty() || entries.len() < max_entries) {
            let Some((_, value)) = rows.item().filter(|(key, _)| *key == record::key(next)) else {
                rows.status().map_err(|error| database.error("reading entries", error))?;
                return Ok(Seen::MissingAt(next));
            };
            let (entry, previous) = parse(database, next, value)?;
            if entries.last().is_some_and(|before| before.id.term != previous) {
                return Err(
                    database.corrupt(format!("entry {next} does not follow the one before"))
                );
            }
            bytes = bytes.saturating_add(entry.payload.len_bytes());
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
            next = next.next();
            rows.next();
        }
        Ok(Seen::Entries(entries))
    }
}

impl LogReader for Reader {
    fn read(
        &self,
        first: Index,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.database.check()?;
        let found = self.read_at_some_moment(first, max_entries, max_bytes);
        found.map_err(|error| self.database.latch(error))
    }
}

/// What one look at the log gave.
enum Seen {
    Entries(Vec<Entry>),
    /// An entry that should be there was not.
    MissingAt(Index),
}

fn parse(database: &Database, index: Index, value: &[u8]) -> Result<(Entry, Term), StoreError> {
    let checked = EntryRecord::parse(index, value).and_then(|record| {
        let payload = record.payload()?;
        Ok((Entry { id: record.id, payload }, record.previous))
    });
    checked.map_err(|defect| database.corrupt(format!("entry {index}: {defect}")))
}
