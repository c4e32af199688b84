//! Watches at a node that falls behind and is given a snapshot: each goes on without a gap, or is told
//! what it has missed and from where it can go on. Nothing is passed over in silence.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::testing::MemNet;
use raft_core::{
    ClusterId, Config, Identity, Incarnation, Index, Membership, NodeOptions, Payload, RoleName,
    StateMachine, Ticks,
};
use raft_kv::api::{Answer, ErrorReply, Reply, Request};
use raft_kv::client::{Channel, ChannelError, Client, ClientError, Watching};
use raft_kv::{
    Command, Compact, DeleteRange, KeyRange, KvConfig, Outcome, Put, Revision, Service, Txn, TxnOp,
    WatchRequest, Watched,
};
use support::direct::Direct;
use support::running::Running;
use support::story::{Story, key, line, some_range};
use support::{Arrived, Subject, config, node};
use tokio::runtime::Runtime;

/// A leader's store and a follower's, both led by hand, and clients that watch at the follower.
struct Scene {
    leader: Subject,
    follower: Subject,
    story: Story,
    now: Revision,
    compacted: Revision,
    service: Service,
    client: Client<Direct>,
    runtime: Runtime,
    /// The service answers watches from the follower's store; only the rest would concern this node.
    _node: Running,
}

impl Scene {
    fn new() -> Self {
        let (leader, follower) = (Subject::new(), Subject::with(small_replies()));
        let running = Running::leading(config());
        let identity =
            Identity { cluster: ClusterId(9), node: node(1), incarnation: Incarnation(1) };
        let service = Service::new(running.handle.clone(), follower.reader(), identity, "n1:1");
        let service = service.unwrap();
        let channel = Direct::new(&service, []);
        let client = Client::new(channel, vec!["n1:1".to_owned()], PATIENCE);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (story, now, compacted) = (Story::default(), Revision(1), Revision(0));
        Self { leader, follower, story, now, compacted, service, client, runtime, _node: running }
    }

    fn put(&mut self, key: &str, value: &str) {
        let put = Command::Put(Put::new(key.to_owned(), value.to_owned()));
        let Outcome::Put(outcome) = self.leader.run(put) else { panic!("not a put") };
        self.now = outcome.revision;
        self.story.set(self.now, key, Some(value));
    }

    fn delete(&mut self, range: KeyRange) {
        let delete = Command::DeleteRange(DeleteRange { range: range.clone(), prev_kv: false });
        let Outcome::DeleteRange(outcome) = self.leader.run(delete) else { panic!("no deletion") };
        self.now = outcome.revision;
        let keys: Vec<_> = self.story.now.keys().cloned().collect();
        for key in keys.iter().filter(|key| range.contains(key.as_bytes())) {
            self.story.set(self.now, key, None);
        }
    }

    /// Gives up the history through `revision`; some of it goes from the leader's disk.
    fn compact(&mut self, revision: Revision, steps: usize) {
        self.leader.run(Command::Compact(Compact { revision }));
        self.compacted = revision;
        (0..steps).for_each(|_| drop(self.leader.apply([Payload::Empty])));
    }

    /// The follower applies so many more entries.
    fn follow(&mut self, most: usize) {
        let applied = usize::try_from(self.follower.kv().applied().last.index.0).unwrap();
        let entries: Vec<_> = self.leader.log[applied..].iter().take(most).cloned().collect();
        self.follower.kv().apply(&entries, &mut Vec::new()).unwrap();
    }

    /// The follower is given a snapshot of all that the leader has, unless it has that itself.
    fn install(&mut self) {
        self.leader.flush();
        let mut source = self.leader.kv().snapshot().unwrap();
        assert_eq!(source.meta().last, self.leader.kv().applied().last);
        if source.meta().last > self.follower.kv().applied().last {
            self.follower.kv().restore(Box::new(Arrived::from(source.as_mut()))).unwrap();
        }
    }

    fn watch(&self, range: KeyRange, first: u64) -> Watching<Direct> {
        let from = Some(Revision(first));
        self.client.watch(WatchRequest { from, prev_kv: true, ..WatchRequest::new(range) })
    }

    /// Lets a watch begin, and catch up with the follower, which has nothing to tell it.
    fn begin(&self, watching: &mut Watching<Direct>) {
        let none = self.next_within(watching, Duration::from_millis(50));
        assert!(none.is_none(), "{none:?}");
    }

