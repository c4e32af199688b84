//! What stands in RocksDB, byte by byte.
//!
//! Six column families. `k` is a key, `r` a revision, numbers in keys are big-endian:
//!
//! | family | key | value |
//! |---|---|---|
//! | `default` | `format`, `state`, `membership`, `alarms` | how far the store has come |
//! | `latest` | `k` | the record of the key as it is now |
//! | `old` | `k` escaped, `r` (8 bytes) | the record that revision `r` replaced or deleted |
//! | `changes` | `r` (8 bytes), number within `r` (4 bytes) | what happened (1 byte), `k` (*) |
//! | `sessions` | session (8 bytes) | how long it lives, when it was heard of, its lowest number |
//! | `sessions` | session (8 bytes), number (8 bytes) | the answer to that number |
//! | `leases` | lease (8 bytes) | how long it lives, when it ends, how much it has |
//! | `leases` | lease (8 bytes), `k` | nothing: the lease has that key |
//!
//! A record is `create_revision, mod_revision, version, lease` in postcard, then the value as it
//! is.
//!
//! (*) Between the two, if a record ended there, stands how long that is (4 bytes): so purging history
//! knows how much room it makes without reading what it removes.
//!
//! # Why so
//!
//! etcd keeps all records in the order of revisions, and the way from keys to revisions in memory.
//! That asks for memory in proportion to keys, and for one random read a key when a range is read.
//! The other known way puts all versions of a key side by side, newest first. Then each read is a
//! seek, which asks every sorted run of an LSM tree because filters do not help it, and a range
//! read steps over all versions that are not yet compacted, and over the tombstones of those that
//! are.
//!
//! Here the present stands apart from the past:
//! - Reading now, which is nearly every read, is a plain get (with filters) or a plain scan,
//!   however long the history is. A put asks for the former record with such a get.
//! - An old record is filed under the revision that *ended* it. So its place is known without a
//!   search to those who know what happened at that revision: the watcher that wants `prev_kv`, and
//!   compaction, which deletes by key and never reads `old`. A deletion needs no tombstone of ours.
//!   To find a key as it was at `r`, look for its first old record that ended after `r`.
//! - `changes` is what a watcher reads: in order, only ever appended to, cut at its front.
//!
//! The price: a value that is overwritten is written a second time. A value that never is, never.
//! RocksDB's own timestamps would do much of this, but not tell what changed at a revision, and
//! their comparator is a call out of RocksDB for each comparison.
//!
//! A revision changes a key at most once: each command makes its own, and one command names a key
//! once. That is why `old` needs no number within the revision.

use std::num::NonZeroU64;

use bytes::Bytes;
use raft_core::sessions::{ClusterTime, SessionId};
use raft_core::{LogId, Membership};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::KvError;
use crate::model::{KeyValue, LeaseId, Revision};
use crate::version::MachineVersion;

/// The format described above. Stored under [`FORMAT_KEY`].
pub(crate) const FORMAT: u32 = 2;

pub(crate) const FORMAT_KEY: &[u8] = b"format";
pub(crate) const STATE_KEY: &[u8] = b"state";
pub(crate) const MEMBERSHIP_KEY: &[u8] = b"membership";
pub(crate) const ALARMS_KEY: &[u8] = b"alarms";

/// How far the store has come. Written with the data, in the same batch (rule C3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The last entry that was applied.
    pub(crate) last: LogId,
    /// The revision that made.
    pub(crate) revision: Revision,
    /// States before this revision cannot be read any more.
    pub(crate) compacted: Revision,
    /// The history up to here is also gone from the disk. At most `compacted`. Nothing that can be
    /// read depends on it.
    pub(crate) purged: Revision,
    /// What time it is in the cluster.
    pub(crate) clock: ClusterTime,
    /// How many sessions and leases there are. While there are none, time may stand still.
    pub(crate) timed: u64,
    /// What commands mean.
    pub(crate) machine: MachineVersion,
    /// The bytes of all rows of `latest`, `old` and `changes`. Like `purged` this node's own affair.
    pub(crate) bytes: u64,
}

