//! The simulated world: takes what happens next, lets the one host it concerns do its part, and
//! checks that everything which must hold still does.
//!
//! The hosts run the shipped code of the node, rings 0 and 1. Everything around it is simulated, so
//! that any delay, and any crash, can come between any two of: a message arrives, the node decides, a
//! write is asked for, it is on the disk, that is reported, an answer leaves.

use raft_core::testing::{MemDisk, MemSnapshot};
use raft_core::{
    Arrival, Envelope, Membership, Message, NodeId, Payload, SnapshotHeader, SnapshotOutcome,
    SnapshotTicket,
};

use super::clients::{Answer, Answers, Op};
use super::coverage::{Coverage, Seen};
use super::dice::Dice;
use super::host::Host;
use super::machine::{SimStore, Step, mix};
use super::network::Network;
use super::plan::{Fault, Plan, TICK};
use super::schedule::{Micros, Schedule};
use super::truth::{Truth, Violation, ensure};
use super::wire::{SentSnapshot, Wire};

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum What {
    /// A clock ticks.
    Tick(usize),
    /// A node takes what waits for it.
    Run(usize, u32),
    /// A message arrives.
    Deliver(Box<Envelope>),
    /// A snapshot arrives whole.
    DeliverSnapshot(Box<(SnapshotHeader, MemSnapshot)>),
    /// A sender learns what became of its snapshot.
    SnapshotSent(usize, u32, NodeId, SnapshotTicket, SnapshotOutcome),
    /// A sender learns that something was lost.
    Unreachable(usize, u32, NodeId),
    /// The disk has done what the log worker asked for.
    LogDone(usize, u32),
    /// What a follower needs was read.
    FetchDone(usize, u32),
    /// The state machine has done something.
    ApplyDone(usize, u32),
    /// The node hears what its workers have done.
    Heard(usize, u32),
    /// A client sends its next request.
    Ask(usize),
    /// A client stops waiting.
    GiveUp(u32),
    /// Something goes wrong.
    Fault(Fault),
    /// A leader that was just elected is struck down.
    Coup(usize, u32),
    /// A leader that was just elected is asked for another membership, before it knows what is committed.
    Haste(usize, u32),
    /// A node is cut off.
    Isolation(usize, u32),
    /// The voters that a leader has left break what they promised it.
    Betrayal(usize, u32, Vec<usize>),
    /// A process dies and is back in no time.
    Bounce(usize),
    /// Somebody writes to a leader while there is still another.
    FirstWrite(usize, u32),
    /// Somebody reads where the last write may not be known.
    Doubt(usize, u32, u8),
    /// A leader has entered a joint configuration: its new half is cut off from everybody else.
    Schism(usize, u32),
    /// Links work again.
    Mend(Vec<(usize, usize)>),
    /// A link goes, or comes back, so many times more.
    Flap(usize, usize, u32),
    /// A process wakes.
    Resume(usize, u32),
    /// A process is started again.
    Restart(usize, u32),
}

/// The simulated world.
#[derive(Debug)]
pub(crate) struct World<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) now: Micros,
    pub(crate) events: u64,
    pub(crate) schedule: Schedule<What>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Network,
    pub(crate) truth: Truth,
    pub(crate) seen: Coverage,
    /// How often each kind of fault has struck.
    pub(crate) struck: [u64; Fault::ALL.len()],
    pub(crate) ops: Vec<Op>,
    pub(crate) answers: Answers,
    /// No faults any more.
    pub(crate) calm: bool,
    /// No client begins anything before.
    pub(crate) hush_until: Micros,
    /// What hosts could not attend to because they were asleep.
    pub(crate) deferred: Vec<Vec<What>>,
    pub(crate) net_dice: Dice,
    pub(crate) disk_dice: Dice,
    pub(crate) client_dice: Dice,
    pub(crate) fault_dice: Dice,
    /// Of everything that has happened: equal for equal runs.
    pub(crate) digest: u64,
    pub(crate) trace: Option<Vec<String>>,
    /// By client: whom it last had an answer from, and goes on asking.
    pub(crate) homes: Vec<Option<usize>>,
    /// By client: its last request, and whom it was sent to.
    pub(crate) waiting: Vec<Option<(u32, usize)>>,
    pub(crate) messages: Vec<Envelope>,
    pub(crate) snapshots: Vec<SentSnapshot>,
    pub(crate) steps: Vec<Step>,
    pub(crate) answered: Vec<(u32, Answer)>,
}

