//! The decoders fed with whatever comes: what is right, with a few bytes changed, cut in any way.
//!
//! `cargo test` draws the same inputs each time; `FUZZ_RUNS=10000000 FUZZ_FIRST=7` others, and more
//! (`make fuzz`). A failure names its seed.

use bytes::Bytes;
use raft_core::{
    ClusterId, Entry, Envelope, Identity, Incarnation, Index, LogId, Membership, Message, NodeId,
    Payload, SnapshotFile, SnapshotHeader, SnapshotMeta, Term,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{self, Cutter, FrameError};
use crate::names::{ClusterName, Party, node_name};
use crate::wire::{
    ClientHello, PeerHello, ServerHello, SnapshotAnswer, SnapshotOpening, VERSION, client_head,
    split_client_head,
};

/// Rule L17: nothing that arrives makes a decoder panic, and what it takes it has understood.
#[test]
fn decoders_survive_whatever_arrives() {
    let samples = samples();
    run(60_000, |random| {
        let mut bytes = match random.random_range(0..4) {
            0 => any_envelope(random),
            _ => samples[random.random_range(0..samples.len())].clone(),
        };
        change(random, &mut bytes);
        understood::<Envelope>(&bytes);
        understood::<PeerHello>(&bytes);
        understood::<ClientHello>(&bytes);
        understood::<ServerHello>(&bytes);
        understood::<SnapshotOpening>(&bytes);
        understood::<SnapshotAnswer>(&bytes);
        if let Some((id, kind)) = split_client_head(&bytes) {
            assert_eq!(client_head(id, kind), bytes[..9]);
        }
    });
}

/// However a stream is cut into pieces, the same frames come out, and the same error at the same place.
#[test]
fn frames_do_not_depend_on_how_the_stream_was_cut() {
    run(20_000, |random| {
        let limit = random.random_range(0..2000);
        let mut stream = Vec::new();
        for _ in 0..random.random_range(0..8) {
            // Rarely one over the limit, or a length that means nothing.
            let bytes = random.random_range(0..=limit + limit / 16);
            stream.extend_from_slice(&u32::try_from(bytes).unwrap().to_le_bytes());
            stream.extend((0..bytes).map(|_| random.random::<u8>()));
        }
        stream.truncate(stream.len() - random.random_range(0..=stream.len().min(3)));
        let (mut cutter, mut found, mut fault) = (Cutter::new(limit), Vec::new(), None);
        let mut rest = &stream[..];
        while !rest.is_empty() && fault.is_none() {
            let longest = [1, 5, 100, 3000][random.random_range(0..4)];
            let (piece, later) = rest.split_at(random.random_range(0..=longest.min(rest.len())));
            rest = later;
            cutter.push(Bytes::copy_from_slice(piece));
            fault = loop {
                match cutter.next() {
                    Ok(Some(frame)) => found.push(frame.to_vec()),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
        }
        let fault = fault.or_else(|| cutter.end().err());
        assert_eq!((found, fault), cut_at_once(&stream, limit));
    });
}

/// The names in a certificate are read before anything vouches for it.
#[test]
fn certificates_survive_whatever_arrives() {
    let names = [node_name(node(7), &ClusterName::default()), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    run(20_000, |random| {
        let mut bytes = made.cert.der().to_vec();
        change(random, &mut bytes);
        let _ = Party::of_certificate(&bytes); // Whom it names is the authority's business.
    });
}

/// Runs with inputs drawn from seeds.
fn run(runs: u64, case: impl Fn(&mut StdRng) + std::panic::RefUnwindSafe) {
    let variable = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let first = variable("FUZZ_FIRST").unwrap_or(1);
    for seed in first..first + variable("FUZZ_RUNS").unwrap_or(runs) {
        let one = || case(&mut StdRng::seed_from_u64(seed));
        assert!(std::panic::catch_unwind(one).is_ok(), "FUZZ_FIRST={seed} FUZZ_RUNS=1 fails");
    }
}

/// What is taken can be written again and is then the same.
fn understood<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(value) = frame::decode::<T>(bytes) else { return };
    let again = postcard::to_stdvec(&value).unwrap();
    assert_eq!(frame::decode::<T>(&again).as_ref(), Ok(&value));
    // Nothing is made up: what was taken is about as large as what came.
    assert!(again.len() <= bytes.len() + 16, "{} bytes became {}", bytes.len(), again.len());
}

/// A few bytes changed, taken out or put in, or the end cut off; sometimes nothing.
fn change(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(0..4) {
        let place = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, any_byte(random)),
            2 if place < bytes.len() => drop(bytes.remove(place)),
            _ if place < bytes.len() => bytes[place] = any_byte(random),
            _ => bytes.push(any_byte(random)),
        }
    }
}

/// Small numbers, lengths that go on, and anything.
fn any_byte(random: &mut StdRng) -> u8 {
    match random.random_range(0..3) {
        0 => random.random_range(0..20),
        1 => [0x7f, 0x80, 0xff][random.random_range(0..3)],
        _ => random.random(),
    }
}

/// From, to and term, then any kind of message with any fields.
fn any_envelope(random: &mut StdRng) -> Vec<u8> {
    let fields = random.random_range(0..40);
    let head = [2, 1, 5, random.random_range(0..20)];
    head.into_iter().chain((0..fields).map(|_| any_byte(random))).collect()
}

/// What is right, of every kind that is not only numbers.
fn samples() -> Vec<Vec<u8>> {
    let (term, id) = (Term(5), LogId::new(Term(5), Index(300)));
    let members = Membership::of_voters([1, 2].map(|id| (node(id), format!("host-{id}:7101"))));
    let meta = SnapshotMeta { last: id, ..SnapshotMeta::default() };
    let header = SnapshotHeader { from: node(2), to: node(1), term, meta };
    let payloads = [
        Payload::Empty,
        Payload::Command(Bytes::from_static(b"a command")),
        Payload::Membership(Box::new(members)),
    ];
    let entries = payloads.map(|payload| Entry { id, payload }).to_vec();
    let append = Message::Append { prev: LogId::ZERO, entries, commit: Index(200) };
    let envelope = |message| Envelope { from: node(2), to: node(1), term, message };
    let own = Identity { cluster: ClusterId(7), node: node(2), incarnation: Incarnation(9) };
    let files = vec![SnapshotFile { name: "000012.sst".to_owned(), bytes: 1 << 40 }];
    vec![
        bytes_of(&envelope(append)),
        bytes_of(&envelope(Message::Snapshot(Box::new(header.meta.clone())))),
        bytes_of(&PeerHello::new(own, node(1), 77)),
        bytes_of(&ServerHello { version: VERSION, identity: own }),
        bytes_of(&SnapshotOpening { header, files }),
        bytes_of(&SnapshotAnswer::From { file: 3, offset: 1 << 33 }),
        bytes_of(&SnapshotAnswer::Refused("no room".to_owned())),
    ]
}

fn bytes_of(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

/// The frames of a stream that is there as a whole, and what is wrong after the last.
fn cut_at_once(mut stream: &[u8], limit: usize) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let mut found = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk::<4>() {
        let bytes = usize::try_from(u32::from_le_bytes(*header)).unwrap();
        if bytes > limit {
            return (found, Some(FrameError::TooLong { bytes, limit }));
        }
        let Some((frame, rest)) = rest.split_at_checked(bytes) else { break };
        found.push(frame.to_vec());
        stream = rest;
    }
    (found, (!stream.is_empty()).then_some(FrameError::Truncated))
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}
