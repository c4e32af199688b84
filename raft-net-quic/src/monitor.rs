//! What an operator may want to know of a transport that runs, for metrics and status pages.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use raft_core::{LogId, NodeId};
use serde::Serialize;

use crate::shared::lock;
use crate::tls::CertificateExpiry;

/// Tells how a transport is doing. Cloning gives another handle; it outlives the transport, and then
/// tells what was true last.
#[derive(Clone)]
pub struct Monitor {
    watched: Arc<Watched>,
}

/// How far the transfer of a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotProgress {
    /// The node at the other end.
    pub peer: NodeId,
    /// Which way it goes.
    pub direction: SnapshotDirection,
    /// The last entry that the snapshot stands for.
    pub last: LogId,
    /// Bytes of files that have been sent, or received and written.
    pub bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// Which way a snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotDirection {
    /// From this node.
    Outgoing,
    /// To this node.
    Incoming,
}

/// What the tasks of a transport write down for its monitors.
#[derive(Debug)]
pub(crate) struct Watched {
    expiry: Mutex<CertificateExpiry>,
    /// Transfers under way, by number.
    transfers: Mutex<BTreeMap<u64, SnapshotProgress>>,
}

/// A transfer under way. Dropping it takes it off the list.
#[derive(Debug)]
pub(crate) struct Transfer {
    watched: Arc<Watched>,
    number: u64,
}

impl Monitor {
    pub(crate) fn new(watched: Arc<Watched>) -> Self {
        Self { watched }
    }

    /// When the certificates in use end.
    pub fn certificate_expiry(&self) -> CertificateExpiry {
        self.watched.expiry()
    }

    /// The transfers of snapshots that are under way or wait to be taken up again, oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotProgress> {
        lock(&self.watched.transfers).values().copied().collect()
    }
}

impl Watched {
    pub(crate) fn new(expiry: CertificateExpiry) -> Self {
        Self { expiry: Mutex::new(expiry), transfers: Mutex::default() }
    }

    pub(crate) fn expiry(&self) -> CertificateExpiry {
        *lock(&self.expiry)
    }

    pub(crate) fn set_expiry(&self, expiry: CertificateExpiry) {
        *lock(&self.expiry) = expiry;
    }

    /// Whether a snapshot up to `last` comes from `peer`.
    pub(crate) fn is_receiving(&self, peer: NodeId, last: LogId) -> bool {
        lock(&self.transfers).values().any(|transfer| {
            transfer.direction == SnapshotDirection::Incoming
                && (transfer.peer, transfer.last) == (peer, last)
        })
    }

    /// Lists a transfer; `number` has not been used before.
    pub(crate) fn begin(self: &Arc<Self>, number: u64, progress: SnapshotProgress) -> Transfer {
        lock(&self.transfers).insert(number, progress);
        Transfer { watched: Arc::clone(self), number }
    }
}

impl Transfer {
    /// So many bytes are through.
    pub(crate) fn reached(&self, bytes: u64) {
        if let Some(progress) = lock(&self.watched.transfers).get_mut(&self.number) {
            progress.bytes = bytes;
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        lock(&self.watched.transfers).remove(&self.number);
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}
