//! What a cluster does by itself, besides answering: it switches on what all members support, gives up
//! history that nobody wants to keep, sees where space runs out, and compares the data of its nodes.
//!
//! Every node looks after the cluster, but only the leader does anything; and whatever has to be the same on
//! all nodes it does through the log. `retention` decides what history goes.

mod retention;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::{NodeId, RoleName};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::api::{Answer, NodeStatus, Reply, Request};
use crate::client::{Channel, Compared, Comparison, digest_at};
use crate::command::{Command, Compact, Divergence};
use crate::service::Service;
use crate::space::Space;
use crate::version::MachineVersion;

use self::retention::Retention;

/// What a cluster is to do by itself. Set alike on all nodes: that of the leader counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// So many revisions of history are kept; what is older is compacted away. `None` for all.
    pub retain_revisions: Option<u64>,
    /// History is kept for so long; what is older is compacted away. `None` for ever. With both, whatever
    /// one of them gives up goes.
    pub retain_age: Option<Duration>,
    /// So often the data of all nodes is compared, which reads all of it. `None` for never.
    pub compare_every: Option<Duration>,
}

impl Default for Upkeep {
    fn default() -> Self {
        let compare_every = Some(Duration::from_secs(6 * 60 * 60));
        Self { retain_revisions: None, retain_age: None, compare_every }
    }
}

/// Looks after the cluster in the name of one node.
pub(crate) struct Steward<C> {
    service: Service,
    channel: Arc<C>,
    upkeep: Upkeep,
}

impl<C: Channel> Steward<C> {
    pub(crate) fn new(service: Service, channel: C, upkeep: Upkeep) -> Self {
        Self { service, channel: Arc::new(channel), upkeep }
    }

    /// Until the node has stopped.
    pub(crate) async fn run(self) {
        tokio::join!(self.tend(), self.compare_at_times());
    }

    async fn tend(&self) {
        let mut retention = Retention::new(&self.upkeep);
        while !self.service.is_stopped() {
            sleep(ROUND).await;
            let (revision, compacted) = self.service.history();
            retention.see(Instant::now(), revision);
            if !self.leads() {
                self.service.others_have(None);
                continue;
            }
            let peers = self.service.peers();
            let seen = self.statuses(&peers).await;
            self.activate(&peers, &seen);
            self.note_space(&seen);
            if let Some(revision) = retention.due(revision, compacted) {
                tracing::info!(%revision, "giving up older history");
                self.service.propose(Command::Compact(Compact { revision }));
            }
            self.sweep().await;
        }
    }

    fn leads(&self) -> bool {
        self.service.handle().status().role == RoleName::Leader
    }

    /// How the others are that answer.
    async fn statuses(&self, peers: &BTreeMap<NodeId, String>) -> BTreeMap<NodeId, NodeStatus> {
        let mut calls = JoinSet::new();
        for (&id, address) in peers {
            let (channel, address) = (self.channel.clone(), address.clone());
            calls.spawn(async move {
                let deadline = Instant::now() + PATIENCE;
                let reply =
                    channel.call(&address, Request::Status.encode(), deadline).await.ok()?;
                match Reply::decode(&reply).ok()?.body {
                    Ok(Answer::Status(status)) if status.node_id == id => Some((id, status)),
                    Ok(_) | Err(_) => None,
                }
            });
        }
        let mut seen = BTreeMap::new();
        while let Some(joined) = calls.join_next().await {
            // A call that panicked has no answer.
            seen.extend(joined.ok().flatten());
        }
        seen
    }

    /// Rule C7. Only when every member has said that it supports it.
    fn activate(&self, peers: &BTreeMap<NodeId, String>, seen: &BTreeMap<NodeId, NodeStatus>) {
        if seen.len() < peers.len() {
            return;
        }
        let supported = seen.values().map(|status| status.condition.supports);
        let all = supported.fold(MachineVersion::SUPPORTED, MachineVersion::min);
        if all > self.service.machine_version() {
            tracing::info!(version = %all, "every member supports it: switching it on");
            self.service.propose(Command::Activate(all));
        }
    }

    fn note_space(&self, seen: &BTreeMap<NodeId, NodeStatus>) {
        let worst = seen.iter().map(|(id, status)| (*id, status.condition.space));
        self.service.others_have(worst.max_by_key(|(_, space)| *space));
    }

    /// History that was compacted is deleted bit by bit as entries are applied. If space is short and no
    /// entries come, some are made.
    async fn sweep(&self) {
        for _ in 0..SWEEPS {
            let is_needed = self.service.has_garbage() && self.service.space() > Space::Enough;
            if !is_needed {
                return;
            }
            self.service.propose(Command::Tick);
            sleep(ROUND / SWEEPS).await;
        }
    }

    async fn compare_at_times(&self) {
        let Some(every) = self.upkeep.compare_every else { return };
        let mut compared = Instant::now();
        while !self.service.is_stopped() {
            sleep(ROUND.min(every)).await;
            if !self.leads() {
                // Whoever leads next begins anew: it does not know when that was done last.
                compared = Instant::now();
            } else if compared.elapsed() >= every {
                let comparison = self.compare().await;
                self.judge(&comparison);
                compared = Instant::now();
            }
        }
    }

    /// Has all members say what they hold as of now.
    async fn compare(&self) -> Comparison {
        let (revision, _) = self.service.history();
        let mut calls = JoinSet::new();
        for (node_id, address) in self.service.members() {
            let channel = self.channel.clone();
            calls.spawn(async move {
                let deadline = Instant::now() + COMPARE_PATIENCE;
                let digest = digest_at(&*channel, &address, revision, deadline).await;
                Compared { node_id, address, digest }
            });
        }
        let mut nodes = Vec::new();
        while let Some(joined) = calls.join_next().await {
            nodes.extend(joined.ok());
        }
        nodes.sort_by_key(|node| node.node_id);
        Comparison { revision, nodes }
    }

    /// Raises an alarm for each node that holds something else, and ends it for those that do not any more.
    fn judge(&self, comparison: &Comparison) {
        let Comparison { revision, nodes } = comparison;
        let diverging = comparison.diverging();
        let alarmed = self.service.diverged();
        for node in &diverging {
            tracing::error!(%node, %revision, "the data of this node is not that of the others");
            if !alarmed.contains(node) {
                let raised = Divergence { node: *node, revision: *revision };
                self.service.propose(Command::RaiseAlarm(raised));
            }
        }
        let alike = nodes.iter().filter(|node| node.digest.is_ok()).map(|node| node.node_id);
        for node in alike.filter(|node| alarmed.contains(node) && !diverging.contains(node)) {
            tracing::info!(%node, %revision, "the data of this node is that of the others again");
            self.service.propose(Command::ClearAlarms(Some(node)));
        }
        if diverging.is_empty() && comparison.is_complete() {
            let nodes = nodes.len();
            tracing::info!(%revision, nodes, "all nodes hold the same data");
        }
    }
}

/// So often it is looked whether there is anything to do.
const ROUND: Duration = Duration::from_secs(1);
/// How long a member may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a member may take to read everything it holds.
const COMPARE_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Entries made in a round, at most, so that history that was given up is deleted.
const SWEEPS: u32 = 20;
