//! The first exchange on a connection between nodes: is it who it should be?
//!
//! Its certificate has proved which node of our cluster the other side is ([`crate::certified`]). The
//! hello adds what a certificate does not know:
//! the version, the cluster and the incarnation (rules L17 and M10). Nothing the other side says
//! reaches the node before this has succeeded.

use bytes::BytesMut;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use raft_core::{Identity, Incarnation, NodeId};

use crate::close::{Refusal, RefusalKind};
use crate::frame::{self, FrameReader, ReadFault};
use crate::wire::{HELLO_BYTES, PeerHello, VERSION};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// We refuse, for this reason.
    #[error("refused: {0}")]
    Ours(Refusal),
    /// The connection is gone. The reason may say why.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// What we expect of the other side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Who it is, by its certificate.
    pub(crate) node: NodeId,
    /// The life of its data directory, if it is known.
    pub(crate) incarnation: Option<Incarnation>,
}

/// Speaks first and checks the answer.
pub(crate) async fn call(
    connection: &Connection,
    own: Identity,
    session: u64,
    expected: Expected,
) -> Result<PeerHello, HandshakeError> {
    let (mut send, recv) = connection.open_bi().await?;
    write_hello(connection, &mut send, &PeerHello::new(own, expected.node, session)).await?;
    let hello = read_hello(connection, recv).await?;
    check(&hello, own, expected).map_err(HandshakeError::Ours)?;
    Ok(hello)
}

/// Checks what the other side says first, and answers.
pub(crate) async fn answer(
    connection: &Connection,
    own: Identity,
    session: u64,
    expected: Expected,
) -> Result<PeerHello, HandshakeError> {
    let (mut send, recv) = connection.accept_bi().await?;
    let hello = read_hello(connection, recv).await?;
    check(&hello, own, expected).map_err(HandshakeError::Ours)?;
    write_hello(connection, &mut send, &PeerHello::new(own, expected.node, session)).await?;
    Ok(hello)
}

async fn write_hello(
    connection: &Connection,
    stream: &mut SendStream,
    hello: &PeerHello,
) -> Result<(), HandshakeError> {
    let mut frame = BytesMut::new();
    frame::encode(hello, HELLO_BYTES, &mut frame).map_err(|error| malformed(&error))?;
    let written = stream.write_chunk(frame.freeze()).await;
    if written.is_err() || stream.finish().is_err() {
        return Err(gone(connection, "the stream of the hello was stopped"));
    }
    Ok(())
}

async fn read_hello(
    connection: &Connection,
    stream: RecvStream,
) -> Result<PeerHello, HandshakeError> {
    let frame = match FrameReader::new(stream, HELLO_BYTES).next().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(malformed(&"the hello is missing")),
        Err(ReadFault::Frame(error)) => return Err(malformed(&error)),
        Err(ReadFault::Stream(_)) => return Err(gone(connection, "the hello was cut off")),
    };
    // Another version may have another hello; only its first field is sure.
    let (version, _) =
        postcard::take_from_bytes::<u16>(&frame).map_err(|error| malformed(&error))?;
    if version != VERSION {
        let detail = format!(
            "one side speaks protocol version {version}, the other {VERSION}; run the same \
             release everywhere"
        );
        return Err(HandshakeError::Ours(Refusal::new(RefusalKind::Version, detail)));
    }
    frame::decode(&frame).map_err(|error| malformed(&error))
}

/// Rule L17: nothing of another cluster, another node or another life is let in.
fn check(hello: &PeerHello, own: Identity, expected: Expected) -> Result<(), Refusal> {
    let refuse = |kind, detail| Err(Refusal::new(kind, detail));
    let node = hello.node;
    if hello.cluster != own.cluster {
        let detail = format!(
            "node {node} belongs to cluster {}, node {} to cluster {}; check addresses and data \
             directories",
            hello.cluster, own.node, own.cluster
        );
        return refuse(RefusalKind::Cluster, detail);
    }
    if node != expected.node {
        let detail = format!(
            "claims to be node {node} with the certificate of node {}; each node needs its own",
            expected.node
        );
        return refuse(RefusalKind::Certificate, detail);
    }
    if node == own.node {
        let detail = format!("two processes run as node {node}; stop one of them");
        return refuse(RefusalKind::Node, detail);
    }
    if hello.to != own.node {
        let detail = format!("looks for node {}, but this is node {}", hello.to, own.node);
        return refuse(RefusalKind::Node, detail);
    }
    if expected.incarnation.is_some_and(|known| known != hello.incarnation) {
        return refuse(RefusalKind::Incarnation, another_life(node));
    }
    Ok(())
}

/// What to say to a node whose data directory is not the one that the cluster knows.
pub(super) fn another_life(node: NodeId) -> String {
    format!(
        "node {node} came back with a new data directory and may have forgotten what it promised; \
         let it join under an id that was never used: raft serve --node-id NEW --join ..."
    )
}

fn malformed(error: &dyn std::fmt::Display) -> HandshakeError {
    HandshakeError::Ours(Refusal::new(RefusalKind::Malformed, format!("hello: {error}")))
}

/// The reason why the connection is gone, or that only a stream is.
fn gone(connection: &Connection, otherwise: &str) -> HandshakeError {
    match connection.close_reason() {
        Some(reason) => HandshakeError::Connection(reason),
        None => HandshakeError::Ours(Refusal::new(RefusalKind::Malformed, otherwise)),
    }
}

#[cfg(test)]
mod tests {
    use raft_core::ClusterId;

    use super::*;

    fn identity(cluster: u128, node: u64, incarnation: u64) -> Identity {
        Identity {
            cluster: ClusterId(cluster),
            node: NodeId::new(node).unwrap(),
            incarnation: Incarnation(incarnation),
        }
    }

    /// Rule L17.
    #[test]
    fn only_the_expected_node_of_this_cluster_is_let_in() {
        let own = identity(1, 1, 10);
        let node = |id| NodeId::new(id).unwrap();
        let hello = |cluster, from, to| PeerHello::new(identity(cluster, from, 20), node(to), 0);
        let expected = Expected { node: node(2), incarnation: None };
        let kind = |hello, expected| check(&hello, own, expected).map_err(|refusal| refusal.kind);
        assert_eq!(kind(hello(1, 2, 1), expected), Ok(()));
        assert_eq!(kind(hello(2, 2, 1), expected), Err(RefusalKind::Cluster));
        assert_eq!(kind(hello(1, 3, 1), expected), Err(RefusalKind::Certificate));
        assert_eq!(kind(hello(1, 2, 3), expected), Err(RefusalKind::Node));
        let twin = Expected { node: node(1), incarnation: None };
        assert_eq!(kind(hello(1, 1, 1), twin), Err(RefusalKind::Node));
    }

    /// Rule M10.
    #[test]
    fn a_new_life_under_an_old_id_is_refused() {
        let own = identity(1, 1, 10);
        let node = NodeId::new(2).unwrap();
        let hello = PeerHello::new(identity(1, 2, 20), own.node, 0);
        let known = |incarnation| Expected { node, incarnation: Some(Incarnation(incarnation)) };
        assert_eq!(check(&hello, own, known(20)), Ok(()));
        let refusal = check(&hello, own, known(21)).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Incarnation);
        assert!(refusal.detail.contains("--node-id NEW --join"));
    }
}
