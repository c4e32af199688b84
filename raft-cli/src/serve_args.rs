//! What `raft serve` is told on the command line.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use raft_core::NodeId;

use crate::args::{bytes, duration, long_duration};

/// What `raft serve` is told. Every option may stand in the file of `--config` instead.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// The id of this node in the cluster, from 1 on.
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: Option<NodeId>,
    /// Where this node keeps its data. Made at the first start.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where the write-ahead log goes, if not into the data directory: an empty directory on another
    /// disk, for this node alone. Decided at the first start.
    #[arg(long, value_name = "DIR")]
    pub(crate) wal_dir: Option<PathBuf>,
    /// The UDP address to listen on, for nodes and clients.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where others reach this node, if that is not where it listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// The TCP address for operators: /healthz, /readyz, /status, /metrics. Plain HTTP, read only.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) http: Option<SocketAddr>,
    /// Found a cluster of these nodes. The same list on each of them; only for the first start.
    #[arg(long, value_name = "ID=HOST:PORT,...", conflicts_with = "join")]
    pub(crate) bootstrap: Option<String>,
    /// Join the cluster of one of these nodes: this node is sent the log, and votes once it has
    /// caught up. Only for the first start, and under an id that was never used.
    #[arg(long, value_name = "HOST:PORT,...")]
    pub(crate) join: Option<String>,
    /// A TOML file with any of these options, for example `node-id = 1`. Flags win over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// After this long without a leader a node campaigns [default: 300ms]. Longer where
    /// messages take long: ten times a round trip at least.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) election_timeout: Option<Duration>,
    /// Allow reads by the leader's lease, which ask nobody, and trust that no two clocks of the cluster
    /// run apart by more than so many millionths. Alike on all nodes. Off by default.
    #[arg(long, value_name = "PPM")]
    pub(crate) lease_drift: Option<u32>,
    /// How often a leader shows that it lives [default: 50ms].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) heartbeat_interval: Option<Duration>,
    /// The most that snapshots for nodes that are far behind may take of the network, in MiB a second.
    /// By default what is left; messages and clients come first in any case.
    #[arg(long, value_name = "MIB")]
    pub(crate) snapshot_rate: Option<NonZeroU32>,
    /// How many connections of clients there may be at a time, all from one address if need be [default:
    /// 4096, of which 1024 from one address].
    #[arg(long, value_name = "COUNT")]
    pub(crate) client_connections: Option<NonZeroU32>,
    /// How much keys and values may take here with their history, for example `8GiB`: beyond, puts are refused,
    /// deletes are not. By default there is no limit but the disk.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) quota: Option<u64>,
    /// From how much on there is an alarm [default: four fifths of --quota].
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) quota_warning: Option<u64>,
    /// Puts are also refused while the disk has less than this to spare, and from twice as much down there is
    /// an alarm [default: 64MiB].
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) min_free: Option<u64>,
    /// Keep so many revisions of history, and compact what is older away. By default all.
    #[arg(long, value_name = "COUNT")]
    pub(crate) retain_revisions: Option<u64>,
    /// Keep history for so long, and compact what is older away. By default for ever.
    #[arg(long, value_name = "TIME", value_parser = long_duration)]
    pub(crate) retain_age: Option<Duration>,
    /// Compare the data of all nodes so often, which reads all of it, and raise an alarm if one differs; or
    /// `never` [default: 6h].
    #[arg(long, value_name = "TIME", value_parser = Times::parse)]
    pub(crate) compare_every: Option<Times>,
    /// Stop when stdin ends: for a parent that may be killed.
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

/// How often something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    Never,
    Every(Duration),
}

impl Times {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "never" { Ok(Self::Never) } else { long_duration(text).map(Self::Every) }
    }

    pub(crate) fn every(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Every(time) => Some(time),
        }
    }
}

pub(crate) const SERVE_EXAMPLES: &str = "\
Examples:
  raft serve --node-id 1 --data-dir n1 --listen 127.0.0.1:7101 --tls-dir certs \\
      --bootstrap 1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103
  raft serve --config node-1.toml --http 127.0.0.1:7201
  raft serve --node-id 4 --data-dir n4 --listen 127.0.0.1:7104 --tls-dir certs \\
      --join 127.0.0.1:7101,127.0.0.1:7102";
