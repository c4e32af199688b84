//! `raft watch` against real nodes that are killed: every event once, in order, wherever it is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;

use raft_tests::{Answer, Background, Cluster, Load, Options, until};
use serde_json::{Value, json};

fn watch(cluster: &Cluster, ids: &[u64], words: &[&str]) -> Background {
    let endpoints = cluster.endpoints(ids);
    let tls = cluster.tls_dir();
    let global = ["--endpoints", &endpoints, "--tls-dir", tls.to_str().unwrap(), "-o", "json"];
    let words = ["watch"].iter().chain(words).chain(&global);
    Background::start(&words.map(|word| (*word).to_owned()).collect::<Vec<_>>())
}

/// The events in whole lines, and through which revision that is all.
fn told(watching: &Background) -> (Vec<Value>, u64) {
    let output = watching.output();
    let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines: Vec<Value> =
        whole.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let through = lines.last().map_or(0, |line| line["revision"].as_u64().unwrap());
    let events = lines.iter().flat_map(|line| line["events"].as_array().unwrap().clone());
    (events.collect(), through)
}

/// Each node is the first choice of one watch. Whichever is killed, leader or not, all of them tell
/// everything that was written, once and in order.
#[test]
fn nothing_is_missed_when_nodes_are_killed() {
    let mut cluster = Cluster::start();
    let words = ["load", "--prefix", "--progress", "200ms", "--timeout", "30s"];
    let orders = [[1, 2, 3], [2, 3, 1], [3, 1, 2]];
    let watches = orders.map(|ids| watch(&cluster, &ids, &words));
    for watching in &watches {
        until("the watch has begun", || (told(watching).1 > 0).then_some(()));
    }
    let load = Load::start(&cluster, "load", 2);
    for _ in 0..2 {
        load.wait_for(50);
        for id in [cluster.leader(), cluster.follower()] {
            cluster.kill(id);
            load.wait_for(50);
            cluster.launch(id);
        }
    }
    let acknowledged: BTreeSet<String> = load.stop().into_iter().collect();
    let all = cluster.raft(&["range", "load", "--prefix", "--keys-only"]).json();
    let there: Vec<_> = all["kvs"].as_array().unwrap().iter().map(|kv| kv["key"].clone()).collect();
    let last = all["revision"].as_u64().unwrap();
    for watching in &watches {
        until("everything is told", || (told(watching).1 >= last).then_some(()));
        let (events, _) = told(watching);
        let at: Vec<_> =
            events.iter().map(|event| event["kv"]["mod_revision"].as_u64().unwrap()).collect();
        assert!(at.windows(2).all(|pair| pair[0] < pair[1]), "{at:?}");
        let mut keys: Vec<_> = events.iter().map(|event| event["kv"]["key"].clone()).collect();
        keys.sort_by_key(Value::to_string);
        assert_eq!(keys, there, "what is told is what is there; {}", watching.log());
        let known =
            |key: &String| keys.binary_search_by_key(&json!(key).to_string(), Value::to_string);
        assert!(acknowledged.iter().all(|key| known(key).is_ok()));
    }
}

#[test]
fn the_past_is_told_in_the_documented_fields() {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    let put = |value: &str| cluster.raft(&["put", "k", value]).json()["revision"].as_u64().unwrap();
    let (first, second) = (put("a"), put("b"));
    assert_eq!(cluster.raft(&["del", "k"]).code, Some(0));
    let rev = first.to_string();
    let ran = cluster.raft(&["watch", "k", "--rev", &rev, "--count", "3", "--prev-kv"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> =
        lines.iter().flat_map(|line| line["events"].as_array().unwrap().clone()).collect();
    let kv = |value: &str, revision: u64, version: u64| {
        json!({
            "key": "k", "value": value, "create_revision": first, "mod_revision": revision,
            "version": version, "lease": 0,
        })
    };
    assert_eq!(events[0], json!({ "type": "PUT", "kv": kv("a", first, 1) }));
    let second = json!({
        "type": "PUT", "kv": kv("b", second, 2), "prev_kv": kv("a", first, 1)
    });
    assert_eq!(events[1], second);
    assert_eq!((&events[2]["type"], &events[2]["kv"]["key"]), (&json!("DELETE"), &json!("k")));
    assert_eq!(events[2]["prev_kv"]["value"], "b");
    let last = lines.last().unwrap()["revision"].as_u64().unwrap();
    assert_eq!(events[2]["kv"]["mod_revision"].as_u64(), Some(last));

    // In a shell a line is answered by a line, once there are events.
    let mut shell = cluster.shell();
    let answer = shell.ask(&format!("watch k --rev {rev} --filter put"));
    let Answer::Done(answer) = answer else { panic!("{answer:?}") };
    assert_eq!(answer["events"][0]["type"], "DELETE");
    assert_eq!(answer["revision"].as_u64(), Some(last));
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    for value in ["a", "b", "c"] {
        assert_eq!(cluster.raft(&["put", "k", value]).code, Some(0));
    }
    assert_eq!(cluster.raft(&["compact", "3"]).code, Some(0));
    cluster.raft(&["watch", "k", "--rev", "2"]).assert_refused(2, &["2", "compacted", "4"]);
    cluster.raft(&["watch", ""]).assert_refused(2, &["key is empty"]);
    cluster.raft(&["watch", "b", "a"]).assert_refused(2, &["\"b\"", "\"a\""]);
    cluster.raft(&["watch", "k", "--filter", "nothing"]).assert_refused(2, &["nothing"]);
    let ran = cluster.raft(&["watch", "k", "--progress", "10ms"]);
    ran.assert_refused(2, &["10 ms", "100 ms"]);
}
