//! The store against a model of a few lines: the same commands, the same outcomes, the same reads
//! at every revision, whatever happens to the process in between.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raft_core::{Payload, StateMachine};
use raft_kv::{
    Command, Compact, Compare, Content, DeleteRange, Field, Filter, KeyRange, Nested, Order,
    Outcome, Proposal, Put, RangeRequest, Relation, Revision, Sort, SortBy, Target, Txn, TxnOp,
};
use support::model::Model;
use support::{Arrived, Subject};

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

fn put() -> impl Strategy<Value = Put> {
    let value = prop_oneof![
        6 => vec(prop_oneof![Just(b'x'), Just(b'y')], 0..3).prop_map(|v| Field::Set(v.into())),
        1 => Just(Field::Keep),
    ];
    let lease = prop_oneof![6 => Just(Field::Set(None)), 1 => Just(Field::Keep)];
    (key(), value, lease, any::<bool>()).prop_map(|(key, value, lease, prev_kv)| Put {
        key,
        value,
        lease,
        prev_kv,
    })
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv })
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation = prop_oneof![
        Just(Relation::Equal),
        Just(Relation::NotEqual),
        Just(Relation::Less),
        Just(Relation::Greater),
    ];
    let target = prop_oneof![
        Just(Target::Value("x".into())),
        (0..3_u64).prop_map(Target::Version),
        (0..20_u64).prop_map(|at| Target::CreateRevision(Revision(at))),
        (0..20_u64).prop_map(|at| Target::ModRevision(Revision(at))),
        Just(Target::Lease(None)),
    ];
    (range(), relation, target).prop_map(|(range, relation, target)| Compare {
        range,
        relation,
        target,
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let op = prop_oneof![
        4 => put().prop_map(TxnOp::Put),
        2 => delete().prop_map(TxnOp::DeleteRange),
        3 => read().prop_map(TxnOp::Range),
    ];
    let of = |op: BoxedStrategy<TxnOp>| {
        (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
            .prop_map(|(compare, then, otherwise)| Txn { compare, then, otherwise })
    };
    let op = op.boxed();
    let nested = of(op.clone()).prop_map(|txn| TxnOp::Txn(Nested::new(txn)));
    of(prop_oneof![5 => op, 1 => nested].boxed())
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => put().prop_map(Command::Put),
        3 => delete().prop_map(Command::DeleteRange),
        5 => txn().prop_map(Command::Txn),
        1 => (0..40_u64).prop_map(|at| Command::Compact(Compact { revision: Revision(at) })),
    ]
}

fn read() -> impl Strategy<Value = RangeRequest> {
    let content = prop_oneof![4 => Just(Content::Full), 1 => Just(Content::KeysOnly), 1 => Just(Content::CountOnly)];
    let revision = prop::option::of((0..50_u64).prop_map(Revision));
    let by = prop_oneof![
        4 => Just(SortBy::Key),
        1 => Just(SortBy::Version),
        1 => Just(SortBy::CreateRevision),
        1 => Just(SortBy::ModRevision),
        1 => Just(SortBy::Value),
    ];
    let sort = (by, prop_oneof![2 => Just(Order::Ascending), 1 => Just(Order::Descending)])
        .prop_map(|(by, order)| Sort { by, order });
    let bound = || prop::option::weighted(0.1, (0..30_u64).prop_map(Revision));
    let filter = (bound(), bound(), bound(), bound()).prop_map(|(a, b, c, d)| Filter {
        min_mod_revision: a,
        max_mod_revision: b,
        min_create_revision: c,
        max_create_revision: d,
    });
    let limit = prop::option::of(0..5_u64);
    (range(), revision, limit, content, sort, filter).prop_map(
        |(range, revision, limit, content, sort, filter)| RangeRequest {
            range,
            revision,
            limit,
            content,
            sort,
            filter,
        },
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

fn payload(command: &Command) -> Payload {
    Payload::Command(Proposal::from(command.clone()).encode())
}

fn apply(subject: &mut Subject, model: &mut Model, commands: &[Command]) -> Vec<Outcome> {
    let payloads = commands.iter().map(payload);
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
                    let index = subject.flush();
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
                    subject.replay(64);
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
            outcomes.0.extend(one.apply(piece.iter().map(payload)));
        }
        for piece in commands.chunks(b) {
            outcomes.1.extend(two.apply(piece.iter().map(payload)));
            two.flush();
        }
        prop_assert_eq!(outcomes.0, outcomes.1);
        prop_assert_eq!(one.reader().digest().unwrap(), two.reader().digest().unwrap());
    }
}

/// A step of the many sequences: what costs no time.
#[derive(Clone, Debug)]
enum Quick {
    Apply(Vec<Command>),
    Read(RangeRequest),
}

fn quick() -> impl Strategy<Value = Quick> {
    prop_oneof![
        3 => vec(command(), 1..6).prop_map(Quick::Apply),
        2 => read().prop_map(Quick::Read),
    ]
}

/// One store for many sequences, since to open one takes longer than a sequence. Each sequence
/// begins with an empty store without history. Not for all, since what is deleted in memory slows
/// reading down until it is flushed.
static SHARED: Mutex<Option<(Subject, Model, usize)>> = Mutex::new(None);
const SEQUENCES_A_STORE: usize = 64;

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn ten_thousand_sequences_do_what_the_model_does(mut steps in vec(quick(), 1..12)) {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        // What a failed sequence leaves is of no use to the next.
        let (mut subject, mut model, used) =
            shared.take().unwrap_or_else(|| (Subject::new(), Model::new(), 0));
        let all = DeleteRange { range: KeyRange::all(), prev_kv: false };
        apply(&mut subject, &mut model, &[Command::DeleteRange(all)]);
        let base = model.revision();
        let compact = Command::Compact(Compact { revision: base });
        apply(&mut subject, &mut model, &[compact]);
        steps.iter_mut().for_each(|step| step.move_to(base));
        for step in steps {
            match step {
                Quick::Apply(commands) => drop(apply(&mut subject, &mut model, &commands)),
                Quick::Read(request) => model.check(&subject.reader(), &request),
            }
        }
        model.check_all(&subject.reader());
        *shared = (used < SEQUENCES_A_STORE).then_some((subject, model, used + 1));
    }
}

