//! What is written down about an arriving snapshot, so that it can go on after a restart.
//!
//! ```text
//! "arrival" 1            8 bytes, of which the last is the version
//! length, opening        4 bytes little-endian, postcard
//! CRC32C of all before   4 bytes
//! for each whole file:   its CRC32C, and the CRC32C of its number and that; 4 bytes each
//! ```
//!
//! It saves time and nothing else: what cannot be read, for whatever reason, is thrown away with the
//! part it is about, and the snapshot is sent again. So only the order counts: a checksum is written
//! once its file is durable.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::frame;
use crate::wire::{OPENING_FRAME_BYTES, SnapshotOpening};

/// The record of one snapshot, open for more.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    /// Files that are written down.
    count: u32,
}

impl Record {
    /// Begins a record at `path`, where there is none.
    pub(super) fn create(path: &Path, opening: &SnapshotOpening) -> io::Result<Self> {
        let encoded = postcard::to_stdvec(opening).map_err(io::Error::other)?;
        let length = u32::try_from(encoded.len()).map_err(io::Error::other)?;
        let mut bytes = [MAGIC, &length.to_le_bytes(), &encoded].concat();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        let mut file = File::create_new(path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(Self { file, count: 0 })
    }

    /// Writes down that the next file is there, whole and durable.
    pub(super) fn add(&mut self, checksum: u32) -> io::Result<()> {
        self.file.write_all(&line(self.count, checksum))?;
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Reads the record at `path`, to go on with it. `None` if it is not one that can be read.
    pub(super) fn read(path: &Path) -> io::Result<Option<(SnapshotOpening, Vec<u32>, Self)>> {
        let mut file = File::options().read(true).write(true).open(path)?;
        let mut bytes = Vec::new();
        (&file).take(MAX_BYTES).read_to_end(&mut bytes)?;
        let Some((opening, lines)) = opening(&bytes) else { return Ok(None) };
        let mut checksums = Vec::new();
        for (count, found) in (0..).zip(lines.chunks_exact(LINE_BYTES)) {
            let checksum = u32::from_le_bytes([found[0], found[1], found[2], found[3]]);
            if found != line(count, checksum) || checksums.len() == opening.files.len() {
                break; // Torn, when the power failed: the file is read again.
            }
            checksums.push(checksum);
        }
        let kept = bytes.len() - lines.len() + checksums.len() * LINE_BYTES;
        let kept = u64::try_from(kept).map_err(io::Error::other)?;
        file.set_len(kept)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(kept))?;
        let count = u32::try_from(checksums.len()).map_err(io::Error::other)?;
        Ok(Some((opening, checksums, Self { file, count })))
    }
}

/// The opening, if it is whole, and what follows.
fn opening(bytes: &[u8]) -> Option<(SnapshotOpening, &[u8])> {
    let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (encoded, rest) = rest.split_at_checked(length)?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let covered = &bytes[..MAGIC.len() + 4 + length];
    let sound = crc32c::crc32c(covered) == u32::from_le_bytes(*checksum);
    sound.then(|| frame::decode(encoded).ok()).flatten().map(|opening| (opening, rest))
}

fn line(number: u32, checksum: u32) -> [u8; LINE_BYTES] {
    let check =
        crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &checksum.to_le_bytes());
    let mut line = [0; LINE_BYTES];
    line[..4].copy_from_slice(&checksum.to_le_bytes());
    line[4..].copy_from_slice(&check.to_le_bytes());
    line
}

const MAGIC: &[u8] = b"arrival\x01";
const LINE_BYTES: usize = 8;
/// An opening is bounded, and so is the number of files that one can name.
const MAX_BYTES: u64 = 2 * OPENING_FRAME_BYTES as u64;

#[cfg(test)]
mod tests {
    use raft_core::{NodeId, SnapshotFile, SnapshotHeader, SnapshotMeta, Term};

    use super::*;

    fn sample() -> SnapshotOpening {
        let [from, to] = [2, 1].map(|id| NodeId::new(id).unwrap());
        let header = SnapshotHeader { from, to, term: Term(3), meta: SnapshotMeta::default() };
        let file = |name: &str| SnapshotFile { name: name.to_owned(), bytes: 5 };
        SnapshotOpening { header, files: ["x", "y", "z"].map(file).to_vec() }
    }

    fn read(path: &Path) -> Option<(SnapshotOpening, Vec<u32>)> {
        Record::read(path).unwrap().map(|(opening, checksums, _)| (opening, checksums))
    }

    #[test]
    fn what_is_written_down_is_read_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let mut record = Record::create(&path, &sample()).unwrap();
        assert_eq!(read(&path), Some((sample(), vec![])));
        record.add(7).unwrap();
        let (_, checksums, mut record) = Record::read(&path).unwrap().unwrap();
        assert_eq!(checksums, [7]);
        record.add(8).unwrap();
        assert_eq!(read(&path), Some((sample(), vec![7, 8])));
    }

    /// Every byte counts: a cut or a change leaves what was before it, or nothing.
    #[test]
    fn damage_never_makes_anything_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let mut record = Record::create(&path, &sample()).unwrap();
        record.add(7).unwrap();
        record.add(8).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let head = whole.len() - 2 * LINE_BYTES;
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 0x10;
            for bytes in [&whole[..place], &changed] {
                std::fs::write(&path, bytes).unwrap();
                let expected = (place >= head)
                    .then(|| (sample(), [7, 8][..(place - head) / LINE_BYTES].to_vec()));
                assert_eq!(read(&path), expected, "byte {place}");
            }
        }
    }
}
