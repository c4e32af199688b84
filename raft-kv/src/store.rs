//! One RocksDB database of the store: how it is opened, and the few operations on its meta data.
//!
//! RocksDB's own log is off: the Raft log is the log. What is in memory is lost in a crash and
//! applied again. Flushes are atomic over the column families, so what a crash leaves is the state
//! as of some applied entry, whole (rule C3).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use raft_core::{LogId, Membership};
use rocksdb::properties::NUM_IMMUTABLE_MEM_TABLE;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BlockBasedTablePinningTier, Cache, ColumnFamily,
    ColumnFamilyDescriptor, DB, DBCompressionType, FlushOptions, Options, ReadOptions, ReadTier,
    WriteBatch, WriteOptions,
};

use crate::command::Divergence;
use crate::config::KvConfig;
use crate::error::KvError;
use crate::home::{Home, RemoveOnDrop};
use crate::record::{
    ALARMS_KEY, FORMAT, FORMAT_KEY, MEMBERSHIP_KEY, STATE_KEY, State, decode_membership,
    decode_row, encode_membership,
};
use crate::row_cache::RowCache;
use crate::turns::Turns;
use crate::unwritten::{Portion, Unwritten};
use crate::version::MachineVersion;
use crate::writer::batch_of;

/// An open database. The fields are dropped in order: the database is closed before its directory
/// is removed, and the lock is given up last.
pub(crate) struct Store {
    db: DB,
    unwritten: Unwritten,
    rows: RowCache,
    turns: Turns,
    /// Set once another database has taken its place.
    doomed: OnceLock<RemoveOnDrop>,
    path: PathBuf,
    _home: Home,
}

/// The column families, looked up once for many operations.
#[derive(Clone, Copy)]
pub(crate) struct Families<'a> {
    pub(crate) meta: &'a ColumnFamily,
    pub(crate) latest: &'a ColumnFamily,
    pub(crate) old: &'a ColumnFamily,
    pub(crate) changes: &'a ColumnFamily,
    pub(crate) sessions: &'a ColumnFamily,
    pub(crate) leases: &'a ColumnFamily,
}

/// What a database holds in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Durable {
    pub(crate) state: State,
    pub(crate) membership: Option<(LogId, Membership)>,
}

impl Durable {
    /// What files hold before the first flush.
    pub(crate) const NOTHING: Self = Self { state: State::EMPTY, membership: None };
}

impl<'a> Families<'a> {
    fn all(self) -> [&'a ColumnFamily; 6] {
        let Self { meta, latest, old, changes, sessions, leases } = self;
        [meta, latest, old, changes, sessions, leases]
    }
}

impl Store {
    /// Creates the database number `number` of `home`, or opens it if it was created before.
    pub(crate) fn create(home: &Home, number: u64, config: &KvConfig) -> Result<Self, KvError> {
        let path = home.store_path(number);
        if path.join("CURRENT").exists() {
            check_families(&path)?;
        }
        Self::open_at(home, path, config)
    }

    /// Opens the database number `number` of `home`, which must be there.
    pub(crate) fn open(home: &Home, number: u64, config: &KvConfig) -> Result<Self, KvError> {
        let path = home.store_path(number);
        if !path.join("CURRENT").exists() {
            return Err(KvError::corrupt(format!("{} holds no database", path.display())));
        }
        check_families(&path)?;
        Self::open_at(home, path, config)
    }

    fn open_at(home: &Home, path: PathBuf, config: &KvConfig) -> Result<Self, KvError> {
        // One cache, so that the memory for all families has one bound.
        let cache = Cache::new_lru_cache(config.block_cache_bytes);
        let families = FAMILIES.map(|family| {
            ColumnFamilyDescriptor::new(family, family_options(family, &cache, config))
        });
        let db = DB::open_cf_descriptors(&db_options(config), &path, families)
            .map_err(KvError::storage("opening its database"))?;
        let rows = RowCache::new(config.row_cache_bytes);
        let store = Self {
            db,
            unwritten: Unwritten::default(),
            rows,
            turns: Turns::default(),
            doomed: OnceLock::new(),
            path,
            _home: home.clone(),
        };
        store.check_format()?;
        Ok(store)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    /// What was applied and is not yet in [`Store::db`].
    pub(crate) fn unwritten(&self) -> &Unwritten {
        &self.unwritten
    }

    /// The present of keys that were written or read last.
    pub(crate) fn rows(&self) -> &RowCache {
        &self.rows
    }

    /// Whether it is ahead of what is said of it.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("it was opened with this family")
    }

