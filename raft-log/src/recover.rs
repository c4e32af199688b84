//! Reading a log back: every record, every checksum, and whether it all hangs together.
//!
//! Rules upheld here: L15, L16, L18, M8, M9.

use raft_core::{Index, LogId, Membership, Payload, SnapshotMeta, StoreError};
use rocksdb::ReadOptions;

use crate::chunk;
use crate::database::Database;
use crate::record::{Defect, EntryRecord, State};
use crate::shape::Shape;

/// What a log holds, apart from payloads.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: State,
    pub(crate) base: SnapshotMeta,
    pub(crate) shape: Shape,
    pub(crate) memberships: Vec<(LogId, Membership)>,
}

/// Reads through the whole log and checks it. `progress` is told now and then how many entries of how
/// many are read.
///
/// Payloads are checked but not copied, except for memberships.
pub(crate) fn scan(
    database: &Database,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Found, StoreError> {
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
    chunk::seek(&mut rows, base.last.index.next());
    while let Some((key, chunk)) = rows.item() {
        let first = chunk::first(key).ok_or_else(|| {
            database.corrupt(format!("a key after entry {} is not an index", shape.last()))
        })?;
        // The chunk may begin before the log does.
        let before = |&(index, _): &(Index, _)| index <= base.last.index;
        for (index, record) in chunk::records(first, chunk).skip_while(before) {
            let record = next_record(database, &shape, index, record)?;
            shape.append(record.id).map_err(|_| {
                let last = shape.last();
                database.corrupt(format!("entry {} cannot follow entry {last}", record.id))
            })?;
            if record.is_membership() {
                memberships.push((record.id, membership(database, &record)?));
            }
            let read = record.id.index.since(base.last.index);
            if read % PROGRESS_EVERY == 0 || record.id == state.last {
                progress(read, state.last.index.since(base.last.index));
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
const PROGRESS_EVERY: u64 = 4096;

fn membership(database: &Database, record: &EntryRecord<'_>) -> Result<Membership, StoreError> {
    match record.payload() {
        Ok(Payload::Membership(membership)) => Ok(*membership),
        Ok(Payload::Empty | Payload::Command(_)) => Err(Defect::Content),
        Err(defect) => Err(defect),
    }
    .map_err(|defect| database.corrupt(format!("entry {}: {defect}", record.id.index)))
}

/// Checks that the record is of the entry that comes next.
fn next_record<'a>(
    database: &Database,
    shape: &Shape,
    index: Index,
    record: Result<&'a [u8], Defect>,
) -> Result<EntryRecord<'a>, StoreError> {
    let last = shape.last();
    let expected = last.index.next();
    if index > expected {
        return Err(database.corrupt(format!("entry {expected} is missing before entry {index}")));
    }
    if index < expected {
        return Err(database.corrupt(format!("entry {index} is there twice")));
    }
    let record = record
        .and_then(|record| EntryRecord::parse(index, record))
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

#[cfg(test)]
mod tests {
    use raft_core::{Entry, HardState, Term};
    use rocksdb::WriteBatch;

    use super::*;
    use crate::config::RocksLogConfig;
    use crate::database::{BASE_KEY, STATE_KEY};
    use crate::record;
    use crate::wal::Places;

    fn id(index: u64, term: u64) -> LogId {
        LogId::new(Term(term), Index(index))
    }

    /// A database as a lost write may leave it: `entries` are what is there, each with the term of
    /// the entry that it was written after; `base` and `last` are what the last write knew.
    fn scanned(base: LogId, last: LogId, entries: &[(LogId, u64)]) -> Result<Found, StoreError> {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::of(dir.path(), dir.path().join("log"));
        let database = Database::create(&places, &RocksLogConfig::default()).unwrap();
        let mut write = WriteBatch::default();
        let meta = SnapshotMeta { last: id(2, 1), ..SnapshotMeta::default() };
        write.put_cf(database.meta(), BASE_KEY, record::seal(BASE_KEY, &meta));
        let state = State { write: 5, hard: HardState::default(), base, last };
        write.put_cf(database.meta(), STATE_KEY, record::seal(STATE_KEY, &state));
        for &(id, previous) in entries {
            let entry = Entry { id, payload: Payload::Empty };
            chunk::put(&mut write, database.entries(), &[entry], Term(previous));
        }
        database.db().write(write).unwrap();
        scan(&database, &mut |_, _| {})
    }

    /// Rule L15, rule L16: each way in which a log can lack a write that others were built upon.
    #[test]
    fn a_log_that_does_not_hang_together_is_refused() {
        let base = id(2, 1);
        let whole = [(id(3, 1), 1), (id(4, 2), 1), (id(5, 2), 2)];
        let found = scanned(base, id(5, 2), &whole).unwrap();
        assert_eq!(found.shape.runs(), [(Term(1), Index(3)), (Term(2), Index(4))]);
        // What is before the base may still be there: it is removed later.
        let with_old = [&[(id(1, 1), 0), (id(2, 1), 1)], &whole[..]].concat();
        assert!(scanned(base, id(5, 2), &with_old).is_ok());

        let bad: [(&str, LogId, LogId, &[_]); 8] = [
            ("entry 3 is missing", base, id(5, 2), &whole[1..]),
            ("entry 4 is missing", base, id(5, 2), &[whole[0], whole[2]]),
            ("it ends with entry 4@2", base, id(5, 2), &whole[..2]),
            ("it ends with entry 2@1", base, id(5, 2), &[]),
            ("it ends with entry 5@2", base, id(4, 2), &whole),
            // The overwriting of entry 4 is lost, and entry 5 was written after it.
            (
                "a write in between is missing",
                base,
                id(5, 2),
                &[(id(3, 1), 1), (id(4, 1), 1), (id(5, 2), 2)],
            ),
            ("a write in between is missing", base, id(3, 3), &[(id(3, 3), 2)]),
            ("its base is 2@1", id(3, 1), id(5, 2), &whole),
        ];
        for (expected, base, last, entries) in bad {
            match scanned(base, last, entries) {
                Err(StoreError::Corrupt { what, .. }) => {
                    assert!(what.contains(expected), "{expected:?}: {what}");
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    /// Terms never fall within a log, whatever checks out besides.
    #[test]
    fn a_falling_term_is_refused() {
        let fallen = scanned(id(2, 1), id(4, 1), &[(id(3, 2), 1), (id(4, 1), 2)]);
        assert!(matches!(fallen, Err(StoreError::Corrupt { .. })));
    }
}
