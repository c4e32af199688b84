//! The store as the state machine of a node.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raft_core::{
    Applied, Entry, Index, LogId, MachineError, Membership, SnapshotReader, SnapshotSource,
    StateMachine,
};

use crate::apply::Applier;
use crate::config::KvConfig;
use crate::error::KvError;
use crate::home::Home;
use crate::reader::{KvReader, Live};
use crate::record::State;
use crate::snapshot;
use crate::store::Store;
use crate::timed::Timed;
use crate::writer::Writer;

/// The replicated key-value store of one node, on disk.
///
/// It has no log of its own. What it applied since its last flush is lost in a crash; it then comes
/// back to the state as of that flush, whole, and the node applies the rest again. It flushes when
/// its write buffer is full, when it is asked to ([`StateMachine::durable`]), and when it is
/// closed.
#[derive(Debug)]
pub struct Kv {
    config: KvConfig,
    home: Home,
    /// The number of the database in use.
    number: u64,
    live: Arc<Live>,
    state: State,
    timed: Timed,
    membership: Option<(LogId, Membership)>,
    next_snapshot: AtomicU64,
    /// The last entry that the flush covers which was begun last, until somebody was told that it is done.
    flushing: Option<Index>,
    writer: Writer,
}

impl Kv {
    /// Opens the store in `dir`, or creates an empty one there. `dir` is its alone.
    ///
    /// # Errors
    ///
    /// [`KvError::Locked`] if another process has it open; [`KvError::Config`] if the configuration
    /// makes no sense; [`KvError::Format`] if a newer program wrote it; [`KvError::Corrupt`],
    /// [`KvError::Io`] or [`KvError::Storage`] if it cannot be read.
    pub fn open(dir: &Path, config: KvConfig) -> Result<Self, KvError> {
        config.check()?;
        let home = Home::open(dir)?;
        let (number, store) = match home.current()? {
            Some(number) => (number, Store::open(&home, number, &config)?),
            None => {
                let store = Store::create(&home, FIRST_STORE, &config)?;
                home.set_current(FIRST_STORE)?;
                (FIRST_STORE, store)
            }
        };
        home.clean(number)?;
        let (state, membership) = (store.state()?, store.membership()?);
        let timed = Timed::load(&store)?;
        tracing::debug!(dir = %dir.display(), applied = %state.last, "opened the key-value store");
        let live = Arc::new(Live::new(store, state));
        let writer = Writer::start(&live)?;
        Ok(Self {
            config,
            home,
            number,
            live,
            state,
            timed,
            membership,
            next_snapshot: AtomicU64::new(1),
            flushing: None,
            writer,
        })
    }

    /// A way to read the store from any thread, alongside the node.
    pub fn reader(&self) -> KvReader {
        KvReader::new(self.live.clone(), self.config.clone())
    }
}

impl Kv {
    fn apply_all(
        &mut self,
        entries: &[Entry],
        outcomes: &mut Vec<Bytes>,
    ) -> Result<(), MachineError> {
        let store = self.live.store();
        let mut rest = entries;
        while !rest.is_empty() {
            let mut applier = Applier::new(&store, self.state, &mut self.timed);
            // Four times as fast as history can be made, so that compaction catches up.
            let changes = 4 * rest.len() + PURGE_CHANGES;
            applier.purge(changes).map_err(KvError::fatal("purging old history"))?;
            while let Some((entry, after)) = rest.split_first() {
                outcomes.push(applier.apply(entry)?);
                rest = after;
                if applier.is_full() {
                    break;
                }
            }
            let done = applier.finish().map_err(KvError::fatal("writing what was applied"))?;
            self.state = done.state;
            if done.membership.is_some() {
                self.membership = done.membership;
            }
            self.live.advance(self.state);
            self.writer.wake(done.waiting);
            if done.waiting >= MOST_WAITING {
                store.write_applied().map_err(KvError::fatal("writing what was applied"))?;
            }
        }
        Ok(())
    }
}

impl StateMachine for Kv {
    fn applied(&self) -> Applied {
        Applied { last: self.state.last, membership: self.membership.clone() }
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        // If it fails, nobody knows any more what the database holds, until the next start.
        self.apply_all(entries, outcomes)
    }

    /// Nobody waits for a flush: the answer is how far the files go, and every other call begins the flush
    /// that the next one answers for.
    fn durable(&mut self) -> Result<Index, MachineError> {
        let failed = || KvError::fatal("flushing what was applied");
        let store = self.live.store();
        let durable = store.durable().map_err(failed())?.state.last.index;
        match self.flushing {
            Some(through) if durable >= through => self.flushing = None,
            Some(_) => {}
            None if durable < self.state.last.index => {
                let has_begun = store.begin_flush().map_err(failed())?;
                self.flushing = has_begun.then_some(self.state.last.index);
            }
            None => {}
        }
        Ok(durable)
    }

    /// Of what is in files, since to bring the rest there takes long. The log has the rest.
    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let number = self.next_snapshot.fetch_add(1, Ordering::Relaxed);
        let path = self.home.snapshot_path(number);
        let store = self.live.store();
        let source = snapshot::take(&store, path).and_then(|source| {
            // The next one will hold all of this.
            if source.last() < self.state.last {
                store.begin_flush()?;
            }
            Ok(source)
        });
        Ok(Box::new(source.map_err(KvError::fatal("taking a snapshot"))?))
    }

    fn restore(&mut self, snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        let number = self.number + 1;
        let installed = snapshot::install(&self.home, number, &self.config, snapshot)
            .map_err(KvError::fatal("installing a snapshot"))?;
        self.timed = installed.timed;
        self.flushing = None;
        self.number = number;
        self.state = installed.state;
        self.membership = installed.membership;
        self.live.replace(installed.store, self.state);
        Ok(self.applied())
    }
}

/// A clean stop leaves nothing to apply again, also if readers keep the database open.
impl Drop for Kv {
    fn drop(&mut self) {
        if let Err(error) = self.live.store().flush() {
            tracing::warn!(%error, "what was applied last has to be applied again");
        }
    }
}

/// The number of the first database in a directory.
const FIRST_STORE: u64 = 1;

/// When so many bytes wait to be written, the state machine waits as well.
const MOST_WAITING: usize = 8 << 20;

/// How many changes are purged with each write batch at least, while there are any to purge.
const PURGE_CHANGES: usize = 1024;
