//! The house rules as tests: what may depend on what, what every file begins with, what docs may
//! name.
//!
//! Reads manifests and sources as text. It fails on structure only; lengths of lines are printed
//! for whoever is interested.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use raft_tests::sim::mutants::MUTANTS;

/// A crate of ours, which of the others it may use, and what it must never use. Dependencies of
/// tests only are free, except that the three parts never meet.
struct Rules {
    name: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const CRATES: [Rules; 7] = [
    Rules {
        name: "raft-core",
        ours: &[],
        never: &["tokio", "rocksdb", "quinn", "postcard", "anyhow", "rustls"],
    },
    Rules { name: "raft-log", ours: &["raft-core"], never: &["quinn", "rustls", "anyhow"] },
    Rules { name: "raft-net-quic", ours: &["raft-core"], never: &["rocksdb", "anyhow"] },
    Rules { name: "raft-kv", ours: &["raft-core"], never: &["quinn", "rustls", "anyhow"] },
    Rules {
        name: "raft-sessions",
        ours: &["raft-core"],
        never: &["rocksdb", "tokio", "quinn", "anyhow"],
    },
    Rules {
        name: "raft-cli",
        ours: &["raft-core", "raft-log", "raft-net-quic", "raft-kv"],
        never: &[],
    },
    Rules {
        name: "tests",
        ours: &["raft-core", "raft-log", "raft-net-quic", "raft-kv"],
        never: &[],
    },
];

const OURS: [&str; 6] =
    ["raft-core", "raft-log", "raft-net-quic", "raft-kv", "raft-sessions", "raft-cli"];

#[test]
fn manifests_keep_the_crates_apart() {
    for rules in &CRATES {
        let manifest = read(&root().join(rules.name).join("Cargo.toml"));
        let manifest: toml::Table = manifest.parse().unwrap();
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let Some(toml::Value::Table(table)) = manifest.get(section) else { continue };
            for name in table.keys().map(String::as_str) {
                let foreign = OURS.contains(&name) && !rules.ours.contains(&name);
                // A crate may name itself to switch its own feature `testing` on for its tests.
                let foreign = foreign && !(section == "dev-dependencies" && name == rules.name);
                assert!(!foreign, "{} must not use {name}, see docs/architecture.md", rules.name);
                let never = section != "dev-dependencies" && rules.never.contains(&name);
                assert!(!never, "{} must never use {name}, see docs/architecture.md", rules.name);
            }
        }
    }
}

#[test]
fn sources_keep_the_crates_apart() {
    for rules in &CRATES {
        for file in sources(rules.name) {
            let words = words(&read(&file));
            for other in OURS.iter().filter(|other| **other != rules.name) {
                let named = words.contains(&other.replace('-', "_"));
                assert!(
                    !named || rules.ours.contains(other),
                    "{} must not name {other}, see docs/architecture.md",
                    shown(&file)
                );
            }
        }
    }
}

/// To swap a part is to change one line in one file.
#[test]
fn concrete_parts_meet_in_one_file() {
    let parts = ["RocksLog", "QuicTransport", "Kv"];
    let meets = |file: &PathBuf| {
        let words = words(&read(file));
        parts.iter().filter(|part| words.contains(**part)).count() > 1
    };
    let found: Vec<_> =
        sources("raft-cli").iter().filter(|file| meets(file)).map(|file| shown(file)).collect();
    assert_eq!(found, ["raft-cli/src/serve.rs"]);
}

#[test]
fn every_file_says_what_it_is_for() {
    for file in all_sources() {
        let text = read(&file);
        let header: usize =
            text.lines().take_while(|line| line.starts_with("//!")).map(str::len).sum();
        assert!(header > 20, "{} does not begin with a module header (//!)", shown(&file));
    }
}

#[test]
fn tests_name_rules_that_exist() {
    let known = rules();
    let mut tested = BTreeSet::new();
    for file in all_sources() {
        for (number, line) in (1..).zip(read(&file).lines()) {
            let Some(comment) = line.trim_start().strip_prefix("/// Rule") else { continue };
            for word in comment.split(|c: char| !c.is_ascii_alphanumeric()) {
                if is_rule_id(word) {
                    assert!(known.contains(word), "{}:{number}: no rule {word}", shown(&file));
                    tested.insert(word.to_owned());
                }
            }
        }
    }
    let untested: Vec<_> = known.difference(&tested).map(String::as_str).collect();
    println!(
        "{} of {} rules are named by a test; not yet: {}",
        tested.len(),
        known.len(),
        untested.join(" ")
    );
    assert!(!tested.is_empty());
}

