//! Puts and deletes: what they change, and how that goes into what is to be written.
//!
//! A command first *stages* what it changes. If it turns out to make no sense it is undone;
//! otherwise all of it becomes one revision.

use std::ops::ControlFlow;

use bytes::Bytes;
use rocksdb::ReadOptions;

use crate::command::{DeleteOutcome, DeleteRange, Field, Put, PutOutcome, Refused};
use crate::error::KvError;
use crate::model::{KeyRange, KeyValue, Revision};
use crate::record::{Head, change_len, key_value, old_key_len};
use crate::unwritten::Change;

use super::{Applier, Stop};

/// What one command may still change and return.
pub(super) struct Budget {
    deletes: u64,
    delete_bytes: u64,
    /// What it returns so far.
    returned: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { deletes: DELETE_KEYS, delete_bytes: DELETE_BYTES, returned: 0 }
    }

    /// Takes note of a key that is returned. The first may have any size.
    pub(super) fn returns(&mut self, kv: &KeyValue) -> Result<(), Refused> {
        let bytes = self.returned + kv.len_bytes() as u64;
        if self.returned > 0 && bytes > RETURN_BYTES {
            return Err(Refused::TooMuch { keys: DELETE_KEYS, bytes: RETURN_BYTES });
        }
        self.returned = bytes;
        Ok(())
    }

    /// How many more bytes may be returned.
    pub(super) fn room(&self) -> usize {
        usize::try_from(RETURN_BYTES.saturating_sub(self.returned)).unwrap_or(usize::MAX)
    }

    fn deletes(&mut self, key: &[u8], record: &[u8]) -> Result<(), Refused> {
        let cost = (key.len() + record.len()) as u64;
        let left = self.deletes.checked_sub(1).zip(self.delete_bytes.checked_sub(cost));
        let (deletes, delete_bytes) =
            left.ok_or(Refused::TooMuch { keys: DELETE_KEYS, bytes: DELETE_BYTES })?;
        (self.deletes, self.delete_bytes) = (deletes, delete_bytes);
        Ok(())
    }
}

