//! A node: the one place where a log, a transport and a state machine are named together.
//!
//! To run another one of them is to change its line in [`assemble`]. The order of things:
//! everything that can be refused (directory, certificates, port) before anything is written; the
//! directory is initialised last.

use std::io::Read;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Handle, Identity, Incarnation, Node, NodeId, NodeOptions, SnapshotMeta, StopCause,
};
use raft_kv::{Kv, KvConfig, Service, Upkeep};
use raft_log::{DataDir, RocksLog, RocksLogConfig};
use raft_net_quic::{
    ClientLimits, Limits, Monitor, QuicClient, QuicConfig, QuicTransport, TlsFiles,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Runtime;

use crate::channel::StoreChannel;
use crate::commands::TICK;
use crate::connect::client_tls;
use crate::door::Door;
use crate::failure::{Failure, Kind};
use crate::founding::Founders;
use crate::terminal::LogGate;
use crate::{faults, http, join, output, terminal};

/// What a node is told, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeId,
    pub(crate) data_dir: PathBuf,
    pub(crate) wal_dir: Option<PathBuf>,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<String>,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) tls_dir: PathBuf,
    pub(crate) origin: Option<Origin>,
    pub(crate) election_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) lease_drift: Option<u32>,
    /// In MiB a second.
    pub(crate) snapshot_rate: Option<NonZeroU32>,
    /// As many may come from one address.
    pub(crate) client_connections: Option<NonZeroU32>,
    pub(crate) space: SpaceSettings,
    pub(crate) upkeep: Upkeep,
    pub(crate) join_timeout: Duration,
    pub(crate) exit_with_parent: bool,
}

/// How much the store may hold, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpaceSettings {
    pub(crate) quota: Option<u64>,
    pub(crate) warning: Option<u64>,
    pub(crate) min_free: Option<u64>,
}

/// How a node without data begins.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// It founds a cluster together with others.
    Bootstrap(Founders),
    /// It asks the nodes at these addresses to take it in.
    Join(Vec<String>),
}

/// Runs a node until it is told to stop, or cannot go on.
pub(crate) fn run(settings: Settings, log: &LogGate) -> Result<ExitCode, Failure> {
    let runtime = terminal::runtime(RUNTIME_THREADS)?;
    let listener = match settings.http {
        None => None,
        Some(address) => Some(runtime.block_on(http::bind(address)).map_err(|error| {
            Failure::usage(format!("cannot listen on --http {address}: {error}; choose another"))
        })?),
    };
    let mut running = assemble(&settings, &runtime)?;
    log.open();
    let handle = running.handle.clone();
    if let Some(listener) = listener {
        let sights = http::Sights {
            handle: handle.clone(),
            network: running.network.clone(),
            service: running.service.clone(),
        };
        runtime.spawn(http::serve(listener, sights));
    }
    if let Some(joining) = running.joining.take() {
        runtime.spawn(joining.ask(handle.clone()));
    }
    tell_story(&handle);
    let steward = running.service.clone();
    let channel = StoreChannel::new(running.to_others.clone());
    runtime.spawn(async move { steward.look_after(channel, settings.upkeep).await });
    if settings.exit_with_parent {
        stop_with_parent(handle.clone());
    }
    output::print_line(&format!("ready node={} listen={}", settings.node, running.listen))?;
    let cause = wait(&runtime, &handle, settings.election_timeout);
    // The others are told that we are gone; one that is gone itself must not hold us up.
    let Running { closed, service, .. } = running;
    runtime.block_on(async {
        let _ = tokio::time::timeout(FAREWELL, closed).await;
    });
    // Whoever reads the store keeps it open. It has to be closed before the process begins to end: that takes away
    // what RocksDB needs to close.
    drop(service);
    runtime.shutdown_timeout(FAREWELL);
    if matches!(cause, StopCause::Asked) {
        return Ok(ExitCode::SUCCESS);
    }
    Err(faults::of_stop(&cause))
}

impl Settings {
    fn store(&self) -> KvConfig {
        let SpaceSettings { quota, warning, min_free } = self.space;
        let defaults = KvConfig::default();
        KvConfig {
            quota_bytes: quota,
            quota_warning_bytes: warning,
            min_free_bytes: min_free.unwrap_or(defaults.min_free_bytes),
            ..defaults
        }
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits {
            snapshot_send_rate: self.snapshot_rate.map(|mib| u64::from(mib.get()) << 20),
            ..Limits::default()
        };
        if let Some(count) = self.client_connections.and_then(|count| count.get().try_into().ok()) {
            limits.client_connections = count;
            limits.client_connections_per_address = count;
        }
        limits
    }

