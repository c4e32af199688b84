//! What a node does for those who call it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raft_core::testing::MemDisk;
use raft_core::{
    ChangeStep, ClockDrift, ConfigError, Index, LogId, Node, NodeOptions, ReadLevel, Refusal,
    RequestError, RoleName, StartError, Term, Ticks,
};

use super::cluster::{
    Cluster, change, node, options, propose, put, read, request_snapshot, transfer, until,
};

/// Rules C1, R2: what was acknowledged is seen by every read that begins after it, at every node.
#[test]
fn a_write_is_seen_everywhere() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    for turn in 0..20 {
        let value = turn.to_string();
        let done = put(leader, "key", &value).get().unwrap();
        for (id, handle) in &cluster.handles {
            let index = read(handle, ReadLevel::Linearizable).get().unwrap();
            assert!(index >= done.id.index);
            assert_eq!(cluster.stores[id].get(b"key").as_deref(), Some(value.as_bytes()));
        }
        let before = if turn == 0 { String::new() } else { (turn - 1).to_string() };
        assert_eq!(done.outcome, Bytes::from(before), "the value it had before");
    }
    cluster.agrees();
}

#[test]
fn reads_are_as_fresh_as_they_are_asked_to_be() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader();
    put(leader, "key", "value").get().unwrap();
    assert!(matches!(
        read(leader, ReadLevel::Lease).get(),
        Err(RequestError::Refused(Refusal::LeasesOff))
    ));
    cluster.handles.keys().for_each(|id| cluster.net.isolate(node(*id)));
    let asked = read(leader, ReadLevel::Linearizable);
    let stale = read(leader, ReadLevel::Stale).get().unwrap();
    assert!(stale > Index::ZERO, "it asks nobody");
    let error = asked.get().unwrap_err();
    assert!(matches!(error, RequestError::Refused(_)), "{error}");
}

#[test]
fn a_lease_serves_reads_without_a_round() {
    let cluster = Cluster::with(3, |options| {
        options.raft.lease = Some(ClockDrift { ppm: 1_000 });
    });
    let leader = cluster.leader();
    let done = put(leader, "key", "value").get().unwrap();
    until("it holds a lease", || leader.status().lease.then_some(()));
    assert!(read(leader, ReadLevel::Lease).get().unwrap() >= done.id.index);
    let id = leader.status().id;
    cluster.net.isolate(id);
    until("the lease has run out", || (!leader.status().lease).then_some(()));
    let error = read(leader, ReadLevel::Lease).get().unwrap_err();
    assert!(matches!(error, RequestError::Refused(_)), "{error}");
}

#[test]
fn who_does_not_lead_says_who_does() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader_after(0);
    let other = cluster.handles.iter().find(|(id, _)| **id != leader).unwrap().1;
    until("it knows", || other.status().leader);
    let error = put(other, "key", "value").get().unwrap_err();
    let RequestError::Refused(Refusal::NotLeader { leader: hint, term }) = error else {
        panic!("{error}")
    };
    assert_eq!((hint, term), (Some(node(leader)), other.status().term));
}

/// Rules C4, T1: the majority goes on, and what the old leader had promised nobody is told apart from what
/// it had.
#[test]
fn the_majority_goes_on_without_its_leader() {
    let cluster = Cluster::of(3);
    let old = cluster.leader_after(0);
    put(&cluster.handles[&old], "before", "kept").get().unwrap();
    let term = cluster.status(old).term.0;
    cluster.net.isolate(node(old));
    let lost = put(&cluster.handles[&old], "meanwhile", "nobody hears it");
    let new = until("another one leads", || {
        let leads = |id: &&u64| **id != old && cluster.status(**id).role == RoleName::Leader;
        cluster.handles.keys().find(leads).copied()
    });
    assert!(cluster.status(new).term.0 > term);
    until("it takes writes", || put(&cluster.handles[&new], "after", "kept").get().ok());
    let error = lost.get().unwrap_err();
    assert!(matches!(error, RequestError::Unknown), "it has stepped down: {error}");
    cluster.net.heal();
    cluster.agrees();
    for store in cluster.stores.values() {
        assert_eq!(store.get(b"before").as_deref(), Some(&b"kept"[..]));
        assert_eq!(store.get(b"after").as_deref(), Some(&b"kept"[..]));
        assert_eq!(store.get(b"meanwhile"), None);
    }
}

