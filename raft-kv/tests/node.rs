//! A whole node of one, with the store as its machine: what the service answers, as clients see it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::sessions::{SessionId, SessionTag};
use raft_core::{ClusterId, Index, RoleName};
use raft_kv::api::{Answer, ErrorReply, Read, ReadLevel, Rejection, Request, Write};
use raft_kv::client::{Channel, ChannelError, Client, ClientError};
use raft_kv::{
    Command, Compact, Compare, Field, KeyRange, KvConfig, LeaseGrant, LeaseId, Nested, Outcome,
    Put, RangeRequest, Relation, Revision, Service, Target, Txn, TxnOp,
};
use support::running::Running;
use support::{config, node};

fn write(command: Command) -> Request {
    Request::Write(Write { session: None, command })
}

fn put(key: &'static [u8], value: impl Into<Bytes>) -> Request {
    write(Command::Put(Put::new(key, value)))
}

fn tagged(session: u64, command: Command) -> Request {
    let session = SessionTag { session: SessionId(session), sequence: 1, unacknowledged: 1 };
    Request::Write(Write { session: Some(session), command })
}

fn lease(id: u64) -> LeaseId {
    LeaseId(std::num::NonZeroU64::new(id).unwrap())
}

fn read(request: RangeRequest, level: ReadLevel) -> Request {
    Request::Range(Read { request, level, min_applied: Index::ZERO })
}

fn get(key: &'static str, level: ReadLevel) -> Request {
    read(RangeRequest::new(KeyRange::One(key.into())), level)
}

/// The service of a node as a channel without a network.
struct Direct(Service);

impl Channel for Direct {
    async fn call(&self, _: &str, request: Bytes, _: Instant) -> Result<Bytes, ChannelError> {
        let (send, reply) = tokio::sync::oneshot::channel();
        self.0.call(request, move |bytes| drop(send.send(bytes)));
        reply.await.map_err(|_| ChannelError::Lost { message: "no reply".to_owned() })
    }
}

#[tokio::test]
async fn what_was_written_is_read_and_deleted() {
    let running = Running::leading(config());
    let channel = Direct(running.service.clone());
    let client = Client::new(channel, vec!["n1:1".to_owned()], Duration::from_secs(10));
    assert_eq!(client.put("k", "v").await.unwrap().revision, Revision(2));
    for level in [ReadLevel::Linearizable, ReadLevel::Stale] {
        let got = client.get("k", level).await.unwrap();
        assert_eq!((&got.kv.unwrap().value[..], got.revision), (&b"v"[..], Revision(2)));
    }
    let all = client.range(RangeRequest::new(KeyRange::all()), ReadLevel::Linearizable).await;
    assert_eq!(all.unwrap().count, 1);
    assert_eq!(client.delete(KeyRange::One("k".into())).await.unwrap().deleted, 1);
    assert_eq!(client.get("k", ReadLevel::Linearizable).await.unwrap().kv, None);
    assert_eq!(client.compact(Revision(3)).await.unwrap().compacted, Revision(3));
    let error = client.compact(Revision(9)).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected { .. }), "{error}");

    let lines = client.status_all().await.unwrap();
    let status = lines[0].status.as_ref().unwrap();
    assert_eq!((lines.len(), status.role, &status.address[..]), (1, RoleName::Leader, "n1:1"));
    assert_eq!(status.cluster_id, ClusterId(9));
    assert_eq!(client.members().await.unwrap().leader.unwrap().node, node(1));
}

