//! After the storm: faults stop, all comes back but perhaps a minority, and then there must be progress.
//!
//! Safety is checked all the time; liveness needs a phase of its own, with a bound: ten election timeouts
//! to the next commit, and to everybody's having applied it.

use std::collections::BTreeSet;

use raft_core::testing::DiskFault;
use raft_core::{Membership, NodeId};

use super::clients::Request;
use super::coverage::Seen;
use super::machine::Command;
use super::plan::TICK;
use super::schedule::Micros;
use super::truth::{Violation, ensure};
use super::world::{What, World, place_of};

/// So many events after the storm are no healing any more but a storm of its own.
const HEALING_EVENTS: u64 = 1_000_000;

impl World<'_> {
    /// Stops all faults, and sees whether the cluster recovers.
    pub(crate) fn heal(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.network.heal();
        for place in 0..self.hosts.len() {
            let host = &mut self.hosts[place];
            host.wire.calm();
            host.armed = None;
            host.stall = 0;
            let life = host.life;
            if host.paused {
                self.schedule.put(self.now, What::Resume(place, life));
            }
        }
        self.replace_disks();
        if self.plan.in_step {
            self.fall_into_step()?;
        }
        for place in 0..self.hosts.len() {
            let life = self.hosts[place].life;
            self.schedule.put(self.now, What::Restart(place, life));
        }
        self.advance(1)?; // So that everybody is up whose configuration counts.
        let broken = if self.plan.minority_stays_broken { self.a_minority() } else { Vec::new() };
        for place in &broken {
            self.hosts[*place].broken = true;
            self.crash(*place)?;
        }
        // A timeout is drawn from one to two election timeouts of a clock that may be slow.
        let slowest = self.hosts.iter().map(|host| host.tick).max().unwrap_or_default();
        let timeout = 2 * Micros::from(self.plan.election_ticks) * slowest;
        // What is under way when the storm ends takes its time: a stalled write, a large snapshot.
        let (_, delay) = self.plan.delay;
        let step = delay + self.plan.disk.1 + self.plan.apply.1;
        // With a window of one entry, and much to catch up on, every entry takes a round trip.
        let applied = self.hosts.iter().map(|host| host.store.applied().index.0).min();
        let behind = self.truth.committed() - applied.unwrap_or_default();
        let settling = 10 * timeout + 400 * step + behind * 2 * (step + TICK);
        self.await_progress(settling)?;
        self.check_nothing_lost()?;
        if self.plan.in_step {
            self.seen.meet(Seen::HealedInStep);
        }
        self.seen.meet(if broken.is_empty() { Seen::Healed } else { Seen::HealedWithoutMinority });
        Ok(())
    }

    /// All lose power, and their clocks are set right.
    fn fall_into_step(&mut self) -> Result<(), Violation> {
        for place in 0..self.hosts.len() {
            self.crash(place)?;
            self.hosts[place].tick = TICK;
        }
        Ok(())
    }

    /// A disk that was told to fail, and has not yet, is replaced before it does.
    fn replace_disks(&self) {
        self.hosts.iter().for_each(|host| host.disk.fail_after(u64::MAX, DiskFault::Refused));
    }

    /// Lets this much time pass.
    fn advance(&mut self, span: Micros) -> Result<(), Violation> {
        let until = self.now + span;
        while self.now < until {
            self.step()?;
        }
        Ok(())
    }

    /// Whether an operator's change may still take effect. Whoever lives on must be a quorum by that
    /// configuration, too.
    pub(crate) fn a_change_waits(&self) -> bool {
        self.ops.iter().any(|op| match op.request {
            Request::Change { place, life } => {
                !op.answered && self.hosts[place].node.is_some() && self.hosts[place].life == life
            }
            Request::Write(_)
            | Request::Read { .. }
            | Request::LeaseRead { .. }
            | Request::StaleRead
            | Request::Transfer
            | Request::Forget
            | Request::Repair => false,
        })
    }

    /// Voters that can be missed, by every configuration that anybody goes by or will.
    fn a_minority(&mut self) -> Vec<usize> {
        if self.a_change_waits() {
            return Vec::new();
        }
        let under_way = self.schedule.waiting().chain(self.deferred.iter().flatten());
        let mut configurations: Vec<Membership> =
            under_way.flat_map(What::memberships).cloned().collect();
        for host in &self.hosts {
            let Some(node) = &host.node else { continue };
            configurations.push(node.raft().membership().clone());
            let (_, committed) = node.raft().membership_at(node.raft().commit());
            configurations.push(committed.clone());
        }
        let lost = self.hosts.iter().filter(|host| host.wiped).map(|host| host.id);
        let mut broken: BTreeSet<NodeId> = lost.collect();
        let mut chosen = Vec::new();
        let first = self.fault_dice.place(self.hosts.len());
        for step in 0..self.hosts.len() {
            let place = (first + step) % self.hosts.len();
            let id = self.hosts[place].id;
            if self.hosts[place].wiped {
                continue;
            }
            broken.insert(id);
            if configurations.iter().all(|members| can_miss(members, &broken)) {
                chosen.push(place);
            } else {
                broken.remove(&id);
            }
        }
        // Learners and strangers may stay.
        chosen.retain(|place| {
            configurations.iter().any(|members| members.is_voter(self.hosts[*place].id))
        });
        chosen
    }

    /// Without pre-vote or check-quorum a removed node may disturb the others for as long as it runs
    /// (dissertation 4.2.3). Whoever switches them off has to switch removed nodes off, too.
    fn hush_the_removed(&mut self, leader: usize) -> Result<(), Violation> {
        let Some(node) = &self.hosts[leader].node else { return Ok(()) };
        let settled = node.raft().membership_id().index <= node.raft().commit();
        if (self.plan.pre_vote && self.plan.check_quorum) || !settled {
            return Ok(());
        }
        let members = node.raft().membership().clone();
        for place in 0..self.hosts.len() {
            if !members.contains(self.hosts[place].id) {
                self.hosts[place].broken = true;
                self.crash(place)?;
            }
        }
        Ok(())
    }

    /// The configuration that was committed last.
    fn newest_membership(&self) -> Membership {
        let up = self.hosts.iter().filter_map(|host| host.node.as_ref());
        // A node that was never a member knows of none.
        let newest = up
            .max_by_key(|node| (node.raft().commit(), !node.raft().membership().voters.is_empty()));
        newest.map_or_else(Membership::default, |node| node.raft().membership().clone())
    }

    /// Waits until a new write is acknowledged and everybody who takes part has applied it.
    fn await_progress(&mut self, settling: Micros) -> Result<(), Violation> {
        let deadline = self.now + settling;
        let first = self.ops.len();
        let (mut next_probe, mut done) = (self.now, None);
        let patience = self.events + HEALING_EVENTS;
        while self.now < deadline {
            self.step()?;
            ensure!(
                self.events < patience,
                Liveness,
                "{HEALING_EVENTS} events after the faults stopped, and no progress:\n{}",
                self.facts()
            );
            if done.is_none() && self.now >= next_probe {
                next_probe = self.now + 50_000;
                self.probe()?;
            }
            let probes = first..self.ops.len();
            let acknowledged = |op: &usize| self.truth.was_applied(u32::try_from(*op).unwrap_or(0));
            done =
                done.or_else(|| probes.clone().find(acknowledged).map(|_| self.truth.committed()));
            if let Some(committed) = done
                && self.have_all_applied(committed)
            {
                return Ok(());
            }
        }
        let facts = self.facts();
        ensure!(
            done.is_some(),
            Liveness,
            "no commit within {} ms after the faults stopped:\n{facts}",
            settling / 1_000
        );
        ensure!(
            false,
            Liveness,
            "not everybody has applied {} within {} ms after the faults stopped:\n{facts}",
            done.unwrap_or_default(),
            settling / 1_000
        );
        Ok(())
    }

    /// Asks the leader, if there is one, for a write.
    fn probe(&mut self) -> Result<(), Violation> {
        let leader = self.hosts.iter().enumerate().filter(|(_, host)| host.view.leads);
        let leader = leader.max_by_key(|(_, host)| host.view.term).map(|(place, _)| place);
        let Some(leader) = leader else { return Ok(()) };
        self.hush_the_removed(leader)?;
        let op = u32::try_from(self.ops.len()).expect("fewer than 2^32 operations");
        self.ask(None, leader, Request::Write(Command::Once { op }))
    }

    fn have_all_applied(&self, index: u64) -> bool {
        let members = self.newest_membership();
        if members.is_joint() && members.auto_leave {
            return false; // It is left by itself, whoever leads (rule M4).
        }
        let mut participants = members.members().into_iter().map(|id| &self.hosts[place_of(id)]);
        participants.all(|host| host.broken || host.wiped || host.store.applied().index.0 >= index)
    }

    /// Every number that was ever acknowledged is in every state that has come far enough.
    fn check_nothing_lost(&self) -> Result<(), Violation> {
        for host in self.hosts.iter().filter(|host| !host.broken && !host.wiped) {
            let applied = host.store.applied().index.0;
            for op in 0..u32::try_from(self.ops.len()).expect("fewer than 2^32 operations") {
                let asked = &self.ops[op as usize];
                let Request::Write(Command::Once { op }) = asked.request else { continue };
                let due = self.truth.applied_at(op).is_some_and(|index| index <= applied);
                ensure!(
                    !due || host.store.has(op),
                    Durability,
                    "{:?} has applied {applied} entries, but not #{op}",
                    host.id
                );
            }
        }
        Ok(())
    }

    /// What everybody looks like.
    fn facts(&self) -> String {
        let line = |host: &super::host::Host| {
            let state = match (&host.node, host.broken, host.wiped) {
                (None, _, _) => "down ".to_owned(),
                (Some(_), _, true) => "fenced".to_owned(),
                (Some(node), ..) => format!("{:?}", node.raft().role()),
            };
            let view = &host.view;
            format!(
                "    {:?} {state} t{} last {} commit {} applied {} by {:?}",
                host.id,
                view.term,
                view.last,
                view.commit,
                host.store.applied(),
                host.membership()
            )
        };
        self.hosts.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Whether both halves have a majority without these.
pub(crate) fn can_miss(members: &Membership, broken: &BTreeSet<NodeId>) -> bool {
    [&members.voters, &members.outgoing].into_iter().all(|half| {
        let left = half.iter().filter(|id| !broken.contains(id)).count();
        half.is_empty() || 2 * left > half.len()
    })
}
