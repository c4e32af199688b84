//! What is replicated: commands, and what became of them.
//!
//! Commands stand in the log for good (see `proposal`), so their encoding only ever grows (see
//! `codec`): a new kind is a new variant at the end. A node that meets a kind it does not know stops (rule L18).

use bytes::Bytes;
use raft_core::NodeId;
use raft_core::sessions::{SessionError, SessionId};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::DecodeError;
use crate::model::{KeyRange, KeyValue, LeaseId, Revision};
use crate::txn::{Txn, TxnOutcome};
use crate::version::MachineVersion;

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Writes one key.
    Put(Put),
    /// Deletes the keys of a range.
    DeleteRange(DeleteRange),
    /// Gives up the history before a revision.
    Compact(Compact),
    /// Does several things as one, depending on what is there.
    Txn(Txn),
    /// Opens a session that lives for so many milliseconds after a sign of life. Like all that
    /// concerns sessions, not for a command of a session.
    OpenSession {
        /// The time is kept between a second and a day.
        ttl_ms: u64,
    },
    /// Shows that a session is alive.
    KeepSession(SessionId),
    /// Ends a session.
    CloseSession(SessionId),
    /// Nothing but what time does. Only leaders say this.
    Tick,
    /// Grants a lease.
    GrantLease(LeaseGrant),
    /// Lets a lease begin anew.
    KeepLease(LeaseId),
    /// Ends a lease and deletes its keys, in one revision.
    RevokeLease(LeaseId),
    /// Switches on what this version of commands adds. Only leaders say this. Nothing, if it is on.
    Activate(MachineVersion),
    /// The data of a node is not that of the others. Only leaders say this.
    RaiseAlarm(Divergence),
    /// It is, again; or somebody has seen to it. Of one node, or of all.
    ClearAlarms(Option<NodeId>),
}

/// A node whose data is not that of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// Which.
    pub node: NodeId,
    /// As of this revision.
    pub revision: Revision,
}

/// Writes one key. Always makes a new revision, even if the value is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key, not empty.
    pub key: Bytes,
    /// The value.
    pub value: Field<Bytes>,
    /// The lease that takes the key along when it ends. `Set(None)` takes the key out of the lease
    /// it had.
    pub lease: Field<Option<LeaseId>>,
    /// Whether the outcome shall say what was there before.
    pub prev_kv: bool,
}

/// What a put does with a part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field<T> {
    /// It becomes this.
    Set(T),
    /// It stays as it is. Refused if the key is not there.
    Keep,
}

impl Put {
    /// Writes `value` under `key`, without a lease.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: Field::Set(value.into()),
            lease: Field::Set(None),
            prev_kv: false,
        }
    }

    /// Whether the key has to be there already.
    pub fn needs_key(&self) -> bool {
        matches!(self.value, Field::Keep) || matches!(self.lease, Field::Keep)
    }
}

/// Deletes the keys of a range. Makes a new revision if there were any. All or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRange {
    /// Which keys.
    pub range: KeyRange,
    /// Whether the outcome shall say what was there before.
    pub prev_kv: bool,
}

/// Gives up the history before `revision`: states at that revision and later can still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compact {
    /// The oldest revision that is kept.
    pub revision: Revision,
}

/// Grants a lease: its keys go when it was not kept alive for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    /// Its id. `None` to have one chosen.
    pub lease: Option<LeaseId>,
    /// How long it lives, in milliseconds. Kept between a second and ten years.
    pub ttl_ms: u64,
}

/// What became of a command. The same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A key was written.
    Put(PutOutcome),
    /// Keys were deleted.
    DeleteRange(DeleteOutcome),
    /// History was given up.
    Compact(CompactOutcome),
    /// The command made no sense; nothing was changed.
    Refused(Refused),
    /// A transaction was done, one way or the other.
    Txn(TxnOutcome),
    /// A session was opened, kept or closed.
    Session {
        /// Which.
        session: SessionId,
        /// How long it lives from now on. 0 if it was closed.
        ttl_ms: u64,
    },
    /// Time has passed.
    Ticked,
    /// A lease was granted, kept or revoked.
    Lease(LeaseOutcome),
    /// This version of commands is in force.
    Activated(MachineVersion),
    /// An alarm was raised, or alarms were cleared: these are left, by node.
    Alarms(Vec<Divergence>),
}

/// A lease was granted, kept or revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseOutcome {
    /// Which.
    pub lease: LeaseId,
    /// How long it lives from now on. 0 if it was revoked.
    pub ttl_ms: u64,
    /// The revision of the store. A new one if keys were deleted.
    pub revision: Revision,
}

/// A key was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOutcome {
    /// The revision this made.
    pub revision: Revision,
    /// What was there before, if that was asked for and there was something.
    pub previous: Option<KeyValue>,
}

