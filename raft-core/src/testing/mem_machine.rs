//! A small replicated map, to have something to replicate.
//!
//! Like a database that writes without a log of its own, it applies in memory and makes that durable when
//! asked: a crash takes it back to the last [`MemStore::flush`] or snapshot, and the node applies the rest again.
//! Equal states have equal hashes, so a test can see at once whether two replicas have parted.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Membership, Payload};
use crate::snapshot::{SnapshotFile, SnapshotMeta, SnapshotReader, SnapshotSource};
use crate::state_machine::{Applied, MachineError, StateMachine};
use crate::types::Index;

/// The data, which the application reads and which outlives the machine as a disk would. Cloning gives
/// another handle to the same data.
#[derive(Clone, Debug, Default)]
pub struct MemStore {
    shared: Arc<Mutex<Shared>>,
}

/// The state machine on a [`MemStore`]. Its commands are made by [`MemMachine::put`] and
/// [`MemMachine::delete`]; the outcome of each is the value that the key had before, empty if none.
#[derive(Debug)]
pub struct MemMachine {
    store: MemStore,
}

/// A snapshot in memory. That of a [`MemMachine`] is one file, named `state`. It can be encoded as a whole,
/// for transports that are examples.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemSnapshot {
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    contents: Vec<Bytes>,
}

#[derive(Debug, Default)]
struct Shared {
    now: State,
    durable: State,
    /// The machine fails from now on.
    failing: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    map: BTreeMap<Bytes, Bytes>,
    applied: Applied,
}