impl<'a> World<'a> {
    /// The world before anything has happened.
    pub(crate) fn new(plan: &'a Plan, traced: bool) -> Self {
        let hosts = usize::try_from(plan.hosts()).expect("a few hosts");
        let mut world = Self {
            plan,
            now: 0,
            events: 0,
            schedule: Schedule::new(),
            hosts: Vec::new(),
            network: Network::new(0),
            truth: Truth::default(),
            seen: Coverage::new(),
            struck: [0; Fault::ALL.len()],
            ops: Vec::new(),
            answers: Answers::default(),
            calm: false,
            hush_until: 0,
            deferred: Vec::new(),
            net_dice: Dice::new(plan.seed, "net"),
            disk_dice: Dice::new(plan.seed, "disk"),
            client_dice: Dice::new(plan.seed, "clients"),
            fault_dice: Dice::new(plan.seed, "faults"),
            digest: plan.seed,
            trace: traced.then(Vec::new),
            homes: vec![None; usize::try_from(plan.clients).expect("a few clients")],
            waiting: vec![None; usize::try_from(plan.clients).expect("a few clients")],
            messages: Vec::new(),
            snapshots: Vec::new(),
            steps: Vec::new(),
            answered: Vec::new(),
        };
        let founders = (1..=plan.founders).map(|id| (node_id(id), format!("host-{id}:1")));
        let founding = Membership::of_voters(founders);
        world.truth.ever_voters.clone_from(&founding.voters);
        for place in 0..hosts {
            let founder = (place as u64) < plan.founders;
            let disk = if founder { MemDisk::founded(founding.clone()) } else { MemDisk::new() };
            world.add_host(disk);
        }
        for client in 0..usize::try_from(plan.clients).expect("a few clients") {
            let at = world.client_dice.between(0, 200_000);
            world.schedule.put(at, What::Ask(client));
        }
        for fault in Fault::ALL {
            world.schedule_fault(fault);
        }
        world
    }

    /// Adds a host with this disk, and starts it.
    pub(crate) fn add_host(&mut self, disk: MemDisk) -> usize {
        let place = self.hosts.len();
        let id = node_id(place as u64 + 1);
        let mut dice = Dice::new(self.plan.seed ^ (place as u64) << 40, "host");
        let skew = u64::from(self.plan.skew);
        let tick = TICK * (1_000_000 + dice.between(0, 2 * skew) - skew) / 1_000_000;
        let wire = Wire::new(dice, self.plan.full);
        let store = SimStore::new(self.plan.reluctant);
        self.hosts.push(Host::new(id, id.as_u64() * 1_000, disk, store, wire, tick));
        self.network.grow();
        self.deferred.push(Vec::new());
        let first = self.now + self.fault_dice.between(0, tick);
        self.schedule.put(first, What::Tick(place));
        self.schedule.put(self.now, What::Restart(place, 0));
        place
    }

    /// Lets the next thing happen.
    pub(crate) fn step(&mut self) -> Result<(), Violation> {
        let (at, what) = self.schedule.next().expect("clocks always tick");
        self.now = at;
        self.events += 1;
        let host = what.host();
        if let Some(place) = host {
            self.digest = mix(self.digest, at ^ (place as u64) << 56);
            if self.hosts[place].paused {
                if let What::Tick(_) = what {
                    self.hosts[place].overslept += 1;
                    self.schedule.put(at + self.hosts[place].tick, what);
                } else {
                    self.deferred[place].push(what);
                }
                return Ok(());
            }
        }
        self.happen(what)?;
        if let Some(place) = host {
            let view = &self.hosts[place].view;
            self.digest = mix(self.digest, view.last.index.0 ^ view.term.0 << 32);
            self.digest = mix(self.digest, view.commit.0);
        }
        Ok(())
    }

