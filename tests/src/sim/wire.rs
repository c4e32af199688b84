//! A node's access to the simulated network: what it sends lies here until the world picks it up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::testing::MemSnapshot;
use raft_core::{
    Envelope, Inbox, Incarnation, NodeId, Peers, Sent, SnapshotHeader, SnapshotSource,
    SnapshotTicket, Transport,
};

use super::dice::{Dice, Ppm};

/// The world's end of it.
#[derive(Clone, Debug)]
pub(crate) struct Wire(Arc<Mutex<Outgoing>>);

/// The node's end.
#[derive(Debug)]
pub(crate) struct SimTransport(Wire);

/// A snapshot on its way out.
#[derive(Debug)]
pub(crate) struct SentSnapshot {
    pub(crate) header: SnapshotHeader,
    pub(crate) content: MemSnapshot,
    pub(crate) ticket: SnapshotTicket,
}

#[derive(Debug)]
struct Outgoing {
    messages: Vec<Envelope>,
    snapshots: Vec<SentSnapshot>,
    peers: Peers,
    tickets: u64,
    full: Ppm,
    fulls: u64,
    dice: Dice,
    /// Who is known to be out of reach, a bit for each.
    unreachable: u64,
}

impl Wire {
    pub(crate) fn new(dice: Dice, full: Ppm) -> Self {
        Self(Arc::new(Mutex::new(Outgoing {
            messages: Vec::new(),
            snapshots: Vec::new(),
            peers: Peers::new(),
            tickets: 0,
            full,
            fulls: 0,
            dice,
            unreachable: 0,
        })))
    }

    pub(crate) fn transport(&self) -> SimTransport {
        SimTransport(self.clone())
    }

    /// Moves what was sent to the ends of these. Returns how often a queue was full.
    pub(crate) fn take(
        &self,
        messages: &mut Vec<Envelope>,
        snapshots: &mut Vec<SentSnapshot>,
    ) -> u64 {
        let mut out = self.lock();
        messages.append(&mut out.messages);
        snapshots.append(&mut out.snapshots);
        std::mem::take(&mut out.fulls)
    }

    /// The process is gone, and with it what it had not sent.
    pub(crate) fn crash(&self) {
        let mut out = self.lock();
        out.messages.clear();
        out.snapshots.clear();
        out.peers.clear();
    }

    /// Queues are never full any more.
    pub(crate) fn calm(&self) {
        let mut out = self.lock();
        out.full = 0;
        out.unreachable = 0;
    }

    pub(crate) fn set_reachable(&self, peer: NodeId, reachable: bool) {
        let bit = 1 << (peer.as_u64() % 64);
        let mut out = self.lock();
        if reachable { out.unreachable &= !bit } else { out.unreachable |= bit }
    }

    /// Whether this node has recorded another incarnation of `peer` (rule M10).
    pub(crate) fn refuses(&self, peer: NodeId, incarnation: Incarnation) -> bool {
        let out = self.lock();
        let recorded = out.peers.get(&peer).and_then(|info| info.incarnation);
        recorded.is_some_and(|recorded| recorded != incarnation)
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for SimTransport {
    fn start(&mut self, _inbox: Inbox) {}

    fn send(&self, envelope: Envelope) -> Sent {
        let mut out = self.0.lock();
        if out.unreachable & (1 << (envelope.to.as_u64() % 64)) != 0 {
            return Sent::Unreachable;
        }
        let full = out.full;
        if out.dice.chance(full) {
            out.fulls += 1;
            return Sent::Full;
        }
        out.messages.push(envelope);
        Sent::Queued
    }

    fn send_snapshot(
        &self,
        header: SnapshotHeader,
        mut source: Box<dyn SnapshotSource>,
    ) -> SnapshotTicket {
        let content = MemSnapshot::receive(header.meta.clone(), &mut *source)
            .expect("a snapshot of the simulated machine is one file in memory");
        let mut out = self.0.lock();
        out.tickets += 1;
        let ticket = SnapshotTicket(out.tickets);
        out.snapshots.push(SentSnapshot { header, content, ticket });
        ticket
    }

    fn set_peers(&self, peers: &Peers) {
        self.0.lock().peers.clone_from(peers);
    }
}
