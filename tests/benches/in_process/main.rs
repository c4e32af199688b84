//! Three nodes in one process, and writes that no client network carries: `make bench-in-process`.
//!
//! The nodes are real: each has its log on disk and syncs it before it acknowledges, its store, and its
//! threads. Only messages between them are handed over in memory. So this is the most that the core,
//! the log and the store do together on this machine; beside it, the same with a state machine that
//! does nothing, which tells what the store costs.
//!
//! Every run ends by reading back what was acknowledged, from all three nodes: see [`trio`].

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command")]

mod idle;
mod load;
mod trio;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::load::Measured;
use crate::trio::{Machine, Trio};

/// Measures writes to three nodes in one process.
#[derive(Debug, Parser)]
struct Cli {
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many seconds each figure takes.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// How many writes are under way at the same time.
    #[arg(long, value_delimiter = ',', default_value = "256,1000,4000")]
    outstanding: Vec<usize>,
    /// How many bytes a value has.
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// How many keys there are.
    #[arg(long, default_value_t = 100_000)]
    keys: u32,
    /// Where the nodes keep their data. The disk matters.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Cargo says so to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The runs with one machine and so many writes under way.
struct Cell {
    machine: Machine,
    outstanding: usize,
    runs: Vec<Measured>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), String> {
    let data = cli.data.clone().unwrap_or_else(std::env::temp_dir);
    let machines = [Machine::Store, Machine::Idle];
    let cell = |outstanding: &usize| {
        machines.map(|machine| Cell { machine, outstanding: *outstanding, runs: Vec::new() })
    };
    let mut cells: Vec<Cell> = cli.outstanding.iter().flat_map(cell).collect();
    for round in 0..cli.rounds {
        for cell in &mut cells {
            let trio = Trio::start(cell.machine, &data)?;
            let work = load::Work {
                outstanding: cell.outstanding,
                seconds: cli.seconds,
                value_bytes: cli.value_size,
                keys: cli.keys,
            };
            let (measured, acknowledged) = load::run(trio.leader(), &work)?;
            trio.check(&acknowledged)?;
            eprintln!(
                "round {} of {}: {:>5} under way, {:<22} {:>7.0} puts/s",
                round + 1,
                cli.rounds,
                cell.outstanding,
                cell.machine.name(),
                measured.puts_per_s
            );
            cell.runs.push(measured);
        }
    }
    print!("{}", table(&mut cells, cli));
    Ok(())
}

fn table(cells: &mut [Cell], cli: &Cli) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "Three nodes in one process, every write synced by a majority; values of {} B, {} keys, \
         {cores} processors. Medians of {} rounds of {} s (least to most).\n\n\
         | under way | state machine | puts/s | p50 (us) | p99 (us) | CPU a put (us) |\n\
         |---|---|---|---|---|---|\n",
        cli.value_size, cli.keys, cli.rounds, cli.seconds
    );
    for cell in cells {
        let columns: [fn(&Measured) -> f64; 4] =
            [|run| run.puts_per_s, |run| run.p50_us, |run| run.p99_us, |run| run.cpu_us];
        let columns = columns.map(|column| spread(cell.runs.iter().map(column)));
        text += &format!(
            "| {} | {} | {} |\n",
            cell.outstanding,
            cell.machine.name(),
            columns.join(" | ")
        );
    }
    text
}

/// The median, the least and the most.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else { return "-".into() };
    let digits = usize::from(*most < 100.0);
    format!("{:.digits$} ({least:.digits$} to {most:.digits$})", values[values.len() / 2])
}
