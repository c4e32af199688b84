//! What the store costs: `make bench-kv`.
//!
//! - `apply`: puts of 256 bytes applied a second on one thread, by the size of a batch; new keys, the same keys
//!   again, and commands of a session.
//! - `read`: reads of one key a second, cached, and of a thousand keys.
//! - `watch`: puts through a node of one, with no watcher and with ten thousand, in turns.
//! - `million`: memory and disk of a million keys.
//! - `snapshot`: a gibibyte taken, sent and installed, beside `cp` of the same; and for how long taking it holds
//!   up writes.
//! - `open`: how long a store of ten million keys takes to open. Not by default: it takes minutes to fill.
//!
//! Says what it measures and judges nothing: the goals and what came of them are in `docs/performance.md`.
//! `BENCH_DIR` is where the files go.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for its author's eyes")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::sessions::{SessionId, SessionTag};
use raft_core::{
    Entry, Index, LogId, Payload, SnapshotFile, SnapshotMeta, SnapshotReader, StateMachine, Term,
};
use raft_kv::api::Request;
use raft_kv::{Command, KeyRange, Kv, KvConfig, Proposal, Put, RangeRequest, WatchRequest};
use support::running::Running;

/// Each measurement is taken so often; the median counts.
const TURNS: usize = 5;

const VALUE: usize = 256;

fn main() {
    let mut wanted: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if wanted.is_empty() {
        wanted = ["apply", "read", "watch", "million", "snapshot"].map(str::to_owned).to_vec();
    }
    for what in wanted {
        match what.as_str() {
            "apply" => apply(),
            "read" => read(),
            "watch" => watch(),
            "million" => million(),
            "snapshot" => snapshot(),
            "open" => open(),
            other => panic!("{other:?} is none of apply, read, watch, million, snapshot, open"),
        }
    }
}

fn tempdir() -> tempfile::TempDir {
    let base = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(base).unwrap()
}

/// A store, and what comes next in its log.
struct Store {
    // Closed before its directory goes.
    kv: Kv,
    next: u64,
    dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let dir = tempdir();
        let kv = Kv::open(dir.path(), KvConfig::default()).unwrap();
        Self { kv, next: 1, dir }
    }

    /// Entries that put the keys of these numbers.
    fn entries(&mut self, keys: impl Iterator<Item = u64>) -> Vec<Entry> {
        let entry = |key| Self::entry(&mut self.next, Proposal::from(put(key)));
        keys.map(entry).collect()
    }

    fn entry(next: &mut u64, proposal: Proposal) -> Entry {
        let id = LogId::new(Term(1), Index(*next));
        *next += 1;
        Entry { id, payload: Payload::Command(proposal.encode()) }
    }

    /// Applies `entries` in batches and says how long that took, until all of it was in RocksDB.
    fn apply(&mut self, entries: &[Entry], batch: usize) -> Lap {
        let mut outcomes = Vec::with_capacity(batch);
        let (start, worked) = (Instant::now(), processor_time());
        for piece in entries.chunks(batch) {
            self.kv.apply(piece, &mut outcomes).unwrap();
            outcomes.clear();
        }
        // A read of this kind waits for it.
        self.kv.reader().get("no such key").unwrap();
        Lap {
            puts: entries.len() as f64,
            took: start.elapsed().as_secs_f64(),
            worked: (processor_time() - worked).as_secs_f64(),
        }
    }

    /// Puts the keys up to `keys`.
    fn fill(&mut self, keys: u64) {
        for first in (0..keys).step_by(10_000) {
            let entries = self.entries(first..(first + 10_000).min(keys));
            self.apply(&entries, 1_000);
        }
    }

    /// Waits until all of it is in files.
    fn flush(&mut self) {
        while self.kv.durable().unwrap() < self.kv.applied().last.index {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What some puts have cost.
struct Lap {
    puts: f64,
    took: f64,
    /// Seconds of processor time, of all threads.
    worked: f64,
}

/// The processor time of this process so far. The kernel counts it in hundredths of a second.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The name, which may hold anything, ends with the last parenthesis.
    let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(12) + ticks(13)))
}

fn key(number: u64) -> Bytes {
    format!("key/{number:012}").into()
}

/// Bytes that do not compress, like most that are worth storing.
fn put(number: u64) -> Command {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let value: Vec<u8> = (0..VALUE)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    Command::Put(Put::new(key(number), value))
}

fn median(mut laps: Vec<f64>) -> f64 {
    laps.sort_by(f64::total_cmp);
    laps[laps.len() / 2]
}

/// A number of the same order each time, without order.
fn scattered(number: u64, among: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % among
}

// Applying.

