//! How much memory a replica of an idle group holds. A node may take part in thousands of groups.
//!
//! Counted by what is freed when a replica of the protocol is dropped: itself and all it has on the heap,
//! without its log, which is the embedder's. Printed with `--nocapture`.
//!
//! And how large the values are that are passed on from hand to hand all the time.

#![allow(clippy::print_stdout, reason = "the figures are worth seeing")]

#[path = "../benches/trio/mod.rs"]
mod trio;

use std::iter;

use allocation_counter::measure;
use bytes::Bytes;
use raft_core::{Effect, Entry, Envelope, Event};

use self::trio::Trio;

/// What one replica may hold.
const GOAL_BYTES: i64 = 4096;

#[test]
fn an_idle_replica_is_small() {
    check("elected", Trio::elected());
}

#[test]
fn a_replica_that_was_busy_and_is_idle_is_small() {
    for batch in [1, 64, 1024, 16 * 1024] {
        let mut trio = Trio::elected();
        let command = Bytes::from(vec![7; 256]);
        for _ in 0..4 {
            trio.commit(iter::repeat_n(command.clone(), batch));
        }
        check(&format!("after batches of {batch}"), trio);
    }
}

/// The copying of larger ones once took half the time.
#[test]
fn what_is_passed_on_is_small() {
    let sizes =
        [size_of::<Event>(), size_of::<Effect>(), size_of::<Envelope>(), size_of::<Entry>()];
    println!(
        "event {}, effect {}, envelope {}, entry {} bytes",
        sizes[0], sizes[1], sizes[2], sizes[3]
    );
    assert!(sizes[..3].iter().all(|bytes| *bytes <= 128) && sizes[3] <= 56, "{sizes:?}");
}

/// Lets an interval or two pass, and weighs every replica.
fn check(when: &str, mut trio: Trio) {
    for _ in 0..3 {
        trio.idle();
    }
    let [leader, second, third] = trio.into_rafts();
    for (name, raft) in [("leader", leader), ("follower", second), ("follower", third)] {
        let freed = -measure(|| drop(raft)).bytes_current;
        println!("{when}: a {name} holds {freed} bytes");
        assert!(freed > 0 && freed < GOAL_BYTES, "{when}: a {name} holds {freed} bytes");
    }
}
