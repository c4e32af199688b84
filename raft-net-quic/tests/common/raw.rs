//! A party that speaks QUIC and TLS correctly and nothing else: for what no honest node would send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, SendStream, VarInt};
use raft_core::Identity;
use raft_net_quic::TlsFiles;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;

use super::PATIENCE;

pub const PEER: &[u8] = b"raft-peer/1";
pub const CLIENT: &[u8] = b"raft-client/1";

/// The version that both protocols have now.
pub const VERSION: u16 = 2;

/// The hello between nodes, as docs/formats.md has it.
#[derive(Clone, Serialize)]
pub struct Hello {
    pub version: u16,
    pub cluster: u128,
    pub node: u64,
    pub incarnation: u64,
    pub to: u64,
    pub session: u64,
}

impl Hello {
    pub fn new(own: Identity, to: u64) -> Self {
        Self {
            version: VERSION,
            cluster: own.cluster.0,
            node: own.node.as_u64(),
            incarnation: own.incarnation.0,
            to,
            session: 1234,
        }
    }
}

/// A party with its own socket.
pub struct Raw {
    pub endpoint: Endpoint,
    pub connection: Connection,
}

impl Raw {
    /// Connects to the node `id` at `address`.
    pub async fn connect(tls: &TlsFiles, protocol: &[u8], address: SocketAddr, id: u64) -> Self {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let name = format!("node-{id}.raft");
        let config = Self::config(tls, protocol);
        let connection = endpoint.connect_with(config, address, &name).unwrap().await.unwrap();
        Self { endpoint, connection }
    }

    /// How it connects: with these files, and willing to resume and to send early data.
    pub fn config(tls: &TlsFiles, protocol: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(&tls.ca).unwrap() {
            roots.add(authority.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&tls.certificate).unwrap()],
                PrivateKeyDer::from_pem_file(&tls.key).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        config.enable_early_data = true;
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
    }

    /// Says hello as a node and waits for the answer, or for being disconnected.
    pub async fn greet(&self, hello: &Hello) {
        let Ok((mut send, mut recv)) = self.connection.open_bi().await else { return };
        let _ = send.write_all(&frame(&postcard::to_stdvec(hello).unwrap())).await;
        let _ = send.finish();
        let _ = recv.read_to_end(2000).await;
    }

    /// Opens a lane and writes these bytes.
    pub async fn lane(&self, byte: u8, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(&[byte]).await.unwrap();
        let _ = stream.write_all(bytes).await; // The node may have closed the connection already.
        stream
    }

    /// Opens the stream of a client, says hello and writes these bytes.
    pub async fn calls(&self, bytes: &[u8]) -> (SendStream, quinn::RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        send.write_all(&frame(&postcard::to_stdvec(&VERSION).unwrap())).await.unwrap();
        let _ = send.write_all(bytes).await; // The node may have closed the connection already.
        (send, recv)
    }

    /// Waits to be disconnected, and returns the code and the reason.
    pub async fn refusal(&self) -> (u64, String) {
        let closed = tokio::time::timeout(PATIENCE, self.connection.closed()).await;
        let reason = closed.expect("the node keeps the connection");
        let ConnectionError::ApplicationClosed(close) = reason else {
            panic!("closed in another way: {reason}");
        };
        (close.error_code.into_inner(), String::from_utf8(close.reason.to_vec()).unwrap())
    }

    /// Whether the connection is still there after a while.
    pub async fn stays(&self, while_: Duration) -> bool {
        tokio::time::timeout(while_, self.connection.closed()).await.is_err()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

/// A frame that holds `bytes`.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
    frame.extend_from_slice(bytes);
    frame
}
