//! The store as a state machine: crashes, snapshots, what it refuses, what stops it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{
    Applied, Entry, Index, LogId, MachineError, Payload, SnapshotMeta, StateMachine, Term,
};
use raft_kv::{
    Command, Compact, DeleteRange, KeyRange, Kv, KvError, MachineVersion, Outcome, Proposal, Put,
    RangeRequest, Refused, Revision,
};
use support::{Arrived, Subject, config, image_of, tempdir, three_voters};

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    Command::Put(Put::new(key, value))
}

fn payload(command: &Command) -> Payload {
    Payload::Command(Proposal::from(command.clone()).encode())
}

#[test]
fn the_first_write_makes_revision_two() {
    let mut subject = Subject::new();
    assert_eq!(subject.reader().revision(), Revision(1));
    let Outcome::Put(outcome) = subject.run(put("k", "v")) else { panic!("not a put") };
    assert_eq!(outcome.revision, Revision(2));
    let kv = subject.reader().get("k").unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(2), Revision(2), 1));
}

#[test]
fn a_deleted_key_that_is_written_again_is_created_again() {
    let mut subject = Subject::new();
    subject.run(put("k", "1"));
    subject.run(put("k", "2"));
    subject.run(Command::DeleteRange(DeleteRange {
        range: KeyRange::One("k".into()),
        prev_kv: false,
    }));
    subject.run(put("k", "3"));
    let kv = subject.reader().get("k").unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(5), Revision(5), 1));
}

/// Rule C3. Every point at which a crash can find the store: after some applied batch, with the
/// flush before or after it.
#[test]
fn a_crash_at_any_point_leaves_a_state_that_was_there_and_replay_does_the_rest() {
    let mut subject = Subject::new();
    let mut digests = vec![subject.reader().digest().unwrap()];
    let mut flushed = 0;
    for round in 0..12_usize {
        let payloads = [
            payload(&put(format!("k{}", round % 5), format!("v{round}"))),
            Payload::Membership(Box::new(three_voters())),
            payload(&Command::DeleteRange(DeleteRange {
                range: KeyRange::prefix(format!("k{}", round % 3)),
                prev_kv: true,
            })),
        ];
        subject.apply(payloads);
        digests.push(subject.reader().digest().unwrap());
        if round % 4 == 2 {
            assert_eq!(subject.flush(), Index(3 * (round as u64 + 1)));
            flushed = round + 1;
        }
        let image = image_of(subject.path());
        let mut kv = Kv::open(image.path(), config()).unwrap();
        let found = kv.applied();
        assert!(found.last.index.0 >= 3 * flushed as u64, "what was durable is there");
        let found_round = usize::try_from(found.last.index.0 / 3).unwrap();
        assert_eq!(kv.reader().digest().unwrap(), digests[found_round], "a state that was there");
        assert_eq!(found.membership.is_some(), found_round > 0);
        kv.apply(&subject.log[3 * found_round..], &mut Vec::new()).unwrap();
        assert_eq!(kv.reader().digest().unwrap(), *digests.last().unwrap());
        assert_eq!(kv.applied(), subject.kv().applied());
    }
}

/// Rule C3. RocksDB flushes by itself when its buffer is full, whichever part of the data fills it. If it
/// flushed that part alone, data and applied index would come from different times.
#[test]
fn a_flush_of_its_own_accord_is_of_one_moment() {
    let mut subject = Subject::new();
    for round in 0..40_u8 {
        // The same keys each time, so that applying twice would show in their versions.
        let entries = (0..64_u8).map(|key| {
            let value = vec![round ^ key; 4096];
            payload(&put(vec![key], value))
        });
        subject.apply(entries);
    }
    let digest = subject.reader().digest().unwrap();
    let all = subject.log.len() as u64;
    subject.crash();
    let found = subject.kv().applied().last.index.0;
    assert!((1..all).contains(&found), "it was to be flushed in between: {found} of {all}");
    subject.replay(64);
    assert_eq!(subject.reader().digest().unwrap(), digest);
}

#[test]
fn closing_keeps_everything() {
    let mut subject = Subject::new();
    subject.apply([
        payload(&put("k", "v")),
        Payload::Membership(Box::new(three_voters())),
        Payload::Empty,
    ]);
    let (applied, digest) = (subject.kv().applied(), subject.reader().digest().unwrap());
    subject.restart();
    assert_eq!(subject.kv().applied(), applied);
    assert_eq!(applied.last, LogId::new(Term(1), Index(3)));
    assert_eq!(applied.membership, Some((LogId::new(Term(1), Index(2)), three_voters())));
    assert_eq!(subject.reader().digest().unwrap(), digest);
}

