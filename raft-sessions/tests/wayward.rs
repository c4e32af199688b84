//! What goes wrong beneath sessions stops the node instead of being passed over, and what is slow
//! beneath them does not fill the memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tally;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use raft_core::sessions::{SessionId, SessionTag};
use raft_core::testing::MemSnapshot;
use raft_core::{
    Applied, Entry, Index, LogId, MachineError, Payload, SnapshotFile, SnapshotMeta,
    SnapshotReader, SnapshotSource, StateMachine, Term,
};
use raft_sessions::{Proposal, Request, Sessions};
use tally::Tally;
use tempfile::TempDir;

/// What is wrong with the machine, from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// Its snapshots cannot be read.
    Unreadable,
    /// Reading its snapshots panics.
    Panics,
    /// Reading its snapshots takes until this fault is gone.
    Stuck,
    /// It says that it restores, and does nothing.
    IgnoresSnapshots,
}

/// A tally with a fault, whose answers are as long as one likes.
struct Wayward {
    tally: Tally,
    fault: Arc<Mutex<Fault>>,
    answer: Bytes,
}

#[derive(Debug)]
struct WaywardSource {
    source: Box<dyn SnapshotSource>,
    fault: Arc<Mutex<Fault>>,
}

impl Wayward {
    fn answering(answer: Bytes) -> (Self, Arc<Mutex<Fault>>) {
        let fault = Arc::new(Mutex::new(Fault::None));
        (Self { tally: Tally::default(), fault: fault.clone(), answer }, fault)
    }

    fn new() -> (Self, Arc<Mutex<Fault>>) {
        Self::answering(Bytes::new())
    }
}

impl StateMachine for Wayward {
    fn applied(&self) -> Applied {
        self.tally.applied()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        self.tally.apply(entries, &mut Vec::new())?;
        // Pieces of something large, which they would keep in memory.
        outcomes.extend(entries.iter().map(|_| self.answer.clone()));
        Ok(())
    }

    fn durable(&mut self) -> Result<Index, MachineError> {
        self.tally.durable()
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let (source, fault) = (self.tally.snapshot()?, self.fault.clone());
        Ok(Box::new(WaywardSource { source, fault }))
    }

    fn restore(&mut self, snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        if *self.fault.lock().unwrap() == Fault::IgnoresSnapshots {
            return Ok(self.applied());
        }
        self.tally.restore(snapshot)
    }
}

impl SnapshotSource for WaywardSource {
    fn meta(&self) -> &SnapshotMeta {
        self.source.meta()
    }

