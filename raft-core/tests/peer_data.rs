//! Runs another implementation's test data on our arithmetic of quorums and of membership changes.
//!
//! Paper: §5.3, §6; dissertation 4.1, 4.3. The data pin two pure functions against a system that has
//! run in production for years: which index is committed (or which way a vote went) for given answers,
//! and which configuration follows from a change. They are not part of this repository: the folder is
//! `RAFT_PEER_DATA` if that is set, otherwise `shared/peer-data` beside the checkout. Its README
//! explains the format. If there is no such folder the test says so and passes; if there is one, every
//! case of every `.txt` file under a `quorum` or `confchange` folder is run.
//!
//! Where our rules differ on purpose, [`Changes::steps`] maps them, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use raft_core::quorum::{self, VoteResult};
use raft_core::{ChangeStep, Index, Membership, NodeId, PeerInfo, membership};

/// Rule M3, in its quorum half: a joint decision needs both majorities.
#[test]
fn peer_data() {
    let Some(folder) = folder() else {
        println!(
            "skipped: no peer data; set RAFT_PEER_DATA to a folder with etcd-io/raft's \
             quorum/testdata as `quorum` and confchange/testdata as `confchange`"
        );
        return;
    };
    let mut files = Vec::new();
    find(&folder, &mut files);
    let (mut ran, mut failed) = (0, Vec::new());
    for (kind, path) in files {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut changes = Changes::default();
        for case in cases(&text) {
            ran += 1;
            let output = match kind {
                Kind::Quorum => run_quorum(&case),
                Kind::Changes => changes.run(&case),
            };
            if output.trim_end() != case.expected {
                let Case { line, command, expected, .. } = &case;
                let at = format!("{}:{line}: {command}", path.display());
                failed.push(format!("{at}\nexpected:\n{expected}\ngot:\n{output}"));
            }
        }
    }
    assert!(ran > 0, "{} exists, but holds no case", folder.display());
    assert!(failed.is_empty(), "{} of {ran} failed:\n{}", failed.len(), failed.join("\n"));
    println!("{ran} cases of peer data agree");
}

// Finding the data.

#[derive(Clone, Copy, Debug)]
enum Kind {
    Quorum,
    Changes,
}

/// `None` if nobody asked for a certain folder and the usual one does not exist.
fn folder() -> Option<PathBuf> {
    match std::env::var_os("RAFT_PEER_DATA") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => {
            let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/peer-data");
            usual.is_dir().then_some(usual)
        }
    }
}

fn find(folder: &Path, files: &mut Vec<(Kind, PathBuf)>) {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let kind = match folder.file_name().and_then(|name| name.to_str()) {
        Some("quorum") => Some(Kind::Quorum),
        Some("confchange") => Some(Kind::Changes),
        Some(_) | None => None,
    };
    for path in paths {
        if path.is_dir() {
            find(&path, files);
        } else if let Some(kind) = kind
            && path.extension().is_some_and(|extension| extension == "txt")
        {
            files.push((kind, path));
        }
    }
}

/// One case of a file.
#[derive(Debug)]
struct Case {
    /// Where it begins.
    line: usize,
    command: String,
    /// `name=value` and `name=(v1,v2)`, the brackets removed.
    arguments: BTreeMap<String, String>,
    input: String,
    expected: String,
}

impl Case {
    /// The values of a list; none if it is left out.
    fn list(&self, name: &str) -> Vec<&str> {
        let list = self.arguments.get(name).map_or("", String::as_str);
        list.split(',').map(str::trim).filter(|value| !value.is_empty()).collect()
    }
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        // A space may follow a comma, so that arguments are not simply words.
        let line = line.replace(", ", ",");
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default().to_owned();
        let arguments = words
            .map(|word| {
                let (name, value) = word.split_once('=').unwrap_or((word, ""));
                let value = value.trim_start_matches('(').trim_end_matches(')');
                (name.to_owned(), value.to_owned())
            })
            .collect();
        let input: Vec<_> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "----").collect();
        let expected: Vec<_> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| !line.is_empty()).collect();
        cases.push(Case {
            line: number + 1,
            command,
            arguments,
            input: input.join(" "),
            expected: expected.join("\n").trim_end().to_owned(),
        });
    }
    cases
}

// Quorums.

fn run_quorum(case: &Case) -> String {
    let first = ids(&case.list("cfg"));
    let joint = case.arguments.contains_key("cfgj");
    let second = match case.list("cfgj")[..] {
        ["zero"] => Vec::new(),
        ref list => ids(list),
    };
    let mut all: Vec<NodeId> = Vec::new();
    for id in first.iter().chain(&second) {
        if !all.contains(id) {
            all.push(*id);
        }
    }
    let halves: [BTreeSet<NodeId>; 2] = [first.into_iter().collect(), second.into_iter().collect()];
    match case.command.as_str() {
        "committed" => run_committed(&all, &halves, joint, &case.list("idx")),
        "vote" => run_vote(&all, &halves, joint, &case.list("votes")),
        other => format!("there is no command '{other}'"),
    }
}

