//! What a message says of its sender, before anybody acts on it.
//!
//! Paper: §5.1, §5.2. Rules upheld here: L16 and L17 in part. Pure functions of a message, or of a
//! configuration in it: whether a peer that follows the protocol can have said this. What cannot have
//! been said is dropped and counted before it touches any state.

use crate::entry::Payload;
use crate::message::{AppendOutcome, Campaign, Message};
use crate::types::{LogId, Term};

/// Terms and indices above this are refused when a peer claims them: 2^63 of anything cannot have
/// been counted, and arithmetic on the rest cannot overflow.
const CLAIM_MAX: u64 = 1 << 63;

/// Whether only a leader says this.
pub(super) fn is_from_leader(message: &Message) -> bool {
    match message {
        Message::Append { .. } | Message::Heartbeat { .. } | Message::Snapshot(_) => true,
        Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::Vote { .. }
        | Message::VoteReply(_)
        | Message::AppendReply(_)
        | Message::HeartbeatReply { .. }
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::SnapshotRequest { .. }
        | Message::Removed { .. } => false,
    }
}

/// Whether its sender campaigns because the leader asked it to.
pub(super) fn is_asked_for(message: &Message) -> bool {
    matches!(message, Message::Vote { campaign: Campaign::Transfer, .. })
}

/// Whether a peer that follows the protocol can have said this. Looks at nothing but the message:
/// numbers that cannot have been counted, entries with holes or falling terms.
pub(super) fn is_plausible(term: Term, message: &Message) -> bool {
    let sane = |id: LogId| id.term <= term && id.index.0 < CLAIM_MAX;
    if term.0 == 0 || term.0 >= CLAIM_MAX {
        // Nobody speaks before it has been in a term, except to ask whether it may enter the first.
        let asks_for_first = matches!(
            message,
            Message::PreVote { term: Term(1), last: LogId::ZERO } | Message::PreVoteReply { .. }
        );
        return term.0 == 0 && asks_for_first;
    }
    match message {
        Message::PreVote { term: next, last } => next.0 == term.0 + 1 && sane(*last),
        Message::Vote { last, .. } => sane(*last) && last.term < term,
        Message::Append { prev, entries, .. } => {
            let mut before = *prev;
            sane(*prev)
                && entries.iter().all(|entry| {
                    let follows = entry.id.index.0 == before.index.0 + 1
                        && entry.id.term >= before.term
                        && entry.id.term.0 > 0
                        && sane(entry.id)
                        && is_sound(&entry.payload);
                    before = entry.id;
                    follows
                })
        }
        Message::AppendReply(AppendOutcome::Rejected { prev, hint }) => sane(*prev) && sane(*hint),
        Message::Snapshot(meta) => {
            sane(meta.last)
                && meta.membership_at.index <= meta.last.index
                && meta.membership_at.term <= meta.last.term
                && meta.membership.fault().is_none()
        }
        Message::Removed { at } => sane(*at),
        Message::PreVoteReply { .. }
        | Message::VoteReply(_)
        | Message::AppendReply(AppendOutcome::Matched { .. })
        | Message::Heartbeat { .. }
        | Message::HeartbeatReply { .. }
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::SnapshotRequest { .. } => true,
    }
}

/// Whether an entry can be acted on: a configuration without a voter would be a majority of nobody.
fn is_sound(payload: &Payload) -> bool {
    match payload {
        Payload::Membership(membership) => membership.fault().is_none(),
        Payload::Empty | Payload::Command(_) => true,
    }
}
