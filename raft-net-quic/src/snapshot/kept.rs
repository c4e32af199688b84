//! What has arrived of a snapshot whose connection was lost: kept for a while, so that the sender can
//! go on where it was.

use std::fs::File;
use std::sync::{Arc, Mutex};

use raft_core::{NodeId, SnapshotFile};

use crate::monitor::Transfer;
use crate::shared::{Shared, lock};
use crate::snapshot::arrived::Directory;
use crate::wire::SnapshotOpening;

/// What has arrived of one snapshot. Dropping it removes it from the disk.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) opening: SnapshotOpening,
    pub(super) directory: Directory,
    /// Of the files that are there as a whole, verified and durable.
    pub(super) checksums: Vec<u32>,
    /// The file after those, once it has been made.
    pub(super) file: Option<File>,
    /// How much of that file is written, and its checksum so far.
    pub(super) offset: u64,
    pub(super) checksum: u32,
    pub(super) progress: Transfer,
}

impl Part {
    /// The file that is being received.
    pub(super) fn current(&self) -> Option<&SnapshotFile> {
        self.opening.files.get(self.checksums.len())
    }

    fn continues(&self, from: NodeId, opening: &SnapshotOpening) -> bool {
        self.opening.header.from == from
            && self.opening.header.meta == opening.header.meta
            && self.opening.files == opening.files
    }

    /// Bytes of all files that are written.
    pub(super) fn bytes(&self) -> u64 {
        let whole = &self.opening.files[..self.checksums.len().min(self.opening.files.len())];
        whole.iter().map(|file| file.bytes).sum::<u64>() + self.offset
    }
}

/// The place for a part. There is one: a node is behind one leader at a time, and disks are small.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    part: Mutex<Option<(u64, Part)>>,
}

impl Shelf {
    /// Puts a part on the shelf, in place of what is there, and throws it away when nobody has come
    /// for it in time.
    pub(super) fn keep(shared: &Arc<Shared>, part: Part) {
        let number = shared.next_number();
        let before = lock(&shared.shelf.part).replace((number, part));
        drop(before); // Outside of the lock: it removes files.
        let waiting = Arc::clone(shared);
        shared.runtime.spawn(async move {
            tokio::time::sleep(waiting.limits.snapshot_kept).await;
            let expired = lock(&waiting.shelf.part).take_if(|(kept, _)| *kept == number);
            drop(expired);
        });
    }

    /// What has arrived of this snapshot from this sender. A part of another is of no use any more.
    pub(super) fn take(&self, from: NodeId, opening: &SnapshotOpening) -> Option<Part> {
        let kept = lock(&self.part).take();
        kept.map(|(_, part)| part).filter(|part| part.continues(from, opening))
    }
}
