//! Drives clients over connections, and measures what they see.
//!
//! Without a rate the loop is closed: a client begins its next operation when the last is done, so
//! a slow answer keeps it from asking. With a rate each operation has a time at which it is due,
//! and its latency counts from then on, whether or not a client was free to begin it. Otherwise a
//! cluster that stands still for a second would be charged with one slow operation rather than with
//! all that were due in that second ("coordinated omission").

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::audit::Sample;
use super::report::micros;
use super::target::Connection;
use super::{Plan, Workload, fanout};
use crate::failure::{Failure, Kind};

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Latencies in microseconds, of what has succeeded.
    pub(crate) latency: Histogram<u64>,
    /// From the first operation until the last was done.
    pub(crate) elapsed: Duration,
    pub(crate) errors: Errors,
    pub(crate) timeline: Vec<Moment>,
    /// How many writes were acknowledged, if what was measured is what watches tell of them.
    pub(crate) written: u64,
}

/// A part of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Since the start, in seconds, at the end of this part.
    pub(crate) at: f64,
    pub(crate) ops_per_s: f64,
    pub(crate) p99_us: u64,
}

/// How many operations have failed, and one message, for each kind of failure.
pub(crate) type Errors = BTreeMap<&'static str, (u64, Failure)>;

/// What the clients share.
pub(super) struct Load {
    pub(super) plan: Plan,
    pub(super) start: Instant,
    /// Each client adds to one of these, so that they seldom wait for each other.
    pub(super) fresh: Vec<Mutex<Histogram<u64>>>,
    errors: Mutex<Errors>,
    /// The operations that are due and not begun. `None` without a rate.
    due: Option<Semaphore>,
    begun: AtomicU64,
    /// How many writes were acknowledged, where not they are measured but what is told of them.
    pub(super) written: AtomicU64,
}