    fn happen(&mut self, what: What) -> Result<(), Violation> {
        match what {
            What::Tick(place) => self.on_tick(place),
            What::Run(place, life) => {
                if self.lives(place, life) {
                    self.hosts[place].run_due = false;
                    self.run(place)?;
                }
                Ok(())
            }
            What::Deliver(envelope) => self.on_deliver(*envelope),
            What::DeliverSnapshot(snapshot) => self.on_deliver_snapshot(*snapshot),
            What::SnapshotSent(place, life, to, ticket, outcome) => {
                self.arrive(place, life, Arrival::SnapshotSent(to, ticket, outcome))
            }
            What::Unreachable(place, life, peer) => {
                self.arrive(place, life, Arrival::Unreachable(peer))
            }
            What::LogDone(place, life) => self.if_alive(place, life, Self::on_log_done),
            What::FetchDone(place, life) => self.if_alive(place, life, Self::on_fetch_done),
            What::ApplyDone(place, life) => self.if_alive(place, life, Self::on_apply_done),
            What::Heard(place, life) => self.if_alive(place, life, Self::on_heard),
            What::Ask(client) => self.on_ask(client),
            What::GiveUp(op) => {
                self.on_give_up(op);
                Ok(())
            }
            What::Fault(fault) => self.on_fault(fault),
            What::Coup(place, life) => self.if_alive(place, life, Self::on_coup),
            What::Haste(place, life) => self.if_alive(place, life, Self::on_haste),
            What::Isolation(place, life) => self.if_alive(place, life, Self::on_isolation),
            What::Betrayal(place, life, voters) => {
                self.if_alive(place, life, |world, leader| world.on_betrayal(leader, voters))
            }
            What::Bounce(place) => self.on_bounce(place),
            What::FirstWrite(place, life) => self.if_alive(place, life, Self::on_first_write),
            What::Doubt(place, life, register) => {
                self.if_alive(place, life, |world, place| world.on_doubt(place, register))
            }
            What::Schism(place, life) => self.if_alive(place, life, Self::on_schism),
            What::Mend(links) => {
                links.into_iter().for_each(|(from, to)| self.mend(from, to));
                Ok(())
            }
            What::Flap(from, to, times) => {
                self.on_flap(from, to, times);
                Ok(())
            }
            What::Resume(place, life) => self.if_alive(place, life, Self::on_resume),
            What::Restart(place, life) => self.on_restart(place, life),
        }
    }

    pub(crate) fn lives(&self, place: usize, life: u32) -> bool {
        let host = &self.hosts[place];
        host.life == life && host.node.is_some()
    }

    fn if_alive(
        &mut self,
        place: usize,
        life: u32,
        then: impl FnOnce(&mut Self, usize) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        if self.lives(place, life) { then(self, place) } else { Ok(()) }
    }

