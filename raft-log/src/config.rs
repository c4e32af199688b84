//! What can be set about the log on disk.
//!
//! Only what an operator may have a reason to change. What safety needs is not here: every batch is
//! fsynced, always.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`RocksLog`](crate::RocksLog). They may differ from one start to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RocksLogConfig {
    /// Where the write-ahead log goes, if not beside the tables: a directory on another disk, empty and
    /// for this node alone. Decided when a data directory is initialised, and kept in it (the link `wal`);
    /// `None` later on means wherever it is, and another directory is refused. Default none.
    pub wal_dir: Option<PathBuf>,
    /// How many bytes of entries are gathered in memory before they are written to a table file.
    /// Default 16 MiB; RocksDB takes at least 64 KiB. A start reads about this much again from the
    /// write-ahead log, so more means slower starts and fewer files.
    pub memtable_bytes: usize,
    /// How many such buffers may exist while the disk is behind. Default 4, at least 2. Memory is
    /// bounded by this times `memtable_bytes`.
    pub memtables: u32,
    /// How many bytes the files of the write-ahead log are made long at a start, before they are
    /// needed: writing over what is there costs the disk about half of what making a file longer
    /// does. Default 16 MiB, which `memtable_bytes` bytes of entries fill; a start writes twice as
    /// much. 0 for none: then the log gets faster once so much was written.
    pub prepared_bytes: usize,
    /// The size of a block in a table file, the unit of reading. Default 32 KiB: the log is read in
    /// long runs, for followers that are behind.
    pub block_bytes: usize,
    /// How many bytes of such blocks are kept in memory. Default 8 MiB: what followers usually need
    /// is in the node's own cache and never read from here.
    pub cache_bytes: usize,
    /// How many table files may be open at a time. Default 256.
    pub open_files: u32,
    /// How many bytes are kept aside for a full disk: released when a write finds no room, so that
    /// the node can start again. Default 128 MiB, what a start may write: all memtables, two prepared
    /// files and a little; 0 for none.
    pub reserve_bytes: u64,
    /// At most this long after a write its watermark is fsynced, if further writes follow; the
    /// system does it after half a minute if none does. Default 1 s: one more fsync a second. It
    /// matters only for a power cut on a disk that loses what it had confirmed; see the crate's
    /// documentation.
    pub watermark_sync_every: Duration,
}

impl Default for RocksLogConfig {
    fn default() -> Self {
        Self {
            wal_dir: None,
            memtable_bytes: 16 << 20,
            memtables: 4,
            prepared_bytes: 16 << 20,
            block_bytes: 32 << 10,
            cache_bytes: 8 << 20,
            open_files: 256,
            reserve_bytes: 128 << 20,
            watermark_sync_every: Duration::from_secs(1),
        }
    }
}
