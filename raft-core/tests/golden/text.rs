//! How scripts write ids, entries, memberships and messages, in both directions.
//!
//! An entry is `index@term`, then `:` and what it says: nothing for an empty one, a word for a command,
//! `voters=1,2,3/outgoing=1,2/learners=4/learners_next=2/auto_leave` for a membership. `2..4@1` is a
//! run of empty entries.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft_core::{
    AppendOutcome, Campaign, Entry, Index, LogId, Membership, Message, NodeId, Payload, PeerInfo,
    SnapshotMeta, Term, VoteOutcome,
};

pub(crate) type Error = Box<dyn std::error::Error>;

// Reading.

pub(crate) fn number(text: &str) -> Result<u64, Error> {
    match text {
        "max" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| format!("'{text}' is not a number").into()),
    }
}

/// `n1` or `1`.
pub(crate) fn node(text: &str) -> Result<NodeId, Error> {
    let id = number(text.strip_prefix('n').unwrap_or(text))?;
    NodeId::new(id).ok_or_else(|| "node ids begin at 1".into())
}

/// `1 2 3`, also with commas or with an `n` before each.
pub(crate) fn nodes(text: &str) -> Result<BTreeSet<NodeId>, Error> {
    text.split([' ', ',']).filter(|word| !word.is_empty()).map(node).collect()
}

/// `2@1`: index 2, term 1.
pub(crate) fn log_id(text: &str) -> Result<LogId, Error> {
    let (index, term) = text.split_once('@').ok_or_else(|| format!("'{text}': INDEX@TERM"))?;
    Ok(LogId::new(Term(number(term)?), Index(number(index)?)))
}

/// Entries, separated by spaces.
pub(crate) fn entries(text: &str) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for word in text.split_whitespace() {
        let (id, says) = word.split_once(':').unwrap_or((word, ""));
        let payload = payload(says)?;
        match id.split_once("..") {
            None => entries.push(Entry { id: log_id(id)?, payload }),
            Some((first, last)) => {
                let last = log_id(last)?;
                for index in number(first)?..=last.index.0 {
                    let id = LogId::new(last.term, Index(index));
                    entries.push(Entry { id, payload: payload.clone() });
                }
            }
        }
    }
    Ok(entries)
}

fn payload(says: &str) -> Result<Payload, Error> {
    if says.is_empty() {
        Ok(Payload::Empty)
    } else if says.starts_with("voters=") {
        membership(says).map(Box::new).map(Payload::Membership)
    } else {
        Ok(Payload::Command(Bytes::copy_from_slice(says.as_bytes())))
    }
}

pub(crate) fn membership(says: &str) -> Result<Membership, Error> {
    let mut membership = Membership::default();
    for part in says.split('/') {
        match part.split_once('=') {
            Some(("voters", ids)) => membership.voters = nodes(ids)?,
            Some(("outgoing", ids)) => membership.outgoing = nodes(ids)?,
            Some(("learners", ids)) => membership.learners = nodes(ids)?,
            Some(("learners_next", ids)) => membership.learners_next = nodes(ids)?,
            Some(("promoting", ids)) => membership.promoting = nodes(ids)?,
            None if part == "auto_leave" => membership.auto_leave = true,
            Some(_) | None => return Err(format!("'{part}' is not part of a membership").into()),
        }
    }
    for id in membership.members() {
        membership.peers.insert(id, PeerInfo::at(address(id)));
    }
    Ok(membership)
}

/// Where every script finds node `id`.
pub(crate) fn address(id: NodeId) -> String {
    format!("host{id}:1")
}

// Writing.

pub(crate) fn show_entry(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Empty => entry.id.to_string(),
        Payload::Command(bytes) => format!("{}:{}", entry.id, show_command(bytes)),
        Payload::Membership(membership) => {
            format!("{}:{}", entry.id, show_membership(membership))
        }
    }
}

pub(crate) fn show_command(command: &[u8]) -> String {
    let text = String::from_utf8_lossy(command);
    if text.len() > 24 { format!("({} bytes)", text.len()) } else { text.into_owned() }
}

/// Entries, separated by spaces; long runs of empty ones as `2..9@4`.
pub(crate) fn show_entries(entries: &[Entry]) -> String {
    let mut words = Vec::new();
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let like_first =
            |entry: &&Entry| entry.payload == Payload::Empty && entry.id.term == first.id.term;
        let run = rest.iter().take_while(like_first).count();
        if run >= 3 {
            words.push(format!("{}..{}", first.id.index, rest[run - 1].id));
            rest = &rest[run..];
        } else {
            words.push(show_entry(first));
            rest = &rest[1..];
        }
    }
    words.join(" ")
}