/// A fault that is built in but in no table is never hunted, and one that is only in a table proves nothing.
#[test]
fn mutants_are_in_the_code_and_in_the_tables() {
    let table: BTreeSet<_> = MUTANTS.iter().map(|mutant| mutant.name.to_owned()).collect();
    let mut built_in = BTreeSet::new();
    for file in files(&root().join("raft-core/src"), "rs") {
        let text = read(&file);
        for (at, mark) in text.match_indices("raft_mutant = \"") {
            let name = text[at + mark.len()..].split('"').next().unwrap();
            built_in.insert(name.to_owned());
        }
    }
    assert_eq!(built_in, table);
    let rules = rules();
    let page = read(&root().join("docs/correctness.md"));
    for mutant in MUTANTS {
        assert!(rules.contains(mutant.rule), "{}: no rule {}", mutant.name, mutant.rule);
        let row = format!("| {} | {} |", mutant.name, mutant.rule);
        assert!(page.contains(&row), "docs/correctness.md has no {row}");
    }
}

#[test]
fn docs_name_files_that_exist() {
    let mut pages = files(&root().join("docs"), "md");
    pages.push(root().join("README.md"));
    let mut dead = Vec::new();
    for page in pages {
        let text = without_code_blocks(&read(&page));
        let from_root = quoted(&text, '`', '`').into_iter().filter(|path| is_ours(path));
        let mut targets: Vec<_> = from_root.map(|path| (root().join(path), path)).collect();
        for link in linked(&text) {
            let folder = page.parent().unwrap();
            targets.push((folder.join(link), link));
        }
        for (target, path) in targets {
            if !target.exists() {
                dead.push(format!("{}: {path}", shown(&page)));
            }
        }
    }
    assert!(dead.is_empty(), "paths that do not exist:\n{}", dead.join("\n"));
}

/// What is written for one machine is wrong on every other.
#[test]
fn no_file_names_a_machine() {
    let mut all = all_sources();
    all.extend(files(&root().join("docs"), "md"));
    all.extend(
        ["README.md", "Makefile", "Cargo.toml", ".ci/run", ".ci/setup"]
            .map(|name| root().join(name)),
    );
    // In two halves, so that this file does not name one itself.
    let homes = [("/ho", "me/"), ("/ro", "ot/"), ("/Us", "ers/"), ("/wo", "rk/")];
    for file in all {
        let text = read(&file);
        for (one, two) in homes {
            let path = format!("{one}{two}");
            let starts = |at: usize| {
                !text[..at].ends_with(|c: char| c.is_alphanumeric() || "$~}._-".contains(c))
            };
            let found = text.match_indices(&path).any(|(at, _)| starts(at));
            assert!(!found, "{} names {path}...", shown(&file));
        }
    }
}

#[test]
fn lengths_are_known() {
    for file in all_sources() {
        let text = read(&file);
        let own = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines().count();
        let wide = text.lines().filter(|line| line.chars().count() > 100).count();
        if own > 600 || wide > 0 {
            println!("{}: {own} lines without tests, {wide} of them wider than 100", shown(&file));
        }
    }
}

/// The ids of the rules: those of docs/correctness.md, or the ones it is going to hold.
fn rules() -> BTreeSet<String> {
    let table = root().join("docs/correctness.md");
    if table.exists() {
        let cells = read(&table);
        let ids = cells.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
        let ids: BTreeSet<_> = ids.filter(|id| is_rule_id(id)).map(str::to_owned).collect();
        if !ids.is_empty() {
            return ids;
        }
    }
    let counts = [('E', 14), ('L', 18), ('M', 15), ('T', 3), ('R', 7), ('S', 8), ('C', 8)];
    counts
        .iter()
        .flat_map(|(kind, count)| (1..=*count).map(move |n| format!("{kind}{n}")))
        .collect()
}

fn is_rule_id(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|kind| "ELMTRSC".contains(kind))
        && word.len() > 1
        && letters.all(|c| c.is_ascii_digit())
}

/// Whether a word in backquotes is a path from the root: `raft-core/src/protocol`, `tests/tests`.
fn is_ours(path: &str) -> bool {
    let tops = [
        "docs/",
        "tests/",
        ".ci/",
        "raft-core/",
        "raft-log/",
        "raft-net-quic/",
        "raft-kv/",
        "raft-cli/",
    ];
    tops.iter().any(|top| path.starts_with(top)) && !path.contains([' ', '*', '{', '<', '…'])
}

/// The targets of links to files, without anchors.
fn linked(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| {
            !target.contains("://") && !target.starts_with('#') && !target.contains(' ')
        })
        .filter_map(|target| target.split('#').next())
        .collect()
}

fn quoted(text: &str, open: char, close: char) -> Vec<&str> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        while let Some((_, after)) = rest.split_once(open) {
            let Some((inside, after)) = after.split_once(close) else { break };
            found.push(inside);
            rest = after;
        }
    }
    found
}

fn without_code_blocks(text: &str) -> String {
    let mut outside = true;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            outside = !outside;
        } else if outside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The identifiers in a source, those in comments left out.
fn words(text: &str) -> BTreeSet<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn all_sources() -> Vec<PathBuf> {
    CRATES.iter().flat_map(|rules| sources(rules.name)).collect()
}

fn sources(name: &str) -> Vec<PathBuf> {
    let found = files(&root().join(name), "rs");
    assert!(!found.is_empty(), "{name} has no sources");
    found
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