impl State {
    pub(crate) const EMPTY: Self = Self {
        last: LogId::ZERO,
        revision: Revision::EMPTY,
        compacted: Revision(0),
        purged: Revision(0),
        clock: ClusterTime(0),
        timed: 0,
        machine: MachineVersion::FIRST,
        bytes: 0,
    };

    pub(crate) fn encode(&self) -> Bytes {
        codec::encode(META_VERSION, self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, KvError> {
        codec::decode(META_VERSION, bytes)
            .map_err(|error| KvError::corrupt(format!("how far it has come: {error}")))
    }
}

pub(crate) fn encode_membership(membership: &(LogId, Membership)) -> Bytes {
    codec::encode(META_VERSION, membership)
}

pub(crate) fn decode_membership(bytes: &[u8]) -> Result<(LogId, Membership), KvError> {
    codec::decode(META_VERSION, bytes)
        .map_err(|error| KvError::corrupt(format!("the membership: {error}")))
}

/// All of a record but the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    pub(crate) version: u64,
    pub(crate) lease: Option<LeaseId>,
}

impl Head {
    pub(crate) fn encode_with(&self, value: &[u8]) -> Vec<u8> {
        let mut record = codec::encode_onto(Vec::with_capacity(value.len() + 32), self);
        record.extend_from_slice(value);
        record
    }

    /// The head of a record, and its value.
    pub(crate) fn decode(record: &[u8]) -> Result<(Self, &[u8]), KvError> {
        postcard::take_from_bytes(record)
            .map_err(|error| KvError::corrupt(format!("a record of a key: {error}")))
    }

