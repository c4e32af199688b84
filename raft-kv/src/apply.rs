//! What each command does to the store.
//!
//! Deterministic (rule C1): it looks at the command and at what is stored, and nothing else. In
//! particular not at how entries are cut into batches, which differs from node to node, nor at this
//! node's configuration.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::{Entry, LogId, MachineError, Membership, Payload};
use rocksdb::{ReadOptions, WriteBatch};

use crate::command::{
    Command, Compact, CompactOutcome, DeleteOutcome, DeleteRange, Outcome, Put, PutOutcome, Refused,
};
use crate::error::KvError;
use crate::model::{KeyRange, Revision};
use crate::record::{
    ChangeKind, Head, MEMBERSHIP_KEY, STATE_KEY, State, change_key, decode_change, encode_change,
    encode_membership, key_value, old_key, parse_change_key,
};
use crate::store::{Families, Store};

/// Entries on their way into one write batch.
pub(crate) struct Applier<'a> {
    store: &'a Store,
    families: Families<'a>,
    batch: WriteBatch,
    /// What the batch writes to `latest`, because the database does not show it yet: records, and
    /// `None` for a key that it deletes.
    pending: BTreeMap<Bytes, Option<Bytes>>,
    state: State,
    membership: Option<(LogId, Membership)>,
}

/// What applying has come to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) state: State,
    /// The last membership among the entries, if there was one.
    pub(crate) membership: Option<(LogId, Membership)>,
}

impl<'a> Applier<'a> {
    /// Goes on from `state`, which is what `store` holds.
    pub(crate) fn new(store: &'a Store, state: State) -> Self {
        Self {
            store,
            families: store.families(),
            batch: WriteBatch::new(),
            pending: BTreeMap::new(),
            state,
            membership: None,
        }
    }

    /// Applies the next entry and says what became of it.
    pub(crate) fn apply(&mut self, entry: &Entry) -> Result<Bytes, MachineError> {
        assert_eq!(
            entry.id.index,
            self.state.last.index.next(),
            "the state machine is given entries in order, each once"
        );
        let outcome = match &entry.payload {
            Payload::Empty => Bytes::new(),
            Payload::Command(command) => {
                let command = Command::decode(command).map_err(|error| MachineError::Unknown {
                    what: format!("the command at {}: {error}", entry.id),
                })?;
                self.command(command).map_err(KvError::fatal("applying a command"))?.encode()
            }
            Payload::Membership(membership) => {
                let membership = (entry.id, membership.clone());
                let stored = encode_membership(&membership);
                self.batch.put_cf(self.families.meta, MEMBERSHIP_KEY, stored);
                self.membership = Some(membership);
                Bytes::new()
            }
        };
        self.state.last = entry.id;
        Ok(outcome)
    }

