//! What a leader knows of one follower, and how it paces itself.
//!
//! Paper: Figure 2 (`nextIndex`, `matchIndex`), §5.3; dissertation 10.2.1 (pipelining).
//! Rules upheld here: L7 (match only grows, next is above it), L8, S6.
//!
//! A follower is *probed* until it is known where the logs agree, then entries are *pipelined* to it up
//! to a window, and if the log no longer reaches back far enough it gets a *snapshot*.

use std::collections::VecDeque;

use crate::config::Config;
use crate::event::ReplicationMode;
use crate::types::Index;

/// A follower, as its leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The last entry known to be on its disk, and the same as ours.
    pub(crate) matched: Index,
    /// The next entry to send. Always above `matched`.
    pub(crate) next: Index,
    /// How it is being brought up to date.
    pub(crate) mode: ReplicationMode,
    /// Whether it was heard from since the last look at the quorum.
    pub(crate) active: bool,
    /// The latest heartbeat round it has answered.
    pub(crate) round: u64,
    /// Nothing is sent until something is heard: a probe is out, or its queue is full.
    pub(crate) paused: bool,
    /// A span was handed out with this `prev`, and what became of it is not known yet.
    pub(crate) sending: Option<Index>,
    /// Appends on their way: the last index and the bytes of each, in order.
    window: VecDeque<(Index, usize)>,
    window_bytes: usize,
}

impl Progress {
    /// A follower of whom nothing is known but that it is a member. Probing starts at `next`.
    pub(crate) fn new(next: Index, active: bool) -> Self {
        Self {
            matched: Index::ZERO,
            next,
            mode: ReplicationMode::Probe,
            active,
            round: 0,
            paused: false,
            sending: None,
            window: VecDeque::new(),
            window_bytes: 0,
        }
    }

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

    /// A snapshot is on its way.
    pub(crate) fn become_snapshot(&mut self) {
        self.enter(ReplicationMode::Snapshot);
    }

    fn enter(&mut self, mode: ReplicationMode) {
        self.mode = mode;
        self.paused = false;
        self.sending = None;
        self.window.clear();
        self.window_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    /// Rule L7.
    #[test]
    fn late_acknowledgements_lower_nothing() {
        let mut progress = Progress::new(Index(1), true);
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
        let mut config = Config::new(NodeId::new(1).unwrap());
        config.window_messages = 2;
        config.window_bytes = 100;
        let mut progress = Progress::new(Index(1), true);
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
}
