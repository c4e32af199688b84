//! What was applied and is not yet in RocksDB.
//!
//! To write costs RocksDB much the same for one row as for the hundredth change of it. So what is applied
//! comes together here for some milliseconds first: of a row that is written again and again the last state
//! is written, and an answer that its client has acknowledged meanwhile is never written at all.
//!
//! There are up to three portions, each as the state machine went on from the one before: the *open* one,
//! which grows; one that *is being written*; and the one that was *written* last, which is in RocksDB and kept
//! for those who want to know what has happened. What is in none of the first two is in RocksDB: a portion
//! leaves them only once it is there.
//!
//! Nothing here is durable, and nothing has to be: the Raft log has it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use foldhash::fast::RandomState;
use raft_core::sessions::{SessionId, SessionRecord};
use raft_core::{LogId, Membership};

use crate::command::Divergence;
use crate::error::KvError;
use crate::model::{LeaseId, Revision};
use crate::record::{ChangeKind, Noted, State};
use crate::timed::LeaseRecord;

/// Rows by their names. `None` for one that is to be deleted.
pub(crate) type Rows<K, V> = HashMap<K, Option<V>, RandomState>;

/// One key that a command has changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    /// Its place among the changes of the revision, from 0.
    pub(crate) number: u32,
    pub(crate) key: Bytes,
    /// Its record before, if it was there.
    pub(crate) before: Option<Bytes>,
    /// Its record after, unless it was deleted.
    pub(crate) after: Option<Bytes>,
}

impl Change {
    pub(crate) fn kind(&self) -> ChangeKind {
        match (&self.before, &self.after) {
            (None, _) => ChangeKind::Created,
            (Some(_), Some(_)) => ChangeKind::Modified,
            (Some(_), None) => ChangeKind::Deleted,
        }
    }

    /// What `changes` keeps of it.
    pub(crate) fn noted(&self) -> Noted<'_> {
        let ended = self.before.as_ref().map_or(0, Bytes::len);
        let ended = u32::try_from(ended).unwrap_or(u32::MAX);
        Noted { kind: self.kind(), key: &self.key, ended }
    }

    fn len_bytes(&self) -> usize {
        let record = |record: &Option<Bytes>| record.as_ref().map_or(0, Bytes::len);
        self.key.len() + record(&self.before) + record(&self.after)
    }
}

/// What some entries in a row have come to: all that has to be written, as one (rule C3).
#[derive(Debug, Default)]
pub(crate) struct Portion {
    /// How far they go. `None` while there is nothing.
    pub(crate) state: Option<State>,
    pub(crate) membership: Option<(LogId, Membership)>,
    pub(crate) alarms: Option<Vec<Divergence>>,
    /// By revision, and within it by number.
    pub(crate) changes: Vec<Change>,
    pub(crate) latest: Rows<Bytes, Bytes>,
    pub(crate) sessions: Rows<SessionId, SessionRecord>,
    pub(crate) leases: Rows<LeaseId, LeaseRecord>,
    /// Keys that a lease has.
    pub(crate) leased: Rows<(LeaseId, Bytes), ()>,
    /// Keys of `old` that compaction has given up. Of revisions before all that is written here.
    pub(crate) purged_old: Vec<Vec<u8>>,
    /// The revision through which it has given up all of `changes`.
    pub(crate) purged_through: Option<Revision>,
    answers: Rows<(SessionId, u64), Bytes>,
    /// The bytes of keys, records and answers.
    payload_bytes: usize,
}

impl Portion {
    /// About the memory that it takes. More than 0 if there is anything.
    pub(crate) fn bytes(&self) -> usize {
        let rows = self.latest.len() + self.answers.len() + self.sessions.len();
        let rows = rows + self.leases.len() + self.leased.len() + self.purged_old.len();
        let state = usize::from(self.state.is_some());
        self.payload_bytes + (state + rows + self.changes.len()) * ROW_BYTES
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.payload_bytes += change.len_bytes();
        self.changes.push(change);
    }

    pub(crate) fn purge_old(&mut self, row: Vec<u8>) {
        self.payload_bytes += row.len();
        self.purged_old.push(row);
    }

    pub(crate) fn answer(&mut self, of: (SessionId, u64), answer: Bytes) {
        self.payload_bytes += answer.len();
        self.answers.insert(of, Some(answer));
    }

    /// A number has one answer, once: if that is here it is nowhere else, and nothing is left of it.
    pub(crate) fn forget(&mut self, of: (SessionId, u64)) {
        if let Some(Some(answer)) = self.answers.insert(of, None) {
            self.payload_bytes -= answer.len();
            self.answers.remove(&of);
        }
    }

    pub(crate) fn answers(&self) -> &Rows<(SessionId, u64), Bytes> {
        &self.answers
    }

