//! The outer form of RocksDB's write-ahead log and manifest, read before RocksDB reads them.
//!
//! Both are blocks of 32 KiB, filled with fragments: a masked CRC-32C of everything after the length,
//! 4 bytes; a length, 2 bytes; a type, 1 byte; in the write-ahead log the number of the file, 4 bytes;
//! the content. A record is one fragment or a row of them, and begins with its sequence number, 8 bytes.
//!
//! Files of the write-ahead log are written over again, because appending to a file costs the disk
//! almost twice as much: what was in one before follows what is in it now. The file's number tells
//! them apart. RocksDB then takes the first thing that does not check out for the end of the log, so
//! it cannot tell damage from the end. Three reasons to read the files here as well:
//!
//! 1. A record begins only after the one before was fsynced. So if one that checks out begins behind
//!    a place that does not, what was there had been durable, and is damaged: [`Survey::newest`] is the
//!    sequence number up to which everything must be found.
//! 2. RocksDB 11.8 does not return from opening a file in which the type of a later fragment has
//!    turned into one of the *recyclable* types after a first of another (in a manifest one flipped
//!    bit does it): `log::Reader` answers "bad record" without consuming it, for ever. A node that
//!    spins at its start says nothing to anybody, so such a file is refused here.
//! 3. RocksDB says that a checksum does not match, but not where. An operator wants file and offset.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
const HEAD_BYTES: usize = 7;
/// With the number of the file.
const NUMBERED_HEAD_BYTES: usize = 11;
/// How far a sequence number can be ahead of the one before within a file. Only used where a
/// fragment is looked for among other bytes, which a client may have chosen.
const NEAR: u64 = 1 << 24;

/// What the files of a database look like from outside.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The sequence number with which the newest record of the write-ahead log begins. Everything
    /// before that number had been durable.
    pub(crate) newest: u64,
    /// The first place that does not check out although something does after it.
    pub(crate) damage: Option<Damage>,
    /// How far the newest file of the write-ahead log checks out.
    pub(crate) end: Option<Damage>,
    /// A place that RocksDB must not be shown: it would not return.
    pub(crate) endless: Option<Damage>,
}

/// A place where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    file: String,
    offset: u64,
    what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.what)
    }
}

/// Reads through every manifest in `database` and every write-ahead log in `wal`, which may be the same
/// directory, oldest first.
///
/// # Errors
///
/// What the system says. There is nothing in a directory that does not exist.
pub(crate) fn survey(database: &Path, wal: &Path) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let logs = names(wal, |name| name.ends_with(".log"))?;
    let manifests = names(database, |name| name.starts_with("MANIFEST-"))?;
    let in_wal = logs.iter().map(|name| (wal, name));
    for (directory, name) in in_wal.chain(manifests.iter().map(|name| (database, name))) {
        let mut reading = Reading {
            number: name.strip_suffix(".log").and_then(|number| number.parse().ok()),
            form: None,
            broken: None,
        };
        let mut file = File::open(directory.join(name))?;
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        let mut offset = 0_u64;
        let limit = u64::try_from(BLOCK_BYTES).map_err(io::Error::other)?;
        loop {
            block.clear();
            if (&mut file).take(limit).read_to_end(&mut block)? == 0 {
                break;
            }
            reading.block(&block, offset, name, &mut survey);
            offset += limit;
        }
        if reading.number.is_some() {
            survey.end = reading.broken;
        } else if survey.damage.is_none() {
            // A manifest is never written over: only a cut at its end is no damage.
            survey.damage = reading.broken.filter(|broken| broken.what != CUT);
        }
    }
    Ok(survey)
}