    /// A client's certificate will do to ask with; the node's own, if there is no other.
    fn joining(&self, others: &[String]) -> Result<join::Joining, Failure> {
        let client = client_tls(&self.tls_dir);
        let tls = if client.key.exists() { client } else { node_tls(&self.tls_dir, self.node) };
        let address = self.address(self.listen);
        join::Joining::prepare(self.node, address, &tls, others, self.join_timeout)
    }
}

/// A node that runs.
struct Running {
    handle: Handle,
    listen: SocketAddr,
    joining: Option<join::Joining>,
    closed: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    network: Monitor,
    service: Service,
    /// Reaches the other members as a client does.
    to_others: QuicClient,
    /// Locks the directory for as long as the node runs.
    _dir: DataDir,
}

/// Brings the parts together.
fn assemble(settings: &Settings, runtime: &Runtime) -> Result<Running, Failure> {
    let tls = node_tls(&settings.tls_dir, settings.node);
    let authority = authority(&tls.ca)?;
    let to_others = QuicClient::new(&tls, ClientLimits::default());
    let to_others = to_others.map_err(|error| faults::of_certificates(&error))?;
    let mut dir = DataDir::open(&settings.data_dir).map_err(faults::of_directory)?;
    let begin = begin(settings, &dir, &authority, runtime)?;
    let door = Arc::new(Door::new(settings.node));
    let config = QuicConfig {
        idle_timeout: settings.election_timeout,
        limits: settings.limits(),
        ..QuicConfig::new(settings.listen, begin.identity, tls, dir.path().join("incoming"))
    };
    let transport = QuicTransport::bind(runtime.handle().clone(), config, Arc::clone(&door) as _)
        .map_err(|error| faults::of_listening(&error))?;
    let listen = transport.local_addr();
    let closed = Box::pin(transport.closed());
    let network = transport.monitor();
    let mut log = RocksLogConfig::default();
    log.wal_dir.clone_from(&settings.wal_dir);
    if let Some(base) = &begin.base {
        dir.initialise(begin.identity, base, &log).map_err(faults::of_directory)?;
    }
    let log = RocksLog::open(&dir, log).map_err(faults::of_directory)?;
    let kv = Kv::open(&dir.path().join("kv"), settings.store()).map_err(faults::of_store)?;
    let reader = kv.reader();
    let mut options = NodeOptions::new(settings.protocol());
    options.raft.incarnation = Some(begin.identity.incarnation);
    options.tick = TICK;
    let handle = Node::start(options, log, transport, kv).map_err(faults::of_start)?;
    check_same_cluster(settings, &begin, &handle)?;
    let address = settings.address(listen);
    let service = Service::new(handle.clone(), reader, begin.identity, address);
    let service = service.map_err(faults::of_store)?;
    door.open(handle.clone(), service.clone());
    let joining = begin.joining;
    Ok(Running { handle, listen, joining, closed, network, service, to_others, _dir: dir })
}

/// How this start begins.
struct Begin {
    identity: Identity,
    /// What a new log begins with. `None` if there is a log already.
    base: Option<SnapshotMeta>,
    joining: Option<join::Joining>,
}

