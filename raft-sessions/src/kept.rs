//! Pairs on disk: the books of the sessions, and the inner machine's snapshot as of the same entry.
//!
//! ```text
//! DIR/LOCK
//! DIR/kept-7/books           CRC-32C (4 bytes, little-endian), then what stands in `Content`
//! DIR/kept-7/machine.NAME    the files of the inner machine's snapshot
//! DIR/part-8/...             a pair that is being written, or was when the power went
//! ```
//!
//! A pair gets its name when all of it is durable, in one step (rule S3), and never changes. The one with
//! the highest number counts. It lives as long as somebody reads it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fs4::fs_std::FileExt;
use raft_core::{Index, SnapshotFile, SnapshotMeta, SnapshotReader, SnapshotSource};
use serde::{Deserialize, Serialize};

use crate::books::Books;
use crate::error::SessionsError;
use crate::files::{Files, Sum, copy, fill, sum};
use crate::proposal::{decode, encode};

/// The directory of the pairs, locked.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    _lock: File,
}

/// A pair on disk.
#[derive(Debug)]
pub(crate) struct Kept {
    number: u64,
    dir: PathBuf,
    /// What its head says to other nodes.
    meta: SnapshotMeta,
    /// What the inner machine said of its part.
    machine: SnapshotMeta,
    /// `books`, then those of the inner machine under the names they have here.
    files: Vec<SnapshotFile>,
    /// Another has taken its place: it goes with its last reader.
    is_old: AtomicBool,
}

/// What stands in `books`.
#[derive(Serialize, Deserialize)]
struct Content {
    books: Bytes,
    machine: SnapshotMeta,
    files: Vec<Sum>,
}

/// A pair on its way to another node.
#[derive(Debug)]
pub(crate) struct KeptSource {
    kept: Arc<Kept>,
    files: Files,
}

/// The inner machine's part of a pair.
#[derive(Debug)]
pub(crate) struct MachinePart {
    meta: SnapshotMeta,
    files: Files,
}

