//! What a load came to, for people and for programs.

use std::process::ExitCode;

use comfy_table::Table;
use indicatif::{ProgressBar, ProgressStyle};
use raft_kv::client::Comparison;
use serde_json::{Value, json};

use super::load::Measured;
use super::{Plan, Workload};
use crate::args::Output;
use crate::failure::Failure;
use crate::output::{print_line, table};

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) measured: &'a Measured,
    /// How many keys were read back.
    pub(crate) read_back: usize,
    /// What the nodes hold, if they were asked.
    pub(crate) comparison: Option<&'a Comparison>,
}

impl Report<'_> {
    pub(crate) fn print(&self, form: Output) -> Result<ExitCode, Failure> {
        match form {
            Output::Json => print_line(&self.to_json().to_string()),
            Output::Table => print_line(&format!("{}\n{}", self.to_table(), self.remarks())),
        }
    }

    fn ops(&self) -> u64 {
        self.measured.latency.len()
    }

    fn secs(&self) -> f64 {
        self.measured.elapsed.as_secs_f64()
    }

    fn errors(&self) -> u64 {
        self.measured.errors.values().map(|(count, _)| count).sum()
    }

    fn quantile(&self, quantile: f64) -> u64 {
        self.measured.latency.value_at_quantile(quantile)
    }

    /// The names are part of the interface.
    fn to_json(&self) -> Value {
        json!({
            "op": self.plan.workload.name(),
            "clients": self.plan.clients,
            "ops": self.ops(),
            "secs": rounded(self.secs(), 1e3),
            "ops_per_s": rounded(self.ops() as f64 / self.secs(), 10.0),
            "p50_us": self.quantile(0.5),
            "p90_us": self.quantile(0.9),
            "p99_us": self.quantile(0.99),
            "p999_us": self.quantile(0.999),
            "max_us": self.measured.latency.max(),
            "errors": self.errors(),
        })
    }

    fn to_table(&self) -> Table {
        let head = [
            "OP", "CLIENTS", "OPS", "SECS", "OPS/S", "P50", "P90", "P99", "P99.9", "MAX", "ERRORS",
        ];
        let row = vec![
            self.plan.workload.name().to_owned(),
            self.plan.clients.to_string(),
            self.ops().to_string(),
            format!("{:.1}", self.secs()),
            format!("{:.0}", self.ops() as f64 / self.secs()),
            micros(self.quantile(0.5)),
            micros(self.quantile(0.9)),
            micros(self.quantile(0.99)),
            micros(self.quantile(0.999)),
            micros(self.measured.latency.max()),
            self.errors().to_string(),
        ];
        table(&head, [row])
    }

    fn remarks(&self) -> String {
        let mut remarks = Vec::new();
        if let Some(rate) = self.plan.rate {
            remarks.push(format!(
                "Latencies count from when an operation was due, {rate} of them a second."
            ));
        }
        if self.plan.workload == Workload::Watch {
            let Plan { clients, .. } = self.plan;
            let (written, rate) =
                (self.measured.written, self.measured.written as f64 / self.secs());
            remarks.push(format!(
                "Each of {clients} watchers was told of {written} writes, {rate:.0} a second. \
                 Latencies are the age of an event when it is told."
            ));
        }
        if self.read_back > 0 {
            let keys = self.read_back;
            remarks.push(format!("Read back {keys} keys: nothing that was acknowledged is lost."));
        }
        if let Some(comparison) = self.comparison {
            let same = comparison.nodes.iter().filter_map(|node| node.digest.as_ref().ok());
            let (count, keys) = (same.clone().count(), same.map(|digest| digest.keys).max());
            remarks.push(format!(
                "Compared {count} nodes: all hold the same {} keys at revision {}.",
                keys.unwrap_or_default(),
                comparison.revision
            ));
        }
        remarks.extend(self.complaints());
        remarks.join("\n")
    }

    /// What has failed, a line for each kind, and which nodes were not compared.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let kinds = self.measured.errors.iter();
        let failed = kinds.map(|(kind, (count, one))| format!("{count} failed ({kind}): {one}"));
        let nodes = self.comparison.into_iter().flat_map(|comparison| &comparison.nodes);
        let missing = nodes.filter_map(|node| {
            let why = node.digest.as_ref().err()?;
            Some(format!("node {} at {} was not compared: {why}", node.node_id, node.address))
        });
        failed.chain(missing).collect()
    }
}

/// A time for people.
pub(crate) fn micros(us: u64) -> String {
    let us = us as f64;
    if us < 1e3 {
        format!("{us:.0} us")
    } else if us < 1e6 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

/// Shown on a terminal only, on stderr.
pub(crate) fn bar(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message(what);
    // The template is ours; if it were wrong, the default would do.
    if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_units_that_people_read() {
        assert_eq!(micros(999), "999 us");
        assert_eq!(micros(1_234), "1.23 ms");
        assert_eq!(micros(2_500_000), "2.50 s");
    }
}
