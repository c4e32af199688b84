//! Three processes, three disks, an encrypted network: what must survive, survives.
//!
//! Each test is a story with real nodes. What a node did is in its log, whose end is printed when a
//! test fails.

use raft_tests::{Answer, Cluster, Load, Options, lost, until};
use serde_json::{Value, json};

#[test]
fn elects_one_leader_and_all_agree_on_it() {
    let cluster = Cluster::start();
    let leader = cluster.leader();
    let status = until("all nodes know the leader", || {
        let status = cluster.status();
        status.values().all(|row| row["leader_id"] == leader).then_some(status)
    });
    assert_eq!(status.len(), 3);
    let roles = |role| status.values().filter(|row| row["role"] == role).count();
    assert_eq!((roles("leader"), roles("follower")), (1, 2), "{status:#?}");
    for (id, row) in &status {
        assert_eq!(row["address"], cluster.address(*id));
        assert_eq!(row["reachable"], true);
        assert_eq!(row["term"], status[&leader]["term"]);
        for name in ["last_index", "commit_index", "applied_index"] {
            assert!(row[name].is_u64(), "{name}: {row}");
        }
    }
}

#[test]
fn answers_have_the_documented_fields() {
    let cluster = Cluster::start();
    let put = cluster.raft(&["put", "colour", "green"]).json();
    let revision = put["revision"].as_u64().expect("a put has a revision");
    assert_eq!(put, json!({ "revision": revision }));
    let get = cluster.raft(&["get", "colour"]).json();
    assert_eq!((&get["key"], &get["value"]), (&json!("colour"), &json!("green")), "{get}");
    assert!(get["revision"].as_u64() >= Some(revision), "{get}");
    assert_eq!(cluster.raft(&["get", "--stale", "colour"]).code, Some(0));

    let deleted = cluster.raft(&["del", "colour"]).json();
    assert_eq!((&deleted["deleted"], deleted["revision"].is_u64()), (&json!(1), true));
    assert_eq!(cluster.raft(&["del", "colour"]).json()["deleted"], 0);
    cluster.raft(&["get", "colour"]).assert_refused(1, &["colour"]);
}

#[test]
fn keys_and_values_are_any_bytes() {
    let cluster = Cluster::start();
    let (key, value): (&[u8], &[u8]) = (b"\xff\xfe", b"\x80\x81");
    assert_eq!(cluster.raft_bytes(&[b"put", key, value]).code, Some(0));
    let got = cluster.raft_bytes(&[b"get", key]).json();
    assert_eq!((&got["key_base64"], &got["value_base64"]), (&json!("//4="), &json!("gIE=")));
    assert!(got.get("key").is_none() && got.get("value").is_none(), "{got}");
    assert_eq!(cluster.raft_bytes(&[b"del", key]).json()["deleted"], 1);
    cluster.raft_bytes(&[b"get", key]).assert_refused(1, &["no key"]);
}

#[test]
fn a_write_reaches_every_node() {
    let cluster = Cluster::start();
    let put = cluster.raft(&["put", "k", "v"]);
    assert_eq!(put.code, Some(0), "{put:?}");
    cluster.settle();
    for id in cluster.ids() {
        let stale = cluster.raft_at(&[id], &["get", "k", "--stale"]).json();
        assert_eq!(stale["value"], "v", "node {id}");
    }
}

#[test]
fn any_node_answers_any_client() {
    let cluster = Cluster::start();
    cluster.leader();
    for id in cluster.ids() {
        let (key, value) = (format!("by-{id}"), format!("value-{id}"));
        let put = cluster.raft_at(&[id], &["put", &key, &value]);
        assert_eq!(put.code, Some(0), "through node {id}: {put:?}");
        for other in cluster.ids() {
            assert_eq!(cluster.raft_at(&[other], &["get", &key]).json()["value"], value);
        }
    }
}

