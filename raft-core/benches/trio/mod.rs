//! Three replicas of the protocol in one thread, with logs in memory: nothing but [`Raft`] and the
//! least that an embedder puts around it.
//!
//! Shared by the benchmarks (`benches/core.rs`, `benches/versus`) and by the tests that count
//! allocations and bytes. The disk is done at once, the network loses nothing, and whatever has been
//! asked for is finished before a call returns. No clock, no threads, no randomness but the seeds.

#![allow(clippy::unwrap_used, reason = "a benchmark or test fails by panicking, in helpers too")]

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;
use raft_core::{
    Config, Effect, Entry, Envelope, Event, HardState, Index, Membership, Message, NodeId, Payload,
    Raft, Recovered, RoleName, Sent, SnapshotMeta, Span, Ticket,
};

/// A log is cut when it holds so many entries, down to [`RETAINED`].
pub(crate) const LOG_MAX: usize = 8192;
/// So many entries stay, for followers that are a little behind.
pub(crate) const RETAINED: u64 = 256;

/// The state machine of both sides of a comparison: it looks at every command and remembers a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// How many commands were applied.
    pub(crate) commands: u64,
    /// Their lengths and first bytes, so that nobody can leave the looking out.
    pub(crate) digest: u64,
}

impl Machine {
    /// Applies one command.
    pub(crate) fn apply(&mut self, command: &[u8]) {
        let first = command.first().copied().unwrap_or_default();
        self.commands += 1;
        self.digest = self.digest.wrapping_add(command.len() as u64 + u64::from(first));
    }
}

/// Three replicas, of which the first leads.
#[derive(Debug)]
pub(crate) struct Trio {
    replicas: [Replica; 3],
    /// What is on its way, in order. What is left of the sets of effects is kept for the next.
    mail: VecDeque<Envelope>,
    effects: Vec<Effect>,
    ticket: u64,
}

/// One replica and what an embedder keeps beside it.
#[derive(Debug)]
struct Replica {
    raft: Box<Raft>,
    log: Log,
    machine: Machine,
    applied: Index,
}

/// Consecutive entries, the first at `first`.
#[derive(Debug)]
struct Log {
    first: Index,
    entries: Vec<Entry>,
}

impl Trio {
    /// Three replicas that have just elected the first.
    pub(crate) fn elected() -> Self {
        let members = (1..=3).map(|id| (node(id), format!("node-{id}:7000")));
        let membership = Membership::of_voters(members);
        let replicas = [1, 2, 3].map(|id| Replica::new(id, &membership));
        let mut trio = Self { replicas, mail: VecDeque::new(), effects: Vec::new(), ticket: 0 };
        while trio.leader().role() != RoleName::Leader {
            trio.step(0, Event::Tick);
            trio.deliver();
        }
        trio
    }

    /// Has `commands` committed and applied by the leader, as one batch. The followers have them on
    /// their disks then, and learn with what they hear next that they may apply them.
    pub(crate) fn commit(&mut self, commands: impl ExactSizeIterator<Item = Bytes>) {
        let expected = self.replicas[0].machine.commands + commands.len() as u64;
        let ticket = &mut self.ticket;
        let numbered = commands.map(|command| {
            *ticket += 1;
            (Ticket(*ticket), command)
        });
        let proposals = numbered.collect();
        self.step(0, Event::Proposed(proposals));
        self.deliver();
        assert_eq!(self.replicas[0].machine.commands, expected, "not all was committed");
        self.replicas.iter_mut().for_each(Replica::maybe_compact);
    }

    /// A heartbeat interval passes for everybody: the leader sends its heartbeats, and hears the answers.
    #[allow(dead_code, reason = "not every user of this module has idle groups")]
    pub(crate) fn idle(&mut self) {
        for _ in 0..config(1).heartbeat_interval.0 {
            for at in 0..self.replicas.len() {
                self.step(at, Event::Tick);
            }
            self.deliver();
        }
    }

    /// The replica that leads.
    pub(crate) fn leader(&self) -> &Raft {
        &self.replicas[0].raft
    }

    /// What each state machine has seen, the leader's first.
    #[allow(dead_code, reason = "not every user of this module compares them")]
    pub(crate) fn machines(&self) -> [Machine; 3] {
        [0, 1, 2].map(|at| self.replicas[at].machine)
    }

    /// The replicas alone, the leader first, without their logs.
    #[allow(dead_code, reason = "not every user of this module weighs them")]
    pub(crate) fn into_rafts(self) -> [Box<Raft>; 3] {
        self.replicas.map(|replica| replica.raft)
    }

