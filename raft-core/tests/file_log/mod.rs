//! A log store in one file, as an example for people who write their own. It keeps the contract of
//! `LogStore` and nothing more: everything is in memory as well, and the file is written anew at
//! each compaction.
//!
//! The file is a row of frames: length (4 bytes, little-endian), CRC-32C (4 bytes), a batch (postcard).
//! The first frame says where the log begins, each further one is a batch that was persisted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::testing::{MemDisk, MemLog};
use raft_core::{
    Batch, Entry, HardState, Index, Installed, LogReader, LogStore, Recovered, SnapshotMeta,
    StoreError,
};

/// What a frame holds: the parts of a batch, in their order.
type Frame = (Option<HardState>, Option<(SnapshotMeta, bool)>, Option<Index>, Vec<Entry>);

/// The store. The file is durable; `image` is what is in it, for reading.
pub(crate) struct FileLog {
    path: PathBuf,
    file: File,
    image: Arc<Mutex<MemLog>>,
    /// After a failure nobody knows what is in the file: nothing is written any more (rule L14).
    failed: bool,
}

impl FileLog {
    /// Opens the log at `path`, or makes one. A frame that is cut off by the end of the file was never
    /// acknowledged and is dropped; one that is damaged is refused (rule L15).
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut image = MemDisk::new().log();
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                File::create(path).and_then(|file| file.sync_all()).map_err(failed)?;
                sync_directory(path).map_err(failed)?;
                Vec::new()
            }
            Err(error) => return Err(failed(error)),
        };
        let mut whole = 0;
        while let Some(body) = next_frame(&bytes[whole..]) {
            let (sum, body) = body;
            if crc32c::crc32c(body) != sum {
                return Err(corrupt(path, format!("the frame at byte {whole} does not check out")));
            }
            let frame = postcard::from_bytes(body)
                .map_err(|error| corrupt(path, format!("the frame at byte {whole}: {error}")))?;
            image.persist(&batch(frame))?;
            whole += HEAD_BYTES + body.len();
        }
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        let len = u64::try_from(whole).expect("a file in memory has a length");
        file.set_len(len).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, image: Arc::new(Mutex::new(image)), failed: false })
    }

    fn image(&self) -> MutexGuard<'_, MemLog> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails for good if `write` does.
    fn write(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<(), StoreError> {
        if self.failed {
            return Err(failed(io::Error::other("an earlier write failed")));
        }
        write(self).map_err(|error| {
            self.failed = true;
            failed(error)
        })
    }

    /// Writes what is left to a new file, and puts it in the place of the old one (rule S3).
    fn rewrite(&mut self) -> io::Result<()> {
        let (found, entries) = {
            let mut image = self.image();
            let found = image.recover().map_err(io::Error::other)?;
            let first = found.base.last.index.next();
            let entries = image.reader().read(first, usize::MAX, usize::MAX);
            (found, entries.map_err(io::Error::other)?)
        };
        let frame: Frame = (Some(found.hard), Some((found.base, false)), None, entries);
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&encode(&frame))?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        sync_directory(&self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        Ok(())
    }
}

impl LogStore for FileLog {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.image().recover()
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), StoreError> {
        // The image refuses what does not fit before anything is written, but readers must not see
        // what is not durable yet: so they wait until both are done.
        let image = Arc::clone(&self.image);
        let mut image = image.lock().unwrap_or_else(PoisonError::into_inner);
        image.persist(batch)?;
        let snapshot = batch.snapshot.as_ref().map(|new| (new.meta.clone(), new.keep_tail));
        let frame = (batch.hard, snapshot, batch.truncate_from, batch.entries.clone());
        self.write(|log| {
            log.file.write_all(&encode(&frame))?;
            log.file.sync_data()
        })
    }

    fn compact(&mut self, base: &SnapshotMeta) -> Result<(), StoreError> {
        self.image().compact(base)?;
        self.write(Self::rewrite)
    }

    fn reader(&self) -> Box<dyn LogReader> {
        Box::new(Reader { image: Arc::clone(&self.image) })
    }
}

struct Reader {
    image: Arc<Mutex<MemLog>>,
}

impl LogReader for Reader {
    fn read(&self, first: Index, entries: usize, bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        image.reader().read(first, entries, bytes)
    }
}

const HEAD_BYTES: usize = 8;

fn encode(frame: &Frame) -> Vec<u8> {
    let body = postcard::to_stdvec(frame).expect("our types have a known length");
    let len = u32::try_from(body.len()).expect("a batch is far smaller");
    [&len.to_le_bytes()[..], &crc32c::crc32c(&body).to_le_bytes(), &body].concat()
}

/// Checksum and body of the frame that `bytes` begin with. `None` if it is cut off.
fn next_frame(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    Some((u32::from_le_bytes(*sum), rest.get(..len)?))
}

fn batch((hard, snapshot, truncate_from, entries): Frame) -> Batch {
    let snapshot = snapshot.map(|(meta, keep_tail)| Box::new(Installed { meta, keep_tail }));
    Batch { seq: 0, hard, snapshot, truncate_from, entries }
}

/// A new name is durable once its directory is (rule L15).
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn failed(source: io::Error) -> StoreError {
    StoreError::Io { doing: "using the file", source }
}

fn corrupt(path: &Path, what: String) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), what, repair: "let the node join anew" }
}
