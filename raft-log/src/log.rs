//! [`RocksLog`]: the log store itself.
//!
//! Rules upheld here: E1, L10, L11, L14–L16, S1, S4. The crate's documentation says how a loss is
//! told from a torn tail; [`crate::record`] and [`crate::chunk`] how records and rows look;
//! [`crate::recover`] how they are read back.

use std::io;
use std::path::Path;
use std::sync::Arc;

use raft_core::{
    Batch, Entry, HardState, Index, LogReader, LogStore, Recovered, SnapshotMeta, StoreError, Term,
};
use rocksdb::{IteratorMode, WriteBatch};

use crate::chunk::{self, MAX_ENTRY_BYTES};
use crate::config::RocksLogConfig;
use crate::database::{BASE_KEY, Database, STATE_KEY};
use crate::directory::DataDir;
use crate::error::OpenError;
use crate::reader::Reader;
use crate::record::{self, State};
use crate::recover::{self, Found};
use crate::reserve;
use crate::shape::{Shape, Void};
use crate::wal::{self, Places};
use crate::watermark::Watermark;

/// A durable log in a data directory.
///
/// Each batch is one atomic RocksDB write, fsynced before [`LogStore::persist`] returns. After the
/// first failure of the disk every call returns that failure (rule L14); entries that do not follow
/// the log are refused without harm.
///
/// A reader keeps the database open. Drop them all before the same directory is opened again.
pub struct RocksLog {
    database: Arc<Database>,
    watermark: Watermark,
    /// What the last write left behind.
    state: State,
    shape: Shape,
    /// What was found at opening, until somebody asks or it is out of date.
    recovered: Option<Recovered>,
}

impl std::fmt::Debug for RocksLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksLog")
            .field("database", &self.database)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl RocksLog {
    /// Opens the log of an initialised data directory, and reads and checks all of it.
    ///
    /// # Errors
    ///
    /// [`OpenError::NotInitialised`]; [`OpenError::OtherWal`] and [`OpenError::ForeignWal`] if the
    /// write-ahead log is not where it should be; otherwise [`OpenError::Log`] with [`StoreError::Corrupt`] if
    /// anything that had been durable is damaged or gone (rule L15), [`StoreError::Io`] or
    /// [`StoreError::Full`] if the device failed.
    pub fn open(dir: &DataDir, config: RocksLogConfig) -> Result<Self, OpenError> {
        let Some(identity) = dir.identity() else {
            return Err(OpenError::NotInitialised { path: dir.path().to_owned() });
        };
        wal::check(dir.path(), config.wal_dir.as_deref(), &identity)?;
        let (mut watermark, mark) =
            Watermark::open(&dir.watermark_path(), config.watermark_sync_every)?;
        let places = dir.places();
        let opened = open_no_shorter(&places, &config, &mark).and_then(|opened| {
            watermark.renew(&opened.1.state)?;
            opened.0.prepare(config.prepared_bytes, &opened.1.state)?;
            Ok(opened)
        });
        if matches!(opened, Err(StoreError::Full { .. })) {
            // The next start may need it.
            places.reserves().iter().for_each(|path| reserve::release(path));
        }
        let (database, found) = opened?;
        places.reserves().iter().for_each(|path| reserve::keep(path, config.reserve_bytes));
        tracing::info!(
            path = %database.path().display(),
            base = %found.state.base,
            last = %found.state.last,
            term = %found.state.hard.term,
            writes = found.state.write,
            "log opened"
        );
        Ok(Self {
            database: Arc::new(database),
            watermark,
            state: found.state,
            shape: found.shape.clone(),
            recovered: Some(recovered(found)),
        })
    }

    /// Writes what `fill` puts into a batch, about `bytes` bytes, and the state it leads to; on `Ok` both
    /// are durable.
    fn commit(
        &mut self,
        hard: HardState,
        shape: Shape,
        bytes: usize,
        fill: impl Fn(&Self, &mut WriteBatch),
    ) -> Result<(), StoreError> {
        let state =
            State { write: self.state.write + 1, hard, base: shape.base(), last: shape.last() };
        let written = self.database.write(|| {
            let mut write = WriteBatch::with_capacity_bytes(STATE_BYTES + bytes);
            fill(self, &mut write);
            write.put_cf(self.database.meta(), STATE_KEY, record::seal(STATE_KEY, &state));
            write
        });
        written
            .and_then(|()| self.watermark.record(&state))
            .map_err(|error| self.database.latch(error))?;
        self.state = state;
        self.shape = shape;
        self.recovered = None;
        Ok(())
    }

    /// Adds the parts of `batch` to `write`. Deletions first: within one RocksDB batch, what comes
    /// later wins.
    fn fill(&self, write: &mut WriteBatch, batch: &Batch, voids: &[Cut], before: Term) {
        if let Some(installed) = &batch.snapshot {
            self.rebase(write, &installed.meta);
        }
        for cut in voids {
            self.void(write, cut);
        }
        chunk::put(write, self.database.entries(), &batch.entries, before);
    }

    /// Looks up what else has to be written to make `void` void.
    fn cut(&self, void: Void) -> Result<Cut, StoreError> {
        let mut rows = self.database.db().raw_iterator_cf(self.database.entries());
        chunk::seek(&mut rows, void.from);
        let found = rows.item().and_then(|(key, chunk)| Some((chunk::first(key)?, chunk)));
        let kept = match found {
            Some((first, chunk)) if first < void.from => {
                let head = chunk::head(first, chunk, void.from).map_err(|defect| {
                    self.database.corrupt(format!("the entries from {first} on: {defect}"))
                })?;
                Some((first, head.to_vec()))
            }
            Some(_) | None => None,
        };
        rows.status().map_err(|error| self.database.error("reading entries", error))?;
        Ok(Cut { void, kept })
    }

    /// Adds to `write` that entries are void. Point deletions are cheaper to read past than range
    /// deletions, but a long range is one record instead of many.
    fn void(&self, write: &mut WriteBatch, cut: &Cut) {
        const FEW: u64 = 64;
        let Void { from, through } = cut.void;
        let entries = self.database.entries();
        if let Some((first, chunk)) = &cut.kept {
            write.put_cf(entries, record::key(*first), chunk);
        }
        if through.since(from) < FEW {
            for index in from.0..=through.0 {
                write.delete_cf(entries, record::key(Index(index)));
            }
        } else {
            write.delete_range_cf(entries, record::key(from), record::key(through.next()));
        }
    }

    /// Adds to `write` that the log starts after `base`.
    ///
    /// The entries before it stay until their files go: nobody reads them, because a base never
    /// moves back. To delete them would leave a tombstone across older files, and RocksDB would
    /// merge and rewrite what it now only moves (1.4 bytes more for each byte appended).
    fn rebase(&self, write: &mut WriteBatch, base: &SnapshotMeta) {
        write.put_cf(self.database.meta(), BASE_KEY, record::seal(BASE_KEY, base));
    }

    /// Gives back the files in which everything is before the base, which is durable (rule S4). The
    /// chunk that reaches beyond the base stays, wherever it begins.
    fn drop_files(&self) -> Result<(), StoreError> {
        let database = &self.database;
        let next = self.state.base.index.next();
        let mut rows = database.db().raw_iterator_cf(database.entries());
        chunk::seek(&mut rows, next);
        let reaching = rows.key().and_then(chunk::first).unwrap_or(next);
        rows.status().map_err(|error| database.latch(database.error("reading entries", error)))?;
        let through = reaching.min(next).prev();
        let (from, to) = (record::key(Index::ZERO), record::key(through));
        let dropped = database.db().delete_file_in_range_cf(database.entries(), from, to);
        dropped.map_err(|error| {
            self.database.latch(self.database.error("removing old entries", error))
        })
    }
}

