//! Rule L15: damage is found or does not matter. A log never comes back shorter without a word.
//!
//! Each test makes a log in which every write was acknowledged, then changes the files as a bad disk
//! or a careless hand would, and opens the result: it is refused, or everything is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{
    Content, Opened, Place, append, command, commands, content, hard, id, log_files, membership,
};
use raft_core::{Batch, Entry, Index, Installed, LogStore, Payload, SnapshotMeta, StoreError};
use raft_log::OpenError;

/// What became of an attempt to open a damaged log and to read all of it.
#[derive(Debug)]
enum Outcome {
    Refused(String),
    Whole,
}

/// A log, and what must be in it.
struct Sample {
    place: Place,
    content: Content,
}

impl Sample {
    /// A log with something of everything, still in the write-ahead log, as after a crash.
    fn in_write_ahead_log() -> Self {
        let place = Place::new();
        let log = place.open().unwrap();
        Self::written(&place, log)
    }

    /// The same in a file that was used before.
    fn in_used_file() -> Self {
        let place = Place::new();
        let log = place.open_prepared().unwrap();
        Self::written(&place, log)
    }

    fn written(place: &Place, mut log: Opened) -> Self {
        log.recover().unwrap();
        for batch in history() {
            log.persist(&batch).unwrap();
        }
        log.compact(&SnapshotMeta {
            last: id(2, 1),
            membership: membership(&[1, 2, 3, 4]),
            membership_at: id(1, 1),
        })
        .unwrap();
        log.persist(&append(vec![command(8, 3, "the last one")])).unwrap();
        let place = place.copy();
        let content = content(&mut place.copy().open().unwrap()).unwrap();
        assert_eq!(content.entries.len(), 6);
        Self { place, content }
    }

    /// The same in table files, after a clean stop.
    fn in_table_files() -> Self {
        let sample = Self::in_write_ahead_log();
        drop(sample.place.open().unwrap());
        assert!(!sample.files(|name| name.ends_with(".sst")).is_empty());
        sample
    }

    fn files(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let data = self.place.path();
        let names = log_files(&data, is_wanted);
        names.iter().map(|path| path.strip_prefix(&data).unwrap().to_owned()).collect()
    }

    /// Opens a copy that `damage` was done to. Panics if less is found than there was.
    fn after(&self, damage: impl FnOnce(&Path)) -> Outcome {
        let copy = self.place.copy();
        damage(&copy.path());
        match open_and_read(&copy) {
            Err(error) => Outcome::Refused(error.to_string()),
            Ok(found) => {
                assert_eq!(found, self.content, "damage went unnoticed");
                Outcome::Whole
            }
        }
    }

    /// Flips a bit in every `step`th byte of `file`; at every third such place also fills with zeroes
    /// and cuts. Counts the refusals.
    fn damage_everywhere(&self, file: &Path, step: usize) -> Counts {
        let len = fs::metadata(self.place.path().join(file)).unwrap().len();
        self.damage_until(file, usize::try_from(len).unwrap(), step)
    }

    /// The same for the bytes before `end`.
    fn damage_until(&self, file: &Path, end: usize, step: usize) -> Counts {
        let good = fs::read(self.place.path().join(file)).unwrap();
        let mut counts = Counts::default();
        let mut count = |bad: &[u8], what: String| {
            let outcome = self.after(|data| fs::write(data.join(file), bad).unwrap());
            counts.add(&outcome, || format!("{}: {what}: {outcome:?}", file.display()));
        };
        for (number, at) in (0..end).step_by(step).enumerate() {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            count(&flipped, format!("byte {at} flipped"));
            if number % 3 > 0 {
                continue;
            }
            let mut zeroed = good.clone();
            let through = good.len().min(at + 16);
            zeroed[at..through].fill(0);
            if zeroed != good {
                count(&zeroed, format!("bytes {at}..{through} zeroed"));
            }
            count(&good[..at], format!("cut at byte {at}"));
        }
        counts
    }
}

#[derive(Debug, Default)]
struct Counts {
    refused: u32,
    whole: u32,
    examples: Vec<String>,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome, describe: impl FnOnce() -> String) {
        match outcome {
            Outcome::Refused(_) => self.refused += 1,
            Outcome::Whole => {
                self.whole += 1;
                self.examples.push(describe());
            }
        }
    }
}

fn history() -> Vec<Batch> {
    let configuration = Payload::Membership(Box::new(membership(&[1, 2, 3, 4])));
    let at = |index, term, payload| Entry { id: id(index, term), payload };
    vec![
        Batch { hard: Some(hard(1, Some(1))), ..Batch::default() },
        append(vec![at(1, 1, Payload::Empty), at(2, 1, configuration.clone())]),
        append(commands(3..=5, 1)),
        Batch { hard: Some(hard(2, Some(3))), ..Batch::default() },
        Batch { truncate_from: Some(Index(4)), ..append(vec![at(4, 2, configuration)]) },
        append(vec![command(5, 2, &"long ".repeat(40))]),
        Batch { hard: Some(hard(3, None)), ..append(commands(6..=7, 3)) },
    ]
}

