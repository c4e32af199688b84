//! Medians, the least and the most, ratios: as a table, as JSON and as a picture.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::cells::{CELLS, Figures, Loss, RESTART, Restart};
use crate::spread::Spread;
use crate::system::Kind;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    seconds: u32,
    rounds: usize,
    keys: u64,
    cells: BTreeMap<(&'static str, Kind), Vec<Figures>>,
    /// In milliseconds.
    outages: BTreeMap<(Loss, Kind), Vec<f64>>,
    restarts: BTreeMap<Kind, Restart>,
}

/// A figure of a cell, and what it is called.
struct Column {
    name: &'static str,
    title: &'static str,
    of: fn(&Figures) -> f64,
}

const COLUMNS: [Column; 7] = [
    Column { name: "ops_per_s", title: "operations/s", of: |cell| cell.ops_per_s },
    Column { name: "p50_us", title: "p50 (us)", of: |cell| cell.p50_us },
    Column { name: "p99_us", title: "p99 (us)", of: |cell| cell.p99_us },
    Column { name: "p999_us", title: "p99.9 (us)", of: |cell| cell.p999_us },
    Column { name: "cpu_us", title: "CPU of the nodes (us)", of: |cell| cell.cpu_us },
    Column { name: "written_bytes", title: "written (B)", of: |cell| cell.written_bytes },
    Column { name: "switches", title: "switches", of: |cell| cell.switches },
];