#[test]
fn a_clean_stop_keeps_everything_even_while_somebody_reads() {
    let dir = tempdir();
    let mut kv = Kv::open(dir.path(), config()).unwrap();
    let reader = kv.reader();
    let entry = Entry { id: LogId::new(Term(1), Index(1)), payload: payload(&put("k", "v")) };
    kv.apply(&[entry], &mut Vec::new()).unwrap();
    drop(kv);
    let image = image_of(dir.path());
    assert_eq!(Kv::open(image.path(), config()).unwrap().applied().last.index, Index(1));
    assert!(reader.get("k").unwrap().is_some());
}

/// Rule S2. The image is of the moment it was taken, whatever is written while it is read.
#[test]
fn a_snapshot_stays_as_it_was_taken() {
    let mut subject = Subject::new();
    subject.apply([payload(&put("k", "before")), Payload::Membership(Box::new(three_voters()))]);
    let digest = subject.reader().digest().unwrap();
    let mut source = subject.kv().snapshot().unwrap();
    subject.run(put("k", "after"));
    subject.flush();
    let founding = SnapshotMeta::default();
    let meta = Applied {
        last: LogId::new(Term(1), Index(2)),
        membership: Some((LogId::new(Term(1), Index(2)), three_voters())),
    }
    .to_meta(&founding);
    assert_eq!(*source.meta(), meta);

    let mut other = Subject::new();
    other.run(put("gone", "gone"));
    let reader = other.reader();
    let applied = other.kv().restore(Box::new(Arrived::from(source.as_mut()).on_disk())).unwrap();
    assert_eq!(applied.to_meta(&founding), meta);
    // The reader was there before.
    assert_eq!(reader.digest().unwrap(), digest);
    assert_eq!(reader.get("gone").unwrap(), None);
    drop(reader);
    other.restart();
    assert_eq!(other.reader().digest().unwrap(), digest);
}

/// Rule S2. Nobody waits for a flush when a snapshot is taken: it holds what is in files, and says so. What
/// follows is in the log. The next one holds more.
#[test]
fn a_snapshot_is_of_what_was_flushed() {
    let mut subject = Subject::new();
    subject.run(put("k", "flushed"));
    subject.flush();
    let digest = subject.reader().digest().unwrap();
    subject.run(put("k", "not flushed"));
    let mut source = subject.kv().snapshot().unwrap();
    assert_eq!(source.meta().last, LogId::new(Term(1), Index(1)));
    let mut other = Subject::new();
    other.kv().restore(Box::new(Arrived::from(source.as_mut()))).unwrap();
    assert_eq!(other.reader().digest().unwrap(), digest);

    let since = Instant::now();
    while subject.kv().snapshot().unwrap().meta().last.index < Index(2) {
        assert!(since.elapsed() < Duration::from_secs(60), "it never holds the rest");
    }
}

/// RocksDB begins flushes too. One that it had begun before does not hold what came after, so another has to
/// follow, or the log would not be cut again for long.
#[test]
fn a_flush_is_begun_whatever_rocksdb_flushes_by_itself() {
    let mut subject = Subject::new();
    for round in 0..20_u8 {
        // A little more than the buffer takes, so that it is on its way when more is asked for.
        for piece in 0..36_u8 {
            let value = |key: u8| vec![round ^ piece ^ key; 16 << 10];
            subject.apply((0..8_u8).map(|key| payload(&put(vec![key], value(key)))));
        }
        subject.flush();
    }
}

#[test]
fn a_dropped_snapshot_and_a_replaced_store_leave_nothing_behind() {
    let mut subject = Subject::new();
    subject.run(put("k", "v"));
    let mut source = subject.kv().snapshot().unwrap();
    let arrived = Arrived::from(source.as_mut());
    assert!(subject.path().join("snapshot-1").exists());
    drop(source);
    assert!(!subject.path().join("snapshot-1").exists());

    let reader = subject.reader();
    subject.kv().restore(Box::new(arrived)).unwrap();
    assert!(subject.path().join("store-2").exists());
    assert!(!subject.path().join("store-1").exists());
    assert_eq!(reader.get("k").unwrap().unwrap().value, "v");
}

