//! A bounded queue from any thread to one async task.
//!
//! Putting something in never blocks, and wakes the task only if it sleeps: waking a thread costs
//! about 40 us here, a lock that nobody holds a hundredth of that. Taking returns everything that
//! waits, so that many small messages become one write.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The queue. Any number of threads put, one task takes.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    max_items: usize,
    max_bytes: usize,
}

/// Why nothing was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// There is no room now.
    Full,
    /// Nobody takes from it any more.
    Closed,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// The taker has found nothing and waits to be notified.
    sleeping: bool,
    closed: bool,
}

impl<T> Mailbox<T> {
    /// An empty queue for at most `max_items` with at most `max_bytes`. A single item of more bytes
    /// still fits into an empty queue, or it could never be sent.
    pub(crate) fn new(max_items: usize, max_bytes: usize) -> Self {
        let state = State { items: VecDeque::new(), bytes: 0, sleeping: false, closed: false };
        Self { state: Mutex::new(state), wake: Notify::new(), max_items, max_bytes }
    }

    /// Puts `item` in, which counts for `bytes`.
    pub(crate) fn put(&self, item: T, bytes: usize) -> Result<(), Rejected> {
        let mut state = self.lock();
        if state.closed {
            return Err(Rejected::Closed);
        }
        let full = state.items.len() >= self.max_items
            || state.bytes.saturating_add(bytes) > self.max_bytes;
        if full && !state.items.is_empty() {
            return Err(Rejected::Full);
        }
        state.items.push_back((item, bytes));
        state.bytes += bytes;
        let sleeping = std::mem::take(&mut state.sleeping);
        drop(state);
        if sleeping {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until there is something, then moves what waits to `batch`: at least one item, and no
    /// further ones once `max_bytes` are reached. `false` once the queue is closed and empty.
    ///
    /// Cancel safe: nothing is taken unless it returns.
    pub(crate) async fn take(&self, batch: &mut Vec<T>, max_bytes: usize) -> bool {
        loop {
            {
                let mut state = self.lock();
                let mut taken = 0;
                while taken < max_bytes
                    && let Some((item, bytes)) = state.items.pop_front()
                {
                    state.bytes -= bytes;
                    taken = taken.saturating_add(bytes.max(1));
                    batch.push(item);
                }
                if taken > 0 {
                    return true;
                }
                if state.closed {
                    return false;
                }
                state.sleeping = true;
            }
            self.wake.notified().await;
        }
    }

    /// Accepts nothing more. What is in it can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Accepts nothing more and drops what is in it.
    pub(crate) fn discard(&self) {
        let items = {
            let mut state = self.lock();
            state.closed = true;
            state.bytes = 0;
            std::mem::take(&mut state.items)
        };
        self.wake.notify_one();
        drop(items); // Outside of the lock: dropping may call back into this queue.
    }

    // A panic elsewhere while the lock is held leaves a queue that is still consistent.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn is_bounded_by_items_and_by_bytes() {
        let mailbox = Mailbox::new(3, 100);
        assert_eq!(mailbox.put(1, 200), Ok(()), "a large one fits into an empty queue");
        assert_eq!(mailbox.put(2, 1), Err(Rejected::Full));
        let mut batch = Vec::new();
        assert!(mailbox.take(&mut batch, 1).await);
        assert_eq!(batch, [1]);
        for n in 0..3 {
            assert_eq!(mailbox.put(n, 1), Ok(()));
        }
        assert_eq!(mailbox.put(3, 1), Err(Rejected::Full));
    }

    #[tokio::test]
    async fn takes_in_order_up_to_so_many_bytes() {
        let mailbox = Mailbox::new(10, 100);
        for n in 0..5 {
            mailbox.put(n, 10).unwrap();
        }
        let mut batch = Vec::new();
        assert!(mailbox.take(&mut batch, 25).await);
        assert_eq!(batch, [0, 1, 2]);
        mailbox.close();
        assert_eq!(mailbox.put(9, 1), Err(Rejected::Closed));
        batch.clear();
        assert!(mailbox.take(&mut batch, 25).await);
        assert_eq!(batch, [3, 4]);
        assert!(!mailbox.take(&mut batch, 25).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn loses_no_wake_up() {
        let mailbox = Arc::new(Mailbox::new(usize::MAX, usize::MAX));
        let putter = Arc::clone(&mailbox);
        let thread = std::thread::spawn(move || {
            for n in 0..100_000_u32 {
                putter.put(n, 1).unwrap();
            }
            putter.close();
        });
        let (mut batch, mut expected) = (Vec::new(), 0);
        while mailbox.take(&mut batch, 64).await {
            for n in batch.drain(..) {
                assert_eq!(n, expected);
                expected += 1;
            }
        }
        thread.join().unwrap();
        assert_eq!(expected, 100_000);
    }
}
