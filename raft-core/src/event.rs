//! What the protocol is told, what it answers, and what it shows of itself.
//!
//! [`Event`] in, [`Effect`] out, nothing else: a trace of events is a complete bug report. Every effect
//! is safe to carry out the moment it is handed over; whatever has to wait for the disk is withheld
//! by the core itself until [`Event::Persisted`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::entry::Membership;
use crate::log_store::Batch;
use crate::message::Envelope;
use crate::snapshot::SnapshotMeta;
use crate::transport::{Sent, SnapshotOutcome};
use crate::types::{Incarnation, Index, LogId, NodeId, Term, Ticks};

/// Chosen by the caller to recognise the answer to a request. Never reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// Something happened. What is rare and large is boxed: events and effects are passed on by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A tick of the node's clock. Whoever counts may be late, and make up for at most
    /// [`crate::Config::heartbeat_interval`] ticks at once; what was missed beyond that is not made up for,
    /// but said with [`Event::TicksSkipped`].
    Tick,
    /// More time has passed than was counted, or nobody knows how much: the process was stopped, or the
    /// machine asleep (rule E14). To be said before anything that has happened since is.
    TicksSkipped,
    /// A message arrived.
    Received(Envelope),
    /// A client wants `commands` replicated, in order; each has a ticket. They are taken or refused
    /// one by one, but appended together.
    Proposed(Vec<(Ticket, Bytes)>),
    /// A client wants to read what every acknowledged write has reached (dissertation 6.4).
    ReadRequested(Ticket),
    /// The same, if possible by the leader's lease (dissertation 6.4.1).
    LeaseReadRequested(Ticket),
    /// The membership is to become something else (§6).
    ChangeRequested(Ticket, Change),
    /// Leadership is to go to this node (dissertation 3.10).
    TransferRequested(Ticket, NodeId),
    /// The leader is known to be dead: it is to be forgotten.
    ForgetRequested(Ticket),
    /// The state machine is damaged: a snapshot of the leader's is wanted.
    SnapshotRequested(Ticket),
    /// What became of a [`Effect::Replicate`]: reported once each, in any order.
    Replicated {
        /// The span that was to be sent.
        span: Span,
        /// The last entry that was sent: at most the end of the span, and before its start if
        /// nothing was.
        through: Index,
        /// The bytes of the entries that were sent.
        bytes: usize,
        /// What the transport said.
        sent: Sent,
    },
    /// Everything up to batch `seq` is durable.
    Persisted {
        /// That of the last durable [`Batch`].
        seq: u64,
    },
    /// The state machine has applied everything up to here.
    Applied {
        /// Inclusive.
        through: Index,
    },
    /// The log was cut: entries up to and including the base are gone.
    Compacted(Box<SnapshotMeta>),
    /// The snapshot that [`Effect::SendSnapshot`] asked for was taken and, if it is of use, is on its way.
    SnapshotTaken {
        /// The receiver.
        to: NodeId,
        /// That of the effect.
        term: Term,
        /// The last entry in it.
        last: LogId,
    },
    /// What became of a snapshot that [`Effect::SendSnapshot`] asked for, and what it stood for.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// That of the effect.
        term: Term,
        /// The last entry in it.
        last: LogId,
        /// Whether it arrived.
        outcome: SnapshotOutcome,
    },
    /// The state machine has installed the snapshot of [`Effect::InstallSnapshot`].
    SnapshotInstalled(Box<SnapshotMeta>),
    /// The transport has shaken hands with this node, in this life of its disk.
    Met(NodeId, Incarnation),
    /// Messages to this node may have been lost.
    Unreachable(NodeId),
}

