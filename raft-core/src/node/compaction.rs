//! When the log is cut, and how far.
//!
//! Paper: §7. Rules upheld here: S8. The state machine must hold durably what the log forgets, and
//! enough stays for followers that are a little behind: an entry is cheaper to send than a snapshot.

use crate::types::Index;

/// Decides when to compact and how far. One compaction is under way at a time.
#[derive(Debug)]
pub(crate) struct Compaction {
    retain_entries: u64,
    compact_every: u64,
    under_way: bool,
}

impl Compaction {
    /// Keeps `retain_entries` applied entries, and cuts when `compact_every` more have gathered.
    pub(crate) fn new(retain_entries: u64, compact_every: u64) -> Self {
        Self { retain_entries, compact_every: compact_every.max(1), under_way: false }
    }

    /// Whether it is time, and if so, takes note that one is under way.
    pub(crate) fn is_due(&mut self, base: Index, applied: Index) -> bool {
        let due = !self.under_way
            && applied.since(base) >= self.retain_entries.saturating_add(self.compact_every);
        self.under_way |= due;
        due
    }

    /// The one that was under way is done, or there was nothing to do.
    pub(crate) fn finished(&mut self) {
        self.under_way = false;
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
        let back = |count: u64| Index(durable.0.saturating_sub(count));
        let keep = back(self.retain_entries);
        let slow = slowest
            .map_or(keep, |slowest| slowest.max(back(self.retain_entries.saturating_mul(2))));
        keep.min(slow).min(pinned.unwrap_or(keep))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule S8.
    #[test]
    fn slow_followers_and_snapshots_on_their_way_keep_the_log() {
        let compaction = Compaction::new(100, 50);
        assert_eq!(compaction.target(Index(1000), None, None), Index(900));
        assert_eq!(compaction.target(Index(1000), None, Some(Index(850))), Index(850));
        assert_eq!(compaction.target(Index(1000), None, Some(Index(10))), Index(800));
        assert_eq!(compaction.target(Index(1000), Some(Index(700)), Some(Index(850))), Index(700));
        assert_eq!(compaction.target(Index(60), None, None), Index(0));
    }

    #[test]
    fn one_at_a_time() {
        let mut compaction = Compaction::new(100, 50);
        assert!(!compaction.is_due(Index(0), Index(149)));
        assert!(compaction.is_due(Index(0), Index(150)));
        assert!(!compaction.is_due(Index(0), Index(200)));
        compaction.finished();
        assert!(compaction.is_due(Index(0), Index(200)));
    }
}
