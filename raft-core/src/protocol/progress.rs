//! What a leader knows of one follower, and how it paces itself.
//!
//! Paper: Figure 2 (`nextIndex`, `matchIndex`), §5.3; dissertation 10.2.1 (pipelining).
//! Rules upheld here: L7 (match only grows, next is above it), L8, S6.
//!
//! A follower is *probed* until it is known where the logs agree, then entries are *pipelined* to it up
//! to a window, and if the log no longer reaches back far enough it gets a *snapshot*.

use std::collections::VecDeque;

use super::outbox::ROOM;
use crate::config::Config;
use crate::event::{ReplicationMode, SnapshotStatus};
use crate::types::{Index, LogId, Ticks};

/// A follower, as its leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The last entry known to be on its disk, and the same as ours.
    pub(crate) matched: Index,
    /// The next entry to send. Always above `matched`.
    pub(crate) next: Index,
    /// How it is being brought up to date.
    pub(crate) mode: ReplicationMode,
    /// Ticks since it was heard last, or since it became our follower.
    pub(crate) silent: u32,
    /// Ticks since it was last silent for an election timeout, or since it became our follower.
    pub(crate) steady: u32,
    /// The latest heartbeat round it has answered.
    pub(crate) round: u64,
    /// Until this tick of the term it will not vote for anybody else (dissertation 6.4.1).
    pub(crate) shields_until: u64,
    /// How much it is preferred as a leader, as it says itself.
    pub(crate) priority: u8,
    /// Nothing is sent until something is heard: a probe is out, or its queue is full.
    pub(crate) paused: bool,
    /// A span was handed out with this `prev`, and what became of it is not known yet.
    pub(crate) sending: Option<Index>,
    /// A snapshot is on its way to it, or has arrived and is not acknowledged.
    pub(crate) snapshot: Option<Delivery>,
    /// How often in a row a snapshot has failed, and for how many ticks none is sent therefore.
    failures: u32,
    pub(crate) snapshot_wait: u32,
    /// Appends on their way: the last index and the bytes of each, in order.
    window: VecDeque<(Index, usize)>,
    window_bytes: usize,
}

/// A snapshot for a follower, from the wish to send one to the follower's word that it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// What the state machine had applied when the snapshot was asked for.
    pub(crate) from: Index,
    /// It is of no use to the follower unless it holds at least this.
    pub(crate) least: Index,
    /// The last entry in it, once it was taken.
    pub(crate) last: Option<LogId>,
    /// The transport has delivered it. The follower installs it now, however long that takes.
    pub(crate) arrived: bool,
    /// Ticks since it was asked for.
    elapsed: u32,
}

impl Delivery {
    /// The log must not be cut beyond this: the follower goes on from there.
    pub(crate) fn pin(&self) -> Index {
        self.last.map_or(self.from, |last| last.index)
    }

    pub(crate) fn status(&self) -> SnapshotStatus {
        let Self { last, arrived, elapsed, .. } = *self;
        SnapshotStatus { last, arrived, elapsed: Ticks(elapsed), bytes: 0, total_bytes: 0 }
    }
}

impl Progress {
    /// A follower of whom nothing is known but that it is a member; it counts as heard just now.
    /// Probing starts at `next`.
    pub(crate) fn new(next: Index) -> Self {
        Self {
            matched: Index::ZERO,
            next,
            mode: ReplicationMode::Probe,
            silent: 0,
            steady: 0,
            round: 0,
            shields_until: 0,
            priority: 0,
            paused: false,
            sending: None,
            snapshot: None,
            failures: 0,
            snapshot_wait: 0,
            window: VecDeque::new(),
            window_bytes: 0,
        }
    }

    // Time.