    /// Adds what came next.
    fn extend(&mut self, next: Self) {
        if self.state.is_none() {
            *self = next;
            return;
        }
        self.payload_bytes += next.payload_bytes;
        self.state = next.state;
        self.membership = next.membership.or_else(|| self.membership.take());
        self.alarms = next.alarms.or_else(|| self.alarms.take());
        self.changes.extend(next.changes);
        self.latest.extend(next.latest);
        self.sessions.extend(next.sessions);
        self.leases.extend(next.leases);
        self.leased.extend(next.leased);
        self.purged_old.extend(next.purged_old);
        self.purged_through = next.purged_through.or(self.purged_through);
        for (of, answer) in next.answers {
            match answer {
                Some(answer) => drop(self.answers.insert(of, Some(answer))),
                None => self.forget(of),
            }
        }
    }
}

/// All portions of one database. For one who applies, and any number who read and write.
#[derive(Default)]
pub(crate) struct Unwritten {
    portions: Mutex<Portions>,
    /// Held by who writes.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Portions {
    open: Portion,
    being_written: Option<Arc<Portion>>,
    written: Option<Arc<Portion>>,
    /// Set once writing has failed. What there was to write is gone then.
    failed: Option<rocksdb::Error>,
}

impl Unwritten {
    /// Adds what was applied next, and says how many bytes then wait to be written.
    ///
    /// # Errors
    ///
    /// [`KvError::Storage`] if writing has failed. The database then stays behind for ever.
    pub(crate) fn add(&self, portion: Portion) -> Result<usize, KvError> {
        let mut portions = self.lock();
        portions.check()?;
        portions.open.extend(portion);
        Ok(portions.waiting())
    }