/// Rule S3. A crash at any step of an installation leaves the old state or the new one.
#[test]
fn a_crash_while_a_snapshot_is_installed_leaves_the_old_state() {
    let mut sender = Subject::new();
    sender.run(put("new", "1"));
    let arrived = Arrived::from(sender.kv().snapshot().unwrap().as_mut());

    let mut subject = Subject::new();
    subject.run(put("old", "1"));
    subject.flush();
    // What stands there after 0, 1, ... files, and after all of them but before CURRENT is
    // replaced.
    for files in 0..=arrived.files.len() {
        let image = image_of(subject.path());
        let half = image.path().join("store-2");
        fs::create_dir(&half).unwrap();
        for (file, content) in arrived.files.iter().zip(&arrived.contents).take(files) {
            fs::write(half.join(&file.name), content).unwrap();
        }
        fs::write(image.path().join("CURRENT.new"), "store-").unwrap();
        let kv = Kv::open(image.path(), config()).unwrap();
        assert!(kv.reader().get("old").unwrap().is_some());
        assert!(!half.exists());
    }
    // And after it was replaced, before the old database is removed.
    let image = image_of(subject.path());
    fs::create_dir(image.path().join("store-2")).unwrap();
    for (file, content) in arrived.files.iter().zip(&arrived.contents) {
        fs::write(image.path().join("store-2").join(&file.name), content).unwrap();
    }
    fs::write(image.path().join("CURRENT"), "store-2\n").unwrap();
    let kv = Kv::open(image.path(), config()).unwrap();
    assert!(kv.reader().get("new").unwrap().is_some());
    assert!(kv.reader().get("old").unwrap().is_none());
    assert!(!image.path().join("store-1").exists());
}

#[test]
fn a_snapshot_that_is_not_what_its_head_says_changes_nothing() {
    let mut sender = Subject::new();
    sender.run(put("new", "1"));
    let take = |sender: &mut Subject| Arrived::from(sender.kv().snapshot().unwrap().as_mut());
    let mut wrong_head = take(&mut sender);
    wrong_head.meta.last.index = Index(7);
    let mut cut_short = take(&mut sender);
    let longest = (0..cut_short.files.len()).max_by_key(|file| cut_short.files[*file].bytes);
    cut_short.contents[longest.unwrap()].pop();
    let mut escapes = take(&mut sender);
    escapes.files[0].name = "../CURRENT".to_owned();
    let mut hollow = take(&mut sender);
    hollow.files.clear();
    hollow.contents.clear();

    let mut subject = Subject::new();
    subject.run(put("old", "1"));
    for arrived in [wrong_head, cut_short, escapes, hollow] {
        let error = subject.kv().restore(Box::new(arrived)).unwrap_err();
        assert!(matches!(error, MachineError::Storage { .. }), "{error}");
        assert!(!subject.path().join("store-2").exists(), "{error}");
        subject.restart();
        assert!(subject.reader().get("old").unwrap().is_some(), "{error}");
    }
}

/// Rule M9.
#[test]
fn the_founding_membership_of_the_sender_comes_along() {
    let mut sender = Subject::new();
    sender.run(put("k", "v"));
    let mut arrived = Arrived::from(sender.kv().snapshot().unwrap().as_mut());
    arrived.meta.membership = three_voters();
    let mut subject = Subject::new();
    let applied = subject.kv().restore(Box::new(arrived)).unwrap();
    assert_eq!(applied.membership, Some((LogId::ZERO, three_voters())));
    subject.crash();
    assert_eq!(subject.kv().applied(), applied);
}

/// Rule L18.
#[test]
fn a_command_that_cannot_be_understood_stops_the_machine() {
    for command in [&b""[..], b"\x02\x00", b"\x01\xee", b"\x01\x00\x05abc"] {
        let mut subject = Subject::new();
        let entry = Entry {
            id: LogId::new(Term(1), Index(1)),
            payload: Payload::Command(Bytes::copy_from_slice(command)),
        };
        let error = subject.kv().apply(&[entry], &mut Vec::new()).unwrap_err();
        assert!(
            matches!(&error, MachineError::Unknown { what } if what.contains("1@1")),
            "{error}"
        );
        assert_eq!(subject.kv().applied(), Applied::default());
    }
}

#[test]
#[should_panic(expected = "in order, each once")]
fn an_entry_out_of_order_is_a_bug() {
    let mut subject = Subject::new();
    let entry = Entry { id: LogId::new(Term(1), Index(2)), payload: Payload::Empty };
    drop(subject.kv().apply(&[entry], &mut Vec::new()));
}

