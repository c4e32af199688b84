//! `raft lock` and `raft elect`, by processes that run beside each other and are killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;

use raft_tests::{Answer, Background, Cluster, Options, until};
use serde_json::Value;

fn lone() -> Cluster {
    Cluster::with(Options { nodes: 1, ..Options::default() })
}

fn start(cluster: &Cluster, words: &[&str]) -> Background {
    let (endpoints, tls) = (cluster.endpoints(&[1]), cluster.tls_dir());
    let global = ["-o", "json", "--endpoints", &endpoints, "--tls-dir", tls.to_str().unwrap()];
    let words = words[..1].iter().chain(&global).chain(&words[1..]);
    Background::start(&words.map(|word| (*word).to_owned()).collect::<Vec<_>>())
}

/// The last whole line it has printed.
fn last(process: &Background) -> Option<Value> {
    let output = process.output();
    let (whole, _) = output.rsplit_once('\n')?;
    Some(serde_json::from_str(whole.lines().last()?).unwrap())
}

#[test]
fn commands_under_one_lock_run_one_after_the_other() {
    let cluster = lone();
    let file = cluster.spare_dir("story");
    // Whoever is in says so, stays a while, and says when it goes.
    let script = format!("echo in >> {0}; sleep 0.05; echo out >> {0}", file.display());
    let mut all: Vec<_> =
        (0..4).map(|_| start(&cluster, &["lock", "job", "sh", "-c", &script])).collect();
    let story = || fs::read_to_string(&file).unwrap_or_default();
    until("all had their turn", || (story().lines().count() == 8).then_some(()));
    assert_eq!(story(), "in\nout\n".repeat(4));
    // The last one is still to give the lock up; if it were killed, its lease would have to end.
    assert!(all.iter_mut().all(Background::wait));
    let token = "test \"$RAFT_LOCK_TOKEN\" -gt 1 && case $RAFT_LOCK_KEY in job/*) exit 7;; esac";
    assert_eq!(cluster.raft(&["lock", "job", "sh", "-c", token]).code, Some(7));
    cluster.raft(&["lock", "job", "no-such-program"]).assert_refused(1, &["no-such-program"]);
    cluster.raft(&["lock", "", "true"]).assert_refused(2, &["name is empty"]);
    cluster.raft(&["lock", "job", "--ttl", "10ms", "true"]).assert_refused(2, &["10ms", "1s"]);
}

/// Who is killed has the lock until its lease ends, and no longer.
#[test]
fn the_lock_of_one_who_is_killed_goes_to_the_next() {
    let cluster = lone();
    let first = start(&cluster, &["lock", "job", "--ttl", "1s"]);
    let held = until("the lock is held", || last(&first));
    assert!(held["key"].as_str().unwrap().starts_with("job/"), "{held}");
    cluster.raft(&["lock", "job", "--wait", "100ms"]).assert_refused(3, &["job", "100ms"]);
    let second = start(&cluster, &["lock", "job"]);
    drop(first); // Killed.
    let next = until("the next one holds it", || last(&second));
    assert!(next["token"].as_u64() > held["token"].as_u64());
}

#[test]
fn one_is_elected_and_everybody_can_see_who() {
    let cluster = lone();
    let listener = start(&cluster, &["elect", "scheduler", "--listen"]);
    let first = start(&cluster, &["elect", "scheduler", "one", "--ttl", "1s"]);
    let value = |process: &Background| Some(last(process)?["value"].as_str()?.to_owned());
    until("one is elected", || (value(&listener)? == "one").then_some(()));
    let _second = start(&cluster, &["elect", "scheduler", "two"]);
    drop(first);
    until("two is elected", || (value(&listener)? == "two").then_some(()));
}

#[test]
fn a_shell_holds_a_lock_until_it_gives_it_up_or_ends() {
    let cluster = lone();
    let (mut one, mut two) = (cluster.shell(), cluster.shell());
    let done = |answer: Answer| match answer {
        Answer::Done(answer) => answer,
        Answer::Failed(kind, message) => panic!("{kind}: {message}"),
    };
    let held = done(one.ask("lock job"));
    let refused = two.ask("lock job --wait 50ms");
    assert!(matches!(&refused, Answer::Failed(kind, _) if kind == "unavailable"), "{refused:?}");
    let twice = one.ask("lock job");
    assert!(matches!(&twice, Answer::Failed(kind, _) if kind == "usage"), "{twice:?}");
    assert_eq!(done(one.ask("unlock job")), held);
    done(two.ask("lock job --wait 5s"));
    done(two.ask("elect office me"));
    assert_eq!(done(one.ask("elect office --listen"))["value"], "me");
    two.finish();
    // Nobody has to wait for a lease to end.
    done(one.ask("lock job --wait 5s"));
    let missing = one.ask("unlock office");
    assert!(matches!(&missing, Answer::Failed(kind, _) if kind == "not_found"), "{missing:?}");
}
