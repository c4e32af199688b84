//! The state machine that is simulated: a few registers that clients fight over, and a set of
//! numbers that are each written once.
//!
//! Registers show whether the history is linearizable, numbers written once whether anything was lost. A
//! chained hash over everything applied shows, at every single index, whether two replicas have parted.
//! As with a database without a log of its own, a crash takes it back to what it had flushed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft_core::testing::MemSnapshot;
use raft_core::{
    Applied, Entry, Index, LogId, MachineError, Membership, Payload, SnapshotMeta, SnapshotReader,
    SnapshotSource, StateMachine,
};

/// So many registers there are.
pub(crate) const REGISTERS: usize = 4;

/// What a client asks for. Every operation has a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The register takes the operation's number as its value; the outcome is the value before.
    Put {
        /// Which register, below [`REGISTERS`].
        register: u8,
        /// The operation.
        op: u32,
    },
    /// The operation's number is put into the set; the outcome is whether it was there.
    Once {
        /// The operation.
        op: u32,
    },
}

/// One entry as it was applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) id: LogId,
    pub(crate) command: Option<Command>,
    /// Of everything up to and including this entry.
    pub(crate) hash: u64,
}

/// The data, which outlives the machine as a disk would.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimStore(Arc<Mutex<Shared>>);

#[derive(Debug)]
pub(crate) struct SimMachine(SimStore);

#[derive(Debug, Default)]
struct Shared {
    now: State,
    durable: State,
    /// What was applied since anybody looked.
    fresh: Vec<Step>,
    failing: bool,
    /// The machine dies after so many entries: a crash in the middle of a batch.
    dies_after: Option<usize>,
    /// Flushes when it likes, not when it is asked; then it only says how far it is.
    reluctant: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    registers: [u32; REGISTERS],
    once: Vec<u64>,
    hash: u64,
    applied: Applied,
}

impl Command {
    pub(crate) fn op(self) -> u32 {
        match self {
            Self::Put { op, .. } | Self::Once { op } => op,
        }
    }

    pub(crate) fn encode(self, padding: usize) -> Bytes {
        let mut bytes = BytesMut::with_capacity(6 + padding);
        match self {
            Self::Put { register, op } => {
                bytes.put_u8(b'p');
                bytes.put_u8(register);
                bytes.put_u32(op);
            }
            Self::Once { op } => {
                bytes.put_u8(b'o');
                bytes.put_u8(0);
                bytes.put_u32(op);
            }
        }
        bytes.put_bytes(0, padding);
        bytes.freeze()
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 6 {
            return None;
        }
        let (kind, register, op) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u32());
        match kind {
            b'p' if usize::from(register) < REGISTERS => Some(Self::Put { register, op }),
            b'o' => Some(Self::Once { op }),
            _ => None,
        }
    }
}

impl SimStore {
    /// An empty one. If it is `reluctant` only [`SimStore::flush`] makes anything durable.
    pub(crate) fn new(reluctant: bool) -> Self {
        Self(Arc::new(Mutex::new(Shared { reluctant, ..Shared::default() })))
    }

    pub(crate) fn machine(&self) -> SimMachine {
        SimMachine(self.clone())
    }

    /// The last entry that was applied.
    pub(crate) fn applied(&self) -> LogId {
        self.lock().now.applied.last
    }

    pub(crate) fn register(&self, register: u8) -> u32 {
        self.lock().now.registers[usize::from(register)]
    }

