//! A queue between threads: many put, one takes everything that waits at once.
//!
//! Taking all at once is what makes batches: one lock and one wake-up, however much has gathered while
//! the taker was busy.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A queue with one taker.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    closed: bool,
    sleeping: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        let state = State { items: Vec::new(), closed: false, sleeping: false };
        Self { state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// Adds `items`. Gives them back if the queue is closed.
    pub(crate) fn put(&self, items: impl IntoIterator<Item = T>) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.items.extend(items);
        // Waking a thread that is awake costs a system call for nothing.
        let wake = std::mem::take(&mut state.sleeping);
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
        true
    }

    /// Takes everything that waits into `into`, which is empty; waits until there is something or, if
    /// a limit is given, until that has passed. `false` once the queue is closed and empty.
    pub(crate) fn take(&self, into: &mut Vec<T>, limit: Option<Duration>) -> bool {
        let mut state = self.lock();
        while state.items.is_empty() && !state.closed {
            state.sleeping = true;
            state = match limit {
                None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(limit) => {
                    let (mut state, _) = self
                        .arrived
                        .wait_timeout(state, limit)
                        .unwrap_or_else(PoisonError::into_inner);
                    state.sleeping = false;
                    std::mem::swap(&mut state.items, into);
                    return !(state.closed && into.is_empty());
                }
            };
            state.sleeping = false;
        }
        std::mem::swap(&mut state.items, into);
        !(state.closed && into.is_empty())
    }

    /// Lets nothing more in. What waits can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Drops what waits.
    pub(crate) fn clear(&self) {
        let items = std::mem::take(&mut self.lock().items);
        drop(items); // Outside the lock: dropping may call back.
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code runs under the lock that could leave the items half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
