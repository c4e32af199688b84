//! Where arriving snapshots are kept, and what the state machine gets to see of them.
//!
//! Each has a directory of its own, which is removed when nobody needs it any more: the transfer
//! failed, or the state machine has taken what it wants. What a crash leaves behind is removed at
//! the next start.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use raft_core::{SnapshotFile, SnapshotMeta, SnapshotReader};

/// Makes the directory for arriving snapshots, and removes what an earlier run left in it.
pub(crate) fn prepare(incoming: &Path) -> io::Result<()> {
    fs::create_dir_all(incoming)?;
    for entry in fs::read_dir(incoming)? {
        let entry = entry?;
        // Only what is ours: a path that was mistyped must not cost anybody his files.
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The directory of one snapshot. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes a directory under `incoming`; `number` has not been used before.
    pub(super) fn create(incoming: &Path, number: u64) -> io::Result<Self> {
        let path = incoming.join(format!("{PREFIX}{number}"));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // It may be gone already: a state machine may move it. Whatever else is wrong is found at
        // the next start, which removes it or says why it cannot.
        let _ = fs::remove_dir_all(&self.path);
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
                File::open(self.directory.path().join(&found.name))?
            }
        };
        let read = open.read_at(buffer, offset);
        self.open = Some((file, open));
        read
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.directory.path())
    }
}

const PREFIX: &str = "arriving-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lives_as_long_as_its_owner_and_leftovers_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let incoming = root.path().join("a/b");
        prepare(&incoming).unwrap();
        let directory = Directory::create(&incoming, 1).unwrap();
        let left_behind = Directory::create(&incoming, 2).unwrap();
        let path = directory.path().to_owned();
        fs::write(path.join("x"), b"12345").unwrap();
        fs::write(left_behind.path().join("y"), b"12345").unwrap();
        fs::write(incoming.join("somebody's"), b"12345").unwrap();

        let files = vec![SnapshotFile { name: "x".to_owned(), bytes: 5 }];
        let meta = SnapshotMeta::default();
        let mut arrived = Arrived { meta, files, directory, open: None };
        let mut buffer = [0; 10];
        assert_eq!(arrived.read_at(0, 3, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"45");
        assert_eq!(arrived.read_at(0, 5, &mut buffer).unwrap(), 0);
        assert!(arrived.read_at(1, 0, &mut buffer).is_err());
        drop(arrived);
        assert!(!path.exists());

        std::mem::forget(left_behind); // As after a crash.
        prepare(&incoming).unwrap();
        let left: Vec<_> =
            fs::read_dir(&incoming).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["somebody's"]);
    }
}
