//! What many runs came to.

use std::fmt::Write as _;
use std::time::Duration;

use super::coverage::Coverage;
use super::plan::Fault;
use super::run::Outcome;

/// The sum of many outcomes.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many runs.
    pub seeds: u64,
    /// Their events.
    pub events: u64,
    /// Their virtual time, in microseconds.
    pub micros: u64,
    /// Entries that were committed.
    pub committed: u64,
    /// What was met.
    pub coverage: Coverage,
    /// How often each fault struck.
    pub faults: [u64; Fault::ALL.len()],
    /// The seeds that failed.
    pub failed: Vec<u64>,
}

impl Summary {
    /// Adds one outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.micros += outcome.micros;
        self.committed += outcome.committed;
        self.coverage.add(&outcome.coverage);
        self.faults.iter_mut().zip(&outcome.faults).for_each(|(sum, more)| *sum += more);
        if outcome.violation.is_some() {
            self.failed.push(outcome.seed);
        }
    }

    /// All of it as text. `took` is the real time, on so many threads.
    pub fn report(&self, took: Duration, threads: usize) -> String {
        let mut text = String::new();
        let hours = self.micros as f64 / 3.6e9;
        let rate = self.events as f64 / took.as_secs_f64() / threads as f64;
        let seeds = self.seeds;
        let _ = writeln!(text, "situations met:\n{}", self.coverage);
        let _ = writeln!(text, "faults:");
        for (fault, count) in Fault::ALL.iter().zip(&self.faults) {
            let _ = writeln!(text, "{count:>12}  {fault:?}");
        }
        let _ = writeln!(
            text,
            "\n{seeds} seeds, {} events, {} entries committed, {hours:.1} simulated hours",
            self.events, self.committed
        );
        let _ = writeln!(
            text,
            "{:.1} s on {threads} threads: {rate:.0} events a second and thread",
            took.as_secs_f64()
        );
        let missed = self.coverage.missed();
        if !missed.is_empty() {
            let _ = writeln!(text, "never met: {missed:?}");
        }
        let _ = match self.failed.as_slice() {
            [] => write!(text, "no rule was broken"),
            failed => write!(text, "{} seeds failed: {failed:?}", failed.len()),
        };
        text
    }
}
