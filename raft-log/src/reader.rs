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

use crate::chunk;
use crate::database::Database;
use crate::record::{Defect, EntryRecord};

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
        chunk::seek(&mut rows, first);
        let mut entries: Vec<Entry> = Vec::new();
        let (mut bytes, mut next) = (0_usize, first);
        while next <= state.last.index {
            let found = rows.item().and_then(|(key, chunk)| Some((chunk::first(key)?, chunk)));
            rows.status().map_err(|error| database.error("reading entries", error))?;
            let Some((start, chunk)) = found else { return Ok(Seen::MissingAt(next)) };
            let before = next;
            for (index, record) in chunk::records(start, chunk).skip_while(|&(at, _)| at < first) {
                if index != next {
                    return Ok(Seen::MissingAt(next));
                }
                let (entry, previous) = parse(database, index, record)?;
                if entries.last().is_some_and(|before| before.id.term != previous) {
                    let what = format!("entry {index} does not follow the one before");
                    return Err(database.corrupt(what));
                }
                bytes = bytes.saturating_add(entry.payload.len_bytes());
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(Seen::Entries(entries));
                }
                entries.push(entry);
                next = index.next();
                if entries.len() >= max_entries || next > state.last.index {
                    return Ok(Seen::Entries(entries));
                }
            }
            if next == before {
                return Ok(Seen::MissingAt(next));
            }
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

fn parse(
    database: &Database,
    index: Index,
    record: Result<&[u8], Defect>,
) -> Result<(Entry, Term), StoreError> {
    let checked = record.and_then(|record| EntryRecord::parse(index, record)).and_then(|record| {
        let payload = record.payload()?;
        Ok((Entry { id: record.id, payload }, record.previous))
    });
    checked.map_err(|defect| database.corrupt(format!("entry {index}: {defect}")))
}