    /// The family of keys as they are now.
    pub(crate) fn latest(&self) -> &ColumnFamily {
        self.family(LATEST)
    }

    pub(crate) fn families(&self) -> Families<'_> {
        let family = |name| self.family(name);
        Families {
            meta: family(META),
            latest: family(LATEST),
            old: family(OLD),
            changes: family(CHANGES),
            sessions: family(SESSIONS),
            leases: family(LEASES),
        }
    }

    /// How far it has come.
    pub(crate) fn state(&self) -> Result<State, KvError> {
        self.meta(STATE_KEY)?.map_or(Ok(State::EMPTY), |bytes| State::decode(&bytes))
    }

    /// The last membership it was given.
    pub(crate) fn membership(&self) -> Result<Option<(LogId, Membership)>, KvError> {
        self.meta(MEMBERSHIP_KEY)?.map(|bytes| decode_membership(&bytes)).transpose()
    }

    /// The nodes whose data is not that of the others, by id.
    pub(crate) fn alarms(&self) -> Result<Vec<Divergence>, KvError> {
        self.write_applied()?;
        self.meta(ALARMS_KEY)?.map_or(Ok(Vec::new()), |bytes| decode_row("the alarms", &bytes))
    }

    /// Stores a membership and makes it durable.
    pub(crate) fn set_membership(&self, to: &(LogId, Membership)) -> Result<(), KvError> {
        let mut batch = WriteBatch::new();
        batch.put_cf(self.families().meta, MEMBERSHIP_KEY, encode_membership(to));
        self.write(batch).map_err(KvError::storage("writing the membership"))?;
        self.flush()
    }

    /// Writes `batch` as one. It is durable after the next flush.
    fn write(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options)
    }

    /// Adds what was applied next, so that whoever reads finds it. Says how many bytes then wait for
    /// [`Store::write_applied`].
    pub(crate) fn add(&self, portion: Portion) -> Result<usize, KvError> {
        let latest: Vec<_> =
            portion.latest.iter().map(|(key, record)| (key.clone(), record.clone())).collect();
        let waiting = self.unwritten.add(portion)?;
        for (key, record) in latest {
            self.rows.set(key, record);
        }
        Ok(waiting)
    }

    /// The record of `key` as it is now.
    pub(crate) fn latest_of(&self, key: &Bytes) -> Result<Option<Bytes>, KvError> {
        if let Some(record) = self.rows.get(key) {
            return Ok(Some(record));
        }
        if let Some(record) = self.unwritten.latest(key) {
            return Ok(record);
        }
        let record =
            self.db.get_cf(self.latest(), key).map_err(KvError::storage("reading a key"))?;
        Ok(record.map(Bytes::from))
    }

    /// Brings all that was applied to the database. Waits for memory and processor, not for the disk.
    pub(crate) fn write_applied(&self) -> Result<(), KvError> {
        self.unwritten.write_with(|portion| self.write_portion(portion))
    }

    /// Writes `portion` as one (rule C3).
    pub(crate) fn write_portion(&self, portion: &Portion) -> Result<(), rocksdb::Error> {
        self.write(batch_of(portion, self.families()))
    }

    /// Makes all that was applied durable. Waits for the disk.
    pub(crate) fn flush(&self) -> Result<(), KvError> {
        self.write_applied()?;
        let all = self.families().all();
        self.db.flush_cfs_opt(&all, &FlushOptions::default()).map_err(KvError::storage("flushing"))
    }

    /// Begins to make durable all that was applied, and does not wait for it. Not while another flush is under
    /// way, which need not hold all of it: two at once would hold up whoever writes. Says whether it has.
    pub(crate) fn begin_flush(&self) -> Result<bool, KvError> {
        self.write_applied()?;
        let all = self.families().all();
        for family in all {
            let waiting = self.db.property_int_value_cf(family, NUM_IMMUTABLE_MEM_TABLE);
            let waiting = waiting.map_err(KvError::storage("looking at what it flushes"))?;
            if waiting.is_some_and(|tables| tables > 0) {
                return Ok(false);
            }
        }
        let mut options = FlushOptions::default();
        options.set_wait(false);
        self.db.flush_cfs_opt(&all, &options).map_err(KvError::storage("flushing"))?;
        Ok(true)
    }

    /// How far it has come in what is durable, and the last membership there.
    pub(crate) fn durable(&self) -> Result<Durable, KvError> {
        let read = |key: &[u8]| {
            let mut options = ReadOptions::default();
            // Without a log of its own, what is in memory is what is not durable.
            options.set_read_tier(ReadTier::Persisted);
            let found = self.db.get_cf_opt(self.families().meta, key, &options);
            found.map_err(KvError::storage("reading how far it is durable"))
        };
        let Some(state) = read(STATE_KEY)? else { return Ok(Durable::NOTHING) };
        let membership =
            read(MEMBERSHIP_KEY)?.map(|bytes| decode_membership(&bytes)).transpose()?;
        Ok(Durable { state: State::decode(&state)?, membership })
    }

    /// Has the directory removed once nobody uses the database any more.
    pub(crate) fn doom(&self) {
        self.doomed.get_or_init(|| RemoveOnDrop(self.path.clone()));
    }

    fn check_format(&self) -> Result<(), KvError> {
        let Some(bytes) = self.meta(FORMAT_KEY)? else {
            if self.meta(STATE_KEY)?.is_some() {
                return Err(KvError::corrupt("it does not say which format it has"));
            }
            let mut batch = WriteBatch::new();
            batch.put_cf(self.families().meta, FORMAT_KEY, FORMAT.to_be_bytes());
            return self.write(batch).map_err(KvError::storage("writing its format"));
        };
        match <[u8; 4]>::try_from(&bytes[..]).map(u32::from_be_bytes) {
            Ok(FORMAT) => self.check_version(),
            Ok(found) => Err(KvError::Format { found: found.to_string(), supported: FORMAT }),
            Err(_) => Err(KvError::corrupt(format!("its format is {bytes:02x?}"))),
        }
    }

    /// Rule C7.
    fn check_version(&self) -> Result<(), KvError> {
        let (found, supported) = (self.state()?.machine, MachineVersion::SUPPORTED);
        if found > supported { Err(KvError::Newer { found, supported }) } else { Ok(()) }
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.db
            .get_cf(self.families().meta, key)
            .map_err(KvError::storage("reading how far it has come"))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A newer program may have added families. RocksDB would only say that something is missing.
fn check_families(path: &Path) -> Result<(), KvError> {
    let found = DB::list_cf(&Options::default(), path)
        .map_err(KvError::storage("reading what is in its database"))?;
    match found.iter().find(|name| !FAMILIES.contains(&name.as_str())) {
        Some(name) => Err(KvError::Format { found: format!("with {name:?}"), supported: FORMAT }),
        None => Ok(()),
    }
}

fn db_options(config: &KvConfig) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_open_files(config.max_open_files.into());
    options.set_max_background_jobs(config.background_jobs.into());
    // All families together. Whichever write reaches it starts a flush of all of them.
    options.set_db_write_buffer_size(config.write_buffer_bytes);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_manifest_file_size(16 << 20);
    // RocksDB's own diary; ours says what operators need.
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options
}

