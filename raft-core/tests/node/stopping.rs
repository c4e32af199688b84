//! How a node ends: told to, or by a failure that every waiting caller learns.

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use raft_core::testing::{DiskFault, MemMachine};
use raft_core::{
    Applied, Entry, Index, MachineError, Payload, ReadLevel, RequestError, RoleName,
    SnapshotReader, SnapshotSource, StateMachine, StopCause,
};

use super::cluster::{Answer, Cluster, PATIENCE, node, options, put, read, until};

/// A leader that is told to stop hands its leadership over first: no election timeout passes.
#[test]
fn a_leader_hands_over_before_it_stops() {
    let cluster = Cluster::of(3);
    let old = cluster.leader_after(0);
    let term = cluster.status(old).term.0;
    put(&cluster.handles[&old], "key", "value").get().unwrap();
    cluster.handles[&old].stop(PATIENCE);
    assert!(matches!(cluster.handles[&old].wait(), StopCause::Asked));
    // The one that was asked has voted for itself by then.
    let others = cluster.handles.keys().filter(|id| **id != old);
    assert!(others.into_iter().any(|id| cluster.status(*id).term.0 > term));
    assert_ne!(cluster.leader_after(term), old);
}

/// Alone it has nobody to hand over to, and does not wait for anybody.
#[test]
fn a_node_stops_although_nobody_is_there() {
    let cluster = Cluster::of(1);
    cluster.leader();
    let handle = &cluster.handles[&1];
    handle.stop(PATIENCE);
    assert!(matches!(handle.wait(), StopCause::Asked));
}

#[test]
fn who_calls_a_stopped_node_is_told() {
    let cluster = Cluster::of(1);
    let handle = cluster.leader().clone();
    let waiting = thread::spawn({
        let handle = handle.clone();
        move || handle.wait()
    });
    for _ in 0..3 {
        handle.stop(Duration::ZERO); // Once more does no harm.
    }
    assert!(matches!(handle.wait(), StopCause::Asked));
    assert!(matches!(waiting.join().unwrap(), StopCause::Asked));
    assert!(matches!(handle.stopped(), Some(StopCause::Asked)));
    handle.stop(Duration::ZERO);
    let error = put(&handle, "key", "value").get().unwrap_err();
    assert!(matches!(error, RequestError::Stopped(StopCause::Asked)), "{error}");
    let error = read(&handle, ReadLevel::Stale).get().unwrap_err();
    assert!(matches!(error, RequestError::Stopped(StopCause::Asked)), "{error}");
}

/// A node is not its handles.
#[test]
fn a_node_goes_on_without_handles() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader_after(0);
    let other = cluster.handles.keys().copied().find(|id| *id != leader).unwrap();
    let silent = cluster.handles.keys().copied().find(|id| ![leader, other].contains(id)).unwrap();
    let kept = cluster.handles.remove(&other).unwrap();
    let watched = kept.clone();
    drop(kept);
    cluster.net.isolate(node(silent));
    // Both are needed.
    put(&cluster.handles[&leader], "key", "value").get().unwrap();
    cluster.handles.insert(other, watched);
}

/// Rule L14: a log that failed once is never written again; nobody is told that a write is safe.
#[test]
fn a_disk_that_fails_stops_the_node() {
    for fault in [DiskFault::Refused, DiskFault::WrittenAllTheSame, DiskFault::Full] {
        let cluster = Cluster::of(1);
        let handle = cluster.leader();
        put(handle, "before", "value").get().unwrap();
        cluster.disks[&1].hold();
        let first = put(handle, "key", "value");
        read(handle, ReadLevel::Stale).get().unwrap();
        cluster.disks[&1].fail_after(0, fault);
        let more: Vec<_> = (0..10).map(|_| put(handle, "more", "value")).collect();
        let reads: Vec<_> = (0..3).map(|_| read(handle, ReadLevel::Linearizable)).collect();
        cluster.disks[&1].release();
        let is_log = |cause: &StopCause| matches!(cause, StopCause::Log(_));
        for answer in more.into_iter().chain([first]) {
            let error = answer.get().unwrap_err();
            let RequestError::Stopped(cause) = &error else { panic!("{fault:?}: {error}") };
            assert!(is_log(cause), "{fault:?}: {cause}");
        }
        reads.into_iter().for_each(told);
        assert!(is_log(&handle.wait()));
        assert!(cluster.stores[&1].get(b"more").is_none());
    }
}

/// A read that was confirmed before the failure is answered all the same.
fn told(answer: Answer<Index>) {
    if let Err(error) = answer.get() {
        assert!(matches!(error, RequestError::Stopped(StopCause::Log(_))), "{error}");
    }
}

