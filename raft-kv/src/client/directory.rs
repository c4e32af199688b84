//! What a client knows of a cluster: where its nodes are, who leads, and what it has seen.
//!
//! No network and no clock here; times are handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft_core::{Index, NodeId, Term};
use tokio::time::Instant;

use crate::api::{Header, LeaderHint, Members};

/// What a client knows of a cluster.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The endpoints its user gave, in that order.
    given: Vec<String>,
    /// The members, from the newest configuration it was told of.
    members: BTreeMap<NodeId, String>,
    members_at: Index,
    leader: Option<Leader>,
    /// The newest term it has heard of.
    term: Term,
    /// The last index of which it has seen the effect (rule C8).
    applied: Index,
    /// When each endpoint last answered.
    heard: BTreeMap<String, Instant>,
    /// The newest term in which each endpoint has said that it does not lead.
    denied: BTreeMap<String, Term>,
    /// Those that did not answer when last asked. They are asked last.
    silent: BTreeSet<String>,
    /// When others were last asked who leads, because a leader said nothing.
    looked_out: Option<Instant>,
    /// For how long a leader may say nothing before that happens.
    patience: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Leader {
    address: String,
    term: Term,
}

/// Whom to ask first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preference {
    /// The leader, since only it can answer.
    Leader,
    /// The endpoints that were given, in that order: anybody will do.
    Given,
}

impl Directory {
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        Self {
            given: endpoints,
            members: BTreeMap::new(),
            members_at: Index::ZERO,
            leader: None,
            term: Term(0),
            applied: Index::ZERO,
            heard: BTreeMap::new(),
            denied: BTreeMap::new(),
            silent: BTreeSet::new(),
            looked_out: None,
            patience: PATIENCE_LEAST,
        }
    }

    pub(crate) fn given(&self) -> &[String] {
        &self.given
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied
    }

    /// The endpoint to ask next, other than those in `tried`.
    pub(crate) fn next(&self, tried: &BTreeSet<String>, preference: Preference) -> Option<String> {
        let leader = match preference {
            Preference::Leader => self.leader.as_ref().map(|leader| &leader.address),
            Preference::Given => None,
        };
        let all = leader.into_iter().chain(&self.given).chain(self.members.values());
        let left: Vec<_> = all.filter(|endpoint| !tried.contains(*endpoint)).collect();
        let is_silent = |endpoint: &String| self.silent.contains(endpoint);
        left.iter().find(|e| !is_silent(e)).or_else(|| left.first()).map(|e| (*e).clone())
    }

    /// The first term of which another leader would be news: if `endpoint` leads, that after its own.
    pub(crate) fn led_until(&self, endpoint: &str) -> Term {
        let leads = self.leader.as_ref().filter(|leader| leader.address == endpoint);
        leads.map_or(Term(0), |leader| Term(leader.term.0.saturating_add(1)))
    }

    /// Whether another node than `endpoint` leads, as far as is known, in `since` or later.
    pub(crate) fn leads_elsewhere(&self, endpoint: &str, since: Term) -> bool {
        self.leader
            .as_ref()
            .is_some_and(|leader| leader.address != endpoint && leader.term >= since)
    }

    /// For how long a leader may say nothing before others are asked about it: a few times as long as its answers
    /// took lately.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// A leader has answered after this time. One slow answer makes patient for some that follow: who is busy is
    /// not slow each time.
    pub(crate) fn on_answer_after(&mut self, time: Duration) {
        let expected = (4 * time).clamp(PATIENCE_LEAST, PATIENCE_MOST);
        self.patience = expected.max(self.patience * 3 / 4);
    }

    /// Whom to ask about the silence of `endpoint`. Nobody, if others were asked a moment before `now`.
    pub(crate) fn begin_lookout(&mut self, endpoint: &str, now: Instant) -> BTreeSet<String> {
        if self.looked_out.is_some_and(|at| now.duration_since(at) < self.patience) {
            return BTreeSet::new();
        }
        self.looked_out = Some(now);
        let all = self.given.iter().chain(self.members.values());
        all.filter(|other| *other != endpoint).take(MEMBERS).cloned().collect()
    }

    /// `endpoint` says that `leader` leads in `term`: believed only if that is newer than what is known.
    pub(crate) fn on_rumour(&mut self, endpoint: &str, leader: &LeaderHint, term: Term) {
        let is_news = self.leader.as_ref().is_none_or(|known| known.term < term);
        let is_denied = self.denied.get(&leader.address).is_some_and(|denied| *denied >= term);
        if is_news && !is_denied && term >= self.term && is_plausible(&leader.address) {
            tracing::debug!(endpoint, leader = leader.address, %term, "another node leads");
            self.leader = Some(Leader { address: leader.address.clone(), term });
        }
    }

    /// Whether `endpoint` has answered within `span` before `now`.
    pub(crate) fn is_fresh(&self, endpoint: &str, now: Instant, span: Duration) -> bool {
        self.heard.get(endpoint).is_some_and(|heard| now.duration_since(*heard) <= span)
    }

    /// `endpoint` has answered.
    pub(crate) fn on_reply(&mut self, endpoint: &str, header: &Header, now: Instant) {
        self.term = self.term.max(header.term);
        self.silent.remove(endpoint);
        self.heard.insert(endpoint.to_owned(), now);
        self.forget_strangers();
    }

    /// The user is about to see the effect of everything up to `applied`.
    pub(crate) fn on_seen(&mut self, applied: Index) {
        self.applied = self.applied.max(applied);
    }

    /// `endpoint` has done what only a leader can.
    pub(crate) fn on_led(&mut self, endpoint: &str, term: Term) {
        if self.leader.as_ref().is_none_or(|leader| leader.term <= term) {
            self.leader = Some(Leader { address: endpoint.to_owned(), term });
        }
    }

    /// `endpoint` says that it does not lead, and who does in `term`. Returns whom to ask again if
    /// it was asked before that term.
    ///
    /// A hint is trusted only if its term is not older than the newest that was heard of: a node
    /// that was cut off still believes in a leader long gone. Nor does it lead back to a node that
    /// has denied it in that term: two that believe in each other would make a circle.
    pub(crate) fn on_not_leader(
        &mut self,
        endpoint: &str,
        hint: Option<&LeaderHint>,
        term: Term,
    ) -> Option<String> {
        if self.leader.as_ref().is_some_and(|leader| leader.address == endpoint) {
            self.leader = None;
        }
        let denied = self.denied.entry(endpoint.to_owned()).or_insert(term);
        *denied = term.max(*denied);
        if term < self.term {
            return None;
        }
        self.term = term;
        if self.leader.as_ref().is_some_and(|leader| leader.term < term) {
            self.leader = None;
        }
        let address = &hint.filter(|hint| is_plausible(&hint.address))?.address;
        if address == endpoint || self.denied.get(address).is_some_and(|denied| *denied >= term) {
            return None;
        }
        self.leader = Some(Leader { address: address.clone(), term });
        Some(address.clone())
    }

    /// `endpoint` has not answered. It is not taken for the leader any more.
    pub(crate) fn on_silence(&mut self, endpoint: &str) {
        self.heard.remove(endpoint);
        self.silent.insert(endpoint.to_owned());
        if self.leader.as_ref().is_some_and(|leader| leader.address == endpoint) {
            self.leader = None;
        }
    }

    /// Somebody has told who the members are.
    pub(crate) fn on_members(&mut self, members: &Members) {
        let addresses = members.addresses();
        if members.membership_at < self.members_at || addresses.is_empty() {
            return; // Old news, or none.
        }
        self.members_at = members.membership_at;
        self.members = addresses;
        self.members.retain(|_, address| is_plausible(address));
        while self.members.len() > MEMBERS {
            self.members.pop_last();
        }
        self.forget_strangers();
    }
}

