//! raft-core and raft-rs at the same work, in turns, in one program: `make bench-core`.
//!
//! Three replicas in one thread, logs in memory, commands of 256 bytes: what one costs from being
//! proposed until the leader's state machine has looked at it. One batch at a time; nothing else is in
//! flight. The commands exist already, as `Bytes` that are shared, so that the work of consensus is seen
//! and not that of making them. The sides take turns, so whatever else the machine does hits all
//! alike and the ratios are steadier than the times. What is counted is CPU time, for the same reason. `docs/performance.md` has what came of it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for its author's eyes")]

mod rival;
#[path = "../../trio/mod.rs"]
mod trio;

use std::iter;
use std::time::Duration;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};

use self::rival::{Rival, Tuning};
use self::trio::{Machine, Trio};

const COMMAND_BYTES: usize = 256;
const BATCHES: [usize; 4] = [1, 16, 64, 256];
/// Each side takes so many turns, of so many commands. The first turns do not count.
const TURNS: usize = 41;
const WARMUP: usize = 5;
const COMMANDS: usize = 16 * 1024;

/// One of those who are compared.
struct Side {
    name: &'static str,
    /// Has a batch of so many commands committed, and says what the state machines have seen.
    commit: Box<dyn FnMut(usize) -> [Machine; 3]>,
    seen: [Machine; 3],
    /// Nanoseconds a committed entry, one a turn.
    laps: Vec<f64>,
}

fn main() {
    println!("three replicas in one thread, commands of {COMMAND_BYTES} bytes");
    println!("{TURNS} turns each of {COMMANDS} commands; nanoseconds of CPU a committed entry");
    println!(
        "{:>6}  {:<16} {:>8} {:>17} {:>12} {:>16}",
        "batch", "side", "median", "min-max", "entries/s", "times raft-core"
    );
    for batch in BATCHES {
        let mut sides = [
            ours(),
            theirs("raft-rs", Tuning::Defaults),
            theirs("raft-rs, options", Tuning::Options),
            theirs("raft-rs, by hand", Tuning::ByHand),
        ];
        for turn in 0..WARMUP + TURNS {
            for side in &mut sides {
                let start = cpu_time();
                for _ in 0..COMMANDS / batch {
                    side.seen = (side.commit)(batch);
                }
                let lap = (cpu_time() - start).as_nanos() as f64 / COMMANDS as f64;
                if turn >= WARMUP {
                    side.laps.push(lap);
                }
            }
        }
        check(&sides, batch);
        let base = median(&sides[0].laps);
        for side in &sides {
            side.print(batch, base);
        }
    }
}

/// All have done the same work, and nobody's followers are more than a batch behind.
fn check(sides: &[Side], batch: usize) {
    let [leader, ..] = sides[0].seen;
    assert_eq!(leader.commands, ((WARMUP + TURNS) * (COMMANDS / batch) * batch) as u64);
    for side in sides {
        assert_eq!(side.seen[0], leader, "{}", side.name);
        for follower in &side.seen[1..] {
            assert!(leader.commands - follower.commands <= batch as u64, "{}", side.name);
        }
    }
}

/// What this thread has used so far.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).expect("time used is not negative")
}

fn ours() -> Side {
    let mut trio = Trio::elected();
    let command = Bytes::from(vec![7; COMMAND_BYTES]);
    let commit = move |batch| {
        trio.commit(iter::repeat_n(command.clone(), batch));
        trio.machines()
    };
    Side {
        name: "raft-core",
        commit: Box::new(commit),
        seen: [Machine::default(); 3],
        laps: Vec::new(),
    }
}

fn theirs(name: &'static str, tuning: Tuning) -> Side {
    let mut rival = Rival::elected(tuning);
    let command = Bytes::from(vec![7; COMMAND_BYTES]);
    let commit = move |batch| {
        rival.commit(iter::repeat_n(command.clone(), batch));
        rival.machines()
    };
    Side { name, commit: Box::new(commit), seen: [Machine::default(); 3], laps: Vec::new() }
}

impl Side {
    fn print(&self, batch: usize, base: f64) {
        let median = median(&self.laps);
        let least = self.laps.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.laps.iter().copied().fold(0.0, f64::max);
        println!(
            "{batch:>6}  {:<16} {median:>8.0} {:>17} {:>12.0} {:>15.2}x",
            self.name,
            format!("{least:.0}-{most:.0}"),
            1e9 / median,
            median / base
        );
    }
}

fn median(laps: &[f64]) -> f64 {
    let mut sorted = laps.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
