//! What ends by the clock of the cluster: sessions and leases. All of it fits into memory; the
//! column families `sessions` and `leases` hold the same.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::sessions::{ClusterTime, SessionRecord, SessionTable};
use rocksdb::{ColumnFamily, IteratorMode};
use serde::{Deserialize, Serialize};

use crate::error::KvError;
use crate::model::LeaseId;
use crate::record::{SessionRow, decode_row, parse_lease_key, parse_session_key};
use crate::store::Store;

/// What ends by the clock of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timed {
    pub(crate) sessions: SessionTable,
    pub(crate) leases: LeaseTable,
}

/// The leases, as of some entry of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseTable {
    leases: BTreeMap<LeaseId, LeaseRecord>,
    /// Each lease under the time when it ends.
    deadlines: BTreeSet<(ClusterTime, LeaseId)>,
}

/// What is stored of a lease, beside its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    pub(crate) ttl_ms: u64,
    pub(crate) deadline: ClusterTime,
    /// How many keys it has.
    pub(crate) keys: u64,
    /// The bytes of these keys and their records.
    pub(crate) bytes: u64,
}

impl Timed {
    /// What `store` holds.
    pub(crate) fn load(store: &Store) -> Result<Self, KvError> {
        let mut timed = Self::default();
        let families = store.families();
        each_row(store, families.sessions, |key, row| {
            match parse_session_key(key)? {
                SessionRow::Session(id) => {
                    timed.sessions.load(id, decode_row::<SessionRecord>("a session", row)?);
                }
                SessionRow::Answer(id, sequence) => {
                    timed.sessions.load_answer(id, sequence, row.len() as u64);
                }
            }
            Ok(())
        })?;
        each_row(store, families.leases, |key, row| {
            if let (lease, []) = parse_lease_key(key)? {
                timed.leases.set(lease, decode_row("a lease", row)?);
            }
            Ok(())
        })?;
        Ok(timed)
    }

    /// How many things there are that time can end.
    pub(crate) fn len(&self) -> u64 {
        (self.sessions.len() + self.leases.leases.len()) as u64
    }
}

fn each_row(
    store: &Store,
    family: &ColumnFamily,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), KvError>,
) -> Result<(), KvError> {
    for row in store.db().iterator_cf(family, IteratorMode::Start) {
        let (key, row) = row.map_err(KvError::storage("reading sessions and leases"))?;
        each(&key, &row)?;
    }
    Ok(())
}

impl LeaseTable {
    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn get(&self, id: LeaseId) -> Option<LeaseRecord> {
        self.leases.get(&id).copied()
    }

    /// Adds a lease, or changes it.
    pub(crate) fn set(&mut self, id: LeaseId, record: LeaseRecord) {
        if let Some(before) = self.leases.insert(id, record) {
            self.deadlines.remove(&(before.deadline, id));
        }
        self.deadlines.insert((record.deadline, id));
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some(record) = self.leases.remove(&id) {
            self.deadlines.remove(&(record.deadline, id));
        }
    }

    /// The lease that ends first, if that is at `now` or before.
    pub(crate) fn due(&self, now: ClusterTime) -> Option<LeaseId> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }
}
