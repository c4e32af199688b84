//! What time it is in the cluster, as a node works it out. The only place where the clock of a
//! machine meets the log: what comes of it is a [`Stamp`] in an entry.
//!
//! A leader counts on from the last time that is in the log, by its own clock, and puts the time
//! into each command it proposes; and into entries of their own while there is anything that time can
//! end. The others do not write, but count along, so that whoever leads next goes on from where the
//! time is by then: a change of leader neither sets it back nor stops it. What is lost is the time a
//! stamp takes to get around, and that while no node runs. So between any two moments the cluster
//! counts no more than has really passed, and nothing ends early.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ClusterTime;
use crate::types::Term;

/// What time it is. The cluster's time is the latest of these in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The term of the leader that says so. In an entry of another term it counts for nothing: the
    /// node was no leader any more when it proposed the entry (rule C5).
    pub term: Term,
    /// The time.
    pub time: ClusterTime,
}

impl Stamp {
    /// What time it is after an entry of term `term` that carries `stamp`, if it was `before` until then.
    pub fn after(stamp: Option<Self>, term: Term, before: ClusterTime) -> ClusterTime {
        match stamp {
            // Only the leader of this term can have proposed in it, and only then (rule C5).
            Some(stamp) if stamp.term == term => before.max(stamp.time),
            Some(_) | None => before,
        }
    }
}

/// A node's idea of the time in the cluster. `now` is always the time on this machine since some
/// moment, and never goes back.
#[derive(Debug)]
pub struct Timekeeper {
    /// It was that time in the cluster when it was this on the machine.
    anchor: (ClusterTime, Duration),
    /// The time in the log, when it was last looked at.
    seen: ClusterTime,
    /// The term in which this node leads.
    leading: Option<Term>,
    /// Whether there is nothing that time could end. Then it stands still.
    is_idle: bool,
    /// When this node last proposed an entry for the sake of time.
    ticked: Option<Duration>,
}

/// What a node knows of itself at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// The time in the log, as far as it was applied.
    pub clock: ClusterTime,
    /// Whether there is nothing that time could end.
    pub is_idle: bool,
    /// The term, if the node leads in it.
    pub leading: Option<Term>,
}

impl Timekeeper {
    /// Begins with `sight` at `now`.
    pub fn new(now: Duration, sight: Sight) -> Self {
        let Sight { clock, is_idle, leading } = sight;
        Self { anchor: (clock, now), seen: clock, leading, is_idle, ticked: None }
    }

    /// Takes note of how things are at `now`.
    pub fn observe(&mut self, now: Duration, sight: Sight) {
        let Sight { clock, is_idle, leading } = sight;
        let is_reigning = leading.is_some() && leading == self.leading;
        // A leader goes on from where it began: its own stamps come back to it late. One that has
        // just been elected goes on from the last stamp of the one before.
        let is_news = clock != self.seen && !is_reigning;
        if is_idle || is_news || clock > self.time(now) {
            self.anchor = (clock, now);
        }
        self.seen = self.seen.max(clock);
        self.leading = leading;
        self.is_idle = is_idle;
    }

    /// What to write into an entry that is proposed at `now`. `None` if this node does not lead.
    pub fn stamp(&self, now: Duration) -> Option<Stamp> {
        self.leading.map(|term| Stamp { term, time: self.time(now) })
    }

    /// Whether an entry should be proposed at `now` only to let time move on. Says so once for each.
    pub fn is_tick_due(&mut self, now: Duration) -> bool {
        let lags = self.time(now).ms_since(self.seen) >= TICK_MS;
        let waits = self.ticked.is_some_and(|at| now < at + Duration::from_millis(TICK_MS));
        let is_due = self.leading.is_some() && !self.is_idle && lags && !waits;
        if is_due {
            self.ticked = Some(now);
        }
        is_due
    }

    /// What time it is in the cluster at `now`, as far as this node can tell.
    pub fn time(&self, now: Duration) -> ClusterTime {
        let (time, at) = self.anchor;
        let passed = now.saturating_sub(at).as_millis();
        time.plus_ms(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// So often time moves on by itself, in milliseconds: what ends, ends about so much late.
const TICK_MS: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    const T1: Term = Term(1);
    const T2: Term = Term(2);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sight(clock: u64, leading: Option<Term>) -> Sight {
        Sight { clock: ClusterTime(clock), is_idle: false, leading }
    }

    #[test]
    fn a_leader_counts_on_from_where_it_began() {
        let mut keeper = Timekeeper::new(at(0), sight(1_000, None));
        assert_eq!(keeper.stamp(at(10)), None);
        keeper.observe(at(100), sight(1_000, Some(T1)));
        assert_eq!(keeper.stamp(at(500)), Some(Stamp { term: T1, time: ClusterTime(1_500) }));
        // Its stamp comes back late; that must not slow the time down.
        keeper.observe(at(700), sight(1_500, Some(T1)));
        assert_eq!(keeper.time(at(800)), ClusterTime(1_800));
    }

    #[test]
    fn the_next_leader_neither_sets_time_back_nor_stops_it() {
        let mut keeper = Timekeeper::new(at(0), sight(0, None));
        // A follower sees the stamps of the leader, 20 ms late.
        keeper.observe(at(520), sight(500, None));
        keeper.observe(at(1_020), sight(1_000, None));
        // The leader dies; three seconds later this node leads. They have passed.
        keeper.observe(at(4_020), sight(1_000, Some(T2)));
        assert_eq!(keeper.stamp(at(4_020)), Some(Stamp { term: T2, time: ClusterTime(4_000) }));
        // Entries of the former leader that it applies only now do not set it back either.
        keeper.observe(at(4_030), sight(1_100, Some(T2)));
        assert_eq!(keeper.time(at(4_120)), ClusterTime(4_100));
    }

    #[test]
    fn a_node_that_is_behind_catches_up() {
        let mut keeper = Timekeeper::new(at(0), sight(0, Some(T1)));
        keeper.observe(at(100), sight(9_000, Some(T1)));
        assert_eq!(keeper.time(at(200)), ClusterTime(9_100));
    }

    #[test]
    fn time_stands_still_while_nothing_can_end() {
        let idle = |clock| Sight { is_idle: true, ..sight(clock, Some(T1)) };
        let mut keeper = Timekeeper::new(at(0), idle(100));
        for now in (0..10_000).step_by(100) {
            keeper.observe(at(now), idle(100));
            assert!(!keeper.is_tick_due(at(now)));
        }
        // A lease is granted with the stamp 100 + 50. It does not begin with time that passed before.
        assert_eq!(keeper.stamp(at(9_950)).unwrap().time, ClusterTime(150));
        keeper.observe(at(10_000), sight(150, Some(T1)));
        assert_eq!(keeper.time(at(10_900)), ClusterTime(1_100));
    }

    #[test]
    fn ticks_come_only_from_a_leader_that_writes_nothing_else() {
        let mut keeper = Timekeeper::new(at(0), sight(0, None));
        assert!(!keeper.is_tick_due(at(5_000)));
        keeper.observe(at(5_000), sight(5_000, Some(T1)));
        assert!(!keeper.is_tick_due(at(5_400)));
        assert!(keeper.is_tick_due(at(5_500)));
        // Not again before it has had time to come back.
        assert!(!keeper.is_tick_due(at(5_900)));
        assert!(keeper.is_tick_due(at(6_000)));
        // Commands carry the time as well.
        keeper.observe(at(6_400), sight(6_390, Some(T1)));
        assert!(!keeper.is_tick_due(at(6_600)));
    }
}
