//! Three nodes in this process: started, and compared with what was acknowledged.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use raft_core::testing::MemNet;
use raft_core::{
    ClusterId, Config, Handle, Identity, Incarnation, Index, LogReader, LogStore, Membership, Node,
    NodeId, NodeOptions, Payload, RoleName, SnapshotMeta, StateMachine, Ticks,
};
use raft_kv::{Kv, KvConfig, KvReader};
use raft_log::{DataDir, RocksLog, RocksLogConfig};
use tempfile::TempDir;

use crate::idle::{Count, Idle};
use crate::load::Acknowledged;

/// What is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    /// The key-value store.
    Store,
    /// Nothing.
    Idle,
}

/// Three nodes. Stopped when dropped.
pub(crate) struct Trio {
    nodes: Vec<Member>,
    leader: usize,
    /// Dropped last: the data is in it.
    _dir: TempDir,
}

struct Member {
    handle: Handle,
    log: Box<dyn LogReader>,
    contents: Contents,
    /// Locks the directory for as long as the node runs.
    _dir: DataDir,
}

/// What a node holds.
enum Contents {
    Store(KvReader),
    Idle(Count),
}

impl Machine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Store => "the key-value store",
            Self::Idle => "one that does nothing",
        }
    }
}

impl Trio {
    /// Starts three nodes without data and waits until one leads.
    pub(crate) fn start(machine: Machine, data: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("bench-in-process-").tempdir_in(data);
        let dir = dir.map_err(|error| format!("cannot use {}: {error}", data.display()))?;
        let net = MemNet::new();
        let ids = (1..=3).filter_map(NodeId::new);
        let members = Membership::of_voters(ids.clone().map(|id| (id, format!("n{id}:1"))));
        let founding = SnapshotMeta { membership: members, ..SnapshotMeta::default() };
        let nodes = ids.map(|id| {
            Member::start(id, machine, &net, &founding, &dir.path().join(id.to_string()))
        });
        let mut trio = Self { nodes: nodes.collect::<Result<_, _>>()?, leader: 0, _dir: dir };
        let leads = |trio: &Self| {
            let mut roles = trio.nodes.iter().map(|node| node.handle.status().role);
            roles.position(|role| role == RoleName::Leader)
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(leader) = leads(&trio) {
                trio.leader = leader;
                return Ok(trio);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("no node leads".to_owned())
    }

    pub(crate) fn leader(&self) -> &Handle {
        &self.nodes[self.leader].handle
    }

    /// Compares what all three nodes hold with each other and with what was acknowledged.
    pub(crate) fn check(&self, acknowledged: &Acknowledged) -> Result<(), String> {
        let (last, command) = acknowledged.last.as_ref().ok_or("nothing was acknowledged")?;
        let mut hashes = Vec::new();
        for node in &self.nodes {
            let id = node.handle.status().id;
            node.await_applied(last.index)?;
            let read = node.log.read(last.index, 1, usize::MAX);
            let read = read.map_err(|error| format!("node {id}: {error}"))?;
            let found = read.first().filter(|entry| entry.id == *last);
            if found.is_none_or(|entry| entry.payload != Payload::Command(command.clone())) {
                return Err(format!("node {id} has {found:?} in its log at {last}"));
            }
            match &node.contents {
                Contents::Idle(count) if count.get() == acknowledged.count => {}
                Contents::Idle(count) => {
                    let (has, expected) = (count.get(), acknowledged.count);
                    return Err(format!("node {id} has applied {has} of {expected} writes"));
                }
                Contents::Store(store) => {
                    read_back(store, acknowledged).map_err(|what| format!("node {id}: {what}"))?;
                    let digest = store.digest().map_err(|error| format!("node {id}: {error}"))?;
                    hashes.push(digest.hash);
                }
            }
        }
        if hashes.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(());
        }
        Err(format!("the nodes differ: {hashes:x?}"))
    }
}

impl Member {
    fn start(
        id: NodeId,
        machine: Machine,
        net: &MemNet,
        founding: &SnapshotMeta,
        path: &Path,
    ) -> Result<Self, String> {
        let failed = |what: &dyn std::fmt::Display| format!("node {id}: {what}");
        let identity = Identity { cluster: ClusterId(1), node: id, incarnation: Incarnation(1) };
        let config = RocksLogConfig::default();
        let mut dir = DataDir::open(path).map_err(|error| failed(&error))?;
        dir.initialise(identity, founding, &config).map_err(|error| failed(&error))?;
        let log = RocksLog::open(&dir, config).map_err(|error| failed(&error))?;
        let reader = log.reader();
        let (handle, contents) = match machine {
            Machine::Store => {
                let kv = Kv::open(&path.join("kv"), KvConfig::default());
                let kv = kv.map_err(|error| failed(&error))?;
                let contents = Contents::Store(kv.reader());
                (launch(identity, log, net, kv)?, contents)
            }
            Machine::Idle => {
                let idle = Idle::default();
                let contents = Contents::Idle(idle.count());
                (launch(identity, log, net, idle)?, contents)
            }
        };
        Ok(Self { handle, log: reader, contents, _dir: dir })
    }

    fn await_applied(&self, index: Index) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while self.handle.status().applied < index {
            if let Some(cause) = self.handle.stopped() {
                return Err(format!("a node has stopped: {cause}"));
            }
            if Instant::now() > deadline {
                return Err("a node does not catch up".to_owned());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// With the timers that `raft serve` has.
fn launch(
    identity: Identity,
    log: RocksLog,
    net: &MemNet,
    machine: impl StateMachine,
) -> Result<Handle, String> {
    let raft = Config {
        election_timeout: Ticks(30),
        heartbeat_interval: Ticks(5),
        ..Config::new(identity.node)
    };
    let started = Node::start(NodeOptions::new(raft), log, net.join(identity), machine);
    started.map_err(|error| format!("node {}: {error}", identity.node))
}

/// Whether the last write of each key of the sample is there.
fn read_back(store: &KvReader, acknowledged: &Acknowledged) -> Result<(), String> {
    for (key, (id, value)) in &acknowledged.sample {
        let found = store.get(key.clone()).map_err(|error| error.to_string())?;
        if found.is_none_or(|found| found.value != *value) {
            return Err(format!("{key:?} is not what was acknowledged at {id}"));
        }
    }
    Ok(())
}

impl Drop for Trio {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.handle.stop(Duration::ZERO);
        }
        for node in &self.nodes {
            node.handle.wait();
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