fn run_committed(
    all: &[NodeId],
    halves: &[BTreeSet<NodeId>; 2],
    joint: bool,
    idx: &[&str],
) -> String {
    assert_eq!(all.len(), idx.len(), "one index a voter");
    let known: BTreeMap<NodeId, Index> = all
        .iter()
        .zip(idx)
        .filter_map(|(id, index)| Some((*id, Index(index.parse().ok()?))))
        .collect();
    let decide = |known: &BTreeMap<NodeId, Index>, halves: &[BTreeSet<NodeId>; 2]| {
        let matched = |id: NodeId| known.get(&id).copied();
        if joint {
            quorum::committed(&membership_of(&halves[0], &halves[1]), matched)
        } else {
            quorum::majority_committed(&halves[0], matched)
        }
    };
    let answer = decide(&known, halves);

    // What must not matter.
    let [first, second] = halves;
    let matched = |id: NodeId| known.get(&id).copied();
    let with = |a: &BTreeSet<NodeId>, b: &BTreeSet<NodeId>| {
        quorum::committed(&membership_of(a, b), matched)
    };
    if joint {
        assert_eq!(with(second, first), answer, "the order of the halves matters");
    } else {
        assert_eq!(with(first, &BTreeSet::new()), answer, "joined with nobody it differs");
        assert_eq!(with(first, first), answer, "joined with itself it differs");
    }
    assert_eq!(slow(first, &known).min(slow(second, &known)), answer, "counting differs");
    for (id, index) in &known {
        for lower in [Index(index.0.saturating_sub(1)), Index(0)] {
            if *index < answer {
                let mut known = known.clone();
                known.insert(*id, lower);
                assert_eq!(decide(&known, halves), answer, "a lower {id:?} matters");
            }
        }
    }
    draw(all, &known, answer)
}

/// The highest index that a majority has at least, by trying each.
fn slow(voters: &BTreeSet<NodeId>, known: &BTreeMap<NodeId, Index>) -> Index {
    if voters.is_empty() {
        return Index(u64::MAX);
    }
    let has = |index: Index| {
        voters.iter().filter(|id| known.get(id).is_some_and(|known| *known >= index)).count()
    };
    let tried = known.values().copied().filter(|index| has(*index) > voters.len() / 2);
    tried.max().unwrap_or_default()
}

fn draw(all: &[NodeId], known: &BTreeMap<NodeId, Index>, answer: Index) -> String {
    let answer = if answer.0 == u64::MAX { "∞".to_owned() } else { answer.to_string() };
    if all.is_empty() {
        return format!("<empty majority quorum>{answer}");
    }
    let count = all.len();
    let mut text = format!("{}idx\n", " ".repeat(count + 4));
    let sorted: BTreeSet<NodeId> = all.iter().copied().collect();
    for id in &sorted {
        let index = known.get(id).copied().unwrap_or_default();
        let lower = sorted
            .iter()
            .filter(|other| known.get(other).copied().unwrap_or_default() < index)
            .count();
        let bar = match known.get(id) {
            Some(_) => format!("{}>{}", "x".repeat(lower), " ".repeat(count - lower)),
            None => format!("?{}", " ".repeat(count)),
        };
        let _ = writeln!(text, "{bar} {:>5}    (id={:x})", index.0, id.as_u64());
    }
    text + &answer
}

fn run_vote(all: &[NodeId], halves: &[BTreeSet<NodeId>; 2], joint: bool, votes: &[&str]) -> String {
    assert_eq!(all.len(), votes.len(), "one vote a voter");
    let given: BTreeMap<NodeId, bool> = all
        .iter()
        .zip(votes)
        .filter(|(_, vote)| **vote != "_")
        .map(|(id, vote)| (*id, *vote == "y"))
        .collect();
    let answer = |id: NodeId| given.get(&id).copied();
    let [first, second] = halves;
    let with =
        |a: &BTreeSet<NodeId>, b: &BTreeSet<NodeId>| quorum::vote(&membership_of(a, b), answer);
    let result = if joint { with(first, second) } else { quorum::majority_vote(first, answer) };

    if joint {
        assert_eq!(with(second, first), result, "the order of the halves matters");
    } else {
        assert_eq!(with(first, &BTreeSet::new()), result, "joined with nobody it differs");
        assert_eq!(with(first, first), result, "joined with itself it differs");
    }
    match result {
        VoteResult::Won => "VoteWon".to_owned(),
        VoteResult::Lost => "VoteLost".to_owned(),
        VoteResult::Pending => "VotePending".to_owned(),
    }
}

fn membership_of(voters: &BTreeSet<NodeId>, outgoing: &BTreeSet<NodeId>) -> Membership {
    Membership { voters: voters.clone(), outgoing: outgoing.clone(), ..Membership::default() }
}

fn ids(list: &[&str]) -> Vec<NodeId> {
    list.iter().map(|id| id.parse().unwrap_or_else(|error| panic!("'{id}': {error}"))).collect()
}

// Changes of the membership.