/// A pair that is all there but has no name yet.
#[derive(Debug)]
pub(crate) struct Part {
    dir: PathBuf,
    number: u64,
    content: Content,
    books: Books,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Home {
    /// Makes `dir` if there is none, and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Self, SessionsError> {
        let failed = failed("opening the directory", dir);
        create(dir).map_err(&failed)?;
        let lock = File::create(dir.join("LOCK")).map_err(&failed)?;
        if !lock.try_lock_exclusive().map_err(&failed)? {
            return Err(SessionsError::Locked { path: dir.to_owned() });
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// The last pair, if there is one, with its books. What a crash has left beside it is removed.
    pub(crate) fn load(&self) -> Result<Option<(Kept, Books)>, SessionsError> {
        let failed = failed("reading the directory", &self.dir);
        // The process before may have died between giving a name and making it last.
        sync_dir(&self.dir).map_err(&failed)?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.strip_prefix("kept-").map(str::parse) {
                Some(Ok(number)) => kept.push((number, path)),
                Some(Err(_)) | None if name.starts_with("part-") => {
                    fs::remove_dir_all(&path).map_err(&failed)?;
                }
                Some(Err(_)) | None => {}
            }
        }
        kept.sort();
        let Some((number, dir)) = kept.pop() else { return Ok(None) };
        let last = Kept::load(number, dir)?;
        kept.iter().for_each(|(_, path)| discard(path));
        Ok(Some(last))
    }

    /// Copies a snapshot of the inner machine beside `books`, which are of the same entry. Stops early, with
    /// an error, once `is_cancelled` says so.
    pub(crate) fn write(
        &self,
        number: u64,
        books: Books,
        source: &mut dyn SnapshotSource,
        is_cancelled: &AtomicBool,
    ) -> io::Result<Part> {
        let machine = source.meta().clone();
        let names = source.files().iter().map(|file| format!("{MACHINE}{}", file.name)).collect();
        let read = |file, offset, buffer: &mut [u8]| {
            if is_cancelled.load(Ordering::Relaxed) {
                return Err(io::Error::other("the state machine is being closed"));
            }
            source.read_at(file, offset, buffer)
        };
        let dir = self.part(number)?;
        let files = copy(&dir, names, read)?;
        let content = Content { books: books.encode(), machine, files };
        let part = Part { dir, number, content, books };
        part.write_books()?;
        Ok(part)
    }

    /// Copies a pair that has come from another node.
    pub(crate) fn receive(
        &self,
        number: u64,
        snapshot: &mut dyn SnapshotReader,
    ) -> Result<Part, Unfit> {
        let listed = snapshot.files().to_vec();
        let first = listed.first().filter(|file| file.name == BOOKS && file.bytes <= MAX_BOOKS);
        let first =
            first.ok_or_else(|| Unfit::of("it does not begin with the books of sessions"))?;
        let mut bytes = vec![0; usize::try_from(first.bytes).map_err(io::Error::other)?];
        fill(&mut bytes, |offset, buffer| snapshot.read_at(0, offset, buffer))?;
        let (mut content, mut books) = Content::decode(&bytes).map_err(Unfit)?;
        let meta = snapshot.meta().clone();
        if books.applied.last != meta.last {
            return Err(Unfit(format!("its books are of {}", books.applied.last)));
        }
        let names = listed[1..].iter().map(|file| file.name.clone()).collect();
        let dir = self.part(number)?;
        let read = |file, offset, buffer: &mut [u8]| snapshot.read_at(file + 1, offset, buffer);
        let files = copy(&dir, names, read)?;
        content.check(&files).map_err(Unfit)?;
        // The sender may have lived by the configuration that its log was founded with (rule M9).
        books.applied.membership = Some((meta.membership_at, meta.membership.clone()));
        content.books = books.encode();
        content.machine = meta;
        let part = Part { dir, number, content, books };
        part.write_books()?;
        Ok(part)
    }

    /// Gives a pair its name: from here on it is the one that counts.
    pub(crate) fn name(&self, part: Part) -> io::Result<Kept> {
        let Part { dir, number, content, books } = part;
        let named = self.dir.join(format!("kept-{number}"));
        sync_dir(&dir)?;
        fs::rename(&dir, &named)?;
        sync_dir(&self.dir)?;
        let bytes = fs::metadata(named.join(BOOKS))?.len();
        Ok(Kept::new(number, named, bytes, content, &books))
    }

    /// An empty directory for a pair.
    fn part(&self, number: u64) -> io::Result<PathBuf> {
        let dir = self.dir.join(format!("part-{number}"));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir(&dir)?;
        Ok(dir)
    }
}

/// Why a snapshot from another node cannot be taken.
#[derive(Debug)]
pub(crate) struct Unfit(pub(crate) String);

impl Unfit {
    fn of(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl Part {
    fn write_books(&self) -> io::Result<()> {
        let body = encode(&self.content);
        let mut file = File::create(self.dir.join(BOOKS))?;
        file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
        file.write_all(&body)?;
        file.sync_all()
    }

    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    /// The inner machine's part, for it to restore.
    pub(crate) fn machine(&self) -> MachinePart {
        MachinePart::new(&self.dir, &self.content)
    }

    /// It is not wanted after all.
    pub(crate) fn discard(self) {
        discard(&self.dir);
    }
}

impl Content {
    fn decode(bytes: &[u8]) -> Result<(Self, Books), String> {
        let (crc, body) = bytes.split_first_chunk::<4>().ok_or("it is cut short")?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err("its checksum is wrong".to_owned());
        }
        let content: Self = decode(body).map_err(|error| error.to_string())?;
        let books = Books::decode(&content.books).map_err(|error| error.to_string())?;
        Ok((content, books))
    }

    /// Whether these are the files that it tells of.
    fn check(&self, found: &[Sum]) -> Result<(), String> {
        if found.len() != self.files.len() {
            return Err(format!("{} files, not {}", found.len(), self.files.len()));
        }
        for (found, told) in found.iter().zip(&self.files) {
            let is_the_same =
                found.name == told.name && found.bytes == told.bytes && found.crc32c == told.crc32c;
            if !is_the_same || !found.name.starts_with(MACHINE) {
                return Err(format!("{:?} is not what was written", found.name));
            }
        }
        Ok(())
    }
}

impl Kept {
    fn new(number: u64, dir: PathBuf, books_bytes: u64, content: Content, books: &Books) -> Self {
        let mut files = vec![SnapshotFile { name: BOOKS.to_owned(), bytes: books_bytes }];
        files.extend(
            content
                .files
                .iter()
                .map(|sum| SnapshotFile { name: sum.name.clone(), bytes: sum.bytes }),
        );
        let is_old = AtomicBool::new(false);
        Self { number, dir, meta: books.meta(), machine: content.machine, files, is_old }
    }

