//! Ring 1, the deciding half: feeds the protocol and carries its effects out.
//!
//! No clock and no thread: whoever runs it says when a tick has passed and does the [`Work`] that blocks.
//! The simulator runs this very code, and can crash it between "persisted" and "acknowledged".
//!
//! Here payloads and spans come together: the protocol says which entries a follower needs, the tail
//! cache or the log has them. And here requests are matched with their answers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::NodeOptions;
use super::cache::TailCache;
use super::compaction::Compaction;
use super::handle::{Committed, ReadLevel, RequestError};
use super::meter::{Meter, Metered};
use super::requests::{Applying, Request, Tickets, Waiter};
use super::workers::{ApplyEntries, ApplyWork, Done, FetchWork, Garbage, LogWork};
use crate::entry::Entry;
use crate::event::{Change, Effect, Event, Refusal, RoleName, Span, Status, Ticket};
use crate::log_store::Batch;
use crate::message::{Envelope, Message};
use crate::protocol::Raft;
use crate::snapshot::{SnapshotHeader, SnapshotMeta, SnapshotReader, SnapshotSource};
use crate::transport::{Arrival, Peers, Sent, SnapshotTicket, Transport};
use crate::types::{Index, LogId, NodeId, Term};

/// So many entries are read from the log for the state machine at a time, and one more.
const APPLY_ENTRIES: u64 = 4095;
/// So many pieces of work may wait for the state machine: one to do and one to follow at once.
const APPLY_AHEAD: usize = 2;

/// Something for the pump.
#[derive(Debug)]
pub(crate) enum Input {
    /// Time has passed.
    Tick,
    /// More time has passed than was counted.
    TicksSkipped,
    /// Something came over the network.
    Arrival(Arrival),
    /// A worker has done something.
    Done(Done),
    /// A client's command.
    Propose(Bytes, Waiter<Committed>),
    /// A client wants to read.
    ReadBarrier(ReadLevel, Waiter<Index>),
    /// An operator wants another membership.
    Change(Change, Waiter<LogId>),
    /// An operator wants another leader.
    Transfer(NodeId, Waiter<()>),
    /// An operator knows that the leader is dead.
    ForgetLeader(Waiter<()>),
    /// The application wants its state replaced.
    RequestSnapshot(Waiter<()>),
    /// The node is to stop; a leader may take so many ticks to hand over.
    Stop {
        /// At most so long.
        grace_ticks: u32,
    },
}

/// Something that blocks, for whoever runs the pump. Each kind is done in order.
#[derive(Debug)]
pub(crate) enum Work {
    /// For the log worker.
    Log(LogWork),
    /// For the worker that reads the log.
    Fetch(FetchWork),
    /// For the apply worker.
    Apply(ApplyWork),
    /// Role, term, leader or membership have changed: show this.
    Show(Box<Status>),
    /// Nothing more will be done: stop.
    Stop,
}

/// Feeds the protocol and carries its effects out.
pub(crate) struct Pump {
    raft: Raft,
    net: Box<dyn Transport>,
    cache: TailCache,
    append_bytes: usize,
    apply_bytes: usize,
    max_waiting: usize,
    election_ticks: u32,
    effects: Vec<Effect>,
    /// Events that came up while effects of an earlier one were carried out, and whether one is.
    events: VecDeque<Event>,
    stepping: bool,
    /// Proposals that arrived together, to be appended together.
    proposals: Vec<(Ticket, Bytes)>,

    tickets: Tickets,
    requests: BTreeMap<Ticket, Request>,
    /// Who waits for which entry to be applied. Not keyed by index alone: two leaders may have put
    /// different entries there, and this node may have been both.
    applying: BTreeMap<(Index, Term), Applying>,
    /// Ticks until those who still wait for entries of a lost leadership are told that nobody knows.
    lost_for: Option<u32>,
    /// Who waits for which index to be applied before reading.
    reading: BTreeMap<(Index, Ticket), Waiter<Index>>,

    /// The last entry handed to the apply worker, and the last it has applied.
    dispatched: Index,
    applied: Index,
    commit: Index,
    apply_in_flight: usize,
    restoring: bool,