impl Report {
    pub(crate) fn new(seconds: u32, rounds: usize, keys: u64) -> Self {
        Self {
            seconds,
            rounds,
            keys,
            cells: BTreeMap::new(),
            outages: BTreeMap::new(),
            restarts: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, kind: Kind, cell: &'static str, figures: Figures) {
        self.cells.entry((cell, kind)).or_default().push(figures);
    }

    pub(crate) fn add_outages(&mut self, kind: Kind, loss: Loss, outages: Vec<f64>) {
        self.outages.insert((loss, kind), outages);
    }

    pub(crate) fn add_restart(&mut self, kind: Kind, restart: Restart) {
        self.restarts.insert(kind, restart);
    }

    fn spread(&self, cell: &str, kind: Kind, column: &Column) -> Option<Spread> {
        // The names are those of `CELLS`, so they live long enough to look with.
        let name = CELLS.iter().find(|known| known.name == cell)?.name;
        let figures = self.cells.get(&(name, kind))?;
        Spread::of(figures.iter().map(column.of))
    }

    /// Ours divided by theirs.
    fn ratio(&self, cell: &str, column: &Column) -> Option<f64> {
        let ours = self.spread(cell, Kind::Raft, column)?;
        let theirs = self.spread(cell, Kind::Etcd, column)?;
        Some(ours.median / theirs.median)
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "Medians of {} rounds of {} s (least to most); ratios are ours divided by etcd's. \
             {cores} processors; values of 256 B; \"spread\" is 100 connections, all else one.\n",
            self.rounds, self.seconds
        );
        let columns = if self.cells.is_empty() { &[][..] } else { &COLUMNS };
        for column in columns {
            let _ = writeln!(text, "| {} | raft | etcd | ratio |\n|---|---|---|---|", column.title);
            for cell in &CELLS {
                let Some(ours) = self.spread(cell.name, Kind::Raft, column) else { continue };
                let theirs = self.spread(cell.name, Kind::Etcd, column);
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} |",
                    cell.name,
                    ours.shown(),
                    theirs.map_or_else(|| "-".to_owned(), |theirs| theirs.shown()),
                    shown_ratio(self.ratio(cell.name, column)),
                );
            }
            text.push('\n');
        }
        self.add_rest(&mut text);
        text
    }

    /// What is not a cell.
    fn add_rest(&self, text: &mut String) {
        let row = |name: String, figure: &dyn Fn(Kind) -> Option<f64>, digits: usize| {
            let (ours, theirs) = (figure(Kind::Raft)?, figure(Kind::Etcd));
            let shown = theirs.map_or_else(|| "-".to_owned(), |it| format!("{it:.digits$}"));
            let ratio = shown_ratio(theirs.map(|theirs| ours / theirs));
            Some(format!("| {name} | {ours:.digits$} | {shown} | {ratio} |\n"))
        };
        let mut rows = Vec::new();
        for loss in Loss::ALL {
            let waits = |kind| Spread::of(self.outages.get(&(loss, kind))?.iter().copied());
            let name = |which| format!("{}: longest wait of a client, {which} (ms)", loss.name());
            rows.push(row(name("median"), &|kind| Some(waits(kind)?.median), 0));
            rows.push(row(name("most"), &|kind| Some(waits(kind)?.most), 0));
        }
        rows.push(row(
            format!("{RESTART}, {} keys: first write (s)", self.keys),
            &|kind| Some(self.restarts.get(&kind)?.first_write_s),
            2,
        ));
        rows.push(row(
            format!("memory of all nodes, {} keys (MiB)", self.keys),
            &|kind| Some(self.restarts.get(&kind)?.resident_mib),
            0,
        ));
        let rows: Vec<_> = rows.into_iter().flatten().collect();
        if !rows.is_empty() {
            text.push_str("| | raft | etcd | ratio |\n|---|---|---|---|\n");
            text.extend(rows);
        }
    }

    pub(crate) fn to_json(&self) -> String {
        let cells = self.cells.keys().map(|(cell, kind)| {
            let figures = COLUMNS.iter().filter_map(|column| {
                let spread = self.spread(cell, *kind, column)?;
                let figures = json!({ "median": spread.median, "min": spread.least,
                                      "max": spread.most });
                Some((column.name.to_owned(), figures))
            });
            json!({ "cell": cell, "system": kind.name(),
                    "figures": figures.collect::<serde_json::Map<_, _>>() })
        });
        let outages = self.outages.iter().map(|((loss, kind), waits)| {
            json!({ "what": loss.name(), "system": kind.name(), "longest_waits_ms": waits })
        });
        let restarts = self.restarts.iter().map(|(kind, restart)| {
            let figures = json!({ "keys": self.keys, "first_write_s": restart.first_write_s,
                                  "resident_mib": restart.resident_mib });
            (kind.name().to_owned(), figures)
        });
        let all = json!({
            "rounds": self.rounds,
            "seconds": self.seconds,
            "cells": cells.collect::<Value>(),
            "outages": outages.collect::<Value>(),
            "restart": restarts.collect::<serde_json::Map<_, _>>(),
        });
        // A value made of numbers and names can always be printed.
        serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"
    }

    /// Throughput of each cell: two bars, and how they relate.
    pub(crate) fn to_svg(&self) -> String {
        let column = &COLUMNS[0];
        let rows: Vec<_> = CELLS
            .iter()
            .filter_map(|cell| {
                let ours = self.spread(cell.name, Kind::Raft, column)?.median;
                let theirs = self.spread(cell.name, Kind::Etcd, column).map(|it| it.median);
                Some((cell.name, ours, theirs))
            })
            .collect();
        let most = rows.iter().map(|row| row.1.max(row.2.unwrap_or_default())).fold(1.0, f64::max);
        let height = 60 + 44 * rows.len();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"900\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"20\" y=\"28\" font-size=\"16\">Operations a second: raft (blue), etcd \
             (grey)</text>\n"
        );
        for (turn, (name, ours, theirs)) in rows.into_iter().enumerate() {
            let top = 50 + 44 * turn;
            let _ = writeln!(svg, "<text x=\"20\" y=\"{}\">{name}</text>", top + 20);
            for (below, value, fill) in [(0, Some(ours), "#1f58a6"), (17, theirs, "#999")] {
                let Some(value) = value else { continue };
                let (y, width) = (top + below, value / most * 560.0);
                let _ = writeln!(
                    svg,
                    "<rect x=\"170\" y=\"{y}\" width=\"{width:.1}\" height=\"15\" fill=\"{fill}\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{value:.0}</text>",
                    width + 176.0,
                    y + 12
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn shown_ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}