/// Something is to be done. In any order, at once. What is rare and large is boxed, as in [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make this durable, then say [`Event::Persisted`]. Batches are written in the order of `seq`.
    Persist(Batch),
    /// Hand this to the transport.
    Send(Envelope),
    /// Send an append of the entries in the span, which are in memory or on disk: as many of them as
    /// one message may hold, at least one. Then say [`Event::Replicated`], which is how the window
    /// knows bytes without seeing a payload. A span that is not [`crate::Raft::is_current`] any more
    /// when its entries have been read is to be reported as not sent.
    Replicate(Span),
    /// Take a snapshot of the state machine, say [`Event::SnapshotTaken`], send it to `to` and, once its fate
    /// is known, say [`Event::SnapshotSent`]. One that is not awaited any more when it was taken, or
    /// does not hold enough ([`crate::Raft::awaits_snapshot`] before the event), is dropped.
    SendSnapshot {
        /// The follower that is too far behind, or asked for it.
        to: NodeId,
        /// The term in whose name it is sent.
        term: Term,
    },
    /// Hand the snapshot that arrived with this head to the state machine, then say
    /// [`Event::SnapshotInstalled`].
    InstallSnapshot(Box<SnapshotMeta>),
    /// The snapshot that arrived with this head is of no use: drop it.
    DropSnapshot(Box<SnapshotMeta>),
    /// Everything up to here is committed: apply it, then say [`Event::Applied`].
    Apply {
        /// Inclusive.
        through: Index,
    },
    /// A proposal or change was appended. It is done once `id` is applied; if another entry is
    /// applied at that index, it is void.
    Appended {
        /// That of the request.
        ticket: Ticket,
        /// Where it stands.
        id: LogId,
    },
    /// A read may be served once `index` is applied.
    ReadReady {
        /// That of the request.
        ticket: Ticket,
        /// What must be applied first.
        index: Index,
    },
    /// A request that leaves no entry is done: leadership has gone to the node that was asked for, the
    /// leader is forgotten, or the snapshot that was asked for is installed.
    Done(Ticket),
    /// A request is refused. It has had and will have no effect.
    Refuse {
        /// That of the request.
        ticket: Ticket,
        /// Why.
        why: Refusal,
    },
    /// The configuration in force is another one, because it was appended, truncated or installed.
    MembershipChanged(Box<Membership>),
    /// The configuration in force is committed: whoever is not in it need not be heard any more, but by
    /// a leader until it knows that.
    MembershipCommitted(Box<Membership>),
    /// This node was removed and knows it, or could not be told: it need not be heard any more.
    PeerDismissed(NodeId),
    /// This node is not a member any more, by a configuration at `at` that is committed (rule M13). It
    /// asks for no vote. The application may stop it, unless it is to be taken back: a later
    /// configuration may have it again, which only the leader can tell it.
    Removed {
        /// Where the configuration without it was appended.
        at: LogId,
    },
    /// Role, term or known leader are others than before.
    RoleChanged(Box<Status>),
}

/// Entries that a follower is to be sent. An append without its payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The follower.
    pub to: NodeId,
    /// The leader's term.
    pub term: Term,
    /// The entry before the first.
    pub prev: LogId,
    /// The last entry, inclusive; at `prev` if there are none.
    pub through: Index,
    /// The leader's commit index.
    pub commit: Index,
}

/// A wish for another membership, for example "add these learners, remove that voter".
///
/// Several changes at once, or the replacement of voters, go through a joint configuration (§6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is to be different, in order.
    pub steps: Vec<ChangeStep>,
    /// Refuse the change if the configuration in force was not appended at this index.
    pub expected_at: Option<Index>,
}

/// One step of a [`Change`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeStep {
    /// This node shall vote. If it is new, its address must be given.
    AddVoter(NodeId, Option<String>),
    /// This node shall be sent the log and become a voter by itself once it has caught up: the way to
    /// add one without endangering the quorum (dissertation 4.2.1, rule M12). A voter stays one.
    Admit(NodeId, Option<String>),
    /// This node shall be sent the log without being counted. A voter is demoted.
    AddLearner(NodeId, Option<String>),
    /// This node shall not take part any more.
    Remove(NodeId),
    /// This node is to be found elsewhere.
    SetAddress(NodeId, String),
}

