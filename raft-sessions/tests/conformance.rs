//! What every state machine must do, done by sessions around one that lives in memory, around one whose
//! snapshots are old, and around one with a disk of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tally;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raft_core::sessions::{ClusterTime, SessionId, SessionTag, Stamp};
use raft_core::testing::suites::state_machine::MachinePlace;
use raft_core::testing::{MemMachine, MemStore};
use raft_core::{Term, state_machine_suite};
use raft_sessions::{Proposal, Request, Sessions};
use tally::Tally;
use tempfile::TempDir;

state_machine_suite!(around_a_machine_in_memory, || Place::new(false));
state_machine_suite!(around_a_lazy_machine, || Place::new(true));
state_machine_suite!(around_a_machine_with_a_disk, WithDisk::new);

struct Place {
    is_lazy: bool,
    dir: TempDir,
}

impl Place {
    fn new(is_lazy: bool) -> Self {
        Self { is_lazy, dir: TempDir::new().unwrap() }
    }
}

impl MachinePlace for Place {
    type Machine = Sessions<Tally>;

    fn open(&self) -> Sessions<Tally> {
        let machine = if self.is_lazy { Tally::lazy() } else { Tally::default() };
        Sessions::open(self.dir.path(), machine).unwrap()
    }

    fn image(&self) -> Self {
        Self { is_lazy: self.is_lazy, dir: image(self.dir.path()) }
    }

    fn command(&self, number: u64) -> Bytes {
        proposal(number, Bytes::from)
    }

    fn digest(&self, machine: &Sessions<Tally>) -> Vec<u8> {
        let counters = &machine.machine().state.counters;
        format!("{counters:?} {:?} {:?}", machine.sessions(), machine.view().clock()).into_bytes()
    }

    fn unknown_command(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"\xff of a later version"))
    }
}

/// A map on a disk, which is written to when it likes: after a crash it is behind the pair, or ahead of it.
struct WithDisk {
    dir: TempDir,
    store: MemStore,
    images: AtomicU64,
}

impl WithDisk {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), store: MemStore::new(), images: AtomicU64::new(0) }
    }
}

impl MachinePlace for WithDisk {
    type Machine = Sessions<MemMachine>;

    fn open(&self) -> Sessions<MemMachine> {
        Sessions::open(self.dir.path(), self.store.machine()).unwrap()
    }

    fn image(&self) -> Self {
        // The machine is put to a snapshot before that becomes the pair, never after.
        let dir = image(self.dir.path());
        if self.images.fetch_add(1, Ordering::Relaxed) % 3 == 1 {
            self.store.flush();
        }
        Self { dir, store: self.store.image(), images: AtomicU64::new(0) }
    }

    fn command(&self, number: u64) -> Bytes {
        // The outcome tells of the command before.
        proposal(number, |name| MemMachine::put(name.as_bytes(), number.to_string().as_bytes()))
    }

    fn digest(&self, machine: &Sessions<MemMachine>) -> Vec<u8> {
        let (sessions, clock) = (machine.sessions(), machine.view().clock());
        format!("{:x} {sessions:?} {clock:?}", self.store.hash()).into_bytes()
    }

    fn unknown_command(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"\xff of a later version"))
    }
}

/// Sessions are opened and closed, commands are repeated, numbers jump, and time ends what it ends. `command`
/// makes what is to be run under a name.
fn proposal(number: u64, command: impl FnOnce(String) -> Bytes) -> Bytes {
    // Those that are opened below, if the numbers are places in the log.
    let session = SessionId(11 * (1 + number % 4));
    let sequence = 1 + number % 5;
    let tag = SessionTag { session, sequence, unacknowledged: sequence.min(1 + number % 2) };
    let request = match number % 11 {
        0 => Request::Open { ttl_ms: 1_000 * (number % 50) },
        1 if number.is_multiple_of(3) => Request::Close(session),
        2 if number.is_multiple_of(3) => Request::Keep(session),
        3 => Request::Tick,
        4 => Request::Run { tag: None, command: command("plain".to_owned()) },
        _ => Request::Run { tag: Some(tag), command: command(format!("of-{}", session.0)) },
    };
    let stamp = Stamp { term: Term(1 + number % 3), time: ClusterTime(number * 100) };
    Proposal { stamp: Some(stamp), request }.encode()
}

/// What the power would leave of the directory `from`. Pairs are named and removed while it is copied: then
/// it is copied again, since the copy is of no moment.
fn image(from: &Path) -> TempDir {
    loop {
        let image = TempDir::new().unwrap();
        let before = list(from);
        let is_whole = before.iter().flatten().all(|name| copy(from, image.path(), name).is_ok());
        if is_whole && before.is_some() && before == list(from) {
            return image;
        }
    }
}

/// The files of all directories in `dir`. `None` if one goes meanwhile.
fn list(dir: &Path) -> Option<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(dir).ok()? {
        let name = PathBuf::from(entry.ok()?.file_name());
        if dir.join(&name).is_dir() {
            for file in fs::read_dir(dir.join(&name)).ok()? {
                files.insert(name.join(file.ok()?.file_name()));
            }
        }
    }
    Some(files)
}

fn copy(from: &Path, to: &Path, name: &Path) -> io::Result<()> {
    fs::create_dir_all(to.join(name.parent().unwrap()))?;
    fs::copy(from.join(name), to.join(name)).map(drop)
}
