//! `raft bench`: what it prints, that it writes what it says, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::time::{Duration, Instant};

use raft_tests::{Cluster, raft};
use serde_json::Value;

const FIELDS: [&str; 11] = [
    "op",
    "clients",
    "ops",
    "secs",
    "ops_per_s",
    "p50_us",
    "p90_us",
    "p99_us",
    "p999_us",
    "max_us",
    "errors",
];

/// Runs a short load of few keys.
fn bench(cluster: &Cluster, words: &[&str]) -> Value {
    let short = ["--duration", "400ms", "--keys", "200", "--value-size", "64"];
    let ran = cluster.raft(&[&["bench"], words, &short].concat());
    let found = ran.json();
    assert_eq!(found["errors"], 0, "{ran:#?}");
    assert!(found["ops"].as_u64().unwrap() > 0, "{ran:#?}");
    found
}

#[test]
fn every_workload_is_measured_and_told() {
    let cluster = Cluster::start();
    let plot = cluster.spare_dir("plot.svg");
    for words in [
        &["put", "--clients", "8", "--connections", "3", "--plot", plot.to_str().unwrap()][..],
        &["get", "--clients", "8"],
        &["get", "--clients", "8", "--connections", "3", "--stale"],
        &["mixed", "--clients", "8", "--reads", "50"],
        &["range", "--limit", "20"],
        &["txn"],
        &["watch", "--clients", "12", "--connections", "3", "--writers", "2"],
    ] {
        let found = bench(&cluster, words);
        assert_eq!(found["op"], words[0]);
        let fields = found.as_object().unwrap();
        assert_eq!(fields.len(), FIELDS.len(), "{found}");
        assert!(FIELDS.iter().all(|field| fields.contains_key(*field)), "{found}");
        let us = |field: &str| found[field].as_u64().unwrap();
        assert!(us("p50_us") > 0 && us("p50_us") <= us("p90_us"));
        assert!(us("p99_us") <= us("p999_us") && us("p999_us") <= us("max_us"));
        let (ops, secs) = (found["ops"].as_f64().unwrap(), found["secs"].as_f64().unwrap());
        let rate = found["ops_per_s"].as_f64().unwrap();
        assert!((ops / secs / rate - 1.0).abs() < 0.01, "{found}");
    }
    let picture = fs::read_to_string(plot).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("polyline"), "{picture:.300}");
    // Reads found all keys, so they were filled; the values are as long as was asked.
    let found = cluster.raft(&["range", "bench/", "--prefix", "--limit", "1"]).json();
    assert_eq!(found["count"], 200);
    let kv = &found["kvs"][0];
    let bytes = kv["value_base64"].as_str().map_or_else(
        || kv["value"].as_str().unwrap().len(),
        |base64| base64.trim_end_matches('=').len() * 3 / 4,
    );
    assert_eq!(bytes, 64);
}

#[test]
fn a_rate_is_kept() {
    let cluster = Cluster::start();
    let start = Instant::now();
    let words = ["bench", "put", "--rate", "100", "--duration", "2s", "--keys", "50"];
    let found = cluster.raft(&words).json();
    assert!(start.elapsed() >= Duration::from_secs(2));
    let ops = found["ops"].as_u64().unwrap();
    assert!((150..=201).contains(&ops), "{found}");
}

#[test]
fn the_table_says_that_nothing_is_lost() {
    let cluster = Cluster::start();
    let words = ["bench", "txn", "--duration", "300ms", "--keys", "50", "-o", "table"];
    let ran = cluster.raft(&words);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stdout.contains("OPS/S") && ran.stdout.contains("P99.9"), "{ran:#?}");
    assert!(ran.stdout.contains("Read back 50 keys: nothing"), "{ran:#?}");
    assert!(ran.stdout.contains("Compared 3 nodes: all hold the same 50 keys"), "{ran:#?}");
}

#[test]
fn every_watcher_is_told_of_every_write() {
    let cluster = Cluster::start();
    let words = ["bench", "watch", "--clients", "5", "--rate", "200", "--duration", "1s"];
    let ran = cluster.raft(&[&words[..], &["--keys", "30", "-o", "table"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let told = ran.stdout.lines().find_map(|line| {
        let rest = line.strip_prefix("Each of 5 watchers was told of ")?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    let told = told.unwrap();
    assert!((150..=201).contains(&told), "{ran:#?}");
    assert!(ran.stdout.contains(&format!(" {} ", told * 5)), "so many events: {ran:#?}");
    assert!(ran.stdout.contains("Read back 30 keys"), "{ran:#?}");
}

/// Nodes that hold different things are told by `a_node_whose_data_differs_is_named`.
#[test]
fn a_node_that_was_not_compared_is_told() {
    let mut cluster = Cluster::start();
    let words = ["bench", "put", "--duration", "300ms", "--keys", "50"];
    let gone = cluster.follower();
    cluster.kill(gone);
    let ran = cluster.raft(&words);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.stderr.contains(&format!("node {gone} at")), "{ran:#?}");
    assert!(ran.stderr.contains("was not compared"), "{ran:#?}");
    let ran = cluster.raft(&[&words[..], &["--skip-compare"]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:#?}");
}

/// A cluster that loses acknowledged writes: here by a second program that deletes keys meanwhile.
#[test]
fn what_is_missing_afterwards_is_told() {
    let cluster = Cluster::start();
    let ids = cluster.ids();
    let mut shell = cluster.shell_at(&ids, "5s");
    let done = std::sync::atomic::AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        let deleting = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                shell.ask("del bench/ --prefix");
            }
        });
        let ran = cluster.raft(&["bench", "put", "--duration", "1s", "--keys", "20000"]);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        deleting.join().unwrap();
        ran
    });
    ran.assert_refused(6, &["acknowledged writes are missing", "bench/"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::prepare(raft_tests::Options::default());
    let refused = |words: &[&str], parts: &[&str]| {
        cluster.raft_at(&[1], &[&["bench"], words].concat()).assert_refused(2, parts);
    };
    refused(&["frob"], &["frob"]);
    refused(&["put", "--clients", "0"], &["--clients", "0"]);
    refused(&["put", "--clients", "2", "--connections", "3"], &["--connections 3", "--clients 2"]);
    refused(&["put", "--rate", "0"], &["--rate"]);
    refused(&["put", "--duration", "5"], &["--duration", "5"]);
    refused(&["watch", "--value-size", "7"], &["--value-size 7", "8 bytes"]);
    refused(&["put", "--plot", "/no/such/dir/x.svg"], &["--plot", "/no/such/dir/x.svg"]);
    refused(&["put", "--target", "redis://a:1"], &["--target", "redis://a:1", "etcd://"]);
    refused(&["put", "--target", "etcd://a"], &["--target", "no port"]);
    raft(["bench", "put"]).assert_refused(2, &["--endpoints"]);
}

#[test]
fn a_cluster_that_is_not_there_is_told() {
    let cluster = Cluster::prepare(raft_tests::Options::default());
    let words = ["--timeout", "500ms", "bench", "put", "--duration", "1s"];
    cluster.raft_at(&[1], &words).assert_refused(3, &[cluster.address(1)]);
}