    /// A tick of the leader's clock.
    pub(crate) fn tick(&mut self, config: &Config) {
        self.silent = self.silent.saturating_add(1);
        self.steady = if self.is_active(config) { self.steady.saturating_add(1) } else { 0 };
        self.snapshot_wait = self.snapshot_wait.saturating_sub(1);
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.elapsed = snapshot.elapsed.saturating_add(1);
        }
        self.window.shrink_to(ROOM); // See `Outbox::shrink`.
    }

    /// Whether it was heard within an election timeout.
    pub(crate) fn is_active(&self, config: &Config) -> bool {
        self.silent < config.election_timeout.0
    }

    // Pacing.

    /// Whether nothing may be sent now.
    pub(crate) fn is_paused(&self, config: &Config) -> bool {
        self.sending.is_some()
            || self.paused
            || match self.mode {
                ReplicationMode::Probe => false,
                ReplicationMode::Replicate => self.is_window_full(config),
                ReplicationMode::Snapshot => true,
            }
    }

    /// Whether as much is on its way as may be.
    pub(crate) fn is_window_full(&self, config: &Config) -> bool {
        self.window.len() >= config.window_messages || self.window_bytes >= config.window_bytes
    }

    /// An append up to `through` is on its way.
    pub(crate) fn sent(&mut self, through: Index, bytes: usize) {
        match self.mode {
            // One probe at a time; what it carries is sent again if it is lost.
            ReplicationMode::Probe => self.paused = true,
            ReplicationMode::Replicate => {
                self.next = self.next.max(through.next());
                self.window.push_back((through, bytes));
                self.window_bytes += bytes;
            }
            ReplicationMode::Snapshot => {}
        }
    }

    /// The follower has everything up to `through` on its disk. Acknowledgements may be old or
    /// repeated, so nothing falls (rule L7).
    pub(crate) fn acknowledged(&mut self, through: Index) {
        if mutant!(raft_mutant = "late_acknowledgement_lowers_match") {
            self.matched = through;
            self.next = self.next.min(through.next());
        }
        self.matched = self.matched.max(through);
        self.next = self.next.max(self.matched.next());
        while let Some(&(index, bytes)) = self.window.front() {
            if index > through || mutant!(raft_mutant = "window_never_empties") {
                break;
            }
            self.window.pop_front();
            self.window_bytes -= bytes;
        }
    }

    /// It is known where the logs agree: entries may be pipelined.
    pub(crate) fn become_replicate(&mut self) {
        self.enter(ReplicationMode::Replicate);
        self.next = self.matched.next();
    }

    /// It is not known (any more) where the logs agree; the next probe is for `next`.
    pub(crate) fn become_probe(&mut self, next: Index) {
        self.enter(ReplicationMode::Probe);
        self.next = next.max(self.matched.next());
    }

    /// The log does not reach back far enough: only a snapshot helps. See
    /// [`Progress::begin_snapshot`].
    pub(crate) fn become_snapshot(&mut self) {
        self.enter(ReplicationMode::Snapshot);
    }

    fn enter(&mut self, mode: ReplicationMode) {
        if self.mode == ReplicationMode::Snapshot {
            self.snapshot = None;
        }
        self.mode = mode;
        self.paused = false;
        self.sending = None;
        self.window.clear();
        self.window_bytes = 0;
    }

    // Snapshots.

    /// A snapshot of at least `from` is to be sent.
    pub(crate) fn begin_snapshot(&mut self, from: Index, least: Index) {
        let (last, arrived, elapsed) = (None, false, 0);
        self.snapshot = Some(Delivery { from, least, last, arrived, elapsed });
    }

    /// The snapshot did not arrive, or the follower has lost it. The next waits: twice as long each
    /// time, up to eight election timeouts, so that a peer that cannot take one does not keep the
    /// leader busy making them (rule S6).
    pub(crate) fn snapshot_failed(&mut self, config: &Config) {
        self.snapshot = None;
        self.failures = self.failures.saturating_add(1);
        let first = u64::from(config.heartbeat_interval.0);
        let most = u64::from(config.election_timeout.0) * 8;
        let wait = (first << self.failures.min(32)).min(most);
        self.snapshot_wait = u32::try_from(wait).unwrap_or(u32::MAX);
    }

    /// The follower has what the snapshot held.
    pub(crate) fn snapshot_acknowledged(&mut self) {
        self.snapshot = None;
        self.failures = 0;
        self.snapshot_wait = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn config() -> Config {
        Config::new(NodeId::new(1).unwrap())
    }

    /// Rule L7.
    #[test]
    fn late_acknowledgements_lower_nothing() {
        let mut progress = Progress::new(Index(1));
        progress.become_replicate();
        progress.sent(Index(5), 10);
        progress.sent(Index(9), 10);
        progress.acknowledged(Index(9));
        progress.acknowledged(Index(5));
        assert_eq!((progress.matched, progress.next), (Index(9), Index(10)));
        assert_eq!(progress.window_bytes, 0);
    }

    #[test]
    fn the_window_has_a_limit_in_messages_and_in_bytes() {
        let mut config = config();
        config.window_messages = 2;
        config.window_bytes = 100;
        let mut progress = Progress::new(Index(1));
        progress.become_replicate();
        progress.sent(Index(1), 10);
        assert!(!progress.is_paused(&config));
        progress.sent(Index(2), 10);
        assert!(progress.is_paused(&config));
        progress.acknowledged(Index(2));
        assert!(!progress.is_paused(&config));
        progress.sent(Index(3), 100);
        assert!(progress.is_paused(&config));
    }

    /// Rule S6.
    #[test]
    fn failed_snapshots_wait_longer_each_time_and_not_for_ever() {
        let config = config();
        let mut progress = Progress::new(Index(1));
        let mut waits = Vec::new();
        for _ in 0..40 {
            progress.begin_snapshot(Index(7), Index::ZERO);
            progress.snapshot_failed(&config);
            waits.push(progress.snapshot_wait);
        }
        assert_eq!(waits[..4], [20, 40, 80, 160]);
        assert_eq!(waits.last(), Some(&800));
        progress.snapshot_acknowledged();
        assert_eq!(progress.snapshot_wait, 0);
    }

    #[test]
    fn a_follower_is_active_until_it_was_silent_for_an_election_timeout() {
        let config = config();
        let mut progress = Progress::new(Index(1));
        for _ in 1..config.election_timeout.0 {
            progress.tick(&config);
            assert!(progress.is_active(&config));
        }
        assert_eq!(progress.steady, 99);
        progress.tick(&config);
        assert!(!progress.is_active(&config));
        assert_eq!(progress.steady, 0);
    }
}
