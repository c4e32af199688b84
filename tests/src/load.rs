//! Clients that write while things go wrong, and remember what was acknowledged.
//!
//! Every key is written once, with a value of its own. So a write that was acknowledged and then
//! lost cannot hide behind a later one: each is read back by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crate::cluster::{Cluster, until};
use crate::shell::{Answer, Shell};

/// Clients that write on threads of their own until told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts `clients` writers. Their keys begin with `name`.
    pub fn start(cluster: &Cluster, name: &str, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let writers = (0..clients)
            .map(|client| {
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                let (shell, prefix) =
                    (cluster.shell_at(&cluster.ids(), "2s"), format!("{name}-{client}"));
                thread::spawn(move || write(shell, &prefix, &stop, &acknowledged))
            })
            .collect();
        Self { stop, acknowledged, writers }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_for(&self, more: usize) {
        let target = self.acknowledged() + more;
        until("enough writes were acknowledged", || (self.acknowledged() >= target).then_some(()));
    }

    /// Stops the writers and gives the keys whose writes were acknowledged.
    ///
    /// # Panics
    ///
    /// If a writer got an answer that makes no sense.
    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let writers = self.writers.into_iter();
        writers.flat_map(|writer| writer.join().expect("a writer does not panic")).collect()
    }
}

/// Reads every key back and gives those that are lost.
///
/// # Panics
///
/// If one cannot be read at all.
pub fn lost<'a>(shell: &mut Shell, keys: &'a [String]) -> Vec<&'a String> {
    keys.iter()
        .filter(|key| match shell.ask(&format!("get {key}")) {
            Answer::Done(found) => found["value"] != value_of(key),
            Answer::Failed(kind, _) if kind == "not_found" => true,
            Answer::Failed(kind, message) => panic!("cannot read {key} back: {kind}: {message}"),
        })
        .collect()
}

fn write(
    mut shell: Shell,
    prefix: &str,
    stop: &AtomicBool,
    acknowledged: &AtomicUsize,
) -> Vec<String> {
    let mut keys = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("{prefix}-{number}");
        // Whatever failed is not counted on; whether it happened does not matter here.
        if shell.ask(&format!("put {key} {}", value_of(&key))).is_done() {
            keys.push(key);
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
    }
    keys
}

fn value_of(key: &str) -> String {
    format!("value-of-{key}")
}
