//! Reading the store, from any thread, now or as it was.
//!
//! Each read sees one state of the store, from between two write batches. Readers never hold up the
//! state machine, nor it them; a reader goes on with the new database once a snapshot was
//! installed.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use raft_core::sessions::ClusterTime;
use raft_core::{Index, LogId};
use serde::{Deserialize, Serialize};

use crate::command::Divergence;
use crate::config::KvConfig;
use crate::digest::{self, Digest, RevisionDigest};
use crate::error::KvError;
use crate::model::{KeyRange, KeyValue, Revision};
use crate::range::RangeRequest;
use crate::record::{State, shared_key_value};
use crate::scan::{self, View};
use crate::store::Store;
use crate::turns::Mark;
use crate::version::MachineVersion;
use crate::watch::{Bell, Hub};

/// Reads a [`Kv`](crate::Kv). Cheap to clone. As long as one lives the store stays open.
#[derive(Clone, Debug)]
pub struct KvReader {
    live: Arc<Live>,
    config: KvConfig,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeReply {
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// How many keys there are in the range, whether returned or not.
    pub count: u64,
    /// Whether the limit, or the room in one answer, has cut some off. Go on after the last key.
    pub more: bool,
    /// The revision of the store when it was read, whatever revision was asked for.
    pub revision: Revision,
    /// The last entry applied when it was read.
    pub applied: Index,
}

impl KvReader {
    pub(crate) fn new(live: Arc<Live>, config: KvConfig) -> Self {
        Self { live, config }
    }

    /// Reads a range. May read much: a count goes through the whole range, whatever the limit.
    ///
    /// # Errors
    ///
    /// [`KvError::Compacted`] and [`KvError::FutureRevision`] if there is no such revision to be
    /// read; [`KvError::Storage`] or [`KvError::Corrupt`] if the store cannot be read.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeReply, KvError> {
        let store = self.live.store();
        let view = View::new(&store)?;
        let state = view.state();
        let at = readable(request.revision, state)?;
        let found = view.range(request, at, self.config.max_reply_bytes)?;
        Ok(RangeReply {
            kvs: found.kvs,
            count: found.count,
            more: found.more,
            revision: state.revision,
            applied: state.last.index,
        })
    }

    /// Reads one key as it is now, if that needs no disk. `None` if it might, or if `request` asks
    /// for anything else. Never blocks, so that any thread may try it first.
    ///
    /// # Errors
    ///
    /// As [`KvReader::range`].
    pub fn range_cached(&self, request: &RangeRequest) -> Result<Option<RangeReply>, KvError> {
        let KeyRange::One(key) = &request.range else { return Ok(None) };
        if !request.is_plain_point() {
            return Ok(None);
        }
        let Some((state, kv)) = self.cached(key)? else { return Ok(None) };
        Ok(Some(RangeReply {
            count: kv.iter().len() as u64,
            kvs: kv.into_iter().collect(),
            more: false,
            revision: state.revision,
            applied: state.last.index,
        }))
    }

    /// One key and a state that it is of, without a frozen view, which costs more than the read itself.
    fn cached(&self, key: &Bytes) -> Result<Option<(State, Option<KeyValue>)>, KvError> {
        for _ in 0..TRIES {
            let (mark, store, state) = self.live.now();
            // It is for microseconds only that there is none.
            let Some(mark) = mark else { continue };
            let Some(record) = scan::latest_cached(&store, key)? else { return Ok(None) };
            let kv = record.map(|record| shared_key_value(key, &record)).transpose()?;
            // Nothing came between what was found and the state, if it is from before that; or if nothing came at
            // all.
            let is_before = kv.as_ref().is_some_and(|kv| kv.mod_revision <= state.revision);
            if is_before || store.turns().has_stood_still(mark) {
                return Ok(Some((state, kv)));
            }
        }
        Ok(None)
    }

    /// Reads one key as it is now.
    ///
    /// # Errors
    ///
    /// [`KvError::Storage`] or [`KvError::Corrupt`] if the store cannot be read.
    pub fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, KvError> {
        let reply = self.range(&RangeRequest::new(KeyRange::One(key.into())))?;
        Ok(reply.kvs.into_iter().next())
    }

    /// The revision of the store.
    pub fn revision(&self) -> Revision {
        self.live.state().revision
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.live.state().compacted
    }

