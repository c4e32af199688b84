//! What the application holds of a running node.
//!
//! Answers come as callbacks, called once each on one of the node's threads; they must not block.
//! That suits threads and async alike.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::threads::Shared;
use crate::event::{Change, Refusal, Status};
use crate::log_store::StoreError;
use crate::state_machine::MachineError;
use crate::types::{Index, LogId, NodeId};

/// A running node. Cloning gives another handle to the same node; it stops when told to, not when
/// the handles are dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// A command that is committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it stands in the log.
    pub id: LogId,
    /// What the state machine answered.
    pub outcome: Bytes,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// It sees every write that was acknowledged before the read began (dissertation 6.4).
    Linearizable,
    /// The same, as long as clocks keep within the configured bound ([`crate::Config::lease`]): a leader
    /// that holds a lease asks nobody (dissertation 6.4.1). Without a lease at the moment it costs what
    /// [`ReadLevel::Linearizable`] costs; without leases at all it is refused
    /// ([`Refusal::LeasesOff`]).
    Lease,
    /// It sees whatever this node has applied.
    Stale,
}

/// Why a proposal, change or read has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It has had and will have no effect. The refusal says what to do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another leader has put another entry in its place. It has had and will have no effect.
    #[error("another leader has overwritten it; it has had no effect and may be sent again")]
    Superseded,
    /// This node stopped leading before the outcome was known. The command may still take effect
    /// (rule C4): do not send it again unless doing it twice is harmless.
    #[error("leadership was lost before the outcome was known; the command may still take effect")]
    Unknown,
    /// The command is larger than a log entry may be.
    #[error("the command has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// More requests wait than the node's inbox holds. It has had no effect. Try again in a moment.
    #[error("the node is busy; try again in a moment")]
    Busy,
    /// The node has stopped. If the request had reached it, its outcome is unknown.
    #[error("the node has stopped: {0}")]
    Stopped(StopCause),
}

/// Why a node stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopCause {
    /// It was told to.
    #[error("it was told to stop")]
    Asked,
    /// The log failed. See [`StoreError`].
    #[error(transparent)]
    Log(Arc<StoreError>),
    /// The state machine failed. See [`MachineError`].
    #[error(transparent)]
    Machine(Arc<MachineError>),
    /// An invariant of this project broke. The node must not vote any more; please report the facts.
    #[error("a broken invariant, please report it: {0}")]
    Bug(Arc<str>),
}

impl StopCause {
    pub(super) fn log(error: StoreError) -> Self {
        Self::Log(Arc::new(error))
    }

    pub(super) fn machine(error: MachineError) -> Self {
        Self::Machine(Arc::new(error))
    }
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Replicates `command` and applies it. `done` is called once its outcome is known, or once it is
    /// known that it cannot be known.
    ///
    /// Commands of one caller are appended in the order of the calls, if they are taken.
    pub fn propose(
        &self,
        command: Bytes,
        done: impl FnOnce(Result<Committed, RequestError>) + Send + 'static,
    ) {
        self.shared.propose(command, Box::new(done));
    }

    /// Says when the application may read its own store: once `done` is called with an index, the
    /// state machine has applied everything up to it, and a read sees what `level` promises.
    pub fn read_barrier(
        &self,
        level: ReadLevel,
        done: impl FnOnce(Result<Index, RequestError>) + Send + 'static,
    ) {
        self.shared.read_barrier(level, Box::new(done));
    }

    /// Changes the membership. `done` is called once the first configuration of the change is committed;
    /// a joint configuration is then left without further calls.
    pub fn change_membership(
        &self,
        change: Change,
        done: impl FnOnce(Result<LogId, RequestError>) + Send + 'static,
    ) {
        self.shared.change_membership(change, Box::new(done));
    }

    /// Hands leadership to `to` (dissertation 3.10).
    pub fn transfer(
        &self,
        to: NodeId,
        done: impl FnOnce(Result<(), RequestError>) + Send + 'static,
    ) {
        self.shared.transfer(to, Box::new(done));
    }

    /// Forgets who leads, so that this node listens to campaigns at once instead of waiting until it has
    /// missed the leader for an election timeout: for when the leader is known to be dead. A leader
    /// that lives after all is followed again as soon as it speaks. Refused with leases on
    /// ([`Refusal::LeasesOn`]), and at the leader itself.
    pub fn forget_leader(&self, done: impl FnOnce(Result<(), RequestError>) + Send + 'static) {
        self.shared.forget_leader(Box::new(done));
    }

    /// Has the state machine's data replaced by a snapshot from the leader, although the log would do:
    /// for when the application has found it damaged. Nothing more is applied until it has come; `done`
    /// is called once it is installed. Refused at the leader, and while a snapshot is on its way already
    /// ([`Refusal::SnapshotPending`]). A restart forgets the request.
    pub fn request_snapshot(&self, done: impl FnOnce(Result<(), RequestError>) + Send + 'static) {
        self.shared.request_snapshot(Box::new(done));
    }

    /// What the node is doing: as of the last time it did something, without waiting for it.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Calls `watcher` now and after every change of role, term, leader or membership, until it
    /// returns `false`. It must not block.
    pub fn subscribe(&self, watcher: impl FnMut(&Status) -> bool + Send + 'static) {
        self.shared.subscribe(Box::new(watcher));
    }

    /// Tells the node to stop and returns at once. A leader first tries for `grace` to hand its
    /// leadership over. Use [`Handle::wait`] to see it done.
    pub fn stop(&self, grace: Duration) {
        self.shared.stop(grace);
    }

    /// Blocks until the node has stopped, for whatever cause, and all its threads are gone: the log
    /// and the state machine are dropped then.
    pub fn wait(&self) -> StopCause {
        self.shared.wait()
    }

    /// Why the node stopped, if it has.
    pub fn stopped(&self) -> Option<StopCause> {
        self.shared.stopped()
    }
}
