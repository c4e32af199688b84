//! What is measured of a cluster.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::system::{System, done};
use crate::usage::{Usage, resident_mib};

/// A load that is put on both.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    words: &'static [&'static str],
}

/// What one run of a cell came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Processor time of all nodes for each operation, in microseconds.
    pub(crate) cpu_us: f64,
    /// Bytes that went to the disk for each operation.
    pub(crate) written_bytes: f64,
    /// How often a thread of a node went to sleep, for each operation.
    pub(crate) switches: f64,
    pub(crate) errors: f64,
}

/// What a restart with many keys came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    /// From the start of all processes until a write was acknowledged.
    pub(crate) first_write_s: f64,
    /// Of all nodes, before they were killed.
    pub(crate) resident_mib: f64,
}

/// "Multiplexed" is one connection for all clients, "spread" a hundred.
pub(crate) const CELLS: [Cell; 17] = [
    Cell { name: "put 1", words: &["put", "--clients", "1"] },
    Cell { name: "put 16", words: &["put", "--clients", "16"] },
    Cell { name: "put 64", words: &["put", "--clients", "64"] },
    Cell { name: "put 256", words: &["put", "--clients", "256"] },
    Cell { name: "put 1000", words: &["put", "--clients", "1000"] },
    Cell { name: "put 256 spread", words: &["put", "--clients", "256", "--connections", "100"] },
    Cell { name: "put 1000 spread", words: &["put", "--clients", "1000", "--connections", "100"] },
    Cell { name: "get 1", words: &["get", "--clients", "1"] },
    Cell { name: "get 256", words: &["get", "--clients", "256"] },
    Cell { name: "get 256 spread", words: &["get", "--clients", "256", "--connections", "100"] },
    Cell { name: "stale get 256", words: &["get", "--clients", "256", "--stale"] },
    Cell { name: "mixed 90/10 64", words: &["mixed", "--clients", "64"] },
    Cell { name: "range of 100, 16", words: &["range", "--clients", "16"] },
    Cell { name: "txn 64", words: &["txn", "--clients", "64"] },
    // Each event that a watcher is told of is an operation; the first tells how old they are while
    // nothing is at its limit, the others how many there can be.
    Cell { name: "watch 100, 500 puts/s", words: &["watch", "--clients", "100", "--rate", "500"] },
    Cell { name: "watch 100", words: &["watch", "--clients", "100", "--writers", "16"] },
    Cell {
        name: "watch 100 spread",
        words: &["watch", "--clients", "100", "--connections", "100", "--writers", "16"],
    },
];

impl Cell {
    pub(crate) fn measure(&self, system: &System, seconds: u32) -> Result<Figures, String> {
        if self.words[0] != "put" {
            // Whatever has to be filled is filled here, so that it is not measured.
            load(system, &[self.words[0], "--duration", "100ms"])?;
        }
        // What the cell before has left to do is not this one's.
        thread::sleep(SETTLE);
        let figures = measure(system, self.words, seconds)?;
        system.compare()?;
        Ok(figures)
    }
}

/// Puts a load on a cluster and tells what it took. What the nodes hold is not compared.
pub(crate) fn measure(system: &System, words: &[&str], seconds: u32) -> Result<Figures, String> {
    let (found, used) = run(system, words, &format!("{seconds}s"))?;
    Ok(Figures::of(&found, used, number(&found, "ops")))
}

/// The same, less what connecting takes: where there are many connections, that is most of it.
pub(crate) fn measure_connected(
    system: &System,
    words: &[&str],
    seconds: u32,
) -> Result<Figures, String> {
    let (little, connecting) = run(system, words, "100ms")?;
    let (found, used) = run(system, words, &format!("{seconds}s"))?;
    let ops = number(&found, "ops") - number(&little, "ops");
    Ok(Figures::of(&found, used - connecting, ops))
}

/// Runs a load. Gives what it tells, and what it took.
fn run(system: &System, words: &[&str], duration: &str) -> Result<(Value, Usage), String> {
    let nodes = system.processes();
    let before = Usage::of(&nodes, system.dir());
    let found = load(system, &[words, &["--duration", duration]].concat())?;
    Ok((found, Usage::of(&nodes, system.dir()) - before))
}

