//! Random histories, against a model that fits on a page, with reopenings and crashes at random
//! points. A crash is a copy of the directory, taken while the store is open.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Opened, Place, founding, hard, id, membership};
use proptest::prelude::*;
use raft_core::{
    Batch, Entry, Index, Installed, LogId, LogStore, Membership, Payload, Recovered, SnapshotMeta,
    StoreError, Term,
};

/// What a log store is, without a disk.
#[derive(Clone, Debug)]
struct Model {
    recovered: Recovered,
    entries: BTreeMap<Index, Entry>,
}

impl Model {
    fn new() -> Self {
        let recovered = Recovered { base: founding(), ..Recovered::default() };
        Self { recovered, entries: BTreeMap::new() }
    }

    fn last(&self) -> LogId {
        self.entries.last_key_value().map_or(self.recovered.base.last, |(_, entry)| entry.id)
    }

    fn term_at(&self, index: Index) -> Term {
        self.entries.get(&index).map_or(self.recovered.base.last.term, |entry| entry.id.term)
    }

    fn persist(&mut self, batch: &Batch) {
        if let Some(hard) = batch.hard {
            self.recovered.hard = hard;
        }
        if let Some(installed) = &batch.snapshot {
            if !installed.keep_tail {
                self.entries.clear();
            }
            self.compact(&installed.meta);
        }
        if let Some(from) = batch.truncate_from {
            self.entries.retain(|&index, _| index < from);
        }
        self.entries.extend(batch.entries.iter().map(|entry| (entry.id.index, entry.clone())));
    }

    fn compact(&mut self, base: &SnapshotMeta) {
        self.entries.retain(|&index, _| index > base.last.index);
        self.recovered.base = base.clone();
    }

    fn recovered(&self) -> Recovered {
        let mut found = Recovered { last: self.last().index, ..self.recovered.clone() };
        for (&index, entry) in &self.entries {
            if found.runs.last().is_none_or(|&(term, _)| term != entry.id.term) {
                found.runs.push((entry.id.term, index));
            }
            if let Payload::Membership(membership) = &entry.payload {
                found.memberships.push((entry.id, Membership::clone(membership)));
            }
        }
        found
    }
}

