//! What the tests of the store share: a store with the log it has applied, crashes, and snapshots
//! on their way.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod direct;
pub(crate) mod log;
pub(crate) mod model;
pub(crate) mod running;
pub(crate) mod story;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use raft_core::{
    Entry, Index, LogId, Membership, NodeId, Payload, SnapshotFile, SnapshotMeta, SnapshotReader,
    SnapshotSource, StateMachine, Term,
};
use raft_kv::{Command, Kv, KvConfig, KvReader, Outcome, Proposal};
use tempfile::TempDir;

/// A store, and the log that was applied to it.
pub(crate) struct Subject {
    // Dropped in this order: closing a store whose directory is gone would take long.
    kv: Option<Kv>,
    dir: TempDir,
    pub(crate) log: Vec<Entry>,
}

impl Subject {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: KvConfig) -> Self {
        let dir = tempdir();
        let kv = Kv::open(dir.path(), config).unwrap();
        Self { dir, kv: Some(kv), log: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn kv(&mut self) -> &mut Kv {
        self.kv.as_mut().unwrap()
    }

    /// Waits until everything that was applied is durable, and says how far that goes.
    pub(crate) fn flush(&mut self) -> Index {
        let last = self.kv().applied().last.index;
        let since = Instant::now();
        while self.kv().durable().unwrap() < last {
            assert!(since.elapsed() < Duration::from_secs(60), "it is never flushed");
            thread::sleep(Duration::from_micros(200));
        }
        last
    }

    pub(crate) fn reader(&self) -> KvReader {
        self.kv.as_ref().unwrap().reader()
    }

    /// Appends payloads to the log, applies them as one batch and says what became of them.
    pub(crate) fn apply(&mut self, payloads: impl IntoIterator<Item = Payload>) -> Vec<Bytes> {
        let first = self.log.len();
        for payload in payloads {
            let index = Index(self.log.len() as u64 + 1);
            self.log.push(Entry { id: LogId::new(Term(1), index), payload });
        }
        let mut outcomes = Vec::new();
        self.kv.as_mut().unwrap().apply(&self.log[first..], &mut outcomes).unwrap();
        assert_eq!(outcomes.len(), self.log.len() - first);
        outcomes
    }

    /// Appends and applies one command.
    pub(crate) fn run(&mut self, command: Command) -> Outcome {
        let outcomes = self.apply([Payload::Command(Proposal::from(command).encode())]);
        Outcome::decode(&outcomes[0]).unwrap()
    }

    /// Applies the rest of the log in pieces of at most `piece`, as a node does after a start.
    pub(crate) fn replay(&mut self, piece: usize) -> Vec<Bytes> {
        let Self { kv, log, .. } = self;
        let kv = kv.as_mut().unwrap();
        let applied = usize::try_from(kv.applied().last.index.0).unwrap();
        let mut outcomes = Vec::new();
        for entries in log[applied..].chunks(piece) {
            kv.apply(entries, &mut outcomes).unwrap();
        }
        outcomes
    }

    /// Closes the store and opens it again.
    pub(crate) fn restart(&mut self) {
        self.kv = None;
        self.kv = Some(Kv::open(self.dir.path(), config()).unwrap());
    }

    /// Kills the store: goes on with what is on the disk at this moment, without what is in memory.
    /// What was applied since the last flush is then to be applied again.
    pub(crate) fn crash(&mut self) {
        let image = image_of(self.dir.path());
        let kv = Kv::open(image.path(), config()).unwrap();
        self.kv = Some(kv);
        self.dir = image;
    }
}

pub(crate) fn config() -> KvConfig {
    KvConfig {
        write_buffer_bytes: 4 << 20,
        block_cache_bytes: 4 << 20,
        row_cache_bytes: 64 << 10,
        ..KvConfig::default()
    }
}

/// In memory where there is such a file system: crashes are simulated here, so waiting for a disk
/// would only cost time.
pub(crate) fn tempdir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

/// A copy of a directory that is in use, as a power cut would leave it.
pub(crate) fn image_of(dir: &Path) -> TempDir {
    loop {
        let image = tempdir();
        let before = files(dir);
        let copied = copy(dir, image.path());
        // RocksDB flushes, compacts and removes of its own accord. Then the copy is of no single moment.
        if copied.is_ok() && files(dir) == before {
            return image;
        }
    }
}

/// All files, with their lengths and when they were last written to.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if let Ok(found) = entry.metadata() {
                files.insert(path, (found.len(), found.modified().unwrap()));
            }
        }
    }
    files
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

pub(crate) fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(crate) fn three_voters() -> Membership {
    Membership::of_voters((1..=3).map(|id| (node(id), format!("127.0.0.{id}:7101"))))
}

/// A snapshot that has arrived: in a directory, as a transport leaves it, or only in memory.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) meta: SnapshotMeta,
    pub(crate) files: Vec<SnapshotFile>,
    pub(crate) contents: Vec<Vec<u8>>,
    dir: Option<TempDir>,
}

impl Arrived {
    /// Reads `source` in odd pieces, as a transport might.
    pub(crate) fn from(source: &mut dyn SnapshotSource) -> Self {
        let files = source.files().to_vec();
        let mut contents = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let mut content = Vec::new();
            let mut buffer = vec![0; 1000];
            loop {
                let filled = source.read_at(number, content.len() as u64, &mut buffer).unwrap();
                if filled == 0 {
                    break;
                }
                content.extend_from_slice(&buffer[..filled]);
            }
            assert_eq!(content.len() as u64, file.bytes);
            contents.push(content);
        }
        Self { meta: source.meta().clone(), files, contents, dir: None }
    }

    /// The same, with its files on disk.
    pub(crate) fn on_disk(mut self) -> Self {
        let dir = tempdir();
        for (file, content) in self.files.iter().zip(&self.contents) {
            fs::write(dir.path().join(&file.name), content).unwrap();
        }
        self.dir = Some(dir);
        self
    }
}

impl SnapshotReader for Arrived {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.contents[file][usize::try_from(offset).unwrap()..];
        let filled = rest.len().min(buffer.len()).min(777);
        buffer[..filled].copy_from_slice(&rest[..filled]);
        Ok(filled)
    }

    fn directory(&self) -> Option<&Path> {
        self.dir.as_ref().map(TempDir::path)
    }
}
