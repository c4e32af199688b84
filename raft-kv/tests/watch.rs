//! Watches, from a client's side: every event once, in order, each revision whole; whoever is slow, and
//! whatever breaks on the way.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;

use proptest::prelude::*;
use raft_kv::api::{ErrorReply, Rejection, Reply, Request};
use raft_kv::client::{Client, ClientError, Watching};
use raft_kv::{
    DeleteRange, EventFilter, KeyRange, KvConfig, Put, Revision, Txn, TxnOp, WatchRequest, Watched,
};
use support::config;
use support::direct::Direct;
use support::running::Running;
use support::story::{Story, key, line, some_range};
use tokio::runtime::Runtime;

struct Scene {
    running: Running,
    runtime: Runtime,
    client: Client<Direct>,
}

impl Scene {
    fn new(limits: KvConfig) -> Self {
        Self::with(limits, [])
    }

    fn with(limits: KvConfig, breaks: impl IntoIterator<Item = u32>) -> Self {
        let running = Running::leading(limits);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let channel = Direct::new(&running.service, breaks);
        let client = Client::new(channel, vec!["n1:1".to_owned()], PATIENCE);
        Self { running, runtime, client }
    }

    fn put(&self, key: &str, value: &str) -> Revision {
        let putting = self.client.put(key.to_owned(), value.to_owned());
        self.runtime.block_on(putting).unwrap().revision
    }

    fn delete(&self, range: KeyRange) -> Revision {
        self.runtime.block_on(self.client.delete(range)).unwrap().revision
    }

    fn watch(&self, request: WatchRequest) -> Watching<Direct> {
        self.client.watch(request)
    }

    fn next(&self, watching: &mut Watching<Direct>) -> Result<Watched, ClientError> {
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, watching.next()).await.expect("something in time")
        })
    }

    /// The next piece, in short.
    fn told(&self, watching: &mut Watching<Direct>) -> String {
        let said = self.next(watching).unwrap();
        said.events.iter().map(line).collect::<Vec<_>>().join(", ")
    }

    /// Lets a watch that begins now begin.
    fn begin(&self, watching: &mut Watching<Direct>) {
        self.runtime.block_on(async {
            let none = tokio::time::timeout(Duration::from_millis(50), watching.next()).await;
            assert!(none.is_err(), "{none:?}");
        });
        assert!(watching.resume_from().is_some());
    }
}