    /// Whether enough has come together that it should be written before more is applied. Entries
    /// are small or many, but each may replace a value of any size.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.size_in_bytes() >= BATCH_BYTES
    }

    /// Writes everything, with how far it goes, as one (rule C3).
    pub(crate) fn write(mut self) -> Result<Done, KvError> {
        self.batch.put_cf(self.families.meta, STATE_KEY, self.state.encode());
        self.store.write(self.batch)?;
        Ok(Done { state: self.state, membership: self.membership })
    }

    /// Deletes from the disk some of the history that compaction has given up: that of about
    /// `changes` changes. Must come before the entries, since it looks only at what is written.
    /// Nothing that can be read depends on it, so nodes may differ in it.
    pub(crate) fn purge(&mut self, changes: usize) -> Result<(), KvError> {
        let State { compacted, purged, .. } = self.state;
        if purged >= compacted {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(change_key(compacted.next(), 0));
        options.fill_cache(false);
        let mut rows = self.store.db().raw_iterator_cf_opt(self.families.changes, options);
        rows.seek(change_key(purged.next(), 0));
        let mut left = changes;
        while let Some((row, change)) = rows.item() {
            let revision = parse_change_key(row)?;
            // A revision is purged as a whole.
            if left == 0 && revision > self.state.purged.next() {
                self.state.purged = Revision(revision.0 - 1);
                return Ok(());
            }
            let (kind, key) = decode_change(change)?;
            if kind.has_old() {
                self.batch.delete_cf(self.families.old, old_key(key, revision));
            }
            left = left.saturating_sub(1);
            rows.next();
        }
        rows.status().map_err(KvError::storage("reading what to purge"))?;
        // One range tombstone a compaction, not one a step.
        let (first, before) = (change_key(Revision(0), 0), change_key(compacted.next(), 0));
        self.batch.delete_range_cf(self.families.changes, first, before);
        self.state.purged = compacted;
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<Outcome, KvError> {
        let outcome = match command {
            Command::Put(put) => self.put(put)?.map(Outcome::Put),
            Command::DeleteRange(delete) => self.delete_range(&delete)?.map(Outcome::DeleteRange),
            Command::Compact(compact) => self.compact(compact).map(Outcome::Compact),
        };
        Ok(outcome.unwrap_or_else(Outcome::Refused))
    }

    fn put(&mut self, put: Put) -> Result<Result<PutOutcome, Refused>, KvError> {
        let Put { key, value, lease, prev_kv } = put;
        if key.is_empty() {
            return Ok(Err(Refused::EmptyKey));
        }
        if let Some(lease) = lease {
            return Ok(Err(Refused::NoSuchLease(lease)));
        }
        let revision = self.state.revision.next();
        let mut head =
            Head { create_revision: revision, mod_revision: revision, version: 1, lease };
        let mut previous = None;
        let mut kind = ChangeKind::Created;
        if let Some(record) = self.latest(&key)? {
            let (before, _) = Head::decode(&record)?;
            head.create_revision = before.create_revision;
            head.version = before.version + 1;
            kind = ChangeKind::Modified;
            self.batch.put_cf(self.families.old, old_key(&key, revision), &record);
            if prev_kv {
                previous = Some(key_value(&key, &record)?);
            }
        }
        let record = head.encode_with(&value);
        self.batch.put_cf(self.families.latest, &key, &record);
        self.note(revision, 0, kind, &key);
        self.pending.insert(key, Some(record.into()));
        self.state.revision = revision;
        Ok(Ok(PutOutcome { revision, previous }))
    }

    fn delete_range(
        &mut self,
        delete: &DeleteRange,
    ) -> Result<Result<DeleteOutcome, Refused>, KvError> {
        let bytes_limit = if delete.prev_kv { DELETE_PREV_BYTES } else { DELETE_BYTES };
        let Some(found) = self.latest_range(&delete.range, DELETE_KEYS, bytes_limit)? else {
            return Ok(Err(Refused::TooMuch { keys: DELETE_KEYS, bytes: bytes_limit }));
        };
        let mut outcome =
            DeleteOutcome { revision: self.state.revision, deleted: 0, previous: Vec::new() };
        if found.is_empty() {
            return Ok(Ok(outcome));
        }
        let revision = self.state.revision.next();
        for (number, (key, record)) in (0..).zip(found) {
            self.batch.put_cf(self.families.old, old_key(&key, revision), &record);
            self.batch.delete_cf(self.families.latest, &key);
            self.note(revision, number, ChangeKind::Deleted, &key);
            outcome.deleted += 1;
            if delete.prev_kv {
                outcome.previous.push(key_value(&key, &record)?);
            }
            self.pending.insert(key, None);
        }
        outcome.revision = revision;
        self.state.revision = revision;
        Ok(Ok(outcome))
    }

    fn compact(&mut self, compact: Compact) -> Result<CompactOutcome, Refused> {
        let revision = compact.revision;
        let State { revision: current, compacted, .. } = self.state;
        if revision <= compacted {
            return Err(Refused::Compacted { revision, compacted });
        }
        if revision > current {
            return Err(Refused::FutureRevision { revision, current });
        }
        self.state.compacted = revision;
        Ok(CompactOutcome { revision: current, compacted: revision })
    }

    /// The record of `key` as of the entry before this one.
    fn latest(&self, key: &Bytes) -> Result<Option<Bytes>, KvError> {
        if let Some(pending) = self.pending.get(key) {
            return Ok(pending.clone());
        }
        let record = self.store.db().get_cf(self.families.latest, key);
        Ok(record.map_err(KvError::storage("reading a key"))?.map(Bytes::from))
    }

    /// All records in `range` as of the entry before this one, or `None` if they are more than
    /// `keys` or have more than `bytes`. Which of them the database shows already depends on the
    /// batch, so they are counted together before anything is decided (rule C1).
    fn latest_range(
        &self,
        range: &KeyRange,
        keys: u64,
        bytes: u64,
    ) -> Result<Option<BTreeMap<Bytes, Bytes>>, KvError> {
        let mut found = BTreeMap::new();
        if range.is_empty() {
            return Ok(Some(found));
        }
        let mut left = (keys, bytes);
        let mut take = |key: Bytes, record: Bytes| {
            let cost = (key.len() + record.len()) as u64;
            let room = left.0.checked_sub(1).zip(left.1.checked_sub(cost));
            if let Some(room) = room {
                left = room;
                found.insert(key, record);
            }
            room.is_some()
        };
        for (key, record) in self.pending.range::<Bytes, _>(range.first()..) {
            if !range.contains(key) {
                break;
            }
            if let Some(record) = record
                && !take(key.clone(), record.clone())
            {
                return Ok(None);
            }
        }
        let mut options = ReadOptions::default();
        if let Some(before) = range.before() {
            options.set_iterate_upper_bound(before);
        }
        let mut rows = self.store.db().raw_iterator_cf_opt(self.families.latest, options);
        rows.seek(range.first());
        while let Some((key, record)) = rows.item() {
            let is_pending = self.pending.contains_key(key);
            if !is_pending && !take(Bytes::copy_from_slice(key), Bytes::copy_from_slice(record)) {
                return Ok(None);
            }
            rows.next();
        }
        rows.status().map_err(KvError::storage("reading a range"))?;
        Ok(Some(found))
    }

    fn note(&mut self, revision: Revision, number: u32, kind: ChangeKind, key: &[u8]) {
        let change = encode_change(kind, key);
        self.batch.put_cf(self.families.changes, change_key(revision, number), change);
    }
}

// The limits of one command are part of what commands mean. They must be the same on every node, so
// they are not configuration; changing them takes a new version of the state machine (rule C7).

/// The most keys one command deletes.
const DELETE_KEYS: u64 = 100_000;
/// The most bytes of keys and records one command deletes.
const DELETE_BYTES: u64 = 64 << 20;
/// The same if it is to say what they were: its outcome has to fit into an answer.
const DELETE_PREV_BYTES: u64 = 4 << 20;

/// A write batch is written when it has this size, at the next entry.
const BATCH_BYTES: usize = 16 << 20;
