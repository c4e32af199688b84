//! The decoders fed with whatever comes: what is right, with a few bytes changed, cut in any way; and two
//! stores with every command that can be read at all.
//!
//! `cargo test` draws the same inputs each time; `FUZZ_RUNS=10000000 FUZZ_FIRST=7` others, and more
//! (`make fuzz`). A failure names its seed.

use std::num::NonZeroU64;

use bytes::Bytes;
use raft_core::sessions::{ClusterTime, SessionId, SessionRecord, SessionTag, Stamp};
use raft_core::{
    Entry, Index, LogId, MachineError, Membership, NodeId, Payload, StateMachine, Term,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::api::{Answer, ErrorReply, Header, Read, ReadLevel, Reply, Request, Write};
use crate::command::{
    Command, DeleteOutcome, DeleteRange, Divergence, Field, LeaseGrant, Outcome, Put, Refused,
};
use crate::config::KvConfig;
use crate::kv::Kv;
use crate::model::{KeyRange, KeyValue, LeaseId, Revision};
use crate::proposal::Proposal;
use crate::range::RangeRequest;
use crate::record::{
    ChangeKind, Head, Noted, SessionRow, State, answer_key, change_key, decode_change,
    decode_membership, decode_row, encode_change, encode_membership, encode_row, lease_key,
    old_key, parse_change_key, parse_lease_key, parse_old_key, parse_session_key, session_key,
};
use crate::timed::LeaseRecord;
use crate::txn::{Compare, Nested, Relation, Target, Txn, TxnOp};
use crate::watch::{Event, EventKind, WatchRequest, Watched};

/// Rule L17: no bytes make a decoder panic, and what it takes it has understood.
#[test]
fn what_is_said_and_logged_is_understood_or_refused() {
    let samples = samples();
    assert!(commands().iter().all(|bytes| Proposal::decode(bytes).is_ok()));
    assert!(Proposal::decode(&nested(1)).is_ok() && Proposal::decode(&nested(300)).is_err());
    run(60_000, |random| {
        let bytes = any_of(random, &samples);
        if let Ok(proposal) = Proposal::decode(&bytes) {
            let again = proposal.encode();
            assert!(again.len() <= bytes.len(), "{} bytes became {}", bytes.len(), again.len());
            assert_eq!(Proposal::decode(&again).unwrap(), proposal);
        }
        if let Ok(outcome) = Outcome::decode(&bytes) {
            let again = outcome.encode();
            assert!(again.len() <= bytes.len(), "{} bytes became {}", bytes.len(), again.len());
            assert_eq!(Outcome::decode(&again).unwrap(), outcome);
        }
        if let Ok(request) = Request::decode(&bytes) {
            let again = request.encode();
            assert!(again.len() <= bytes.len(), "{} bytes became {}", bytes.len(), again.len());
            assert_eq!(Request::decode(&again).unwrap(), request);
        }
        if let Ok(reply) = Reply::decode(&bytes) {
            let again = reply.encode();
            assert!(again.len() <= bytes.len(), "{} bytes became {}", bytes.len(), again.len());
            assert_eq!(Reply::decode(&again).unwrap(), reply);
        }
    });
}

/// What the disk gives back may be anything, and is what was written or refused.
#[test]
fn stored_rows_are_understood_or_refused() {
    let rows = rows();
    run(60_000, |random| {
        let bytes = any_of(random, &rows);
        if let Ok(state) = State::decode(&bytes) {
            assert_eq!(State::decode(&state.encode()).unwrap(), state);
        }
        if let Ok(membership) = decode_membership(&bytes) {
            assert_eq!(decode_membership(&encode_membership(&membership)).unwrap(), membership);
        }
        if let Ok((head, value)) = Head::decode(&bytes) {
            let again = head.encode_with(value);
            assert_eq!(Head::decode(&again).unwrap(), (head, value));
        }
        if let Ok((key, ended)) = parse_old_key(&bytes) {
            assert_eq!(old_key(&key, ended), bytes);
        }
        if let Ok(revision) = parse_change_key(&bytes) {
            assert_eq!(change_key(revision, 0)[..8], bytes[..8]);
        }
        if let Ok(change) = decode_change(&bytes) {
            assert_eq!(encode_change(&change), bytes);
        }
        match parse_session_key(&bytes) {
            Ok(SessionRow::Session(id)) => assert_eq!(session_key(id)[..], bytes),
            Ok(SessionRow::Answer(id, number)) => assert_eq!(answer_key(id, number)[..], bytes),
            Err(_) => {}
        }
        if let Ok((lease, key)) = parse_lease_key(&bytes) {
            assert_eq!(lease_key(lease, key), bytes);
        }
        if let Ok(record) = decode_row::<SessionRecord>("a session", &bytes) {
            assert_eq!(decode_row::<SessionRecord>("it", &encode_row(&record)).unwrap(), record);
        }
        if let Ok(record) = decode_row::<LeaseRecord>("a lease", &bytes) {
            assert_eq!(decode_row::<LeaseRecord>("it", &encode_row(&record)).unwrap(), record);
        }
        if let Ok(alarms) = decode_row::<Vec<Divergence>>("alarms", &bytes) {
            assert_eq!(decode_row::<Vec<Divergence>>("it", &encode_row(&alarms)).unwrap(), alarms);
        }
    });
}

/// Rules C1, L18. Whatever stands in the log, two stores make the same of it, however it is cut into batches:
/// an outcome that can be read, or the same typed end.
#[test]
fn two_stores_make_the_same_of_any_command() {
    let samples = commands();
    run(30, |random| {
        let payloads: Vec<_> = (0..64).map(|_| any_of(random, &samples)).collect();
        let readable = payloads.iter().take_while(|bytes| Proposal::decode(bytes).is_ok()).count();
        // Most sequences end early. What cannot be read is left out, but for the first of them.
        let mut log: Vec<_> =
            payloads.iter().filter(|bytes| Proposal::decode(bytes).is_ok()).collect();
        log.extend(payloads.get(readable));
        let log: Vec<_> = (1..).zip(log).map(|(index, bytes)| entry(index, bytes)).collect();
        let ends_badly = readable < payloads.len();
        let (one, other) = (apply_all(&log, 1), apply_all(&log, random.random_range(2..20)));
        assert_eq!(one.ends_badly, ends_badly);
        // Of a batch with an entry that cannot be read, as much is applied as the store likes.
        assert_eq!(one.ends_badly, other.ends_badly);
        let common = one.outcomes.len().min(other.outcomes.len());
        assert_eq!(one.outcomes[..common], other.outcomes[..common]);
        for outcome in &one.outcomes {
            Outcome::decode(outcome).unwrap();
        }
        if !ends_badly {
            assert_eq!(one.digest, other.digest);
        }
    });
}

struct Applied {
    outcomes: Vec<Bytes>,
    ends_badly: bool,
    digest: String,
}

/// Applies `log` to a new store, `piece` entries at a time.
fn apply_all(log: &[Entry], piece: usize) -> Applied {
    let dir = tempfile::tempdir().unwrap();
    let config = KvConfig {
        write_buffer_bytes: 4 << 20,
        block_cache_bytes: 4 << 20,
        row_cache_bytes: 64 << 10,
        ..KvConfig::default()
    };
    let mut kv = Kv::open(dir.path(), config).unwrap();
    let (mut outcomes, mut ends_badly) = (Vec::new(), false);
    for entries in log.chunks(piece) {
        match kv.apply(entries, &mut outcomes) {
            Ok(()) => {}
            Err(MachineError::Unknown { .. }) => {
                ends_badly = true;
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let digest = format!("{:?}", kv.reader().digest().unwrap());
    Applied { outcomes, ends_badly, digest }
}

fn entry(index: u64, command: &[u8]) -> Entry {
    let payload = Payload::Command(Bytes::copy_from_slice(command));
    Entry { id: LogId::new(Term(1), Index(index)), payload }
}

/// Runs with inputs drawn from seeds.
fn run(runs: u64, case: impl Fn(&mut StdRng) + std::panic::RefUnwindSafe) {
    let variable = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let first = variable("FUZZ_FIRST").unwrap_or(1);
    for seed in first..first + variable("FUZZ_RUNS").unwrap_or(runs) {
        let one = || case(&mut StdRng::seed_from_u64(seed));
        assert!(std::panic::catch_unwind(one).is_ok(), "FUZZ_FIRST={seed} FUZZ_RUNS=1 fails");
    }
}

/// One of `samples` with a few bytes changed, or now and then a few bytes made up, or transactions in
/// transactions.
fn any_of(random: &mut StdRng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match random.random_range(0..12) {
        0 => (0..random.random_range(0..40)).map(|_| any_byte(random)).collect(),
        1 => nested(random.random_range(0..300)),
        _ => samples[random.random_range(0..samples.len())].clone(),
    };
    change(random, &mut bytes);
    bytes
}

/// A proposal of a transaction in a transaction in a transaction.
fn nested(levels: usize) -> Vec<u8> {
    let inner = Proposal::from(Command::Txn(Txn::default())).encode();
    let (head, lists) = inner.split_at(inner.len() - 3);
    assert_eq!(lists, [0, 0, 0], "nothing to compare, nothing to do");
    // Nothing to compare; one thing to do, a transaction. The lists for the other case come last.
    [head, &[0, 1, 3].repeat(levels), lists, &vec![0; levels]].concat()
}

/// A few bytes changed, taken out or put in, or the end cut off; sometimes nothing.
fn change(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(0..4) {
        let place = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, any_byte(random)),
            2 if place < bytes.len() => drop(bytes.remove(place)),
            _ if place < bytes.len() => bytes[place] = any_byte(random),
            _ => bytes.push(any_byte(random)),
        }
    }
}

/// Small numbers, lengths that go on, and anything.
fn any_byte(random: &mut StdRng) -> u8 {
    match random.random_range(0..3) {
        0 => random.random_range(0..20),
        1 => [0x7f, 0x80, 0xff][random.random_range(0..3)],
        _ => random.random(),
    }
}

/// Proposals of every kind.
fn commands() -> Vec<Vec<u8>> {
    let lease = lease(77);
    let put = Put { lease: Field::Set(Some(lease)), prev_kv: true, ..Put::new("k", "value") };
    let delete = DeleteRange { range: KeyRange::prefix("k"), prev_kv: true };
    let compare =
        |target| Compare { range: KeyRange::One("k".into()), relation: Relation::Less, target };
    let txn = Txn {
        compare: vec![
            compare(Target::Value("x".into())),
            compare(Target::ModRevision(Revision(9))),
            compare(Target::Lease(Some(lease))),
        ],
        then: vec![
            TxnOp::Put(Put::new("a", "b")),
            TxnOp::Range(RangeRequest::new(KeyRange::all())),
            TxnOp::DeleteRange(delete.clone()),
        ],
        otherwise: vec![TxnOp::Txn(Nested::new(Txn {
            then: vec![TxnOp::Put(put.clone())],
            ..Txn::default()
        }))],
    };
    let commands = [
        Command::Put(Put::new("k", "value")),
        Command::Put(put),
        Command::Put(Put { value: Field::Keep, ..Put::new("k", "") }),
        Command::DeleteRange(delete),
        Command::Compact(crate::command::Compact { revision: Revision(5) }),
        Command::Txn(txn),
        Command::OpenSession { ttl_ms: 60_000 },
        Command::KeepSession(SessionId(3)),
        Command::CloseSession(SessionId(4)),
        Command::Tick,
        Command::GrantLease(LeaseGrant { lease: Some(lease), ttl_ms: 5_000 }),
        Command::GrantLease(LeaseGrant { lease: None, ttl_ms: 5_000 }),
        Command::KeepLease(lease),
        Command::RevokeLease(lease),
        Command::RaiseAlarm(Divergence { node: node(2), revision: Revision(5) }),
        Command::ClearAlarms(None),
    ];
    let stamp = Some(Stamp { term: Term(1), time: ClusterTime(4_000) });
    let session = Some(SessionTag { session: SessionId(1), sequence: 2, unacknowledged: 1 });
    let mut all = Vec::new();
    for command in commands {
        all.push(Proposal::from(command.clone()).encode().to_vec());
        all.push(Proposal { stamp, session, command }.encode().to_vec());
    }
    all
}

/// Something of all that is said.
fn samples() -> Vec<Vec<u8>> {
    let kv = key_value();
    let header =
        Header { node: node(1), term: Term(5), applied: Index(300), revision: Revision(70_000) };
    let reply = |body| Reply { header, body }.encode().to_vec();
    let outcome = DeleteOutcome { revision: Revision(8), deleted: 1, previous: vec![kv.clone()] };
    let event = Event { kind: EventKind::Delete, kv: kv.clone(), prev_kv: Some(kv) };
    let read = Read {
        request: RangeRequest::new(KeyRange::Between { first: "a".into(), before: "b".into() }),
        level: ReadLevel::Within { entries: Some(5), ms: Some(100) },
        min_applied: Index(7),
    };
    let mut all = commands();
    all.extend([
        Outcome::DeleteRange(outcome.clone()).encode().to_vec(),
        Outcome::Refused(Refused::NoSuchKey("k".into())).encode().to_vec(),
        Request::Write(Write { session: None, command: Command::Tick }).encode().to_vec(),
        Request::Range(read).encode().to_vec(),
        Request::Watch(WatchRequest::new(KeyRange::all())).encode().to_vec(),
        reply(Ok(Answer::Written(Outcome::DeleteRange(outcome)))),
        reply(Ok(Answer::Watched(Watched { events: vec![event], ..Watched::default() }))),
        reply(Err(ErrorReply::Unknown { message: "nobody knows".to_owned() })),
    ]);
    all
}

/// Something of all that is stored.
fn rows() -> Vec<Vec<u8>> {
    let members = Membership::of_voters([1, 2].map(|id| (node(id), format!("host-{id}:7101"))));
    let kv = key_value();
    let head = Head {
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    };
    let record = SessionRecord { ttl_ms: 60_000, active: ClusterTime(12_000), lowest: 3 };
    let noted = |kind| encode_change(&Noted { kind, key: b"key", ended: 12 });
    vec![
        State::EMPTY.encode().to_vec(),
        encode_membership(&(LogId::new(Term(3), Index(9)), members)).to_vec(),
        head.encode_with(b"value"),
        old_key(b"a\0key", Revision(7)),
        change_key(Revision(7), 3).to_vec(),
        noted(ChangeKind::Modified),
        noted(ChangeKind::Deleted),
        session_key(SessionId(7)).to_vec(),
        answer_key(SessionId(7), 300).to_vec(),
        lease_key(lease(7), b"key"),
        encode_row(&record).to_vec(),
        encode_row(&vec![Divergence { node: node(2), revision: Revision(5) }]).to_vec(),
    ]
}

fn key_value() -> KeyValue {
    KeyValue {
        key: "key".into(),
        value: "value".into(),
        create_revision: Revision(3),
        mod_revision: Revision(70_000),
        version: 4,
        lease: Some(lease(7)),
    }
}

fn lease(id: u64) -> LeaseId {
    LeaseId(NonZeroU64::new(id).unwrap())
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}
