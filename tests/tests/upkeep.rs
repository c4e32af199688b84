//! What a cluster does by itself, seen through the binary: nodes that differ are found and named, space has
//! limits, old history goes.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use raft_tests::{Cluster, Options, until};
use rocksdb::{DB, IteratorMode};
use serde_json::{Value, json};

fn cluster(flags: &[&str]) -> Cluster {
    let extra = flags.iter().map(|&flag| flag.to_owned()).collect();
    Cluster::with(Options { nodes: 3, extra })
}

/// Flips a bit in the value of the first key in the store of a node that does not run, behind everybody's
/// back: RocksDB's checksums are good, as they are when memory has failed.
fn rot(data_dir: &Path) {
    let kv = data_dir.join("kv");
    let store = kv.join(fs::read_to_string(kv.join("CURRENT")).unwrap().trim());
    let options = rocksdb::Options::default();
    let families = DB::list_cf(&options, &store).unwrap();
    let db = DB::open_cf(&options, &store, families).unwrap();
    let latest = db.cf_handle("latest").unwrap();
    let (key, mut record) = db.iterator_cf(latest, IteratorMode::Start).next().unwrap().unwrap();
    *record.last_mut().unwrap() ^= 1;
    db.put_cf(latest, key, record).unwrap();
    db.flush_cf(latest).unwrap();
}

#[test]
fn a_node_whose_data_differs_is_named() {
    let mut cluster = cluster(&["--compare-every", "1s"]);
    for key in ["a", "b", "c"] {
        assert_eq!(cluster.raft(&["put", key, "value"]).code, Some(0));
    }
    let check = cluster.raft(&["check", "consistency"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let json = check.json();
    assert_eq!((&json["consistent"], &json["complete"]), (&json!(true), &json!(true)));
    assert_eq!(json["nodes"].as_array().unwrap().len(), 3);
    assert!(json["nodes"].as_array().unwrap().iter().all(|node| node["keys"] == 3), "{json}");
    assert_eq!(cluster.raft(&["alarm", "list"]).json(), json!({ "alarms": [] }));

    let rotten = cluster.follower();
    cluster.settle();
    cluster.stop(rotten);
    let check = cluster.raft(&["check", "consistency", "--within", "1s"]);
    assert_eq!(check.code, Some(3), "one node has not said what it holds: {check:?}");
    rot(&cluster.data_dir(rotten));
    cluster.launch(rotten);
    let alarms = |cluster: &Cluster| -> Vec<Value> {
        cluster.raft(&["alarm", "list"]).json()["alarms"].as_array().unwrap().clone()
    };
    let raised = until("an alarm is raised", || alarms(&cluster).first().cloned());
    assert_eq!((&raised["alarm"], &raised["node"]), (&json!("diverged"), &json!(rotten)));
    let check = cluster.raft(&["check", "consistency"]);
    assert_eq!(check.code, Some(6), "{check:?}");
    let json = serde_json::from_str::<Value>(&check.stdout).unwrap();
    for node in json["nodes"].as_array().unwrap() {
        assert_eq!(node["diverged"], json!(node["node_id"] == rotten), "{json}");
    }
    let bench = cluster.raft(&["bench", "put", "--duration", "100ms", "--keys", "10"]);
    bench.assert_refused(6, &["do not hold the same", &format!("nodes {rotten} ")]);

    // Once nothing of it is left in the present, all is well again; of the past there still is.
    let written: u64 = json["revision"].as_u64().unwrap();
    assert_eq!(cluster.raft(&["put", "a", "anew"]).code, Some(0));
    assert_eq!(cluster.raft(&["check", "consistency"]).code, Some(0));
    let before = ["check", "consistency", "--rev", &written.to_string()].map(str::to_owned);
    assert_eq!(cluster.raft(&before.each_ref().map(String::as_str)).code, Some(6));
    until("the alarm ends by itself", || alarms(&cluster).is_empty().then_some(()));
}

#[test]
fn a_quota_lets_deletes_through_and_ends_by_itself() {
    let cluster = cluster(&["--quota", "100KiB", "--compare-every", "never"]);
    let value = "v".repeat(2_000);
    let mut shell = cluster.shell();
    let refused = (0..100).find_map(|number| {
        let answer = shell.ask(&format!("put k{number} {value}"));
        (!answer.is_done()).then_some(answer)
    });
    let refused = refused.expect("a quota of 100 KiB holds no 200 KB");
    let refused = format!("{refused:?}");
    assert!(refused.contains("no space left"), "{refused}");
    let put = cluster.raft(&["put", "k", &value]);
    put.assert_refused(3, &["no space left"]);
    let leader = cluster.leader();
    let status = &cluster.status()[&leader];
    assert_eq!((&status["space"], &status["quota_bytes"]), (&json!("full"), &json!(102_400)));

    let deleted = cluster.raft(&["del", "", "--prefix"]);
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let revision = deleted.json()["revision"].to_string();
    assert_eq!(cluster.raft(&["compact", &revision]).code, Some(0));
    until("there is room", || (cluster.raft(&["put", "k", "v"]).code == Some(0)).then_some(()));
}

#[test]
fn old_history_goes_by_itself() {
    let cluster = cluster(&["--retain-revisions", "10", "--compare-every", "never"]);
    let mut shell = cluster.shell();
    for number in 0..50 {
        assert!(shell.ask(&format!("put k {number}")).is_done());
    }
    until("it is compacted", || {
        (cluster.raft(&["get", "k", "--rev", "20"]).code == Some(2)).then_some(())
    });
    assert_eq!(cluster.raft(&["get", "k", "--rev", "45"]).code, Some(0));
}

#[test]
fn settings_that_make_no_sense_are_named() {
    for (flag, value) in [
        ("--quota", "much"),
        ("--min-free", "-1"),
        ("--retain-age", "0s"),
        ("--compare-every", "sometimes"),
    ] {
        raft_tests::raft(["serve", &format!("{flag}={value}")]).assert_refused(2, &[flag, value]);
    }
}
