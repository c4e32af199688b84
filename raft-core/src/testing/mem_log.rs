//! A log in memory, on a model of a disk.
//!
//! The disk outlives the log as a real one outlives a process: [`MemDisk::log`] opens it again. It can be
//! told to fail, to stall, to be full, to lose power in the middle, and to lie: to report as durable what is only
//! in its write cache. An honest disk has no cache to speak of, because [`LogStore::persist`] returns
//! only when it is empty.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::entry::{Entry, Membership, Payload};
use crate::log_store::{Batch, LogReader, LogStore, Recovered, StoreError};
use crate::snapshot::SnapshotMeta;
use crate::types::{HardState, Index, LogId, Term};

/// A disk in memory. Cloning gives another handle to the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    shared: Arc<Shared>,
}

/// How a write goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The device reports an error and nothing was written.
    Refused,
    /// The device reports an error although the write is durable: the worst that a failed fsync
    /// may mean (rule L14).
    WrittenAllTheSame,
    /// There is no room.
    Full,
}

/// The log on a [`MemDisk`], as one run of a node has it.
#[derive(Debug)]
pub struct MemLog {
    disk: MemDisk,
    /// A log that was open when the power went must not write any more.
    opened: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What readers see.
    image: Image,
    /// What a power cut leaves, if the disk has lied: otherwise it is the same.
    durable: Option<Box<Image>>,
    lies: bool,
    held: bool,
    /// So many writes succeed, then all fail.
    fault: Option<(u64, DiskFault)>,
    opened: u64,
    writes: u64,
}

/// Term, vote and log.
#[derive(Clone, Debug, Default)]
struct Image {
    hard: HardState,
    base: SnapshotMeta,
    /// Consecutive, from after the base.
    entries: VecDeque<Entry>,
}

impl MemDisk {
    /// An empty disk: of a node that is yet to be added to a cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk of a founding member: an empty log that begins with `membership`.
    pub fn founded(membership: Membership) -> Self {
        let disk = Self::new();
        disk.lock().image.base.membership = membership;
        disk
    }

    /// Opens the log, repaired: what was told to fail or to stall does so no more. A log that was open
    /// before fails from now on.
    pub fn log(&self) -> MemLog {
        let mut state = self.lock();
        state.opened += 1;
        state.fault = None;
        let opened = state.opened;
        drop(state);
        self.release();
        MemLog { disk: self.clone(), opened }
    }

    // What goes wrong.

    /// Cuts the power: what is not durable is gone, and whoever has the log open cannot write any more.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.opened += 1;
        if let Some(durable) = state.durable.take() {
            state.image = *durable;
        }
        drop(state);
        self.release();
    }

    /// From now on `writes` more writes succeed, then every one fails, until the log is opened again.
    pub fn fail_after(&self, writes: u64, fault: DiskFault) {
        self.lock().fault = Some((writes, fault));
    }

    /// Holds every write back until [`MemDisk::release`]: an fsync that stalls.
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Lets the writes go that [`MemDisk::hold`] holds back.
    pub fn release(&self) {
        self.lock().held = false;
        self.shared.changed.notify_all();
    }

    /// Begins to lie: writes from now on are in the cache only, and a crash loses them. On such a disk
    /// no log keeps its promises; this shows whether a test would notice.
    pub fn lie(&self) {
        self.lock().lies = true;
    }

    // What is on it.

    /// The term and vote that a power cut would leave.
    pub fn hard(&self) -> HardState {
        self.lock().durable().hard
    }

    /// The last entry that a power cut would leave, or the base if there is none.
    pub fn last(&self) -> LogId {
        self.lock().durable().last()
    }

    /// Whether a power cut would leave this very entry, or a base after it.
    pub fn holds(&self, id: LogId) -> bool {
        let state = self.lock();
        let image = state.durable();
        id.index < image.base.last.index || image.term_at(id.index) == Some(id.term)
    }

    /// The start of the log.
    pub fn base(&self) -> LogId {
        self.lock().durable().base.last
    }

    /// The entry at `index`.
    pub fn entry(&self, index: Index) -> Option<Entry> {
        self.lock().image.entry(index).cloned()
    }

    /// How many writes were made so far.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A write is applied in whole or not at all, so a panic leaves nothing half done.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the disk stalls, then writes unless it fails.
    fn write(
        &self,
        opened: u64,
        doing: &'static str,
        change: impl FnOnce(&mut Image) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        while state.held && state.opened == opened {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.opened != opened {
            return Err(io_error(doing, "the power is gone"));
        }
        let fault = state.fault.as_mut().and_then(|(left, fault)| match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                None
            }
            None => Some(*fault),
        });
        match fault {
            Some(DiskFault::Refused) => return Err(io_error(doing, "the device refuses")),
            Some(DiskFault::Full) => {
                return Err(StoreError::Full { doing, path: PathBuf::from("memory") });
            }
            Some(DiskFault::WrittenAllTheSame) | None => {}
        }
        if state.lies && state.durable.is_none() {
            state.durable = Some(Box::new(state.image.clone()));
        }
        change(&mut state.image)?;
        state.writes += 1;
        match fault {
            Some(_) => Err(io_error(doing, "the device reports an error")),
            None => Ok(()),
        }
    }
}

