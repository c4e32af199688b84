//! How one configuration follows from another.
//!
//! Paper: §6; dissertation 4.1 (simple changes), 4.3 (joint consensus). Rules upheld here: M11, M12
//! in part. Pure functions from a configuration and a wish to the next configuration or a reason
//! why not. What is pending, and who may ask, is the leader's business.
//!
//! A change of at most one voter is *simple*: any two majorities before and after it overlap. Everything
//! else goes through a joint configuration, which the leader leaves by itself.

use std::collections::BTreeSet;

use crate::entry::Membership;
use crate::event::{Change, ChangeStep, Refusal};
use crate::types::NodeId;

/// The configuration to append for `change`: simple if that is safe, joint otherwise.
///
/// # Errors
///
/// [`Refusal::NoChange`] if that is in force already, [`Refusal::Invalid`] if `current` is joint, or the
/// change makes no sense. Nothing has changed then.
pub fn next(current: &Membership, change: &Change) -> Result<Membership, Refusal> {
    if current.is_joint() {
        return Err(invalid("the membership is joint; wait until the change is complete"));
    }
    for step in &change.steps {
        // A typo in a node id must not be answered with "done".
        if let ChangeStep::Remove(id) = step
            && !current.contains(*id)
        {
            return Err(not_a_member(*id));
        }
    }
    let joint = enter_joint(current, &change.steps, true)?;
    let several = joint.voters.symmetric_difference(&joint.outgoing).count() > 1;
    let next = if several && !mutant!(raft_mutant = "every_change_is_simple") {
        joint
    } else {
        leave_joint(&joint)
    };
    if next == *current {
        return Err(Refusal::NoChange);
    }
    // What everybody else would refuse to take from us must not be appended.
    next.fault().map_or(Ok(next), |fault| Err(invalid(fault)))
}

/// Enters a joint configuration of `current` and what `steps` make of it. The old half keeps its voters,
/// so those who stop voting go only when the joint configuration is left.
///
/// # Errors
///
/// [`Refusal::Invalid`] if no voter would be left, or a node is not known and no address is given.
pub fn enter_joint(
    current: &Membership,
    steps: &[ChangeStep],
    auto_leave: bool,
) -> Result<Membership, Refusal> {
    let mut next = current.clone();
    next.outgoing = current.voters.clone();
    next.auto_leave = auto_leave;
    for step in steps {
        apply(&mut next, step)?;
    }
    if next.voters.is_empty() {
        return Err(invalid("the change would leave no voter"));
    }
    Ok(next)
}

/// What is in force once a joint configuration is left: the new half alone.
pub fn leave_joint(joint: &Membership) -> Membership {
    let mut next = joint.clone();
    next.outgoing = BTreeSet::new();
    next.learners.append(&mut next.learners_next);
    next.auto_leave = false;
    let members = next.members();
    next.peers.retain(|id, _| members.contains(id));
    next
}

fn apply(next: &mut Membership, step: &ChangeStep) -> Result<(), Refusal> {
    match step {
        ChangeStep::AddVoter(id, address) => {
            learn_address(next, *id, address.as_deref())?;
            next.learners.remove(id);
            next.learners_next.remove(id);
            next.promoting.remove(id);
            next.voters.insert(*id);
        }
        ChangeStep::Admit(id, address) => {
            learn_address(next, *id, address.as_deref())?;
            if next.outgoing.contains(id) {
                // It votes in the old half. It goes on doing so in the new one.
                next.learners_next.remove(id);
                next.voters.insert(*id);
            } else if !next.voters.contains(id) {
                next.learners.insert(*id);
                next.promoting.insert(*id);
            }
        }
        ChangeStep::AddLearner(id, address) => {
            learn_address(next, *id, address.as_deref())?;
            next.voters.remove(id);
            next.promoting.remove(id);
            // While it still votes in the old half it cannot be a learner as well.
            if next.outgoing.contains(id) {
                next.learners_next.insert(*id);
            } else {
                next.learners.insert(*id);
            }
        }
        ChangeStep::Remove(id) => {
            next.voters.remove(id);
            next.learners.remove(id);
            next.learners_next.remove(id);
            next.promoting.remove(id);
            if !next.outgoing.contains(id) {
                next.peers.remove(id);
            }
        }
        ChangeStep::SetAddress(id, address) => {
            if !next.contains(*id) {
                return Err(not_a_member(*id));
            }
            learn_address(next, *id, Some(address))?;
        }
    }
    Ok(())
}

fn learn_address(next: &mut Membership, id: NodeId, address: Option<&str>) -> Result<(), Refusal> {
    match address {
        Some(address) => {
            let returns = !next.voters.contains(&id)
                && !next.learners.contains(&id)
                && !next.learners_next.contains(&id);
            let info = next.peers.entry(id).or_default();
            address.clone_into(&mut info.address);
            if returns {
                info.incarnation = None; // It may have lost its disk while it was away (rule M10).
            }
            Ok(())
        }
        None if next.peers.contains_key(&id) => Ok(()),
        None => Err(invalid(&format!("node {id} is new; say at which address it is"))),
    }
}

fn not_a_member(id: NodeId) -> Refusal {
    invalid(&format!("node {id} is not a member"))
}

