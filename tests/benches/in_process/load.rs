//! Writes, always the same number of them under way; what they take; and what was acknowledged.
//!
//! One thread proposes. Whoever applies tells it which writes are done, and it begins as many new
//! ones, all that are done meanwhile at a time.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use raft_core::{Committed, Handle, LogId, RequestError};
use raft_kv::{Command, Outcome, Proposal, Put};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// What is to be done.
pub(crate) struct Work {
    pub(crate) outstanding: usize,
    pub(crate) seconds: u32,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u32,
}

/// What it came to.
pub(crate) struct Measured {
    pub(crate) puts_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time of the whole process.
    pub(crate) cpu_us: f64,
}

/// What was acknowledged, in all and for some of the keys.
pub(crate) struct Acknowledged {
    pub(crate) count: u64,
    /// The last write of each key of the sample: where it stands in the log, and what it wrote.
    pub(crate) sample: BTreeMap<Bytes, (LogId, Bytes)>,
    /// The last that was acknowledged, and its command.
    pub(crate) last: Option<(LogId, Bytes)>,
}

/// A write that is done.
struct Done {
    write: Write,
    committed: Result<Committed, RequestError>,
    took: Duration,
}

struct Write {
    key: u32,
    value: Bytes,
    command: Bytes,
}

/// What is done, and who waits for it.
struct Inbox {
    done: Mutex<Vec<Done>>,
    waiter: Thread,
}

/// Makes writes. Values are cut out of a random pool, so that no store can compress them away.
struct Maker {
    random: StdRng,
    pool: Bytes,
    value_bytes: usize,
    keys: u32,
}

pub(crate) fn run(leader: &Handle, work: &Work) -> Result<(Measured, Acknowledged), String> {
    let inbox = Arc::new(Inbox { done: Mutex::default(), waiter: thread::current() });
    let mut maker = Maker::new(work);
    let mut acknowledged = Acknowledged { count: 0, sample: BTreeMap::new(), last: None };
    let mut latency =
        Histogram::<u64>::new_with_max(LONGEST_NS, 3).map_err(|error| error.to_string())?;
    for _ in 0..work.outstanding {
        propose(leader, &inbox, maker.write());
    }
    // Measured from when all that begin together are done, so that nothing is cold.
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs(work.seconds.into());
    let (mut measured, mut cpu_before, mut under_way) = (0, None, work.outstanding);
    while under_way > 0 {
        for done in inbox.take() {
            let now = Instant::now();
            if now >= begin && now < end {
                cpu_before.get_or_insert_with(cpu_s);
                measured += 1;
                // A latency that does not fit is the largest there is.
                latency.saturating_record(u64::try_from(done.took.as_nanos()).unwrap_or(u64::MAX));
            }
            acknowledged.add(done)?;
            if now < end {
                propose(leader, &inbox, maker.write());
            } else {
                under_way -= 1;
            }
        }
    }
    let cpu = cpu_s() - cpu_before.unwrap_or_default();
    let count = f64::from(u32::try_from(measured).unwrap_or(u32::MAX));
    let measured = Measured {
        puts_per_s: count / f64::from(work.seconds),
        p50_us: micros(latency.value_at_quantile(0.5)),
        p99_us: micros(latency.value_at_quantile(0.99)),
        cpu_us: cpu * 1e6 / count,
    };
    Ok((measured, acknowledged))
}

fn propose(leader: &Handle, inbox: &Arc<Inbox>, write: Write) {
    let (inbox, begun) = (Arc::clone(inbox), Instant::now());
    leader.propose(write.command.clone(), move |committed| {
        inbox.put(Done { write, committed, took: begun.elapsed() });
    });
}

impl Inbox {
    fn put(&self, done: Done) {
        let mut waiting = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(done);
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            self.waiter.unpark();
        }
    }

    /// All that is done. Waits for the first.
    fn take(&self) -> Vec<Done> {
        loop {
            let done =
                std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
            if !done.is_empty() {
                return done;
            }
            thread::park();
        }
    }
}

impl Acknowledged {
    fn add(&mut self, done: Done) -> Result<(), String> {
        let Done { write: Write { key, value, command }, committed, .. } = done;
        let committed = committed.map_err(|error| format!("a write failed: {error}"))?;
        // A machine that does nothing answers nothing.
        if !committed.outcome.is_empty() {
            match Outcome::decode(&committed.outcome) {
                Ok(Outcome::Put(_)) => {}
                other => return Err(format!("the answer to a put is {other:?}")),
            }
        }
        self.count += 1;
        if key % SAMPLE_ONE_IN == 0 {
            let last = self.sample.entry(key_bytes(key)).or_default();
            if committed.id > last.0 {
                *last = (committed.id, value);
            }
        }
        if self.last.as_ref().is_none_or(|(id, _)| committed.id > *id) {
            self.last = Some((committed.id, command));
        }
        Ok(())
    }
}

impl Maker {
    fn new(work: &Work) -> Self {
        let mut random = StdRng::from_os_rng();
        let mut pool = vec![0; POOL_BYTES + work.value_bytes];
        random.fill_bytes(&mut pool);
        let &Work { value_bytes, keys, .. } = work;
        Self { random, pool: pool.into(), value_bytes, keys }
    }

    fn write(&mut self) -> Write {
        let key = self.random.random_range(0..self.keys.max(1));
        let start = self.random.random_range(0..POOL_BYTES);
        let value = self.pool.slice(start..start + self.value_bytes);
        let put = Put::new(key_bytes(key), value.clone());
        Write { key, value, command: Proposal::from(Command::Put(put)).encode() }
    }
}

fn key_bytes(number: u32) -> Bytes {
    format!("bench/{number:012}").into()
}

/// Processor time of this process so far.
fn cpu_s() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ran = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    let ns = ran.filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    ns.sum::<f64>() / 1e9
}

fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

/// A minute.
const LONGEST_NS: u64 = 60_000_000_000;

const WARM_UP: Duration = Duration::from_secs(1);

/// So many values are different.
const POOL_BYTES: usize = 1 << 20;

/// Of every so many keys one is remembered and read back.
const SAMPLE_ONE_IN: u32 = 97;
