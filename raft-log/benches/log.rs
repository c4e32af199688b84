//! What the log costs, beside what the disk allows: `make bench-log`.
//!
//! - `append`: latency and throughput of durable appends. In turns with two others, so that whatever
//!   else the machine does hits all alike: the same bytes by `pwrite` + `fdatasync` into a file
//!   whose blocks are allocated and written already, which is the limit; and the crate raft-engine
//!   (a program of its own, named by `BENCH_RAFT_ENGINE`; left out if that is not set).
//! - `recovery`: how long the opening of a log of a million entries takes.
//! - `amplification`: bytes written and space used for each byte appended, with steady compaction.
//!   Counts what the disk has been given, so nothing else should write to it: best a file that is
//!   mounted for the purpose, as `BENCH_DIR`. What Linux counts for a process is of no use: it takes
//!   a whole large page for each write into one.
//!
//! On a machine with other work p10 says what an append costs when nothing stands in its way.
//!
//! Says what it measures and judges nothing: the goals and what came of them are in
//! `docs/performance.md`. `BENCH_DIR` is where the files go; it must be on the disk in question.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for its author's eyes")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{
    Batch, ClusterId, Entry, Identity, Incarnation, Index, LogId, LogStore, NodeId, Payload,
    SnapshotMeta, Term,
};
use raft_log::{DataDir, RocksLog, RocksLogConfig};

const SIZES: [usize; 2] = [256, 4096];
const BATCHES: [usize; 3] = [1, 16, 256];

/// Each subject gets so many turns, and does so many appends a turn.
const TURNS: usize = 7;

fn main() {
    let mut wanted: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if wanted.is_empty() {
        wanted = ["append", "recovery", "amplification"].map(str::to_owned).to_vec();
    }
    for what in wanted {
        match what.as_str() {
            "append" => append(),
            "recovery" => recovery(),
            "amplification" => amplification(),
            other => panic!("{other:?} is none of append, recovery, amplification"),
        }
    }
}

// Appends.

fn append() {
    println!("durable appends; quantiles in microseconds, throughput in MiB/s of payload");
    println!(
        "{:>6} {:>6}  {:<12} {:>6} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9}",
        "bytes",
        "batch",
        "subject",
        "p10",
        "p50",
        "p99",
        "MiB/s",
        "p10/limit",
        "p50/limit",
        "MiB/limit"
    );
    let engine = std::env::var_os("BENCH_RAFT_ENGINE").map(PathBuf::from);
    for bytes in SIZES {
        for batch in BATCHES {
            let load =
                Load { bytes, batch, appends: if batch * bytes > 1 << 18 { 60 } else { 300 } };
            let mut limit = Subject::new("limit");
            let mut ours = Subject::new("raft-log");
            let mut theirs = Subject::new("raft-engine");
            let dir = tempfile::tempdir_in(base()).unwrap();
            let mut file = Prefilled::new(dir.path(), &load);
            let mut log = Log::new(&dir.path().join("ours"));
            log.run(&load);
            for _ in 0..TURNS {
                limit.add(file.run(&load));
                ours.add(log.run(&load));
                if let Some(program) = &engine {
                    theirs.add(run_engine(program, &dir.path().join("theirs"), &load));
                }
            }
            for subject in [&limit, &ours, &theirs].into_iter().filter(|s| !s.laps.is_empty()) {
                subject.print(&load, &limit);
            }
        }
    }
}

struct Load {
    bytes: usize,
    batch: usize,
    appends: usize,
}

/// One of those that are compared, and how long each of its appends took.
struct Subject {
    name: &'static str,
    laps: Vec<Duration>,
}

impl Subject {
    fn new(name: &'static str) -> Self {
        Self { name, laps: Vec::new() }
    }

    fn add(&mut self, laps: Vec<Duration>) {
        self.laps.extend(laps);
    }

