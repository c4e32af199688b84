//! Ring 2: the threads. The only file of this crate that has any; `clock.rs` beside it is the clock.
//!
//! Four threads: the pump with the clock, the log worker, the worker that reads the log for followers that
//! are behind, the apply worker. Plain threads, no async: an fsync blocks anyway, and heartbeats must
//! not wait behind a slow one. Threads talk through queues that hand over all that waits at once.
//!
//! Whatever thread fails or panics, all stop, and everybody who waits learns the cause.

use std::any::Any;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::clock::{Clock, Now};
use super::handle::{Committed, Handle, ReadLevel, RequestError, StopCause};
use super::pump::{Input, Pump, Work};
use super::queue::Queue;
use super::requests::{Callback, SharedCause, Waiter};
use super::workers::{ApplyWork, ApplyWorker, Done, FetchWork, FetchWorker, LogWork, LogWorker};
use super::{NodeOptions, StartError};
use crate::event::{Change, Status};
use crate::log_store::{LogStore, Recovered};
use crate::message::{Envelope, Message};
use crate::protocol::Raft;
use crate::state_machine::{Applied, StateMachine};
use crate::transport::{Arrival, Inbox, Transport};
use crate::types::{Index, LogId, NodeId};

/// Called after each change of role, term, leader or membership, until it returns `false`.
type Watcher = Box<dyn FnMut(&Status) -> bool + Send>;

/// What the threads of a node and its handles share.
pub(super) struct Shared {
    inbox: Queue<Input>,
    bounds: Bounds,
    cause: SharedCause,
    log_queue: Queue<LogWork>,
    fetch_queue: Queue<FetchWork>,
    apply_queue: Queue<ApplyWork>,
    status: Mutex<Status>,
    watchers: Mutex<Vec<Watcher>>,
    /// Which threads run, and a place to wait until none does.
    threads: Mutex<Threads>,
    stopped: Condvar,
    tick: Duration,
    ticks_at_once: u32,
}

/// How many threads run, and whether all that ever did have ended.
#[derive(Debug, Default)]
struct Threads {
    running: usize,
    ended: bool,
}

/// What waits in the inbox, by kind, and how much of it may.
#[derive(Debug)]
struct Bounds {
    messages: AtomicUsize,
    message_bytes: AtomicUsize,
    requests: AtomicUsize,
    max_messages: usize,
    max_message_bytes: usize,
    max_requests: usize,
    max_command_bytes: usize,
}

/// Starts the threads of a node.
pub(super) fn start(
    options: NodeOptions,
    log: Box<dyn LogStore>,
    mut net: Box<dyn Transport>,
    machine: Box<dyn StateMachine>,
    found: Recovered,
    applied: &Applied,
) -> Result<Handle, StartError> {
    let seed = options.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let applied = applied.last.index;
    let raft = Raft::new(options.raft.clone(), found, applied, seed);
    let shared = Arc::new(Shared {
        inbox: Queue::new(),
        bounds: Bounds::new(&options),
        cause: Arc::new(OnceLock::new()),
        log_queue: Queue::new(),
        fetch_queue: Queue::new(),
        apply_queue: Queue::new(),
        status: Mutex::new(raft.status()),
        watchers: Mutex::new(Vec::new()),
        threads: Mutex::default(),
        stopped: Condvar::new(),
        tick: options.tick,
        ticks_at_once: options.raft.heartbeat_interval.0,
    });
    let (fetch_reader, apply_reader) = (log.reader(), log.reader());

    let of_net = Arc::clone(&shared);
    net.start(Inbox::new(move |arrival| of_net.arrived(arrival)));
    let mut pump = Pump::new(raft, net, applied, &options);

    let mut log = LogWorker::new(log);
    spawn(&shared, "raft-log", move |shared| {
        let mut work = Vec::new();
        let mut done = Vec::new();
        while shared.log_queue.take(&mut work, None) {
            log.run(std::mem::take(&mut work), &mut done)?;
            shared.done(done.drain(..));
        }
        Ok(())
    })?;
    let fetch = FetchWorker::new(fetch_reader);
    spawn(&shared, "raft-fetch", move |shared| {
        let mut work = Vec::new();
        while shared.fetch_queue.take(&mut work, None) {
            for work in work.drain(..) {
                shared.done([fetch.run(work)?]);
            }
        }
        Ok(())
    })?;
    let mut apply = ApplyWorker::new(machine, apply_reader, options.apply_bytes);
    // Outside of the body, so that who waits in there learns why when it fails.
    let mut work = Vec::new();
    spawn(&shared, "raft-apply", move |shared| {
        while shared.apply_queue.take(&mut work, None) {
            work.reverse();
            while let Some(work) = work.pop() {
                shared.done([apply.run(work)?]);
            }
        }
        Ok(())
    })?;
    spawn(&shared, "raft-pump", move |shared| {
        run_pump(&mut pump, shared);
        Ok(())
    })?;
    Ok(Handle::new(shared))
}

