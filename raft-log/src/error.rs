//! Why a data directory or its log could not be opened.
//!
//! Errors of a running log are those of the contract, [`StoreError`].

use std::io;
use std::path::PathBuf;

use raft_core::{ClusterId, NodeId, StoreError};

/// Why a data directory could not be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is something else at that path. Choose another one.
    #[error("{path} is not a directory; choose another data directory")]
    NotADirectory {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The system refused. Look at the permissions, the owner and the disk.
    #[error("{path}: {doing} failed: {source}; check its owner, its permissions and the disk")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses the directory. Stop it, or choose another directory.
    #[error("{path} is in use by {}; stop it or choose another data directory", owner(*.process))]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The process that holds it, if it left its number.
        process: Option<u32>,
    },
    /// The identity file does not check out. Restore it, or let the node rejoin anew.
    #[error("{path} is damaged: {what}; {repair}")]
    DamagedIdentity {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        repair: &'static str,
    },
    /// A newer version of this program wrote the directory. Use that version.
    #[error("{path} has format {found}, this version knows {supported}; use the newer version")]
    NewerFormat {
        /// The identity file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format this version reads.
        supported: u32,
    },
    /// The directory is not initialised. Bootstrap a cluster with it or join one.
    #[error("{path} is not initialised; bootstrap a cluster with it or join one")]
    NotInitialised {
        /// The data directory.
        path: PathBuf,
    },
    /// The directory is initialised already; that happens once.
    #[error("{path} already belongs to node {node} of cluster {cluster}")]
    AlreadyInitialised {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        node: NodeId,
        /// Of which cluster.
        cluster: ClusterId,
    },
    /// There is a log but no identity file, and the log has been written to. Somebody removed the
    /// identity file: put it back.
    #[error("{path} holds a log but no identity file: {what}; restore the file, do not initialise")]
    Orphaned {
        /// The data directory.
        path: PathBuf,
        /// What was found in the log.
        what: String,
    },
    /// The directory belongs to another node. Two nodes never share one.
    #[error("{path} belongs to node {found}, not to node {expected}; use its own data directory")]
    OtherNode {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        expected: NodeId,
    },
    /// The directory belongs to another cluster.
    #[error("{path} belongs to cluster {found}, not to cluster {expected}")]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// To which.
        found: ClusterId,
        /// Which was asked for.
        expected: ClusterId,
    },
    /// The write-ahead log is somewhere else. Where it is was decided when the directory was
    /// initialised; to move it, stop the node, move the directory and let the link `wal` point to it.
    #[error(
        "{path} has its write-ahead log in {found}, not in {wanted}; \
         leave that option out, or move the log and the link {path}/wal"
    )]
    OtherWal {
        /// The data directory.
        path: PathBuf,
        /// Where it is.
        found: PathBuf,
        /// Where it was said to be.
        wanted: PathBuf,
    },
    /// What is to hold the write-ahead log is not this node's.
    #[error(
        "{path} cannot hold the write-ahead log: {what}; use an empty directory of this node's"
    )]
    ForeignWal {
        /// The directory for the write-ahead log.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The log itself could not be opened.
    #[error(transparent)]
    Log(#[from] StoreError),
}

fn owner(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"))
}
