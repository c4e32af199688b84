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

    /// One key and a state that it is of. Mostly without a frozen view, which costs more than the read itself.
    fn cached(&self, key: &Bytes) -> Result<Option<(State, Option<KeyValue>)>, KvError> {
        let (mark, store, state) = self.live.now();
        if let Some(mark) = mark {
            let Some(record) = scan::latest_cached(&store, key)? else { return Ok(None) };
            let kv = record.map(|record| shared_key_value(key, &record)).transpose()?;
            // Nothing came between what was found and the state, if it is from before that; or if nothing came at
            // all.
            let is_before = kv.as_ref().is_some_and(|kv| kv.mod_revision <= state.revision);
            if is_before || store.turns().has_stood_still(mark) {
                return Ok(Some((state, kv)));
            }
        }
        View::cached(&store, key)
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
