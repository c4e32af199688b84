//! Members that leave: they are told, and stop campaigning.
//!
//! Paper: §6 ("removed servers can disrupt the cluster"); dissertation 4.2.2, 4.2.3. Rules upheld here: M13.
//!
//! A configuration without a node is in force once it is appended, yet the node must learn of it. So the
//! leader goes on replicating to whoever leaves, without counting it, until it has heard that the
//! configuration is committed, or an election timeout or two have passed. Who misses that, because it was
//! cut off, learns it from whomever it asks for a vote.
//!
//! Being told is not taken for the truth of the moment: a node may have been taken back meanwhile. A notice
//! names the entry that removed it, and [`LogId`]s order all committed entries, so a notice counts only as
//! long as the node knows of no later configuration. And a removed node only stops asking for votes: it
//! still grants them and takes entries, for it may be needed by those who have not heard either.

use std::collections::BTreeSet;

use super::Raft;
use super::outbox::Vouches;
use super::role::{Leader, Role};
use crate::entry::PeerInfo;
use crate::event::Effect;
use crate::message::Message;
use crate::transport::Peers;
use crate::types::{Index, LogId, NodeId};

/// A node that the leader still replicates to although it is no member any more.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    /// The configuration without it.
    at: LogId,
    /// Where it is.
    info: PeerInfo,
    /// It has that configuration, and this round of heartbeats told it that it is committed.
    told_in: Option<u64>,
    /// Ticks since that was committed.
    elapsed: u32,
}

/// What this node knows of its own membership.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Removal {
    /// It was a member in some configuration: who was never one has not been removed.
    was_member: bool,
    /// The latest notice.
    told: Option<LogId>,
    /// Whether it was shown that this node was removed.
    shown: bool,
}

impl Leader {
    /// Another configuration is in force: who is not in it any more leaves, who is in it stays.
    pub(super) fn part_with(&mut self, at: LogId, members: &BTreeSet<NodeId>, before: &Peers) {
        self.leaving.retain(|id, _| !members.contains(id));
        for (&id, info) in before {
            if !members.contains(&id) && self.progress.contains_key(&id) {
                let leaving = Leaving { at, info: info.clone(), told_in: None, elapsed: 0 };
                self.leaving.entry(id).or_insert(leaving);
            }
        }
    }

    /// A round of heartbeats begins: who has the configuration without it now hears that it is committed.
    pub(super) fn tell_leaving(&mut self, round: u64, commit: Index) {
        for (id, leaving) in &mut self.leaving {
            let has_it = self.progress.get(id).is_some_and(|p| p.matched >= leaving.at.index);
            if has_it && commit >= leaving.at.index {
                leaving.told_in.get_or_insert(round);
            }
        }
    }

    /// Whether the answer to `round` shows that `id` knows that it is removed.
    pub(super) fn knows_it_left(&self, id: NodeId, round: u64) -> bool {
        let told_in = self.leaving.get(&id).and_then(|leaving| leaving.told_in);
        told_in.is_some_and(|told_in| round >= told_in)
    }

    /// Where those who leave are.
    pub(super) fn leaving_peers(&self) -> impl Iterator<Item = (NodeId, PeerInfo)> + '_ {
        self.leaving.iter().map(|(&id, leaving)| (id, leaving.info.clone()))
    }
}

impl Raft {
    /// Whether this node is no member any more, as far as it knows: since which configuration.
    pub fn removed(&self) -> Option<LogId> {
        if let Some(told) = self.removal.told
            && told > self.members.at()
        {
            return Some(told);
        }
        if mutant!(raft_mutant = "removed_node_goes_on") {
            return None;
        }
        let left = self.removal.was_member && !self.members.is_known(self.config.id, self.commit);
        left.then(|| self.members.in_force_at(self.commit).0)
    }

    /// Another configuration is in force, or one is committed: says so if this node was removed.
    pub(super) fn review_removal(&mut self) {
        self.removal.was_member |= self.members.ever_contained(self.config.id);
        let removed = self.removed();
        let shown = std::mem::replace(&mut self.removal.shown, removed.is_some());
        if let Some(at) = removed.filter(|_| !shown) {
            self.outbox.effect(Effect::Removed { at });
        }
    }

    /// A peer says that we are no member any more. Only somebody we know may say that.
    pub(super) fn on_removed(&mut self, from: NodeId, at: LogId) {
        let known = self.members.is_known(from, self.commit);
        if !known && self.role.known_leader() != Some(from) {
            return self.drop_message();
        }
        self.removal.told = self.removal.told.max(Some(at));
        self.review_removal();
        if self.removed().is_some()
            && matches!(self.role, Role::PreCandidate(_) | Role::Candidate(_))
        {
            self.become_follower(self.hard.term, None, None);
        }
    }

    /// Somebody asks for a vote who is no member any more and may not know it. Its request is judged
    /// like any other all the same: we may be the one who has not heard that it is a member again.
    pub(super) fn tell_if_removed(&mut self, asking: NodeId) {
        let (at, membership) = self.members.in_force_at(self.commit);
        let at = *at;
        let founded = at != LogId::ZERO && !membership.voters.is_empty();
        if founded && !self.members.is_known(asking, self.commit) {
            self.send(asking, Message::Removed { at }, Vouches::Term);
        }
    }

    /// A tick of a leader: who leaves does not keep us for ever. It may be dead.
    pub(super) fn tick_leaving(&mut self) {
        let (commit, limit) = (self.commit, self.config.election_timeout.0.saturating_mul(2));
        let Role::Leader(leader) = &mut self.role else { return };
        let mut over = Vec::new();
        for (&id, leaving) in &mut leader.leaving {
            leaving.elapsed += u32::from(commit >= leaving.at.index);
            if leaving.elapsed >= limit {
                over.push(id);
            }
        }
        for id in over {
            self.notify_leaving(id);
            self.dismiss(id);
        }
    }

    /// Whether we lead, and `id` was removed by a configuration that is committed. Nothing it says
    /// may depose us: it can have been elected in no later term without us hearing that from others.
    pub(super) fn is_gone(&self, id: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        leader.leaving.get(&id).is_some_and(|leaving| leaving.at.index <= self.commit)
    }

    /// Parts with a node that is in a later term than ours and so does not hear heartbeats.
    pub(super) fn part_with_late(&mut self, id: NodeId) {
        self.notify_leaving(id);
        self.dismiss(id);
    }

    /// This leader goes: whoever leaves with it hears so, one by one, without knowing the configuration.
    pub(super) fn notify_all_leaving(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let leaving: Vec<_> = leader.leaving.keys().copied().collect();
        for id in leaving {
            self.notify_leaving(id);
        }
    }

    fn notify_leaving(&mut self, id: NodeId) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(&Leaving { at, .. }) = leader.leaving.get(&id) else { return };
        invariant!(at.index <= self.commit, "{id:?} is told of {at}, which is not committed");
        self.send(id, Message::Removed { at }, Vouches::Term);
    }

    /// Parts with `id`, which was removed: it knows, or cannot be told.
    pub(super) fn dismiss(&mut self, id: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.progress.remove(&id);
        if leader.leaving.remove(&id).is_some() {
            self.outbox.effect(Effect::PeerDismissed(id));
        }
    }
}
