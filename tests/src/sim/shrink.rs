//! Finds out what a failure needs: takes away one thing after the other for as long as it still fails.
//!
//! Taking something away changes the course of events, so each attempt is made with a few variations of the
//! seed; the first that fails in the same way is gone on with.

use super::plan::Plan;
use super::run::{Outcome, Tracing, run};
use super::truth::Check;

/// So many variations of the seed are tried for each thing that is taken away.
const ATTEMPTS: u64 = 12;

/// A plan that fails like `plan`, which must fail, and of which nothing can be taken away. `tell` is called
/// with each thing that was not needed.
pub fn shrink(plan: &Plan, mut tell: impl FnMut(&str)) -> Plan {
    let mut best = plan.clone();
    let Some(check) = failure(&best) else { return best };
    loop {
        let mut simpler = None;
        for (what, candidate) in best.simpler() {
            if let Some(found) = variation(&candidate, check) {
                tell(&what);
                simpler = Some(found);
                break;
            }
        }
        match simpler {
            Some(found) => best = found,
            None => return shortest(best, check),
        }
    }
}

fn failure(plan: &Plan) -> Option<Check> {
    run(plan, Tracing::Off).violation.map(|violation| violation.check)
}

/// The plan with another seed with which it fails the same way.
fn variation(plan: &Plan, check: Check) -> Option<Plan> {
    (0..ATTEMPTS)
        .map(|number| plan.with_seed(plan.seed + number * 1_000_003))
        .find(|varied| failure(varied) == Some(check))
}

/// With fewer events before the faults stop, if that is what it takes.
fn shortest(mut plan: Plan, check: Check) -> Plan {
    while plan.events > 100 {
        let half = Plan { events: plan.events / 2, ..plan.clone() };
        let Some(found) = variation(&half, check) else { break };
        plan = found;
    }
    let Outcome { events, .. } = run(&plan, Tracing::Off);
    plan.events = plan.events.min(events);
    plan
}
