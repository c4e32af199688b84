//! The workers of a node: they take a while, they may fail, and a crash may come before, amid or after
//! what they do.

use raft_core::testing::DiskFault;
use raft_core::{StopCause, StoreError};

use super::coverage::Seen;
use super::host::CrashPoint;
use super::truth::{Check, Violation};
use super::world::{What, World};

impl World<'_> {
    /// Gives idle workers something to do.
    pub(crate) fn start_jobs(&mut self, place: usize) {
        let host = &mut self.hosts[place];
        let Some(node) = &mut host.node else { return };
        if host.log_job.is_none() {
            host.log_job = node.take_log_job();
            if host.log_job.is_some() {
                let (low, high) = self.plan.within_reason(self.plan.disk, self.calm);
                let stall = std::mem::take(&mut host.stall);
                let at = self.now + self.disk_dice.between(low, high) + stall;
                self.schedule.put(at, What::LogDone(place, host.life));
            }
        }
        if host.fetch_job.is_none() {
            host.fetch_job = node.take_fetch_job();
            if host.fetch_job.is_some() {
                let (low, high) = self.plan.within_reason(self.plan.disk, self.calm);
                let at = self.now + self.disk_dice.between(low, high);
                self.seen.meet(Seen::ReadFromDisk);
                self.schedule.put(at, What::FetchDone(place, host.life));
            }
        }
        if host.apply_job.is_none() {
            host.apply_job = node.take_apply_job();
            if host.apply_job.is_some() {
                let (low, high) = self.plan.within_reason(self.plan.apply, self.calm);
                let at = self.now + self.disk_dice.between(low, high);
                self.schedule.put(at, What::ApplyDone(place, host.life));
            }
        }
    }

    pub(crate) fn on_log_done(&mut self, place: usize) -> Result<(), Violation> {
        if self.hosts[place].dies_at(CrashPoint::BeforeWrite) {
            self.seen.meet(Seen::CrashBeforeWrite);
            return self.crash(place);
        }
        let host = &mut self.hosts[place];
        let Some(job) = host.log_job.take() else { return Ok(()) };
        let torn = job.pieces() > 1 && host.dies_at(CrashPoint::TornGroup);
        if torn {
            host.disk.fail_after(1, DiskFault::Refused);
        }
        let node = host.node.as_mut().expect("it lives");
        let result = node.run_log_job(job, &mut host.reports);
        self.check_writes(place)?;
        if torn {
            self.seen.meet(if result.is_err() {
                Seen::CrashTornGroup
            } else {
                Seen::CrashAfterWrite
            });
            return self.crash(place);
        }
        if let Err(cause) = result {
            return self.on_stopped(place, &cause);
        }
        if self.hosts[place].dies_at(CrashPoint::AfterWrite) {
            self.seen.meet(Seen::CrashAfterWrite);
            return self.crash(place);
        }
        self.start_jobs(place);
        self.report(place)
    }

    pub(crate) fn on_fetch_done(&mut self, place: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[place];
        let Some(job) = host.fetch_job.take() else { return Ok(()) };
        let node = host.node.as_mut().expect("it lives");
        match node.run_fetch_job(job) {
            Ok(report) => host.reports.push(report),
            Err(cause) => return self.on_stopped(place, &cause),
        }
        self.start_jobs(place);
        self.report(place)
    }

    pub(crate) fn on_apply_done(&mut self, place: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[place];
        if host.dies_at(CrashPoint::BeforeApply) {
            self.seen.meet(Seen::CrashBeforeApply);
            return self.crash(place);
        }
        let Some(job) = host.apply_job.take() else { return Ok(()) };
        let restores = job.is_restore();
        let mid = !restores && host.dies_at(CrashPoint::MidApply);
        if mid {
            host.store.die_after(1);
        }
        let node = host.node.as_mut().expect("it lives");
        let result = node.run_apply_job(job);
        self.check_applied(place)?;
        self.take_answers(place)?;
        if mid {
            self.seen.meet(if result.is_err() {
                Seen::CrashMidApply
            } else {
                Seen::CrashAfterApply
            });
            return self.crash(place);
        }
        match result {
            Ok(report) => self.hosts[place].reports.push(report),
            Err(cause) => return self.on_stopped(place, &cause),
        }
        if restores {
            self.seen.meet(Seen::SnapshotInstalled);
            if self.hosts[place].dies_at(CrashPoint::AfterRestore) {
                self.seen.meet(Seen::CrashAfterRestore);
                return self.crash(place);
            }
        }
        if self.disk_dice.chance(self.plan.flush) {
            self.hosts[place].store.flush();
        }
        if self.hosts[place].dies_at(CrashPoint::AfterApply) {
            self.seen.meet(Seen::CrashAfterApply);
            return self.crash(place);
        }
        self.start_jobs(place);
        self.report(place)
    }

    /// The node hears of what its workers have done: at once, or a little later.
    pub(crate) fn report(&mut self, place: usize) -> Result<(), Violation> {
        if self.disk_dice.flip() {
            return self.on_heard(place);
        }
        let longest = if self.disk_dice.chance(100_000) { 30_000 } else { 1_000 };
        let at = self.now + self.disk_dice.between(0, longest);
        self.schedule.put(at, What::Heard(place, self.hosts[place].life));
        Ok(())
    }

    pub(crate) fn on_heard(&mut self, place: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[place];
        if host.reports.is_empty() {
            return Ok(());
        }
        let node = host.node.as_mut().expect("it lives");
        host.reports.drain(..).for_each(|report| node.report(report));
        self.poke(place)
    }

    /// A worker has failed, and with it the node.
    pub(crate) fn on_stopped(&mut self, place: usize, cause: &StopCause) -> Result<(), Violation> {
        self.tell(place, |_| format!("stops: {cause}"));
        self.seen.meet(match cause {
            StopCause::Log(error) if matches!(**error, StoreError::Full { .. }) => {
                Seen::StoppedByFullDisk
            }
            StopCause::Log(error) if matches!(**error, StoreError::Gap { .. }) => {
                return Err(Violation::new(Check::LogMatching, cause.to_string()));
            }
            StopCause::Log(_) => Seen::StoppedByDisk,
            StopCause::Machine(_) => Seen::StoppedByMachine,
            StopCause::Asked | StopCause::Bug(_) | _ => {
                return Err(Violation::new(Check::Panic, cause.to_string()));
            }
        });
        self.crash(place)
    }
}