pub(crate) fn show_membership(membership: &Membership) -> String {
    let list = |ids: &BTreeSet<NodeId>| {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        ids.join(",")
    };
    let mut text = format!("voters={}", list(&membership.voters));
    for (name, ids) in [
        ("outgoing", &membership.outgoing),
        ("learners", &membership.learners),
        ("learners_next", &membership.learners_next),
        ("promoting", &membership.promoting),
    ] {
        if !ids.is_empty() {
            text.push_str(&format!("/{name}={}", list(ids)));
        }
    }
    if membership.auto_leave {
        text.push_str("/auto_leave");
    }
    for (id, info) in &membership.peers {
        if let Some(life) = info.incarnation {
            text.push_str(&format!("/{id:?}.life={}", life.0));
        }
    }
    text
}

pub(crate) fn show_meta(meta: &SnapshotMeta) -> String {
    let membership = show_membership(&meta.membership);
    format!("last={} {membership} (from {})", meta.last, meta.membership_at)
}

pub(crate) fn kind(message: &Message) -> &'static str {
    match message {
        Message::PreVote { .. } => "PreVote",
        Message::PreVoteReply { .. } => "PreVoteReply",
        Message::Vote { .. } => "Vote",
        Message::VoteReply(_) => "VoteReply",
        Message::Append { .. } => "Append",
        Message::AppendReply(_) => "AppendReply",
        Message::Heartbeat { .. } => "Heartbeat",
        Message::HeartbeatReply { .. } => "HeartbeatReply",
        Message::Snapshot(_) => "Snapshot",
        Message::TimeoutNow => "TimeoutNow",
        Message::ReadIndex { .. } => "ReadIndex",
        Message::ReadIndexReply { .. } => "ReadIndexReply",
        Message::SnapshotRequest { .. } => "SnapshotRequest",
        Message::Removed { .. } => "Removed",
    }
}

pub(crate) fn show_message(message: &Message) -> String {
    let kind = kind(message);
    match message {
        Message::PreVote { term, last } => format!("{kind} term={term} last={last}"),
        Message::PreVoteReply { term, outcome } => {
            format!("{kind} term={term} {}", show_outcome(*outcome))
        }
        Message::Vote { last, campaign: Campaign::Timeout } => format!("{kind} last={last}"),
        Message::Vote { last, campaign: Campaign::Transfer } => {
            format!("{kind} last={last} for a transfer")
        }
        Message::VoteReply(outcome) => format!("{kind} {}", show_outcome(*outcome)),
        Message::Append { prev, entries, commit } => {
            format!("{kind} prev={prev} [{}] commit={commit}", show_entries(entries))
        }
        Message::AppendReply(AppendOutcome::Matched { through }) => {
            format!("{kind} matched={through}")
        }
        Message::AppendReply(AppendOutcome::Rejected { prev, hint }) => {
            format!("{kind} rejected={prev} hint={hint}")
        }
        Message::Heartbeat { commit, round } => format!("{kind} commit={commit} round={round}"),
        Message::HeartbeatReply { round, shield, priority } => {
            let mut text = format!("{kind} round={round}");
            if shield.0 > 0 {
                text.push_str(&format!(" shield={}", shield.0));
            }
            if *priority > 0 {
                text.push_str(&format!(" priority={priority}"));
            }
            text
        }
        Message::Snapshot(meta) => format!("{kind} {}", show_meta(meta)),
        Message::TimeoutNow => kind.to_owned(),
        // Tickets begin at a number drawn at random; only whether they are the same matters.
        Message::ReadIndex { .. } => kind.to_owned(),
        Message::ReadIndexReply { index: Some(index), .. } => format!("{kind} index={index}"),
        Message::ReadIndexReply { index: None, .. } => format!("{kind} refused"),
        Message::SnapshotRequest { from } => format!("{kind} from={from}"),
        Message::Removed { at } => format!("{kind} at={at}"),
    }
}

fn show_outcome(outcome: VoteOutcome) -> &'static str {
    match outcome {
        VoteOutcome::Granted => "granted",
        VoteOutcome::Refused => "refused",
    }
}