    fn next(&self, watching: &mut Watching<Direct>) -> Result<Watched, ClientError> {
        self.next_within(watching, PATIENCE).expect("something in time")
    }

    fn next_within(
        &self,
        watching: &mut Watching<Direct>,
        time: Duration,
    ) -> Option<Result<Watched, ClientError>> {
        let next = async { tokio::time::timeout(time, watching.next()).await.ok() };
        self.runtime.block_on(next)
    }

    /// The next events, so many and no more, in short.
    fn told(&self, watching: &mut Watching<Direct>, count: usize) -> String {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.extend(self.next(watching).unwrap().events.iter().map(line));
        }
        assert_eq!(lines.len(), count, "{lines:?}");
        lines.join(", ")
    }
}

fn small_replies() -> KvConfig {
    KvConfig { max_reply_bytes: 1 << 10, ..config() }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn who_has_caught_up_is_told_what_the_snapshot_brings() {
    let mut scene = Scene::new();
    scene.put("a", "1");
    scene.follow(1);
    let mut all = scene.watch(KeyRange::all(), 3);
    let mut one = scene.watch(KeyRange::One("a".into()), 3);
    [&mut all, &mut one].into_iter().for_each(|watching| scene.begin(watching));
    scene.put("a", "2");
    scene.put("b", "3");
    scene.delete(KeyRange::One("a".into()));
    scene.install();
    let expected = "a@3=2 (was 1), b@4=3, a@5 gone (was 2)";
    assert_eq!(scene.told(&mut all, 3), expected);
    assert_eq!(scene.told(&mut one, 2), "a@3=2 (was 1), a@5 gone (was 2)");
    // The old database is gone, and they go on in the new one, by entries and by the next snapshot.
    scene.put("a", "6");
    scene.follow(1);
    assert_eq!(scene.told(&mut all, 1), "a@6=6");
    scene.put("a", "7");
    scene.install();
    assert_eq!(scene.told(&mut all, 1), "a@7=7 (was 6)");
    assert_eq!(scene.told(&mut one, 2), "a@6=6, a@7=7 (was 6)");
}

/// History that the leader has given up cannot be told any more; whether it is still on the disk or not.
#[test]
fn who_misses_what_is_compacted_is_told_so() {
    let mut scene = Scene::new();
    scene.put("a", "1");
    scene.follow(1);
    let mut watching = scene.watch(KeyRange::all(), 3);
    scene.begin(&mut watching);
    for number in 3..=6 {
        scene.put("a", &number.to_string());
    }
    scene.compact(Revision(4), 2);
    scene.install();
    let error = scene.next(&mut watching).unwrap_err();
    let (revision, compacted) = (Revision(3), Revision(5));
    assert_eq!(error, ClientError::Compacted { revision, compacted });
    // It stays so, and what it names is where to begin.
    assert_eq!(scene.next(&mut watching).unwrap_err(), error);
    assert_eq!(watching.resume_from(), Some(revision));
    let mut next = scene.watch(KeyRange::all(), compacted.0);
    assert_eq!(scene.told(&mut next, 2), "a@5=5 (was 4), a@6=6 (was 5)");
}

/// What was handed out before the snapshot came is told, and then what is missing.
#[test]
fn what_waits_for_a_slow_watcher_is_told_first() {
    let mut scene = Scene::new();
    scene.put("a", "1");
    scene.follow(1);
    let mut watching = scene.watch(KeyRange::all(), 3);
    scene.begin(&mut watching);
    let mut quick = scene.watch(KeyRange::all(), 3);
    scene.begin(&mut quick);
    scene.put("a", "2");
    scene.put("a", "3");
    scene.follow(2);
    // The hub hands out to all of them before it goes on.
    scene.told(&mut quick, 2);
    scene.put("a", "4");
    scene.put("a", "5");
    scene.compact(Revision(5), 2);
    scene.install();
    assert_eq!(scene.told(&mut watching, 2), "a@3=2 (was 1), a@4=3 (was 2)");
    let error = scene.next(&mut watching).unwrap_err();
    let (revision, compacted) = (Revision(5), Revision(6));
    assert_eq!(error, ClientError::Compacted { revision, compacted });
}

/// Of a revision that does not fit into one reply the rest may be gone. Then nothing of it is passed on: a
/// revision is told as a whole.
#[test]
fn half_a_revision_is_not_told() {
    let mut scene = Scene::new();
    let puts = (0..20).map(|n| TxnOp::Put(Put::new(format!("k{n:02}"), "x".repeat(300))));
    let txn = Txn { compare: Vec::new(), then: puts.collect(), otherwise: Vec::new() };
    scene.leader.run(Command::Txn(txn));
    scene.follow(1);
    let request = WatchRequest { from: Some(Revision(2)), ..WatchRequest::new(KeyRange::all()) };
    let mut watch = scene.service.watch(&Request::Watch(request).encode());
    let mut next = |scene: &Scene| {
        let reply = scene.runtime.block_on(watch.next()).unwrap();
        Reply::decode(&reply).unwrap().body
    };
    let Ok(Answer::Watched(begun)) = next(&scene) else { panic!("it was to begin") };
    assert_eq!((begun.events.len(), begun.through), (0, Revision(1)));
    let Ok(Answer::Watched(part)) = next(&scene) else { panic!("it was to go on") };
    assert!(part.more && part.through == Revision(2), "{part:?}");
    scene.leader.run(Command::Put(Put::new("last", "1")));
    scene.compact(Revision(2), 2);
    scene.install();
    let (revision, compacted) = (Revision(2), Revision(3));
    assert_eq!(next(&scene), Err(ErrorReply::Compacted { revision, compacted }));
}

// Random histories.

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    DeleteAll,
    /// All but so many revisions are given up; so many entries later, of which each has some purged.
    Compact {
        keep: u64,
        steps: usize,
    },
    /// The follower applies so many entries.
    Follow(usize),
    /// The follower is given a snapshot.
    Install,
    /// A watch begins at the follower, so many revisions before what the leader has.
    Watch {
        range: u8,
        back: u64,
    },
    /// The watch reads what has come so far.
    Read(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..8_u8).prop_map(Step::Put),
        2 => (0..8_u8).prop_map(Step::Delete),
        1 => Just(Step::DeleteAll),
        2 => (0..8_u64, 0..3_usize).prop_map(|(keep, steps)| Step::Compact { keep, steps }),
        3 => (1..5_usize).prop_map(Step::Follow),
        3 => Just(Step::Install),
        3 => (0..6_u8, 0..10_u64).prop_map(|(range, back)| Step::Watch { range, back }),
        9 => (0..8_u8).prop_map(Step::Read),
    ]
}