impl LogStore for RocksLog {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.database.check()?;
        if let Some(recovered) = self.recovered.take() {
            return Ok(recovered);
        }
        let found = recover::scan(&self.database, &mut |_, _| {})
            .map_err(|error| self.database.latch(error))?;
        Ok(recovered(found))
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.database.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        check_sizes(&batch.entries)?;
        let mut shape = self.shape.clone();
        let voids = shape.carry_out(batch)?;
        let voids = voids.into_iter().map(|void| self.cut(void)).collect::<Result<Vec<_>, _>>();
        let voids = voids.map_err(|error| self.database.latch(error))?;

        let before = batch.entries.first().and_then(|first| shape.term_at(first.id.index.prev()));
        let hard = batch.hard.unwrap_or(self.state.hard);
        self.commit(hard, shape, chunk::size(&batch.entries), |log, write| {
            log.fill(write, batch, &voids, before.unwrap_or(Term(0)));
        })?;
        if batch.snapshot.is_some() {
            self.drop_files()?;
        }
        Ok(())
    }

    fn compact(&mut self, base: &SnapshotMeta) -> Result<(), StoreError> {
        self.database.check()?;
        if base.last.index <= self.shape.base().index {
            return Ok(());
        }
        let mut shape = self.shape.clone();
        shape.rebase(base.last)?;
        self.commit(self.state.hard, shape, 0, |log, write| log.rebase(write, base))?;
        self.drop_files()
    }

    fn reader(&self) -> Box<dyn LogReader> {
        Box::new(Reader::new(Arc::clone(&self.database)))
    }
}

/// What the state takes in a batch, with room to spare.
const STATE_BYTES: usize = 256;

