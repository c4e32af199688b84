//! The end of the log, in memory.
//!
//! Followers that keep up, and the state machine, read from here and never from the disk. Bounded in
//! bytes, except that what is not durable yet is never evicted: it is nowhere else.

use std::collections::VecDeque;

use crate::entry::Entry;
use crate::log_store::Batch;
use crate::types::Index;

/// Consecutive entries up to the end of the log.
#[derive(Debug)]
pub(crate) struct TailCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    limit_bytes: usize,
}

impl TailCache {
    /// An empty cache that keeps about `limit_bytes`.
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, limit_bytes }
    }

    /// The first index it holds.
    pub(crate) fn first(&self) -> Option<Index> {
        self.entries.front().map(|entry| entry.id.index)
    }

    /// Follows what `batch` does to the log. Also where a truncation does not touch the cache, the
    /// cache and the log must agree afterwards.
    pub(crate) fn follow(&mut self, batch: &Batch) {
        if batch.snapshot.is_some() {
            self.clear();
        }
        let misses =
            batch.truncate_from.zip(self.first()).is_some_and(|(from, first)| from < first);
        if misses && mutant!(raft_mutant = "truncation_misses_the_cache") {
            return;
        }
        if let Some(from) = batch.truncate_from {
            while let Some(entry) = self.entries.back().filter(|entry| entry.id.index >= from) {
                self.bytes -= entry.payload.len_bytes();
                self.entries.pop_back();
            }
        }
        for entry in &batch.entries {
            if let Some(last) = self.entries.back() {
                invariant!(entry.id.index == last.id.index.next(), "a hole in the tail cache");
            }
            self.bytes += entry.payload.len_bytes();
            self.entries.push_back(entry.clone());
        }
    }

    /// Makes room. What is beyond `persisted` stays.
    pub(crate) fn evict(&mut self, persisted: Index) {
        while self.bytes > self.limit_bytes
            && let Some(entry) = self.entries.front().filter(|entry| entry.id.index <= persisted)
        {
            self.bytes -= entry.payload.len_bytes();
            self.entries.pop_front();
        }
    }

    /// The entries `first..=through`, as many as come to `max_bytes`, at least one. `None` if the
    /// first is not here.
    pub(crate) fn read(
        &self,
        first: Index,
        through: Index,
        max_bytes: usize,
    ) -> Option<(Vec<Entry>, usize)> {
        let start = usize::try_from(first.0.checked_sub(self.first()?.0)?).ok()?;
        let mut bytes = 0;
        let mut count = 0;
        for entry in self.entries.range(start.min(self.entries.len())..) {
            let more = bytes + entry.payload.len_bytes();
            if entry.id.index > through || (count > 0 && more > max_bytes) {
                break;
            }
            bytes = more;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        Some((self.entries.range(start..start + count).cloned().collect(), bytes))
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::Payload;
    use crate::types::{LogId, Term};

    fn entry(index: u64, term: u64) -> Entry {
        let id = LogId::new(Term(term), Index(index));
        Entry { id, payload: Payload::Command(Bytes::from_static(b"0123456789")) }
    }

    fn batch(entries: Vec<Entry>) -> Batch {
        Batch { entries, ..Batch::default() }
    }

    fn ids(read: Option<(Vec<Entry>, usize)>) -> Vec<(u64, u64)> {
        let entries = read.map(|(entries, _)| entries).unwrap_or_default();
        entries.iter().map(|entry| (entry.id.index.0, entry.id.term.0)).collect()
    }

    /// Rule L16: an entry that was overwritten is never served (test-plan row B26).
    #[test]
    fn a_truncation_before_the_cache_empties_it() {
        let mut cache = TailCache::new(1 << 20);
        cache.follow(&batch(vec![entry(5, 1), entry(6, 1)]));
        cache.follow(&Batch {
            truncate_from: Some(Index(3)),
            entries: vec![entry(3, 2)],
            ..Batch::default()
        });
        assert_eq!(ids(cache.read(Index(3), Index(9), 1000)), [(3, 2)]);
        assert_eq!(ids(cache.read(Index(5), Index(9), 1000)), []);
    }

    /// Rule L10: what is not durable is nowhere else.
    #[test]
    fn what_is_not_durable_is_not_evicted() {
        let mut cache = TailCache::new(30);
        cache.follow(&batch((1..=4).map(|i| entry(i, 1)).collect()));
        cache.evict(Index(1));
        assert_eq!(cache.first(), Some(Index(2)));
        cache.evict(Index(9));
        assert_eq!(cache.first(), Some(Index(4)));
    }

    #[test]
    fn a_read_has_a_limit_in_bytes_but_at_least_one_entry() {
        let mut cache = TailCache::new(1 << 20);
        cache.follow(&batch((1..=4).map(|i| entry(i, 1)).collect()));
        assert_eq!(ids(cache.read(Index(2), Index(4), 1)), [(2, 1)]);
        assert_eq!(ids(cache.read(Index(2), Index(3), 1000)), [(2, 1), (3, 1)]);
        assert_eq!(ids(cache.read(Index(9), Index(9), 1000)), []);
        assert_eq!(ids(cache.read(Index(5), Index(9), 1000)), []);
    }
}