    /// A snapshot that has arrived and on which the protocol has not decided.
    arrived: Option<Box<dyn SnapshotReader>>,
    /// Snapshots on their way to others: to whom, in the name of which term, and what each stands for.
    sending: BTreeMap<SnapshotTicket, (NodeId, Term, LogId)>,
    /// How far the last snapshot for each follower was read, and what it stands for.
    meters: BTreeMap<NodeId, (LogId, Meter)>,
    compaction: Compaction,
    stopping: Option<u32>,
}

impl Pump {
    /// Around a protocol that has come up, whose state machine has applied everything up to `applied`.
    pub(crate) fn new(
        raft: Raft,
        net: Box<dyn Transport>,
        applied: Index,
        options: &NodeOptions,
    ) -> Self {
        net.set_peers(&others(raft.peers(), options.raft.id));
        Self {
            commit: applied,
            dispatched: applied,
            applied,
            raft,
            net,
            cache: TailCache::new(options.cache_bytes),
            append_bytes: options.raft.append_bytes,
            apply_bytes: options.apply_bytes,
            max_waiting: options.max_waiting,
            election_ticks: options.raft.election_timeout.0,
            effects: Vec::new(),
            events: VecDeque::new(),
            stepping: false,
            proposals: Vec::new(),
            tickets: Tickets::default(),
            requests: BTreeMap::new(),
            applying: BTreeMap::new(),
            lost_for: None,
            reading: BTreeMap::new(),
            apply_in_flight: 0,
            restoring: false,
            arrived: None,
            sending: BTreeMap::new(),
            meters: BTreeMap::new(),
            compaction: Compaction::new(
                options.retain_entries,
                options.retain_bytes,
                options.compact_every,
            ),
            stopping: None,
        }
    }

    /// What the protocol shows, and how far snapshots have come.
    pub(crate) fn status(&self) -> Status {
        let mut status = self.raft.status();
        for follower in &mut status.followers {
            let Some(snapshot) = &mut follower.snapshot else { continue };
            if let Some((last, meter)) = self.meters.get(&follower.id)
                && snapshot.last == Some(*last)
            {
                (snapshot.bytes, snapshot.total_bytes) = (meter.read(), meter.total);
            }
        }
        status
    }

    /// The protocol inside, for whoever checks it from outside.
    #[cfg(feature = "testing")]
    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Takes everything that was waiting, in order. Proposals that follow one another are appended
    /// together: this is batching, and its measure is whatever has queued.
    pub(crate) fn run(&mut self, inputs: impl IntoIterator<Item = Input>, work: &mut Vec<Work>) {
        for input in inputs {
            if let Input::Propose(command, waiter) = input {
                self.on_propose(command, waiter);
                continue;
            }
            self.flush_proposals(work);
            self.on_input(input, work);
        }
        self.flush_proposals(work);
        self.dispatch_apply(work);
        self.cache.evict(self.raft.persisted());
    }

    fn on_input(&mut self, input: Input, work: &mut Vec<Work>) {
        match input {
            Input::Tick => self.on_tick(work),
            Input::TicksSkipped => self.step(Event::TicksSkipped, work),
            Input::Arrival(arrival) => self.on_arrival(arrival, work),
            Input::Done(done) => self.on_done(done, work),
            Input::Propose(command, waiter) => self.on_propose(command, waiter),
            Input::ReadBarrier(ReadLevel::Stale, waiter) => waiter.answer(Ok(self.applied)),
            Input::ReadBarrier(ReadLevel::Linearizable, waiter) => {
                let ticket = self.remember(Request::Read(waiter));
                self.step(Event::ReadRequested(ticket), work);
            }
            Input::ReadBarrier(ReadLevel::Lease, waiter) => {
                let ticket = self.remember(Request::Read(waiter));
                self.step(Event::LeaseReadRequested(ticket), work);
            }
            Input::Change(change, waiter) => {
                let ticket = self.remember(Request::Change(waiter));
                self.step(Event::ChangeRequested(ticket, change), work);
            }
            Input::Transfer(to, waiter) => {
                let ticket = self.remember(Request::Act(waiter));
                self.step(Event::TransferRequested(ticket, to), work);
            }
            Input::ForgetLeader(waiter) => {
                let ticket = self.remember(Request::Act(waiter));
                self.step(Event::ForgetRequested(ticket), work);
            }
            Input::RequestSnapshot(waiter) => {
                let ticket = self.remember(Request::Act(waiter));
                self.step(Event::SnapshotRequested(ticket), work);
            }
            Input::Stop { grace_ticks } => self.on_stop(grace_ticks, work),
        }
    }

