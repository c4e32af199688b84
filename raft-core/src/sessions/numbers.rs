//! The numbers of a client's commands in its session (dissertation 6.3).

use std::collections::BTreeSet;

use super::{SessionId, SessionTag};

/// Numbers the commands of one session, on the client's side: counts up, and knows for which there is no
/// answer yet.
#[derive(Clone, Debug)]
pub struct Numbers {
    session: SessionId,
    /// The last number that was given out.
    last: u64,
    /// The numbers whose commands are not done.
    under_way: BTreeSet<u64>,
}

impl Numbers {
    /// So many numbers there are at most from the first that is under way to the last. Less than the state
    /// machine allows, so that it never refuses one.
    pub const WINDOW: u64 = 4000;

    /// Those of a session that was just opened.
    pub fn new(session: SessionId) -> Self {
        Self { session, last: 0, under_way: BTreeSet::new() }
    }

    /// Whose they are.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The next number, for a command that was never sent. The same tag goes with it each time it is sent
    /// again. `None` if [`Numbers::WINDOW`] is used up: wait until a command is done.
    pub fn take(&mut self) -> Option<SessionTag> {
        let sequence = self.last + 1;
        let unacknowledged = self.under_way.first().copied().unwrap_or(sequence);
        if sequence - unacknowledged >= Self::WINDOW {
            return None;
        }
        self.last = sequence;
        self.under_way.insert(sequence);
        Some(SessionTag { session: self.session, sequence, unacknowledged })
    }

    /// The command with this tag will not be sent again: it was answered, or nobody asks any more. Nothing, if
    /// the tag is of another session.
    pub fn done(&mut self, tag: SessionTag) {
        if tag.session == self.session {
            self.under_way.remove(&tag.sequence);
        }
    }
}