/// A watch, and what it has told.
struct Told {
    watching: Watching<Direct>,
    range: KeyRange,
    first: Revision,
    lines: Vec<String>,
}

impl Told {
    fn begin(scene: &Scene, range: KeyRange, first: Revision) -> Self {
        let watching = scene.watch(range.clone(), first.0);
        Self { watching, range, first, lines: Vec::new() }
    }

    /// Reads once, for as long as that. `false` if nothing came.
    fn read(&mut self, scene: &Scene, time: Duration) -> bool {
        match scene.next_within(&mut self.watching, time) {
            Some(Ok(said)) => self.lines.extend(said.events.iter().map(line)),
            Some(Err(error)) => self.start_over(scene, &error),
            None => return false,
        }
        true
    }

    /// It has told everything before what it says is compacted, and goes on right after that.
    fn start_over(&mut self, scene: &Scene, error: &ClientError) {
        let ClientError::Compacted { revision, compacted } = *error else { panic!("{error}") };
        // In between nothing has happened to its keys.
        assert!(self.watching.resume_from() <= Some(revision), "{error}");
        assert!(revision < compacted && compacted <= scene.compacted.next(), "{error}");
        let before: Vec<_> = scene.story.of(&self.range, self.first, true);
        let rest = scene.story.of(&self.range, revision, true).len();
        assert_eq!(self.lines, before[..before.len() - rest], "all before {revision}");
        *self = Self::begin(scene, self.range.clone(), compacted);
    }