fn open_and_read(place: &Place) -> Result<Content, OpenError> {
    let mut log = place.open()?;
    Ok(content(&mut log)?)
}

fn is_write_ahead_log(name: &str) -> bool {
    name.ends_with(".log")
}

/// Every byte of the write-ahead log. Every record in it was acknowledged, so nothing may be lost;
/// there are bytes that nothing hangs on, but they are few.
#[test]
fn write_ahead_log() {
    let sample = Sample::in_write_ahead_log();
    let files = sample.files(is_write_ahead_log);
    assert_eq!(files.len(), 1);
    let counts = sample.damage_everywhere(&files[0], 1);
    assert!(counts.refused > 1000, "{counts:?}");
    assert_eq!(counts.whole, 0, "{counts:#?}");
}

/// The same where the file is written over again, and RocksDB takes all damage for the end of the log.
#[test]
fn write_ahead_log_in_a_used_file() {
    let sample = Sample::in_used_file();
    let file = newest_log(&sample.place);
    let bytes = fs::read(&file).unwrap();
    let end = used(&bytes);
    assert!(end > 500 && bytes.len() > 60 << 10, "there is something behind the log");
    let name = file.strip_prefix(sample.place.path()).unwrap();
    let counts = sample.damage_until(name, end, 3);
    assert!(counts.refused > 300, "{counts:?}");
    assert_eq!(counts.whole, 0, "{counts:#?}");
}

/// Damage to what had been durable is told from a torn end even if the watermark is out of date, as
/// it may be after a power cut: whatever checks out behind it was written later.
#[test]
fn damage_before_a_later_write_is_refused_without_a_watermark() {
    for used in [false, true] {
        let place = Place::new();
        let mut log = if used { place.open_prepared() } else { place.open() }.unwrap();
        log.recover().unwrap();
        let old = place.copy();
        log.persist(&append(commands(1..=3, 1))).unwrap();
        let before = place.copy();
        log.persist(&append(commands(4..=5, 1))).unwrap();
        let place = place.copy();
        let watermark = old.path().join("watermark");
        fs::copy(&watermark, place.path().join("watermark")).unwrap();
        let full = open_and_read(&place.copy()).unwrap();
        let less = open_and_read(&before.copy()).unwrap();

        let file = newest_log(&place);
        let name = file.strip_prefix(place.path()).unwrap();
        let [old, before, after] =
            [&old, &before, &place].map(|place| fs::read(place.path().join(name)).unwrap());
        let first = difference(&old, &before);
        let second = difference(&before, &after);
        let last = after.len() - difference_at_end(&before, &after);
        for at in first..last {
            let damaged = place.copy();
            let mut bad = after.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(damaged.path().join(name), bad).unwrap();
            match open_and_read(&damaged) {
                Err(OpenError::Log(StoreError::Corrupt { what, .. })) if at < second => {
                    assert!(what.contains(&format!("at byte {first}")), "byte {at}: {what}");
                }
                Ok(found) if at >= second => assert_eq!(found, less, "byte {at}"),
                other => panic!("byte {at} of {first}..{second}..{last}: {other:?}"),
            }
        }
        assert_eq!(open_and_read(&place).unwrap(), full);
    }
}

/// A write that nobody was told about, torn over what the file had held before: it is dropped.
#[test]
fn a_torn_write_in_a_used_file_is_dropped() {
    let place = Place::new();
    let mut log = place.open_prepared().unwrap();
    log.recover().unwrap();
    log.persist(&append(commands(1..=3, 1))).unwrap();
    let before = place.copy();
    log.persist(&append(commands(4..=9, 1))).unwrap();
    let after = place.copy();
    let content_before = open_and_read(&before.copy()).unwrap();
    let content_after = open_and_read(&after.copy()).unwrap();
    fs::copy(before.path().join("watermark"), after.path().join("watermark")).unwrap();
    let file = newest_log(&after);
    let name = file.strip_prefix(after.path()).unwrap();
    let [short, long] = [&before, &after].map(|place| fs::read(place.path().join(name)).unwrap());
    let from = difference(&short, &long);
    let end = long.len() - difference_at_end(&short, &long);
    assert!(end > from + 100);
    for cut in from..=end {
        let torn = after.copy();
        let bytes = [&long[..cut], &short[cut..]].concat();
        fs::write(torn.path().join(name), bytes).unwrap();
        let found = open_and_read(&torn).unwrap_or_else(|error| panic!("at byte {cut}: {error}"));
        let expected = if cut == end { &content_after } else { &content_before };
        assert_eq!(&found, expected, "at byte {cut}");
    }
}

