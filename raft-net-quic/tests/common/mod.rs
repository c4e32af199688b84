//! What the integration tests share: an authority, certificates, nodes on loopback, and ways to
//! wait for something instead of sleeping.

#![allow(dead_code, unreachable_pub, reason = "each test file uses another part of it")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

pub mod log;
pub mod raw;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use raft_core::{
    Arrival, ClusterId, Envelope, Identity, Inbox, Incarnation, Message, NodeId, PeerInfo, Peers,
    Sent, Term, Ticks, Transport,
};
use raft_net_quic::{
    ClientService, ClusterName, QuicConfig, QuicTransport, Responder, Subscriber, TlsFiles,
    node_name,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Longer than anything takes, for a test that waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate authority, and a directory for what it issues.
pub struct Authority {
    pub dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate is valid.
#[derive(Clone, Copy, PartialEq)]
pub enum Validity {
    Now,
    Past,
    Future,
    /// From now on.
    Days(u64),
}

impl Authority {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for these names under a file name.
    pub fn issue(&self, file: &str, names: &[String], server: bool, valid: Validity) -> TlsFiles {
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        (params.not_before, params.not_after) = match valid {
            Validity::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(4000, 1, 1)),
            Validity::Past => (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 1, 2)),
            Validity::Future => (date_time_ymd(4000, 1, 1), date_time_ymd(4001, 1, 1)),
            Validity::Days(days) => {
                let end = SystemTime::now() + Duration::from_secs(days * 86_400);
                (date_time_ymd(2020, 1, 1), end.into())
            }
        };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = TlsFiles {
            ca: self.dir.path().join("ca.pem"),
            certificate: self.dir.path().join(format!("{file}.pem")),
            key: self.dir.path().join(format!("{file}.key")),
        };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    pub fn node(&self, id: u64) -> TlsFiles {
        let names = [
            node_name(node(id), &ClusterName::default()),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ];
        self.issue(&format!("node-{id}"), &names, true, Validity::Now)
    }

    pub fn client(&self) -> TlsFiles {
        self.issue("client", &["client.raft".to_owned()], false, Validity::Now)
    }
}

pub fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

pub fn identity(id: u64) -> Identity {
    Identity { cluster: ClusterId(7), node: node(id), incarnation: Incarnation(id * 100) }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A configuration for node `id`, which keeps its snapshots in the authority's directory.
pub fn config(authority: &Authority, id: u64) -> QuicConfig {
    let incoming = incoming(authority, id);
    QuicConfig::new(any_port(), identity(id), authority.node(id), incoming)
}

pub fn incoming(authority: &Authority, id: u64) -> PathBuf {
    authority.dir.path().join(format!("incoming-{id}"))
}

/// A service that has no answers.
pub struct NoService;

impl ClientService for NoService {
    fn call(&self, _: Bytes, _: Responder) {}
}

/// A service made of a function.
pub struct Service<F>(pub F);

/// A service that takes subscriptions only.
pub struct Subscriptions<F>(pub F);

impl<F: Fn(Bytes, Subscriber) + Send + Sync + 'static> ClientService for Subscriptions<F> {
    fn call(&self, _: Bytes, _: Responder) {}

    fn subscribe(&self, request: Bytes, subscriber: Subscriber) {
        (self.0)(request, subscriber);
    }
}

impl<F: Fn(Bytes, Responder) + Send + Sync + 'static> ClientService for Service<F> {
    fn call(&self, request: Bytes, reply: Responder) {
        (self.0)(request, reply);
    }
}

/// A transport that was started, and what arrives at it.
pub struct Node {
    pub transport: QuicTransport,
    pub arrivals: Receiver<Arrival>,
    pub address: SocketAddr,
    pub id: u64,
}

impl Node {
    pub fn start(runtime: &Runtime, config: QuicConfig) -> Self {
        Self::serve(runtime, config, Arc::new(NoService))
    }

