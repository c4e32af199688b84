//! What the tests of this crate share: a place where a log lives, and things to put into it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use bytes::Bytes;
use raft_core::{
    Batch, ClusterId, Entry, HardState, Identity, Incarnation, Index, LogId, LogStore, Membership,
    NodeId, Payload, Recovered, SnapshotMeta, StoreError, Term,
};
use raft_log::{DataDir, OpenError, RocksLog, RocksLogConfig};
use tempfile::TempDir;

/// A data directory that goes away with it.
pub(crate) struct Place {
    temporary: TempDir,
}

impl Place {
    /// An initialised one.
    pub(crate) fn new() -> Self {
        let place = Self::empty();
        let mut dir = DataDir::open(&place.path()).unwrap();
        dir.initialise(identity(), &founding(), &config()).unwrap();
        place
    }

    /// One in which there is nothing yet.
    pub(crate) fn empty() -> Self {
        Self { temporary: tempfile::tempdir_in(base()).unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.temporary.path().join("data")
    }

    pub(crate) fn open(&self) -> Result<Opened, OpenError> {
        self.open_with(config())
    }

    /// With a write-ahead log in a file that was used before, as a node has it.
    pub(crate) fn open_prepared(&self) -> Result<Opened, OpenError> {
        self.open_with(prepared())
    }

    fn open_with(&self, config: RocksLogConfig) -> Result<Opened, OpenError> {
        let dir = DataDir::open(&self.path())?;
        let log = RocksLog::open(&dir, config)?;
        Ok(Opened { log, _dir: dir })
    }

    /// What a crash of the process would leave at this moment: the files as the system has them.
    /// Tried again if RocksDB tidied up meanwhile, because then it would not be one moment.
    pub(crate) fn copy(&self) -> Self {
        loop {
            let copy = Self::empty();
            let before = listing(&self.path());
            let copied = copy_directory(&self.path(), &copy.path());
            if copied.is_ok() && listing(&self.path()) == before {
                return copy;
            }
        }
    }
}

impl Place {
    /// Puts the files of `other` in the place of its own. Nothing may be open.
    pub(crate) fn take_over(&self, other: &Self) {
        fs::remove_dir_all(self.path()).unwrap();
        fs::rename(other.path(), self.path()).unwrap();
    }
}

/// These tests open thousands of logs, and none of them cuts the power: memory does, if there is a
/// place for files in it.
fn base() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// The log goes before the lock.
pub(crate) struct Opened {
    pub(crate) log: RocksLog,
    _dir: DataDir,
}

impl LogStore for Opened {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.log.recover()
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.log.persist(batch)
    }

    fn compact(&mut self, base: &SnapshotMeta) -> Result<(), StoreError> {
        self.log.compact(base)
    }

    fn reader(&self) -> Box<dyn raft_core::LogReader> {
        self.log.reader()
    }
}

/// As [`config`], with files of the write-ahead log that are written over again.
pub(crate) fn prepared() -> RocksLogConfig {
    let mut config = config();
    config.prepared_bytes = config.memtable_bytes;
    config
}

/// Small buffers: a test with a few kilobytes gets table files too. The write-ahead log is a file
/// that grows, so its length says how much was written.
pub(crate) fn config() -> RocksLogConfig {
    let mut config = RocksLogConfig::default();
    config.memtable_bytes = 64 << 10;
    config.prepared_bytes = 0;
    config.cache_bytes = 1 << 20;
    config
}

pub(crate) fn identity() -> Identity {
    Identity { cluster: ClusterId(77), node: node(1), incarnation: Incarnation(5) }
}

pub(crate) fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(crate) fn membership(ids: &[u64]) -> Membership {
    Membership::of_voters(ids.iter().map(|&id| (node(id), format!("host-{id}:7101"))))
}

pub(crate) fn founding() -> SnapshotMeta {
    SnapshotMeta { membership: membership(&[1, 2, 3]), ..SnapshotMeta::default() }
}

pub(crate) fn id(index: u64, term: u64) -> LogId {
    LogId::new(Term(term), Index(index))
}

pub(crate) fn command(index: u64, term: u64, text: &str) -> Entry {
    let payload = Payload::Command(Bytes::copy_from_slice(text.as_bytes()));
    Entry { id: id(index, term), payload }
}

/// Commands at `indices`, all of `term`.
pub(crate) fn commands(indices: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indices.map(|index| command(index, term, &format!("{index}@{term}"))).collect()
}

pub(crate) fn append(entries: Vec<Entry>) -> Batch {
    Batch { entries, ..Batch::default() }
}

pub(crate) fn hard(term: u64, vote: Option<u64>) -> HardState {
    HardState { term: Term(term), vote: vote.map(node) }
}

/// Everything in the log, by the way of a reader.
pub(crate) fn read_all(
    log: &dyn LogStore,
    recovered: &Recovered,
) -> Result<Vec<Entry>, StoreError> {
    log.reader().read(recovered.base.last.index.next(), usize::MAX, usize::MAX)
}

/// All that a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) recovered: Recovered,
    pub(crate) entries: Vec<Entry>,
}

pub(crate) fn content(log: &mut dyn LogStore) -> Result<Content, StoreError> {
    let recovered = log.recover()?;
    let entries = read_all(log, &recovered)?;
    Ok(Content { recovered, entries })
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy_directory(&item.path(), &target)?;
        } else {
            fs::copy(item.path(), target)?;
        }
    }
    Ok(())
}

/// Name, size and time of change of every file of the log. Files that go meanwhile are left out.
fn listing(data: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let items = fs::read_dir(data.join("log")).unwrap().map(Result::unwrap);
    let described = items.filter_map(|item| {
        let metadata = item.metadata().ok()?;
        Some((item.path(), (metadata.len(), metadata.modified().ok()?)))
    });
    described.collect()
}

/// The files of `DIR/log` whose name `is_wanted`, in order.
pub(crate) fn log_files(data: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(data.join("log"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| is_wanted(&path.file_name().unwrap().to_string_lossy()))
        .collect();
    files.sort();
    files
}
