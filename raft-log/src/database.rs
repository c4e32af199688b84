//! The RocksDB database of a log: how it is opened, what its errors mean, and the latch that makes
//! the first failure the last.
//!
//! Absent: what the records mean to Raft. That is for [`crate::log`] and [`crate::recover`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use raft_core::{SnapshotMeta, StoreError};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, DEFAULT_COLUMN_FAMILY_NAME, ErrorKind, FlushOptions, InfoLogger, LogLevel,
    Options, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions, properties,
};
use serde::de::DeserializeOwned;

use crate::config::RocksLogConfig;
use crate::physical::{self, Survey};
use crate::record::{self, Defect, State};
use crate::reserve;
use crate::wal::Places;

/// The repair for a node that has forgotten what it had promised.
pub(crate) const REJOIN: &str = "do not start this node on it again: it may have forgotten votes \
     and acknowledged writes; move the data directory away and let an empty one join under an id \
     that was never used (raft serve --node-id NEW --join ...)";

const ENTRIES: &str = "entries";
const META: &str = "meta";

const OPENING: &str = "opening the log";

/// The keys of the column family `meta`.
pub(crate) const STATE_KEY: &[u8] = b"state";
pub(crate) const BASE_KEY: &[u8] = b"base";

/// An open database. Shared by the one writer and its readers.
pub(crate) struct Database {
    db: DB,
    places: Places,
    failed: OnceLock<Failure>,
    complaint: Complaint,
    /// What its files look like, if that was of interest.
    survey: Option<Survey>,
}

