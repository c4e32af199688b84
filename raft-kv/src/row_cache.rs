//! The present of keys that were written or read last, in memory.
//!
//! A put asks what was there before, and nearly every read is of one key as it is now. Both would search
//! RocksDB's memtables and blocks for it, which takes longer than all the rest. Here it is one look.
//!
//! What is here is what the database holds, or newer by a batch that is being applied: whoever applies writes to
//! the database first, then here, and only then says how far it has come. A key that is not here may be
//! anything.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::error::KvError;

/// Records by key, within a bound of bytes.
pub(crate) struct RowCache {
    cache: Cache<Bytes, Bytes, Weigh>,
    /// Heavier ones stay out.
    most: u64,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Bytes, Bytes> for Weigh {
    fn weight(&self, key: &Bytes, record: &Bytes) -> u64 {
        (key.len() + record.len()) as u64 + ROW_BYTES
    }
}

impl RowCache {
    /// Room for `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes as u64;
        // A guess, by which it begins; the weight is what counts.
        let rows = usize::try_from(bytes / (4 * ROW_BYTES)).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(rows)
            .weight_capacity(bytes)
            .shards(SHARDS)
            .build()
            .expect("all that it needs is there");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let cache = Cache::with_options(options, Weigh, hasher, lifecycle);
        Self { cache, most: bytes / (4 * SHARDS as u64) }
    }

    /// The record of `key`, if it is here.
    pub(crate) fn get(&self, key: &Bytes) -> Option<Bytes> {
        self.cache.get(key)
    }

    /// Takes note of what was written to the database, whether the key was here or not: a reader may be about to
    /// put here what it has read before.
    pub(crate) fn set(&self, key: Bytes, record: Option<Bytes>) {
        match record {
            Some(record) if self.fits(&key, &record) => self.cache.insert(key, record),
            Some(_) | None => drop(self.cache.remove(&key)),
        }
    }

    /// Whether there is room for it in any case, so that what is taken in takes the place of what was there.
    fn fits(&self, key: &Bytes, record: &Bytes) -> bool {
        Weigh.weight(key, record) <= self.most
    }

    /// The record of `key`: what is here, or else what `read` reads, which is kept here unless the key was written
    /// meanwhile. `read` may also say that it cannot tell.
    pub(crate) fn get_or_read(
        &self,
        key: &Bytes,
        read: impl FnOnce() -> Result<Option<Option<Bytes>>, KvError>,
    ) -> Result<Option<Option<Bytes>>, KvError> {
        match self.cache.get_value_or_guard(key, Some(Duration::ZERO)) {
            GuardResult::Value(record) => Ok(Some(Some(record))),
            GuardResult::Guard(guard) => {
                let found = read()?;
                if let Some(Some(record)) = &found
                    && self.fits(key, record)
                {
                    // Whoever has written the key has taken the guard's place away.
                    drop(guard.insert(record.clone()));
                }
                Ok(found)
            }
            // Somebody else is about to.
            GuardResult::Timeout => read(),
        }
    }
}

impl fmt::Debug for RowCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowCache").field("bytes", &self.cache.weight()).finish_non_exhaustive()
    }
}

/// Into so many parts it is cut, each with its own lock.
const SHARDS: usize = 16;
/// What a row costs beside its bytes: two counted buffers, and its place in the table.
const ROW_BYTES: u64 = 160;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn nothing() -> Result<Option<Option<Bytes>>, KvError> {
        panic!("it is here")
    }

    #[test]
    fn what_was_read_stays() {
        let rows = RowCache::new(1 << 20);
        let key = bytes("k");
        assert_eq!(rows.get_or_read(&key, || Ok(None)).unwrap(), None);
        assert_eq!(rows.get_or_read(&key, || Ok(Some(None))).unwrap(), Some(None));
        let read = rows.get_or_read(&key, || Ok(Some(Some(bytes("1")))));
        assert_eq!(read.unwrap(), Some(Some(bytes("1"))));
        assert_eq!(rows.get_or_read(&key, nothing).unwrap(), Some(Some(bytes("1"))));
        rows.set(key.clone(), None);
        assert_eq!(rows.get(&key), None);
    }

    /// Otherwise what was read would be found for ever.
    #[test]
    fn a_slow_reader_does_not_undo_a_write() {
        for written in [Some(bytes("2")), None] {
            let rows = RowCache::new(1 << 20);
            let key = bytes("k");
            let read = rows.get_or_read(&key, || {
                let before = Ok(Some(Some(bytes("1"))));
                rows.set(key.clone(), written.clone());
                before
            });
            assert_eq!(read.unwrap(), Some(Some(bytes("1"))));
            assert_eq!(rows.get(&key), written);
        }
    }

    #[test]
    fn one_that_is_too_large_leaves_nothing_old_behind() {
        let rows = RowCache::new(16 << 10);
        let key = bytes("k");
        rows.set(key.clone(), Some(bytes("1")));
        rows.set(key.clone(), Some(vec![0; 1 << 20].into()));
        assert_ne!(rows.get(&key), Some(bytes("1")));
        // Nor while somebody reads.
        let rows = RowCache::new(16 << 10);
        let read = rows.get_or_read(&key, || {
            rows.set(key.clone(), Some(vec![0; 1 << 20].into()));
            Ok(Some(Some(bytes("1"))))
        });
        assert_eq!(read.unwrap(), Some(Some(bytes("1"))));
        assert_ne!(rows.get(&key), Some(bytes("1")));
    }

    #[test]
    fn its_memory_has_a_bound() {
        let rows = RowCache::new(64 << 10);
        for number in 0..10_000_u64 {
            rows.set(number.to_string().into(), Some(vec![0; 100].into()));
            assert!(rows.cache.weight() <= 64 << 10);
        }
        assert!(rows.cache.len() > 100);
        let none = RowCache::new(0);
        none.set(bytes("k"), Some(bytes("1")));
        assert_eq!(none.get(&bytes("k")), None);
    }
}