    fn quantile(&self, percent: usize) -> f64 {
        let mut laps = self.laps.clone();
        laps.sort();
        laps[(laps.len() - 1) * percent / 100].as_secs_f64()
    }

    /// From the middle half, so that a single stall does not decide.
    fn throughput(&self, load: &Load) -> f64 {
        let mut laps = self.laps.clone();
        laps.sort();
        let middle = &laps[laps.len() / 4..laps.len() * 3 / 4];
        let time: Duration = middle.iter().sum();
        (load.bytes * load.batch * middle.len()) as f64 / time.as_secs_f64() / f64::from(1 << 20)
    }

    fn print(&self, load: &Load, limit: &Self) {
        println!(
            "{:>6} {:>6}  {:<12} {:>6.0} {:>6.0} {:>6.0} {:>7.1} {:>9.2} {:>9.2} {:>9.2}",
            load.bytes,
            load.batch,
            self.name,
            self.quantile(10) * 1e6,
            self.quantile(50) * 1e6,
            self.quantile(99) * 1e6,
            self.throughput(load),
            self.quantile(10) / limit.quantile(10),
            self.quantile(50) / limit.quantile(50),
            self.throughput(load) / limit.throughput(load),
        );
    }
}

/// A file that is written over and over: no append of it changes metadata.
struct Prefilled {
    file: File,
    len: u64,
    at: u64,
}

impl Prefilled {
    fn new(dir: &Path, load: &Load) -> Self {
        let path = dir.join("limit");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        let len = (load.bytes * load.batch * load.appends).max(64 << 20) as u64;
        let zeroes = vec![0; 1 << 20];
        for at in (0..len).step_by(1 << 20) {
            file.write_all_at(&zeroes, at).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, len, at: 0 }
    }

    fn run(&mut self, load: &Load) -> Vec<Duration> {
        let block = noise(load.bytes * load.batch);
        let lap = |_| {
            if self.at + block.len() as u64 > self.len {
                self.at = 0;
            }
            let start = Instant::now();
            self.file.write_all_at(&block, self.at).unwrap();
            self.file.sync_data().unwrap();
            self.at += block.len() as u64;
            start.elapsed()
        };
        (0..load.appends).map(lap).collect()
    }
}

/// Our log, in a directory of its own.
struct Log {
    log: RocksLog,
    last: Index,
    _dir: DataDir,
}

impl Log {
    fn new(path: &Path) -> Self {
        let mut dir = DataDir::open(path).unwrap();
        let node = NodeId::new(1).unwrap();
        let identity = Identity { cluster: ClusterId(1), node, incarnation: Incarnation(1) };
        dir.initialise(identity, &SnapshotMeta::default(), &RocksLogConfig::default()).unwrap();
        Self::opened(dir)
    }

    fn open(path: &Path) -> Self {
        Self::opened(DataDir::open(path).unwrap())
    }

    fn opened(dir: DataDir) -> Self {
        let mut log = RocksLog::open(&dir, RocksLogConfig::default()).unwrap();
        let last = log.recover().unwrap().last;
        Self { log, last, _dir: dir }
    }

    /// Compacts now and then, as a node does.
    fn run(&mut self, load: &Load) -> Vec<Duration> {
        let payload = Payload::Command(Bytes::from(noise(load.bytes)));
        let mut laps = Vec::new();
        for _ in 0..load.appends {
            let batch = self.batch(&payload, load.batch);
            let start = Instant::now();
            self.log.persist(&batch).unwrap();
            laps.push(start.elapsed());
        }
        self.compact(self.last);
        laps
    }

    fn batch(&mut self, payload: &Payload, count: usize) -> Batch {
        let entries = (0..count).map(|_| {
            self.last = self.last.next();
            Entry { id: LogId::new(Term(1), self.last), payload: payload.clone() }
        });
        Batch { entries: entries.collect(), ..Batch::default() }
    }

