//! What a fuzzer makes up, as data: events in terms of the replica that is to hear them.
//!
//! Numbers drawn at random would all be refused at the door. So most are said relative to what the replica
//! has ("its last entry", "its term and one"), and some are anything at all: near 2^63, near 2^64. The
//! same goes for senders, entries and configurations: mostly sound, now and then with one thing wrong.
//! [`Around`] turns them into real ones when their turn comes.

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use raft_core::{
    AppendOutcome, Campaign, Change, ChangeStep, Entry, Envelope, Incarnation, Index, LogId,
    Membership, Message, NodeId, Payload, PeerInfo, Raft, SnapshotMeta, Term, Ticks, VoteOutcome,
};

/// The replica under test.
pub(crate) const ME: u64 = 1;

/// Usually nothing, one time in eight something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rarely<T>(pub(crate) Option<T>);

impl<'a, T: Arbitrary<'a>> Arbitrary<'a> for Rarely<T> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        // No bytes left must mean nothing, so that scripts end calmly.
        Ok(Self(if u.arbitrary::<u8>()? % 8 == 7 { Some(u.arbitrary()?) } else { None }))
    }
}

/// A number that nobody has counted to.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Wild {
    Small(u8),
    AroundHalf(i8),
    BelowMax(u8),
    Any(u64),
}

impl Wild {
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Small(number) => u64::from(number),
            Self::AroundHalf(offset) => (1_u64 << 63).wrapping_add_signed(i64::from(offset)),
            Self::BelowMax(offset) => u64::MAX - u64::from(offset),
            Self::Any(number) => number,
        }
    }
}

/// A term: usually the replica's own.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct ATerm(Rarely<OtherTerm>);

#[derive(Arbitrary, Clone, Copy, Debug)]
enum OtherTerm {
    Next,
    Later(u8),
    Earlier(u8),
    Wild(Wild),
}

/// A place in the log: one that means something to the replica, or a few off, or anything.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Place {
    at: Landmark,
    off: Rarely<i8>,
    wild: Rarely<Rarely<Wild>>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Landmark {
    Zero,
    Base,
    Applied,
    Commit,
    Persisted,
    Last,
    Next,
}

/// An entry's id: usually of the entry that the replica has there.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct AnId {
    at: Place,
    term: Rarely<ATerm>,
}

/// A node: usually one that is known.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Who {
    Leader,
    Member(u8),
    Other(u8),
    Stranger(Rarely<u64>),
}

/// A configuration of the nodes 1 to 8, in masks; usually a sound one.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct AMembership {
    voters: u8,
    learners: u8,
    promoting: u8,
    outgoing: Rarely<(u8, u8)>,
    auto_leave: bool,
    fault: Rarely<Fault>,
}

impl AMembership {
    /// The same without a fault: nothing comes up in a configuration that cannot be.
    pub(crate) fn sound(self) -> Self {
        Self { fault: Rarely(None), ..self }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Fault {
    NoVoter,
    LearnerVotes,
    WillLearnButDoesNotVote,
    PromotedButNoLearner,
    LeavesButIsNotJoint,
    NoAddress,
    AddressOfNobody,
    LongAddress,
    TooMany,
}

/// An entry of an append: usually the next one.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct AnEntry {
    gap: Rarely<Rarely<i8>>,
    term: Rarely<ATerm>,
    says: Says,
}

#[derive(Arbitrary, Clone, Debug)]
enum Says {
    Nothing,
    Command(u8),
    Membership(Rarely<AMembership>),
}

/// A snapshot's head.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct AMeta {
    last: AnId,
    membership: AMembership,
    at: Rarely<AnId>,
}

/// A message, with its envelope.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Hearsay {
    from: Who,
    to: Rarely<Rarely<Who>>,
    term: ATerm,
    message: Say,
}

#[derive(Arbitrary, Clone, Debug)]
enum Say {
    PreVote { term: Rarely<ATerm>, last: AnId },
    PreVoteReply { term: Rarely<ATerm>, granted: bool },
    Vote { last: AnId, transfer: bool },
    VoteReply { granted: bool },
    Append { prev: AnId, entries: Few<AnEntry>, commit: Place },
    Matched { through: Place },
    Rejected { prev: AnId, hint: AnId },
    Heartbeat { commit: Place, round: u8, wild: Rarely<Wild> },
    HeartbeatReply { round: u8, wild: Rarely<Wild>, shield: u32, priority: u8 },
    Snapshot(AMeta),
    TimeoutNow,
    ReadIndex { ticket: u8 },
    ReadIndexReply { ticket: Wild, index: Rarely<Place> },
    SnapshotRequest { from: Place },
    Removed { at: AnId },
}

