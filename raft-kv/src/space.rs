//! Whether there is room for more data.

use serde::{Deserialize, Serialize};

use crate::alarm::Alarm;
use crate::config::KvConfig;
use raft_core::NodeId;

/// Whether there is room for more data, from the best to the worst.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// Enough.
    #[default]
    Enough,
    /// It comes to an end: an alarm is raised.
    Low,
    /// There is none: puts are refused. Deletes and compaction, which make room, go on.
    Full,
}

impl Space {
    /// Of a store of `stored` bytes, on a file system that has `free` to spare.
    pub(crate) fn judge(config: &KvConfig, stored: u64, free: u64) -> Self {
        let over = |limit: Option<u64>| limit.is_some_and(|limit| stored >= limit);
        if over(config.quota_bytes) || free < config.min_free_bytes {
            return Self::Full;
        }
        if over(config.warning_bytes()) || free / 2 < config.min_free_bytes {
            return Self::Low;
        }
        Self::Enough
    }

    /// What an operator is to know of it.
    pub(crate) fn alarm(self, node: NodeId) -> Option<Alarm> {
        match self {
            Self::Enough => None,
            Self::Low => Some(Alarm::SpaceLow { node }),
            Self::Full => Some(Alarm::NoSpace { node }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_quota_and_disk_counts() {
        let config = KvConfig { quota_bytes: Some(100), min_free_bytes: 10, ..KvConfig::default() };
        for (stored, free, space) in [
            (79, 20, Space::Enough),
            (80, 20, Space::Low),
            (99, 20, Space::Low),
            (100, 20, Space::Full),
            (0, 19, Space::Low),
            (0, 10, Space::Low),
            (0, 9, Space::Full),
        ] {
            assert_eq!(Space::judge(&config, stored, free), space, "{stored} {free}");
        }
        let unlimited = KvConfig { quota_bytes: None, min_free_bytes: 0, ..config };
        assert_eq!(Space::judge(&unlimited, u64::MAX, 0), Space::Enough);
    }
}
