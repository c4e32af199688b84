//! What clients and nodes say to each other. The channel carries it as opaque bytes.
//!
//! Like commands, these encodings only grow: a new kind is a new variant at the end; what does not
//! fit takes a new version, which an older node refuses by name.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::sessions::SessionTag;
use raft_core::{ClusterId, Index, Membership, NodeId, RoleName, Term};
use serde::{Deserialize, Serialize};

use crate::alarm::Alarm;
use crate::codec;
use crate::command::{Command, Outcome};
use crate::digest::RevisionDigest;
use crate::error::DecodeError;
use crate::inspect::{Inspected, Inspection};
use crate::model::Revision;
use crate::range::RangeRequest;
use crate::reader::RangeReply;
use crate::space::Space;
use crate::version::MachineVersion;
use crate::watch::{WatchRequest, Watched};

/// What a client asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Change the store. Only the leader can.
    Write(Write),
    /// Read the store.
    Range(Read),
    /// Say how you are. Any node answers at once.
    Status,
    /// Say who you all are. Any node answers at once, as far as it knows.
    Members,
    /// Say what leases or sessions there are. Linearizable.
    Inspect(Inspection),
    /// Say what happens to some keys, again and again. Only where a request can have many replies.
    Watch(WatchRequest),
    /// Say what you hold, in brief. Any node answers that has come as far.
    Digest {
        /// As of this revision.
        revision: Revision,
    },
}

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// With it, the command is run once however often it is sent.
    pub session: Option<SessionTag>,
    /// What is to be done.
    pub command: Command,
}

/// A read of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// What to read.
    pub request: RangeRequest,
    /// How fresh it must be.
    pub level: ReadLevel,
    /// The last index of which the client has seen the effect. An answer from an earlier state
    /// would send the client back in time (rule C8).
    pub min_applied: Index,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadLevel {
    /// It sees every write that was acknowledged before it began, to whomever.
    #[default]
    Linearizable,
    /// It sees what the node that answers has applied. Any node can answer, even one without a
    /// leader.
    Stale,
    /// As linearizable, as long as clocks keep within the bound that the nodes were told: a leader with a
    /// lease asks nobody. Refused where no bound is set.
    Lease,
    /// As linearizable, and any node can answer: one that does not lead asks the leader how far to go,
    /// which costs less than to read there.
    Follower,
    /// Stale within bounds. Any node can answer that is within all that are set.
    Within {
        /// It has applied all but so many of the entries that it knows to be committed.
        entries: Option<u64>,
        /// It sees every write that was acknowledged before so many milliseconds ago.
        ms: Option<u32>,
    },
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Who says so, and as of when.
    pub header: Header,
    /// The answer.
    pub body: Result<Answer, ErrorReply>,
}

/// Who answers, and as of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The node.
    pub node: NodeId,
    /// Its term.
    pub term: Term,
    /// The last entry it had applied; at least the one with the effect of the request.
    pub applied: Index,
    /// The revision of its store then.
    pub revision: Revision,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What became of a write. Never [`Outcome::Refused`]: that is an [`ErrorReply`].
    Written(Outcome),
    /// What a read found.
    Range(RangeReply),
    /// How the node is.
    Status(NodeStatus),
    /// Who they all are.
    Members(Members),
    /// What leases or sessions there are.
    Inspected(Inspected),
    /// What has happened to some keys. The first one says that the watch has begun, and where.
    Watched(Watched),
    /// What the node holds.
    Digest(RevisionDigest),
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Who it is.
    pub node_id: NodeId,
    /// Where the others find it, as `host:port`.
    pub address: String,
    /// What it is doing.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if it knows one.
    pub leader_id: Option<NodeId>,
    /// The last entry of its log.
    pub last_index: Index,
    /// The last entry it knows to be committed.
    pub commit_index: Index,
    /// The last entry its store has applied.
    pub applied_index: Index,
    /// The revision of its store.
    pub revision: Revision,
    /// How its store is.
    pub condition: Condition,
}

/// How a store is. By default new and empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The bytes of keys and values with their history, as quotas count them.
    pub stored_bytes: u64,
    /// The most there may be. `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// The bytes that the file system has to spare.
    pub free_bytes: u64,
    /// What follows from these.
    pub space: Space,
    /// The version of commands that is in force.
    pub version: MachineVersion,
    /// The newest that this node supports.
    pub supports: MachineVersion,
    /// What is wrong, as far as this node knows.
    pub alarms: Vec<Alarm>,
}

/// Who takes part, as far as a node knows. What one needs to join, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The leader, if the node knows one.
    pub leader: Option<LeaderHint>,
    /// The configuration in force.
    pub membership: Membership,
    /// Where in the log that is: the greater, the newer.
    pub membership_at: Index,
}

impl Members {
    /// The address of each member.
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        let peers = self.membership.peers.iter();
        peers.map(|(id, peer)| (*id, peer.address.clone())).collect()
    }
}

/// Who leads, as some node believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    /// Which node.
    pub node: NodeId,
    /// Where it is, as `host:port`.
    pub address: String,
}

/// Why there is no answer. But for [`ErrorReply::Unknown`], the request has had no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorReply {
    /// Ask the leader. A hint of an older term than the client has seen is worth nothing.
    NotLeader {
        /// Who leads, if the node knows.
        leader: Option<LeaderHint>,
        /// In which term.
        term: Term,
    },
    /// Ask again later.
    Busy {
        /// After about so long, in milliseconds.
        retry_after_ms: u32,
        /// With what.
        message: String,
    },
    /// Another leader has put something else in its place. Ask again.
    Superseded,
    /// The write may or may not take effect (rule C4).
    Unknown {
        /// Why nobody knows.
        message: String,
    },
    /// The node has not come as far as the client has seen. Ask another, or later.
    Behind {
        /// How far it has come.
        applied: Index,
    },
    /// The request makes no sense, or is over a limit. It never will be answered.
    Rejected {
        /// In what way.
        kind: Rejection,
        /// The value and the limit, in one line.
        message: String,
    },
    /// The history asked for is gone.
    Compacted {
        /// What was asked for.
        revision: Revision,
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// The node cannot do anything for anybody now. Ask another.
    Unavailable {
        /// Why.
        message: String,
    },
}

