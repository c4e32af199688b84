//! One state of the store, and the ways through it.

use std::borrow::Cow;

use bytes::Bytes;
use rocksdb::{
    ColumnFamily, DB, DBPinnableSlice, DBRawIteratorWithThreadMode, ErrorKind, ReadOptions,
    ReadTier, SnapshotWithThreadMode,
};

use crate::error::KvError;
use crate::model::{KeyRange, KeyValue, Revision};
use crate::range::{Collector, Found, RangeRequest};
use crate::record::{Head, STATE_KEY, State, key_value, old_bound, old_key, parse_old_key};
use crate::store::{Families, Store};

/// One state of the store. Stays as it is while the store is written to.
pub(crate) struct View<'a> {
    frozen: SnapshotWithThreadMode<'a, DB>,
    families: Families<'a>,
    state: State,
}

pub(crate) type Rows<'a> = DBRawIteratorWithThreadMode<'a, DB>;

impl<'a> View<'a> {
    pub(crate) fn new(store: &'a Store) -> Result<Self, KvError> {
        let families = store.families();
        let frozen = store.db().snapshot();
        let state = frozen
            .get_pinned_cf(families.meta, STATE_KEY)
            .map_err(KvError::storage("reading how far it has come"))?
            .map_or(Ok(State::EMPTY), |bytes| State::decode(&bytes))?;
        Ok(Self { frozen, families, state })
    }

    /// The state of the store and one key in it, or `None` if that might take a disk.
    pub(crate) fn cached(
        store: &'a Store,
        key: &[u8],
    ) -> Result<Option<(State, Option<KeyValue>)>, KvError> {
        let families = store.families();
        let frozen = store.db().snapshot();
        let read = |family: &ColumnFamily, key: &[u8]| {
            let mut options = ReadOptions::default();
            options.set_read_tier(ReadTier::BlockCache);
            match frozen.get_pinned_cf_opt(family, key, options) {
                Ok(found) => Ok(Some(found)),
                Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
                Err(error) => Err(KvError::storage("reading a key")(error)),
            }
        };
        let Some(state) = read(families.meta, STATE_KEY)? else { return Ok(None) };
        let state = state.map_or(Ok(State::EMPTY), |bytes| State::decode(&bytes))?;
        let Some(record) = read(families.latest, key)? else { return Ok(None) };
        let kv = record.map(|record| key_value(key, &record)).transpose()?;
        Ok(Some((state, kv)))
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn families(&self) -> Families<'a> {
        self.families
    }

    /// What `request` asks for, as of `at` or now, in at most `room` bytes. `at` must not be
    /// compacted.
    pub(crate) fn range(
        &self,
        request: &RangeRequest,
        at: Option<Revision>,
        room: usize,
    ) -> Result<Found, KvError> {
        let mut found = Collector::new(request, room);
        if !request.range.is_empty() {
            match at {
                None => self.now(&request.range, &mut found)?,
                Some(at) => self.past(&request.range, at, &mut found)?,
            }
        }
        Ok(found.finish())
    }

    fn now(&self, range: &KeyRange, found: &mut Collector<'_>) -> Result<(), KvError> {
        if let KeyRange::One(key) = range {
            let record = self.frozen.get_pinned_cf(self.families.latest, key);
            if let Some(record) = record.map_err(KvError::storage("reading a key"))? {
                found.add(key, &record)?;
            }
            return Ok(());
        }
        let mut rows = self.rows(self.families.latest, range.before(), ReadOptions::default());
        rows.seek(range.first());
        while let Some((key, record)) = rows.item() {
            found.add(key, record)?;
            rows.next();
        }
        rows.status().map_err(KvError::storage("reading a range"))
    }

    fn past(
        &self,
        range: &KeyRange,
        at: Revision,
        found: &mut Collector<'_>,
    ) -> Result<(), KvError> {
        let before = range.before();
        let old_before = before.as_deref().map(|before| Bytes::from(old_bound(before)));
        let mut now = self.rows(self.families.latest, before, ReadOptions::default());
        let mut old = self.rows(self.families.old, old_before, ReadOptions::default());
        now.seek(range.first());
        old.seek(old_bound(range.first()));
        loop {
            let old_here = old.key().map(parse_old_key).transpose()?.map(|(key, _)| key);
            let now_here = now.key();
            let key: Cow<'_, [u8]> = match (now_here, old_here) {
                (Some(a), Some(b)) if a <= &b[..] => Cow::Owned(a.to_vec()),
                (_, Some(b)) => Cow::Owned(b),
                (Some(a), None) => Cow::Owned(a.to_vec()),
                (None, None) => break,
            };
            self.add_past(&key, at, (&mut now, &mut old), found)?;
        }
        now.status().map_err(KvError::storage("reading a range"))?;
        old.status().map_err(KvError::storage("reading old records"))
    }

    /// Adds `key` as it was at `at`, and moves both iterators beyond it. Neither is beyond it yet.
    fn add_past(
        &self,
        key: &[u8],
        at: Revision,
        (now, old): (&mut Rows<'_>, &mut Rows<'_>),
        found: &mut Collector<'_>,
    ) -> Result<(), KvError> {
        let mut is_added = false;
        if let Some(record) = now.item().filter(|(here, _)| *here == key).map(|(_, record)| record)
        {
            let (head, _) = Head::decode(record)?;
            if head.mod_revision <= at {
                found.add(key, record)?;
                is_added = true;
            }
            now.next();
        }
        if !is_added {
            // Of the records that ended after `at`, the first is the only one that can have begun
            // by then.
            old.seek(old_key(key, at.next()));
            if let Some((stored, record)) = old.item()
                && parse_old_key(stored)?.0 == key
                && Head::decode(record)?.0.mod_revision <= at
            {
                found.add(key, record)?;
            }
        }
        old.seek(old_key(key, Revision(u64::MAX)));
        Ok(())
    }

    /// The value under a key of a family.
    pub(crate) fn get(
        &self,
        family: &ColumnFamily,
        key: &[u8],
    ) -> Result<Option<DBPinnableSlice<'_>>, KvError> {
        self.frozen.get_pinned_cf(family, key).map_err(KvError::storage("reading a key"))
    }

    /// The rows of a family, before `before`.
    pub(crate) fn rows(
        &self,
        family: &ColumnFamily,
        before: Option<Bytes>,
        mut options: ReadOptions,
    ) -> Rows<'_> {
        if let Some(before) = before {
            options.set_iterate_upper_bound(before);
        }
        self.frozen.raw_iterator_cf_opt(family, options)
    }
}
