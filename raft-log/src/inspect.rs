//! Looking at a log while no node runs on it: is it whole, what is in it.
//!
//! Nothing here changes the log. Each call locks the data directory, so a running node is safe from
//! it; RocksDB is opened read-only.

use std::fs;
use std::iter;
use std::path::Path;

use raft_core::{Entry, HardState, Identity, Index, LogId, Membership, StoreError, Term};

use crate::config::RocksLogConfig;
use crate::database::Database;
use crate::directory::DataDir;
use crate::error::OpenError;
use crate::log;
use crate::reader::Reader;
use crate::recover::{self, Found};
use crate::wal::{self, Places};
use crate::watermark::Watermark;

/// What a log holds, apart from the payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStat {
    /// Whose log it is.
    pub identity: Identity,
    /// The last durable term and vote.
    pub hard: HardState,
    /// What the log starts after.
    pub base: LogId,
    /// The last entry; the base if there is none.
    pub last: LogId,
    /// How many entries there are: from after the base to the last.
    pub entries: u64,
    /// The first index of each run of entries of one term, in order.
    pub runs: Vec<(Term, Index)>,
    /// The newest configuration in the log, and where it stands.
    pub membership: (LogId, Membership),
    /// How many writes the log has taken since it was created.
    pub writes: u64,
    /// How many of them the watermark knows to have been acknowledged. It may be one behind.
    pub acknowledged: u64,
    /// The size of the log's files together, in bytes.
    pub disk_bytes: u64,
}

/// Reads the whole log in the data directory `dir`: every checksum, that indices have no hole, that
/// terms never fall and each entry follows the one before, and that nothing acknowledged is gone.
///
/// `progress` is told now and then how many entries of how many are read.
///
/// # Errors
///
/// [`OpenError::NotInitialised`], [`OpenError::Locked`] while a node runs on it, and
/// [`OpenError::Log`] with [`StoreError::Corrupt`] saying what is wrong, and where (rule L15).
pub fn verify(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<LogStat, OpenError> {
    let opened = Opened::open(dir)?;
    let found = recover::scan(&opened.database, progress)?;
    opened.stat(found)
}

/// What is in the log of the data directory `dir`. Reads and checks all of it, as [`verify`] does.
///
/// # Errors
///
/// As [`verify`].
pub fn stat(dir: &Path) -> Result<LogStat, OpenError> {
    verify(dir, &mut |_, _| {})
}

/// Hands the entries with indices from `from` through `through` to `each`, in order, until it says
/// to stop by `false`. Indices that the log does not hold are left out.
///
/// # Errors
///
/// As [`verify`]; only the entries that are read are checked.
pub fn dump(
    dir: &Path,
    from: Index,
    through: Index,
    each: &mut dyn FnMut(Entry) -> bool,
) -> Result<(), OpenError> {
    let opened = Opened::open(dir)?;
    let Some(state) = opened.database.state()? else {
        return Err(opened.database.corrupt("it has no state record").into());
    };
    let mut next = from.max(state.base.index.next());
    let last = through.min(state.last.index);
    let reader = Reader::new(std::sync::Arc::new(opened.database));
    while next <= last {
        let entries = raft_core::LogReader::read(&reader, next, DUMP_ENTRIES, DUMP_BYTES)?;
        if entries.is_empty() {
            break;
        }
        for entry in entries.into_iter().take_while(|entry| entry.id.index <= last) {
            next = entry.id.index.next();
            if !each(entry) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A log that is open for looking at, and covers its watermark.
struct Opened {
    database: Database,
    identity: Identity,
    acknowledged: u64,
    _dir: DataDir,
}

impl Opened {
    fn open(path: &Path) -> Result<Self, OpenError> {
        // A tool must not create what it was to look at.
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(OpenError::NotADirectory { path: path.to_owned() }),
            Err(source) => {
                return Err(OpenError::Io { path: path.to_owned(), doing: "opening it", source });
            }
        }
        if !path.join(crate::directory::IDENTITY).exists() {
            return Err(OpenError::NotInitialised { path: path.to_owned() });
        }
        let dir = DataDir::open(path)?;
        let Some(identity) = dir.identity() else {
            return Err(OpenError::NotInitialised { path: path.to_owned() });
        };
        let config = RocksLogConfig::default();
        let (_, mark) = Watermark::open(&dir.watermark_path(), config.watermark_sync_every)?;
        wal::check(path, None, &identity)?;
        let database = Database::inspect(&dir.places(), &config)?;
        log::check_covers(&database, &mark)?;
        Ok(Self { database, identity, acknowledged: mark.write, _dir: dir })
    }

    fn stat(&self, found: Found) -> Result<LogStat, OpenError> {
        let Found { state, base, shape, mut memberships } = found;
        let founding = (base.membership_at, base.membership);
        Ok(LogStat {
            identity: self.identity,
            hard: state.hard,
            base: state.base,
            last: state.last,
            entries: state.last.index.since(state.base.index),
            runs: shape.runs().to_vec(),
            membership: memberships.pop().unwrap_or(founding),
            writes: state.write,
            acknowledged: self.acknowledged,
            disk_bytes: size(self.database.places())?,
        })
    }
}

fn size(places: &Places) -> Result<u64, StoreError> {
    let failed = |source| StoreError::Io { doing: "listing the log's files", source };
    let wal = places.are_two().then_some(&places.wal);
    let mut bytes = 0;
    for path in iter::once(&places.database).chain(wal) {
        for item in fs::read_dir(path).map_err(failed)? {
            bytes += item.and_then(|item| item.metadata()).map_err(failed)?.len();
        }
    }
    Ok(bytes)
}

const DUMP_ENTRIES: usize = 1024;
const DUMP_BYTES: usize = 4 << 20;
