//! `raft demo`: the first thing a newcomer runs must work, and must leave nothing behind.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use raft_tests::{binary, raft, until};

#[test]
fn ends_with_nothing_lost() {
    let ran = raft(["demo", "--exit"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for part in ["0 of 1000", "next write", "caught up", "leader"] {
        assert!(ran.stdout.to_lowercase().contains(part), "{part:?} is missing:\n{}", ran.stdout);
    }
}

/// SIGKILL gives a process no chance to tell its children anything.
#[test]
fn children_do_not_outlive_a_demo_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Command::new(binary())
        .args(["demo", "--dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(demo.stdout.take().unwrap());
    let line = stdout
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("export RAFT_ENDPOINTS="))
        .expect("a demo that stays up says how to use it");
    let endpoints = line.split("RAFT_ENDPOINTS=").nth(1).unwrap().split(' ').next().unwrap();
    let endpoints = endpoints.trim_matches('\'').to_owned();
    assert_eq!(endpoints.split(',').count(), 3, "{line}");
    let tls = line.split("RAFT_TLS_DIR=").nth(1).unwrap().trim_matches('\'').to_owned();
    let ran = raft(["put", "k", "v", "--endpoints", &endpoints, "--tls-dir", &tls]);
    assert_eq!(ran.code, Some(0), "{ran:?}");

    demo.kill().unwrap();
    demo.wait().unwrap();
    for endpoint in endpoints.split(',') {
        until("its port is free again", || UdpSocket::bind(endpoint).ok());
    }
}

#[test]
fn refuses_a_directory_in_use() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "precious").unwrap();
    let path = dir.path().to_str().unwrap();
    raft(["demo", "--exit", "--dir", path]).assert_refused(2, &[path, "empty"]);
    raft(["demo", "--exit", "--nodes", "1"]).assert_refused(2, &["--nodes"]);
}
