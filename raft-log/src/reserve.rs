//! Space kept for the day the disk is full.
//!
//! A node that finds the disk full stops for good (rule L14). To start again RocksDB has to write a
//! few files, and on a full disk it could not. So a file of blocks that nobody uses stands in the data
//! directory, and goes when the first write finds no room. It comes back at a start that finds plenty.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use fs4::fs_std::FileExt;

/// Puts the file at `path` if it is missing and at least four times its size is free. That it cannot
/// be put there is no reason not to start.
pub(crate) fn keep(path: &Path, bytes: u64) {
    if bytes == 0 || path.exists() {
        return;
    }
    let put = || -> io::Result<bool> {
        let free = fs4::available_space(path.parent().unwrap_or_else(|| Path::new(".")))?;
        if free < bytes.saturating_mul(4) {
            return Ok(false);
        }
        let file = File::create(path)?;
        file.allocate(bytes)?;
        file.sync_all()?;
        Ok(true)
    };
    match put() {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(path = %path.display(), "the disk is almost full: no room for a reserve");
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no reserve for a full disk was made");
            release(path);
        }
    }
}

/// Gives the space back.
pub(crate) fn release(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {
            tracing::error!(path = %path.display(), "the disk is full: the reserve was released");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(path = %path.display(), %error, "the reserve stays"),
    }
}
