//! Snapshots: taking an image of the database, and putting one in its place.
//!
//! Rules S2, S3. An image is a RocksDB checkpoint: hard links to files that never change, and a few
//! small files. It holds what is in files, as of the last flush: that takes milliseconds, whatever the
//! amount of data, where a flush of the write buffer would hold up writes for some hundred.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use raft_core::{
    Applied, LogId, Membership, SnapshotFile, SnapshotMeta, SnapshotReader, SnapshotSource,
};
use rocksdb::checkpoint::Checkpoint;

use crate::config::KvConfig;
use crate::error::KvError;
use crate::home::{Home, RemoveOnDrop, remove_dir, sync_dir};
use crate::record::State;
use crate::store::{Durable, Store};
use crate::timed::Timed;

/// An image that is being sent.
///
/// Until a membership was applied, its head says nothing of one; the configuration the log was
/// founded with is then in force, which the node knows.
pub(crate) struct KvSnapshot {
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    /// The file that was read last.
    open: Option<(usize, File)>,
    dir: RemoveOnDrop,
}

/// A database that has taken the place of another.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) store: Store,
    pub(crate) state: State,
    pub(crate) timed: Timed,
    pub(crate) membership: Option<(LogId, Membership)>,
}

/// Takes an image, in the directory `path`, of what `store` holds in files.
pub(crate) fn take(store: &Store, path: PathBuf) -> Result<KvSnapshot, KvError> {
    let failed = "making a checkpoint";
    let checkpoint = Checkpoint::new(store.db()).map_err(KvError::storage(failed))?;
    let dir = RemoveOnDrop(path);
    if store.durable()? == Durable::NOTHING {
        // A new store, so there is not much of it.
        store.flush()?;
    }
    loop {
        let durable = store.durable()?;
        checkpoint
            .create_checkpoint_with_log_size(&dir.0, NEVER_FLUSH)
            .map_err(KvError::storage(failed))?;
        // RocksDB flushes when it likes. What it flushed in between may be in the image or not.
        if store.durable()? == durable {
            let files = list(&dir.0)?;
            let Durable { state, membership } = durable;
            let meta = Applied { last: state.last, membership }.to_meta(&SnapshotMeta::default());
            return Ok(KvSnapshot { meta, files, open: None, dir });
        }
        remove_dir(&dir.0)?;
    }
}

impl KvSnapshot {
    /// The last entry in it.
    pub(crate) fn last(&self) -> LogId {
        self.meta.last
    }
}