/// Writes the keys that are missing, if reads are to find them all.
pub(crate) async fn fill(plan: &Plan, connections: &[Arc<Connection>]) -> Result<(), Failure> {
    let keys = &plan.keys;
    if !plan.workload.reads()
        || connections[0].count(keys.key(0), keys.key(keys.count)).await? == keys.count
    {
        return Ok(());
    }
    let bar = super::report::bar(keys.count, "filling");
    let batch = (FILL_BYTES / keys.value_bytes().max(1)).clamp(1, FILL_KEYS);
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    let numbers: Vec<u64> = (0..keys.count).step_by(batch).collect();
    for (turn, first) in numbers.into_iter().enumerate() {
        if tasks.len() == FILL_AT_ONCE
            && let Some(done) = tasks.join_next().await
        {
            joined(done)??;
        }
        let connection = Arc::clone(&connections[turn % connections.len()]);
        let last = keys.count.min(first + batch as u64);
        let kvs = (first..last).map(|number| (keys.key(number), keys.value(rand::random())));
        let kvs = kvs.collect();
        tasks.spawn(async move { connection.put_all(kvs).await });
        bar.set_position(first);
    }
    while let Some(done) = tasks.join_next().await {
        joined(done)??;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Does one operation on each connection, on some at the same time: a thousand take a while.
async fn warm_up(plan: &Plan, connections: &[Arc<Connection>]) -> Result<(), Failure> {
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for connection in connections {
        if tasks.len() == WARMED_AT_ONCE
            && let Some(done) = tasks.join_next().await
        {
            joined(done)??;
        }
        let (plan, connection) = (plan.clone(), Arc::clone(connection));
        tasks.spawn(async move {
            let mut sample = Sample::default();
            operate(&plan, &connection, &mut StdRng::from_os_rng(), &mut sample).await
        });
    }
    while let Some(done) = tasks.join_next().await {
        joined(done)??;
    }
    Ok(())
}

/// Runs the load. One operation on each connection goes before it, so that what is measured does
/// not connect or open sessions. Gives a sample of what was acknowledged, too.
pub(crate) async fn run(
    plan: &Plan,
    connections: &[Arc<Connection>],
) -> Result<(Measured, Sample), Failure> {
    warm_up(plan, connections).await?;
    let (shared, own) = connections.split_at(plan.connections);
    let mut watchers = Vec::new();
    if plan.workload == Workload::Watch {
        watchers = fanout::begin(plan, shared).await?;
    }
    let load = Arc::new(Load {
        plan: plan.clone(),
        start: Instant::now(),
        fresh: (0..SHARDS).map(|_| Mutex::new(empty())).collect(),
        errors: Mutex::default(),
        due: plan.rate.map(|_| Semaphore::new(0)),
        begun: AtomicU64::new(0),
        written: AtomicU64::new(0),
    });
    let pacer = plan.rate.map(|rate| {
        let load = Arc::clone(&load);
        thread::spawn(move || pace(&load, rate))
    });
    let mut clients = JoinSet::new();
    if plan.workload == Workload::Watch {
        fanout::spawn(&load, watchers, &own[0], &mut clients);
    } else {
        for number in 0..plan.clients {
            let connection = Arc::clone(&shared[number % shared.len()]);
            clients.spawn(client(Arc::clone(&load), connection, number));
        }
    }
    let mut measured = Measured {
        latency: empty(),
        elapsed: Duration::ZERO,
        errors: Errors::new(),
        timeline: Vec::new(),
        written: 0,
    };
    let mut sample = Sample::default();
    let bar = super::report::bar(plan.duration.as_secs(), plan.workload.name());
    let mut turn =
        tokio::time::interval((plan.duration / MOMENTS).clamp(MOMENT_LEAST, MOMENT_MOST));
    turn.tick().await; // The first is at once.
    loop {
        tokio::select! {
            done = clients.join_next() => match done {
                Some(done) => sample.merge(joined(done)??),
                None => break,
            },
            _ = turn.tick() => measured.advance(&load, &bar),
        }
    }
    measured.elapsed = load.start.elapsed();
    measured.advance(&load, &bar);
    bar.finish_and_clear();
    measured.written = load.written.load(Ordering::Relaxed);
    measured.errors = std::mem::take(&mut *lock(&load.errors));
    if let Some(pacer) = pacer {
        let _ = pacer.join(); // It has nothing to say.
    }
    Ok((measured, sample))
}

impl Measured {
    /// Takes in what was measured since the last time.
    fn advance(&mut self, load: &Load, bar: &ProgressBar) {
        let mut fresh = empty();
        for shard in &load.fresh {
            let mut shard = lock(shard);
            // Both have the same bounds.
            let _ = fresh.add(&*shard);
            shard.reset();
        }
        let _ = self.latency.add(&fresh);
        let at = load.start.elapsed().as_secs_f64();
        let since = self.timeline.last().map_or(0.0, |moment| moment.at);
        let span = at - since;
        if span < MOMENT_LEAST.as_secs_f64() / 2.0 {
            return; // Too short to tell a rate from.
        }
        let moment = Moment {
            at,
            ops_per_s: fresh.len() as f64 / span,
            p99_us: fresh.value_at_quantile(0.99),
        };
        self.timeline.push(moment);
        bar.set_position(load.start.elapsed().as_secs());
        let (rate, p99) = (moment.ops_per_s, micros(moment.p99_us));
        bar.set_message(format!("{} {rate:.0}/s, p99 {p99}", load.plan.workload.name()));
    }
}

impl Load {
    /// When the next operation is due, as soon as it is. `None` if there are no more.
    pub(super) async fn next(&self) -> Option<Instant> {
        let Some(due) = &self.due else {
            return (self.start.elapsed() < self.plan.duration).then(Instant::now);
        };
        due.acquire().await.ok()?.forget();
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let rate = self.plan.rate.unwrap_or(1);
        Some(self.start + Duration::from_secs_f64(number as f64 / f64::from(rate)))
    }

    pub(super) fn failed(&self, failure: Failure) {
        let mut errors = lock(&self.errors);
        errors.entry(failure.kind.name()).or_insert_with(|| (0, failure)).0 += 1;
    }
}

/// Makes operations due at their time, on a thread of its own: a runtime's timers are too coarse.
fn pace(load: &Load, rate: u32) {
    let Some(due) = &load.due else { return };
    let mut made = 0_usize;
    loop {
        let elapsed = load.start.elapsed().min(load.plan.duration);
        // The one that is due at the start is the first.
        let total = (elapsed.as_secs_f64() * f64::from(rate)).floor();
        let mut more = 0;
        while (made + more) as f64 <= total && more < Semaphore::MAX_PERMITS / 2 {
            more += 1;
        }
        due.add_permits(more);
        made += more;
        if elapsed == load.plan.duration {
            // What is overdue by now is not begun any more.
            due.close();
            return;
        }
        let next = Duration::from_secs_f64(made as f64 / f64::from(rate));
        thread::sleep(next.saturating_sub(load.start.elapsed()).min(PACE_MOST));
    }
}

async fn client(
    load: Arc<Load>,
    connection: Arc<Connection>,
    number: usize,
) -> Result<Sample, Failure> {
    let mut random = StdRng::from_os_rng();
    let mut sample = Sample::for_one_of(load.plan.clients);
    let shard = &load.fresh[number % load.fresh.len()];
    while let Some(due) = load.next().await {
        match operate(&load.plan, &connection, &mut random, &mut sample).await {
            Ok(()) => {
                let latency = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                lock(shard).saturating_record(latency);
            }
            Err(failure) => {
                load.failed(failure);
                // What fails at once must not fail a million times a second.
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
    Ok(sample)
}

/// One operation.
async fn operate(
    plan: &Plan,
    connection: &Connection,
    random: &mut StdRng,
    sample: &mut Sample,
) -> Result<(), Failure> {
    let keys = &plan.keys;
    let number = random.random_range(0..keys.count);
    let workload = match plan.workload {
        Workload::Mixed if random.random_range(0..100) < plan.reads_percent => Workload::Get,
        Workload::Mixed => Workload::Put,
        other @ (Workload::Put
        | Workload::Get
        | Workload::Range
        | Workload::Txn
        | Workload::Watch) => other,
    };
    match workload {
        Workload::Put | Workload::Mixed | Workload::Watch => {
            let value = keys.value(random.random());
            let revision = connection.put(keys.key(number), value.clone()).await?;
            sample.acknowledged(number, revision, &value);
        }
        Workload::Txn => {
            let value = keys.value(random.random());
            let (key, other) = (keys.key(number), keys.key(random.random_range(0..keys.count)));
            let revision = connection.txn(key, value.clone(), other).await?;
            sample.acknowledged(number, revision, &value);
        }
        Workload::Get => {
            let found = connection.get(keys.key(number), plan.level).await?;
            found.ok_or_else(|| Failure::new(Kind::NotFound, "a key that was filled is gone"))?;
        }
        Workload::Range => {
            let limit = plan.limit.min(keys.count);
            let first = number.min(keys.count - limit);
            let between = (keys.key(first), keys.key(first + limit));
            let found = connection.range(between, limit, plan.level).await?;
            if found as u64 != limit {
                return Err(Failure::new(Kind::NotFound, "keys that were filled are gone"));
            }
        }
    }
    Ok(())
}

pub(super) fn joined<T>(done: Result<T, tokio::task::JoinError>) -> Result<T, Failure> {
    done.map_err(|error| Failure::failed(format!("a task of the load broke: {error}")))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MOST_US, 3).expect("these are valid bounds")
}

/// An hour. No request may take as long as that.
const LATENCY_MOST_US: u64 = 3_600_000_000;

/// More than there are processors.
const SHARDS: usize = 8;

/// A run is told in about so many parts, each between these two long.
const MOMENTS: u32 = 100;
const MOMENT_LEAST: Duration = Duration::from_millis(100);
const MOMENT_MOST: Duration = Duration::from_secs(1);

/// The pacer looks at the clock at least so often.
const PACE_MOST: Duration = Duration::from_millis(100);
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Keys are filled in transactions of at most so many keys and bytes, so many at once. etcd takes
/// 128 operations and 1.5 MiB.
const FILL_KEYS: usize = 100;
const FILL_BYTES: usize = 512 << 10;
const FILL_AT_ONCE: usize = 16;

/// Handshakes are work for the nodes, which refuse too many at a time.
const WARMED_AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::KeySpace;
    use super::*;
    use raft_kv::api::ReadLevel;

    fn load(rate: u32, millis: u64) -> Load {
        let plan = Plan {
            workload: Workload::Put,
            clients: 1,
            connections: 1,
            keys: KeySpace::new("k/".to_owned(), 10, 16),
            rate: Some(rate),
            duration: Duration::from_millis(millis),
            level: ReadLevel::Linearizable,
            reads_percent: 90,
            limit: 100,
            compares: true,
            writers: 1,
        };
        Load {
            plan,
            start: Instant::now(),
            fresh: vec![Mutex::new(empty())],
            errors: Mutex::default(),
            due: Some(Semaphore::new(0)),
            begun: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// A client that is slow is charged with what was due meanwhile, from when it was due.
    #[tokio::test]
    async fn with_a_rate_latencies_count_from_when_operations_are_due() {
        let load = Arc::new(load(1000, 100));
        let pacer = {
            let load = Arc::clone(&load);
            thread::spawn(move || pace(&load, 1000))
        };
        let first = load.next().await.unwrap();
        assert_eq!(first, load.start);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let second = load.next().await.unwrap();
        assert_eq!(second, load.start + Duration::from_millis(1));
        assert!(second.elapsed() >= Duration::from_millis(48));
        let mut taken = 2;
        while load.next().await.is_some() {
            taken += 1;
        }
        pacer.join().unwrap();
        assert!((60..=101).contains(&taken), "{taken} in 100 ms at 1000/s");
        assert!(load.start.elapsed() >= Duration::from_millis(99));
    }
}
