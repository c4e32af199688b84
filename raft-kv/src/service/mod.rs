//! The node's side of the API: takes a client's request, asks the node, reads the store, answers.
//!
//! Nothing here blocks: requests come in on the threads of the network, and the node answers on its
//! own. What may have to wait for a disk, or take long, goes to a few threads of our own.

mod check;
mod digest;
mod space;
mod upkeep;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::sessions::{Sight, Stamp, Timekeeper};
use raft_core::{
    Committed, Handle, Identity, Index, NodeId, ReadLevel as Barrier, Refusal, RequestError,
    RoleName, Status,
};

use tokio::sync::Semaphore;

use crate::api::{
    Answer, ErrorReply, Header, LeaderHint, Members, NodeStatus, Read, ReadLevel, Rejection, Reply,
    Request, Write,
};
use crate::command::{Command, Outcome};
use crate::digest::RevisionDigest;
use crate::error::KvError;
use crate::inspect::Inspection;
use crate::pool::Pool;
use crate::proposal::Proposal;
use crate::range::RangeRequest;
use crate::reader::{KvReader, RangeReply};

use self::check::{check, rejected, senseless, unreadable};
use self::space::Gauge;

pub use watch::Watch;

/// Answers clients in the name of one node. Cloning shares it.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle,
    reader: KvReader,
    identity: Identity,
    address: String,
    pool: Pool,
    /// What time it is, and since when that is counted on this machine.
    timekeeper: Mutex<Timekeeper>,
    started: Instant,
    /// The last barrier that was passed: when it was asked for, and what it covers.
    confirmed: Mutex<Option<(Instant, Index)>>,
    /// Makes hashes of the store, one at a time, and the last one it has made.
    digester: Pool,
    last_digest: Mutex<Option<(Instant, RevisionDigest)>>,
    gauge: Gauge,
    /// Watches that may still begin.
    watches: Arc<Semaphore>,
    /// Whether this node is of no use to watches: it has stopped, or heard of no leader for long.
    is_cut_off: tokio::sync::watch::Sender<bool>,
}

/// Where an answer goes.
type Answerer = Box<dyn FnOnce(Bytes) + Send>;

impl Service {
    /// Answers for the node behind `handle`, whose state machine `reader` reads. `address` is where
    /// clients find this node, until its membership says otherwise.
    ///
    /// # Errors
    ///
    /// [`KvError::Io`] if the threads for long reads cannot be started.
    pub fn new(
        handle: Handle,
        reader: KvReader,
        identity: Identity,
        address: impl Into<String>,
    ) -> Result<Self, KvError> {
        let pool = Pool::start("kv-read", READ_THREADS, READS_WAITING)?;
        let address = address.into();
        let sight = sight(&handle, &reader);
        let timekeeper = Mutex::new(Timekeeper::new(Duration::ZERO, sight));
        let started = Instant::now();
        let watches = reader.config().max_watches.min(Semaphore::MAX_PERMITS);
        let inner = Arc::new(Inner {
            handle,
            reader,
            identity,
            address,
            pool,
            timekeeper,
            started,
            confirmed: Mutex::default(),
            digester: Pool::start("kv-digest", 1, DIGESTS_WAITING)?,
            last_digest: Mutex::default(),
            gauge: Gauge::default(),
            watches: Arc::new(Semaphore::new(watches)),
            is_cut_off: tokio::sync::watch::Sender::new(false),
        });
        inner.look_at_space();
        let weak = Arc::downgrade(&inner);
        let clock = thread::Builder::new().name("kv-clock".to_owned());
        clock
            .spawn(move || keep_time(&weak))
            .map_err(KvError::io("starting a thread for the clock of", "the store"))?;
        Ok(Self { inner })
    }