    pub(crate) fn has(&self, op: u32) -> bool {
        let (word, bit) = place(op);
        self.lock().now.once.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Moves what was applied since the last call to the end of `into`.
    pub(crate) fn take_fresh(&self, into: &mut Vec<Step>) {
        into.append(&mut self.lock().fresh);
    }

    /// Makes durable what was applied, as a database may do at any time.
    pub(crate) fn flush(&self) {
        let mut shared = self.lock();
        shared.durable = shared.now.clone();
    }

    /// Loses what was not durable.
    pub(crate) fn crash(&self) {
        let mut shared = self.lock();
        shared.now = shared.durable.clone();
        shared.fresh.clear();
        shared.failing = false;
        shared.dies_after = None;
    }

    /// Fails at the next thing it is asked to do, until it has crashed.
    pub(crate) fn fail(&self) {
        self.lock().failing = true;
    }

    /// Fails after so many more entries, having applied them.
    pub(crate) fn die_after(&self, entries: usize) {
        self.lock().dies_after = Some(entries);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self, doing: &'static str) -> Result<MutexGuard<'_, Shared>, MachineError> {
        let shared = self.lock();
        if shared.failing { Err(failure(doing)) } else { Ok(shared) }
    }
}

fn failure(doing: &'static str) -> MachineError {
    MachineError::Storage { doing, source: Box::new(std::io::Error::other("told to fail")) }
}

impl StateMachine for SimMachine {
    fn applied(&self) -> Applied {
        self.0.lock().now.applied.clone()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        let mut shared = self.0.working("applying")?;
        let Shared { now, fresh, dies_after, .. } = &mut *shared;
        for entry in entries {
            if let Some(left) = dies_after {
                match left.checked_sub(1) {
                    Some(fewer) => *left = fewer,
                    None => return Err(failure("applying")),
                }
            }
            let command = match &entry.payload {
                Payload::Command(bytes) => Command::decode(bytes),
                Payload::Membership(_) | Payload::Empty => None,
            };
            outcomes.push(now.apply(entry, command));
            fresh.push(Step { id: entry.id, command, hash: now.hash });
        }
        Ok(())
    }

    fn durable(&mut self) -> Result<Index, MachineError> {
        let mut shared = self.0.working("flushing")?;
        if !shared.reluctant {
            shared.durable = shared.now.clone();
        }
        Ok(shared.durable.applied.last.index)
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let mut shared = self.0.working("taking a snapshot")?;
        let mut state = shared.now.clone();
        // A database that flushes when it likes gives away what is in its files, unless that is nothing,
        // and begins a flush so that the next one has the rest.
        if shared.reluctant && shared.durable.applied.last > LogId::ZERO {
            state = std::mem::replace(&mut shared.durable, state);
        }
        let meta = state.applied.to_meta(&SnapshotMeta::default());
        Ok(Box::new(MemSnapshot::new(meta, state.encode())))
    }

    fn restore(&mut self, mut snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        let meta = snapshot.meta().clone();
        let unknown = || MachineError::Unknown { what: format!("the snapshot of {}", meta.last) };
        let bytes = snapshot.files().first().map(|file| file.bytes).ok_or_else(unknown)?;
        let mut content = vec![0; usize::try_from(bytes).map_err(|_| unknown())?];
        snapshot.read_at(0, 0, &mut content).map_err(|_| failure("restoring"))?;
        let mut state = State::decode(&content).ok_or_else(unknown)?;
        state.applied =
            Applied { last: meta.last, membership: Some((meta.membership_at, meta.membership)) };
        let applied = state.applied.clone();
        let mut shared = self.0.working("restoring")?;
        shared.fresh.push(Step { id: applied.last, command: None, hash: state.hash });
        shared.now = state.clone();
        shared.durable = state;
        Ok(applied)
    }
}

impl State {
    fn apply(&mut self, entry: &Entry, command: Option<Command>) -> Bytes {
        let mut word = 0;
        let outcome = match command {
            Some(Command::Put { register, op }) => {
                word = u64::from(op) << 8 | u64::from(register) << 1 | 1;
                let before = std::mem::replace(&mut self.registers[usize::from(register)], op);
                Bytes::copy_from_slice(&before.to_be_bytes())
            }
            Some(Command::Once { op }) => {
                word = u64::from(op) << 8;
                let (place, bit) = place(op);
                if self.once.len() <= place {
                    self.once.resize(place + 1, 0);
                }
                let before = self.once[place] & bit != 0;
                self.once[place] |= bit;
                Bytes::copy_from_slice(&u32::from(before).to_be_bytes())
            }
            None => Bytes::new(),
        };
        if let Payload::Membership(membership) = &entry.payload {
            self.applied.membership = Some((entry.id, Membership::clone(membership)));
            word = membership.voters.iter().fold(0x4d, |word, id| word << 4 | id.as_u64());
        }
        self.hash = mix(mix(self.hash, entry.id.term.0), entry.id.index.0 ^ word.rotate_left(20));
        self.applied.last = entry.id;
        outcome
    }

    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.hash);
        self.registers.iter().for_each(|value| bytes.put_u32(*value));
        self.once.iter().for_each(|word| bytes.put_u64(*word));
        bytes.freeze()
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 8 + 4 * REGISTERS {
            return None;
        }
        let mut state = Self { hash: bytes.get_u64(), ..Self::default() };
        state.registers.iter_mut().for_each(|value| *value = bytes.get_u32());
        while bytes.len() >= 8 {
            state.once.push(bytes.get_u64());
        }
        Some(state)
    }
}

/// The word and the bit that stand for `op` in the set.
fn place(op: u32) -> (usize, u64) {
    ((op / 64) as usize, 1 << (op % 64))
}

/// Chains `word` to `hash`.
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
