//! The conformance suite of log stores, against stores that pass and stores that must not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod file_log;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use file_log::FileLog;
use raft_core::testing::suites::log_store::{LogPlace, cases};
use raft_core::testing::{DiskFault, MemDisk, MemLog};
use raft_core::{
    Batch, Index, Installed, LogReader, LogStore, Recovered, SnapshotMeta, StoreError,
};

raft_core::log_store_suite!(mem_log, || Memory { flaw: None, disk: MemDisk::new() });
raft_core::log_store_suite!(file_log_store, Files::new);

/// A suite that cannot fail says nothing: each of these stores breaks one promise.
#[test]
fn broken_stores_are_found_out() {
    let flaws = [
        Flaw::ForgetsToSync,
        Flaw::LosesVotes,
        Flaw::LosesTruncation,
        Flaw::TwoWritesForOne,
        Flaw::TakesGaps,
        Flaw::KeepsTail,
        Flaw::LosesBase,
        Flaw::ReadsTooMuch,
    ];
    // They are to panic: nobody needs to read it.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut outcomes = Vec::new();
    for flaw in flaws {
        let failed: Vec<_> = cases::<Memory>()
            .into_iter()
            .filter(|(_, case)| {
                let place = Memory { flaw: Some(flaw), disk: MemDisk::new() };
                catch_unwind(AssertUnwindSafe(|| case(&place))).is_err()
            })
            .map(|(name, _)| name)
            .collect();
        outcomes.push((flaw, failed));
    }
    std::panic::set_hook(loud);
    for (flaw, failed) in outcomes {
        assert!(!failed.is_empty(), "nobody noticed {flaw:?}");
        assert!(failed.len() < cases::<Memory>().len(), "{flaw:?} breaks everything");
    }
}

/// One way to break the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    ForgetsToSync,
    LosesVotes,
    LosesTruncation,
    TwoWritesForOne,
    TakesGaps,
    KeepsTail,
    LosesBase,
    ReadsTooMuch,
}

/// A disk in memory, and what is wrong with the store on it.
struct Memory {
    flaw: Option<Flaw>,
    disk: MemDisk,
}

impl LogPlace for Memory {
    type Store = Flawed;

    fn open(&self) -> Flawed {
        let log = self.disk.log();
        if self.flaw == Some(Flaw::ForgetsToSync) {
            self.disk.lie();
        }
        Flawed { flaw: self.flaw, log }
    }

    fn crash(&self, store: Flawed) {
        self.disk.crash();
        drop(store);
    }

    /// The power goes before, after, or between the writes that a store makes of one batch.
    fn crash_within(&self, mut store: Flawed, batch: &Batch, point: usize) -> bool {
        let (writes, fault) = match point {
            0 => (0, DiskFault::Refused),
            1 => (0, DiskFault::WrittenAllTheSame),
            2 => (1, DiskFault::Refused),
            _ => return false,
        };
        self.disk.fail_after(writes, fault);
        let _ = store.persist(batch);
        self.crash(store);
        true
    }
}

struct Flawed {
    flaw: Option<Flaw>,
    log: MemLog,
}

impl LogStore for Flawed {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.log.recover()
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut batch = batch.clone();
        match self.flaw {
            Some(Flaw::LosesVotes) => {
                if let Some(hard) = &mut batch.hard {
                    hard.vote = None;
                }
            }
            Some(Flaw::LosesTruncation) if batch.entries.is_empty() => batch.truncate_from = None,
            Some(Flaw::TwoWritesForOne) => {
                let hard = Batch { hard: batch.hard.take(), ..Batch::default() };
                self.log.persist(&hard)?;
            }
            Some(Flaw::TakesGaps) => {
                return match self.log.persist(&batch) {
                    Err(StoreError::Gap { .. }) => Ok(()),
                    result => result,
                };
            }
            Some(Flaw::KeepsTail) => {
                if let Some(Installed { keep_tail, .. }) = batch.snapshot.as_deref_mut() {
                    *keep_tail = true;
                }
            }
            Some(Flaw::ForgetsToSync | Flaw::LosesBase | Flaw::ReadsTooMuch)
            | Some(Flaw::LosesTruncation)
            | None => {}
        }
        self.log.persist(&batch)
    }

    fn compact(&mut self, base: &SnapshotMeta) -> Result<(), StoreError> {
        if self.flaw == Some(Flaw::LosesBase) {
            return self.log.compact(&SnapshotMeta { last: base.last, ..SnapshotMeta::default() });
        }
        self.log.compact(base)
    }

    fn reader(&self) -> Box<dyn LogReader> {
        let reader = self.log.reader();
        if self.flaw == Some(Flaw::ReadsTooMuch) { Box::new(Greedy(reader)) } else { reader }
    }
}

struct Greedy(Box<dyn LogReader>);

impl LogReader for Greedy {
    fn read(
        &self,
        first: Index,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<raft_core::Entry>, StoreError> {
        self.0.read(first, max_entries.saturating_add(1), max_bytes)
    }
}

/// A directory with a [`FileLog`] in it, which goes away with it.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl LogPlace for Files {
    type Store = FileLog;

    fn open(&self) -> FileLog {
        FileLog::open(&self.path()).unwrap()
    }

    /// The file is what the process leaves behind.
    fn crash(&self, store: FileLog) {
        drop(store);
    }

    /// Leaves a part of what the write adds to the file.
    fn crash_within(&self, mut store: FileLog, batch: &Batch, point: usize) -> bool {
        let before = std::fs::read(self.path()).unwrap();
        store.persist(batch).unwrap();
        drop(store);
        let after = std::fs::read(self.path()).unwrap();
        let torn = before.len() + point * 3;
        std::fs::write(self.path(), &after[..torn.min(after.len())]).unwrap();
        torn <= after.len()
    }
}
