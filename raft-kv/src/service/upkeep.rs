//! What whoever looks after the cluster needs of a node (see `steward`).

use std::collections::BTreeMap;

use raft_core::{Handle, NodeId};

use crate::alarm::Alarm;
use crate::api::Condition;
use crate::client::Channel;
use crate::command::Command;
use crate::model::Revision;
use crate::proposal::Proposal;
use crate::space::Space;
use crate::steward::{Steward, Upkeep};
use crate::version::MachineVersion;

use super::{Inner, Service};

impl Service {
    /// Does what a cluster is to do by itself, until the node has stopped. One such task belongs to each
    /// node; without it nothing new is switched on, space is watched here only, and nodes are not
    /// compared. `channel` reaches the other members.
    ///
    /// Needs a tokio runtime with time enabled.
    pub async fn look_after(&self, channel: impl Channel, upkeep: Upkeep) {
        Steward::new(self.clone(), channel, upkeep).run().await;
    }

    /// How the store of this node is.
    pub fn condition(&self) -> Condition {
        self.inner.condition()
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.inner.handle.stopped().is_some()
    }

    /// The revision of the store, and the oldest that can be read.
    pub(crate) fn history(&self) -> (Revision, Revision) {
        (self.inner.reader.revision(), self.inner.reader.compacted())
    }

    pub(crate) fn machine_version(&self) -> MachineVersion {
        self.inner.reader.machine_version()
    }

    pub(crate) fn space(&self) -> Space {
        self.inner.space()
    }

    pub(crate) fn has_garbage(&self) -> bool {
        self.inner.reader.has_garbage()
    }

    pub(crate) fn others_have(&self, worst: Option<(NodeId, Space)>) {
        self.inner.others_have(worst);
    }

    /// The members, with their addresses.
    pub(crate) fn members(&self) -> BTreeMap<NodeId, String> {
        self.inner.members().addresses()
    }

    /// The other members.
    pub(crate) fn peers(&self) -> BTreeMap<NodeId, String> {
        let mut peers = self.members();
        peers.remove(&self.inner.identity.node);
        peers
    }

    /// The nodes that are known to have diverged.
    pub(crate) fn diverged(&self) -> Vec<NodeId> {
        self.inner.diverged().into_iter().map(Alarm::node).collect()
    }

    /// Says something to the cluster in the name of the leader. What comes of it is seen in the store; if
    /// nothing does, it will be said again.
    pub(crate) fn propose(&self, command: Command) {
        let proposal = Proposal { stamp: self.inner.stamp(), session: None, command };
        self.inner.handle.propose(proposal.encode(), |result| {
            if let Err(error) = result {
                tracing::debug!(%error, "what looks after the cluster was not heard");
            }
        });
    }
}

impl Inner {
    pub(super) fn condition(&self) -> Condition {
        let space = self.space();
        let mut alarms = self.diverged();
        alarms.extend(space.alarm(self.identity.node));
        Condition {
            stored_bytes: self.reader.stored_bytes(),
            quota_bytes: self.reader.config().quota_bytes,
            free_bytes: self.free_bytes(),
            space,
            version: self.reader.machine_version(),
            supports: MachineVersion::SUPPORTED,
            alarms,
        }
    }

    fn diverged(&self) -> Vec<Alarm> {
        let alarms = self.reader.alarms().unwrap_or_else(|error| {
            tracing::warn!(%error, "the alarms cannot be read");
            Vec::new()
        });
        alarms
            .into_iter()
            .map(|found| Alarm::Diverged { node: found.node, revision: found.revision })
            .collect()
    }
}