    /// Adds a line to the trace.
    pub(crate) fn tell(&mut self, place: usize, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let text = what(self);
            let (now, id, event) = (self.now, self.hosts[place].id, self.events);
            let line = format!("{event:>7} {:>10.3} {id:?}  {text}", now as f64 / 1_000.0);
            self.trace.get_or_insert_default().push(line);
        }
    }

    // Clocks and messages.

    pub(crate) fn on_tick(&mut self, place: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[place];
        let next = self.now + host.tick;
        let next = if self.calm && self.plan.in_step { next / TICK * TICK } else { next };
        self.schedule.put(next, What::Tick(place));
        let Some(node) = &mut host.node else { return Ok(()) };
        node.tick();
        self.poke(place)
    }

    // A node does its part.

    /// Something waits for the node: it takes it now, or together with what comes next.
    pub(crate) fn poke(&mut self, place: usize) -> Result<(), Violation> {
        if self.hosts[place].run_due || self.hosts[place].paused {
            return Ok(());
        }
        if self.net_dice.chance(self.plan.lazy) {
            let at = self.now + self.net_dice.between(0, 3_000);
            let host = &mut self.hosts[place];
            host.run_due = true;
            self.schedule.put(at, What::Run(place, host.life));
            return Ok(());
        }
        self.run(place)
    }

    pub(crate) fn run(&mut self, place: usize) -> Result<(), Violation> {
        let Some(node) = &mut self.hosts[place].node else { return Ok(()) };
        node.run();
        let stopped = node.stopped().is_some();
        self.check_view(place)?;
        self.take_answers(place)?;
        if !self.send_all(place)? {
            return Ok(()); // It has died meanwhile.
        }
        if stopped {
            if self
                .hosts
                .iter()
                .any(|host| host.view.leads && host.view.term > self.hosts[place].view.term)
            {
                self.seen.meet(Seen::HandedOver);
            }
            self.tell(place, |_| "has stopped as it was told".to_owned());
            return self.crash(place);
        }
        self.start_jobs(place);
        Ok(())
    }

    // What must hold.

    pub(crate) fn check_applied(&mut self, place: usize) -> Result<(), Violation> {
        let mut steps = std::mem::take(&mut self.steps);
        self.hosts[place].store.take_fresh(&mut steps);
        let id = self.hosts[place].id;
        for step in steps.drain(..) {
            self.truth.on_applied(id, &step)?;
            self.digest = mix(self.digest, step.hash);
        }
        self.steps = steps;
        let applied = self.hosts[place].store.applied().index;
        let before = self.hosts[place].view.applied;
        ensure!(applied >= before, Monotone, "{id:?} has applied {applied} after {before}");
        self.hosts[place].view.applied = applied;
        Ok(())
    }

    pub(crate) fn check_writes(&mut self, place: usize) -> Result<(), Violation> {
        let id = self.hosts[place].id;
        for written in self.hosts[place].witness.take() {
            if let Some(hard) = written.hard {
                Truth::on_hard(id, self.hosts[place].hard, hard)?;
                self.hosts[place].hard = hard;
            }
            if written.truncated {
                self.seen.meet(Seen::Truncated);
            }
            if written.compacted {
                self.seen.meet(Seen::Compacted);
            }
            let mut before = written.before;
            for (entry, payload) in written.entries {
                self.truth.on_written(id, entry, before, payload)?;
                before = entry.term;
            }
        }
        Ok(())
    }
}

impl What {
    /// The host that must be awake for this.
    fn host(&self) -> Option<usize> {
        match self {
            Self::Tick(place)
            | Self::Run(place, _)
            | Self::SnapshotSent(place, ..)
            | Self::Unreachable(place, ..)
            | Self::LogDone(place, _)
            | Self::FetchDone(place, _)
            | Self::ApplyDone(place, _)
            | Self::Heard(place, _) => Some(*place),
            Self::Deliver(envelope) => Some(place_of(envelope.to)),
            Self::DeliverSnapshot(snapshot) => Some(place_of(snapshot.0.to)),
            Self::Ask(_)
            | Self::GiveUp(_)
            | Self::Fault(_)
            | Self::Coup(..)
            | Self::Haste(..)
            | Self::Doubt(..)
            | Self::Isolation(..)
            | Self::Betrayal(..)
            | Self::Bounce(_)
            | Self::FirstWrite(..)
            | Self::Schism(..)
            | Self::Mend(_)
            | Self::Flap(..)
            | Self::Resume(..)
            | Self::Restart(..) => None,
        }
    }

    /// The configurations that are under way to a log.
    pub(crate) fn memberships(&self) -> impl Iterator<Item = &Membership> {
        let entries = if let Self::Deliver(envelope) = self
            && let Message::Append { entries, .. } = &envelope.message
        {
            entries.as_slice()
        } else {
            &[]
        };
        entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            Payload::Empty | Payload::Command(_) => None,
        })
    }
}

/// The id `id`.
pub(crate) fn node_id(id: u64) -> NodeId {
    NodeId::new(id).expect("ids are counted from 1")
}

/// Where the host of this node stands.
pub(crate) fn place_of(id: NodeId) -> usize {
    usize::try_from(id.as_u64() - 1).expect("a few hosts")
}