fn from(range: KeyRange, revision: u64) -> WatchRequest {
    WatchRequest { from: Some(Revision(revision)), ..WatchRequest::new(range) }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn events_come_as_they_happen() {
    let scene = Scene::new(config());
    scene.put("a1", "old");
    let mut one = scene.watch(WatchRequest::new(KeyRange::One("a1".into())));
    let with_prev = WatchRequest { prev_kv: true, ..WatchRequest::new(KeyRange::prefix("a")) };
    let mut all = scene.watch(with_prev);
    let filter = EventFilter { no_put: true, no_delete: false };
    let no_put = WatchRequest { filter, ..WatchRequest::new(KeyRange::From("a2".into())) };
    let mut gone = scene.watch(no_put);
    [&mut one, &mut all, &mut gone].into_iter().for_each(|watching| scene.begin(watching));

    scene.put("a1", "new");
    scene.put("b", "x");
    scene.put("a2", "y");
    scene.delete(KeyRange::prefix("a"));
    let mut told: Vec<String> = Vec::new();
    while told.concat().matches('@').count() < 4 {
        told.push(scene.told(&mut all));
    }
    let expected = "a1@3=new (was old), a2@5=y, a1@6 gone (was new), a2@6 gone (was y)";
    assert_eq!(told.join(", "), expected);
    let mut told = vec![scene.told(&mut one)];
    if !told[0].contains("gone") {
        told.push(scene.told(&mut one));
    }
    assert_eq!(told.join(", "), "a1@3=new, a1@6 gone");
    assert_eq!(scene.told(&mut gone), "a2@6 gone");
}

#[test]
fn a_transaction_is_told_as_one() {
    let scene = Scene::new(config());
    let mut watching = scene.watch(WatchRequest::new(KeyRange::all()));
    scene.begin(&mut watching);
    scene.put("gone", "1");
    let txn = Txn {
        compare: Vec::new(),
        then: vec![
            TxnOp::Put(Put::new("z", "1")),
            TxnOp::DeleteRange(DeleteRange { range: KeyRange::One("gone".into()), prev_kv: false }),
            TxnOp::Put(Put::new("a", "2")),
        ],
        otherwise: Vec::new(),
    };
    assert_eq!(scene.told(&mut watching), "gone@2=1");
    scene.runtime.block_on(scene.client.txn(txn)).unwrap();
    assert_eq!(scene.told(&mut watching), "z@3=1, gone@3 gone, a@3=2");
}

#[test]
fn the_past_is_told_as_far_as_it_is_kept() {
    let scene = Scene::new(config());
    for number in 2..=6 {
        assert_eq!(scene.put("k", &number.to_string()), Revision(number));
    }
    let key = || KeyRange::One("k".into());
    let mut watching = scene.watch(from(key(), 1));
    assert_eq!(scene.told(&mut watching), "k@2=2, k@3=3, k@4=4, k@5=5, k@6=6");
    scene.put("k", "7");
    assert_eq!(scene.told(&mut watching), "k@7=7");
    assert_eq!(watching.resume_from(), Some(Revision(8)));
    let mut future = scene.watch(from(key(), 9));
    scene.begin(&mut future);
    scene.put("k", "8");
    scene.put("k", "9");
    assert_eq!(scene.told(&mut future), "k@9=9");

    scene.runtime.block_on(scene.client.compact(Revision(5))).unwrap();
    for revision in [0, 2, 5] {
        let error = scene.next(&mut scene.watch(from(key(), revision))).unwrap_err();
        let (revision, compacted) = (Revision(revision), Revision(6));
        assert_eq!(error, ClientError::Compacted { revision, compacted });
    }
    // What it names is where to begin.
    assert_eq!(scene.told(&mut scene.watch(from(key(), 6))), "k@6=6, k@7=7, k@8=8, k@9=9");
}

/// Nothing waits for a watcher that does not read, and it misses nothing.
#[test]
fn a_slow_watcher_reads_history() {
    let scene = Scene::new(config());
    let mut slow = scene.watch(WatchRequest::new(KeyRange::all()));
    scene.begin(&mut slow);
    let value = "x".repeat(1 << 10);
    // Four times what a queue holds.
    let last = (0..1_000).map(|number| scene.put(&format!("k{number}"), &value)).last().unwrap();
    let (mut next, mut pieces) = (Revision(2), 0);
    while next <= last {
        let said = scene.next(&mut slow).unwrap();
        for event in &said.events {
            assert_eq!(event.revision(), next);
            next = next.next();
        }
        assert_eq!(said.through.next(), next);
        pieces += 1;
    }
    assert!(pieces > 1);
    scene.put("after", "1");
    assert_eq!(scene.told(&mut slow), format!("after@{next}=1"));
}

/// A revision that does not fit into one reply is still one to the client, also if the line breaks in
/// the middle of it.
#[test]
fn a_large_revision_is_told_whole() {
    let limits = KvConfig { max_reply_bytes: 1 << 10, ..config() };
    let scene = Scene::with(limits, [3, 4]);
    for number in 0..20 {
        scene.put(&format!("k{number:02}"), &"x".repeat(300));
    }
    let deleted = scene.delete(KeyRange::prefix("k"));
    let mut watching =
        scene.watch(WatchRequest { prev_kv: true, ..from(KeyRange::all(), deleted.0) });
    let said = scene.next(&mut watching).unwrap();
    assert_eq!((said.events.len(), said.through), (20, deleted));
    assert!(said.events.iter().all(|event| event.prev_kv.is_some()));
    scene.put("last", "1");
    assert_eq!(scene.told(&mut watching), "last@23=1");
}

#[test]
fn word_of_progress_comes_when_nothing_happens() {
    let scene = Scene::new(config());
    let request =
        WatchRequest { progress_ms: Some(100), ..WatchRequest::new(KeyRange::prefix("a")) };
    let mut watching = scene.watch(request);
    scene.put("b", "1");
    let mut through = Revision(0);
    while through < Revision(2) {
        let said = scene.next(&mut watching).unwrap();
        assert!(said.events.is_empty() && said.through >= through);
        through = said.through;
    }
    scene.put("a", "1");
    let told = loop {
        let told = scene.told(&mut watching);
        if !told.is_empty() {
            break told;
        }
    };
    assert_eq!(told, "a@3=1");
}

#[test]
fn a_watch_that_makes_no_sense_is_refused() {
    let scene = Scene::new(KvConfig { max_watches: 1, max_key_bytes: 8, ..config() });
    let between = KeyRange::Between { first: "b".into(), before: "a".into() };
    let often = WatchRequest { progress_ms: Some(99), ..WatchRequest::new(KeyRange::all()) };
    for (request, expected, words) in [
        (WatchRequest::new(KeyRange::One("".into())), Rejection::EmptyKey, "empty"),
        (WatchRequest::new(KeyRange::One("123456789".into())), Rejection::KeyTooLong, "9 bytes"),
        (WatchRequest::new(between), Rejection::EmptyRange, "\"b\""),
        (often, Rejection::TooMuch, "99 ms"),
    ] {
        let error = scene.next(&mut scene.watch(request)).unwrap_err();
        let ClientError::Rejected { kind, message } = &error else { panic!("{error:?}") };
        assert_eq!(*kind, expected, "{message}");
        assert!(message.contains(words), "{message}");
    }
    // Where there is room for one reply there is none for a watch, and the other way round.
    let request = Request::Watch(WatchRequest::new(KeyRange::all()));
    assert!(matches!(scene.running.error(&request), ErrorReply::Rejected { .. }));
    let ask = |bytes: &[u8]| {
        let mut watch = scene.running.service.watch(bytes);
        let reply = scene.runtime.block_on(watch.next()).unwrap();
        assert_eq!(scene.runtime.block_on(watch.next()), None);
        Reply::decode(&reply).unwrap().body.unwrap_err()
    };
    for bytes in [&Request::Status.encode()[..], b"", b"\x02\x63", b"\xff"] {
        assert!(matches!(ask(bytes), ErrorReply::Rejected { kind: Rejection::NotUnderstood, .. }));
    }
    let ahead =
        WatchRequest { min_applied: raft_core::Index(999), ..WatchRequest::new(KeyRange::all()) };
    assert!(matches!(ask(&Request::Watch(ahead).encode()), ErrorReply::Behind { .. }));
    let place = scene.running.service.watch(&request.encode());
    assert!(matches!(ask(&request.encode()), ErrorReply::Busy { .. }));
    drop(place);
    let mut watching = scene.watch(WatchRequest::new(KeyRange::all()));
    scene.begin(&mut watching);
}

#[test]
fn a_node_that_stops_sends_its_watchers_away() {
    let mut scene = Scene::new(config());
    let request = Request::Watch(WatchRequest::new(KeyRange::all())).encode();
    let mut watch = scene.running.service.watch(&request);
    assert!(scene.runtime.block_on(watch.next()).is_some());
    scene.running.handle.stop(Duration::ZERO);
    let last = scene.runtime.block_on(async {
        tokio::time::timeout(PATIENCE, watch.next()).await.expect("an end in time").unwrap()
    });
    let error = Reply::decode(&last).unwrap().body.unwrap_err();
    assert!(matches!(error, ErrorReply::Unavailable { .. }), "{error:?}");
    assert_eq!(scene.runtime.block_on(watch.next()), None);
    scene.client = scene.client.with_timeout(Duration::from_millis(300));
    let mut watching = scene.watch(WatchRequest::new(KeyRange::all()));
    let mut error = scene.next(&mut watching);
    if error.is_ok() {
        error = scene.next(&mut watching);
    }
    assert!(matches!(error, Err(ClientError::Unreachable { .. })), "{error:?}");
}

// Random histories.

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    DeleteAll,
    Compact,
    /// A watch begins: of which keys, from so many revisions ago, with what it was before.
    Watch {
        range: u8,
        back: u64,
        prev_kv: bool,
    },
    /// The watch reads what has come so far.
    Read(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..8_u8).prop_map(Step::Put),
        2 => (0..8_u8).prop_map(Step::Delete),
        1 => Just(Step::DeleteAll),
        1 => Just(Step::Compact),
        3 => (0..6_u8, 0..10_u64, any::<bool>())
            .prop_map(|(range, back, prev_kv)| Step::Watch { range, back, prev_kv }),
        3 => (0..8_u8).prop_map(Step::Read),
    ]
}

