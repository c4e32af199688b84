//! The parts a node can play, one type each.
//!
//! Paper: §5.1, Figure 4; dissertation 9.6 (pre-candidates). What they do is in `follower.rs`,
//! `candidate.rs` and `leader.rs`; nothing of one role outlives the change to another.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use super::lease::Lease;
use super::leaving::Leaving;
use super::progress::Progress;
use super::reads::Reads;
use super::transfer::Transfer;
use crate::event::{Change, RoleName, Ticket};
use crate::types::{Index, NodeId};

/// The part this node plays.
#[derive(Debug)]
pub(super) enum Role {
    /// It follows a leader, or waits for one.
    Follower(Follower),
    /// It asks whether a campaign would succeed, and has changed nothing yet.
    PreCandidate(Campaigning),
    /// It campaigns in its own term.
    Candidate(Campaigning),
    /// It leads its term.
    Leader(Box<Leader>),
}

/// A node that follows.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// The leader of this term, once it has been heard.
    pub(super) leader: Option<NodeId>,
}

/// A node that asks for votes.
#[derive(Debug)]
pub(super) struct Campaigning {
    /// Who has answered, and what. Our own vote is here once it is durable (rule E2).
    pub(super) votes: BTreeMap<NodeId, bool>,
}

/// A node that leads.
#[derive(Debug)]
pub(super) struct Leader {
    /// Ticks since the term began.
    pub(super) now: u64,
    /// The other members, and those who leave. Boxed: a map makes room for many at once.
    pub(super) progress: BTreeMap<NodeId, Box<Progress>>,
    /// Until when nobody else can be elected.
    pub(super) lease: Lease,
    /// Who is no member any more and may not know it yet.
    pub(super) leaving: BTreeMap<NodeId, Leaving>,
    /// The empty entry that began the term. Nothing may be read or changed before it is committed.
    pub(super) first: Index,
    /// Ticks since the last heartbeat.
    pub(super) heartbeat_elapsed: u32,
    /// Ticks since what is done once a heartbeat interval, however often reads ask for heartbeats.
    pub(super) chores_elapsed: u32,
    /// Where the log ended an interval ago or two, and at most one ago: whoever has the former is at
    /// most two heartbeat intervals behind.
    pub(super) ends: (Index, Index),
    /// The latest heartbeat round.
    pub(super) round: u64,
    /// Reads that wait to be confirmed.
    pub(super) reads: Reads,
    /// Leadership is being handed over.
    pub(super) transfer: Option<Transfer>,
    /// For so many ticks leadership is not handed to a preferred node: the last attempt failed.
    pub(super) yield_wait: u32,
    /// A change of the membership that waits until incarnations are recorded.
    pub(super) held: Option<(Ticket, Change)>,
    /// Index and size of each proposal that is not committed yet, in order.
    pub(super) uncommitted: VecDeque<(Index, usize)>,
    /// The sum of those sizes.
    pub(super) uncommitted_bytes: usize,
}

impl Role {
    /// The leader this node knows, other than itself.
    pub(super) fn known_leader(&self) -> Option<NodeId> {
        match self {
            Self::Follower(follower) => follower.leader,
            Self::PreCandidate(_) | Self::Candidate(_) | Self::Leader(_) => None,
        }
    }

    /// What it is called.
    pub(super) fn name(&self) -> RoleName {
        match self {
            Self::Follower(_) => RoleName::Follower,
            Self::PreCandidate(_) => RoleName::PreCandidate,
            Self::Candidate(_) => RoleName::Candidate,
            Self::Leader(_) => RoleName::Leader,
        }
    }
}