    fn on_tick(&mut self, work: &mut Vec<Work>) {
        self.step(Event::Tick, work);
        if let Some(left) = &mut self.lost_for {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.lost_for = None;
                self.give_up_lost();
            }
        }
        if let Some(ticks) = &mut self.stopping {
            *ticks = ticks.saturating_sub(1);
            if *ticks == 0 {
                work.push(Work::Stop);
            }
        }
        let base = self.raft.base().index;
        if self.compaction.is_due(base, self.applied) {
            work.push(Work::Apply(ApplyWork::Flush));
        }
    }

    fn on_arrival(&mut self, arrival: Arrival, work: &mut Vec<Work>) {
        match arrival {
            Arrival::Messages(envelopes) => {
                for envelope in envelopes {
                    // Snapshots come with their files or not at all.
                    if !matches!(envelope.message, Message::Snapshot(_)) {
                        self.step(Event::Received(envelope), work);
                    }
                }
            }
            Arrival::Snapshot(header, reader) => {
                let SnapshotHeader { from, to, term, meta } = header;
                if *reader.meta() != meta {
                    // It is not what its sender says it is: neither may be believed.
                    tracing::warn!(%from, said = %meta.last, "a snapshot is another than announced");
                    return work.push(discard(Garbage::Reader(reader)));
                }
                self.arrived = Some(reader);
                let message = Message::Snapshot(Box::new(meta));
                self.step(Event::Received(Envelope { from, to, term, message }), work);
                // Nobody wanted it.
                work.extend(self.arrived.take().map(|reader| discard(Garbage::Reader(reader))));
            }
            Arrival::SnapshotSent(to, ticket, outcome) => {
                if let Some((_, term, last)) = self.sending.remove(&ticket) {
                    self.step(Event::SnapshotSent { to, term, last, outcome }, work);
                }
            }
            Arrival::Met(peer, incarnation) => self.step(Event::Met(peer, incarnation), work),
            Arrival::Unreachable(peer) => self.step(Event::Unreachable(peer), work),
        }
    }

    fn on_done(&mut self, done: Done, work: &mut Vec<Work>) {
        match done {
            Done::Persisted(seq) => self.step(Event::Persisted { seq }, work),
            Done::Compacted(base) => {
                self.compaction.finished(base.last.index);
                self.step(Event::Compacted(Box::new(base)), work);
            }
            Done::Fetched(span, entries) => self.on_fetched(span, entries, work),
            Done::Applied(through) => {
                self.apply_in_flight -= 1;
                self.on_applied(through);
                self.step(Event::Applied { through }, work);
            }
            Done::Flushed(durable) => self.on_flushed(durable, work),
            Done::SnapshotTaken(to, term, source) => self.on_snapshot_taken(to, term, source, work),
            Done::Discarded => {}
            Done::Restored(meta) => {
                self.restoring = false;
                let through = meta.last.index;
                // Whoever waited for entries inside the snapshot cannot be told their outcome.
                for (_, waiter) in self.take_applying(through) {
                    waiter.fail(RequestError::Unknown);
                }
                self.commit = self.commit.max(through);
                if !mutant!(raft_mutant = "applies_what_a_snapshot_holds") {
                    self.dispatched = through;
                }
                self.step(Event::SnapshotInstalled(Box::new(meta)), work);
                self.on_applied(through);
            }
        }
    }

    // Requests.

    fn remember(&mut self, request: Request) -> Ticket {
        let ticket = self.tickets.next();
        self.requests.insert(ticket, request);
        ticket
    }

    fn on_propose(&mut self, command: Bytes, waiter: Waiter<Committed>) {
        if self.applying.len() + self.proposals.len() >= self.max_waiting {
            // The state machine does not keep up. What waits has a bound, and nobody is left hanging.
            return waiter.answer(Err(RequestError::Busy));
        }
        let ticket = self.remember(Request::Propose(waiter));
        self.proposals.push((ticket, command));
    }

    fn flush_proposals(&mut self, work: &mut Vec<Work>) {
        if !self.proposals.is_empty() {
            let proposals = std::mem::take(&mut self.proposals);
            self.step(Event::Proposed(proposals), work);
        }
    }

    fn on_appended(&mut self, ticket: Ticket, id: LogId) {
        let waiter = match self.requests.remove(&ticket) {
            Some(Request::Propose(waiter)) => Applying::Command(waiter),
            Some(Request::Change(waiter)) => Applying::Membership(waiter),
            Some(Request::Read(_) | Request::Act(_) | Request::HandOver) | None => return,
        };
        self.applying.insert((id.index, id.term), waiter);
    }

    fn on_read_ready(&mut self, ticket: Ticket, index: Index) {
        let Some(Request::Read(waiter)) = self.requests.remove(&ticket) else { return };
        if index <= self.applied || mutant!(raft_mutant = "reads_before_applied") {
            waiter.answer(Ok(index));
        } else if self.reading.len() >= self.max_waiting {
            waiter.answer(Err(RequestError::Busy)); // The state machine does not keep up.
        } else {
            let number = self.tickets.next();
            self.reading.insert((index, number), waiter); // Rule R4.
        }
    }

    fn on_refused(&mut self, ticket: Ticket, why: Refusal, work: &mut Vec<Work>) {
        let why = RequestError::Refused(why);
        match self.requests.remove(&ticket) {
            Some(Request::Propose(waiter)) => waiter.answer(Err(why)),
            Some(Request::Change(waiter)) => waiter.answer(Err(why)),
            Some(Request::Read(waiter)) => waiter.answer(Err(why)),
            Some(Request::Act(waiter)) => waiter.answer(Err(why)),
            // Somebody had asked for another hand-over before: that one will do.
            Some(Request::HandOver)
                if matches!(why, RequestError::Refused(Refusal::Transferring { .. })) => {}
            Some(Request::HandOver) => work.push(Work::Stop), // Nobody took over in time.
            None => {}
        }
    }

    fn on_act_done(&mut self, ticket: Ticket, work: &mut Vec<Work>) {
        match self.requests.remove(&ticket) {
            Some(Request::Act(waiter)) => waiter.answer(Ok(())),
            Some(Request::HandOver) => work.push(Work::Stop),
            Some(Request::Propose(_) | Request::Change(_) | Request::Read(_)) | None => {}
        }
    }

    /// Stops; but a leader first hands over to the voter that has most, so that nobody has to wait for
    /// an election timeout.
    fn on_stop(&mut self, grace_ticks: u32, work: &mut Vec<Work>) {
        let status = self.raft.status();
        let best = status
            .followers
            .iter()
            .filter(|follower| follower.active && status.membership.is_voter(follower.id))
            .max_by_key(|follower| follower.matched);
        match best {
            Some(best) if status.role == RoleName::Leader && grace_ticks > 0 => {
                self.stopping = Some(grace_ticks);
                let ticket = self.remember(Request::HandOver);
                self.step(Event::TransferRequested(ticket, best.id), work);
            }
            Some(_) | None => work.push(Work::Stop),
        }
    }

    // The protocol and its effects.

    /// Feeds the protocol and carries out what it answers. Carrying something out may bring up another
    /// event; that one waits its turn, so that a long window is not a deep stack.
    fn step(&mut self, event: Event, work: &mut Vec<Work>) {
        self.events.push_back(event);
        if std::mem::replace(&mut self.stepping, true) {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        while let Some(event) = self.events.pop_front() {
            self.raft.step(event, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(effect, work);
            }
        }
        self.effects = effects;
        self.stepping = false;
    }

    fn carry_out(&mut self, effect: Effect, work: &mut Vec<Work>) {
        match effect {
            Effect::Persist(batch) => self.persist(batch, work),
            Effect::Send(envelope) => {
                // A message that finds no room is lost, as on any network.
                let _ = self.net.send(envelope);
            }
            Effect::Replicate(span) => self.replicate(span, work),
            Effect::SendSnapshot { to, term } => {
                work.push(Work::Apply(ApplyWork::Snapshot { to, term }));
            }
            Effect::InstallSnapshot(meta) => {
                if let Some(reader) = self.arrived.take() {
                    self.restoring = true;
                    work.push(Work::Apply(ApplyWork::Restore(*meta, reader)));
                }
            }
            Effect::DropSnapshot(_) => {
                work.extend(self.arrived.take().map(|reader| discard(Garbage::Reader(reader))));
            }
            Effect::Apply { through } => self.commit = self.commit.max(through),
            Effect::Appended { ticket, id } => self.on_appended(ticket, id),
            Effect::ReadReady { ticket, index } => self.on_read_ready(ticket, index),
            Effect::Done(ticket) => self.on_act_done(ticket, work),
            Effect::Refuse { ticket, why } => self.on_refused(ticket, why, work),
            Effect::MembershipChanged(_)
            | Effect::MembershipCommitted(_)
            | Effect::PeerDismissed(_) => {
                let status = self.raft.status();
                self.net.set_peers(&others(self.raft.peers(), status.id));
                work.push(Work::Show(Box::new(status)));
            }
            Effect::Removed { at } => {
                tracing::warn!(%at, "this node was removed from the cluster");
                work.push(Work::Show(Box::new(self.raft.status())));
            }
            Effect::RoleChanged(status) => {
                // Another leader may commit what we proposed, or overwrite it. Give it some time.
                let led = self.leading_term();
                if self.lost_for.is_none() && self.applying.keys().any(|key| Some(key.1) != led) {
                    self.lost_for = Some(3 * self.election_ticks);
                }
                if self.stopping.is_some() && status.role != RoleName::Leader {
                    work.push(Work::Stop); // Somebody has taken over, whoever asked for it.
                }
                work.push(Work::Show(status));
            }
        }
    }

    fn persist(&mut self, batch: Batch, work: &mut Vec<Work>) {
        self.cache.follow(&batch);
        self.compaction.follow(&batch);
        work.push(Work::Log(LogWork::Persist(batch)));
    }

    // Replication: spans become messages.

    fn replicate(&mut self, span: Span, work: &mut Vec<Work>) {
        let first = span.prev.index.next();
        match self.cache.read(first, span.through, self.append_bytes) {
            Some((entries, bytes)) => self.send_append(span, entries, bytes, work),
            None => {
                let max_bytes = self.append_bytes;
                work.push(Work::Fetch(FetchWork { span, max_bytes }));
            }
        }
    }

    /// Entries for a span were read from the log. Since then a new leader may have overwritten them,
    /// or we may lead no more: what no longer fits is not sent.
    fn on_fetched(&mut self, span: Span, mut entries: Vec<Entry>, work: &mut Vec<Work>) {
        let mut expected = span.prev.index;
        let fits = |entry: &Entry| {
            expected = expected.next();
            entry.id.index == expected
                && expected <= span.through
                && self.raft.term_at(expected) == Some(entry.id.term)
        };
        let good = entries.iter().map(fits).take_while(|fits| *fits).count();
        entries.truncate(good);
        if !self.raft.is_current(&span) {
            entries.clear();
        }
        let bytes = entries.iter().map(|entry| entry.payload.len_bytes()).sum();
        self.send_append(span, entries, bytes, work);
    }

    fn send_append(&mut self, span: Span, entries: Vec<Entry>, bytes: usize, work: &mut Vec<Work>) {
        let through = entries.last().map_or(span.prev.index, |entry| entry.id.index);
        let mut sent = Sent::Queued;
        if !entries.is_empty() {
            let Span { to, term, prev, commit, .. } = span;
            let message = Message::Append { prev, entries, commit };
            let from = self.raft.id();
            sent = self.net.send(Envelope { from, to, term, message });
        }
        self.step(Event::Replicated { span, through, bytes, sent }, work);
    }

    // The state machine.

    /// Hands over what is committed, a bounded piece at a time. While a piece is being applied the next
    /// grows: this is how apply batches.
    fn dispatch_apply(&mut self, work: &mut Vec<Work>) {
        while self.apply_in_flight < APPLY_AHEAD && self.dispatched < self.commit && !self.restoring
        {
            let first = self.dispatched.next();
            let (entries, through) = match self.cache.read(first, self.commit, self.apply_bytes) {
                Some((entries, _)) => {
                    let through = entries.last().map_or(first, |entry| entry.id.index);
                    (Some(entries), through)
                }
                // Whatever is not in the cache is durable. Read up to where the cache begins.
                None => {
                    let cached = self.cache.first().filter(|cached| *cached > first);
                    let durable = cached.map_or_else(|| self.raft.persisted(), Index::prev);
                    (None, durable.min(self.commit).min(first.plus(APPLY_ENTRIES)))
                }
            };
            invariant!(through >= first, "committed entry {first} is neither cached nor durable");
            let waiting = self.take_applying(through);
            self.dispatched = through;
            self.apply_in_flight += 1;
            let entries = ApplyEntries { first, through, entries, waiting };
            work.push(Work::Apply(ApplyWork::Apply(entries)));
        }
    }

    /// Who waits for entries up to `through`, in order of their indices.
    fn take_applying(&mut self, through: Index) -> Vec<(LogId, Applying)> {
        let mut waiting = Vec::new();
        while let Some(entry) = self.applying.first_entry() {
            let (index, term) = *entry.key();
            if index > through {
                break;
            }
            waiting.push((LogId::new(term, index), entry.remove()));
        }
        waiting
    }

    /// The term this node leads.
    fn leading_term(&self) -> Option<Term> {
        (self.raft.leader() == Some(self.raft.id())).then(|| self.raft.term())
    }

    /// Nobody knows what became of proposals of a leadership that was lost some time ago (rule C4).
    fn give_up_lost(&mut self) {
        let led = self.leading_term();
        let (kept, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.applying).into_iter().partition(|(key, _)| Some(key.1) == led);
        self.applying = kept;
        for (_, waiter) in lost {
            if mutant!(raft_mutant = "unknown_is_called_void") {
                waiter.fail(RequestError::Superseded);
                continue;
            }
            waiter.fail(RequestError::Unknown);
        }
    }

    fn on_applied(&mut self, through: Index) {
        self.applied = self.applied.max(through);
        while let Some(entry) = self.reading.first_entry() {
            let (index, _) = *entry.key();
            if index > self.applied {
                break;
            }
            entry.remove().answer(Ok(index));
        }
    }

    // Snapshots and compaction.

    fn on_snapshot_taken(
        &mut self,
        to: NodeId,
        term: Term,
        source: Box<dyn SnapshotSource>,
        work: &mut Vec<Work>,
    ) {
        let last = source.meta().last;
        if !self.raft.awaits_snapshot(to, term, last) {
            work.push(discard(Garbage::Source(source)));
            return self.step(Event::SnapshotTaken { to, term, last }, work);
        }
        let (membership_at, membership) = self.raft.membership_at(last.index).clone();
        let meta = SnapshotMeta { last, membership, membership_at };
        let from = self.raft.id();
        let header = SnapshotHeader { from, to, term, meta };
        let (source, meter) = Metered::new(source);
        let ticket = self.net.send_snapshot(header, Box::new(source));
        self.meters.retain(|id, _| self.raft.awaits_delivery(*id));
        self.meters.insert(to, (last, meter));
        self.sending.insert(ticket, (to, term, last));
        self.step(Event::SnapshotTaken { to, term, last }, work);
    }

    /// The log may be cut up to what the state machine holds durably, less what followers may need.
    fn on_flushed(&mut self, durable: Index, work: &mut Vec<Work>) {
        // Also what is on its way in the name of an earlier term: it will still be installed.
        let pinned = self.sending.values().map(|(_, _, last)| last.index);
        let pinned = pinned.chain(self.raft.pinned()).min();
        let followers = self.raft.status().followers;
        let slowest = followers.iter().filter(|follower| follower.active).map(|f| f.matched).min();
        let mut safe = durable.min(self.applied);
        if mutant!(raft_mutant = "compacts_what_is_not_durable") {
            safe = self.applied;
        }
        let through = self.compaction.target(safe, pinned, slowest);
        match self.raft.meta_at(through) {
            Some(meta) if through > self.raft.base().index => {
                work.push(Work::Log(LogWork::Compact(meta)));
            }
            Some(_) | None => self.compaction.finished(self.raft.base().index),
        }
    }
}

/// Dropping a snapshot removes files, which takes time: not the pump's.
fn discard(garbage: Garbage) -> Work {
    Work::Apply(ApplyWork::Discard(garbage))
}

/// Everybody in `peers` but `me`.
fn others(mut peers: Peers, me: NodeId) -> Peers {
    peers.remove(&me);
    peers
}
