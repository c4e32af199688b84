//! A client's session: with it a command can be sent again without being run twice (rule C2).

use std::sync::{Mutex, MutexGuard, PoisonError};

use raft_core::sessions::{Numbers, SessionId, SessionTag};
use tokio::sync::Notify;

/// What a client has under way in its session.
#[derive(Debug, Default)]
pub(super) struct Desk {
    numbers: Mutex<Option<Numbers>>,
    /// Held while a session is opened, so that one is enough.
    pub(super) opening: tokio::sync::Mutex<()>,
    /// Told when a number is done.
    done: Notify,
}

/// A number that was given out. It is acknowledged when this is dropped: nobody asks again then.
#[derive(Debug)]
pub(super) struct Slip<'a> {
    desk: &'a Desk,
    tag: SessionTag,
}

impl Desk {
    /// The next number, once there is one. `None` if there is no session.
    pub(super) async fn take(&self) -> Option<Slip<'_>> {
        loop {
            // Before the look, so that nothing is missed in between.
            let done = self.done.notified();
            {
                let mut numbers = self.numbers();
                if let Some(tag) = numbers.as_mut()?.take() {
                    return Some(Slip { desk: self, tag });
                }
            }
            done.await;
        }
    }

    pub(super) fn has_session(&self) -> bool {
        self.numbers().is_some()
    }

    /// A new session was opened.
    pub(super) fn begin(&self, session: SessionId) {
        *self.numbers() = Some(Numbers::new(session));
        self.done.notify_waiters();
    }

    /// A session has ended. Nothing, if another was opened meanwhile.
    pub(super) fn end(&self, session: SessionId) {
        self.numbers().take_if(|numbers| numbers.session() == session);
        self.done.notify_waiters();
    }

    fn numbers(&self) -> MutexGuard<'_, Option<Numbers>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slip<'_> {
    pub(super) fn tag(&self) -> SessionTag {
        self.tag
    }
}

impl Drop for Slip<'_> {
    fn drop(&mut self) {
        if let Some(numbers) = &mut *self.desk.numbers() {
            numbers.done(self.tag);
        }
        self.desk.done.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_count_up_and_are_acknowledged_in_order() {
        let desk = Desk::default();
        assert!(desk.take().await.is_none());
        desk.begin(SessionId(7));
        let one = desk.take().await.unwrap();
        let two = desk.take().await.unwrap();
        assert_eq!((two.tag().sequence, two.tag().unacknowledged), (2, 1));
        drop(two);
        assert_eq!(desk.take().await.unwrap().tag().unacknowledged, 1);
        drop(one);
        assert_eq!(desk.take().await.unwrap().tag().unacknowledged, 4);
    }

    #[tokio::test]
    async fn a_number_of_an_old_session_acknowledges_nothing_of_the_new() {
        let desk = Desk::default();
        desk.begin(SessionId(7));
        let old = desk.take().await.unwrap();
        desk.end(SessionId(7));
        assert!(!desk.has_session());
        desk.begin(SessionId(8));
        let new = desk.take().await.unwrap();
        assert_eq!((old.tag().sequence, new.tag().sequence), (1, 1));
        drop(old);
        desk.end(SessionId(7));
        assert_eq!(desk.take().await.unwrap().tag().unacknowledged, 1);
    }

    #[tokio::test]
    async fn who_runs_too_far_ahead_waits_for_the_slowest() {
        let desk = Desk::default();
        desk.begin(SessionId(7));
        let slow = desk.take().await.unwrap();
        for _ in 1..Numbers::WINDOW {
            drop(desk.take().await.unwrap());
        }
        let mut next = Box::pin(desk.take());
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), &mut next).await;
        assert!(waiting.is_err());
        drop(slow);
        assert_eq!(next.await.unwrap().tag().sequence, Numbers::WINDOW + 1);
    }
}
