//! The log's shape: where it starts and ends, and where each term begins. No payloads, no disk.
//!
//! A write is first tried on a copy of the shape. What does not fit is refused before anything is
//! written (rule L16).

use raft_core::{Batch, Index, LogId, StoreError, Term};

/// Bounds and term runs of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    base: LogId,
    /// `(term, first index)` of each run, both strictly increasing, all after the base.
    runs: Vec<(Term, Index)>,
    last: Index,
}

/// Entries that a write makes void: both bounds inclusive, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Void {
    pub(crate) from: Index,
    pub(crate) through: Index,
}

impl Shape {
    /// A log without entries.
    pub(crate) fn empty(base: LogId) -> Self {
        Self { base, runs: Vec::new(), last: base.index }
    }

    /// What the log starts after.
    pub(crate) fn base(&self) -> LogId {
        self.base
    }

    /// The last entry, or the base.
    pub(crate) fn last(&self) -> LogId {
        LogId::new(self.runs.last().map_or(self.base.term, |&(term, _)| term), self.last)
    }

    /// The first index of each run.
    pub(crate) fn runs(&self) -> &[(Term, Index)] {
        &self.runs
    }

    /// The term at `index`, if the log still knows it.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|&(_, first)| first <= index);
        after.checked_sub(1).map(|run| self.runs[run].0)
    }

    /// Adds the entry `id` if it follows the last one: next index, no lower term.
    ///
    /// # Errors
    ///
    /// [`StoreError::Gap`]; the shape is as before.
    pub(crate) fn append(&mut self, id: LogId) -> Result<(), StoreError> {
        let last = self.last();
        if id.index != last.index.next() || id.term < last.term {
            return Err(StoreError::Gap { first: id.index, last: last.index });
        }
        if self.runs.last().is_none_or(|&(term, _)| term < id.term) {
            self.runs.push((id.term, id.index));
        }
        self.last = id.index;
        Ok(())
    }

    /// Takes everything from `from` on away, which must be after the base.
    ///
    /// # Errors
    ///
    /// [`StoreError::Gap`] if the base itself would go; the shape is as before.
    pub(crate) fn truncate(&mut self, from: Index) -> Result<Option<Void>, StoreError> {
        if from <= self.base.index {
            return Err(StoreError::Gap { first: from, last: self.base.index });
        }
        if from > self.last {
            return Ok(None);
        }
        let void = Void { from, through: self.last };
        let keep = self.runs.partition_point(|&(_, first)| first < from);
        self.runs.truncate(keep);
        self.last = from.prev();
        Ok(Some(void))
    }

    /// Starts after `base` from now on, which the log holds: what follows stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::Gap`] if it does not hold it; the shape is as before.
    pub(crate) fn rebase(&mut self, base: LogId) -> Result<(), StoreError> {
        if self.term_at(base.index) != Some(base.term) {
            return Err(StoreError::Gap { first: base.index.next(), last: self.last });
        }
        // The run that goes on past the base begins after it now, the ones before are gone.
        let gone = self.runs.partition_point(|&(_, first)| first <= base.index);
        if base.index < self.last {
            let next = self.runs.get(gone).map(|&(_, first)| first);
            if next != Some(base.index.next()) {
                self.runs[gone - 1].1 = base.index.next();
                self.runs.drain(..gone - 1);
            } else {
                self.runs.drain(..gone);
            }
        } else {
            self.runs.clear();
        }
        self.base = base;
        Ok(())
    }

    /// Carries out `batch`, and says which entries it makes void in the middle and at the end of
    /// the log (those before the base go with the base).
    ///
    /// # Errors
    ///
    /// [`StoreError::Gap`] if it does not fit. The shape is of no use then.
    pub(crate) fn carry_out(&mut self, batch: &Batch) -> Result<Vec<Void>, StoreError> {
        let mut voids = Vec::new();
        if let Some(installed) = &batch.snapshot {
            let base = installed.meta.last;
            if base.index < self.base.index {
                return Err(StoreError::Gap { first: base.index.next(), last: self.base.index });
            }
            if installed.keep_tail {
                self.rebase(base)?;
            } else {
                voids.extend(self.truncate(self.base.index.next())?);
                *self = Self::empty(base);
            }
        }
        if let Some(from) = batch.truncate_from {
            voids.extend(self.truncate(from)?);
        }
        for entry in &batch.entries {
            self.append(entry.id)?;
        }
        Ok(voids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64, term: u64) -> LogId {
        LogId::new(Term(term), Index(index))
    }

    fn shape(base: LogId, terms: &[u64]) -> Shape {
        let mut shape = Shape::empty(base);
        for &term in terms {
            let index = shape.last().index.next();
            shape.append(LogId::new(Term(term), index)).unwrap();
        }
        shape
    }

    #[test]
    fn terms_are_found_by_run() {
        let shape = shape(id(4, 1), &[1, 1, 3, 3, 4]);
        assert_eq!(shape.runs(), [(Term(1), Index(5)), (Term(3), Index(7)), (Term(4), Index(9))]);
        let terms: Vec<_> = (3..=10).map(|i| shape.term_at(Index(i)).map(|t| t.0)).collect();
        let expected = [None, Some(1), Some(1), Some(1), Some(3), Some(3), Some(4), None];
        assert_eq!(terms, expected);
        assert_eq!(shape.last(), id(9, 4));
    }

    /// Rule L16.
    #[test]
    fn what_does_not_follow_is_refused() {
        let mut shape = shape(id(4, 2), &[2, 3]);
        let before = shape.clone();
        for bad in [id(6, 3), id(8, 3), id(7, 2), id(0, 3)] {
            assert!(shape.append(bad).is_err(), "{bad}");
        }
        assert!(shape.truncate(Index(4)).is_err());
        assert!(shape.rebase(id(5, 3)).is_err());
        assert!(shape.rebase(id(7, 3)).is_err());
        assert_eq!(shape, before);
    }

    #[test]
    fn truncation_cuts_runs() {
        let mut cut = shape(LogId::ZERO, &[1, 1, 2, 2]);
        let void = cut.truncate(Index(3)).unwrap();
        assert_eq!(void, Some(Void { from: Index(3), through: Index(4) }));
        assert_eq!(cut, shape(LogId::ZERO, &[1, 1]));
        assert_eq!(cut.truncate(Index(3)).unwrap(), None);
    }

    #[test]
    fn a_new_base_cuts_runs_from_the_front() {
        let all = [1, 1, 2, 2, 5];
        for through in 0..=all.len() {
            let mut cut = shape(LogId::ZERO, &all);
            let index = Index(u64::try_from(through).unwrap());
            let base = LogId::new(cut.term_at(index).unwrap(), index);
            cut.rebase(base).unwrap();
            assert_eq!(cut, shape(base, &all[through..]), "through {through}");
        }
    }
}
