//! The conformance suite of state machines, against machines that pass and machines that must not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod file_machine;

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use file_machine::FileMachine;
use raft_core::testing::suites::state_machine::{MachinePlace, cases};
use raft_core::testing::{MemMachine, MemStore};
use raft_core::{
    Applied, Entry, Index, MachineError, Payload, SnapshotFile, SnapshotMeta, SnapshotReader,
    SnapshotSource, StateMachine,
};
use tempfile::TempDir;

raft_core::state_machine_suite!(mem_machine, || Memory { flaw: None, store: MemStore::new() });
raft_core::state_machine_suite!(file_machine_in_a_directory, Files::new);

/// A suite that cannot fail says nothing: each of these machines breaks one promise.
#[test]
fn broken_machines_are_found_out() {
    let flaws = [
        Flaw::NoOutcomeForEmpty,
        Flaw::SeesItsBatch,
        Flaw::SeesItsBirth,
        Flaw::SkipsMembership,
        Flaw::SaysItIsDurable,
        Flaw::HeadFromTheFuture,
        Flaw::ReadsFromTheStart,
        Flaw::FewFitIntoABuffer,
        Flaw::RestoresOnTop,
        Flaw::TakesWhatIsCutShort,
        Flaw::PassesOverTheUnknown,
    ];
    // They are to panic: nobody needs to read it.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut outcomes = Vec::new();
    for flaw in flaws {
        let new = || Memory { flaw: Some(flaw), store: MemStore::new() };
        let failed: Vec<_> = cases::<Memory>()
            .into_iter()
            .filter(|(_, case)| catch_unwind(AssertUnwindSafe(|| case(&new))).is_err())
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
    NoOutcomeForEmpty,
    SeesItsBatch,
    SeesItsBirth,
    SkipsMembership,
    SaysItIsDurable,
    HeadFromTheFuture,
    ReadsFromTheStart,
    FewFitIntoABuffer,
    RestoresOnTop,
    TakesWhatIsCutShort,
    PassesOverTheUnknown,
}

/// Data in memory, and what is wrong with the machine on it.
struct Memory {
    flaw: Option<Flaw>,
    store: MemStore,
}

impl MachinePlace for Memory {
    type Machine = Flawed;

    fn open(&self) -> Flawed {
        let inner = self.store.machine();
        let born = inner.applied().last.index;
        Flawed { flaw: self.flaw, store: self.store.clone(), inner, born }
    }

    fn image(&self) -> Self {
        Self { flaw: self.flaw, store: self.store.image() }
    }

    fn command(&self, number: u64) -> Bytes {
        let key = format!("k{}", number % 5);
        match number % 4 {
            0 => MemMachine::delete(key.as_bytes()),
            _ => MemMachine::put(key.as_bytes(), number.to_string().as_bytes()),
        }
    }

    fn digest(&self, _: &Flawed) -> Vec<u8> {
        self.store.hash().to_le_bytes().to_vec()
    }

    fn unknown_command(&self) -> Option<Bytes> {
        Some(Bytes::from_static(UNKNOWN))
    }
}

/// What the wrapper below takes for a command of a later version.
const UNKNOWN: &[u8] = b"of a later version";

struct Flawed {
    flaw: Option<Flaw>,
    store: MemStore,
    inner: MemMachine,
    /// Where it stood when it was opened.
    born: Index,
}

impl Flawed {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn apply_one(&mut self, entry: &Entry, outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        let is_unknown = matches!(&entry.payload, Payload::Command(command) if command == UNKNOWN);
        if is_unknown && !self.has(Flaw::PassesOverTheUnknown) {
            return Err(MachineError::Unknown { what: format!("entry {}", entry.id) });
        }
        let mut entry = entry.clone();
        if self.has(Flaw::SkipsMembership) && matches!(entry.payload, Payload::Membership(_)) {
            entry.payload = Payload::Empty;
        }
        self.inner.apply(std::slice::from_ref(&entry), outcomes)?;
        if self.has(Flaw::NoOutcomeForEmpty) && entry.payload == Payload::Empty {
            outcomes.pop();
        }
        Ok(())
    }
}

impl StateMachine for Flawed {
    fn applied(&self) -> Applied {
        self.inner.applied()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        if self.has(Flaw::SeesItsBatch) && entries.len() > 2 {
            self.store.rot(b"batch", entries.len().to_string().as_bytes());
        }
        if self.has(Flaw::SeesItsBirth) && self.born > Index::ZERO {
            self.store.rot(b"born", self.born.to_string().as_bytes());
        }
        entries.iter().try_for_each(|entry| self.apply_one(entry, outcomes))
    }

    fn durable(&mut self) -> Result<Index, MachineError> {
        if self.has(Flaw::SaysItIsDurable) {
            return Ok(self.applied().last.index);
        }
        self.inner.durable()
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let inner = self.inner.snapshot()?;
        let mut meta = inner.meta().clone();
        if self.has(Flaw::HeadFromTheFuture) {
            meta.last.index = meta.last.index.next();
        }
        Ok(Box::new(FlawedImage { flaw: self.flaw, meta, inner }))
    }

    fn restore(&mut self, snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        if self.has(Flaw::TakesWhatIsCutShort) {
            let mut buffer = vec![0; 1 << 20];
            let mut snapshot = snapshot;
            // Reads twice: by the first it decides that there is nothing in it.
            if snapshot.read_at(0, 0, &mut buffer).is_ok_and(|bytes| bytes == 0) {
                return Ok(self.applied());
            }
            return self.inner.restore(snapshot);
        }
        let before = self.store.get(b"k1");
        let applied = self.inner.restore(snapshot)?;
        if let Some(value) = before.filter(|_| self.has(Flaw::RestoresOnTop)) {
            self.store.rot(b"k1", &value);
        }
        Ok(applied)
    }
}

#[derive(Debug)]
struct FlawedImage {
    flaw: Option<Flaw>,
    meta: SnapshotMeta,
    inner: Box<dyn SnapshotSource>,
}

impl SnapshotSource for FlawedImage {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        self.inner.files()
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.flaw {
            Some(Flaw::ReadsFromTheStart) => self.inner.read_at(file, 0, buffer),
            Some(Flaw::FewFitIntoABuffer) if buffer.len() < 8 => Ok(0),
            Some(_) | None => self.inner.read_at(file, offset, buffer),
        }
    }
}

/// A directory of its own.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }
}

impl MachinePlace for Files {
    type Machine = FileMachine;

    fn open(&self) -> FileMachine {
        FileMachine::open(self.dir.path()).unwrap()
    }

    fn image(&self) -> Self {
        let image = Self::new();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, image.dir.path().join(path.file_name().unwrap())).unwrap();
        }
        image
    }

    fn command(&self, number: u64) -> Bytes {
        FileMachine::add(&format!("counter-{}", number % 5), number)
    }

    fn digest(&self, machine: &FileMachine) -> Vec<u8> {
        postcard::to_stdvec(&machine.state.counters).unwrap()
    }

    fn unknown_command(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"\x02 a command of a later version"))
    }
}