#[test]
fn deleting_too_much_at_once_is_refused_and_changes_nothing() {
    let mut subject = Subject::new();
    let keys = (0..100_001_u32).map(|number| payload(&put(number.to_be_bytes().to_vec(), "v")));
    subject.apply(keys);
    let digest = subject.reader().digest().unwrap();
    let all = || Command::DeleteRange(DeleteRange { range: KeyRange::all(), prev_kv: false });
    let refused = subject.run(all());
    assert!(matches!(refused, Outcome::Refused(Refused::TooMuch { .. })), "{refused:?}");
    assert_eq!(subject.reader().digest().unwrap().hash, digest.hash);
    // One less is not too much, even if it was written in the same batch.
    let one = DeleteRange { range: KeyRange::One(vec![0; 4].into()), prev_kv: false };
    let outcomes = subject.apply([payload(&Command::DeleteRange(one)), payload(&all())]);
    let Outcome::DeleteRange(outcome) = Outcome::decode(&outcomes[1]).unwrap() else {
        panic!("not a delete")
    };
    assert_eq!(outcome.deleted, 100_000);
    assert_eq!(subject.reader().range(&RangeRequest::new(KeyRange::all())).unwrap().count, 0);
}

/// What compaction gives up goes from the disk in steps, and all of it in the end.
#[test]
fn compacted_history_is_purged() {
    let mut subject = Subject::new();
    for round in 0..3_u8 {
        subject
            .apply((0..3000_u16).map(|key| payload(&put(key.to_be_bytes().to_vec(), vec![round]))));
    }
    let last = subject.reader().revision();
    subject.run(Command::Compact(Compact { revision: last }));
    let digest = subject.reader().digest().unwrap();
    let rows = |subject: &mut Subject| {
        subject.flush();
        let image = image_of(subject.path());
        let path = image.path().join("store-1");
        let options = rocksdb::Options::default();
        let families = ["default", "latest", "old", "changes"];
        let db = rocksdb::DB::open_cf_for_read_only(&options, path, families, false).unwrap();
        ["old", "changes"].map(|name| {
            db.iterator_cf(db.cf_handle(name).unwrap(), rocksdb::IteratorMode::Start).count()
        })
    };
    assert_eq!(rows(&mut subject), [6000, 9000]);
    for _ in 0..4 {
        subject.apply([Payload::Empty]);
    }
    let some = rows(&mut subject);
    assert!((1..6000).contains(&some[0]), "{some:?}");
    assert_eq!(subject.reader().digest().unwrap().hash, digest.hash, "purging cannot be seen");
    for _ in 0..20 {
        subject.apply([Payload::Empty]);
    }
    assert_eq!(rows(&mut subject), [0, 0]);
    assert_eq!(subject.reader().digest().unwrap().hash, digest.hash, "purging cannot be seen");
    let old =
        RangeRequest { revision: Some(Revision(last.0 - 1)), ..RangeRequest::new(KeyRange::all()) };
    let error = subject.reader().range(&old).unwrap_err();
    assert!(matches!(error, KvError::Compacted { .. }), "{error}");
}

#[test]
fn a_long_answer_is_cut_and_says_so() {
    let mut subject = Subject::new();
    let value = vec![7; 1 << 20];
    subject.apply((0..6_u8).map(|key| payload(&put(vec![key], value.clone()))));
    let reply = subject.reader().range(&RangeRequest::new(KeyRange::all())).unwrap();
    assert_eq!((reply.kvs.len(), reply.count, reply.more), (3, 6, true));
}

/// Rule C8. What a read finds, and of which entry it says that is, belong together, however it falls in with
/// what is applied: each entry here writes its own number.
#[test]
fn a_read_is_of_the_entry_that_it_says() {
    let mut subject = Subject::new();
    subject.run(put("k", "1"));
    let reader = subject.reader();
    let is_over = AtomicBool::new(false);
    let read = || {
        let request = RangeRequest::new(KeyRange::One("k".into()));
        let mut last = 0;
        let mut found = 0_u64;
        while !is_over.load(Ordering::Relaxed) {
            let Some(reply) = reader.range_cached(&request).unwrap() else { continue };
            let value: u64 = str::from_utf8(&reply.kvs[0].value).unwrap().parse().unwrap();
            assert_eq!(value, reply.applied.0);
            assert_eq!(value + 1, reply.revision.0);
            assert!(value >= last, "time goes on");
            last = value;
            found += 1;
        }
        found
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        for number in 2..20_000_u64 {
            subject.run(put("k", number.to_string()));
        }
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 100);
        }
    });
}

/// The bytes of the rows that quotas count, as they stand on the disk.
fn rows(subject: &Subject) -> u64 {
    let image = image_of(subject.path());
    let path = image.path().join("store-1");
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), path, FAMILIES).unwrap();
    let families = ["latest", "old", "changes"].map(|name| db.cf_handle(name).unwrap());
    let rows = families
        .into_iter()
        .flat_map(|family| db.iterator_cf(family, rocksdb::IteratorMode::Start));
    rows.map(Result::unwrap).map(|(key, row)| (key.len() + row.len()) as u64).sum()
}

