//! The replicas of a script: feeds them events and carries their effects out, as ring 1 does, writing
//! down everything that happens.
//!
//! Whatever may take time in a real node can be put off (`persist=manual` and the like), so that a
//! script decides when the disk, the state machine or a late read is done, or that it never is.

use std::collections::{BTreeMap, VecDeque};

use raft_core::{
    Change, Config, Effect, Entry, Envelope, Event, Index, LogId, Message, NodeId, Refusal,
    RoleName, Sent, SnapshotMeta, SnapshotOutcome, Span, Term, Ticket,
};

use crate::checks::Checks;
use crate::disk::Disk;
use crate::network::{Filter, Flight, Network};
use crate::replica::Replica;
use crate::text;
use crate::text::Error;

#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) replicas: BTreeMap<NodeId, Replica>,
    pub(crate) network: Network,
    checks: Checks,
    tickets: u64,
    /// What has happened since the command began.
    trace: String,
}

impl Cluster {
    pub(crate) fn add(&mut self, config: Config, disk: Disk, applied: Index) {
        let replica = Replica::new(config, disk, applied);
        for entry in &replica.machine {
            self.checks.applies(replica.id(), entry);
        }
        self.replicas.insert(replica.id(), replica);
    }

    pub(crate) fn replica(&mut self, id: NodeId) -> Result<&mut Replica, Error> {
        self.replicas.get_mut(&id).ok_or_else(|| format!("there is no {id:?}").into())
    }

    fn running(&self, id: NodeId) -> Result<&raft_core::Raft, Error> {
        let replica = self.replicas.get(&id).ok_or_else(|| format!("there is no {id:?}"))?;
        replica.raft.as_ref().ok_or_else(|| format!("{id:?} is down").into())
    }

    pub(crate) fn role(&self, id: NodeId) -> Result<RoleName, Error> {
        Ok(self.running(id)?.status().role)
    }

    pub(crate) fn term(&self, id: NodeId) -> Result<Term, Error> {
        Ok(self.running(id)?.term())
    }

    /// As [`Cluster::step`], but nothing is written down and everything that is sent is lost.
    pub(crate) fn step_in_silence(&mut self, id: NodeId, event: Event) -> Result<(), Error> {
        let (trace, flights) = (self.trace.len(), self.network.flights.len());
        self.step(id, event)?;
        self.trace.truncate(trace);
        self.network.flights.truncate(flights);
        Ok(())
    }

    /// Those that are up.
    pub(crate) fn up(&self) -> Vec<NodeId> {
        let up = self.replicas.values().filter(|replica| replica.raft.is_some());
        up.map(Replica::id).collect()
    }

    pub(crate) fn note(&mut self, line: &str) {
        self.trace.push_str(line);
        self.trace.push('\n');
    }

    /// Ends a command: what happened, and who is in another state than before.
    pub(crate) fn finish(&mut self) -> String {
        let logs = self.replicas.iter().map(|(&id, replica)| (id, &replica.memory)).collect();
        Checks::logs_match(&logs);
        let mut text = std::mem::take(&mut self.trace);
        for replica in self.replicas.values_mut() {
            if let Some(state) = replica.changed_state() {
                text.push_str(&state);
                text.push('\n');
            }
        }
        text
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    // Events.

    /// Feeds `event` to `id`, and everything that follows from it at once.
    pub(crate) fn step(&mut self, id: NodeId, event: Event) -> Result<(), Error> {
        self.running(id)?;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            let replica = self.replica(id)?;
            let Some(raft) = &mut replica.raft else { break };
            raft.step(event, &mut effects);
            for effect in effects {
                self.carry_out(id, effect, &mut events)?;
            }
        }
        Ok(())
    }

    /// Something is received, whoever may have said it.
    pub(crate) fn receive(&mut self, envelope: Envelope) -> Result<(), Error> {
        let Envelope { from, to, term, message } = &envelope;
        let line = format!("{to:?} <- {from:?}@{term} {}", text::show_message(message));
        self.note(&line);
        let to = *to;
        self.step(to, Event::Received(envelope))?;
        self.replica(to)?.arrived = None;
        Ok(())
    }

