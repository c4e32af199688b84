//! The simulated network between hosts: who can be heard, and how long it takes.

use super::dice::Dice;
use super::plan::Plan;
use super::schedule::Micros;

/// The links. A host is named by its place.
#[derive(Debug)]
pub(crate) struct Network {
    /// From, to: so many faults cut this link.
    cuts: Vec<Vec<u32>>,
    /// From, to: when the last message on this link arrives.
    latest: Vec<Vec<Micros>>,
    /// From, to: nothing on this link arrives before.
    held: Vec<Vec<Micros>>,
    /// No faults any more.
    calm: bool,
}

/// What becomes of a message: when it arrives, and when once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Lost,
    Once(Micros),
    Twice(Micros, Micros),
}

impl Network {
    pub(crate) fn new(hosts: usize) -> Self {
        let mut network =
            Self { cuts: Vec::new(), latest: Vec::new(), held: Vec::new(), calm: false };
        (0..hosts).for_each(|_| network.grow());
        network
    }

    /// One more host.
    pub(crate) fn grow(&mut self) {
        let hosts = self.cuts.len() + 1;
        self.cuts.iter_mut().for_each(|row| row.push(0));
        self.latest.iter_mut().chain(&mut self.held).for_each(|row| row.push(0));
        self.cuts.push(vec![0; hosts]);
        self.latest.push(vec![0; hosts]);
        self.held.push(vec![0; hosts]);
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from][to] += 1;
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        self.cuts[from][to] = self.cuts[from][to].saturating_sub(1);
    }

    /// Whatever is sent on this link from now on arrives, but not before `until`.
    pub(crate) fn hold(&mut self, from: usize, to: usize, until: Micros) {
        self.held[from][to] = until;
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from][to] > 0
    }

    /// Everything works from now on.
    pub(crate) fn heal(&mut self) {
        self.calm = true;
        self.cuts.iter_mut().flatten().for_each(|cuts| *cuts = 0);
    }

    /// Sends something at `now`.
    pub(crate) fn send(
        &mut self,
        plan: &Plan,
        dice: &mut Dice,
        now: Micros,
        from: usize,
        to: usize,
    ) -> Way {
        if self.is_cut(from, to) || (!self.calm && dice.chance(plan.loss)) {
            return Way::Lost;
        }
        let first = self.arrival(plan, dice, now, from, to);
        if !self.calm && dice.chance(plan.duplicates) {
            // The second one may be very late: long after everybody has forgotten the first.
            let late = if dice.chance(100_000) { 2_000_000 } else { 50_000 };
            return Way::Twice(first, first + dice.between(1, late));
        }
        Way::Once(first)
    }

    fn arrival(
        &mut self,
        plan: &Plan,
        dice: &mut Dice,
        now: Micros,
        from: usize,
        to: usize,
    ) -> Micros {
        let (low, high) = plan.within_reason(plan.delay, self.calm);
        let mut at = now + dice.between(low, high);
        if !self.calm && dice.chance(plan.slow) {
            at += dice.between(high, high * 20);
        }
        if !self.calm {
            at = at.max(self.held[from][to]);
        }
        let latest = &mut self.latest[from][to];
        if plan.ordered {
            at = at.max(*latest);
        }
        *latest = at.max(*latest);
        at
    }

    /// Whether something that arrives at `at` has overtaken something.
    pub(crate) fn overtakes(&self, from: usize, to: usize, at: Micros) -> bool {
        at < self.latest[from][to]
    }
}
