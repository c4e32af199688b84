//! Sessions and leases against a model that keeps everything it was ever told: what is run once,
//! what ends when, and that no crash, restart or move to another node can be told from none.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raft_core::sessions::{ClusterTime, SessionError, SessionId, SessionTag};
use raft_core::{Payload, StateMachine, Term};
use raft_kv::{
    Command, DeleteRange, Field, KeyRange, LeaseGrant, LeaseId, LeaseOutcome, Outcome, Proposal,
    Put, RangeRequest, Refused, Revision, Stamp,
};
use support::{Arrived, Subject};

/// What the subjects of these tests take all their entries for.
const TERM: Term = Term(1);

fn stamped(ms: u64, session: Option<SessionTag>, command: Command) -> Proposal {
    Proposal { stamp: Some(Stamp { term: TERM, time: ClusterTime(ms) }), session, command }
}

fn run(subject: &mut Subject, proposal: &Proposal) -> Outcome {
    let outcomes = subject.apply([Payload::Command(proposal.encode())]);
    Outcome::decode(&outcomes[0]).unwrap()
}

fn lease(id: u64) -> LeaseId {
    LeaseId(NonZeroU64::new(id).unwrap())
}

fn grant(id: u64, ttl_ms: u64) -> Command {
    Command::GrantLease(LeaseGrant { lease: Some(lease(id)), ttl_ms })
}

fn put(key: &str, id: Option<u64>) -> Command {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Command::Put(Put { lease: Field::Set(id.map(lease)), ..Put::new(key, "v") })
}

fn tag(session: SessionId, sequence: u64, unacknowledged: u64) -> Option<SessionTag> {
    Some(SessionTag { session, sequence, unacknowledged })
}

fn open(subject: &mut Subject, at: u64, ttl_ms: u64) -> SessionId {
    let outcome = run(subject, &stamped(at, None, Command::OpenSession { ttl_ms }));
    let Outcome::Session { session, .. } = outcome else { panic!("{outcome:?}") };
    session
}

/// Rule C2.
#[test]
fn a_repeated_command_has_its_first_answer_even_after_a_crash() {
    let mut subject = Subject::new();
    let session = open(&mut subject, 0, 10_000);
    let first = stamped(5, tag(session, 1, 1), put("k", None));
    let answer = run(&mut subject, &first);
    assert_eq!(run(&mut subject, &stamped(9, None, put("k", None))), put_at(3));
    assert_eq!(run(&mut subject, &first), answer);
    assert_eq!(answer, put_at(2));
    // A refusal is an answer like any other.
    let refused = stamped(10, tag(session, 2, 1), put("", None));
    assert_eq!(run(&mut subject, &refused), Outcome::Refused(Refused::EmptyKey));
    subject.flush();
    subject.crash();
    subject.replay(10);
    assert_eq!(run(&mut subject, &refused), Outcome::Refused(Refused::EmptyKey));
    assert_eq!(run(&mut subject, &first), answer);
    assert_eq!(subject.reader().revision(), Revision(3));
    // Once it was acknowledged it is neither run nor answered.
    run(&mut subject, &stamped(20, tag(session, 3, 2), put("k", None)));
    let error = SessionError::Acknowledged { sequence: 1, lowest: 2 };
    assert_eq!(run(&mut subject, &first), Outcome::Refused(error.into()));
}

fn put_at(revision: u64) -> Outcome {
    Outcome::Put(raft_kv::PutOutcome { revision: Revision(revision), previous: None })
}

/// Rule C2.
#[test]
fn a_command_of_an_ended_session_is_refused_and_not_run() {
    let mut subject = Subject::new();
    let session = open(&mut subject, 1_000, 5_000);
    let command = stamped(5_999, tag(session, 1, 1), put("k", None));
    assert_eq!(run(&mut subject, &command), put_at(2));
    // That was a sign of life.
    assert_eq!(run(&mut subject, &stamped(10_998, tag(session, 1, 1), put("k", None))), put_at(2));
    run(&mut subject, &stamped(15_998, None, Command::Tick));
    let ended = Outcome::Refused(SessionError::Ended { session }.into());
    assert_eq!(run(&mut subject, &command), ended);
    assert_eq!(run(&mut subject, &stamped(0, None, Command::KeepSession(session))), ended);
    assert_eq!(run(&mut subject, &stamped(0, None, Command::CloseSession(session))), ended);
    assert_eq!(subject.reader().revision(), Revision(2));
}

