//! The other nodes, and which connection leads to each.
//!
//! Two nodes share one connection for both directions, whoever dialed it. So a node can answer a
//! leader that it has not been told the address of (a newcomer knows nobody), and replies and
//! acknowledgements travel in the same packets. When both dial at once there are two connections
//! for a moment: the one dialed by the lower id stays, and its dialer closes the other when it has
//! run dry.
//!
//! A connection belongs to one life of the peer's process (its *session*). When the peer comes back
//! with another session, whatever was open before is dead, however alive it looks from here.

mod dial;
pub(crate) mod handshake;
pub(crate) mod link;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use raft_core::{Envelope, Incarnation, NodeId, PeerInfo, Peers, Sent};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::close::{Refusal, RefusalKind};
use crate::peer::link::Link;
use crate::shared::{Shared, lock};

/// All nodes that are named to us or connected with us.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    stopped: AtomicBool,
}

/// One other node.
#[derive(Debug)]
pub(crate) struct Peer {
    id: NodeId,
    state: Mutex<State>,
    /// Whether there is a connection; the dialer waits for it to go.
    linked: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// Set while the node is named as a member.
    dialer: Option<Dialer>,
    /// The connection to send on.
    link: Option<Arc<Link>>,
    /// The life of its data directory, as the membership records it; until it does, as it was
    /// first seen (rule M10).
    incarnation: Option<Incarnation>,
}

#[derive(Debug)]
struct Dialer {
    address: String,
    task: AbortHandle,
}

/// What became of a connection that was just set up.
#[derive(Debug)]
pub(crate) enum Adopted {
    /// It is the one to send on, in place of another if there was one.
    Current(Option<Arc<Link>>),
    /// There is a better one. It is read until its dialer closes it.
    Spare,
    /// We dialed it, but meanwhile the node is not a member any more.
    Unwanted,
}

impl Registry {
    /// Hands a message over to the connection with its receiver.
    pub(crate) fn send(&self, envelope: Envelope) -> Sent {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let Some(peer) = peers.get(&envelope.to) else { return Sent::Unreachable };
        match &lock(&peer.state).link {
            Some(link) => link.send(envelope),
            None => Sent::Unreachable,
        }
    }

    /// The connection to `id`.
    pub(crate) fn link(&self, id: NodeId) -> Option<Arc<Link>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&id).and_then(|peer| lock(&peer.state).link.clone())
    }

    /// In which life of its data directory `id` must be, if that is known (rule M10).
    pub(crate) fn incarnation(&self, id: NodeId) -> Option<Incarnation> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&id).and_then(|peer| lock(&peer.state).incarnation)
    }

    /// Takes note of a new connection with `id`, which has proved to be a node of this cluster.
    fn adopt(&self, own: NodeId, id: NodeId, link: &Arc<Link>) -> (Arc<Peer>, Adopted) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.entry(id).or_insert_with(|| Arc::new(Peer::new(id)));
        (Arc::clone(peer), peer.adopt(own, link))
    }

    /// Replaces the set of members. Who is not named any more is disconnected.
    pub(crate) fn set_peers(&self, shared: &Arc<Shared>, named: &Peers) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let own = shared.identity.node;
        for (&id, info) in named.iter().filter(|(id, _)| **id != own) {
            peers.entry(id).or_insert_with(|| Arc::new(Peer::new(id))).name(shared, info);
        }
        // A node that was never named stays connected: it may be a leader that this node, new or
        // behind, has not heard of yet.
        peers.retain(|id, peer| named.contains_key(id) || !peer.unname());
    }

    /// Forgets a peer that is neither named nor connected.
    fn forget_if_unused(&self, id: NodeId) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.get(&id).is_some_and(|peer| peer.is_unused()) {
            peers.remove(&id);
        }
    }

    /// Whether no connection will come any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Stops dialing. Connections are closed with the endpoint.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        for peer in peers.values() {
            if let Some(dialer) = lock(&peer.state).dialer.take() {
                dialer.task.abort();
            }
        }
    }
}

impl Peer {
    fn new(id: NodeId) -> Self {
        Self { id, state: Mutex::default(), linked: watch::Sender::new(false) }
    }

    /// Dials `info.address` from now on, whenever there is no connection. If the membership records
    /// an incarnation, a connection with another one is closed.
    fn name(self: &Arc<Self>, shared: &Arc<Shared>, info: &PeerInfo) {
        let mut state = lock(&self.state);
        if let Some(recorded) = info.incarnation {
            state.incarnation = Some(recorded);
            if let Some(link) = state.link.take_if(|link| link.incarnation != recorded) {
                self.linked.send_replace(false);
                let detail = handshake::another_life(self.id);
                link.close(&Refusal::new(RefusalKind::Incarnation, detail));
            }
        }
        if state.dialer.as_ref().is_some_and(|dialer| dialer.address == info.address) {
            return;
        }
        if let Some(dialer) = state.dialer.take() {
            dialer.task.abort();
        }
        let address = info.address.clone();
        let dialing = dial::keep_connected(Arc::clone(shared), Arc::clone(self), address.clone());
        let task = shared.runtime.spawn(dialing).abort_handle();
        state.dialer = Some(Dialer { address, task });
    }

    /// Takes note that this node is not named. Whether it was named before; then it is
    /// disconnected.
    fn unname(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(dialer) = state.dialer.take() else { return false };
        dialer.task.abort();
        if let Some(link) = state.link.take() {
            let detail = format!("node {} is not a member of the cluster any more", self.id);
            link.close(&Refusal::new(RefusalKind::Removed, detail));
        }
        true
    }

    /// Makes `link` the one to send on, unless there is a better one.
    fn adopt(&self, own: NodeId, link: &Arc<Link>) -> Adopted {
        let mut state = lock(&self.state);
        if link.dialed_by_us && state.dialer.is_none() {
            return Adopted::Unwanted;
        }
        let dialed_by_lower = |link: &Link| link.dialed_by_us == (own < self.id);
        if let Some(current) = &state.link
            && current.is_open()
            && current.session == link.session
            && dialed_by_lower(current)
            && !dialed_by_lower(link)
        {
            return Adopted::Spare;
        }
        state.incarnation = Some(link.incarnation);
        let before = state.link.replace(Arc::clone(link));
        self.linked.send_replace(true);
        Adopted::Current(before)
    }

    /// Takes note that `link` is gone. Whether it was the one to send on.
    fn lose(&self, link: &Arc<Link>) -> bool {
        let mut state = lock(&self.state);
        if !state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            return false;
        }
        state.link = None;
        self.linked.send_replace(false);
        true
    }

    fn is_unused(&self) -> bool {
        let state = lock(&self.state);
        state.dialer.is_none() && state.link.is_none()
    }
}
