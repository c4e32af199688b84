//! A replica and a node fed with whatever comes: every kind of event, with arbitrary fields, in any order.
//!
//! The events are drawn from bytes (`arbitrary`), the bytes from a seed. `cargo test` runs the same seeds each
//! time; `make fuzz` goes on from a fresh one. What fails is shrunk and told step by step.
//!
//! - `FUZZ_RUNS=100000 FUZZ_FIRST=7` draws so many scripts, from this seed on.
//! - With `--cfg raft_mutants`, `RAFT_MUTANT` names the fault to build in (raft-core/src/mutant.rs).
//! - `raft-core/fuzz` feeds the same scripts from a fuzzer that is led by coverage.

#![expect(clippy::print_stdout, reason = "what fails is told step by step")]

#[path = "fuzz/events.rs"]
mod events;
#[path = "fuzz/node.rs"]
mod node;
#[path = "fuzz/promises.rs"]
mod promises;
#[path = "fuzz/replica.rs"]
mod replica;
#[path = "fuzz/script.rs"]
mod script;

use std::panic::{AssertUnwindSafe, catch_unwind};

use arbitrary::{Arbitrary, Unstructured};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{RngCore, SeedableRng};

use crate::node::NodeScript;
use crate::script::Script;

/// Rule L17: hostile, stale, repeated and malformed events, in any order.
#[test]
fn a_replica_survives_whatever_happens() {
    fuzz(20_000, |script: &Script, tell| replica::run(script, tell), |script| &mut script.steps);
}

/// Rules L17, S7: the same for a node with its workers, and snapshots.
#[test]
fn a_node_survives_whatever_arrives() {
    fuzz(10_000, |script: &NodeScript, tell| node::run(script, tell), |script| &mut script.steps);
}

/// Runs scripts drawn from seeds.
fn fuzz<S, T>(runs: u64, run: impl Fn(&S, bool), steps: impl Fn(&mut S) -> &mut Vec<T>)
where
    S: for<'a> Arbitrary<'a> + Clone + std::fmt::Debug,
    T: Clone,
{
    #[cfg(raft_mutants)]
    raft_core::testing::switch_on(std::env::var("RAFT_MUTANT").unwrap_or_default().leak());
    let runs = variable("FUZZ_RUNS").unwrap_or(runs);
    let first = variable("FUZZ_FIRST").unwrap_or(1);
    for seed in first..first + runs {
        let script: S = draw(seed);
        if !fails(&run, &script) {
            continue;
        }
        let silenced = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let script = shrink(script, &run, steps);
        std::panic::set_hook(silenced);
        println!("seed {seed} fails; as little as this does, too:");
        run(&script, true);
        unreachable!("seed {seed} does not fail a second time");
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("it is a number"))
}

/// The script of this seed; most are short, some long.
fn draw<S: for<'a> Arbitrary<'a>>(seed: u64) -> S {
    let mut rng = Pcg32::seed_from_u64(seed);
    let length = 64 << (rng.next_u32() % 6);
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    S::arbitrary(&mut Unstructured::new(&bytes)).expect("there are enough bytes for the start")
}

fn fails<S>(run: &impl Fn(&S, bool), script: &S) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(script, false))).is_err()
}

/// Leaves away what it does not need to fail: halves first, single steps last.
fn shrink<S: Clone, T: Clone>(
    mut script: S,
    run: &impl Fn(&S, bool),
    steps: impl Fn(&mut S) -> &mut Vec<T>,
) -> S {
    let mut size = steps(&mut script).len();
    while size > 0 {
        let mut at = 0;
        while at < steps(&mut script).len() {
            let mut less = script.clone();
            let all = steps(&mut less);
            let end = (at + size).min(all.len());
            all.drain(at..end);
            if fails(run, &less) { script = less } else { at += size }
        }
        size /= 2;
    }
    script
}
