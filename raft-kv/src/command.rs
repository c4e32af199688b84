//! What is replicated: commands, and what became of them.
//!
//! Commands stand in the log for good, so their encoding only ever grows (see `codec`): a new kind
//! is a new variant at the end. A node that meets a kind it does not know stops (rule L18).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::DecodeError;
use crate::model::{KeyRange, KeyValue, LeaseId, Revision};

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Writes one key.
    Put(Put),
    /// Deletes the keys of a range.
    DeleteRange(DeleteRange),
    /// Gives up the history before a revision.
    Compact(Compact),
}

/// Writes one key. Always makes a new revision, even if the value is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key, not empty.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease that takes the key along when it ends.
    pub lease: Option<LeaseId>,
    /// Whether the outcome shall say what was there before.
    pub prev_kv: bool,
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
    /// The range holds more than one command may delete. Delete it in parts.
    #[error("the range holds more than {keys} keys or {bytes} bytes; delete it in parts")]
    TooMuch {
        /// The most keys that one command deletes.
        keys: u64,
        /// The most bytes that one command deletes.
        bytes: u64,
    },
}

impl Command {
    /// As it stands in the log.
    pub fn encode(&self) -> Bytes {
        codec::encode(VERSION, self)
    }

    /// The reverse of [`Command::encode`].
    ///
    /// # Errors
    ///
    /// [`DecodeError`], for any bytes that are not a command this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(VERSION, bytes)
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

/// The version of both encodings.
const VERSION: u8 = 1;