/// The first error that RocksDB has told of, in its own words.
type Complaint = Arc<OnceLock<String>>;

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Database {
    /// Creates the database in `places`, or finishes creating it.
    pub(crate) fn create(places: &Places, config: &RocksLogConfig) -> Result<Self, StoreError> {
        Self::opened(places, config, |mut options, families| {
            options.create_if_missing(true);
            options.create_missing_column_families(true);
            DB::open_cf_descriptors(&options, &places.database, families)
        })
    }

    /// Opens the database in `places`, which must exist and have been looked at: of a damaged
    /// write-ahead log everything before the damage is accepted.
    ///
    /// What RocksDB replays from its write-ahead log it writes to table files and fsyncs before
    /// this returns, so everything found is durable, also what no fsync had finished for.
    pub(crate) fn open(places: &Places, config: &RocksLogConfig) -> Result<Self, StoreError> {
        Self::opened(places, config, |options, families| {
            DB::open_cf_descriptors(&options, &places.database, families)
        })
    }

    /// Opens the database in `places` to look at it, without changing a byte. Refuses it if anything
    /// in its write-ahead log that had been durable cannot be read any more (rule L15).
    pub(crate) fn inspect(places: &Places, config: &RocksLogConfig) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { doing: OPENING, source };
        let path = &places.database;
        let survey = physical::survey(path, &places.wal).map_err(failed)?;
        if let Some(place) = survey.endless {
            return Err(corrupt(path, place.to_string()));
        }
        let opened = Self::opened(places, config, |options, families| {
            DB::open_cf_descriptors_read_only(&options, path, families, false)
        });
        let database = match (opened, &survey.damage) {
            (Ok(database), _) => database,
            (Err(StoreError::Corrupt { what, .. }), Some(place)) => {
                return Err(corrupt(path, format!("{place} ({what})")));
            }
            (Err(error), _) => return Err(error),
        };
        let found = database.db.latest_sequence_number();
        if found.saturating_add(1) < survey.newest {
            let place =
                survey.damage.as_ref().map_or_else(String::new, |place| format!("{place}; "));
            return Err(corrupt(
                path,
                format!(
                    "{place}records {} to {} of its write-ahead log cannot be read, but later ones \
                     can: acknowledged writes are gone",
                    found + 1,
                    survey.newest - 1
                ),
            ));
        }
        Ok(Self { survey: Some(survey), ..database })
    }

    fn opened(
        places: &Places,
        config: &RocksLogConfig,
        open: impl FnOnce(Options, Vec<ColumnFamilyDescriptor>) -> Result<DB, rocksdb::Error>,
    ) -> Result<Self, StoreError> {
        let complaint = Complaint::default();
        let path = &places.database;
        let mut options = options(config, Arc::clone(&complaint));
        if places.are_two() {
            options.set_wal_dir(&places.wal);
        }
        match open(options, families(config)) {
            Ok(db) => {
                let failed = OnceLock::new();
                Ok(Self { db, places: places.clone(), failed, complaint, survey: None })
            }
            // The options are right, so what RocksDB calls an invalid argument is a database that
            // does not exist or lacks a column family.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                Err(corrupt(path, error.into_string()))
            }
            Err(error) => Err(store_error(path, OPENING, error)),
        }
    }

    /// How far the write-ahead log could be read, for a message.
    pub(crate) fn end(&self) -> String {
        let end = self.survey.as_ref().and_then(|survey| survey.end.as_ref());
        end.map_or_else(String::new, |place| format!(" (its write-ahead log ends in {place})"))
    }

    /// RocksDB itself.
    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    /// Makes `make()` durable as a whole.
    ///
    /// While RocksDB's background work is behind, this waits. Never for longer than that: RocksDB
    /// itself would let a writer wait for a full disk to have room again, for hours if need be.
    pub(crate) fn write(&self, make: impl Fn() -> WriteBatch) -> Result<(), StoreError> {
        const DOING: &str = "writing to the log";
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        sync.set_no_slowdown(true);
        loop {
            self.check_background()?;
            match self.db.write_opt(make(), &sync) {
                Ok(()) => return Ok(()),
                // Nothing was written.
                Err(error) if error.kind() == ErrorKind::Incomplete => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(self.error(DOING, error)),
            }
        }
    }

    /// Fills the files that the write-ahead log is going to use, so that the first writes after a
    /// start find one that need not grow. `state` is what the last write left behind.
    ///
    /// RocksDB only uses a file again that it has let go of since it was opened. So the current file
    /// and the next are filled with `bytes` bytes that it skips when it reads them, each is left for
    /// the next by a flush, and then the first comes into use again.
    pub(crate) fn prepare(&self, bytes: usize, state: &State) -> Result<(), StoreError> {
        const DOING: &str = "preparing the write-ahead log";
        if bytes == 0 {
            return Ok(());
        }
        let filling = vec![0; bytes];
        for _ in 0..2 {
            self.write(|| {
                let mut write = WriteBatch::default();
                // Without a change to the memtable there would be nothing to flush.
                write.put_cf(self.meta(), STATE_KEY, record::seal(STATE_KEY, state));
                write.put_log_data(&filling);
                write
            })?;
            let flushed =
                self.db.flush_cfs_opt(&[self.entries(), self.meta()], &FlushOptions::new());
            flushed.map_err(|error| self.error(DOING, error))?;
        }
        Ok(())
    }

    /// What failed in RocksDB's background work, which has no caller to be told (rule L14).
    fn check_background(&self) -> Result<(), StoreError> {
        const DOING: &str = "tidying up the log";
        let count = self.db.property_int_value(properties::BACKGROUND_ERRORS);
        if count.map_err(|error| self.error(DOING, error))?.is_none_or(|count| count == 0) {
            return Ok(());
        }
        // It counts an error a moment before it says what it was.
        let mut waits = 0..200;
        let said = loop {
            match (self.complaint.get(), waits.next()) {
                (Some(said), _) => break said.clone(),
                (None, Some(_)) => thread::sleep(Duration::from_millis(1)),
                (None, None) => break "RocksDB did not say why".to_owned(),
            }
        };
        Err(match () {
            () if is_full(&said) => StoreError::Full { doing: DOING, path: self.path().to_owned() },
            () if said.contains("Corruption: ") => self.corrupt(said),
            () => StoreError::Io { doing: DOING, source: io::Error::other(said) },
        })
    }

    /// The directory it is in.
    pub(crate) fn path(&self) -> &Path {
        &self.places.database
    }

    /// The directories it is in.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// The column family of the entries.
    pub(crate) fn entries(&self) -> &ColumnFamily {
        self.db.cf_handle(ENTRIES).expect("every way to open the database names it")
    }

    /// The column family of everything else.
    pub(crate) fn meta(&self) -> &ColumnFamily {
        self.db.cf_handle(META).expect("every way to open the database names it")
    }

    /// The state after the last write, as `snapshot` sees it.
    pub(crate) fn state_in(
        &self,
        snapshot: &SnapshotWithThreadMode<'_, DB>,
    ) -> Result<State, StoreError> {
        let found = snapshot.get_pinned_cf_opt(self.meta(), STATE_KEY, ReadOptions::default());
        self.checked(STATE_KEY, found)?.ok_or_else(|| self.corrupt("it has no state record"))
    }

    /// The state after the last write, `None` if there was never one.
    pub(crate) fn state(&self) -> Result<Option<State>, StoreError> {
        self.checked(STATE_KEY, self.db.get_pinned_cf(self.meta(), STATE_KEY))
    }

    /// The base with its configuration, `None` if there was never a write.
    pub(crate) fn base(&self) -> Result<Option<SnapshotMeta>, StoreError> {
        self.checked(BASE_KEY, self.db.get_pinned_cf(self.meta(), BASE_KEY))
    }

    fn checked<T: DeserializeOwned>(
        &self,
        key: &[u8],
        found: Result<Option<impl AsRef<[u8]>>, rocksdb::Error>,
    ) -> Result<Option<T>, StoreError> {
        let Some(record) = found.map_err(|error| self.error("reading the log", error))? else {
            return Ok(None);
        };
        record::unseal(key, record.as_ref()).map(Some).map_err(|defect: Defect| {
            let name = String::from_utf8_lossy(key);
            self.corrupt(format!("record \"{name}\": {defect}"))
        })
    }

    /// What an error of RocksDB means.
    pub(crate) fn error(&self, doing: &'static str, error: rocksdb::Error) -> StoreError {
        store_error(self.path(), doing, error)
    }

    /// Something in the database does not check out.
    pub(crate) fn corrupt(&self, what: impl Into<String>) -> StoreError {
        corrupt(self.path(), what.into())
    }

    /// Lets nothing through any more once something has failed (rule L14).
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.failed.get().map_or(Ok(()), |failure| Err(failure.to_error()))
    }

    fn release_reserve(&self, error: &StoreError) {
        if matches!(error, StoreError::Full { .. }) {
            // It would try again whatever it was about, and fill the space before the next start.
            self.db.cancel_all_background_work(true);
            self.places.reserves().iter().for_each(|path| reserve::release(path));
        }
    }

    /// Remembers `error` as the reason why this store is of no use any more (rule L14).
    pub(crate) fn latch(&self, error: StoreError) -> StoreError {
        if let Some(failure) = Failure::of(&error) {
            tracing::error!(%error, "the log has failed");
            self.release_reserve(&error);
            // The first failure is the one to report.
            self.failed.get_or_init(|| failure);
        }
        error
    }
}

