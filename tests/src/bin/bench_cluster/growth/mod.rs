//! What our cluster costs as work grows: more keys, larger values, more nodes, more connections, and
//! while something else is under way.
//!
//! - [`points`] says what grows, and at which sizes it is measured;
//! - [`measure`] brings a cluster to such a size and puts the load on it;
//! - [`report`] makes tables, figures and a picture of it.

mod measure;
mod points;
mod report;

use std::fs;
use std::path::Path;

use self::measure::Grown;
use self::points::Point;
use self::report::Report;

/// What is to be measured, and how.
pub(crate) struct Plan<'a> {
    /// The binary.
    pub(crate) raft: &'a Path,
    /// Where the nodes keep their data.
    pub(crate) data: &'a Path,
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
    /// Only curves whose name begins with this.
    pub(crate) only: Option<&'a str>,
    /// Where the curve of keys ends.
    pub(crate) most_keys: u64,
    /// Where the curve of connections ends.
    pub(crate) most_connections: u32,
}

/// Measures all of it and writes `growth.md`, `growth.json` and `growth.svg` to `out`.
///
/// A point that fails is left out and told of, and the others are measured all the same.
pub(crate) fn run(plan: &Plan<'_>, out: &Path) -> Result<(), String> {
    let points = points::all(plan.most_keys, plan.most_connections);
    let chosen =
        |point: &Point| plan.only.is_none_or(|prefix| point.curve.name().starts_with(prefix));
    let mut rows: Vec<(Point, Vec<Grown>)> =
        points.into_iter().filter(chosen).map(|point| (point, Vec::new())).collect();
    let mut failures = Vec::new();
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        for (point, runs) in &mut rows {
            match measure::measure(point, plan) {
                Ok(grown) => {
                    eprintln!("  {:<32} {}", point.name(), grown.figures.line());
                    runs.push(grown);
                }
                Err(error) => {
                    eprintln!("  {:<32} failed: {error}", point.name());
                    failures.push(format!("{}: {error}", point.name()));
                }
            }
        }
    }
    rows.retain(|(_, runs)| !runs.is_empty());
    let report = Report { rows, rounds: plan.rounds, seconds: plan.seconds };
    let text = report.to_markdown();
    println!("{text}");
    let written = fs::create_dir_all(out)
        .and_then(|()| fs::write(out.join("growth.md"), &text))
        .and_then(|()| fs::write(out.join("growth.json"), report.to_json()))
        .and_then(|()| fs::write(out.join("growth.svg"), report.to_svg()));
    written.map_err(|error| format!("cannot write to {}: {error}", out.display()))?;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}