#[test]
fn senseless_requests_are_rejected_by_name() {
    let limits = KvConfig { max_key_bytes: 8, max_value_bytes: 100, ..config() };
    let running = Running::leading(limits);
    let between = |first: &'static str, before: &'static str| {
        let range = KeyRange::Between { first: first.into(), before: before.into() };
        read(RangeRequest::new(range), ReadLevel::Stale)
    };
    // The same deep within a transaction, and on the way that would not be gone.
    let within = |op: TxnOp| {
        let inner = Txn { otherwise: vec![op], ..Txn::default() };
        let then = vec![TxnOp::Txn(Nested::new(inner))];
        write(Command::Txn(Txn { then, ..Txn::default() }))
    };
    let range = |range| TxnOp::Range(RangeRequest::new(range));
    let backwards = KeyRange::Between { first: "b".into(), before: "a".into() };
    let compare = |value: usize| {
        let (relation, target) = (Relation::Equal, Target::Value(vec![0; value].into()));
        let compare = vec![Compare { range: KeyRange::One("k".into()), relation, target }];
        write(Command::Txn(Txn { compare, ..Txn::default() }))
    };
    let future =
        RangeRequest { revision: Some(Revision(99)), ..RangeRequest::new(KeyRange::all()) };
    for (request, expected, words) in [
        (put(b"", "v"), Rejection::EmptyKey, "empty"),
        (put(b"123456789", "v"), Rejection::KeyTooLong, "9 bytes; at most 8"),
        (put(b"k", vec![0; 101]), Rejection::ValueTooLarge, "101 bytes; at most 100"),
        (get("", ReadLevel::Stale), Rejection::EmptyKey, "empty"),
        (between("b", "a"), Rejection::EmptyRange, "\"b\""),
        (between("b", "b"), Rejection::EmptyRange, "\"b\""),
        (within(TxnOp::Put(Put::new("", "v"))), Rejection::EmptyKey, "empty"),
        (within(TxnOp::Put(Put::new("123456789", "v"))), Rejection::KeyTooLong, "9 bytes"),
        (within(TxnOp::Put(Put::new("k", vec![0; 101]))), Rejection::ValueTooLarge, "101 bytes"),
        (within(range(KeyRange::One("123456789".into()))), Rejection::KeyTooLong, "9 bytes"),
        (within(range(backwards)), Rejection::EmptyRange, "\"b\""),
        (compare(101), Rejection::ValueTooLarge, "101 bytes"),
        (read(future, ReadLevel::Linearizable), Rejection::FutureRevision, "99"),
        (
            write(Command::Compact(Compact { revision: Revision(99) })),
            Rejection::FutureRevision,
            "99",
        ),
        (write(Command::Tick), Rejection::NotInSession, "session"),
        (tagged(1, Command::OpenSession { ttl_ms: 1 }), Rejection::NotInSession, "session"),
        (tagged(99, Command::Put(Put::new("k", "v"))), Rejection::SessionEnded, "99"),
        (write(Command::KeepSession(SessionId(99))), Rejection::SessionEnded, "99"),
        (write(Command::KeepLease(lease(9))), Rejection::NoSuchLease, "9"),
        (
            write(Command::Put(Put { lease: Field::Set(Some(lease(9))), ..Put::new("k", "v") })),
            Rejection::NoSuchLease,
            "9",
        ),
    ] {
        let error = running.error(&request);
        let ErrorReply::Rejected { kind, message } = &error else { panic!("{error:?}") };
        assert_eq!(*kind, expected, "{message}");
        assert!(message.contains(words), "{message}");
    }
    for bytes in [&b""[..], b"\x02", b"\x01\xff", b"\x01\x00\x00\x05a"] {
        let error = running.call_bytes(Bytes::from_static(bytes)).body.unwrap_err();
        let is_right = matches!(error, ErrorReply::Rejected { kind: Rejection::NotUnderstood, .. });
        assert!(is_right, "{error:?}");
    }
    // At the limits it is taken.
    let reply = running.call(&put(b"12345678", vec![0; 100]));
    assert!(matches!(reply.body, Ok(Answer::Written(_))), "{reply:?}");
    assert_eq!(reply.header.revision, Revision(2));
}

/// What only the store itself can know to make no sense. Nothing of it is done.
#[test]
fn what_the_store_refuses_is_told_by_name() {
    let running = Running::leading(config());
    for value in ["2", "3", "4"] {
        assert!(running.call(&put(b"k", value)).body.is_ok());
    }
    assert!(running.call(&write(Command::Compact(Compact { revision: Revision(3) }))).body.is_ok());
    let grant = || {
        let lease = Some(lease(7));
        write(Command::GrantLease(LeaseGrant { lease, ttl_ms: 60_000 }))
    };
    assert!(running.call(&grant()).body.is_ok());
    let opened = running.call(&write(Command::OpenSession { ttl_ms: 60_000 }));
    let Ok(Answer::Written(Outcome::Session { session, .. })) = opened.body else { panic!() };
    let numbered = |sequence, unacknowledged| {
        let session = Some(SessionTag { session, sequence, unacknowledged });
        Request::Write(Write { session, command: Command::Put(Put::new("s", "v")) })
    };
    assert!(running.call(&numbered(2, 2)).body.is_ok());
    let txn = |then: Vec<TxnOp>| write(Command::Txn(Txn { then, ..Txn::default() }));
    let put_op = |key: String| TxnOp::Put(Put::new(key, "v"));
    let kept = TxnOp::Put(Put { value: Field::Keep, ..Put::new("missing", "") });
    let at = |revision| {
        let all = RangeRequest::new(KeyRange::all());
        RangeRequest { revision: Some(Revision(revision)), ..all }
    };
    for (request, expected, words) in [
        (txn((0..129).map(|n| put_op(format!("k{n}"))).collect()), Rejection::TooMuch, "128"),
        (txn(vec![put_op("a".into()), put_op("a".into())]), Rejection::DuplicateKey, "\"a\""),
        (txn(vec![put_op("a".into()), kept]), Rejection::NoSuchKey, "\"missing\""),
        (txn(vec![TxnOp::Range(at(99))]), Rejection::FutureRevision, "99"),
        (grant(), Rejection::LeaseExists, "7"),
        (numbered(4_098, 2), Rejection::Sequence, "4098"),
        (numbered(1, 2), Rejection::Sequence, "1"),
    ] {
        let error = running.error(&request);
        let ErrorReply::Rejected { kind, message } = &error else { panic!("{error:?}") };
        assert_eq!(*kind, expected, "{message}");
        assert!(message.contains(words), "{message}");
    }
    let compact = |revision| write(Command::Compact(Compact { revision: Revision(revision) }));
    for (request, asked) in [
        (read(at(2), ReadLevel::Linearizable), 2),
        (read(at(2), ReadLevel::Stale), 2),
        (txn(vec![TxnOp::Range(at(1))]), 1),
        (compact(3), 3),
    ] {
        let (revision, compacted) = (Revision(asked), Revision(3));
        assert_eq!(running.error(&request), ErrorReply::Compacted { revision, compacted });
    }
    // Four puts were done, and nothing else.
    let reply = running.call(&get("a", ReadLevel::Linearizable));
    assert_eq!(reply.header.revision, Revision(5));
}

