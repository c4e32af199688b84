//! Exactly-once sessions: a command that is sent twice is run once (dissertation 6.3, rule C2).
//!
//! Raft alone applies a command as often as it stands in the log, and a client that had no answer has
//! to send it again. So the state machine remembers what it answered. A client opens a *session*;
//! each of its commands carries a [`SessionTag`]: the session, a sequence number, and the lowest
//! number for which the client has no answer yet. A number that was seen before gets its first
//! answer again; answers below the lowest are forgotten.
//!
//! Sessions end by the [`ClusterTime`], which stands in the log and is thus the same everywhere. A
//! command of a session that has ended is refused, never taken for that of a new client.
//!
//! [`SessionTable`] decides all of that and stores nothing: a state machine with a disk keeps the
//! table's records and the answers in the same write as its data. [`Timekeeper`] works out the time
//! that a leader puts into the log, and [`Numbers`] gives a client's commands their numbers. Nothing
//! here needs a disk, a clock, or a particular state machine; `raft-sessions` puts all of it around one
//! that knows nothing of sessions.

mod clock;
mod numbers;
mod table;

use serde::{Deserialize, Serialize};

pub use clock::{Sight, Stamp, Timekeeper};
pub use numbers::Numbers;
pub use table::{Admission, EndedSession, SessionError, SessionRecord, SessionTable};

/// Time as the cluster counts it, in milliseconds: it stands in the log, put there by leaders, and
/// never goes back. It stands still while nobody needs it or nobody leads; it never runs ahead of
/// real time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ClusterTime(pub u64);

impl ClusterTime {
    /// So many milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// How many milliseconds there are from `earlier` to this; 0 if it is not earlier.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Names a session for all time: the index of the entry that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// What a command of a session carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTag {
    /// Whose command it is.
    pub session: SessionId,
    /// Its number: 1 for the first command of the session. The same each time it is sent.
    pub sequence: u64,
    /// The lowest number for which the client may still ask again. At most `sequence`.
    pub unacknowledged: u64,
}
