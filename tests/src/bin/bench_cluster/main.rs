//! Three nodes of ours beside three of etcd: the same load on both, in turns, on one machine.
//!
//! A round runs every cell on a fresh cluster of the one and then of the other, never both at once,
//! and the next round the other way round. What is told are medians over the rounds, the least and
//! the most, and ratios. The load is `raft bench` for both.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command")]

mod cells;
mod flames;
mod growth;
mod report;
mod spread;
mod stages;
mod steady;
mod system;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::cells::{CELLS, Cell, Loss};
use crate::report::Report;
use crate::system::{Kind, System};

/// Measures a cluster of ours beside one of etcd.
#[derive(Debug, Parser)]
struct Cli {
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many seconds each cell takes.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Measure only what has a name that begins with this, such as "put" or "leader".
    #[arg(long)]
    only: Option<String>,
    /// How often a leader is killed, hands over, and is left alone, while clients write.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// With how many keys all nodes are killed and started again.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Measure only our own cluster.
    #[arg(long)]
    alone: bool,
    /// Show where the processor time of our writes goes, and measure nothing else.
    #[arg(long)]
    stages: bool,
    /// Beside that, draw flame graphs of the leader and of a follower into this directory.
    #[arg(long, requires = "stages", value_name = "DIR")]
    flames: Option<PathBuf>,
    /// Put the load of 256 clients on our cluster for so many seconds, and fail if a node holds an
    /// election meanwhile. Measure nothing else.
    #[arg(long, value_name = "SECONDS", conflicts_with = "stages")]
    steady: Option<u32>,
    /// Measure our own cluster as work grows, and nothing else. A --rounds of 3 takes about a quarter
    /// of an hour.
    #[arg(long, conflicts_with_all = ["stages", "steady"])]
    growth: bool,
    /// With how many keys --growth ends. 10,000,000 takes some minutes more a round.
    #[arg(long, default_value_t = 1_000_000)]
    most_keys: u64,
    /// With how many connections --growth ends.
    #[arg(long, default_value_t = 1000)]
    most_connections: u32,
    /// Where the table, the figures and the picture go.
    #[arg(long, default_value = "docs/performance")]
    out: PathBuf,
    /// The binary, built with the feature `etcd`.
    #[arg(long)]
    raft: PathBuf,
    /// Where the nodes keep their data. The disk matters.
    #[arg(long)]
    data: Option<PathBuf>,
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
    if cli.stages {
        return profile(cli, &data);
    }
    if let Some(seconds) = cli.steady {
        println!("{}", steady::run(&cli.raft, &data, seconds)?);
        return Ok(());
    }
    if cli.growth {
        return growth::run(&cli.plan(&data), &cli.out);
    }
    compare(cli, &data)
}

/// Where the processor time of our writes goes.
fn profile(cli: &Cli, data: &Path) -> Result<(), String> {
    for clients in [1, 16, 64, 256, 1000] {
        let system = System::start(Kind::Raft, &cli.raft, data)?;
        println!("{}", stages::table(&system, clients, cli.seconds)?);
    }
    let Some(out) = &cli.flames else { return Ok(()) };
    if let Err(missing) = flames::possible() {
        eprintln!("{missing}");
        return Ok(());
    }
    let system = System::start(Kind::Raft, &cli.raft, data)?;
    for picture in flames::draw(&system, 256, cli.seconds, out)? {
        println!("{}", picture.display());
    }
    system.compare()
}

/// Our cluster beside one of etcd.
fn compare(cli: &Cli, data: &Path) -> Result<(), String> {
    let mut kinds = vec![Kind::Raft];
    if !cli.alone {
        match system::etcd_version() {
            Some(version) => {
                eprintln!("beside {version}");
                kinds.push(Kind::Etcd);
            }
            None => eprintln!(
                "etcd is not installed, so there is nothing to compare with: apt-get install \
                 etcd-server etcd-client"
            ),
        }
    }
    let cells: Vec<&Cell> = CELLS.iter().filter(|cell| cli.chooses(cell.name)).collect();
    let mut report = Report::new(cli.seconds, cli.rounds, cli.keys);
    let rounds = if cells.is_empty() { 0 } else { cli.rounds };
    for round in 0..rounds {
        for kind in in_turn(&kinds, round) {
            eprintln!("round {} of {}: {}", round + 1, cli.rounds, kind.name());
            let system = System::start(kind, &cli.raft, data)?;
            for cell in &cells {
                let figures = cell.measure(&system, cli.seconds)?;
                eprintln!("  {:<22} {}", cell.name, figures.line());
                report.add(kind, cell.name, figures);
            }
        }
    }
    for kind in kinds {
        for loss in Loss::ALL.into_iter().filter(|loss| cli.chooses(loss.name())) {
            report.add_outages(kind, loss, outages(kind, loss, cli, data)?);
        }
        if cli.chooses(cells::RESTART) {
            let system = System::start(kind, &cli.raft, data)?;
            report.add_restart(kind, cells::restart(system, cli.keys)?);
        }
    }
    let text = report.to_markdown();
    println!("{text}");
    let written = fs::create_dir_all(&cli.out)
        .and_then(|()| fs::write(cli.out.join("cluster.md"), &text))
        .and_then(|()| fs::write(cli.out.join("cluster.json"), report.to_json()))
        .and_then(|()| fs::write(cli.out.join("cluster.svg"), report.to_svg()));
    written.map_err(|error| format!("cannot write to {}: {error}", cli.out.display()))
}

impl Cli {
    /// What --growth measures.
    fn plan<'a>(&'a self, data: &'a Path) -> growth::Plan<'a> {
        growth::Plan {
            raft: &self.raft,
            data,
            rounds: self.rounds,
            seconds: self.seconds,
            only: self.only.as_deref(),
            most_keys: self.most_keys,
            most_connections: self.most_connections,
        }
    }

    fn chooses(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|prefix| name.starts_with(prefix))
    }
}

fn outages(kind: Kind, loss: Loss, cli: &Cli, data: &Path) -> Result<Vec<f64>, String> {
    let mut system = System::start(kind, &cli.raft, data)?;
    let mut outages = Vec::new();
    for _ in 0..cli.kills {
        outages.push(loss.outage(&mut system)?);
    }
    eprintln!("  {}, {}: longest waits (ms) {outages:.0?}", kind.name(), loss.name());
    Ok(outages)
}

/// Whoever begins has a colder machine, so they take turns.
fn in_turn(kinds: &[Kind], round: usize) -> Vec<Kind> {
    let mut kinds = kinds.to_vec();
    if round % 2 == 1 {
        kinds.reverse();
    }
    kinds
}