/// Runs `body` on a thread of its own. If it fails or panics the whole node stops.
///
/// `body` is dropped after the cause is known, so that whoever waits inside it learns that cause.
fn spawn(
    shared: &Arc<Shared>,
    name: &str,
    mut body: impl FnMut(&Arc<Shared>) -> Result<(), StopCause> + Send + 'static,
) -> Result<(), StartError> {
    lock(&shared.threads).running += 1;
    let of_thread = Arc::clone(shared);
    let run = move || {
        let result = catch_unwind(AssertUnwindSafe(|| body(&of_thread)));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => of_thread.fail(cause),
            Err(panic) => of_thread.fail(StopCause::Bug(panic_message(panic.as_ref()).into())),
        }
        drop(body);
        of_thread.thread_ended();
    };
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        shared.fail(StopCause::Asked);
        shared.thread_ended();
        return Err(error.into());
    }
    Ok(())
}

/// The pump's thread: takes what waits, or a tick when it is time.
fn run_pump(pump: &mut Pump, shared: &Arc<Shared>) {
    let mut inputs = Vec::new();
    let mut work = Vec::new();
    let mut clock = Clock::new(shared.tick, shared.ticks_at_once, Now::read());
    loop {
        let wait = clock.until_next(Now::read());
        if !shared.inbox.take(&mut inputs, Some(wait)) {
            return;
        }
        shared.bounds.taken(&inputs);
        let passed = clock.passed(Now::read());
        if passed.skipped {
            // Before what waited, reads above all: they may not rely on a lease any more.
            inputs.insert(0, Input::TicksSkipped);
        }
        // After what waited: a heartbeat that has come in time counts as such.
        inputs.extend((0..passed.ticks).map(|_| Input::Tick));
        pump.run(inputs.drain(..), &mut work);
        if passed.ticks > 0 {
            shared.show(&pump.status(), Watchers::Spare);
        }
        for work in work.drain(..) {
            match work {
                Work::Log(work) => drop(shared.log_queue.put([work])),
                Work::Fetch(work) => drop(shared.fetch_queue.put([work])),
                Work::Apply(work) => drop(shared.apply_queue.put([work])),
                Work::Show(status) => shared.show(&status, Watchers::Tell),
                Work::Stop => return shared.fail(StopCause::Asked),
            }
        }
    }
}

/// Whether those who watch the status are to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watchers {
    Tell,
    Spare,
}

impl Shared {
    pub(super) fn propose(&self, command: Bytes, callback: Callback<Committed>) {
        let waiter = self.waiter(callback);
        let (bytes, limit) = (command.len(), self.bounds.max_command_bytes);
        if bytes > limit {
            return waiter.answer(Err(RequestError::TooLarge { bytes, limit }));
        }
        if !self.bounds.admit_request() {
            return waiter.answer(Err(RequestError::Busy));
        }
        self.inbox.put([Input::Propose(command, waiter)]);
    }

    pub(super) fn read_barrier(&self, level: ReadLevel, callback: Callback<Index>) {
        let waiter = self.waiter(callback);
        if !self.bounds.admit_request() {
            return waiter.answer(Err(RequestError::Busy));
        }
        self.inbox.put([Input::ReadBarrier(level, waiter)]);
    }

    pub(super) fn change_membership(&self, change: Change, callback: Callback<LogId>) {
        let waiter = self.waiter(callback);
        if !self.bounds.admit_request() {
            return waiter.answer(Err(RequestError::Busy));
        }
        self.inbox.put([Input::Change(change, waiter)]);
    }

    pub(super) fn transfer(&self, to: NodeId, callback: Callback<()>) {
        let waiter = self.waiter(callback);
        if !self.bounds.admit_request() {
            return waiter.answer(Err(RequestError::Busy));
        }
        self.inbox.put([Input::Transfer(to, waiter)]);
    }

    pub(super) fn forget_leader(&self, callback: Callback<()>) {
        let waiter = self.waiter(callback);
        if !self.bounds.admit_request() {
            return waiter.answer(Err(RequestError::Busy));
        }
        self.inbox.put([Input::ForgetLeader(waiter)]);
    }

    pub(super) fn request_snapshot(&self, callback: Callback<()>) {
        let waiter = self.waiter(callback);
        if !self.bounds.admit_request() {
            return waiter.answer(Err(RequestError::Busy));
        }
        self.inbox.put([Input::RequestSnapshot(waiter)]);
    }

    pub(super) fn status(&self) -> Status {
        lock(&self.status).clone()
    }

    pub(super) fn subscribe(&self, mut watcher: Watcher) {
        let mut watching = lock(&self.watchers);
        if watcher(&self.status()) {
            watching.push(watcher);
        }
    }

    pub(super) fn stop(&self, grace: Duration) {
        let ticks = grace.as_nanos() / self.tick.as_nanos().max(1);
        let grace_ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        self.inbox.put([Input::Stop { grace_ticks }]);
    }

