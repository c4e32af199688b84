//! Leases: keys that go when nobody keeps them. They end by the clock of the cluster, inside
//! `apply`, so that no node has to say so and all agree (rule C5).

use std::num::NonZeroU64;

use rocksdb::ReadOptions;

use crate::command::{LeaseGrant, LeaseOutcome, Refused};
use crate::error::KvError;
use crate::model::LeaseId;
use crate::record::{Head, lease_key, lease_rows_end, parse_lease_key};
use crate::timed::LeaseRecord;
use crate::unwritten::Change;

use super::write::{DELETE_BYTES, DELETE_KEYS};
use super::{Applier, Stop};

impl Applier<'_> {
    pub(super) fn grant(&mut self, grant: LeaseGrant) -> Result<LeaseOutcome, Stop> {
        if self.timed.leases.len() >= MAX_LEASES {
            return Err(Refused::TooManyLeases { limit: MAX_LEASES as u64 }.into());
        }
        let lease = match grant.lease {
            Some(lease) if self.timed.leases.get(lease).is_some() => {
                return Err(Refused::LeaseExists(lease).into());
            }
            Some(lease) => lease,
            None => self.free_lease(),
        };
        let ttl_ms = grant.ttl_ms.clamp(MIN_TTL_MS, MAX_TTL_MS);
        let deadline = self.state.clock.plus_ms(ttl_ms);
        self.set_lease(lease, LeaseRecord { ttl_ms, deadline, keys: 0, bytes: 0 });
        Ok(LeaseOutcome { lease, ttl_ms, revision: self.state.revision })
    }

    /// An id that no lease has: the index of this entry, unless somebody has chosen just that.
    fn free_lease(&self) -> LeaseId {
        let mut id = NonZeroU64::new(self.state.last.index.next().0).unwrap_or(NonZeroU64::MIN);
        while self.timed.leases.get(LeaseId(id)).is_some() {
            id = id.checked_add(1).unwrap_or(NonZeroU64::MIN);
        }
        LeaseId(id)
    }

    pub(super) fn keep_lease(&mut self, lease: LeaseId) -> Result<LeaseOutcome, Stop> {
        let record = self.timed.leases.get(lease).ok_or(Refused::NoSuchLease(lease))?;
        let deadline = self.state.clock.plus_ms(record.ttl_ms);
        self.set_lease(lease, LeaseRecord { deadline, ..record });
        Ok(LeaseOutcome { lease, ttl_ms: record.ttl_ms, revision: self.state.revision })
    }

    /// Ends a lease and stages the deletion of its keys. The database shows all of them, and the
    /// command has staged nothing yet.
    pub(super) fn revoke(&mut self, lease: LeaseId) -> Result<LeaseOutcome, Stop> {
        if self.timed.leases.get(lease).is_none() {
            return Err(Refused::NoSuchLease(lease).into());
        }
        self.end_lease(lease)?;
        Ok(LeaseOutcome { lease, ttl_ms: 0, revision: self.revision_so_far() })
    }

    /// Ends the leases that are due: a revision each. Not more than a few, so that an entry takes
    /// no longer than that; the clock is soon set again.
    pub(super) fn expire_leases(&mut self) -> Result<(), KvError> {
        for _ in 0..EXPIRE_AT_ONCE {
            let Some(lease) = self.timed.leases.due(self.state.clock) else { break };
            self.end_lease(lease)?;
            self.commit()?;
        }
        Ok(())
    }

    fn end_lease(&mut self, lease: LeaseId) -> Result<(), KvError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(lease_rows_end(lease));
        let mut rows = self.store.db().raw_iterator_cf_opt(self.families.leases, options);
        rows.seek(lease_key(lease, b""));
        let mut keys = Vec::new();
        while let Some(row) = rows.key() {
            let (_, key) = parse_lease_key(row)?;
            keys.push(bytes::Bytes::copy_from_slice(key));
            rows.next();
        }
        rows.status().map_err(KvError::storage("reading the keys of a lease"))?;
        // The first row is the lease itself.
        for key in keys.into_iter().filter(|key| !key.is_empty()) {
            let record = self.latest(&key)?;
            let is_its = |record: &bytes::Bytes| {
                Head::decode(record).is_ok_and(|(head, _)| head.lease == Some(lease))
            };
            if !record.as_ref().is_some_and(is_its) {
                return Err(KvError::corrupt(format!("lease {lease} has a key that is not its")));
            }
            self.stage(key, record, None);
        }
        self.ended_leases.push(lease);
        Ok(())
    }

    /// Removes leases whose keys are gone with what was staged.
    pub(super) fn drop_ended_leases(&mut self) {
        for lease in std::mem::take(&mut self.ended_leases) {
            self.timed.leases.remove(lease);
            self.portion.leases.insert(lease, None);
        }
    }

    /// Whether a put may give a key to `lease`.
    pub(super) fn check_lease(&self, lease: LeaseId) -> Result<(), Refused> {
        let record = self.timed.leases.get(lease).ok_or(Refused::NoSuchLease(lease))?;
        if record.keys >= DELETE_KEYS || record.bytes >= DELETE_BYTES {
            // They all go at once.
            return Err(Refused::LeaseFull { lease, keys: DELETE_KEYS, bytes: DELETE_BYTES });
        }
        Ok(())
    }

    /// Writes down which lease has the key after a change, and how much it then has.
    pub(super) fn move_lease(&mut self, change: &Change) -> Result<(), KvError> {
        let side = |record: &Option<bytes::Bytes>| -> Result<_, KvError> {
            let Some(record) = record else { return Ok(None) };
            let (head, _) = Head::decode(record)?;
            Ok(head.lease.map(|lease| (lease, (change.key.len() + record.len()) as u64)))
        };
        let (before, after) = (side(&change.before)?, side(&change.after)?);
        if let Some((lease, bytes)) = before {
            self.count_lease(lease, |record| {
                record.keys = record.keys.saturating_sub(1);
                record.bytes = record.bytes.saturating_sub(bytes);
            });
            if after.is_none_or(|(after, _)| after != lease) {
                self.portion.leased.insert((lease, change.key.clone()), None);
            }
        }
        if let Some((lease, bytes)) = after {
            self.count_lease(lease, |record| {
                record.keys += 1;
                record.bytes += bytes;
            });
            if before.is_none_or(|(before, _)| before != lease) {
                self.portion.leased.insert((lease, change.key.clone()), Some(()));
            }
        }
        Ok(())
    }

    fn count_lease(&mut self, lease: LeaseId, change: impl FnOnce(&mut LeaseRecord)) {
        if let Some(mut record) = self.timed.leases.get(lease) {
            change(&mut record);
            self.set_lease(lease, record);
        }
    }

    fn set_lease(&mut self, lease: LeaseId, record: LeaseRecord) {
        self.timed.leases.set(lease, record);
        self.portion.leases.insert(lease, Some(record));
    }
}

// Part of what commands mean, like the limits in `write`.

/// The most leases there are.
const MAX_LEASES: usize = 1 << 18;
/// The most leases that end with one entry.
const EXPIRE_AT_ONCE: usize = 64;
/// The shortest and the longest lease.
const MIN_TTL_MS: u64 = 1_000;
const MAX_TTL_MS: u64 = 10 * 365 * 24 * 60 * 60 * 1_000;
