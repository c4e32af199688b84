//! Processes die, come back from what is on their disks, and wake from sleep.

use super::coverage::Seen;
use super::truth::{Check, Violation};
use super::world::{What, World};

impl World<'_> {
    /// The process dies, and will be started again some time.
    pub(crate) fn crash(&mut self, place: usize) -> Result<(), Violation> {
        if self.hosts[place].node.is_none() {
            return Ok(());
        }
        self.tell(place, |_| "crashes".to_owned());
        if self.hosts[place].view.joint {
            self.seen.meet(Seen::CrashWhileJoint);
        }
        self.hosts[place].kill();
        let bit = 1u64 << (place % 64);
        self.hosts.iter_mut().for_each(|host| host.met &= !bit);
        self.deferred[place].retain(|what| matches!(what, What::Deliver(_)));
        self.take_answers(place)?;
        self.break_connections(place);
        if self.hosts.iter().all(|host| host.node.is_none()) {
            self.seen.meet(Seen::AllDown);
        }
        let longest = match self.fault_dice.below(3) {
            _ if self.calm => 100_000,
            0 => 20_000,
            1 => 300_000,
            _ => 2_000_000,
        };
        let at = self.now + self.fault_dice.between(1_000, longest);
        self.schedule.put(at, What::Restart(place, self.hosts[place].life));
        Ok(())
    }

    pub(crate) fn on_restart(&mut self, place: usize, life: u32) -> Result<(), Violation> {
        let host = &mut self.hosts[place];
        if host.life != life || host.node.is_some() || host.broken {
            return Ok(());
        }
        let (applied, last) = (host.store.applied().index, host.disk.last().index);
        if applied > last {
            self.seen.meet(Seen::CameBackAhead);
        }
        if last.0 > self.truth.committed() {
            self.seen.meet(Seen::CameBackWithTail);
        }
        if host.disk.hard().vote.is_some() {
            self.seen.meet(Seen::CameBackHavingVoted);
        }
        let seed = self.fault_dice.any();
        if let Err(error) = self.hosts[place].start(self.plan, seed) {
            let id = self.hosts[place].id;
            return Err(Violation::new(Check::Restart, format!("{id:?} cannot start: {error}")));
        }
        self.hosts[place].view.applied = self.hosts[place].store.applied().index;
        self.check_writes(place)?;
        self.tell(place, |world| {
            let host = &world.hosts[place];
            format!(
                "starts: log {}..{}, {:?}, applied {}",
                host.disk.base(),
                host.disk.last(),
                host.disk.hard(),
                host.store.applied()
            )
        });
        self.check_view(place)
    }

    pub(crate) fn on_resume(&mut self, place: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[place];
        if !host.paused {
            return Ok(());
        }
        host.paused = false;
        let led = host.view.leads;
        let term = host.view.term;
        if led && self.hosts.iter().any(|other| other.view.leads && other.view.term > term) {
            self.seen.meet(Seen::WokeDeposed);
        }
        self.tell(place, |_| "wakes".to_owned());
        let host = &mut self.hosts[place];
        // Ring 2 makes up for a heartbeat interval at most, and says so if that is not all, before
        // anything that has come meanwhile (rule E14).
        let overslept = std::mem::take(&mut host.overslept);
        let ticks = overslept.min(self.plan.heartbeat_ticks);
        let node = host.node.as_mut().expect("it lives");
        if ticks < overslept {
            node.skip_ticks();
        }
        (0..ticks).for_each(|_| node.tick());
        for what in std::mem::take(&mut self.deferred[place]) {
            self.schedule.put(self.now, what);
        }
        self.poke(place)
    }
}
