//! Looking at what ends by the clock of the cluster: leases and sessions.

use bytes::Bytes;
use raft_core::sessions::{ClusterTime, SessionId, SessionRecord};
use rocksdb::ReadOptions;
use serde::{Deserialize, Serialize};

use crate::error::KvError;
use crate::model::LeaseId;
use crate::reader::KvReader;
use crate::record::{
    SessionRow, decode_row, lease_key, lease_rows_end, parse_lease_key, parse_session_key,
};
use crate::scan::View;
use crate::timed::LeaseRecord;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inspection {
    /// One lease.
    Lease {
        /// Which.
        lease: LeaseId,
        /// Whether its keys are to be listed.
        with_keys: bool,
    },
    /// All leases, without their keys.
    Leases,
    /// All sessions.
    Sessions,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inspected {
    /// A lease. `None` if there is no such lease.
    Lease(Option<LeaseStatus>),
    /// Leases, by id.
    Leases(Listing<LeaseStatus>),
    /// Sessions, by id.
    Sessions(Listing<SessionStatus>),
}

/// The first of what there is, as many as fit into an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing<T> {
    /// By id, ascending.
    pub items: Vec<T>,
    /// Whether there are more.
    pub more: bool,
}

/// How a lease is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Which.
    pub lease: LeaseId,
    /// How long it lives after it was granted or kept, in milliseconds.
    pub ttl_ms: u64,
    /// How much of that is left. 0 if it is about to go.
    pub remaining_ms: u64,
    /// How many keys it has.
    pub key_count: u64,
    /// Its keys, in order, if that was asked for; as many as fit into an answer.
    pub keys: Vec<Bytes>,
}

/// How a session is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Which.
    pub session: SessionId,
    /// How long it lives after a sign of life, in milliseconds.
    pub ttl_ms: u64,
    /// How much of that is left. 0 if it is about to end.
    pub remaining_ms: u64,
    /// The lowest number that its client has not acknowledged.
    pub unacknowledged: u64,
}

impl KvReader {
    /// Looks at leases or sessions. `now` is what time it is in the cluster; what has come to the
    /// store may be behind.
    ///
    /// # Errors
    ///
    /// [`KvError::Storage`] or [`KvError::Corrupt`] if the store cannot be read.
    pub(crate) fn inspect(&self, what: Inspection, now: ClusterTime) -> Result<Inspected, KvError> {
        let store = self.store();
        let view = View::new(&store)?;
        let room = self.config().max_reply_bytes;
        Ok(match what {
            Inspection::Lease { lease, with_keys } => {
                let room = if with_keys { room } else { 0 };
                Inspected::Lease(leases(&view, Some(lease), now, room, 1)?.items.pop())
            }
            Inspection::Leases => {
                let most = self.config().max_reply_bytes / size_of::<LeaseStatus>();
                Inspected::Leases(leases(&view, None, now, 0, most)?)
            }
            Inspection::Sessions => {
                let most = self.config().max_reply_bytes / size_of::<SessionStatus>();
                Inspected::Sessions(sessions(&view, now, most)?)
            }
        })
    }
}

/// One lease, or all of them up to `most`, with keys of at most `room` bytes.
fn leases(
    view: &View<'_>,
    only: Option<LeaseId>,
    now: ClusterTime,
    room: usize,
    most: usize,
) -> Result<Listing<LeaseStatus>, KvError> {
    let mut found: Vec<LeaseStatus> = Vec::new();
    let mut more = false;
    let mut left = room;
    let before = only.map(|lease| lease_rows_end(lease).into());
    let mut rows = view.rows(view.families().leases, before, ReadOptions::default());
    rows.seek(only.map_or_else(Vec::new, |lease| lease_key(lease, b"")));
    while let Some((row, value)) = rows.item() {
        let count = found.len();
        match (parse_lease_key(row)?, found.last_mut()) {
            ((_, []), _) if count >= most => {
                more = true;
                break;
            }
            ((lease, []), _) => {
                let record: LeaseRecord = decode_row("a lease", value)?;
                found.push(LeaseStatus {
                    lease,
                    ttl_ms: record.ttl_ms,
                    remaining_ms: record.deadline.ms_since(now),
                    key_count: record.keys,
                    keys: Vec::new(),
                });
                if room == 0 {
                    // Over its keys to the next lease.
                    rows.seek(lease_rows_end(lease));
                    continue;
                }
            }
            ((_, key), Some(status)) if key.len() + KEY_BYTES <= left => {
                left -= key.len() + KEY_BYTES;
                status.keys.push(Bytes::copy_from_slice(key));
            }
            ((_, _), _) => break,
        }
        rows.next();
    }
    rows.status().map_err(KvError::storage("reading leases"))?;
    Ok(Listing { items: found, more })
}

fn sessions(
    view: &View<'_>,
    now: ClusterTime,
    most: usize,
) -> Result<Listing<SessionStatus>, KvError> {
    let mut found = Vec::new();
    let mut more = false;
    let mut rows = view.rows(view.families().sessions, None, ReadOptions::default());
    rows.seek_to_first();
    while let Some((row, value)) = rows.item() {
        if let SessionRow::Session(session) = parse_session_key(row)? {
            if found.len() >= most {
                more = true;
                break;
            }
            let record: SessionRecord = decode_row("a session", value)?;
            found.push(SessionStatus {
                session,
                ttl_ms: record.ttl_ms,
                remaining_ms: record.deadline().ms_since(now),
                unacknowledged: record.lowest,
            });
        }
        rows.next();
    }
    rows.status().map_err(KvError::storage("reading sessions"))?;
    Ok(Listing { items: found, more })
}

/// What a key of a lease counts for in an answer, beside its bytes.
const KEY_BYTES: usize = 8;