fn apply() {
    println!(
        "puts of {VALUE} bytes applied a second, until they are in RocksDB; and us of all threads a put"
    );
    println!("{:>6} {:>18} {:>18} {:>18}", "batch", "new keys", "known keys", "in a session");
    for batch in [1, 64, 1_024] {
        let count: u64 = if batch == 1 { 20_000 } else { 100_000 };
        let mut laps = [const { Vec::new() }; 3];
        for _ in 0..TURNS {
            let mut store = Store::new();
            let new = store.entries(0..count);
            let known = store.entries((0..count).map(|number| scattered(number, count)));
            laps[0].push(store.apply(&new, batch));
            laps[1].push(store.apply(&known, batch));
            let open = Proposal::from(Command::OpenSession { ttl_ms: 60_000 });
            let session = SessionId(store.next);
            let open = Store::entry(&mut store.next, open);
            store.apply(&[open], 1);
            let held = (0..count).map(|number| {
                // As many under way as a busy client has.
                let unacknowledged = number.saturating_sub(256) + 1;
                let tag = SessionTag { session, sequence: number + 1, unacknowledged };
                let command = put(scattered(number, count));
                let proposal = Proposal { session: Some(tag), ..Proposal::from(command) };
                Store::entry(&mut store.next, proposal)
            });
            let held: Vec<_> = held.collect();
            laps[2].push(store.apply(&held, batch));
        }
        let [new, known, held] = laps.map(|laps| {
            let a_second = median(laps.iter().map(|lap| lap.puts / lap.took).collect());
            let each = median(laps.iter().map(|lap| 1e6 * lap.worked / lap.puts).collect());
            format!("{a_second:.0} ({each:.1})")
        });
        println!("{batch:>6} {new:>18} {known:>18} {held:>18}");
    }
}

// Reading.