    pub(crate) fn into_key_value(self, key: Bytes, value: Bytes) -> KeyValue {
        let Self { create_revision, mod_revision, version, lease } = self;
        KeyValue { key, value, create_revision, mod_revision, version, lease }
    }
}

/// A whole record as the key-value it stands for.
pub(crate) fn key_value(key: &[u8], record: &[u8]) -> Result<KeyValue, KvError> {
    let (head, value) = Head::decode(record)?;
    Ok(head.into_key_value(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
}

/// The same of a record that is shared.
pub(crate) fn shared_key_value(key: &Bytes, record: &Bytes) -> Result<KeyValue, KvError> {
    let (head, value) = Head::decode(record)?;
    Ok(head.into_key_value(key.clone(), record.slice_ref(value)))
}

/// Where `old` keeps the record of `key` that `ended` replaced or deleted.
pub(crate) fn old_key(key: &[u8], ended: Revision) -> Vec<u8> {
    let mut out = old_prefix(key);
    out.extend_from_slice(&ended.0.to_be_bytes());
    out
}

/// The length of [`old_key`].
pub(crate) fn old_key_len(key: &[u8]) -> usize {
    key.len() + key.iter().filter(|byte| **byte == 0).count() + 10
}

/// What all keys of `key` in `old` begin with, and no other. Keeps the order of keys: a zero byte
/// becomes `00 ff` and the end is `00 00`, so that a key comes before those it is a prefix of.
pub(crate) fn old_prefix(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 10);
    for byte in key {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
    out
}

/// Where the keys from `first` on begin in `old`. Like [`old_prefix`] without the end, since
/// `first` is a bound and not a key: it may be cut short anywhere.
pub(crate) fn old_bound(first: &[u8]) -> Vec<u8> {
    let mut out = old_prefix(first);
    out.truncate(out.len() - 2);
    out
}

/// The reverse of [`old_key`].
pub(crate) fn parse_old_key(stored: &[u8]) -> Result<(Vec<u8>, Revision), KvError> {
    let bad = || KvError::corrupt(format!("a key of old records: {stored:02x?}"));
    let (escaped, ended) = stored.split_last_chunk::<8>().ok_or_else(bad)?;
    let escaped = escaped.strip_suffix(&[0, 0]).ok_or_else(bad)?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped.iter();
    while let Some(byte) = rest.next() {
        key.push(*byte);
        if *byte == 0 && rest.next() != Some(&0xff) {
            return Err(bad());
        }
    }
    Ok((key, Revision(u64::from_be_bytes(*ended))))
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// It was written and had not been there.
    Created,
    /// It was written and had been there.
    Modified,
    /// It was deleted.
    Deleted,
}

impl ChangeKind {
    /// Whether `old` has a record that this ended.
    pub(crate) fn has_old(self) -> bool {
        match self {
            Self::Created => false,
            Self::Modified | Self::Deleted => true,
        }
    }
}

/// Where `changes` keeps change number `number` of `revision`.
pub(crate) fn change_key(revision: Revision, number: u32) -> [u8; CHANGE_KEY_BYTES] {
    let mut out = [0; CHANGE_KEY_BYTES];
    out[..8].copy_from_slice(&revision.0.to_be_bytes());
    out[8..].copy_from_slice(&number.to_be_bytes());
    out
}

/// The revision in a key of `changes`.
pub(crate) fn parse_change_key(stored: &[u8]) -> Result<Revision, KvError> {
    match stored.first_chunk::<8>() {
        Some(revision) if stored.len() == CHANGE_KEY_BYTES => {
            Ok(Revision(u64::from_be_bytes(*revision)))
        }
        Some(_) | None => Err(KvError::corrupt(format!("a key of changes: {stored:02x?}"))),
    }
}

/// What stands in `changes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Noted<'a> {
    pub(crate) kind: ChangeKind,
    pub(crate) key: &'a [u8],
    /// The length of the record that ended. 0 if none did.
    pub(crate) ended: u32,
}

pub(crate) fn encode_change(change: &Noted<'_>) -> Vec<u8> {
    let Noted { kind, key, ended } = change;
    match kind {
        ChangeKind::Created => [&[0], *key].concat(),
        ChangeKind::Modified => [&[1], &ended.to_be_bytes()[..], *key].concat(),
        ChangeKind::Deleted => [&[2], &ended.to_be_bytes()[..], *key].concat(),
    }
}

/// The bytes of the row that [`encode_change`] makes, with its key.
pub(crate) fn change_len(change: &Noted<'_>) -> usize {
    let ended = if change.kind.has_old() { 4 } else { 0 };
    CHANGE_KEY_BYTES + 1 + ended + change.key.len()
}

pub(crate) fn decode_change(stored: &[u8]) -> Result<Noted<'_>, KvError> {
    let bad = || KvError::corrupt(format!("a change: {stored:02x?}"));
    let (kind, rest) = match stored {
        [0, key @ ..] => return Ok(Noted { kind: ChangeKind::Created, key, ended: 0 }),
        [1, rest @ ..] => (ChangeKind::Modified, rest),
        [2, rest @ ..] => (ChangeKind::Deleted, rest),
        _ => return Err(bad()),
    };
    let (ended, key) = rest.split_first_chunk::<4>().ok_or_else(bad)?;
    Ok(Noted { kind, key, ended: u32::from_be_bytes(*ended) })
}

/// A row of `sessions` or `leases` that has fields.
pub(crate) fn encode_row(row: &impl Serialize) -> Bytes {
    codec::encode(META_VERSION, row)
}

pub(crate) fn decode_row<T: DeserializeOwned>(what: &str, row: &[u8]) -> Result<T, KvError> {
    codec::decode(META_VERSION, row).map_err(|error| KvError::corrupt(format!("{what}: {error}")))
}

/// What a key of `sessions` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionRow {
    Session(SessionId),
    Answer(SessionId, u64),
}

/// Where `sessions` keeps a session.
pub(crate) fn session_key(session: SessionId) -> [u8; 8] {
    session.0.to_be_bytes()
}

/// Where `sessions` keeps the answer to a number.
pub(crate) fn answer_key(session: SessionId, sequence: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&session.0.to_be_bytes());
    out[8..].copy_from_slice(&sequence.to_be_bytes());
    out
}

