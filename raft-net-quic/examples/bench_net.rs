//! Measures what a call of a client costs, on loopback. `make bench-net` runs it after comparing what
//! nodes send one another with TCP (`benches/versus`).
//!
//! Run it with `cargo run --release -p raft-net-quic --example bench_net`. Both ends run in this
//! process, on runtimes of their own, so processor times are those of both sides together.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a library")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_net_quic::{ClientLimits, QuicClient};
use tokio::runtime::Runtime;

use common::{Authority, Node, Service, config, runtime};

fn main() {
    let authority = Authority::new();
    let (left, right) = (runtime(), runtime());
    let echo = Arc::new(Service(|request, reply: raft_net_quic::Responder| reply.send(request)));
    let node = Node::serve(&right, config(&authority, 1), echo);
    let client = QuicClient::new(&authority.client(), ClientLimits::default()).unwrap();
    for (tasks, bytes) in [(1, 64), (1, 4096), (16, 256), (64, 256), (256, 256), (1000, 256)] {
        calls(&left, &client, &node.address.to_string(), tasks, bytes);
    }
}

fn calls(runtime: &Runtime, client: &QuicClient, endpoint: &str, tasks: usize, bytes: usize) {
    let request = Bytes::from(common::noise(bytes, 1));
    let until = Instant::now() + Duration::from_secs(2);
    let cpu = cpu();
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let (client, endpoint) = (client.clone(), endpoint.to_owned());
            let request = request.clone();
            runtime.spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let started = Instant::now();
                    let deadline = started + Duration::from_secs(5);
                    client.call(&endpoint, request.clone(), deadline).await.unwrap();
                    times.push(started.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times: Vec<_> =
        running.into_iter().flat_map(|task| runtime.block_on(task).unwrap()).collect();
    report(&format!("calls of {bytes} B, {tasks} at a time"), &mut times, self::cpu() - cpu);
    println!("    {} a second", times.len() / 2);
}

fn report(what: &str, times: &mut [Duration], spent: Duration) {
    times.sort_unstable();
    let at = |hundredth: usize| times[(times.len() - 1) * hundredth / 100].as_micros();
    let each = spent.as_secs_f64() * 1e6 / times.len() as f64;
    println!("{what}: p50 {} us, p99 {} us, {each:.1} us processor each", at(50), at(99));
}

/// The processor time of this process, at the resolution of the system's clock tick (10 ms).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap();
    let ticks: u64 = fields.split(' ').skip(12).take(2).map(|f| f.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
