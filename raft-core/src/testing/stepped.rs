//! A node without threads and without a clock: whoever holds it decides what happens when.
//!
//! It is the shipped code of rings 0 and 1; only `node/threads.rs` is left out. A simulator can so put
//! any delay, or a crash, between any two of: something arrives, the protocol decides, a write begins, it is
//! durable, that is reported, the answer leaves.
//!
//! Not here: the bounds on what waits, which are ring 2's. Whoever steps a node drops what is too much.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::event::{Change, Status};
use crate::log_store::LogStore;
use crate::node::pump::{Input, Pump, Work};
use crate::node::reconcile;
use crate::node::requests::{Callback, SharedCause, Waiter};
use crate::node::workers::{
    ApplyWork, ApplyWorker, Done, FetchWork, FetchWorker, LogWork, LogWorker,
};
use crate::node::{Committed, NodeOptions, ReadLevel, RequestError, StartError, StopCause};
use crate::protocol::Raft;
use crate::state_machine::StateMachine;
use crate::transport::{Arrival, Transport};
use crate::types::{Index, LogId, NodeId};

/// A node that is run by hand.
///
/// Inputs are queued by [`SteppedNode::tick`], [`SteppedNode::arrive`], [`SteppedNode::propose`] and so on,
/// and taken all at once by [`SteppedNode::run`]. That leaves jobs for three workers; each is taken, run when
/// its effect shall be there, and its [`Report`]s are handed back with [`SteppedNode::report`].
///
/// To crash it is to drop it: callers that wait are then told that it has stopped.
pub struct SteppedNode {
    pump: Pump,
    log: LogWorker,
    fetch: FetchWorker,
    apply: ApplyWorker,
    inbox: Vec<Input>,
    work: Vec<Work>,
    log_queue: Vec<LogWork>,
    fetch_queue: VecDeque<FetchWork>,
    apply_queue: VecDeque<ApplyWork>,
    cause: SharedCause,
}

/// Work for the log: everything that had queued, written as a group.
#[derive(Debug)]
pub struct LogJob(Vec<LogWork>);

/// Work for the reader of the log: what one follower needs next.
#[derive(Debug)]
pub struct FetchJob(FetchWork);

/// Work for the state machine: one piece.
#[derive(Debug)]
pub struct ApplyJob(ApplyWork);

/// What a worker has done, and the node does not know yet.
#[derive(Debug)]
pub struct Report(Done);

impl LogJob {
    /// How many pieces it is made of. Those that follow one another may go down as one write.
    pub fn pieces(&self) -> usize {
        self.0.len()
    }
}

impl ApplyJob {
    /// Whether it replaces the whole state, which must be atomic.
    pub fn is_restore(&self) -> bool {
        matches!(self.0, ApplyWork::Restore(..))
    }
}

impl SteppedNode {
    /// A node on this log, this transport and this state machine. [`NodeOptions::tick`] and the bounds
    /// on the inbox are not looked at; no seed counts as 0. [`Transport::start`] is not called:
    /// what arrives is handed over with [`SteppedNode::arrive`].
    ///
    /// # Errors
    ///
    /// As [`crate::Node::start`].
    pub fn start(
        options: &NodeOptions,
        mut log: impl LogStore,
        net: impl Transport,
        machine: impl StateMachine,
    ) -> Result<Self, StartError> {
        options.validate()?;
        let applied = machine.applied();
        let found = reconcile(&mut log, &applied)?;
        let applied = applied.last.index;
        let raft = Raft::new(options.raft.clone(), found, applied, options.seed.unwrap_or(0));
        let fetch = FetchWorker::new(log.reader());
        let apply = ApplyWorker::new(Box::new(machine), log.reader(), options.apply_bytes);
        Ok(Self {
            pump: Pump::new(raft, Box::new(net), applied, options),
            log: LogWorker::new(Box::new(log)),
            fetch,
            apply,
            inbox: Vec::new(),
            work: Vec::new(),
            log_queue: Vec::new(),
            fetch_queue: VecDeque::new(),
            apply_queue: VecDeque::new(),
            cause: Arc::new(OnceLock::new()),
        })
    }

    /// The protocol inside: its term, its log, its membership.
    pub fn raft(&self) -> &Raft {
        self.pump.raft()
    }

    /// What the node shows of itself.
    pub fn status(&self) -> Status {
        self.pump.status()
    }

    /// Why the node has stopped, if it has. It must not be run any more then.
    pub fn stopped(&self) -> Option<StopCause> {
        self.cause.get().cloned()
    }

