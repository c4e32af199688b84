//! Snapshots travel file by file, arrive as they were or not at all, and leave nothing behind.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::{
    Arrival, Index, LogId, SnapshotFile, SnapshotHeader, SnapshotMeta, SnapshotOutcome,
    SnapshotReader, SnapshotSource, SnapshotTicket, Term, Transport,
};

use raft_net_quic::{QuicConfig, SnapshotDirection, SnapshotProgress};
use tokio::runtime::Runtime;

use common::raw::{Hello, PEER, Raw, frame};
use common::{Authority, Node, config, identity, incoming, names_in, node, noise, runtime, until};

#[derive(Debug)]
struct Source {
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    contents: Vec<Vec<u8>>,
    /// Fails from this offset of each file on.
    fails_at: u64,
    /// Reads at most so many bytes at a time.
    step: usize,
    /// How much was read.
    read: Arc<AtomicU64>,
}

fn meta() -> SnapshotMeta {
    SnapshotMeta { last: LogId::new(Term(3), Index(500)), ..SnapshotMeta::default() }
}

impl Source {
    fn new(contents: &[(&str, usize)]) -> Self {
        let (files, contents) = contents
            .iter()
            .zip(1..)
            .map(|((name, bytes), seed)| {
                let file = SnapshotFile { name: (*name).to_owned(), bytes: *bytes as u64 };
                (file, noise(*bytes, seed))
            })
            .unzip();
        let (fails_at, step, read) = (u64::MAX, usize::MAX, Arc::default());
        Self { meta: meta(), files, contents, fails_at, step, read }
    }
}