    pub(crate) fn propose(&mut self, id: NodeId, commands: &[Vec<u8>]) -> Result<(), Error> {
        let mut proposals = Vec::new();
        for command in commands {
            let ticket = self.ticket();
            let shown = text::show_command(command);
            self.note(&format!("{id:?} is asked to replicate {shown} (#{})", ticket.0));
            proposals.push((ticket, command.clone().into()));
        }
        self.step(id, Event::Proposed(proposals))
    }

    pub(crate) fn read(&mut self, id: NodeId) -> Result<(), Error> {
        let ticket = self.ticket();
        self.note(&format!("{id:?} is asked to read (#{})", ticket.0));
        self.step(id, Event::ReadRequested(ticket))
    }

    pub(crate) fn lease_read(&mut self, id: NodeId) -> Result<(), Error> {
        let ticket = self.ticket();
        self.note(&format!("{id:?} is asked to read by its lease (#{})", ticket.0));
        self.step(id, Event::LeaseReadRequested(ticket))
    }

    pub(crate) fn forget(&mut self, id: NodeId) -> Result<(), Error> {
        let ticket = self.ticket();
        self.note(&format!("{id:?} is asked to forget its leader (#{})", ticket.0));
        self.step(id, Event::ForgetRequested(ticket))
    }

    pub(crate) fn repair(&mut self, id: NodeId) -> Result<(), Error> {
        let ticket = self.ticket();
        self.note(&format!("{id:?} is asked to replace its damaged state (#{})", ticket.0));
        self.step(id, Event::SnapshotRequested(ticket))
    }

    pub(crate) fn change(&mut self, id: NodeId, change: Change) -> Result<(), Error> {
        let ticket = self.ticket();
        self.note(&format!("{id:?} is asked to change the membership (#{})", ticket.0));
        self.step(id, Event::ChangeRequested(ticket, change))
    }

    pub(crate) fn transfer(&mut self, id: NodeId, to: NodeId) -> Result<(), Error> {
        let ticket = self.ticket();
        self.note(&format!("{id:?} is asked to hand leadership to {to:?} (#{})", ticket.0));
        self.step(id, Event::TransferRequested(ticket, to))
    }

    /// The disk of `id` has written the first `count` batches that wait.
    pub(crate) fn persisted(&mut self, id: NodeId, count: usize) -> Result<(), Error> {
        match self.replica(id)?.write(count) {
            Some(seq) => {
                self.note(&format!("{id:?} has write #{seq} on disk"));
                self.step(id, Event::Persisted { seq })
            }
            None => Err(format!("{id:?} is not writing anything").into()),
        }
    }

    /// The state machine of `id` has applied what it was asked to, at most up to `through`.
    pub(crate) fn applied(&mut self, id: NodeId, through: Index) -> Result<(), Error> {
        let through = through.min(self.replica(id)?.committed);
        self.apply(id, through)?;
        self.step(id, Event::Applied { through })?;
        self.serve_reads(id)
    }

    /// The log of `id` is cut.
    pub(crate) fn compact(&mut self, id: NodeId, through: Index) -> Result<(), Error> {
        let meta = self.running(id)?.meta_at(through);
        let meta = meta.ok_or_else(|| format!("{id:?} does not have {through}"))?;
        self.note(&format!("{id:?} forgets its log through {}", meta.last));
        let replica = self.replica(id)?;
        if !replica.writing.is_empty() {
            return Err(format!("{id:?} is still writing; compaction goes through the disk").into());
        }
        replica.disk.compact(&meta);
        replica.memory.compact(&meta);
        self.step(id, Event::Compacted(Box::new(meta)))
    }

    /// The state machine of `id` has installed the snapshot it was given.
    pub(crate) fn installed(&mut self, id: NodeId) -> Result<(), Error> {
        let meta = self.install(id)?;
        self.step(id, Event::SnapshotInstalled(Box::new(meta)))
    }

    /// Spans that waited are turned into appends now.
    pub(crate) fn replicate(&mut self, id: NodeId, to: Option<NodeId>) -> Result<(), Error> {
        let replica = self.replica(id)?;
        let (now, later) =
            replica.spans.drain(..).partition(|span| to.is_none_or(|to| to == span.to));
        replica.spans = later;
        let now: VecDeque<Span> = now;
        for span in now {
            let event = self.send_append(id, span)?;
            self.step(id, event)?;
        }
        Ok(())
    }

    // The network.

