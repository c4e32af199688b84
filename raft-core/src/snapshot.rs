//! What a snapshot is, on its way from one state machine to another.
//!
//! Paper: §7, Figure 13. A snapshot is a set of named files. The sender reads them piece by piece,
//! so that neither side holds a snapshot in memory; the receiver hands over a finished, verified
//! copy. Nothing here knows what the files mean.

use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::entry::Membership;
use crate::types::{LogId, NodeId, Term};

/// What a snapshot stands for: the log up to `last`, and the configuration in force there (rule M9).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The last entry whose effect is in the snapshot.
    pub last: LogId,
    /// The configuration in force at `last`.
    pub membership: Membership,
    /// Where that configuration was appended; at most `last`.
    pub membership_at: LogId,
}

/// What travels before the files: who sends a snapshot, as leader of which term, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The leader that sends it.
    pub from: NodeId,
    /// The node it is for.
    pub to: NodeId,
    /// The sender's term when it decided to send.
    pub term: Term,
    /// What the snapshot stands for.
    pub meta: SnapshotMeta,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// A plain file name: letters, digits, `.`, `-` and `_`, no directory, at most 255 bytes.
    pub name: String,
    /// Its length in bytes. It does not change while the snapshot lives.
    pub bytes: u64,
}

/// A frozen image of a state machine, as its sender sees it. Dropping it releases what it holds.
pub trait SnapshotSource: Send + fmt::Debug {
    /// What the snapshot stands for.
    fn meta(&self) -> &SnapshotMeta;

    /// Its files, in the order in which they are to be sent.
    fn files(&self) -> &[SnapshotFile];

    /// Reads from file number `file`, starting `offset` bytes in. Returns how many bytes of
    /// `buffer` were filled: 0 only at the end of the file or if `buffer` is empty.
    ///
    /// # Errors
    ///
    /// Whatever the device says. The transfer is given up and may be tried again.
    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A snapshot that has arrived whole and was verified, as its receiver sees it. Dropping it removes
/// what is left of it.
pub trait SnapshotReader: Send + fmt::Debug {
    /// What the snapshot stands for.
    fn meta(&self) -> &SnapshotMeta;

    /// Its files.
    fn files(&self) -> &[SnapshotFile];

    /// Reads from file number `file`, as [`SnapshotSource::read_at`] does.
    ///
    /// # Errors
    ///
    /// Whatever the device says.
    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// The directory that holds the files under their names, if they are on disk. A state machine
    /// on the same file system may rename them away instead of copying them.
    fn directory(&self) -> Option<&Path> {
        None
    }
}
