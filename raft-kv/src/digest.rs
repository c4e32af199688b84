//! One number for all that a store holds, to be compared between nodes.

use std::fmt;

use raft_core::LogId;
use rocksdb::ReadOptions;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::KvError;
use crate::model::{KeyRange, Revision};
use crate::record::{ALARMS_KEY, change_key, parse_old_key};
use crate::scan::{Caching, View};

/// What a store holds, in brief. Stores that have applied the same entries are equal in all of it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The last entry that was applied.
    pub applied: LogId,
    /// The revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// A hash of the present, of the history that can be read, of sessions, leases and alarms. Finds accidents, not forgeries.
    pub hash: u128,
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { applied, revision, compacted, hash } = self;
        write!(f, "{applied} {revision:?} since {compacted:?} {hash:032x}")
    }
}

/// The keys and values of one revision, in brief. Stores that hold the same are equal in all of it, whatever
/// else they have applied since, and however much history they have given up before it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionDigest {
    /// Which revision.
    pub revision: Revision,
    /// How many keys there were.
    pub keys: u64,
    /// A hash of the keys, with value, revisions, version and lease. Finds accidents, not forgeries.
    pub hash: u128,
}

impl fmt::Debug for RevisionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, keys, hash } = self;
        write!(f, "{keys} keys at {revision:?}: {hash:032x}")
    }
}

/// Goes through what `revision` held, which can be read.
pub(crate) fn of_revision(view: &View<'_>, revision: Revision) -> Result<RevisionDigest, KvError> {
    let mut hash = Rows(Xxh3::new());
    let mut keys = 0;
    let at = (revision < view.state().revision).then_some(revision);
    view.each(&KeyRange::all(), at, Caching::Past, &mut |key, record| {
        keys += 1;
        hash.add(key, record);
        Ok(())
    })?;
    Ok(RevisionDigest { revision, keys, hash: hash.0.digest128() })
}

/// A hash over rows.
struct Rows(Xxh3);

impl Rows {
    /// With the lengths, so that no two contents come to the same bytes.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }
}

/// Goes through everything, past the cache.
pub(crate) fn of(view: &View<'_>) -> Result<Digest, KvError> {
    let state = view.state();
    let families = view.families();
    let mut hash = Rows(Xxh3::new());
    for (family, first) in [
        (families.latest, vec![]),
        (families.old, vec![]),
        // What is compacted counts no more, whether it is still on the disk or not.
        (families.changes, change_key(state.compacted.next(), 0).to_vec()),
        (families.sessions, vec![]),
        (families.leases, vec![]),
    ] {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut rows = view.rows(family, None, options);
        rows.seek(first);
        while let Some((key, value)) = rows.item() {
            let is_compacted =
                std::ptr::eq(family, families.old) && parse_old_key(key)?.1 <= state.compacted;
            if !is_compacted {
                hash.add(key, value);
            }
            rows.next();
        }
        rows.status().map_err(KvError::storage("reading everything"))?;
        hash.add(b"", b"end of family");
    }
    let Rows(mut hash) = hash;
    hash.update(&state.clock.0.to_le_bytes());
    hash.update(&state.machine.0.to_le_bytes());
    hash.update(&view.get(families.meta, ALARMS_KEY)?.map_or_else(Vec::new, |row| row.to_vec()));
    Ok(Digest {
        applied: state.last,
        revision: state.revision,
        compacted: state.compacted,
        hash: hash.digest128(),
    })
}
