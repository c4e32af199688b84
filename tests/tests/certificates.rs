//! Certificates are renewed under a cluster that serves: nobody is disconnected, nobody restarts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use raft_tests::{Cluster, Options, Shell, raft};

/// How often each node has said this.
fn said(cluster: &Cluster, what: &str) -> BTreeMap<u64, usize> {
    cluster.ids().into_iter().map(|id| (id, cluster.log(id).matches(what).count())).collect()
}

/// Writes through the connection that is there until every node has taken up what is new.
fn serves_until_taken_up(cluster: &Cluster, shell: &mut Shell, renewals: usize) {
    let started = Instant::now();
    let mut writes = 0;
    loop {
        let taken_up = said(cluster, "new certificates are in use");
        if taken_up.values().all(|count| *count == renewals) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "not taken up: {taken_up:?}");
        assert!(shell.ask(&format!("put k{writes} v")).is_done(), "write {writes}");
        writes += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(writes > 0, "it was served while certificates changed");
}

#[test]
fn a_cluster_serves_through_a_renewal_and_drops_no_connection() {
    let cluster = Cluster::with(Options::default());
    cluster.settle();
    let dir = cluster.tls_dir();
    let dir = dir.to_str().unwrap();
    let mut shell = cluster.shell();
    assert!(shell.ask("put before v").is_done());
    let connections = said(&cluster, " connected");
    let leader = cluster.leader();

    let renew = ["tls", "renew", "--dir", dir];
    let with_new_keys = [&renew[..], &["--new-keys"]].concat();
    for (renewals, words) in [(1, &renew[..]), (2, &with_new_keys)] {
        let ran = raft(words);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        serves_until_taken_up(&cluster, &mut shell, renewals);
        // A client that comes only now uses the new certificate, with nodes that do so, too.
        assert_eq!(cluster.raft(&["get", "before"]).code, Some(0));
    }
    assert_eq!(said(&cluster, " connected"), connections, "nobody has connected again");
    assert!(said(&cluster, "connection lost").values().all(|count| *count == 0));
    assert!(said(&cluster, "client disconnected").values().all(|count| *count == 0));
    assert_eq!(cluster.leader(), leader);
    assert_eq!(shell.finish(), Some(0));
}

const PATIENCE: Duration = Duration::from_secs(60);