/// The state that the cases of one file work on.
#[derive(Debug, Default)]
struct Changes {
    current: Membership,
    /// Where each member's progress began.
    next: BTreeMap<NodeId, u64>,
    /// Counts the cases: stands for the last index of the log.
    last: u64,
}

impl Changes {
    fn run(&mut self, case: &Case) -> String {
        let outcome = match case.command.as_str() {
            "simple" => self.simple(&case.input),
            "enter-joint" => {
                let auto_leave = case.arguments.get("autoleave").is_some_and(|mark| mark == "true");
                self.enter_joint(&case.input, auto_leave)
            }
            "leave-joint" => self.leave_joint(&case.input),
            other => Err(format!("there is no command '{other}'")),
        };
        let output = match outcome {
            Ok(next) => {
                self.become_next(next);
                self.show()
            }
            Err(why) => why,
        };
        self.last += 1;
        output
    }

    /// What one change may do at once. The core goes through a joint configuration where the peer
    /// refuses, so "it would be joint" is that refusal.
    fn simple(&self, input: &str) -> Result<Membership, String> {
        if self.current.is_joint() {
            return Err("can't apply simple config change in joint config".to_owned());
        }
        // Not `membership::next`, which refuses to remove who is no member: there it is no change.
        let joint = membership::enter_joint(&self.current, &Self::steps(input), false)
            .map_err(|_| "removed all voters".to_owned())?;
        if joint.voters.symmetric_difference(&joint.outgoing).count() > 1 {
            let why = "more than one voter changed without entering joint config";
            return Err(why.to_owned());
        }
        Ok(membership::leave_joint(&joint))
    }

    fn enter_joint(&self, input: &str, auto_leave: bool) -> Result<Membership, String> {
        if self.current.is_joint() {
            return Err("config is already joint".to_owned());
        }
        if self.current.voters.is_empty() {
            return Err("can't make a zero-voter config joint".to_owned());
        }
        membership::enter_joint(&self.current, &Self::steps(input), auto_leave)
            .map_err(|_| "removed all voters".to_owned())
    }

    fn leave_joint(&self, input: &str) -> Result<Membership, String> {
        if !input.is_empty() {
            return Err("this command takes no input".to_owned());
        }
        if !self.current.is_joint() {
            return Err("can't leave a non-joint config".to_owned());
        }
        Ok(membership::leave_joint(&self.current))
    }

    /// The steps of a case. Three things are said differently here than there:
    ///
    /// - Node 0 is left out. There it is ignored; here a node id cannot be 0.
    /// - `u` is left out. There it has no effect on this state; here a new address for a node that is
    ///   not a member is refused.
    /// - Every node gets an address, which there is kept elsewhere.
    fn steps(input: &str) -> Vec<ChangeStep> {
        let mut steps = Vec::new();
        for word in input.split_whitespace() {
            let (what, id) = word.split_at(1);
            let Ok(id) = id.parse::<NodeId>() else {
                assert_eq!(id, "0", "'{word}' is no change");
                continue;
            };
            let address = Some(format!("host{id}:1"));
            match what {
                "v" => steps.push(ChangeStep::AddVoter(id, address)),
                "l" => steps.push(ChangeStep::AddLearner(id, address)),
                "r" => steps.push(ChangeStep::Remove(id)),
                "u" => {}
                _ => panic!("'{word}' is no change"),
            }
        }
        steps
    }

    /// Progress begins at the end of the log, but at 1 at least, and is kept while a node is a member.
    fn become_next(&mut self, next: Membership) {
        let members = next.members();
        self.next.retain(|id, _| members.contains(id));
        for id in &members {
            self.next.entry(*id).or_insert_with(|| self.last.max(1));
        }
        // The sets of the configuration are disjoint, and everybody in them can be reached.
        assert!(next.voters.is_disjoint(&next.learners), "{next:?}");
        assert!(next.learners_next.is_subset(&next.outgoing), "{next:?}");
        let reachable: BTreeMap<NodeId, PeerInfo> = next.peers.clone();
        assert!(members.iter().all(|id| reachable.contains_key(id)), "{next:?}");
        assert_eq!(reachable.len(), members.len(), "{next:?}");
        self.current = next;
    }

    fn show(&self) -> String {
        let Membership { voters, outgoing, learners, learners_next, auto_leave, .. } =
            &self.current;
        let mut text = format!("voters={}", bracketed(voters));
        if !outgoing.is_empty() {
            text.push_str(&format!("&&{}", bracketed(outgoing)));
        }
        if !learners.is_empty() {
            text.push_str(&format!(" learners={}", bracketed(learners)));
        }
        if !learners_next.is_empty() {
            text.push_str(&format!(" learners_next={}", bracketed(learners_next)));
        }
        if *auto_leave {
            text.push_str(" autoleave");
        }
        for (id, next) in &self.next {
            let learner = if learners.contains(id) { " learner" } else { "" };
            text.push_str(&format!("\n{id}: StateProbe match=0 next={next}{learner}"));
        }
        text
    }
}

fn bracketed(ids: &BTreeSet<NodeId>) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    format!("({})", ids.join(" "))
}
