//! The contract of the network between nodes.
//!
//! Dissertation 10.2 (pipelining), 4.2 (members come and go). Whoever implements it runs
//! `transport_suite!` of `raft_core::testing` against the result.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::entry::PeerInfo;
use crate::message::Envelope;
use crate::snapshot::{SnapshotHeader, SnapshotReader, SnapshotSource};
use crate::types::{Incarnation, NodeId};

/// The other members and where they are.
pub type Peers = BTreeMap<NodeId, PeerInfo>;

/// Carries messages between nodes.
///
/// Never blocks. It may lose, repeat, delay or reorder; it never corrupts and never misattributes:
/// an envelope that is delivered `from` a node was sent by that node, of this cluster (rule L17).
pub trait Transport: Send + 'static {
    /// Starts to receive. Called once, before anything is sent.
    fn start(&mut self, inbox: Inbox);

    /// Hands over a message for its receiver.
    fn send(&self, envelope: Envelope) -> Sent;

    /// Streams a snapshot to `header.to`. The outcome comes back through
    /// [`Inbox::snapshot_sent`] with the same ticket, exactly once.
    fn send_snapshot(
        &self,
        header: SnapshotHeader,
        source: Box<dyn SnapshotSource>,
    ) -> SnapshotTicket;

    /// Says who the other members are, and of which incarnation if that is recorded. Connections to nodes that are no longer named are closed.
    fn set_peers(&self, peers: &Peers);
}

/// What became of a message that was handed to a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was taken. It may still be lost.
    Queued,
    /// The queue to that peer is full; the message was dropped. This is flow control, not an error.
    Full,
    /// There is no such peer, or no connection to it. The message was dropped.
    Unreachable,
}

/// Names one transfer of a snapshot, within one run of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotTicket(pub u64);

/// What became of a transfer of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// The receiver has all of it and has verified it.
    Delivered,
    /// It did not arrive.
    Failed,
}

/// Where a transport puts what arrives. Cloning gives another handle to the same inbox.
///
/// None of the calls blocks. When the node cannot keep up, deliveries are dropped, as a network
/// would; that bounds the memory a peer can make a node use.
#[derive(Clone)]
pub struct Inbox {
    deliver: Arc<dyn Fn(Arrival) + Send + Sync>,
}

/// What can arrive through an [`Inbox`].
#[derive(Debug)]
pub enum Arrival {
    /// Messages, in the order in which they came.
    Messages(Vec<Envelope>),
    /// A snapshot, whole and verified.
    Snapshot(SnapshotHeader, Box<dyn SnapshotReader>),
    /// What became of a snapshot that was sent to this node.
    SnapshotSent(NodeId, SnapshotTicket, SnapshotOutcome),
    /// A handshake has shown in which life of its disk this peer is.
    Met(NodeId, Incarnation),
    /// The connection to this peer is gone, or messages to it were lost.
    Unreachable(NodeId),
}

impl Inbox {
    /// An inbox that hands every arrival to `deliver`, which must not block.
    pub fn new(deliver: impl Fn(Arrival) + Send + Sync + 'static) -> Self {
        Self { deliver: Arc::new(deliver) }
    }

    /// Delivers messages that arrived together. Fewer calls with more messages are cheaper.
    pub fn messages(&self, envelopes: Vec<Envelope>) {
        if !envelopes.is_empty() {
            (self.deliver)(Arrival::Messages(envelopes));
        }
    }

    /// Delivers a snapshot that has arrived whole and was verified.
    pub fn snapshot(&self, header: SnapshotHeader, reader: Box<dyn SnapshotReader>) {
        (self.deliver)(Arrival::Snapshot(header, reader));
    }

    /// Reports what became of [`Transport::send_snapshot`].
    pub fn snapshot_sent(&self, to: NodeId, ticket: SnapshotTicket, outcome: SnapshotOutcome) {
        (self.deliver)(Arrival::SnapshotSent(to, ticket, outcome));
    }

    /// Reports with which incarnation of `peer` a handshake was made, so that it gets recorded in the
    /// membership. A transport refuses a peer whose recorded incarnation is another (rule M10).
    pub fn met(&self, peer: NodeId, incarnation: Incarnation) {
        (self.deliver)(Arrival::Met(peer, incarnation));
    }

    /// Reports that messages to `peer` may have been lost, so that the leader stops streaming to it
    /// and probes (rule S6).
    pub fn unreachable(&self, peer: NodeId) {
        (self.deliver)(Arrival::Unreachable(peer));
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}
