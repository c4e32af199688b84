//! The hunt itself: which seeds, how often, what counts as noticed, and the table that comes of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use raft_core::testing::{set_invariants, switch_on};
use raft_tests::sim::mutants::{CI_SEEDS, MUTANTS, Mutant, Noticed};
use raft_tests::sim::{Check, Plan, Tracing, run};

/// A mutant must be noticed within a seventh of the seeds of a CI run, in the middle of cases. Then one that
/// slips past all of them is one in a hundred.
const MEDIAN_MOST: u64 = CI_SEEDS / 7;

/// With fewer kills than this the median says little: then it is enough to be noticed at all.
const KILLS_FOR_A_MEDIAN: usize = 5;

/// The golden scripts take a second. With a fault they may go on for ever.
const SCRIPTS_MOST: Duration = Duration::from_secs(20);

/// Switches on one built-in fault after the other and sees who notices.
#[derive(Debug, Parser)]
struct Cli {
    /// Only those whose names contain this.
    #[arg(default_value = "")]
    only: String,
    /// Events a seed before the faults stop.
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Seeds to try at most, for each.
    #[arg(long, default_value_t = CI_SEEDS)]
    seeds: u64,
    /// Kills after which the median is known well enough.
    #[arg(long, default_value_t = 9)]
    kills: usize,
    /// Leave the golden scripts out.
    #[arg(long)]
    no_scripts: bool,
    /// Only every so manieth mutant, beginning with another one each day.
    #[arg(long, default_value_t = 1)]
    sample: u64,
}

/// How the simulator fared with one mutant.
#[derive(Clone, Debug, Default)]
struct Hunt {
    /// The seeds it took from one kill to the next.
    gaps: Vec<u64>,
    /// What noticed.
    checks: BTreeMap<Check, u32>,
}

impl Hunt {
    fn median(&self) -> Option<u64> {
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied()
    }

    fn first_check(&self) -> String {
        let most = self.checks.iter().max_by_key(|(_, count)| **count);
        most.map_or_else(|| "survives".to_owned(), |(check, _)| format!("{check:?}"))
    }
}

/// All that is known of one mutant.
#[derive(Debug)]
struct Row {
    mutant: Mutant,
    with: Hunt,
    without: Hunt,
    by_scripts: Option<bool>,
}

impl Row {
    /// Why this is not good enough, if it is not.
    fn complaint(&self) -> Option<String> {
        let name = self.mutant.name;
        match self.mutant.by {
            Noticed::ByScripts if self.by_scripts == Some(false) => {
                Some(format!("{name}: no golden script notices"))
            }
            Noticed::ByScripts => None,
            Noticed::BySimulator => {
                let slow = |hunt: &Hunt| match hunt.median() {
                    Some(median) => hunt.gaps.len() >= KILLS_FOR_A_MEDIAN && median > MEDIAN_MOST,
                    None => true,
                };
                (slow(&self.with) || slow(&self.without)).then(|| {
                    let (with, without) = (self.with.median(), self.without.median());
                    format!(
                        "{name}: noticed every {with:?} seeds, without invariants every {without:?}; \
                         it has to be every {MEDIAN_MOST}"
                    )
                })
            }
        }
    }
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let chosen: Vec<_> = MUTANTS.iter().filter(|mutant| mutant.name.contains(&cli.only)).collect();
    let chosen = sample(chosen, cli.sample.max(1));
    let scripts = if cli.no_scripts { None } else { Some(build_scripts()) };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} mutants, {msg}");
    let bar =
        ProgressBar::new(chosen.len() as u64).with_style(style.expect("the template is ours"));
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some(mutant) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    bar.set_message(mutant.name);
                    let row = examine(&cli, **mutant, scripts.as_deref());
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|row| MUTANTS.iter().position(|mutant| *mutant == row.mutant));
    println!("{}", table(&rows));
    let complaints: Vec<_> = rows.iter().filter_map(Row::complaint).collect();
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    println!("{} mutants, {} not noticed well enough", rows.len(), complaints.len());
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every `each`th of them, beginning with another one each day.
fn sample(all: Vec<&'static Mutant>, each: u64) -> Vec<&'static Mutant> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first = since.as_secs() / 86_400 % each;
    (0..).zip(all).filter(|(number, _)| number % each == first).map(|(_, mutant)| mutant).collect()
}

fn examine(cli: &Cli, mutant: Mutant, golden: Option<&Path>) -> Row {
    let (mut with, mut without) = (Hunt::default(), Hunt::default());
    if mutant.by == Noticed::BySimulator {
        with = hunt(cli, mutant.name, true);
        without = hunt(cli, mutant.name, false);
    }
    Row { mutant, with, without, by_scripts: golden.map(|path| scripts(path, mutant.name)) }
}

/// Runs seeds until the mutant was noticed often enough.
fn hunt(cli: &Cli, name: &'static str, invariants: bool) -> Hunt {
    switch_on(name);
    set_invariants(invariants);
    let (mut found, mut last) = (Hunt::default(), 0);
    for seed in 1..=cli.seeds {
        let Some(violation) = run(&Plan::draw(seed, cli.events), Tracing::Off).violation else {
            continue;
        };
        *found.checks.entry(violation.check).or_default() += 1;
        found.gaps.push(seed - last);
        last = seed;
        if found.gaps.len() >= cli.kills {
            break;
        }
    }
    switch_on("");
    set_invariants(true);
    found
}

/// Where the core is.
const CORE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../raft-core");

/// Builds the test program of the golden scripts, with the flags that this program was built with, and
/// says where it is.
fn build_scripts() -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(CORE).args(["test", "--release", "--test", "golden", "--no-run"]);
    let built = cargo.output().expect("cargo is there: it has built this");
    let told = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "the golden scripts cannot be built:\n{told}");
    let path =
        told.split_once("Executable tests/golden.rs (").and_then(|(_, rest)| rest.split_once(')'));
    PathBuf::from(path.expect("cargo says what it has built").0)
}

/// Whether any golden script notices: fails, or never ends.
fn scripts(program: &Path, name: &str) -> bool {
    let mut run = Command::new(program);
    run.current_dir(CORE).env("RAFT_MUTANT", name).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = run.spawn().expect("the test program was given by name");
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return !status.success(),
            Ok(None) if start.elapsed() < SCRIPTS_MOST => thread::sleep(Duration::from_millis(20)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return true;
            }
        }
    }
}

/// As it stands in docs/correctness.md.
fn table(rows: &[Row]) -> String {
    let mut text = "| mutant | rule | first check, invariants on | median seeds | \
                    first check, invariants off | median seeds | golden scripts |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        let median = |hunt: &Hunt| hunt.median().map_or_else(|| "-".to_owned(), |m| m.to_string());
        let check = |hunt: &Hunt| match row.mutant.by {
            Noticed::BySimulator => hunt.first_check(),
            Noticed::ByScripts => "-".to_owned(),
        };
        let scripts = match row.by_scripts {
            Some(true) => "notice",
            Some(false) => "-",
            None => "not run",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {scripts} |",
            row.mutant.name,
            row.mutant.rule,
            check(&row.with),
            median(&row.with),
            check(&row.without),
            median(&row.without),
        );
    }
    text
}