/// Where two files of the same row of writes part.
fn difference(one: &[u8], other: &[u8]) -> usize {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    assert!(same < other.len());
    same
}

/// How many bytes they have in common at the end.
fn difference_at_end(one: &[u8], other: &[u8]) -> usize {
    if one.len() < other.len() {
        return 0;
    }
    one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}

/// How far a file is written over that had been filled with zeroes.
fn used(bytes: &[u8]) -> usize {
    bytes[..32 << 10].iter().rposition(|&byte| byte != 0).unwrap() + 1
}

/// The file of the write-ahead log that is being written to.
fn newest_log(place: &Place) -> PathBuf {
    log_files(&place.path(), is_write_ahead_log).pop().unwrap()
}

#[test]
fn table_files() {
    let sample = Sample::in_table_files();
    let mut refused = 0;
    for file in sample.files(|name| name.ends_with(".sst")) {
        refused += sample.damage_everywhere(&file, 7).refused;
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn manifest_and_current() {
    let sample = Sample::in_table_files();
    for file in sample.files(|name| name.starts_with("MANIFEST") || name == "CURRENT") {
        let counts = sample.damage_everywhere(&file, 3);
        assert!(counts.refused > 5, "{} {counts:?}", file.display());
    }
}

/// A watermark that is older than the log is as after a power cut; one that does not check out at
/// all is refused.
#[test]
fn watermark() {
    let sample = Sample::in_write_ahead_log();
    let watermark = |data: &Path| data.join("watermark");
    let refused = |damage: &dyn Fn(&Path)| match sample.after(damage) {
        Outcome::Refused(message) => assert!(message.contains("watermark"), "{message}"),
        Outcome::Whole => panic!("accepted"),
    };
    refused(&|data| fs::remove_file(watermark(data)).unwrap());
    refused(&|data| fs::write(watermark(data), "").unwrap());
    refused(&|data| {
        let size = fs::metadata(watermark(data)).unwrap().len();
        fs::write(watermark(data), vec![0; usize::try_from(size).unwrap()]).unwrap();
    });
    sample.damage_everywhere(Path::new("watermark"), 101);
}

/// A missing file is noticed, unless nothing hangs on it.
#[test]
fn missing_files() {
    for sample in [Sample::in_write_ahead_log(), Sample::in_table_files()] {
        for file in sample.files(|_| true) {
            let outcome = sample.after(|data| fs::remove_file(data.join(&file)).unwrap());
            let name = file.file_name().unwrap().to_string_lossy();
            let matters =
                name.starts_with("MANIFEST") || name == "CURRENT" || name.ends_with("sst");
            match outcome {
                Outcome::Refused(_) => {}
                Outcome::Whole => assert!(!matters, "{name}"),
            }
        }
        let gone = sample.after(|data| fs::remove_dir_all(data.join("log")).unwrap());
        assert!(matches!(gone, Outcome::Refused(_)));
    }
}

/// Each point between two acknowledged writes, and each way in which the second may be torn: what
/// comes back is the first, or both, but not less and not something in between; and it is not
/// refused, because nobody was told of the second.
#[test]
fn a_torn_write_that_nobody_was_told_about_is_dropped() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    log.recover().unwrap();
    for batch in history().into_iter().take(4) {
        log.persist(&batch).unwrap();
    }
    let before = place.copy();
    let snapshot = SnapshotMeta { last: id(4, 1), ..SnapshotMeta::default() };
    let batch = Batch {
        hard: Some(hard(9, Some(2))),
        snapshot: Some(Box::new(Installed { meta: snapshot, keep_tail: true })),
        truncate_from: Some(Index(5)),
        ..append(commands(5..=9, 4))
    };
    log.persist(&batch).unwrap();
    let after = place.copy();
    let content_before = open_and_read(&before.copy()).unwrap();
    let content_after = open_and_read(&after.copy()).unwrap();
    assert_ne!(content_before, content_after);

    // As it was before the acknowledgement: the write-ahead log of after, the watermark of before.
    fs::copy(before.path().join("watermark"), after.path().join("watermark")).unwrap();
    let short = fs::read(&log_files(&before.path(), is_write_ahead_log)[0]).unwrap();
    let file = &log_files(&after.path(), is_write_ahead_log)[0];
    let name = file.strip_prefix(after.path()).unwrap();
    let long = fs::read(file).unwrap();
    assert!(long.starts_with(&short) && long.len() > short.len() + 100);
    let check = |bytes: &[u8], what: String| {
        let torn = after.copy();
        fs::write(torn.path().join(name), bytes).unwrap();
        let found = open_and_read(&torn).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found == content_before || found == content_after, "{what}: {found:?}");
        if !bytes.len().is_multiple_of(16) {
            return found == content_after;
        }
        // It goes on from there, and what is written then is acknowledged in turn.
        let mut log = torn.open().unwrap();
        let next = found.recovered.last.next().0;
        log.persist(&append(commands(next..=next, 9))).unwrap();
        drop(log);
        assert_eq!(open_and_read(&torn).unwrap().recovered.last.0, next, "{what}");
        found == content_after
    };
    for cut in short.len()..long.len() {
        assert!(!check(&long[..cut], format!("cut at byte {cut}")));
        if cut % 4 > 0 {
            continue;
        }
        let mut zeroed = long.clone();
        zeroed[cut..].fill(0);
        let whole = zeroed == long;
        assert_eq!(check(&zeroed, format!("zeroes from byte {cut}")), whole);
        let mut flipped = long.clone();
        flipped[cut] ^= 1;
        assert!(!check(&flipped, format!("byte {cut} flipped")));
    }
    assert!(check(&long, "whole".to_owned()));
}