    /// Reads all of it once, so that what has rotted is noticed before it is used.
    fn load(number: u64, dir: PathBuf) -> Result<(Self, Books), SessionsError> {
        let failed = failed("reading a pair", &dir);
        let corrupt = |what| SessionsError::Corrupt { path: dir.clone(), what };
        let bytes = fs::read(dir.join(BOOKS)).map_err(&failed)?;
        let (content, books) = Content::decode(&bytes).map_err(corrupt)?;
        let mut found = Vec::new();
        for told in &content.files {
            found.push(sum(&dir, &told.name).map_err(&failed)?);
        }
        content.check(&found).map_err(corrupt)?;
        let len = bytes.len() as u64;
        Ok((Self::new(number, dir.clone(), len, content, &books), books))
    }

    pub(crate) fn index(&self) -> Index {
        self.meta.last.index
    }

    /// The inner machine's part, for it to restore.
    pub(crate) fn machine(&self) -> MachinePart {
        let files = Files::new(&self.dir, &self.files[1..], MACHINE);
        MachinePart { meta: self.machine.clone(), files }
    }

    /// Another has taken its place.
    pub(crate) fn retire(&self) {
        self.is_old.store(true, Ordering::Relaxed);
    }

    /// The number for the next.
    pub(crate) fn next_number(&self) -> u64 {
        self.number + 1
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.is_old.load(Ordering::Relaxed) {
            discard(&self.dir);
        }
    }
}

impl KeptSource {
    pub(crate) fn new(kept: Arc<Kept>) -> Self {
        let files = Files::new(&kept.dir, &kept.files, "");
        Self { kept, files }
    }
}

impl SnapshotSource for KeptSource {
    fn meta(&self) -> &SnapshotMeta {
        &self.kept.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.kept.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.files.read_at(file, offset, buffer)
    }
}

impl MachinePart {
    fn new(dir: &Path, content: &Content) -> Self {
        let file = |sum: &Sum| SnapshotFile { name: sum.name.clone(), bytes: sum.bytes };
        let files: Vec<_> = content.files.iter().map(file).collect();
        Self { meta: content.machine.clone(), files: Files::new(dir, &files, MACHINE) }
    }
}

/// It has no directory to take files from: they stay, for the next restart.
impl SnapshotReader for MachinePart {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.files.read_at(file, offset, buffer)
    }
}

/// Creates `dir` with what is missing above it, so that it lasts.
fn create(dir: &Path) -> io::Result<()> {
    let missing: Vec<_> = dir.ancestors().take_while(|above| !above.exists()).collect();
    fs::create_dir_all(dir)?;
    for above in missing.iter().filter_map(|created| created.parent()) {
        // A relative path ends in an empty one, which is where we are.
        sync_dir(if above.as_os_str().is_empty() { Path::new(".") } else { above })?;
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// What is left in the way is removed at the next start.
fn discard(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "an old pair is left until the next start");
    }
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SessionsError + 'a {
    move |source| SessionsError::Io { doing, path: path.to_owned(), source }
}

const BOOKS: &str = "books";
/// What the files of the inner machine begin with.
pub(crate) const MACHINE: &str = "machine.";
/// More than the books can come to: 64 MiB of answers, and 65,536 sessions with their numbers.
const MAX_BOOKS: u64 = 256 << 20;
