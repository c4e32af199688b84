//! A node's data directory: locked while in use, and marked with who the node is.
//!
//! Rules upheld here: L15 (directories are fsynced after a file is created or renamed in them),
//! L17, M10, M15.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use raft_core::{ClusterId, Identity, NodeId, SnapshotMeta};

use crate::config::RocksLogConfig;
use crate::database::REJOIN;
use crate::error::OpenError;
use crate::identity::{self, Unreadable};
use crate::log;
use crate::wal::{self, Places};
use crate::watermark::Watermark;

const LOCK: &str = "LOCK";
pub(crate) const IDENTITY: &str = "identity";
const IDENTITY_TEMPORARY: &str = "identity.tmp";
const WATERMARK: &str = "watermark";
const LOG: &str = "log";

/// An exclusively locked data directory.
///
/// Keep it as long as anything in the directory is in use: the lock ends with it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Option<Identity>,
    /// Holds the lock; the system lets go of it when the file is closed, however the process ends.
    _lock: File,
}

impl DataDir {
    /// Opens and locks the directory at `path`, and reads its identity. Creates it if it is missing.
    ///
    /// # Errors
    ///
    /// [`OpenError::NotADirectory`], [`OpenError::Io`] if it cannot be written to,
    /// [`OpenError::Locked`] if another process (or another part of this one) has it open,
    /// [`OpenError::DamagedIdentity`], [`OpenError::NewerFormat`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        create_directory(path)?;
        let lock = lock(path)?;
        // What an interrupted `initialise` may have left.
        let temporary = path.join(IDENTITY_TEMPORARY);
        match fs::remove_file(&temporary) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&temporary, "removing it", error)),
        }
        let identity = read_identity(&path.join(IDENTITY))?;
        Ok(Self { path: path.to_owned(), identity, _lock: lock })
    }

    /// Whose directory it is. `None` if it is not initialised yet.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes this the directory of a new node: creates its log, which starts after `founding`, and
    /// then, as the commit point, the identity file. A founder's log starts at [`LogId::ZERO`] with
    /// the founding configuration, that of a node that joins with no configuration.
    ///
    /// If it was interrupted before, it may be repeated, also with another identity.
    ///
    /// [`LogId::ZERO`]: raft_core::LogId::ZERO
    ///
    /// # Errors
    ///
    /// [`OpenError::AlreadyInitialised`]; [`OpenError::ForeignWal`] if the directory for the write-ahead
    /// log is not empty; [`OpenError::Orphaned`] if a node has written to the log
    /// that is there, so that its identity file must have been lost; [`OpenError::Log`] or
    /// [`OpenError::Io`] if the device failed.
    pub fn initialise(
        &mut self,
        identity: Identity,
        founding: &SnapshotMeta,
        config: &RocksLogConfig,
    ) -> Result<(), OpenError> {
        if let Some(Identity { node, cluster, .. }) = self.identity {
            return Err(OpenError::AlreadyInitialised { path: self.path.clone(), node, cluster });
        }
        self.check_no_watermark()?;
        if let Some(wal) = &config.wal_dir {
            wal::establish(&self.path, wal, &identity)?;
        }
        let state = log::create(&self.places(), founding, config)?;
        let watermark = self.watermark_path();
        Watermark::create(&watermark, &state)
            .map_err(|error| failed(&watermark, "writing it", error))?;
        sync_directory(&self.path)?;

        let temporary = self.path.join(IDENTITY_TEMPORARY);
        write_durably(&temporary, identity::encode(&identity).as_bytes())
            .map_err(|error| failed(&temporary, "writing it", error))?;
        let path = self.path.join(IDENTITY);
        fs::rename(&temporary, &path).map_err(|error| failed(&path, "renaming to it", error))?;
        sync_directory(&self.path)?;
        self.identity = Some(identity);
        Ok(())
    }

    /// The directory's identity, if it is that of node `node`, and of cluster `cluster` if one is
    /// named.
    ///
    /// # Errors
    ///
    /// [`OpenError::NotInitialised`], [`OpenError::OtherNode`], [`OpenError::OtherCluster`].
    pub fn expect(&self, node: NodeId, cluster: Option<ClusterId>) -> Result<Identity, OpenError> {
        let path = || self.path.clone();
        let Some(identity) = self.identity else {
            return Err(OpenError::NotInitialised { path: path() });
        };
        if identity.node != node {
            let found = identity.node;
            return Err(OpenError::OtherNode { path: path(), found, expected: node });
        }
        match cluster {
            Some(expected) if expected != identity.cluster => {
                let found = identity.cluster;
                Err(OpenError::OtherCluster { path: path(), found, expected })
            }
            Some(_) | None => Ok(identity),
        }
    }

    pub(crate) fn places(&self) -> Places {
        Places::of(&self.path, self.path.join(LOG))
    }

    pub(crate) fn watermark_path(&self) -> PathBuf {
        self.path.join(WATERMARK)
    }

    /// A watermark beyond the founding write says that a node lived here, whatever became of its
    /// log. One that does not check out is what an interrupted `initialise` may leave.
    fn check_no_watermark(&self) -> Result<(), OpenError> {
        let path = self.watermark_path();
        if !path.try_exists().map_err(|error| failed(&path, "looking for it", error))? {
            return Ok(());
        }
        match Watermark::open(&path, std::time::Duration::ZERO) {
            Ok((_, state)) if state.write > 1 => Err(OpenError::Orphaned {
                path: self.path.clone(),
                what: format!("its watermark knows {state}"),
            }),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Creates `path` with what is missing above it, durably.
pub(crate) fn create_directory(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(OpenError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(path, "opening it", error)),
    }
    let missing: Vec<_> = path.ancestors().take_while(|above| !is_there(above)).collect();
    fs::create_dir_all(path).map_err(|error| failed(path, "creating it", error))?;
    // A new directory is durable once the one above it is fsynced.
    for created in missing {
        match created.parent() {
            Some(above) if above.as_os_str().is_empty() => sync_directory(Path::new("."))?,
            Some(above) => sync_directory(above)?,
            None => {}
        }
    }
    Ok(())
}

/// The empty path is what is above a relative one: the working directory.
fn is_there(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(|error| failed(&path, "opening it", error))?;
    if !file.try_lock_exclusive().map_err(|error| failed(&path, "locking it", error))? {
        let mut process = String::new();
        // Only a courtesy to the reader of the message: no matter if it cannot be read.
        let read = (&file).take(32).read_to_string(&mut process);
        let process = read.ok().and_then(|_| process.trim().parse().ok());
        return Err(OpenError::Locked { path: directory.to_owned(), process });
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| failed(&path, "writing to it", error))?;
    Ok(file)
}

fn read_identity(path: &Path) -> Result<Option<Identity>, OpenError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, "opening it", error)),
    };
    let mut bytes = Vec::new();
    file.take(identity::MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(path, "reading it", error))?;
    identity::decode(&bytes).map(Some).map_err(|unreadable| match unreadable {
        Unreadable::Damaged(what) => OpenError::DamagedIdentity {
            path: path.to_owned(),
            what: what.to_owned(),
            repair: REJOIN,
        },
        Unreadable::Newer(found) => {
            OpenError::NewerFormat { path: path.to_owned(), found, supported: identity::FORMAT }
        }
    })
}

pub(crate) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), OpenError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| failed(path, "syncing the directory", error))
}

pub(crate) fn failed(path: &Path, doing: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), doing, source }
}