    /// What time it is in the cluster as far as entries were applied, and whether it may stand
    /// still because there is nothing it could end.
    pub(crate) fn clock(&self) -> (ClusterTime, bool) {
        let state = self.live.state();
        (state.clock, state.timed == 0)
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> LogId {
        self.live.state().last
    }

    /// A hash of everything that can be read, now and in the past. Two stores that have applied the
    /// same log have the same. Reads the whole store.
    ///
    /// # Errors
    ///
    /// [`KvError::Storage`] or [`KvError::Corrupt`] if the store cannot be read.
    pub fn digest(&self) -> Result<Digest, KvError> {
        digest::of(&View::new(&self.live.store())?)
    }

    /// A hash of what one revision held. Two stores that have come as far have the same. Reads all of it.
    ///
    /// # Errors
    ///
    /// As [`KvReader::range`].
    pub fn revision_digest(&self, revision: Revision) -> Result<RevisionDigest, KvError> {
        let store = self.live.store();
        let view = View::new(&store)?;
        readable(Some(revision), view.state())?;
        digest::of_revision(&view, revision)
    }

    /// The bytes of all keys and values with their history, as [`KvConfig::quota_bytes`] counts them.
    pub fn stored_bytes(&self) -> u64 {
        self.live.state().bytes
    }

    /// Which version of commands is in force.
    pub fn machine_version(&self) -> MachineVersion {
        self.live.state().machine
    }

    /// The nodes whose data is not that of the others, as far as this one has heard, by id.
    ///
    /// # Errors
    ///
    /// [`KvError::Storage`] or [`KvError::Corrupt`] if the store cannot be read.
    pub fn alarms(&self) -> Result<Vec<Divergence>, KvError> {
        self.live.store().alarms()
    }

    /// Whether there is history that was given up and still takes space.
    pub(crate) fn has_garbage(&self) -> bool {
        let state = self.live.state();
        state.purged < state.compacted
    }

    /// The bytes that the file system of the store has to spare.
    pub(crate) fn free_bytes(&self) -> Result<u64, KvError> {
        let store = self.live.store();
        let looking = KvError::io("looking at the space of", store.path());
        fs4::available_space(store.path()).map_err(looking)
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        self.live.store()
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// The hub of this store, which is started if this is the first watch.
    pub(crate) fn hub(&self) -> Result<Arc<Hub>, KvError> {
        let mut hub = self.live.hub.lock().unwrap_or_else(PoisonError::into_inner);
        match &*hub {
            Some(hub) => Ok(hub.clone()),
            None => Ok(hub.insert(Hub::start(&self.live)?).clone()),
        }
    }

    /// What is set on the store.
    pub fn config(&self) -> &KvConfig {
        &self.config
    }
}

/// The database in use and how far it has come, shared between the state machine and its readers.
#[derive(Debug)]
pub(crate) struct Live {
    now: RwLock<(Arc<Store>, State)>,
    /// Rings when more was applied.
    bell: Bell,
    /// From the first watch on.
    hub: Mutex<Option<Arc<Hub>>>,
}

impl Live {
    pub(crate) fn new(store: Store, state: State) -> Self {
        let now = RwLock::new((Arc::new(store), state));
        Self { now, bell: Bell::default(), hub: Mutex::default() }
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub(crate) fn state(&self) -> State {
        self.now.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// The database, and a state that it holds at least: just that, as long as nothing has moved since the mark. No
    /// mark, if the database may be ahead of the state.
    fn now(&self) -> (Option<Mark>, Arc<Store>, State) {
        // The state does not change while this is locked.
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        (now.0.turns().mark(), now.0.clone(), now.1)
    }

    /// More was applied.
    pub(crate) fn advance(&self, state: State) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        now.1 = state;
        now.0.turns().end();
        drop(now);
        self.bell.ring();
    }

    /// Another database has taken the place of this one, which goes once its last reader is done.
    pub(crate) fn replace(&self, store: Store, state: State) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut *now, (Arc::new(store), state));
        drop(now);
        former.0.doom();
        self.bell.ring();
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// So often a read begins anew when something is applied meanwhile.
const TRIES: usize = 8;

/// The revision to read: `None` for now.
pub(crate) fn readable(
    wanted: Option<Revision>,
    state: State,
) -> Result<Option<Revision>, KvError> {
    let State { revision: current, compacted, .. } = state;
    match wanted {
        None => Ok(None),
        Some(revision) if revision < compacted => Err(KvError::Compacted { revision, compacted }),
        Some(revision) if revision > current => Err(KvError::FutureRevision { revision, current }),
        Some(revision) => Ok((revision < current).then_some(revision)),
    }
}

#[cfg(test)]
mod tests {
    use raft_core::sessions::{SessionId, SessionTag};
    use raft_core::{Entry, Payload, Term};

    use super::*;
    use crate::apply::Applier;
    use crate::command::{Command, DeleteRange, Outcome, Put};
    use crate::home::Home;
    use crate::proposal::Proposal;
    use crate::timed::Timed;

    /// A store that nothing is written of unless the test says so.
    struct Subject {
        reader: KvReader,
        timed: Timed,
        _dir: tempfile::TempDir,
    }

    impl Subject {
        fn new(config: KvConfig) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::create(&Home::open(dir.path()).unwrap(), 1, &config).unwrap();
            let reader = KvReader::new(Arc::new(Live::new(store, State::EMPTY)), config);
            Self { reader, timed: Timed::default(), _dir: dir }
        }

        fn run(&mut self, proposal: impl Into<Proposal>) -> Outcome {
            let (store, state) = (self.reader.store(), self.reader.live.state());
            let mut applier = Applier::new(&store, state, &mut self.timed);
            let id = LogId::new(Term(1), state.last.index.next());
            let payload = Payload::Command(proposal.into().encode());
            let outcome = applier.apply(&Entry { id, payload }).unwrap();
            self.reader.live.advance(applier.finish().unwrap().state);
            Outcome::decode(&outcome).unwrap()
        }

        /// The value of `k`, as all ways to read without a view find it.
        fn value(&self) -> Option<Bytes> {
            let request = RangeRequest::new(KeyRange::One("k".into()));
            let found = self.reader.range_cached(&request).unwrap().unwrap();
            assert_eq!(found.revision, self.reader.revision());
            let record = self.reader.store().latest_of(&"k".into()).unwrap();
            let value = found.kvs.into_iter().next().map(|kv| kv.value);
            let of_record = |record| shared_key_value(&"k".into(), &record).unwrap().value;
            assert_eq!(record.map(of_record), value);
            value
        }

        /// What `check` says before, while and after what was applied is written.
        fn at_each_place<T>(&self, check: impl Fn(&Self) -> T) -> [T; 3] {
            let store = self.reader.store();
            let before = check(self);
            let mut meanwhile = None;
            let write = |portion: &crate::unwritten::Portion| {
                meanwhile = Some(check(self));
                store.write_portion(portion)
            };
            store.unwritten().write_with(write).unwrap();
            [before, meanwhile.expect("there was something to write"), check(self)]
        }
    }

    fn put(value: &'static str) -> Command {
        Command::Put(Put { prev_kv: true, ..Put::new("k", value) })
    }

    /// Rule C8: in what is not written yet, in what is being written, in what is.
    #[test]
    fn a_read_finds_what_was_applied_wherever_that_is() {
        for row_cache_bytes in [0, 1 << 20] {
            let config = KvConfig { row_cache_bytes, ..KvConfig::default() };
            let mut subject = Subject::new(config);
            subject.run(put("1"));
            assert_eq!(
                subject.at_each_place(Subject::value),
                [const { Some(Bytes::from_static(b"1")) }; 3]
            );
            let Outcome::Put(outcome) = subject.run(put("2")) else { panic!("it is refused") };
            assert_eq!(outcome.previous.unwrap().value, "1");
            assert_eq!(
                subject.at_each_place(Subject::value),
                [const { Some(Bytes::from_static(b"2")) }; 3]
            );
            subject.run(put("3"));
            let delete = DeleteRange { range: KeyRange::all(), prev_kv: false };
            let deleted = subject.run(Command::DeleteRange(delete));
            let Outcome::DeleteRange(deleted) = deleted else { panic!("it is refused") };
            assert_eq!(deleted.deleted, 1, "a range command sees it");
            assert_eq!(subject.at_each_place(Subject::value), [const { None }; 3]);
            // A view waits for what there is to be written.
            subject.run(put("4"));
            let now = subject.reader.range(&RangeRequest::new(KeyRange::all())).unwrap();
            assert_eq!((now.kvs[0].version, now.revision), (1, Revision(6)));
        }
    }

    /// Rule C2, likewise.
    #[test]
    fn a_repeated_command_is_answered_wherever_the_answer_is() {
        let mut subject = Subject::new(KvConfig::default());
        let Outcome::Session { session, .. } = subject.run(Command::OpenSession { ttl_ms: 60_000 })
        else {
            panic!("it is refused")
        };
        assert_eq!(session, SessionId(1));
        let tag = SessionTag { session, sequence: 1, unacknowledged: 1 };
        let once = || Proposal { session: Some(tag), ..Proposal::from(put("1")) };
        let first = subject.run(once());
        assert_eq!(subject.run(once()), first);
        subject.reader.store().write_applied().unwrap();
        assert_eq!(subject.run(once()), first);
        assert_eq!(subject.reader.revision(), Revision(2), "it was run once");
    }
}