    fn files(&self) -> &[SnapshotFile] {
        self.source.files()
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let fault = *self.fault.lock().unwrap();
            match fault {
                Fault::None | Fault::IgnoresSnapshots => {
                    return self.source.read_at(file, offset, buffer);
                }
                Fault::Unreadable => return Err(io::Error::other("told to fail")),
                Fault::Panics => panic!("told to panic"),
                Fault::Stuck => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

fn entry(index: u64, request: Request) -> Entry {
    let payload = Payload::Command(Proposal { stamp: None, request }.encode());
    Entry { id: LogId::new(Term(1), Index(index)), payload }
}

fn plain(index: u64) -> Entry {
    entry(index, Request::Run { tag: None, command: "a".into() })
}

fn apply<S: StateMachine>(sessions: &mut Sessions<S>, entries: &[Entry]) {
    sessions.apply(entries, &mut Vec::new()).unwrap();
}

/// Otherwise the log would grow from then on and nobody would know why.
#[test]
fn a_pair_that_cannot_be_written_stops_the_node() {
    for wrong in [Fault::Unreadable, Fault::Panics] {
        let dir = TempDir::new().unwrap();
        let (machine, fault) = Wayward::new();
        let mut sessions = Sessions::open(dir.path(), machine).unwrap();
        apply(&mut sessions, &[plain(1)]);
        *fault.lock().unwrap() = wrong;
        let is_refused = (0..2_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            matches!(sessions.durable(), Err(MachineError::Storage { .. }))
        });
        assert!(is_refused, "{wrong:?} went by unnoticed");
        // What was kept before is still there.
        drop(sessions);
        let (machine, _) = Wayward::new();
        let sessions = Sessions::open(dir.path(), machine).unwrap();
        assert_eq!(sessions.applied().last, LogId::ZERO);
    }
}

/// Rule S3. What was being kept is given up, and what has come is what counts.
#[test]
fn a_snapshot_that_comes_while_a_pair_is_being_written_takes_its_place() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut sender = Sessions::open(other.path(), Tally::default()).unwrap();
    apply(&mut sender, &(1..=9).map(plain).collect::<Vec<_>>());
    while sender.durable().unwrap() < Index(9) {
        thread::sleep(Duration::from_millis(1));
    }
    let mut source = sender.snapshot().unwrap();
    let snapshot = MemSnapshot::receive(source.meta().clone(), &mut *source).unwrap();
    for wrong in [Fault::Stuck, Fault::Unreadable, Fault::Panics] {
        let (machine, fault) = Wayward::new();
        let mut sessions = Sessions::open(dir.path(), machine).unwrap();
        let next = sessions.applied().last.index.0 + 1;
        apply(&mut sessions, &[plain(next)]);
        *fault.lock().unwrap() = wrong;
        sessions.durable().unwrap();
        let disk = thread::spawn({
            let fault = fault.clone();
            move || {
                thread::sleep(Duration::from_millis(50));
                *fault.lock().unwrap() = Fault::None;
            }
        });
        sessions.restore(Box::new(snapshot.clone())).unwrap();
        disk.join().unwrap();
        assert_eq!(sessions.durable().unwrap(), Index(9), "{wrong:?}");
        // It goes on, and keeps what comes next.
        apply(&mut sessions, &[plain(10)]);
        while sessions.durable().unwrap() < Index(10) {
            thread::sleep(Duration::from_millis(1));
        }
        drop(sessions);
        let sessions = Sessions::open(dir.path(), Tally::default()).unwrap();
        assert_eq!((sessions.applied().last.index, sessions.machine().count("a")), (Index(10), 10));
    }
}

/// However slow the disk is: then applying waits for it.
#[test]
fn what_is_remembered_has_a_bound_while_a_pair_is_being_written() {
    let dir = TempDir::new().unwrap();
    let (machine, fault) = Wayward::new();
    let mut sessions = Sessions::open(dir.path(), machine).unwrap();
    *fault.lock().unwrap() = Fault::Stuck;
    let is_done = Arc::new(AtomicBool::new(false));
    let disk = thread::spawn({
        let is_done = is_done.clone();
        move || {
            // Longer than all of it takes if nobody waits.
            for _ in 0..30 {
                thread::sleep(Duration::from_millis(100));
                if is_done.load(Ordering::Relaxed) {
                    break;
                }
            }
            *fault.lock().unwrap() = Fault::None;
        }
    });
    let mut most = 0;
    for batch in 0..200 {
        let entries: Vec<_> = (1..=1_000).map(|number| plain(batch * 1_000 + number)).collect();
        apply(&mut sessions, &entries);
        most = most.max(sessions.remembered());
    }
    is_done.store(true, Ordering::Relaxed);
    disk.join().unwrap();
    assert!(most <= 90_000, "{most} notes");
}

/// A client that acknowledges everything holds nothing, but its answers are among what is remembered.
#[test]
fn long_answers_count_for_more_in_what_is_remembered() {
    let dir = TempDir::new().unwrap();
    let (machine, _) = Wayward::answering(vec![0; 1 << 20].into());
    let mut sessions = Sessions::open(dir.path(), machine).unwrap();
    apply(&mut sessions, &[entry(1, Request::Open { ttl_ms: 60_000 })]);
    let mut most = 0;
    for index in 2..=300 {
        let (session, sequence) = (SessionId(1), index - 1);
        let tag = Some(SessionTag { session, sequence, unacknowledged: sequence });
        apply(&mut sessions, &[entry(index, Request::Run { tag, command: "a".into() })]);
        most = most.max(sessions.remembered());
        thread::sleep(Duration::from_millis(1));
    }
    assert!(most <= 260, "{most} notes of 1 MiB");
}

/// A short answer may be a piece of something long, which must not stay in memory for its sake.
#[test]
fn an_answer_that_is_kept_keeps_nothing_else() {
    let dir = TempDir::new().unwrap();
    let mut whole = Bytes::from(vec![0; 1 << 20]);
    let (machine, _) = Wayward::answering(whole.split_to(1));
    let mut sessions = Sessions::open(dir.path(), machine).unwrap();
    let tag = Some(SessionTag { session: SessionId(1), sequence: 1, unacknowledged: 1 });
    apply(&mut sessions, &[entry(1, Request::Open { ttl_ms: 60_000 })]);
    apply(&mut sessions, &[entry(2, Request::Run { tag, command: "a".into() })]);
    let answer = &sessions.machine().answer;
    assert!(!answer.is_unique(), "the rest of it is here");
    drop(whole);
    assert!(answer.is_unique(), "an answer that is kept is a piece of it");
}

/// The node sees what sessions say of themselves; that the inner machine is elsewhere only they can see.
#[test]
#[should_panic(expected = "the inner machine restored something else")]
fn a_machine_that_does_not_restore_is_noticed() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut sessions = Sessions::open(dir.path(), Tally::default()).unwrap();
    apply(&mut sessions, &[plain(1)]);
    while sessions.durable().unwrap() < Index(1) {
        thread::sleep(Duration::from_millis(1));
    }
    let mut source = sessions.snapshot().unwrap();
    let snapshot = MemSnapshot::receive(source.meta().clone(), &mut *source).unwrap();
    let (machine, fault) = Wayward::new();
    let mut other = Sessions::open(other.path(), machine).unwrap();
    *fault.lock().unwrap() = Fault::IgnoresSnapshots;
    drop(other.restore(Box::new(snapshot)));
}
