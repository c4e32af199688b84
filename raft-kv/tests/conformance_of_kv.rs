//! The conformance suite of `raft_core::testing`, run against [`Kv`].

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use bytes::Bytes;
use raft_core::testing::suites::state_machine::MachinePlace;
use raft_kv::{Command, DeleteRange, KeyRange, Kv, Proposal, Put};
use support::{config, image_of, tempdir};
use tempfile::TempDir;

raft_core::state_machine_suite!(kv, || Place { dir: tempdir() });

struct Place {
    dir: TempDir,
}

impl MachinePlace for Place {
    type Machine = Kv;

    fn open(&self) -> Kv {
        Kv::open(self.dir.path(), config()).unwrap()
    }

    fn image(&self) -> Self {
        Self { dir: image_of(self.dir.path()) }
    }

    fn command(&self, number: u64) -> Bytes {
        let key = format!("k{}", number % 5);
        let command = if number.is_multiple_of(8) {
            let range = KeyRange::prefix(format!("k{}", number % 3));
            Command::DeleteRange(DeleteRange { range, prev_kv: true })
        } else {
            Command::Put(Put::new(key, number.to_string()))
        };
        Proposal::from(command).encode()
    }

    fn digest(&self, machine: &Kv) -> Vec<u8> {
        format!("{:?}", machine.reader().digest().unwrap()).into_bytes()
    }

    fn unknown_command(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"\xee of a later version"))
    }
}