#[test]
fn a_state_machine_that_fails_stops_the_node() {
    let cluster = Cluster::of(1);
    let handle = cluster.leader();
    put(handle, "before", "value").get().unwrap();
    cluster.stores[&1].fail();
    let answers: Vec<_> = (0..5).map(|_| put(handle, "key", "value")).collect();
    for answer in answers {
        let error = answer.get().unwrap_err();
        assert!(matches!(error, RequestError::Stopped(StopCause::Machine(_))), "{error}");
    }
    assert!(matches!(handle.wait(), StopCause::Machine(_)));
}

/// The others do not care, and what it had is theirs too.
#[test]
fn a_cluster_outlives_a_node_that_fails() {
    let mut cluster = Cluster::of(3);
    let old = cluster.leader_after(0);
    let term = cluster.status(old).term.0;
    put(&cluster.handles[&old], "key", "value").get().unwrap();
    cluster.stores[&old].fail();
    let lost = put(&cluster.handles[&old], "lost", "perhaps");
    assert!(matches!(lost.get(), Err(RequestError::Stopped(StopCause::Machine(_)))));
    cluster.handles[&old].wait();
    let new = cluster.leader_after(term);
    read(&cluster.handles[&new], ReadLevel::Linearizable).get().unwrap();
    assert!(cluster.stores[&new].get(b"key").is_some());
    cluster.crash(old);
    cluster.start(options(old));
    cluster.agrees();
}

/// A state machine that panics at a certain command.
struct Fragile(MemMachine);

impl StateMachine for Fragile {
    fn applied(&self) -> Applied {
        self.0.applied()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        let put = Payload::Command(MemMachine::put(b"key", b"too much"));
        let fatal = entries.iter().any(|entry| entry.payload == put);
        assert!(!fatal, "it was too much");
        self.0.apply(entries, outcomes)
    }

    fn durable(&mut self) -> Result<Index, MachineError> {
        self.0.durable()
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.0.snapshot()
    }

    fn restore(&mut self, snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        self.0.restore(snapshot)
    }
}

/// Whatever panics, all threads end, and who waits learns what it said.
#[test]
fn a_panic_stops_the_node() {
    let mut cluster = Cluster::default();
    cluster.disks.insert(1, Cluster::founding_disk(1));
    let machine = Fragile(cluster.store(1).machine());
    cluster.start_with(options(1), machine);
    let handle = cluster.leader();
    put(handle, "key", "little").get().unwrap();
    let answers = [put(handle, "key", "too much"), put(handle, "other", "value")];
    for answer in answers {
        let error = answer.get().unwrap_err();
        let RequestError::Stopped(StopCause::Bug(facts)) = &error else { panic!("{error}") };
        assert!(facts.contains("it was too much"), "{facts}");
    }
    assert!(matches!(handle.wait(), StopCause::Bug(_)));
    assert_eq!(cluster.stores[&1].get(b"key").as_deref(), Some(&b"little"[..]));
}

/// A callback may ask for more, be it in the node's last moments.
#[test]
fn a_callback_may_call_back() {
    let cluster = Cluster::of(1);
    let handle = cluster.leader().clone();
    cluster.disks[&1].hold();
    let (sender, answers) = std::sync::mpsc::channel();
    let again = handle.clone();
    handle.propose(MemMachine::put(b"key", b"value"), move |first| {
        let first = first.map(|done| done.id);
        again.propose(MemMachine::put(b"key", b"value"), move |second| {
            drop(sender.send((first, second.map(|done| done.id))));
        });
    });
    cluster.disks[&1].fail_after(0, DiskFault::Refused);
    cluster.disks[&1].release();
    let (first, second) = answers.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(first, Err(RequestError::Stopped(StopCause::Log(_)))), "{first:?}");
    assert!(matches!(second, Err(RequestError::Stopped(StopCause::Log(_)))), "{second:?}");
}

/// A follower that stops is no reason for anybody to do anything.
#[test]
fn a_follower_stops_quietly() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader_after(0);
    let other = cluster.handles.keys().copied().find(|id| *id != leader).unwrap();
    let term = cluster.status(leader).term;
    cluster.handles[&other].stop(PATIENCE);
    assert!(matches!(cluster.handles[&other].wait(), StopCause::Asked));
    put(&cluster.handles[&leader], "key", "value").get().unwrap();
    let status = cluster.status(leader);
    assert_eq!((status.term, status.role), (term, RoleName::Leader));
    until("it is seen as gone", || {
        let followers = cluster.status(leader).followers;
        followers
            .iter()
            .any(|follower| follower.id == node(other) && !follower.active)
            .then_some(())
    });
}
