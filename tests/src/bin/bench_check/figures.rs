//! What is measured: which benchmarks are run, and where in what they say each figure is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// A program that measures.
pub(crate) struct Bench {
    /// What cargo is told to run it.
    pub(crate) command: &'static str,
    pub(crate) figures: &'static [Figure],
}

/// A number of a benchmark.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    is_in: Place,
    kind: Kind,
}

/// Where a number is.
enum Place {
    /// In a line that begins with these words, so many words further on.
    Line(&'static str, usize),
    /// In what criterion has saved of this benchmark.
    Criterion(&'static str),
}

/// What a number is.
#[derive(Clone, Copy)]
enum Kind {
    /// So many nanoseconds for each.
    Nanos,
    /// So many microseconds for each.
    Micros,
    /// So many a second.
    Rate,
    /// A ratio to something that was measured beside it.
    Ratio,
}

pub(crate) const BENCHES: [Bench; 4] = [
    Bench {
        command: "bench -p raft-core --bench core --locked -- --noplot --warm-up-time 1 \
                  --measurement-time 3",
        figures: &[
            criterion("core: commit of 1", "commit/batch 1"),
            criterion("core: commit of 16", "commit/batch 16"),
            criterion("core: commit of 64", "commit/batch 64"),
            criterion("core: commit of 256", "commit/batch 256"),
            criterion("core: 1,000 idle groups", "heartbeat/round of 1000 idle groups"),
        ],
    },
    Bench {
        command: "bench --workspace --bench log --locked -- append",
        // The tenth part that was quickest: the rest is mostly the disk's.
        figures: &[
            line("log: append of 1, beside the limit", "256 1 raft-log", 4, Kind::Ratio),
            line("log: append of 16, beside the limit", "256 16 raft-log", 4, Kind::Ratio),
            line("log: append of 256, beside the limit", "256 256 raft-log", 4, Kind::Ratio),
        ],
    },
    Bench {
        command: "bench --workspace --bench kv --locked -- apply read",
        figures: &[
            line("kv: apply one by one, new keys", "1", 0, Kind::Rate),
            line("kv: apply 64 at once, new keys", "64", 0, Kind::Rate),
            line("kv: apply 64 at once, known keys", "64", 1, Kind::Rate),
            line("kv: apply 64 at once, in a session", "64", 2, Kind::Rate),
            line("kv: read a key", "reads of one key, cached, on one thread:", 0, Kind::Rate),
            line("kv: range of 1,000", "a range of 1,000 keys:", 0, Kind::Micros),
        ],
    },
    Bench {
        command: "run --release -p raft-net-quic --example bench_net --locked",
        figures: &[
            line("net: call of 64 B alone, p50", "calls of 64 B, 1 at a time:", 1, Kind::Micros),
            line(
                "net: CPU of a call, 64 at once",
                "calls of 256 B, 64 at a time:",
                6,
                Kind::Micros,
            ),
            line(
                "net: CPU of a call, 1,000 at once",
                "calls of 256 B, 1000 at a time:",
                6,
                Kind::Micros,
            ),
        ],
    },
];

impl Bench {
    /// Runs it and gives what it printed.
    pub(crate) fn run(&self) -> Result<String, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo).args(self.command.split(' ')).output();
        let output = output.map_err(|error| format!("cannot run cargo: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("cargo {} failed: {}", self.command, said.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Figure {
    /// What it says, in steps of the loop that takes `step_ns` each. Less is better.
    pub(crate) fn cost(&self, printed: &str, step_ns: f64) -> Result<f64, String> {
        let found = match self.is_in {
            Place::Line(starts, further) => number_in(printed, starts, further),
            Place::Criterion(benchmark) => estimate(benchmark),
        };
        let number = found.ok_or_else(|| {
            format!(
                "{:?} is nowhere in what its benchmark says; see BENCHES in this program",
                self.name
            )
        })?;
        Ok(match self.kind {
            Kind::Nanos => number / step_ns,
            Kind::Micros => number * 1e3 / step_ns,
            Kind::Rate => 1e9 / number / step_ns,
            Kind::Ratio => number,
        })
    }
}

/// The number in the line that begins with these words, so many words further on.
fn number_in(printed: &str, starts: &str, further: usize) -> Option<f64> {
    let starts: Vec<_> = starts.split_whitespace().collect();
    let words = printed.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.starts_with(&starts).then_some(words)
    })?;
    words.get(starts.len() + further)?.parse().ok()
}

/// The median of a benchmark of criterion, in nanoseconds, as its last run has saved it.
fn estimate(benchmark: &str) -> Option<f64> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let file = target.join("criterion").join(benchmark).join("new/estimates.json");
    let saved: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    saved["median"]["point_estimate"].as_f64()
}

const fn line(name: &'static str, starts: &'static str, further: usize, kind: Kind) -> Figure {
    Figure { name, is_in: Place::Line(starts, further), kind }
}

const fn criterion(name: &'static str, benchmark: &'static str) -> Figure {
    Figure { name, is_in: Place::Criterion(benchmark), kind: Kind::Nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = " batch   new   known\n     1   200   100\n    64   400   300\n\
                           a range of 1,000 keys: 329 us\n";

    #[test]
    fn numbers_are_found_by_the_words_before_them() {
        assert_eq!(number_in(PRINTED, "1", 1), Some(100.0));
        assert_eq!(number_in(PRINTED, "64", 0), Some(400.0));
        assert_eq!(number_in(PRINTED, "a range of 1,000 keys:", 0), Some(329.0));
        assert_eq!(number_in(PRINTED, "a range of 1,000 keys:", 1), None);
        assert_eq!(number_in(PRINTED, "6", 0), None, "words are whole");
    }

    #[test]
    fn whatever_is_measured_less_cost_is_better() {
        let cost = |starts, kind| line("it", starts, 0, kind).cost(PRINTED, 1000.0);
        assert_eq!(cost("64", Kind::Ratio), Ok(400.0));
        assert_eq!(cost("64", Kind::Nanos), Ok(0.4));
        assert_eq!(cost("64", Kind::Micros), Ok(400.0));
        assert!(cost("64", Kind::Rate) < cost("1", Kind::Rate), "a higher rate costs less");
        assert!(cost("nowhere", Kind::Rate).is_err_and(|error| error.contains("\"it\"")));
    }
}