    /// Delivers, in order, what fits and was under way when the command began.
    pub(crate) fn deliver(&mut self, filter: &Filter) -> Result<usize, Error> {
        let flights = self.network.take(filter);
        let count = flights.len();
        for Flight { envelope, snapshot } in flights {
            let to = envelope.to;
            if self.running(to).is_err() {
                self.lose(&envelope, "it is down")?;
                continue;
            }
            let Envelope { from, message, .. } = &envelope;
            let sent = snapshot_meta(message).map(|meta| (*from, envelope.term, meta.last));
            self.replica(to)?.arrived = snapshot;
            self.receive(envelope)?;
            if let Some((from, term, last)) = sent {
                self.snapshot_sent(from, to, term, last, SnapshotOutcome::Delivered)?;
            }
        }
        Ok(count)
    }

    /// Delivers until nothing is under way.
    pub(crate) fn stabilize(&mut self) -> Result<(), Error> {
        for _ in 0..1000 {
            if self.deliver(&Filter { count: Some(1), ..Filter::default() })? == 0 {
                return Ok(());
            }
        }
        Err("messages go back and forth without end".into())
    }

    pub(crate) fn drop(&mut self, filter: &Filter) -> Result<usize, Error> {
        let flights = self.network.take(filter);
        for flight in &flights {
            self.lose(&flight.envelope, "dropped")?;
        }
        Ok(flights.len())
    }

    /// What fits will arrive once more, after everything else.
    pub(crate) fn duplicate(&mut self, filter: &Filter) -> usize {
        let flights = self.network.take(filter);
        for flight in &flights {
            let Envelope { from, to, term, message } = &flight.envelope;
            let message = text::show_message(message);
            self.trace.push_str(&format!("{from:?}@{term} -> {to:?} {message} (twice)\n"));
        }
        self.network.flights.extend(flights.iter().flat_map(|flight| [flight, flight]).cloned());
        flights.len()
    }

    fn lose(&mut self, envelope: &Envelope, why: &str) -> Result<(), Error> {
        let Envelope { from, to, term, message } = envelope;
        let text = text::show_message(message);
        self.note(&format!("  {from:?}@{term} -> {to:?} ~~{text}~~ {why}"));
        // Only the loss of a snapshot is noticed: the transfer has a connection of its own.
        match snapshot_meta(message) {
            Some(meta) => self.snapshot_sent(*from, *to, *term, meta.last, SnapshotOutcome::Failed),
            None => Ok(()),
        }
    }

    fn snapshot_sent(
        &mut self,
        from: NodeId,
        to: NodeId,
        term: Term,
        last: LogId,
        outcome: SnapshotOutcome,
    ) -> Result<(), Error> {
        if self.running(from).is_err() {
            return Ok(());
        }
        let what = match outcome {
            SnapshotOutcome::Delivered => "has reached",
            SnapshotOutcome::Failed => "did not reach",
        };
        self.note(&format!("{from:?} learns that its snapshot {last} {what} {to:?}"));
        self.step(from, Event::SnapshotSent { to, term, last, outcome })
    }

    // Effects.

