//! Whether puts are taken: there must be space for them here, and, as far as this node knows, everywhere.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use raft_core::NodeId;

use crate::api::{ErrorReply, Rejection};
use crate::command::Command;
use crate::space::Space;

use super::check::rejected;
use super::{Inner, lock};

/// What was seen of space, last time it was looked at.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Of the file system here.
    free: u64,
    looked_at: Option<Instant>,
    /// The other node that is worst off.
    worst: Option<(NodeId, Space)>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { free: u64::MAX, looked_at: None, worst: None }
    }
}

impl Inner {
    /// Looks at the file system, if that was not done just now.
    pub(super) fn look_at_space(&self) {
        let looked_at = lock(&self.gauge.seen).looked_at;
        if looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        let free = self.reader.free_bytes().unwrap_or_else(|error| {
            tracing::warn!(%error, "nobody knows how much space is left");
            u64::MAX
        });
        let mut seen = lock(&self.gauge.seen);
        (seen.free, seen.looked_at) = (free, Some(Instant::now()));
    }

    /// Takes note of the other node that is worst off, while this one leads.
    pub(super) fn others_have(&self, worst: Option<(NodeId, Space)>) {
        lock(&self.gauge.seen).worst = worst;
    }

    /// How it is with this node's own space.
    pub(super) fn space(&self) -> Space {
        Space::judge(self.reader.config(), self.reader.stored_bytes(), self.free_bytes())
    }

    /// As last looked at.
    pub(super) fn free_bytes(&self) -> u64 {
        lock(&self.gauge.seen).free
    }

    /// Refuses what may make the store larger, if some node has no space for it.
    pub(super) fn has_space_for(&self, command: &Command) -> Result<(), ErrorReply> {
        if !command.adds_data() {
            return Ok(());
        }
        let worst = lock(&self.gauge.seen).worst;
        let who = match worst {
            _ if self.space() == Space::Full => self.identity.node,
            Some((node, Space::Full)) => node,
            Some(_) | None => return Ok(()),
        };
        let message = if who == self.identity.node {
            let (stored, free) = (self.reader.stored_bytes(), self.free_bytes());
            format!(
                "node {who} has no space left: it holds {stored} bytes and its disk has {free} to \
                 spare; delete keys and compact, or raise its quota"
            )
        } else {
            format!("node {who} has no space left; delete keys and compact, or raise its quota")
        };
        Err(rejected(Rejection::NoSpace, message))
    }
}

/// Files grow slowly, compared with that.
const LOOK_EVERY: Duration = Duration::from_secs(1);
