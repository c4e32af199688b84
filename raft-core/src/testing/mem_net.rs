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
use crate::types::NodeId;

/// A network. Cloning gives another handle to the same one.
#[derive(Clone, Debug, Default)]
pub struct MemNet {
    shared: Arc<Mutex<Shared>>,
}

/// One node's access to a [`MemNet`]. Dropping it takes the node off the network.
#[derive(Debug)]
pub struct MemTransport {
    net: MemNet,
    id: NodeId,
    /// A node that has started again must not be taken off by what is left of its last run.
    run: u64,
}

#[derive(Debug, Default)]
struct Shared {
    inboxes: BTreeMap<NodeId, (u64, Inbox)>,
    /// Pairs (from, to) over which nothing gets.
    cut: BTreeSet<(NodeId, NodeId)>,
    runs: u64,
    tickets: u64,
    delivered: u64,
}

impl MemNet {
    /// A network without nodes, on which every link works.
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of node `id`.
    pub fn transport(&self, id: NodeId) -> MemTransport {
        let mut shared = self.lock();
        shared.runs += 1;
        let run = shared.runs;
        drop(shared);
        MemTransport { net: self.clone(), id, run }
    }

    /// Cuts the way from one node to another. The way back still works.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Cuts a node off from all those that are on the network now, in both directions.
    pub fn isolate(&self, id: NodeId) {
        let mut shared = self.lock();
        let others: Vec<_> = shared.inboxes.keys().copied().filter(|other| *other != id).collect();
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
        let (_, inbox) = shared.inboxes.get(&to)?;
        let inbox = inbox.clone();
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
        self.net.lock().inboxes.insert(self.id, (self.run, inbox));
    }

    fn send(&self, envelope: Envelope) -> Sent {
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
        let own = shared.inboxes.get(&self.id).map(|(_, inbox)| inbox.clone());
        drop(shared);
        let to = header.to;
        let arrived = MemSnapshot::receive(header.meta.clone(), &mut *source).ok();
        let outcome = match self.net.way(header.from, to).zip(arrived) {
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

    /// Everybody reaches everybody here.
    fn set_peers(&self, _peers: &Peers) {}
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        let mut shared = self.net.lock();
        if shared.inboxes.get(&self.id).is_some_and(|(run, _)| *run == self.run) {
            shared.inboxes.remove(&self.id);
        }
    }
}