    /// Takes one request, of any bytes. `reply` is called once, now or later, on some other thread;
    /// it must not block.
    pub fn call(&self, request: Bytes, reply: impl FnOnce(Bytes) + Send + 'static) {
        let inner = &self.inner;
        let request = match Request::decode(&request) {
            Ok(request) => request,
            Err(error) => {
                let message = format!("the request is not understood: {error}");
                let body = Err(rejected(Rejection::NotUnderstood, message));
                return reply(inner.reply(body).encode());
            }
        };
        if let Err(error) = check(&request, inner.reader.config()) {
            return reply(inner.reply(Err(error)).encode());
        }
        match request {
            Request::Write(write) => self.write(write, Box::new(reply)),
            Request::Range(read) => self.read(read, Box::new(reply)),
            Request::Inspect(what) => self.inspect(what, Box::new(reply)),
            Request::Digest { revision } => inner.clone().digest(revision, Box::new(reply)),
            Request::Status => reply(inner.reply(Ok(Answer::Status(inner.status()))).encode()),
            Request::Members => reply(inner.reply(Ok(Answer::Members(inner.members()))).encode()),
            Request::Watch(_) => {
                let message = "a watch has many replies, and here is room for one".to_owned();
                let body = Err(rejected(Rejection::NotUnderstood, message));
                reply(inner.reply(body).encode());
            }
        }
    }

    fn write(&self, write: Write, reply: Answerer) {
        let inner = self.inner.clone();
        let Write { session, command } = write;
        if let Err(error) = inner.has_space_for(&command) {
            return reply(inner.reply(Err(error)).encode());
        }
        let proposal = Proposal { stamp: inner.stamp(), session, command };
        self.inner.handle.propose(proposal.encode(), move |result| {
            let body = match result {
                Ok(committed) => inner.written(&committed),
                Err(error) => Err(inner.refused(error, Effect::Possible)),
            };
            reply(inner.reply(body).encode());
        });
    }

    fn inspect(&self, what: Inspection, reply: Answerer) {
        let inner = self.inner.clone();
        self.inner.handle.read_barrier(Barrier::Linearizable, move |result| match result {
            Ok(_) => {
                let job = inner.clone();
                inner.later(reply, move || {
                    let now = job.with_time(|keeper, now| keeper.time(now));
                    job.reader.inspect(what, now).map(Answer::Inspected).map_err(unreadable)
                });
            }
            Err(error) => {
                let error = inner.refused(error, Effect::Impossible);
                reply(inner.reply(Err(error)).encode());
            }
        });
    }

    fn read(&self, read: Read, reply: Answerer) {
        let Read { request, level, min_applied } = read;
        let inner = self.inner.clone();
        let barrier = match level {
            ReadLevel::Stale => return inner.find(request, min_applied, reply),
            ReadLevel::Within { entries, ms } => match inner.within(entries, ms) {
                Ok(Some(index)) => return inner.find(request, index.max(min_applied), reply),
                Ok(None) => Barrier::Linearizable,
                Err(error) => return reply(inner.reply(Err(error)).encode()),
            },
            ReadLevel::Linearizable | ReadLevel::Follower => Barrier::Linearizable,
            ReadLevel::Lease => Barrier::Lease,
        };
        let asked_at = Instant::now();
        self.inner.handle.read_barrier(barrier, move |result| match result {
            // What the client has seen was acknowledged, so the barrier covers it.
            Ok(index) => {
                inner.confirmed(asked_at, index);
                inner.find(request, index, reply);
            }
            Err(error) => {
                let error = inner.refused(error, Effect::Impossible);
                reply(inner.reply(Err(error)).encode());
            }
        });
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { identity, address, .. } = &*self.inner;
        f.debug_struct("Service")
            .field("identity", identity)
            .field("address", address)
            .finish_non_exhaustive()
    }
}

/// Whether a request may have had an effect that nobody has heard of.
#[derive(Clone, Copy)]
enum Effect {
    Possible,
    Impossible,
}

/// Lets time move on while there is anything that it can end, and watches over whether there is a leader.
/// Ends with the service or the node.
fn keep_time(service: &Weak<Inner>) {
    let mut led_at = Instant::now();
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(inner) = service.upgrade() else { return };
        if inner.handle.stopped().is_some() {
            inner.is_cut_off.send_replace(true);
            return;
        }
        inner.look_at_space();
        if inner.handle.status().leader.is_some() {
            led_at = Instant::now();
        }
        let is_cut_off = led_at.elapsed() >= CUT_OFF_AFTER;
        inner.is_cut_off.send_if_modified(|was| std::mem::replace(was, is_cut_off) != is_cut_off);
        if let Some(stamp) = inner.tick() {
            let tick = Proposal { stamp: Some(stamp), session: None, command: Command::Tick };
            // Whether it gets through is seen in the log; if not, the next one will.
            inner.handle.propose(tick.encode(), |_| {});
        }
    }
}

