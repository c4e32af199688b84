//! Where the write-ahead log is: beside the tables, or in a directory of its own on another disk.
//!
//! A data directory whose log writes ahead elsewhere has a symbolic link to that place, made once,
//! before anything is written to it. So whoever opens the directory finds the place without being told,
//! and an operator can move it: stop the node, move the directory, point the link to it. The place has a
//! copy of the identity file: it is never taken for another node's, nor an empty mount point for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use raft_core::Identity;

use crate::directory::{IDENTITY, create_directory, failed, sync_directory, write_durably};
use crate::error::OpenError;
use crate::identity;

/// The link's name in a data directory.
const LINK: &str = "wal";

const RESERVE: &str = "reserve";

/// The directories of a log.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Where its database is.
    pub(crate) database: PathBuf,
    /// Where the write-ahead log of that database is; often the same.
    pub(crate) wal: PathBuf,
}

impl Places {
    /// What is in the data directory `data`, whose database is `database`.
    pub(crate) fn of(data: &Path, database: PathBuf) -> Self {
        let link = data.join(LINK);
        let wal = if link.is_symlink() { link } else { database.clone() };
        Self { database, wal }
    }

    /// Whether the write-ahead log has a directory of its own.
    pub(crate) fn are_two(&self) -> bool {
        self.wal != self.database
    }

    /// Where space is kept for a full disk: one place a disk.
    pub(crate) fn reserves(&self) -> Vec<PathBuf> {
        let wal = self.are_two().then(|| self.wal.join(RESERVE));
        [self.database.with_file_name(RESERVE)].into_iter().chain(wal).collect()
    }
}

/// Makes `wanted` the place of the write-ahead log of `data`, which is not initialised yet. If that was
/// interrupted, it may be repeated.
pub(crate) fn establish(data: &Path, wanted: &Path, owner: &Identity) -> Result<(), OpenError> {
    let wanted = absolute(wanted)?;
    create_directory(&wanted)?;
    let link = data.join(LINK);
    match found(data)? {
        Some(there) if there == wanted => {}
        Some(there) => return Err(other(data, Some(there), wanted)),
        None => {
            check_unused(&wanted)?;
            std::os::unix::fs::symlink(&wanted, &link)
                .map_err(|error| failed(&link, "linking to the write-ahead log", error))?;
            sync_directory(data)?;
        }
    }
    let path = wanted.join(IDENTITY);
    write_durably(&path, identity::encode(owner).as_bytes())
        .map_err(|error| failed(&path, "writing it", error))?;
    sync_directory(&wanted)
}

/// Checks that the write-ahead log of `data` is where `wanted` says, if it does, and that it is that of
/// `owner`.
pub(crate) fn check(data: &Path, wanted: Option<&Path>, owner: &Identity) -> Result<(), OpenError> {
    let found = found(data)?;
    if let Some(wanted) = wanted {
        let wanted = absolute(wanted)?;
        if found.as_ref() != Some(&wanted) {
            return Err(other(data, found, wanted));
        }
    }
    let Some(place) = found else { return Ok(()) };
    let path = place.join(IDENTITY);
    let what = match fs::read(&path) {
        Ok(bytes) if bytes == identity::encode(owner).as_bytes() => return Ok(()),
        Ok(bytes) => match identity::decode(&bytes) {
            Ok(Identity { node, cluster, incarnation }) => {
                format!("it belongs to node {node} of cluster {cluster}, incarnation {incarnation}")
            }
            Err(_) => format!("its file {IDENTITY} is damaged"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            format!("it has no file {IDENTITY}; is its disk mounted")
        }
        Err(error) => return Err(failed(&path, "reading it", error)),
    };
    Err(OpenError::ForeignWal { path: place, what })
}

/// Where the link of `data` leads to, if there is one.
fn found(data: &Path) -> Result<Option<PathBuf>, OpenError> {
    let link = data.join(LINK);
    match fs::read_link(&link) {
        Ok(place) => Ok(Some(place)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&link, "reading where it leads to", error)),
    }
}

/// What is there already is somebody's: another node's, or an earlier life's of this one.
fn check_unused(place: &Path) -> Result<(), OpenError> {
    let reading = |error| failed(place, "listing it", error);
    let mut items = fs::read_dir(place).map_err(reading)?;
    // A file system of its own brings this one along.
    let item = items.find(|item| item.as_ref().is_ok_and(|item| item.file_name() != "lost+found"));
    match item.transpose().map_err(reading)? {
        Some(item) => {
            let what = format!("it holds {} already", item.file_name().to_string_lossy());
            Err(OpenError::ForeignWal { path: place.to_owned(), what })
        }
        None => Ok(()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, OpenError> {
    std::path::absolute(path).map_err(|error| failed(path, "finding it", error))
}

fn other(data: &Path, found: Option<PathBuf>, wanted: PathBuf) -> OpenError {
    let found = found.unwrap_or_else(|| data.to_owned());
    OpenError::OtherWal { path: data.to_owned(), found, wanted }
}
