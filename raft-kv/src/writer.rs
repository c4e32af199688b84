//! Brings what was applied to RocksDB: a little later, and in larger pieces.
//!
//! One thread of each store. It lets what is applied come together ([`GATHER`]), and not too much of it
//! ([`PLENTY`]). Whoever has to see everything in RocksDB does not wait for it but writes what is left, by
//! [`Store::write_applied`](crate::store::Store::write_applied).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rocksdb::{ColumnFamily, WriteBatch};

use crate::error::KvError;
use crate::model::Revision;
use crate::reader::Live;
use crate::record::{
    ALARMS_KEY, MEMBERSHIP_KEY, STATE_KEY, answer_key, change_key, encode_change,
    encode_membership, encode_row, lease_key, old_key, session_key,
};
use crate::store::Families;
use crate::unwritten::{Portion, Rows};

/// The thread. Ends when this is dropped; what is left then is the owner's to write.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// From how many bytes on that wait the thread is to be woken.
    wakes_at: AtomicUsize,
    is_over: AtomicBool,
}

impl Writer {
    pub(crate) fn start(live: &Arc<Live>) -> Result<Self, KvError> {
        let shared = Arc::<Shared>::default();
        let (live, working) = (Arc::clone(live), Arc::clone(&shared));
        let thread = thread::Builder::new().name("kv-write".to_owned());
        let thread = thread
            .spawn(move || working.run(&live))
            .map_err(KvError::io("starting a thread for", "writing"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// So many bytes wait now. Costs little, unless there is something to do that the thread does not know of.
    pub(crate) fn wake(&self, waiting: usize) {
        if waiting >= self.shared.wakes_at.load(Ordering::SeqCst) {
            self.shared.wakes_at.store(usize::MAX, Ordering::SeqCst);
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.unpark();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes to the store has panicked");
        }
    }
}

impl Shared {
    fn run(&self, live: &Live) {
        while self.wait(live) {
            if let Err(error) = live.store().write_applied() {
                // The state machine hears of it with its next entries, and stops.
                tracing::error!(%error, "what was applied cannot be written");
                return;
            }
        }
    }

    /// Waits until there is something to write, and then for more of it. `false` once that is not wanted any more.
    fn wait(&self, live: &Live) -> bool {
        let mut until: Option<Instant> = None;
        loop {
            if self.is_over.load(Ordering::SeqCst) {
                return false;
            }
            // Before the look: who adds after it wakes.
            let wakes_at = if until.is_some() { PLENTY } else { 1 };
            self.wakes_at.store(wakes_at, Ordering::SeqCst);
            let waiting = live.store().unwritten().waiting();
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                _ if waiting >= PLENTY => return true,
                None if waiting == 0 => thread::park(),
                None => until = Some(Instant::now() + GATHER),
                Some(Duration::ZERO) => return true,
                Some(left) => thread::park_timeout(left),
            }
        }
    }
}

/// All of `portion` as one write.
pub(crate) fn batch_of(portion: &Portion, families: Families<'_>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let Families { meta, latest, old, changes, sessions, leases } = families;
    if let Some(state) = &portion.state {
        batch.put_cf(meta, STATE_KEY, state.encode());
    }
    if let Some(membership) = &portion.membership {
        batch.put_cf(meta, MEMBERSHIP_KEY, encode_membership(membership));
    }
    if let Some(alarms) = &portion.alarms {
        batch.put_cf(meta, ALARMS_KEY, encode_row(alarms));
    }
    for row in &portion.purged_old {
        batch.delete_cf(old, row);
    }
    if let Some(through) = portion.purged_through {
        // One range tombstone a compaction, not one a step.
        batch.delete_range_cf(changes, change_key(Revision(0), 0), change_key(through.next(), 0));
    }
    let old_rows = portion.changes.iter().filter_map(|change| {
        let record = change.before.as_ref()?;
        Some((old_key(&change.key, change.revision), record))
    });
    for (row, record) in in_order(old_rows) {
        batch.put_cf(old, row, record);
    }
    for change in &portion.changes {
        let row = change_key(change.revision, change.number);
        batch.put_cf(changes, row, encode_change(&change.noted()));
    }
    add(&mut batch, latest, &portion.latest, Bytes::clone, Bytes::clone);
    add(&mut batch, sessions, &portion.sessions, |id| session_key(*id), encode_row);
    add(&mut batch, sessions, portion.answers(), |of| answer_key(of.0, of.1), Bytes::clone);
    add(&mut batch, leases, &portion.leases, |id| lease_key(*id, b""), encode_row);
    add(&mut batch, leases, &portion.leased, |(id, key)| lease_key(*id, key), |()| Bytes::new());
    batch
}

/// Adds rows of a family to a write.
fn add<K, V, Name: AsRef<[u8]>>(
    batch: &mut WriteBatch,
    family: &ColumnFamily,
    rows: &Rows<K, V>,
    name: impl Fn(&K) -> Name,
    row: impl Fn(&V) -> Bytes,
) {
    for (name, value) in in_order(rows.iter().map(|(key, value)| (name(key), value))) {
        match value {
            Some(value) => batch.put_cf(family, name, row(value)),
            None => batch.delete_cf(family, name),
        }
    }
}

/// Rows by their names. RocksDB looks for the place of each from where it has put the one before.
fn in_order<Name: AsRef<[u8]>, V>(rows: impl Iterator<Item = (Name, V)>) -> Vec<(Name, V)> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
    rows
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// So long what is applied comes together.
const GATHER: Duration = Duration::from_millis(20);
/// So many bytes are enough to be written at once.
const PLENTY: usize = 1 << 20;
