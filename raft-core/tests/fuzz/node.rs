//! Hostile arrivals for a whole node without threads: rings 0 and 1, on a disk and a state machine in memory.
//!
//! What the protocol is spared in ring 0 is met here: snapshots that are not what their heads say, outcomes of
//! transfers that nobody began, workers whose reports come late, a disk or a state machine that fails, crashes
//! between any two of these. After every step, besides what ring 0 asserts itself: term, commit and what is
//! applied never go back, nothing is said that is not on disk, a worker fails only if it was made to, the
//! node comes up again from whatever a crash leaves, and in the end each request was answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use raft_core::testing::{
    DiskFault, MemDisk, MemMachine, MemSnapshot, MemStore, Report, SteppedNode,
};
use raft_core::{
    Arrival, Envelope, HardState, Inbox, Index, Message, NodeOptions, Peers, ReadLevel, RoleName,
    Sent, SnapshotHeader, SnapshotOutcome, SnapshotSource, SnapshotTicket, StopCause, Term,
    Transport,
};

use crate::events::{self, AMeta, ATerm, Answer, Around, Hearsay, ME, Rarely, Who};
use crate::promises::Promises;
use crate::script::{Start, Wish};

/// A node, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct NodeScript {
    start: Start,
    pub(crate) steps: Vec<NodeStep>,
}

impl<'a> Arbitrary<'a> for NodeScript {
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

/// Something happens, and rarely the node does not get round to it before the next thing happens.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct NodeStep {
    what: What,
    busy: Rarely<()>,
}

#[derive(Arbitrary, Clone, Debug)]
enum What {
    Ticks(u8),
    Hear(Hearsay),
    /// The same, so that it is drawn twice as often.
    HearAlso(Hearsay),
    Answer(Answer),
    Arrive(Thing),
    Ask(Wish),
    Work(Worker),
    /// All that waits is done, and told.
    Settle,
    Fail(Rarely<Failure>),
    Crash(Rarely<()>),
}