/// A node does not even decode what is nested deeper than anything that it would take; so its client says
/// what is wrong.
#[tokio::test]
async fn a_transaction_that_is_too_deep_is_refused_before_it_is_sent() {
    let running = Running::leading(config());
    let channel = Direct(running.service.clone());
    let client = Client::new(channel, vec!["n1:1".to_owned()], Duration::from_secs(10));
    let deep = |levels| {
        let innermost = vec![TxnOp::Put(Put::new("k", "v"))];
        let then = (1..levels).fold(innermost, |then, _| {
            vec![TxnOp::Txn(Nested::new(Txn { then, ..Txn::default() }))]
        });
        Txn { then, ..Txn::default() }
    };
    assert!(client.txn(deep(8)).await.unwrap().succeeded);
    let error = client.txn(deep(9)).await.unwrap_err();
    let ClientError::Rejected { kind, message } = &error else { panic!("{error:?}") };
    assert_eq!(*kind, Rejection::TooMuch, "{message}");
    assert!(message.contains("8 transactions in one another"), "{message}");
    let request = write(Command::Txn(deep(9)));
    let error = running.error(&request);
    assert!(matches!(error, ErrorReply::Rejected { kind: Rejection::NotUnderstood, .. }));
}

/// Rule C8.
#[test]
fn a_stale_read_is_not_answered_from_before_what_the_client_has_seen() {
    let running = Running::leading(config());
    let reply = running.call(&put(b"k", "v"));
    let seen = |index| {
        let request = RangeRequest::new(KeyRange::One("k".into()));
        Request::Range(Read { request, level: ReadLevel::Stale, min_applied: index })
    };
    assert!(running.call(&seen(reply.header.applied)).body.is_ok());
    let applied = reply.header.applied;
    assert_eq!(running.error(&seen(applied.next())), ErrorReply::Behind { applied });
}

#[test]
fn without_a_leader_there_are_stale_reads_and_status_only() {
    let running = Running::start(3, config());
    for request in [put(b"k", "v"), get("k", ReadLevel::Linearizable)] {
        let error = running.error(&request);
        assert!(matches!(error, ErrorReply::NotLeader { leader: None, .. }), "{error:?}");
    }
    let reply = running.call(&get("k", ReadLevel::Stale));
    assert!(matches!(reply.body, Ok(Answer::Range(_))), "{reply:?}");
    let Ok(Answer::Status(status)) = running.call(&Request::Status).body else { panic!() };
    assert_eq!((status.node_id, status.leader_id), (node(1), None));
    let Ok(Answer::Members(members)) = running.call(&Request::Members).body else { panic!() };
    assert_eq!(members.addresses()[&node(3)], "n3:1");
}

/// Rule C4.
#[test]
fn a_node_that_has_stopped_says_what_is_known() {
    let running = Running::leading(config());
    running.handle.stop(Duration::ZERO);
    running.handle.wait();
    let error = running.error(&put(b"k", "v"));
    assert!(matches!(error, ErrorReply::Unknown { .. }), "{error:?}");
    let error = running.error(&get("k", ReadLevel::Linearizable));
    assert!(matches!(error, ErrorReply::Unavailable { .. }), "{error:?}");
}

/// Rule R6: nobody reads by a lease unless a bound on clocks is set.
#[test]
fn each_level_is_as_fresh_as_it_says() {
    let running = Running::leading(config());
    assert!(running.call(&put(b"k", "v")).body.is_ok());
    let within = |entries, ms| ReadLevel::Within { entries, ms };
    for level in [
        ReadLevel::Linearizable,
        ReadLevel::Follower,
        ReadLevel::Stale,
        within(None, None),
        within(Some(0), None),
        within(None, Some(60_000)),
        within(Some(9), Some(0)),
    ] {
        let Ok(Answer::Range(found)) = running.call(&get("k", level)).body else {
            panic!("{level:?}")
        };
        assert_eq!(&found.kvs[0].value[..], b"v", "{level:?}");
    }
    let error = running.error(&get("k", ReadLevel::Lease));
    let ErrorReply::Rejected { kind, message } = error else { panic!("{error:?}") };
    assert_eq!(kind, Rejection::LeasesOff, "{message}");

    // One of three: it may have fallen behind by any time, but not by any number of known entries.
    let alone = Running::start(3, config());
    for level in [within(None, Some(60_000)), ReadLevel::Follower] {
        assert!(matches!(
            alone.error(&get("k", level)),
            ErrorReply::Busy { .. } | ErrorReply::NotLeader { .. }
        ));
    }
    assert!(alone.call(&get("k", within(Some(0), None))).body.is_ok());
}
