//! Elections: asking, voting, counting.
//!
//! Paper: §5.2, §5.4.1, Figure 2 (`RequestVote`); dissertation 4.2.3, 9.6 (pre-vote), 3.10 (transfer).
//! Rules upheld here: E1, E2, E3, E7, E9, E10, E11, E12, M3, M6, T2.

use std::collections::BTreeMap;

use super::Raft;
use super::outbox::Vouches;
use super::quorum::{self, VoteResult};
use super::role::{Campaigning, Role};
use crate::message::{Campaign, Message, VoteOutcome};
use crate::types::{HardState, LogId, NodeId, Term};

impl Raft {
    // Asking.

    /// Nothing was heard from a leader for too long.
    pub(super) fn on_election_timeout(&mut self) {
        let called = std::mem::take(&mut self.called)
            && !mutant!(raft_mutant = "called_learner_stays_silent");
        let may_campaign = self.is_promotable() || (called && self.may_stand_in());
        if !may_campaign {
            // A learner, a node that was removed, or one whose log is being replaced (rule E12). It
            // may not campaign, but its vote may be needed by one that may (rules E11, M13): it has
            // no leader any more, and must not go on shielding one.
            self.become_follower(self.hard.term, None, None);
            return self.reset_election_timer();
        }
        if self.config.pre_vote {
            self.become_pre_candidate();
        } else {
            self.become_candidate(Campaign::Timeout);
        }
    }

