//! What one node says to another.
//!
//! Paper: Figure 2 (`RequestVote`, `AppendEntries`), Figure 13 (`InstallSnapshot`); dissertation 3.10
//! (`TimeoutNow`), 6.4 (read index, leases), 9.6 (pre-vote), 4.2.3 (servers that were removed). Every message says one thing; outcomes are enums,
//! so that "matched at 0" is never mistaken for "rejected".
//!
//! This module has no encoding. A transport chooses one; ours is described in docs/formats.md.

use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::snapshot::SnapshotMeta;
use crate::types::{Index, LogId, NodeId, Term, Ticks};

/// A message with its sender, its receiver and the sender's term (§5.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who says it. A transport guarantees that it is true.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// The sender's term when it spoke.
    pub term: Term,
    /// What is said.
    pub message: Message,
}

/// What is said. The sender's term travels in the [`Envelope`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// "Would you vote for me in `term`?" (dissertation 9.6). Changes nothing anywhere.
    PreVote {
        /// The term the sender would campaign in; its own is still the one before.
        term: Term,
        /// The last entry of the sender's log.
        last: LogId,
    },
    /// The answer to [`Message::PreVote`], which it repeats.
    PreVoteReply {
        /// The term that was asked about.
        term: Term,
        /// What the sender would say.
        outcome: VoteOutcome,
    },
    /// "May I lead?" (§5.2). Granted at most once per term, and only to an up-to-date log.
    Vote {
        /// The last entry of the candidate's log.
        last: LogId,
        /// Why the candidate campaigns.
        campaign: Campaign,
    },
    /// The answer to [`Message::Vote`], sent only once the vote is on disk (rule E1).
    VoteReply(VoteOutcome),
    /// "Write these after `prev`" (§5.3). With no entries it is a probe.
    Append {
        /// The entry before the first of `entries`.
        prev: LogId,
        /// Consecutive entries that follow `prev`.
        entries: Vec<Entry>,
        /// The leader's commit index. The receiver takes of it what this message verifies (rule L4).
        commit: Index,
    },
    /// The answer to [`Message::Append`], sent only once the entries are on disk (rule L10).
    AppendReply(AppendOutcome),
    /// "I still lead" (§5.2). Never queues behind data; also confirms reads (dissertation 6.4).
    Heartbeat {
        /// What is committed of the log that the receiver is known to share (rule L5).
        commit: Index,
        /// The latest round of heartbeats, counted by the leader within its term.
        round: u64,
    },
    /// "You do", to the heartbeat of `round`.
    HeartbeatReply {
        /// The round of the heartbeat that is answered.
        round: u64,
        /// For so many ticks of its own clock, from when it spoke, the sender will not vote for anybody
        /// whom the leader has not asked to campaign (dissertation 6.4.1, rule R5). 0 is no promise.
        shield: Ticks,
        /// How much the sender is preferred as a leader.
        priority: u8,
    },
    /// A snapshot has arrived (§7). It does not travel as a message: the transport streams the files
    /// and hands this over in the sender's name when all of them are there.
    Snapshot(Box<SnapshotMeta>),
    /// "Campaign at once" (dissertation 3.10), from a leader that steps aside.
    TimeoutNow,
    /// "Where must I have got to, to read?" (dissertation 6.4), from a follower to its leader.
    ReadIndex {
        /// Chosen by the follower; the answer repeats it.
        ticket: u64,
    },
    /// The answer to [`Message::ReadIndex`].
    ReadIndexReply {
        /// That of the question.
        ticket: u64,
        /// Serve the read once this is applied, or `None` if the receiver does not lead.
        index: Option<Index>,
    },
    /// "Send me your state; mine is damaged", from a follower to its leader.
    SnapshotRequest {
        /// What the snapshot must hold at least: the sender may have applied as much.
        from: Index,
    },
    /// "You are not a member any more" (rule M13): to a node that left before it could be told, or that
    /// did not hear it.
    Removed {
        /// Where the configuration without it was appended. It is committed.
        at: LogId,
    },
}

/// What became of a request for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoteOutcome {
    /// Yes.
    Granted,
    /// No. The term in the envelope may say why.
    Refused,
}

/// Why a candidate campaigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Campaign {
    /// It has not heard from a leader for an election timeout.
    Timeout,
    /// The leader asked it to. Voters do not shield the leader from it (rules E6, T2).
    Transfer,
}

/// What became of an append. An enum, so that "matched at 0" is never mistaken for "rejected".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// The logs agree up to and including this index, and it is on disk.
    Matched {
        /// The last entry that the append, or what was durable before it, verified.
        through: Index,
    },
    /// `prev` was not found.
    Rejected {
        /// That of the append, so that a late answer to an older probe is told apart (rule L7).
        prev: LogId,
        /// The sender's last entry at or before `prev` whose term is not above that of `prev`: the
        /// logs cannot agree beyond it (rule L9).
        hint: LogId,
    },
}
