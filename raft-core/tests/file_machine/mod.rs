//! A state machine in one file, as an example for people who write their own: counters by name. It
//! keeps the contract of `StateMachine` and nothing more: everything is in memory as well, and the
//! file is written anew whenever it is to be durable or sent.
//!
//! The file is a CRC-32C (4 bytes, little-endian) and the state (postcard). It is never written to in
//! place, so whoever has it open has an image that does not change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft_core::{
    Applied, Entry, Index, LogId, MachineError, Membership, Payload, SnapshotFile, SnapshotMeta,
    SnapshotReader, SnapshotSource, StateMachine,
};
use serde::{Deserialize, Serialize};

/// Data and how far it has come, which are only ever written together (rule C3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) counters: BTreeMap<String, u64>,
    last: LogId,
    membership: Option<(LogId, Membership)>,
}

/// The machine. Commands are made by [`FileMachine::add`]; the outcome is the counter's new value.
pub(crate) struct FileMachine {
    path: PathBuf,
    pub(crate) state: State,
}

impl FileMachine {
    /// Opens the machine in the directory `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, MachineError> {
        let path = dir.join("state");
        let state = match fs::read(&path) {
            Ok(bytes) => decode(&bytes).ok_or_else(|| unknown(path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(failed("reading the state", error)),
        };
        Ok(Self { path, state })
    }

    /// The command that adds to a counter. The first byte is the version.
    pub(crate) fn add(counter: &str, amount: u64) -> Bytes {
        [&[1], &amount.to_le_bytes()[..], counter.as_bytes()].concat().into()
    }

    /// Writes `state` to a new file and puts it in the place of the old one, in one step (rule S3).
    fn write(&self, state: &State) -> io::Result<()> {
        let body = postcard::to_stdvec(state).map_err(io::Error::other)?;
        let mut file = File::create(self.path.with_extension("new"))?;
        file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(self.path.with_extension("new"), &self.path)?;
        // A new name is durable once its directory is.
        File::open(self.path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

impl StateMachine for FileMachine {
    fn applied(&self) -> Applied {
        Applied { last: self.state.last, membership: self.state.membership.clone() }
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        for entry in entries {
            outcomes.push(match &entry.payload {
                Payload::Command(command) => {
                    let (amount, name) =
                        parse(command).ok_or_else(|| unknown(format!("entry {}", entry.id)))?;
                    let counter = self.state.counters.entry(name).or_default();
                    *counter = counter.wrapping_add(amount);
                    Bytes::copy_from_slice(&counter.to_le_bytes())
                }
                Payload::Membership(membership) => {
                    self.state.membership = Some((entry.id, Membership::clone(membership)));
                    Bytes::new()
                }
                Payload::Empty => Bytes::new(),
            });
            self.state.last = entry.id;
        }
        Ok(())
    }

    fn durable(&mut self) -> Result<Index, MachineError> {
        self.write(&self.state).map_err(|error| failed("writing the state", error))?;
        Ok(self.state.last.index)
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let image = || {
            self.write(&self.state)?;
            let file = File::open(&self.path)?;
            let files =
                vec![SnapshotFile { name: "state".to_owned(), bytes: file.metadata()?.len() }];
            let meta = self.applied().to_meta(&SnapshotMeta::default());
            Ok::<_, io::Error>(Image { meta, files, file })
        };
        Ok(Box::new(image().map_err(|error| failed("taking a snapshot", error))?))
    }

    /// What cannot be read, or is not what its head says, is refused before anything is replaced.
    fn restore(&mut self, mut snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        let SnapshotMeta { last, membership, membership_at } = snapshot.meta().clone();
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            match snapshot.read_at(0, bytes.len() as u64, &mut piece) {
                Ok(0) => break,
                Ok(filled) => bytes.extend_from_slice(&piece[..filled]),
                Err(error) => return Err(failed("reading a snapshot", error)),
            }
        }
        let state = decode(&bytes).filter(|state| state.last == last);
        let mut state = state.ok_or_else(|| unknown(format!("the snapshot of {last}")))?;
        // The sender may have lived by the configuration that its log was founded with (rule M9).
        state.membership = Some((membership_at, membership));
        self.write(&state).map_err(|error| failed("writing a snapshot", error))?;
        self.state = state;
        Ok(self.applied())
    }
}

/// The file as it was when it was opened.
#[derive(Debug)]
struct Image {
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    file: File,
}

impl SnapshotSource for Image {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.files.get(file).ok_or(io::ErrorKind::NotFound)?;
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read(buffer)
    }
}

fn parse(command: &[u8]) -> Option<(u64, String)> {
    let (amount, name) = command.strip_prefix(&[1])?.split_first_chunk()?;
    Some((u64::from_le_bytes(*amount), String::from_utf8(name.to_vec()).ok()?))
}

fn decode(bytes: &[u8]) -> Option<State> {
    let (sum, body) = bytes.split_first_chunk()?;
    (crc32c::crc32c(body) == u32::from_le_bytes(*sum)).then(|| postcard::from_bytes(body).ok())?
}

fn unknown(what: impl ToString) -> MachineError {
    MachineError::Unknown { what: what.to_string() }
}

fn failed(doing: &'static str, error: io::Error) -> MachineError {
    MachineError::Storage { doing, source: Box::new(error) }
}