/// What comes over the network and is no message.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Thing {
    Snapshot { from: Who, term: ATerm, head: AMeta, files_of: Rarely<AMeta>, nonsense: Rarely<()> },
    SnapshotSent { to: Who, ticket: u8, arrived: bool },
    Met(Who, u8),
    Unreachable(Who),
    Link(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Worker {
    Log,
    Fetch,
    Apply,
    /// The oldest report of each is heard.
    Tell,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Failure {
    Disk(u8),
    Machine,
    Stop(u8),
    Sleep,
}

/// Runs a script. Panics if anything is not as it must be. With `tell`, prints what happens.
pub(crate) fn run(script: &NodeScript, tell: bool) {
    let mut host = Host::new(script.start, tell);
    for step in &script.steps {
        host.happen(step);
    }
    let Host { node, asked, answered, .. } = host;
    drop(node);
    assert_eq!(asked, answered.load(Ordering::Relaxed), "requests, and answers");
}

/// A machine with one node on it.
struct Host {
    start: Start,
    tell: bool,
    lives: u64,
    disk: MemDisk,
    store: MemStore,
    wire: Wire,
    node: SteppedNode,
    /// What the workers have done and the node was not told, in order for each.
    reports: [VecDeque<Report>; 3],
    /// It was told to fail, or to stop.
    doomed: bool,
    sent: VecDeque<Envelope>,
    promises: Promises,
    asked: usize,
    answered: Arc<AtomicUsize>,
    before: (Term, Index, Index),
    hard: HardState,
}

/// What the node sends.
#[derive(Clone, Debug, Default)]
struct Wire {
    shared: Arc<Mutex<Outgoing>>,
}

#[derive(Debug, Default)]
struct Outgoing {
    envelopes: Vec<Envelope>,
    tickets: u64,
    snapshots: BTreeMap<u64, SnapshotHeader>,
    says: u8,
}

impl Transport for Wire {
    fn start(&mut self, _: Inbox) {}

    fn send(&self, envelope: Envelope) -> Sent {
        let mut out = self.shared.lock().expect("nobody panics with it");
        let says = [Sent::Queued, Sent::Queued, Sent::Full, Sent::Unreachable];
        out.envelopes.push(envelope);
        says[usize::from(out.says) % says.len()]
    }

    fn send_snapshot(&self, header: SnapshotHeader, _: Box<dyn SnapshotSource>) -> SnapshotTicket {
        let mut out = self.shared.lock().expect("nobody panics with it");
        out.tickets += 1;
        let ticket = out.tickets;
        out.snapshots.insert(ticket, header);
        SnapshotTicket(ticket)
    }

    fn set_peers(&self, peers: &Peers) {
        assert!(!peers.contains_key(&events::id(ME)), "it is no peer of its own");
    }
}

impl Host {
    fn new(start: Start, tell: bool) -> Self {
        let (disk, store, wire) = (start.disk(), MemStore::new(), Wire::default());
        let node = come_up(start, 0, &disk, &store, &wire);
        let before = (node.raft().term(), node.raft().commit(), store.applied());
        Self {
            start,
            tell,
            lives: 0,
            hard: disk.hard(),
            disk,
            store,
            wire,
            node,
            reports: Default::default(),
            doomed: false,
            sent: VecDeque::new(),
            promises: Promises::default(),
            asked: 0,
            answered: Arc::default(),
            before,
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{}", what());
        }
    }

    fn happen(&mut self, step: &NodeStep) {
        self.say(|| format!("{:?}", step.what));
        match &step.what {
            What::Ticks(count) => (0..1 + count % 16).for_each(|_| self.node.tick()),
            What::Hear(said) | What::HearAlso(said) => {
                let envelope = self.around().envelope(said);
                self.hear(envelope);
            }
            What::Answer(answer) => self.answer(*answer),
            What::Arrive(thing) => self.arrive(*thing),
            What::Ask(wish) => self.ask(wish),
            What::Work(worker) => self.work(*worker),
            What::Settle => self.settle(),
            What::Fail(Rarely(Some(failure))) => self.fail(*failure),
            What::Crash(Rarely(Some(()))) => self.crash(),
            What::Fail(Rarely(None)) | What::Crash(Rarely(None)) => {}
        }
        if step.busy.0.is_none() {
            self.run();
        }
    }

    fn around(&self) -> Around<'_> {
        Around { raft: self.node.raft() }
    }

    // What happens.

    fn hear(&mut self, envelope: Envelope) {
        if !self.is_rival(&envelope) {
            self.say(|| format!("  {envelope:?}"));
            self.node.arrive(Arrival::Messages(vec![envelope]));
        }
    }

    /// A voter that claims to lead the very term which this node leads has to stop it (rule E5): the one
    /// thing that is not said here. What waits is heard first, so that it is known who leads.
    fn is_rival(&mut self, envelope: &Envelope) -> bool {
        self.run();
        let raft = self.node.raft();
        let leads = matches!(
            envelope.message,
            Message::Append { .. } | Message::Heartbeat { .. } | Message::Snapshot(_)
        );
        let mut indices = (raft.commit().0..=raft.last().index.0).map(Index);
        leads
            && raft.role() == RoleName::Leader
            && envelope.term == raft.term()
            && indices.any(|index| raft.membership_at(index).1.is_voter(envelope.from))
    }

    fn answer(&mut self, answer: Answer) {
        let Some(asked) = self.sent.get(usize::from(answer.which) % 16) else { return };
        if let Some(envelope) = self.around().answer(asked, answer) {
            self.hear(envelope);
        }
    }

    fn arrive(&mut self, thing: Thing) {
        let around = self.around();
        let arrival = match thing {
            Thing::Snapshot { from, term, head, files_of, nonsense } => {
                let meta = around.meta(head);
                let files_of = files_of.0.map_or_else(|| meta.clone(), |other| around.meta(other));
                let (from, term, to) = (around.node(from), around.term(term), events::id(ME));
                let content: &[u8] = if nonsense.0.is_some() { b"nonsense" } else { b"" };
                let reader = MemSnapshot::new(files_of, Bytes::copy_from_slice(content));
                let message = Message::Snapshot(Box::new(meta.clone()));
                if self.is_rival(&Envelope { from, to, term, message }) {
                    return;
                }
                self.doomed |= nonsense.0.is_some();
                let header = SnapshotHeader { from, to, term, meta };
                self.say(|| format!("  {header:?}"));
                Arrival::Snapshot(header, Box::new(reader))
            }
            Thing::SnapshotSent { to, ticket, arrived } => {
                let to = around.node(to);
                let outcome =
                    if arrived { SnapshotOutcome::Delivered } else { SnapshotOutcome::Failed };
                Arrival::SnapshotSent(to, SnapshotTicket(u64::from(ticket % 8)), outcome)
            }
            Thing::Met(peer, life) => Arrival::Met(around.node(peer), events::life(life)),
            Thing::Unreachable(peer) => Arrival::Unreachable(around.node(peer)),
            Thing::Link(says) => {
                self.wire.shared.lock().expect("nobody panics with it").says = says;
                return;
            }
        };
        self.node.arrive(arrival);
    }

    fn ask(&mut self, wish: &Wish) {
        match wish {
            Wish::Propose(sizes) => {
                for &size in &sizes.0 {
                    let command = match size % 4 {
                        0 => events::command(size),
                        _ => MemMachine::put(&[size], &events::command(size)),
                    };
                    let told = self.request();
                    self.node.propose(command, move |_| told());
                }
            }
            Wish::Read => {
                let told = self.request();
                self.node.read_barrier(ReadLevel::Linearizable, move |_| told());
            }
            Wish::LeaseRead => {
                let told = self.request();
                self.node.read_barrier(ReadLevel::Lease, move |_| told());
            }
            Wish::Change(change) => {
                let (change, told) = (self.around().change(change), self.request());
                self.node.change_membership(change, move |_| told());
            }
            Wish::Transfer(to) => {
                let (to, told) = (self.around().node(*to), self.request());
                self.node.transfer(to, move |_| told());
            }
            Wish::Forget(Rarely(Some(()))) => {
                let told = self.request();
                self.node.forget_leader(move |_| told());
            }
            Wish::Repair(Rarely(Some(()))) => {
                let told = self.request();
                self.node.request_snapshot(move |_| told());
            }
            Wish::Forget(Rarely(None)) | Wish::Repair(Rarely(None)) => {}
        }
    }

    /// A request, and what is to be called when it is answered.
    fn request(&mut self) -> impl FnOnce() + Send + 'static {
        self.asked += 1;
        let answered = Arc::clone(&self.answered);
        move || {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn work(&mut self, worker: Worker) {
        let done = match worker {
            Worker::Log => {
                let Some(job) = self.node.take_log_job() else { return };
                let mut reports = Vec::new();
                let result = self.node.run_log_job(job, &mut reports);
                self.reports[0].extend(reports);
                result
            }
            Worker::Fetch => {
                let Some(job) = self.node.take_fetch_job() else { return };
                self.node.run_fetch_job(job).map(|report| self.reports[1].push_back(report))
            }
            Worker::Apply => {
                let Some(job) = self.node.take_apply_job() else { return };
                self.node.run_apply_job(job).map(|report| self.reports[2].push_back(report))
            }
            Worker::Tell => {
                let told = self.reports.iter_mut().filter_map(VecDeque::pop_front);
                told.for_each(|report| self.node.report(report));
                return;
            }
        };
        if let Err(cause) = done {
            self.on_stopped(&cause);
        }
    }

    fn settle(&mut self) {
        // A leader of one may go on for ever.
        for _ in 0..8 {
            for worker in [Worker::Log, Worker::Fetch, Worker::Apply] {
                self.work(worker);
            }
            while self.reports.iter().any(|reports| !reports.is_empty()) {
                self.work(Worker::Tell);
            }
            self.run();
        }
    }

    fn fail(&mut self, failure: Failure) {
        match failure {
            Failure::Disk(writes) => {
                let faults = [DiskFault::Refused, DiskFault::WrittenAllTheSame, DiskFault::Full];
                let fault = faults[usize::from(writes) % faults.len()];
                self.disk.fail_after(u64::from(writes % 4), fault);
                self.doomed = true;
            }
            Failure::Machine => {
                self.store.fail();
                self.doomed = true;
            }
            Failure::Stop(grace) => {
                self.node.stop(u32::from(grace % 8));
                self.doomed = true;
            }
            Failure::Sleep => self.node.skip_ticks(),
        }
    }

    /// The process dies; what is durable is found again.
    fn crash(&mut self) {
        self.disk.crash();
        self.store.crash();
        self.reports.iter_mut().for_each(VecDeque::clear);
        self.sent.clear();
        self.doomed = false;
        self.lives += 1;
        // What it had in its hands does not leave any more.
        self.wire = Wire::default();
        self.node = come_up(self.start, self.lives, &self.disk, &self.store, &self.wire);
        let raft = self.node.raft();
        self.before = (raft.term(), raft.commit(), self.store.applied());
        self.say(|| format!("  comes up: {:?}", self.node.raft().status()));
    }

    fn on_stopped(&mut self, cause: &StopCause) {
        self.say(|| format!("  stops: {cause}"));
        assert!(self.doomed, "it has stopped, and nobody has asked for it: {cause}");
        self.crash();
    }

    // What it does about it.

    fn run(&mut self) {
        self.node.run();
        let sent =
            std::mem::take(&mut self.wire.shared.lock().expect("nobody panics with it").envelopes);
        for envelope in sent {
            self.say(|| format!("    -> {envelope:?}"));
            self.promises.check(&self.disk, &envelope);
            self.sent.push_front(envelope);
        }
        self.sent.truncate(16);
        self.check();
        if let Some(cause) = self.node.stopped() {
            self.on_stopped(&cause);
        }
    }

    fn check(&mut self) {
        let status = self.node.raft().status();
        let now = (status.term, status.commit, self.store.applied());
        let (term, commit, applied) = self.before;
        assert!(now.0 >= term, "the term fell from {term} to {}", now.0);
        assert!(now.1 >= commit, "the commit index fell from {commit} to {}", now.1);
        assert!(now.2 >= applied, "what is applied fell from {applied} to {}", now.2);
        assert!(status.applied <= now.2, "only {} was applied: {status:?}", now.2);
        assert!(status.membership.fault().is_none(), "a faulty configuration is in force");
        self.before = now;
        let hard = self.disk.hard();
        assert!(hard.term >= self.hard.term, "{hard:?} on disk, after {:?}", self.hard);
        if hard.term == self.hard.term && self.hard.vote.is_some() {
            assert_eq!(hard.vote, self.hard.vote, "the vote on disk has changed");
        }
        self.hard = hard;
    }
}

fn come_up(start: Start, life: u64, disk: &MemDisk, store: &MemStore, wire: &Wire) -> SteppedNode {
    let mut options = NodeOptions::new(start.options.config());
    options.seed = Some(u64::from(start.seed) + life);
    options.cache_bytes = 300;
    options.apply_bytes = 200;
    options.retain_entries = 3;
    options.retain_bytes = 2000;
    options.compact_every = 3;
    options.max_waiting = 8;
    let node = SteppedNode::start(&options, disk.log(), wire.clone(), store.machine());
    node.expect("it comes up from whatever a crash has left")
}