    /// Everybody hears what is on its way, and what is said in answer.
    fn deliver(&mut self) {
        while let Some(envelope) = self.mail.pop_front() {
            let at = usize::try_from(envelope.to.as_u64() - 1).unwrap();
            self.step(at, Event::Received(envelope));
        }
    }

    /// One event, everything that is to be done about it, and what that leads to in turn.
    fn step(&mut self, at: usize, event: Event) {
        let mut effects = mem::take(&mut self.effects);
        let replica = &mut self.replicas[at];
        replica.raft.step(event, &mut effects);
        // Effects may be carried out in any order and at once, so what comes up meanwhile just queues
        // behind them.
        let mut next = 0;
        while next < effects.len() {
            let effect = mem::replace(&mut effects[next], Effect::Done(Ticket(0)));
            next += 1;
            if let Some(event) = replica.carry_out(effect, &mut self.mail) {
                replica.raft.step(event, &mut effects);
            }
        }
        effects.clear();
        self.effects = effects;
    }
}

impl Replica {
    fn new(id: u64, membership: &Membership) -> Self {
        let base = SnapshotMeta { membership: membership.clone(), ..SnapshotMeta::default() };
        let found = Recovered { hard: HardState::default(), base, ..Recovered::default() };
        Self {
            raft: Box::new(Raft::new(config(id), found, Index::ZERO, id)),
            log: Log { first: Index(1), entries: Vec::new() },
            machine: Machine::default(),
            applied: Index::ZERO,
        }
    }

    /// Does what it says, and tells what there is to report.
    fn carry_out(&mut self, effect: Effect, mail: &mut VecDeque<Envelope>) -> Option<Event> {
        match effect {
            Effect::Persist(batch) => {
                assert!(batch.truncate_from.is_none() && batch.snapshot.is_none());
                self.log.entries.extend(batch.entries);
                Some(Event::Persisted { seq: batch.seq })
            }
            Effect::Send(envelope) => {
                mail.push_back(envelope);
                None
            }
            Effect::Replicate(span) => Some(self.replicate(span, mail)),
            Effect::Apply { through } => {
                self.apply(through);
                Some(Event::Applied { through })
            }
            Effect::Appended { .. }
            | Effect::RoleChanged(_)
            | Effect::MembershipChanged(_)
            | Effect::MembershipCommitted(_)
            | Effect::Done(_) => None,
            Effect::SendSnapshot { .. }
            | Effect::InstallSnapshot(_)
            | Effect::DropSnapshot(_)
            | Effect::ReadReady { .. }
            | Effect::Refuse { .. }
            | Effect::PeerDismissed(_)
            | Effect::Removed { .. } => panic!("nobody has asked for {effect:?}"),
        }
    }

    /// Makes a message of a span. The entries share their payloads with the log.
    fn replicate(&self, span: Span, mail: &mut VecDeque<Envelope>) -> Event {
        let Span { to, term, prev, through, commit } = span;
        let entries = self.log.between(prev.index.next(), through).to_vec();
        let bytes = entries.iter().map(|entry| entry.payload.len_bytes()).sum();
        let message = Message::Append { prev, entries, commit };
        mail.push_back(Envelope { from: self.raft.id(), to, term, message });
        Event::Replicated { span, through, bytes, sent: Sent::Queued }
    }

    /// Applies what is committed and was not applied yet.
    fn apply(&mut self, through: Index) {
        for entry in self.log.between(self.applied.next(), through) {
            match &entry.payload {
                Payload::Command(command) => self.machine.apply(command),
                Payload::Empty | Payload::Membership(_) => {}
            }
        }
        self.applied = through;
    }

    /// Cuts the log if it has become long.
    fn maybe_compact(&mut self) {
        if self.log.entries.len() <= LOG_MAX {
            return;
        }
        let through = Index(self.applied.since(Index(RETAINED)));
        let base = self.raft.meta_at(through).expect("the log reaches back further than that");
        self.log.cut(through);
        let mut effects = Vec::new();
        self.raft.step(Event::Compacted(Box::new(base)), &mut effects);
        assert!(effects.is_empty(), "nothing follows from that: {effects:?}");
    }
}

impl Log {
    /// The entries from `first` to `through`, inclusive, which the log has.
    fn between(&self, first: Index, through: Index) -> &[Entry] {
        &self.entries[self.place(first)..self.place(through.next())]
    }

    /// Forgets everything up to and including `through`.
    fn cut(&mut self, through: Index) {
        self.entries.drain(..self.place(through.next()));
        self.first = through.next();
    }

    fn place(&self, index: Index) -> usize {
        usize::try_from(index.since(self.first)).unwrap()
    }
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn config(id: u64) -> Config {
    Config::new(node(id))
}