fn sight(handle: &Handle, reader: &KvReader) -> Sight {
    let status = handle.status();
    let leading = (status.role == RoleName::Leader).then_some(status.term);
    let (clock, is_idle) = reader.clock();
    Sight { clock, is_idle, leading }
}

impl Inner {
    /// What time it is, if this node leads.
    fn stamp(&self) -> Option<Stamp> {
        self.with_time(|keeper, now| keeper.stamp(now))
    }

    /// The same, if that should go into an entry of its own.
    fn tick(&self) -> Option<Stamp> {
        self.with_time(|keeper, now| if keeper.is_tick_due(now) { keeper.stamp(now) } else { None })
    }

    fn with_time<T>(&self, with: impl FnOnce(&mut Timekeeper, Duration) -> T) -> T {
        let mut keeper = lock(&self.timekeeper);
        let now = self.started.elapsed();
        keeper.observe(now, sight(&self.handle, &self.reader));
        with(&mut keeper, now)
    }

    /// What a read within these bounds has to see, if that is known. `None` if the leader has to be asked
    /// how far to go.
    fn within(&self, entries: Option<u64>, ms: Option<u32>) -> Result<Option<Index>, ErrorReply> {
        let applied = self.reader.applied().index;
        if entries.is_some_and(|most| self.handle.status().commit.since(applied) > most) {
            return Err(ErrorReply::Behind { applied });
        }
        let Some(ms) = ms else { return Ok(Some(Index::ZERO)) };
        // Whatever was acknowledged before that barrier was asked for, it covers.
        let confirmed = *lock(&self.confirmed);
        let is_recent =
            |(at, _): &(Instant, Index)| at.elapsed() <= Duration::from_millis(ms.into());
        Ok(confirmed.filter(is_recent).map(|(_, index)| index))
    }

    /// Takes note of a barrier that was passed.
    fn confirmed(&self, asked_at: Instant, index: Index) {
        let mut confirmed = lock(&self.confirmed);
        if confirmed.is_none_or(|(at, _)| at < asked_at) {
            *confirmed = Some((asked_at, index));
        }
    }

    /// Reads the store, which has to have applied `least`, and answers. At once if what is asked
    /// for is in memory; elsewhere if it might have to wait for the disk or take long.
    fn find(self: Arc<Self>, request: RangeRequest, least: Index, reply: Answerer) {
        match self.reader.range_cached(&request) {
            Ok(Some(found)) => reply(self.reply(fresh(found, least)).encode()),
            Ok(None) => {
                let inner = self.clone();
                self.later(reply, move || match inner.reader.range(&request) {
                    Ok(found) => fresh(found, least),
                    Err(error) => Err(unreadable(error)),
                });
            }
            Err(error) => reply(self.reply(Err(unreadable(error))).encode()),
        }
    }

    /// Answers with what `find` finds, which may have to wait for the disk or take long.
    fn later(
        self: &Arc<Self>,
        reply: Answerer,
        find: impl FnOnce() -> Result<Answer, ErrorReply> + Send + 'static,
    ) {
        let inner = self.clone();
        let job = move |reply: Answerer| reply(inner.reply(find()).encode());
        if let Err(reply) = self.pool.run(reply, job) {
            let message = "more reads wait than the node can hold".to_owned();
            let body = Err(ErrorReply::Busy { retry_after_ms: BUSY_MS, message });
            reply(self.reply(body).encode());
        }
    }

    fn reply(&self, body: Result<Answer, ErrorReply>) -> Reply {
        let (revision, applied) = match &body {
            Ok(Answer::Range(found)) => (found.revision, found.applied),
            Ok(_) | Err(_) => (self.reader.revision(), self.reader.applied().index),
        };
        let term = self.handle.status().term;
        Reply { header: Header { node: self.identity.node, term, applied, revision }, body }
    }

