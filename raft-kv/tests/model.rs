//! The store against a model of a few lines: the same commands, the same outcomes, the same reads
//! at every revision, whatever happens to the process in between.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raft_core::{Payload, StateMachine};
use raft_kv::{
    Command, Compact, CompactOutcome, Content, DeleteOutcome, DeleteRange, KeyRange, KeyValue,
    KvError, KvReader, Outcome, Put, PutOutcome, RangeRequest, Refused, Revision,
};
use support::{Arrived, Subject};

/// Every state there has been, in full.
#[derive(Clone)]
struct Model {
    states: Vec<BTreeMap<Bytes, KeyValue>>,
    compacted: Revision,
}

impl Model {
    fn new() -> Self {
        // Revisions 0 and 1 are both the empty store.
        Self { states: vec![BTreeMap::new(); 2], compacted: Revision(0) }
    }

    fn revision(&self) -> Revision {
        Revision(self.states.len() as u64 - 1)
    }

    fn run(&mut self, command: &Command) -> Outcome {
        let mut next = self.states.last().unwrap().clone();
        let revision = self.revision().next();
        match command {
            Command::Put(put) if put.key.is_empty() => Outcome::Refused(Refused::EmptyKey),
            Command::Put(put) => {
                let before = next.get(&put.key).cloned();
                let kv = KeyValue {
                    key: put.key.clone(),
                    value: put.value.clone(),
                    create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
                    mod_revision: revision,
                    version: before.as_ref().map_or(1, |kv| kv.version + 1),
                    lease: None,
                };
                next.insert(put.key.clone(), kv);
                self.states.push(next);
                let previous = before.filter(|_| put.prev_kv);
                Outcome::Put(PutOutcome { revision, previous })
            }
            Command::DeleteRange(delete) => {
                let gone: Vec<_> =
                    next.values().filter(|kv| delete.range.contains(&kv.key)).cloned().collect();
                if !gone.is_empty() {
                    next.retain(|key, _| !delete.range.contains(key));
                    self.states.push(next);
                }
                Outcome::DeleteRange(DeleteOutcome {
                    revision: self.revision(),
                    deleted: gone.len() as u64,
                    previous: if delete.prev_kv { gone } else { Vec::new() },
                })
            }
            Command::Compact(Compact { revision }) => {
                let (current, compacted) = (self.revision(), self.compacted);
                if *revision <= compacted {
                    let revision = *revision;
                    return Outcome::Refused(Refused::Compacted { revision, compacted });
                }
                if *revision > current {
                    let revision = *revision;
                    return Outcome::Refused(Refused::FutureRevision { revision, current });
                }
                self.compacted = *revision;
                Outcome::Compact(CompactOutcome { revision: current, compacted: *revision })
            }
        }
    }

    /// The keys of a range at a revision, in order.
    fn read(&self, range: &KeyRange, at: Revision) -> Vec<KeyValue> {
        let state = &self.states[usize::try_from(at.0).unwrap()];
        state.values().filter(|kv| range.contains(&kv.key)).cloned().collect()
    }

    fn check_all(&self, reader: &KvReader) {
        assert_eq!(reader.revision(), self.revision());
        for at in self.compacted.0..=self.revision().0 {
            let request =
                RangeRequest { revision: Some(Revision(at)), ..RangeRequest::new(KeyRange::all()) };
            let reply = reader.range(&request).unwrap();
            assert_eq!(reply.kvs, self.read(&KeyRange::all(), Revision(at)), "at revision {at}");
        }
        let now = reader.range(&RangeRequest::new(KeyRange::all())).unwrap();
        assert_eq!(now.kvs, self.read(&KeyRange::all(), self.revision()));
    }

