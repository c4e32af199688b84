//! Brings a cluster to a point of a curve, and puts the load on it there.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Plan;
use super::points::{Curve, Meanwhile, Point};
use crate::cells::{self, Figures, SETTLE, load};
use crate::system::{Kind, Setup, System, done};
use crate::usage::resident_mib;

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grown {
    pub(crate) figures: Figures,
    /// Memory of all nodes after the load.
    pub(crate) resident_mib: f64,
}

/// Fills a new cluster, measures writes, and compares what all nodes hold.
pub(super) fn measure(point: &Point, plan: &Plan<'_>) -> Result<Grown, String> {
    let setup = Setup { nodes: point.nodes, extra: extra(point, plan.seconds) };
    let mut system = System::with(Kind::Raft, setup, plan.raft, plan.data)?;
    let (keys, bytes) = (point.keys.to_string(), point.value_bytes.to_string());
    let size = ["--keys", &keys, "--value-size", &bytes];
    load(&system, &[&["get", "--duration", "100ms"][..], &size].concat())?;
    let (clients, connections) = (point.clients.to_string(), point.connections.to_string());
    let load = ["put", "--clients", &clients, "--connections", &connections];
    let words = [&load[..], &size].concat();
    let figures = match point.meanwhile {
        Meanwhile::Nothing => {
            thread::sleep(SETTLE);
            match point.curve {
                Curve::Connections => cells::measure_connected(&system, &words, plan.seconds)?,
                Curve::Keys | Curve::Values | Curve::Nodes | Curve::Meanwhile => {
                    cells::measure(&system, &words, plan.seconds)?
                }
            }
        }
        Meanwhile::FollowerDown => without_a_follower(&mut system, &words, plan.seconds)?,
        Meanwhile::Snapshot => beside_a_snapshot(&mut system, &words, plan.seconds)?,
        Meanwhile::Compaction => beside_compaction(&system, &words, plan.seconds)?,
    };
    let resident_mib = resident_mib(&system.processes());
    system.compare()?;
    if figures.errors > 0.0 {
        return Err(format!("{} operations failed", figures.errors));
    }
    Ok(Grown { figures, resident_mib })
}

/// What nodes are told. They let as many connections in as there are and a few more, and slow a
/// snapshot down, so that it is under way until the load has ended.
fn extra(point: &Point, seconds: u32) -> Vec<String> {
    let mut words = vec!["--client-connections".to_owned(), (point.connections + 100).to_string()];
    if point.meanwhile == Meanwhile::Snapshot {
        let rate = (SNAPSHOT_MIB / (seconds + SNAPSHOT_SPARE_S)).max(1);
        words.extend(["--snapshot-rate".to_owned(), rate.to_string()]);
    }
    words
}

fn without_a_follower(
    system: &mut System,
    words: &[&str],
    seconds: u32,
) -> Result<Figures, String> {
    let follower = (system.leader()? + 1) % system.processes().len();
    system.kill(follower);
    thread::sleep(SETTLE);
    let figures = cells::measure(system, words, seconds)?;
    // It is there again when all are compared.
    system.launch(follower)?;
    Ok(figures)
}

/// A node joins, which is sent all data. The processor time is that of all four.
fn beside_a_snapshot(system: &mut System, words: &[&str], seconds: u32) -> Result<Figures, String> {
    // Until the log does not reach back to its beginning: a node that joins is sent the log otherwise.
    let mut entries = 0.0;
    while entries < ENTRIES_IN_LOG {
        let found = load(system, &["put", "--clients", "1000", "--keys", "10000"])?;
        entries += found["ops"].as_f64().unwrap_or_default();
    }
    let newcomer = system.join()?;
    let arriving = system.data_of(newcomer).join("incoming");
    let deadline = Instant::now() + PATIENCE;
    while bytes_below(&arriving) == 0 {
        if Instant::now() > deadline {
            return Err(format!("no snapshot has begun within {PATIENCE:?}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let figures = cells::measure(system, words, seconds)?;
    if bytes_below(&arriving) == 0 {
        return Err("the snapshot was there before the load had ended".to_owned());
    }
    Ok(figures)
}

/// First history is made, then what is older than now is given up, over and over.
fn beside_compaction(system: &System, words: &[&str], seconds: u32) -> Result<Figures, String> {
    let duration = format!("{seconds}s");
    load(system, &[words, &["--duration", &duration]].concat())?;
    let is_over = AtomicBool::new(false);
    let (figures, compacted) = thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            let mut times = 0;
            while !is_over.load(Ordering::SeqCst) {
                compact(system)?;
                times += 1;
                thread::sleep(BETWEEN_COMPACTIONS);
            }
            Ok(times)
        });
        let figures = cells::measure(system, words, seconds);
        is_over.store(true, Ordering::SeqCst);
        let panicked = |_| Err("compaction has panicked".to_owned());
        (figures, compacting.join().unwrap_or_else(panicked))
    });
    if compacted? < 2 {
        return Err("there was no compaction under load".to_owned());
    }
    figures
}

/// Gives up all history before the revision that the store has now.
fn compact(system: &System) -> Result<(), String> {
    let found = done(&mut system.client(&["get", "probe", "-o", "json"]))?;
    let found: Value = serde_json::from_slice(&found.stdout)
        .map_err(|error| format!("raft get says something else than JSON: {error}"))?;
    let revision = found["revision"].as_u64().ok_or("raft get tells no revision")?;
    done(&mut system.client(&["compact", &revision.to_string()])).map(|_| ())
}

/// How many bytes the files below a directory have. 0 if it is not there.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_below(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0, // It is gone since.
    });
    bytes.sum()
}

/// What a snapshot has at least.
const SNAPSHOT_MIB: u32 = 100;

/// For so much longer than the load it is under way.
const SNAPSHOT_SPARE_S: u32 = 5;

/// Of those `raft serve` keeps 100,000, and up to 50,000 more until it cuts them off.
const ENTRIES_IN_LOG: f64 = 170_000.0;

const BETWEEN_COMPACTIONS: Duration = Duration::from_millis(100);

const PATIENCE: Duration = Duration::from_secs(30);
