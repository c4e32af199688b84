//! Reading a log back: every record, every checksum, and whether it all hangs together.
//!
//! Rules upheld here: L15, L16, L18, M8, M9.

use raft_core::{Index, LogId, Membership, SnapshotMeta, StoreError};
use rocksdb::ReadOptions;

use crate::database::Database;
use crate::record::{EntryRecord, State};
use crate::shape::Shape;

/// What a log holds, apart from payloads.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: State,
    pub(crate) base: SnapshotMeta,
    pub(crate) shape: Shape,
    pub(crate) memberships: Vec<(LogId, Membership)>,
}

/// Reads through the whole log and checks it.
///
/// Payloads are checked but not copied, except for memberships.
pub(crate) fn scan(database: &Database) -> Result<Found, StoreError> {
    let state = database.state()?.ok_or_else(|| database.corrupt("it has no state record"))?;
    let base = database.base()?.ok_or_else(|| database.corrupt("it has no base record"))?;
    if base.last != state.base {
        return Err(database.corrupt(format!(
            "its base is {}, but write {} was based on {}",
            base.last, state.write, state.base
        )));
    }

    let mut shape = Shape::empty(base.last);
    let mut memberships = Vec::new();
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(READAHEAD_BYTES);
    let mut rows = database.db().raw_iterator_cf_opt(database.entries(), options);
    rows.seek(base.last.index.next().0.to_be_bytes());
    while let Some((key, value)) = rows.item() {
        let record = next_record(database, &shape, key, value)?;
        shape.append(record.id).map_err(|_| {
            let last = shape.last();
            database.corrupt(format!("entry {} cannot follow entry {last}", record.id))
        })?;
        if record.is_membership() {
            let payload = record.payload().map_err(|defect| {
                database.corrupt(format!("entry {}: {defect}", record.id.index))
            })?;
            if let raft_core::Payload::Membership(membership) = payload {
                memberships.push((record.id, membership));
            }
        }
        rows.next();
    }
    rows.status().map_err(|error| database.error("reading the log", error))?;

    if shape.last() != state.last {
        return Err(database.corrupt(format!(
            "it ends with entry {}, but after write {} it had ended with entry {}",
            shape.last(),
            state.write,
            state.last
        )));
    }
    Ok(Found { state, base, shape, memberships })
}

const READAHEAD_BYTES: usize = 2 << 20;

/// Checks that the row is the entry that comes next.
fn next_record<'a>(
    database: &Database,
    shape: &Shape,
    key: &[u8],
    value: &'a [u8],
) -> Result<EntryRecord<'a>, StoreError> {
    let last = shape.last();
    let expected = last.index.next();
    let index = <[u8; 8]>::try_from(key)
        .map(|bytes| Index(u64::from_be_bytes(bytes)))
        .map_err(|_| database.corrupt(format!("a key after entry {last} is not an index")))?;
    if index != expected {
        return Err(database.corrupt(format!("entry {expected} is missing before entry {index}")));
    }
    let record = EntryRecord::parse(index, value)
        .map_err(|defect| database.corrupt(format!("entry {index}: {defect}")))?;
    if record.previous != last.term {
        return Err(database.corrupt(format!(
            "entry {} follows an entry of term {}, but entry {last} is before it: a write in \
             between is missing",
            record.id, record.previous
        )));
    }
    Ok(record)
}
