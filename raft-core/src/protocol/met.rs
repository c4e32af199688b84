//! Which life of its disk each member is in, recorded in the membership.
//!
//! Rules upheld here: M10. A wiped disk that comes back under an old node id has forgotten votes and
//! acknowledged entries; with it, a majority may vote twice. So the leader records the incarnation of
//! every member when it is first met, in the replicated membership, and transports refuse any other
//! from then on. No other Raft fences this.

use std::collections::BTreeMap;

use super::Raft;
use super::role::Role;
use crate::entry::Membership;
use crate::transport::Peers;
use crate::types::{Incarnation, NodeId};

/// More than this many nodes are not remembered: they cannot all be members.
const MET_MAX: usize = 64;

/// The incarnations that were met but may not be recorded yet.
#[derive(Debug, Default)]
pub(super) struct Met(BTreeMap<NodeId, Incarnation>);

impl Met {
    /// Forgets who is not connected as a peer.
    pub(super) fn retain(&mut self, peers: &Peers) {
        self.0.retain(|id, _| peers.contains_key(id));
    }
}

impl Raft {
    /// The transport has shaken hands with `peer`.
    pub(super) fn on_met(&mut self, peer: NodeId, incarnation: Incarnation) {
        if self.met.0.len() < MET_MAX || self.met.0.contains_key(&peer) {
            self.met.0.insert(peer, incarnation);
        }
    }

    /// Records what was met and is not in the membership yet. An entry of its own, which changes no
    /// quorum; only when no other change is pending, so it is asked for again and again.
    pub(super) fn maybe_record_incarnations(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let settled = self.commit >= leader.first
            && self.members.at().index <= self.commit
            && !self.members.is_joint()
            && leader.transfer.is_none();
        if !settled || mutant!(raft_mutant = "lives_are_not_told_apart") {
            return;
        }
        let own = (self.config.id, self.config.incarnation);
        let met = |id: NodeId| {
            if id == own.0 { own.1 } else { self.met.0.get(&id).copied() }
        };
        let is_new = |id: NodeId, known: Option<Incarnation>| known.is_none() && met(id).is_some();
        if !self.members.peers.iter().any(|(&id, info)| is_new(id, info.incarnation)) {
            return;
        }
        let mut next = Membership::clone(&self.members);
        for (&id, info) in &mut next.peers {
            info.incarnation = info.incarnation.or_else(|| met(id));
        }
        let id = self.next_id();
        self.append_membership(id, next);
    }
}
