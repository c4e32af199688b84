//! What every [`LogStore`] must do. Rules L3, L15, L16, S1, S4, M8, M9, E1.
//!
//! To test a store of your own, say where it lives by implementing [`LogPlace`], and let
//! [`log_store_suite!`](crate::log_store_suite) make a test of each case:
//!
//! ```ignore
//! raft_core::log_store_suite!(my_store, MyPlace::new);
//! ```
//!
//! A complete store that passes is in `raft-core/tests/file_log/mod.rs`; stores that do not, each
//! broken in one way, are in `raft-core/tests/log_store_suite.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "the cases are tests: they fail by panicking"
)]

use bytes::Bytes;

use crate::entry::{Entry, Membership, Payload};
use crate::log_store::{Batch, Installed, LogStore, Recovered, StoreError};
use crate::snapshot::SnapshotMeta;
use crate::types::{HardState, Index, LogId, NodeId, Term};

/// Where a store under test lives. It outlives the store, as a disk outlives a process.
pub trait LogPlace {
    /// The store.
    type Store: LogStore;

    /// Opens the store. The first time it is empty and starts after [`LogId::ZERO`]. Then it holds
    /// what the one before had made durable; that one is dropped by then.
    fn open(&self) -> Self::Store;

    /// Cuts the power while `store` is open, so that what no call had made durable is gone. For a
    /// store in files: copy the directory first, drop the store, put the copy in its place.
    fn crash(&self, store: Self::Store);

    /// Cuts the power within `store.persist(batch)`, at the `point`th of the places where that may
    /// leave something else behind, from 0 on. `false`, with nothing done, if there are fewer.
    fn crash_within(&self, store: Self::Store, batch: &Batch, point: usize) -> bool;
}

/// Makes a module `$name` with a test of each case; `$make` gives a new, empty
/// [`LogPlace`](crate::testing::suites::log_store::LogPlace).
#[macro_export]
macro_rules! log_store_suite {
    ($name:ident, $make:expr) => {
        $crate::__log_store_cases! { @tests $name, $make }
    };
}

/// The list of cases, in one place.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_store_cases {
    (@tests $name:ident, $make:expr) => {
        $crate::__log_store_cases! { @each tests [$name, $make] }
    };
    (@each $kind:ident [$($with:tt)*]) => {
        $crate::__log_store_cases! { @$kind [$($with)*]
            an_empty_log_is_its_base
            what_was_persisted_is_found_again
            an_empty_batch_changes_nothing
            truncation_and_replacement_are_one
            truncation_alone_lasts
            gaps_are_refused_with_nothing_written
            a_snapshot_without_tail_empties_the_log
            a_snapshot_with_tail_keeps_what_follows
            compaction_leaves_a_log_without_holes
            memberships_are_recovered
            merged_batches_do_what_they_did_one_by_one
            readers_keep_to_their_limits
            readers_see_whole_batches
            a_crash_after_any_call_loses_nothing
            a_torn_batch_is_there_in_whole_or_not_at_all
        }
    };
    (@tests [$name:ident, $make:expr] $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports, reason = "what the maker is may be named in full")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::testing::suites::log_store::$case(&($make)());
                }
            )*
        }
    };
    (@list [$place:ident] $($case:ident)*) => {
        vec![$((stringify!($case), $case::<$place> as fn(&$place))),*]
    };
}

