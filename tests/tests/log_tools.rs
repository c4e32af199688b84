//! `raft log`: what it prints, and that it finds damage.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft_core::{
    Batch, ClusterId, Entry, HardState, Identity, Incarnation, Index, LogId, LogStore, Membership,
    NodeId, Payload, SnapshotMeta, Term,
};
use raft_log::{DataDir, RocksLog, RocksLogConfig};
use raft_tests::raft;
use tempfile::TempDir;

/// A log of entries 1..=30: ten each of the terms 1, 2 and 3.
fn sample(temporary: &TempDir) -> PathBuf {
    let path = temporary.path().join("data");
    let mut dir = DataDir::open(&path).unwrap();
    let node = NodeId::new(1).unwrap();
    let membership = Membership::of_voters([(node, "a.example:1".to_owned())]);
    let founding = SnapshotMeta { membership, ..SnapshotMeta::default() };
    let identity = Identity { cluster: ClusterId(7), node, incarnation: Incarnation(9) };
    let mut config = RocksLogConfig::default();
    config.prepared_bytes = 0;
    dir.initialise(identity, &founding, &config).unwrap();
    let mut log = RocksLog::open(&dir, config).unwrap();
    log.recover().unwrap();
    for term in 1..=3 {
        let entries = (1..=10).map(|n| {
            let index = Index((term - 1) * 10 + n);
            let payload = Payload::Command(Bytes::from(format!("command {index}")));
            Entry { id: LogId::new(Term(term), index), payload }
        });
        let hard = Some(HardState { term: Term(term), vote: Some(node) });
        log.persist(&Batch { hard, entries: entries.collect(), ..Batch::default() }).unwrap();
    }
    path
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_whole_log_is_told_and_shown() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = text(&sample(&temporary));
    for words in [["log", "stat", &dir, "-o", "json"], ["log", "verify", &dir, "-o", "json"]] {
        let found = raft(words).json();
        assert_eq!(found["entries"], 30, "{found}");
        assert_eq!(found["last_index"], 30);
        assert_eq!(found["last_term"], 3);
        assert_eq!(found["vote"], 1);
        assert_eq!(found["runs"][2], serde_json::json!({ "term": 3, "first_index": 21 }));
        assert_eq!(found["members"][0], "1=a.example:1");
        assert_eq!(found["acknowledged_writes"], found["writes"]);
        assert_eq!(found.get("verdict").is_some(), words[1] == "verify");
    }
    let table = raft(["log", "verify", &dir]);
    assert_eq!(table.code, Some(0), "{table:?}");
    assert!(table.stdout.contains("30, after 0@0 through 30@3"), "{table:?}");
    assert!(table.stdout.contains("whole"), "{table:?}");

    let dumped = raft(["log", "dump", &dir, "--from", "9", "--to", "12", "-o", "json"]);
    let lines: Vec<serde_json::Value> =
        dumped.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<_> =
        lines.iter().map(|line| (line["index"].clone(), line["term"].clone())).collect();
    assert_eq!(ids, [(9, 1), (10, 1), (11, 2), (12, 2)].map(|(i, t)| (i.into(), t.into())));
    assert_eq!(lines[0]["command_base64"], "Y29tbWFuZCA5");
    let all = raft(["log", "dump", &dir]);
    assert_eq!(all.stdout.lines().count(), 30, "{all:?}");
    assert!(all.stdout.contains("command 30"));
    let none = raft(["log", "dump", &dir, "--from", "31"]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""));
    raft(["log", "dump", &dir, "--from", "5", "--to", "4"]).assert_refused(2, &["--to 4"]);
}

/// Rule L15: the offline check finds what a start would refuse, and changes nothing.
#[test]
fn damage_is_found_and_left_as_it_is() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = sample(&temporary);
    let file = fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, &bytes).unwrap();
    for _ in 0..2 {
        let ran = raft(["log", "verify", &text(&dir)]);
        ran.assert_refused(6, &["acknowledged writes are gone", &text(&dir)]);
        assert_eq!(fs::read(&file).unwrap(), bytes, "the evidence is still there");
    }
}

#[test]
fn what_is_no_log_is_refused_and_not_created() {
    let temporary = tempfile::tempdir().unwrap();
    let missing = temporary.path().join("missing");
    for command in ["verify", "stat", "dump"] {
        raft(["log", command, &text(&missing)]).assert_refused(1, &["missing"]);
        assert!(!missing.exists());
        let empty = temporary.path().join("empty");
        fs::create_dir_all(&empty).unwrap();
        raft(["log", command, &text(&empty)]).assert_refused(6, &["not initialised"]);
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
        let file = temporary.path().join("file");
        fs::write(&file, "x").unwrap();
        raft(["log", command, &text(&file)]).assert_refused(2, &["not a directory"]);
    }
    let dir = sample(&temporary);
    let _held = DataDir::open(&dir).unwrap();
    raft(["log", "stat", &text(&dir)]).assert_refused(6, &["in use by process"]);
}
