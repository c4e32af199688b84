//! What one run is made of: how the nodes are configured, how bad network and disks are, and which
//! faults come how often. All of it is drawn from the seed, because bugs hide in configurations nobody
//! would choose: a window of one message, a snapshot every third entry.

use std::fmt;

use raft_core::{ClockDrift, Config, NodeId, NodeOptions, Ticks};

use super::dice::{Dice, Ppm};
use super::schedule::Micros;

/// The length of a tick on a clock that runs right.
pub(crate) const TICK: Micros = 10_000;

/// A kind of thing that goes wrong, or that an operator does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process dies, at a moment of our choosing.
    Crash,
    /// All processes die at once.
    Blackout,
    /// A process is told to stop, and comes back.
    Restart,
    /// A process does not run for a while.
    Pause,
    /// Two groups of nodes do not hear each other.
    Partition,
    /// One node is not heard, or does not hear, by some others.
    OneWay,
    /// A link comes and goes.
    Flap,
    /// A disk reports an error.
    DiskError,
    /// A disk is full.
    DiskFull,
    /// A disk takes very long for one write.
    DiskStall,
    /// The state machine fails.
    MachineError,
    /// A disk is replaced by an empty one.
    Wipe,
    /// An operator changes the membership.
    Change,
    /// An operator hands leadership over.
    Transfer,
    /// A follower is told to forget its leader.
    Forget,
    /// A follower asks for a snapshot, to repair its state machine.
    Repair,
    /// The leader is cut off from one voter, and then from the others, who are restarted or have their
    /// last answers delayed.
    Oust,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Crash,
        Self::Blackout,
        Self::Restart,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::Flap,
        Self::DiskError,
        Self::DiskFull,
        Self::DiskStall,
        Self::MachineError,
        Self::Wipe,
        Self::Change,
        Self::Transfer,
        Self::Forget,
        Self::Repair,
        Self::Oust,
    ];

    /// How often it comes by default: about once in so many milliseconds of virtual time.
    const fn usual_interval(self) -> Micros {
        1_000
            * match self {
                Self::Crash => 700,
                Self::Blackout => 6_000,
                Self::Restart => 3_000,
                Self::Pause => 1_500,
                Self::Partition => 1_500,
                Self::OneWay => 1_500,
                Self::Flap => 3_000,
                Self::DiskError => 3_000,
                Self::DiskFull => 5_000,
                Self::DiskStall => 1_500,
                Self::MachineError => 8_000,
                Self::Wipe => 6_000,
                Self::Change => 500,
                Self::Transfer => 1_200,
                Self::Forget => 2_000,
                Self::Repair => 2_500,
                Self::Oust => 2_500,
            }
    }
}

/// What one run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What everything else was drawn from, and what decides the order of things.
    pub seed: u64,
    /// So many events before the faults stop.
    pub events: u64,
    /// How many nodes found the cluster: 1 to 7.
    pub founders: u64,
    /// How many more may join.
    pub spares: u64,
    /// How many clients there are.
    pub clients: u64,
    /// The mean time between the answer to a client and its next request.
    pub(crate) think: Micros,
    /// How long a client waits for an answer.
    pub(crate) patience: Micros,
    /// More bytes in each command.
    pub(crate) padding: usize,

    pub(crate) election_ticks: u32,
    pub(crate) heartbeat_ticks: u32,
    pub(crate) pre_vote: bool,
    pub(crate) check_quorum: bool,
    /// The drift of clocks that leases allow for, in millionths; no leases if it is 0.
    pub(crate) lease: Ppm,
    /// Whether some nodes are preferred as leaders.
    pub(crate) preferences: bool,
    pub(crate) snapshots_at_once: usize,
    pub(crate) append_bytes: usize,
    pub(crate) window_messages: usize,
    pub(crate) window_bytes: usize,
    pub(crate) uncommitted_bytes: usize,
    pub(crate) cache_bytes: usize,
    pub(crate) apply_bytes: usize,
    pub(crate) retain_entries: u64,
    pub(crate) compact_every: u64,
    pub(crate) max_waiting: usize,

    /// Whether messages of one link keep their order, as our transport does within a lane.
    pub(crate) ordered: bool,
    pub(crate) delay: (Micros, Micros),
    pub(crate) loss: Ppm,
    pub(crate) duplicates: Ppm,
    pub(crate) slow: Ppm,
    pub(crate) full: Ppm,
    /// The chance that inputs are left lying for a while, to be taken together.
    pub(crate) lazy: Ppm,
    pub(crate) disk: (Micros, Micros),
    pub(crate) apply: (Micros, Micros),
    /// The chance that a database flushes by itself after an apply.
    pub(crate) flush: Ppm,
    /// Whether databases flush at no other time.
    pub(crate) reluctant: bool,
    /// By how much clocks run wrong, at most.
    pub(crate) skew: Ppm,
    /// The chance that a new leader is struck down at once.
    pub(crate) coup: Ppm,
    /// The chance that an operator asks a new leader for a change at once.
    pub(crate) haste: Ppm,
    /// The mean time between two faults of a kind; none if it is 0.
    pub(crate) faults: [Micros; Fault::ALL.len()],
    /// Whether a minority stays broken when the faults stop.
    pub(crate) minority_stays_broken: bool,
    /// Whether all lose power when the faults stop, and come back together with clocks that agree: nothing
    /// but the dice of elections then makes one of them the first.
    pub(crate) in_step: bool,
}