struct Told {
    watching: Watching<Direct>,
    range: KeyRange,
    first: Revision,
    prev_kv: bool,
    lines: Vec<String>,
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happens, whoever reads when, and wherever lines break: each watch tells what happened to
    /// its keys from its first revision on, once and in order; or that it is compacted.
    #[test]
    fn watches_tell_what_happened(
        steps in prop::collection::vec(step(), 1..60),
        breaks in prop::collection::vec(0..6_u32, 0..40),
    ) {
        let limits = KvConfig { max_reply_bytes: 1 << 10, ..config() };
        let scene = Scene::with(limits, breaks);
        let (mut story, mut watches) = (Story::default(), Vec::<Told>::new());
        let (mut now, mut compacted, mut count) = (Revision(1), Revision(0), 0);
        for step in steps {
            match step {
                Step::Put(number) => {
                    count += 1;
                    let value = format!("{count}{}", "x".repeat(usize::from(number) * 20));
                    now = scene.put(&key(number), &value);
                    story.set(now, &key(number), Some(&value));
                }
                Step::Delete(number) => {
                    let deleted = scene.delete(KeyRange::One(key(number).into()));
                    if deleted > now {
                        now = deleted;
                        story.set(now, &key(number), None);
                    }
                }
                Step::DeleteAll => {
                    let deleted = scene.delete(KeyRange::all());
                    if deleted > now {
                        now = deleted;
                        let keys: Vec<_> = story.now.keys().cloned().collect();
                        keys.iter().for_each(|key| story.set(now, key, None));
                    }
                }
                Step::Compact if now.0 > compacted.0 + 3 => {
                    compacted = Revision(now.0 - 3);
                    scene.runtime.block_on(scene.client.compact(compacted)).unwrap();
                }
                Step::Watch { range, back, prev_kv } => {
                    let range = some_range(range);
                    let first = Revision((now.0 + 1).saturating_sub(back).max(1));
                    let request = WatchRequest { prev_kv, ..from(range.clone(), first.0) };
                    let watching = scene.watch(request);
                    watches.push(Told { watching, range, first, prev_kv, lines: Vec::new() });
                }
                Step::Read(number) => {
                    let Some(told) = watches.get_mut(usize::from(number)) else { continue };
                    let next = scene.runtime.block_on(async {
                        let soon = Duration::from_millis(2);
                        tokio::time::timeout(soon, told.watching.next()).await
                    });
                    match next {
                        Ok(Ok(said)) => told.lines.extend(said.events.iter().map(line)),
                        Ok(Err(ClientError::Compacted { .. })) => {
                            prop_assert!(told.watching.resume_from().unwrap() <= compacted);
                            watches.remove(usize::from(number));
                        }
                        Ok(Err(error)) => panic!("{error}"),
                        Err(_) => {}
                    }
                }
                Step::Compact => {}
            }
        }
        for mut told in watches {
            let expected = story.of(&told.range, told.first, told.prev_kv);
            while told.lines.len() < expected.len() {
                match scene.next(&mut told.watching) {
                    Ok(said) => told.lines.extend(said.events.iter().map(line)),
                    Err(ClientError::Compacted { .. }) => {
                        prop_assert!(told.watching.resume_from().unwrap() <= compacted);
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            prop_assert_eq!(&told.lines[..], &expected[..told.lines.len()]);
        }
    }
}