fn begin(
    settings: &Settings,
    dir: &DataDir,
    authority: &[CertificateDer<'static>],
    runtime: &Runtime,
) -> Result<Begin, Failure> {
    if dir.identity().is_some() {
        return begin_again(settings, dir, authority);
    }
    let new = |cluster| -> Result<Identity, Failure> {
        Ok(Identity { cluster, node: settings.node, incarnation: new_incarnation()? })
    };
    match &settings.origin {
        Some(Origin::Bootstrap(founders)) => {
            let identity = new(founders.cluster_id(&authority[0]))?;
            Ok(Begin { identity, base: Some(founders.base()), joining: None })
        }
        Some(Origin::Join(others)) => {
            let joining = settings.joining(others)?;
            let cluster = runtime.block_on(joining.cluster())?;
            // Its log begins empty and without a configuration: the leader sends both.
            let base = Some(SnapshotMeta::default());
            Ok(Begin { identity: new(cluster)?, base, joining: Some(joining) })
        }
        None => Err(Failure::usage(format!(
            "{} holds no node yet; say with --bootstrap who founds the cluster, or with --join \
             whom to ask",
            dir.path().display()
        ))),
    }
}

/// A start of a node that has data: what it is was settled at its first start.
fn begin_again(
    settings: &Settings,
    dir: &DataDir,
    authority: &[CertificateDer<'static>],
) -> Result<Begin, Failure> {
    let identity = dir.expect(settings.node, None).map_err(faults::of_directory)?;
    let (path, cluster) = (dir.path().display(), identity.cluster);
    let mut joining = None;
    match &settings.origin {
        None => {}
        Some(Origin::Bootstrap(_)) => {
            if !Founders::may_have_founded(cluster, authority) {
                return Err(Failure::new(
                    Kind::Refused,
                    format!(
                        "{path} belongs to cluster {cluster}, founded under another authority than \
                         that in {}; use the directory of this cluster (or leave out --bootstrap \
                         if the authority was replaced)",
                        settings.tls_dir.join(CA).display()
                    ),
                ));
            }
            tracing::info!("{path} is initialised: --bootstrap is ignored");
        }
        Some(Origin::Join(others)) => {
            tracing::info!(
                "{path} is initialised: --join is ignored unless nobody knows this node"
            );
            joining = Some(settings.joining(others)?);
        }
    }
    Ok(Begin { identity, base: None, joining })
}

/// Refuses a directory of another cluster under the same authority: one whose members have nothing
/// in common with the list of `--bootstrap`. A list that is merely out of date is ignored.
fn check_same_cluster(settings: &Settings, begin: &Begin, handle: &Handle) -> Result<(), Failure> {
    let (Some(Origin::Bootstrap(founders)), None) = (&settings.origin, &begin.base) else {
        return Ok(());
    };
    let membership = handle.status().membership;
    if founders.knows_one_of(&membership) {
        return Ok(());
    }
    handle.stop(Duration::ZERO);
    handle.wait();
    let members: Vec<_> =
        membership.peers.iter().map(|(id, peer)| format!("{id}={}", peer.address)).collect();
    Err(Failure::new(
        Kind::Refused,
        format!(
            "{} belongs to cluster {} of {}, which has no node in common with --bootstrap; use the \
             directory of this cluster (or leave out --bootstrap, which is for the first start)",
            settings.data_dir.display(),
            begin.identity.cluster,
            members.join(",")
        ),
    ))
}

/// Logs who leads, and what this node is, whenever that changes.
fn tell_story(handle: &Handle) {
    let mut told = None;
    handle.subscribe(move |status| {
        let now = (status.role, status.term, status.leader);
        if told.replace(now) != Some(now) {
            let leader = status.leader.map_or_else(|| "none".to_owned(), |id| id.to_string());
            tracing::info!(role = ?status.role, term = %status.term, leader, "role");
        }
        true
    });
}

/// Waits until the node has stopped, which it is told when the process is.
fn wait(runtime: &Runtime, handle: &Handle, grace: Duration) -> StopCause {
    let (tell, mut told) = tokio::sync::oneshot::channel();
    let waiting = handle.clone();
    std::thread::spawn(move || {
        // Nobody listens any more only if the process is about to end.
        let _ = tell.send(waiting.wait());
    });
    let gone = || StopCause::Bug("the thread that waits for the node is gone".into());
    runtime.block_on(async {
        tokio::select! {
            cause = &mut told => return cause.unwrap_or_else(|_| gone()),
            asked = terminal::asked_to_stop() => if let Err(error) = asked {
                tracing::warn!(%error, "signals cannot be received; only SIGKILL stops this node");
                return told.await.unwrap_or_else(|_| gone());
            },
        }
        tracing::info!("stopping");
        handle.stop(grace.min(MAX_GRACE));
        tokio::select! {
            cause = &mut told => cause.unwrap_or_else(|_| gone()),
            // Asked again: at once. What is acknowledged is on disk.
            _ = terminal::asked_to_stop() => StopCause::Asked,
        }
    })
}

/// A parent that is killed cannot say so. Its end of our stdin closes, though.
fn stop_with_parent(handle: Handle) {
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut buffer), Ok(1..)) {}
        handle.stop(Duration::ZERO);
    });
}

fn new_incarnation() -> Result<Incarnation, Failure> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Failure::failed("the system has no randomness to offer"))?;
    Ok(Incarnation(u64::from_be_bytes(bytes)))
}

/// The files of a node in the directory that `raft tls init` has made.
pub(crate) fn node_tls(dir: &Path, node: NodeId) -> TlsFiles {
    TlsFiles {
        ca: dir.join(CA),
        certificate: dir.join(format!("node-{node}.pem")),
        key: dir.join(format!("node-{node}.key")),
    }
}

fn authority(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unreadable = |error: rustls::pki_types::pem::Error| {
        Failure::usage(format!(
            "cannot read {}: {error}; `raft tls init` makes certificates and keys",
            path.display()
        ))
    };
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if found.is_empty() {
        return Err(Failure::usage(format!(
            "{} holds no certificate; `raft tls init` makes certificates and keys",
            path.display()
        )));
    }
    Ok(found)
}

/// The certificate of the authority, in every directory of certificates.
pub(crate) const CA: &str = "ca.pem";

/// Threads that carry the network; the node has its own.
const RUNTIME_THREADS: usize = 2;

/// At most this long a leader tries to hand over before it stops.
const MAX_GRACE: Duration = Duration::from_secs(5);

/// At most this long the others are told that the node stops.
const FAREWELL: Duration = Duration::from_millis(500);
