//! Real failures: the power goes on a real file system, the disk is full, an fsync fails.
//!
//! A writer runs as a process of its own (this program again) and says of each write, once it is
//! acknowledged, what its last index is. File systems are loop-mounted images. All of this
//! needs Linux and root, and some tools; where they are missing a test says so and passes.
//! `make power-cuts` cuts the power 200 times.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    clippy::print_stdout,
    reason = "a process tells another, and a skipped test tells a person"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use common::{append, command, founding, identity, prepared};
use raft_core::{Index, LogStore, StoreError};
use raft_log::{DataDir, RocksLog};
use tempfile::TempDir;

/// Rule L10, rule L15: what was acknowledged before the power went is there, every time.
#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let cuts = env::var("POWER_CUTS").map_or(3, |count| count.parse().unwrap());
    if let Err(missing) = needs("xfs_io") {
        return skip("power cuts", &missing);
    }
    let volume = match Volume::new(200) {
        Ok(volume) => volume,
        Err(reason) => return skip("power cuts", &reason),
    };
    initialise(&volume.data());
    for cut in 0..cuts {
        let mut writer = Writer::start(&volume.data(), &[]);
        // A different moment each time: early, late, beside flushes and compactions.
        let writes = 1 + (cut * 37) % 211;
        let seen = (0..writes).map_while(|_| writer.line()).count();
        assert_eq!(seen, writes, "cut {cut}: the writer ended early");
        run("xfs_io", &["-x", "-c", "shutdown", &text(volume.mounted.path())]).unwrap();
        // What it had said by then was acknowledged before the cut, or failed.
        let acknowledged = writer.last_acknowledged();
        volume.remount();
        let found = check(&volume.data());
        assert!(found >= acknowledged, "cut {cut}: {found} of {acknowledged} acknowledged entries");
    }
    println!("{cuts} power cuts, nothing acknowledged was lost");
}

