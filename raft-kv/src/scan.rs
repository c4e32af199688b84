//! One state of the store, and the ways through it.

use bytes::Bytes;
use rocksdb::{
    ColumnFamily, DB, DBPinnableSlice, DBRawIteratorWithThreadMode, ErrorKind, ReadOptions,
    ReadTier, SnapshotWithThreadMode,
};

use crate::error::KvError;
use crate::model::{KeyRange, KeyValue, Revision};
use crate::range::{Collector, Found, RangeRequest};
use crate::record::{Head, STATE_KEY, State, old_bound, old_key, parse_old_key, shared_key_value};
use crate::row_cache::RowCache;
use crate::store::{Families, Store};

/// One state of the store. Stays as it is while the store is written to.
pub(crate) struct View<'a> {
    frozen: SnapshotWithThreadMode<'a, DB>,
    families: Families<'a>,
    /// Not of this state, but what any state may have had.
    rows: &'a RowCache,
    state: State,
}

/// The record of one key as it is now, or `None` if that might take a disk.
pub(crate) fn latest_cached(store: &Store, key: &Bytes) -> Result<Option<Option<Bytes>>, KvError> {
    store.rows().get_or_read(key, || {
        if let Some(record) = store.unwritten().latest(key) {
            return Ok(Some(record));
        }
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        match store.db().get_cf_opt(store.latest(), key, &options) {
            Ok(record) => Ok(Some(record.map(Bytes::from))),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
            Err(error) => Err(KvError::storage("reading a key")(error)),
        }
    })
}

/// What is shown of each key: the key, and its record.
pub(crate) type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), KvError>;

/// Whether what is read is kept in memory for the next who reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Caching {
    Through,
    /// For who reads everything, and would leave nothing else there.
    Past,
}

impl Caching {
    fn options(self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.fill_cache(matches!(self, Self::Through));
        options
    }
}

/// The key that an iterator over `old` stands at.
fn here(old: &Rows<'_>) -> Result<Option<Vec<u8>>, KvError> {
    Ok(old.key().map(parse_old_key).transpose()?.map(|(key, _)| key))
}

pub(crate) type Rows<'a> = DBRawIteratorWithThreadMode<'a, DB>;

impl<'a> View<'a> {
    /// The state that has been applied when this is called, or a later one.
    pub(crate) fn new(store: &'a Store) -> Result<Self, KvError> {
        store.write_applied()?;
        let families = store.families();
        let frozen = store.db().snapshot();
        let state = frozen
            .get_pinned_cf(families.meta, STATE_KEY)
            .map_err(KvError::storage("reading how far it has come"))?
            .map_or(Ok(State::EMPTY), |bytes| State::decode(&bytes))?;
        Ok(Self { frozen, families, rows: store.rows(), state })
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// The record of `key` that `revision` wrote, if it is the latest and in memory.
    pub(crate) fn written_lately(
        &self,
        key: &Bytes,
        revision: Revision,
    ) -> Result<Option<KeyValue>, KvError> {
        let Some(record) = self.rows.get(key) else { return Ok(None) };
        let kv = shared_key_value(key, &record)?;
        Ok(Some(kv).filter(|kv| kv.mod_revision == revision))
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
        self.each(&request.range, at, Caching::Through, &mut |key, record| found.add(key, record))?;
        Ok(found.finish())
    }

    /// Shows `each` key of `range` with its record, by key, as of `at` or now. `at` must not be compacted.
    pub(crate) fn each(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        caching: Caching,
        each: Each<'_>,
    ) -> Result<(), KvError> {
        if range.is_empty() {
            return Ok(());
        }
        match at {
            None => self.now(range, caching, each),
            Some(at) => self.past(range, at, caching, each),
        }
    }

    fn now(&self, range: &KeyRange, caching: Caching, each: Each<'_>) -> Result<(), KvError> {
        if let KeyRange::One(key) = range {
            let record = self.frozen.get_pinned_cf(self.families.latest, key);
            if let Some(record) = record.map_err(KvError::storage("reading a key"))? {
                each(key, &record)?;
            }
            return Ok(());
        }
        let mut rows = self.rows(self.families.latest, range.before(), caching.options());
        rows.seek(range.first());
        while let Some((key, record)) = rows.item() {
            each(key, record)?;
            rows.next();
        }
        rows.status().map_err(KvError::storage("reading a range"))
    }

    fn past(
        &self,
        range: &KeyRange,
        at: Revision,
        caching: Caching,
        each: Each<'_>,
    ) -> Result<(), KvError> {
        let before = range.before();
        let old_before = before.as_deref().map(|before| Bytes::from(old_bound(before)));
        let mut now = self.rows(self.families.latest, before, caching.options());
        let mut old = self.rows(self.families.old, old_before, caching.options());
        now.seek(range.first());
        old.seek(old_bound(range.first()));
        let mut old_here = here(&old)?;
        loop {
            match (now.item(), &old_here) {
                (None, None) => break,
                // Most keys have no past: no need to look for it.
                (Some((key, record)), old_key)
                    if old_key.as_ref().is_none_or(|old| key < &old[..]) =>
                {
                    if Head::decode(record)?.0.mod_revision <= at {
                        each(key, record)?;
                    }
                    now.next();
                }
                (_, Some(key)) => {
                    Self::past_of(key, at, (&mut now, &mut old), each)?;
                    old_here = here(&old)?;
                }
                (Some(_), None) => unreachable!("the second arm takes it"),
            }
        }
        now.status().map_err(KvError::storage("reading a range"))?;
        old.status().map_err(KvError::storage("reading old records"))
    }

    /// Shows `each` a key that has a past as it was at `at`, and moves both iterators beyond it. That of the
    /// past stands at it, the other at it or beyond.
    fn past_of(
        key: &[u8],
        at: Revision,
        (now, old): (&mut Rows<'_>, &mut Rows<'_>),
        each: Each<'_>,
    ) -> Result<(), KvError> {
        let mut is_shown = false;
        if let Some((_, record)) = now.item().filter(|(here, _)| *here == key) {
            if Head::decode(record)?.0.mod_revision <= at {
                each(key, record)?;
                is_shown = true;
            }
            now.next();
        }
        if !is_shown {
            // Of the records that ended after `at`, the first is the only one that can have begun
            // by then.
            old.seek(old_key(key, at.next()));
            if let Some((stored, record)) = old.item()
                && parse_old_key(stored)?.0 == key
                && Head::decode(record)?.0.mod_revision <= at
            {
                each(key, record)?;
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
