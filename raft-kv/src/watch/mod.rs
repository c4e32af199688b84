//! Watches: what happens to some keys, from some revision on, in order and without a gap.
//!
//! ```text
//! state machine ── rings ──> hub ── events as they happen ──> watcher ──> client
//!                                   events of the past ─────────┘ (history)
//! ```
//!
//! A watcher has a position: the first change it has not been told. While the position is in the past
//! it reads history, a piece at a time; once it has caught up it takes a *seat* at the hub, which hands
//! it each event as it happens. A watcher that falls behind loses its seat and reads history again. So
//! nothing ever waits for a watcher, and each holds little memory however slow it is.
//!
//! The state machine does no more than ring a bell. Everything else is done on other threads.

mod history;
mod hub;
mod index;
mod watcher;

use bytes::Bytes;
use raft_core::Index;
use serde::{Deserialize, Serialize};

use crate::model::{KeyRange, KeyValue, Revision};

pub(crate) use hub::{Bell, Hub};
pub(crate) use watcher::{Step, Watcher};

/// What to watch. See [`WatchRequest::new`] for the usual one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRequest {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision of interest, which may be in the past unless it is compacted, or in the
    /// future. `None` for whatever comes after now.
    pub from: Option<Revision>,
    /// Which events to leave out.
    pub filter: EventFilter,
    /// Whether to say what a key was before.
    pub prev_kv: bool,
    /// When there was no event for so long, in milliseconds, say how far the watch has come. At least
    /// 100. `None` for never.
    pub progress_ms: Option<u32>,
    /// The last index of which the client has seen the effect. "Now" is not before that (rule C8).
    pub min_applied: Index,
}

/// Which events to leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What kind of thing.
    pub kind: EventKind,
    /// The key as it is since. Of a deletion only the key and the revision that deleted it
    /// (`mod_revision`) mean anything.
    pub kv: KeyValue,
    /// The key as it was before, if that was asked for and it was there.
    pub prev_kv: Option<KeyValue>,
}

/// What kind of thing happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, by a client or with its lease.
    Delete,
}

/// A piece of what a watch has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// What happened, by revision; within one, in the order of its operations. May be nothing.
    pub events: Vec<Event>,
    /// Everything up to this revision was said, with this; but see `more`.
    pub through: Revision,
    /// The events of the revision `through` go on in the next piece. Only if they do not fit into one.
    pub more: bool,
}

impl WatchRequest {
    /// Every event of `range` from now on.
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            from: None,
            filter: EventFilter::default(),
            prev_kv: false,
            progress_ms: None,
            min_applied: Index::ZERO,
        }
    }
}

impl Event {
    /// The revision that made it.
    pub fn revision(&self) -> Revision {
        self.kv.mod_revision
    }

    /// What it counts for against limits, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.kv.len_bytes() + self.prev_kv.as_ref().map_or(0, KeyValue::len_bytes)
    }

    fn deletion(key: Bytes, revision: Revision, prev_kv: Option<KeyValue>) -> Self {
        let kv = KeyValue {
            key,
            value: Bytes::new(),
            create_revision: Revision::default(),
            mod_revision: revision,
            version: 0,
            lease: None,
        };
        Self { kind: EventKind::Delete, kv, prev_kv }
    }
}

impl EventFilter {
    fn passes(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}
