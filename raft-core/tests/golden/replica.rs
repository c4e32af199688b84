//! One replica: ring 0, and what is around it in a script instead of rings 1 and 2: a disk, a state
//! machine that remembers what it applied, and those who wait for answers.

use std::collections::{BTreeMap, VecDeque};

use raft_core::{
    Batch, Config, Entry, Index, Installed, LogId, Membership, NodeId, Payload, Raft,
    ReplicationMode, RoleName, SnapshotMeta, Span, Status, Term, Ticket,
};

use crate::disk::Disk;
use crate::text;

/// What the script does itself instead of having it done at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manual {
    pub(crate) persist: bool,
    pub(crate) apply: bool,
    pub(crate) replicate: bool,
    pub(crate) install: bool,
}

/// One replica and its surroundings.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) config: Config,
    pub(crate) manual: Manual,
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    /// How often it was started; part of its seed.
    starts: u64,

    /// What is on disk, and what it will be once every batch handed out is written.
    pub(crate) disk: Disk,
    pub(crate) memory: Disk,
    pub(crate) writing: VecDeque<Batch>,

    /// Everything its state machine has applied, from the first entry on.
    pub(crate) machine: Vec<Entry>,
    /// How far it was asked to apply.
    pub(crate) committed: Index,
    /// Spans that were not turned into appends yet.
    pub(crate) spans: VecDeque<Span>,
    /// What came with the snapshot that is being handed over, and one that is being installed.
    pub(crate) arrived: Option<Vec<Entry>>,
    pub(crate) installing: Option<(SnapshotMeta, Vec<Entry>)>,

    /// Who waits for which entry to be applied, and who for which index before reading.
    pub(crate) applying: BTreeMap<(Index, Term), Ticket>,
    pub(crate) reading: BTreeMap<Index, Vec<Ticket>>,

    /// The last state line that was printed.
    shown: String,
}

impl Replica {
    /// A replica with this on its disk, whose state machine has applied everything up to `applied`.
    pub(crate) fn new(config: Config, disk: Disk, applied: Index) -> Self {
        let machine =
            disk.entries.iter().take_while(|entry| entry.id.index <= applied).cloned().collect();
        let mut replica = Self {
            config,
            manual: Manual::default(),
            raft: None,
            starts: 0,
            memory: Disk::default(),
            disk,
            writing: VecDeque::new(),
            machine,
            committed: Index::ZERO,
            spans: VecDeque::new(),
            arrived: None,
            installing: None,
            applying: BTreeMap::new(),
            reading: BTreeMap::new(),
            shown: String::new(),
        };
        replica.start();
        replica
    }

    pub(crate) fn id(&self) -> NodeId {
        self.config.id
    }

    /// The last entry its state machine has applied.
    pub(crate) fn applied(&self) -> LogId {
        self.machine.last().map_or(LogId::ZERO, |entry| entry.id)
    }

    /// Comes up with what its disk and its state machine hold.
    pub(crate) fn start(&mut self) {
        self.reconcile();
        self.starts += 1;
        self.memory = self.disk.clone();
        let applied = self.applied().index;
        self.committed = applied;
        let seed = self.id().as_u64() * 1000 + self.starts;
        self.raft = Some(Raft::new(self.config.clone(), self.disk.recover(), applied, seed));
    }

    /// A state machine may be ahead of the log after a crash: what it has applied is committed, so
    /// the log begins after it. `Node::start` does the same.
    fn reconcile(&mut self) {
        let last = self.applied();
        if self.disk.term_at(last.index) == Some(last.term) {
            return;
        }
        let (membership_at, membership) = self.machine_membership();
        let meta = SnapshotMeta { last, membership, membership_at };
        if self.disk.hard.term < last.term {
            self.disk.hard.term = last.term;
            self.disk.hard.vote = None;
        }
        let snapshot = Some(Box::new(Installed { meta, keep_tail: false }));
        self.disk.write(&Batch { snapshot, ..Batch::default() });
    }

