//! The UDP socket, and how QUIC is tuned. Every setting that is not QUIC's default says why.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use socket2::SockRef;

use crate::config::{ClientLimits, Limits, QuicConfig};
use crate::error::NetError;
use crate::tls::Material;

/// A node's socket: it accepts, and it dials from the same port, so that a pair of nodes is known
/// to a firewall by their two addresses. Called within a runtime.
pub(crate) fn node(config: &QuicConfig, tls: &Material) -> Result<Endpoint, NetError> {
    let address = config.listen;
    let socket = open(address).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            NetError::PortInUse { address }
        } else {
            NetError::Socket { address, source }
        }
    })?;
    let server = server_config(&config.limits, tls)?;
    let endpoint = Endpoint::new(endpoint_config(), Some(server), socket, Arc::new(TokioRuntime));
    endpoint.map_err(|source| NetError::Socket { address, source })
}

/// How a node accepts others, and clients.
pub(crate) fn server_config(limits: &Limits, tls: &Material) -> Result<ServerConfig, NetError> {
    let mut server = ServerConfig::with_crypto(Arc::new(tls.server()?));
    server.transport_config(Arc::new(accepting())).max_incoming(limits.handshakes);
    Ok(server)
}

/// A client's socket, for addresses of the family of `any`. Called within a runtime.
pub(crate) fn client(any: SocketAddr) -> io::Result<Endpoint> {
    let socket = open(any)?;
    Endpoint::new(endpoint_config(), None, socket, Arc::new(TokioRuntime))
}

/// A socket with room for bursts.
fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    let buffers = SockRef::from(&socket);
    // For many connections that send at once; between two nodes the usual 208 KiB did as well. A
    // system caps it at what the operator allows, and it works without.
    let _ = buffers.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = buffers.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket)
}

/// How a node dials another.
pub(crate) fn peer_config(
    idle: Duration,
    limits: &Limits,
    tls: &Material,
) -> Result<ClientConfig, NetError> {
    let mut transport = common();
    transport
        .max_idle_timeout(Some(idle_timeout(idle)?))
        .keep_alive_interval(Some(idle / KEEP_ALIVES))
        .max_concurrent_uni_streams(VarInt::from_u32(PEER_STREAMS))
        .max_concurrent_bidi_streams(snapshot_streams(limits));
    let mut client = ClientConfig::new(Arc::new(tls.peer()?));
    client.transport_config(Arc::new(transport));
    Ok(client)
}

/// How a client dials a node.
pub(crate) fn client_config(
    limits: &ClientLimits,
    tls: &Material,
) -> Result<ClientConfig, NetError> {
    let idle = idle_timeout(limits.idle_timeout)?;
    let mut transport = common();
    // A node opens no stream to a client.
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(limits.idle_timeout / KEEP_ALIVES))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    let mut client = ClientConfig::new(Arc::new(tls.client()?));
    client.transport_config(Arc::new(transport));
    Ok(client)
}

/// Streams that the other node may open at a time on an accepted connection, besides the first.
pub(crate) fn snapshot_streams(limits: &Limits) -> VarInt {
    VarInt::from_u32(u32::try_from(limits.snapshots_received).unwrap_or(16).clamp(1, 16) + 1)
}

/// Two lanes, and two more while a stream is replaced by its successor.
pub(crate) const PEER_STREAMS: u32 = 4;

/// What accepted connections start with. Whether it is a node or a client is known only later.
fn accepting() -> TransportConfig {
    let mut transport = common();
    // The timeout in force is the smaller one of both sides: that of the dialer, who also sends the
    // keep-alives. So thousands of idle clients cost a node nothing but answers.
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(ACCEPTED_IDLE_MS))))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(1));
    transport
}

fn common() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_DATAGRAM_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        // Round robin between streams of one priority would cut messages into pieces.
        .send_fairness(false)
        // The default of 333 ms suits the internet. It decides when the first packet is repeated
        // (three times this), which is how long a node that has just come up is not noticed.
        .initial_rtt(Duration::from_millis(30))
        // Not used: datagrams were no faster than a long-lived stream, and carry one packet.
        .datagram_receive_buffer_size(None);
    // Left as they are, since nothing was won: fewer acknowledgements (one in ten packets, or
    // after 1 ms) cost round trips 5 % to 15 % more processor time and gained bulk nothing, one
    // for each packet made them take two thirds longer; other congestion controllers (NewReno,
    // BBR) and an initial window of 1 MB changed nothing that could be told from noise.
    transport
}

fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(MAX_DATAGRAM_BYTES)
        .expect("the constant is between 1,200 and 65,527, which is all that is checked");
    config
}

fn idle_timeout(timeout: Duration) -> Result<IdleTimeout, NetError> {
    let error = || NetError::IdleTimeout { idle_timeout: timeout };
    if !(MIN_IDLE..=MAX_IDLE).contains(&timeout) {
        return Err(error());
    }
    IdleTimeout::try_from(timeout).map_err(|_| error())
}

const MIN_IDLE: Duration = Duration::from_millis(10);
const MAX_IDLE: Duration = Duration::from_secs(3600);
/// Keep-alives within an idle timeout: three may be lost.
const KEEP_ALIVES: u32 = 4;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const ACCEPTED_IDLE_MS: u32 = 60_000;
/// The largest UDP payload that path MTU discovery tries. Loopback and jumbo frames carry more than
/// the usual 1,500 bytes, and fewer packets cost less: with 6,500 bytes instead of 4,000 the round
/// trip of 4 KiB takes half the time (it fits), and 64 KiB a third less processor time.
///
/// Not more: QUIC hands up to 10 packets at a time to the system (GSO). Over 64 KiB that fails in the
/// way in which probes of the path fail, so all ten would be lost without a word. Packets of 64 KiB
/// without GSO were a little faster still, on loopback only.
const MAX_DATAGRAM_BYTES: u16 = 6500;
