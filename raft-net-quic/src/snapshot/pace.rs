//! Keeps snapshots from taking more of the network than an operator has granted.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::shared::lock;
use crate::snapshot::CHUNK_BYTES;

/// How fast all snapshots of a node may leave together.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was granted so far will have left.
    free_at: Mutex<Instant>,
}

impl Pace {
    /// At most so many bytes a second; as fast as it goes if there is no limit.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        let bytes_per_second = bytes_per_second.map(|rate| rate.max(1));
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// The most to send at a time, so that it flows rather than comes in gushes.
    pub(super) fn chunk_bytes(&self) -> usize {
        let tenth = self.bytes_per_second.map_or(u64::MAX, |rate| rate / 10);
        usize::try_from(tenth).unwrap_or(usize::MAX).clamp(MIN_CHUNK_BYTES, CHUNK_BYTES)
    }

    /// Waits until `bytes` may be sent.
    pub(super) async fn wait(&self, bytes: usize) {
        if let Some(start) = self.grant(Instant::now(), bytes) {
            tokio::time::sleep_until(start.into()).await;
        }
    }

    /// When `bytes` may be sent, if not at once.
    fn grant(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.bytes_per_second?;
        let micros = u128::try_from(bytes).unwrap_or(u128::MAX) * 1_000_000 / u128::from(rate);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let mut free_at = lock(&self.free_at);
        let start = now.max(*free_at);
        *free_at = start + takes;
        (start > now).then_some(start)
    }
}

const MIN_CHUNK_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_adds_up_to_the_rate() {
        let pace = Pace::new(Some(1_000_000));
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(pace.grant(now, 500_000), None);
        assert_eq!(pace.grant(now, 500_000), Some(now + Duration::from_millis(500)));
        assert_eq!(pace.grant(now, 1), Some(now + Duration::from_secs(1)));
        // What was not used in the meantime is not saved up.
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.grant(later, 1_000_000), None);
        assert_eq!(pace.grant(later, 1), Some(later + Duration::from_secs(1)));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let pace = Pace::new(None);
        assert_eq!(pace.grant(Instant::now(), usize::MAX), None);
        assert_eq!(pace.chunk_bytes(), CHUNK_BYTES);
        assert_eq!(Pace::new(Some(1)).chunk_bytes(), MIN_CHUNK_BYTES);
    }
}