    fn carry_out(
        &mut self,
        id: NodeId,
        effect: Effect,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Error> {
        let term = self.running(id)?.term();
        let me = format!("  {id:?}@{term}");
        match effect {
            Effect::Persist(batch) => {
                self.note(&format!("{me} writes {}", show_batch(&batch)));
                let replica = self.replica(id)?;
                let manual = replica.manual.persist;
                replica.memory.write(&batch);
                replica.writing.push_back(batch);
                if !manual && let Some(seq) = replica.write(usize::MAX) {
                    events.push_back(Event::Persisted { seq });
                }
            }
            Effect::Send(envelope) => self.send(envelope, None)?,
            Effect::Replicate(span) if self.replica(id)?.manual.replicate => {
                let Span { to, prev, through, .. } = span;
                self.note(&format!("{me} wants to send {to:?} what follows {prev} to {through}"));
                self.replica(id)?.spans.push_back(span);
            }
            Effect::Replicate(span) => {
                let event = self.send_append(id, span)?;
                events.push_back(event);
            }
            Effect::SendSnapshot { to, term } => {
                let last = self.send_snapshot(id, to, term)?;
                events.push_back(Event::SnapshotTaken { to, term, last });
            }
            Effect::PeerDismissed(peer) => {
                self.note(&format!("{me} parts with {peer:?}"));
            }
            Effect::Removed { at } => {
                self.note(&format!("{me} knows that it was removed by {at}"));
            }
            Effect::InstallSnapshot(meta) => {
                self.note(&format!("{me} installs the snapshot {}", meta.last));
                let replica = self.replica(id)?;
                let manual = replica.manual.install;
                let machine = replica.arrived.take().unwrap_or_default();
                replica.installing = Some((*meta, machine));
                if !manual {
                    let meta = self.install(id)?;
                    events.push_back(Event::SnapshotInstalled(Box::new(meta)));
                }
            }
            Effect::DropSnapshot(meta) => {
                self.note(&format!("{me} has no use for the snapshot {}", meta.last));
            }
            Effect::Apply { through } => {
                let replica = self.replica(id)?;
                replica.committed = replica.committed.max(through);
                if replica.manual.apply {
                    self.note(&format!("{me} may apply through {through}"));
                } else {
                    self.apply(id, through)?;
                    events.push_back(Event::Applied { through });
                    self.serve_reads(id)?;
                }
            }
            Effect::Appended { ticket, id: entry } => {
                self.note(&format!("{me} appends #{} as {entry}", ticket.0));
                self.replica(id)?.applying.insert((entry.index, entry.term), ticket);
            }
            Effect::ReadReady { ticket, index } => {
                self.note(&format!("{me} may serve read #{} once {index} is applied", ticket.0));
                self.replica(id)?.reading.entry(index).or_default().push(ticket);
                self.serve_reads(id)?;
            }
            Effect::Done(ticket) => self.note(&format!("{me} is done with #{}", ticket.0)),
            Effect::Refuse { ticket, why } => {
                let mut hint = String::new();
                if let Refusal::NotLeader { leader: Some(leader), .. } = &why {
                    hint = format!(", {leader:?} does");
                }
                self.note(&format!("{me} refuses #{}: {why}{hint}", ticket.0));
            }
            Effect::MembershipChanged(membership) => {
                self.note(&format!("{me} now uses {}", text::show_membership(&membership)));
            }
            Effect::MembershipCommitted(membership) => {
                let membership = text::show_membership(&membership);
                self.note(&format!("{me} knows to be committed {membership}"));
            }
            Effect::RoleChanged(status) => {
                if status.role == RoleName::Leader {
                    let log = &self.replicas[&id].memory;
                    self.checks.leads(id, status.term, log);
                }
                let role = match (status.role, status.leader) {
                    (RoleName::Leader, _) => "leads".to_owned(),
                    (RoleName::Candidate, _) => "campaigns".to_owned(),
                    (RoleName::PreCandidate, _) => "asks whether to campaign".to_owned(),
                    (RoleName::Follower | RoleName::Learner, None) => "follows nobody".to_owned(),
                    (RoleName::Follower | RoleName::Learner, Some(l)) => format!("follows {l:?}"),
                };
                self.note(&format!("  {id:?}@{} {role}", status.term));
            }
        }
        Ok(())
    }

    fn send(&mut self, envelope: Envelope, snapshot: Option<Vec<Entry>>) -> Result<(), Error> {
        let Envelope { from, to, term, message } = &envelope;
        if let Some(sender) = self.replicas.get(from) {
            Checks::sends(&envelope, &sender.disk);
        }
        if self.network.is_cut(*from, *to) {
            return self.lose(&envelope, "cut off");
        }
        let line = format!("  {from:?}@{term} -> {to:?} {}", text::show_message(message));
        self.note(&line);
        self.network.flights.push(Flight { envelope, snapshot });
        Ok(())
    }

    /// Fills a span with entries, as much as one message may hold, and says what became of it.
    fn send_append(&mut self, id: NodeId, span: Span) -> Result<Event, Error> {
        let Span { to, term, prev, through, commit } = span;
        let current = self.running(id)?.is_current(&span);
        let replica = self.replica(id)?;
        let limit = replica.config.append_bytes;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut next = prev.index.next();
        while let Some(entry) = replica.memory.entry(next).filter(|_| current && next <= through) {
            let size = entry.payload.len_bytes();
            if !entries.is_empty() && bytes + size > limit {
                break;
            }
            bytes += size;
            entries.push(entry.clone());
            next = next.next();
        }
        let through = next.prev();
        let mut sent = Sent::Queued;
        if entries.is_empty() {
            self.note(&format!(
                "  {id:?}@{term} -> {to:?} nothing: {prev} is not current any more"
            ));
        } else {
            let envelope =
                Envelope { from: id, to, term, message: Message::Append { prev, entries, commit } };
            sent = self.network.sent(id, to);
            match sent {
                Sent::Queued => self.send(envelope, None)?,
                Sent::Full => self.lose(&envelope, "the queue is full")?,
                Sent::Unreachable => self.lose(&envelope, "unreachable")?,
            }
        }
        Ok(Event::Replicated { span, through, bytes, sent })
    }

    /// Takes a snapshot of the state machine and sends it on its way.
    fn send_snapshot(&mut self, id: NodeId, to: NodeId, term: Term) -> Result<LogId, Error> {
        let replica = self.replica(id)?;
        let (last, machine) = (replica.applied(), replica.machine.clone());
        let raft = self.running(id)?;
        let (membership_at, membership) = raft.membership_at(last.index).clone();
        let message = Message::Snapshot(Box::new(SnapshotMeta { last, membership, membership_at }));
        self.send(Envelope { from: id, to, term, message }, Some(machine))?;
        Ok(last)
    }

    fn install(&mut self, id: NodeId) -> Result<SnapshotMeta, Error> {
        let replica = self.replica(id)?;
        let installing = replica.installing.take();
        let (meta, machine) = installing.ok_or_else(|| format!("{id:?} installs nothing"))?;
        replica.machine = machine;
        replica.committed = replica.committed.max(meta.last.index);
        let through = meta.last.index;
        replica.applying.retain(|(index, _), _| *index > through);
        Ok(meta)
    }

    /// Applies the entries up to `through`, and answers those who wait for them.
    fn apply(&mut self, id: NodeId, through: Index) -> Result<(), Error> {
        let term = self.running(id)?.term();
        let replica = self.replica(id)?;
        let mut next = replica.applied().index.next();
        let mut entries = Vec::new();
        while next <= through {
            let entry = replica.memory.entry(next);
            let entry = entry.ok_or_else(|| format!("{id:?} has no entry {next} to apply"))?;
            entries.push(entry.clone());
            next = next.next();
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.note(&format!("  {id:?}@{term} applies {}", text::show_entries(&entries)));
        for entry in entries {
            self.checks.applies(id, &entry);
            let replica = self.replica(id)?;
            let mut answers = Vec::new();
            replica.applying.retain(|&(index, term), ticket| {
                if index == entry.id.index {
                    answers.push((*ticket, term == entry.id.term));
                }
                index != entry.id.index
            });
            replica.machine.push(entry.clone());
            for (ticket, done) in answers {
                let text = if done { "done" } else { "void, another entry stands there" };
                self.note(&format!("  {id:?}@{term} answers #{}: {text}", ticket.0));
            }
        }
        Ok(())
    }

    /// Serves the reads whose index has been applied (rule R4).
    fn serve_reads(&mut self, id: NodeId) -> Result<(), Error> {
        let term = self.running(id)?.term();
        let replica = self.replica(id)?;
        let applied = replica.applied();
        let later = replica.reading.split_off(&applied.index.next());
        let now = std::mem::replace(&mut replica.reading, later);
        for ticket in now.into_values().flatten() {
            self.note(&format!("  {id:?}@{term} serves read #{} as of {applied}", ticket.0));
        }
        Ok(())
    }
}

fn snapshot_meta(message: &Message) -> Option<&SnapshotMeta> {
    if let Message::Snapshot(meta) = message { Some(meta) } else { None }
}

fn show_batch(batch: &raft_core::Batch) -> String {
    let mut line = format!("#{}", batch.seq);
    if let Some(hard) = batch.hard {
        line.push_str(&format!(" term={}", hard.term));
        if let Some(vote) = hard.vote {
            line.push_str(&format!(" vote={vote:?}"));
        }
    }
    if let Some(installed) = &batch.snapshot {
        let tail =
            if installed.keep_tail { " keeping what follows" } else { " instead of its log" };
        line.push_str(&format!(" base={}{tail}", installed.meta.last));
    }
    if let Some(from) = batch.truncate_from {
        line.push_str(&format!(" truncate_from={from}"));
    }
    if !batch.entries.is_empty() {
        line.push_str(&format!(" [{}]", text::show_entries(&batch.entries)));
    }
    line
}
