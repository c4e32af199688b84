//! How a node without data enters a cluster that runs: it asks.
//!
//! It learns the cluster's name from whoever answers first, begins with an empty log and no
//! configuration, and asks the leader to admit it until it is admitted. From then on the leader
//! sends it everything; it votes once it has caught up (rule M12). Its id must be new: a disk that
//! was wiped may have forgotten votes, so a node cannot come back this way (rule M10).

use std::time::{Duration, Instant};

use raft_core::{ClusterId, Handle, NodeId};
use raft_kv::api::Members;
use raft_kv::client::Client;
use raft_net_quic::{ClientLimits, QuicClient, TlsFiles};

use crate::admin::{AdminReply, AdminRequest};
use crate::channel::{Desk, StoreChannel};
use crate::connect::client_failure;
use crate::failure::{Failure, Kind};
use crate::faults;

/// A node that wants to be admitted.
pub(crate) struct Joining {
    node: NodeId,
    /// Where the others will find it.
    address: String,
    quic: QuicClient,
    client: Client<StoreChannel>,
}

impl Joining {
    /// Checks the certificates. Asks nobody yet.
    pub(crate) fn prepare(
        node: NodeId,
        address: String,
        tls: &TlsFiles,
        others: &[String],
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let quic = QuicClient::new(tls, ClientLimits::default());
        let quic = quic.map_err(|error| faults::of_certificates(&error))?;
        let channel = StoreChannel::new(quic.clone());
        let client = Client::new(channel, others.to_vec(), timeout);
        Ok(Self { node, address, quic, client })
    }

    /// The name of the cluster, if this node can still become a member of it.
    pub(crate) async fn cluster(&self) -> Result<ClusterId, Failure> {
        let members = self.client.members().await.map_err(|error| {
            let failure = client_failure(error);
            Failure { message: format!("--join: {}", failure.message), ..failure }
        })?;
        if members.membership.contains(self.node) {
            return Err(Failure::new(
                Kind::Refused,
                format!(
                    "node {} is a member of cluster {} already, and its data directory here is \
                     empty: a node that lost its data may have forgotten votes, so it must join \
                     under an id that was never used",
                    self.node, members.cluster_id
                ),
            ));
        }
        Ok(members.cluster_id)
    }

    /// Asks until this node is admitted, or stops.
    pub(crate) async fn ask(self, handle: Handle) {
        let mut pause = FIRST_PAUSE;
        // A node that was ever admitted knows a configuration, even one that has dropped it again:
        // a node that was removed must not come back by itself.
        while handle.status().membership.peers.is_empty() && handle.stopped().is_none() {
            match self.ask_once().await {
                Ok(AdminReply::Done) => tracing::info!(node = %self.node, "admitted"),
                Ok(AdminReply::Later(why)) => tracing::info!(why, "not admitted yet"),
                Ok(AdminReply::Refused(why)) => {
                    tracing::error!(why, "the cluster does not admit this node; stop it");
                }
                Err(why) => tracing::warn!(why, "nobody was found to admit this node"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        self.quic.close().await;
    }

    async fn ask_once(&self) -> Result<AdminReply, String> {
        let Members { leader, .. } =
            self.client.members().await.map_err(|error| error.to_string())?;
        let leader = leader.ok_or_else(|| "there is no leader right now".to_owned())?;
        let request = AdminRequest::Join { node: self.node, address: self.address.clone() };
        let request = Desk::Admin.address(&request.encode());
        let deadline = Instant::now() + PATIENCE;
        let reply = self.quic.call(&leader.address, request, deadline).await;
        reply.map(|reply| AdminReply::decode(&reply)).map_err(|error| error.to_string())
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);
