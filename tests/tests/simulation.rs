//! The simulator on many seeds: nothing that must hold breaks, and everything that may happen happens.
//!
//! Half of the seeds are the same each time, the others are new: what a run prints when it fails is
//! enough to see it again (docs/testing.md).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use raft_tests::sim::mutants::CI_SEEDS;
use raft_tests::sim::summary::Summary;
use raft_tests::sim::{Plan, Tracing, run};

/// So many seeds that are always the same, and as many that are new.
const SEEDS: u64 = CI_SEEDS / 2;
const EVENTS: u64 = 20_000;

/// Runs seeds on all cores until one fails.
fn run_all(first: u64) -> Summary {
    let (next, summary) = (AtomicU64::new(0), Mutex::new(Summary::default()));
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SEEDS {
                        return;
                    }
                    let outcome = run(&Plan::draw(first + number, EVENTS), Tracing::Off);
                    if outcome.violation.is_some() {
                        next.store(SEEDS, Ordering::Relaxed);
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        *failure = Some(outcome.to_string());
                    }
                    summary.lock().unwrap_or_else(PoisonError::into_inner).add(&outcome);
                }
            });
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Election safety, log matching, leader completeness, state machine safety, durability,
/// linearizability and progress, on the seeds that are always the same. And the run is not an idle one:
/// every situation that has a name occurs.
#[test]
fn nothing_breaks_on_the_usual_seeds() {
    let summary = run_all(1);
    assert_eq!(summary.coverage.missed(), [], "situations that were never met");
    assert!(summary.events >= SEEDS * EVENTS);
    let faults: u64 = summary.faults.iter().sum();
    assert!(faults >= 10 * SEEDS, "only {faults} faults");
}

/// The same on seeds that nobody has run before.
#[test]
fn nothing_breaks_on_new_seeds() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let first = since.as_secs() << 20;
    println!("seeds {first} to {}", first + SEEDS);
    run_all(first);
}

/// Scenario 121: the same seed gives the same run, event for event.
#[test]
fn a_seed_is_a_complete_bug_report() {
    for seed in 1..=20 {
        let plan = Plan::draw(seed, EVENTS);
        let (once, again) = (run(&plan, Tracing::Off), run(&plan, Tracing::On));
        assert_eq!((once.digest, once.events), (again.digest, again.events), "seed {seed}");
        assert_ne!(once.digest, run(&Plan::draw(seed + 1_000, EVENTS), Tracing::Off).digest);
    }
}