    fn written(&self, committed: &Committed) -> Result<Answer, ErrorReply> {
        match Outcome::decode(&committed.outcome) {
            Ok(Outcome::Refused(refused)) => Err(senseless(&refused)),
            Ok(outcome) => Ok(Answer::Written(outcome)),
            // It is done; only what became of it cannot be told.
            Err(error) => Err(ErrorReply::Unknown {
                message: format!("the outcome at {} is not understood: {error}", committed.id),
            }),
        }
    }

    fn refused(&self, error: RequestError, effect: Effect) -> ErrorReply {
        let message = error.to_string();
        let busy = |message| ErrorReply::Busy { retry_after_ms: BUSY_MS, message };
        match (error, effect) {
            (RequestError::Refused(refusal), _) => match refusal {
                Refusal::NotLeader { leader, term } => {
                    let leader = leader.and_then(|leader| self.hint(&self.handle.status(), leader));
                    ErrorReply::NotLeader { leader, term }
                }
                Refusal::Invalid(message) => rejected(Rejection::NotUnderstood, message),
                Refusal::LeasesOff => {
                    let message =
                        format!("{message}; read linearizably, or set a bound on every node");
                    rejected(Rejection::LeasesOff, message)
                }
                // All of these pass by themselves, and nothing was done.
                Refusal::Busy { .. }
                | Refusal::Transferring { .. }
                | Refusal::ChangePending { .. }
                | Refusal::NotReady
                | Refusal::MembershipMoved { .. }
                | Refusal::TimedOut
                | _ => busy(message),
            },
            (RequestError::Superseded, _) => ErrorReply::Superseded,
            (RequestError::TooLarge { .. }, _) => rejected(Rejection::ValueTooLarge, message),
            (RequestError::Busy, _) => busy(message),
            (RequestError::Stopped(_), Effect::Impossible) => ErrorReply::Unavailable { message },
            (RequestError::Unknown | RequestError::Stopped(_), Effect::Possible) => {
                ErrorReply::Unknown { message }
            }
            // A read has no effect that could be unknown.
            (RequestError::Unknown, Effect::Impossible) => busy(message),
            (_, Effect::Possible) => ErrorReply::Unknown { message },
            (_, Effect::Impossible) => ErrorReply::Unavailable { message },
        }
    }

    fn status(&self) -> NodeStatus {
        let status = self.handle.status();
        NodeStatus {
            cluster_id: self.identity.cluster,
            node_id: self.identity.node,
            address: self.address_of(&status, self.identity.node).unwrap_or_default(),
            role: status.role,
            term: status.term,
            leader_id: status.leader,
            last_index: status.last.index,
            commit_index: status.commit,
            applied_index: status.applied,
            revision: self.reader.revision(),
            condition: self.condition(),
        }
    }

    fn members(&self) -> Members {
        let status = self.handle.status();
        Members {
            cluster_id: self.identity.cluster,
            leader: status.leader.and_then(|leader| self.hint(&status, leader)),
            membership: status.membership,
            membership_at: status.membership_at.index,
        }
    }

    fn hint(&self, status: &Status, node: NodeId) -> Option<LeaderHint> {
        Some(LeaderHint { node, address: self.address_of(status, node)? })
    }

    /// Where a node is: what the membership says, or for this one what it was told.
    fn address_of(&self, status: &Status, node: NodeId) -> Option<String> {
        let listed = status.membership.peers.get(&node).map(|peer| peer.address.clone());
        listed.or_else(|| (node == self.identity.node).then(|| self.address.clone()))
    }
}

/// A panic elsewhere leaves these as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was found, unless it is from before `least` (rules R4, C8).
fn fresh(found: RangeReply, least: Index) -> Result<Answer, ErrorReply> {
    if found.applied < least {
        return Err(ErrorReply::Behind { applied: found.applied });
    }
    Ok(Answer::Range(found))
}

/// A node without a leader for so long tells its watches to go elsewhere: nothing will happen here.
const CUT_OFF_AFTER: Duration = Duration::from_secs(5);
/// How often it is looked whether time has to move on.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Threads for reads that may take long.
const READ_THREADS: usize = 2;
/// The most such reads that wait.
const READS_WAITING: usize = 1024;
/// The most hashes of the store that wait to be made.
const DIGESTS_WAITING: usize = 16;
/// When a client should come back that was sent away, in milliseconds.
const BUSY_MS: u32 = 20;