/// The reverse of [`session_key`] and [`answer_key`].
pub(crate) fn parse_session_key(stored: &[u8]) -> Result<SessionRow, KvError> {
    let bad = || KvError::corrupt(format!("a key of sessions: {stored:02x?}"));
    let (session, rest) = stored.split_first_chunk::<8>().ok_or_else(bad)?;
    let session = SessionId(u64::from_be_bytes(*session));
    match <[u8; 8]>::try_from(rest) {
        Ok(sequence) => Ok(SessionRow::Answer(session, u64::from_be_bytes(sequence))),
        Err(_) if rest.is_empty() => Ok(SessionRow::Session(session)),
        Err(_) => Err(bad()),
    }
}

/// Where `leases` notes that a lease has `key`; with an empty key, the lease itself.
pub(crate) fn lease_key(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    [&lease.0.get().to_be_bytes(), key].concat()
}

/// The first key of `leases` beyond what it has of `lease`.
pub(crate) fn lease_rows_end(lease: LeaseId) -> Vec<u8> {
    match lease.0.checked_add(1) {
        Some(next) => next.get().to_be_bytes().to_vec(),
        // No key is as long as that.
        None => vec![0xff; 1 << 17],
    }
}

/// The reverse of [`lease_key`].
pub(crate) fn parse_lease_key(stored: &[u8]) -> Result<(LeaseId, &[u8]), KvError> {
    let bad = || KvError::corrupt(format!("a key of leases: {stored:02x?}"));
    let (lease, key) = stored.split_first_chunk::<8>().ok_or_else(bad)?;
    let lease = NonZeroU64::new(u64::from_be_bytes(*lease)).ok_or_else(bad)?;
    Ok((LeaseId(lease), key))
}

const META_VERSION: u8 = 2;
const CHANGE_KEY_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Keys of few letters, with zeros and 0xff, so that they are often prefixes of one another.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(1), Just(0xff), Just(b'a')], 0..6)
    }

    proptest! {
        #[test]
        fn old_keys_are_ordered_as_keys_then_revisions(
            a in key(), b in key(), r in any::<u64>(), s in any::<u64>(),
        ) {
            let stored = (old_key(&a, Revision(r)), old_key(&b, Revision(s)));
            prop_assert_eq!(stored.0.cmp(&stored.1), (&a, r).cmp(&(&b, s)));
            prop_assert_eq!(stored.0.len(), old_key_len(&a));
            prop_assert_eq!(parse_old_key(&stored.0).unwrap(), (a, Revision(r)));
        }

        #[test]
        fn old_bounds_part_the_keys_where_the_bound_does(
            bound in key(), a in key(), r in any::<u64>(),
        ) {
            prop_assert_eq!(old_bound(&bound) <= old_key(&a, Revision(r)), bound <= a);
        }

        #[test]
        fn stored_bytes_of_any_kind_are_an_error_at_worst(bytes in vec(any::<u8>(), 0..64)) {
            drop(Head::decode(&bytes));
            drop(State::decode(&bytes));
            drop(decode_membership(&bytes));
            drop(decode_change(&bytes));
            drop(parse_change_key(&bytes));
            drop(parse_session_key(&bytes));
            drop(parse_lease_key(&bytes));
            if let Ok((key, ended)) = parse_old_key(&bytes) {
                prop_assert_eq!(old_key(&key, ended), bytes);
            }
        }
    }

    #[test]
    fn a_change_is_as_long_as_it_says() {
        for kind in [ChangeKind::Created, ChangeKind::Modified, ChangeKind::Deleted] {
            for key in [&b"k"[..], b"key"] {
                let noted = Noted { kind, key, ended: if kind.has_old() { 7 } else { 0 } };
                let row = encode_change(&noted);
                assert_eq!(row.len() + change_key(Revision(1), 2).len(), change_len(&noted));
                assert_eq!(decode_change(&row).unwrap(), noted);
            }
        }
    }

    #[test]
    fn a_record_gives_back_head_and_value() {
        let head = Head {
            create_revision: Revision(2),
            mod_revision: Revision(u64::MAX),
            version: 300,
            lease: None,
        };
        for value in [&b""[..], b"x", &[0; 300]] {
            assert_eq!(Head::decode(&head.encode_with(value)).unwrap(), (head, value));
        }
    }
}
