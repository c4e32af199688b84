//! What a cluster does by itself: a real node that leads, and others whose answers the test gives.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Membership, NodeId, PeerInfo};
use raft_kv::api::{Answer, NodeStatus, Rejection, Reply};
use raft_kv::client::{Channel, ChannelError, Client, ClientError, NotSentKind};
use raft_kv::{
    Alarm, Compact, KeyRange, KvConfig, MachineVersion, Put, Revision, RevisionDigest, Space,
    Upkeep,
};
use support::running::Running;
use support::{config, node};
use tokio::runtime::Runtime;

/// How another node answers.
#[derive(Clone, Copy)]
struct Other {
    supports: MachineVersion,
    space: Space,
    /// Whether it holds what the leader does.
    is_alike: bool,
}

const GOOD: Other =
    Other { supports: MachineVersion::SUPPORTED, space: Space::Enough, is_alike: true };

/// Reaches the node that leads, and the others as far as they answer.
#[derive(Clone)]
struct Stage {
    service: raft_kv::Service,
    others: Arc<Mutex<BTreeMap<NodeId, Other>>>,
}

impl Channel for Stage {
    async fn call(&self, address: &str, request: Bytes, _: Instant) -> Result<Bytes, ChannelError> {
        let away = || ChannelError::NotSent {
            kind: NotSentKind::Unreachable,
            message: format!("{address} is away"),
        };
        let id = node(address[1..2].parse().unwrap());
        let other = self.others.lock().unwrap().get(&id).copied();
        if other.is_none() && id != node(1) {
            return Err(away());
        }
        // The others hold what the first does, unless they are told otherwise.
        let (send, reply) = tokio::sync::oneshot::channel();
        self.service.call(request, move |bytes| drop(send.send(bytes)));
        let reply = reply.await.map_err(|_| away())?;
        Ok(other.map_or_else(|| reply.clone(), |other| other.says(id, &reply)))
    }
}

impl Other {
    fn says(self, id: NodeId, reply: &[u8]) -> Bytes {
        let mut reply = Reply::decode(reply).unwrap();
        match &mut reply.body {
            Ok(Answer::Status(NodeStatus { node_id, condition, .. })) => {
                *node_id = id;
                (condition.supports, condition.space) = (self.supports, self.space);
            }
            Ok(Answer::Digest(RevisionDigest { hash, .. })) if !self.is_alike => *hash ^= 1,
            Ok(_) | Err(_) => {}
        }
        reply.encode()
    }
}

struct Scene {
    running: Running,
    runtime: Runtime,
    client: Client<Stage>,
    stage: Stage,
}

impl Scene {
    /// A node that leads two learners, of which none answers yet.
    fn new(limits: KvConfig, upkeep: Upkeep) -> Self {
        let mut membership = Membership::of_voters([(node(1), "n1:1".to_owned())]);
        for id in [2, 3] {
            membership.learners.insert(node(id));
            let peer = PeerInfo { address: format!("n{id}:1"), ..PeerInfo::default() };
            membership.peers.insert(node(id), peer);
        }
        let running = Running::start_in(membership, limits).led();
        let runtime = Runtime::new().unwrap();
        let stage = Stage { service: running.service.clone(), others: Arc::default() };
        let client = Client::new(stage.clone(), vec!["n1:1".to_owned()], Duration::from_secs(10));
        let (service, channel) = (running.service.clone(), stage.clone());
        runtime.spawn(async move { service.look_after(channel, upkeep).await });
        Self { running, runtime, client, stage }
    }

    fn set(&self, id: u64, other: Other) {
        self.stage.others.lock().unwrap().insert(node(id), other);
    }

    fn put(&self, key: &str, value: &str) -> Result<Revision, ClientError> {
        let putting = self.client.put(key.to_owned(), value.to_owned());
        self.runtime.block_on(putting).map(|put| put.revision)
    }

    fn version(&self) -> MachineVersion {
        self.running.service.condition().version
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.running.service.condition().alarms
    }

