//! A state machine that does nothing but count: what is left is what replicating costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raft_core::testing::MemSnapshot;
use raft_core::{
    Applied, Entry, Index, MachineError, Payload, SnapshotMeta, SnapshotReader, SnapshotSource,
    StateMachine,
};

/// How many commands were applied. Cloning gives another handle to the same count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    applied: Applied,
    count: Count,
}

impl Count {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Idle {
    pub(crate) fn count(&self) -> Count {
        self.count.clone()
    }
}

impl StateMachine for Idle {
    fn applied(&self) -> Applied {
        self.applied.clone()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        let mut commands = 0;
        for entry in entries {
            match &entry.payload {
                Payload::Command(_) => commands += 1,
                Payload::Membership(membership) => {
                    self.applied.membership = Some((entry.id, (**membership).clone()));
                }
                Payload::Empty => {}
            }
            self.applied.last = entry.id;
            outcomes.push(Bytes::new());
        }
        self.count.0.fetch_add(commands, Ordering::SeqCst);
        Ok(())
    }

    /// There is nothing that could be lost.
    fn durable(&mut self) -> Result<Index, MachineError> {
        Ok(self.applied.last.index)
    }

    /// The count, which stands for all that was applied.
    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let meta = self.applied.to_meta(&SnapshotMeta::default());
        let count = Bytes::copy_from_slice(&self.count.get().to_le_bytes());
        Ok(Box::new(MemSnapshot::new(meta, count)))
    }

    fn restore(&mut self, mut snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        let mut count = [0; 8];
        let read = snapshot.read_at(0, 0, &mut count);
        read.map_err(|source| MachineError::Storage {
            doing: "reading a snapshot",
            source: Box::new(source),
        })?;
        self.count.0.store(u64::from_le_bytes(count), Ordering::SeqCst);
        let meta = snapshot.meta();
        self.applied = Applied {
            last: meta.last,
            membership: Some((meta.membership_at, meta.membership.clone())),
        };
        Ok(self.applied.clone())
    }
}
