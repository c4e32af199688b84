//! Keeps the log readable while somebody misbehaves: at most one line of a kind about the same
//! party in a while, with a count of those that were left out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Decides whether a line is worth writing now.
#[derive(Debug, Default)]
pub(crate) struct LogGate {
    seen: Mutex<BTreeMap<(&'static str, String), Seen>>,
}

#[derive(Debug)]
struct Seen {
    last: Instant,
    suppressed: u64,
}

impl LogGate {
    /// `Some` if a line of this kind about this party may be written, with how many were not since
    /// the last one; `None` if not.
    pub(crate) fn pass(&self, kind: &'static str, party: &str) -> Option<u64> {
        self.pass_at(Instant::now(), kind, party)
    }

    fn pass_at(&self, now: Instant, kind: &'static str, party: &str) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = seen.get_mut(&(kind, party.to_owned())) {
            if now.duration_since(entry.last) < QUIET {
                entry.suppressed += 1;
                return None;
            }
            let suppressed = std::mem::take(&mut entry.suppressed);
            entry.last = now;
            return Some(suppressed);
        }
        if seen.len() >= MAX_PARTIES {
            seen.retain(|_, entry| now.duration_since(entry.last) < QUIET);
        }
        if seen.len() >= MAX_PARTIES {
            return None; // A flood from many addresses: those that are logged say enough.
        }
        seen.insert((kind, party.to_owned()), Seen { last: now, suppressed: 0 });
        Some(0)
    }
}

const QUIET: Duration = Duration::from_secs(5);
const MAX_PARTIES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted_not_written() {
        let gate = LogGate::default();
        let start = Instant::now();
        assert_eq!(gate.pass_at(start, "refused", "a"), Some(0));
        assert_eq!(gate.pass_at(start, "refused", "a"), None);
        assert_eq!(gate.pass_at(start, "refused", "b"), Some(0));
        assert_eq!(gate.pass_at(start, "lost", "a"), Some(0));
        assert_eq!(gate.pass_at(start + QUIET, "refused", "a"), Some(1));
    }

    #[test]
    fn a_flood_of_parties_is_bounded() {
        let gate = LogGate::default();
        let start = Instant::now();
        let passed =
            (0..10_000).filter(|n| gate.pass_at(start, "x", &n.to_string()).is_some()).count();
        assert_eq!(passed, MAX_PARTIES);
        assert_eq!(gate.pass_at(start + QUIET, "x", "later"), Some(0));
    }
}
