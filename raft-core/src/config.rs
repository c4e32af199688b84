//! What can be set about a node's part in the protocol, checked as a whole.
//!
//! Dissertation 3.4, 9 (timeouts), 9.6 (pre-vote), 6.2 (check-quorum), 10.2 (batching, pipelining).

use crate::entry::Membership;
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
    /// Serve reads by the leader's lease (dissertation 6.4.1), trusting that no two clocks of the cluster
    /// ever drift apart by more than this, and that each node counts ticks of the same length. `None`, the
    /// default, trusts no clock. Set it alike on all nodes; a node without it lends no lease (rule R6).
    pub lease: Option<ClockDrift>,
    /// How much this node is preferred as a leader. A leader hands over to a voter of higher priority that
    /// is up to date; elections do not look at it.
    pub priority: u8,
    /// At most this many bytes of entries in one append; one entry may be larger.
    pub append_bytes: usize,
    /// At most this many appends to one follower are unanswered.
    pub window_messages: usize,
    /// At most this many bytes of entries to one follower are unanswered.
    pub window_bytes: usize,
    /// At most this many snapshots are on their way to followers at once (rule S6).
    pub snapshots_at_once: usize,
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
            lease: None,
            priority: 0,
            append_bytes: 1 << 20,
            window_messages: 256,
            window_bytes: 16 << 20,
            snapshots_at_once: 2,
            uncommitted_bytes: 64 << 20,
        }
    }

    /// How long `ticks` that a node has counted last at least, or those that it has yet to count at
    /// most: it may count late, see [`crate::Event::Tick`], and the first was perhaps about to come.
    pub(crate) fn for_sure(&self, ticks: Ticks) -> Ticks {
        Ticks(ticks.0.saturating_sub(self.heartbeat_interval.0).saturating_sub(1))
    }

    /// For how long, by its own count, a leader may rely on a voter's promise that holds for `shield`
    /// ticks of the voter's clock, from when it asked for it. Nothing without leases.
    pub fn lease_ticks(&self, shield: Ticks) -> Ticks {
        let Some(ClockDrift { ppm }) = self.lease else { return Ticks(0) };
        let sure = u64::from(self.for_sure(shield).0) * MILLION;
        let ticks = sure / (MILLION + u64::from(ppm));
        Ticks(u32::try_from(ticks).unwrap_or(0))
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
                "election_timeout is {} ticks; at most 2^24 are allowed",
                self.election_timeout.0
            ));
        }
        for (name, value, most) in [
            ("append_bytes", self.append_bytes, 1 << 30),
            ("window_messages", self.window_messages, 1 << 20),
            ("window_bytes", self.window_bytes, 1 << 40),
            ("snapshots_at_once", self.snapshots_at_once, Membership::MEMBERS_MAX),
            ("uncommitted_bytes", self.uncommitted_bytes, 1 << 40),
        ] {
            check_range(name, value, most, &mut faults);
        }
        self.check_lease(&mut faults);
        ConfigError::of(faults)
    }

    fn check_lease(&self, faults: &mut Vec<String>) {
        let Some(ClockDrift { ppm }) = self.lease else { return };
        if ppm == 0 || ppm > 500_000 {
            faults.push(format!("lease: a drift of {ppm} ppm; 1 to 500000 are allowed"));
        }
        if !self.check_quorum {
            faults.push(
                "lease: needs check_quorum, without which voters keep to no leader".to_owned(),
            );
        }
        let lasts = self.lease_ticks(self.for_sure(self.election_timeout));
        if lasts <= self.heartbeat_interval {
            faults.push(format!(
                "lease: it would last {} ticks, less than until the next heartbeat; make \
                 election_timeout ({} ticks) longer",
                lasts.0, self.election_timeout.0
            ));
        }
    }
}

/// A fault if `value` is 0 or over `most`.
pub(crate) fn check_range(name: &str, value: usize, most: usize, faults: &mut Vec<String>) {
    if value == 0 || value > most {
        faults.push(format!("{name} is {value}; 1 to {most} are allowed"));
    }
}

/// How far clocks may drift apart: while one shows a second, no other shows more than a second and so
/// many microseconds.
///
/// It has to cover clocks that are corrected (500 for the usual daemons) and those that are off by
/// themselves (some 100). What it need not cover, because the node notices it, is a process or a machine
/// that was stopped for a while; what it cannot cover is a virtual machine whose clock was stopped with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockDrift {
    /// In millionths; at least 1, at most half a million.
    pub ppm: u32,
}

const MILLION: u64 = 1_000_000;

/// Everything that is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", faults.join("; "))]
pub struct ConfigError {
    /// One sentence a fault.
    pub faults: Vec<String>,
}

impl ConfigError {
    /// No error if there is no fault.
    pub(crate) fn of(faults: Vec<String>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self { faults }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_listed() {
        let mut config = Config::new(NodeId::new(1).unwrap());
        config.validate().unwrap();
        config.heartbeat_interval = Ticks(0);
        config.election_timeout = Ticks(1 << 25);
        config.append_bytes = 0;
        config.window_messages = usize::MAX;
        config.window_bytes = 0;
        config.uncommitted_bytes = usize::MAX;
        config.snapshots_at_once = 1000;
        config.check_quorum = false;
        config.lease = Some(ClockDrift { ppm: 600_000 });
        let error = config.validate().unwrap_err();
        let faults = error.faults.clone();
        let of = |word: &str| faults.iter().filter(|fault| fault.contains(word)).count();
        for word in ["heartbeat_interval is 0", "2^24", "append_bytes is 0", "window_messages"] {
            assert_eq!(of(word), 1, "{word}: {faults:?}");
        }
        for word in ["snapshots_at_once", "600000 ppm", "needs check_quorum"] {
            assert_eq!(of(word), 1, "{word}: {faults:?}");
        }
        for word in ["window_bytes is 0", &format!("uncommitted_bytes is {}", usize::MAX)] {
            assert_eq!(of(word), 1, "{word}: {faults:?}");
        }
        assert_eq!(faults.len(), 9, "{faults:?}");
        let message = error.to_string();
        assert!(faults.iter().all(|fault| message.contains(fault)), "{message}");

        let mut config = Config::new(NodeId::new(1).unwrap());
        config.election_timeout = Ticks(19);
        let message = config.validate().unwrap_err().to_string();
        assert_eq!(
            message,
            "election_timeout (19 ticks) is less than twice heartbeat_interval (10 ticks)"
        );
    }

    /// Rules R5, R6.
    #[test]
    fn a_lease_is_shorter_than_the_promise_and_worth_having() {
        let mut config = Config::new(NodeId::new(1).unwrap());
        assert_eq!(config.lease_ticks(Ticks(100)), Ticks(0), "off by default");
        config.lease = Some(ClockDrift { ppm: 100_000 });
        config.validate().unwrap();
        let shield = config.for_sure(config.election_timeout);
        assert_eq!(shield, Ticks(89));
        assert_eq!(config.lease_ticks(shield), Ticks(70));
        config.election_timeout = Ticks(32);
        assert_eq!(config.validate().unwrap_err().faults.len(), 1);
    }
}