impl MemStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine on it, as it comes up.
    pub fn machine(&self) -> MemMachine {
        MemMachine { store: self.clone() }
    }

    /// The value of `key`. Linearizable only after a read barrier.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.lock().now.map.get(key).cloned()
    }

    /// Lets the value of `key` rot: nobody has written this.
    pub fn rot(&self, key: &[u8], value: &[u8]) {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.lock().now.map.insert(key, value);
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> Index {
        self.lock().now.applied.last.index
    }

    /// A hash of all data and of how far it has come. The same on every machine and in every run.
    pub fn hash(&self) -> u64 {
        let state = self.lock();
        let last = state.now.applied.last;
        let mut hash = Fnv::new();
        hash.write(&last.term.0.to_le_bytes());
        hash.write(&last.index.0.to_le_bytes());
        hash.write(&encode(&state.now.map));
        hash.0
    }

    /// Makes durable what was applied, as a database may do at any time.
    pub fn flush(&self) -> Index {
        let mut shared = self.lock();
        shared.durable = shared.now.clone();
        shared.durable.applied.last.index
    }

    /// Loses what was not made durable. The machine that was on it must be gone.
    pub fn crash(&self) {
        let mut shared = self.lock();
        shared.now = shared.durable.clone();
        shared.failing = false;
    }

    /// What a crash at this moment would leave, as data of its own.
    #[must_use]
    pub fn image(&self) -> Self {
        let durable = self.lock().durable.clone();
        let shared = Shared { now: durable.clone(), durable, failing: false };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Makes the machine fail at the next thing it is asked to do, until [`MemStore::crash`].
    pub fn fail(&self) {
        self.lock().failing = true;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Every change under this lock is made in one piece.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self, doing: &'static str) -> Result<MutexGuard<'_, Shared>, MachineError> {
        let shared = self.lock();
        if shared.failing {
            let source = Box::new(io::Error::other("told to fail"));
            return Err(MachineError::Storage { doing, source });
        }
        Ok(shared)
    }
}

impl MemMachine {
    /// The command that gives `key` this value.
    pub fn put(key: &[u8], value: &[u8]) -> Bytes {
        let mut command = BytesMut::new();
        command.put_u8(b'p');
        write_bytes(&mut command, key);
        write_bytes(&mut command, value);
        command.freeze()
    }

    /// The command that removes `key`.
    pub fn delete(key: &[u8]) -> Bytes {
        let mut command = BytesMut::new();
        command.put_u8(b'd');
        write_bytes(&mut command, key);
        command.freeze()
    }
}

impl StateMachine for MemMachine {
    fn applied(&self) -> Applied {
        self.store.lock().now.applied.clone()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        let mut shared = self.store.working("applying")?;
        let state = &mut shared.now;
        for entry in entries {
            let before = state.applied.last;
            assert_eq!(entry.id.index, before.index.next(), "not the next entry after {before}");
            outcomes.push(match &entry.payload {
                Payload::Command(command) => state.apply(command),
                Payload::Membership(membership) => {
                    state.applied.membership = Some((entry.id, Membership::clone(membership)));
                    Bytes::new()
                }
                Payload::Empty => Bytes::new(),
            });
            state.applied.last = entry.id;
        }
        Ok(())
    }

    fn durable(&mut self) -> Result<Index, MachineError> {
        drop(self.store.working("flushing")?);
        Ok(self.store.flush())
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let shared = self.store.working("taking a snapshot")?;
        let content = encode(&shared.now.map);
        let meta = shared.now.applied.to_meta(&SnapshotMeta::default());
        Ok(Box::new(MemSnapshot::new(meta, content)))
    }

    fn restore(&mut self, mut snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        let meta = snapshot.meta().clone();
        let failed = |source| MachineError::Storage { doing: "restoring", source };
        let content = read_file(&mut *snapshot, 0).map_err(|source| failed(Box::new(source)))?;
        let unknown = || MachineError::Unknown { what: format!("the snapshot of {}", meta.last) };
        let map = decode(content).ok_or_else(unknown)?;
        let membership = Some((meta.membership_at, meta.membership));
        let applied = Applied { last: meta.last, membership };
        let mut shared = self.store.working("restoring")?;
        shared.now = State { map, applied: applied.clone() };
        shared.durable = shared.now.clone();
        Ok(applied)
    }
}

impl State {
    /// A command that makes no sense changes nothing and says so, the same everywhere.
    fn apply(&mut self, command: &Bytes) -> Bytes {
        let mut rest = command.clone();
        let kind = take(&mut rest, 1);
        let key = read_bytes(&mut rest);
        match (kind.as_deref(), key) {
            (Some(b"p"), Some(key)) => match read_bytes(&mut rest) {
                Some(value) => self.map.insert(key, value).unwrap_or_default(),
                None => Bytes::from_static(b"not a command"),
            },
            (Some(b"d"), Some(key)) => self.map.remove(&key).unwrap_or_default(),
            (Some(_) | None, Some(_) | None) => Bytes::from_static(b"not a command"),
        }
    }
}

impl MemSnapshot {
    /// A snapshot of `content` that stands for `meta`.
    pub fn new(meta: SnapshotMeta, content: Bytes) -> Self {
        let files = vec![SnapshotFile { name: "state".to_owned(), bytes: content.len() as u64 }];
        Self { meta, files, contents: vec![content] }
    }

    /// A snapshot of several files, each with its name.
    pub fn of_files(meta: SnapshotMeta, files: Vec<(String, Bytes)>) -> Self {
        let file = |(name, content): (String, Bytes)| {
            (SnapshotFile { name, bytes: content.len() as u64 }, content)
        };
        let (files, contents) = files.into_iter().map(file).unzip();
        Self { meta, files, contents }
    }

    /// What a receiver of `source` gets, read at once. `meta` is that of the header, which is
    /// what counts: only the protocol knows the configuration of a state machine that has none.
    ///
    /// # Errors
    ///
    /// Whatever the source says.
    pub fn receive(meta: SnapshotMeta, source: &mut dyn SnapshotSource) -> io::Result<Self> {
        let files = source.files().to_vec();
        let mut contents = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let mut content = vec![0; usize::try_from(file.bytes).map_err(io::Error::other)?];
            fill(&mut content, |offset, buffer| source.read_at(number, offset, buffer))?;
            contents.push(content.into());
        }
        Ok(Self { meta, files, contents })
    }

    fn read(&self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(content) = self.contents.get(file) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let rest = &content[offset..];
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }
}

impl SnapshotSource for MemSnapshot {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(file, offset, buffer)
    }
}