/// Keys were deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOutcome {
    /// The revision after it. A new one if `deleted` is not 0.
    pub revision: Revision,
    /// How many keys there were.
    pub deleted: u64,
    /// What they were, by key, if that was asked for.
    pub previous: Vec<KeyValue>,
}

/// History was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactOutcome {
    /// The revision of the store, which this does not change.
    pub revision: Revision,
    /// The oldest revision that can still be read.
    pub compacted: Revision,
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refused {
    /// A key must not be empty.
    #[error("the key is empty; give a key of at least one byte")]
    EmptyKey,
    /// There is no such lease.
    #[error("there is no lease {0}; grant one first")]
    NoSuchLease(LeaseId),
    /// That revision is already compacted.
    #[error("revision {revision} is already compacted; the oldest that can be read is {compacted}")]
    Compacted {
        /// What was asked for.
        revision: Revision,
        /// The oldest that can be read.
        compacted: Revision,
    },
    /// There is no such revision yet.
    #[error("revision {revision} is in the future; the latest is {current}")]
    FutureRevision {
        /// What was asked for.
        revision: Revision,
        /// The latest there is.
        current: Revision,
    },
    /// It concerns, or would return, more than one command may. Do it in parts.
    #[error("that is more than {keys} keys or {bytes} bytes at once; do it in parts")]
    TooMuch {
        /// The most keys that one command changes.
        keys: u64,
        /// The most bytes that one command changes or returns.
        bytes: u64,
    },
    /// A put that keeps the value or the lease needs a key that is there.
    #[error("there is no key \"{}\", so its value or lease cannot be kept", .0.escape_ascii())]
    NoSuchKey(Bytes),
    /// A transaction changes a key twice.
    #[error("the transaction changes the key \"{}\" twice; a revision changes a key once",
        .0.escape_ascii())]
    DuplicateKey(Bytes),
    /// A transaction is too long or too deep.
    #[error(
        "the transaction has too many parts; at most {list} comparisons or operations in a list, \
         {all} in all, {depth} transactions in one another"
    )]
    TooManyParts {
        /// The most in one list.
        list: usize,
        /// The most in all lists.
        all: usize,
        /// The most levels of transactions.
        depth: u8,
    },
    /// The session does not take the command.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// What concerns sessions cannot be a command of one.
    #[error("what concerns sessions cannot belong to one; send it without a session")]
    NotInSession,
    /// There is a lease of that id already.
    #[error("there is a lease {0} already; choose another id, or none")]
    LeaseExists(LeaseId),
    /// There are as many leases as there may be.
    #[error("there are {limit} leases already; revoke some first")]
    TooManyLeases {
        /// The most there may be.
        limit: u64,
    },
    /// A lease has as many keys as can go at once.
    #[error("lease {lease} has {keys} keys or {bytes} bytes already; grant another")]
    LeaseFull {
        /// Which.
        lease: LeaseId,
        /// The most keys.
        keys: u64,
        /// The most bytes of keys and values.
        bytes: u64,
    },
    /// Not every node supports that yet.
    #[error(
        "that needs version {needed} of the state machine, and {active} is active; upgrade every node"
    )]
    NotActive {
        /// What it needs.
        needed: MachineVersion,
        /// What is in force.
        active: MachineVersion,
    },
}

impl Command {
    /// Whether it opens, keeps or closes sessions, or lets them end.
    pub fn concerns_sessions(&self) -> bool {
        match self {
            Self::OpenSession { .. }
            | Self::KeepSession(_)
            | Self::CloseSession(_)
            | Self::Tick => true,
            Self::Put(_)
            | Self::DeleteRange(_)
            | Self::Compact(_)
            | Self::Txn(_)
            | Self::GrantLease(_)
            | Self::KeepLease(_)
            | Self::RevokeLease(_)
            | Self::Activate(_)
            | Self::RaiseAlarm(_)
            | Self::ClearAlarms(_) => false,
        }
    }

    /// Whether it may make the store larger. If not, it is allowed when there is no space.
    pub fn adds_data(&self) -> bool {
        match self {
            Self::Put(_) | Self::GrantLease(_) => true,
            Self::Txn(txn) => txn.puts(),
            Self::DeleteRange(_)
            | Self::Compact(_)
            | Self::OpenSession { .. }
            | Self::KeepSession(_)
            | Self::CloseSession(_)
            | Self::Tick
            | Self::KeepLease(_)
            | Self::RevokeLease(_)
            | Self::Activate(_)
            | Self::RaiseAlarm(_)
            | Self::ClearAlarms(_) => false,
        }
    }
}

impl Outcome {
    /// As the state machine hands it to the node.
    pub fn encode(&self) -> Bytes {
        codec::encode(VERSION, self)
    }

    /// The reverse of [`Outcome::encode`].
    ///
    /// # Errors
    ///
    /// [`DecodeError`], for any bytes that are not an outcome this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(VERSION, bytes)
    }
}

/// The version of outcomes. 1 knew no transactions.
const VERSION: u8 = 2;
