//! Rows of the column family `entries`: runs of entries that were written together.
//!
//! One entry a row costs RocksDB a key, a place in its memtable and one in its tables for each; with
//! small entries that was half of what a large batch took (docs/performance.md). So the entries of a
//! write are gathered in chunks of about [`TARGET_BYTES`]. The key is the index of the first, as in
//! [`record::key`]; the value is, for each entry in order,
//!
//! ```text
//! length of the record: 4 bytes, little-endian | the record (see crate::record)
//! ```
//!
//! A record keeps its own checksum, which covers its index, so an entry is as well protected as in a
//! row of its own. A damaged length leads to something that is no record of the index it should have.
//!
//! No two chunks overlap: whoever makes entries void cuts the chunk in which they begin ([`head`]). A
//! chunk may begin before the log does, and reach into it.

use raft_core::{Entry, Index, Term};
use rocksdb::{ColumnFamily, DB, DBRawIteratorWithThreadMode, WriteBatch};

use crate::record::{self, Defect};

/// A chunk that has this many bytes takes no further entry. Larger ones gain nothing, and whoever reads
/// one entry reads the whole chunk.
const TARGET_BYTES: usize = 64 << 10;

/// The largest command that fits: what its record adds is small.
pub(crate) const MAX_ENTRY_BYTES: usize = 1 << 30;

const LENGTH_BYTES: usize = 4;

/// Adds `entries`, which follow one of the term `previous`, to `write`. None is larger than
/// [`MAX_ENTRY_BYTES`].
pub(crate) fn put(
    write: &mut WriteBatch,
    family: &ColumnFamily,
    entries: &[Entry],
    previous: Term,
) {
    let mut bytes = Vec::new();
    let (mut rest, mut previous) = (entries, previous);
    while let Some(first) = rest.first() {
        bytes.clear();
        while bytes.len() < TARGET_BYTES
            && let Some((entry, after)) = rest.split_first()
        {
            push(entry, previous, &mut bytes);
            (rest, previous) = (after, entry.id.term);
        }
        write.put_cf(family, record::key(first.id.index), &bytes);
    }
}

/// About how many bytes [`put`] adds, and rarely fewer than it does. A batch that has to grow copies
/// what it holds: with 1 MiB of entries that was a tenth of the time.
pub(crate) fn size(entries: &[Entry]) -> usize {
    const AROUND: usize = 40;
    entries.iter().map(|entry| entry.payload.len_bytes() + AROUND).sum()
}

fn push(entry: &Entry, previous: Term, chunk: &mut Vec<u8>) {
    let start = chunk.len();
    chunk.extend_from_slice(&[0; LENGTH_BYTES]);
    record::encode_entry(entry, previous, chunk);
    let length = u32::try_from(chunk.len() - start - LENGTH_BYTES)
        .expect("an entry has at most MAX_ENTRY_BYTES");
    chunk[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Moves `rows` to the chunk that holds the entry at `index`; if there is none, to where what comes
/// next shows that it is missing.
pub(crate) fn seek(rows: &mut DBRawIteratorWithThreadMode<'_, DB>, index: Index) {
    rows.seek_for_prev(record::key(index));
    if !rows.valid() && rows.status().is_ok() {
        rows.seek(record::key(index));
    }
}

/// The index of the first entry of the chunk under `key`; `None` if that is no key of a chunk.
pub(crate) fn first(key: &[u8]) -> Option<Index> {
    Some(Index(u64::from_be_bytes(key.try_into().ok()?)))
}

/// The records of a chunk, in order, each with the index it should have. After a defect nothing comes.
pub(crate) fn records(first: Index, chunk: &[u8]) -> Records<'_> {
    Records { next: first, rest: chunk }
}

/// See [`records`].
#[derive(Debug)]
pub(crate) struct Records<'a> {
    next: Index,
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = (Index, Result<&'a [u8], Defect>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let index = self.next;
        let rest = std::mem::take(&mut self.rest);
        let split = rest.split_first_chunk::<LENGTH_BYTES>().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        let Some((record, rest)) = split else {
            return Some((index, Err(Defect::Short)));
        };
        self.next = index.next();
        self.rest = rest;
        Some((index, Ok(record)))
    }
}

/// What is left of a chunk without the entries from `end` on.
pub(crate) fn head(first: Index, chunk: &[u8], end: Index) -> Result<&[u8], Defect> {
    let mut records = records(first, chunk);
    while records.next < end
        && let Some((_, record)) = records.next()
    {
        record?;
    }
    Ok(&chunk[..chunk.len() - records.rest.len()])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft_core::{LogId, Payload};

    use super::*;
    use crate::record::EntryRecord;

    fn entries(count: u64, bytes: usize) -> Vec<Entry> {
        let entry = |index| Entry {
            id: LogId::new(Term(index / 2), Index(index)),
            payload: Payload::Command(Bytes::from(vec![7; bytes])),
        };
        (7..7 + count).map(entry).collect()
    }

    fn chunk(entries: &[Entry]) -> Vec<u8> {
        let (mut bytes, mut previous) = (Vec::new(), Term(1));
        for entry in entries {
            push(entry, previous, &mut bytes);
            previous = entry.id.term;
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, Defect> {
        let parsed = records(Index(7), bytes).map(|(index, record)| {
            let record = EntryRecord::parse(index, record?)?;
            Ok(Entry { id: record.id, payload: record.payload()? })
        });
        parsed.collect()
    }

    #[test]
    fn entries_come_back_in_order() {
        for count in [0, 1, 5] {
            let entries = entries(count, 3);
            assert_eq!(read(&chunk(&entries)).unwrap(), entries);
        }
    }

    /// Rule L15. A cut between two entries is no damage of the chunk: the next one shows it.
    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let entries = entries(3, 3);
        let good = chunk(&entries);
        let ends: Vec<_> = (0..=3).map(|count| chunk(&entries[..count]).len()).collect();
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                assert!(read(&bad).is_err(), "byte {byte} bit {bit}");
            }
            assert_eq!(read(&good[..byte]).is_ok(), ends.contains(&byte), "cut at {byte}");
        }
    }

    #[test]
    fn the_head_of_a_chunk_is_a_chunk() {
        let entries = entries(4, 9);
        let whole = chunk(&entries);
        for kept in 0..=4 {
            let end = Index(7 + u64::try_from(kept).unwrap());
            assert_eq!(head(Index(7), &whole, end).unwrap(), chunk(&entries[..kept]));
        }
        assert_eq!(head(Index(7), &whole, Index(100)).unwrap(), whole);
        assert_eq!(head(Index(7), &whole[..whole.len() - 1], Index(12)), Err(Defect::Short));
    }
}
