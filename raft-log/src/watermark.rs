//! The watermark: what the last acknowledged write was, kept outside of RocksDB.
//!
//! It tells a torn tail, which nobody was told about, from a lost end (rule L15); see the crate's
//! documentation. The file has two slots, each in a page of its own, that are written in turn and in
//! place: a torn slot leaves the other one, which is one write older. Writing it costs a system
//! call and no metadata; it is fsynced only now and then, because after a crash of the process the
//! page cache still has it.
//!
//! A watermark is written after its write is durable, so it never says more than the log holds.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use raft_core::StoreError;

use crate::database::REJOIN;
use crate::record::{self, State};

const SLOTS: [u64; 2] = [0, 1];
const PAGE_BYTES: u64 = 4096;

/// A slot holds the length of the record, 2 bytes little-endian, then the record.
const SLOT_BYTES: usize = 256;

/// The open file.
#[derive(Debug)]
pub(crate) struct Watermark {
    file: File,
    path: PathBuf,
    sync_every: Duration,
    synced_at: Instant,
    is_synced: bool,
}

impl Watermark {
    /// Creates the file anew, or overwrites it, with both slots at `state`, durable up to the
    /// directory entry.
    pub(crate) fn create(path: &Path, state: &State) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        for slot in SLOTS {
            write_slot(&file, slot, state)?;
        }
        file.set_len(PAGE_BYTES * 2)?;
        file.sync_all()
    }

    /// Opens the file, and says what it had been told last.
    pub(crate) fn open(path: &Path, sync_every: Duration) -> Result<(Self, State), StoreError> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(path, "it is missing"));
            }
            Err(source) => return Err(StoreError::Io { doing: OPENING, source }),
        };
        let mut newest = None;
        for slot in SLOTS {
            match read_slot(&file, slot) {
                Ok(Some(state)) => newest = newest.max_by_write(state),
                Ok(None) => {
                    tracing::warn!(path = %path.display(), slot, "a slot of the watermark is damaged");
                }
                Err(source) => return Err(StoreError::Io { doing: OPENING, source }),
            }
        }
        let Some(state) = newest else {
            return Err(damaged(path, "neither of its two slots checks out"));
        };
        let path = path.to_owned();
        let synced_at = Instant::now();
        Ok((Self { file, path, sync_every, synced_at, is_synced: true }, state))
    }

    /// Notes that `state` is durable in the log.
    pub(crate) fn record(&mut self, state: &State) -> Result<(), StoreError> {
        write_slot(&self.file, state.write % 2, state).map_err(|source| self.failed(source))?;
        self.is_synced = false;
        if self.synced_at.elapsed() >= self.sync_every {
            self.sync()?;
        }
        Ok(())
    }

    /// Puts `state` in both slots and makes that durable. At a start, so that neither slot is from
    /// before it.
    pub(crate) fn renew(&mut self, state: &State) -> Result<(), StoreError> {
        for slot in SLOTS {
            write_slot(&self.file, slot, state).map_err(|source| self.failed(source))?;
        }
        self.sync()
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|source| self.failed(source))?;
        self.synced_at = Instant::now();
        self.is_synced = true;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> StoreError {
        const DOING: &str = "writing the watermark";
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return StoreError::Full { doing: DOING, path: self.path.clone() };
        }
        StoreError::Io { doing: DOING, source }
    }
}

/// A clean stop leaves nothing to the page cache. If that fails, the file is as after a crash.
impl Drop for Watermark {
    fn drop(&mut self) {
        if !self.is_synced
            && let Err(error) = self.file.sync_data()
        {
            tracing::warn!(path = %self.path.display(), %error, "the watermark was not synced");
        }
    }
}

const OPENING: &str = "opening the watermark";

trait Newest {
    fn max_by_write(self, other: State) -> Self;
}

impl Newest for Option<State> {
    fn max_by_write(self, other: State) -> Self {
        match self {
            Some(state) if state.write >= other.write => Some(state),
            Some(_) | None => Some(other),
        }
    }
}

fn write_slot(file: &File, slot: u64, state: &State) -> io::Result<()> {
    let record = record::seal(&slot_key(slot), state);
    let mut bytes = [0; SLOT_BYTES];
    let length = u16::try_from(record.len()).map_err(io::Error::other)?;
    let (head, body) = bytes.split_at_mut(2);
    head.copy_from_slice(&length.to_le_bytes());
    body[..record.len()].copy_from_slice(&record);
    file.write_all_at(&bytes, slot * PAGE_BYTES)
}

/// The slot's state, `None` if it does not check out.
fn read_slot(file: &File, slot: u64) -> io::Result<Option<State>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * PAGE_BYTES) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [low, high, body @ ..] = &bytes;
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    let record = body.get(..length);
    Ok(record.and_then(|record| record::unseal(&slot_key(slot), record).ok()))
}

fn slot_key(slot: u64) -> [u8; 8] {
    slot.to_le_bytes()
}

fn damaged(path: &Path, what: &str) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), what: what.to_owned(), repair: REJOIN }
}

#[cfg(test)]
mod tests {
    use raft_core::{HardState, Index, LogId, NodeId, Term};

    use super::*;

    fn state(write: u64) -> State {
        let max = LogId::new(Term(u64::MAX), Index(u64::MAX));
        let hard = HardState { term: Term(u64::MAX), vote: NodeId::new(u64::MAX) };
        State { write, hard, base: max, last: max }
    }

    fn reopened(path: &Path) -> Result<State, StoreError> {
        Watermark::open(path, Duration::ZERO).map(|(_, state)| state)
    }

    #[test]
    fn the_newest_of_two_slots_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watermark");
        Watermark::create(&path, &state(1)).unwrap();
        for write in [2, 3, u64::MAX] {
            let (mut watermark, _) = Watermark::open(&path, Duration::from_secs(9)).unwrap();
            watermark.record(&state(write)).unwrap();
            drop(watermark);
            assert_eq!(reopened(&path).unwrap(), state(write));
        }
    }

    /// Rule L15: a flipped byte costs one write of precision at most, and two are refused.
    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watermark");
        Watermark::create(&path, &state(1)).unwrap();
        let (mut watermark, _) = Watermark::open(&path, Duration::from_secs(9)).unwrap();
        watermark.record(&state(8)).unwrap();
        watermark.record(&state(9)).unwrap();
        let good = std::fs::read(&path).unwrap();
        let used = 2 + record::seal(&slot_key(0), &state(9)).len();
        for at in 0..used {
            let mut bad = good.clone();
            bad[4096 + at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(reopened(&path).unwrap(), state(8), "byte {at}");
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(reopened(&path), Err(StoreError::Corrupt { .. })), "byte {at}");
        }
        for cut in [0, 1, 4096] {
            std::fs::write(&path, &good[..cut]).unwrap();
            match (cut, reopened(&path)) {
                (4096, Ok(found)) => assert_eq!(found, state(8)),
                (_, found) => assert!(matches!(found, Err(StoreError::Corrupt { .. })), "{cut}"),
            }
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(reopened(&path), Err(StoreError::Corrupt { .. })));
    }
}