/// At most a handful, and often one.
#[derive(Clone, Debug)]
pub(crate) struct Few<T>(pub(crate) Vec<T>);

impl<'a, T: Arbitrary<'a>> Arbitrary<'a> for Few<T> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let count = [0, 1, 1, 1, 2, 3, 4, 7][usize::from(u.arbitrary::<u8>()? % 8)];
        (0..count).map(|_| u.arbitrary()).collect::<Result<_>>().map(Self)
    }
}

/// What a peer does with a message that it was sent.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Which of the last messages, counted from the newest.
    pub(crate) which: u8,
    refuses: Rarely<Place>,
    shield: u8,
    priority: Rarely<u8>,
}

/// A change of the membership that somebody asks for.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct AChange {
    steps: Few<(u8, Who)>,
    expected: Rarely<Place>,
}

/// A replica and what it has lately sent: what made-up events are relative to.
pub(crate) struct Around<'a> {
    pub(crate) raft: &'a Raft,
}

impl Around<'_> {
    pub(crate) fn term(&self, term: ATerm) -> Term {
        let own = self.raft.term().0;
        Term(match term.0.0 {
            None => own,
            Some(OtherTerm::Next) => own.saturating_add(1),
            Some(OtherTerm::Later(by)) => own.saturating_add(u64::from(by)),
            Some(OtherTerm::Earlier(by)) => own.saturating_sub(u64::from(by)),
            Some(OtherTerm::Wild(wild)) => wild.number(),
        })
    }

    pub(crate) fn index(&self, place: Place) -> Index {
        if let Some(wild) = place.wild.0.and_then(|wild| wild.0) {
            return Index(wild.number());
        }
        let raft = self.raft;
        let at = match place.at {
            Landmark::Zero => Index(0),
            Landmark::Base => raft.base().index,
            Landmark::Applied => raft.status().applied,
            Landmark::Commit => raft.commit(),
            Landmark::Persisted => raft.persisted(),
            Landmark::Last => raft.last().index,
            Landmark::Next => Index(raft.last().index.0.saturating_add(1)),
        };
        Index(at.0.saturating_add_signed(i64::from(place.off.0.unwrap_or(0) % 8)))
    }

    pub(crate) fn id(&self, id: AnId) -> LogId {
        let index = self.index(id.at);
        let term = match id.term.0 {
            Some(term) => self.term(term),
            None => self.raft.term_at(index).unwrap_or_else(|| self.raft.last().term),
        };
        LogId::new(term, index)
    }

    pub(crate) fn node(&self, who: Who) -> NodeId {
        let members = self.raft.membership().members();
        let pick =
            |ids: Vec<NodeId>, number: u8| ids.get(usize::from(number) % ids.len().max(1)).copied();
        let id = match who {
            Who::Leader => self.raft.leader(),
            Who::Member(number) => pick(members.into_iter().collect(), number),
            Who::Other(number) => {
                pick(members.into_iter().filter(|id| id.as_u64() != ME).collect(), number)
            }
            Who::Stranger(id) => NodeId::new(id.0.unwrap_or(9)),
        };
        id.or(NodeId::new(2)).expect("2 is not 0")
    }

    pub(crate) fn meta(&self, meta: AMeta) -> SnapshotMeta {
        let last = self.id(meta.last);
        let membership_at = match meta.at.0 {
            Some(at) => self.id(at),
            None => self.raft.membership_at(last.index).0.min(last),
        };
        SnapshotMeta { last, membership: membership(meta.membership), membership_at }
    }

    pub(crate) fn change(&self, change: &AChange) -> Change {
        let steps = change.steps.0.iter().map(|&(kind, who)| {
            let id = self.node(who);
            let address = Some(format!("host{id}:1"));
            match kind % 8 {
                0 => ChangeStep::AddVoter(id, None),
                1 | 2 => ChangeStep::AddVoter(id, address),
                3 => ChangeStep::Admit(id, address),
                4 => ChangeStep::AddLearner(id, address),
                5 | 6 => ChangeStep::Remove(id),
                _ => ChangeStep::SetAddress(id, format!("{:>1$}:1", id, usize::from(kind) * 2)),
            }
        });
        Change { steps: steps.collect(), expected_at: change.expected.0.map(|at| self.index(at)) }
    }

    pub(crate) fn envelope(&self, said: &Hearsay) -> Envelope {
        let term = self.term(said.term);
        let to = said.to.0.and_then(|to| to.0).map_or_else(|| self.raft.id(), |to| self.node(to));
        Envelope {
            from: self.node(said.from),
            to,
            term,
            message: self.message(term, &said.message),
        }
    }

    fn message(&self, said_in: Term, say: &Say) -> Message {
        let next = |term: Rarely<ATerm>| match term.0 {
            Some(term) => self.term(term),
            None => Term(said_in.0.wrapping_add(1)),
        };
        match *say {
            Say::PreVote { term, last } => {
                Message::PreVote { term: next(term), last: self.id(last) }
            }
            Say::PreVoteReply { term, granted } => {
                Message::PreVoteReply { term: next(term), outcome: outcome(granted) }
            }
            Say::Vote { last, transfer } => {
                let campaign = if transfer { Campaign::Transfer } else { Campaign::Timeout };
                Message::Vote { last: self.id(last), campaign }
            }
            Say::VoteReply { granted } => Message::VoteReply(outcome(granted)),
            Say::Append { prev, ref entries, commit } => {
                let prev = self.id(prev);
                let entries = self.entries(said_in, prev, &entries.0);
                Message::Append { prev, entries, commit: self.index(commit) }
            }
            Say::Matched { through } => {
                Message::AppendReply(AppendOutcome::Matched { through: self.index(through) })
            }
            Say::Rejected { prev, hint } => Message::AppendReply(AppendOutcome::Rejected {
                prev: self.id(prev),
                hint: self.id(hint),
            }),
            Say::Heartbeat { commit, round, wild } => {
                Message::Heartbeat { commit: self.index(commit), round: round_of(round, wild) }
            }
            Say::HeartbeatReply { round, wild, shield, priority } => Message::HeartbeatReply {
                round: round_of(round, wild),
                shield: Ticks(shield),
                priority,
            },
            Say::Snapshot(meta) => Message::Snapshot(Box::new(self.meta(meta))),
            Say::TimeoutNow => Message::TimeoutNow,
            Say::ReadIndex { ticket } => Message::ReadIndex { ticket: u64::from(ticket) },
            Say::ReadIndexReply { ticket, index } => Message::ReadIndexReply {
                ticket: ticket.number(),
                index: index.0.map(|index| self.index(index)),
            },
            Say::SnapshotRequest { from } => Message::SnapshotRequest { from: self.index(from) },
            Say::Removed { at } => Message::Removed { at: self.id(at) },
        }
    }

    fn entries(&self, said_in: Term, prev: LogId, entries: &[AnEntry]) -> Vec<Entry> {
        let mut index = prev.index.0;
        let mut made = Vec::new();
        for entry in entries {
            let gap = entry.gap.0.and_then(|gap| gap.0).unwrap_or(1);
            index = index.wrapping_add_signed(i64::from(gap));
            let term = entry.term.0.map_or(said_in, |term| self.term(term));
            let payload = match &entry.says {
                Says::Nothing | Says::Membership(Rarely(None)) => Payload::Empty,
                Says::Command(bytes) => Payload::Command(command(*bytes)),
                Says::Membership(Rarely(Some(says))) => {
                    Payload::Membership(Box::new(membership(*says)))
                }
            };
            made.push(Entry { id: LogId::new(term, Index(index)), payload });
        }
        made
    }

    /// What a peer says to `asked`, if anything. It says the truth unless it is in the mood to refuse.
    pub(crate) fn answer(&self, asked: &Envelope, answer: Answer) -> Option<Envelope> {
        let granted = outcome(answer.refuses.0.is_none());
        let mut term = asked.term;
        let message = match &asked.message {
            Message::PreVote { term, .. } => {
                Message::PreVoteReply { term: *term, outcome: granted }
            }
            Message::Vote { .. } => Message::VoteReply(granted),
            Message::Append { prev, entries, .. } => Message::AppendReply(match answer.refuses.0 {
                Some(hint) => {
                    let hint = self.index(hint).min(prev.index);
                    let known = self.raft.term_at(hint).unwrap_or_default();
                    AppendOutcome::Rejected { prev: *prev, hint: LogId::new(known, hint) }
                }
                None => {
                    let last = entries.last().map_or(prev.index, |entry| entry.id.index);
                    AppendOutcome::Matched { through: last }
                }
            }),
            Message::Heartbeat { round, .. } => Message::HeartbeatReply {
                round: *round,
                shield: Ticks(u32::from(answer.shield)),
                priority: answer.priority.0.unwrap_or(0),
            },
            Message::TimeoutNow => {
                term = Term(term.0.saturating_add(1));
                Message::Vote { last: self.raft.last(), campaign: Campaign::Transfer }
            }
            Message::ReadIndex { ticket } => {
                let index = answer.refuses.0.is_none().then_some(self.raft.commit());
                Message::ReadIndexReply { ticket: *ticket, index }
            }
            Message::SnapshotRequest { from } => {
                Message::Snapshot(Box::new(self.raft.meta_at(*from)?))
            }
            Message::PreVoteReply { .. }
            | Message::VoteReply(_)
            | Message::AppendReply(_)
            | Message::HeartbeatReply { .. }
            | Message::Snapshot(_)
            | Message::ReadIndexReply { .. }
            | Message::Removed { .. } => return None,
        };
        Some(Envelope { from: asked.to, to: asked.from, term, message })
    }
}