/// What to do next. Numbers are taken modulo what is possible.
#[derive(Clone, Debug)]
enum Step {
    Append { cut: Option<u64>, count: u64, new_term: bool, size: usize },
    Merged { first: u64, cut: u64, second: u64 },
    Vote { term: u64, vote: Option<u64> },
    Configure { members: u64 },
    Install { ahead: u64, then: u64 },
    KeepTail { at: u64 },
    Compact { at: u64 },
    Gap { ahead: u64 },
    Read { first: u64, count: usize },
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![5 => 0..50_usize, 1 => 5_000..30_000_usize];
    prop_oneof![
        6 => (prop::option::weighted(0.3, any::<u64>()), 0..12_u64, any::<bool>(), size).prop_map(
            |(cut, count, new_term, size)| Step::Append { cut, count, new_term, size }
        ),
        1 => (100..200_u64).prop_map(
            |count| Step::Append { cut: None, count, new_term: false, size: 3 }
        ),
        2 => (1..5_u64, any::<u64>(), 1..5_u64)
            .prop_map(|(first, cut, second)| Step::Merged { first, cut, second }),
        2 => (0..3_u64, prop::option::of(1..4_u64))
            .prop_map(|(term, vote)| Step::Vote { term, vote }),
        1 => (1..5_u64).prop_map(|members| Step::Configure { members }),
        1 => (0..9_u64, 0..3_u64).prop_map(|(ahead, then)| Step::Install { ahead, then }),
        1 => any::<u64>().prop_map(|at| Step::KeepTail { at }),
        2 => any::<u64>().prop_map(|at| Step::Compact { at }),
        1 => any::<u64>().prop_map(|ahead| Step::Gap { ahead }),
        2 => (any::<u64>(), 0..20_usize).prop_map(|(first, count)| Step::Read { first, count }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// A store and a model that are told the same.
struct Pair {
    place: Place,
    log: Option<Opened>,
    model: Model,
}

impl Pair {
    fn new() -> Self {
        let place = Place::new();
        let log = Some(place.open().unwrap());
        Self { place, log, model: Model::new() }
    }

    fn log(&mut self) -> &mut Opened {
        self.log.as_mut().unwrap()
    }

    fn persist(&mut self, batch: &Batch) {
        self.log().persist(batch).unwrap();
        self.model.persist(batch);
    }

    /// Some index of the log, the base included.
    fn some_index(&self, number: u64) -> Index {
        let base = self.model.recovered.base.last.index;
        base.plus(number % (self.model.last().index.since(base) + 1))
    }

    fn commands(&self, after: LogId, count: u64, size: usize) -> Vec<Entry> {
        let text = vec![b'a'; size];
        (1..=count)
            .map(|ahead| {
                let id = LogId::new(after.term, after.index.plus(ahead));
                Entry { id, payload: Payload::Command(text.clone().into()) }
            })
            .collect()
    }

    fn meta_at(&self, index: Index) -> SnapshotMeta {
        let last = LogId::new(self.model.term_at(index), index);
        SnapshotMeta { last, membership: membership(&[1, 7]), membership_at: last }
    }

    fn carry_out(&mut self, step: &Step) {
        match *step {
            Step::Append { cut, count, new_term, size } => {
                let mut last = self.model.last();
                let mut batch = Batch::default();
                if let Some(cut) = cut {
                    let keep = self.some_index(cut);
                    batch.truncate_from = Some(keep.next());
                    last = LogId::new(last.term, keep);
                }
                last.term.0 += u64::from(new_term);
                batch.entries = self.commands(last, count, size);
                self.persist(&batch);
            }
            Step::Merged { first, cut, second } => {
                let last = self.model.last();
                let mut batch =
                    Batch { entries: self.commands(last, first, 4), ..Batch::default() };
                let mut reached = self.model.clone();
                reached.persist(&batch);
                let base = reached.recovered.base.last.index;
                let keep = base.plus(cut % (reached.last().index.since(base) + 1));
                let after = LogId::new(Term(last.term.0 + 1), keep);
                let later = Batch {
                    truncate_from: Some(keep.next()),
                    entries: self.commands(after, second, 5),
                    ..Batch::default()
                };
                reached.persist(&later);
                batch.merge(later).unwrap();
                self.persist(&batch);
                assert_eq!(self.model.entries, reached.entries, "the merge itself is wrong");
            }
            Step::Vote { term, vote } => {
                let term = self.model.recovered.hard.term.0 + term;
                self.persist(&Batch { hard: Some(hard(term, vote)), ..Batch::default() });
            }
            Step::Configure { members } => {
                let last = self.model.last();
                let members: Vec<_> = (1..=members).collect();
                let payload = Payload::Membership(Box::new(membership(&members)));
                let entry = Entry { id: id(last.index.0 + 1, last.term.0), payload };
                self.persist(&Batch { entries: vec![entry], ..Batch::default() });
            }
            Step::Install { ahead, then } => {
                let last = self.model.last();
                let meta = SnapshotMeta {
                    last: id(last.index.0 + ahead, last.term.0 + 1),
                    ..self.meta_at(last.index)
                };
                let entries = self.commands(meta.last, then, 6);
                let snapshot = Some(Box::new(Installed { meta, keep_tail: false }));
                self.persist(&Batch { snapshot, entries, ..Batch::default() });
            }
            Step::KeepTail { at } => {
                let meta = self.meta_at(self.some_index(at));
                let snapshot = Some(Box::new(Installed { meta, keep_tail: true }));
                self.persist(&Batch { snapshot, ..Batch::default() });
            }
            Step::Compact { at } => {
                let meta = self.meta_at(self.some_index(at));
                self.log().compact(&meta).unwrap();
                if meta.last.index > self.model.recovered.base.last.index {
                    self.model.compact(&meta);
                }
            }
            Step::Gap { ahead } => {
                let last = self.model.last();
                let bad = LogId::new(last.term, last.index.plus(2 + ahead % 1000));
                let batch = Batch {
                    hard: Some(hard(999, None)),
                    entries: self.commands(bad, 2, 1),
                    ..Batch::default()
                };
                let refused = self.log().persist(&batch);
                assert!(matches!(refused, Err(StoreError::Gap { .. })));
            }
            Step::Read { first, count } => {
                let first = self.some_index(first);
                let found = self.log().reader().read(first, count, usize::MAX).unwrap();
                let expected: Vec<_> = if first == self.model.recovered.base.last.index {
                    Vec::new()
                } else {
                    let from_there = self.model.entries.range(first..).map(|(_, entry)| entry);
                    from_there.take(count.max(1)).cloned().collect()
                };
                assert_eq!(found, expected);
            }
            Step::Reopen => {
                self.log = None;
                self.log = Some(self.place.open().unwrap());
                self.check();
            }
            Step::Crash => {
                let copy = self.place.copy();
                self.log = None;
                self.place = copy;
                self.log = Some(self.place.open().unwrap());
                self.check();
            }
        }
    }

    fn check(&mut self) {
        let expected = self.model.recovered();
        let found = self.log().recover().unwrap();
        assert_eq!(found, expected);
        let entries = common::read_all(self.log(), &found).unwrap();
        assert!(entries.iter().eq(self.model.entries.values()), "entries differ");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Rule L15, rule L16.
    #[test]
    fn a_log_does_what_its_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.carry_out(step);
        }
        pair.check();
        pair.carry_out(&Step::Crash);
    }
}

/// Rule S4: the base moves into the middle of what one write has brought, and the files before it go.
/// What follows the base was written together with what goes.
#[test]
fn a_base_within_a_batch_keeps_what_follows() {
    let mut pair = Pair::new();
    for round in 0..27 {
        // One chunk, which fills a buffer: it is in a table file of its own some time later.
        pair.carry_out(&Step::Append { cut: None, count: 7, new_term: false, size: 9_000 });
        let held = pair.model.last().index.since(pair.model.recovered.base.last.index);
        if held > 28 {
            std::thread::sleep(Duration::from_millis(5));
            pair.carry_out(&Step::Compact { at: held - 28 + round % 7 });
        }
        pair.check();
    }
    pair.carry_out(&Step::Reopen);
}

/// Rule L3: a replacement that begins in the middle of what one write has brought.
#[test]
fn a_cut_within_a_batch_keeps_what_is_before() {
    let mut pair = Pair::new();
    for round in 1..20 {
        pair.carry_out(&Step::Append { cut: None, count: 20, new_term: false, size: 9_000 });
        let kept = pair.model.last().index.since(pair.model.recovered.base.last.index) - round;
        pair.carry_out(&Step::Append { cut: Some(kept), count: 3, new_term: true, size: 9 });
        pair.check();
    }
    pair.carry_out(&Step::Reopen);
}