/// A case and its name.
pub type Case<P> = (&'static str, fn(&P));

/// Every case with its name, for those who run them in another way. Each needs a place of its own.
pub fn cases<P: LogPlace>() -> Vec<Case<P>> {
    crate::__log_store_cases!(@each list [P])
}

/// A new log holds nothing, however often it is opened.
pub fn an_empty_log_is_its_base<P: LogPlace>(place: &P) {
    for _ in 0..2 {
        let mut log = place.open();
        let found = log.recover().unwrap();
        assert_eq!(found.base.last, LogId::ZERO);
        assert_eq!((found.hard, found.last), (HardState::default(), Index::ZERO));
        assert_eq!((found.runs, found.memberships), (vec![], vec![]));
        assert_eq!(read(&log, 1), []);
    }
}

/// Term, vote and entries survive being closed and opened (rule E1).
pub fn what_was_persisted_is_found_again<P: LogPlace>(place: &P) {
    run(
        place,
        &[
            Batch { hard: Some(hard(2, Some(3))), ..append(commands(1, 3, 2)) },
            append(vec![Entry { id: id(4, 5), payload: Payload::Empty }]),
            Batch { hard: Some(hard(6, None)), ..Batch::default() },
        ],
    );
}

/// A batch without anything in it is no error.
pub fn an_empty_batch_changes_nothing<P: LogPlace>(place: &P) {
    run(place, &[append(commands(1, 2, 1)), Batch { seq: 9, ..Batch::default() }]);
}

/// A conflicting tail is replaced in one step (rule L3).
pub fn truncation_and_replacement_are_one<P: LogPlace>(place: &P) {
    run(
        place,
        &[
            append(commands(1, 500, 1)),
            Batch { truncate_from: Some(Index(3)), ..append(commands(3, 4, 2)) },
            append(commands(5, 300, 2)),
        ],
    );
}

/// What is only cut stays cut, and cutting what is not there is no error (rule L3).
pub fn truncation_alone_lasts<P: LogPlace>(place: &P) {
    let cut = |from| Batch { truncate_from: Some(Index(from)), ..Batch::default() };
    run(place, &[append(commands(1, 6, 1)), cut(4), cut(40), cut(4)]);
}

/// Entries that do not follow are refused, with everything that came with them (rule L16).
pub fn gaps_are_refused_with_nothing_written<P: LogPlace>(place: &P) {
    let mut log = place.open();
    let mut model = Model::of(&mut log);
    model.persist(&mut log, &append(commands(1, 3, 2)));
    model.compact(&mut log, &meta(id(2, 2), &[1]));
    let bad = [
        append(commands(5, 6, 2)),
        append(commands(3, 4, 2)),
        append([commands(4, 4, 2), commands(6, 6, 2)].concat()),
        append(commands(1, 1, 2)),
        Batch { truncate_from: Some(Index(2)), ..append(commands(2, 2, 3)) },
        Batch { truncate_from: Some(Index(3)), ..append(commands(4, 4, 3)) },
    ];
    for batch in bad {
        let batch = Batch { hard: Some(hard(9, Some(9))), ..batch };
        let refused = log.persist(&batch);
        assert!(matches!(refused, Err(StoreError::Gap { .. })), "{batch}: {refused:?}");
    }
    // It goes on as if nothing had been asked.
    model.persist(&mut log, &append(commands(4, 4, 2)));
    drop(log);
    model.check(&mut place.open());
}

/// A snapshot that does not fit the log takes its place (rule S1), behind its end or within.
pub fn a_snapshot_without_tail_empties_the_log<P: LogPlace>(place: &P) {
    let install = |at, term| Batch {
        snapshot: Some(Box::new(Installed { meta: meta(id(at, term), &[4, 5]), keep_tail: false })),
        ..Batch::default()
    };
    run(
        place,
        &[
            append(commands(1, 5, 1)),
            install(3, 2),
            append(commands(4, 6, 3)),
            install(9, 4),
            append(commands(10, 10, 5)),
        ],
    );
}

/// A snapshot of entries that the log holds keeps what follows (rule S1); the parts of a batch take
/// effect in the order of its fields.
pub fn a_snapshot_with_tail_keeps_what_follows<P: LogPlace>(place: &P) {
    let installed = Box::new(Installed { meta: meta(id(6, 2), &[4, 5]), keep_tail: true });
    run(
        place,
        &[
            append([commands(1, 4, 1), commands(5, 8, 2)].concat()),
            Batch {
                hard: Some(hard(3, None)),
                snapshot: Some(installed),
                truncate_from: Some(Index(8)),
                ..append(commands(8, 9, 3))
            },
        ],
    );
}

/// Compaction moves the base and nothing else, and may be repeated (rule S4).
pub fn compaction_leaves_a_log_without_holes<P: LogPlace>(place: &P) {
    let mut log = place.open();
    let mut model = Model::of(&mut log);
    model.persist(&mut log, &append([commands(1, 40, 1), commands(41, 90, 2)].concat()));
    for at in [id(10, 1), id(40, 1), id(41, 2), id(20, 1), id(41, 2), id(90, 2)] {
        model.compact(&mut log, &meta(at, &[1, 2]));
        model.check_entries(&log);
        place.crash(log);
        log = place.open();
        model.check(&mut log);
    }
    model.persist(&mut log, &append(commands(91, 92, 2)));
    drop(log);
    model.check(&mut place.open());
}

/// Configurations are found again, and go with what is cut (rules M8, M9).
pub fn memberships_are_recovered<P: LogPlace>(place: &P) {
    let configure = |index, term, members: &[u64]| {
        vec![Entry {
            id: id(index, term),
            payload: Payload::Membership(Box::new(membership(members))),
        }]
    };
    run(
        place,
        &[
            append(configure(1, 1, &[1, 2, 3, 4])),
            append([commands(2, 2, 1), configure(3, 1, &[2, 3])].concat()),
            Batch { truncate_from: Some(Index(3)), ..append(configure(3, 2, &[1, 2])) },
        ],
    );
}

/// [`Batch::merge`] and the store agree on what a batch means.
pub fn merged_batches_do_what_they_did_one_by_one<P: LogPlace>(place: &P) {
    let mut log = place.open();
    let mut model = Model::of(&mut log);
    let parts = [
        append(commands(1, 5, 1)),
        Batch { truncate_from: Some(Index(4)), ..append(commands(4, 6, 2)) },
        Batch { hard: Some(hard(3, Some(1))), ..Batch::default() },
        Batch { truncate_from: Some(Index(3)), ..append(commands(3, 7, 3)) },
    ];
    let mut merged = Batch::default();
    for part in parts {
        model.apply(&part);
        merged.merge(part).unwrap();
    }
    log.persist(&merged).unwrap();
    drop(log);
    model.check(&mut place.open());
}

/// Readers stop where they are told, but always give one entry if there is one.
pub fn readers_keep_to_their_limits<P: LogPlace>(place: &P) {
    let mut log = place.open();
    log.recover().unwrap();
    // Each counts for 100 bytes.
    let payload = Payload::Command(Bytes::from(vec![b'x'; 84]));
    let entries: Vec<_> =
        (1..=6).map(|index| Entry { id: id(index, 1), payload: payload.clone() }).collect();
    log.persist(&append(entries.clone())).unwrap();
    let reader = log.reader();
    let read = |first: u64, max_entries, max_bytes| {
        reader.read(Index(first), max_entries, max_bytes).unwrap()
    };
    assert_eq!(read(1, 3, usize::MAX), entries[..3]);
    assert_eq!(read(2, usize::MAX, 300), entries[1..4]);
    assert_eq!(read(2, usize::MAX, 399), entries[1..4]);
    assert_eq!(read(3, usize::MAX, 0), entries[2..3], "one, however large");
    assert_eq!(read(0, 9, usize::MAX), []);
    assert_eq!(read(7, 9, usize::MAX), []);
    assert_eq!(read(u64::MAX, 9, usize::MAX), []);
    log.persist(&append(commands(7, 7, 1))).unwrap();
    assert_eq!(read(7, 9, usize::MAX), commands(7, 7, 1), "a reader sees what came after it");
}

/// Each batch replaces all entries by others of a new term: whoever sees two terms at once has
/// seen half a batch, and whoever sees an older one than before has gone back.
pub fn readers_see_whole_batches<P: LogPlace>(place: &P) {
    const TERMS: u64 = 100;
    let mut log = place.open();
    log.recover().unwrap();
    log.persist(&append(commands(1, 8, 1))).unwrap();
    let readers = [log.reader(), log.reader()];
    std::thread::scope(|scope| {
        for reader in readers {
            scope.spawn(move || {
                let mut seen = 1;
                while seen < TERMS {
                    let entries = reader.read(Index(1), usize::MAX, usize::MAX).unwrap();
                    let term = entries.first().map_or(0, |entry| entry.id.term.0);
                    assert!(term >= seen, "term {term} after term {seen}");
                    assert_eq!(entries, commands(1, 8 + (term - 1) % 3, term), "half a batch");
                    seen = term;
                }
            });
        }
        for term in 2..=TERMS {
            let entries = commands(1, 8 + (term - 1) % 3, term);
            let batch = Batch { truncate_from: Some(Index(1)), ..append(entries) };
            log.persist(&batch).unwrap();
        }
    });
}

/// Whatever call returned last before the power went, all that was told to be durable is (rule L15).
pub fn a_crash_after_any_call_loses_nothing<P: LogPlace>(place: &P) {
    let mut log = place.open();
    let mut model = Model::of(&mut log);
    for batch in history() {
        model.persist(&mut log, &batch);
        place.crash(log);
        log = place.open();
        model.check(&mut log);
    }
}

/// A batch that the power was cut in is found in whole or not at all, and the log goes on.
pub fn a_torn_batch_is_there_in_whole_or_not_at_all<P: LogPlace>(place: &P) {
    let mut log = place.open();
    let mut model = Model::of(&mut log);
    for batch in history() {
        model.persist(&mut log, &batch);
    }
    for point in 0.. {
        let next = model.last().index.next().0;
        let batch = Batch {
            hard: Some(hard(10 + next, Some(2))),
            truncate_from: Some(Index(next - 1)),
            ..append(commands(next - 1, next + 1, 10 + next))
        };
        let mut after = model.clone();
        after.apply(&batch);
        if !place.crash_within(log, &batch, point) {
            break;
        }
        log = place.open();
        let found = log.recover().unwrap();
        if found == after.recovered() {
            model = after;
        }
        assert_eq!(found, model.recovered(), "half a batch, at point {point}");
        model.check_entries(&log);
    }
}

/// Persists each batch, checks after each, and again after opening anew.
fn run<P: LogPlace>(place: &P, batches: &[Batch]) {
    let mut log = place.open();
    let mut model = Model::of(&mut log);
    for batch in batches {
        model.persist(&mut log, batch);
        model.check_entries(&log);
        drop(log);
        log = place.open();
        model.check(&mut log);
    }
}

/// Something of everything.
fn history() -> Vec<Batch> {
    let payload = Payload::Membership(Box::new(membership(&[1, 2])));
    let installed =
        |at, keep_tail| Some(Box::new(Installed { meta: meta(at, &[1, 2, 3]), keep_tail }));
    vec![
        Batch { hard: Some(hard(1, Some(1))), ..Batch::default() },
        append(commands(1, 5, 1)),
        Batch { hard: Some(hard(2, None)), ..append(vec![Entry { id: id(6, 2), payload }]) },
        Batch { truncate_from: Some(Index(5)), ..append(commands(5, 9, 3)) },
        Batch { truncate_from: Some(Index(8)), ..Batch::default() },
        Batch { snapshot: installed(id(4, 1), true), ..append(commands(8, 8, 3)) },
        Batch { snapshot: installed(id(20, 4), false), ..append(commands(21, 22, 5)) },
        Batch { hard: Some(hard(6, Some(3))), ..Batch::default() },
    ]
}

/// What a log store is, without a disk.
#[derive(Clone, Debug)]
struct Model {
    hard: HardState,
    base: SnapshotMeta,
    entries: Vec<Entry>,
}

impl Model {
    /// That of a store that was just opened for the first time.
    fn of(log: &mut impl LogStore) -> Self {
        let found = log.recover().unwrap();
        Self { hard: found.hard, base: found.base, entries: Vec::new() }
    }

    fn persist(&mut self, log: &mut impl LogStore, batch: &Batch) {
        log.persist(batch).unwrap();
        self.apply(batch);
    }

    fn compact(&mut self, log: &mut impl LogStore, base: &SnapshotMeta) {
        log.compact(base).unwrap();
        if base.last.index > self.base.last.index {
            self.rebase(base);
        }
    }

    fn apply(&mut self, batch: &Batch) {
        self.hard = batch.hard.unwrap_or(self.hard);
        if let Some(installed) = &batch.snapshot {
            if !installed.keep_tail {
                self.entries.clear();
            }
            self.rebase(&installed.meta);
        }
        if let Some(from) = batch.truncate_from {
            self.entries.retain(|entry| entry.id.index < from);
        }
        self.entries.extend(batch.entries.iter().cloned());
    }

    fn rebase(&mut self, base: &SnapshotMeta) {
        self.entries.retain(|entry| entry.id.index > base.last.index);
        self.base = base.clone();
    }

    fn last(&self) -> LogId {
        self.entries.last().map_or(self.base.last, |entry| entry.id)
    }

    fn recovered(&self) -> Recovered {
        let mut found = Recovered {
            hard: self.hard,
            base: self.base.clone(),
            last: self.last().index,
            ..Recovered::default()
        };
        for entry in &self.entries {
            if found.runs.last().is_none_or(|&(term, _)| term != entry.id.term) {
                found.runs.push((entry.id.term, entry.id.index));
            }
            if let Payload::Membership(membership) = &entry.payload {
                found.memberships.push((entry.id, Membership::clone(membership)));
            }
        }
        found
    }

    /// Compares with a store that was just opened.
    fn check(&self, log: &mut impl LogStore) {
        assert_eq!(log.recover().unwrap(), self.recovered());
        self.check_entries(log);
    }

    fn check_entries(&self, log: &impl LogStore) {
        let base = self.base.last.index;
        assert_eq!(read(log, base.next().0), self.entries);
        assert_eq!(read(log, base.0), [], "the base itself is no entry of the log");
    }
}

fn read(log: &impl LogStore, first: u64) -> Vec<Entry> {
    log.reader().read(Index(first), usize::MAX, usize::MAX).unwrap()
}

fn id(index: u64, term: u64) -> LogId {
    LogId::new(Term(term), Index(index))
}

fn hard(term: u64, vote: Option<u64>) -> HardState {
    HardState { term: Term(term), vote: vote.and_then(NodeId::new) }
}

fn membership(ids: &[u64]) -> Membership {
    let nodes = ids.iter().filter_map(|&id| Some((NodeId::new(id)?, format!("host-{id}:7101"))));
    Membership::of_voters(nodes)
}

fn meta(at: LogId, members: &[u64]) -> SnapshotMeta {
    SnapshotMeta { last: at, membership: membership(members), membership_at: at }
}

fn append(entries: Vec<Entry>) -> Batch {
    Batch { entries, ..Batch::default() }
}

/// Commands at `first..=last`, all of `term`.
fn commands(first: u64, last: u64, term: u64) -> Vec<Entry> {
    let entry = |index| Entry {
        id: id(index, term),
        payload: Payload::Command(Bytes::from(format!("{index}@{term}"))),
    };
    (first..=last).map(entry).collect()
}