fn number(found: &Value, field: &str) -> f64 {
    found[field].as_f64().unwrap_or(f64::NAN)
}

impl Figures {
    /// What a load tells, with what was used for so many operations.
    fn of(found: &Value, used: Usage, ops: f64) -> Self {
        let number = |field| number(found, field);
        Self {
            ops_per_s: number("ops_per_s"),
            p50_us: number("p50_us"),
            p99_us: number("p99_us"),
            p999_us: number("p999_us"),
            cpu_us: used.cpu_s * 1e6 / ops,
            written_bytes: used.written_bytes / ops,
            switches: used.switches / ops,
            errors: number("errors"),
        }
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{:>9.0}/s  p50 {:>7.0} us  p99 {:>8.0} us  {:>7.1} us CPU, {:>6.0} B, {:>5.1} switches \
             an operation{}",
            self.ops_per_s,
            self.p50_us,
            self.p99_us,
            self.cpu_us,
            self.written_bytes,
            self.switches,
            if self.errors > 0.0 { format!("  {} errors", self.errors) } else { String::new() }
        )
    }
}

/// Runs `raft bench` and gives what it tells. What the nodes hold is not compared by it, as that is
/// work for them which is not to be measured: see [`System::compare`].
pub(crate) fn load(system: &System, words: &[&str]) -> Result<Value, String> {
    let output = done(system.bench(words).arg("--skip-compare"))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("raft bench says something else than JSON: {error}"))
}

/// What becomes of a leader while clients write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loss {
    /// It is killed with SIGKILL.
    Killed,
    /// It is asked to stop with SIGTERM, and hands its leadership over: a planned restart.
    Stopped,
    /// Nothing: how long a client waits anyway.
    None,
}

impl Loss {
    pub(crate) const ALL: [Self; 3] = [Self::Killed, Self::Stopped, Self::None];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Killed => "leader killed",
            Self::Stopped => "leader hands over",
            Self::None => "leader left alone",
        }
    }

    /// Lets that become of the leader under load. Gives the longest that any client waited for a
    /// write, in milliseconds.
    pub(crate) fn outage(self, system: &mut System) -> Result<f64, String> {
        let leader = system.leader()?;
        let words = ["put", "--clients", "4", "--duration", "5s", "--skip-compare"];
        let mut bench = system.bench(&words);
        let running = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let running = running.map_err(|error| format!("cannot start raft bench: {error}"))?;
        thread::sleep(Duration::from_secs(2));
        match self {
            Self::Killed => system.kill(leader),
            Self::Stopped => system.stop(leader)?,
            Self::None => {}
        }
        let output = running.wait_with_output().map_err(|error| format!("raft bench: {error}"))?;
        if self != Self::None {
            system.launch(leader)?;
            thread::sleep(Duration::from_secs(2));
        }
        system.compare()?;
        let found: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
            format!("raft bench: {error}: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok(found["max_us"].as_f64().unwrap_or(f64::NAN) / 1e3)
    }
}

/// Fills a cluster, kills all of it with SIGKILL, and starts it again.
pub(crate) fn restart(mut system: System, keys: u64) -> Result<Restart, String> {
    let keys = keys.to_string();
    load(&system, &["get", "--keys", &keys, "--duration", "100ms"])?;
    let resident_mib = resident_mib(&system.processes());
    system.kill_all();
    system.launch_all()?;
    let first_write_s = system.await_write(Duration::from_secs(120))?.as_secs_f64();
    system.compare()?;
    eprintln!(
        "  {} with {keys} keys: first write {first_write_s:.2} s after kill -9 of all, \
         {resident_mib:.0} MiB",
        system.kind.name()
    );
    Ok(Restart { first_write_s, resident_mib })
}

/// What [`restart`] is called.
pub(crate) const RESTART: &str = "all killed";

pub(crate) const SETTLE: Duration = Duration::from_secs(1);
