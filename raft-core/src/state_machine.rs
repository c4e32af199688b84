//! The contract of the replicated application.
//!
//! Paper: §2, §5.3 (state machine safety), §7; dissertation 6.3. Rules C1, C3, S2, S3.

use bytes::Bytes;

use crate::entry::{Entry, Membership};
use crate::snapshot::{SnapshotMeta, SnapshotReader, SnapshotSource};
use crate::types::{Index, LogId};

/// The replicated application. One thread owns it.
///
/// Deterministic: `apply` looks at nothing but the entries and what is stored. No clock, no
/// randomness, no map order, no local configuration (rule C1).
pub trait StateMachine: Send + 'static {
    /// How far it has come: stored with the data, in the same atomic write (rule C3). After a crash
    /// this may be less than before, never less than [`StateMachine::durable`] has answered; the node
    /// applies the rest again.
    fn applied(&self) -> Applied;

    /// Applies consecutive committed entries, in order, each exactly once. Pushes one outcome an entry;
    /// for an entry that is not a command, an empty one.
    ///
    /// A command that makes no sense to the application is an outcome that says so, the same on every
    /// node, not an error.
    ///
    /// # Errors
    ///
    /// Final: the node stops. The machine may then have applied some of the entries, in order.
    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError>;

    /// Says how far what was applied is durable, and makes more of it durable: now, or in its own time. The
    /// log is never cut beyond the answer, so a machine that writes without a log of its own loses
    /// nothing. Nothing is applied until it returns, so one whose flush takes long begins it here and
    /// answers for the one before. The node asks only when it wants to compact the log, again and
    /// again until it can.
    ///
    /// # Errors
    ///
    /// Final: the node stops.
    fn durable(&mut self) -> Result<Index, MachineError>;

    /// A frozen image of the state after some entry: the last that was applied or an earlier one, but
    /// none before what [`StateMachine::durable`] has answered. Its head says which, and the log goes on
    /// from there. Takes time that does not depend on the amount of data; applying goes on while the
    /// image is read.
    ///
    /// One asked for again and again holds everything in the end: a follower that repairs itself does so.
    ///
    /// # Errors
    ///
    /// Final: the node stops.
    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError>;

    /// Replaces everything with `snapshot`, durably and atomically: after a crash inside this call,
    /// either the old state is found or the new one, with the matching [`StateMachine::applied`].
    ///
    /// Whatever the snapshot says of itself must agree with `snapshot.meta()`, which is what the
    /// protocol has decided on; a machine checks that *before* it replaces anything, since the node
    /// cannot go back afterwards.
    ///
    /// # Errors
    ///
    /// Final: the node stops. The old state is still there.
    fn restore(&mut self, snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError>;
}

/// How far a state machine has come, and the configuration in force there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry it applied.
    pub last: LogId,
    /// The last configuration among the applied entries. `None` before the first: the configuration
    /// the log was founded with is then in force.
    pub membership: Option<(LogId, Membership)>,
}

impl Applied {
    /// The same as the head of a snapshot, given the configuration the log was founded with.
    pub fn to_meta(&self, founding: &SnapshotMeta) -> SnapshotMeta {
        let (membership_at, membership) = self
            .membership
            .clone()
            .unwrap_or_else(|| (founding.membership_at, founding.membership.clone()));
        SnapshotMeta { last: self.last, membership, membership_at }
    }
}

/// Why a state machine could not go on. Always final.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// Its storage failed during `doing`. Look at the disk before restarting.
    #[error("the state machine failed while {doing}: {source}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// What the storage said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An entry or stored record cannot be understood. Skipping it would let replicas differ
    /// (rule L18): upgrade this node, or restore it from a peer.
    #[error("the state machine cannot understand {what}; upgrade this node or replace it")]
    Unknown {
        /// What it was, with the place where it stands.
        what: String,
    },
}