impl SnapshotSource for KvSnapshot {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let open = match self.open.take() {
            Some((number, open)) if number == file => open,
            Some(_) | None => {
                let named = self.files.get(file).ok_or(io::ErrorKind::NotFound)?;
                File::open(self.dir.0.join(&named.name))?
            }
        };
        let (_, open) = self.open.insert((file, open));
        open.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match open.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl fmt::Debug for KvSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvSnapshot")
            .field("meta", &self.meta)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

/// Makes `snapshot` the database number `number` of `home`, and the one in use.
///
/// Before CURRENT is replaced a crash leaves the old database in use and a directory that the next
/// start removes; after that, the new one in use. An error leaves the old one in use, too.
pub(crate) fn install(
    home: &Home,
    number: u64,
    config: &KvConfig,
    mut snapshot: Box<dyn SnapshotReader>,
) -> Result<Installed, KvError> {
    let path = home.store_path(number);
    remove_dir(&path)?;
    let incomplete = RemoveOnDrop(path.clone());
    fs::create_dir(&path).map_err(KvError::io("creating", &path))?;
    fill(&path, snapshot.as_mut())?;
    sync_dir(&path)?;
    home.sync()?;

    let store = Store::open(home, number, config)?;
    let promised = snapshot.meta().last;
    let state = store.state()?;
    if state.last != promised {
        drop(store);
        return Err(KvError::WrongSnapshot { promised, found: state.last });
    }
    let mut membership = store.membership()?;
    if membership.is_none() && snapshot.meta().membership != Membership::default() {
        // The sender has applied none and lives by the one its log was founded with. This node's
        // log may have been founded differently, or be about to be empty (rule M9).
        let founding = (snapshot.meta().membership_at, snapshot.meta().membership.clone());
        store.set_membership(&founding)?;
        membership = Some(founding);
    }
    let timed = Timed::load(&store)?;
    // If the next step fails nobody knows which database the next start will find in use. That
    // start removes the other.
    incomplete.keep();
    home.set_current(number)?;
    Ok(Installed { store, state, timed, membership })
}

/// Puts the files of `snapshot` into the empty directory `path`, durably.
fn fill(path: &Path, snapshot: &mut dyn SnapshotReader) -> Result<(), KvError> {
    let files = snapshot.files().to_vec();
    for (number, SnapshotFile { name, bytes }) in files.iter().enumerate() {
        if !is_ours(name) {
            return Err(KvError::corrupt(format!("a snapshot with a file named {name:?}")));
        }
        let target = path.join(name);
        // Only files that nobody ever writes to again may have two names. RocksDB appends to
        // others.
        let source = snapshot.directory().filter(|_| is_immutable(name)).map(|dir| dir.join(name));
        let linked = source.is_some_and(|source| fs::hard_link(source, &target).is_ok());
        if !linked {
            copy(snapshot, number, *bytes, &target).map_err(KvError::io("writing", &target))?;
        }
        let found = File::open(&target)
            .and_then(|file| file.sync_all().and_then(|()| file.metadata()))
            .map_err(KvError::io("syncing", &target))?
            .len();
        if found != *bytes {
            let what = format!("a snapshot whose file {name} has {found} bytes, not {bytes}");
            return Err(KvError::corrupt(what));
        }
    }
    Ok(())
}

fn copy(
    snapshot: &mut dyn SnapshotReader,
    number: usize,
    bytes: u64,
    target: &Path,
) -> io::Result<()> {
    let mut file = File::create(target)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let filled = snapshot.read_at(number, offset, &mut buffer)?;
        if filled == 0 {
            break; // The caller compares the lengths.
        }
        file.write_all(&buffer[..filled])?;
        offset += filled as u64;
    }
    Ok(())
}

/// The files of a checkpoint that make up the database, by name.
fn list(dir: &Path) -> Result<Vec<SnapshotFile>, KvError> {
    let listing = || KvError::io("listing", dir);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(listing())? {
        let entry = entry.map_err(listing())?;
        let bytes = entry.metadata().map_err(listing())?.len();
        let name = entry.file_name().to_string_lossy().into_owned();
        // An empty file of RocksDB's own log comes along; we never write to one.
        if is_ours(&name) {
            files.push(SnapshotFile { name, bytes });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Whether a checkpoint has files of that name. A sender can thus not place any others.
fn is_ours(name: &str) -> bool {
    let numbered = |rest: Option<&str>| {
        rest.is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
        })
    };
    name == "CURRENT"
        || numbered(name.strip_prefix("MANIFEST-"))
        || numbered(name.strip_prefix("OPTIONS-"))
        || is_immutable(name) && numbered(name.strip_suffix(".sst"))
}

fn is_immutable(name: &str) -> bool {
    name.ends_with(".sst")
}

const COPY_BYTES: usize = 256 << 10;

/// Said to RocksDB, this many bytes of its own log: as much as there is never. It keeps none here.
const NEVER_FLUSH: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_checkpoint_are_taken() {
        for name in ["CURRENT", "MANIFEST-000004", "OPTIONS-000007", "000012.sst"] {
            assert!(is_ours(name), "{name}");
        }
        for name in
            ["", "LOCK", "000003.log", "../000012.sst", "a.sst", ".sst", "MANIFEST-", "x/CURRENT"]
        {
            assert!(!is_ours(name), "{name}");
        }
    }
}
