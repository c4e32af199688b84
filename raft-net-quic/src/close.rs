//! Why a connection is refused or closed, as both sides see it.
//!
//! The side that closes sends a code and a sentence (in QUIC's CONNECTION_CLOSE); the other side
//! logs the sentence and acts on the code. The codes are part of the protocol: they are never
//! reused.

use std::fmt;

use quinn::{Connection, ConnectionError, Endpoint, VarInt};

/// Why the other side refused or closed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What to act on.
    pub kind: RefusalKind,
    /// What to show: one line in the words of the side that refused.
    pub detail: String,
}

/// The kinds of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// It stops. Try another node, or this one later.
    Stopping,
    /// It speaks another version of the protocol. Run the same release everywhere.
    Version,
    /// It belongs to another cluster.
    Cluster,
    /// It is not the node that was called: an address leads to the wrong place.
    Node,
    /// The certificate does not name a node, or another one than its owner claims to be.
    Certificate,
    /// The node came back with another data directory under its old id.
    Incarnation,
    /// It is not, or not any more, a member of the cluster.
    Removed,
    /// What was sent broke the rules of the protocol.
    Malformed,
    /// There are too many connections.
    Busy,
    /// It was not read, or nothing was sent, for too long.
    Slow,
    /// Another connection between the same two has taken its place.
    Replaced,
    /// A reason that this release does not know.
    Other,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Closes `connection` for this reason.
    pub(crate) fn close(&self, connection: &Connection) {
        let detail = self.detail.as_bytes();
        connection.close(self.kind.code(), &detail[..detail.len().min(MAX_DETAIL_BYTES)]);
    }

    /// Closes every connection of `endpoint` for this reason, and the endpoint itself.
    pub(crate) fn close_all(&self, endpoint: &Endpoint) {
        endpoint.close(self.kind.code(), self.detail.as_bytes());
    }

    /// The reason that the other side gave for closing, if it gave one.
    pub(crate) fn of(error: &ConnectionError) -> Option<Self> {
        let ConnectionError::ApplicationClosed(close) = error else { return None };
        let text = String::from_utf8_lossy(&close.reason);
        // It goes to logs and terminals: no control characters, whoever wrote it.
        let mut detail: String = text.chars().filter(|c| !c.is_control()).collect();
        if detail.is_empty() {
            detail = format!("closed with code {}", close.error_code);
        }
        Some(Self { kind: RefusalKind::of_code(close.error_code), detail })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Refusal {}

impl RefusalKind {
    fn code(self) -> VarInt {
        let found = CODES.iter().find(|(kind, _)| *kind == self);
        VarInt::from_u32(found.map_or(u32::MAX, |(_, code)| *code))
    }

    fn of_code(code: VarInt) -> Self {
        let found = CODES.iter().find(|(_, known)| u64::from(*known) == code.into_inner());
        found.map_or(Self::Other, |(kind, _)| *kind)
    }
}

const CODES: [(RefusalKind, u32); 11] = [
    (RefusalKind::Stopping, 1),
    (RefusalKind::Version, 2),
    (RefusalKind::Cluster, 3),
    (RefusalKind::Node, 4),
    (RefusalKind::Certificate, 5),
    (RefusalKind::Incarnation, 6),
    (RefusalKind::Removed, 7),
    (RefusalKind::Malformed, 8),
    (RefusalKind::Busy, 9),
    (RefusalKind::Slow, 10),
    (RefusalKind::Replaced, 11),
];

/// A reason has to fit into one packet.
const MAX_DETAIL_BYTES: usize = 800;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quinn::ApplicationClose;

    use super::*;

    #[test]
    fn every_code_is_read_back_and_unknown_ones_are_told_apart() {
        for (kind, code) in CODES {
            assert_eq!(RefusalKind::of_code(kind.code()), kind);
            assert_eq!(kind.code(), VarInt::from_u32(code));
        }
        assert_eq!(RefusalKind::of_code(VarInt::from_u32(77)), RefusalKind::Other);
    }

    #[test]
    fn a_hostile_reason_cannot_write_to_the_terminal() {
        let close = ApplicationClose {
            error_code: VarInt::from_u32(3),
            reason: Bytes::from_static(b"\x1b[2Jother\ncluster\xff"),
        };
        let refusal = Refusal::of(&ConnectionError::ApplicationClosed(close)).unwrap();
        assert_eq!(refusal.kind, RefusalKind::Cluster);
        assert_eq!(refusal.detail, "[2Jothercluster\u{fffd}");
    }
}
