//! The shape of the log: where it starts, where each term begins, where it ends.
//!
//! Paper: §5.3 (log matching), §5.4.1 (up-to-date), §7 (compaction).
//! Rules upheld here: L9 (conflict hints), L16 (no holes).
//!
//! A log has thousands of entries and a handful of terms, so its runs of one term say everything the
//! protocol needs to decide. There are no payloads here, and nothing to read from a disk.

use crate::types::{Index, LogId, Term};

/// The log as the protocol sees it: consecutive entries after `base`, in runs of one term each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogShape {
    /// The entry before the first one. What it stands for is in the state machine.
    base: LogId,
    /// The term and the first index of each run; terms and indices ascend strictly.
    runs: Vec<(Term, Index)>,
    last: Index,
}

impl LogShape {
    /// A log of these runs.
    ///
    /// # Panics
    ///
    /// If they are not in order, or leave a hole after the base: the log store handed over something
    /// that it cannot have been given (rule L16).
    pub(crate) fn new(base: LogId, runs: Vec<(Term, Index)>, last: Index) -> Self {
        invariant!(last >= base.index, "the log ends at {last}, before its base {base}");
        invariant!(
            runs.is_empty() == (last == base.index),
            "entries and runs differ: {runs:?} {last}"
        );
        if let Some(&(term, first)) = runs.first() {
            invariant!(first == base.index.next(), "a hole between base {base} and first entry");
            invariant!(term >= base.term, "terms fall after base {base}: {runs:?}");
        }
        let ascending = runs.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        invariant!(ascending, "runs of terms out of order: {runs:?}");
        invariant!(runs.last().is_none_or(|&(_, first)| first <= last), "{runs:?} beyond {last}");
        Self { base, runs, last }
    }

    /// The entry before the first one.
    pub(crate) fn base(&self) -> LogId {
        self.base
    }

    /// The last entry, or the base if there is none.
    pub(crate) fn last(&self) -> LogId {
        let term = self.runs.last().map_or(self.base.term, |&(term, _)| term);
        LogId::new(term, self.last)
    }

