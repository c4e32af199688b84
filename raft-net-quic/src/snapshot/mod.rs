//! Snapshots on their way: one stream each, file after file, never a whole one in memory.
//!
//! ```text
//! sender                                receiver
//! SnapshotOpening {header, files}  ->   checks names, sizes, room
//!                                  <-   From {file, offset}
//! bytes of a file, its CRC32C, ... ->   writes, verifies, syncs
//!                                  <-   Complete, or Refused(why) at any time
//! ```
//!
//! The receiver says where to begin, so that a broken transfer can be taken up again; for now it
//! always begins at the beginning.

mod arrived;
mod receive;
mod send;

pub(crate) use arrived::prepare;
pub(crate) use receive::receive;
pub(crate) use send::{Outcome, send};

/// What is read, written and checked at a time: blocking work is worth a hand-over to another
/// thread only in large pieces.
const CHUNK_BYTES: usize = 1 << 20;
/// The checksum that follows each file.
const CHECKSUM_BYTES: usize = 4;
