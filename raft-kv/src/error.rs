//! What can go wrong in the store, named for what the caller can do about it.

use std::io;
use std::path::PathBuf;

use raft_core::{LogId, MachineError};

use crate::model::Revision;
use crate::version::MachineVersion;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// Another process uses the directory. Stop it, or choose another directory.
    #[error("{} is in use by another process; stop it or choose another directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The file system failed. Look at the disk before trying again.
    #[error("{doing} {} failed: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// RocksDB failed. Look at the disk before trying again.
    #[error("the key-value store failed while {doing}: {source}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// The store was written by another version of this program. Use that version, or replace the store
    /// from a peer.
    #[error(
        "the store has format {found} and this program knows {supported}; use the program that wrote \
         it, or replace the store from a peer"
    )]
    Format {
        /// The format found.
        found: String,
        /// The format this program knows.
        supported: u32,
    },
    /// The cluster has switched on what this program does not support (rule C7). Upgrade it.
    #[error(
        "version {found} of the state machine is active and this program supports {supported}; \
         upgrade it"
    )]
    Newer {
        /// What is in force.
        found: MachineVersion,
        /// What this program supports.
        supported: MachineVersion,
    },
    /// What is stored makes no sense. Remove this node's store and let a peer send a snapshot.
    #[error("the key-value store is damaged: {what}; replace it from a peer")]
    Corrupt {
        /// What was found, and where.
        what: String,
    },
    /// A snapshot does not hold what its head promises. Nothing was changed; have it sent again.
    #[error("the snapshot holds the state at {found}, but its head says {promised}")]
    WrongSnapshot {
        /// What its head says.
        promised: LogId,
        /// What is in it.
        found: LogId,
    },
    /// The history that was asked for is gone. Ask for revision `compacted` or a later one.
    #[error("revision {revision} is compacted; the oldest that can be read is {compacted}")]
    Compacted {
        /// What was asked for.
        revision: Revision,
        /// The oldest that can still be read.
        compacted: Revision,
    },
    /// The revision asked for does not exist yet. Ask for `current` or an earlier one.
    #[error("revision {revision} is in the future; the latest here is {current}")]
    FutureRevision {
        /// What was asked for.
        revision: Revision,
        /// The latest there is.
        current: Revision,
    },
    /// The configuration makes no sense.
    #[error("the key-value configuration is wrong: {0}")]
    Config(String),
}

impl KvError {
    pub(crate) fn storage(doing: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| Self::Storage { doing, source }
    }

    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    /// The same as an error that stops the node (rule L14).
    pub(crate) fn fatal(doing: &'static str) -> impl FnOnce(Self) -> MachineError {
        move |error| {
            if matches!(error, Self::Newer { .. }) {
                let what = format!("what the cluster has switched to: {error}");
                return MachineError::Unknown { what };
            }
            MachineError::Storage { doing, source: Box::new(error) }
        }
    }
}

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// It has another version. Upgrade whichever side is older.
    #[error("it has version {found}, and this program knows version {supported}")]
    Version {
        /// The version found.
        found: u8,
        /// The one this program knows.
        supported: u8,
    },
    /// It is of a kind this program does not know, is cut short, or is garbage.
    #[error("it cannot be decoded: {0}")]
    Malformed(postcard::Error),
    /// Something follows that does not belong to it.
    #[error("{bytes} bytes follow its end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}