/// A session that could end, or make room for, itself would be gone when its answer is kept.
#[test]
fn what_concerns_sessions_is_refused_in_a_session() {
    let mut subject = Subject::new();
    let session = open(&mut subject, 0, 10_000);
    for command in [
        Command::OpenSession { ttl_ms: 1 },
        Command::KeepSession(session),
        Command::CloseSession(session),
        Command::Tick,
    ] {
        let outcome = run(&mut subject, &stamped(1, tag(session, 1, 1), command));
        assert_eq!(outcome, Outcome::Refused(Refused::NotInSession));
    }
    assert_eq!(run(&mut subject, &stamped(1, tag(session, 1, 1), put("k", None))), put_at(2));
}

/// Rule C5.
#[test]
fn time_is_what_leaders_say_in_their_own_term_and_never_goes_back() {
    let mut subject = Subject::new();
    run(&mut subject, &stamped(1_000, None, grant(1, 5_000)));
    let stale = Stamp { term: Term(9), time: ClusterTime(99_000) };
    let stale = Proposal { stamp: Some(stale), ..stamped(0, None, Command::Tick) };
    run(&mut subject, &stale);
    run(&mut subject, &stamped(500, None, Command::Tick));
    run(&mut subject, &stamped(5_999, None, Command::Tick));
    assert_eq!(run(&mut subject, &Proposal::from(put("k", Some(1)))), put_at(2));
    run(&mut subject, &stamped(6_000, None, Command::Tick));
    assert_eq!(subject.reader().get("k").unwrap(), None);
    assert_eq!(subject.reader().revision(), Revision(3));
}

#[test]
fn the_keys_of_a_lease_go_together_in_one_revision() {
    let mut subject = Subject::new();
    run(&mut subject, &stamped(0, None, grant(1, 5_000)));
    run(&mut subject, &stamped(0, None, grant(2, 9_000)));
    for (key, id) in [("a", Some(1)), ("b", Some(1)), ("c", Some(2)), ("d", Some(1)), ("e", None)] {
        run(&mut subject, &stamped(0, None, put(key, id)));
    }
    // "b" leaves the lease, "d" moves to another.
    run(&mut subject, &stamped(0, None, put("b", None)));
    run(&mut subject, &stamped(0, None, put("d", Some(2))));
    let outcome = run(&mut subject, &stamped(0, None, Command::RevokeLease(lease(1))));
    let revoked = LeaseOutcome { lease: lease(1), ttl_ms: 0, revision: Revision(9) };
    assert_eq!(outcome, Outcome::Lease(revoked));
    assert_eq!(keys(&subject), ["b", "c", "d", "e"]);
    run(&mut subject, &stamped(9_000, None, Command::Tick));
    assert_eq!(keys(&subject), ["b", "e"]);
    assert_eq!(subject.reader().revision(), Revision(10));
    // The past is as it was.
    let past = RangeRequest { revision: Some(Revision(8)), ..RangeRequest::new(KeyRange::all()) };
    assert_eq!(subject.reader().range(&past).unwrap().count, 5);
    let gone = Outcome::Refused(Refused::NoSuchLease(lease(2)));
    assert_eq!(run(&mut subject, &stamped(0, None, Command::KeepLease(lease(2)))), gone);
    assert_eq!(run(&mut subject, &stamped(0, None, Command::RevokeLease(lease(2)))), gone);
}