impl LogStore for MemLog {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        Ok(self.disk.lock().image.recover())
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.disk.write(self.opened, "writing", |image| image.write(batch))
    }

    fn compact(&mut self, base: &SnapshotMeta) -> Result<(), StoreError> {
        self.disk.write(self.opened, "compacting", |image| {
            image.compact(base);
            Ok(())
        })
    }

    fn reader(&self) -> Box<dyn LogReader> {
        Box::new(Reader { disk: self.disk.clone() })
    }
}

#[derive(Debug)]
struct Reader {
    disk: MemDisk,
}

impl LogReader for Reader {
    fn read(
        &self,
        first: Index,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let state = self.disk.lock();
        let image = &state.image;
        let mut bytes = 0;
        let mut found = Vec::new();
        let mut next = first;
        while let Some(entry) = image.entry(next).filter(|_| found.len() < max_entries) {
            bytes += entry.payload.len_bytes();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
            next = next.next();
        }
        Ok(found)
    }
}

impl State {
    fn durable(&self) -> &Image {
        self.durable.as_deref().unwrap_or(&self.image)
    }
}

impl Image {
    /// Applies a batch: all of it, in the order of its fields, or nothing.
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if let Some(gap) = self.gap(batch) {
            return Err(gap);
        }
        if let Some(hard) = batch.hard {
            self.hard = hard;
        }
        if let Some(installed) = &batch.snapshot {
            if installed.keep_tail {
                self.drop_through(installed.meta.last.index);
            } else {
                self.entries.clear();
            }
            self.base = installed.meta.clone();
        }
        if let Some(from) = batch.truncate_from {
            let keep = from.prev().since(self.base.last.index);
            self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        }
        self.entries.extend(batch.entries.iter().cloned());
        Ok(())
    }

    /// Whether `batch` would leave a hole or cut into the base.
    fn gap(&self, batch: &Batch) -> Option<StoreError> {
        let base = batch.snapshot.as_ref().map_or(self.base.last, |installed| installed.meta.last);
        let mut last = match &batch.snapshot {
            Some(installed) if !installed.keep_tail => base.index,
            Some(_) | None => self.last().index,
        };
        if let Some(from) = batch.truncate_from {
            if from <= base.index {
                return Some(StoreError::Gap { first: from, last: base.index });
            }
            last = last.min(from.prev());
        }
        for entry in &batch.entries {
            if entry.id.index != last.next() {
                return Some(StoreError::Gap { first: entry.id.index, last });
            }
            last = entry.id.index;
        }
        None
    }

    fn compact(&mut self, base: &SnapshotMeta) {
        if base.last.index > self.base.last.index {
            self.drop_through(base.last.index);
            self.base = base.clone();
        }
    }

    fn drop_through(&mut self, index: Index) {
        while self.entries.front().is_some_and(|entry| entry.id.index <= index) {
            self.entries.pop_front();
        }
    }

    fn last(&self) -> LogId {
        self.entries.back().map_or(self.base.last, |entry| entry.id)
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.last.index {
            return Some(self.base.last.term);
        }
        self.entry(index).map(|entry| entry.id.term)
    }

    fn entry(&self, index: Index) -> Option<&Entry> {
        let place = index.0.checked_sub(self.base.last.index.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    fn recover(&self) -> Recovered {
        let mut runs: Vec<(Term, Index)> = Vec::new();
        let mut memberships = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|(term, _)| *term != entry.id.term) {
                runs.push((entry.id.term, entry.id.index));
            }
            match &entry.payload {
                Payload::Membership(membership) => {
                    memberships.push((entry.id, Membership::clone(membership)))
                }
                Payload::Empty | Payload::Command(_) => {}
            }
        }
        let last = self.last().index;
        Recovered { hard: self.hard, base: self.base.clone(), runs, last, memberships }
    }
}