fn family_options(family: &str, cache: &Cache, config: &KvConfig) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    // Indexes and filters count towards the cache, so that memory has a bound whatever the data. In
    // parts: that of a whole file is megabytes, and reading it again for one key takes milliseconds.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_top_level_index_pinning_tier(BlockBasedTablePinningTier::All);
    blocks.set_partition_pinning_tier(BlockBasedTablePinningTier::FlushAndSimilar);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_format_version(6);
    // Only `latest` is asked for keys that may not be there.
    if family == LATEST {
        blocks.set_bloom_filter(10.0, false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(config.write_buffer_bytes);
    options.set_compression_type(DBCompressionType::Lz4);
    if family == LATEST {
        // Each put asks for what was there before. If that is nothing, or is in a file, a filter over
        // what is in memory saves the search there.
        options.set_memtable_prefix_bloom_ratio(0.1);
        options.set_memtable_whole_key_filtering(true);
    }
    options
}

/// About the bytes that one read from the disk brings in.
const BLOCK_BYTES: usize = 8 << 10;

const META: &str = "default";
const LATEST: &str = "latest";
const OLD: &str = "old";
const CHANGES: &str = "changes";
const SESSIONS: &str = "sessions";
const LEASES: &str = "leases";
const FAMILIES: [&str; 6] = [META, LATEST, OLD, CHANGES, SESSIONS, LEASES];
