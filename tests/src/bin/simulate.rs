//! Runs the simulator from the command line: many seeds on all cores, one seed with its trace, or a failure
//! shrunk to what it needs.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use raft_tests::sim::summary::Summary;
use raft_tests::sim::{Plan, Tracing, run};

/// The deterministic simulator of the consensus core.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs many seeds on all cores, and sums up what they met.
    Run {
        /// How many.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Events a seed before the faults stop.
        #[arg(long, default_value_t = 20_000)]
        events: u64,
        /// Threads; as many as there are cores if not given.
        #[arg(long)]
        threads: Option<usize>,
        /// Go on after a violation.
        #[arg(long)]
        keep_going: bool,
    },
    /// Runs one seed again and prints everything that happened.
    Replay {
        /// Which.
        seed: u64,
        /// Events before the faults stop.
        #[arg(long, default_value_t = 20_000)]
        events: u64,
        /// Print only so many of the last lines.
        #[arg(long, default_value_t = usize::MAX)]
        last: usize,
    },
    /// Takes away from a failing run whatever it does not need to fail, and prints what is left.
    Shrink {
        /// Which.
        seed: u64,
        /// Events before the faults stop.
        #[arg(long, default_value_t = 20_000)]
        events: u64,
        /// Print only so many of the last lines.
        #[arg(long, default_value_t = 80)]
        last: usize,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { seeds, first, events, threads, keep_going } => {
            many(first, seeds, events, threads, keep_going)
        }
        Command::Replay { seed, events, last } => replay(&Plan::draw(seed, events), last),
        Command::Shrink { seed, events, last } => shrink(seed, events, last),
    }
}

fn many(first: u64, seeds: u64, events: u64, threads: Option<usize>, go_on: bool) -> ExitCode {
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {msg} left {eta}");
    let bar = ProgressBar::new(seeds).with_style(style.expect("the template is ours"));
    let (next, summary) = (AtomicU64::new(0), Mutex::new(Summary::default()));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let outcome = run(&Plan::draw(first + number, events), Tracing::Off);
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    if outcome.violation.is_some() {
                        bar.println(outcome.to_string());
                        if !go_on {
                            next.store(seeds, Ordering::Relaxed);
                        }
                    }
                    summary.add(&outcome);
                    bar.inc(1);
                    bar.set_message(format!("{} million events,", summary.events / 1_000_000));
                }
            });
        }
    });
    bar.finish_and_clear();
    let summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", summary.report(start.elapsed(), threads));
    if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(plan: &Plan, last: usize) -> ExitCode {
    println!("{plan}");
    let outcome = run(plan, Tracing::On);
    let skip = outcome.trace.len().saturating_sub(last);
    outcome.trace.iter().skip(skip).for_each(|line| println!("{line}"));
    println!("{outcome}");
    if outcome.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn shrink(seed: u64, events: u64, last: usize) -> ExitCode {
    let plan = Plan::draw(seed, events);
    if run(&plan, Tracing::Off).violation.is_none() {
        println!("seed {seed} does not fail: there is nothing to shrink");
        return ExitCode::SUCCESS;
    }
    let small = raft_tests::sim::shrink::shrink(&plan, |what| eprintln!("still fails: {what}"));
    replay(&small, last);
    ExitCode::FAILURE
}
