//! What processes have used, from `/proc`; and what a disk was given, from `/sys`.
//!
//! Not from `/proc/PID/io`: Linux charges a process with all of a large folio of which it writes a few
//! bytes, and that was a hundred times what went to the disk.

use std::fs;
use std::ops::Sub;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What some processes have used since they began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// In user and kernel mode, in seconds.
    pub(crate) cpu_s: f64,
    /// Written to the disk, by whomever.
    pub(crate) written_bytes: f64,
    /// How often a thread gave its processor away.
    pub(crate) switches: f64,
}

impl Usage {
    /// That of these processes, with the disk that `dir` is on.
    pub(crate) fn of(processes: &[u32], dir: &Path) -> Self {
        let mut sum = Self { written_bytes: written_bytes(dir), ..Self::default() };
        for process in processes {
            sum.cpu_s += cpu_s(*process);
            sum.switches += switches(*process);
        }
        sum
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            cpu_s: self.cpu_s - before.cpu_s,
            written_bytes: self.written_bytes - before.written_bytes,
            switches: self.switches - before.switches,
        }
    }
}

/// Memory that is resident, of all of them, in MiB.
pub(crate) fn resident_mib(processes: &[u32]) -> f64 {
    let kib = processes.iter().map(|process| field(&format!("/proc/{process}/status"), "VmRSS:"));
    kib.sum::<f64>() / 1024.0
}

fn cpu_s(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name of the program, in brackets, may hold spaces; what follows it does not.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_whitespace().skip(UTIME - 3).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_S
}

fn written_bytes(dir: &Path) -> f64 {
    let device = fs::metadata(dir).map_or(0, |data| data.dev());
    // As Linux packs a device number.
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
    let stat = stat.unwrap_or_default();
    let sectors = stat.split_whitespace().nth(SECTORS_WRITTEN);
    sectors.and_then(|sectors| sectors.parse::<f64>().ok()).unwrap_or_default() * SECTOR_BYTES
}

fn switches(process: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let files = tasks.map(|task| format!("{}/status", task.path().display()));
    files.map(|file| field(&file, "voluntary_ctxt_switches:")).sum()
}

/// The number after `name` at the start of a line. 0 if there is none.
fn field(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The field of user time, counted from 1; kernel time follows it.
const UTIME: usize = 14;

/// Which field of a block device's `stat`, counted from 0.
const SECTORS_WRITTEN: usize = 6;
const SECTOR_BYTES: f64 = 512.0;

/// Of the clock in which Linux tells processor time to user space, on every architecture of ours.
const TICKS_PER_S: f64 = 100.0;