impl SnapshotReader for MemSnapshot {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(file, offset, buffer)
    }
}

/// Reads a whole file of a snapshot.
fn read_file(snapshot: &mut dyn SnapshotReader, file: usize) -> io::Result<Bytes> {
    let found = snapshot.files().get(file).ok_or(io::ErrorKind::NotFound)?;
    let mut content = vec![0; usize::try_from(found.bytes).map_err(io::Error::other)?];
    fill(&mut content, |offset, buffer| snapshot.read_at(file, offset, buffer))?;
    Ok(content.into())
}

fn fill(
    content: &mut [u8],
    mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < content.len() {
        match read_at(filled as u64, &mut content[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => filled += bytes,
        }
    }
    Ok(())
}

// The encoding: a length in 4 bytes, little-endian, then as many bytes.

fn encode(map: &BTreeMap<Bytes, Bytes>) -> Bytes {
    let mut content = BytesMut::new();
    for (key, value) in map {
        write_bytes(&mut content, key);
        write_bytes(&mut content, value);
    }
    content.freeze()
}

fn decode(mut content: Bytes) -> Option<BTreeMap<Bytes, Bytes>> {
    let mut map = BTreeMap::new();
    while !content.is_empty() {
        let key = read_bytes(&mut content)?;
        map.insert(key, read_bytes(&mut content)?);
    }
    Some(map)
}

/// # Panics
///
/// If there are 4 GiB or more, which no test needs.
fn write_bytes(into: &mut BytesMut, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("keys and values of tests are below 4 GiB");
    into.put_u32_le(len);
    into.put_slice(bytes);
}

fn read_bytes(from: &mut Bytes) -> Option<Bytes> {
    let len = take(from, 4)?;
    let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
    take(from, usize::try_from(len).ok()?)
}

fn take(from: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= from.len()).then(|| from.split_to(len))
}

/// FNV-1a: short, and the same everywhere, unlike the standard library's hashes.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl fmt::Debug for Fnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogId, Term};

    fn apply(machine: &mut MemMachine, index: u64, command: Bytes) -> Bytes {
        let id = LogId::new(Term(1), Index(index));
        let mut outcomes = Vec::new();
        machine.apply(&[Entry { id, payload: Payload::Command(command) }], &mut outcomes).unwrap();
        outcomes.pop().unwrap()
    }

    /// Rule C3.
    #[test]
    fn a_crash_takes_data_and_applied_index_back_together() {
        let store = MemStore::new();
        let mut machine = store.machine();
        assert_eq!(apply(&mut machine, 1, MemMachine::put(b"k", b"1")), "");
        assert_eq!(machine.durable().unwrap(), Index(1));
        assert_eq!(apply(&mut machine, 2, MemMachine::put(b"k", b"2")), "1");
        store.crash();
        assert_eq!((store.get(b"k"), store.applied()), (Some(Bytes::from("1")), Index(1)));
        assert_eq!(apply(&mut store.machine(), 2, MemMachine::delete(b"k")), "1");
    }

    /// Rule C1.
    #[test]
    fn a_restored_copy_has_the_same_hash_and_nonsense_is_an_outcome() {
        let (store, copy) = (MemStore::new(), MemStore::new());
        let mut machine = store.machine();
        apply(&mut machine, 1, MemMachine::put(b"a", b"x"));
        assert_eq!(apply(&mut machine, 2, Bytes::from_static(b"p\xff")), "not a command");
        let mut source = machine.snapshot().unwrap();
        let meta = source.meta().clone();
        let arrived = MemSnapshot::receive(meta, &mut *source).unwrap();
        copy.machine().restore(Box::new(arrived)).unwrap();
        assert_eq!(copy.hash(), store.hash());
        apply(&mut machine, 3, MemMachine::put(b"a", b"y"));
        assert_ne!(copy.hash(), store.hash());
    }
}
