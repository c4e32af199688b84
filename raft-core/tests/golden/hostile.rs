//! Messages that a script writes by hand: late, repeated, confused or hostile ones.

use goldenscript::ArgumentConsumer;
use raft_core::{
    AppendOutcome, Campaign, Envelope, Index, Message, NodeId, SnapshotMeta, Term, Ticks,
    VoteOutcome,
};

use crate::text;
use crate::text::Error;

/// The message that the rest of an `inject` command describes:
///
/// - `PreVote next=TERM last=ID`, `PreVoteReply next=TERM granted|refused`
/// - `Vote last=ID [transfer]`, `VoteReply granted|refused`
/// - `Append prev=ID [entries="..."] commit=INDEX`
/// - `AppendReply matched=INDEX`, `AppendReply rejected=ID hint=ID`
/// - `Heartbeat commit=INDEX round=N`, `HeartbeatReply round=N [shield=TICKS] [priority=N]`
/// - `Snapshot last=ID membership="voters=..." [at=ID]`
/// - `TimeoutNow`, `ReadIndex ticket=N`, `ReadIndexReply ticket=N [index=INDEX]`
/// - `SnapshotRequest from=INDEX`, `Removed at=ID`
pub(crate) fn envelope(
    from: NodeId,
    to: NodeId,
    args: &mut ArgumentConsumer<'_>,
) -> Result<Envelope, Error> {
    let kind = args.next_pos().ok_or("what message?")?.to_owned();
    let term = Term(number(args, "term")?.ok_or("term=...?")?);
    let message = match kind.as_str() {
        "PreVote" => Message::PreVote {
            term: Term(number(args, "next")?.unwrap_or(term.0 + 1)),
            last: id(args, "last")?,
        },
        "PreVoteReply" => Message::PreVoteReply {
            term: Term(number(args, "next")?.unwrap_or(term.0 + 1)),
            outcome: outcome(args)?,
        },
        "Vote" => Message::Vote {
            last: id(args, "last")?,
            campaign: match args.next_pos() {
                Some("transfer") => Campaign::Transfer,
                Some(other) => return Err(format!("'{other}' is no campaign").into()),
                None => Campaign::Timeout,
            },
        },
        "VoteReply" => Message::VoteReply(outcome(args)?),
        "Append" => Message::Append {
            prev: id(args, "prev")?,
            entries: text::entries(args.take_key("entries").unwrap_or_default())?,
            commit: index(args, "commit")?,
        },
        "AppendReply" => Message::AppendReply(match number(args, "matched")? {
            Some(through) => AppendOutcome::Matched { through: Index(through) },
            None => {
                AppendOutcome::Rejected { prev: id(args, "rejected")?, hint: id(args, "hint")? }
            }
        }),
        "Heartbeat" => Message::Heartbeat {
            commit: index(args, "commit")?,
            round: number(args, "round")?.unwrap_or(1),
        },
        "HeartbeatReply" => Message::HeartbeatReply {
            round: number(args, "round")?.unwrap_or(1),
            shield: Ticks(u32::try_from(number(args, "shield")?.unwrap_or(0))?),
            priority: u8::try_from(number(args, "priority")?.unwrap_or(0))?,
        },
        "Snapshot" => {
            let last = id(args, "last")?;
            let membership = args.take_key("membership").ok_or("membership=...?")?;
            let membership = match membership {
                "" => raft_core::Membership::default(),
                says => text::membership(says)?,
            };
            let at = args.take_key("at").map(text::log_id).transpose()?.unwrap_or_default();
            Message::Snapshot(Box::new(SnapshotMeta { last, membership, membership_at: at }))
        }
        "TimeoutNow" => Message::TimeoutNow,
        "ReadIndex" => Message::ReadIndex { ticket: number(args, "ticket")?.unwrap_or_default() },
        "ReadIndexReply" => Message::ReadIndexReply {
            ticket: number(args, "ticket")?.unwrap_or_default(),
            index: number(args, "index")?.map(Index),
        },
        "SnapshotRequest" => Message::SnapshotRequest { from: index(args, "from")? },
        "Removed" => Message::Removed { at: id(args, "at")? },
        other => return Err(format!("'{other}' is no message").into()),
    };
    Ok(Envelope { from, to, term, message })
}

fn number(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Option<u64>, Error> {
    args.take_key(key).map(text::number).transpose()
}

fn index(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Index, Error> {
    let number = number(args, key)?.ok_or_else(|| format!("{key}=INDEX?"))?;
    Ok(Index(number))
}

fn id(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<raft_core::LogId, Error> {
    let text = args.take_key(key).ok_or_else(|| format!("{key}=INDEX@TERM?"))?;
    text::log_id(text)
}

fn outcome(args: &mut ArgumentConsumer<'_>) -> Result<VoteOutcome, Error> {
    match args.next_pos() {
        Some("granted") => Ok(VoteOutcome::Granted),
        Some("refused") => Ok(VoteOutcome::Refused),
        other => Err(format!("granted or refused, not {other:?}").into()),
    }
}