    /// The leader steps aside for us. No pre-vote: it has told the others nothing yet, and they would
    /// shield it (rule T2).
    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        if self.role.known_leader() == Some(from) && self.is_promotable() {
            self.become_candidate(Campaign::Transfer);
        } else {
            self.drop_message();
        }
    }

    /// Asks whether a campaign would succeed (dissertation 9.6). Neither term nor vote changes here.
    fn become_pre_candidate(&mut self) {
        let votes = BTreeMap::from([(self.config.id, true)]);
        self.forget_forwarded_reads();
        self.role = Role::PreCandidate(Campaigning { votes });
        self.reset_election_timer();
        let ask = Message::PreVote { term: self.hard.term.next(), last: self.log.last() };
        self.ask_voters(&ask);
        self.count_pre_votes();
    }

    /// Campaigns in a new term (§5.2). The requests leave, and our own vote counts, once that term is
    /// on disk: otherwise a crash could make us campaign twice in one term (rule E2).
    pub(super) fn become_candidate(&mut self, campaign: Campaign) {
        invariant!(!matches!(self.role, Role::Leader(_)), "a leader cannot campaign");
        self.forget_forwarded_reads();
        self.set_hard(HardState { term: self.hard.term.next(), vote: Some(self.config.id) });
        self.role = Role::Candidate(Campaigning { votes: BTreeMap::new() });
        if mutant!(raft_mutant = "counts_own_vote_at_once") {
            let votes = BTreeMap::from([(self.config.id, true)]);
            self.role = Role::Candidate(Campaigning { votes });
            self.count_votes();
        }
        self.reset_election_timer();
        let ask = Message::Vote { last: self.log.last(), campaign };
        self.ask_voters(&ask);
    }

    fn ask_voters(&mut self, ask: &Message) {
        for id in self.members.members() {
            if self.members.is_voter(id) && !self.is_me(id) {
                self.send(id, ask.clone(), Vouches::Term);
            }
        }
    }

    // Voting.

    /// "Would you vote for me?" Answered without changing anything. A learner answers too: it may be a
    /// voter by now and not know it yet (rule E11).
    pub(super) fn on_pre_vote(&mut self, from: NodeId, term: Term, last: LogId) {
        let good = last >= self.log.last();
        self.called |= !good && self.is_called_by(last);
        let outcome = self.judge(term > self.hard.term && good);
        if mutant!(raft_mutant = "pre_vote_raises_the_term") && term > self.hard.term {
            self.set_hard(HardState { term, vote: None });
        }
        self.send(from, Message::PreVoteReply { term, outcome }, Vouches::Term);
    }

    /// "May I lead?" Granted once per term, to a candidate whose log is at least as up-to-date as ours
    /// (§5.4.1, rule E3), and again to the same one if the answer was lost.
    pub(super) fn on_vote(&mut self, from: NodeId, last: LogId) {
        let free = match () {
            () if mutant!(raft_mutant = "votes_twice") => true,
            () if mutant!(raft_mutant = "repeated_vote_is_refused") => self.hard.vote.is_none(),
            () => self.hard.vote.is_none_or(|vote| vote == from),
        };
        let good = match () {
            () if mutant!(raft_mutant = "votes_without_comparing_logs") => true,
            () if mutant!(raft_mutant = "compares_length_only") => {
                last.index >= self.log.last().index
            }
            () if mutant!(raft_mutant = "votes_only_for_better_logs") => last > self.log.last(),
            () => last >= self.log.last(),
        };
        self.called |= !good && self.is_called_by(last);
        let grant = free && self.leader().is_none() && good;
        if grant {
            if self.hard.vote.is_none() {
                self.set_hard(HardState { term: self.hard.term, vote: Some(from) });
            }
            self.reset_election_timer();
        }
        let outcome = self.judge(grant);
        self.send(from, Message::VoteReply(outcome), Vouches::Term);
    }

    /// Whether somebody whose log ends at `last`, and who cannot have our vote, shows by asking for it that
    /// we may be a voter without knowing. Who lacks what we know to be committed goes by a
    /// configuration of the past.
    fn is_called_by(&self, last: LogId) -> bool {
        let committed = self.term_at(self.commit).map(|term| LogId::new(term, self.commit));
        !self.is_promotable() && committed.is_some_and(|committed| last >= committed)
    }

    fn judge(&self, grant: bool) -> VoteOutcome {
        if grant { VoteOutcome::Granted } else { VoteOutcome::Refused }
    }

    // Counting.

    /// An answer to our pre-vote. One about another term is late, and one to a campaign is not meant
    /// (rule E10).
    pub(super) fn on_pre_vote_reply(&mut self, from: NodeId, term: Term, outcome: VoteOutcome) {
        let next = self.hard.term.next();
        if !self.was_asked(from) {
            return;
        }
        let Role::PreCandidate(campaigning) = &mut self.role else { return };
        if term == next {
            campaigning.votes.entry(from).or_insert(outcome == VoteOutcome::Granted);
            self.count_pre_votes();
        }
    }

    fn count_pre_votes(&mut self) {
        let Role::PreCandidate(campaigning) = &self.role else { return };
        let silence = mutant!(raft_mutant = "silence_is_a_pre_vote").then_some(true);
        match quorum::vote(&self.members, |id| campaigning.votes.get(&id).copied().or(silence)) {
            VoteResult::Won => self.become_candidate(Campaign::Timeout),
            // The others have a leader or better logs. Wait for them.
            VoteResult::Lost => self.become_follower(self.hard.term, None, None),
            VoteResult::Pending => {}
        }
    }

    /// An answer to our campaign, of this term.
    pub(super) fn on_vote_reply(&mut self, from: NodeId, outcome: VoteOutcome) {
        let asked =
            self.outbox.is_term_durable() || mutant!(raft_mutant = "campaigns_before_fsync");
        if !asked || !self.was_asked(from) {
            return; // Until our term is on disk, nobody was asked (rule E2).
        }
        let Role::Candidate(campaigning) = &mut self.role else { return };
        campaigning.votes.entry(from).or_insert(outcome == VoteOutcome::Granted);
        self.count_votes();
    }

    /// Whether `from` may have been asked for its vote: nobody else's is remembered, or strangers could
    /// fill our memory with theirs. A candidate's log, and so its configuration, stays as it is.
    fn was_asked(&self, from: NodeId) -> bool {
        self.members.is_voter(from) || mutant!(raft_mutant = "counts_votes_of_strangers")
    }

    /// Our own vote counts once it is on disk (rule E2).
    pub(super) fn count_own_vote(&mut self) {
        if !self.outbox.is_term_durable() {
            return;
        }
        let me = self.config.id;
        let Role::Candidate(campaigning) = &mut self.role else { return };
        if campaigning.votes.insert(me, true).is_none() {
            self.count_votes();
        }
    }

    /// Only voters of the configuration in force are counted, whoever answers (rules M3, M6).
    fn count_votes(&mut self) {
        let Role::Candidate(campaigning) = &self.role else { return };
        let answer = |id: NodeId| campaigning.votes.get(&id).copied();
        let mut result = quorum::vote(&self.members, answer);
        if mutant!(raft_mutant = "joint_vote_asks_one_half") {
            result = quorum::majority_vote(&self.members.voters, answer);
        }
        let granted = campaigning.votes.values().filter(|granted| **granted).count();
        if (mutant!(raft_mutant = "counts_votes_of_strangers")
            && granted > self.members.voters.len() / 2)
            || (mutant!(raft_mutant = "sole_voter_shortcut") && self.members.voters.len() == 1)
        {
            result = VoteResult::Won;
        }
        match result {
            VoteResult::Won => self.become_leader(),
            // A quorum has refused: nobody may win this term. Wait for the next.
            VoteResult::Lost => self.become_follower(self.hard.term, None, None),
            VoteResult::Pending => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::entry::Membership;
    use crate::event::Event;
    use crate::log_store::Recovered;
    use crate::message::Envelope;
    use crate::snapshot::SnapshotMeta;
    use crate::types::Index;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Rule M6: however many strangers answer, what is remembered of them has a bound.
    #[test]
    fn votes_of_strangers_take_no_room() {
        let voters = [1, 2, 3].map(|id| (node(id), String::new()));
        let membership = Membership::of_voters(voters);
        let base = SnapshotMeta { membership, ..SnapshotMeta::default() };
        for pre_vote in [true, false] {
            let found = Recovered { base: base.clone(), ..Recovered::default() };
            let config = Config { pre_vote, ..Config::new(node(1)) };
            let mut raft = Raft::new(config, found, Index::ZERO, 1);
            let mut effects = Vec::new();
            while matches!(raft.role, Role::Follower(_)) {
                raft.step(Event::Tick, &mut effects);
            }
            for id in 2..1000 {
                let (term, outcome) = (raft.term(), VoteOutcome::Refused);
                let message = match pre_vote {
                    true => Message::PreVoteReply { term: term.next(), outcome },
                    false => Message::VoteReply(outcome),
                };
                if id != 3 {
                    let envelope = Envelope { from: node(id), to: node(1), term, message };
                    raft.step(Event::Received(envelope), &mut effects);
                }
            }
            let (Role::PreCandidate(campaigning) | Role::Candidate(campaigning)) = &raft.role
            else {
                panic!("{:?}: one refusal of three is none", raft.role)
            };
            assert!(campaigning.votes.len() <= 3, "{:?}", campaigning.votes);
        }
    }
}
