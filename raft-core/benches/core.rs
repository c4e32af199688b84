//! What consensus itself costs: three replicas in one thread, logs in memory, no disk and no network.
//!
//! `make bench-core` runs this, and the same work by raft-rs beside it (`benches/versus`). What came
//! of it is in `docs/performance.md`.
//!
//! - `commit`: commands of 256 bytes from proposal until the leader has applied them, by batch size.
//!   One round is one batch: nothing is in flight when the next one is proposed.
//! - `heartbeat`: 1,000 groups of three replicas without any load, for one heartbeat interval: every
//!   replica's ticks, the heartbeats and their answers.

#![allow(missing_docs, reason = "a program")]

mod trio;

use std::iter;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use self::trio::Trio;

const COMMAND_BYTES: usize = 256;
const BATCHES: [u16; 4] = [1, 16, 64, 256];
const GROUPS: u32 = 1000;

criterion_group!(benches, commit, heartbeat);
criterion_main!(benches);

fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    let command = Bytes::from_static(&[7; COMMAND_BYTES]);
    for batch in BATCHES {
        let mut trio = Trio::elected();
        group.throughput(Throughput::Elements(batch.into()));
        group.bench_function(format!("batch {batch}"), |bencher| {
            bencher.iter(|| trio.commit(iter::repeat_n(command.clone(), batch.into())));
        });
    }
    group.finish();
}

fn heartbeat(criterion: &mut Criterion) {
    let mut trios: Vec<_> = (0..GROUPS).map(|_| Trio::elected()).collect();
    let mut group = criterion.benchmark_group("heartbeat");
    group.throughput(Throughput::Elements(GROUPS.into()));
    group.bench_function(format!("round of {GROUPS} idle groups"), |bencher| {
        bencher.iter(|| trios.iter_mut().for_each(Trio::idle));
    });
    group.finish();
}
