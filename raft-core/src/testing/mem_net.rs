//! A network inside one process, for clusters of real nodes in one test.
//!
//! It delivers at once, in order, and loses nothing unless it is told to: links can be cut, in one
//! direction or both. For delays and reordering step the nodes by hand instead ([`super::SteppedNode`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mem_machine::MemSnapshot;
use crate::message::Envelope;
use crate::snapshot::{SnapshotHeader, SnapshotReader, SnapshotSource};
use crate::transport::{Inbox, Peers, Sent, SnapshotOutcome, SnapshotTicket, Transport};
use crate::types::{ClusterId, Identity, Incarnation, NodeId};

/// A network. Cloning gives another handle to the same one.
#[derive(Clone, Debug, Default)]
pub struct MemNet {
    shared: Arc<Mutex<Shared>>,
}

/// One node's access to a [`MemNet`]. Dropping it takes the node off the network.
#[derive(Debug)]
pub struct MemTransport {
    net: MemNet,
    identity: Identity,
    /// A node that has started again must not be taken off by what is left of its last run.
    run: u64,
}

#[derive(Debug, Default)]
struct Shared {
    nodes: BTreeMap<NodeId, Joined>,
    /// Pairs (from, to) over which nothing gets.
    cut: BTreeSet<(NodeId, NodeId)>,
    runs: u64,
    tickets: u64,
    delivered: u64,
}

/// A node on the network.
#[derive(Debug)]
struct Joined {
    run: u64,
    identity: Identity,
    inbox: Inbox,
    /// Those it has named, with the incarnations that are recorded; `None` before it names any.
    peers: Option<Peers>,
    /// Those it does not name any more.
    left: BTreeSet<NodeId>,
}

impl Joined {
    /// Whether it talks to this node: of its cluster, not removed, in the recorded life.
    fn accepts(&self, other: &Identity) -> bool {
        let info = self.peers.as_ref().and_then(|peers| peers.get(&other.node));
        let recorded = info.and_then(|info| info.incarnation);
        self.identity.cluster == other.cluster
            && !self.left.contains(&other.node)
            && recorded.is_none_or(|recorded| recorded == other.incarnation)
    }
}

impl MemNet {
    /// A network without nodes, on which every link works.
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of node `id`, where cluster and incarnation do not matter.
    pub fn transport(&self, id: NodeId) -> MemTransport {
        self.join(Identity { cluster: ClusterId(0), node: id, incarnation: Incarnation(0) })
    }

    /// The transport of the node `identity`.
    pub fn join(&self, identity: Identity) -> MemTransport {
        let mut shared = self.lock();
        shared.runs += 1;
        let run = shared.runs;
        drop(shared);
        MemTransport { net: self.clone(), identity, run }
    }

    /// Cuts the way from one node to another. The way back still works.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Cuts a node off from all those that are on the network now, in both directions.
    pub fn isolate(&self, id: NodeId) {
        let mut shared = self.lock();
        let others: Vec<_> = shared.nodes.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            shared.cut.insert((id, other));
            shared.cut.insert((other, id));
        }
    }

    /// Makes every link work again.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// How many messages and snapshots were delivered so far.
    pub fn delivered(&self) -> u64 {
        self.lock().delivered
    }

    /// Where what `from` sends to `to` is to be put, if it gets there.
    fn way(&self, from: NodeId, to: NodeId) -> Option<Inbox> {
        let mut shared = self.lock();
        let (sender, receiver) = (shared.nodes.get(&from)?, shared.nodes.get(&to)?);
        // As with a connection, both sides have to agree.
        if !sender.accepts(&receiver.identity) || !receiver.accepts(&sender.identity) {
            return None;
        }
        let inbox = receiver.inbox.clone();
        if shared.cut.contains(&(from, to)) {
            return None;
        }
        shared.delivered += 1;
        Some(inbox)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing under this lock can be left half changed by a panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for MemTransport {
    fn start(&mut self, inbox: Inbox) {
        let (run, identity) = (self.run, self.identity);
        let joined = Joined { run, identity, inbox, peers: None, left: BTreeSet::new() };
        self.net.lock().nodes.insert(identity.node, joined);
    }

    fn send(&self, envelope: Envelope) -> Sent {
        // Rule L17: nobody speaks in the name of another.
        if envelope.from != self.identity.node {
            return Sent::Unreachable;
        }
        // The lock is not held while the inbox is called.
        match self.net.way(envelope.from, envelope.to) {
            Some(inbox) => {
                inbox.messages(vec![envelope]);
                Sent::Queued
            }
            None => Sent::Unreachable,
        }
    }

    /// Copies the whole snapshot at once: it is in memory anyway.
    fn send_snapshot(
        &self,
        header: SnapshotHeader,
        mut source: Box<dyn SnapshotSource>,
    ) -> SnapshotTicket {
        let mut shared = self.net.lock();
        shared.tickets += 1;
        let ticket = SnapshotTicket(shared.tickets);
        let own = shared.nodes.get(&self.identity.node).map(|joined| joined.inbox.clone());
        drop(shared);
        let to = header.to;
        let arrived = MemSnapshot::receive(header.meta.clone(), &mut *source).ok();
        let outcome = match self.net.way(self.identity.node, to).zip(arrived) {
            Some((inbox, snapshot)) => {
                let reader: Box<dyn SnapshotReader> = Box::new(snapshot);
                inbox.snapshot(header, reader);
                SnapshotOutcome::Delivered
            }
            None => SnapshotOutcome::Failed,
        };
        if let Some(own) = own {
            own.snapshot_sent(to, ticket, outcome);
        }
        ticket
    }

    /// Everybody reaches everybody here, except those that are in another life than it is recorded
    /// and those that are not named any more.
    fn set_peers(&self, peers: &Peers) {
        let mut met = Vec::new();
        let mut shared = self.net.lock();
        let identities: Vec<_> = shared.nodes.values().map(|joined| joined.identity).collect();
        let Some(own) = shared.nodes.get_mut(&self.identity.node) else { return };
        if let Some(before) = own.peers.replace(peers.clone()) {
            own.left.extend(before.into_keys());
        }
        own.left.retain(|id| !peers.contains_key(id));
        let inbox = own.inbox.clone();
        for other in identities.iter().filter(|other| peers.contains_key(&other.node)) {
            let theirs = shared.nodes.get(&other.node);
            let agreed = theirs.is_some_and(|theirs| theirs.accepts(&self.identity))
                && shared.nodes.get(&self.identity.node).is_some_and(|own| own.accepts(other));
            if let Some(theirs) = theirs
                && agreed
                && other.node != self.identity.node
            {
                met.push((theirs.inbox.clone(), *other));
            }
        }
        drop(shared);
        // The lock is not held while an inbox is called.
        for (theirs, other) in met {
            inbox.met(other.node, other.incarnation);
            theirs.met(self.identity.node, self.identity.incarnation);
        }
    }
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        let mut shared = self.net.lock();
        let id = self.identity.node;
        if shared.nodes.get(&id).is_none_or(|joined| joined.run != self.run) {
            return;
        }
        shared.nodes.remove(&id);
        let others: Vec<_> = shared.nodes.values().map(|joined| joined.inbox.clone()).collect();
        drop(shared);
        others.iter().for_each(|inbox| inbox.unreachable(id));
    }
}