#[test]
fn one_node_restarts_from_its_disk() {
    let mut cluster = Cluster::start();
    let mut shell = cluster.shell();
    for number in 0..20 {
        assert!(shell.ask(&format!("put before-{number} {number}")).is_done());
    }
    let follower = cluster.follower();
    assert_eq!(cluster.stop(follower), Some(0), "SIGTERM is a clean stop");
    cluster.launch(follower);
    assert!(shell.ask("put after 1").is_done());
    cluster.settle();
    let mut alone = cluster.shell_at(&[follower], "10s");
    for number in 0..20 {
        let Answer::Done(found) = alone.ask(&format!("get --stale before-{number}")) else {
            panic!("before-{number} is gone");
        };
        assert_eq!(found["value"], number.to_string());
    }
    let ignored = "--bootstrap";
    assert!(cluster.log(follower).contains(ignored), "a second start says what it ignores");
}

#[test]
fn all_nodes_restart_from_their_disks() {
    let mut cluster = Cluster::start();
    let term = cluster.status()[&cluster.leader()]["term"].as_u64();
    assert_eq!(cluster.raft(&["put", "k", "v"]).code, Some(0));
    for id in cluster.ids() {
        assert_eq!(cluster.stop(id), Some(0));
    }
    for id in cluster.ids() {
        cluster.launch(id);
    }
    assert_eq!(cluster.raft(&["get", "k"]).json()["value"], "v");
    let after = cluster.status()[&cluster.leader()]["term"].as_u64();
    assert!(after > term, "terms never repeat: {term:?}, then {after:?}");
}

#[test]
fn a_leader_killed_under_load_costs_no_acknowledged_write() {
    let mut cluster = Cluster::start();
    let first = cluster.leader();
    let load = Load::start(&cluster, "load", 8);
    load.wait_for(200);
    cluster.kill(first);
    load.wait_for(200);
    assert_ne!(cluster.leader(), first);
    cluster.launch(first);
    load.wait_for(100);
    let keys = load.stop();
    assert_eq!(lost(&mut cluster.shell(), &keys), Vec::<&String>::new());
    cluster.settle();
    let mut alone = cluster.shell_at(&[first], "10s");
    let Some(last) = keys.last() else { panic!("nothing was written") };
    assert!(alone.ask(&format!("get --stale {last}")).is_done(), "the killed node caught up");
}

#[test]
fn a_follower_far_behind_catches_up() {
    let mut cluster = Cluster::start();
    let follower = cluster.follower();
    cluster.kill(follower);
    let mut shell = cluster.shell();
    let value = "x".repeat(1000);
    for number in 0..3000 {
        shell.send(&format!("put far-{number} {value}"));
    }
    for number in 0..3000 {
        assert!(shell.answer().is_done(), "far-{number}");
    }
    cluster.launch(follower);
    cluster.settle();
    let mut alone = cluster.shell_at(&[follower], "10s");
    for number in [0, 1499, 2999] {
        assert!(alone.ask(&format!("get --stale far-{number}")).is_done(), "far-{number}");
    }
}

#[test]
fn one_node_alone_of_three_refuses_writes() {
    let mut cluster = Cluster::start();
    assert_eq!(cluster.raft(&["put", "k", "before"]).code, Some(0));
    cluster.settle();
    let leader = cluster.leader();
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.kill(id);
    }
    // It leads for a moment yet, and takes what it cannot commit: then nobody knows the outcome. As
    // soon as it has noticed, it knows that it did nothing.
    until("the last node has noticed that it is alone", || {
        let ran = cluster.raft_at(&[leader], &["status"]).json();
        let own = ran.as_array()?.iter().find(|row| row["node_id"] == leader)?.clone();
        (own["role"] != "leader").then_some(())
    });
    let put = cluster.raft_at(&[leader], &["--timeout", "2s", "put", "k", "alone"]);
    put.assert_refused(3, &["leader"]);
    let get = cluster.raft_at(&[leader], &["--timeout", "2s", "get", "k"]);
    get.assert_refused(3, &["leader"]);
    let stale = cluster.raft_at(&[leader], &["get", "--stale", "k"]).json();
    assert_eq!(stale["value"], "before");

    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.launch(id);
    }
    assert_eq!(cluster.raft(&["get", "k"]).json()["value"], "before", "it really did nothing");
}

