//! Ring 2: the clock. The only file of this crate that has one.
//!
//! Counts ticks, and notices when more time has passed than it can count: a process that was stopped, a
//! machine that was asleep. Rules upheld here: E14.
//!
//! There are two clocks to look at. The one that counts never goes backward, but stands still while a machine
//! is suspended; the wall's goes on, but is set now and then. If they disagree, something has happened that
//! nobody who relies on time may ignore.

use std::time::{Duration, Instant, SystemTime};

/// What both clocks show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    steady: Instant,
    wall: SystemTime,
}

/// How much time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// So many ticks.
    pub(super) ticks: u32,
    /// And more than that, or nobody knows how much.
    pub(super) skipped: bool,
}

/// Counts ticks.
#[derive(Debug)]
pub(super) struct Clock {
    tick: Duration,
    /// So many ticks are made up for at once. A node that is busy for a moment must not lose time: its
    /// heartbeats would be late, and it would wait too long for those of others. But a node that has
    /// slept has not been waiting for its leader all that time.
    at_once: u32,
    next: Instant,
    before: Now,
}

impl Now {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that has a clock")]
    pub(super) fn read() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }
}

impl Clock {
    /// A clock that begins to count.
    pub(super) fn new(tick: Duration, at_once: u32, now: Now) -> Self {
        Self { tick, at_once, next: now.steady + tick, before: now }
    }

    /// How long until the next tick.
    pub(super) fn until_next(&self, now: Now) -> Duration {
        self.next.saturating_duration_since(now.steady)
    }

    /// Counts what has passed until now.
    pub(super) fn passed(&mut self, now: Now) -> Passed {
        let mut ticks = 0;
        while now.steady >= self.next && ticks < self.at_once {
            self.next += self.tick;
            ticks += 1;
        }
        let missed = now.steady >= self.next;
        if missed {
            self.next = now.steady + self.tick;
        }
        let skipped = missed || self.disagree(now);
        self.before = now;
        Passed { ticks, skipped }
    }

    /// Whether the two clocks have gone on by different amounts since the last time.
    fn disagree(&self, now: Now) -> bool {
        let steady = now.steady.saturating_duration_since(self.before.steady);
        match now.wall.duration_since(self.before.wall) {
            Ok(wall) => wall.abs_diff(steady) > self.tick * 2,
            Err(_) => true, // It was set back.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    fn clock() -> (Clock, Now) {
        let now = Now::read();
        (Clock::new(TICK, 5, now), now)
    }

    fn later(now: Now, steady_ms: u64, wall_ms: u64) -> Now {
        let steady = now.steady + Duration::from_millis(steady_ms);
        Now { steady, wall: now.wall + Duration::from_millis(wall_ms) }
    }

    #[test]
    fn a_busy_moment_loses_no_time() {
        let (mut clock, start) = clock();
        assert_eq!(clock.passed(later(start, 9, 9)), Passed { ticks: 0, skipped: false });
        assert_eq!(clock.passed(later(start, 48, 48)), Passed { ticks: 4, skipped: false });
        assert_eq!(clock.until_next(later(start, 48, 48)), Duration::from_millis(2));
        assert_eq!(clock.passed(later(start, 50, 50)), Passed { ticks: 1, skipped: false });
    }

    /// Rule E14.
    #[test]
    fn a_pause_is_counted_up_to_a_limit_and_noticed() {
        let (mut clock, start) = clock();
        let woken = later(start, 1000, 1000);
        assert_eq!(clock.passed(woken), Passed { ticks: 5, skipped: true });
        assert_eq!(clock.passed(later(woken, 9, 9)), Passed { ticks: 0, skipped: false });
        assert_eq!(clock.passed(later(woken, 10, 10)), Passed { ticks: 1, skipped: false });
    }

    /// Rule E14: a machine that sleeps stops the steady clock; somebody may set the other.
    #[test]
    fn clocks_that_disagree_are_noticed() {
        let (mut clock, start) = clock();
        let asleep = later(start, 10, 60_000);
        assert_eq!(clock.passed(asleep), Passed { ticks: 1, skipped: true });
        let mut set_back = later(asleep, 10, 0);
        set_back.wall = start.wall;
        assert_eq!(clock.passed(set_back), Passed { ticks: 1, skipped: true });
        let next = later(set_back, 10, 11);
        assert_eq!(clock.passed(next), Passed { ticks: 1, skipped: false }, "as they should be");
    }
}
