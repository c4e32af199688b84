//! What a snapshot costs whoever takes, sends or installs it: next to no time at the state machine, and
//! memory that has a bound whatever the data. In a file of its own, so that the process does nothing else.

#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use raft_core::{
    Entry, Index, LogId, Payload, SnapshotFile, SnapshotMeta, SnapshotReader, SnapshotSource,
    StateMachine, Term,
};
use raft_kv::{Command, Kv, Proposal, Put};
use support::{config, tempdir};
use tempfile::TempDir;

/// A snapshot that was written to a directory as it came, as the transport does it.
#[derive(Debug)]
struct Received {
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    dir: TempDir,
}

impl Received {
    fn from(source: &mut dyn SnapshotSource) -> Self {
        let (files, dir) = (source.files().to_vec(), tempdir());
        let mut buffer = vec![0; 64 << 10];
        for (number, file) in files.iter().enumerate() {
            let mut target = File::create(dir.path().join(&file.name)).unwrap();
            let mut offset = 0;
            while offset < file.bytes {
                let filled = source.read_at(number, offset, &mut buffer).unwrap();
                target.write_all(&buffer[..filled]).unwrap();
                offset += filled as u64;
            }
        }
        Self { meta: source.meta().clone(), files, dir }
    }
}

impl SnapshotReader for Received {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        File::open(self.dir.path().join(&self.files[file].name))?.read_at(buffer, offset)
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.dir.path())
    }
}

/// A store that keeps no log beside it, and how far it has come.
struct Store {
    kv: Kv,
    last: Index,
    random: u64,
    _dir: TempDir,
}

impl Store {
    fn new() -> Self {
        let dir = tempdir();
        let kv = Kv::open(dir.path(), config()).unwrap();
        Self { kv, last: Index::ZERO, random: 1, _dir: dir }
    }

    /// Numbers as good as random: xorshift64.
    fn random(&mut self) -> [u8; 8] {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.to_le_bytes()
    }

    /// Applies `bytes` of values that cannot be compressed.
    fn fill(&mut self, bytes: usize) {
        for _ in 0..bytes / VALUE {
            let key = self.random().to_vec();
            let value: Vec<u8> = (0..VALUE / 8).flat_map(|_| self.random()).collect();
            let command = Proposal::from(Command::Put(Put::new(key, value))).encode();
            self.last = self.last.next();
            let id = LogId::new(Term(1), self.last);
            let entry = Entry { id, payload: Payload::Command(command) };
            self.kv.apply(&[entry], &mut Vec::new()).unwrap();
        }
    }

    fn flush(&mut self) {
        while self.kv.durable().unwrap() < self.last {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

const VALUE: usize = 64 << 10;

/// What this process holds in memory, in bytes: now, and at most since that was asked last.
fn memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    };
    let found = (line("VmRSS:"), line("VmHWM:"));
    // Where that is not allowed the most is that of the whole run, which must do as well.
    let _ = fs::write("/proc/self/clear_refs", "5");
    found
}

/// Rule S2.
#[test]
fn a_snapshot_takes_no_time_and_no_memory_to_speak_of() {
    const DATA: usize = 160 << 20;
    let mut store = Store::new();
    store.fill(DATA);
    store.flush();

    let mut held_up = Vec::new();
    for _ in 0..15 {
        // With a write buffer that is not empty.
        store.fill(1 << 20);
        let start = Instant::now();
        drop(store.kv.snapshot().unwrap());
        held_up.push(start.elapsed());
    }
    held_up.sort_unstable();
    println!("writes are held up for {held_up:?}");
    assert!(held_up[held_up.len() / 2] < Duration::from_millis(10), "{held_up:?}");

    let mut other = Store::new();
    let (before, _) = memory();
    let mut source = store.kv.snapshot().unwrap();
    let bytes: u64 = source.files().iter().map(|file| file.bytes).sum();
    assert!(bytes > DATA as u64 * 9 / 10, "{bytes}");
    let received = Received::from(source.as_mut());
    let applied = other.kv.restore(Box::new(received)).unwrap();
    let (_, most) = memory();
    assert_eq!(applied.last, source.meta().last);
    println!("{} MiB of memory for a snapshot of {} MiB", (most - before) >> 20, bytes >> 20);
    assert!(most - before < bytes / 8, "{before}, then {most}, for {bytes}");
}
