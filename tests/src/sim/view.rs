//! Looks at a node after each of its steps: what it takes itself for, its log, its commit index.

use raft_core::{Index, LogId, Membership, NodeId, RoleName};

use super::coverage::Seen;
use super::host::{Role, View};
use super::truth::{Violation, ensure};
use super::world::{What, World, place_of};

impl World<'_> {
    /// Compares a node with what it was before, with the others, and with what is known to be true.
    pub(crate) fn check_view(&mut self, place: usize) -> Result<(), Violation> {
        let host = &self.hosts[place];
        let Some(node) = &host.node else { return Ok(()) };
        let (id, old, raft) = (host.id, host.view, node.raft());
        let new = View {
            term: raft.term(),
            leads: raft.role() == RoleName::Leader,
            role: match raft.role() {
                RoleName::Leader => Role::Leader,
                RoleName::Candidate => Role::Candidate,
                RoleName::PreCandidate => Role::PreCandidate,
                RoleName::Follower | RoleName::Learner => Role::Follower,
            },
            commit: raft.commit(),
            applied: old.applied,
            last: raft.last(),
            membership_at: raft.membership_id(),
            joint: raft.membership().is_joint(),
            removed: raft.removed().is_some(),
        };
        ensure!(new.term >= old.term, Monotone, "the term of {id:?} fell to {}", new.term);
        ensure!(new.commit >= old.commit, Monotone, "the commit index of {id:?} fell");
        if new.leads {
            if old.leads && old.term == new.term {
                self.check_append_only(place, old)?;
            } else {
                self.check_new_leader(place, new)?;
            }
            self.check_one_change(place)?;
        }
        if new.commit > old.commit {
            self.check_commit(place, old, new)?;
        }
        if new.removed && !old.removed {
            self.seen.meet(Seen::KnowsItIsRemoved);
        }
        self.note_roles(place, old, new);
        if new.membership_at != old.membership_at {
            self.note_membership(place, old, new);
        }
        self.hosts[place].view = new;
        Ok(())
    }

    fn check_append_only(&self, place: usize, old: View) -> Result<(), Violation> {
        let host = &self.hosts[place];
        let Some(node) = &host.node else { return Ok(()) };
        let raft = node.raft();
        let kept = raft.last().index >= old.last.index
            && (old.last.index < raft.base().index
                || raft.term_at(old.last.index) == Some(old.last.term));
        ensure!(
            kept,
            LeaderAppendOnly,
            "{:?} leads in {}, held {}, and now ends at {}",
            host.id,
            old.term,
            old.last,
            raft.last()
        );
        Ok(())
    }

    fn check_new_leader(&mut self, place: usize, new: View) -> Result<(), Violation> {
        let id = self.hosts[place].id;
        self.truth.on_leader(new.term, id)?;
        self.tell(place, |_| format!("leads in term {}", new.term));
        let Some(node) = &self.hosts[place].node else { return Ok(()) };
        let (raft, committed) = (node.raft(), self.truth.committed_before(new.term));
        let holds = committed.index == Index::ZERO
            || raft.base().index > committed.index
            || raft.term_at(committed.index) == Some(committed.term);
        ensure!(
            holds,
            LeaderCompleteness,
            "{id:?} leads in {} without {committed}; its log ends at {}",
            new.term,
            new.last
        );
        self.check_votes(place, new)?;
        self.check_leases(place, new)?;
        self.seen.meet(Seen::Elected);
        if self.fault_dice.chance(self.plan.coup) && !self.calm {
            self.schedule.put(self.now, What::Coup(place, self.hosts[place].life));
        }
        if self.fault_dice.chance(self.plan.haste) && !self.calm {
            self.schedule.put(self.now, What::Haste(place, self.hosts[place].life));
        }
        if new.commit.0 + 1 < new.last.index.0 {
            self.seen.meet(Seen::ElectedWithOldTail);
        }
        let others = self.hosts.iter().enumerate().filter(|(other, _)| *other != place);
        if others.into_iter().any(|(_, other)| other.view.leads) {
            self.seen.meet(Seen::TwoLeaders);
            // Soon nobody will be deposed without knowing it: what can go wrong with two has to go fast.
            let at = self.now + self.fault_dice.below(1_000);
            self.schedule.put(at, What::FirstWrite(place, self.hosts[place].life));
        }
        Ok(())
    }

    /// Who has just been elected finds no earlier leader with a lease (rules R5, R6, T3). A process that sleeps or has
    /// not yet got to its clock is told the time before it serves anything.
    fn check_leases(&self, place: usize, new: View) -> Result<(), Violation> {
        for (other, host) in self.hosts.iter().enumerate() {
            let Some(node) = &host.node else { continue };
            let asleep = host.paused || host.run_due;
            let deposed = host.view.leads && host.view.term < new.term;
            if other != place && deposed && !asleep && node.raft().has_lease() {
                let (id, holder) = (self.hosts[place].id, host.id);
                ensure!(
                    false,
                    LeaseExclusion,
                    "{id:?} leads in {}; {holder:?} has a lease",
                    new.term
                );
            }
        }
        Ok(())
    }

    /// A new leader is a voter, or was one for somebody who may count its vote still (rule E11), and was
    /// voted for by a quorum: nobody's disk says otherwise (rules E1, M3, M12). What a later term has overwritten cannot be told any more.
    fn check_votes(&self, place: usize, new: View) -> Result<(), Violation> {
        let host = &self.hosts[place];
        let Some(node) = &host.node else { return Ok(()) };
        let (id, raft) = (host.id, node.raft());
        // What it knows to be committed may be long ago: a voter then, it may have to lead (rule M5).
        let (mut at, mut votes) = (new.last.index, false);
        loop {
            let (since, members) = raft.membership_at(at);
            votes |= members.is_voter(id);
            if votes || since.index <= new.commit || since.index > at {
                break;
            }
            at = since.index.prev();
        }
        votes |= self.truth.ever_voters.contains(&id);
        ensure!(votes, ElectionSafety, "{id:?} leads in {} and is no voter", new.term);
        let may_have = |voter: &&NodeId| {
            self.hosts.get(place_of(**voter)).is_some_and(|other| {
                let hard = other.disk.hard();
                let voted = hard.term == new.term && hard.vote == Some(id);
                voted || hard.term > new.term || other.wiped
            })
        };
        let members = raft.membership();
        let elected = [&members.voters, &members.outgoing]
            .into_iter()
            .all(|half| half.is_empty() || 2 * half.iter().filter(may_have).count() > half.len());
        ensure!(
            elected,
            ElectionSafety,
            "{id:?} leads in {} without the votes of a quorum of {members:?}",
            new.term
        );
        Ok(())
    }

    /// At most one configuration in the log is not committed. A leader may be the last to know that one is.
    fn check_one_change(&self, place: usize) -> Result<(), Violation> {
        let host = &self.hosts[place];
        let Some(node) = &host.node else { return Ok(()) };
        let raft = node.raft();
        let newest = raft.membership_id();
        if newest.index > raft.commit() && newest.index > Index::ZERO {
            let (before, _) = raft.membership_at(newest.index.prev());
            ensure!(
                before.index.0 <= self.truth.committed().max(raft.commit().0),
                OneChange,
                "{:?} has two uncommitted configurations, at {before} and {newest}",
                host.id
            );
        }
        Ok(())
    }

    fn check_commit(&mut self, place: usize, old: View, new: View) -> Result<(), Violation> {
        let id = self.hosts[place].id;
        let mut first_to_know = None;
        let Some(node) = &self.hosts[place].node else { return Ok(()) };
        let raft = node.raft();
        let from = old.commit.0.max(raft.base().index.0.saturating_sub(1));
        for index in from + 1..=new.commit.0 {
            let Some(term) = raft.term_at(Index(index)) else { continue };
            let entry = LogId::new(term, Index(index));
            if index > 0 && self.truth.on_committed(id, entry, new.term)? {
                first_to_know = Some(entry);
                if new.leads && term < new.term {
                    self.seen.meet(Seen::CommittedOldTerm);
                }
            }
        }
        ensure!(
            new.commit.0 <= self.truth.committed(),
            StateMachineSafety,
            "{id:?} holds {} for committed, but only {} entries are",
            new.commit,
            self.truth.committed()
        );
        if let Some(entry) = first_to_know.filter(|_| new.leads) {
            if raft.persisted() < entry.index {
                self.seen.meet(Seen::CommittedBeforeOwnDisk);
            }
            self.check_durable(place, old, entry)?;
        }
        Ok(())
    }

    /// What is committed is on the disks of a quorum, at this moment (rule L10). The configuration may
    /// have changed within the step, so any that was in force during it will do.
    fn check_durable(&self, place: usize, old: View, entry: LogId) -> Result<(), Violation> {
        if self.hosts.iter().any(|host| host.wiped) {
            return Ok(()); // What the lost disk had confirmed cannot be seen any more.
        }
        let Some(node) = &self.hosts[place].node else { return Ok(()) };
        let raft = node.raft();
        let durable = |members: &Membership| self.is_durable(members, entry);
        let holds = durable(raft.membership())
            || durable(&raft.membership_at(entry.index).1)
            || durable(&raft.membership_at(old.membership_at.index).1);
        ensure!(
            holds,
            Durability,
            "{:?} has committed {entry}, which is not on the disks of a quorum of {:?}",
            self.hosts[place].id,
            raft.membership()
        );
        Ok(())
    }

    fn is_durable(&self, members: &Membership, entry: LogId) -> bool {
        [&members.voters, &members.outgoing].into_iter().all(|half| {
            let holding = half.iter().filter(|id| {
                self.hosts.get(place_of(**id)).is_some_and(|host| host.disk.holds(entry))
            });
            half.is_empty() || 2 * holding.count() > half.len()
        })
    }

    fn note_roles(&mut self, place: usize, old: View, new: View) {
        match (old.role, new.role) {
            (Role::Candidate, Role::Follower) => self.seen.meet(Seen::CandidateGaveUp),
            (Role::PreCandidate, Role::Follower) => self.seen.meet(Seen::PreCandidateGaveUp),
            _ => {}
        }
        if old.leads && !new.leads {
            self.seen.meet(if new.term > old.term { Seen::Deposed } else { Seen::SteppedDown });
        }
        if new.role == Role::Candidate && old.role != Role::Candidate {
            let rivals = self.hosts.iter().enumerate().filter(|(other, host)| {
                *other != place && host.view.role == Role::Candidate && host.view.term == new.term
            });
            if rivals.count() > 0 {
                self.seen.meet(Seen::SplitVote);
            }
        }
    }

    fn note_membership(&mut self, place: usize, old: View, new: View) {
        let Some(node) = &self.hosts[place].node else { return };
        let (raft, id) = (node.raft(), self.hosts[place].id);
        let (now, at) = (raft.membership(), new.membership_at);
        let (before_at, before) = raft.membership_at(at.index.prev());
        let (mut met, mut schism) = (Vec::new(), false);
        if old.membership_at.index > at.index {
            met.push(Seen::RolledBack);
        } else if new.leads {
            if now.is_joint() {
                met.push(Seen::Joint);
                schism = true;
            }
            if before.is_joint() && !now.is_joint() && before_at.term != at.term {
                met.push(Seen::JointLeftByAnother);
            }
            if before.learners.iter().any(|learner| now.voters.contains(learner)) {
                met.push(Seen::Promoted);
            }
            if !now.is_voter(id) && before.is_voter(id) {
                met.push(Seen::LeaderRemoved);
            }
        }
        if schism && !self.calm && self.fault_dice.chance(self.plan.coup / 2) {
            self.schedule.put(self.now, What::Schism(place, self.hosts[place].life));
        }
        met.into_iter().for_each(|seen| self.seen.meet(seen));
        let voters = self.hosts[place].membership().into_iter();
        let voters = voters.flat_map(|members| members.voters.iter().chain(&members.outgoing));
        self.truth.ever_voters.extend(voters.copied());
        self.tell(place, |world| {
            let members = world.hosts[place].membership();
            format!("goes by {at} {:?}", members.expect("it is up"))
        });
    }
}