impl Quick {
    /// Revisions are made up as if the store were new.
    fn move_to(&mut self, base: Revision) {
        match self {
            Self::Apply(commands) => commands.iter_mut().for_each(|command| match command {
                Command::Compact(compact) => compact.revision.0 += base.0,
                Command::Txn(txn) => move_txn(txn, base),
                Command::Put(_)
                | Command::DeleteRange(_)
                | Command::OpenSession { .. }
                | Command::KeepSession(_)
                | Command::CloseSession(_)
                | Command::Tick
                | Command::GrantLease(_)
                | Command::KeepLease(_)
                | Command::RevokeLease(_)
                | Command::Activate(_)
                | Command::RaiseAlarm(_)
                | Command::ClearAlarms(_) => {}
            }),
            Self::Read(request) => move_read(request, base),
        }
    }
}

fn move_txn(txn: &mut Txn, base: Revision) {
    for compare in &mut txn.compare {
        match &mut compare.target {
            Target::CreateRevision(at) | Target::ModRevision(at) => at.0 += base.0,
            Target::Value(_) | Target::Version(_) | Target::Lease(_) => {}
        }
    }
    for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
        match op {
            TxnOp::Range(request) => move_read(request, base),
            TxnOp::Txn(txn) => move_txn(txn, base),
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => {}
        }
    }
}

fn move_read(request: &mut RangeRequest, base: Revision) {
    let filter = &mut request.filter;
    for revision in [
        &mut request.revision,
        &mut filter.min_mod_revision,
        &mut filter.max_mod_revision,
        &mut filter.min_create_revision,
        &mut filter.max_create_revision,
    ]
    .into_iter()
    .flatten()
    {
        revision.0 += base.0;
    }
}
