//! `raft shell`: one answer a line, in order, whatever happens.

use raft_tests::{Answer, Cluster, Options};
use serde_json::json;

#[test]
fn answers_every_line_in_order_and_goes_on_after_errors() {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    let mut shell = cluster.shell();
    for line in [
        "put a 1",
        "put 'two words' \"a \\\"quoted\\\" value\"",
        "get a",
        "get 'two words'",
        "get nothing",
        "frobnicate",
        "put a",
        "put '' x",
        "get 'open",
        "del a",
        "status",
    ] {
        shell.send(line);
    }
    let mut done = |what: &str| match shell.answer() {
        Answer::Done(value) => value,
        Answer::Failed(kind, message) => panic!("{what}: {kind}: {message}"),
    };
    assert!(done("put")["revision"].is_u64());
    assert!(done("put with quotes")["revision"].is_u64());
    assert_eq!(done("get")["value"], "1");
    assert_eq!(done("get with quotes")["value"], "a \"quoted\" value");
    let mut failed = |kind: &str| match shell.answer() {
        Answer::Failed(found, message) => {
            assert_eq!(found, kind, "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        Answer::Done(value) => panic!("{kind} is due, not {value}"),
    };
    failed("not_found");
    failed("usage");
    failed("usage");
    failed("usage");
    failed("usage");
    assert!(matches!(shell.answer(), Answer::Done(value) if value["deleted"] == json!(1)));
    assert!(matches!(shell.answer(), Answer::Done(value) if value.is_array()));
    assert_eq!(shell.finish(), Some(0));
}

#[test]
fn follows_the_leader_when_it_changes() {
    let mut cluster = Cluster::start();
    let follower = cluster.follower();
    // It knows one node only and is told of the others.
    let mut shell = cluster.shell_at(&[follower], "15s");
    assert!(shell.ask("put k 1").is_done());
    let leader = cluster.leader();
    cluster.kill(leader);
    // The first of these may be unknown, if it was on its way to the leader that died.
    let put = shell.ask("put k 2");
    assert!(put.is_done() || put.is_unknown(), "{put:?}");
    assert!(shell.ask("put k 3").is_done());
    assert!(matches!(shell.ask("get k"), Answer::Done(found) if found["value"] == json!("3")));
}