    /// How many bytes wait to be written. More than 0 if anything does.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting()
    }

    /// The record of `key`, unless that is in RocksDB: `Some(None)` if the key is deleted.
    pub(crate) fn latest(&self, key: &Bytes) -> Option<Option<Bytes>> {
        self.find(|portion| &portion.latest, key)
    }

    /// The answer to a number of a session, unless that is in RocksDB.
    pub(crate) fn answer(&self, of: (SessionId, u64)) -> Option<Option<Bytes>> {
        self.find(|portion| &portion.answers, &of)
    }

    fn find<K: Hash + Eq, V: Clone>(
        &self,
        rows: impl Fn(&Portion) -> &Rows<K, V>,
        name: &K,
    ) -> Option<Option<V>> {
        let portions = self.lock();
        let being_written = portions.being_written.as_deref();
        let newest_first = [Some(&portions.open), being_written];
        newest_first.into_iter().flatten().find_map(|portion| rows(portion).get(name).cloned())
    }

    /// The changes of revisions from `first` through `through`, in order, if they are all still here. Not more
    /// than about `most`, but whole revisions.
    pub(crate) fn changes(
        &self,
        first: Revision,
        through: Revision,
        most: usize,
    ) -> Option<Vec<Change>> {
        let portions = self.lock();
        let in_order = [portions.written.as_ref(), portions.being_written.as_ref()];
        let in_order = in_order.into_iter().flatten().map(|portion| &portion.changes);
        let mut found: Vec<Change> = Vec::new();
        for changes in in_order.chain([&portions.open.changes]) {
            let Some(earliest) = changes.first() else { continue };
            if found.is_empty() && earliest.revision > first {
                return None;
            }
            let begin = changes.partition_point(|change| change.revision < first);
            for change in &changes[begin..] {
                let is_next = found.last().is_none_or(|last| last.revision < change.revision);
                if change.revision > through || is_next && found.len() >= most {
                    return Some(found);
                }
                found.push(change.clone());
            }
        }
        Some(found).filter(|found| !found.is_empty())
    }

    /// Has `write` bring all that was added to RocksDB. Waits while somebody else does that.
    ///
    /// # Errors
    ///
    /// [`KvError::Storage`] if it fails, or has failed before.
    pub(crate) fn write_with(
        &self,
        write: impl FnOnce(&Portion) -> Result<(), rocksdb::Error>,
    ) -> Result<(), KvError> {
        if self.is_written()? {
            return Ok(());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(portion) = self.begin()? else { return Ok(()) };
        let done = write(&portion);
        drop(portion);
        self.end(done)
    }

    fn is_written(&self) -> Result<bool, KvError> {
        let portions = self.lock();
        portions.check()?;
        Ok(portions.waiting() == 0)
    }

    fn begin(&self) -> Result<Option<Arc<Portion>>, KvError> {
        let mut portions = self.lock();
        portions.check()?;
        if portions.open.state.is_none() {
            return Ok(None);
        }
        let portion = Arc::new(std::mem::take(&mut portions.open));
        portions.being_written = Some(Arc::clone(&portion));
        Ok(Some(portion))
    }

    fn end(&self, done: Result<(), rocksdb::Error>) -> Result<(), KvError> {
        let mut portions = self.lock();
        if let Err(error) = done {
            portions.failed = Some(error);
            return portions.check();
        }
        let written = portions.being_written.take();
        let former = std::mem::replace(&mut portions.written, written);
        drop(portions);
        // It may be large. Nobody has to wait for that.
        drop(former);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Portions> {
        self.portions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Portions {
    fn waiting(&self) -> usize {
        self.open.bytes() + self.being_written.as_ref().map_or(0, |portion| portion.bytes())
    }

    fn check(&self) -> Result<(), KvError> {
        self.failed.clone().map_or(Ok(()), |error| Err(KvError::storage("writing")(error)))
    }
}

impl fmt::Debug for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unwritten").field("bytes", &self.waiting()).finish_non_exhaustive()
    }
}

/// What a row costs beside its bytes: its place in a table, and its counts.
const ROW_BYTES: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, key: &'static str) -> Change {
        let key = Bytes::from_static(key.as_bytes());
        let after = Some(Bytes::from(revision.to_string()));
        Change { revision: Revision(revision), number: 0, key, before: None, after }
    }

    /// A portion of one put of each revision.
    fn puts(revisions: impl Iterator<Item = u64>) -> Portion {
        let mut portion = Portion { state: Some(State::EMPTY), ..Portion::default() };
        for revision in revisions {
            let change = change(revision, "k");
            portion.latest.insert(change.key.clone(), change.after.clone());
            portion.change(change);
        }
        portion
    }

    fn revisions(found: Option<Vec<Change>>) -> Option<Vec<u64>> {
        found.map(|found| found.iter().map(|change| change.revision.0).collect())
    }

    #[test]
    fn a_row_is_found_until_it_is_written() {
        let unwritten = Unwritten::default();
        let k = Bytes::from_static(b"k");
        assert_eq!((unwritten.latest(&k), unwritten.waiting()), (None, 0));
        unwritten.add(puts(2..4)).unwrap();
        assert_eq!(unwritten.latest(&k), Some(Some("3".into())));
        let write = |portion: &Portion| {
            assert_eq!(portion.changes.len(), 2);
            assert_eq!(unwritten.latest(&k), Some(Some("3".into())));
            unwritten.add(puts(4..5)).unwrap();
            assert_eq!(unwritten.latest(&k), Some(Some("4".into())), "the newest");
            Ok(())
        };
        unwritten.write_with(write).unwrap();
        assert_eq!(unwritten.latest(&k), Some(Some("4".into())));
        unwritten.write_with(|_| Ok(())).unwrap();
        assert_eq!((unwritten.latest(&k), unwritten.waiting()), (None, 0));
        unwritten.write_with(|_| panic!("nothing is left")).unwrap();
    }

    #[test]
    fn what_was_written_last_is_still_told() {
        let unwritten = Unwritten::default();
        let told = |first, through, most| {
            revisions(unwritten.changes(Revision(first), Revision(through), most))
        };
        assert_eq!(told(2, 9, 9), None);
        unwritten.add(puts(2..4)).unwrap();
        unwritten.write_with(|_| Ok(())).unwrap();
        unwritten.add(puts(4..6)).unwrap();
        assert_eq!(told(2, 9, 9), Some(vec![2, 3, 4, 5]));
        assert_eq!(told(3, 4, 9), Some(vec![3, 4]), "not what nobody has heard of yet");
        assert_eq!(told(2, 9, 3), Some(vec![2, 3, 4]), "not too much at once");
        unwritten.write_with(|_| Ok(())).unwrap();
        assert_eq!(told(3, 9, 9), None, "some of it is in the database only");
        assert_eq!(told(4, 9, 9), Some(vec![4, 5]));
        assert_eq!(told(6, 9, 9), None);
    }

    #[test]
    fn an_answer_that_is_forgotten_in_time_leaves_nothing() {
        let of = |number| (SessionId(1), number);
        let answer = |number| {
            let mut portion = puts(2..3);
            portion.answer(of(number), Bytes::from_static(b"answer"));
            portion
        };
        let mut portion = answer(1);
        let bytes = portion.bytes();
        let mut next = answer(2);
        next.forget(of(1));
        portion.extend(next);
        assert!(!portion.answers().contains_key(&of(1)), "it was never written");
        assert!(portion.answers()[&of(2)].is_some());
        assert!(portion.bytes() > bytes);

        // Where it may have been written, that is taken back.
        let mut later = puts(3..4);
        later.forget(of(2));
        assert_eq!(later.answers().get(&of(2)), Some(&None));
        let unwritten = Unwritten::default();
        unwritten.add(portion).unwrap();
        let write = |_: &Portion| {
            assert_eq!(unwritten.answer(of(2)), Some(Some("answer".into())));
            unwritten.add(later).unwrap();
            assert_eq!(unwritten.answer(of(2)), Some(None));
            Ok(())
        };
        unwritten.write_with(write).unwrap();
    }

    /// Rule L14: nobody may go on as if it were there.
    #[test]
    fn after_a_failure_nothing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = rocksdb::DB::open_default(dir.path().join("file")).unwrap_err();
        let unwritten = Unwritten::default();
        unwritten.add(puts(2..3)).unwrap();
        let is_storage = |error: &KvError| matches!(error, KvError::Storage { .. });
        assert!(is_storage(&unwritten.write_with(|_| Err(error)).unwrap_err()));
        assert!(is_storage(&unwritten.write_with(|_| Ok(())).unwrap_err()));
        assert!(is_storage(&unwritten.add(puts(3..4)).unwrap_err()));
        assert_eq!(unwritten.latest(&Bytes::from_static(b"k")), Some(Some("2".into())));
    }
}