    pub(super) fn wait(&self) -> StopCause {
        let mut threads = lock(&self.threads);
        while !threads.ended {
            threads = self.stopped.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
        drop(threads);
        self.stopped().unwrap_or(StopCause::Asked)
    }

    pub(super) fn stopped(&self) -> Option<StopCause> {
        self.cause.get().cloned()
    }

    /// Something has come over the network. Over the bounds it is dropped, as a network might.
    fn arrived(&self, arrival: Arrival) {
        if self.bounds.admit_arrival(&arrival) {
            self.inbox.put([Input::Arrival(arrival)]);
        }
    }

    fn done(&self, done: impl IntoIterator<Item = Done>) {
        self.inbox.put(done.into_iter().map(Input::Done));
    }

    fn show(&self, status: &Status, watchers: Watchers) {
        // Under the lock of the watchers, so that one who comes now misses nothing.
        let mut watching = lock(&self.watchers);
        lock(&self.status).clone_from(status);
        if watchers == Watchers::Tell {
            tracing::debug!(
                role = ?status.role, term = %status.term, leader = ?status.leader, "changed"
            );
            watching.retain_mut(|watcher| watcher(status));
        }
    }

    /// The node stops: the first cause counts. Whoever still waits is told when the queues are dropped.
    fn fail(&self, cause: StopCause) {
        match &cause {
            StopCause::Asked => {}
            StopCause::Log(_) | StopCause::Machine(_) | StopCause::Bug(_) => {
                tracing::error!(%cause, "the node stops");
            }
        }
        let _ = self.cause.set(cause);
        self.inbox.close();
        self.log_queue.close();
        self.fetch_queue.close();
        self.apply_queue.close();
    }

    /// The last thread out drops what nobody will take any more: whoever waits in there is told.
    fn thread_ended(&self) {
        let mut threads = lock(&self.threads);
        threads.running -= 1;
        if threads.running > 0 {
            return;
        }
        drop(threads); // Whoever is told may call back.
        self.inbox.clear();
        self.log_queue.clear();
        self.fetch_queue.clear();
        self.apply_queue.clear();
        lock(&self.threads).ended = true;
        self.stopped.notify_all();
    }

    fn waiter<T>(&self, callback: Callback<T>) -> Waiter<T> {
        Waiter::new(callback, Arc::clone(&self.cause))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Bounds {
    fn new(options: &NodeOptions) -> Self {
        Self {
            messages: AtomicUsize::new(0),
            message_bytes: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            max_messages: options.inbox_messages,
            max_message_bytes: options.inbox_bytes,
            max_requests: options.inbox_requests,
            max_command_bytes: options.max_command_bytes,
        }
    }

    /// Counts a request in, unless too many wait. The count may be a little late; it is a bound on
    /// memory, not an exact number.
    fn admit_request(&self) -> bool {
        let admitted = self.requests.load(Ordering::Relaxed) < self.max_requests;
        if admitted {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// Counts messages in, unless too many wait.
    fn admit_arrival(&self, arrival: &Arrival) -> bool {
        let Arrival::Messages(envelopes) = arrival else { return true };
        let admitted = self.messages.load(Ordering::Relaxed) < self.max_messages
            && self.message_bytes.load(Ordering::Relaxed) < self.max_message_bytes;
        if admitted {
            self.messages.fetch_add(envelopes.len(), Ordering::Relaxed);
            self.message_bytes.fetch_add(bytes_of(envelopes), Ordering::Relaxed);
        }
        admitted
    }

    /// Counts out what the pump has taken.
    fn taken(&self, inputs: &[Input]) {
        let (mut messages, mut bytes, mut requests) = (0, 0, 0);
        for input in inputs {
            match input {
                Input::Arrival(Arrival::Messages(envelopes)) => {
                    messages += envelopes.len();
                    bytes += bytes_of(envelopes);
                }
                Input::Propose(..)
                | Input::ReadBarrier(..)
                | Input::Change(..)
                | Input::Transfer(..)
                | Input::ForgetLeader(_)
                | Input::RequestSnapshot(_) => requests += 1,
                Input::Tick
                | Input::TicksSkipped
                | Input::Arrival(_)
                | Input::Done(_)
                | Input::Stop { .. } => {}
            }
        }
        self.messages.fetch_sub(messages, Ordering::Relaxed);
        self.message_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.requests.fetch_sub(requests, Ordering::Relaxed);
    }
}

fn bytes_of(envelopes: &[Envelope]) -> usize {
    let payload = |envelope: &Envelope| match &envelope.message {
        Message::Append { entries, .. } => {
            entries.iter().map(|entry| entry.payload.len_bytes()).sum()
        }
        Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::Vote { .. }
        | Message::VoteReply(_)
        | Message::AppendReply(_)
        | Message::Heartbeat { .. }
        | Message::HeartbeatReply { .. }
        | Message::Snapshot(_)
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::SnapshotRequest { .. }
        | Message::Removed { .. } => 0,
    };
    envelopes.iter().map(|envelope| payload(envelope) + size_of::<Envelope>()).sum()
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can be left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