    /// How many inputs wait for [`SteppedNode::run`].
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }

    // Inputs.

    /// A tick of the node's clock.
    pub fn tick(&mut self) {
        self.inbox.push(Input::Tick);
    }

    /// The node was stopped, or its machine asleep, for longer than [`crate::Config::heartbeat_interval`]
    /// ticks. It hears that before anything that waits, as in ring 2: reads may not rely on a lease any
    /// more (rule E14). At most so many ticks are made up for.
    pub fn skip_ticks(&mut self) {
        self.inbox.insert(0, Input::TicksSkipped);
    }

    /// Something came over the network.
    pub fn arrive(&mut self, arrival: Arrival) {
        self.inbox.push(Input::Arrival(arrival));
    }

    /// A worker has done something.
    pub fn report(&mut self, report: Report) {
        self.inbox.push(Input::Done(report.0));
    }

    /// As [`crate::Handle::propose`].
    pub fn propose(
        &mut self,
        command: Bytes,
        done: impl FnOnce(Result<Committed, RequestError>) + Send + 'static,
    ) {
        let waiter = self.waiter(Box::new(done));
        self.inbox.push(Input::Propose(command, waiter));
    }

    /// As [`crate::Handle::read_barrier`].
    pub fn read_barrier(
        &mut self,
        level: ReadLevel,
        done: impl FnOnce(Result<Index, RequestError>) + Send + 'static,
    ) {
        let waiter = self.waiter(Box::new(done));
        self.inbox.push(Input::ReadBarrier(level, waiter));
    }

    /// As [`crate::Handle::change_membership`].
    pub fn change_membership(
        &mut self,
        change: Change,
        done: impl FnOnce(Result<LogId, RequestError>) + Send + 'static,
    ) {
        let waiter = self.waiter(Box::new(done));
        self.inbox.push(Input::Change(change, waiter));
    }

    /// As [`crate::Handle::transfer`].
    pub fn transfer(
        &mut self,
        to: NodeId,
        done: impl FnOnce(Result<(), RequestError>) + Send + 'static,
    ) {
        let waiter = self.waiter(Box::new(done));
        self.inbox.push(Input::Transfer(to, waiter));
    }

    /// As [`crate::Handle::forget_leader`].
    pub fn forget_leader(&mut self, done: impl FnOnce(Result<(), RequestError>) + Send + 'static) {
        let waiter = self.waiter(Box::new(done));
        self.inbox.push(Input::ForgetLeader(waiter));
    }

    /// As [`crate::Handle::request_snapshot`].
    pub fn request_snapshot(
        &mut self,
        done: impl FnOnce(Result<(), RequestError>) + Send + 'static,
    ) {
        let waiter = self.waiter(Box::new(done));
        self.inbox.push(Input::RequestSnapshot(waiter));
    }

    /// As [`crate::Handle::stop`], in ticks.
    pub fn stop(&mut self, grace_ticks: u32) {
        self.inbox.push(Input::Stop { grace_ticks });
    }

    /// Takes everything that waits, as one batch. Messages leave through the transport meanwhile.
    pub fn run(&mut self) {
        self.pump.run(self.inbox.drain(..), &mut self.work);
        for work in self.work.drain(..) {
            match work {
                Work::Log(work) => self.log_queue.push(work),
                Work::Fetch(work) => self.fetch_queue.push_back(work),
                Work::Apply(work) => self.apply_queue.push_back(work),
                Work::Show(_) => {}
                Work::Stop => {
                    let _ = self.cause.set(StopCause::Asked);
                }
            }
        }
    }

    // Jobs. Of each kind one is run at a time, in the order in which they were taken.

    /// Everything that waits for the log.
    pub fn take_log_job(&mut self) -> Option<LogJob> {
        (!self.log_queue.is_empty()).then(|| LogJob(std::mem::take(&mut self.log_queue)))
    }

    /// What a follower that is behind needs next.
    pub fn take_fetch_job(&mut self) -> Option<FetchJob> {
        self.fetch_queue.pop_front().map(FetchJob)
    }

    /// What the state machine is to do next.
    pub fn take_apply_job(&mut self) -> Option<ApplyJob> {
        self.apply_queue.pop_front().map(ApplyJob)
    }

    /// Writes. When this returns, it is durable; nobody knows yet.
    ///
    /// # Errors
    ///
    /// Why the node has stopped. `reports` then has what was durable before.
    pub fn run_log_job(&mut self, job: LogJob, reports: &mut Vec<Report>) -> Result<(), StopCause> {
        let mut done = Vec::new();
        let result = self.log.run(job.0, &mut done);
        reports.extend(done.into_iter().map(Report));
        result.map_err(|cause| self.fail(cause))
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// Why the node has stopped.
    pub fn run_fetch_job(&mut self, job: FetchJob) -> Result<Report, StopCause> {
        self.fetch.run(job.0).map(Report).map_err(|cause| self.fail(cause))
    }

    /// Applies, flushes, takes a snapshot or restores one; tells callers the outcomes.
    ///
    /// # Errors
    ///
    /// Why the node has stopped.
    pub fn run_apply_job(&mut self, job: ApplyJob) -> Result<Report, StopCause> {
        self.apply.run(job.0).map(Report).map_err(|cause| self.fail(cause))
    }

    fn fail(&self, cause: StopCause) -> StopCause {
        self.cause.get_or_init(|| cause).clone()
    }

    fn waiter<T>(&self, callback: Callback<T>) -> Waiter<T> {
        Waiter::new(callback, Arc::clone(&self.cause))
    }
}

impl fmt::Debug for SteppedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteppedNode").field("raft", self.raft()).finish_non_exhaustive()
    }
}