fn read() {
    let keys = 100_000;
    let mut store = Store::new();
    store.fill(keys);
    store.flush();
    let reader = store.kv.reader();
    let point = |number| RangeRequest::new(KeyRange::One(key(scattered(number, keys))));
    (0..keys).for_each(|number| drop(reader.range(&point(number)).unwrap()));
    let points: Vec<_> = (0..TURNS)
        .map(|_| {
            let requests: Vec<_> = (0..keys).map(point).collect();
            let start = Instant::now();
            for request in &requests {
                assert_eq!(reader.range_cached(request).unwrap().unwrap().count, 1);
            }
            requests.len() as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    println!("reads of one key, cached, on one thread: {:.0} a second", median(points));
    let ranges: Vec<_> = (0..TURNS)
        .map(|_| {
            let start = Instant::now();
            for number in 0..200 {
                let first = scattered(number, keys - 1_000);
                let (first, before) = (key(first), key(first + 1_000));
                let range = KeyRange::Between { first, before };
                assert_eq!(reader.range(&RangeRequest::new(range)).unwrap().kvs.len(), 1_000);
            }
            start.elapsed().as_secs_f64() * 1e6 / 200.0
        })
        .collect();
    println!("a range of 1,000 keys: {:.0} us", median(ranges));
}

// Watching.

/// How many puts are under way at once.
const PUTTERS: usize = 64;

fn watch() {
    let quiet = Watched::new(0);
    let loud = Watched::new(10_000);
    let mut laps = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        laps.0.push(quiet.puts(20_000));
        laps.1.push(loud.puts(20_000));
    }
    let (quiet, loud_puts) = (median(laps.0), median(laps.1));
    println!("puts of {VALUE} bytes a second through a node of one, its log in memory");
    println!("  nobody watches: {quiet:.0}");
    println!(
        "  10,000 watch a key each, and each put is seen by one: {loud_puts:.0}, a put costs {:.2} \
         times as much",
        quiet / loud_puts
    );
    println!("  events that arrived: {}", loud.events.load(Ordering::Relaxed));
}

struct Watched {
    node: Running,
    events: Arc<AtomicU64>,
    _runtime: tokio::runtime::Runtime,
}

impl Watched {
    fn new(watchers: u64) -> Self {
        let node = Running::leading(KvConfig::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let events = Arc::new(AtomicU64::new(0));
        for number in 0..watchers {
            let request = WatchRequest::new(KeyRange::One(key(number)));
            let mut watch = node.service.watch(&Request::Watch(request).encode());
            let events = events.clone();
            runtime.spawn(async move {
                while watch.next().await.is_some() {
                    events.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { node, events, _runtime: runtime }
    }

    /// Puts a second, some at a time.
    fn puts(&self, count: u64) -> f64 {
        let (done, room) = sync_channel(PUTTERS);
        let start = Instant::now();
        let mut under_way = 0;
        for number in 0..count {
            if under_way == PUTTERS {
                room.recv().unwrap();
                under_way -= 1;
            }
            let proposal = Proposal::from(put(scattered(number, 10_000)));
            let done = done.clone();
            self.node.handle.propose(proposal.encode(), move |result| {
                result.unwrap();
                done.send(()).unwrap();
            });
            under_way += 1;
        }
        (0..under_way).for_each(|_| room.recv().unwrap());
        count as f64 / start.elapsed().as_secs_f64()
    }
}

// Size.

fn million() {
    let before = resident();
    let mut store = Store::new();
    store.fill(1_000_000);
    let filled = resident();
    store.flush();
    let payload = 1_000_000 * (VALUE + key(0).len());
    println!("a million keys of {VALUE} bytes, {} MiB with their keys", payload >> 20);
    println!("  memory: {} MiB more than before", (filled - before) >> 20);
    println!("  disk: {} MiB", size_of_dir(store.dir.path()) >> 20);
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn size_of_dir(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata().unwrap() {
            data if data.is_dir() => size_of_dir(&entry.path()),
            data => data.len(),
        })
        .sum()
}

// Snapshots.

fn snapshot() {
    let mut store = Store::new();
    let keys = (1 << 30) / VALUE as u64;
    store.fill(keys);
    store.flush();
    let mut taken = Vec::new();
    for turn in 0..20 {
        // With a full buffer, whose flush would take long.
        let entries = store.entries((0..50_000).map(|number| scattered(number + turn, keys)));
        store.apply(&entries, 1_024);
        let start = Instant::now();
        drop(store.kv.snapshot().unwrap());
        taken.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let longest = taken.iter().copied().fold(0.0, f64::max);
    println!("taking a snapshot holds up writes: {:.1} ms, at most {longest:.1} ms", median(taken));

    let mut laps = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..3 {
        let mut source = store.kv.snapshot().unwrap();
        bytes = source.files().iter().map(|file| file.bytes).sum();
        let target = tempdir();
        let mut other = Kv::open(target.path(), KvConfig::default()).unwrap();
        let start = Instant::now();
        let arrived = Arrived::receive(&mut *source);
        other.restore(Box::new(arrived)).unwrap();
        laps.0.push(start.elapsed().as_secs_f64());

        let (from, to) = (tempdir(), tempdir());
        Arrived::receive_into(&mut *source, from.path());
        let start = Instant::now();
        let status = Program::new("cp").arg("-r").arg(from.path()).arg(to.path()).status().unwrap();
        assert!(status.success());
        assert!(Program::new("sync").arg("-f").arg(to.path()).status().unwrap().success());
        laps.1.push(start.elapsed().as_secs_f64());
    }
    let rate = |laps| bytes as f64 / f64::from(1 << 20) / median(laps);
    let (ours, cp) = (rate(laps.0), rate(laps.1));
    println!("{} MiB sent to disk and installed: {ours:.0} MiB/s", bytes >> 20);
    println!("cp -r and sync of the same: {cp:.0} MiB/s; ratio {:.2}", ours / cp);
}

/// A snapshot as it lies on a receiver's disk.
#[derive(Debug)]
struct Arrived {
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    dir: tempfile::TempDir,
}

impl Arrived {
    fn receive(source: &mut dyn raft_core::SnapshotSource) -> Self {
        let dir = tempdir();
        Self::receive_into(source, dir.path());
        Self { meta: source.meta().clone(), files: source.files().to_vec(), dir }
    }

    fn receive_into(source: &mut dyn raft_core::SnapshotSource, dir: &Path) {
        let mut buffer = vec![0; 1 << 20];
        for (number, file) in source.files().to_vec().iter().enumerate() {
            let mut target = fs::File::create(dir.join(&file.name)).unwrap();
            let mut offset = 0;
            while offset < file.bytes {
                let filled = source.read_at(number, offset, &mut buffer).unwrap();
                io::Write::write_all(&mut target, &buffer[..filled]).unwrap();
                offset += filled as u64;
            }
        }
    }
}

impl SnapshotReader for Arrived {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.dir.path())
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = fs::File::open(self.dir.path().join(&self.files[file].name))?;
        std::os::unix::fs::FileExt::read_at(&file, buffer, offset)
    }
}

// Opening.

fn open() {
    let mut store = Store::new();
    store.fill(10_000_000);
    let Store { kv, dir, .. } = store;
    drop(kv);
    let laps = (0..TURNS).map(|_| {
        let start = Instant::now();
        let kv = Kv::open(dir.path(), KvConfig::default()).unwrap();
        assert!(kv.reader().get(key(9_999_999)).unwrap().is_some());
        start.elapsed().as_secs_f64()
    });
    println!("opening ten million keys, and reading one: {:.2} s", median(laps.collect()));
}
