//! When the log is cut, and how far.
//!
//! Paper: §7. Rules upheld here: S8. The state machine must hold durably what the log forgets, and
//! enough stays for followers that are a little behind: an entry is cheaper to send than a snapshot.
//! "Enough" is counted in entries and in bytes, whichever is reached first: entries may be large.

use std::collections::VecDeque;

use crate::log_store::Batch;
use crate::types::Index;

/// The bytes of the log are counted in this many pieces, so that the count itself stays small.
const PIECES: u64 = 64;

/// Decides when to compact and how far. One compaction is under way at a time.
#[derive(Debug)]
pub(crate) struct Compaction {
    retain_entries: u64,
    retain_bytes: u64,
    compact_every: u64,
    under_way: bool,
    /// How far things were at the last attempt: when nothing could be cut then, because a snapshot
    /// pins the log for example, the next attempt waits until there is more.
    tried_at: (Index, u64),
    appended_bytes: u64,
    /// The first index and the bytes of consecutive pieces of what was appended in this run.
    pieces: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Compaction {
    /// Keeps `retain_entries` applied entries or `retain_bytes` of them, and cuts when
    /// `compact_every` entries more, or as many bytes again, have gathered.
    pub(crate) fn new(retain_entries: u64, retain_bytes: u64, compact_every: u64) -> Self {
        Self {
            retain_entries,
            retain_bytes: retain_bytes.max(PIECES),
            compact_every: compact_every.max(1),
            under_way: false,
            tried_at: (Index::ZERO, 0),
            appended_bytes: 0,
            pieces: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Counts what `batch` adds. What it truncates is not taken off: it is little, and an estimate
    /// that is too high only cuts a little early.
    pub(crate) fn follow(&mut self, batch: &Batch) {
        let Some(first) = batch.entries.first() else { return };
        let bytes = batch.len_bytes() as u64;
        self.bytes += bytes;
        self.appended_bytes += bytes;
        match self.pieces.back_mut() {
            Some((_, piece)) if *piece < self.retain_bytes / PIECES => *piece += bytes,
            Some(_) | None => self.pieces.push_back((first.id.index, bytes)),
        }
    }

    /// Whether it is time, and if so, takes note that one is under way.
    pub(crate) fn is_due(&mut self, base: Index, applied: Index) -> bool {
        let many = applied.since(base) >= self.retain_entries.saturating_add(self.compact_every);
        let large = self.bytes >= self.retain_bytes.saturating_mul(2);
        let (tried_applied, tried_bytes) = self.tried_at;
        let more = applied.since(tried_applied) >= (self.compact_every / 8).max(1)
            || self.appended_bytes - tried_bytes >= self.retain_bytes / 8;
        let due = !self.under_way && applied > base && (many || large) && more;
        if due {
            self.under_way = true;
            self.tried_at = (applied, self.appended_bytes);
        }
        due
    }

    /// The one that was under way is done, or there was nothing to do: the log starts after `base`.
    pub(crate) fn finished(&mut self, base: Index) {
        self.under_way = false;
        // A piece goes when the next one begins within what is gone.
        while self.pieces.get(1).is_some_and(|(first, _)| *first <= base.next()) {
            let (_, bytes) = self.pieces.pop_front().unwrap_or_default();
            self.bytes -= bytes;
        }
    }

    /// How far to cut when everything up to `durable` is safe in the state machine. A snapshot on its
    /// way pins what follows it; a live follower keeps the log from being cut before it, up to twice
    /// what is kept anyway: after that a snapshot is the shorter way.
    pub(crate) fn target(
        &self,
        durable: Index,
        pinned: Option<Index>,
        slowest: Option<Index>,
    ) -> Index {
        let keep = self.back(durable, 1);
        let slow = slowest.map_or(keep, |slowest| slowest.max(self.back(durable, 2)));
        keep.min(slow).min(pinned.unwrap_or(keep))
    }

    /// The index before what is kept, if `times` as much as usual is kept.
    fn back(&self, durable: Index, times: u64) -> Index {
        let by_count = durable.0.saturating_sub(self.retain_entries.saturating_mul(times));
        let limit = self.retain_bytes.saturating_mul(times);
        let mut kept = 0_u64;
        let mut by_bytes = 0;
        for (first, bytes) in self.pieces.iter().rev() {
            kept = kept.saturating_add(*bytes);
            if kept > limit {
                by_bytes = first.0; // The piece that goes beyond is cut as a whole, save its first.
                break;
            }
        }
        Index(by_count.max(by_bytes).min(durable.0))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::{Entry, Payload};
    use crate::types::{LogId, Term};

    fn of_entries(retain: u64, every: u64) -> Compaction {
        Compaction::new(retain, u64::MAX / 4, every)
    }

    /// Rule S8.
    #[test]
    fn slow_followers_and_snapshots_on_their_way_keep_the_log() {
        let compaction = of_entries(100, 50);
        assert_eq!(compaction.target(Index(1000), None, None), Index(900));
        assert_eq!(compaction.target(Index(1000), None, Some(Index(850))), Index(850));
        assert_eq!(compaction.target(Index(1000), None, Some(Index(10))), Index(800));
        assert_eq!(compaction.target(Index(1000), Some(Index(700)), Some(Index(850))), Index(700));
        assert_eq!(compaction.target(Index(60), None, None), Index(0));
    }

    #[test]
    fn one_at_a_time() {
        let mut compaction = of_entries(100, 50);
        assert!(!compaction.is_due(Index(0), Index(149)));
        assert!(compaction.is_due(Index(0), Index(150)));
        assert!(!compaction.is_due(Index(0), Index(200)));
        compaction.finished(Index(0));
        assert!(!compaction.is_due(Index(0), Index(151)), "nothing could be cut just now");
        assert!(compaction.is_due(Index(0), Index(200)));
    }

    #[test]
    fn large_entries_are_cut_by_bytes() {
        let mut compaction = Compaction::new(1_000_000, 10_000, 1_000_000);
        for index in 1..=30 {
            let id = LogId::new(Term(1), Index(index));
            let payload = Payload::Command(Bytes::from(vec![0; 984]));
            compaction.follow(&Batch { entries: vec![Entry { id, payload }], ..Batch::default() });
            assert_eq!(compaction.is_due(Index(0), Index(index)), index == 20, "{index}");
        }
        assert_eq!(compaction.target(Index(30), None, None), Index(20));
        compaction.finished(Index(20));
        assert_eq!(compaction.bytes, 10_000);
        assert!(!compaction.is_due(Index(20), Index(30)));
    }
}