    /// Waits while the port is still in use, for nodes that come back at the same address.
    pub fn serve(runtime: &Runtime, config: QuicConfig, clients: Arc<dyn ClientService>) -> Self {
        let id = config.identity.node.as_u64();
        let started = Instant::now();
        let mut transport = loop {
            let handle = runtime.handle().clone();
            match QuicTransport::bind(handle, config.clone(), Arc::clone(&clients)) {
                Ok(transport) => break transport,
                Err(raft_net_quic::NetError::PortInUse { .. }) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        };
        let (sender, arrivals) = channel();
        // The lock is for compilers to which a sender is not `Sync`.
        let sender = Mutex::new(sender);
        transport.start(Inbox::new(move |arrival| {
            let _ = sender.lock().unwrap().send(arrival);
        }));
        let address = transport.local_addr();
        Self { transport, arrivals, address, id }
    }

    pub fn envelope(&self, to: u64, message: Message) -> Envelope {
        Envelope { from: node(self.id), to: node(to), term: Term(1), message }
    }

    pub fn heartbeat(&self, to: u64, round: u64) -> Envelope {
        self.envelope(to, Message::HeartbeatReply { round, shield: Ticks(0), priority: 0 })
    }

    /// Names the other nodes.
    pub fn name(&self, others: &[(u64, SocketAddr)]) {
        self.transport.set_peers(&peers(others));
    }

    /// Sends until it is taken: a connection may have to be made first.
    pub fn send(&self, envelope: &Envelope) {
        until("the message is taken", || self.transport.send(envelope.clone()) == Sent::Queued);
    }

    pub fn next(&self) -> Arrival {
        match self.arrivals.recv_timeout(PATIENCE) {
            Ok(arrival) => arrival,
            Err(error) => panic!("node {}: nothing arrived: {error}", self.id),
        }
    }

    /// The next `count` messages; other arrivals are passed over.
    pub fn messages(&self, count: usize) -> Vec<Envelope> {
        let mut found = Vec::new();
        while found.len() < count {
            if let Arrival::Messages(envelopes) = self.next() {
                found.extend(envelopes);
            }
        }
        assert_eq!(found.len(), count);
        found
    }

    /// The rounds of the heartbeats that arrive next.
    pub fn rounds(&self, count: usize) -> Vec<u64> {
        let round = |envelope: Envelope| {
            let Message::HeartbeatReply { round, .. } = envelope.message else {
                panic!("unexpected {envelope:?}");
            };
            round
        };
        self.messages(count).into_iter().map(round).collect()
    }

    /// Sends heartbeats to `to` until one of them arrives there.
    pub fn reach(&self, to: &Self, round: u64) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let _ = self.transport.send(self.heartbeat(to.id, round));
            match to.arrivals.recv_timeout(Duration::from_millis(10)) {
                Ok(Arrival::Messages(found)) if found[0] == self.heartbeat(to.id, round) => {
                    to.drain();
                    return;
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        panic!("node {} does not reach node {}", self.id, to.id);
    }

    /// Takes what has arrived, and what is still under way of it.
    pub fn drain(&self) {
        while self.arrivals.recv_timeout(Duration::from_millis(50)).is_ok() {}
    }
}

pub fn peers(others: &[(u64, SocketAddr)]) -> Peers {
    let info = |address: &SocketAddr| PeerInfo::at(address.to_string());
    others.iter().map(|(id, address)| (node(*id), info(address))).collect()
}

/// Nodes 1 to `count`, each of which has been told of the others.
pub fn cluster(runtime: &Runtime, authority: &Authority, count: u64) -> Vec<Node> {
    let nodes: Vec<_> = (1..=count).map(|id| Node::start(runtime, config(authority, id))).collect();
    let addresses: Vec<_> = nodes.iter().map(|node| (node.id, node.address)).collect();
    nodes.iter().for_each(|node| node.name(&addresses));
    nodes
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes that do not repeat soon.
pub fn noise(bytes: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_le_bytes()[7]
    };
    (0..bytes).map(|_| next()).collect()
}

pub fn names_in(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| name(entry).into_string().unwrap()).collect();
    names.sort();
    names
}