impl Directory {
    /// Drops what is known of endpoints that are neither given nor members, if that has become
    /// much.
    fn forget_strangers(&mut self) {
        let Self { given, members, heard, denied, silent, .. } = self;
        if heard.len().max(denied.len()).max(silent.len()) <= ENDPOINTS {
            return;
        }
        let is_known = |e: &String| given.contains(e) || members.values().any(|member| member == e);
        heard.retain(|e, _| is_known(e));
        denied.retain(|e, _| is_known(e));
        silent.retain(|e| is_known(e));
    }
}

fn is_plausible(address: &str) -> bool {
    !address.is_empty() && address.len() <= ADDRESS_BYTES
}

/// The least and the most that a leader may say nothing before others are asked about it.
const PATIENCE_LEAST: Duration = Duration::from_millis(50);
const PATIENCE_MOST: Duration = Duration::from_secs(1);
/// More members than any cluster has. A node cannot make a client remember more.
const MEMBERS: usize = 64;
/// So many endpoints may be known of before those that are not members are forgotten.
const ENDPOINTS: usize = 4 * MEMBERS;
/// The longest address that is remembered: that of the longest host name, and a port.
const ADDRESS_BYTES: usize = 253 + 1 + 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(address: &str) -> LeaderHint {
        LeaderHint { node: NodeId::new(1).unwrap(), address: address.to_owned() }
    }

    fn directory() -> Directory {
        Directory::new(vec!["a".to_owned(), "b".to_owned()])
    }

    fn next(directory: &Directory) -> String {
        directory.next(&BTreeSet::new(), Preference::Leader).unwrap()
    }

    #[test]
    fn a_hint_is_followed_unless_it_is_older_than_what_is_known() {
        let mut directory = directory();
        assert_eq!(next(&directory), "a");
        assert_eq!(directory.on_not_leader("a", Some(&hint("c")), Term(5)), Some("c".to_owned()));
        assert_eq!(next(&directory), "c");
        assert_eq!(directory.on_not_leader("b", Some(&hint("d")), Term(4)), None, "older");
        assert_eq!(next(&directory), "c");
        assert_eq!(directory.on_not_leader("c", Some(&hint("a")), Term(5)), None, "a circle");
        assert_eq!(
            directory.on_not_leader("b", Some(&hint("c")), Term(5)),
            None,
            "c has denied it"
        );
        assert_eq!(directory.on_not_leader("b", Some(&hint("d")), Term(6)), Some("d".to_owned()));
        assert_eq!(next(&directory), "d");
        assert_eq!(directory.on_not_leader("b", None, Term(7)), None);
        assert_eq!(next(&directory), "a", "the leader of an older term is none");
    }

    #[test]
    fn who_does_not_answer_is_asked_last_until_it_does() {
        let mut directory = directory();
        directory.on_led("a", Term(1));
        directory.on_silence("a");
        assert_eq!(next(&directory), "b");
        let tried = BTreeSet::from(["b".to_owned()]);
        assert_eq!(directory.next(&tried, Preference::Leader), Some("a".to_owned()));
        let node = NodeId::new(1).unwrap();
        let header =
            Header { node, term: Term(1), applied: Index(0), revision: crate::Revision(1) };
        directory.on_reply("a", &header, Instant::now());
        assert_eq!(next(&directory), "a");
    }

    #[test]
    fn absurd_addresses_are_not_remembered() {
        let mut directory = directory();
        let long = "x".repeat(300);
        assert_eq!(directory.on_not_leader("a", Some(&hint(&long)), Term(5)), None);
        assert_eq!(directory.on_not_leader("a", Some(&hint("")), Term(5)), None);
        assert_eq!(next(&directory), "a");
    }
}
