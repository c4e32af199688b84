//! What sessions promise: a command is run once (rule C2), also over crashes and from one node to another.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tally;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft_core::sessions::{ClusterTime, Numbers, SessionError, SessionId, SessionTag, Stamp};
use raft_core::testing::MemSnapshot;
use raft_core::{
    Entry, Index, LogId, MachineError, Membership, Payload, SnapshotReader, StateMachine, Term,
};
use raft_sessions::{Outcome, Proposal, Request, Sessions, SessionsError};
use tally::Tally;
use tempfile::TempDir;

const T1: Term = Term(1);

/// Sessions, and the log that they are given.
struct Story {
    sessions: Sessions<Tally>,
    log: Vec<Entry>,
}

impl Story {
    fn begin(dir: &Path) -> Self {
        Self { sessions: Sessions::open(dir, Tally::default()).unwrap(), log: Vec::new() }
    }

    fn enter(&mut self, payload: Payload) -> Bytes {
        let id = LogId::new(T1, Index(self.log.len() as u64 + 1));
        self.log.push(Entry { id, payload });
        let mut outcomes = Vec::new();
        self.sessions.apply(&self.log[self.log.len() - 1..], &mut outcomes).unwrap();
        outcomes.pop().unwrap()
    }

    fn ask_at(&mut self, ms: u64, request: Request) -> Outcome {
        let stamp = Some(Stamp { term: T1, time: ClusterTime(ms) });
        let proposal = Proposal { stamp, request };
        Outcome::decode(&self.enter(Payload::Command(proposal.encode()))).unwrap()
    }

    fn ask(&mut self, request: Request) -> Outcome {
        self.ask_at(0, request)
    }

    fn open_session(&mut self, ttl_ms: u64) -> SessionId {
        match self.ask(Request::Open { ttl_ms }) {
            Outcome::Session { session, .. } => session,
            other @ (Outcome::Answer(_) | Outcome::Ticked | Outcome::Refused(_)) => {
                panic!("{other:?}")
            }
        }
    }

