//! When the database is ahead of what is said of it.
//!
//! What is applied is written first, and then it is said how far that goes. In between a reader that asks the
//! database would know more than one that believes what is said, and who asks both would see time go back (rule
//! C8).

use std::sync::atomic::{AtomicU64, Ordering};

/// How often writing has begun and what it came to was said: odd in between.
#[derive(Debug, Default)]
pub(crate) struct Turns(AtomicU64);

/// A moment at which the database was not ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

impl Turns {
    /// Something is about to be written. Once is enough.
    pub(crate) fn begin(&self) {
        // There is one who writes.
        if self.mark().is_some() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// It was said how far it goes.
    pub(crate) fn end(&self) {
        if self.mark().is_none() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// This moment, if the database is not ahead.
    pub(crate) fn mark(&self) -> Option<Mark> {
        let turns = self.0.load(Ordering::SeqCst);
        turns.is_multiple_of(2).then_some(Mark(turns))
    }

    /// Whether nothing was written since.
    pub(crate) fn has_stood_still(&self, since: Mark) -> bool {
        self.0.load(Ordering::SeqCst) == since.0
    }
}
