//! Those who are compared: two nodes each, connected on loopback, each with a runtime of one thread.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{
    Arrival, ClusterId, Envelope, Identity, Inbox, Incarnation, Index, LogId, Message, NodeId,
    PeerInfo, Sent, Term, Transport,
};
use raft_net_quic::{
    ClientService, ClusterName, QuicConfig, QuicTransport, Responder, TlsFiles, node_name,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::stream::StreamTransport;

/// Two nodes that are connected.
pub struct Side {
    pub name: &'static str,
    pub nodes: [Arc<End>; 2],
    _runtimes: [Runtime; 2],
}

/// A node, and who is told of what arrives at it.
pub struct End {
    transport: OnceLock<Box<dyn Transport + Sync>>,
    listener: Mutex<Option<Listener>>,
}

type Listener = Box<dyn FnMut(Vec<Envelope>) + Send>;

impl End {
    fn new() -> Arc<Self> {
        Arc::new(Self { transport: OnceLock::new(), listener: Mutex::new(None) })
    }

    fn attach(self: &Arc<Self>, mut transport: impl Transport + Sync) {
        let end = Arc::clone(self);
        transport.start(Inbox::new(move |arrival| {
            let Arrival::Messages(envelopes) = arrival else { return };
            let mut listener = end.listener.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(listener) = &mut *listener {
                listener(envelopes);
            }
        }));
        assert!(self.transport.set(Box::new(transport)).is_ok(), "attached once");
    }

    pub fn send(&self, envelope: Envelope) -> Sent {
        self.transport.get().expect("attached before it is used").send(envelope)
    }

    /// Calls `listener` with what arrives from now on, on the thread that received it.
    pub fn listen(&self, listener: impl FnMut(Vec<Envelope>) + Send + 'static) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(listener));
    }
}

/// Plain TCP, TLS on TCP, and ours.
pub fn all(dir: &Path) -> [Side; 3] {
    let files = certificates(dir);
    [tcp(), tls(&files), quic(&files, dir)]
}

fn tcp() -> Side {
    let (runtimes, nodes) = (runtimes(), [End::new(), End::new()]);
    for (end, (runtime, stream)) in nodes.iter().zip(runtimes.iter().zip(tcp_pair(&runtimes))) {
        end.attach(StreamTransport::new(runtime.handle(), stream));
    }
    Side { name: "TCP", nodes, _runtimes: runtimes }
}

fn tls(files: &[TlsFiles; 2]) -> Side {
    let (runtimes, nodes) = (runtimes(), [End::new(), End::new()]);
    let [dialing, accepting] = tcp_pair(&runtimes);
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&files[1])));
    let accepted = runtimes[1].spawn(async move { acceptor.accept(accepting).await.unwrap() });
    let connector = TlsConnector::from(Arc::new(client_config(&files[0])));
    let name = ServerName::try_from(node_name(node(2), &ClusterName::default())).unwrap();
    let dialed = runtimes[0].block_on(connector.connect(name, dialing)).unwrap();
    nodes[0].attach(StreamTransport::new(runtimes[0].handle(), dialed));
    let accepted = runtimes[1].block_on(accepted).unwrap();
    nodes[1].attach(StreamTransport::new(runtimes[1].handle(), accepted));
    Side { name: "TLS on TCP", nodes, _runtimes: runtimes }
}

fn quic(files: &[TlsFiles; 2], dir: &Path) -> Side {
    let (runtimes, nodes) = (runtimes(), [End::new(), End::new()]);
    let mut addresses = Vec::new();
    for ((id, end), (runtime, tls)) in (1..).zip(&nodes).zip(runtimes.iter().zip(files)) {
        let identity =
            Identity { cluster: ClusterId(1), node: node(id), incarnation: Incarnation(id) };
        let incoming = dir.join(format!("incoming-{id}"));
        let config = QuicConfig::new(loopback(), identity, tls.clone(), incoming);
        let handle = runtime.handle().clone();
        let transport = QuicTransport::bind(handle, config, Arc::new(NoService)).unwrap();
        addresses.push(transport.local_addr());
        if id == 2 {
            transport.set_peers(&[(node(1), PeerInfo::at(addresses[0].to_string()))].into());
        }
        end.attach(transport);
    }
    let probe = Message::HeartbeatReply { round: 0, shield: raft_core::Ticks(0), priority: 0 };
    let started = Instant::now();
    while nodes[1].send(envelope(2, 1, probe.clone())) != Sent::Queued {
        assert!(started.elapsed() < Duration::from_secs(10), "no connection");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_secs(1)); // Until it knows how large packets may be.
    Side { name: "raft-net-quic", nodes, _runtimes: runtimes }
}

fn runtimes() -> [Runtime; 2] {
    [(); 2].map(|()| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

/// A connection, its two ends each known to the runtime that uses it.
fn tcp_pair(runtimes: &[Runtime; 2]) -> [TcpStream; 2] {
    let listener = runtimes[1].block_on(TcpListener::bind(loopback())).unwrap();
    let address = listener.local_addr().unwrap();
    let dialed = runtimes[0].block_on(TcpStream::connect(address)).unwrap();
    let (accepted, _) = runtimes[1].block_on(listener.accept()).unwrap();
    for stream in [&dialed, &accepted] {
        stream.set_nodelay(true).unwrap();
    }
    [dialed, accepted]
}

/// TLS 1.3 with certificates on both sides and ring, as in raft-net-quic.
fn server_config(files: &TlsFiles) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(files), provider());
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain(files), key(files))
        .unwrap()
}

fn client_config(files: &TlsFiles) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(files))
        .with_client_auth_cert(chain(files), key(files))
        .unwrap()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(files: &TlsFiles) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    Arc::new(roots)
}

fn chain(files: &TlsFiles) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_file(&files.certificate).unwrap()]
}

fn key(files: &TlsFiles) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(&files.key).unwrap()
}

/// Certificates for the nodes 1 and 2, and of their authority.
fn certificates(dir: &Path) -> [TlsFiles; 2] {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    [1, 2].map(|id| {
        let mut params =
            CertificateParams::new([node_name(node(id), &ClusterName::default())]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let files = TlsFiles {
            ca: dir.join("ca.pem"),
            certificate: dir.join(format!("node-{id}.pem")),
            key: dir.join(format!("node-{id}.key")),
        };
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    })
}

struct NoService;

impl ClientService for NoService {
    fn call(&self, _: Bytes, _: Responder) {}
}

/// An append of one command.
pub fn append(from: u64, to: u64, command: Bytes) -> Envelope {
    let id = LogId::new(Term(1), Index(1));
    let entries = vec![raft_core::Entry { id, payload: raft_core::Payload::Command(command) }];
    envelope(from, to, Message::Append { prev: LogId::ZERO, entries, commit: Index(0) })
}

fn envelope(from: u64, to: u64, message: Message) -> Envelope {
    Envelope { from: node(from), to: node(to), term: Term(1), message }
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("no node here has the number 0")
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