    fn check(&self, reader: &KvReader, request: &RangeRequest) {
        let reply = match reader.range(request) {
            Err(KvError::Compacted { .. }) => {
                assert!(request.revision.unwrap() < self.compacted);
                return;
            }
            Err(KvError::FutureRevision { .. }) => {
                assert!(request.revision.unwrap() > self.revision());
                return;
            }
            other => other.unwrap(),
        };
        let at = request.revision.unwrap_or_else(|| self.revision());
        assert!((self.compacted..=self.revision()).contains(&at));
        let mut kvs = self.read(&request.range, at);
        assert_eq!(reply.count, kvs.len() as u64);
        assert_eq!(reply.revision, self.revision());
        match request.content {
            Content::Full => {}
            Content::KeysOnly => kvs.iter_mut().for_each(|kv| kv.value = Bytes::new()),
            Content::CountOnly => kvs.clear(),
        }
        let limit = request.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
        assert_eq!(reply.more, kvs.len() > limit);
        kvs.truncate(limit);
        assert_eq!(reply.kvs, kvs);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Commands that are applied as one batch.
    Apply(Vec<Command>),
    Read(RangeRequest),
    Flush,
    Restart,
    Crash {
        piece: usize,
    },
    /// The state moves to another store by a snapshot.
    Move {
        on_disk: bool,
    },
}

/// Few, and some of them prefixes of others, with the bytes that matter to the encoding.
fn key() -> impl Strategy<Value = Bytes> {
    vec(prop_oneof![Just(0), Just(b'a'), Just(0xff)], 0..4).prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key().prop_map(KeyRange::One),
        3 => (key(), key()).prop_map(|(first, before)| KeyRange::Between { first, before }),
        1 => key().prop_map(KeyRange::prefix),
        1 => key().prop_map(KeyRange::From),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let value = vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    prop_oneof![
        8 => (key(), value, any::<bool>()).prop_map(|(key, value, prev_kv)| {
            Command::Put(Put { key, value, lease: None, prev_kv })
        }),
        3 => (range(), any::<bool>())
            .prop_map(|(range, prev_kv)| Command::DeleteRange(DeleteRange { range, prev_kv })),
        1 => (0..40_u64).prop_map(|at| Command::Compact(Compact { revision: Revision(at) })),
    ]
}

fn read() -> impl Strategy<Value = RangeRequest> {
    let content =
        prop_oneof![Just(Content::Full), Just(Content::KeysOnly), Just(Content::CountOnly)];
    let revision = prop::option::of((0..50_u64).prop_map(Revision));
    (range(), revision, prop::option::of(0..5_u64), content).prop_map(
        |(range, revision, limit, content)| RangeRequest { range, revision, limit, content },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => vec(command(), 1..8).prop_map(Step::Apply),
        12 => read().prop_map(Step::Read),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => (1..9_usize).prop_map(|piece| Step::Crash { piece }),
        1 => any::<bool>().prop_map(|on_disk| Step::Move { on_disk }),
    ]
}

fn apply(subject: &mut Subject, model: &mut Model, commands: &[Command]) -> Vec<Outcome> {
    let payloads = commands.iter().map(|command| Payload::Command(command.encode()));
    let outcomes = subject.apply(payloads);
    let outcomes: Vec<_> = outcomes.iter().map(|bytes| Outcome::decode(bytes).unwrap()).collect();
    let expected: Vec<_> = commands.iter().map(|command| model.run(command)).collect();
    assert_eq!(outcomes, expected);
    outcomes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Rule C3: replay after a crash changes nothing. Rule S2: nor does moving by snapshot.
    #[test]
    fn the_store_does_what_the_model_does(steps in vec(step(), 1..40)) {
        let mut subject = Subject::new();
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Apply(commands) => drop(apply(&mut subject, &mut model, &commands)),
                Step::Read(request) => model.check(&subject.reader(), &request),
                Step::Flush => {
                    let index = subject.kv().durable().unwrap();
                    prop_assert_eq!(index.0, subject.log.len() as u64);
                }
                Step::Restart => subject.restart(),
                Step::Crash { piece } => {
                    let before = subject.reader().digest().unwrap();
                    subject.crash();
                    subject.replay(piece);
                    prop_assert_eq!(subject.reader().digest().unwrap(), before);
                }
                Step::Move { on_disk } => {
                    let before = subject.reader().digest().unwrap();
                    let mut source = subject.kv().snapshot().unwrap();
                    let mut arrived = Arrived::from(source.as_mut());
                    if on_disk {
                        arrived = arrived.on_disk();
                    }
                    let mut other = Subject::new();
                    other.kv().restore(Box::new(arrived)).unwrap();
                    other.log = std::mem::take(&mut subject.log);
                    subject = other;
                    prop_assert_eq!(subject.reader().digest().unwrap(), before);
                }
            }
        }
        model.check_all(&subject.reader());
    }

    /// Rule C1: how a log is cut into batches, and what a node does beside applying it, changes
    /// neither outcomes nor data.
    #[test]
    fn the_same_log_makes_the_same_store(
        commands in vec(command(), 1..120), a in 1..20_usize, b in 1..20_usize,
    ) {
        let mut one = Subject::new();
        let mut two = Subject::new();
        let mut outcomes = (Vec::new(), Vec::new());
        for piece in commands.chunks(a) {
            outcomes.0.extend(one.apply(piece.iter().map(|c| Payload::Command(c.encode()))));
        }
        for piece in commands.chunks(b) {
            outcomes.1.extend(two.apply(piece.iter().map(|c| Payload::Command(c.encode()))));
            two.kv().durable().unwrap();
        }
        prop_assert_eq!(outcomes.0, outcomes.1);
        prop_assert_eq!(one.reader().digest().unwrap(), two.reader().digest().unwrap());
    }
}
