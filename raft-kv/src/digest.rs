//! One number for all that a store holds, to be compared between nodes.

use std::fmt;

use raft_core::LogId;
use rocksdb::ReadOptions;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::KvError;
use crate::model::Revision;
use crate::record::{change_key, parse_old_key};
use crate::scan::View;

/// What a store holds, in brief. Stores that have applied the same entries are equal in all of it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The last entry that was applied.
    pub applied: LogId,
    /// The revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// A hash of the present, of the history that can be read, of sessions and leases. Finds accidents, not forgeries.
    pub hash: u128,
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { applied, revision, compacted, hash } = self;
        write!(f, "{applied} {revision:?} since {compacted:?} {hash:032x}")
    }
}

/// Goes through everything, past the cache.
pub(crate) fn of(view: &View<'_>) -> Result<Digest, KvError> {
    let state = view.state();
    let families = view.families();
    let mut hash = Xxh3::new();
    let mut add = |key: &[u8], value: &[u8]| {
        // With the lengths, so that no two contents come to the same bytes.
        hash.update(&(key.len() as u64).to_le_bytes());
        hash.update(key);
        hash.update(&(value.len() as u64).to_le_bytes());
        hash.update(value);
    };
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
                add(key, value);
            }
            rows.next();
        }
        rows.status().map_err(KvError::storage("reading everything"))?;
        add(b"", b"end of family");
    }
    hash.update(&state.clock.0.to_le_bytes());
    Ok(Digest {
        applied: state.last,
        revision: state.revision,
        compacted: state.compacted,
        hash: hash.digest128(),
    })
}
