//! Requests that wait for an answer.
//!
//! Every request is answered exactly once: also when the node stops, and also if a bug drops it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::handle::{Committed, RequestError, StopCause};
use crate::event::Ticket;
use crate::types::{Index, LogId};

/// Why the node stopped, once it has. Shared by everything that may have to say so.
pub(crate) type SharedCause = Arc<OnceLock<StopCause>>;

/// A callback to be called once.
pub(crate) type Callback<T> = Box<dyn FnOnce(Result<T, RequestError>) + Send>;

/// Somebody who waits for a `T`. If it is dropped unanswered, the node has stopped.
pub(crate) struct Waiter<T> {
    callback: Option<Callback<T>>,
    cause: SharedCause,
}

impl<T> Waiter<T> {
    pub(crate) fn new(callback: Callback<T>, cause: SharedCause) -> Self {
        Self { callback: Some(callback), cause }
    }

    /// Answers.
    pub(crate) fn answer(mut self, result: Result<T, RequestError>) {
        if let Some(callback) = self.callback.take() {
            callback(result);
        }
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            // In a panic the cause is set only once everything has unwound.
            let otherwise = if std::thread::panicking() {
                StopCause::Bug("a thread of the node panicked; its log says where".into())
            } else {
                StopCause::Asked
            };
            let cause = self.cause.get().cloned().unwrap_or(otherwise);
            // This may run while a thread unwinds, where a second panic would abort the process.
            let tell = AssertUnwindSafe(|| callback(Err(RequestError::Stopped(cause))));
            if catch_unwind(tell).is_err() {
                tracing::error!("a caller's callback panicked when told that the node has stopped");
            }
        }
    }
}

impl<T> fmt::Debug for Waiter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiter")
    }
}

/// A request that the protocol has not answered yet.
#[derive(Debug)]
pub(crate) enum Request {
    /// A proposal, until it is appended.
    Propose(Waiter<Committed>),
    /// A change of membership, until it is appended.
    Change(Waiter<LogId>),
    /// A read, until it may be served.
    Read(Waiter<Index>),
    /// Something that leaves no entry, a transfer of leadership for example, until it is done.
    Act(Waiter<()>),
    /// The transfer with which this node begins to stop.
    HandOver,
}

/// Somebody who waits for an entry to be applied.
#[derive(Debug)]
pub(crate) enum Applying {
    /// For a command and its outcome.
    Command(Waiter<Committed>),
    /// For a configuration.
    Membership(Waiter<LogId>),
}

impl Applying {
    /// Answers with a failure.
    pub(crate) fn fail(self, why: RequestError) {
        match self {
            Self::Command(waiter) => waiter.answer(Err(why)),
            Self::Membership(waiter) => waiter.answer(Err(why)),
        }
    }
}

/// Numbers requests.
#[derive(Debug, Default)]
pub(crate) struct Tickets(u64);

impl Tickets {
    pub(crate) fn next(&mut self) -> Ticket {
        self.0 += 1;
        Ticket(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second panic while a thread unwinds would abort the process, and nobody would learn why.
    #[test]
    fn a_callback_that_panics_while_a_thread_unwinds_aborts_nothing() {
        let cause = SharedCause::default();
        let bad = Waiter::<()>::new(Box::new(|_| panic!("a caller's bug")), cause);
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _bad = bad;
            panic!("a bug of ours");
        }));
        assert!(unwound.is_err());
    }
}
