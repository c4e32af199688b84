//! How a program of one's own reaches a cluster: the store's client over the transport's channel.
//!
//! The channel is the one of the binary; `raft-cli/src/channel.rs` is all the glue there is.

#[path = "../../src/channel.rs"]
#[allow(dead_code, reason = "the binary asks nodes about the cluster, too; these examples do not")]
mod channel;

use std::path::PathBuf;
use std::time::Duration;

use raft_kv::client::Client;
use raft_net_quic::{ClientLimits, NetError, QuicClient, TlsFiles};

use channel::StoreChannel;

/// Where the cluster is and who we are to it, as every command of `raft` takes it.
#[derive(Debug, clap::Args)]
pub(crate) struct Cluster {
    /// Nodes of the cluster; one that runs is enough.
    #[arg(long, env = "RAFT_ENDPOINTS", value_name = "HOST:PORT,...", value_delimiter = ',')]
    #[arg(required = true)]
    endpoints: Vec<String>,
    /// The certificates, as `raft tls init` makes them.
    #[arg(long, env = "RAFT_TLS_DIR", value_name = "DIR")]
    tls_dir: PathBuf,
}

impl Cluster {
    /// A client of the cluster. Nothing is sent before the first request.
    pub(crate) fn client(&self) -> Result<Client<StoreChannel>, NetError> {
        let file = |name| self.tls_dir.join(name);
        let tls = TlsFiles {
            ca: file("ca.pem"),
            certificate: file("client.pem"),
            key: file("client.key"),
        };
        let quic = QuicClient::new(&tls, ClientLimits::default())?;
        Ok(Client::new(StoreChannel::new(quic), self.endpoints.clone(), PATIENCE))
    }
}

/// A request is given up after so long: enough to elect another leader, several times over.
const PATIENCE: Duration = Duration::from_secs(10);
