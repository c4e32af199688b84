//! Who wants to know of a key: a search among many ranges.
//!
//! Watchers of single keys are found by the key. Ranges are kept in the order of their first keys, with
//! for each half, quarter and so on the farthest end in it: parts that end before the key are left out
//! whole. What comes and goes is sorted in at the next search.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::model::KeyRange;

/// Names a seat at the hub.
pub(super) type SeatId = u64;

/// Who wants to know of which keys.
#[derive(Debug, Default)]
pub(super) struct Interests {
    ones: BTreeMap<Bytes, BTreeSet<SeatId>>,
    ranges: BTreeMap<(Bytes, End), BTreeSet<SeatId>>,
    /// The ranges as a tree, if they are the same as when it was made.
    tree: Option<Vec<Node>>,
}

/// Where a range ends: before these bytes, or never.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

#[derive(Debug)]
struct Node {
    first: Bytes,
    end: End,
    /// The farthest end of the part of which this is the middle.
    farthest: End,
    seats: Vec<SeatId>,
}

impl Interests {
    pub(super) fn add(&mut self, range: &KeyRange, seat: SeatId) {
        match range {
            KeyRange::One(key) => {
                self.ones.entry(key.clone()).or_default().insert(seat);
            }
            KeyRange::Between { .. } | KeyRange::From(_) => {
                self.ranges.entry(bounds(range)).or_default().insert(seat);
                self.tree = None;
            }
        }
    }

    pub(super) fn remove(&mut self, range: &KeyRange, seat: SeatId) {
        match range {
            KeyRange::One(key) => remove(&mut self.ones, key, seat),
            KeyRange::Between { .. } | KeyRange::From(_) => {
                remove(&mut self.ranges, &bounds(range), seat);
                self.tree = None;
            }
        }
    }

    /// Who wants to know of `key`, each once.
    pub(super) fn of(&mut self, key: &[u8], mut each: impl FnMut(SeatId)) {
        if let Some(seats) = self.ones.get(key) {
            seats.iter().copied().for_each(&mut each);
        }
        let tree = self.tree.get_or_insert_with(|| plant(&self.ranges));
        search(tree, key, &mut each);
    }
}

fn bounds(range: &KeyRange) -> (Bytes, End) {
    (range.first().clone(), range.before().map_or(End::Never, End::Before))
}

fn remove<K: Ord>(map: &mut BTreeMap<K, BTreeSet<SeatId>>, key: &K, seat: SeatId) {
    if let Some(seats) = map.get_mut(key) {
        seats.remove(&seat);
        if seats.is_empty() {
            map.remove(key);
        }
    }
}

fn plant(ranges: &BTreeMap<(Bytes, End), BTreeSet<SeatId>>) -> Vec<Node> {
    let mut nodes: Vec<_> = ranges
        .iter()
        .map(|((first, end), seats)| Node {
            first: first.clone(),
            end: end.clone(),
            farthest: end.clone(),
            seats: seats.iter().copied().collect(),
        })
        .collect();
    spread(&mut nodes);
    nodes
}

/// Fills in the farthest ends, and returns that of the whole.
fn spread(nodes: &mut [Node]) -> Option<End> {
    let middle = nodes.len() / 2;
    let (before, rest) = nodes.split_at_mut(middle);
    let (here, after) = rest.split_first_mut()?;
    let farthest = [spread(before), spread(after)].into_iter().flatten().max();
    here.farthest = farthest.into_iter().chain([here.end.clone()]).max()?;
    Some(here.farthest.clone())
}

fn search(nodes: &[Node], key: &[u8], each: &mut impl FnMut(SeatId)) {
    let Some(here) = nodes.get(nodes.len() / 2) else { return };
    if !here.farthest.is_beyond(key) {
        return;
    }
    let (before, after) = (&nodes[..nodes.len() / 2], &nodes[nodes.len() / 2 + 1..]);
    search(before, key, each);
    if here.first[..] <= *key {
        if here.end.is_beyond(key) {
            here.seats.iter().copied().for_each(&mut *each);
        }
        search(after, key, each);
    }
}

impl End {
    fn is_beyond(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(before) => key < &before[..],
            Self::Never => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0)], 1..4).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            key().prop_map(KeyRange::One),
            key().prop_map(KeyRange::From),
            key().prop_map(KeyRange::prefix),
            (key(), key()).prop_map(|(first, before)| KeyRange::Between { first, before }),
        ]
    }

    proptest! {
        #[test]
        fn finds_who_looking_at_each_finds(
            steps in vec((range(), any::<bool>(), key()), 1..40),
        ) {
            let mut interests = Interests::default();
            let mut plain: Vec<(KeyRange, SeatId)> = Vec::new();
            for (seat, (range, leave, key)) in (0..).zip(steps) {
                if leave && !plain.is_empty() {
                    let (range, seat) = plain.swap_remove(plain.len() / 2);
                    interests.remove(&range, seat);
                }
                interests.add(&range, seat);
                plain.push((range, seat));
                let mut found = Vec::new();
                interests.of(&key, |seat| found.push(seat));
                found.sort_unstable();
                let wanted = plain.iter().filter(|(range, _)| range.contains(&key));
                let mut expected: Vec<_> = wanted.map(|(_, seat)| *seat).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
            for (range, seat) in plain {
                interests.remove(&range, seat);
            }
            prop_assert!(interests.ones.is_empty() && interests.ranges.is_empty());
        }
    }
}
