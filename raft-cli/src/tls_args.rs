//! What `raft tls` is told on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use raft_core::NodeId;
use raft_net_quic::ClusterName;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TlsCommand {
    /// Make a certificate authority, a certificate for each node, and one for clients.
    ///
    /// Keys are readable by their owner only, and nothing is overwritten. The authority is valid
    /// for ten years, the others for two. `ca.key` can make any certificate of the cluster: keep it
    /// away from the nodes.
    #[command(after_help = TLS_EXAMPLES)]
    Init(TlsInitArgs),
    /// Make a certificate for one more node, from the same authority.
    ///
    /// For a node that joins under a new id. Nothing is overwritten.
    #[command(after_help = "Example:\n  raft tls add --dir certs --node 4 --host db4.example.org")]
    Add(TlsAddArgs),
    /// Make new certificates for nodes and clients, with the same names, from the same authority.
    ///
    /// Replaces every node-ID.pem and client.pem in the directory, each in one step. They are valid for
    /// two years, or as long as the authority. Copy them to their machines: nodes take them up within
    /// ten seconds, without a restart.
    #[command(after_help = "Example:\n  raft tls renew --dir certs")]
    Renew(TlsRenewArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TlsInitArgs {
    /// The directory to write to. It is made if it is missing.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// How many nodes get a certificate: those with the ids 1 to this.
    #[arg(
        long, value_name = "COUNT", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    pub(crate) nodes: u16,
    /// The name of the cluster in its certificates: a lower-case DNS name. Clusters that share an
    /// authority need different ones.
    #[arg(
        long, value_name = "NAME", default_value_t = ClusterName::default(),
        value_parser = cluster_name
    )]
    pub(crate) cluster: ClusterName,
    /// Another name or IP address by which nodes are reached. Goes into every node's certificate.
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TlsAddArgs {
    /// The directory to write to: node-ID.pem and node-ID.key.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The id of the node.
    #[arg(long, value_name = "ID")]
    pub(crate) node: NodeId,
    /// The directory with `ca.pem` and `ca.key`, if it is another.
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: Option<PathBuf>,
    /// The name of the cluster. By default that of the certificates which lie beside the authority's.
    #[arg(long, value_name = "NAME", value_parser = cluster_name)]
    pub(crate) cluster: Option<ClusterName>,
    /// Another name or IP address by which the node is reached.
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TlsRenewArgs {
    /// The directory with the certificates to renew.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The directory with `ca.pem` and `ca.key`, if it is another.
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: Option<PathBuf>,
    /// Make new keys, too. Each pair is then two files to copy, the key first.
    #[arg(long)]
    pub(crate) new_keys: bool,
}

fn cluster_name(text: &str) -> Result<ClusterName, String> {
    let wrong = "not a DNS name in lower case (letters a-z, digits, hyphens, dots)";
    ClusterName::new(text).ok_or_else(|| wrong.to_owned())
}

const TLS_EXAMPLES: &str = "\
Example:
  raft tls init --dir certs --nodes 3 --host db.example.org --host 10.0.0.1";
