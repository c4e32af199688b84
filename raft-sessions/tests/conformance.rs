//! What every state machine must do, done by sessions around one that lives in memory, and around one whose
//! snapshots are old.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tally;

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use raft_core::sessions::{ClusterTime, SessionId, SessionTag, Stamp};
use raft_core::testing::suites::state_machine::MachinePlace;
use raft_core::{Term, state_machine_suite};
use raft_sessions::{Proposal, Request, Sessions};
use tally::Tally;
use tempfile::TempDir;

state_machine_suite!(around_a_machine_in_memory, || Place::new(false));
state_machine_suite!(around_a_lazy_machine, || Place::new(true));

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
        let image = Self::new(self.is_lazy);
        copy(self.dir.path(), image.dir.path()).unwrap();
        image
    }

    /// Sessions are opened and closed, commands are repeated, numbers jump, and time ends what it ends.
    fn command(&self, number: u64) -> Bytes {
        // Those that are opened below, if the numbers are places in the log.
        let session = SessionId(11 * (1 + number % 4));
        let sequence = 1 + number % 5;
        let tag = SessionTag { session, sequence, unacknowledged: sequence.min(1 + number % 2) };
        let request = match number % 11 {
            0 => Request::Open { ttl_ms: 1_000 * (number % 50) },
            1 if number.is_multiple_of(3) => Request::Close(session),
            2 if number.is_multiple_of(3) => Request::Keep(session),
            3 => Request::Tick,
            4 => Request::Run { tag: None, command: "plain".into() },
            _ => Request::Run { tag: Some(tag), command: format!("of-{}", session.0).into() },
        };
        let stamp = Stamp { term: Term(1 + number % 3), time: ClusterTime(number * 100) };
        Proposal { stamp: Some(stamp), request }.encode()
    }

    fn digest(&self, machine: &Sessions<Tally>) -> Vec<u8> {
        let counters = &machine.machine().state.counters;
        format!("{counters:?} {:?}", machine.sessions()).into_bytes()
    }

    fn unknown_command(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"\xff of a later version"))
    }
}

/// As the power would leave it. What is removed meanwhile was not there.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let copied = if entry.path().is_dir() {
            fs::create_dir(&target).and_then(|()| copy(&entry.path(), &target))
        } else {
            fs::copy(entry.path(), &target).map(drop)
        };
        match copied {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(fs::remove_dir_all(&target))
            }
            result => result?,
        }
    }
    Ok(())
}
