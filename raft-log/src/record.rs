//! How entries and other records look on disk.
//!
//! A key of the entries is an index, 8 bytes, big-endian, so that RocksDB's order is the log's; a
//! value there is a row of records ([`crate::chunk`]). Elsewhere it is one. A record, of an entry or of
//! anything else, is
//!
//! ```text
//! version: 1 byte | CRC-32C of key, version and body: 4 bytes, little-endian | body
//! ```
//!
//! The checksum covers the key, which for an entry is that of its own index, so a record that turns up
//! in another place does not check out. The body of an entry is its term, the term of the entry before it and its kind (postcard, a few
//! bytes), then the payload as it is: a recovery reads the former without copying the latter.
//! Bodies of other records are postcard.

use std::fmt;

use bytes::Bytes;
use raft_core::{Entry, HardState, Index, LogId, Payload, Term};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format of every record this version writes, and the only one it reads.
const VERSION: u8 = 1;

/// Bytes before the body.
const HEAD_BYTES: usize = 5;

const KIND_EMPTY: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// What each write leaves behind, complete, so that the last one alone says how things stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Counts the writes of this log, from 1, over all runs of the node.
    pub(crate) write: u64,
    /// Term and vote.
    pub(crate) hard: HardState,
    /// What the log starts after.
    pub(crate) base: LogId,
    /// The last entry; the base if there is none.
    pub(crate) last: LogId,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write {} (term {}, last entry {})", self.write, self.hard.term, self.last)
    }
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// It ends before it should.
    Short,
    /// It was written by a version that this one does not know.
    Version(u8),
    /// The checksum does not match.
    Checksum,
    /// The checksum matches, but the content makes no sense to this version (rule L18).
    Content,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("it is cut short"),
            Self::Version(version) => {
                write!(f, "it has format {version}, this version knows {VERSION}")
            }
            Self::Checksum => f.write_str("its checksum does not match"),
            Self::Content => f.write_str("its content is not known to this version"),
        }
    }
}

/// The key that stands for `index`.
pub(crate) fn key(index: Index) -> [u8; 8] {
    index.0.to_be_bytes()
}

/// Adds the record of `entry`, which follows an entry of `previous`, to `out`.
pub(crate) fn encode_entry(entry: &Entry, previous: Term, out: &mut Vec<u8>) {
    let start = start(out);
    let kind = match &entry.payload {
        Payload::Empty => KIND_EMPTY,
        Payload::Command(_) => KIND_COMMAND,
        Payload::Membership(_) => KIND_MEMBERSHIP,
    };
    append(&(entry.id.term, previous, kind), out);
    match &entry.payload {
        Payload::Empty => {}
        Payload::Command(bytes) => out.extend_from_slice(bytes),
        Payload::Membership(membership) => append(membership, out),
    }
    finish(&key(entry.id.index), &mut out[start..]);
}

/// An entry's record, checked, with its payload still where it was read.
#[derive(Debug)]
pub(crate) struct EntryRecord<'a> {
    /// The entry's name.
    pub(crate) id: LogId,
    /// The term of the entry before it.
    pub(crate) previous: Term,
    kind: u8,
    payload: &'a [u8],
}

impl<'a> EntryRecord<'a> {
    /// Checks the record that was found for `index`.
    pub(crate) fn parse(index: Index, record: &'a [u8]) -> Result<Self, Defect> {
        let body = open(&key(index), record)?;
        let ((term, previous, kind), payload) =
            postcard::take_from_bytes(body).map_err(|_| Defect::Content)?;
        Ok(Self { id: LogId::new(term, index), previous, kind, payload })
    }

    /// Whether the payload is a membership.
    pub(crate) fn is_membership(&self) -> bool {
        self.kind == KIND_MEMBERSHIP
    }

    /// Copies the payload out.
    pub(crate) fn payload(&self) -> Result<Payload, Defect> {
        match self.kind {
            KIND_EMPTY if self.payload.is_empty() => Ok(Payload::Empty),
            KIND_COMMAND => Ok(Payload::Command(Bytes::copy_from_slice(self.payload))),
            KIND_MEMBERSHIP => whole(self.payload).map(Payload::Membership),
            // Skipping what we do not know would let two state machines differ (rule L18).
            _ => Err(Defect::Content),
        }
    }
}

