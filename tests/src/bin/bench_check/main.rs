//! Whether a crate has become slower: its micro-benchmarks beside those of the last accepted run.
//!
//! `make bench-check` runs the benchmarks that the crates have, takes a few figures out of what they
//! print (or, for criterion, save), and divides each by what a step of a fixed loop takes on this
//! machine at that moment: so a run can be compared with one on another machine or another day. A
//! figure that is a ratio already, such as an append beside the same bytes written by hand, is left
//! as it is.
//!
//! Every figure is the median of some runs. It is a cost: less is better. `ACCEPT=1` stores them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command")]

mod accepted;
mod figures;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::accepted::{accepted, store, tell};
use crate::figures::BENCHES;

/// Compares the micro-benchmarks of all crates with the last accepted run.
#[derive(Debug, Parser)]
struct Cli {
    /// Store what is measured, as that with which later runs are compared.
    #[arg(long)]
    accept: bool,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Measure only the figures whose name begins with this.
    #[arg(long, default_value = "")]
    only: String,
    /// A loss of more percent is told.
    #[arg(long, default_value_t = 15.0)]
    loss: f64,
    /// Where the accepted figures are.
    #[arg(long, default_value = "docs/performance/micro.json")]
    file: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing is lost.
fn run(cli: &Cli) -> Result<bool, String> {
    let accepted = if cli.accept { BTreeMap::new() } else { accepted(&cli.file)? };
    let mut costs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for run in 0..cli.runs {
        for bench in &BENCHES {
            let figures = bench.figures.iter().filter(|figure| figure.name.starts_with(&cli.only));
            let figures: Vec<_> = figures.collect();
            if figures.is_empty() {
                continue;
            }
            eprintln!("run {} of {}: cargo {}", run + 1, cli.runs, bench.command);
            let before = step_ns();
            let printed = bench.run()?;
            let step_ns = f64::midpoint(before, step_ns());
            for figure in figures {
                costs.entry(figure.name).or_default().push(figure.cost(&printed, step_ns)?);
            }
        }
    }
    let medians = costs.into_iter().map(|(name, mut costs)| (name, median(&mut costs)));
    let medians: BTreeMap<&str, f64> = medians.collect();
    if cli.accept {
        store(&cli.file, &medians)?;
    }
    Ok(tell(&medians, &accepted, cli.loss))
}

/// What one step of a fixed loop takes now: arithmetic, and memory that does not fit the nearest
/// cache, as in what is measured.
fn step_ns() -> f64 {
    let mut table = vec![1_u64; CALIBRATION_WORDS];
    let mut laps: Vec<_> = (0..CALIBRATION_LAPS)
        .map(|_| {
            let start = Instant::now();
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            for _ in 0..CALIBRATION_STEPS {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // The remainder is less than the length of the table.
                let at = usize::try_from(state % CALIBRATION_WORDS as u64).unwrap_or_default();
                table[at] = table[at].wrapping_add(state);
            }
            black_box(&table);
            start.elapsed().as_secs_f64() * 1e9 / f64::from(CALIBRATION_STEPS)
        })
        .collect();
    median(&mut laps)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// 4 MiB.
const CALIBRATION_WORDS: usize = 1 << 19;
const CALIBRATION_STEPS: u32 = 4_000_000;
const CALIBRATION_LAPS: usize = 7;