    /// The configuration in force where the state machine stands, and where it was appended.
    fn machine_membership(&self) -> (LogId, Membership) {
        let applied = self.machine.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.id, Membership::clone(membership))),
            Payload::Empty | Payload::Command(_) => None,
        });
        let base = &self.disk.base;
        applied.unwrap_or_else(|| (base.membership_at, base.membership.clone()))
    }

    /// Loses everything that is not on disk. Of the batches under way, `saved` have been written
    /// already, unreported. The state machine falls back to `machine`, if given.
    pub(crate) fn crash(&mut self, saved: usize, machine: Option<Index>) {
        for batch in self.writing.drain(..).take(saved) {
            self.disk.write(&batch);
        }
        if let Some(through) = machine {
            self.machine.retain(|entry| entry.id.index <= through);
        }
        self.raft = None;
        self.memory = self.disk.clone();
        self.spans.clear();
        self.installing = None;
        self.applying.clear();
        self.reading.clear();
        self.shown.clear();
    }

    /// Writes the first `count` batches that wait, as one: group commit. Gives back the number of
    /// the last, or `None` if none waited.
    pub(crate) fn write(&mut self, count: usize) -> Option<u64> {
        let one_by_one: Vec<_> = self.writing.drain(..count.min(self.writing.len())).collect();
        let seq = one_by_one.last()?.seq;
        let mut expected = self.disk.clone();
        let mut group: Option<Batch> = None;
        for batch in one_by_one {
            expected.write(&batch);
            let Some(open) = &mut group else {
                group = Some(batch);
                continue;
            };
            if let Err(apart) = open.merge(batch) {
                self.disk.write(open);
                *open = *apart;
            }
        }
        self.disk.write(&group?);
        assert!(self.disk == expected, "merged batches differ from the same batches one by one");
        Some(seq)
    }

    // Its line of state.

    /// The state, if it is another one than last time.
    pub(crate) fn changed_state(&mut self) -> Option<String> {
        let state = self.state();
        if state == self.shown {
            return None;
        }
        self.shown.clone_from(&state);
        Some(state)
    }

    pub(crate) fn state(&self) -> String {
        let Some(raft) = &self.raft else {
            return format!("{:?} is down; on its disk: {}", self.id(), self.on_disk());
        };
        let status = raft.status();
        let mut line = format!("{:?}@{} {}", status.id, status.term, show_role(&status));
        if let Some(vote) = status.vote {
            line.push_str(&format!(" vote={vote:?}"));
        }
        if status.base != LogId::ZERO {
            line.push_str(&format!(" base={}", status.base));
        }
        let Status { last, persisted, commit, applied, .. } = status;
        line.push_str(&format!(" last={last} disk={persisted} commit={commit}"));
        if applied != commit {
            line.push_str(&format!(" applied={applied}"));
        }
        if let Some(at) = status.removed {
            line.push_str(&format!(" removed={at}"));
        }
        if status.lease {
            line.push_str(" lease");
        }
        if status.dropped > 0 {
            line.push_str(&format!(" dropped={}", status.dropped));
        }
        if status.role == RoleName::Leader {
            let followers: Vec<_> = status.followers.iter().map(show_follower).collect();
            line.push_str(&format!(" {{{}}}", followers.join(" ")));
            if let Some(pinned) = raft.pinned() {
                line.push_str(&format!(" pinned={pinned}"));
            }
        }
        line
    }

    fn on_disk(&self) -> String {
        let Disk { hard, entries, .. } = &self.disk;
        let vote = hard.vote.map_or(String::new(), |vote| format!(" vote={vote:?}"));
        let base = self.disk.base.last;
        let base = if base == LogId::ZERO { String::new() } else { format!(" base={base}") };
        format!("term={}{vote}{base} [{}]", hard.term, text::show_entries(entries))
    }

    /// Its whole log, and how much of it is on disk and committed.
    pub(crate) fn show_log(&self) -> String {
        let base = self.memory.base.last;
        let base = if base == LogId::ZERO { String::new() } else { format!(" base={base}") };
        let entries = text::show_entries(&self.memory.entries);
        let (durable, commit) = match &self.raft {
            Some(raft) => (raft.persisted(), raft.commit()),
            None => (self.disk.last().index, self.applied().index),
        };
        format!("{:?} log{base} [{entries}] disk={durable} commit={commit}", self.id())
    }
}

fn show_role(status: &Status) -> String {
    match (status.role, status.leader) {
        (RoleName::Follower, Some(leader)) => format!("follower of {leader:?}"),
        (RoleName::Follower, None) => "follower".to_owned(),
        (RoleName::Learner, Some(leader)) => format!("learner of {leader:?}"),
        (RoleName::Learner, None) => "learner".to_owned(),
        (RoleName::PreCandidate, _) => "precandidate".to_owned(),
        (RoleName::Candidate, _) => "candidate".to_owned(),
        (RoleName::Leader, _) => "leader".to_owned(),
    }
}

fn show_follower(follower: &raft_core::FollowerStatus) -> String {
    let mode = match follower.mode {
        ReplicationMode::Probe => "probe",
        ReplicationMode::Replicate => "replicate",
        ReplicationMode::Snapshot => "snapshot",
    };
    let mut text = format!("{:?}:{mode} {}", follower.id, follower.matched);
    if follower.next != follower.matched.next() {
        text.push_str(&format!(" next={}", follower.next));
    }
    if !follower.active {
        text.push_str(" silent");
    }
    if follower.leaving {
        text.push_str(" leaving");
    }
    if follower.priority > 0 {
        text.push_str(&format!(" priority={}", follower.priority));
    }
    if let Some(snapshot) = follower.snapshot
        && let Some(last) = snapshot.last
    {
        let where_it_is = if snapshot.arrived { "has arrived" } else { "under way" };
        text.push_str(&format!(" ({last} {where_it_is})"));
    }
    text
}
