//! Watchers of one range of keys, and writers that give them something to see.
//!
//! A value begins with the time at which its write was begun, or due, so that a watcher knows how
//! old an event is whatever else has happened to the key. Writers have a connection of their own:
//! what they wait for must not stand in line behind events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Plan;
use super::audit::Sample;
use super::load::{AFTER_FAILURE, Load, joined, lock};
use super::target::{Connection, Found, Watching};
use crate::failure::{Failure, Kind};

/// What the writers of a run have come to.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// How many writes were acknowledged.
    count: u64,
    /// The last revision among them.
    through: u64,
}

/// Begins all watches of a plan, and waits until each tells what happens: a write that all of them
/// have to see goes before the load.
pub(super) async fn begin(
    plan: &Plan,
    connections: &[Arc<Connection>],
) -> Result<Vec<Watching>, Failure> {
    let keys = &plan.keys;
    let value = stamped(&keys.value(0), Duration::ZERO);
    let first = connections[0].put(keys.key(0), value).await?;
    let mut tasks: JoinSet<Result<Watching, Failure>> = JoinSet::new();
    for number in 0..plan.clients {
        let connection = Arc::clone(&connections[number % connections.len()]);
        let range = (keys.key(0), keys.key(keys.count));
        tasks.spawn(async move {
            let mut watching = connection.watch(range, first).await?;
            let seen = timeout(PATIENCE, async {
                while watching.next().await?.iter().all(|event| event.revision < first) {}
                Ok(())
            });
            match seen.await {
                Ok(seen) => seen.map(|()| watching),
                Err(_) => Err(Failure::new(Kind::Unavailable, "a watch does not begin")),
            }
        });
    }
    let mut watchers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        watchers.push(joined(done)??);
    }
    Ok(watchers)
}

/// Starts the writers and the watchers.
pub(super) fn spawn(
    load: &Arc<Load>,
    watchers: Vec<Watching>,
    to_write: &Arc<Connection>,
    tasks: &mut JoinSet<Result<Sample, Failure>>,
) {
    let (tell, ended) = watch::channel(None);
    for (number, watching) in watchers.into_iter().enumerate() {
        tasks.spawn(observe(Arc::clone(load), watching, ended.clone(), number));
    }
    tasks.spawn(write(Arc::clone(load), Arc::clone(to_write), tell));
}

/// Writes until the time is up, and then tells the watchers what they have to have seen.
async fn write(
    load: Arc<Load>,
    connection: Arc<Connection>,
    tell: watch::Sender<Option<Written>>,
) -> Result<Sample, Failure> {
    let through = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for _ in 0..load.plan.writers {
        let (load, connection) = (Arc::clone(&load), Arc::clone(&connection));
        writers.spawn(writer(load, connection, Arc::clone(&through)));
    }
    let mut sample = Sample::default();
    while let Some(done) = writers.join_next().await {
        sample.merge(joined(done)?);
    }
    let count = load.written.load(Ordering::Relaxed);
    // Nobody listens any more only if every watcher has failed.
    let _ = tell.send(Some(Written { count, through: through.load(Ordering::Relaxed) }));
    Ok(sample)
}

async fn writer(load: Arc<Load>, connection: Arc<Connection>, through: Arc<AtomicU64>) -> Sample {
    let keys = &load.plan.keys;
    let mut random = StdRng::from_os_rng();
    let mut sample = Sample::for_one_of(load.plan.writers);
    while let Some(due) = load.next().await {
        let number = random.random_range(0..keys.count);
        let value = stamped(&keys.value(random.random()), due - load.start);
        match connection.put(keys.key(number), value.clone()).await {
            Ok(revision) => {
                load.written.fetch_add(1, Ordering::Relaxed);
                through.fetch_max(revision, Ordering::Relaxed);
                sample.acknowledged(number, revision, &value);
            }
            Err(failure) => {
                load.failed(failure);
                sleep(AFTER_FAILURE).await;
            }
        }
    }
    sample
}

/// Takes in what a watch tells, until it has told of everything that was acknowledged.
///
/// Fails if it does not.
async fn observe(
    load: Arc<Load>,
    mut watching: Watching,
    mut ended: watch::Receiver<Option<Written>>,
    number: usize,
) -> Result<Sample, Failure> {
    let mut seen = Written::default();
    let written = loop {
        tokio::select! {
            // Nothing at all was acknowledged if the writers are gone without a word.
            _ = ended.changed() => break ended.borrow().unwrap_or_default(),
            events = watching.next() => match events {
                Ok(events) => seen.take(&load, &events, number),
                Err(failure) => {
                    load.failed(failure);
                    sleep(AFTER_FAILURE).await;
                }
            },
        }
    };
    let rest = async {
        while seen.through < written.through {
            let events = watching.next().await?;
            seen.take(&load, &events, number);
        }
        Ok(())
    };
    if let Ok(told) = timeout(PATIENCE, rest).await {
        told?;
    }
    seen.covers(written)?;
    Ok(Sample::default())
}

impl Written {
    /// Counts events, with their age.
    fn take(&mut self, load: &Load, events: &[Found], number: usize) {
        let now = load.start.elapsed();
        let mut latencies = lock(&load.fresh[number % load.fresh.len()]);
        for event in events {
            self.count += 1;
            self.through = self.through.max(event.revision);
            // Others may write there, too.
            if let Some(age) = stamp_of(&event.value).and_then(|began| now.checked_sub(began)) {
                latencies.saturating_record(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
            }
        }
    }

    /// Whether a watch that has told this has told all of `due`.
    fn covers(self, due: Self) -> Result<(), Failure> {
        if self.through >= due.through && self.count >= due.count {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Refused,
            format!(
                "a watch has told of {} events up to revision {}; {} writes up to revision {} were \
                 acknowledged",
                self.count, self.through, due.count, due.through
            ),
        ))
    }
}

/// A value that tells when its write was begun or due, counted from the start of the load.
fn stamped(value: &Bytes, began: Duration) -> Bytes {
    let micros = u64::try_from(began.as_micros()).unwrap_or(u64::MAX);
    let mut stamped = BytesMut::with_capacity(value.len().max(STAMP_BYTES));
    stamped.extend_from_slice(&micros.to_le_bytes());
    stamped.extend_from_slice(value.get(STAMP_BYTES..).unwrap_or_default());
    stamped.freeze()
}

fn stamp_of(value: &[u8]) -> Option<Duration> {
    value.first_chunk().map(|stamp| Duration::from_micros(u64::from_le_bytes(*stamp)))
}

/// Values are at least as long as this.
pub(crate) const STAMP_BYTES: usize = 8;

/// For so long a watch may tell nothing of what it has to tell.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_when_it_was_written() {
        let value = Bytes::from(vec![9; 20]);
        let stamped = stamped(&value, Duration::from_millis(3));
        assert_eq!((stamped.len(), &stamped[STAMP_BYTES..]), (20, &value[STAMP_BYTES..]));
        assert_eq!(stamp_of(&stamped), Some(Duration::from_millis(3)));
        assert_eq!(stamp_of(b"short"), None);
    }

    #[test]
    fn a_watch_has_to_tell_all_that_was_acknowledged() {
        let due = Written { count: 3, through: 9 };
        let covers = |count, through| Written { count, through }.covers(due).is_ok();
        assert!(covers(3, 9) && covers(4, 12));
        assert!(!covers(2, 9), "one was left out");
        assert!(!covers(3, 8), "the last is missing");
    }
}
