//! What a log holds: entries, and the membership that some of them carry.
//!
//! Paper: §5.3 (entries), §6 (configurations); dissertation chapter 4. A command is opaque bytes
//! that only the state machine reads. A membership is data of the protocol itself, so it has a type.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{Incarnation, LogId, NodeId};

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place, and the term of the leader that appended it.
    pub id: LogId,
    /// What it says.
    pub payload: Payload,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.id, self.payload)
    }
}

/// What an entry says.
///
/// The set is closed: a node that finds another kind in its log stops rather than skip it, because
/// skipping would let two state machines differ (rule L18).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing. A new leader appends one at once, so that older entries can commit (§5.4.2, §8).
    Empty,
    /// A command for the state machine. Cloning it shares the bytes.
    Command(Bytes),
    /// The configuration from here on (§6). It is in force as soon as it is in the log. Boxed, because it is
    /// rare and would make every entry three times as large.
    Membership(Box<Membership>),
}

impl Payload {
    /// How many bytes it counts for against limits: those of the command, or a nominal few.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Empty => 16,
            Self::Command(bytes) => bytes.len() + 16,
            Self::Membership(membership) => 64 * membership.peers.len() + 64,
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::Command(bytes) => write!(f, "{:?}", bytes),
            Self::Membership(membership) => write!(f, "{membership:?}"),
        }
    }
}

/// Who takes part, and how (§6; dissertation 4.3).
///
/// While `outgoing` is not empty the configuration is *joint*: every decision needs a majority of
/// `voters` **and** a majority of `outgoing` (rule M3). The sets hold: nobody in `learners` votes;
/// `learners_next` is a part of `outgoing`; `promoting` is a part of `learners`; everybody named, and
/// nobody else, has an entry in `peers`. [`Membership::fault`] checks that.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The servers that vote and count. In a joint configuration, those of the new half.
    pub voters: BTreeSet<NodeId>,
    /// The voters of the old half of a joint configuration, otherwise nobody.
    pub outgoing: BTreeSet<NodeId>,
    /// Servers that are sent the log but are not counted (dissertation 4.2.1).
    pub learners: BTreeSet<NodeId>,
    /// Voters of the old half that become learners when the joint configuration is left.
    pub learners_next: BTreeSet<NodeId>,
    /// Learners that the leader makes voters by itself once they have caught up (dissertation 4.2.1).
    pub promoting: BTreeSet<NodeId>,
    /// Whether the leader leaves the joint configuration by itself once it is committed.
    pub auto_leave: bool,
    /// What is known of each server. An address is metadata: it may change, the id may not.
    pub peers: BTreeMap<NodeId, PeerInfo>,
}

/// What a membership says of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Where it can be reached, as `host:port`.
    pub address: String,
    /// The life of its disk that was seen first, once the leader has recorded it. A node that comes
    /// back in another life has forgotten what it promised and must not be heard (rule M10).
    pub incarnation: Option<Incarnation>,
}

impl PeerInfo {
    /// A server at `address` that was not seen yet.
    pub const fn at(address: String) -> Self {
        Self { address, incarnation: None }
    }
}

impl Membership {
    /// A configuration of `voters` at these addresses, with nobody else.
    pub fn of_voters(voters: impl IntoIterator<Item = (NodeId, String)>) -> Self {
        let peers: BTreeMap<_, _> =
            voters.into_iter().map(|(id, address)| (id, PeerInfo::at(address))).collect();
        Self { voters: peers.keys().copied().collect(), peers, ..Self::default() }
    }

    /// Whether decisions need two majorities.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` votes, in either half.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether `id` takes part at all.
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// What is wrong with it, if anything: the protocol never makes such a one, so a peer that sends it
    /// is confused or hostile, and a majority of nobody, or a node that is in two places at once, must
    /// not come into force.
    pub fn fault(&self) -> Option<&'static str> {
        let counted = self.voters.len() + self.outgoing.len() + self.learners.len();
        if self.voters.is_empty() {
            Some("there is no voter")
        } else if counted > 2 * Self::MEMBERS_MAX || self.peers.len() > Self::MEMBERS_MAX {
            Some("there are too many members")
        } else if self.learners.iter().any(|id| self.is_voter(*id)) {
            Some("a learner votes")
        } else if !self.learners_next.is_subset(&self.outgoing) {
            Some("a voter that is to become a learner does not vote")
        } else if self.learners_next.iter().any(|id| self.voters.contains(id)) {
            Some("a voter that is to become a learner goes on voting")
        } else if !self.promoting.is_subset(&self.learners) {
            Some("a node that is to be promoted is no learner")
        } else if self.auto_leave && !self.is_joint() {
            Some("it is left by itself, but is not joint")
        } else if !self.members().iter().eq(self.peers.keys()) {
            Some("the members and the known addresses differ")
        } else if self.peers.values().any(|info| info.address.len() > Self::ADDRESS_MAX_BYTES) {
            Some("an address is too long")
        } else {
            None
        }
    }

    /// No configuration has more members than this, both halves of a joint one together.
    pub const MEMBERS_MAX: usize = 64;
    /// No address is longer: the longest host name there is, and a port.
    pub const ADDRESS_MAX_BYTES: usize = 255 + 6;

    /// Everybody who takes part, in order of their ids.
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect()
    }
}

/// Written as in the golden scripts: `voters={1 2 3} outgoing={1 2} learners={4}`.
impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", ids(&self.voters))?;
        if !self.outgoing.is_empty() {
            write!(f, " outgoing={}", ids(&self.outgoing))?;
        }
        if !self.learners.is_empty() {
            write!(f, " learners={}", ids(&self.learners))?;
        }
        if !self.learners_next.is_empty() {
            write!(f, " learners_next={}", ids(&self.learners_next))?;
        }
        if !self.promoting.is_empty() {
            write!(f, " promoting={}", ids(&self.promoting))?;
        }
        if self.auto_leave {
            f.write_str(" auto_leave")?;
        }
        Ok(())
    }
}

fn ids(set: &BTreeSet<NodeId>) -> String {
    let ids: Vec<_> = set.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(" "))
}
