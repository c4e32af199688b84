//! Golden scripts: Raft told as stories, one scenario a file, with everything that happens in it.
//!
//! A script in `scripts/` drives a few replicas of ring 0 ([`raft_core::Raft::step`]) in this process,
//! without a clock, a thread, a disk or a network other than the ones modelled here. Its expected
//! output is the full trace: messages sent, lost and received, writes to disk, what is applied, and one
//! line of state a node. `docs/testing.md` has the commands; `golden/script.rs` is the list itself.
//!
//! - `cargo test -p raft-core --test golden` compares.
//! - `UPDATE_GOLDENFILES=1` writes what was seen instead. Read it: it must be what Raft has to do.
//! - `GOLDEN=049` runs only the scripts whose path contains `049`.
//!
//! Besides the comparison, every script is watched by the checks of `golden/checks.rs` (election safety,
//! log matching, leader completeness, state machine safety, nothing promised before it is on disk).

#[path = "golden/checks.rs"]
mod checks;
#[path = "golden/cluster.rs"]
mod cluster;
#[path = "golden/disk.rs"]
mod disk;
#[path = "golden/hostile.rs"]
mod hostile;
#[path = "golden/network.rs"]
mod network;
#[path = "golden/replica.rs"]
mod replica;
#[path = "golden/script.rs"]
mod script;
#[path = "golden/text.rs"]
mod text;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::script::Script;

/// One test a folder, so that a failure names the chapter.
macro_rules! chapters {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run_chapter(stringify!($name));
            }
        )*

        /// A folder that no test runs would prove nothing.
        #[test]
        fn every_folder_is_a_chapter() {
            let known = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let found: BTreeSet<_> = entries(&scripts())
                .iter()
                .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .collect();
            assert_eq!(found, known, "folders of scripts and chapters of this test differ");
        }
    };
}

chapters!(
    election,
    prevote,
    replication,
    commit,
    persist,
    read,
    member,
    snapshot,
    transfer,
    restart,
);

/// Runs the scripts of one folder. All of them, so that one failure does not hide another.
fn run_chapter(chapter: &str) {
    build_a_fault_in();
    let only = std::env::var("GOLDEN").unwrap_or_default();
    let all = entries(&scripts().join(chapter));
    assert!(!all.is_empty(), "no script in chapter {chapter}");
    let mut failed = Vec::new();
    for path in all.iter().filter(|path| path.to_string_lossy().contains(&only)) {
        let run = AssertUnwindSafe(|| goldenscript::run(&mut Script::default(), path));
        match catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{}: {error}", path.display())),
            // The difference, or the broken check, was printed by the panic.
            Err(_) => failed.push(format!("{}: see above", path.display())),
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

/// In a build with `--cfg raft_mutants`: switches on the fault named in `RAFT_MUTANT`, and the core's own
/// invariants off if `RAFT_INVARIANTS=off` (raft-core/src/mutant.rs).
fn build_a_fault_in() {
    #[cfg(raft_mutants)]
    {
        let name = std::env::var("RAFT_MUTANT").unwrap_or_default();
        raft_core::testing::switch_on(name.leak());
        let off = std::env::var("RAFT_INVARIANTS").is_ok_and(|value| value == "off");
        raft_core::testing::set_invariants(!off);
    }
}

/// Scenario 121: the same seed and the same events give the same trace, byte for byte.
#[test]
fn every_script_runs_the_same_twice() {
    for chapter in entries(&scripts()) {
        for path in entries(&chapter) {
            let text = read_text(&path);
            let once = goldenscript::generate(&mut Script::default(), &text);
            let again = goldenscript::generate(&mut Script::default(), &text);
            let (once, again) = (once.expect("checked above"), again.expect("checked above"));
            assert!(once == again, "{} runs differently a second time", path.display());
        }
    }
}

/// A script that does not say what it shows teaches nobody.
#[test]
fn every_script_tells_its_story() {
    for chapter in entries(&scripts()) {
        for path in entries(&chapter) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = name.split('_').next().unwrap_or_default();
            let scenario: u32 = number.trim_end_matches(char::is_alphabetic).parse().unwrap_or(0);
            assert!((1..=121).contains(&scenario), "{name}: begin with the scenario's number");
            let text = read_text(&path);
            let story = text.lines().take_while(|line| line.starts_with('#')).count();
            assert!(story >= 2, "{name}: begin with a comment that tells the story");
        }
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

/// What is in a folder, in order of name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn read_text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}
