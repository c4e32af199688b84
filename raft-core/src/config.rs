//! What can be set about a node's part in the protocol, checked as a whole.
//!
//! Dissertation 3.4, 9 (timeouts), 9.6 (pre-vote), 6.2 (check-quorum), 10.2 (batching, pipelining).

use crate::types::{Incarnation, NodeId, Ticks};

/// How one node takes part. Counted in ticks, entries, messages and bytes; nothing here knows a clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who this node is.
    pub id: NodeId,
    /// The life of its data directory, to be recorded in the membership. `None` if the embedder has no
    /// such thing; then a wiped disk under an old id is not noticed (rule M10).
    pub incarnation: Option<Incarnation>,
    /// After this long without a leader a follower campaigns; the actual wait is drawn from this
    /// to twice this, exclusive, each time (§5.2).
    pub election_timeout: Ticks,
    /// How often a leader shows that it lives. Well below the election timeout.
    pub heartbeat_interval: Ticks,
    /// Ask before campaigning, so that a node that was cut off does not disturb the others when it
    /// comes back (dissertation 9.6).
    pub pre_vote: bool,
    /// A leader that has not heard a quorum for an election timeout steps down, and voters that hear
    /// a leader ignore campaigns (dissertation 6.2, 4.2.3; rules E6, E13).
    pub check_quorum: bool,
    /// At most this many bytes of entries in one append; one entry may be larger.
    pub append_bytes: usize,
    /// At most this many appends to one follower are unanswered.
    pub window_messages: usize,
    /// At most this many bytes of entries to one follower are unanswered.
    pub window_bytes: usize,
    /// At most this many bytes of proposals are not yet committed; beyond that they are refused.
    pub uncommitted_bytes: usize,
}

impl Config {
    /// The defaults for node `id`: an election timeout of 1 s and heartbeats each 100 ms at 10 ms ticks.
    pub const fn new(id: NodeId) -> Self {
        Self {
            id,
            incarnation: None,
            election_timeout: Ticks(100),
            heartbeat_interval: Ticks(10),
            pre_vote: true,
            check_quorum: true,
            append_bytes: 1 << 20,
            window_messages: 256,
            window_bytes: 16 << 20,
            uncommitted_bytes: 64 << 20,
        }
    }

    /// Looks at all of it together.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with everything that is wrong, not only the first.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut faults = Vec::new();
        if self.heartbeat_interval.0 == 0 {
            faults.push("heartbeat_interval is 0; at least 1 tick is needed".to_owned());
        }
        if self.election_timeout.0 < self.heartbeat_interval.0.saturating_mul(2) {
            faults.push(format!(
                "election_timeout ({} ticks) is less than twice heartbeat_interval ({} ticks)",
                self.election_timeout.0, self.heartbeat_interval.0
            ));
        }
        if self.election_timeout.0 > 1 << 24 {
            faults.push(format!(
                "election_timeout ({} ticks) is over 2^24 ticks",
                self.election_timeout.0
            ));
        }
        for (name, value) in [
            ("append_bytes", self.append_bytes),
            ("window_messages", self.window_messages),
            ("window_bytes", self.window_bytes),
            ("uncommitted_bytes", self.uncommitted_bytes),
        ] {
            if value == 0 {
                faults.push(format!("{name} is 0; at least 1 is needed"));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(ConfigError { faults }) }
    }
}

/// Everything that is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", faults.join("; "))]
pub struct ConfigError {
    /// One sentence a fault.
    pub faults: Vec<String>,
}
