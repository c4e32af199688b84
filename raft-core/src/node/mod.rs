//! Rings 1 and 2: a node around the protocol.
//!
//! [`Node::start`] brings the parts together: a log, a transport, a state machine. The way of a write:
//! `handle.rs` -> `queue.rs` -> `pump.rs` -> the protocol -> `workers.rs` (log) alongside the transport ->
//! commit -> `workers.rs` (apply) -> the caller. One pass through each, no going back.
//!
//! `pump.rs` and `workers.rs` (ring 1) have no clock and no thread; `clock.rs` and `threads.rs` (ring 2)
//! have them all.

mod cache;
mod clock;
mod compaction;
mod handle;
mod meter;
pub(crate) mod pump;
mod queue;
pub(crate) mod requests;
mod threads;
pub(crate) mod workers;

use std::time::Duration;

pub use self::handle::{Committed, Handle, ReadLevel, RequestError, StopCause};
use crate::config::{Config, ConfigError, check_range};
use crate::log_store::{Batch, Installed, LogStore, Recovered, StoreError};
use crate::state_machine::{Applied, MachineError, StateMachine};
use crate::transport::Transport;
use crate::types::{HardState, Index, LogId, Term};

/// How a node runs: its part in the protocol, its clock, and its bounds.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its part in the protocol.
    pub raft: Config,
    /// How long a tick lasts.
    pub tick: Duration,
    /// Draws the election timeouts. `None` draws it from the system's randomness; only tests that
    /// want to be repeated give one.
    pub seed: Option<u64>,
    /// About so many bytes of the end of the log are kept in memory.
    pub cache_bytes: usize,
    /// About so many bytes of entries are handed to the state machine at a time.
    pub apply_bytes: usize,
    /// So many applied entries stay in the log for followers that are behind.
    pub retain_entries: u64,
    /// Fewer stay if they come to more bytes than this.
    pub retain_bytes: u64,
    /// The log is cut once it has so many more than that.
    pub compact_every: u64,
    /// So many proposals may wait to be applied; beyond that they are refused as busy.
    pub max_waiting: usize,
    /// So many messages from peers may wait; beyond that they are dropped, as a network might.
    pub inbox_messages: usize,
    /// So many bytes of messages from peers may wait.
    pub inbox_bytes: usize,
    /// So many requests may wait; beyond that they are refused as busy.
    pub inbox_requests: usize,
    /// No command may have more bytes.
    pub max_command_bytes: usize,
}

impl NodeOptions {
    /// The defaults around this part in the protocol.
    pub const fn new(raft: Config) -> Self {
        Self {
            raft,
            tick: Duration::from_millis(10),
            seed: None,
            cache_bytes: 64 << 20,
            apply_bytes: 4 << 20,
            retain_entries: 100_000,
            retain_bytes: 256 << 20,
            compact_every: 50_000,
            max_waiting: 1 << 16,
            inbox_messages: 1 << 14,
            inbox_bytes: 64 << 20,
            inbox_requests: 1 << 16,
            max_command_bytes: 4 << 20,
        }
    }
}

impl NodeOptions {
    /// Looks at all of it together, [`Config::validate`] included.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with everything that is wrong, not only the first.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut faults = self.raft.validate().err().map_or_else(Vec::new, |error| error.faults);
        if self.tick < Duration::from_micros(100) || self.tick > Duration::from_secs(60) {
            faults.push(format!("tick is {:?}; 100us to 60s are allowed", self.tick));
        }
        for (name, value, most) in [
            ("apply_bytes", self.apply_bytes, 1 << 30),
            ("max_waiting", self.max_waiting, 1 << 24),
            ("inbox_messages", self.inbox_messages, 1 << 24),
            ("inbox_bytes", self.inbox_bytes, 1 << 40),
            ("inbox_requests", self.inbox_requests, 1 << 24),
            ("max_command_bytes", self.max_command_bytes, 1 << 30),
        ] {
            check_range(name, value, most, &mut faults);
        }
        ConfigError::of(faults)
    }
}

/// Why a node could not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration makes no sense. Change it.
    #[error("the configuration makes no sense: {0}")]
    Config(#[from] ConfigError),
    /// The log cannot be read. See [`StoreError`].
    #[error(transparent)]
    Log(#[from] StoreError),
    /// The state machine cannot be read. See [`MachineError`].
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The state machine lacks entries that the log has forgotten. Replace the node.
    #[error(
        "the state machine has applied {applied}, but the log begins only after {base}: data is \
         missing; replace this node"
    )]
    Behind {
        /// The last entry it applied.
        applied: LogId,
        /// The start of the log.
        base: LogId,
    },
    /// The system would not give a thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A node: not a value, but a way to start one.
#[derive(Clone, Copy, Debug)]
pub struct Node;

impl Node {
    /// Starts a node on this log, this transport and this state machine. It runs on threads of its own
    /// until [`Handle::stop`], or until the disk or the state machine fails.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing was changed then, except that a log that a crash left behind its state
    /// machine may have been brought up to it.
    pub fn start(
        options: NodeOptions,
        mut log: impl LogStore,
        net: impl Transport,
        machine: impl StateMachine,
    ) -> Result<Handle, StartError> {
        options.validate()?;
        let applied = machine.applied();
        let found = reconcile(&mut log, &applied)?;
        threads::start(options, Box::new(log), Box::new(net), Box::new(machine), found, &applied)
    }
}

/// Brings log and state machine together after a crash.
///
/// The machine may be ahead of the log in two ways, both sound: it has installed a snapshot and the log
/// was not told yet (rule S4), or it has applied entries that a quorum, but not yet our own disk, held.
/// Either way what it has applied is committed: the log begins after it.
pub(crate) fn reconcile(
    log: &mut impl LogStore,
    applied: &Applied,
) -> Result<Recovered, StartError> {
    let found = log.recover()?;
    let (base, last) = (found.base.last, applied.last);
    if last.index < base.index {
        return Err(StartError::Behind { applied: last, base });
    }
    if term_in(&found, last.index) == Some(last.term) {
        return Ok(found);
    }
    tracing::warn!(%last, log_last = %found.last, "the state machine is ahead of the log");
    let meta = applied.to_meta(&found.base);
    let mut hard = found.hard;
    if hard.term < last.term {
        // The vote of an older term is of no use any more.
        hard = HardState { term: last.term, vote: None };
    }
    let snapshot = Some(Box::new(Installed { meta, keep_tail: false }));
    log.persist(&Batch { hard: Some(hard), snapshot, ..Batch::default() })?;
    Ok(log.recover()?)
}

/// The term of the entry at `index` in what was found.
fn term_in(found: &Recovered, index: Index) -> Option<Term> {
    if index > found.last {
        return None;
    }
    let run = found.runs.partition_point(|&(_, first)| first <= index);
    Some(run.checked_sub(1).map_or(found.base.last.term, |run| found.runs[run].0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NodeId, Ticks};

    #[test]
    fn every_fault_of_the_options_is_listed() {
        let mut options = NodeOptions::new(Config::new(NodeId::new(1).unwrap()));
        options.validate().unwrap();
        options.raft.election_timeout = Ticks(0);
        options.tick = Duration::ZERO;
        options.max_waiting = 0;
        options.inbox_bytes = usize::MAX;
        let faults = options.validate().unwrap_err().faults;
        assert_eq!(faults.len(), 4, "{faults:?}");
    }
}