/// Why a request was refused. It has had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// This node does not lead. Ask the one that does.
    #[error("this node does not lead in term {term}")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
        /// The term for which that is true; an older hint is worth less than a newer one.
        term: Term,
    },
    /// Too much is waiting to be committed. Try again in a moment.
    #[error("{waiting_bytes} bytes of proposals are not yet committed; try again in a moment")]
    Busy {
        /// How much.
        waiting_bytes: usize,
    },
    /// Leadership is being handed over. Try again in a moment, at the new leader.
    #[error("leadership is being handed over to node {to}")]
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// A change of membership is under way since this index. Wait for it, then try again.
    #[error("a change of membership is pending since index {since}")]
    ChangePending {
        /// Where it was appended.
        since: Index,
    },
    /// The leader has not committed an entry of its own term yet (rules M2, R1). Try again in a moment.
    #[error("the new leader has not committed an entry of its own term yet")]
    NotReady,
    /// The configuration is not the one the change was made for. Look at it again.
    #[error("the membership was changed at index {found}, not at {expected}")]
    MembershipMoved {
        /// Where the configuration in force was appended.
        found: Index,
        /// Where the request thought it was.
        expected: Index,
    },
    /// Reads by lease are off: no bound on the drift of clocks is configured
    /// ([`crate::Config::lease`]). Read linearizably instead.
    #[error("reads by lease are off: no bound on the drift of clocks is configured")]
    LeasesOff,
    /// Reads by lease are on, so a voter keeps to its leader for as long as it has promised.
    #[error("reads by lease are on, so no voter may forget its leader early")]
    LeasesOn,
    /// A snapshot was asked for before and is not installed yet. Wait for it.
    #[error("a snapshot is on its way already; wait until it is installed")]
    SnapshotPending,
    /// The membership is that already. Nothing is to be done.
    #[error("the membership is that already")]
    NoChange,
    /// The change or transfer makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Leadership was lost, or the transfer took longer than an election timeout.
    #[error("it did not happen in time")]
    TimedOut,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks whether it might campaign. Shown to operators as a candidate.
    PreCandidate,
    /// It campaigns.
    Candidate,
    /// It leads.
    Leader,
    /// It follows, and is not counted.
    Learner,
}

/// What a node shows of its part in the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Who it is.
    pub id: NodeId,
    /// What it is doing.
    pub role: RoleName,
    /// Its term, and whom it voted for in it.
    pub term: Term,
    /// See `term`.
    pub vote: Option<NodeId>,
    /// The leader of that term, if it knows one.
    pub leader: Option<NodeId>,
    /// The start of its log: everything up to here is only in the state machine.
    pub base: LogId,
    /// The last entry of its log.
    pub last: LogId,
    /// The last entry of its log that is durable.
    pub persisted: Index,
    /// The last entry it knows to be committed.
    pub commit: Index,
    /// The last entry its state machine has applied.
    pub applied: Index,
    /// The configuration in force, and where it was appended.
    pub membership: Membership,
    /// See `membership`.
    pub membership_at: LogId,
    /// What a leader knows of the others. Empty elsewhere.
    pub followers: Vec<FollowerStatus>,
    /// Whether it leads and holds a lease: whether [`crate::ReadLevel::Lease`] costs no round now.
    pub lease: bool,
    /// The committed configuration that removed this node, if one did and none has taken it back as far
    /// as it knows. A node that was never a member was not removed.
    pub removed: Option<LogId>,
    /// Messages that were dropped because they made no sense.
    pub dropped: u64,
}

/// What a leader knows of another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// Who.
    pub id: NodeId,
    /// The last entry known to be on its disk.
    pub matched: Index,
    /// The next entry to be sent.
    pub next: Index,
    /// Whether it was heard from within the last election timeout.
    pub active: bool,
    /// How it is being brought up to date.
    pub mode: ReplicationMode,
    /// It is no member any more, and is sent entries only until it knows.
    pub leaving: bool,
    /// How much it is preferred as a leader ([`crate::Config::priority`]), as it last said.
    pub priority: u8,
    /// The snapshot that is on its way to it, or being installed by it.
    pub snapshot: Option<SnapshotStatus>,
}

/// How far a snapshot for a follower has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// The last entry in it, once it was taken.
    pub last: Option<LogId>,
    /// Whether it has arrived and only waits to be installed.
    pub arrived: bool,
    /// How long ago it was asked for.
    pub elapsed: Ticks,
    /// How many of its bytes have been handed to the transport. The node counts them; the protocol sees none.
    pub bytes: u64,
    /// How many it has in all files. 0 until it was taken.
    pub total_bytes: u64,
}

/// How a leader brings a follower up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicationMode {
    /// One append at a time, until it is known where the logs agree.
    Probe,
    /// Pipelined.
    Replicate,
    /// A snapshot is on its way.
    Snapshot,
}
