//! How often the heap is asked for memory while commands are replicated, committed and applied.
//!
//! What is counted is all of it: three replicas and what an embedder puts around them (`benches/trio`),
//! but not the commands, which exist before and are shared. Printed with `--nocapture`.

#![allow(clippy::print_stdout, reason = "the figures are worth seeing")]

#[path = "../benches/trio/mod.rs"]
mod trio;

use std::iter;

use allocation_counter::measure;
use bytes::Bytes;

use self::trio::Trio;

/// The embedder's vectors, of the proposals and of what each follower is sent; and the only one of the
/// core, of the entries it makes of the proposals, which goes on to the leader's disk. A follower hands
/// on the vector that it was sent.
const PER_BATCH: u64 = 4;

/// Enough that every log is cut several times.
const ENTRIES: u64 = 64 * 1024;

/// A batch costs the same few allocations however many commands are in it, so none is for an entry.
///
/// The bound, for all three replicas together: [`PER_BATCH`] allocations a batch, and one every hundred
/// entries, which is what the cutting of the logs takes and more.
#[test]
fn no_entry_has_an_allocation_of_its_own() {
    for batch in [1, 16, 64, 256] {
        let rounds = ENTRIES / batch as u64;
        let counted = allocations(batch, rounds);
        let per_batch = counted as f64 / rounds as f64;
        println!(
            "batch {batch:>3}: {per_batch:.2} a batch, {:.3} an entry",
            per_batch / batch as f64
        );
        assert!(counted <= rounds * PER_BATCH + ENTRIES / 100, "batch {batch}: {counted}");
    }
}

/// Of `rounds` batches, once all buffers have the size that they need.
fn allocations(batch: usize, rounds: u64) -> u64 {
    let command = Bytes::from(vec![7; 256]);
    let mut trio = Trio::elected();
    let mut run = |rounds| {
        for _ in 0..rounds {
            trio.commit(iter::repeat_n(command.clone(), batch));
        }
    };
    run(rounds);
    measure(|| run(rounds)).count_total
}
