//! Some nodes in one process: their disks, their data, the network between them.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::testing::{MemDisk, MemMachine, MemNet, MemStore};
use raft_core::{
    Change, ChangeStep, Committed, Config, Handle, Index, LogId, Membership, Node, NodeId,
    NodeOptions, ReadLevel, RequestError, RoleName, StateMachine, Status, Ticks,
};

/// Long enough for the slowest machine. Nothing that works takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Waits until `what` yields something.
pub(crate) fn until<T>(why: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "still not so: {why}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a callback will be called with.
pub(crate) struct Answer<T>(Receiver<Result<T, RequestError>>);

impl<T> Answer<T> {
    pub(crate) fn get(self) -> Result<T, RequestError> {
        self.0.recv_timeout(PATIENCE).expect("every caller is answered, once")
    }
}

fn answer<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, RequestError>) + Send>),
) -> Answer<T> {
    let (sender, receiver) = channel();
    ask(Box::new(move |result| drop(sender.send(result))));
    Answer(receiver)
}

pub(crate) fn put(handle: &Handle, key: &str, value: &str) -> Answer<Committed> {
    let command = MemMachine::put(key.as_bytes(), value.as_bytes());
    propose(handle, command)
}

pub(crate) fn propose(handle: &Handle, command: Bytes) -> Answer<Committed> {
    answer(|done| handle.propose(command, done))
}

pub(crate) fn read(handle: &Handle, level: ReadLevel) -> Answer<Index> {
    answer(|done| handle.read_barrier(level, done))
}

pub(crate) fn change(handle: &Handle, steps: Vec<ChangeStep>) -> Answer<LogId> {
    answer(|done| handle.change_membership(Change { steps, expected_at: None }, done))
}

pub(crate) fn transfer(handle: &Handle, to: NodeId) -> Answer<()> {
    answer(|done| handle.transfer(to, done))
}

pub(crate) fn request_snapshot(handle: &Handle) -> Answer<()> {
    answer(|done| handle.request_snapshot(done))
}

/// Options of node `id`: an election timeout that a busy machine does not reach by itself.
pub(crate) fn options(id: u64) -> NodeOptions {
    let mut raft = Config::new(node(id));
    raft.election_timeout = Ticks(40);
    raft.heartbeat_interval = Ticks(4);
    let mut options = NodeOptions::new(raft);
    options.tick = Duration::from_millis(5);
    options
}

/// Some nodes. What is not stopped before is stopped with it.
#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) net: MemNet,
    pub(crate) disks: BTreeMap<u64, MemDisk>,
    pub(crate) stores: BTreeMap<u64, MemStore>,
    pub(crate) handles: BTreeMap<u64, Handle>,
}

impl Cluster {
    /// Founds a cluster of so many voters, and starts them.
    pub(crate) fn of(voters: u64) -> Self {
        Self::with(voters, |_| {})
    }

    /// The same, with other options.
    pub(crate) fn with(voters: u64, adjust: impl Fn(&mut NodeOptions)) -> Self {
        let mut cluster = Self::default();
        for id in 1..=voters {
            cluster.disks.insert(id, Self::founding_disk(voters));
            let mut options = options(id);
            adjust(&mut options);
            cluster.start(options);
        }
        cluster
    }

    /// The disk of a founding member of a cluster of so many.
    pub(crate) fn founding_disk(voters: u64) -> MemDisk {
        let addresses = (1..=voters).map(|id| (node(id), format!("host{id}:1")));
        MemDisk::founded(Membership::of_voters(addresses))
    }

    /// Starts a node, again or for the first time, on its disk and its data.
    pub(crate) fn start(&mut self, options: NodeOptions) {
        let machine = self.store(options.raft.id.as_u64()).machine();
        self.start_with(options, machine);
    }

    /// The same with a state machine of the test's own.
    pub(crate) fn start_with(&mut self, options: NodeOptions, machine: impl StateMachine) {
        let id = options.raft.id.as_u64();
        let disk = self.disks.entry(id).or_default();
        let transport = self.net.transport(node(id));
        let handle = Node::start(options, disk.log(), transport, machine).unwrap();
        self.handles.insert(id, handle);
    }

    pub(crate) fn store(&mut self, id: u64) -> MemStore {
        self.stores.entry(id).or_default().clone()
    }

    pub(crate) fn status(&self, id: u64) -> Status {
        self.handles[&id].status()
    }

    /// Waits for a leader of a later term than `after` whom a majority of those that run follow.
    pub(crate) fn leader_after(&self, after: u64) -> u64 {
        until("a leader is followed", || {
            let all: Vec<_> = self.running().map(Handle::status).collect();
            let leads = |status: &&Status| status.role == RoleName::Leader && status.term.0 > after;
            let leader = all.iter().filter(leads).max_by_key(|status| status.term)?;
            let follows = |status: &&Status| status.leader == Some(leader.id);
            let committed = leader.commit.0 > 0 && leader.applied == leader.commit;
            (committed && 2 * all.iter().filter(follows).count() > all.len())
                .then_some(leader.id.as_u64())
        })
    }

    pub(crate) fn leader(&self) -> &Handle {
        &self.handles[&self.leader_after(0)]
    }

    fn running(&self) -> impl Iterator<Item = &Handle> {
        self.handles.values().filter(|handle| handle.stopped().is_none())
    }

    /// Waits until all that run have applied the same and hold the same data.
    pub(crate) fn agrees(&self) {
        until("all have the same data", || {
            let applied: Vec<_> = self.running().map(|handle| handle.status().applied).collect();
            let same = applied.iter().all(|index| *index == applied[0]);
            let hash = |id: &u64| self.stores[id].hash();
            let up = |id: &&u64| self.handles[id].stopped().is_none();
            let hashes: Vec<_> = self.handles.keys().filter(up).map(hash).collect();
            (same && hashes.iter().all(|hash| *hash == hashes[0])).then_some(())
        });
    }

    /// Stops a node as a crash would: its disk and its data lose what is not durable.
    pub(crate) fn crash(&mut self, id: u64) {
        self.disks[&id].crash();
        let handle = self.handles.remove(&id).unwrap();
        handle.stop(Duration::ZERO);
        handle.wait();
        self.stores[&id].crash();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.disks.values().for_each(MemDisk::release);
        self.handles.values().for_each(|handle| handle.stop(Duration::ZERO));
        self.handles.values().for_each(|handle| drop(handle.wait()));
    }
}