impl Plan {
    /// Draws a plan.
    pub fn draw(seed: u64, events: u64) -> Self {
        let mut dice = Dice::new(seed, "plan");
        let dice = &mut dice;
        let founders = dice.pick(&[1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 7]);
        let election_ticks = dice.pick(&[4, 4, 6, 8, 10, 20]);
        let mut plan = Self {
            seed,
            events,
            founders,
            spares: dice.pick(&[0, 1, 2, 3]),
            clients: dice.between(1, 6),
            think: dice.pick(&[0, 2_000, 10_000, 50_000]),
            patience: dice.pick(&[200_000, 1_000_000, 3_000_000]),
            padding: dice.pick(&[0, 0, 10, 100]),
            election_ticks,
            heartbeat_ticks: dice.pick(&[1, (election_ticks / 8).max(1), election_ticks / 4]),
            // In this order in which they are mostly on: that is the default, and rules bend without.
            pre_vote: !dice.chance(150_000),
            check_quorum: !dice.chance(100_000),
            lease: 0,
            preferences: dice.chance(300_000),
            snapshots_at_once: dice.pick(&[1, 2, 8]),
            append_bytes: dice.pick(&[1, 60, 200, 1_000, 100_000]),
            window_messages: dice.pick(&[1, 2, 4, 8, 64]),
            window_bytes: dice.pick(&[1, 100, 1_000, 100_000]),
            uncommitted_bytes: dice.pick(&[50, 500, 5_000, 1_000_000, 1_000_000]),
            cache_bytes: dice.pick(&[1, 100, 1_000, 1_000_000, 1_000_000]),
            apply_bytes: dice.pick(&[1, 100, 1_000_000]),
            retain_entries: dice.pick(&[0, 1, 5, 20, 1_000_000]),
            compact_every: dice.pick(&[1, 3, 10, 50]),
            max_waiting: dice.pick(&[2, 1_000, 1_000]),
            ordered: dice.flip(),
            delay: dice.pick(&[(50, 200), (100, 3_000), (1_000, 20_000), (100, 60_000)]),
            loss: 0,
            duplicates: 0,
            slow: 0,
            full: 0,
            lazy: dice.pick(&[0, 100_000, 500_000, 900_000]),
            disk: dice.pick(&[(0, 100), (100, 2_000), (500, 15_000), (100, 60_000)]),
            apply: dice.pick(&[(0, 50), (0, 2_000), (500, 30_000)]),
            flush: dice.pick(&[0, 50_000, 500_000]),
            reluctant: false,
            skew: dice.pick(&[0, 10_000, 100_000, 400_000]),
            coup: 0,
            haste: 0,
            faults: [0; Fault::ALL.len()],
            minority_stays_broken: dice.flip(),
            in_step: false,
        };
        if dice.flip() {
            plan.draw_lease(dice);
        }
        plan.draw_faults(dice);
        if plan.lease > 0 && dice.chance(700_000) {
            let often = Micros::from(plan.election_ticks) * dice.pick(&[60_000, 150_000]);
            plan.faults[Fault::Oust as usize] = often;
        }
        plan.in_step = dice.chance(200_000);
        plan.reluctant = plan.flush > 0 && dice.chance(300_000);
        plan
    }

