//! What travels on which stream, byte for byte. docs/formats.md describes the same in prose.
//!
//! Two protocols share the socket; TLS chooses between them (ALPN), which is also where a future
//! incompatible version is told apart before anything is decoded.
//!
//! - Between nodes: the first bidirectional stream of the dialer carries [`PeerHello`] both ways.
//!   Then either side opens unidirectional streams that begin with a [`Lane`] byte and carry frames
//!   of envelopes, and a bidirectional stream for each snapshot.
//! - From clients: one bidirectional stream. Both sides begin with a hello; then frames with a
//!   request id, a kind and a body.

use raft_core::{ClusterId, Envelope, Identity, Incarnation, Message, NodeId};
use raft_core::{SnapshotFile, SnapshotHeader};
use serde::{Deserialize, Serialize};

/// The protocol between nodes.
pub(crate) const PEER_PROTOCOL: &[u8] = b"raft-peer/1";
/// The protocol of clients.
pub(crate) const CLIENT_PROTOCOL: &[u8] = b"raft-client/1";
/// Raised when the meaning of a frame changes; both sides must say the same.
pub(crate) const VERSION: u16 = 2;
/// The largest hello, in bytes.
pub(crate) const HELLO_BYTES: usize = 1024;
/// The largest frame of the control lane, in bytes: nothing in it carries data.
pub(crate) const CONTROL_FRAME_BYTES: usize = 64 << 10;
/// The largest frame at the start of a snapshot, in bytes: it lists the files.
pub(crate) const OPENING_FRAME_BYTES: usize = 8 << 20;

/// The first frame on a connection between nodes, from each side. The version comes first, so that
/// it can be read whatever follows in another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerHello {
    pub(crate) version: u16,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// Whom the speaker believes to speak to.
    pub(crate) to: NodeId,
    /// Drawn at random by each process, to tell a restarted peer from a second connection.
    pub(crate) session: u64,
}

impl PeerHello {
    pub(crate) fn new(identity: Identity, to: NodeId, session: u64) -> Self {
        let Identity { cluster, node, incarnation } = identity;
        Self { version: VERSION, cluster, node, incarnation, to, session }
    }
}

/// The first frame of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientHello {
    pub(crate) version: u16,
}

/// The first frame to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerHello {
    pub(crate) version: u16,
    pub(crate) identity: Identity,
}

/// The streams on which messages travel. What is in one never waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Heartbeats, votes, reads, and every reply: small, and urgent.
    Control,
    /// Appends, in order.
    Bulk,
}

impl Lane {
    /// Where a message belongs. An append without entries stays behind those with: it asks whether
    /// what was sent before it has arrived, and overtaking that it would be told no. Safety does
    /// not depend on the order between lanes.
    pub(crate) fn of(envelope: &Envelope) -> Self {
        match &envelope.message {
            Message::Append { .. } => Self::Bulk,
            Message::AppendReply(_)
            | Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::Vote { .. }
            | Message::VoteReply(_)
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Snapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::SnapshotRequest { .. }
            | Message::Removed { .. } => Self::Control,
        }
    }

    /// The first byte of the stream.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Bulk => 2,
        }
    }

    pub(crate) fn of_byte(byte: u8) -> Option<Self> {
        [Self::Control, Self::Bulk].into_iter().find(|lane| lane.byte() == byte)
    }

    /// QUIC sends streams of a higher priority first. Snapshots have [`SNAPSHOT_PRIORITY`].
    pub(crate) fn priority(self) -> i32 {
        match self {
            Self::Control => 2,
            Self::Bulk => 1,
        }
    }
}

/// Below everything else: a snapshot takes what bandwidth is left.
pub(crate) const SNAPSHOT_PRIORITY: i32 = -1;

/// About how many bytes a message takes, for the bounds of queues.
pub(crate) fn weight_bytes(envelope: &Envelope) -> usize {
    const ENVELOPE_BYTES: usize = 64;
    let Message::Append { entries, .. } = &envelope.message else { return ENVELOPE_BYTES };
    entries.iter().map(|entry| entry.payload.len_bytes() + 16).sum::<usize>() + ENVELOPE_BYTES
}

/// The first frame of a snapshot. After the answer the files follow without frames, each with the
/// bytes that are announced here and its CRC32C (4 bytes, little-endian).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotOpening {
    pub(crate) header: SnapshotHeader,
    pub(crate) files: Vec<SnapshotFile>,
}

/// What the receiver of a snapshot says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SnapshotAnswer {
    /// "Send, from here on": a file number and an offset in it.
    From { file: u32, offset: u64 },
    /// "I have all of it, and it is verified."
    Complete,
    /// "I do not take it", and why.
    Refused(String),
}

/// The head of a frame from or to a client: the request's id (8 bytes, little-endian), chosen by
/// the client, and the kind. The body follows.
pub(crate) const CLIENT_HEAD_BYTES: usize = 9;

/// Kinds of frames from a client.
pub(crate) const CALL: u8 = 0;
/// Kinds of frames to a client: an answer; "there will be none"; "it would be too long".
pub(crate) const REPLY: u8 = 0;
pub(crate) const NO_REPLY: u8 = 1;
pub(crate) const REPLY_TOO_LONG: u8 = 2;

/// The head of a frame from or to a client.
pub(crate) fn client_head(id: u64, kind: u8) -> [u8; CLIENT_HEAD_BYTES] {
    let mut head = [kind; CLIENT_HEAD_BYTES];
    head[..8].copy_from_slice(&id.to_le_bytes());
    head
}

/// Splits the head off. `None` if the frame is too short to have one.
pub(crate) fn split_client_head(frame: &[u8]) -> Option<(u64, u8)> {
    let (id, rest) = frame.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*id), *rest.first()?))
}

#[cfg(test)]
mod tests {
    use raft_core::{Entry, Index, LogId, Payload, Term};

    use super::*;

    #[test]
    fn appends_keep_their_order_in_the_bulk_lane() {
        let node = |id| NodeId::new(id).unwrap();
        let append = |entries| Envelope {
            from: node(1),
            to: node(2),
            term: Term(1),
            message: Message::Append { prev: LogId::ZERO, entries, commit: Index::ZERO },
        };
        let entry = Entry { id: LogId::new(Term(1), Index(1)), payload: Payload::Empty };
        assert_eq!(Lane::of(&append(vec![entry])), Lane::Bulk);
        assert_eq!(Lane::of(&append(vec![])), Lane::Bulk);
        let heartbeat = Message::Heartbeat { commit: Index::ZERO, round: 1 };
        let heartbeat = Envelope { message: heartbeat, ..append(vec![]) };
        assert_eq!(Lane::of(&heartbeat), Lane::Control);
        assert_eq!(Lane::of_byte(0), None);
        assert_eq!(Lane::of_byte(2), Some(Lane::Bulk));
    }

    #[test]
    fn heads_are_read_back() {
        let head = client_head(u64::MAX - 1, REPLY_TOO_LONG);
        assert_eq!(split_client_head(&head), Some((u64::MAX - 1, REPLY_TOO_LONG)));
        assert_eq!(split_client_head(&head[..8]), None);
    }
}
