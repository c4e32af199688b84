//! Three nodes whose machines live in memory alone: each command counts once, whoever dies meanwhile, and
//! sessions end on all of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tally;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::sessions::{Numbers, SessionError, SessionId, SessionTag};
use raft_core::testing::{MemDisk, MemNet};
use raft_core::{
    Applied, Config, Entry, Index, MachineError, Membership, Node, NodeId, NodeOptions, RoleName,
    SnapshotReader, SnapshotSource, StateMachine, Ticks,
};
use raft_sessions::{Gate, GateError, Outcome, Request, Sessions};
use tally::{State, Tally};
use tempfile::TempDir;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    net: MemNet,
    disks: BTreeMap<u64, MemDisk>,
    dir: TempDir,
    gates: BTreeMap<u64, Gate>,
    /// What each node's machine holds.
    seen: BTreeMap<u64, Arc<Mutex<State>>>,
}

impl Cluster {
    fn start() -> Self {
        let disk = |id| (id, MemDisk::founded(Membership::of_voters(addresses())));
        let mut cluster = Self {
            net: MemNet::new(),
            disks: (1..=3).map(disk).collect(),
            dir: TempDir::new().unwrap(),
            gates: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        (1..=3).for_each(|id| cluster.start_node(id));
        cluster
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn start_node(&mut self, id: u64) {
        let mut raft = Config::new(node(id));
        (raft.election_timeout, raft.heartbeat_interval) = (Ticks(40), Ticks(4));
        let mut options = NodeOptions::new(raft);
        options.tick = Duration::from_millis(5);
        // So that nodes that were away get snapshots.
        (options.compact_every, options.retain_entries) = (20, 10);
        let sessions = Sessions::open(&self.path(id), Tally::default()).unwrap();
        let view = sessions.view();
        let seen = Arc::new(Mutex::new(sessions.machine().state.clone()));
        self.seen.insert(id, seen.clone());
        let (log, transport) = (self.disks[&id].log(), self.net.transport(node(id)));
        let handle = Node::start(options, log, transport, Shown { sessions, seen }).unwrap();
        self.gates.insert(id, Gate::start(handle, view).unwrap());
    }

    /// As the power would: the log keeps what was synced, the machine nothing.
    fn crash(&mut self, id: u64) {
        self.disks[&id].crash();
        let gate = self.gates.remove(&id).unwrap();
        gate.handle().stop(Duration::ZERO);
        gate.handle().wait();
    }

    fn leader(&self) -> Option<u64> {
        let leads = |gate: &Gate| gate.handle().status().role == RoleName::Leader;
        self.gates.iter().find(|(_, gate)| leads(gate)).map(|(id, _)| *id)
    }

    /// Sends `request` again and again until it has an outcome.
    fn ask(&self, request: &Request) -> Outcome {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for gate in self.gates.values() {
                if let Ok(outcome) = ask(gate, request) {
                    return outcome;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("no outcome of {request:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for gate in self.gates.values() {
            gate.handle().stop(Duration::ZERO);
            gate.handle().wait();
        }
    }
}

/// Sessions whose inner state a test can see.
struct Shown {
    sessions: Sessions<Tally>,
    seen: Arc<Mutex<State>>,
}

impl Shown {
    fn show(&self) {
        *self.seen.lock().unwrap() = self.sessions.machine().state.clone();
    }
}

impl StateMachine for Shown {
    fn applied(&self) -> Applied {
        self.sessions.applied()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        self.sessions.apply(entries, outcomes)?;
        self.show();
        Ok(())
    }

    fn durable(&mut self) -> Result<Index, MachineError> {
        self.sessions.durable()
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.sessions.snapshot()
    }

    fn restore(&mut self, snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        let applied = self.sessions.restore(snapshot)?;
        self.show();
        Ok(applied)
    }
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn addresses() -> Vec<(NodeId, String)> {
    (1..=3).map(|id| (node(id), format!("host{id}:1"))).collect()
}

fn ask(gate: &Gate, request: &Request) -> Result<Outcome, GateError> {
    let (sender, receiver) = channel();
    gate.propose(request.clone(), move |result| drop(sender.send(result)));
    receiver.recv_timeout(PATIENCE).expect("every request is answered, once")
}

fn open_session(cluster: &Cluster, ttl_ms: u64) -> SessionId {
    match cluster.ask(&Request::Open { ttl_ms }) {
        Outcome::Session { session, .. } => session,
        other @ (Outcome::Answer(_) | Outcome::Ticked | Outcome::Refused(_)) => panic!("{other:?}"),
    }
}

fn run(tag: SessionTag) -> Request {
    Request::Run { tag: Some(tag), command: "a".into() }
}

/// Rule C2. Every command is sent twice at least, and around each crash as often as it takes.
#[test]
fn a_command_counts_once_whoever_dies() {
    let mut cluster = Cluster::start();
    let mut numbers = Numbers::new(open_session(&cluster, 600_000));
    let mut expected = 0;
    let mut command = |cluster: &Cluster| {
        let tag = numbers.take().unwrap();
        expected += 1;
        let answer = Outcome::Answer(expected.to_string().into());
        assert_eq!(cluster.ask(&run(tag)), answer);
        assert_eq!(cluster.ask(&run(tag)), answer);
        numbers.done(tag);
    };
    for _ in 0..4 {
        (0..100).for_each(|_| command(&cluster));
        let start = Instant::now();
        let leader = loop {
            if let Some(leader) = cluster.leader() {
                break leader;
            }
            assert!(start.elapsed() < PATIENCE, "nobody leads");
        };
        cluster.crash(leader);
        (0..100).for_each(|_| command(&cluster));
        cluster.start_node(leader);
    }
    let start = Instant::now();
    loop {
        let states: Vec<_> =
            cluster.seen.values().map(|seen| seen.lock().unwrap().clone()).collect();
        if states.iter().all(|state| *state == states[0]) {
            assert_eq!(states[0].counters[&Bytes::from("a")], 800);
            break;
        }
        assert!(start.elapsed() < PATIENCE, "nodes differ: {states:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nobody does anything but the clock.
#[test]
fn a_session_ends_by_itself() {
    let cluster = Cluster::start();
    let session = open_session(&cluster, 1_000);
    let start = Instant::now();
    let tag = SessionTag { session, sequence: 1, unacknowledged: 1 };
    let keeper = Outcome::Session { session, ttl_ms: 1_000 };
    while start.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(cluster.ask(&Request::Keep(session)), keeper);
        std::thread::sleep(Duration::from_millis(100));
    }
    // Its end is seen in the books of every node, not only when somebody asks.
    while cluster.gates.values().any(|gate| !gate.view().clock().1) {
        assert!(start.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = Outcome::Refused(SessionError::Ended { session });
    assert_eq!(cluster.ask(&run(tag)), ended);
}
