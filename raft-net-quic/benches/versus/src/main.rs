//! raft-net-quic, TLS on TCP and plain TCP at the same work, in turns, in one program:
//! `make bench-net`.
//!
//! Two nodes on loopback, each with one thread; appends of one command. A message arrives in a
//! callback on the thread that has received it, and is answered from there. Times are of the wall;
//! the processor's are those of both nodes together, kernel included. The sides take turns, so
//! whatever else the machine does hits all alike and the ratios are steadier than the times.
//! `docs/performance.md` has what came of it.
//!
//! `bench-versus-tcp ping` or `bench-versus-tcp 256` does only the round trips, or only the stream of
//! messages of this size; `TURNS=3` takes fewer turns; `ONLY=raft-net-quic` keeps the others quiet,
//! for a profile.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for its author's eyes")]

mod sides;
mod stream;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::Sent;
use rustix::time::{ClockId, clock_gettime};

use self::sides::{Side, append};

/// Round trips a turn.
const ROUNDS: usize = 4000;
/// Payload bytes a turn, one way; and messages at most.
const STREAM_BYTES: usize = 128 << 20;
const STREAM_MESSAGES: usize = 400_000;
/// How many turns each side takes. The first of them does not count.
const TURNS: usize = 11;

fn main() {
    let wanted = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let turns = std::env::var("TURNS").map_or(TURNS, |turns| turns.parse().unwrap());
    let wants = |what: &str| wanted.as_ref().is_none_or(|wanted| wanted == what);
    let dir = tempfile::tempdir().unwrap();
    let sides = sides::all(dir.path());
    if wants("ping") {
        for bytes in [64, 4096] {
            println!("\nround trips of {bytes} B: us, and us of CPU for both nodes");
            let columns = ["p50", "p99", "CPU"];
            compare(&sides, turns, columns, |side| round_trips(side, bytes));
        }
    }
    for bytes in [256, 4096, 65_536] {
        if wants(&bytes.to_string()) {
            println!("\none way, messages of {bytes} B: us each, MiB/s, us of CPU for both nodes");
            let columns = ["each", "MiB/s", "CPU"];
            compare(&sides, turns, columns, |side| one_way(side, bytes));
        }
    }
}

/// Lets the sides take turns at `work`, and prints the median of each column; the median over the
/// turns of its ratio to TLS on TCP; and the best of the first and the last column, which other
/// work on the machine disturbs least.
fn compare(sides: &[Side; 3], turns: usize, columns: [&str; 3], work: impl Fn(&Side) -> [f64; 3]) {
    let only = std::env::var("ONLY").ok();
    let mut laps: [Vec<[f64; 3]>; 3] = Default::default();
    for turn in 0..=turns {
        for (side, laps) in sides.iter().zip(&mut laps) {
            let quiet = only.as_ref().is_some_and(|only| only != side.name);
            let lap = if quiet { [f64::NAN; 3] } else { work(side) };
            if turn > 0 {
                laps.push(lap);
            }
        }
    }
    let heads = |columns: [&str; 3]| columns.map(|column| format!("{column:>9}")).concat();
    println!("{:<14}{}   to TLS on TCP               best", "", heads(columns));
    for (side, mine) in sides.iter().zip(&laps) {
        let medians = [0, 1, 2].map(|column| median(mine.iter().map(|lap| lap[column])));
        let ratios = [0, 1, 2].map(|column| {
            median(mine.iter().zip(&laps[1]).map(|(lap, tls)| lap[column] / tls[column]))
        });
        let best = [0, 2].map(|column| {
            mine.iter().map(|lap| lap[column]).min_by(f64::total_cmp).unwrap_or(f64::NAN)
        });
        let row = |values: &[f64]| values.iter().map(|v| format!("{v:>9.2}")).collect::<String>();
        println!("{:<14}{} {} {}", side.name, row(&medians), row(&ratios), row(&best));
    }
}

/// The median and the 99th of a hundred, and what one costs, in microseconds.
fn round_trips(side: &Side, bytes: usize) -> [f64; 3] {
    let command = Bytes::from(noise(bytes));
    let [a, b] = &side.nodes;
    let (answer, answering) = (append(2, 1, command.clone()), Arc::clone(b));
    b.listen(move |arrived| {
        for _ in arrived {
            assert_eq!(answering.send(answer.clone()), Sent::Queued);
        }
    });
    let (done, finished) = channel();
    let (call, calling) = (append(1, 2, command), Arc::clone(a));
    let (mut times, mut sent) = (Vec::with_capacity(ROUNDS), Instant::now());
    let first = call.clone();
    a.listen(move |arrived| {
        assert_eq!(arrived.len(), 1);
        times.push(micros(sent.elapsed()));
        if times.len() == ROUNDS {
            let _ = done.send(std::mem::take(&mut times));
        } else {
            sent = Instant::now();
            assert_eq!(calling.send(call.clone()), Sent::Queued);
        }
    });
    let cpu = cpu_time();
    assert_eq!(a.send(first), Sent::Queued);
    let mut times = finished.recv_timeout(PATIENCE).expect("a round trip got lost");
    let spent = micros(cpu_time() - cpu) / ROUNDS as f64;
    times.sort_by(f64::total_cmp);
    [times[ROUNDS / 2], times[ROUNDS * 99 / 100], spent]
}

/// How long one takes, what a second carries, and what one costs.
fn one_way(side: &Side, bytes: usize) -> [f64; 3] {
    let count = (STREAM_BYTES / bytes).min(STREAM_MESSAGES);
    let [a, b] = &side.nodes;
    let (done, finished) = channel();
    let mut missing = count;
    b.listen(move |arrived| {
        missing -= arrived.len();
        if missing == 0 {
            let _ = done.send(());
        }
    });
    let message = append(1, 2, Bytes::from(noise(bytes)));
    let (cpu, started) = (cpu_time(), Instant::now());
    for _ in 0..count {
        while a.send(message.clone()) != Sent::Queued {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    finished.recv_timeout(PATIENCE).expect("messages got lost");
    let (took, spent) = (started.elapsed(), cpu_time() - cpu);
    let (each, rate) = (micros(took) / count as f64, (count * bytes) as f64 / took.as_secs_f64());
    [each, rate / (1 << 20) as f64, micros(spent) / count as f64]
}

/// Bytes that do not repeat soon.
fn noise(bytes: usize) -> Vec<u8> {
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_le_bytes()[7]
    };
    (0..bytes).map(|_| next()).collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What this process has used of the processor.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Longer than any turn takes.
const PATIENCE: Duration = Duration::from_secs(60);