fn names(directory: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let items = match directory.read_dir() {
        Ok(items) => items,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for item in items {
        let name = item?.file_name().to_string_lossy().into_owned();
        if wanted(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What is known of a file that is being read.
struct Reading {
    /// Its number, if it is a write-ahead log.
    number: Option<u32>,
    /// What RocksDB takes it for.
    form: Option<Form>,
    /// The first place that does not check out.
    broken: Option<Damage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A fragment without a number checked out before one with a number was seen.
    Plain,
    Numbered,
}

impl Reading {
    fn block(&mut self, block: &[u8], offset: u64, name: &str, survey: &mut Survey) {
        let place = |at: usize, what| Damage {
            file: name.to_owned(),
            offset: offset.saturating_add(u64::try_from(at).unwrap_or(u64::MAX)),
            what,
        };
        let mut at = 0;
        while block.len() >= at + HEAD_BYTES {
            let is_recyclable = is_recyclable(block[at + 6]);
            if is_recyclable && self.form.is_none() {
                self.form = Some(Form::Numbered);
            } else if is_recyclable && self.form == Some(Form::Plain) {
                survey.endless.get_or_insert_with(|| place(at, "a fragment of a foreign type"));
                return;
            }
            match self.fragment(block, at) {
                Ok(fragment) => {
                    self.form.get_or_insert(Form::Plain);
                    if self.number.is_some() && fragment.starts_record() {
                        if let Some(broken) = &self.broken {
                            survey.damage.get_or_insert_with(|| broken.clone());
                        }
                        survey.newest = survey.newest.max(fragment.sequence().unwrap_or(0));
                    }
                    at = fragment.end;
                }
                Err(what) => {
                    self.broken.get_or_insert_with(|| place(at, what));
                    let Some(next) = self.find(block, at + 1, survey.newest) else { return };
                    at = next;
                }
            }
        }
    }

    /// The fragment at `at`, if it checks out and is of this file.
    fn fragment<'a>(&self, block: &'a [u8], at: usize) -> Result<Fragment<'a>, &'static str> {
        let rest = &block[at..];
        let is_short = block.len() < BLOCK_BYTES;
        let head: &[u8; HEAD_BYTES] = rest.first_chunk().ok_or(CUT)?;
        let length = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let kind = head[6];
        let head_bytes = if is_recyclable(kind) { NUMBERED_HEAD_BYTES } else { HEAD_BYTES };
        let Some(checked) = rest.get(6..head_bytes + length) else {
            return Err(if is_short { CUT } else { "a fragment that is longer than its block" });
        };
        if kind == 0 && length == 0 {
            return Err(if rest.iter().all(|&byte| byte == 0) { CUT } else { "zeroes" });
        }
        let stored = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if stored != masked(crc32c::crc32c(checked)) {
            return Err("a fragment whose checksum does not match");
        }
        if let Some(number) = checked.get(1..5).filter(|_| is_recyclable(kind))
            && self.number.is_none_or(|own| own.to_le_bytes() != number)
        {
            return Err("what the file had held before");
        }
        let content = &rest[head_bytes..head_bytes + length];
        Ok(Fragment { kind, content, end: at + head_bytes + length })
    }

    /// The next place in `block`, from `from` on, where a record of this file may begin.
    fn find(&self, block: &[u8], from: usize, newest: u64) -> Option<usize> {
        let number = self.number?.to_le_bytes();
        (from..block.len().saturating_sub(NUMBERED_HEAD_BYTES)).find(|&at| {
            block[at + 7..at + NUMBERED_HEAD_BYTES] == number
                && is_recyclable(block[at + 6])
                && self.fragment(block, at).is_ok_and(|fragment| {
                    let sequence = fragment.sequence().unwrap_or(0);
                    fragment.starts_record() && sequence > newest && sequence - newest < NEAR
                })
        })
    }
}

const CUT: &str = "the end of what was written";

struct Fragment<'a> {
    kind: u8,
    content: &'a [u8],
    /// Where it ends in its block.
    end: usize,
}

impl Fragment<'_> {
    /// Whether it is a whole record or the first part of one.
    fn starts_record(&self) -> bool {
        matches!(self.kind, 1 | 2 | 5 | 6)
    }

    /// The sequence number of a record that begins here. `None` if it is cut within it.
    fn sequence(&self) -> Option<u64> {
        self.content.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// The types of fragments that bear the number of their file.
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

    /// A fragment of file `number`; a plain one if there is none.
    fn fragment(kind: u8, number: Option<u32>, content: &[u8]) -> Vec<u8> {
        let mut checked = vec![kind];
        checked.extend(number.map(u32::to_le_bytes).into_iter().flatten());
        checked.extend_from_slice(content);
        let mut bytes = masked(crc32c::crc32c(&checked)).to_le_bytes().to_vec();
        bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&checked);
        bytes
    }

    /// A record of file 4 that begins with sequence number `sequence`.
    fn record(sequence: u64) -> Vec<u8> {
        fragment(5, Some(4), &[&sequence.to_le_bytes()[..], b"and so on"].concat())
    }

    fn surveyed(name: &str, bytes: &[u8]) -> Survey {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), bytes).unwrap();
        survey(dir.path(), dir.path()).unwrap()
    }

    /// Newest record, where damage is, where the end is.
    fn log(bytes: &[u8]) -> (u64, Option<u64>, Option<u64>) {
        let Survey { newest, damage, end, endless } = surveyed("000004.log", bytes);
        assert_eq!(endless, None);
        (newest, damage.map(|place| place.offset), end.map(|place| place.offset))
    }

    #[test]
    fn the_end_is_told_from_damage() {
        let [one, two, three] = [1, 2, 5].map(record);
        let len = one.len() as u64;
        let whole = [&one[..], &two, &three].concat();
        assert_eq!(log(&whole), (5, None, None));
        assert_eq!(log(&[&whole[..], &[0; 100]].concat()), (5, None, Some(3 * len)));
        assert_eq!(log(&whole[..whole.len() - 3]), (2, None, Some(2 * len)));
        // What another file had held there is no damage, whether it is aligned or not.
        let old = fragment(5, Some(3), &[&9_u64.to_le_bytes()[..], b"old"].concat());
        assert_eq!(log(&[&whole[..], &old].concat()), (5, None, Some(3 * len)));
        assert_eq!(log(&[&whole[..], &old[3..], &old].concat()), (5, None, Some(3 * len)));

        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            let (newest, damage, _) = log(&bad);
            let expected = at as u64 / len * len;
            if expected < 2 * len {
                assert_eq!((newest, damage), (5, Some(expected)), "byte {at}");
            } else {
                assert_eq!((newest, damage), (2, None), "byte {at}");
            }
        }
    }

    #[test]
    fn a_second_block_is_read_whatever_the_first_is_like() {
        let long = [&1_u64.to_le_bytes()[..], &vec![7; BLOCK_BYTES - 19]].concat();
        let mut bytes = fragment(6, Some(4), &long);
        let rest = fragment(8, Some(4), b"rest");
        bytes.extend(&rest);
        bytes.extend(record(3));
        assert_eq!(log(&bytes), (3, None, None));
        bytes[20] ^= 1;
        assert_eq!(log(&bytes), (3, Some(0), Some(0)));
        // The rest of a torn record says nothing of what had been durable.
        bytes.truncate(BLOCK_BYTES + rest.len());
        assert_eq!(log(&bytes), (0, None, Some(0)));
    }

    #[test]
    fn bytes_that_a_client_chose_are_no_record() {
        let far = fragment(5, Some(4), &[&u64::MAX.to_le_bytes()[..], b"chosen"].concat());
        let one = record(1);
        assert_eq!(log(&[&one[..], b"torn", &far].concat()), (1, None, Some(one.len() as u64)));
    }

    #[test]
    fn what_rocksdb_would_not_return_from_is_told_apart() {
        let plain = fragment(1, None, b"an edit");
        let whole = [plain.clone(), plain.clone()].concat();
        let found = surveyed("MANIFEST-000001", &whole);
        assert_eq!((found.damage, found.endless), (None, None));
        let mut bad = whole.clone();
        bad[plain.len() + 8] ^= 1;
        let damage = surveyed("MANIFEST-000001", &bad).damage.unwrap();
        assert_eq!(damage.offset, plain.len() as u64);
        let mut bad = whole;
        bad[plain.len() + 6] = 5;
        let endless = surveyed("MANIFEST-000001", &bad).endless.unwrap();
        assert_eq!(endless.offset, plain.len() as u64);
    }
}