/// Rule L14: a full disk stops the store with an error that says so; the reserve lets it start again.
#[test]
fn a_full_disk_stops_the_store_and_lets_it_start_again() {
    let volume = match Volume::new(48) {
        Ok(volume) => volume,
        Err(reason) => return skip("full disk", &reason),
    };
    let data = volume.data();
    initialise(&data);
    let reserve = data.join("reserve");
    let mut small = prepared();
    small.reserve_bytes = 4 << 20;
    let dir = DataDir::open(&data).unwrap();
    let mut log = RocksLog::open(&dir, small.clone()).unwrap();
    let mut last = log.recover().unwrap().last;
    assert!(reserve.exists());
    let full = loop {
        let next = last.next();
        match log.persist(&append(vec![command(next.0, 1, &text_of(next, 200_000))])) {
            Ok(()) => last = next,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    assert!(!reserve.exists(), "released");
    let next = last.next().0;
    let again = log.persist(&append(vec![command(next, 1, "small")])).unwrap_err();
    assert_eq!(again.to_string(), full.to_string(), "no second try");
    drop(log);
    let mut log = RocksLog::open(&dir, small).unwrap();
    assert!(log.recover().unwrap().last >= last);
    let next = log_end(&mut log);
    log.persist(&append(vec![command(next, 1, "room again")])).unwrap();
}

/// Rule L14: an fsync that fails is final, and what was acknowledged before is there.
#[test]
fn a_failed_fsync_stops_the_store() {
    if let Err(missing) = needs("strace") {
        return skip("failed fsync", &missing);
    }
    let place = common::Place::new();
    let log = place.path().with_file_name("trace");
    for nth in [1, 2, 7] {
        let inject = format!("inject=fdatasync:error=EIO:when={nth}");
        let strace = ["strace", "-f", "-qq", "-o", &text(&log), "-e", &inject].map(str::to_owned);
        let mut writer = Writer::start(&place.path(), &strace);
        let lines: Vec<_> = std::iter::from_fn(|| writer.line()).collect();
        let Some(at) = lines.iter().position(|line| line.starts_with("failed ")) else {
            // The tracer itself may be forbidden here.
            return skip("failed fsync", &format!("strace did not work: {lines:?}"));
        };
        assert!(lines[at].contains("Input/output error"), "{lines:?}");
        assert_eq!(lines[at + 1..], [lines[at].clone()], "no second try");
        let acknowledged = lines[..at].last().map_or(0, |line| line.parse().unwrap());
        assert!(check(&place.path()) >= acknowledged);
    }
}

#[test]
fn a_data_directory_on_a_full_disk_is_refused() {
    let volume = match Volume::new(16) {
        Ok(volume) => volume,
        Err(reason) => return skip("full disk", &reason),
    };
    let filler = volume.mounted.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let refused = DataDir::open(&volume.data())
        .and_then(|mut dir| dir.initialise(identity(), &founding(), &prepared()));
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("full") || message.contains("No space left"), "{message}");
}

/// The process that writes. Only does something when it is started by [`Writer`].
#[test]
fn writer() {
    let Some(data) = env::var_os(DATA) else { return };
    let dir = DataDir::open(Path::new(&data)).unwrap();
    let mut log = match RocksLog::open(&dir, prepared()) {
        Ok(log) => log,
        Err(error) => {
            // Twice, as for a write: an opening is not tried again.
            println!("\n{SAID}failed {error}\n{SAID}failed {error}");
            return;
        }
    };
    let mut last = log.recover().unwrap().last;
    loop {
        let next = last.next();
        let entries = (0..1 + next.0 % 5).map(|n| {
            let index = Index(next.0 + n);
            command(index.0, 1, &text_of(index, 700))
        });
        match log.persist(&append(entries.collect())) {
            Ok(()) => last = Index(next.0 + next.0 % 5),
            Err(error) => {
                let again = log.persist(&append(vec![command(next.0, 1, "x")])).unwrap_err();
                println!("\n{SAID}failed {error}\n{SAID}failed {again}");
                return;
            }
        }
        println!("\n{SAID}{last}");
    }
}

const DATA: &str = "RAFT_LOG_WRITER";
const SAID: &str = "writer: ";

/// A process that appends until something fails.
struct Writer {
    child: Child,
    output: std::io::Lines<BufReader<std::process::ChildStdout>>,
    last: u64,
}

impl Writer {
    /// `under` is a command to run it under.
    fn start(data: &Path, under: &[String]) -> Self {
        let own = text(&env::current_exe().unwrap());
        let mut words = under.to_vec();
        words.extend([own.as_str(), "--exact", "writer", "--nocapture"].map(str::to_owned));
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env(DATA, data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, output, last: 0 }
    }

    /// The next thing it says. The index of an entry is acknowledged.
    fn line(&mut self) -> Option<String> {
        for line in self.output.by_ref() {
            if let Some(said) = line.ok()?.strip_prefix(SAID) {
                self.last = said.parse().unwrap_or(self.last);
                return Some(said.to_owned());
            }
        }
        None
    }

    /// Waits until it has failed, as it must without a disk.
    fn last_acknowledged(mut self) -> u64 {
        while self.line().is_some() {}
        self.last
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file system in a file.
struct Volume {
    mounted: TempDir,
    device: String,
    _image: TempDir,
}

impl Volume {
    fn new(megabytes: u64) -> Result<Self, String> {
        for tool in ["mkfs.ext4", "losetup", "mount"] {
            needs(tool)?;
        }
        let image = tempfile::tempdir().unwrap();
        let file = image.path().join("image");
        fs::File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", &text(&file)])?;
        let device = run("losetup", &["-f", "--show", &text(&file)])?.trim().to_owned();
        let mounted = tempfile::tempdir().unwrap();
        if let Err(reason) = run("mount", &[&device, &text(mounted.path())]) {
            run("losetup", &["-d", &device])?;
            return Err(reason);
        }
        Ok(Self { mounted, device, _image: image })
    }

    fn data(&self) -> PathBuf {
        self.mounted.path().join("data")
    }

    /// As after the power is back: the journal is replayed, the page cache is empty.
    fn remount(&self) {
        let at = text(self.mounted.path());
        run("umount", &[&at]).unwrap();
        run("mount", &[&self.device, &at]).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = run("umount", &[&text(self.mounted.path())]);
        let _ = run("losetup", &["-d", &self.device]);
    }
}

/// The index after the last.
fn log_end(log: &mut RocksLog) -> u64 {
    log.recover().unwrap().last.next().0
}

fn initialise(data: &Path) {
    let mut dir = DataDir::open(data).unwrap();
    dir.initialise(identity(), &founding(), &prepared()).unwrap();
}

/// Opens the log, checks each entry in it, and says which is the last.
fn check(data: &Path) -> u64 {
    let dir = DataDir::open(data).unwrap();
    let mut log = RocksLog::open(&dir, prepared()).unwrap();
    let last = log.recover().unwrap().last;
    let entries = log.reader().read(Index(1), usize::MAX, usize::MAX).unwrap();
    assert_eq!(entries.last().map_or(0, |entry| entry.id.index.0), last.0);
    for entry in entries {
        assert_eq!(entry, command(entry.id.index.0, 1, &text_of(entry.id.index, 700)));
    }
    last.0
}

/// What the entry at `index` says.
fn text_of(index: Index, len: usize) -> String {
    format!("{index} ").repeat(len / 8)
}

fn needs(tool: &str) -> Result<(), String> {
    let found = Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.map(|_| ()).map_err(|_| format!("{tool} is not installed"))
}

fn run(tool: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(tool).args(words).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{tool} {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn skip(what: &str, reason: &str) {
    println!("skipped: {what}: {reason}");
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
