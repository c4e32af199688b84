//! One run from one plan, and what came of it.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::coverage::Coverage;
use super::plan::{Fault, Plan};
use super::truth::{Check, Violation};
use super::world::World;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// How many events there were.
    pub events: u64,
    /// How much virtual time passed, in microseconds.
    pub micros: u64,
    /// How many writes were acknowledged or read back... committed in all.
    pub committed: u64,
    /// What was met.
    pub coverage: Coverage,
    /// How often each fault struck.
    pub faults: [u64; Fault::ALL.len()],
    /// Equal for equal runs.
    pub digest: u64,
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// What happened, if that was asked for.
    pub trace: Vec<String>,
}

/// Whether what happens is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracing {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Runs `plan`, to the end or to the first rule that is broken.
pub fn run(plan: &Plan, tracing: Tracing) -> Outcome {
    hush_panics();
    let mut world = World::new(plan, tracing == Tracing::On);
    let result = catch_unwind(AssertUnwindSafe(|| {
        while world.events < plan.events {
            world.step()?;
        }
        world.heal()
    }));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(_) => Some(Violation::new(Check::Panic, last_panic())),
    };
    Outcome {
        seed: plan.seed,
        events: world.events,
        micros: world.now,
        committed: world.truth.committed(),
        coverage: world.seen.clone(),
        faults: world.struck,
        digest: world.digest,
        violation,
        trace: world.trace.take().unwrap_or_default(),
    }
}

/// A violation and how to see it again.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.violation {
            None => write!(f, "seed {}: {} events, all held", self.seed, self.events),
            Some(violation) => write!(
                f,
                "seed {}, event {}: {violation}\nsee it again: make replay SEED={}",
                self.seed, self.events, self.seed
            ),
        }
    }
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static SIMULATING: RefCell<bool> = const { RefCell::new(false) };
}

/// A panic in a simulated node is a finding, not noise: it is kept instead of printed.
fn hush_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if SIMULATING.with_borrow(|simulating| *simulating) {
                LAST_PANIC.with_borrow_mut(|last| *last = info.to_string());
            } else {
                usual(info);
            }
        }));
    });
    SIMULATING.with_borrow_mut(|simulating| *simulating = true);
}

fn last_panic() -> String {
    LAST_PANIC.with_borrow_mut(std::mem::take)
}
