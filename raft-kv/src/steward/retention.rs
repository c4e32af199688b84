//! What history is old enough to go.
//!
//! By age it goes by when this node has seen a revision, and nothing of that is written down: a node that
//! was just started knows no age, and keeps what is there for as long again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::Revision;

use super::Upkeep;

/// Decides which history goes.
#[derive(Debug)]
pub(crate) struct Retention {
    revisions: Option<u64>,
    age: Option<Duration>,
    /// When the store was at which revision, from the oldest that is of interest on.
    seen: VecDeque<(Instant, Revision)>,
    /// The last revision that was old enough.
    aged: Option<Revision>,
}

impl Retention {
    pub(crate) fn new(upkeep: &Upkeep) -> Self {
        let Upkeep { retain_revisions: revisions, retain_age: age, .. } = *upkeep;
        Self { revisions, age, seen: VecDeque::new(), aged: None }
    }

    /// The store is at `revision` at `now`.
    pub(crate) fn see(&mut self, now: Instant, revision: Revision) {
        let Some(age) = self.age else { return };
        // The times between two of them are a small part of the age.
        let is_due = |(at, _): &(Instant, Revision)| now.duration_since(*at) >= age / STEPS;
        if self.seen.back().is_none_or(is_due) {
            self.seen.push_back((now, revision));
        }
        while let Some((at, revision)) = self.seen.front().copied() {
            if now.duration_since(at) < age {
                break;
            }
            self.aged = Some(revision);
            self.seen.pop_front();
        }
    }

    /// What should become the oldest revision that can be read, in a store at `current` where that is
    /// `compacted`. `None` while it is not worth it.
    pub(crate) fn due(&self, current: Revision, compacted: Revision) -> Option<Revision> {
        let by_count = self.revisions.and_then(|kept| {
            let oldest = current.0.saturating_sub(kept);
            // A tenth more than is kept may gather, so that not every write is followed by a compaction.
            (oldest > compacted.0.saturating_add(kept / 10)).then_some(Revision(oldest))
        });
        let by_age = self.aged.filter(|revision| *revision > compacted);
        by_count.max(by_age)
    }
}

/// Into so many steps an age is divided.
const STEPS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn retention(revisions: Option<u64>, age: Option<u64>) -> Retention {
        let retain_age = age.map(Duration::from_secs);
        Retention::new(&Upkeep { retain_revisions: revisions, retain_age, ..Upkeep::default() })
    }

    #[test]
    fn by_count_so_many_are_kept_and_some_more_gather() {
        let retention = retention(Some(100), None);
        assert_eq!(retention.due(Revision(50), Revision(0)), None);
        assert_eq!(retention.due(Revision(110), Revision(0)), None);
        assert_eq!(retention.due(Revision(111), Revision(0)), Some(Revision(11)));
        assert_eq!(retention.due(Revision(115), Revision(11)), None);
        let none = Retention::new(&Upkeep { retain_revisions: Some(0), ..Upkeep::default() });
        assert_eq!(none.due(Revision(5), Revision(4)), Some(Revision(5)));
    }

    #[test]
    fn by_age_what_was_there_so_long_ago_is_the_oldest_that_is_kept() {
        let mut retention = retention(None, Some(100));
        let start = Instant::now();
        for second in 0..=150_u64 {
            retention.see(start + Duration::from_secs(second), Revision(10 + second));
            if second < 100 {
                assert_eq!(retention.due(Revision(10 + second), Revision(0)), None);
            }
        }
        // What was there at second 50, as the last step before it says.
        assert_eq!(retention.due(Revision(160), Revision(0)), Some(Revision(60)));
        assert_eq!(retention.due(Revision(160), Revision(60)), None);
        assert!(retention.seen.len() <= 22, "memory is bounded: {}", retention.seen.len());
    }

    #[test]
    fn without_a_limit_nothing_goes() {
        let mut retention = retention(None, None);
        retention.see(Instant::now(), Revision(1_000_000));
        assert_eq!(retention.due(Revision(1_000_000), Revision(0)), None);
    }
}