fn keys(subject: &Subject) -> Vec<String> {
    let reply = subject.reader().range(&RangeRequest::new(KeyRange::all())).unwrap();
    reply.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

#[test]
fn a_lease_is_kept_by_whoever_asks_in_time_and_ids_are_not_taken_twice() {
    let mut subject = Subject::new();
    run(&mut subject, &stamped(0, None, grant(5, 3_000)));
    let exists = Outcome::Refused(Refused::LeaseExists(lease(5)));
    assert_eq!(run(&mut subject, &stamped(0, None, grant(5, 3_000))), exists);
    run(&mut subject, &stamped(2_999, None, Command::KeepLease(lease(5))));
    assert_eq!(run(&mut subject, &stamped(5_998, None, put("k", Some(5)))), put_at(2));
    // The entry that comes too late also brings the time at which it is too late.
    let late = run(&mut subject, &stamped(5_999, None, Command::KeepLease(lease(5))));
    assert_eq!(late, Outcome::Refused(Refused::NoSuchLease(lease(5))));
    assert_eq!(keys(&subject), Vec::<String>::new());
    // The index of the entry names a lease, unless that is taken.
    let next = subject.log.len() as u64 + 2;
    run(&mut subject, &stamped(6_000, None, grant(next, 3_000)));
    let chosen = Command::GrantLease(LeaseGrant { lease: None, ttl_ms: 3_000 });
    let Outcome::Lease(chosen) = run(&mut subject, &stamped(6_000, None, chosen)) else { panic!() };
    assert_eq!(chosen.lease, lease(next + 1));
}

/// What was told to sessions and leases, and no more: keys are compared with the lease they have.
#[derive(Default)]
struct Model {
    now: u64,
    revision: u64,
    index: u64,
    /// When each ends, its time to live, what it was answered, and its lowest number.
    sessions: BTreeMap<u64, (u64, u64, BTreeMap<u64, Outcome>, u64)>,
    /// When each ends and its time to live.
    leases: BTreeMap<u64, (u64, u64)>,
    keys: BTreeMap<String, Option<u64>>,
}

impl Model {
    fn run(&mut self, step: &Step) -> Outcome {
        self.index += 1;
        self.now += step.later;
        let now = self.now;
        self.sessions.retain(|_, (end, ..)| *end > now);
        let due: BTreeMap<_, _> =
            self.leases.iter().map(|(id, (end, _))| ((*end, *id), *id)).collect();
        for ((end, _), id) in due {
            if end <= now {
                self.end_lease(id);
            }
        }
        let Some((session, sequence, lowest)) = step.tag else { return self.command(&step.what) };
        let ended = Outcome::Refused(SessionError::Ended { session: SessionId(session) }.into());
        let Some((end, ttl, answers, low)) = self.sessions.get_mut(&session) else { return ended };
        let lowest = lowest.min(sequence).max(*low);
        if sequence < lowest {
            return Outcome::Refused(SessionError::Acknowledged { sequence, lowest }.into());
        }
        (*end, *low) = (now + *ttl, lowest);
        if let Some(answer) = answers.get(&sequence) {
            return answer.clone();
        }
        let answer = self.command(&step.what);
        self.sessions.get_mut(&session).unwrap().2.insert(sequence, answer.clone());
        answer
    }

    fn command(&mut self, what: &What) -> Outcome {
        let now = self.now;
        let gone = |id: u64| Outcome::Refused(Refused::NoSuchLease(lease(id)));
        let outcome = |id: u64, ttl_ms: u64, revision: u64| {
            Outcome::Lease(LeaseOutcome { lease: lease(id), ttl_ms, revision: Revision(revision) })
        };
        match what {
            What::Tick => Outcome::Ticked,
            What::Open { ttl } => {
                let session = SessionId(self.index);
                self.sessions.insert(self.index, (now + ttl, *ttl, BTreeMap::new(), 1));
                Outcome::Session { session, ttl_ms: *ttl }
            }
            What::Grant { id, ttl } => {
                if self.leases.contains_key(id) {
                    return Outcome::Refused(Refused::LeaseExists(lease(*id)));
                }
                self.leases.insert(*id, (now + ttl, *ttl));
                outcome(*id, *ttl, self.revision)
            }
            What::Keep { id } => {
                let Some((end, ttl)) = self.leases.get_mut(id) else { return gone(*id) };
                *end = now + *ttl;
                outcome(*id, *ttl, self.revision)
            }
            What::Revoke { id } => {
                if !self.leases.contains_key(id) {
                    return gone(*id);
                }
                self.end_lease(*id);
                outcome(*id, 0, self.revision)
            }
            What::Put { key, id } => {
                if let Some(id) = id.filter(|id| !self.leases.contains_key(id)) {
                    return gone(id);
                }
                self.keys.insert(key.clone(), *id);
                self.revision += 1;
                put_at(self.revision)
            }
            What::Delete { key } => {
                let deleted = u64::from(self.keys.remove(key).is_some());
                self.revision += deleted;
                Outcome::DeleteRange(raft_kv::DeleteOutcome {
                    revision: Revision(self.revision),
                    deleted,
                    previous: vec![],
                })
            }
        }
    }

    fn end_lease(&mut self, id: u64) {
        self.leases.remove(&id);
        let before = self.keys.len();
        self.keys.retain(|_, lease| *lease != Some(id));
        self.revision += u64::from(self.keys.len() < before);
    }
}

#[derive(Clone, Debug)]
struct Step {
    /// How much later it is than at the step before, in milliseconds.
    later: u64,
    /// Session, number, and the lowest that is not acknowledged.
    tag: Option<(u64, u64, u64)>,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Tick,
    Open { ttl: u64 },
    Grant { id: u64, ttl: u64 },
    Keep { id: u64 },
    Revoke { id: u64 },
    Put { key: String, id: Option<u64> },
    Delete { key: String },
}

#[derive(Clone, Debug)]
enum Act {
    /// These come to the log, and are applied in one piece.
    Steps(Vec<Step>),
    Flush,
    Crash,
    Restart,
    Move,
}

impl Step {
    fn proposal(&self, now: u64) -> Proposal {
        let command = match self.what.clone() {
            What::Tick => Command::Tick,
            What::Open { ttl } => Command::OpenSession { ttl_ms: ttl },
            What::Grant { id, ttl } => grant(id, ttl),
            What::Keep { id } => Command::KeepLease(lease(id)),
            What::Revoke { id } => Command::RevokeLease(lease(id)),
            What::Put { key, id } => put(&key, id),
            What::Delete { key } => {
                let range = KeyRange::One(key.into_bytes().into());
                Command::DeleteRange(DeleteRange { range, prev_kv: false })
            }
        };
        let session = self.tag.and_then(|(session, sequence, lowest)| {
            tag(SessionId(session), sequence, lowest.min(sequence))
        });
        stamped(now, session, command)
    }
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 1..4_u64;
    let ttl = || (2..6_u64).prop_map(|s| s * 1_000);
    let key = || prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned);
    let timeless = prop_oneof![
        1 => Just(What::Tick),
        1 => ttl().prop_map(|ttl| What::Open { ttl }),
    ];
    let tagged = prop_oneof![
        2 => (id(), ttl()).prop_map(|(id, ttl)| What::Grant { id, ttl }),
        1 => id().prop_map(|id| What::Keep { id }),
        1 => id().prop_map(|id| What::Revoke { id }),
        6 => (key(), prop::option::of(id())).prop_map(|(key, id)| What::Put { key, id }),
        1 => key().prop_map(|key| What::Delete { key }),
    ];
    // Sessions are named by the index that opened them: a low number is often one, and often not.
    let tag = prop::option::of((1..6_u64, 1..6_u64, 1..6_u64));
    let later = prop_oneof![3 => Just(0), 2 => 1..600_u64, 1 => 600..4_000_u64];
    (
        later,
        prop_oneof![
            2 => timeless.prop_map(|what| (None, what)),
            5 => (tag, tagged),
        ],
    )
        .prop_map(|(later, (tag, what))| Step { later, tag, what })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => vec(step(), 1..6).prop_map(Act::Steps),
        1 => Just(Act::Flush),
        1 => Just(Act::Crash),
        1 => Just(Act::Restart),
        1 => Just(Act::Move),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Rules C2, C3.
    #[test]
    fn sessions_and_leases_do_what_the_model_does(acts in vec(act(), 1..25)) {
        let mut subject = Subject::new();
        let mut whole = Subject::new();
        let mut model = Model { revision: 1, ..Model::default() };
        for act in acts {
            match act {
                Act::Steps(steps) => {
                    let mut payloads = Vec::new();
                    let mut expected = Vec::new();
                    for step in &steps {
                        payloads.push(Payload::Command(step.proposal(model.now + step.later).encode()));
                        expected.push(model.run(step));
                    }
                    let outcomes = subject.apply(payloads.clone());
                    // The same entries one by one, and never a crash.
                    for payload in payloads {
                        whole.apply([payload]);
                    }
                    let found: Vec<_> =
                        outcomes.iter().map(|bytes| Outcome::decode(bytes).unwrap()).collect();
                    prop_assert_eq!(found, expected);
                }
                Act::Flush => drop(subject.flush()),
                Act::Crash => {
                    subject.crash();
                    subject.replay(3);
                }
                Act::Restart => subject.restart(),
                Act::Move => {
                    let mut source = subject.kv().snapshot().unwrap();
                    let arrived = Arrived::from(source.as_mut());
                    subject.kv().restore(Box::new(arrived)).unwrap();
                    subject.replay(64);
                }
            }
            let reply = subject.reader().range(&RangeRequest::new(KeyRange::all())).unwrap();
            let found: BTreeMap<_, _> = reply.kvs.iter().map(|kv| {
                let key = String::from_utf8(kv.key.to_vec()).unwrap();
                (key, kv.lease.map(|lease| lease.0.get()))
            }).collect();
            prop_assert_eq!(&found, &model.keys);
            prop_assert_eq!(reply.revision, Revision(model.revision));
        }
        let digests = (subject.reader().digest().unwrap(), whole.reader().digest().unwrap());
        prop_assert_eq!(digests.0, digests.1);
    }
}
