//! The curves as tables, as JSON and as a picture.

use std::fmt::Write;

use serde_json::{Value, json};

use super::measure::Grown;
use super::points::{Curve, Point};
use crate::spread::Spread;

/// All that was measured.
pub(super) struct Report {
    pub(super) rows: Vec<(Point, Vec<Grown>)>,
    pub(super) rounds: usize,
    pub(super) seconds: u32,
}

/// A figure, and what it is called.
struct Column {
    name: &'static str,
    title: &'static str,
    of: fn(&Grown) -> f64,
}

const COLUMNS: [Column; 6] = [
    Column { name: "puts_per_s", title: "puts/s", of: |it| it.figures.ops_per_s },
    Column { name: "p50_us", title: "p50 (us)", of: |it| it.figures.p50_us },
    Column { name: "p99_us", title: "p99 (us)", of: |it| it.figures.p99_us },
    Column { name: "cpu_us", title: "CPU of the nodes (us)", of: |it| it.figures.cpu_us },
    Column { name: "written_bytes", title: "written (B)", of: |it| it.figures.written_bytes },
    Column { name: "resident_mib", title: "memory (MiB)", of: |it| it.resident_mib },
];

impl Report {
    fn of(&self, curve: Curve) -> impl Iterator<Item = &(Point, Vec<Grown>)> {
        self.rows.iter().filter(move |(point, _)| point.curve == curve)
    }

    pub(super) fn to_markdown(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut text = format!(
            "Writes to a cluster of ours as work grows: medians of {} rounds of {} s (least to \
             most), each on a fresh cluster whose keys are all there and are overwritten. {cores} \
             processors, on which the load runs too. CPU and bytes are those of a put on all nodes, memory \
             is that of all nodes after the load.\n",
            self.rounds, self.seconds
        );
        for curve in Curve::ALL {
            if self.of(curve).next().is_none() {
                continue;
            }
            let titles = COLUMNS.map(|column| column.title).join(" | ");
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "\n{}.\n\n| {} | {titles} |\n|{}",
                sentence(curve),
                curve.name(),
                "---|".repeat(COLUMNS.len() + 1)
            );
            for (point, runs) in self.of(curve) {
                let shown = COLUMNS.each_ref().map(|column| {
                    let spread = Spread::of(runs.iter().map(column.of));
                    spread.map_or_else(|| "-".to_owned(), Spread::shown)
                });
                let _ = writeln!(text, "| {} | {} |", point.at(), shown.join(" | "));
            }
        }
        text
    }

    pub(super) fn to_json(&self) -> String {
        let points = self.rows.iter().map(|(point, runs)| {
            let figures = COLUMNS.iter().filter_map(|column| {
                let spread = Spread::of(runs.iter().map(column.of))?;
                let figures = json!({ "median": spread.median, "min": spread.least,
                                      "max": spread.most });
                Some((column.name.to_owned(), figures))
            });
            json!({
                "curve": point.curve.name(),
                "at": point.at(),
                "nodes": point.nodes,
                "keys": point.keys,
                "value_bytes": point.value_bytes,
                "clients": point.clients,
                "connections": point.connections,
                "figures": figures.collect::<serde_json::Map<_, _>>(),
            })
        });
        let all = json!({
            "rounds": self.rounds,
            "seconds": self.seconds,
            "points": points.collect::<Value>(),
        });
        // A value made of numbers and names can always be printed.
        serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"
    }

    /// For each curve throughput on the left, and latencies on the right.
    pub(super) fn to_svg(&self) -> String {
        let curves: Vec<_> =
            Curve::ALL.into_iter().filter(|curve| self.of(*curve).next().is_some()).collect();
        let height = 20 + PANEL_HEIGHT * curves.len();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"980\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"980\" height=\"{height}\" fill=\"white\"/>\n"
        );
        for (turn, curve) in curves.into_iter().enumerate() {
            let labels: Vec<_> = self.of(curve).map(|(point, _)| point.at()).collect();
            let medians = |column: &Column| -> Vec<f64> {
                let of = |runs: &Vec<Grown>| Spread::of(runs.iter().map(column.of));
                self.of(curve).filter_map(|(_, runs)| Some(of(runs)?.median)).collect()
            };
            let top = 20 + PANEL_HEIGHT * turn;
            let [puts, p50, p99, ..] = COLUMNS.each_ref().map(medians);
            let joined = curve != Curve::Meanwhile;
            let title = |what| format!("{what} by {}", curve.name());
            let lines = [("#1f58a6", puts)];
            panel(&mut svg, (20, top), &title("puts/s"), &labels, &lines, joined);
            let lines = [("#1f58a6", p50), ("#b3541e", p99)];
            let what = "p50 (blue) and p99 (brown), us,";
            panel(&mut svg, (510, top), &title(what), &labels, &lines, joined);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Lines, or only their points, from 0 to the largest of all values.
fn panel(
    svg: &mut String,
    (left, top): (usize, usize),
    title: &str,
    labels: &[String],
    lines: &[(&str, Vec<f64>)],
    joined: bool,
) {
    let most = lines.iter().flat_map(|(_, values)| values).copied().fold(1.0, f64::max);
    let step = PANEL_WIDTH / labels.len().max(1);
    let x = |turn: usize| left + step / 2 + step * turn;
    let base = top + PANEL_HEIGHT - 40;
    let y = |value: f64| base as f64 - value / most * (PANEL_HEIGHT - 90) as f64;
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{}\" font-size=\"13\">{title}</text>\n\
         <line x1=\"{left}\" y1=\"{base}\" x2=\"{}\" y2=\"{base}\" stroke=\"#999\"/>",
        top + 14,
        left + PANEL_WIDTH
    );
    for (turn, label) in labels.iter().enumerate() {
        let (x, y) = (x(turn), base + 16);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>");
    }
    for (color, values) in lines {
        let places: Vec<_> =
            values.iter().enumerate().map(|(turn, value)| (x(turn), y(*value), value)).collect();
        if joined {
            let path: Vec<_> = places.iter().map(|(x, y, _)| format!("{x},{y:.1}")).collect();
            let path = path.join(" ");
            let _ = writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{color}\"/>");
        }
        for (x, y, value) in places {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>\
                 <text x=\"{x}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{color}\">{value:.0}</text>",
                y - 7.0
            );
        }
    }
}

/// What grows and what does not.
fn sentence(curve: Curve) -> String {
    let rest = curve.rest();
    match curve {
        Curve::Meanwhile => format!("What else is done meanwhile: {rest}"),
        Curve::Keys | Curve::Values | Curve::Nodes | Curve::Connections => {
            format!("By {}: {rest}", curve.name())
        }
    }
}

const PANEL_WIDTH: usize = 450;
const PANEL_HEIGHT: usize = 220;