fn outcome(granted: bool) -> VoteOutcome {
    if granted { VoteOutcome::Granted } else { VoteOutcome::Refused }
}

fn round_of(round: u8, wild: Rarely<Wild>) -> u64 {
    wild.0.map_or_else(|| u64::from(round % 16), Wild::number)
}

pub(crate) fn command(bytes: u8) -> Bytes {
    Bytes::from(vec![b'x'; usize::from(bytes)])
}

/// A life of a disk: one of a few, so that it may be met again.
pub(crate) fn life(number: u8) -> Incarnation {
    Incarnation(u64::from(number % 4))
}

pub(crate) fn membership(made_up: AMembership) -> Membership {
    let AMembership { voters, learners, promoting, outgoing, auto_leave, fault } = made_up;
    // Node 1 takes part in most of them, or there would be little to see.
    let voters = if voters == 0 { 0b111 } else { voters | u8::from(voters & 0b11000 != 0) };
    let (outgoing, next) = outgoing.0.unwrap_or((0, 0));
    let learners = learners & !voters & !outgoing;
    let mut made = Membership {
        voters: ids(voters),
        outgoing: ids(outgoing),
        learners: ids(learners),
        learners_next: ids(next & outgoing & !voters),
        promoting: ids(promoting & learners),
        auto_leave: auto_leave && outgoing != 0,
        ..Membership::default()
    };
    made.peers = made.members().into_iter().map(|id| (id, peer(id))).collect();
    if let Some(fault) = fault.0 {
        break_it(&mut made, fault);
    }
    made
}

