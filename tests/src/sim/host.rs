//! One simulated machine: a disk, a database, a clock that may run wrong, and a process that may be
//! down or asleep.

use raft_core::testing::{ApplyJob, FetchJob, LogJob, MemDisk, Report, SteppedNode};
use raft_core::{HardState, Incarnation, Index, LogId, Membership, NodeId, StartError, Term};

use super::disk::Witness;
use super::machine::SimStore;
use super::plan::Plan;
use super::schedule::Micros;
use super::wire::Wire;

/// Where a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// Right now.
    Now,
    /// When only some of the messages of one go have left, and nothing else was done.
    MidSend,
    /// Before a write that was asked for.
    BeforeWrite,
    /// Between two writes of one group.
    TornGroup,
    /// After a write, before anybody hears of it.
    AfterWrite,
    /// Before something is applied.
    BeforeApply,
    /// After some of the entries of one piece were applied.
    MidApply,
    /// After something was applied, before anybody hears of it.
    AfterApply,
    /// After a snapshot was installed, before the log hears of it.
    AfterRestore,
}

impl CrashPoint {
    pub(crate) const ALL: [Self; 9] = [
        Self::Now,
        Self::MidSend,
        Self::BeforeWrite,
        Self::TornGroup,
        Self::AfterWrite,
        Self::BeforeApply,
        Self::MidApply,
        Self::AfterApply,
        Self::AfterRestore,
    ];
}

/// A simulated machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) disk: MemDisk,
    pub(crate) witness: Witness,
    pub(crate) store: SimStore,
    pub(crate) wire: Wire,
    /// The process, if it is up.
    pub(crate) node: Option<SteppedNode>,
    /// Counts processes, so that what was meant for an earlier one does not reach a later one.
    pub(crate) life: u32,
    pub(crate) paused: bool,
    /// Ticks that passed while it was asleep.
    pub(crate) overslept: u32,
    /// Somebody will run it soon.
    pub(crate) run_due: bool,
    /// The length of its tick.
    pub(crate) tick: Micros,
    pub(crate) log_job: Option<LogJob>,
    pub(crate) fetch_job: Option<FetchJob>,
    pub(crate) apply_job: Option<ApplyJob>,
    /// What workers have done and the node has not been told.
    pub(crate) reports: Vec<Report>,
    pub(crate) armed: Option<CrashPoint>,
    /// The next write takes so long.
    pub(crate) stall: Micros,
    /// Whom it has shaken hands with, a bit for each.
    pub(crate) met: u64,
    /// Its disk was replaced: nobody hears it any more.
    pub(crate) wiped: bool,
    /// It stays down for ever.
    pub(crate) broken: bool,
    pub(crate) view: View,
    pub(crate) hard: HardState,
}

/// What a node looked like after its last step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    pub(crate) term: Term,
    pub(crate) leads: bool,
    pub(crate) role: Role,
    pub(crate) commit: Index,
    pub(crate) applied: Index,
    pub(crate) last: LogId,
    pub(crate) membership_at: LogId,
    pub(crate) joint: bool,
    pub(crate) removed: bool,
}

/// What a node takes itself for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    #[default]
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

impl Host {
    pub(crate) fn new(
        id: NodeId,
        incarnation: u64,
        disk: MemDisk,
        store: SimStore,
        wire: Wire,
        tick: Micros,
    ) -> Self {
        Self {
            id,
            incarnation: Incarnation(incarnation),
            disk,
            witness: Witness::default(),
            store,
            wire,
            node: None,
            life: 0,
            paused: false,
            overslept: 0,
            run_due: false,
            tick,
            log_job: None,
            fetch_job: None,
            apply_job: None,
            reports: Vec::new(),
            armed: None,
            stall: 0,
            met: 0,
            wiped: false,
            broken: false,
            view: View::default(),
            hard: HardState::default(),
        }
    }

    /// Starts a process on what is on the disk.
    pub(crate) fn start(&mut self, plan: &Plan, seed: u64) -> Result<(), StartError> {
        let mut options = plan.options(self.id, seed);
        options.raft.incarnation = Some(self.incarnation);
        let log = self.witness.open(&self.disk);
        self.life += 1;
        let net = self.wire.transport();
        self.node = Some(SteppedNode::start(&options, log, net, self.store.machine())?);
        Ok(())
    }

    /// The process is gone. What was not on the disk is, too.
    pub(crate) fn kill(&mut self) {
        self.life += 1;
        self.node = None;
        self.disk.crash();
        self.store.crash();
        self.wire.crash();
        (self.log_job, self.fetch_job, self.apply_job) = (None, None, None);
        self.reports.clear();
        self.run_due = false;
        self.paused = false;
        self.overslept = 0;
        self.armed = None;
        self.met = 0;
        self.view = View::default();
    }

    /// The configuration it goes by, if it is up.
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.node.as_ref().map(|node| node.raft().membership())
    }

    /// Dies here, if it was to.
    pub(crate) fn dies_at(&mut self, point: CrashPoint) -> bool {
        let dies = self.armed == Some(point);
        if dies {
            self.armed = None;
        }
        dies
    }
}
