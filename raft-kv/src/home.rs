//! The directory of a store, and which of the databases in it is the right one.
//!
//! ```text
//! LOCK            held while a store is open
//! CURRENT         the name of the database in use; replaced by a rename, never written in place
//! store-7/        that database
//! store-8/        a snapshot that is being installed, until CURRENT names it
//! snapshot-3/     an image that is being sent
//! ```
//!
//! Whatever CURRENT does not name is left over from a crash and removed at the next start. Nothing
//! here knows what is inside a database.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs4::fs_std::FileExt;

use crate::error::KvError;

/// A store's directory, locked against other processes for as long as a clone lives.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    _lock: Arc<File>,
}

impl Home {
    /// Creates the directory if there is none, and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Self, KvError> {
        fs::create_dir_all(dir).map_err(KvError::io("creating", dir))?;
        let path = dir.join("LOCK");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(KvError::io("opening", &path))?;
        match lock.try_lock_exclusive() {
            Ok(true) => Ok(Self { dir: dir.to_owned(), _lock: Arc::new(lock) }),
            Ok(false) => Err(KvError::Locked { dir: dir.to_owned() }),
            Err(source) => Err(KvError::Io { doing: "locking", path, source }),
        }
    }

    /// The number of the database in use. `None` in a new directory.
    pub(crate) fn current(&self) -> Result<Option<u64>, KvError> {
        let path = self.dir.join("CURRENT");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(KvError::io("reading", path)(error)),
        };
        let number = text.trim_end().strip_prefix("store-").and_then(|number| number.parse().ok());
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(KvError::corrupt(format!("{} names {text:?}", path.display()))),
        }
    }

    /// Makes the database `number` the one in use. After a crash inside, it is or it is not (rule
    /// S3).
    pub(crate) fn set_current(&self, number: u64) -> Result<(), KvError> {
        let (temporary, path) = (self.dir.join("CURRENT.new"), self.dir.join("CURRENT"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            writeln!(file, "store-{number}")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(KvError::io("replacing", &path))?;
        self.sync()
    }

    /// Makes creations and renames in the directory durable (rule L15).
    pub(crate) fn sync(&self) -> Result<(), KvError> {
        sync_dir(&self.dir)
    }

    pub(crate) fn store_path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("store-{number}"))
    }

    pub(crate) fn snapshot_path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("snapshot-{number}"))
    }

    /// Removes what a crash left behind: all databases but `keep`, and all images.
    pub(crate) fn clean(&self, keep: u64) -> Result<(), KvError> {
        let keep = self.store_path(keep);
        let entries = fs::read_dir(&self.dir).map_err(KvError::io("listing", &self.dir))?;
        for entry in entries {
            let path = entry.map_err(KvError::io("listing", &self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let ours = name.starts_with("store-") || name.starts_with("snapshot-");
            if ours && path != keep {
                tracing::info!(path = %path.display(), "removing what a crash left behind");
                remove_dir(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> Result<(), KvError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KvError::io("removing", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes durable which files `dir` has.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), KvError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(KvError::io("syncing", dir))
}

/// Removes a directory when dropped. A failure leaves it for [`Home::clean`].
#[derive(Debug)]
pub(crate) struct RemoveOnDrop(pub(crate) PathBuf);

impl RemoveOnDrop {
    /// Leaves the directory where it is.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = remove_dir(&self.0) {
            tracing::warn!(%error, "a directory no longer needed stays until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path()).unwrap();
        let error = Home::open(dir.path()).unwrap_err();
        assert!(matches!(error, KvError::Locked { .. }), "{error}");
        drop(first);
        Home::open(dir.path()).unwrap();
    }

    #[test]
    fn cleaning_leaves_the_current_store_and_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        assert_eq!(home.current().unwrap(), None);
        home.set_current(7).unwrap();
        for name in ["store-6", "store-7", "store-8", "snapshot-1", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        home.clean(home.current().unwrap().unwrap()).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["CURRENT", "LOCK", "other", "store-7"]);
    }

    #[test]
    fn a_pointer_to_nowhere_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("CURRENT"), "nonsense\n").unwrap();
        let error = Home::open(dir.path()).unwrap().current().unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
    }
}
