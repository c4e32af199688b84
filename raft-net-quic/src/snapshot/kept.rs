//! What has arrived of a snapshot whose connection was lost, or before a restart: kept for a while, so
//! that the sender can go on where it was.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use raft_core::{NodeId, SnapshotFile};
use tracing::{info, warn};

use crate::monitor::Transfer;
use crate::shared::{Shared, lock};
use crate::snapshot::CHUNK_BYTES;
use crate::snapshot::arrived::{Directory, remove};
use crate::snapshot::receive::{announce, check_files};
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
    /// What an earlier run left under `number`. The end of the last file may have been lost when the power
    /// failed; then its checksum does not match, and the snapshot is sent again.
    fn find(shared: &Shared, number: u64) -> io::Result<Option<Self>> {
        let stopping = Arc::clone(&shared.stopping);
        let found = Directory::find(&shared.incoming, number, stopping)?;
        let Some((directory, opening, checksums)) = found else { return Ok(None) };
        if check_files(&opening.files, &shared.limits).is_err() {
            return Ok(None); // The limits are others now.
        }
        let progress = announce(shared, number, opening.header.from, &opening);
        let (offset, checksum, file) = (0, 0, None);
        let mut part = Self { opening, directory, checksums, file, offset, checksum, progress };
        let Some(expected) = part.current() else { return Ok(Some(part)) };
        let path = part.directory.files().join(&expected.name);
        let length = expected.bytes;
        let mut file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(part)),
            Err(error) => return Err(error),
        };
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            part.checksum = crc32c::crc32c_append(part.checksum, &buffer[..read]);
            part.offset += u64::try_from(read).map_err(io::Error::other)?;
            if part.offset > length {
                return Ok(None); // Longer than it can be: not what we wrote.
            }
        }
        part.file = Some(file);
        part.progress.reached(part.bytes());
        Ok(Some(part))
    }

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

    /// Puts what an earlier run of this node left under these numbers on the shelf: the newest that
    /// something can be done with. The others are removed.
    pub(crate) async fn restore(shared: Arc<Shared>, mut left: Vec<u64>) {
        while let Some(number) = left.pop() {
            let sharing = Arc::clone(&shared);
            let found = tokio::task::spawn_blocking(move || Part::find(&sharing, number)).await;
            match found {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(part))) => {
                    let (from, bytes) = (part.opening.header.from, part.bytes());
                    info!(peer = %from, bytes, "part of a snapshot is there from before");
                    Self::keep(&shared, part);
                }
                Ok(Err(error)) => warn!(%error, "part of a snapshot cannot be read"),
                Err(_) => return, // The runtime stops.
            }
            break;
        }
        let incoming = shared.incoming.clone();
        let removed = tokio::task::spawn_blocking(move || remove(&incoming, &left)).await;
        if let Ok(Err(error)) = removed {
            warn!(%error, "parts of snapshots cannot be removed");
        }
    }

    /// What has arrived of this snapshot from this sender. A part of another is of no use any more.
    pub(super) fn take(&self, from: NodeId, opening: &SnapshotOpening) -> Option<Part> {
        let kept = lock(&self.part).take();
        kept.map(|(_, part)| part).filter(|part| part.continues(from, opening))
    }
}