    /// Leases, if clocks are good enough for them: one may run fast and another slow. What voter and
    /// leader take off a promise is some heartbeats, so most of a short one is gone; only one of many
    /// ticks leaves time for things to happen while it runs, and soon after.
    fn draw_lease(&mut self, dice: &mut Dice) {
        self.election_ticks = dice.pick(&[10, 16, 24, 40]);
        self.heartbeat_ticks = dice.pick(&[1, 1, 2]);
        let apart = 2 * u64::from(self.skew) * 1_000_000 / (1_000_000 - u64::from(self.skew));
        self.lease = u32::try_from(apart + 100).unwrap_or(u32::MAX);
        let options = self.options(super::world::node_id(1), 0);
        if options.raft.validate().is_err() {
            self.lease = 0;
        }
    }

    /// Each fault has a chance of its own, which is none at all in half of the runs.
    fn draw_faults(&mut self, dice: &mut Dice) {
        let mut maybe = |of: &[Ppm]| if dice.flip() { dice.pick(of) } else { 0 };
        self.loss = maybe(&[1_000, 20_000, 100_000, 300_000]);
        self.duplicates = maybe(&[1_000, 20_000, 200_000]);
        self.slow = maybe(&[1_000, 20_000, 100_000]);
        self.full = maybe(&[10_000, 100_000, 300_000]);
        self.coup = maybe(&[100_000, 300_000, 600_000]);
        self.haste = maybe(&[100_000, 500_000, 900_000]);
        // What suits the slowest clockwork of a run is drawn with it: a fault a blink apart finds little.
        let pace = Micros::from(self.election_ticks) * dice.pick(&[40, 100, 250]);
        for (fault, interval) in Fault::ALL.into_iter().zip(&mut self.faults) {
            let on = dice.flip();
            let scaled = fault.usual_interval() * pace / 1_000;
            if on && (fault != Fault::Wipe || self.founders > 2) {
                *interval = scaled.max(20_000);
            }
        }
    }

    /// How many nodes there may ever be. A disk that is wiped comes back under a new id.
    pub(crate) fn hosts(&self) -> u64 {
        self.founders + self.spares
    }

    /// How node `id` is run.
    pub(crate) fn options(&self, id: NodeId, seed: u64) -> NodeOptions {
        let mut raft = Config::new(id);
        raft.election_timeout = Ticks(self.election_ticks);
        raft.heartbeat_interval = Ticks(self.heartbeat_ticks);
        raft.pre_vote = self.pre_vote;
        raft.check_quorum = self.check_quorum;
        raft.lease = (self.lease > 0).then_some(ClockDrift { ppm: self.lease });
        if self.preferences {
            raft.priority = u8::try_from(id.as_u64() % 3).expect("a small number");
        }
        raft.snapshots_at_once = self.snapshots_at_once;
        raft.append_bytes = self.append_bytes;
        raft.window_messages = self.window_messages;
        raft.window_bytes = self.window_bytes;
        raft.uncommitted_bytes = self.uncommitted_bytes;
        let mut options = NodeOptions::new(raft);
        options.seed = Some(seed);
        options.cache_bytes = self.cache_bytes;
        options.apply_bytes = self.apply_bytes;
        options.retain_entries = self.retain_entries;
        options.compact_every = self.compact_every;
        options.max_waiting = self.max_waiting;
        options
    }

    /// `range`, but once the storm is over within what liveness needs: messages and writes that take
    /// well below an election timeout (§5.6).
    pub(crate) fn within_reason(&self, range: (Micros, Micros), calm: bool) -> (Micros, Micros) {
        let most = if calm { Micros::from(self.election_ticks) * TICK / 16 } else { Micros::MAX };
        (range.0.min(most), range.1.min(most))
    }

