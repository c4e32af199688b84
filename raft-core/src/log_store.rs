//! The contract of the durable log: what a node writes before it speaks.
//!
//! Paper: Figure 2 (persistent state), §5.4; dissertation 3.8, 11.7.3. Rules L10, L11, L13–L16, S4.
//! Whoever implements it runs `log_store_suite!` of `raft_core::testing` against the result.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::entry::{Entry, Membership};
use crate::snapshot::SnapshotMeta;
use crate::types::{HardState, Index, LogId, Term};

/// The durable half of a node: its entries, its term and its vote.
///
/// One thread owns the store, so no method needs a lock. Calls block; the caller keeps them off the
/// thread that answers heartbeats. Any error is final: the node stops and the store is dropped; a
/// failed write is never tried again, because the kernel may have thrown the data away (rule L14).
///
/// The log is a *base* (a snapshot marker: everything up to it lives in the state machine) followed by
/// entries without holes: `base.last.index + 1 ..= last`.
pub trait LogStore: Send + 'static {
    /// Reads back what earlier calls made durable. Called once, before anything else.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if something that had been durable does not check out. Nothing is
    /// ever left out in silence (rule L15).
    fn recover(&mut self) -> Result<Recovered, StoreError>;

    /// Makes `batch` durable as a whole, then returns. The parts take effect in the order of
    /// [`Batch`]'s fields.
    ///
    /// On `Ok`, a power cut can no longer lose any part of it. After a crash inside this call, either
    /// all of `batch` is found again or none of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the device failed, [`StoreError::Full`] if there was no room,
    /// [`StoreError::Gap`] if the entries do not follow what is there; nothing was written then.
    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Forgets the entries up to and including `through`, which the state machine holds durably;
    /// the base moves to `base`, whose `last` is the entry at `through`. Idempotent: a base at or
    /// before the current one changes nothing.
    ///
    /// The space may be freed later. The new base is durable before any entry is gone (rule S4).
    ///
    /// # Errors
    ///
    /// As [`LogStore::persist`].
    fn compact(&mut self, base: &SnapshotMeta) -> Result<(), StoreError>;

    /// A reader for another thread, usable while [`LogStore::persist`] blocks. Several may exist.
    fn reader(&self) -> Box<dyn LogReader>;
}

/// Reads entries that are durable, alongside the one writer.
pub trait LogReader: Send + 'static {
    /// Reads consecutive entries from `first` on, until `max_bytes` of payload, `max_entries`, or
    /// the end of what is durable. At least one entry is returned if `first` exists, however large.
    ///
    /// Each call sees one moment of the log: never half of a batch. Empty if there is nothing at
    /// `first` (any more).
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if an entry does not check out, [`StoreError::Io`] if the device fails.
    fn read(
        &self,
        first: Index,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StoreError>;
}

/// What a node wants to be durable next, as one atomic unit. The fields take effect in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Counts the batches of one run of a node, from 1. After several were merged into one write,
    /// the number of the last.
    pub seq: u64,
    /// The term and vote from now on.
    pub hard: Option<HardState>,
    /// A snapshot was installed: the log now starts after it. Entries that follow it survive if
    /// `keep_tail` says so; otherwise the log is empty afterwards.
    pub snapshot: Option<Box<Installed>>,
    /// The entries from this index on are void; a leader has overwritten them (§5.3).
    pub truncate_from: Option<Index>,
    /// Consecutive entries that follow what is left.
    pub entries: Vec<Entry>,
}

/// A snapshot as the log sees it: a new base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The new base.
    pub meta: SnapshotMeta,
    /// Whether the log holds the very entry `meta.last`, so that what follows it stays (rule S1).
    pub keep_tail: bool,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.hard.is_none()
            && self.snapshot.is_none()
            && self.truncate_from.is_none()
            && self.entries.is_empty()
    }

    /// Adds `later` to this batch, so that one write has the effect of the two in order. Gives
    /// `later` back if that cannot be said in one batch (it installs a snapshot).
    ///
    /// This is group commit: what arrived while the disk was busy goes down together.
    ///
    /// # Errors
    ///
    /// Not a failure: `Err` holds what must go into a batch of its own.
    pub fn merge(&mut self, later: Self) -> Result<(), Box<Self>> {
        if later.snapshot.is_some() {
            return Err(Box::new(later));
        }
        self.seq = later.seq;
        if later.hard.is_some() && !mutant!(raft_mutant = "group_commit_loses_the_vote") {
            self.hard = later.hard;
        }
        if let Some(from) = later.truncate_from {
            let keep = self.entries.partition_point(|entry| entry.id.index < from);
            if mutant!(raft_mutant = "group_commit_forgets_truncation") {
                self.entries.truncate(keep);
                self.entries.extend(later.entries);
                return Ok(());
            }
            self.entries.truncate(keep);
            // What this batch truncated stays truncated, also where it had put new entries.
            self.truncate_from = Some(self.truncate_from.map_or(from, |earlier| earlier.min(from)));
        }
        self.entries.extend(later.entries);
        Ok(())
    }

    /// The bytes it counts for against limits.
    pub fn len_bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.payload.len_bytes()).sum()
    }
}

/// What a log store found when it was opened: the log's shape, without its payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last durable term and vote.
    pub hard: HardState,
    /// Where the log starts, and the configuration in force there. For the founding members of a
    /// cluster that is the place before the first entry, with the founding configuration.
    pub base: SnapshotMeta,
    /// The first index of each run of entries of one term, in order: `(term, first index)`.
    pub runs: Vec<(Term, Index)>,
    /// The last index; that of the base if there are no entries.
    pub last: Index,
    /// The configurations in the entries after the base, in order.
    pub memberships: Vec<(LogId, Membership)>,
}

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The device or the file system failed during `doing`. Look at the disk before restarting.
    #[error("the log failed while {doing}: {source}; check the disk, then start the node again")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is full. Free some space and start again; nothing acknowledged was lost.
    #[error("the disk is full while {doing}; free space under {path} and start the node again")]
    Full {
        /// What was being done.
        doing: &'static str,
        /// The directory of the log.
        path: PathBuf,
    },
    /// Something that had been durable does not check out. The node must not vote any more: replace it.
    #[error("the log in {path} is damaged: {what}; {repair}")]
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
        /// What to do about it.
        repair: &'static str,
    },
    /// The entries handed in do not follow what is there. Nothing was written. A bug of the caller.
    #[error("entries from index {first} on do not follow the log, which ends at {last}")]
    Gap {
        /// The index of the first entry handed in.
        first: Index,
        /// The last index of the log.
        last: Index,
    },
}

/// Short enough for a log line: counts instead of contents.
impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.seq)?;
        if let Some(hard) = &self.hard {
            write!(f, " term={}", hard.term)?;
            if let Some(vote) = hard.vote {
                write!(f, " vote={vote}")?;
            }
        }
        if let Some(installed) = &self.snapshot {
            write!(f, " snapshot={}", installed.meta.last)?;
        }
        if let Some(from) = self.truncate_from {
            write!(f, " truncate_from={from}")?;
        }
        if let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) {
            write!(f, " entries={}..={}", first.id, last.id)?;
        }
        Ok(())
    }
}
