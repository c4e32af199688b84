//! What happens when, in virtual time. Ties are broken by the order in which things were scheduled, so a
//! run is the same every time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual time: microseconds since the start.
pub(crate) type Micros = u64;

/// Things that will happen.
#[derive(Debug)]
pub(crate) struct Schedule<T> {
    /// Time, then number; the thing itself stays where it is, so that the heap moves little.
    heap: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    things: Vec<Option<T>>,
    free: Vec<usize>,
    count: u64,
}

impl<T> Schedule<T> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), things: Vec::new(), free: Vec::new(), count: 0 }
    }

    /// Lets `thing` happen at `at`.
    pub(crate) fn put(&mut self, at: Micros, thing: T) {
        let place = if let Some(place) = self.free.pop() {
            self.things[place] = Some(thing);
            place
        } else {
            self.things.push(Some(thing));
            self.things.len() - 1
        };
        self.count += 1;
        self.heap.push(Reverse((at, self.count, place)));
    }

    /// What happens next, and when.
    pub(crate) fn next(&mut self) -> Option<(Micros, T)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        let thing = self.things[place].take().expect("a place in the heap is filled until taken");
        Some((at, thing))
    }

    /// What will happen, in no order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.things.iter().flatten()
    }

    /// How many things will happen.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_ties_keep_their_order() {
        let mut schedule = Schedule::new();
        for (at, thing) in [(5, 'd'), (1, 'a'), (3, 'b'), (3, 'c')] {
            schedule.put(at, thing);
        }
        assert_eq!(schedule.len(), 4);
        let mut order = Vec::new();
        while let Some((at, thing)) = schedule.next() {
            order.push((at, thing));
            if thing == 'a' {
                schedule.put(4, 'x');
            }
        }
        assert_eq!(order, [(1, 'a'), (3, 'b'), (3, 'c'), (4, 'x'), (5, 'd')]);
    }
}
