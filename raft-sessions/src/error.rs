//! What can go wrong beside the state machine itself.

use std::io;
use std::path::PathBuf;

use raft_core::{LogId, MachineError};

/// Why [`Sessions`](crate::Sessions) cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionsError {
    /// The directory cannot be used.
    #[error("{doing} in {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{} is in use by another process; stop that first", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// What is there is not what was written.
    #[error("{}: {what}; replace this node", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The state machine has a past without sessions. Nobody knows what it answered then.
    #[error(
        "the state machine has applied {applied} and its sessions nothing; begin with an empty one"
    )]
    NotNew {
        /// The last entry it applied.
        applied: LogId,
    },
    /// The inner state machine failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Why bytes are not what they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There are none.
    #[error("there are no bytes")]
    Empty,
    /// A later program made them.
    #[error("version {found}; this program knows {supported}")]
    Version {
        /// Their version.
        found: u8,
        /// The one that is known.
        supported: u8,
    },
    /// They do not follow the encoding.
    #[error("malformed: {0}")]
    Malformed(postcard::Error),
    /// What they say cannot be.
    #[error("they contradict themselves: {what}")]
    Contradiction {
        /// How.
        what: &'static str,
    },
    /// There are too many.
    #[error("{bytes} bytes too many")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}