fn break_it(made: &mut Membership, fault: Fault) {
    let (one, stranger) = (id(ME), id(99));
    match fault {
        Fault::NoVoter => made.voters.clear(),
        Fault::LearnerVotes => made.learners.extend(made.voters.clone()),
        Fault::WillLearnButDoesNotVote => made.learners_next.extend([stranger]),
        Fault::PromotedButNoLearner => made.promoting.extend([stranger]),
        Fault::LeavesButIsNotJoint => made.auto_leave = !made.is_joint(),
        Fault::NoAddress => drop(made.peers.remove(&one)),
        Fault::AddressOfNobody => drop(made.peers.insert(stranger, peer(stranger))),
        Fault::LongAddress => drop(made.peers.insert(one, PeerInfo::at("x".repeat(300)))),
        Fault::TooMany => {
            *made = Membership::of_voters((1..=70).map(|number| (id(number), String::new())));
        }
    }
}

fn peer(id: NodeId) -> PeerInfo {
    PeerInfo::at(format!("host{id}:1"))
}

fn ids(mask: u8) -> std::collections::BTreeSet<NodeId> {
    (0..8).filter(|bit| mask & (1 << bit) != 0).map(|bit| id(bit + 1)).collect()
}

pub(crate) fn id(number: u64) -> NodeId {
    NodeId::new(number).expect("no node has the number 0")
}
