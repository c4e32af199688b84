//! The outer form of RocksDB's write-ahead log and manifest, checked before RocksDB reads them.
//!
//! Both are blocks of 32 KiB, filled with fragments: a masked CRC-32C of type and content, 4 bytes; a
//! length, 2 bytes; a type, 1 byte; the content. Two reasons to read them here as well:
//!
//! 1. RocksDB 11.8 does not return from opening a log in which the type of a later fragment has
//!    turned into one of the *recyclable* types (one flipped bit does it): `log::Reader` answers
//!    "bad record" without consuming it, for ever. A node that spins at its start says nothing to
//!    anybody, so such a file is refused here, before RocksDB sees it. That holds for a torn tail
//!    too, which would be accepted otherwise: there is no way to let RocksDB read what is before it.
//! 2. RocksDB says that a checksum does not match, but not where. An operator wants file and offset.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
const HEAD_BYTES: usize = 7;

/// The first thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    file: String,
    /// Where the damaged fragment starts.
    offset: u64,
    what: &'static str,
    /// Whether RocksDB must not be shown the file.
    pub(crate) is_endless: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.what)
    }
}

/// Reads through every write-ahead log and manifest in `directory`, oldest first. Gives the damage
/// that RocksDB would not return from, if there is any, else the first that there is.
///
/// # Errors
///
/// What the system says. A directory that does not exist has no damage.
pub(crate) fn first_damage(directory: &Path) -> io::Result<Option<Damage>> {
    let mut first = None;
    for name in names(directory)? {
        let mut file = File::open(directory.join(&name))?;
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        let mut offset = 0_u64;
        loop {
            block.clear();
            let limit = u64::try_from(BLOCK_BYTES).map_err(io::Error::other)?;
            let read = (&mut file).take(limit).read_to_end(&mut block)?;
            let is_last = read < BLOCK_BYTES;
            if let Some((at, what, is_endless)) = check_block(&block, offset == 0, is_last) {
                let offset = offset + u64::try_from(at).map_err(io::Error::other)?;
                let damage = Damage { file: name.clone(), offset, what, is_endless };
                if is_endless {
                    return Ok(Some(damage));
                }
                first.get_or_insert(damage);
            }
            if is_last {
                break;
            }
            offset += limit;
        }
    }
    Ok(first)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let items = match directory.read_dir() {
        Ok(items) => items,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for item in items {
        let name = item?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".log") || name.starts_with("MANIFEST-") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Goes through a block as RocksDB does, which leaves it at the first fragment that is damaged.
fn check_block(block: &[u8], is_first: bool, is_last: bool) -> Option<(usize, &'static str, bool)> {
    let mut at = 0;
    while let Some(head) = block.get(at..at + HEAD_BYTES) {
        let kind = head[6];
        let length = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let is_first_fragment = is_first && at == 0;
        if is_recyclable(kind) {
            return Some((at, "a fragment of a type that is not used here", !is_first_fragment));
        }
        let Some(content) = block.get(at + 6..at + HEAD_BYTES + length) else {
            // Within the last block it is where a crash cut the file.
            return (!is_last).then_some((at, "a fragment that is longer than its block", false));
        };
        if kind == 0 && length == 0 {
            // Zeroes up to the end are space that was never written.
            let is_empty = block[at..].iter().all(|&byte| byte == 0);
            return (!is_empty).then_some((at, "zeroes before other data", false));
        }
        let stored = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if stored != masked(crc32c::crc32c(content)) {
            return Some((at, "a fragment whose checksum does not match", false));
        }
        at += HEAD_BYTES + length;
    }
    None
}

/// The types of fragments in a log file that is used again, which this crate's never are.
fn is_recyclable(kind: u8) -> bool {
    matches!(kind, 5..=8 | 11 | 131)
}

/// RocksDB stores checksums like this so that a checksum of data with checksums in it stays strong.
fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut checked = vec![kind];
        checked.extend_from_slice(content);
        let mut bytes = masked(crc32c::crc32c(&checked)).to_le_bytes().to_vec();
        bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&checked);
        bytes
    }

    fn damage(bytes: &[u8]) -> Option<(u64, bool)> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("000004.log"), bytes).unwrap();
        let found = first_damage(dir.path()).unwrap();
        found.map(|damage| (damage.offset, damage.is_endless))
    }

    #[test]
    fn damage_is_located() {
        let one = fragment(1, b"one");
        let two = fragment(1, b"two");
        let whole = [one.clone(), two.clone()].concat();
        assert_eq!(damage(&whole), None);
        assert_eq!(damage(&[&whole[..], &[0; 100]].concat()), None, "space never written");
        assert_eq!(damage(&whole[..15]), None, "cut by a crash");
        let between = [&one[..], &[0; 10], &two].concat();
        assert_eq!(damage(&between), Some((10, false)));
        let mut bad = whole;
        bad[18] ^= 1;
        assert_eq!(damage(&bad), Some((10, false)));
    }

    #[test]
    fn a_second_block_is_read_whatever_the_first_is_like() {
        let mut bytes = fragment(1, &vec![7; BLOCK_BYTES - HEAD_BYTES]);
        bytes.extend(fragment(1, b"more"));
        assert_eq!(damage(&bytes), None);
        let second = BLOCK_BYTES + 6;
        bytes[20] ^= 1;
        assert_eq!(damage(&bytes), Some((0, false)));
        bytes[second] = 5;
        assert_eq!(damage(&bytes), Some((u64::try_from(BLOCK_BYTES).unwrap(), true)));
    }

    #[test]
    fn what_rocksdb_would_not_return_from_is_told_apart() {
        let bytes = [fragment(1, b"one"), fragment(5, b"two")].concat();
        assert_eq!(damage(&bytes), Some((10, true)));
        assert_eq!(damage(&fragment(5, b"one")), Some((0, false)));
    }
}