/// Entries to make void, and what is left of the chunk in which they begin, if that is not theirs alone.
struct Cut {
    void: Void,
    kept: Option<(Index, Vec<u8>)>,
}

/// Refuses what no record can hold, with nothing written.
fn check_sizes(entries: &[Entry]) -> Result<(), StoreError> {
    let too_large = |entry: &&Entry| entry.payload.len_bytes() > MAX_ENTRY_BYTES;
    entries.iter().find(too_large).map_or(Ok(()), |entry| {
        let (index, bytes) = (entry.id.index, entry.payload.len_bytes());
        let what =
            format!("entry {index} has {bytes} bytes; at most {MAX_ENTRY_BYTES} can be kept");
        Err(StoreError::Io {
            doing: "writing to the log",
            source: io::Error::new(io::ErrorKind::InvalidInput, what),
        })
    })
}

/// Creates the log in `places` with the base `founding`, durable when this returns.
///
/// A log that an interrupted call left behind is taken over; one that a node has written to is not.
pub(crate) fn create(
    places: &Places,
    founding: &SnapshotMeta,
    config: &RocksLogConfig,
) -> Result<State, OpenError> {
    let path = &places.database;
    if let Some(file) = data_without_database(places)? {
        return Err(orphaned(path, format!("the file {file} in a database that has none")));
    }
    let database = Database::create(places, config)?;
    let before = database.state()?;
    let is_pristine = before.is_none_or(|state| {
        state.write == 1 && state.hard == HardState::default() && state.last == state.base
    });
    if !is_pristine
        || database.db().iterator_cf(database.entries(), IteratorMode::Start).count() > 0
    {
        let what = before.map_or_else(|| "entries".to_owned(), |state| state.to_string());
        return Err(orphaned(path, what));
    }

    let hard = HardState::default();
    let state = State { write: 1, hard, base: founding.last, last: founding.last };
    database.write(|| {
        let mut write = WriteBatch::default();
        write.put_cf(database.meta(), BASE_KEY, record::seal(BASE_KEY, founding));
        write.put_cf(database.meta(), STATE_KEY, record::seal(STATE_KEY, &state));
        write
    })?;
    Ok(state)
}

fn orphaned(log: &Path, what: String) -> OpenError {
    OpenError::Orphaned { path: log.parent().unwrap_or(log).to_owned(), what }
}

/// A file with data although RocksDB's root file is not there. Creating a database writes
/// that file before any data, so somebody removed it; RocksDB would begin anew without a word.
fn data_without_database(places: &Places) -> Result<Option<String>, OpenError> {
    let failed = |source| OpenError::Io {
        path: places.database.clone(),
        doing: "looking for what is there",
        source,
    };
    if places.database.join("CURRENT").try_exists().map_err(failed)? {
        return Ok(None);
    }
    for path in [&places.database, &places.wal] {
        if !path.try_exists().map_err(failed)? {
            continue;
        }
        for file in path.read_dir().map_err(failed)? {
            let file = file.map_err(failed)?.file_name();
            let name = file.to_string_lossy();
            if name.ends_with(".log") || name.ends_with(".sst") {
                return Ok(Some(name.into_owned()));
            }
        }
    }
    Ok(None)
}

/// Opens the database in `places`, unless it has lost a write that had been durable. Nothing is changed
/// before all of it is read and checked, so that the evidence is not destroyed.
fn open_no_shorter(
    places: &Places,
    config: &RocksLogConfig,
    mark: &State,
) -> Result<(Database, Found), StoreError> {
    let found = Database::inspect(places, config).and_then(|database| {
        check_covers(&database, mark)?;
        recover::scan(&database, &mut |_, _| {})
    })?;
    let database = Database::open(places, config)?;
    if database.state()? != Some(found.state) {
        return Err(database.corrupt("it reads differently the second time"));
    }
    Ok((database, found))
}

/// Rule L15: what was acknowledged is there.
pub(crate) fn check_covers(database: &Database, mark: &State) -> Result<(), StoreError> {
    let Some(state) = database.state()? else {
        return Err(database.corrupt("it has no state record"));
    };
    if state.write < mark.write {
        return Err(database.corrupt(format!(
            "the last thing found in it is {state}{}, but the watermark knows {mark}: \
             acknowledged writes are gone",
            database.end()
        )));
    }
    if state.write == mark.write && state != *mark {
        return Err(database.corrupt(format!(
            "the last thing found in it is {state}, but the watermark knows a different {mark}"
        )));
    }
    Ok(())
}

fn recovered(found: Found) -> Recovered {
    Recovered {
        hard: found.state.hard,
        base: found.base,
        runs: found.shape.runs().to_vec(),
        last: found.shape.last().index,
        memberships: found.memberships,
    }
}
