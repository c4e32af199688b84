//! What is replicated: commands, and what became of them.
//!
//! Commands stand in the log for good, so their encoding only ever grows (see `codec`): a new kind
//! is a new variant at the end. A node that meets a kind it does not know stops (rule L18).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::DecodeError;
use crate::model::{KeyRange, KeyValue, LeaseId, Revision};
use crate::txn::{Txn, TxnOutcome};

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

/// The version of both encodings. 1 had puts without [`Field`].
const VERSION: u8 = 2;
