//! Where the processor time of a write goes: by the threads of the leader and of a follower, which are
//! its stages.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use crate::cells::load;
use crate::system::System;

/// Used by the threads of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    cpu_us: f64,
    switches: f64,
}

type Threads = BTreeMap<String, Spent>;

/// What each stage does, by the name of its threads.
const STAGES: [(&str, &str); 8] = [
    ("tokio-rt-worker", "network: packets, encryption, requests"),
    ("raft-pump", "consensus: what to write, send and commit"),
    ("raft-log", "log: append and sync"),
    ("raft-fetch", "log: reads for followers that are behind"),
    ("raft-apply", "apply: into the store"),
    ("rocksdb:high", "flushes of memory to files"),
    ("rocksdb:low", "compactions"),
    ("kv-read", "reads of the store"),
];

/// Puts a load of writes on a cluster of ours, and tells what each stage took of each of them.
pub(crate) fn table(system: &System, clients: u32, seconds: u32) -> Result<String, String> {
    let leader = system.leader()?;
    let processes = system.processes();
    let followers: Vec<u32> = (0..processes.len())
        .filter(|node| *node != leader)
        .filter_map(|node| processes.get(node).copied())
        .collect();
    let leader: Vec<u32> = processes.get(leader).copied().into_iter().collect();
    let before = (threads(&leader), threads(&followers));
    let (clients, duration) = (clients.to_string(), format!("{seconds}s"));
    let found = load(system, &["put", "--clients", &clients, "--duration", &duration])?;
    let after = (threads(&leader), threads(&followers));
    let ops = found["ops"].as_f64().unwrap_or(f64::NAN);
    let mut text = format!(
        "{clients} clients, {:.0} puts/s. Microseconds of processor time for each put, and in \
         brackets how often a thread went to sleep.\n\n| stage | leader | a follower |\n\
         |---|---|---|\n",
        found["ops_per_s"].as_f64().unwrap_or(f64::NAN)
    );
    let count = followers.len().max(1) as f64;
    let (mut leads, mut follows) = (0.0, 0.0);
    for (thread, what) in STAGES {
        let ours = spent(&before.0, &after.0, thread, ops);
        let theirs = spent(&before.1, &after.1, thread, ops * count);
        leads += ours.cpu_us;
        follows += theirs.cpu_us;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {what} (`{thread}`) | {} | {} |", ours.shown(), theirs.shown());
    }
    let _ = writeln!(text, "| sum | {leads:.1} | {follows:.1} |");
    Ok(text)
}

/// What threads whose names begin with `thread` have used for each of `ops` operations.
fn spent(before: &Threads, after: &Threads, thread: &str, ops: f64) -> Spent {
    let mut sum = Spent::default();
    for (name, spent) in after.iter().filter(|(name, _)| name.starts_with(thread)) {
        let earlier = before.get(name).copied().unwrap_or_default();
        sum.cpu_us += (spent.cpu_us - earlier.cpu_us) / ops;
        sum.switches += (spent.switches - earlier.switches) / ops;
    }
    sum
}

/// The threads of these processes, by name.
fn threads(processes: &[u32]) -> Threads {
    let mut threads = Threads::new();
    for process in processes {
        let tasks = fs::read_dir(format!("/proc/{process}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let ran = read("schedstat");
            let ran = ran.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
            let status = read("status");
            let switched = status.lines().find_map(|line| {
                line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<f64>().ok()
            });
            let spent = threads.entry(read("comm").trim().to_owned()).or_default();
            spent.cpu_us += ran.unwrap_or_default() / 1e3;
            spent.switches += switched.unwrap_or_default();
        }
    }
    threads
}

impl Spent {
    fn shown(self) -> String {
        format!("{:.1} ({:.2})", self.cpu_us, self.switches)
    }
}
