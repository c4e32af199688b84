//! A state machine that lives in memory alone, as one writes it first: counters by name. Sessions make it
//! durable and exactly-once.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::testing::MemSnapshot;
use raft_core::{
    Applied, Entry, Index, LogId, MachineError, Payload, SnapshotMeta, SnapshotReader,
    SnapshotSource, StateMachine,
};

/// The machine. A command is a name, and adds one to its counter; the outcome is the new value, as text.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) state: State,
    /// What its snapshots are of, if it is a lazy one: the state when it was asked before.
    flushed: RefCell<Option<State>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    last: LogId,
    pub(crate) counters: BTreeMap<Bytes, u64>,
}

impl Tally {
    /// One that gives old snapshots.
    pub(crate) fn lazy() -> Self {
        Self { flushed: RefCell::new(Some(State::default())), ..Self::default() }
    }

    /// A lazy one's state when it was asked before.
    fn flush(&self) -> Option<State> {
        let mut flushed = self.flushed.borrow_mut();
        flushed.as_mut().map(|flushed| std::mem::replace(flushed, self.state.clone()))
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.state.counters.get(name.as_bytes()).copied().unwrap_or_default()
    }
}

impl StateMachine for Tally {
    fn applied(&self) -> Applied {
        Applied { last: self.state.last, membership: None }
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        for entry in entries {
            assert_eq!(entry.id.index, self.state.last.index.next());
            outcomes.push(match &entry.payload {
                Payload::Command(name) if name.as_ref() == b"?" => {
                    return Err(MachineError::Unknown { what: format!("entry {}", entry.id) });
                }
                Payload::Command(name) => {
                    let counter = self.state.counters.entry(name.clone()).or_default();
                    *counter += 1;
                    counter.to_string().into()
                }
                Payload::Empty | Payload::Membership(_) => Bytes::new(),
            });
            self.state.last = entry.id;
        }
        Ok(())
    }

    /// Nothing of it outlives the process. The lazy one says what no snapshot comes before.
    fn durable(&mut self) -> Result<Index, MachineError> {
        Ok(self.flush().map_or(Index::ZERO, |flushed| flushed.last.index))
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let state = self.flush().unwrap_or_else(|| self.state.clone());
        let lines = state
            .counters
            .iter()
            .map(|(name, count)| format!("{count} {}\n", std::str::from_utf8(name).unwrap()));
        let meta = SnapshotMeta { last: state.last, ..SnapshotMeta::default() };
        Ok(Box::new(MemSnapshot::new(meta, lines.collect::<String>().into())))
    }

    fn restore(&mut self, mut snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        let last = snapshot.meta().last;
        let unknown = || MachineError::Unknown { what: format!("the snapshot of {last}") };
        let bytes = snapshot.files().first().ok_or_else(unknown)?.bytes;
        let mut content = vec![0; usize::try_from(bytes).unwrap()];
        let filled = snapshot.read_at(0, 0, &mut content).map_err(|_| unknown())?;
        let text = std::str::from_utf8(&content[..filled]).map_err(|_| unknown())?;
        let line = |line: &str| {
            let (count, name) = line.split_once(' ')?;
            Some((Bytes::copy_from_slice(name.as_bytes()), count.parse().ok()?))
        };
        let counters = text.lines().map(line).collect::<Option<_>>().ok_or_else(unknown)?;
        self.state = State { last, counters };
        self.flush();
        Ok(self.applied())
    }
}
