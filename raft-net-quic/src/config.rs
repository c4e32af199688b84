//! What a transport and a client are told: files, addresses, limits.
//!
//! Every limit has a default that suits the defaults of `raft_core::Config`. Nothing here opens or
//! reads anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use raft_core::Identity;

/// The PEM files that prove who we are and tell whom to believe. `raft tls init` makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the authorities to believe; usually one, that of the cluster.
    pub ca: PathBuf,
    /// Our certificate, followed by intermediate ones if there are any.
    pub certificate: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
}

/// What a [`QuicTransport`](crate::QuicTransport) is told.
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// Where to listen. The port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// Who we are. Our certificate must name this node.
    pub identity: Identity,
    /// Certificates and key.
    pub tls: TlsFiles,
    /// Where arriving snapshots are kept until the state machine takes them. The newest part that an
    /// earlier run left there is kept for [`Limits::snapshot_kept`] longer, so that its sender can go on;
    /// the others are removed at the start. On the file system of the state machine, so that it can
    /// rename files instead of copying them.
    pub incoming: PathBuf,
    /// A peer that is silent for so long is taken for dead. About the election timeout; at least
    /// 10 ms. A quarter of it is how often an idle connection is probed.
    pub idle_timeout: Duration,
    /// How often the files of `tls` are looked at. What has changed in them is used for connections
    /// that are made from then on; those that are there stay.
    pub tls_check: Duration,
    /// How much of everything.
    pub limits: Limits,
}

impl QuicConfig {
    /// A configuration with an idle timeout of one second, a look at the certificates each ten, and the
    /// default limits.
    pub fn new(
        listen: SocketAddr,
        identity: Identity,
        tls: TlsFiles,
        incoming: impl Into<PathBuf>,
    ) -> Self {
        Self {
            listen,
            identity,
            tls,
            incoming: incoming.into(),
            idle_timeout: Duration::from_secs(1),
            tls_check: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// How much of everything a node accepts or holds. Start from [`Limits::default`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest frame with entries, in bytes. At least what one append may carry.
    pub bulk_frame_bytes: usize,
    /// Messages that wait for one peer in one lane. Beyond, `send` says `Full`.
    pub queue_messages: usize,
    /// Bytes of messages that wait for one peer in one lane. Beyond, `send` says `Full`.
    pub queue_bytes: usize,
    /// The largest request of a client, in bytes.
    pub request_bytes: usize,
    /// The largest reply to a client, in bytes.
    pub reply_bytes: usize,
    /// Requests of one client that may be unanswered. Beyond, its stream is not read.
    pub client_requests: usize,
    /// Bytes of unanswered requests of one client. Beyond, its stream is not read.
    pub client_request_bytes: usize,
    /// Bytes of replies that wait for one client to read them. Beyond, it is disconnected.
    pub client_reply_bytes: usize,
    /// Subscriptions of one connection of a client. Who opens more waits until one has ended.
    pub client_subscriptions: u32,
    /// Connections of clients at the same time.
    pub client_connections: usize,
    /// Connections of clients from one address (IPv4), or one network of 64 bits (IPv6), at the same
    /// time.
    pub client_connections_per_address: usize,
    /// Connections that other nodes opened, at the same time.
    pub peer_connections: usize,
    /// Connections that are being set up at the same time. From half of it on, a newcomer first has
    /// to prove that it receives at its address.
    pub handshakes: usize,
    /// How long setting up a connection may take.
    pub handshake_timeout: Duration,
    /// Snapshots that are received at the same time.
    pub snapshots_received: usize,
    /// Snapshots that are sent at the same time. More of them wait.
    pub snapshots_sent: usize,
    /// Bytes a second that all snapshots together may be sent with; `None` for as fast as it goes.
    /// They give way to messages in any case.
    pub snapshot_send_rate: Option<u64>,
    /// How long what has arrived of a snapshot is kept when its connection is lost, or this node is
    /// started again.
    pub snapshot_kept: Duration,
    /// Files in a snapshot that is received.
    pub snapshot_files: usize,
    /// Bytes in a snapshot that is received.
    pub snapshot_bytes: u64,
    /// A transfer of a snapshot, or a client that should read replies, is given up if it does not
    /// move for so long.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bulk_frame_bytes: 8 << 20,
            queue_messages: 4096,
            queue_bytes: 16 << 20,
            request_bytes: 2 << 20,
            reply_bytes: 16 << 20,
            client_requests: 1024,
            client_request_bytes: 16 << 20,
            client_reply_bytes: 64 << 20,
            client_subscriptions: 4096,
            client_connections: 4096,
            client_connections_per_address: 1024,
            peer_connections: 64,
            handshakes: 256,
            handshake_timeout: Duration::from_secs(5),
            snapshots_received: 2,
            snapshots_sent: 2,
            snapshot_send_rate: None,
            snapshot_kept: Duration::from_secs(600),
            snapshot_files: 65_536,
            snapshot_bytes: 1 << 40,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// How much of everything a [`QuicClient`](crate::QuicClient) accepts or holds. Start from
/// [`ClientLimits::default`].
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// The largest request, in bytes. The nodes have a limit of their own.
    pub request_bytes: usize,
    /// The largest reply, in bytes. Not below that of the nodes.
    pub reply_bytes: usize,
    /// Requests to one endpoint that wait to be written.
    pub queue_requests: usize,
    /// Bytes of requests to one endpoint that wait to be written.
    pub queue_bytes: usize,
    /// Endpoints that are remembered. Beyond, those without a connection are forgotten.
    pub endpoints: usize,
    /// How long connecting to an endpoint may take.
    pub connect_timeout: Duration,
    /// A node that is silent for so long is taken for dead. A quarter of it is how often an idle
    /// connection is probed.
    pub idle_timeout: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            request_bytes: 2 << 20,
            reply_bytes: 16 << 20,
            queue_requests: 16_384,
            queue_bytes: 64 << 20,
            endpoints: 256,
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(2),
        }
    }
}
