//! The contract of `LogStore`, as functions over any store.
//!
//! Each takes a function that opens the store: the first time empty, with its base at
//! `LogId::ZERO`; then again, after the previous one was dropped, with what that one had made
//! durable.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use bytes::Bytes;
use common::{append, command, commands, hard, id, membership};
use raft_core::{
    Batch, Entry, Index, Installed, LogReader, LogStore, Membership, Payload, Recovered,
    SnapshotMeta, StoreError, Term,
};

type Open<'a> = &'a mut dyn FnMut() -> Box<dyn LogStore>;

macro_rules! contract {
    ($($(#[$doc:meta])* $name:ident)*) => {
        mod rocks_log {
            $(
                $(#[$doc])*
                #[test]
                fn $name() {
                    let place = super::common::Place::new();
                    super::$name(&mut || Box::new(place.open().unwrap()));
                }
            )*
        }
    };
}

contract! {
    an_empty_log_is_its_base
    /// Rule E1.
    what_was_persisted_is_found_again
    an_empty_batch_changes_nothing
    /// Rule L3.
    truncation_and_replacement_are_one
    truncation_of_a_long_tail
    /// Rule L16.
    gaps_are_refused_with_nothing_written
    /// Rule S1.
    a_snapshot_without_tail_empties_the_log
    /// Rule S1.
    a_snapshot_with_tail_keeps_what_follows
    /// Rule S1.
    a_tail_that_is_not_there_cannot_be_kept
    /// Rule S4.
    compaction_leaves_a_log_without_holes
    compaction_through_the_end
    compaction_is_idempotent
    merged_batches_do_what_they_did_one_by_one
    /// Rule M8, rule M9.
    memberships_are_recovered
    /// Rule E1, rule M9.
    each_part_of_a_batch_survives_alone
    readers_keep_to_their_limits
    readers_see_whole_batches
    readers_and_compaction
    big_entries
}

fn recovered(base: SnapshotMeta, runs: &[(u64, u64)], last: u64) -> Recovered {
    Recovered {
        base,
        runs: runs.iter().map(|&(term, first)| (Term(term), Index(first))).collect(),
        last: Index(last),
        ..Recovered::default()
    }
}

fn meta(at: raft_core::LogId, members: &[u64]) -> SnapshotMeta {
    SnapshotMeta { last: at, membership: membership(members), membership_at: at }
}

fn everything(log: &dyn LogStore) -> Vec<Entry> {
    log.reader().read(Index(1), usize::MAX, usize::MAX).unwrap()
}

fn from(log: &dyn LogStore, first: u64) -> Vec<Entry> {
    log.reader().read(Index(first), usize::MAX, usize::MAX).unwrap()
}

fn an_empty_log_is_its_base(open: Open<'_>) {
    for _ in 0..2 {
        let mut log = open();
        let found = log.recover().unwrap();
        assert_eq!(found, recovered(found.base.clone(), &[], 0));
        assert_eq!(found.base.last, id(0, 0));
        assert_eq!(everything(&*log), []);
    }
}

fn what_was_persisted_is_found_again(open: Open<'_>) {
    let mut log = open();
    let base = log.recover().unwrap().base;
    let batch = Batch { hard: Some(hard(2, Some(3))), ..append(commands(1..=3, 2)) };
    log.persist(&batch).unwrap();
    log.persist(&append(vec![Entry { id: id(4, 5), payload: Payload::Empty }])).unwrap();
    log.persist(&Batch { hard: Some(hard(6, None)), ..Batch::default() }).unwrap();
    let before = everything(&*log);
    assert_eq!(before.len(), 4);
    drop(log);
    for _ in 0..2 {
        let mut log = open();
        let mut expected = recovered(base.clone(), &[(2, 1), (5, 4)], 4);
        expected.hard = hard(6, None);
        assert_eq!(log.recover().unwrap(), expected);
        assert_eq!(everything(&*log), before);
    }
}

fn an_empty_batch_changes_nothing(open: Open<'_>) {
    let mut log = open();
    let before = log.recover().unwrap();
    log.persist(&Batch { seq: 9, ..Batch::default() }).unwrap();
    drop(log);
    assert_eq!(open().recover().unwrap(), before);
}

fn truncation_and_replacement_are_one(open: Open<'_>) {
    let mut log = open();
    let base = log.recover().unwrap().base;
    log.persist(&append(commands(1..=6, 1))).unwrap();
    log.persist(&Batch { truncate_from: Some(Index(3)), ..append(commands(3..=4, 2)) }).unwrap();
    let expected = [commands(1..=2, 1), commands(3..=4, 2)].concat();
    assert_eq!(everything(&*log), expected);
    // Only cut, nothing put in its place; cutting what is not there is no error.
    log.persist(&Batch { truncate_from: Some(Index(4)), ..Batch::default() }).unwrap();
    log.persist(&Batch { truncate_from: Some(Index(40)), ..Batch::default() }).unwrap();
    drop(log);
    let mut log = open();
    assert_eq!(log.recover().unwrap(), recovered(base, &[(1, 1), (2, 3)], 3));
    assert_eq!(everything(&*log), expected[..3]);
}

fn truncation_of_a_long_tail(open: Open<'_>) {
    let mut log = open();
    let base = log.recover().unwrap().base;
    log.persist(&append(commands(1..=500, 1))).unwrap();
    log.persist(&Batch { truncate_from: Some(Index(11)), ..append(commands(11..=12, 2)) }).unwrap();
    log.persist(&append(commands(13..=300, 2))).unwrap();
    drop(log);
    let mut log = open();
    assert_eq!(log.recover().unwrap(), recovered(base, &[(1, 1), (2, 11)], 300));
    assert_eq!(everything(&*log), [commands(1..=10, 1), commands(11..=300, 2)].concat());
}

fn gaps_are_refused_with_nothing_written(open: Open<'_>) {
    let mut log = open();
    log.recover().unwrap();
    log.persist(&append(commands(1..=3, 2))).unwrap();
    log.compact(&meta(id(2, 2), &[1])).unwrap();
    let hard = Some(hard(9, Some(9)));
    let bad = [
        append(commands(5..=6, 2)),
        append(commands(3..=4, 2)),
        append(commands(4..=4, 1)),
        append([commands(4..=4, 2), commands(6..=6, 2)].concat()),
        append([commands(4..=4, 3), commands(5..=5, 2)].concat()),
        append(commands(1..=1, 2)),
        Batch { truncate_from: Some(Index(2)), ..append(commands(2..=2, 3)) },
        Batch { truncate_from: Some(Index(3)), ..append(commands(4..=4, 3)) },
    ];
    for batch in bad {
        let batch = Batch { hard, ..batch };
        let refused = log.persist(&batch).unwrap_err();
        assert!(matches!(refused, StoreError::Gap { .. }), "{batch}: {refused}");
    }
    let beyond = log.compact(&meta(id(4, 2), &[1]));
    assert!(matches!(beyond, Err(StoreError::Gap { .. })));
    let other_term = log.compact(&meta(id(3, 1), &[1]));
    assert!(matches!(other_term, Err(StoreError::Gap { .. })));
    // It goes on as if nothing had been asked.
    log.persist(&append(commands(4..=4, 2))).unwrap();
    drop(log);
    let mut log = open();
    assert_eq!(log.recover().unwrap(), recovered(meta(id(2, 2), &[1]), &[(2, 3)], 4));
    assert_eq!(from(&*log, 3), commands(3..=4, 2));
}

fn a_snapshot_without_tail_empties_the_log(open: Open<'_>) {
    for base in [3, 5, 9] {
        let mut log = open();
        let start = log.recover().unwrap().last.0;
        // Each round has higher terms than the one before.
        let term = 100 * (start + 1);
        log.persist(&append(commands(start + 1..=start + 5, term))).unwrap();
        let meta = meta(id(start + base, term + 1), &[4, 5]);
        let installed = Box::new(Installed { meta, keep_tail: false });
        log.persist(&Batch { snapshot: Some(installed.clone()), ..Batch::default() }).unwrap();
        assert_eq!(from(&*log, start + 1), []);
        assert_eq!(from(&*log, start + base + 1), []);
        drop(log);
        let mut log = open();
        assert_eq!(log.recover().unwrap(), recovered(installed.meta.clone(), &[], start + base));
        let next = start + base + 1;
        log.persist(&append(commands(next..=next, term + 2))).unwrap();
        drop(log);
        let mut log = open();
        let expected = recovered(installed.meta, &[(term + 2, next)], next);
        assert_eq!(log.recover().unwrap(), expected);
        assert_eq!(from(&*log, next), commands(next..=next, term + 2));
    }
}

fn a_snapshot_with_tail_keeps_what_follows(open: Open<'_>) {
    let mut log = open();
    log.recover().unwrap();
    log.persist(&append([commands(1..=4, 1), commands(5..=8, 2)].concat())).unwrap();
    let installed = Box::new(Installed { meta: meta(id(6, 2), &[4, 5]), keep_tail: true });
    let batch = Batch {
        hard: Some(hard(3, None)),
        snapshot: Some(installed.clone()),
        truncate_from: Some(Index(8)),
        ..append(commands(8..=9, 3))
    };
    log.persist(&batch).unwrap();
    assert_eq!(from(&*log, 6), []);
    drop(log);
    let mut log = open();
    let mut expected = recovered(installed.meta, &[(2, 7), (3, 8)], 9);
    expected.hard = hard(3, None);
    assert_eq!(log.recover().unwrap(), expected);
    assert_eq!(from(&*log, 7), [commands(7..=7, 2), commands(8..=9, 3)].concat());
}

fn a_tail_that_is_not_there_cannot_be_kept(open: Open<'_>) {
    let mut log = open();
    let base = log.recover().unwrap().base;
    log.persist(&append(commands(1..=4, 1))).unwrap();
    for at in [id(3, 2), id(5, 1)] {
        let snapshot = Some(Box::new(Installed { meta: meta(at, &[4]), keep_tail: true }));
        let refused = log.persist(&Batch { snapshot, ..Batch::default() });
        assert!(matches!(refused, Err(StoreError::Gap { .. })));
    }
    drop(log);
    assert_eq!(open().recover().unwrap(), recovered(base, &[(1, 1)], 4));
}

fn compaction_leaves_a_log_without_holes(open: Open<'_>) {
    let mut log = open();
    log.recover().unwrap();
    let all = [commands(1..=400, 1), commands(401..=1000, 3)].concat();
    for part in all.chunks(100) {
        log.persist(&append(part.to_vec())).unwrap();
    }
    for through in [150, 151, 400, 650] {
        let term = if through <= 400 { 1 } else { 3 };
        let base = meta(id(through, term), &[1, 2]);
        log.compact(&base).unwrap();
        assert_eq!(from(&*log, through), [], "before the base");
        assert_eq!(from(&*log, through + 1), all[usize::try_from(through).unwrap()..]);
        drop(log);
        log = open();
        let runs: &[_] = match through {
            150 => &[(1, 151), (3, 401)],
            151 => &[(1, 152), (3, 401)],
            400 => &[(3, 401)],
            _ => &[(3, 651)],
        };
        assert_eq!(log.recover().unwrap(), recovered(base, runs, 1000));
        assert_eq!(from(&*log, through + 1), all[usize::try_from(through).unwrap()..]);
    }
}

fn compaction_through_the_end(open: Open<'_>) {
    let mut log = open();
    log.recover().unwrap();
    log.persist(&append(commands(1..=5, 4))).unwrap();
    let base = meta(id(5, 4), &[1]);
    log.compact(&base).unwrap();
    drop(log);
    let mut log = open();
    assert_eq!(log.recover().unwrap(), recovered(base.clone(), &[], 5));
    log.persist(&append(commands(6..=6, 4))).unwrap();
    drop(log);
    assert_eq!(open().recover().unwrap(), recovered(base, &[(4, 6)], 6));
}

fn compaction_is_idempotent(open: Open<'_>) {
    let mut log = open();
    log.recover().unwrap();
    log.persist(&append(commands(1..=5, 4))).unwrap();
    let base = meta(id(3, 4), &[1]);
    for again in [base.clone(), base.clone(), meta(id(2, 4), &[7]), meta(id(0, 0), &[7])] {
        log.compact(&again).unwrap();
    }
    drop(log);
    assert_eq!(open().recover().unwrap(), recovered(base, &[(4, 4)], 5));
}

fn merged_batches_do_what_they_did_one_by_one(open: Open<'_>) {
    let mut log = open();
    let base = log.recover().unwrap().base;
    log.persist(&append(commands(1..=4, 1))).unwrap();
    let mut merged = append(commands(5..=9, 1));
    let later = [
        Batch { truncate_from: Some(Index(7)), ..append(commands(7..=8, 2)) },
        Batch { hard: Some(hard(3, Some(1))), ..Batch::default() },
        Batch { truncate_from: Some(Index(3)), ..append(commands(3..=6, 3)) },
        append(commands(7..=7, 3)),
    ];
    for batch in later {
        merged.merge(batch).unwrap();
    }
    log.persist(&merged).unwrap();
    drop(log);
    let mut log = open();
    let mut expected = recovered(base, &[(1, 1), (3, 3)], 7);
    expected.hard = hard(3, Some(1));
    assert_eq!(log.recover().unwrap(), expected);
    assert_eq!(everything(&*log), [commands(1..=2, 1), commands(3..=7, 3)].concat());
}

fn memberships_are_recovered(open: Open<'_>) {
    let mut log = open();
    let founding = log.recover().unwrap().base;
    let at = |index, term, members: &[u64]| -> (Entry, (raft_core::LogId, Membership)) {
        let membership = membership(members);
        let payload = Payload::Membership(Box::new(membership.clone()));
        (Entry { id: id(index, term), payload }, (id(index, term), membership))
    };
    let (joint, joint_found) = at(2, 1, &[1, 2, 3, 4]);
    let (new, new_found) = at(4, 1, &[2, 3, 4]);
    let (other, other_found) = at(3, 2, &[1, 2]);
    let entries = vec![command(1, 1, "a"), joint, command(3, 1, "b"), new];
    log.persist(&append(entries)).unwrap();
    drop(log);
    let mut log = open();
    let found = log.recover().unwrap();
    assert_eq!(found.base, founding);
    assert_eq!(found.memberships, [joint_found.clone(), new_found]);
    // Truncation takes the configuration back with it.
    log.persist(&Batch { truncate_from: Some(Index(3)), ..append(vec![other]) }).unwrap();
    drop(log);
    let mut log = open();
    assert_eq!(log.recover().unwrap().memberships, [joint_found, other_found.clone()]);
    let base = SnapshotMeta {
        last: id(2, 1),
        membership: membership(&[1, 2, 3, 4]),
        membership_at: id(2, 1),
    };
    log.compact(&base).unwrap();
    drop(log);
    let found = open().recover().unwrap();
    assert_eq!((found.base, found.memberships), (base, vec![other_found]));
}

fn each_part_of_a_batch_survives_alone(open: Open<'_>) {
    let mut log = open();
    log.recover().unwrap();
    let base = meta(id(7, 2), &[2]);
    let mut expected = recovered(base.clone(), &[(3, 8)], 8);
    expected.hard = hard(4, Some(2));
    let snapshot = Some(Box::new(Installed { meta: base, keep_tail: false }));
    log.persist(&Batch { hard: Some(hard(4, Some(2))), ..Batch::default() }).unwrap();
    drop(log);
    let mut log = open();
    log.persist(&Batch { snapshot, ..Batch::default() }).unwrap();
    drop(log);
    let mut log = open();
    log.persist(&append(commands(8..=8, 3))).unwrap();
    drop(log);
    assert_eq!(open().recover().unwrap(), expected);
}

fn readers_keep_to_their_limits(open: Open<'_>) {
    let mut log = open();
    log.recover().unwrap();
    let entries: Vec<_> = (1..=6).map(|index| command(index, 1, &"x".repeat(84))).collect();
    log.persist(&append(entries.clone())).unwrap();
    let reader = log.reader();
    let read = |first: u64, max_entries, max_bytes| {
        reader.read(Index(first), max_entries, max_bytes).unwrap()
    };
    assert_eq!(entries[0].payload.len_bytes(), 100);
    assert_eq!(read(1, 3, usize::MAX), entries[..3]);
    assert_eq!(read(2, usize::MAX, 300), entries[1..4]);
    assert_eq!(read(2, usize::MAX, 399), entries[1..4]);
    assert_eq!(read(4, usize::MAX, usize::MAX), entries[3..]);
    assert_eq!(read(3, usize::MAX, 0), entries[2..3], "one, however large");
    assert_eq!(read(3, 0, usize::MAX), entries[2..3], "one, whatever is asked");
    assert_eq!(read(0, 9, usize::MAX), []);
    assert_eq!(read(7, 9, usize::MAX), []);
    assert_eq!(read(u64::MAX, 9, usize::MAX), []);
    // A reader from before sees what is written after.
    log.persist(&append(commands(7..=7, 1))).unwrap();
    assert_eq!(reader.read(Index(7), 9, usize::MAX).unwrap(), commands(7..=7, 1));
}

/// Each batch replaces all entries by others of a new term: whoever sees two terms at once has seen
/// half of a batch; whoever sees an older term than was there before the call has gone back.
fn readers_see_whole_batches(open: Open<'_>) {
    const TERMS: u64 = 200;
    let mut log = open();
    log.recover().unwrap();
    log.persist(&append(commands(1..=8, 1))).unwrap();
    let durable = Arc::new(AtomicU64::new(1));
    let started = Arc::new(Barrier::new(3));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (reader, durable) = (log.reader(), Arc::clone(&durable));
            let started = Arc::clone(&started);
            thread::spawn(move || {
                started.wait();
                let mut seen = 0;
                while seen < TERMS {
                    let at_least = durable.load(Ordering::SeqCst);
                    let entries = reader.read(Index(1), usize::MAX, usize::MAX).unwrap();
                    let at_most = durable.load(Ordering::SeqCst) + 1;
                    let term = entries[0].id.term.0;
                    let count = 8 + term % 3;
                    assert_eq!(entries, commands(1..=if term == 1 { 8 } else { count }, term));
                    assert!((at_least..=at_most).contains(&term), "{at_least} {term} {at_most}");
                    seen = term;
                }
            })
        })
        .collect();
    started.wait();
    for term in 2..=TERMS {
        let entries = commands(1..=8 + term % 3, term);
        log.persist(&Batch { truncate_from: Some(Index(1)), ..append(entries) }).unwrap();
        durable.store(term, Ordering::SeqCst);
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

/// A reader beside compaction gets what it asked for, or nothing, never a part and never an error.
fn readers_and_compaction(open: Open<'_>) {
    const LAST: u64 = 3000;
    let mut log = open();
    log.recover().unwrap();
    let text = "x".repeat(300);
    let entry = |index| command(index, 1, &text);
    let reader: Box<dyn LogReader> = log.reader();
    let compacted = Arc::new(AtomicU64::new(0));
    let seen_by_reader = Arc::clone(&compacted);
    let reading = thread::spawn(move || {
        let mut first = 1;
        while first < LAST {
            let entries = reader.read(Index(first), 64, usize::MAX).unwrap();
            match entries.first() {
                Some(entry) => assert_eq!(entry.id.index.0, first),
                None => first = first.max(seen_by_reader.load(Ordering::SeqCst)),
            }
            first += u64::try_from(entries.len()).unwrap();
        }
    });
    for first in (1..=LAST).step_by(50) {
        log.persist(&append((first..first + 50).map(entry).collect())).unwrap();
        if first > 200 {
            compacted.store(first - 100, Ordering::SeqCst);
            log.compact(&meta(id(first - 100, 1), &[1])).unwrap();
        }
    }
    compacted.store(LAST, Ordering::SeqCst);
    reading.join().unwrap();
}

fn big_entries(open: Open<'_>) {
    let mut log = open();
    let base = log.recover().unwrap().base;
    let big = |index| {
        let byte = u8::try_from(index).unwrap();
        let payload = Payload::Command(Bytes::from(vec![byte; 3 << 20]));
        Entry { id: id(index, 1), payload }
    };
    let entries: Vec<_> = (1..=4).map(big).collect();
    log.persist(&append(entries.clone())).unwrap();
    drop(log);
    let mut log = open();
    assert_eq!(log.recover().unwrap(), recovered(base, &[(1, 1)], 4));
    assert_eq!(log.reader().read(Index(2), 9, 7 << 20).unwrap(), entries[1..3]);
}

/// Of this store alone: nothing is written, and it can be used as before.
#[test]
fn an_entry_that_no_record_can_hold_is_refused() {
    let place = common::Place::new();
    let mut log = place.open().unwrap();
    let huge = Payload::Command(Bytes::from(vec![0; (1 << 30) + 1]));
    let entries = vec![command(1, 1, "small"), Entry { id: id(2, 1), payload: huge }];
    let refused = log.persist(&append(entries)).unwrap_err().to_string();
    assert!(refused.contains("entry 2 has 1073741841 bytes; at most 1073741824"), "{refused}");
    log.persist(&append(commands(1..=2, 1))).unwrap();
    assert_eq!(everything(&log), commands(1..=2, 1));
}