    /// Waits until the last pair has everything.
    fn make_durable(&mut self) {
        for _ in 0..10_000 {
            if self.sessions.durable().unwrap() == self.sessions.applied().last.index {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("it is not durable in 10 s");
    }

    /// Starts again in `dir`, with an inner machine that remembers nothing.
    fn restart(self, dir: &Path) -> Self {
        let Self { sessions, log } = self;
        drop(sessions);
        let mut sessions = Sessions::open(dir, Tally::default()).unwrap();
        let at = usize::try_from(sessions.applied().last.index.0).unwrap();
        sessions.apply(&log[at..], &mut Vec::new()).unwrap();
        Self { sessions, log }
    }

    fn received(&mut self) -> MemSnapshot {
        self.make_durable();
        let mut source = self.sessions.snapshot().unwrap();
        let meta = source.meta().clone();
        MemSnapshot::receive(meta, &mut *source).unwrap()
    }
}

fn run(tag: SessionTag, command: &'static str) -> Request {
    Request::Run { tag: Some(tag), command: command.into() }
}

fn answer(text: &str) -> Outcome {
    Outcome::Answer(Bytes::copy_from_slice(text.as_bytes()))
}

/// Rule C2.
#[test]
fn a_repeated_command_gets_its_first_answer_whatever_happens_in_between() {
    let dir = TempDir::new().unwrap();
    let mut story = Story::begin(dir.path());
    let mut numbers = Numbers::new(story.open_session(10_000));
    let (first, second) = (numbers.take().unwrap(), numbers.take().unwrap());
    assert_eq!(story.ask(run(first, "a")), answer("1"));
    assert_eq!(story.ask(run(second, "a")), answer("2"));
    assert_eq!(story.ask(run(first, "a")), answer("1"));
    // Over a crash before anything was kept, and one after.
    story = story.restart(dir.path());
    assert_eq!(story.ask(run(second, "a")), answer("2"));
    story.make_durable();
    story = story.restart(dir.path());
    assert_eq!(story.ask(run(first, "a")), answer("1"));
    // On another node, which knows it from a snapshot only.
    let other_dir = TempDir::new().unwrap();
    let mut other = Story::begin(other_dir.path());
    other.sessions.restore(Box::new(story.received())).unwrap();
    other.log = story.log.clone();
    assert_eq!(other.sessions.machine().state, story.sessions.machine().state);
    assert_eq!(other.ask(run(second, "a")), answer("2"));
    other = other.restart(other_dir.path());
    assert_eq!(other.ask(run(first, "a")), answer("1"));
    assert_eq!(other.sessions.machine().count("a"), 2);
    // Acknowledged, it is forgotten, and refused instead of being run.
    numbers.done(first);
    let third = numbers.take().unwrap();
    assert_eq!((third.sequence, third.unacknowledged), (3, 2));
    assert_eq!(story.ask(run(third, "a")), answer("3"));
    let refusal = SessionError::Acknowledged { sequence: 1, lowest: 2 };
    assert_eq!(story.ask(run(first, "a")), Outcome::Refused(refusal));
}

/// Rule C2. In one batch there is no time for the first answer to have been stored.
#[test]
fn a_command_that_comes_twice_in_one_batch_is_run_once() {
    let dir = TempDir::new().unwrap();
    let mut story = Story::begin(dir.path());
    let session = story.open_session(10_000);
    let tag = SessionTag { session, sequence: 1, unacknowledged: 1 };
    let proposal = Proposal { stamp: None, request: run(tag, "a") };
    let plain = Request::Run { tag: None, command: "b".into() };
    let plain = Proposal { stamp: None, request: plain };
    let payloads = [plain.encode(), proposal.encode(), proposal.encode(), plain.encode()];
    let entries: Vec<_> = (story.log.len() as u64 + 1..)
        .zip(payloads)
        .map(|(index, command)| Entry {
            id: LogId::new(T1, Index(index)),
            payload: Payload::Command(command),
        })
        .collect();
    let mut outcomes = Vec::new();
    story.sessions.apply(&entries, &mut outcomes).unwrap();
    let outcomes: Vec<_> = outcomes.iter().map(|bytes| Outcome::decode(bytes).unwrap()).collect();
    assert_eq!(outcomes, [answer("1"), answer("1"), answer("1"), answer("2")]);
    assert_eq!(story.sessions.machine().count("a"), 1);
    // The same in the log's words.
    let (dir, whole) = (TempDir::new().unwrap(), [&story.log[..], &entries[..]].concat());
    let mut again = Sessions::open(dir.path(), Tally::default()).unwrap();
    for entry in &whole {
        again.apply(std::slice::from_ref(entry), &mut Vec::new()).unwrap();
    }
    assert_eq!(again.machine().state, story.sessions.machine().state);
}

/// Rules C2, C5.
#[test]
fn sessions_end_by_the_time_in_the_log() {
    let dir = TempDir::new().unwrap();
    let mut story = Story::begin(dir.path());
    let session = story.open_session(5_000);
    let tag = |sequence| SessionTag { session, sequence, unacknowledged: 1 };
    assert_eq!(story.ask_at(4_999, run(tag(1), "a")), answer("1"));
    // Heard of, it lives on; the time of somebody who did not lead in this term is no time.
    let stamp = Some(Stamp { term: Term(7), time: ClusterTime(1_000_000) });
    let tick = Proposal { stamp, request: Request::Tick };
    story.enter(Payload::Command(tick.encode()));
    let kept = Outcome::Session { session, ttl_ms: 5_000 };
    assert_eq!(story.ask_at(9_998, Request::Keep(session)), kept);
    assert_eq!(story.ask_at(14_997, run(tag(1), "a")), answer("1"));
    assert_eq!(story.ask_at(19_997, Request::Tick), Outcome::Ticked);
    let ended = Outcome::Refused(SessionError::Ended { session });
    for request in
        [run(tag(1), "a"), run(tag(2), "a"), Request::Keep(session), Request::Close(session)]
    {
        assert_eq!(story.ask(request), ended);
    }
    assert_eq!(story.sessions.machine().count("a"), 1);
    let session = story.open_session(0);
    assert_eq!(story.ask(Request::Close(session)), Outcome::Session { session, ttl_ms: 0 });
    assert!(story.sessions.sessions().is_empty());
    assert_eq!(story.sessions.view().clock(), (ClusterTime(19_997), true));
}

#[test]
fn entries_that_are_no_requests_count_and_reach_the_machine() {
    let dir = TempDir::new().unwrap();
    let mut story = Story::begin(dir.path());
    assert_eq!(story.enter(Payload::Empty), "");
    let membership =
        Membership::of_voters([(raft_core::NodeId::new(1).unwrap(), "a:1".to_owned())]);
    assert_eq!(story.enter(Payload::Membership(membership.clone().into())), "");
    let applied = story.sessions.applied();
    assert_eq!(applied.membership, Some((LogId::new(T1, Index(2)), membership)));
    assert_eq!(applied.last, story.sessions.machine().applied().last);
    story.make_durable();
    assert_eq!(story.restart(dir.path()).sessions.applied(), applied);
}

/// Rule L18.
#[test]
fn what_either_machine_does_not_understand_stops_the_node() {
    let dir = TempDir::new().unwrap();
    let mut sessions = Sessions::open(dir.path(), Tally::default()).unwrap();
    let command = |bytes: &'static [u8]| Entry {
        id: LogId::new(T1, Index(1)),
        payload: Payload::Command(Bytes::from_static(bytes)),
    };
    let refused = sessions.apply(&[command(b"")], &mut Vec::new());
    assert!(matches!(refused, Err(MachineError::Unknown { .. })), "{refused:?}");
    let inner = Proposal { stamp: None, request: Request::Run { tag: None, command: "?".into() } };
    let entry = Entry { payload: Payload::Command(inner.encode()), ..command(b"") };
    let refused = sessions.apply(&[entry], &mut Vec::new());
    assert!(matches!(refused, Err(MachineError::Unknown { .. })), "{refused:?}");
    assert_eq!(sessions.applied().last, LogId::ZERO);
}

/// However long nobody asks whether it is durable.
#[test]
fn what_is_remembered_of_the_past_has_a_bound() {
    for machine in [Tally::default(), Tally::lazy()] {
        let dir = TempDir::new().unwrap();
        let mut sessions = Sessions::open(dir.path(), machine).unwrap();
        let plain =
            Proposal { stamp: None, request: Request::Run { tag: None, command: "a".into() } };
        let plain = plain.encode();
        let mut most = 0;
        for batch in 0..100_u64 {
            let entry = |number| Entry {
                id: LogId::new(T1, Index(batch * 1_000 + number)),
                payload: Payload::Command(plain.clone()),
            };
            let entries: Vec<_> = (1..=1_000).map(entry).collect();
            sessions.apply(&entries, &mut Vec::new()).unwrap();
            most = most.max(sessions.remembered());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(most <= 60_000, "{most} notes");
    }
}

#[test]
fn a_directory_is_opened_once_and_its_rot_is_noticed() {
    let dir = TempDir::new().unwrap();
    let mut story = Story::begin(dir.path());
    let second = Sessions::open(dir.path(), Tally::default());
    assert!(matches!(second, Err(SessionsError::Locked { .. })), "{second:?}");
    story.ask(Request::Run { tag: None, command: "a".into() });
    story.make_durable();
    drop(story);
    for file in ["books", "machine.state"] {
        let path = kept(dir.path()).join(file);
        let before = fs::read(&path).unwrap();
        let mut rotten = before.clone();
        rotten[0] ^= 1;
        fs::write(&path, rotten).unwrap();
        let found = Sessions::open(dir.path(), Tally::default());
        assert!(matches!(found, Err(SessionsError::Corrupt { .. })), "{file}: {found:?}");
        fs::write(&path, before).unwrap();
    }
    assert_eq!(Sessions::open(dir.path(), Tally::default()).unwrap().machine().count("a"), 1);
}

/// Rule S3. Beside the last pair a crash may leave the one before, whole or half removed, and the next, cut
/// short anywhere. If the last is damaged, nothing is taken for it, and nothing is removed.
#[test]
fn what_a_crash_leaves_beside_the_last_pair_does_not_matter() {
    let dir = TempDir::new().unwrap();
    let mut story = Story::begin(dir.path());
    let session = story.open_session(10_000);
    let tag = |sequence| SessionTag { session, sequence, unacknowledged: 1 };
    let mut pairs = Vec::new();
    for sequence in 1..=3 {
        story.ask(run(tag(sequence), "a"));
        story.make_durable();
        let pair = kept(dir.path());
        let content = ["books", "machine.state"].map(|file| fs::read(pair.join(file)).unwrap());
        pairs.push((pair.file_name().unwrap().to_str().unwrap().to_owned(), content));
    }
    drop(story);
    let [(former, before), (last, now), (next, after)] = &pairs[..] else { panic!() };
    let write = |dir: &Path, name: &str, [books, state]: [Option<&[u8]>; 2]| {
        fs::create_dir(dir.join(name)).unwrap();
        for (file, content) in [("books", books), ("machine.state", state)] {
            if let Some(content) = content {
                fs::write(dir.join(name).join(file), content).unwrap();
            }
        }
    };
    let part = next.replace("kept", "part");
    for cut in 0..8 {
        let dir = TempDir::new().unwrap();
        let half = |content: &'static str| Some(content.as_bytes()).filter(|_| cut % 2 == 0);
        let whole = [before, now, after].map(|[books, state]| [Some(&books[..]), Some(&state[..])]);
        write(dir.path(), former, if cut < 2 { whole[0] } else { [None, half("half")] });
        write(dir.path(), last, whole[1]);
        // Of the next all may be there but the name.
        write(dir.path(), &part, if cut % 4 == 3 { whole[2] } else { [half("ha"), None] });
        let mut sessions = Sessions::open(dir.path(), Tally::default()).unwrap();
        assert_eq!((sessions.applied().last.index, sessions.machine().count("a")), (Index(3), 2));
        assert!(!dir.path().join(former).exists() && !dir.path().join(&part).exists());
        let command = |sequence| Proposal { stamp: None, request: run(tag(sequence), "a") };
        let entry = |index, sequence| Entry {
            id: LogId::new(T1, Index(index)),
            payload: Payload::Command(command(sequence).encode()),
        };
        let mut outcomes = Vec::new();
        sessions.apply(&[entry(4, 2), entry(5, 3)], &mut outcomes).unwrap();
        assert_eq!(outcomes, [answer("2").encode(), answer("3").encode()]);
        drop(sessions);

        let dir = TempDir::new().unwrap();
        write(dir.path(), former, whole[0]);
        write(dir.path(), last, [half("half"), whole[1][1]]);
        Sessions::open(dir.path(), Tally::default()).unwrap_err();
        assert!(dir.path().join(former).exists() && dir.path().join(last).exists());
    }
}

#[test]
fn a_machine_with_a_past_of_its_own_is_refused() {
    let mut machine = Tally::default();
    let entry = Entry { id: LogId::new(T1, Index(1)), payload: Payload::Empty };
    machine.apply(&[entry], &mut Vec::new()).unwrap();
    let dir = TempDir::new().unwrap();
    let refused = Sessions::open(dir.path(), machine);
    assert!(matches!(refused, Err(SessionsError::NotNew { .. })), "{refused:?}");
}

/// Rule S2. Somebody else's snapshot, or one that was changed on the way, changes nothing.
#[test]
fn a_snapshot_that_is_none_of_ours_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let mut story = Story::begin(dir.path());
    story.ask(Request::Run { tag: None, command: "a".into() });
    let good = story.received();
    let contents: Vec<_> = good
        .files()
        .iter()
        .enumerate()
        .map(|(number, file)| {
            let mut content = vec![0; usize::try_from(file.bytes).unwrap()];
            let filled = good.clone().read_at(number, 0, &mut content).unwrap();
            assert_eq!(filled, content.len());
            (file.name.clone(), content)
        })
        .collect();
    let meta = good.meta().clone();
    let other_dir = TempDir::new().unwrap();
    let mut other = Story::begin(other_dir.path());
    other.ask(Request::Run { tag: None, command: "b".into() });
    let mut refuse = |contents: Vec<(String, Vec<u8>)>, what: &str| {
        let files = contents.into_iter().map(|(name, content)| (name, content.into())).collect();
        let snapshot = MemSnapshot::of_files(meta.clone(), files);
        let refused = other.sessions.restore(Box::new(snapshot));
        assert!(matches!(refused, Err(MachineError::Unknown { .. })), "{what}: {refused:?}");
        assert_eq!(other.sessions.machine().count("b"), 1);
    };
    refuse(Vec::new(), "nothing");
    refuse(contents[..1].to_vec(), "no machine");
    refuse(contents[1..].to_vec(), "no books");
    for number in 0..contents.len() {
        for at in 0..contents[number].1.len() {
            let mut rotten = contents.clone();
            rotten[number].1[at] ^= 0x10;
            refuse(rotten, "a flipped bit");
        }
        let mut short = contents.clone();
        short[number].1.pop();
        refuse(short, "cut short");
        let mut long = contents.clone();
        long[number].1.push(b'x');
        refuse(long, "too long");
    }
    for name in ["machine.other", "machine.", "machine./etc/passwd", "state"] {
        let mut renamed = contents.clone();
        name.clone_into(&mut renamed[1].0);
        refuse(renamed, name);
    }
    let again = other.restart(other_dir.path());
    assert_eq!(again.sessions.machine().count("b"), 1);
}

fn kept(dir: &Path) -> PathBuf {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.join("books").exists()).max().unwrap()
}
