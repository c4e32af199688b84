//! The configuration in force, and those it may fall back to.
//!
//! Paper: §6; dissertation 4.1. Rules upheld here: M8 (truncation rolls back), M9 (recovered with the
//! log). A configuration takes effect when it is appended, committed or not; so when its entry is
//! truncated, the one before it is in force again. How one follows from another is in `change.rs`.

use std::collections::BTreeMap;
use std::ops::Deref;

use crate::entry::{Membership, PeerInfo};
use crate::snapshot::SnapshotMeta;
use crate::types::{Index, LogId, NodeId};

/// The configurations in the log, in order. The first stands at or before the log's base; the last
/// is in force, and this dereferences to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    history: Vec<(LogId, Membership)>,
}

impl Members {
    /// What a log with this base and these configurations after it says.
    pub(crate) fn new(base: &SnapshotMeta, later: Vec<(LogId, Membership)>) -> Self {
        let mut history = vec![(base.membership_at, base.membership.clone())];
        history.extend(later);
        Self { history }
    }

    /// Where the configuration in force was appended.
    pub(crate) fn at(&self) -> LogId {
        self.current().0
    }

    /// The configuration in force at `index`, and where it was appended. The oldest known if `index`
    /// is before all of them.
    pub(crate) fn in_force_at(&self, index: Index) -> &(LogId, Membership) {
        let after = self.history.partition_point(|(at, _)| at.index <= index);
        &self.history[after.saturating_sub(1)]
    }

    /// Whether `id` votes in the committed configuration or in any after it: whatever is not committed
    /// may be rolled back, and until then a server outside of it may be the only one whose log is
    /// good enough to lead (dissertation 4.2.2, rule M5).
    pub(crate) fn may_vote(&self, id: NodeId, commit: Index) -> bool {
        self.since_committed(commit).iter().any(|(_, membership)| membership.is_voter(id))
    }

    /// What is known of everybody in the committed configuration or in any after it: who leaves is
    /// still to be heard until that is committed.
    pub(crate) fn peers(&self, commit: Index) -> BTreeMap<NodeId, PeerInfo> {
        let mut peers = BTreeMap::new();
        for (_, membership) in self.since_committed(commit) {
            peers.extend(membership.peers.iter().map(|(&id, info)| (id, info.clone())));
        }
        peers
    }

    /// Whether nothing but incarnations was recorded since the configuration that was appended at
    /// `index`: to whoever asks for a change it is still the same one.
    pub(crate) fn is_same_since(&self, index: Index) -> bool {
        let from = self.history.partition_point(|(at, _)| at.index < index);
        self.history.get(from).is_some_and(|(at, _)| at.index == index)
            && self.history[from..]
                .windows(2)
                .all(|pair| without_lives(&pair[0].1) == without_lives(&pair[1].1))
    }

    /// Whether `id` takes part in the committed configuration or in any after it.
    pub(crate) fn is_known(&self, id: NodeId, commit: Index) -> bool {
        self.since_committed(commit).iter().any(|(_, membership)| membership.contains(id))
    }

    /// Whether `id` takes part in any configuration that is remembered.
    pub(crate) fn ever_contained(&self, id: NodeId) -> bool {
        self.history.iter().any(|(_, membership)| membership.contains(id))
    }

    fn since_committed(&self, commit: Index) -> &[(LogId, Membership)] {
        let after = self.history.partition_point(|(at, _)| at.index <= commit);
        &self.history[after.saturating_sub(1)..]
    }

    /// A configuration was appended.
    pub(crate) fn append(&mut self, at: LogId, membership: Membership) {
        invariant!(at.index > self.at().index, "configuration {at} after {}", self.at());
        self.history.push((at, membership));
    }

    /// The entries from `from` on are void. Says whether another configuration is in force now.
    pub(crate) fn truncate(&mut self, from: Index) -> bool {
        let keep = self.history.partition_point(|(at, _)| at.index < from).max(1);
        let rolled_back = keep < self.history.len();
        self.history.truncate(keep);
        rolled_back
    }

    /// The log now starts after `base`: configurations that were superseded before it are history.
    pub(crate) fn compact(&mut self, base: Index) {
        let after = self.history.partition_point(|(at, _)| at.index <= base);
        self.history.drain(..after.saturating_sub(1));
    }

    /// A snapshot replaced the log.
    pub(crate) fn reset(&mut self, base: &SnapshotMeta) {
        *self = Self::new(base, Vec::new());
    }

    fn current(&self) -> &(LogId, Membership) {
        self.history.last().expect("there is always the configuration of the base")
    }
}

/// The same configuration as if no incarnation was recorded.
fn without_lives(membership: &Membership) -> Membership {
    let mut without = membership.clone();
    for info in without.peers.values_mut() {
        info.incarnation = None;
    }
    without
}

impl Deref for Members {
    type Target = Membership;

    fn deref(&self) -> &Membership {
        &self.current().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;

    fn of(ids: &[u64]) -> Membership {
        Membership::of_voters(
            ids.iter().filter_map(|&id| NodeId::new(id)).map(|id| (id, String::new())),
        )
    }

    fn id(index: u64) -> LogId {
        LogId::new(Term(1), Index(index))
    }

    /// Rule M8.
    #[test]
    fn truncation_rolls_back_and_compaction_forgets() {
        let base = SnapshotMeta { membership: of(&[1]), ..Default::default() };
        let mut members = Members::new(&base, vec![(id(3), of(&[1, 2])), (id(6), of(&[1, 2, 3]))]);
        assert_eq!(members.voters.len(), 3);
        assert_eq!(members.in_force_at(Index(5)).0, id(3));
        assert!(!members.truncate(Index(7)));
        assert!(members.truncate(Index(6)));
        assert_eq!(members.voters.len(), 2);
        members.compact(Index(4));
        assert!(!members.truncate(Index(1)), "the configuration of the base cannot be truncated");
        assert_eq!(members.at(), id(3));
    }
}
