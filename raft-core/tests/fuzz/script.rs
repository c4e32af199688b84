//! Scripts for one replica, as data: who it is, and what happens to it.

use arbitrary::{Arbitrary, Result, Unstructured};
use raft_core::testing::MemDisk;
use raft_core::{
    Batch, ClockDrift, Config, Entry, HardState, Incarnation, Index, LogId, LogStore, Membership,
    Payload, Term, Ticks,
};

use crate::events::{
    self, AChange, AMembership, AMeta, ATerm, AnId, Answer, Few, Hearsay, ME, Place, Rarely, Who,
    Wild,
};

/// A replica, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) start: Start,
    pub(crate) steps: Vec<Step>,
}

impl<'a> Arbitrary<'a> for Script {
    /// As many steps as there are bytes for.
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let start = u.arbitrary()?;
        let mut steps = Vec::new();
        while !u.is_empty() {
            steps.push(u.arbitrary()?);
        }
        Ok(Self { start, steps })
    }
}

/// Who it is and what it finds when it comes up.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) seed: u8,
    pub(crate) members: AMembership,
    pub(crate) alone: Rarely<()>,
    /// How many entries there are of each of the terms 1 to 4.
    pub(crate) log: [u8; 4],
    pub(crate) term: u8,
    pub(crate) options: Options,
}

/// How it is configured. All limits are small, so that they are met.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Options {
    election: u8,
    heartbeat: u8,
    without_pre_vote: Rarely<()>,
    without_check_quorum: Rarely<()>,
    lease: bool,
    incarnation: bool,
    priority: u8,
    window: u8,
}

/// Something happens.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Step {
    /// Time passes.
    Ticks(u8),
    /// A message arrives that nobody has asked for.
    Hear(Hearsay),
    /// The same, so that it is drawn twice as often.
    HearAlso(Hearsay),
    /// A peer answers.
    Answer(Answer),
    /// What the replica has asked for is done.
    Do(Chore),
    /// A client or an operator wants something.
    Ask(Wish),
    /// The node around it reports something, rightly or not.
    Report(Claim),
    /// It crashes, with so many writes done and not reported, and comes up again.
    Crash(Rarely<u8>),
}

/// What the ring around it does for a replica.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Chore {
    Persist(u8),
    PersistAll,
    Apply,
    Replicate { entries: u8, sent: u8 },
    TakeSnapshot,
    SnapshotSent { arrived: bool },
    Install,
    Compact { keep: u8 },
}

#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Wish {
    Propose(Few<u8>),
    Read,
    LeaseRead,
    Change(AChange),
    Transfer(Who),
    Forget(Rarely<()>),
    Repair(Rarely<()>),
}

/// A report that may be late, repeated, or out of nowhere.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Claim {
    TicksSkipped,
    Persisted(Wild),
    Applied(Place),
    Compacted(AMeta),
    Replicated { to: Who, term: ATerm, prev: AnId, ends: (Place, Place), bytes: Wild, sent: u8 },
    SnapshotTaken { to: Who, term: ATerm, last: AnId },
    SnapshotSent { to: Who, term: ATerm, last: AnId, arrived: bool },
    SnapshotInstalled(AMeta),
    Met(Who, u8),
    Unreachable(Who),
}

impl Options {
    pub(crate) fn config(self) -> Config {
        let mut config = Config::new(events::id(ME));
        config.heartbeat_interval = Ticks(1 + u32::from(self.heartbeat % 3));
        config.election_timeout =
            Ticks(config.heartbeat_interval.0 * 2 + 1 + u32::from(self.election % 8));
        config.pre_vote = self.without_pre_vote.0.is_none();
        config.check_quorum = self.without_check_quorum.0.is_none();
        config.incarnation = self.incarnation.then_some(Incarnation(1));
        config.priority = self.priority % 3;
        config.append_bytes = 200;
        config.window_messages = 1 + usize::from(self.window % 4);
        config.window_bytes = 500;
        config.uncommitted_bytes = 1000;
        config.snapshots_at_once = 1;
        config.lease = self.lease.then_some(ClockDrift { ppm: 1000 });
        if config.validate().is_err() {
            config.lease = None; // The election timeout is too short for one.
        }
        config.validate().expect("the rest is within bounds");
        config
    }
}

impl Start {
    /// The disk of a node that founded its cluster and has come this far.
    pub(crate) fn disk(self) -> MemDisk {
        let members = events::membership(self.members.sound());
        let members = match self.alone.0 {
            Some(()) => Membership::of_voters([(events::id(ME), "host1:1".to_owned())]),
            None => members,
        };
        let disk = MemDisk::founded(members);
        let mut entries = Vec::new();
        for (term, count) in (1..).zip(self.log) {
            for _ in 0..count % 4 {
                let id = LogId::new(Term(term), Index(entries.len() as u64 + 1));
                entries.push(Entry { id, payload: Payload::Empty });
            }
        }
        let last = entries.last().map_or(0, |entry| entry.id.term.0);
        let hard = HardState { term: Term(last + u64::from(self.term % 3)), vote: None };
        let batch = Batch { seq: 1, hard: Some(hard), entries, ..Batch::default() };
        disk.log().persist(&batch).expect("the disk works");
        disk
    }
}