/// A log that is put back to an earlier moment under a newer watermark has lost what it promised.
#[test]
fn an_older_log_under_a_newer_watermark_is_refused() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    log.recover().unwrap();
    let mut older = Vec::new();
    for batch in history() {
        older.push(place.copy());
        log.persist(&batch).unwrap();
    }
    let watermark = place.path().join("watermark");
    for place in older {
        fs::copy(&watermark, place.path().join("watermark")).unwrap();
        match open_and_read(&place) {
            Err(OpenError::Log(error @ StoreError::Corrupt { .. })) => {
                let message = error.to_string();
                assert!(message.contains("acknowledged writes are gone"), "{message}");
                assert!(message.contains("raft serve --node-id NEW --join"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A write is taken out of the middle, with everything around it intact: what RocksDB would do if
/// it skipped a record.
#[test]
fn a_write_missing_from_the_middle_is_noticed() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    log.recover().unwrap();
    let file = || log_files(&place.path(), is_write_ahead_log).pop().unwrap();
    let mut ends = vec![fs::metadata(file()).unwrap().len()];
    for batch in history() {
        log.persist(&batch).unwrap();
        ends.push(fs::metadata(file()).unwrap().len());
    }
    let whole = fs::read(file()).unwrap();
    let crashed = place.copy();
    let full = open_and_read(&crashed.copy()).unwrap();
    let name = file().strip_prefix(place.path()).unwrap().to_owned();
    let mut refused = 0;
    for (number, bounds) in ends.windows(2).enumerate() {
        let [from, to] = [bounds[0], bounds[1]].map(|end| usize::try_from(end).unwrap());
        let damaged = crashed.copy();
        let without = [&whole[..from], &whole[to..]].concat();
        fs::write(damaged.path().join(&name), without).unwrap();
        match open_and_read(&damaged) {
            Err(_) => refused += 1,
            // A term and vote that a later write repeats may go missing without harm.
            Ok(found) => assert_eq!(found, full, "without write {number}"),
        }
    }
    assert!(refused >= 4, "{refused}");
}

/// Rule L14: whoever has met damage meets it again, whatever is asked.
#[test]
fn the_first_failure_is_the_last() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    log.recover().unwrap();
    let text = "y".repeat(1000);
    log.persist(&append((1..=300).map(|index| command(index, 1, &text)).collect())).unwrap();
    drop(log);
    let mut log = place.open().unwrap();
    log.recover().unwrap();
    let reader = log.reader();
    for file in log_files(&place.path(), |name| name.ends_with(".sst")) {
        let mut bytes = fs::read(&file).unwrap();
        let found: Vec<_> =
            bytes.windows(8).enumerate().filter(|(_, window)| *window == b"yyyyyyyy").collect();
        let places: Vec<_> = found.into_iter().map(|(at, _)| at).step_by(500).collect();
        for at in places {
            bytes[at] = b'z';
        }
        fs::write(&file, bytes).unwrap();
    }
    let first = reader.read(Index(1), usize::MAX, usize::MAX).unwrap_err();
    assert!(matches!(first, StoreError::Corrupt { .. }), "{first}");
    let calls = [
        log.persist(&append(commands(301..=301, 1))).unwrap_err(),
        log.compact(&SnapshotMeta { last: id(2, 1), ..SnapshotMeta::default() }).unwrap_err(),
        log.recover().unwrap_err(),
        log.reader().read(Index(300), 1, 1).unwrap_err(),
    ];
    for error in calls {
        assert_eq!(error.to_string(), first.to_string());
    }
}