impl SnapshotSource for Source {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if offset >= self.fails_at {
            return Err(io::Error::other("the disk is broken"));
        }
        let rest = &self.contents[file][usize::try_from(offset).unwrap()..];
        let count = rest.len().min(buffer.len()).min(self.step);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn header(from: u64, to: u64) -> SnapshotHeader {
    SnapshotHeader { from: node(from), to: node(to), term: Term(3), meta: meta() }
}

/// What became of `ticket`; nothing else may be reported about it afterwards.
fn outcome(sender: &Node, ticket: SnapshotTicket) -> SnapshotOutcome {
    let mut found = Vec::new();
    until("there is an outcome", || {
        found.extend(sender.arrivals.try_iter().filter_map(|arrival| match arrival {
            Arrival::SnapshotSent(_, about, outcome) => (about == ticket).then_some(outcome),
            Arrival::Messages(_)
            | Arrival::Snapshot(..)
            | Arrival::Met(..)
            | Arrival::Unreachable(_) => None,
        }));
        !found.is_empty()
    });
    assert_eq!(found.len(), 1);
    assert!(
        !sender.arrivals.try_iter().any(|arrival| matches!(arrival, Arrival::SnapshotSent(..)))
    );
    found[0]
}

fn arrival(receiver: &Node) -> (SnapshotHeader, Box<dyn SnapshotReader>) {
    loop {
        if let Arrival::Snapshot(header, reader) = receiver.next() {
            return (header, reader);
        }
    }
}

fn pair(runtime: &Runtime, authority: &Authority) -> (Node, Node) {
    pair_of(runtime, config(authority, 1), config(authority, 2))
}

fn pair_of(runtime: &Runtime, a: QuicConfig, b: QuicConfig) -> (Node, Node) {
    let a = Node::start(runtime, a);
    let b = Node::start(runtime, b);
    a.name(&[(2, b.address)]);
    a.reach(&b, 1);
    a.drain();
    (a, b)
}

#[test]
fn a_snapshot_arrives_as_it_was() {
    let (runtime, authority) = (runtime(), Authority::new());
    let (a, b) = pair(&runtime, &authority);
    let sizes = [("CURRENT", 16), ("empty", 0), ("000001.sst", 5_000_000), ("x", (1 << 20) + 1)];
    let mut source = Source::new(&sizes);
    source.step = 300_000; // A source may give less than was asked for.
    let contents = source.contents.clone();
    let ticket = a.transport.send_snapshot(header(1, 2), Box::new(source));
    let (found, mut reader) = arrival(&b);
    assert_eq!(found, header(1, 2));
    assert_eq!(outcome(&a, ticket), SnapshotOutcome::Delivered);

    assert_eq!(*reader.meta(), meta());
    let directory = reader.directory().unwrap().to_owned();
    for (number, expected) in contents.iter().enumerate() {
        let file = reader.files()[number].clone();
        assert_eq!((file.name.as_str(), file.bytes), (sizes[number].0, expected.len() as u64));
        assert_eq!(std::fs::read(directory.join(&file.name)).unwrap(), *expected);
        let mut buffer = vec![0; 100];
        let filled = reader.read_at(number, 5, &mut buffer).unwrap();
        assert_eq!(buffer[..filled], expected[5.min(expected.len())..][..filled]);
    }
    drop(reader);
    assert!(!directory.exists());
    assert!(names_in(&incoming(&authority, 2)).is_empty());
}

#[test]
fn without_a_connection_it_fails_and_says_so_once() {
    let (runtime, authority) = (runtime(), Authority::new());
    let a = Node::start(&runtime, config(&authority, 1));
    let ticket = a.transport.send_snapshot(header(1, 2), Box::new(Source::new(&[("x", 1)])));
    assert_eq!(outcome(&a, ticket), SnapshotOutcome::Failed);
}

#[test]
fn a_source_that_breaks_fails_the_transfer_and_nothing_else() {
    let (runtime, authority) = (runtime(), Authority::new());
    let (a, b) = pair(&runtime, &authority);
    let mut source = Source::new(&[("x", 10_000_000)]);
    source.fails_at = 5_000_000;
    let ticket = a.transport.send_snapshot(header(1, 2), Box::new(source));
    assert_eq!(outcome(&a, ticket), SnapshotOutcome::Failed);
    until("nothing is left", || names_in(&incoming(&authority, 2)).is_empty());
    a.reach(&b, 2);
    let ticket = a.transport.send_snapshot(header(1, 2), Box::new(Source::new(&[("x", 10)])));
    assert_eq!(outcome(&a, ticket), SnapshotOutcome::Delivered);
}

#[test]
fn a_hostile_name_is_refused_by_the_receiver() {
    let (runtime, authority) = (runtime(), Authority::new());
    let (a, b) = pair(&runtime, &authority);
    for name in ["../../escaped", "/tmp/raft-escaped", "..", ""] {
        let source = Box::new(Source::new(&[("good", 10), (name, 10)]));
        let ticket = a.transport.send_snapshot(header(1, 2), source);
        assert_eq!(outcome(&a, ticket), SnapshotOutcome::Failed, "{name:?}");
    }
    assert!(names_in(&incoming(&authority, 2)).is_empty());
    assert!(!authority.dir.path().join("escaped").exists());
    a.reach(&b, 2);
}

#[test]
fn a_snapshot_over_the_limit_is_refused_before_it_is_read() {
    let (runtime, authority) = (runtime(), Authority::new());
    let a = Node::start(&runtime, config(&authority, 1));
    let mut narrow = config(&authority, 2);
    narrow.limits.snapshot_bytes = 1_000_000;
    let b = Node::start(&runtime, narrow);
    a.name(&[(2, b.address)]);
    a.reach(&b, 1);
    let source = Source::new(&[("x", 1_000_001)]);
    let read = Arc::clone(&source.read);
    let ticket = a.transport.send_snapshot(header(1, 2), Box::new(source));
    assert_eq!(outcome(&a, ticket), SnapshotOutcome::Failed);
    assert_eq!(read.load(Ordering::Relaxed), 0);
}

/// A snapshot may only come from who signs it, for us. Rule L17.
#[test]
fn a_snapshot_in_the_name_of_another_is_refused() {
    let (runtime, authority) = (runtime(), Authority::new());
    let (a, b) = pair(&runtime, &authority);
    let forged = SnapshotHeader { from: node(3), ..header(1, 2) };
    let ticket = a.transport.send_snapshot(forged, Box::new(Source::new(&[("x", 1)])));
    assert_eq!(outcome(&a, ticket), SnapshotOutcome::Failed);
    let heard: Vec<_> = b.arrivals.try_iter().collect();
    assert!(!heard.iter().any(|arrival| matches!(arrival, Arrival::Snapshot(..))));
}

#[test]
fn a_sender_that_stops_in_the_middle_leaves_nothing_behind() {
    let (runtime, authority) = (runtime(), Authority::new());
    let mut forgetful = config(&authority, 2);
    forgetful.limits.snapshot_kept = Duration::from_millis(50);
    let (a, b) = pair_of(&runtime, config(&authority, 1), forgetful);
    let mut source = Source::new(&[("x", 200_000_000)]);
    source.step = 100_000;
    let read = Arc::clone(&source.read);
    let ticket = a.transport.send_snapshot(header(1, 2), Box::new(source));
    until("it is under way", || read.load(Ordering::Relaxed) > 5_000_000);
    assert_eq!(names_in(&incoming(&authority, 2)).len(), 1);
    let Node { transport, arrivals, .. } = a;
    drop(transport);
    until("the failure is reported", || {
        matches!(arrivals.try_recv(),
            Ok(Arrival::SnapshotSent(_, about, SnapshotOutcome::Failed)) if about == ticket)
    });
    until("nothing is left", || names_in(&incoming(&authority, 2)).is_empty());
    let heard: Vec<_> = b.arrivals.try_iter().collect();
    assert!(!heard.iter().any(|arrival| matches!(arrival, Arrival::Snapshot(..))));
}

#[test]
fn more_than_may_be_sent_at_once_wait_their_turn() {
    let (runtime, authority) = (runtime(), Authority::new());
    let (a, b) = pair(&runtime, &authority);
    let tickets: Vec<_> = (0..6)
        .map(|_| {
            let source = Box::new(Source::new(&[("x", 2_000_000)]));
            a.transport.send_snapshot(header(1, 2), source)
        })
        .collect();
    let mut left = tickets.len();
    while left > 0 {
        if let Arrival::SnapshotSent(_, ticket, outcome) = a.next() {
            assert!(tickets.contains(&ticket));
            assert_eq!(outcome, SnapshotOutcome::Delivered);
            left -= 1;
        }
    }
    for _ in &tickets {
        arrival(&b);
    }
}

/// What a sender that does not keep its word gets for an answer.
fn refused(content: &[u8], announced: u64, checksum: u32, more: &[u8]) -> String {
    let (runtime, authority) = (runtime(), Authority::new());
    let target = Node::start(&runtime, config(&authority, 1));
    let tls = authority.node(2);
    let file = SnapshotFile { name: "x".to_owned(), bytes: announced };
    let opening = postcard::to_stdvec(&(header(2, 1), vec![file])).unwrap();
    let answer = runtime.block_on(async {
        let raw = Raw::connect(&tls, PEER, target.address, 1).await;
        raw.greet(&Hello::new(identity(2), 1)).await;
        let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
        send.write_all(&frame(&opening)).await.unwrap();
        send.write_all(content).await.unwrap();
        send.write_all(&checksum.to_le_bytes()).await.unwrap();
        let _ = send.write_all(more).await;
        let _ = send.finish();
        let answers = recv.read_to_end(10_000).await.unwrap();
        assert!(raw.stays(Duration::from_millis(20)).await, "messages are not disturbed");
        answers
    });
    until("nothing is left", || names_in(&incoming(&authority, 1)).is_empty());
    assert!(!target.arrivals.try_iter().any(|found| matches!(found, Arrival::Snapshot(..))));
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_snapshot_that_does_not_check_out_is_refused() {
    let content = noise(3_000_000, 1);
    let right = crc32c::crc32c(&content);
    let mut corrupt = content.clone();
    corrupt[1_234_567] ^= 1;
    let answer = refused(&corrupt, 3_000_000, right, b"");
    assert!(answer.contains("checksum of x"), "{answer:?}");
    let answer = refused(&content, 3_000_001, right, b"");
    assert!(answer.contains("shorter"), "{answer:?}");
    let answer = refused(&content, 3_000_000, right, b"more");
    assert!(answer.contains("longer"), "{answer:?}");
}

/// The one transfer that a node knows of.
fn progress(node: &Node) -> Option<SnapshotProgress> {
    let transfers = node.transport.monitor().snapshots();
    assert!(transfers.len() <= 1, "{transfers:?}");
    transfers.first().copied()
}

#[test]
fn a_transfer_goes_on_where_a_lost_connection_broke_off() {
    let (runtime, authority) = (runtime(), Authority::new());
    let mut slow = config(&authority, 1);
    slow.limits.snapshot_send_rate = Some(20 << 20);
    let (a, b) = pair_of(&runtime, slow, config(&authority, 2));
    let source = Source::new(&[("000001.sst", 3 << 20), ("000002.sst", 17 << 20)]);
    let contents = source.contents.clone();
    let ticket = a.transport.send_snapshot(header(1, 2), Box::new(source));
    let arrived = || progress(&b).map_or(0, |progress| progress.bytes);
    for more in [5 << 20, 10 << 20] {
        until("half of it is there", || arrived() > more);
        a.name(&[]); // Which closes the connection.
        let mut least = arrived();
        a.name(&[(2, b.address)]);
        until("it goes on", || {
            let now = arrived();
            assert!(now >= least, "{now} bytes, {least} before");
            least = now;
            now > more + (1 << 20)
        });
    }
    assert_eq!(outcome(&a, ticket), SnapshotOutcome::Delivered);
    let (_, reader) = arrival(&b);
    let directory = reader.directory().unwrap();
    for (content, name) in contents.iter().zip(["000001.sst", "000002.sst"]) {
        assert!(std::fs::read(directory.join(name)).unwrap() == *content, "{name}");
    }
    assert_eq!((progress(&a), progress(&b)), (None, None), "it is over");
}

/// A sender that speaks the protocol by hand, to see where the receiver wants to begin.
struct Resumed {
    target: Node,
    runtime: Runtime,
    authority: Authority,
}

impl Resumed {
    fn new(kept: Duration) -> Self {
        let (runtime, authority) = (runtime(), Authority::new());
        let mut config = config(&authority, 1);
        config.limits.snapshot_kept = kept;
        let target = Node::start(&runtime, config);
        Self { target, runtime, authority }
    }

    /// Ends the receiver, lets `change` have a look at what it leaves, and starts it again.
    fn restart(self, change: impl FnOnce(&Path)) -> Self {
        let Self { target, runtime, authority } = self;
        drop(target);
        let left = incoming(&authority, 1);
        // Its tasks end a moment later, and what they had in hand stays.
        std::thread::sleep(Duration::from_millis(100));
        change(&left);
        let target = Node::start(&runtime, config(&authority, 1));
        Self { target, runtime, authority }
    }

    /// What is left of the one snapshot under way.
    fn left(&self) -> PathBuf {
        let incoming = incoming(&self.authority, 1);
        let names = names_in(&incoming);
        assert_eq!(names.len(), 1, "{names:?}");
        incoming.join(&names[0])
    }

    /// Offers a snapshot of the files x and y, and returns the connection and where to begin.
    async fn offer(&self, last: u64) -> (Raw, quinn::SendStream, quinn::RecvStream, (u32, u64)) {
        let tls = self.authority.node(2);
        let raw = Raw::connect(&tls, PEER, self.target.address, 1).await;
        raw.greet(&Hello::new(identity(2), 1)).await;
        let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
        let file = |name: &str| SnapshotFile { name: name.to_owned(), bytes: 3 << 20 };
        let mut header = header(2, 1);
        header.meta.last.index = Index(last);
        let opening = postcard::to_stdvec(&(header, [file("x"), file("y")].to_vec())).unwrap();
        send.write_all(&frame(&opening)).await.unwrap();
        let mut length = [0; 4];
        recv.read_exact(&mut length).await.unwrap();
        let mut answer = vec![0; u32::from_le_bytes(length) as usize];
        recv.read_exact(&mut answer).await.unwrap();
        let (kind, file, offset) = postcard::from_bytes::<(u32, u32, u64)>(&answer).unwrap();
        assert_eq!(kind, 0, "not refused");
        (raw, send, recv, (file, offset))
    }

    /// Sends all of x and half of y, then loses the connection.
    fn half(&self, x: &[u8], y: &[u8]) {
        self.runtime.block_on(async {
            let (raw, mut send, _recv, start) = self.offer(500).await;
            assert_eq!(start, (0, 0));
            send.write_all(x).await.unwrap();
            send.write_all(&crc32c::crc32c(x).to_le_bytes()).await.unwrap();
            send.write_all(&y[..2 << 20]).await.unwrap();
            until("it is there", || self.bytes() == 5 << 20);
            drop(raw);
        });
    }

    fn bytes(&self) -> u64 {
        progress(&self.target).map_or(0, |progress| progress.bytes)
    }

    /// Sends the rest after a connection was lost, and returns what the receiver says.
    fn rest(&self, x: &[u8], y: &[u8]) -> String {
        self.runtime.block_on(async {
            let (_raw, mut send, mut recv, start) = self.offer(500).await;
            assert_eq!(start, (1, 2 << 20), "all of x is there, and two thirds of y");
            // The receiver may refuse at any time.
            let _ = send.write_all(&crc32c::crc32c(x).to_le_bytes()).await;
            let _ = send.write_all(&y[2 << 20..]).await;
            let _ = send.write_all(&crc32c::crc32c(y).to_le_bytes()).await;
            let _ = send.finish();
            String::from_utf8_lossy(&recv.read_to_end(10_000).await.unwrap()).into_owned()
        })
    }
}

#[test]
fn a_lost_connection_costs_only_what_was_under_way() {
    let scene = Resumed::new(Duration::from_secs(60));
    let (x, y) = (noise(3 << 20, 1), noise(3 << 20, 2));
    scene.half(&x, &y);
    scene.rest(&x, &y);
    let (_, mut reader) = arrival(&scene.target);
    for (number, expected) in [x, y].iter().enumerate() {
        let mut found = vec![0; 3 << 20];
        assert_eq!(reader.read_at(number, 0, &mut found).unwrap(), found.len());
        assert!(found == *expected, "file {number}");
    }
    assert_eq!(progress(&scene.target), None, "it is over");
}

/// Names and sizes may be the same, and yet it is another one: of a sender that has started again.
#[test]
fn parts_of_two_snapshots_never_become_one() {
    let scene = Resumed::new(Duration::from_secs(60));
    let (x, y, other) = (noise(3 << 20, 1), noise(3 << 20, 2), noise(3 << 20, 3));
    for (x_now, y_now, why) in [(&other, &y, "x is not what it was"), (&x, &other, "of y does not")]
    {
        scene.half(&x, &y);
        let said = scene.rest(x_now, y_now);
        assert!(said.contains(why), "{said}");
        until("nothing is left", || names_in(&incoming(&scene.authority, 1)).is_empty());
    }
    // One that stands for something else begins at its beginning.
    scene.half(&x, &y);
    let start = scene.runtime.block_on(async { scene.offer(501).await.3 });
    assert_eq!(start, (0, 0));
    assert!(!scene.target.arrivals.try_iter().any(|found| matches!(found, Arrival::Snapshot(..))));
}

#[test]
fn what_has_arrived_survives_a_restart_of_the_receiver() {
    let scene = Resumed::new(Duration::from_secs(60));
    let (x, y) = (noise(3 << 20, 1), noise(3 << 20, 2));
    scene.half(&x, &y);
    let scene = scene.restart(|_| ());
    until("it is found", || scene.bytes() == 5 << 20);
    // Again, before anybody came for it.
    let scene = scene.restart(|_| ());
    until("it is found again", || scene.bytes() == 5 << 20);
    scene.rest(&x, &y);
    let (_, reader) = arrival(&scene.target);
    let directory = reader.directory().unwrap();
    for (name, expected) in [("x", &x), ("y", &y)] {
        assert!(std::fs::read(directory.join(name)).unwrap() == *expected, "{name}");
    }
    assert_eq!(progress(&scene.target), None, "it is over");
    drop(reader);
    assert_eq!(names_in(&incoming(&scene.authority, 1)).len(), 0);
}

/// A crash gives nobody time to tidy up: the directory is as it was at some moment.
#[test]
fn what_has_arrived_survives_a_crash_of_the_receiver() {
    let scene = Resumed::new(Duration::from_secs(60));
    let (x, y) = (noise(3 << 20, 1), noise(3 << 20, 2));
    scene.half(&x, &y);
    let crashed = scene.left();
    let copy = |name: &str| std::fs::read(crashed.join(name)).unwrap();
    let names = ["record", "files/x", "files/y"];
    let contents = names.map(copy);
    let scene = scene.restart(|incoming| {
        std::fs::remove_dir_all(incoming).unwrap();
        // A part that was superseded, and what the newest one had on disk.
        for number in [3, 20] {
            let directory = incoming.join(format!("arriving-{number}"));
            std::fs::create_dir_all(directory.join("files")).unwrap();
            for (name, content) in names.iter().zip(&contents) {
                std::fs::write(directory.join(name), content).unwrap();
            }
        }
    });
    until("it is found", || scene.bytes() == 5 << 20);
    until("only the newest is kept", || {
        names_in(&incoming(&scene.authority, 1)) == ["arriving-20"]
    });
    scene.rest(&x, &y);
    arrival(&scene.target);
}

/// What a disk may make of it while the power is off. Nothing of it reaches the state machine.
#[test]
fn what_was_damaged_before_a_restart_is_sent_again() {
    let (x, y) = (noise(3 << 20, 1), noise(3 << 20, 2));
    let damaged = |damage: &dyn Fn(&Path)| {
        let scene = Resumed::new(Duration::from_secs(60));
        scene.half(&x, &y);
        let left = scene.left();
        let scene = scene.restart(|_| damage(&left));
        std::thread::sleep(Duration::from_millis(100));
        scene
    };
    let write = |path: &Path, name: &str, bytes: &[u8]| std::fs::write(path.join(name), bytes);
    let anew: [&dyn Fn(&Path); 4] = [
        &|left| write(left, "record", b"arrival").unwrap(),
        &|left| std::fs::remove_file(left.join("record")).unwrap(),
        &|left| write(left, "files/x", &x[1..]).unwrap(),
        &|left| write(left, "files/y", &[&y[..], b"z"].concat()).unwrap(),
    ];
    for damage in anew {
        let scene = damaged(damage);
        let start = scene.runtime.block_on(async { scene.offer(500).await.3 });
        assert_eq!(start, (0, 0));
    }
    // The end of the last file came back as zeros: its checksum tells.
    let zeros = [&y[..1 << 20], &vec![0; 1 << 20]].concat();
    let scene = damaged(&|left| write(left, "files/y", &zeros).unwrap());
    let said = scene.rest(&x, &y);
    assert!(said.contains("of y does not"), "{said}");
    until("nothing is left", || names_in(&incoming(&scene.authority, 1)).is_empty());
    assert!(!scene.target.arrivals.try_iter().any(|found| matches!(found, Arrival::Snapshot(..))));
}

#[test]
fn what_nobody_comes_back_for_is_thrown_away() {
    let scene = Resumed::new(Duration::from_millis(300));
    let (x, y) = (noise(3 << 20, 1), noise(3 << 20, 2));
    scene.half(&x, &y);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(names_in(&incoming(&scene.authority, 1)).len(), 1);
    until("nothing is left", || names_in(&incoming(&scene.authority, 1)).is_empty());
    until("it is not listed", || scene.bytes() == 0);
}

#[test]
fn a_rate_is_kept_and_the_progress_is_seen() {
    let (runtime, authority) = (runtime(), Authority::new());
    let mut slow = config(&authority, 1);
    slow.limits.snapshot_send_rate = Some(2_000_000);
    let (a, b) = pair_of(&runtime, slow, config(&authority, 2));
    let started = Instant::now();
    let ticket =
        a.transport.send_snapshot(header(1, 2), Box::new(Source::new(&[("x", 1_200_000)])));
    until("both see it", || {
        let seen = |node: &Node, peer, direction| {
            progress(node).is_some_and(|progress| {
                assert_eq!((progress.peer, progress.direction), (common::node(peer), direction));
                assert_eq!((progress.last, progress.total_bytes), (meta().last, 1_200_000));
                true
            })
        };
        seen(&a, 2, SnapshotDirection::Outgoing) && seen(&b, 1, SnapshotDirection::Incoming)
    });
    until("part of it is sent", || {
        progress(&a).is_some_and(|progress| (1..1_200_000).contains(&progress.bytes))
    });
    assert_eq!(outcome(&a, ticket), SnapshotOutcome::Delivered);
    // All but the last tenth of a second had to wait.
    assert!(started.elapsed() > Duration::from_millis(480), "{:?}", started.elapsed());
    assert_eq!((progress(&a), progress(&b)), (None, None), "it is over");
}