    /// The mean time between two faults of this kind; none if it is 0.
    pub(crate) fn interval(&self, fault: Fault) -> Micros {
        self.faults[fault as usize]
    }

    /// The same with another seed.
    pub(crate) fn with_seed(&self, seed: u64) -> Self {
        Self { seed, ..self.clone() }
    }

    /// Plans that are simpler by one thing each, for whoever wants to know what a failure needs.
    pub fn simpler(&self) -> Vec<(String, Self)> {
        let mut plans = Vec::new();
        let mut offer = |what: &str, change: &dyn Fn(&mut Self)| {
            let mut plan = self.clone();
            change(&mut plan);
            if format!("{plan:?}") != format!("{self:?}") {
                plans.push((what.to_owned(), plan));
            }
        };
        for fault in Fault::ALL {
            offer(&format!("no {fault:?}"), &|plan| plan.faults[fault as usize] = 0);
        }
        offer("databases flush when asked", &|plan| plan.reluctant = false);
        offer("out of step", &|plan| plan.in_step = false);
        offer("no leases", &|plan| plan.lease = 0);
        offer("no preferences", &|plan| plan.preferences = false);
        offer("no coups", &|plan| plan.coup = 0);
        offer("no haste", &|plan| plan.haste = 0);
        offer("no loss", &|plan| plan.loss = 0);
        offer("no duplicates", &|plan| plan.duplicates = 0);
        offer("no slow messages", &|plan| plan.slow = 0);
        offer("queues are never full", &|plan| plan.full = 0);
        offer("messages keep their order", &|plan| plan.ordered = true);
        offer("short delays", &|plan| plan.delay = (50, 200));
        offer("quick disks", &|plan| plan.disk = (0, 100));
        offer("quick applies", &|plan| plan.apply = (0, 50));
        offer("inputs are taken at once", &|plan| plan.lazy = 0);
        offer("clocks run right", &|plan| plan.skew = 0);
        offer("one client", &|plan| plan.clients = 1);
        offer("no spare nodes", &|plan| plan.spares = 0);
        offer("three nodes", &|plan| plan.founders = plan.founders.min(3));
        offer("no padding", &|plan| plan.padding = 0);
        offer("wide windows", &|plan| {
            (plan.window_messages, plan.window_bytes, plan.append_bytes) = (64, 100_000, 100_000);
        });
        offer("much cache", &|plan| plan.cache_bytes = 1_000_000);
        offer("no compaction", &|plan| plan.retain_entries = 1_000_000);
        offer("room for proposals", &|plan| {
            (plan.uncommitted_bytes, plan.max_waiting) = (1_000_000, 1_000);
        });
        plans
    }
}

/// One line of what is out of the ordinary.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes + {}, {} clients, election {} ticks, heartbeat {}",
            self.founders, self.spares, self.clients, self.election_ticks, self.heartbeat_ticks
        )?;
        if self.lease > 0 {
            write!(f, ", leases for a drift of {} ppm", self.lease)?;
        }
        if self.preferences {
            f.write_str(", preferred leaders")?;
        }
        for (name, on) in [("pre-vote", self.pre_vote), ("check-quorum", self.check_quorum)] {
            if !on {
                write!(f, ", no {name}")?;
            }
        }
        write!(
            f,
            ", append {} B, window {} x {} B, cache {} B, retain {}, compact every {}",
            self.append_bytes,
            self.window_messages,
            self.window_bytes,
            self.cache_bytes,
            self.retain_entries,
            self.compact_every
        )?;
        write!(f, ", delay {:?} us, disk {:?} us, lazy {}", self.delay, self.disk, self.lazy)?;
        write!(
            f,
            ", loss {}, duplicates {}, slow {}, full {}, coup {}, haste {}, skew {} ppm",
            self.loss, self.duplicates, self.slow, self.full, self.coup, self.haste, self.skew
        )?;
        for fault in Fault::ALL {
            if self.interval(fault) > 0 {
                write!(f, ", {fault:?} each {} ms", self.interval(fault) / 1_000)?;
            }
        }
        Ok(())
    }
}