fn io_error(doing: &'static str, what: &'static str) -> StoreError {
    StoreError::Io { doing, source: io::Error::other(what) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_store::Installed;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { id: LogId::new(Term(term), Index(index)), payload: Payload::Empty }
    }

    fn batch(entries: Vec<Entry>) -> Batch {
        Batch { entries, ..Batch::default() }
    }

    fn ids(log: &MemLog, first: u64) -> Vec<(u64, u64)> {
        let found = log.reader().read(Index(first), 100, 1 << 20).unwrap();
        found.iter().map(|entry| (entry.id.index.0, entry.id.term.0)).collect()
    }

    #[test]
    fn a_batch_takes_effect_in_the_order_of_its_fields() {
        let disk = MemDisk::new();
        let mut log = disk.log();
        log.persist(&batch(vec![entry(1, 1), entry(2, 1), entry(3, 1)])).unwrap();
        let meta = SnapshotMeta { last: entry(1, 1).id, ..Default::default() };
        let mut next = batch(vec![entry(3, 2)]);
        next.snapshot = Some(Box::new(Installed { meta, keep_tail: true }));
        next.truncate_from = Some(Index(3));
        log.persist(&next).unwrap();
        assert_eq!(ids(&log, 2), [(2, 1), (3, 2)]);
        assert_eq!(ids(&log, 1), []);
        let found = disk.log().recover().unwrap();
        assert_eq!(found.runs, [(Term(1), Index(2)), (Term(2), Index(3))]);
    }

    #[test]
    fn a_hole_is_refused_and_nothing_is_written() {
        let disk = MemDisk::new();
        let mut log = disk.log();
        let mut bad = batch(vec![entry(2, 1)]);
        bad.hard = Some(HardState { term: Term(1), vote: None });
        assert!(matches!(log.persist(&bad), Err(StoreError::Gap { .. })));
        assert_eq!(disk.hard(), HardState::default());
    }

    #[test]
    fn a_fault_lasts_until_the_log_is_opened_again() {
        let disk = MemDisk::new();
        let mut log = disk.log();
        disk.fail_after(1, DiskFault::WrittenAllTheSame);
        log.persist(&batch(vec![entry(1, 1)])).unwrap();
        assert!(log.persist(&batch(vec![entry(2, 1)])).is_err());
        assert!(log.persist(&batch(vec![entry(3, 1)])).is_err());
        let mut again = disk.log();
        assert_eq!(again.recover().unwrap().last, Index(3));
        assert!(log.persist(&batch(vec![entry(4, 1)])).is_err(), "the old one must not write");
        again.persist(&batch(vec![entry(4, 1)])).unwrap();
    }

    #[test]
    fn a_disk_that_lies_loses_what_it_had_reported() {
        let disk = MemDisk::new();
        let mut log = disk.log();
        log.persist(&batch(vec![entry(1, 1)])).unwrap();
        disk.lie();
        log.persist(&batch(vec![entry(2, 1)])).unwrap();
        assert_eq!(ids(&log, 1), [(1, 1), (2, 1)]);
        assert!(!disk.holds(entry(2, 1).id));
        disk.crash();
        assert_eq!(disk.log().recover().unwrap().last, Index(1));
    }
}