fn invalid(why: &str) -> Refusal {
    Refusal::Invalid(why.to_owned())
}

#[cfg(test)]
mod tests {
    use rand_pcg::Pcg32;
    use rand_pcg::rand_core::{RngCore, SeedableRng};

    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn of(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().map(|&id| (node(id), format!("h{id}:1"))))
    }

    fn add(id: u64) -> ChangeStep {
        ChangeStep::AddVoter(node(id), Some(format!("h{id}:1")))
    }

    fn change(steps: Vec<ChangeStep>) -> Change {
        Change { steps, expected_at: None }
    }

    #[test]
    fn one_voter_is_a_simple_change_two_are_joint() {
        let four = next(&of(&[1, 2, 3]), &change(vec![add(4)])).unwrap();
        assert_eq!(format!("{four:?}"), "voters={1 2 3 4}");
        let swap =
            next(&of(&[1, 2, 3]), &change(vec![add(4), ChangeStep::Remove(node(1))])).unwrap();
        assert_eq!(format!("{swap:?}"), "voters={2 3 4} outgoing={1 2 3} auto_leave");
        assert!(swap.peers.contains_key(&node(1)), "the old half still has to be reached");
        let left = leave_joint(&swap);
        assert_eq!(left, of(&[2, 3, 4]));
    }

    #[test]
    fn a_demoted_voter_is_a_learner_only_after_the_joint_configuration() {
        let demote = ChangeStep::AddLearner(node(1), None);
        let joint = next(&of(&[1, 2, 3]), &change(vec![demote, add(4)])).unwrap();
        assert_eq!(
            format!("{joint:?}"),
            "voters={2 3 4} outgoing={1 2 3} learners_next={1} auto_leave"
        );
        assert_eq!(format!("{:?}", leave_joint(&joint)), "voters={2 3 4} learners={1}");
    }

    /// Rule M12.
    #[test]
    fn who_is_admitted_learns_first_and_is_promoted_in_a_simple_change() {
        let admit = ChangeStep::Admit(node(4), Some("h4:1".into()));
        let learning = next(&of(&[1, 2, 3]), &change(vec![admit])).unwrap();
        assert_eq!(format!("{learning:?}"), "voters={1 2 3} learners={4} promoting={4}");
        let promote = change(vec![ChangeStep::AddVoter(node(4), None)]);
        assert_eq!(next(&learning, &promote).unwrap(), of(&[1, 2, 3, 4]));
        let again = next(&of(&[1, 2, 3]), &change(vec![ChangeStep::Admit(node(3), None)]));
        assert_eq!(again, Err(Refusal::NoChange));
    }

    /// Whatever is asked, what comes out is refused or sound, and what is sound is taken by others.
    #[test]
    fn whatever_is_asked_the_result_is_sound() {
        let mut rng = Pcg32::seed_from_u64(7);
        let mut draw = |below: u32| rng.next_u32() % below;
        let mut current = of(&[1, 2, 3]);
        let mut changed = 0;
        for _ in 0..20_000 {
            let mut steps = Vec::new();
            for _ in 0..=draw(4) {
                let id = node(u64::from(draw(9) + 1));
                let address = (draw(4) > 0).then(|| format!("h{id}:1"));
                steps.push(match draw(5) {
                    0 => ChangeStep::AddVoter(id, address),
                    1 => ChangeStep::Admit(id, address),
                    2 => ChangeStep::AddLearner(id, address),
                    3 => ChangeStep::Remove(id),
                    _ => ChangeStep::SetAddress(id, format!("other{id}:{}", draw(3))),
                });
            }
            let Ok(joint) = next(&current, &change(steps.clone())) else { continue };
            assert_eq!(joint.fault(), None, "{current:?} {steps:?}");
            current = if joint.is_joint() { leave_joint(&joint) } else { joint };
            assert_eq!(current.fault(), None, "{steps:?}");
            changed += 1;
        }
        assert!(changed > 5_000, "{changed}");
    }

    #[test]
    fn a_configuration_has_a_limit() {
        let many: Vec<u64> = (1..=64).collect();
        assert_eq!(of(&many).fault(), None);
        assert!(matches!(next(&of(&many), &change(vec![add(65)])), Err(Refusal::Invalid(_))));
        let far = ChangeStep::SetAddress(node(1), "x".repeat(300));
        assert!(matches!(next(&of(&[1]), &change(vec![far])), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn senseless_changes_are_refused() {
        let all = change(vec![ChangeStep::Remove(node(1))]);
        assert!(matches!(next(&of(&[1]), &all), Err(Refusal::Invalid(_))));
        let unknown = change(vec![ChangeStep::AddVoter(node(9), None)]);
        assert!(matches!(next(&of(&[1]), &unknown), Err(Refusal::Invalid(_))));
        let typo = change(vec![ChangeStep::Remove(node(9))]);
        assert!(matches!(next(&of(&[1, 2]), &typo), Err(Refusal::Invalid(_))));
        let elsewhere = change(vec![ChangeStep::SetAddress(node(9), "x:1".into())]);
        assert!(matches!(next(&of(&[1]), &elsewhere), Err(Refusal::Invalid(_))));
    }
}
