//! The examples of `raft-cli/examples`, on a real cluster whose leader is killed, and killed
//! themselves: what they tell is what their headers promise.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs::{self, File};
use std::process::Command;

use raft_tests::{Background, Cluster, Options, example, until};

fn on(cluster: &Cluster, name: &str, words: &[&str]) -> Command {
    let mut command = example(name);
    command.args(words);
    command.args(["--endpoints", &cluster.endpoints(&cluster.ids()), "--tls-dir"]);
    command.arg(cluster.tls_dir());
    command
}

/// Three workers and one that is killed while it holds the lock tell one story, in one file.
#[test]
fn workers_with_a_lock_are_never_two() {
    let mut cluster = Cluster::start();
    let path = cluster.spare_dir("story");
    let start = |words: &[&str]| {
        let story = File::options().create(true).append(true).open(&path).unwrap();
        on(&cluster, "lock", words).stdout(story).spawn().unwrap()
    };
    let lines = || -> Vec<String> {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let mut doomed = start(&["doomed", "--work-ms", "60000"]);
    until("the lock is held", || (lines().len() == 1).then_some(()));
    let mut workers =
        ["a", "b", "c"].map(|name| start(&[name, "--rounds", "4", "--work-ms", "20"]));
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    until("another holds the lock", || (lines().len() > 1).then_some(()));
    cluster.kill(cluster.leader());
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success());
    }

    let story = lines();
    assert!(story[0].starts_with("doomed in, token "), "{story:#?}");
    assert_eq!(story.len(), 1 + 3 * 4 * 2, "{story:#?}");
    let mut tokens = vec![token(&story[0])];
    for pair in story[1..].chunks(2) {
        let (worker, _) = pair[0].split_once(" in, token ").unwrap();
        assert_eq!(pair[1], format!("{worker} out"), "{story:#?}");
        tokens.push(token(&pair[0]));
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

fn token(line: &str) -> u64 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn when_the_elected_one_dies_another_leads_and_all_see_it() {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    let start = |name: &str| Background::of(on(&cluster, "elect", &[name]));
    let mut left = vec![("a", start("a")), ("b", start("b")), ("c", start("c"))];
    while let Some((_, first)) = left.first() {
        // Everybody sees the same one lead, and it is the one that says so itself.
        let leader = until("one is seen to lead", || {
            let output = first.output();
            let seen = output.lines().rev().find_map(|line| line.strip_suffix(" leads"))?;
            left.iter().position(|(name, _)| *name == seen)
        });
        let (name, mut process) = left.remove(leader);
        let leads = format!("{name} leads\n");
        until("all see it", || {
            left.iter().all(|(_, one)| one.output().contains(&leads)).then_some(())
        });
        assert!(process.output().contains(&format!("{name}: I lead, with token ")), "{name}");
        for (other, process) in &left {
            assert!(!process.output().contains("I lead"), "{other} is not yet elected");
        }
        // The first by SIGKILL, so that its lease has to end; then as one is asked to leave.
        if left.len() > 1 {
            drop(process);
        } else {
            process.interrupt();
            assert!(process.wait(), "{}", process.log());
        }
    }
}

/// The leader of the cluster dies while several add: each addition counts once.
#[test]
fn a_counter_adds_up_when_the_leader_dies() {
    let mut cluster = Cluster::start();
    let words = ["hits", "--times", "60", "--by", "7"];
    let mut adders = [(); 3].map(|()| Background::of(on(&cluster, "counter", &words)));
    until("each adds", || {
        adders.iter().all(|adder| adder.output().lines().count() > 5).then_some(())
    });
    cluster.kill(cluster.leader());
    for adder in &mut adders {
        assert!(adder.wait(), "{}", adder.log());
    }
    let mut sums: Vec<i64> = adders.iter().flat_map(|adder| sums(&adder.output())).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=180).map(|n| 7 * n).collect::<Vec<_>>());
    let after = Background::of(on(&cluster, "counter", &["hits", "--times", "1", "--by", "-60"]));
    until("it says what it was", || after.output().contains("hits was 1260\n").then_some(()));
    until("it says what it is", || after.output().ends_with("hits is 1200\n").then_some(()));
}

fn sums(output: &str) -> Vec<i64> {
    output.lines().filter_map(|line| line.strip_prefix("hits is ")?.parse().ok()).collect()
}
