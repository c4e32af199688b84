//! A whole node of one, with the store as its machine.

use std::fs;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    ClusterId, Config, Handle, Identity, Inbox, Incarnation, Membership, Node, NodeOptions, Peers,
    RoleName, Sent, SnapshotHeader, SnapshotMeta, SnapshotSource, SnapshotTicket, Ticks, Transport,
};
use raft_kv::api::{ErrorReply, Reply, Request};
use raft_kv::{Kv, KvConfig, Service};
use tempfile::TempDir;

use super::log::MemLog;
use super::{node, tempdir};

/// A network without anybody on it.
struct Nobody;

impl Transport for Nobody {
    fn start(&mut self, _: Inbox) {}

    fn send(&self, _: raft_core::Envelope) -> Sent {
        Sent::Unreachable
    }

    fn send_snapshot(&self, _: SnapshotHeader, _: Box<dyn SnapshotSource>) -> SnapshotTicket {
        SnapshotTicket(0)
    }

    fn set_peers(&self, _: &Peers) {}
}

/// A node that runs, until it is dropped.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) service: Service,
    // Dropped last: the store is in it.
    dir: TempDir,
}

impl Running {
    /// A node among `voters`, of which only it runs.
    pub(crate) fn start(voters: u64, kv: KvConfig) -> Self {
        let voters = (1..=voters).map(|id| (node(id), format!("n{id}:1")));
        Self::start_in(Membership::of_voters(voters), kv)
    }

    /// A node in a cluster of these.
    pub(crate) fn start_in(membership: Membership, kv: KvConfig) -> Self {
        let raft = Config {
            election_timeout: Ticks(4),
            heartbeat_interval: Ticks(1),
            ..Config::new(node(1))
        };
        let options = NodeOptions { seed: Some(1), ..NodeOptions::new(raft) };
        Self::start_on(Nobody, options, membership, kv)
    }

    /// A node in a cluster of these, on this network.
    pub(crate) fn start_on(
        net: impl Transport,
        options: NodeOptions,
        membership: Membership,
        kv: KvConfig,
    ) -> Self {
        let (dir, id) = (tempdir(), options.raft.id);
        let kv = Kv::open(dir.path(), kv).unwrap();
        let reader = kv.reader();
        let founding = SnapshotMeta { membership, ..SnapshotMeta::default() };
        let handle = Node::start(options, MemLog::new(founding), net, kv).unwrap();
        let identity = Identity { cluster: ClusterId(9), node: id, incarnation: Incarnation(1) };
        let service = Service::new(handle.clone(), reader, identity, format!("n{id}:1")).unwrap();
        Self { handle, service, dir }
    }

    /// Which of its databases the store uses: another one since each snapshot.
    pub(crate) fn store_in_use(&self) -> String {
        fs::read_to_string(self.dir.path().join("CURRENT")).unwrap()
    }

    /// A node on its own, which leads.
    pub(crate) fn leading(kv: KvConfig) -> Self {
        Self::start(1, kv).led()
    }

    /// The same, once it leads.
    pub(crate) fn led(self) -> Self {
        let running = self;
        let (send, leads) = channel();
        running.handle.subscribe(move |status| send.send(status.role == RoleName::Leader).is_ok());
        while !leads.recv_timeout(Duration::from_secs(10)).unwrap() {}
        running
    }

    pub(crate) fn call_bytes(&self, request: Bytes) -> Reply {
        let (send, reply) = channel();
        self.service.call(request, move |bytes| send.send(bytes).unwrap());
        Reply::decode(&reply.recv_timeout(Duration::from_secs(10)).unwrap()).unwrap()
    }

    pub(crate) fn call(&self, request: &Request) -> Reply {
        self.call_bytes(request.encode())
    }

    pub(crate) fn error(&self, request: &Request) -> ErrorReply {
        self.call(request).body.unwrap_err()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop(Duration::ZERO);
        self.handle.wait();
    }
}