/// In what way a request makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejection {
    /// A key is empty.
    EmptyKey,
    /// A key is over the limit.
    KeyTooLong,
    /// A value is over the limit.
    ValueTooLarge,
    /// A range ends before it begins.
    EmptyRange,
    /// It concerns more than one request may.
    TooMuch,
    /// There is no such lease.
    NoSuchLease,
    /// There is no such revision yet.
    FutureRevision,
    /// The request cannot be decoded, or is of a kind or version the node does not know.
    NotUnderstood,
    /// A put keeps the value or the lease of a key that is not there.
    NoSuchKey,
    /// A transaction changes a key twice.
    DuplicateKey,
    /// The session has ended. Open another for the next command.
    SessionEnded,
    /// A number of a session was acknowledged already, or is too far from those under way.
    Sequence,
    /// What concerns sessions cannot be a command of one; and time is not for clients to set.
    NotInSession,
    /// There is a lease of that id already.
    LeaseExists,
    /// Reads by lease are off.
    LeasesOff,
    /// A node has no space left for more data. Deletes and compaction go on.
    NoSpace,
    /// Not every node supports that yet.
    NotActive,
}

impl Request {
    /// As it is sent.
    pub fn encode(&self) -> Bytes {
        codec::encode(VERSION, self)
    }

    /// The reverse of [`Request::encode`].
    ///
    /// # Errors
    ///
    /// [`DecodeError`], for any bytes that are not a request this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(VERSION, bytes)
    }
}

impl Reply {
    /// As it is sent.
    pub fn encode(&self) -> Bytes {
        codec::encode(VERSION, self)
    }

    /// The reverse of [`Reply::encode`].
    ///
    /// # Errors
    ///
    /// [`DecodeError`], for any bytes that are not a reply this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(VERSION, bytes)
    }
}

/// The version of requests and replies. 1 had puts and ranges with fewer options; 2 did not say how the store
/// is.
const VERSION: u8 = 3;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::proposal::Proposal;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..200)) {
            drop(Request::decode(&bytes));
            drop(Reply::decode(&bytes));
            drop(Proposal::decode(&bytes));
            drop(Outcome::decode(&bytes));
        }

        /// Most random bytes fail at once. These begin well, and have a plausible tag.
        #[test]
        fn bytes_that_begin_well_decode_to_what_they_say_or_are_refused(
            tag in 0..4_u8, tail in vec(prop_oneof![0..4_u8, any::<u8>()], 0..60),
        ) {
            let bytes = [&[VERSION, tag], &tail[..]].concat();
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(Request::decode(&request.encode()).unwrap(), request);
            }
            drop(Reply::decode(&bytes));
        }
    }

    proptest! {
        /// What a client may send is what stands in the log, so nobody may be able to stop a node
        /// with it: anything that decodes encodes to the same again.
        #[test]
        fn proposals_that_begin_well_decode_to_what_they_say_or_are_refused(
            stamp in 0..2_u8, tag in 0..11_u8,
            tail in vec(prop_oneof![0..4_u8, any::<u8>()], 0..60),
        ) {
            let head = if stamp == 0 { &[3, 0, 0, tag][..] } else { &[3, 1, 1, 9, 0, tag] };
            if let Ok(proposal) = Proposal::decode(&[head, &tail[..]].concat()) {
                prop_assert_eq!(Proposal::decode(&proposal.encode()).unwrap(), proposal);
            }
        }
    }

    #[test]
    fn what_is_said_arrives() {
        let node = NodeId::new(2).unwrap();
        let revision = Revision(7);
        let condition = Condition {
            quota_bytes: Some(9),
            space: Space::Low,
            alarms: vec![Alarm::Diverged { node, revision }, Alarm::SpaceLow { node }],
            ..Condition::default()
        };
        let status = NodeStatus {
            cluster_id: ClusterId(1),
            node_id: node,
            address: "host:1".to_owned(),
            role: RoleName::Leader,
            term: Term(1),
            leader_id: Some(node),
            last_index: Index(3),
            commit_index: Index(2),
            applied_index: Index(1),
            revision,
            condition,
        };
        let digest = RevisionDigest { revision, keys: 1, hash: u128::MAX };
        let header = Header { node, term: Term(1), applied: Index(1), revision };
        for answer in [Answer::Status(status), Answer::Digest(digest)] {
            let reply = Reply { header, body: Ok(answer) };
            assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
        }
    }

    #[test]
    fn another_version_a_new_kind_and_a_tail_are_told_apart() {
        let bytes = Request::Status.encode();
        assert_eq!(bytes[..], [3, 2]);
        let newer = [4, 2];
        let found = Request::decode(&newer).unwrap_err();
        assert_eq!(found, DecodeError::Version { found: 4, supported: 3 });
        assert!(matches!(Request::decode(&[3, 99]).unwrap_err(), DecodeError::Malformed(_)));
        assert_eq!(Request::decode(&[3, 2, 0]).unwrap_err(), DecodeError::Trailing { bytes: 1 });
        assert_eq!(Request::decode(&[]).unwrap_err(), DecodeError::Empty);
    }
}
