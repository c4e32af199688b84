//! The files of a pair, on their way in and out.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use raft_core::SnapshotFile;
use serde::{Deserialize, Serialize};

use crate::kept::MACHINE;

/// A file of the inner machine, under the name that it has here.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) crc32c: u32,
}

/// Files of a pair, read by number.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    /// Their names there, and to the reader.
    names: Vec<PathBuf>,
    pub(crate) files: Vec<SnapshotFile>,
    /// The one that was read last.
    open: Option<(usize, File)>,
}

impl Files {
    /// `files` in `dir`, which are shown without `prefix`.
    pub(crate) fn new(dir: &Path, files: &[SnapshotFile], prefix: &str) -> Self {
        let names = files.iter().map(|file| PathBuf::from(&file.name)).collect();
        let shown = |file: &SnapshotFile| SnapshotFile {
            name: file.name.strip_prefix(prefix).unwrap_or(&file.name).to_owned(),
            bytes: file.bytes,
        };
        Self { dir: dir.to_owned(), names, files: files.iter().map(shown).collect(), open: None }
    }

    pub(crate) fn read_at(
        &mut self,
        file: usize,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let open = match self.open.take() {
            Some((number, open)) if number == file => open,
            Some(_) | None => {
                let name = self.names.get(file).ok_or(io::ErrorKind::NotFound)?;
                File::open(self.dir.join(name))?
            }
        };
        let (_, open) = self.open.insert((file, open));
        open.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match open.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Copies files into `dir` under `names`, durably, and says what they came to.
pub(crate) fn copy(
    dir: &Path,
    names: Vec<String>,
    mut read: impl FnMut(usize, u64, &mut [u8]) -> io::Result<usize>,
) -> io::Result<Vec<Sum>> {
    let mut sums = Vec::new();
    let mut piece = vec![0; PIECE];
    for (number, name) in names.into_iter().enumerate() {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !name.starts_with(MACHINE) || name.len() > 255 || !name.bytes().all(is_plain) {
            return Err(io::Error::other(format!("{name:?} is no name for a file of a snapshot")));
        }
        let mut file = File::create_new(dir.join(&name))?;
        let (mut bytes, mut crc32c) = (0, 0);
        loop {
            let filled = read(number, bytes, &mut piece)?;
            if filled == 0 {
                break;
            }
            file.write_all(&piece[..filled])?;
            crc32c = crc32c::crc32c_append(crc32c, &piece[..filled]);
            bytes += filled as u64;
        }
        file.sync_all()?;
        sums.push(Sum { name, bytes, crc32c });
    }
    Ok(sums)
}

/// Reads as many bytes as `content` has.
pub(crate) fn fill(
    content: &mut [u8],
    mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < content.len() {
        match read_at(filled as u64, &mut content[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => filled += bytes,
        }
    }
    Ok(())
}

/// What a file of `dir` comes to.
pub(crate) fn sum(dir: &Path, name: &str) -> io::Result<Sum> {
    let mut file = File::open(dir.join(name))?;
    let (mut crc32c, mut bytes, mut piece) = (0, 0, vec![0; PIECE]);
    loop {
        let filled = file.read(&mut piece)?;
        if filled == 0 {
            return Ok(Sum { name: name.to_owned(), bytes, crc32c });
        }
        crc32c = crc32c::crc32c_append(crc32c, &piece[..filled]);
        bytes += filled as u64;
    }
}

/// So much is copied at a time.
const PIECE: usize = 256 << 10;