#[test]
fn all_nodes_killed_at_once_lose_no_acknowledged_write() {
    let mut cluster = Cluster::start();
    cluster.leader();
    let mut keys = Vec::new();
    for round in 0..3 {
        let load = Load::start(&cluster, &format!("round-{round}"), 8);
        load.wait_for(150);
        cluster.kill_all();
        keys.extend(load.stop());
        for id in cluster.ids() {
            cluster.launch(id);
        }
    }
    assert_eq!(lost(&mut cluster.shell(), &keys), Vec::<&String>::new());
}

#[test]
fn a_node_of_one_is_a_cluster() {
    let mut cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    assert_eq!(cluster.raft(&["put", "k", "v"]).code, Some(0));
    cluster.kill(1);
    cluster.launch(1);
    assert_eq!(cluster.raft(&["get", "k"]).json()["value"], "v");
}

#[test]
fn a_node_joins_and_is_sent_everything() {
    let mut cluster = Cluster::start();
    assert_eq!(cluster.raft(&["put", "k", "v"]).code, Some(0));
    cluster.join(4);
    until("the new node is shown by the others", || {
        cluster.status().get(&4).filter(|row| row["reachable"] == true).map(|_| ())
    });
    cluster.settle();
    assert_eq!(cluster.raft_at(&[4], &["get", "--stale", "k"]).json()["value"], "v");
    assert_eq!(cluster.raft_at(&[4], &["put", "k", "w"]).code, Some(0));
    assert_eq!(cluster.raft_at(&[4], &["get", "k"]).json()["value"], "w");
}

#[test]
fn status_shows_a_node_that_is_gone() {
    let mut cluster = Cluster::start();
    let follower = cluster.follower();
    cluster.kill(follower);
    let status = cluster.status();
    assert_eq!(status.len(), 3);
    let row = &status[&follower];
    assert_eq!((&row["reachable"], &row["role"]), (&json!(false), &Value::Null), "{row}");
    assert_eq!(row["address"], cluster.address(follower));
}

#[test]
fn reads_are_as_fresh_as_they_are_asked_to_be() {
    let extra = ["--lease-drift", "1000"].map(str::to_owned).into();
    let mut cluster = Cluster::with(Options { nodes: 3, extra });
    assert_eq!(cluster.raft(&["put", "k", "v"]).code, Some(0));
    let levels: [&[&str]; 7] = [
        &[],
        &["--consistency", "lease"],
        &["--consistency", "follower"],
        &["--consistency", "l"],
        &["--max-age", "1s"],
        &["--max-age", "1ms"],
        &["--max-age", "1s", "--max-lag", "0"],
    ];
    // Whichever node is asked first.
    for id in cluster.ids() {
        for level in levels {
            let words = [&["get", "k"][..], level].concat();
            let ran = cluster.raft_at(&[id], &words);
            assert_eq!(ran.code, Some(0), "{words:?} at {id}: {ran:?}");
            assert_eq!(ran.json()["value"], "v");
        }
    }
    let left = cluster.follower();
    cluster.settle();
    let dead: Vec<_> = cluster.ids().into_iter().filter(|id| *id != left).collect();
    dead.into_iter().for_each(|id| cluster.kill(id));
    let get = |words: &[&str]| {
        cluster.raft_at(&[left], &[&["get", "k", "--timeout", "500ms"][..], words].concat())
    };
    for level in [&["--stale"][..], &["--consistency", "s"], &["--max-lag", "0"]] {
        assert_eq!(get(level).code, Some(0), "{level:?}");
    }
    for level in [&["--max-age", "1ms"][..], &["--consistency", "follower"]] {
        assert_eq!(get(level).code, Some(3), "{level:?}");
    }
    cluster.raft(&["get", "k", "--stale", "--max-lag", "1"]).assert_refused(2, &["--stale"]);
}
