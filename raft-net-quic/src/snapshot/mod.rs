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
//! The receiver says where to begin: at the beginning, or where the same snapshot of the same sender
//! broke off when a connection was lost or the receiver was restarted. The checksum of every file is sent in either case, over all
//! of the file, so that parts of two snapshots never become one.

mod arrived;
mod kept;
mod pace;
mod receive;
mod record;
mod send;

pub(crate) use arrived::prepare;
pub(crate) use kept::Shelf;
pub(crate) use pace::Pace;
pub(crate) use receive::receive;
pub(crate) use send::{Outcome, send};

/// What is read, written and checked at a time: blocking work is worth a hand-over to another
/// thread only in large pieces.
const CHUNK_BYTES: usize = 1 << 20;
/// The checksum that follows each file.
const CHECKSUM_BYTES: usize = 4;