/// Something in the log at `path` does not check out.
pub(crate) fn corrupt(path: &Path, what: String) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), what, repair: REJOIN }
}

/// A [`StoreError`] that can be told again and again.
#[derive(Debug)]
enum Failure {
    Io { doing: &'static str, kind: io::ErrorKind, said: String },
    Full { doing: &'static str, path: PathBuf },
    Corrupt { path: PathBuf, what: String, repair: &'static str },
}

impl Failure {
    /// `None` if the caller was wrong, not the store.
    fn of(error: &StoreError) -> Option<Self> {
        match error {
            StoreError::Io { doing, source } => {
                Some(Self::Io { doing, kind: source.kind(), said: source.to_string() })
            }
            StoreError::Full { doing, path } => Some(Self::Full { doing, path: path.clone() }),
            StoreError::Corrupt { path, what, repair } => {
                Some(Self::Corrupt { path: path.clone(), what: what.clone(), repair })
            }
            StoreError::Gap { .. } => None,
            other => Some(Self::Io {
                doing: "using the log",
                kind: io::ErrorKind::Other,
                said: other.to_string(),
            }),
        }
    }

    fn to_error(&self) -> StoreError {
        match self {
            Self::Io { doing, kind, said } => {
                StoreError::Io { doing, source: io::Error::new(*kind, said.clone()) }
            }
            Self::Full { doing, path } => StoreError::Full { doing, path: path.clone() },
            Self::Corrupt { path, what, repair } => {
                StoreError::Corrupt { path: path.clone(), what: what.clone(), repair }
            }
        }
    }
}

/// RocksDB tells errors apart by kind; the cause of an I/O error is only in its text.
fn is_full(said: &str) -> bool {
    ["No space left on device", "Disk quota exceeded", "Space limit reached"]
        .iter()
        .any(|text| said.contains(text))
}

fn store_error(path: &Path, doing: &'static str, error: rocksdb::Error) -> StoreError {
    let kind = error.kind();
    let said = error.into_string();
    match kind {
        ErrorKind::Corruption => corrupt(path, said),
        ErrorKind::IOError if is_full(&said) => StoreError::Full { doing, path: path.to_owned() },
        // Every file it opens is one that it wrote.
        ErrorKind::IOError if said.contains("No such file or directory") => corrupt(path, said),
        ErrorKind::NotFound
        | ErrorKind::NotSupported
        | ErrorKind::InvalidArgument
        | ErrorKind::IOError
        | ErrorKind::MergeInProgress
        | ErrorKind::Incomplete
        | ErrorKind::ShutdownInProgress
        | ErrorKind::TimedOut
        | ErrorKind::Aborted
        | ErrorKind::Busy
        | ErrorKind::Expired
        | ErrorKind::TryAgain
        | ErrorKind::CompactionTooLarge
        | ErrorKind::ColumnFamilyDropped
        | ErrorKind::Unknown => StoreError::Io { doing, source: io::Error::other(said) },
    }
}

fn options(config: &RocksLogConfig, complaint: Complaint) -> Options {
    let mut options = Options::default();
    // Files of the write-ahead log are written over again: an fsync of a file that grows waits for
    // the file system's journal as well. RocksDB then takes whatever does not check out for the end
    // of the log. What that would lose, `inspect` has found before.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_recycle_log_file_num(1);
    options.set_paranoid_checks(true);
    // Both column families are flushed together, so a small `meta` does not keep old write-ahead
    // logs alive.
    options.set_atomic_flush(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(bounded(config.open_files));
    options.set_skip_stats_update_on_db_open(true);
    options.set_manifest_preallocation_size(64 << 10);
    // A log has few table files; the default of 16 threads takes longer to start than to use.
    options.set_max_file_opening_threads(1);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // What RocksDB has to say goes where everything else goes, not to a file of its own.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, move |level, said| {
        match level {
            LogLevel::Debug | LogLevel::Info | LogLevel::Header => {}
            LogLevel::Warn => tracing::warn!("RocksDB: {said}"),
            LogLevel::Error | LogLevel::Fatal => {
                complaint.get_or_init(|| said.to_owned());
                tracing::error!("RocksDB: {said}");
            }
        }
    }));
    options
}

fn families(config: &RocksLogConfig) -> Vec<ColumnFamilyDescriptor> {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(config.block_bytes);
    table.set_block_cache(&Cache::new_lru_cache(config.cache_bytes));

    // Entries are written once, in order, and read in runs: no compression (the payload is the
    // application's, and the log is short-lived), no filters.
    let mut entries = Options::default();
    entries.set_write_buffer_size(config.memtable_bytes);
    entries.set_max_write_buffer_number(bounded(config.memtables.max(2)));
    entries.set_compression_type(DBCompressionType::None);
    // Each file leaves the first level at once. It overlaps no other, so RocksDB only moves it; and
    // whole files can be dropped from the other levels alone.
    entries.set_level_zero_file_num_compaction_trigger(1);
    entries.set_block_based_table_factory(&table);

    let mut meta = Options::default();
    meta.set_write_buffer_size(config.memtable_bytes.min(4 << 20));
    meta.set_compression_type(DBCompressionType::None);

    // RocksDB insists on a third family and never writes to it. Its buffer counts all the same: a new
    // file of the write-ahead log claims as much space as the largest buffer of any, 64 MiB by default,
    // which on a full disk is all that the reserve has given back.
    let mut unused = Options::default();
    unused.set_write_buffer_size(64 << 10);
    vec![
        ColumnFamilyDescriptor::new(ENTRIES, entries),
        ColumnFamilyDescriptor::new(META, meta),
        ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, unused),
    ]
}

fn bounded(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
