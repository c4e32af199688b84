//! What goes wrong, and what operators do meanwhile.

use std::collections::BTreeSet;

use raft_core::testing::{DiskFault, MemDisk};
use raft_core::{
    Change, ChangeStep, Incarnation, Index, Membership, NodeId, Refusal, RequestError,
};

use super::clients::{Answer, Op, Request};
use super::coverage::Seen;
use super::healing::can_miss;
use super::host::CrashPoint;
use super::machine::SimStore;
use super::plan::Fault;
use super::schedule::Micros;
use super::truth::Violation;
use super::world::{What, World, place_of};

impl World<'_> {
    /// Lets this fault come some time, if it is planned.
    pub(crate) fn schedule_fault(&mut self, fault: Fault) {
        let interval = self.plan.interval(fault);
        if interval > 0 {
            let at = self.now + self.fault_dice.between(interval / 10, interval * 2);
            self.schedule.put(at, What::Fault(fault));
        }
    }

    /// A fault strikes.
    pub(crate) fn on_fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        self.schedule_fault(fault);
        let Some(place) = self.choose_victim() else { return Ok(()) };
        self.struck[fault as usize] += 1;
        self.tell(place, |_| format!("-- {fault:?}"));
        match fault {
            Fault::Crash => self.arm_crash(place)?,
            Fault::Blackout => {
                for place in 0..self.hosts.len() {
                    self.crash(place)?;
                }
            }
            Fault::Restart => {
                let grace = u32::try_from(self.fault_dice.below(40)).expect("a few");
                let node = self.hosts[place].node.as_mut().expect("the victim is up");
                node.stop(grace);
                self.poke(place)?;
            }
            Fault::Pause => self.pause(place),
            Fault::Partition => self.partition(),
            Fault::OneWay => self.deafen(place),
            Fault::Flap => {
                let other = self.fault_dice.place(self.hosts.len());
                let times = u32::try_from(self.fault_dice.between(3, 20)).expect("a few");
                self.on_flap(place, other, times);
            }
            Fault::DiskError => {
                let how = self.fault_dice.pick(&[DiskFault::Refused, DiskFault::WrittenAllTheSame]);
                let after = self.fault_dice.below(5);
                self.hosts[place].disk.fail_after(after, how);
            }
            Fault::DiskFull => self.hosts[place].disk.fail_after(0, DiskFault::Full),
            Fault::DiskStall => {
                let timeout = Micros::from(self.plan.election_ticks) * self.hosts[place].tick;
                self.hosts[place].stall = self.fault_dice.between(timeout / 2, timeout * 4);
                self.seen.meet(Seen::DiskStalled);
            }
            Fault::MachineError => self.hosts[place].store.fail(),
            Fault::Wipe => self.wipe(place)?,
            Fault::Change => self.change(place)?,
            Fault::Transfer => self.transfer(place)?,
            Fault::Forget => self.forget(place)?,
            Fault::Repair => self.repair_machine(place)?,
            Fault::Oust => self.oust(place),
        }
        Ok(())
    }

    /// Somebody who is up, and the leader more often than others.
    fn choose_victim(&mut self) -> Option<usize> {
        let up = |place: &usize| self.hosts[*place].node.is_some() && !self.hosts[*place].paused;
        let places: Vec<_> = (0..self.hosts.len()).filter(up).collect();
        let leader = places.iter().copied().find(|place| self.hosts[*place].view.leads);
        match leader {
            Some(leader) if self.fault_dice.chance(300_000) => Some(leader),
            _ if places.is_empty() => None,
            _ => Some(self.fault_dice.pick(&places)),
        }
    }

    // Processes.

    fn arm_crash(&mut self, place: usize) -> Result<(), Violation> {
        let point = self.fault_dice.pick(&CrashPoint::ALL);
        if point == CrashPoint::Now {
            return self.crash(place);
        }
        self.hosts[place].armed = Some(point);
        Ok(())
    }

    fn pause(&mut self, place: usize) {
        if self.hosts[place].view.leads {
            self.seen.meet(Seen::LeaderPaused);
        }
        let timeout = Micros::from(self.plan.election_ticks) * self.hosts[place].tick;
        let span = self.fault_dice.between(timeout / 4, timeout * 5);
        self.pause_for(place, span);
    }

    fn pause_for(&mut self, place: usize, span: Micros) {
        let at = self.now + span;
        let host = &mut self.hosts[place];
        host.paused = true;
        self.schedule.put(at, What::Resume(place, host.life));
    }

    /// A leader that was just elected dies, sleeps, or is cut off: entries of many terms, each on few
    /// disks, are what Figure 8 is made of.
    pub(crate) fn on_coup(&mut self, place: usize) -> Result<(), Violation> {
        if self.calm || self.hosts[place].paused {
            return Ok(());
        }
        self.tell(place, |_| "-- Coup".to_owned());
        match self.fault_dice.below(5) {
            0 | 1 => self.arm_crash(place),
            2 => {
                self.pause(place);
                Ok(())
            }
            3 => {
                self.deafen(place);
                Ok(())
            }
            _ => self.on_isolation(place),
        }
    }

    pub(crate) fn on_haste(&mut self, place: usize) -> Result<(), Violation> {
        if self.calm || self.hosts[place].paused {
            return Ok(());
        }
        if let Some(members) = self.hosts[place].membership().cloned() {
            let step = self.wish(&members);
            self.ask_for_change(place, Change { steps: vec![step], expected_at: None })?;
        }
        if self.fault_dice.flip() {
            let later = self.now + self.fault_dice.between(0, self.plan.delay.1);
            self.schedule.put(later, What::Coup(place, self.hosts[place].life));
        }
        Ok(())
    }

    /// A leader keeps its majority, but somebody cannot hear it, and waits for voters who break their
    /// promise or for a leader who counts on it for too long (rule R5).
    fn oust(&mut self, place: usize) {
        let leader = (0..self.hosts.len()).filter(|place| self.hosts[*place].view.leads);
        let leader = leader.max_by_key(|place| self.hosts[*place].view.term).unwrap_or(place);
        let Some(members) = self.hosts[leader].membership() else { return };
        let mut voters: Vec<_> = members.voters.iter().copied().map(place_of).collect();
        voters.retain(|voter| *voter != leader);
        let awake = |place: &usize| self.hosts[*place].node.is_some() && !self.hosts[*place].paused;
        let rivals: Vec<_> = voters.iter().copied().filter(awake).collect();
        if rivals.is_empty() {
            return;
        }
        let rival = self.fault_dice.pick(&rivals);
        voters.retain(|voter| *voter != rival);
        let timeout = Micros::from(self.plan.election_ticks) * self.hosts[rival].tick;
        let links = vec![(leader, rival), (rival, leader)];
        let cut_for = self.fault_dice.between(timeout * 2, timeout * 5);
        links.iter().for_each(|(from, to)| self.network.cut(*from, *to));
        self.schedule.put(self.now + cut_for, What::Mend(links));
        let at = self.now + self.fault_dice.between(timeout, timeout * 5 / 2);
        // Nobody votes for one that has missed a write.
        self.hush_until = at + timeout;
        self.schedule.put(at, What::Betrayal(leader, self.hosts[leader].life, voters));
    }

    /// The voters who kept to a leader die and come back with no memory of it; or their last answers to it
    /// are on the way for almost an election timeout. In either case it is cut off.
    pub(crate) fn on_betrayal(
        &mut self,
        leader: usize,
        voters: Vec<usize>,
    ) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        self.tell(leader, |_| format!("-- Betrayal by {voters:?}"));
        if self.fault_dice.chance(250_000) {
            voters.into_iter().for_each(|voter| self.schedule.put(self.now, What::Bounce(voter)));
            return self.on_isolation(leader);
        }
        let host = &self.hosts[leader];
        let timeout = Micros::from(self.plan.election_ticks) * host.tick;
        let late = self.now + self.fault_dice.between(timeout * 6 / 10, timeout * 9 / 10);
        let beat = Micros::from(self.plan.heartbeat_ticks) * host.tick + self.plan.delay.1;
        let cut = self.now + self.fault_dice.between(beat / 2, beat * 2);
        self.schedule.put(cut, What::Isolation(leader, host.life));
        voters.into_iter().for_each(|voter| self.network.hold(voter, leader, late));
        Ok(())
    }

    /// A process dies and is back in no time.
    pub(crate) fn on_bounce(&mut self, place: usize) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        self.crash(place)?;
        let at = self.now + self.fault_dice.between(100, 3_000);
        self.schedule.put(at, What::Restart(place, self.hosts[place].life));
        Ok(())
    }

    /// Nobody hears a node any more, nor does it hear anybody.
    pub(crate) fn on_isolation(&mut self, place: usize) -> Result<(), Violation> {
        if !self.calm {
            let others = (0..self.hosts.len()).filter(|other| *other != place);
            let links = others.flat_map(|other| [(place, other), (other, place)]).collect();
            self.cut_for_a_while(links);
        }
        Ok(())
    }

    /// The two halves of a joint configuration part: the new half, which may agree among itself, goes with
    /// the leader, and the others may elect one who knows only the old configuration (rule M3).
    pub(crate) fn on_schism(&mut self, place: usize) -> Result<(), Violation> {
        let Some(members) = self.hosts[place].membership().filter(|members| members.is_joint())
        else {
            return Ok(());
        };
        let with: Vec<bool> = self
            .hosts
            .iter()
            .enumerate()
            .map(|(other, host)| other == place || members.voters.contains(&host.id))
            .collect();
        let links = self.links().filter(|(from, to)| with[*from] != with[*to]).collect();
        self.tell(place, |_| "-- Schism".to_owned());
        self.cut_for_a_while(links);
        if self.fault_dice.flip() {
            self.pause(place); // The others have the time to elect one before it notices anything.
        }
        Ok(())
    }

    // Links.

    fn partition(&mut self) {
        let side: Vec<bool> = self.hosts.iter().map(|_| self.fault_dice.flip()).collect();
        let links: Vec<_> = self.links().filter(|(from, to)| side[*from] != side[*to]).collect();
        let (mut left, mut right) = (0, 0);
        let leader = self.hosts.iter().filter(|host| host.view.leads);
        let leader = leader.max_by_key(|host| host.view.term);
        if let Some(members) = leader.and_then(|leader| leader.membership()) {
            for voter in &members.voters {
                if side[place_of(*voter)] { left += 1 } else { right += 1 }
            }
            let majority = 2 * left.max(right) > members.voters.len();
            self.seen.meet(if majority {
                Seen::PartitionWithMajority
            } else {
                Seen::PartitionWithout
            });
        }
        self.cut_for_a_while(links);
    }

    /// One node is not heard, or does not hear, by some others or by all.
    fn deafen(&mut self, place: usize) {
        let (deaf, all) = (self.fault_dice.flip(), self.fault_dice.flip());
        let mut links = Vec::new();
        for other in (0..self.hosts.len()).filter(|other| *other != place) {
            if all || self.fault_dice.flip() {
                links.push(if deaf { (other, place) } else { (place, other) });
            }
        }
        self.seen.meet(Seen::HalfDeaf);
        self.cut_for_a_while(links);
    }

    fn cut_for_a_while(&mut self, links: Vec<(usize, usize)>) {
        for (from, to) in &links {
            self.network.cut(*from, *to);
            // Half of the time the sender's transport knows.
            if self.fault_dice.flip() {
                let peer = self.hosts[*to].id;
                self.hosts[*from].wire.set_reachable(peer, false);
            }
        }
        let timeout = Micros::from(self.plan.election_ticks) * 10_000;
        let at = self.now + self.fault_dice.between(timeout / 2, timeout * 8);
        self.schedule.put(at, What::Mend(links));
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        self.network.mend(from, to);
        let peer = self.hosts[to].id;
        self.hosts[from].wire.set_reachable(peer, true);
    }

    pub(crate) fn on_flap(&mut self, from: usize, to: usize, times: u32) {
        if from == to {
            return;
        }
        if times.is_multiple_of(2) {
            self.mend(from, to);
            self.mend(to, from);
        } else {
            self.network.cut(from, to);
            self.network.cut(to, from);
        }
        if times > 0 {
            let at = self.now + self.fault_dice.between(5_000, 200_000);
            self.schedule.put(at, What::Flap(from, to, times - 1));
        }
    }

    fn links(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let hosts = self.hosts.len();
        let pairs = (0..hosts).flat_map(move |from| (0..hosts).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to)
    }

    // Disks.

    /// A disk is replaced by an empty one, and an operator puts a new node in its place.
    fn wipe(&mut self, place: usize) -> Result<(), Violation> {
        if !self.may_lose_the_disk_of(place) {
            return Ok(());
        }
        self.crash(place)?;
        let host = &mut self.hosts[place];
        host.disk = MemDisk::new();
        host.store = SimStore::new(self.plan.reluctant);
        host.hard = raft_core::HardState::default();
        host.incarnation = Incarnation(host.incarnation.0 + 1);
        host.wiped = true;
        self.tell(place, |_| "has lost its disk".to_owned());
        if self.hosts.len() < 30 {
            self.add_host(MemDisk::new());
        }
        Ok(())
    }

    /// Whether a cluster can bear the loss. Only when everybody knows in which life the disk was: before
    /// that nobody can tell, and rule M10 is the operator's to keep. And only when no log can come to ask
    /// for the vote of the lost node, not even by an entry that is under way, or still on a disk while
    /// what replaces it is being written: who goes by that one waits for ever.
    fn may_lose_the_disk_of(&self, place: usize) -> bool {
        let id = self.hosts[place].id;
        let missed = BTreeSet::from([id]);
        let bears = |members: &Membership| {
            let info = members.peers.get(&id);
            let recorded = info.is_some_and(|info| info.incarnation.is_some());
            !members.contains(id) || (recorded && can_miss(members, &missed))
        };
        let others = self.hosts.iter().enumerate().filter(|(other, _)| *other != place);
        let all_bear = others.map(|(_, host)| host.node.as_ref()).all(|node| {
            node.is_some_and(|node| {
                let raft = node.raft();
                bears(raft.membership())
                    && raft.membership_id().index <= raft.commit()
                    && raft.persisted() == raft.last().index
            })
        });
        let member = self.hosts[place]
            .membership()
            .is_some_and(|members| members.is_voter(id) && can_miss(members, &missed));
        let under_way = self.schedule.waiting().chain(self.deferred.iter().flatten());
        all_bear
            && member
            && under_way.flat_map(What::memberships).all(bears)
            && !self.a_change_waits()
            && !self.hosts.iter().any(|host| host.wiped)
    }

    // The operator.

    fn change(&mut self, place: usize) -> Result<(), Violation> {
        let Some(members) = self.hosts[place].membership().cloned() else { return Ok(()) };
        let at = self.hosts[place].view.membership_at.index;
        let mut steps = self.repair(&members);
        if steps.is_empty() {
            let others = members.voters.len() > 1;
            if self.hosts[place].view.leads && others && self.fault_dice.chance(200_000) {
                return self.purge(place, &members);
            }
            let wishes = self.fault_dice.pick(&[1, 1, 2, 3, 4]);
            (0..wishes).for_each(|_| steps.push(self.wish(&members)));
        }
        let expected_at = match self.fault_dice.below(10) {
            0 => Some(Index(at.0 + 1)),
            1..4 => Some(at),
            _ => None,
        };
        self.ask_for_change(place, Change { steps, expected_at })
    }

    fn ask_for_change(&mut self, place: usize, change: Change) -> Result<(), Violation> {
        let life = self.hosts[place].life;
        let op = self.operator_asks(Request::Change { place, life });
        self.tell(place, |_| format!("is asked: #{op} {change:?}"));
        let answers = self.answers.clone();
        let Some(node) = &mut self.hosts[place].node else { return Ok(()) };
        node.change_membership(change, move |result| answers.put(op, Answer::Change(result)));
        self.poke(place)
    }

    /// Takes out a node whose disk was lost, if there is one.
    fn repair(&mut self, members: &Membership) -> Vec<ChangeStep> {
        let lost = self.hosts.iter().find(|host| host.wiped && members.contains(host.id));
        let Some(lost) = lost.map(|host| host.id) else { return Vec::new() };
        let mut steps = vec![ChangeStep::Remove(lost)];
        if self.fault_dice.flip() {
            let newest = self.hosts[self.hosts.len() - 1].id;
            steps.push(ChangeStep::Admit(newest, Some(format!("host-{newest}:1"))));
        }
        steps
    }

    /// A leader is to go on with those who were no majority before, and those who go may not hear of it:
    /// they may well elect one of theirs.
    fn purge(&mut self, place: usize, members: &Membership) -> Result<(), Violation> {
        let me = self.hosts[place].id;
        let others = members.voters.iter().copied().filter(|voter| *voter != me);
        let gone: Vec<_> = others.take(members.voters.len() / 2 + 1).collect();
        let apart = !self.calm && self.fault_dice.flip();
        self.tell(place, |_| format!("-- Purge of {gone:?}, apart: {apart}"));
        if apart {
            let goes = |place: &usize| gone.contains(&self.hosts[*place].id);
            let links = self.links().filter(|(from, to)| goes(from) != goes(to)).collect();
            self.cut_for_a_while(links);
        }
        let steps = gone.into_iter().map(ChangeStep::Remove).collect();
        self.ask_for_change(place, Change { steps, expected_at: None })?;
        if apart && self.fault_dice.flip() && self.hosts[place].node.is_some() {
            // They have the time to elect one, and to go on, before it notices anything.
            let timeout = Micros::from(self.plan.election_ticks) * self.hosts[place].tick;
            let span = self.fault_dice.between(timeout * 2, timeout * 20);
            self.pause_for(place, span);
        }
        Ok(())
    }

    fn wish(&mut self, members: &Membership) -> ChangeStep {
        let place = self.fault_dice.place(self.hosts.len());
        let id = self.hosts[place].id;
        let address = Some(format!("host-{id}:1"));
        // A node whose disk was lost must not come back under its old id (rule M10).
        if self.hosts[place].wiped {
            return ChangeStep::Remove(id);
        }
        if members.is_voter(id) && members.voters.len() > 1 {
            match self.fault_dice.below(4) {
                0 | 1 => ChangeStep::Remove(id),
                2 => ChangeStep::AddLearner(id, None),
                _ => ChangeStep::SetAddress(id, format!("elsewhere-{id}:1")),
            }
        } else {
            match self.fault_dice.below(4) {
                0 => ChangeStep::AddLearner(id, address),
                1 => ChangeStep::AddVoter(id, address),
                _ => ChangeStep::Admit(id, address),
            }
        }
    }

    fn transfer(&mut self, place: usize) -> Result<(), Violation> {
        let leader = self.hosts.iter().position(|host| host.view.leads && host.node.is_some());
        let place = leader.filter(|leader| !self.hosts[*leader].paused).unwrap_or(place);
        let to = self.fault_dice.place(self.hosts.len());
        let to: NodeId = self.hosts[to].id;
        let op = self.operator_asks(Request::Transfer);
        self.tell(place, |_| format!("is asked: #{op} transfer to {to:?}"));
        let answers = self.answers.clone();
        let Some(node) = &mut self.hosts[place].node else { return Ok(()) };
        node.transfer(to, move |result| answers.put(op, Answer::Transfer(result)));
        if self.fault_dice.chance(300_000) {
            // It has asked for a campaign, and may not hear what came of it (rule T3).
            let at = self.now + self.fault_dice.between(0, 2 * self.plan.delay.1);
            self.schedule.put(at, What::Isolation(place, self.hosts[place].life));
        }
        self.poke(place)
    }

    fn forget(&mut self, place: usize) -> Result<(), Violation> {
        let op = self.operator_asks(Request::Forget);
        self.tell(place, |_| format!("is asked: #{op} forget the leader"));
        let answers = self.answers.clone();
        let Some(node) = &mut self.hosts[place].node else { return Ok(()) };
        node.forget_leader(move |result| answers.put(op, Answer::Forget(result)));
        self.poke(place)
    }

    fn repair_machine(&mut self, place: usize) -> Result<(), Violation> {
        let op = self.operator_asks(Request::Repair);
        self.tell(place, |_| format!("is asked: #{op} repair the state machine"));
        let answers = self.answers.clone();
        let Some(node) = &mut self.hosts[place].node else { return Ok(()) };
        node.request_snapshot(move |result| answers.put(op, Answer::Repair(result)));
        self.poke(place)
    }

    fn operator_asks(&mut self, request: Request) -> u32 {
        let op = u32::try_from(self.ops.len()).expect("fewer than 2^32 operations");
        let floor = self.truth.floor;
        self.ops.push(Op { request, client: None, floor, abandoned: false, answered: false });
        op
    }

    pub(crate) fn on_operator_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Change(Err(RequestError::Refused(Refusal::ChangePending { .. }))) => {
                self.seen.meet(Seen::ChangeRefusedPending);
            }
            Answer::Change(Err(RequestError::Refused(Refusal::MembershipMoved { .. }))) => {
                self.seen.meet(Seen::ChangeRefusedMoved);
            }
            Answer::Transfer(Ok(())) => self.seen.meet(Seen::Transferred),
            Answer::Transfer(Err(RequestError::Refused(Refusal::TimedOut))) => {
                self.seen.meet(Seen::TransferTimedOut);
            }
            Answer::Forget(Ok(())) => self.seen.meet(Seen::Forgot),
            Answer::Repair(Ok(())) => self.seen.meet(Seen::Repaired),
            Answer::Forget(_) | Answer::Repair(_) => {}
            Answer::Change(_) | Answer::Transfer(_) | Answer::Read(_) | Answer::Write(_) => {}
        }
    }
}
