//! Measures the transport on loopback: round trips of messages and of calls, and one-way throughput.
//!
//! Run it with `cargo run --release -p raft-net-quic --example bench_net`. Both ends run in this
//! process, on runtimes of their own, so processor times are those of both sides together.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a library")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Entry, Envelope, Index, LogId, Message, Payload, Sent, Term, Transport};
use raft_net_quic::{ClientLimits, QuicClient};
use tokio::runtime::Runtime;

use common::{Authority, Node, Service, config, runtime};

fn main() {
    let authority = Authority::new();
    let (left, right) = (runtime(), runtime());
    let a = Node::start(&left, config(&authority, 1));
    let echo = Arc::new(Service(|request, reply: raft_net_quic::Responder| reply.send(request)));
    let b = Node::serve(&right, config(&authority, 2), echo);
    a.name(&[(2, b.address)]);
    a.reach(&b, 0);
    std::thread::sleep(Duration::from_secs(1)); // Path MTU discovery.

    let b = round_trips(&a, b);
    for bytes in [16, 256, 4096, 65_536] {
        one_way(&a, &b, bytes);
    }
    let client = QuicClient::new(&authority.client(), ClientLimits::default()).unwrap();
    for (tasks, bytes) in [(1, 64), (1, 4096), (16, 256), (64, 256), (256, 256), (1000, 256)] {
        calls(&left, &client, &b.address.to_string(), tasks, bytes);
    }
}

fn round_trips(a: &Node, b: Node) -> Node {
    let answering = std::thread::spawn(move || {
        for round in 1..=ROUNDS {
            assert_eq!(b.rounds(1), [round]);
            b.send(&b.heartbeat(1, round));
        }
        b
    });
    let (cpu, mut times) = (cpu(), Vec::new());
    for round in 1..=ROUNDS {
        let started = Instant::now();
        a.send(&a.heartbeat(2, round));
        assert_eq!(a.rounds(1), [round]);
        times.push(started.elapsed());
    }
    report("round trip of a message, control lane", &mut times, self::cpu() - cpu);
    answering.join().unwrap()
}

fn one_way(a: &Node, b: &Node, bytes: usize) {
    let count = (200 << 20) / (bytes as u64 + 200);
    let (envelope, transport) = (append(a, bytes), &a.transport);
    std::thread::scope(|scope| {
        let (cpu, started) = (cpu(), Instant::now());
        scope.spawn(|| {
            for _ in 0..count {
                while transport.send(envelope.clone()) == Sent::Full {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        b.messages(usize::try_from(count).unwrap());
        let (took, spent) = (started.elapsed().as_secs_f64(), self::cpu() - cpu);
        println!(
            "one way, appends of {bytes} B: {:.0} a second, {:.0} MiB/s, {:.2} us processor each",
            count as f64 / took,
            count as f64 * bytes as f64 / took / 1_048_576.0,
            spent.as_secs_f64() * 1e6 / count as f64
        );
    });
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

fn append(a: &Node, bytes: usize) -> Envelope {
    let payload = Payload::Command(Bytes::from(common::noise(bytes, 1)));
    let entries = vec![Entry { id: LogId::new(Term(1), Index(1)), payload }];
    a.envelope(2, Message::Append { prev: LogId::ZERO, entries, commit: Index(0) })
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

const ROUNDS: u64 = 10_000;