    /// The term of the entry at `index`: `None` before the base and after the end.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last || index < self.base.index {
            return None;
        }
        let run = self.runs.partition_point(|&(_, first)| first <= index);
        Some(run.checked_sub(1).map_or(self.base.term, |run| self.runs[run].0))
    }

    /// Whether the log has this very entry.
    pub(crate) fn has(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// Adds `count` entries of `term` at the end.
    pub(crate) fn append(&mut self, term: Term, count: u64) {
        if count == 0 {
            return;
        }
        let last = self.last();
        invariant!(term >= last.term, "an entry of term {term} cannot follow {last}");
        if term > last.term || self.runs.is_empty() {
            self.runs.push((term, self.last.next()));
        }
        self.last = self.last.plus(count);
    }

    /// Voids the entries from `from` on.
    pub(crate) fn truncate(&mut self, from: Index) {
        invariant!(from > self.base.index, "cannot truncate from {from}, base is {}", self.base);
        if from > self.last {
            return;
        }
        let keep = self.runs.partition_point(|&(_, first)| first < from);
        self.runs.truncate(keep);
        self.last = from.prev();
    }

    /// Forgets the entries up to and including `base`, which the log has.
    pub(crate) fn compact(&mut self, base: LogId) {
        if base.index <= self.base.index {
            return; // Compaction is idempotent; a late report changes nothing.
        }
        invariant!(self.has(base), "cannot compact to {base}, which the log does not have");
        let through = self.runs.partition_point(|&(_, first)| first <= base.index);
        // The run that holds the base goes on after it, unless the next run starts right there.
        let next_starts = self.runs.get(through).map_or_else(|| self.last.next(), |run| run.1);
        let split = next_starts > base.index.next();
        let term = base.term;
        self.runs.drain(..through);
        if split {
            self.runs.insert(0, (term, base.index.next()));
        }
        self.base = base;
    }

    /// Drops everything: the log now starts, empty, after `base`.
    pub(crate) fn reset(&mut self, base: LogId) {
        *self = Self { base, runs: Vec::new(), last: base.index };
    }

    /// The last entry at or before `at.index` whose term is not above `at.term`; the base if there is
    /// none.
    ///
    /// Both sides of a conflict search use it (rule L9). A follower that does not have `prev` answers
    /// with this of its own log, and the leader looks the answer up in its log the same way: each
    /// round trip skips at least one whole run of terms, and never an index at which the logs agree,
    /// since logs that agree at an index have the same terms before it.
    pub(crate) fn conflict_hint(&self, at: LogId) -> LogId {
        let mut index = at.index.min(self.last);
        loop {
            match self.term_at(index) {
                None => return self.base,
                Some(term) if term <= at.term => return LogId::new(term, index),
                Some(_) => {
                    // Jump to just before the run that is too new.
                    let run = self.runs.partition_point(|&(_, first)| first <= index);
                    let Some(&(_, first)) = run.checked_sub(1).and_then(|run| self.runs.get(run))
                    else {
                        return self.base; // The base itself is too new: a snapshot must decide.
                    };
                    index = first.prev();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64, term: u64) -> LogId {
        LogId::new(Term(term), Index(index))
    }

    /// 4@2 5@2 6@3 7@5 after base 3@1.
    fn sample() -> LogShape {
        let runs = vec![(Term(2), Index(4)), (Term(3), Index(6)), (Term(5), Index(7))];
        LogShape::new(id(3, 1), runs, Index(7))
    }

    #[test]
    fn terms_are_known_from_the_base_to_the_end() {
        let shape = sample();
        let terms: Vec<_> = (2..=8).map(|i| shape.term_at(Index(i)).map(|t| t.0)).collect();
        assert_eq!(terms, [None, Some(1), Some(2), Some(2), Some(3), Some(5), None]);
        assert_eq!(shape.last(), id(7, 5));
    }

    #[test]
    fn truncating_and_appending_again_overwrites() {
        let mut shape = sample();
        shape.truncate(Index(5));
        assert_eq!(shape.last(), id(4, 2));
        shape.append(Term(6), 2);
        assert_eq!(shape.last(), id(6, 6));
        assert_eq!(shape.term_at(Index(5)), Some(Term(6)));
        shape.truncate(Index(4));
        assert_eq!(shape.last(), id(3, 1));
    }

    #[test]
    fn compacting_splits_a_run_or_ends_at_its_border() {
        let mut shape = sample();
        shape.compact(id(4, 2));
        assert_eq!(
            shape,
            LogShape::new(
                id(4, 2),
                vec![(Term(2), Index(5)), (Term(3), Index(6)), (Term(5), Index(7))],
                Index(7)
            )
        );
        shape.compact(id(5, 2));
        assert_eq!(
            shape,
            LogShape::new(id(5, 2), vec![(Term(3), Index(6)), (Term(5), Index(7))], Index(7))
        );
        shape.compact(id(7, 5));
        assert_eq!(shape, LogShape::new(id(7, 5), vec![], Index(7)));
        shape.append(Term(5), 1);
        assert_eq!(shape.last(), id(8, 5));
        assert_eq!(shape.term_at(Index(8)), Some(Term(5)));
    }

    /// Rule L9.
    #[test]
    fn hints_skip_whole_terms_and_stop_at_the_base() {
        let shape = sample();
        assert_eq!(shape.conflict_hint(id(9, 9)), id(7, 5));
        assert_eq!(shape.conflict_hint(id(7, 4)), id(6, 3));
        assert_eq!(shape.conflict_hint(id(6, 2)), id(5, 2));
        assert_eq!(shape.conflict_hint(id(6, 1)), id(3, 1));
        assert_eq!(shape.conflict_hint(id(6, 0)), id(3, 1));
        assert_eq!(shape.conflict_hint(id(1, 1)), id(3, 1));
    }
}