#[test]
fn a_cluster_grows_and_shrinks() {
    let mut cluster = Cluster::of(3);
    put(cluster.leader(), "key", "value").get().unwrap();
    cluster.start(options(4));
    let steps = vec![ChangeStep::Admit(node(4), Some("host4:1".to_owned()))];
    change(cluster.leader(), steps).get().unwrap();
    until("it is a voter, by itself", || {
        cluster.status(4).membership.is_voter(node(4)).then_some(())
    });
    cluster.agrees();
    let old = cluster.leader_after(0);
    change(&cluster.handles[&old], vec![ChangeStep::Remove(node(old))]).get().unwrap();
    until("it knows that it is out", || cluster.status(old).removed);
    let new = until("another one leads", || {
        let leads = |id: &&u64| **id != old && cluster.status(**id).role == RoleName::Leader;
        cluster.handles.keys().find(leads).copied()
    });
    until("it takes writes", || put(&cluster.handles[&new], "key", "later").get().ok());
    let members = cluster.status(new).membership;
    assert_eq!(members.voters.len(), 3);
    assert!(!members.contains(node(old)));
}

#[test]
fn leadership_is_handed_over() {
    let cluster = Cluster::of(3);
    let old = cluster.leader_after(0);
    let to = cluster.handles.keys().copied().find(|id| *id != old).unwrap();
    let term = cluster.status(old).term.0;
    transfer(&cluster.handles[&old], node(to)).get().unwrap();
    assert_eq!(cluster.leader_after(term), to);
    put(&cluster.handles[&to], "key", "value").get().unwrap();
    let error = transfer(&cluster.handles[&to], node(9)).get().unwrap_err();
    assert!(matches!(error, RequestError::Refused(Refusal::Invalid(_))), "{error}");
}

/// Rule S1 and all of the way of a snapshot: the log that it would need is gone everywhere.
#[test]
fn a_follower_far_behind_gets_a_snapshot() {
    let short = |options: &mut NodeOptions| {
        options.retain_entries = 5;
        options.compact_every = 5;
    };
    let cluster = Cluster::with(3, short);
    let leader = cluster.leader_after(0);
    let behind = cluster.handles.keys().copied().find(|id| *id != leader).unwrap();
    cluster.net.isolate(node(behind));
    let last = cluster.status(behind).last.index;
    for turn in 0..50 {
        put(&cluster.handles[&leader], &format!("key{turn}"), "value").get().unwrap();
        for store in cluster.stores.values() {
            store.flush();
        }
    }
    until("the log is cut", || (cluster.status(leader).base.index > last).then_some(()));
    cluster.net.heal();
    until("it begins after a snapshot", || {
        (cluster.status(behind).base.index > last).then_some(())
    });
    cluster.agrees();
}

/// A state machine that its application found damaged is replaced, although the log would do.
#[test]
fn a_follower_asks_for_a_snapshot() {
    let cluster = Cluster::of(3);
    let leader = cluster.leader_after(0);
    let done = put(&cluster.handles[&leader], "key", "value").get().unwrap();
    let damaged = cluster.handles.keys().copied().find(|id| *id != leader).unwrap();
    until("it has applied it", || (cluster.status(damaged).applied >= done.id.index).then_some(()));
    cluster.stores[&damaged].rot(b"key", b"rot");
    request_snapshot(&cluster.handles[&damaged]).get().unwrap();
    assert_eq!(cluster.stores[&damaged].get(b"key").as_deref(), Some(&b"value"[..]));
    cluster.agrees();
    let error = request_snapshot(&cluster.handles[&leader]).get().unwrap_err();
    assert!(matches!(error, RequestError::Refused(Refusal::Invalid(_))), "{error}");
}

#[test]
fn a_watcher_is_told_of_every_change() {
    let mut cluster = Cluster::default();
    cluster.disks.insert(1, Cluster::founding_disk(1));
    cluster.start(options(1));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (all, first) = (Arc::clone(&seen), Arc::new(Mutex::new(0)));
    let handle = &cluster.handles[&1];
    handle.subscribe(move |status| {
        all.lock().unwrap().push((status.term, status.role));
        true
    });
    assert!(!seen.lock().unwrap().is_empty(), "it is told at once how things are");
    let once = Arc::clone(&first);
    handle.subscribe(move |_| {
        *once.lock().unwrap() += 1;
        false
    });
    until("it sees a leader", || {
        (seen.lock().unwrap().last()? == &(Term(1), RoleName::Leader)).then_some(())
    });
    // Before that its first entry is to be committed, or changes are not taken yet.
    cluster.leader();
    let steps = vec![ChangeStep::AddLearner(node(2), Some("host2:1".to_owned()))];
    let told = seen.lock().unwrap().len();
    change(handle, steps).get().unwrap();
    until("it sees the membership change", || (seen.lock().unwrap().len() > told).then_some(()));
    assert_eq!(*first.lock().unwrap(), 1, "one that said no was called again");
}