    /// Waits until something is the case.
    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let since = Instant::now();
        while !is_so(self) {
            assert!(since.elapsed() < Duration::from_secs(30), "it never comes that {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn quiet() -> Upkeep {
    Upkeep { compare_every: None, ..Upkeep::default() }
}

/// Some rounds of looking after the cluster.
const A_WHILE: Duration = Duration::from_millis(2_500);

/// Rule C7.
#[test]
fn a_version_is_switched_on_once_every_member_supports_it() {
    let scene = Scene::new(config(), quiet());
    scene.set(2, GOOD);
    std::thread::sleep(A_WHILE);
    assert_eq!(scene.version(), MachineVersion::FIRST, "node 3 has said nothing");
    let clearing = scene.runtime.block_on(scene.client.clear_alarms(None));
    let error = clearing.unwrap_err();
    assert!(matches!(&error, ClientError::Rejected { kind: Rejection::NotActive, .. }), "{error}");
    scene.set(3, Other { supports: MachineVersion::FIRST, ..GOOD });
    std::thread::sleep(A_WHILE);
    assert_eq!(scene.version(), MachineVersion::FIRST, "node 3 does not support it");
    scene.set(3, GOOD);
    scene.until("it is on", |scene| scene.version() == MachineVersion::SUPPORTED);
    assert_eq!(scene.runtime.block_on(scene.client.clear_alarms(None)).unwrap(), []);
}

#[test]
fn a_node_that_differs_is_named_until_it_does_not() {
    let every = Some(Duration::from_millis(200));
    let scene = Scene::new(config(), Upkeep { compare_every: every, ..Upkeep::default() });
    [2, 3].into_iter().for_each(|id| scene.set(id, GOOD));
    scene.until("it is on", |scene| scene.version() == MachineVersion::SUPPORTED);
    let revision = scene.put("k", "v").unwrap();
    let comparison = scene.runtime.block_on(scene.client.compare(None)).unwrap();
    assert_eq!(comparison.revision, revision);
    assert!(comparison.is_complete() && comparison.diverging().is_empty(), "{comparison:?}");
    assert_eq!(scene.alarms(), []);

    scene.set(2, Other { is_alike: false, ..GOOD });
    scene.until("an alarm is raised", |scene| !scene.alarms().is_empty());
    assert_eq!(scene.alarms(), [Alarm::Diverged { node: node(2), revision }]);
    scene.set(2, GOOD);
    scene.until("it is cleared", |scene| scene.alarms().is_empty());
}

#[test]
fn puts_wait_for_the_node_that_has_no_space() {
    let scene = Scene::new(config(), quiet());
    [2, 3].into_iter().for_each(|id| scene.set(id, GOOD));
    scene.put("k", "v").unwrap();
    scene.set(3, Other { space: Space::Full, ..GOOD });
    scene.until("puts are refused", |scene| match scene.put("k", "w") {
        Ok(_) => false,
        Err(ClientError::Rejected { kind: Rejection::NoSpace, message }) => {
            assert!(message.contains("node 3"), "{message}");
            true
        }
        Err(error) => panic!("{error}"),
    });
    let range = KeyRange::One("k".into());
    assert_eq!(scene.runtime.block_on(scene.client.delete(range)).unwrap().deleted, 1);
    scene.set(3, Other { space: Space::Low, ..GOOD });
    scene.until("puts are taken again", |scene| scene.put("k", "w").is_ok());
}

#[test]
fn over_the_quota_deletes_and_compaction_make_room_again() {
    let limits = KvConfig { quota_bytes: Some(200_000), ..config() };
    let scene = Scene::new(limits, quiet());
    let value = "v".repeat(1_000);
    let mut written = 0;
    let error = loop {
        match scene.put(&format!("k{written}"), &value) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, ClientError::Rejected { kind: Rejection::NoSpace, .. }), "{error}");
    assert!((150..200).contains(&written), "{written}");
    assert_eq!(scene.alarms(), [Alarm::NoSpace { node: node(1) }]);
    // What adds nothing goes on: reads, deletes, transactions that only delete.
    let run = |future| scene.runtime.block_on(future);
    let txn = |puts: bool| {
        let put = raft_kv::TxnOp::Put(Put::new("k", "v"));
        let delete = raft_kv::DeleteRange { range: KeyRange::One("k0".into()), prev_kv: false };
        let then = vec![raft_kv::TxnOp::DeleteRange(delete)];
        let otherwise = if puts { vec![put] } else { vec![] };
        scene.client.txn(raft_kv::Txn { then, otherwise, ..raft_kv::Txn::default() })
    };
    let error = run(txn(true)).unwrap_err();
    assert!(matches!(&error, ClientError::Rejected { kind: Rejection::NoSpace, .. }), "{error}");
    assert!(run(txn(false)).unwrap().succeeded);
    let deleting = scene.client.delete(KeyRange::all());
    let revision = scene.runtime.block_on(deleting).unwrap().revision;
    scene.put("k", "v").unwrap_err();
    let Compact { revision } = Compact { revision };
    scene.runtime.block_on(scene.client.compact(revision)).unwrap();
    // Nothing else is written: it clears itself.
    scene.until("there is room", |scene| scene.alarms().is_empty());
    scene.put("k", "v").unwrap();
}

#[test]
fn older_history_than_is_to_be_kept_goes_by_itself() {
    let scene = Scene::new(config(), Upkeep { retain_revisions: Some(20), ..quiet() });
    let mut last = Revision(0);
    for round in 0..100 {
        last = scene.put("k", &round.to_string()).unwrap();
    }
    let at = |revision| {
        let mut request = raft_kv::RangeRequest::new(KeyRange::One("k".into()));
        request.revision = Some(revision);
        let level = raft_kv::api::ReadLevel::Linearizable;
        scene.runtime.block_on(scene.client.range(request, level))
    };
    scene.until("it is compacted", |_| {
        matches!(at(Revision(last.0 - 30)), Err(ClientError::Compacted { .. }))
    });
    assert_eq!(at(Revision(last.0 - 20)).unwrap().kvs.len(), 1);
}
