//! `raft-log`: the durable half of a Raft node, on RocksDB.
//!
//! - [`DataDir`] is a node's data directory: locked, and marked with who the node is.
//! - [`RocksLog`] is the [`LogStore`](raft_core::LogStore) in it: entries, term, vote and base, one
//!   atomic and fsynced write for each batch.
//! - [`verify`], [`dump`] and [`stat`] look at a log while no node runs on it.
//!
//! What is on disk under a data directory `DIR`:
//!
//! | file | what | written |
//! |---|---|---|
//! | `DIR/LOCK` | held with `flock` while a process uses the directory; names that process | at each start |
//! | `DIR/identity` | cluster, node, incarnation; its existence says "initialised" | once, last |
//! | `DIR/watermark` | what the last acknowledged write was | after each write |
//! | `DIR/reserve` | blocks that nobody uses, released when the disk is full | at starts that miss it |
//! | `DIR/wal` | a link to where the write-ahead log is, if that is another place | once |
//! | `DIR/log/` | a RocksDB database with the column families `entries` and `meta` | always |
//!
//! Other crates keep their own files beside these.
//!
//! # Nothing acknowledged disappears silently
//!
//! A damaged write-ahead log can come back from RocksDB *shorter* than it was, without an error. A
//! node that lost a vote or an acknowledged entry that way may elect two leaders or lose a client's
//! write (rule L15). So this crate reads everything before RocksDB may change anything, and compares
//! what it finds with what it knows had been there:
//!
//! 1. Each write carries one *state* record: the number of the write (1, 2, 3, ...), term and vote,
//!    the base and the last entry. It is complete, so losing an earlier write cannot bring back an
//!    older vote behind a newer write.
//! 2. After each fsync the same state goes to `DIR/watermark`, outside of RocksDB. A log whose last
//!    write has a lower number than the watermark has lost an acknowledged write: refused. A log
//!    without that write's successor has at most a torn tail that nobody was told about: accepted.
//! 3. A write begins only after the one before was fsynced. So what does not check out in the
//!    write-ahead log, with the beginning of a later write behind it, had been durable: refused, with
//!    file and offset.
//! 4. Each entry names the term of the entry before it. A write that is missing from the *middle* of
//!    the log leaves a hole, a broken chain, or an end that the state record contradicts: refused.
//! 5. Every record has a CRC-32C over its key and its content, checked on every read.
//!
//! What it detects: any loss of acknowledged writes after a crash of the process (the watermark is
//! in the page cache then, exact to the last write); after a power cut, any loss of writes older
//! than [`RocksLogConfig::watermark_sync_every`], damage to any write but the last, and any loss that
//! leaves a wrong checksum, a hole or a broken chain.
//!
//! What it cannot detect: that the whole directory was put back to an earlier moment, by restoring
//! a backup or an image of the machine; and that a disk lost, in a power cut, the *last* writes of
//! about the last second although it had confirmed them, and lost the watermark with them.
//!
//! Because none of this relies on RocksDB to tell damage from the end of the log, files of the
//! write-ahead log can be written over again, which nearly halves the time of an fsync on some file
//! systems (`docs/performance.md`). RocksDB's strict modes of recovery forbid that.

mod chunk;
mod config;
mod database;
mod directory;
mod error;
mod identity;
mod inspect;
mod log;
mod physical;
mod reader;
mod record;
mod recover;
mod reserve;
mod shape;
mod wal;
mod watermark;

pub use config::RocksLogConfig;
pub use directory::DataDir;
pub use error::OpenError;
pub use inspect::{LogStat, dump, stat, verify};
pub use log::RocksLog;