/// The record of `value` under `key`.
pub(crate) fn seal(key: &[u8], value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    start(&mut out);
    append(value, &mut out);
    finish(key, &mut out);
    out
}

/// Reads back what [`seal`] wrote.
pub(crate) fn unseal<T: DeserializeOwned>(key: &[u8], record: &[u8]) -> Result<T, Defect> {
    whole(open(key, record)?)
}

/// Begins a record at the end of `out`, and says where that is.
fn start(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    start
}

fn append(value: &impl Serialize, out: &mut Vec<u8>) {
    let buffer = std::mem::take(out);
    *out = postcard::to_extend(value, buffer)
        .expect("a vector takes every byte, and our types have a known length");
}

/// Ends `record`, of which all but the checksum is there.
fn finish(key: &[u8], record: &mut [u8]) {
    let sum = checksum(key, &record[HEAD_BYTES..]);
    record[1..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
}

fn open<'a>(key: &[u8], record: &'a [u8]) -> Result<&'a [u8], Defect> {
    let Some((head, body)) = record.split_first_chunk::<HEAD_BYTES>() else {
        return Err(Defect::Short);
    };
    let [version, a, b, c, d] = *head;
    if version != VERSION {
        return Err(Defect::Version(version));
    }
    if u32::from_le_bytes([a, b, c, d]) != checksum(key, body) {
        return Err(Defect::Checksum);
    }
    Ok(body)
}

fn whole<T: DeserializeOwned>(body: &[u8]) -> Result<T, Defect> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, _)) | Err(_) => Err(Defect::Content),
    }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(key), &[VERSION]);
    crc32c::crc32c_append(head, body)
}

#[cfg(test)]
mod tests {
    use raft_core::{Membership, NodeId};

    use super::*;

    fn entry(payload: Payload) -> Entry {
        Entry { id: LogId::new(Term(300), Index(7)), payload }
    }

    fn payloads() -> Vec<Payload> {
        let id = NodeId::new(3).unwrap();
        vec![
            Payload::Empty,
            Payload::Command(Bytes::new()),
            Payload::Command(Bytes::from_static(b"set x")),
            Payload::Membership(Box::new(Membership::of_voters([(id, "host:1".to_owned())]))),
        ]
    }

    #[test]
    fn entries_come_back_as_they_were() {
        for payload in payloads() {
            let mut record = Vec::new();
            encode_entry(&entry(payload.clone()), Term(299), &mut record);
            let found = EntryRecord::parse(Index(7), &record).unwrap();
            assert_eq!(found.id, LogId::new(Term(300), Index(7)));
            assert_eq!(found.previous, Term(299));
            assert_eq!(found.payload().unwrap(), payload);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for payload in payloads() {
            let mut record = Vec::new();
            encode_entry(&entry(payload), Term(299), &mut record);
            for byte in 0..record.len() {
                for bit in 0..8 {
                    let mut bad = record.clone();
                    bad[byte] ^= 1 << bit;
                    assert!(EntryRecord::parse(Index(7), &bad).is_err(), "byte {byte} bit {bit}");
                }
                assert!(EntryRecord::parse(Index(7), &record[..byte]).is_err(), "cut at {byte}");
            }
            assert!(EntryRecord::parse(Index(8), &record).is_err(), "under another key");
        }
    }

    /// Rule L18.
    #[test]
    fn an_unknown_kind_is_an_error() {
        let mut record = Vec::new();
        start(&mut record);
        append(&(Term(1), Term(1), 3_u8), &mut record);
        finish(&key(Index(1)), &mut record);
        let found = EntryRecord::parse(Index(1), &record).unwrap();
        assert_eq!(found.payload(), Err(Defect::Content));
    }

    #[test]
    fn bytes_after_the_value_are_noticed() {
        let mut record = Vec::new();
        start(&mut record);
        append(&(State::default(), 1_u8), &mut record);
        finish(b"state", &mut record);
        assert_eq!(unseal::<State>(b"state", &record), Err(Defect::Content));
    }
}