    fn compact(&mut self, through: Index) {
        let base = SnapshotMeta { last: LogId::new(Term(1), through), ..SnapshotMeta::default() };
        self.log.compact(&base).unwrap();
    }
}

/// One turn of raft-engine: the program prints nanoseconds, one append a line.
fn run_engine(program: &Path, dir: &Path, load: &Load) -> Vec<Duration> {
    let numbers = [load.bytes, load.batch, load.appends].map(|number| number.to_string());
    let output = Command::new(program).arg(dir).args(numbers).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| Duration::from_nanos(line.parse().unwrap())).collect()
}

// Recovery.

fn recovery() {
    const ENTRIES: usize = 1_000_000;
    let dir = tempfile::tempdir_in(base()).unwrap();
    let path = dir.path().join("log");
    let mut log = Log::new(&path);
    let payload = Payload::Command(Bytes::from(noise(256)));
    for _ in 0..ENTRIES / 1000 {
        let batch = log.batch(&payload, 1000);
        log.log.persist(&batch).unwrap();
    }
    drop(log);
    let mut laps: Vec<_> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let log = Log::open(&path);
            assert_eq!(log.last.0, ENTRIES as u64);
            start.elapsed().as_secs_f64()
        })
        .collect();
    laps.sort_by(f64::total_cmp);
    println!("recovery of {ENTRIES} entries of 256 B: median {:.2} s of {laps:.2?}", laps[2]);
}

// Amplification.

fn amplification() {
    const ENTRIES: u64 = 10_000_000;
    const BYTES: usize = 256;
    /// How many entries the log keeps, and how often it is cut to that.
    const LIVE: u64 = 1_000_000;
    const EVERY: u64 = 100_000;
    let dir = tempfile::tempdir_in(base()).unwrap();
    let path = dir.path().join("log");
    let mut log = Log::new(&path);
    let payload = Payload::Command(Bytes::from(noise(BYTES)));
    let before = written(&path);
    let start = Instant::now();
    let mut spaces = Vec::new();
    while log.last.0 < ENTRIES {
        let batch = log.batch(&payload, 256);
        log.log.persist(&batch).unwrap();
        if log.last.0 > LIVE && log.last.0 % EVERY < 256 {
            log.compact(Index(log.last.0 - LIVE));
            spaces.push(space(&path));
        }
    }
    let appended = log.last.0 as f64 * BYTES as f64;
    let rate = log.last.0 as f64 / start.elapsed().as_secs_f64();
    let write = (written(&path) - before) as f64 / appended;
    let live = LIVE as f64 * BYTES as f64;
    spaces.sort_unstable();
    let most = *spaces.last().unwrap() as f64 / live;
    let median = spaces[spaces.len() / 2] as f64 / live;
    println!(
        "{ENTRIES} entries of {BYTES} B in batches of 256, {LIVE} live: {rate:.0} entries/s, \
         {write:.2} bytes written for each appended, space {median:.2} (most {most:.2}) x the live log"
    );
}

/// How many bytes were written so far to the disk that `path` is on.
fn written(path: &Path) -> u64 {
    // All that is on its way is part of it.
    File::open(path).unwrap().sync_all().unwrap();
    Command::new("sync").status().unwrap();
    let device = fs::metadata(path).unwrap().dev();
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    let sectors: u64 = stat.split_whitespace().nth(6).unwrap().parse().unwrap();
    sectors * 512
}

fn space(path: &Path) -> u64 {
    let item = |item: fs::DirEntry| match item.metadata() {
        Ok(metadata) if metadata.is_dir() => space(&item.path()),
        Ok(metadata) => metadata.blocks() * 512,
        // RocksDB has removed it meanwhile.
        Err(_) => 0,
    };
    fs::read_dir(path).unwrap().map(|found| item(found.unwrap())).sum()
}

fn base() -> PathBuf {
    std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Bytes that no disk can compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(next).collect()
}