    /// Reads until it has told everything.
    fn finish(mut self, scene: &Scene) {
        while self.lines.len() < scene.story.of(&self.range, self.first, true).len() {
            assert!(self.read(scene, PATIENCE), "something in time");
        }
        assert_eq!(self.lines, scene.story.of(&self.range, self.first, true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// However the follower comes by what the leader has, each watch tells what happened to its keys, once
    /// and in order; or that it is compacted, after all that came before.
    #[test]
    fn nothing_is_passed_over_in_silence(steps in prop::collection::vec(step(), 20..80)) {
        let mut scene = Scene::new();
        let mut watches = Vec::<Told>::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(of) => {
                    let value = format!("{number}{}", "x".repeat(usize::from(of) * 20));
                    scene.put(&key(of), &value);
                }
                Step::Delete(of) => scene.delete(KeyRange::One(key(of).into())),
                Step::DeleteAll => scene.delete(KeyRange::all()),
                Step::Compact { keep, steps } => {
                    let revision = Revision(scene.now.0.saturating_sub(keep));
                    if revision > scene.compacted {
                        scene.compact(revision, steps);
                    }
                }
                Step::Follow(most) => scene.follow(most),
                Step::Install => scene.install(),
                Step::Watch { range, back } => {
                    let first = Revision((scene.now.0 + 1).saturating_sub(back).max(1));
                    watches.push(Told::begin(&scene, some_range(range), first));
                }
                Step::Read(of) => if let Some(told) = watches.get_mut(usize::from(of)) {
                    told.read(&scene, Duration::from_millis(2));
                },
            }
        }
        scene.follow(usize::MAX);
        for told in watches {
            told.finish(&scene);
        }
    }
}

/// Snapshots that arrive whenever they like, while watchers are told.
#[test]
fn snapshots_fall_in_with_whatever_watchers_do() {
    let mut scene = Scene::new();
    // The last revision that is to be told, once it is known.
    let last = Arc::new(AtomicU64::new(u64::MAX));
    let watchers: Vec<_> = (0..6_u8)
        .map(|range| {
            let (client, last) = (scene.client.clone(), Arc::clone(&last));
            scene.runtime.spawn(follow_along(client, some_range(range), last))
        })
        .collect();
    for round in 0..60_u32 {
        for number in 0..20_u8 {
            scene.put(&key(number % 8), &format!("{round}-{number}"));
            if number == 15 {
                scene.delete(KeyRange::prefix("k1"));
            }
        }
        // The watchers are mostly told before that is given up, but not always.
        let keep = if round % 5 == 0 { 8 } else { 60 };
        if scene.now.0 > scene.compacted.0 + keep {
            scene.compact(Revision(scene.now.0 - keep), usize::try_from(round % 3).unwrap());
        }
        if round % 3 == 0 {
            scene.follow(usize::MAX);
        } else {
            scene.follow(7);
            scene.install();
        }
    }
    scene.follow(usize::MAX);
    last.store(scene.now.0, Ordering::SeqCst);
    for (range, watcher) in (0..).map(some_range).zip(watchers) {
        let stretches = scene.runtime.block_on(watcher).unwrap();
        for Stretch { first, before, lines } in stretches {
            let of = |from| scene.story.of(&range, from, true);
            let expected = of(first);
            assert_eq!(lines, expected[..expected.len() - of(before).len()]);
        }
    }
}

/// What a watch has told: everything from one revision on, before another.
struct Stretch {
    first: Revision,
    before: Revision,
    lines: Vec<String>,
}

/// Watches through the revision `last`. Begins again after what is compacted before it was told.
async fn follow_along(
    client: Client<Direct>,
    range: KeyRange,
    last: Arc<AtomicU64>,
) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut first = Revision(2);
    loop {
        let request = WatchRequest {
            from: Some(first),
            prev_kv: true,
            progress_ms: Some(100),
            ..WatchRequest::new(range.clone())
        };
        let mut watching = client.watch(request);
        let mut lines = Vec::new();
        loop {
            match watching.next().await {
                Ok(said) => {
                    lines.extend(said.events.iter().map(line));
                    if said.through.0 >= last.load(Ordering::SeqCst) {
                        stretches.push(Stretch { first, before: said.through.next(), lines });
                        return stretches;
                    }
                }
                Err(ClientError::Compacted { revision, compacted }) => {
                    stretches.push(Stretch { first, before: revision, lines });
                    first = compacted;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

// A cluster of real nodes.

/// Three nodes whose logs are short, so that who is away for a moment needs a snapshot.
struct Trio {
    net: MemNet,
    nodes: Vec<Running>,
    runtime: Runtime,
}

/// Reaches each node by its address.
struct Everybody(BTreeMap<String, Direct>);

impl Channel for Everybody {
    async fn call(&self, to: &str, request: Bytes, until: Instant) -> Result<Bytes, ChannelError> {
        self.0[to].call(to, request, until).await
    }
}

impl Trio {
    fn start() -> Self {
        let net = MemNet::new();
        let voters = (1..=3).map(|id| (node(id), format!("n{id}:1")));
        let membership = Membership::of_voters(voters);
        let start = |id| {
            let raft = Config {
                election_timeout: Ticks(20),
                heartbeat_interval: Ticks(2),
                ..Config::new(node(id))
            };
            let options =
                NodeOptions { retain_entries: 8, compact_every: 8, ..NodeOptions::new(raft) };
            Running::start_on(net.transport(node(id)), options, membership.clone(), config())
        };
        let nodes = (1..=3).map(start).collect();
        let runtime = Runtime::new().unwrap();
        Self { net, nodes, runtime }
    }

    fn client(&self) -> Client<Everybody> {
        let reached =
            self.nodes.iter().enumerate().map(|(before, node)| {
                (format!("n{}:1", before + 1), Direct::new(&node.service, []))
            });
        let everybody = Everybody(reached.collect());
        Client::new(everybody, vec!["n1:1".to_owned()], PATIENCE).without_session()
    }

    fn others(&self, than: usize) -> impl Iterator<Item = &Running> {
        let others = self.nodes.iter().enumerate().filter(move |(number, _)| *number != than);
        others.map(|(_, node)| node)
    }

    /// Cuts a node off, and waits until it has noticed. Says how far its log goes.
    fn cut_off(&self, number: usize) -> Index {
        self.net.isolate(node(number as u64 + 1));
        let since = Instant::now();
        loop {
            let status = self.nodes[number].handle.status();
            if status.leader.is_none() {
                return status.last.index;
            }
            assert!(since.elapsed() < PATIENCE, "it believes in its leader");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Some node that follows.
    fn follower(&self) -> usize {
        let since = Instant::now();
        loop {
            let role = |node: &Running| node.handle.status().role;
            if self.nodes.iter().any(|node| role(node) == RoleName::Leader) {
                return self.nodes.iter().position(|node| role(node) != RoleName::Leader).unwrap();
            }
            assert!(since.elapsed() < PATIENCE, "nobody leads");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A follower is away again and again, for longer than the log reaches back. Its watcher is told what
/// happened meanwhile, or that it is compacted.
#[test]
fn a_follower_that_was_away_tells_everything() {
    let trio = Trio::start();
    let client = trio.client();
    let away = trio.follower();
    let at_follower = Direct::new(&trio.nodes[away].service, []);
    let watcher = Client::new(at_follower, vec!["here:1".to_owned()], PATIENCE);
    let from = |revision| WatchRequest {
        from: Some(revision),
        prev_kv: true,
        ..WatchRequest::new(KeyRange::all())
    };
    let mut watching = watcher.watch(from(Revision(2)));
    let mut story = Story::default();
    let (mut now, mut first, mut lines) = (Revision(1), Revision(2), Vec::new());
    for round in 0..6_u64 {
        let before = trio.nodes[away].store_in_use();
        let has = trio.cut_off(away);
        // What it lacks is in nobody's log any more.
        for number in 0_u32.. {
            assert!(number < 100_000, "the logs are not cut");
            if number > 40 && trio.others(away).all(|node| node.handle.status().base.index > has) {
                break;
            }
            let (key, value) =
                (key(u8::try_from(number % 8).unwrap()), format!("{round}-{number}"));
            let put = trio.runtime.block_on(client.put(key.clone(), value.clone())).unwrap();
            now = put.revision;
            story.set(now, &key, Some(&value));
        }
        let is_compacted = round % 2 == 1;
        if is_compacted {
            trio.runtime.block_on(client.compact(Revision(now.0 - 5))).unwrap();
        }
        trio.net.heal();
        while lines.len() < story.of(&KeyRange::all(), first, true).len() {
            let next = async { tokio::time::timeout(PATIENCE, watching.next()).await };
            match trio.runtime.block_on(next).expect("something in time") {
                Ok(said) => lines.extend(said.events.iter().map(line)),
                Err(ClientError::Compacted { revision, compacted }) => {
                    assert!(is_compacted && compacted.0 == now.0 - 4);
                    let all = story.of(&KeyRange::all(), first, true);
                    let missed = usize::try_from(now.0 - revision.0 + 1).unwrap();
                    assert_eq!(lines, all[..all.len() - missed], "all before {revision}");
                    (first, lines) = (compacted, Vec::new());
                    watching = watcher.watch(from(compacted));
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(lines, story.of(&KeyRange::all(), first, true));
        assert_ne!(trio.nodes[away].store_in_use(), before, "it was given a snapshot");
    }
}