impl Applier<'_> {
    pub(super) fn put(&mut self, put: Put) -> Result<PutOutcome, Stop> {
        self.check_put(&put)?;
        self.stage_put(put, &mut Budget::new())
    }

    pub(super) fn delete_range(&mut self, delete: &DeleteRange) -> Result<DeleteOutcome, Stop> {
        self.stage_delete(delete, &mut Budget::new())
    }

    /// Whether a put makes sense, given what is there now.
    pub(super) fn check_put(&self, put: &Put) -> Result<(), Stop> {
        if put.key.is_empty() {
            return Err(Refused::EmptyKey.into());
        }
        if let Field::Set(Some(lease)) = put.lease {
            self.check_lease(lease)?;
        }
        if put.needs_key() && self.latest(&put.key)?.is_none() {
            return Err(Refused::NoSuchKey(put.key.clone()).into());
        }
        Ok(())
    }

    /// Stages a put that was checked.
    pub(super) fn stage_put(&mut self, put: Put, budget: &mut Budget) -> Result<PutOutcome, Stop> {
        let Put { key, value, lease, prev_kv } = put;
        let revision = self.state.revision.next();
        let before = self.latest(&key)?;
        let found = before.as_deref().map(Head::decode).transpose()?;
        let lease = match lease {
            Field::Set(lease) => lease,
            Field::Keep => found.and_then(|(head, _)| head.lease),
        };
        let head = Head {
            create_revision: found.map_or(revision, |(head, _)| head.create_revision),
            mod_revision: revision,
            version: found.map_or(1, |(head, _)| head.version + 1),
            lease,
        };
        let after = match &value {
            Field::Set(value) => head.encode_with(value),
            Field::Keep => head.encode_with(found.map_or(&[], |(_, value)| value)),
        };
        let mut previous = None;
        if let Some(record) = before.as_deref().filter(|_| prev_kv) {
            let kv = key_value(&key, record)?;
            budget.returns(&kv)?;
            previous = Some(kv);
        }
        self.stage(key, before, Some(after.into()));
        Ok(PutOutcome { revision, previous })
    }

    /// Stages the deletion of a range.
    pub(super) fn stage_delete(
        &mut self,
        delete: &DeleteRange,
        budget: &mut Budget,
    ) -> Result<DeleteOutcome, Stop> {
        let mut gone = Vec::new();
        let mut previous = Vec::new();
        let mut result = Ok(());
        self.visit(&delete.range, |key, record| {
            result = budget.deletes(key, record);
            if result.is_ok() && delete.prev_kv {
                let kv = key_value(key, record)?;
                result = budget.returns(&kv);
                previous.push(kv);
            }
            if result.is_err() {
                return Ok(ControlFlow::Break(()));
            }
            gone.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(record)));
            Ok(ControlFlow::Continue(()))
        })?;
        result?;
        let deleted = gone.len() as u64;
        for (key, record) in gone {
            self.stage(key, Some(record), None);
        }
        Ok(DeleteOutcome { revision: self.revision_so_far(), deleted, previous })
    }

    /// The revision after the command at hand, if it does no more than it has done so far.
    pub(super) fn revision_so_far(&self) -> Revision {
        if self.staged.is_empty() { self.state.revision } else { self.state.revision.next() }
    }

    pub(super) fn stage(&mut self, key: Bytes, before: Option<Bytes>, after: Option<Bytes>) {
        self.pending.insert(key.clone(), after.clone());
        let revision = self.state.revision.next();
        // No command changes as many keys.
        let number = u32::try_from(self.staged.len()).unwrap_or(u32::MAX);
        self.staged.push(Change { revision, number, key, before, after });
    }

    /// Forgets what was staged.
    pub(super) fn undo(&mut self) {
        // A key may be there twice only if it was not there in between; the last undone was the first.
        for change in self.staged.drain(..).rev() {
            self.pending.insert(change.key, change.before);
        }
        self.ended_leases.clear();
    }

    /// Makes what was staged one revision. None, if that is nothing.
    pub(super) fn commit(&mut self) -> Result<(), KvError> {
        let revision = self.revision_so_far();
        for change in std::mem::take(&mut self.staged) {
            self.move_lease(&change)?;
            if change.before.is_some() {
                // Where a record was there is another or none; it moves, and its key with it.
                self.state.bytes += (old_key_len(&change.key) - change.key.len()) as u64;
            }
            if let Some(record) = &change.after {
                self.state.bytes += (change.key.len() + record.len()) as u64;
            }
            self.state.bytes += change_len(&change.noted()) as u64;
            self.portion.change(change);
        }
        self.state.revision = revision;
        self.drop_ended_leases();
        Ok(())
    }

    /// The record of `key` as of now, with what is staged.
    pub(super) fn latest(&self, key: &Bytes) -> Result<Option<Bytes>, KvError> {
        if let Some(pending) = self.pending.get(key) {
            return Ok(pending.clone());
        }
        self.store.latest_of(key)
    }

    /// Shows `each` key and record in `range` as of now, with what is staged, by key. Which of them
    /// the database has already depends on the batch, so this must not show (rule C1).
    pub(super) fn visit(
        &self,
        range: &KeyRange,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, KvError>,
    ) -> Result<(), KvError> {
        if range.is_empty() {
            return Ok(());
        }
        if let KeyRange::One(key) = range {
            if let Some(record) = self.latest(key)? {
                let _ = each(key, &record)?;
            }
            return Ok(());
        }
        self.store.write_applied()?;
        let mut options = ReadOptions::default();
        if let Some(before) = range.before() {
            options.set_iterate_upper_bound(before);
        }
        let mut rows = self.store.db().raw_iterator_cf_opt(self.families.latest, options);
        rows.seek(range.first());
        let mut pending = self.pending.range::<Bytes, _>(range.first()..);
        let mut next_pending = pending.next().filter(|(key, _)| range.contains(key));
        loop {
            let flow = match (next_pending, rows.item()) {
                (None, None) => break,
                (Some((key, record)), row) if row.is_none_or(|(here, _)| &key[..] <= here) => {
                    if row.is_some_and(|(here, _)| key == here) {
                        rows.next();
                    }
                    next_pending = pending.next().filter(|(key, _)| range.contains(key));
                    match record {
                        Some(record) => each(key, record)?,
                        None => ControlFlow::Continue(()),
                    }
                }
                (_, Some((key, record))) => {
                    let flow = each(key, record)?;
                    rows.next();
                    flow
                }
                (Some(_), None) => unreachable!("the second arm takes it"),
            };
            if flow.is_break() {
                break;
            }
        }
        rows.status().map_err(KvError::storage("reading a range"))
    }
}

// The limits of one command are part of what commands mean. They must be the same on every node, so
// they are not configuration; changing them takes a new version of the state machine (rule C7).

/// The most keys one command deletes.
pub(super) const DELETE_KEYS: u64 = 100_000;
/// The most bytes of keys and records one command deletes.
pub(super) const DELETE_BYTES: u64 = 64 << 20;
/// The most bytes one command returns, unless it is one key: its outcome has to fit into an answer.
const RETURN_BYTES: u64 = 4 << 20;
