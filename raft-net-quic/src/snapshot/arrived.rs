//! Where arriving snapshots are kept, and what the state machine gets to see of them.
//!
//! ```text
//! incoming/arriving-7/record   what it is, and how much of it is there
//! incoming/arriving-7/files/   its files; what the state machine sees, and may move away
//! ```
//!
//! Each is removed when nobody needs it any more: the transfer failed, or the state machine has taken
//! what it wants. When the node stops or dies before that it stays, and the next start goes on with
//! the newest and removes the others.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raft_core::{SnapshotFile, SnapshotMeta, SnapshotReader};

use crate::snapshot::record::Record;
use crate::wire::SnapshotOpening;

/// Makes the directory for arriving snapshots, and finds the numbers of those that an earlier run left
/// in it, in order.
pub(crate) fn prepare(incoming: &Path) -> io::Result<Vec<u64>> {
    fs::create_dir_all(incoming)?;
    let mut left = Vec::new();
    for entry in fs::read_dir(incoming)? {
        let entry = entry?;
        // Only what is ours: a path that was mistyped must not cost anybody his files.
        let Some(number) =
            entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok())
        else {
            continue;
        };
        left.push(number);
    }
    left.sort_unstable();
    Ok(left)
}

/// Removes what an earlier run left under these numbers.
pub(super) fn remove(incoming: &Path, numbers: &[u64]) -> io::Result<()> {
    numbers.iter().try_for_each(|number| fs::remove_dir_all(place(incoming, *number)))
}

/// The directory of one snapshot. Dropping it removes it with all that is in it, unless the transport
/// stops.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    files: PathBuf,
    pub(super) record: Option<Record>,
    stopping: Arc<AtomicBool>,
}

impl Directory {
    /// Makes a directory under `incoming`; `number` has not been used before.
    pub(super) fn create(
        incoming: &Path,
        number: u64,
        opening: &SnapshotOpening,
        stopping: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let path = place(incoming, number);
        fs::create_dir(&path)?;
        let files = path.join(FILES);
        let mut made = Self { path, files, record: None, stopping };
        fs::create_dir(&made.files)?;
        made.record = Some(Record::create(&made.path.join(RECORD), opening)?);
        Ok(made)
    }

    /// What an earlier run left under this number, and the checksums of the files that are whole. `None`
    /// if nothing can be done with it; then it is gone.
    pub(super) fn find(
        incoming: &Path,
        number: u64,
        stopping: Arc<AtomicBool>,
    ) -> io::Result<Option<(Self, SnapshotOpening, Vec<u32>)>> {
        let path = place(incoming, number);
        let files = path.join(FILES);
        let mut found = Self { path, files, record: None, stopping };
        let record = match Record::read(&found.path.join(RECORD)) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some((opening, checksums, record)) = record else { return Ok(None) };
        found.record = Some(record);
        // The state machine may have taken some of it, or all.
        let whole = opening.files.iter().take(checksums.len());
        let there = found.files.is_dir() && whole.clone().all(|file| found.holds(file));
        Ok(there.then_some((found, opening, checksums)))
    }

    fn holds(&self, file: &SnapshotFile) -> bool {
        let there = fs::symlink_metadata(self.files.join(&file.name));
        there.is_ok_and(|there| there.is_file() && there.len() == file.bytes)
    }

    /// Where its files are.
    pub(super) fn files(&self) -> &Path {
        &self.files
    }

    /// Makes the names durable: of the files, and of what they are in.
    pub(super) fn sync(files: &Path) -> io::Result<()> {
        files.ancestors().take(3).try_for_each(|directory| File::open(directory)?.sync_all())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.stopping.load(Ordering::Acquire) {
            // It may be gone already: a state machine may move it. Whatever else is wrong is found at
            // the next start, which removes it or says why it cannot.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A snapshot that has arrived whole, was verified, and is on disk.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) meta: SnapshotMeta,
    pub(super) files: Vec<SnapshotFile>,
    pub(super) directory: Directory,
    /// The file that was read last: they are read one after the other.
    pub(super) open: Option<(usize, File)>,
}

impl SnapshotReader for Arrived {
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
                let Some(found) = self.files.get(file) else {
                    return Err(io::Error::from(io::ErrorKind::NotFound));
                };
                File::open(self.directory.files().join(&found.name))?
            }
        };
        let read = open.read_at(buffer, offset);
        self.open = Some((file, open));
        read
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.directory.files())
    }
}

fn place(incoming: &Path, number: u64) -> PathBuf {
    incoming.join(format!("{PREFIX}{number}"))
}

const PREFIX: &str = "arriving-";
const RECORD: &str = "record";
const FILES: &str = "files";

#[cfg(test)]
mod tests {
    use raft_core::{NodeId, SnapshotHeader, Term};

    use super::*;

    fn opening() -> SnapshotOpening {
        let [from, to] = [2, 1].map(|id| NodeId::new(id).unwrap());
        let header = SnapshotHeader { from, to, term: Term(3), meta: SnapshotMeta::default() };
        SnapshotOpening { header, files: vec![SnapshotFile { name: "x".to_owned(), bytes: 5 }] }
    }

    #[test]
    fn a_directory_lives_as_long_as_its_owner_and_is_found_after_a_stop() {
        let root = tempfile::tempdir().unwrap();
        let incoming = root.path().join("a/b");
        let stopping = Arc::new(AtomicBool::new(false));
        assert_eq!(prepare(&incoming).unwrap(), [0_u64; 0]);
        let create =
            |number| Directory::create(&incoming, number, &opening(), stopping.clone()).unwrap();
        let (directory, left) = (create(1), create(2));
        let path = directory.files().to_owned();
        fs::write(path.join("x"), b"12345").unwrap();
        fs::write(incoming.join("somebody's"), b"12345").unwrap();

        let SnapshotOpening { header, files } = opening();
        let mut arrived = Arrived { meta: header.meta, files, directory, open: None };
        let mut buffer = [0; 10];
        assert_eq!(arrived.read_at(0, 3, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"45");
        assert_eq!(arrived.read_at(0, 5, &mut buffer).unwrap(), 0);
        assert!(arrived.read_at(1, 0, &mut buffer).is_err());
        drop(arrived);
        assert!(!path.exists());

        stopping.store(true, Ordering::Release);
        let mut left = left;
        fs::write(left.files().join("x"), b"12345").unwrap();
        left.record.as_mut().unwrap().add(9).unwrap();
        drop(left);
        stopping.store(false, Ordering::Release);
        assert_eq!(prepare(&incoming).unwrap(), [2]);
        let find = || Directory::find(&incoming, 2, stopping.clone()).unwrap();
        let (found, said, checksums) = find().unwrap();
        assert_eq!((said, checksums), (opening(), vec![9]));
        // A file that is not as long as it was: the state machine has been at it.
        fs::write(found.files().join("x"), b"1234").unwrap();
        std::mem::forget(found);
        assert!(find().is_none());
        let names: Vec<_> =
            fs::read_dir(&incoming).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["somebody's"]);
    }
}