#[test]
fn the_bytes_that_quotas_count_are_those_that_are_stored() {
    let mut subject = Subject::new();
    assert_eq!(subject.reader().stored_bytes(), 0);
    for round in 0..300_u64 {
        let key = format!("k{}\0", round % 7);
        match round % 5 {
            4 => subject.run(Command::DeleteRange(DeleteRange {
                range: KeyRange::prefix(key),
                prev_kv: false,
            })),
            _ => subject.run(put(key, "v".repeat(usize::try_from(round % 90).unwrap()))),
        };
        if round % 50 == 49 {
            subject.flush();
            assert_eq!(subject.reader().stored_bytes(), rows(&subject), "after {round}");
        }
    }
    subject.crash();
    subject.replay(64);
    let revision = subject.reader().revision();
    let before = subject.reader().stored_bytes();
    subject.run(Command::Compact(Compact { revision }));
    // What was given up goes as more is applied.
    subject.run(put("k", "v"));
    subject.flush();
    assert_eq!(subject.reader().stored_bytes(), rows(&subject));
    assert!(subject.reader().stored_bytes() < before / 4);
}

/// Rule C7. What a newer program has switched on, an older one must not touch.
#[test]
fn a_version_that_is_not_supported_is_not_applied_and_not_opened() {
    let mut subject = Subject::new();
    subject.run(put("k", "v"));
    let newer = MachineVersion(MachineVersion::SUPPORTED.0 + 1);
    let entry =
        Entry { id: LogId::new(Term(1), Index(2)), payload: payload(&Command::Activate(newer)) };
    let error = subject.kv().apply(&[entry], &mut Vec::new()).unwrap_err();
    assert!(
        matches!(&error, MachineError::Unknown { what } if what.contains("upgrade")),
        "{error}"
    );
}

/// What a revision held stays the same, whatever is written after it, until it is compacted.
#[test]
fn the_digest_of_a_revision_stays() {
    let mut subject = Subject::new();
    let mut digests = vec![];
    for round in 0..60_usize {
        let key = format!("k{}", round % 9);
        if round % 4 == 3 {
            let range = KeyRange::One(key.into());
            subject.run(Command::DeleteRange(DeleteRange { range, prev_kv: false }));
        } else {
            subject.run(put(key, format!("v{round}")));
        }
        let reader = subject.reader();
        let digest = reader.revision_digest(reader.revision()).unwrap();
        assert_eq!(digest.keys, reader.range(&RangeRequest::new(KeyRange::all())).unwrap().count);
        digests.push(digest);
    }
    for digest in &digests {
        assert_eq!(subject.reader().revision_digest(digest.revision).unwrap(), *digest);
    }
    let mut hashes: Vec<_> = digests.iter().map(|digest| digest.hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let mut revisions: Vec<_> = digests.iter().map(|digest| digest.revision).collect();
    revisions.dedup();
    assert_eq!(hashes.len(), revisions.len(), "each revision has its own");
    let next = subject.reader().revision().next();
    let error = subject.reader().revision_digest(next).unwrap_err();
    assert!(matches!(error, KvError::FutureRevision { .. }), "{error}");
}

#[test]
fn a_store_in_use_of_a_newer_format_or_without_its_data_is_not_opened() {
    let mut subject = Subject::new();
    let error = Kv::open(subject.path(), config()).unwrap_err();
    assert!(matches!(error, KvError::Locked { .. }), "{error}");

    subject.run(put("k", "v"));
    subject.flush();
    let lost = image_of(subject.path());
    fs::remove_dir_all(lost.path().join("store-1")).unwrap();
    let error = Kv::open(lost.path(), config()).unwrap_err();
    assert!(matches!(error, KvError::Corrupt { .. }), "{error}");

    let newer = image_of(subject.path());
    let path = newer.path().join("store-1");
    let options = rocksdb::Options::default();
    {
        let mut db = rocksdb::DB::open_cf(&options, &path, FAMILIES).unwrap();
        db.put("format", 99_u32.to_be_bytes()).unwrap();
        db.create_cf("novelties", &options).unwrap();
    }
    let error = Kv::open(newer.path(), config()).unwrap_err();
    assert!(error.to_string().contains("novelties"), "{error}");
    let all = FAMILIES.into_iter().chain(["novelties"]);
    rocksdb::DB::open_cf(&options, &path, all).unwrap().drop_cf("novelties").unwrap();
    let error = Kv::open(newer.path(), config()).unwrap_err();
    assert!(matches!(error, KvError::Format { .. }), "{error}");
}

const FAMILIES: [&str; 6] = ["default", "latest", "old", "changes", "sessions", "leases"];
