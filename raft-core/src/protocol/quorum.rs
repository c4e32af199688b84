//! Majorities, single and joint.
//!
//! Paper: §5.2 (votes), §5.3 (commitment), §6 (joint consensus). Rules upheld here: M3.
//!
//! Pure arithmetic over sets of voters: no state, no log, no messages. A joint configuration decides
//! as two ordinary ones that must agree, for elections, commitment, reads and check-quorum alike.

use std::collections::BTreeSet;

use crate::entry::Membership;
use crate::types::{Index, NodeId};

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// A majority is for it.
    Won,
    /// A majority can no longer be for it.
    Lost,
    /// Open.
    Pending,
}

/// The highest index that a majority of `voters` is known to have. A voter of unknown index counts
/// as 0. Nobody's majority has everything: an empty set puts no limit on a joint decision.
pub fn majority_committed(
    voters: &BTreeSet<NodeId>,
    matched: impl Fn(NodeId) -> Option<Index>,
) -> Index {
    if voters.is_empty() {
        return Index(u64::MAX);
    }
    // Up to seven voters, which is all but every cluster, need no allocation.
    let mut few = [Index::ZERO; 7];
    let mut many = Vec::new();
    let known: &mut [Index] = if voters.len() <= few.len() {
        &mut few[..voters.len()]
    } else {
        many.resize(voters.len(), Index::ZERO);
        &mut many
    };
    for (slot, &id) in known.iter_mut().zip(voters) {
        *slot = matched(id).unwrap_or(Index::ZERO);
    }
    known.sort_unstable();
    // In ascending order a majority has at least the value that a minority is below.
    if mutant!(raft_mutant = "half_is_a_quorum_to_commit") {
        return known[known.len() / 2];
    }
    known[(known.len() - 1) / 2]
}

/// How the vote of `voters` stands. Nobody's vote is won, as for [`majority_committed`].
pub fn majority_vote(
    voters: &BTreeSet<NodeId>,
    answer: impl Fn(NodeId) -> Option<bool>,
) -> VoteResult {
    let half = mutant!(raft_mutant = "half_is_a_quorum_to_elect");
    let majority = voters.len() / 2 + usize::from(!half || voters.len() < 2);
    let (mut granted, mut open) = (0, 0);
    for &id in voters {
        match answer(id) {
            Some(true) => granted += 1,
            Some(false) => {}
            None => open += 1,
        }
    }
    if voters.is_empty() || granted >= majority {
        VoteResult::Won
    } else if granted + open >= majority {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}

/// The highest index that the configuration's quorum is known to have: both halves' (rule M3).
pub fn committed(membership: &Membership, matched: impl Fn(NodeId) -> Option<Index>) -> Index {
    let incoming = majority_committed(&membership.voters, &matched);
    let outgoing = majority_committed(&membership.outgoing, &matched);
    incoming.min(outgoing)
}

/// How a vote of the configuration stands: won if both halves won, lost if either lost (rule M3).
pub fn vote(membership: &Membership, answer: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
    let incoming = majority_vote(&membership.voters, &answer);
    let outgoing = majority_vote(&membership.outgoing, &answer);
    match (incoming, outgoing) {
        (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
        (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
        (VoteResult::Pending, _) | (_, VoteResult::Pending) => VoteResult::Pending,
    }
}

/// Whether those of whom `heard` says so are a quorum of the configuration.
pub fn is_quorum(membership: &Membership, heard: impl Fn(NodeId) -> bool) -> bool {
    vote(membership, |id| Some(heard(id))) == VoteResult::Won
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().filter_map(|&id| NodeId::new(id)).collect()
    }

    fn at(indices: &[u64]) -> impl Fn(NodeId) -> Option<Index> {
        move |id| indices.get(usize::try_from(id.as_u64()).unwrap() - 1).map(|&i| Index(i))
    }

    #[test]
    fn a_majority_has_the_median_or_the_lower_of_two() {
        assert_eq!(majority_committed(&set(&[1]), at(&[7])), Index(7));
        assert_eq!(majority_committed(&set(&[1, 2]), at(&[7, 3])), Index(3));
        assert_eq!(majority_committed(&set(&[1, 2, 3]), at(&[7, 3, 5])), Index(5));
        assert_eq!(majority_committed(&set(&[1, 2, 3, 4]), at(&[9, 8, 2, 1])), Index(2));
        let nine = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(majority_committed(&set(&nine), at(&nine)), Index(5));
    }

    /// Rule M3.
    #[test]
    fn a_joint_decision_needs_both_halves() {
        let joint =
            Membership { voters: set(&[1, 2, 3]), outgoing: set(&[3, 4, 5]), ..Default::default() };
        assert_eq!(committed(&joint, at(&[9, 9, 9, 1, 2])), Index(2));
        assert!(!is_quorum(&joint, |id| id.as_u64() <= 3));
        assert!(is_quorum(&joint, |id| id.as_u64() >= 2));
        assert_eq!(vote(&joint, |id| (id.as_u64() >= 4).then_some(false)), VoteResult::Lost);
        assert_eq!(vote(&joint, |id| (id.as_u64() <= 3).then_some(true)), VoteResult::Pending);
    }
}