/// Back-pressure: a typed refusal, at once, and nothing is lost of what was taken.
#[test]
fn too_much_at_once_is_refused() {
    let mut cluster = Cluster::default();
    cluster.disks.insert(1, Cluster::founding_disk(1));
    let mut few = options(1);
    few.max_waiting = 8;
    few.max_command_bytes = 100;
    cluster.start(few);
    let leader = cluster.leader();
    let error = propose(leader, Bytes::from(vec![0; 101])).get().unwrap_err();
    assert!(matches!(error, RequestError::TooLarge { bytes: 101, limit: 100 }), "{error}");
    cluster.disks[&1].hold();
    let answers: Vec<_> = (0..20).map(|turn| put(leader, &turn.to_string(), "value")).collect();
    // One by one: a read comes back after all that was asked before it.
    read(leader, ReadLevel::Stale).get().unwrap();
    cluster.disks[&1].release();
    let results: Vec<_> = answers.into_iter().map(super::cluster::Answer::get).collect();
    let (taken, refused): (Vec<_>, Vec<_>) =
        results.into_iter().enumerate().partition(|(_, r)| r.is_ok());
    assert_eq!((taken.len(), refused.len()), (8, 12));
    assert!(refused.iter().all(|(_, result)| matches!(result, Err(RequestError::Busy))));
    for (turn, _) in taken {
        assert!(cluster.stores[&1].get(turn.to_string().as_bytes()).is_some());
    }
    put(leader, "later", "value").get().unwrap();
}

/// The power goes everywhere at once; the data was in memory only, the log was not.
#[test]
fn what_was_acknowledged_outlives_a_power_cut() {
    let mut cluster = Cluster::of(3);
    for turn in 0..20 {
        put(cluster.leader(), &format!("key{turn}"), "value").get().unwrap();
    }
    (1..=3).for_each(|id| cluster.crash(id));
    assert!(cluster.stores.values().all(|store| store.get(b"key7").is_none()));
    (1..=3).for_each(|id| cluster.start(options(id)));
    read(cluster.leader(), ReadLevel::Linearizable).get().unwrap();
    cluster.agrees();
    for turn in 0..20 {
        let key = format!("key{turn}");
        assert!(cluster.stores.values().all(|store| store.get(key.as_bytes()).is_some()), "{key}");
    }
}

/// A configuration with faults starts nothing, and all of them are named.
#[test]
fn a_node_that_makes_no_sense_does_not_start() {
    let mut cluster = Cluster::default();
    let mut wrong = options(1);
    wrong.raft.election_timeout = Ticks(1);
    wrong.max_command_bytes = 0;
    let machine = cluster.store(1).machine();
    let net = cluster.net.transport(node(1));
    let error = Node::start(wrong, MemDisk::new().log(), net, machine).unwrap_err();
    let StartError::Config(ConfigError { faults, .. }) = error else { panic!("{error}") };
    assert_eq!(faults.len(), 2, "{faults:?}");
}

/// Rule S4: a state machine that lacks what the log has forgotten must not go on as if nothing was missing.
#[test]
fn a_node_that_has_lost_its_data_does_not_start() {
    let mut cluster = Cluster::default();
    cluster.disks.insert(1, Cluster::founding_disk(1));
    let mut short = options(1);
    short.retain_entries = 0;
    short.compact_every = 1;
    cluster.start(short.clone());
    for _ in 0..20 {
        put(cluster.leader(), "key", "value").get().unwrap();
        cluster.stores[&1].flush();
    }
    let base = until("the log is cut", || {
        let base = cluster.status(1).base;
        (base.index > Index(10)).then_some(base)
    });
    cluster.crash(1);
    cluster.stores.remove(&1);
    let (log, net) = (cluster.disks[&1].log(), cluster.net.transport(node(1)));
    let error = Node::start(short, log, net, cluster.store(1).machine()).unwrap_err();
    let StartError::Behind { applied, base: found } = error else { panic!("{error}") };
    assert_eq!(applied, LogId::default());
    assert!(found >= base);
}
