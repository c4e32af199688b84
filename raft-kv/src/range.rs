//! What a read of a range asks for, and how what is found is filtered, ordered and cut.
//!
//! Used by readers and, inside transactions, by the state machine, so nothing here looks at
//! anything but the request and the rows.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::KvError;
use crate::model::{KeyRange, KeyValue, Revision};
use crate::record::Head;

/// A read of a range of keys. See [`RangeRequest::new`] for the usual one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// As of which revision. `None` for now.
    pub revision: Option<Revision>,
    /// The most keys to return. `None` for all that fit into one answer.
    pub limit: Option<u64>,
    /// How much of each key to return.
    pub content: Content,
    /// In which order. The limit takes the first in this order.
    pub sort: Sort,
    /// Keys to leave out. They are still counted.
    pub filter: Filter,
}

/// How much of each key a read returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Everything.
    Full,
    /// Everything but the values, which are empty.
    KeysOnly,
    /// No keys at all, only how many there are.
    CountOnly,
}

/// The order in which a read returns keys. Equals are in the order of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sort {
    /// By what.
    pub by: SortBy,
    /// Which way.
    pub order: Order,
}

/// By what keys are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortBy {
    /// Their bytes.
    #[default]
    Key,
    /// How many times they were written since they were created.
    Version,
    /// The revision that created them.
    CreateRevision,
    /// The revision that wrote them last.
    ModRevision,
    /// The bytes of their values.
    Value,
}

/// Which way keys are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The least first.
    #[default]
    Ascending,
    /// The greatest first.
    Descending,
}

/// Which keys to leave out, by their revisions. All bounds are inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Those last written before this.
    pub min_mod_revision: Option<Revision>,
    /// Those last written after this.
    pub max_mod_revision: Option<Revision>,
    /// Those created before this.
    pub min_create_revision: Option<Revision>,
    /// Those created after this.
    pub max_create_revision: Option<Revision>,
}

impl RangeRequest {
    /// Everything that is in `range` now, by key.
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            revision: None,
            limit: None,
            content: Content::Full,
            sort: Sort::default(),
            filter: Filter::default(),
        }
    }

    /// Whether it reads at most one key.
    pub fn is_point(&self) -> bool {
        matches!(self.range, KeyRange::One(_))
    }

    /// Whether it reads one key as it is now, and nothing else is asked.
    pub(crate) fn is_plain_point(&self) -> bool {
        self.is_point()
            && self.revision.is_none()
            && self.limit.is_none()
            && self.content == Content::Full
            && self.filter == Filter::default()
    }
}

impl Filter {
    fn passes(&self, head: &Head) -> bool {
        let within = |revision: Revision, min: Option<Revision>, max: Option<Revision>| {
            min.is_none_or(|min| min <= revision) && max.is_none_or(|max| revision <= max)
        };
        within(head.mod_revision, self.min_mod_revision, self.max_mod_revision)
            && within(head.create_revision, self.min_create_revision, self.max_create_revision)
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kvs: Vec<KeyValue>,
    pub(crate) count: u64,
    /// Whether there are more that would have been returned.
    pub(crate) more: bool,
}

/// Takes the rows of a range, in the order of their keys, and keeps what is to be returned. Never
/// holds more than that and one row.
pub(crate) struct Collector<'a> {
    request: &'a RangeRequest,
    /// The most bytes to keep. One key is kept whatever its size.
    room: usize,
    count: u64,
    passed: u64,
    bytes: usize,
    kept: Kept,
}

enum Kept {
    /// In the order in which they come. Once one had no room, no more are kept, so that what is
    /// kept has no gaps.
    AsFound { kvs: Vec<KeyValue>, is_full: bool },
    /// In another order. What does not come before `beyond` had no room.
    Ordered { kvs: BTreeMap<Place, KeyValue>, beyond: Option<Place> },
}

/// Where a key stands in the order of the answer.
type Place = (Rank, Bytes);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Up(Weight),
    Down(Reverse<Weight>),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Number(u64),
    Bytes(Bytes),
}

impl<'a> Collector<'a> {
    /// For the answer to `request`, of at most `room` bytes unless a single key has more.
    pub(crate) fn new(request: &'a RangeRequest, room: usize) -> Self {
        let kept = if request.sort == Sort::default() {
            Kept::AsFound { kvs: Vec::new(), is_full: false }
        } else {
            Kept::Ordered { kvs: BTreeMap::new(), beyond: None }
        };
        Self { request, room, count: 0, passed: 0, bytes: 0, kept }
    }

    /// The next key.
    pub(crate) fn add(&mut self, key: &[u8], record: &[u8]) -> Result<(), KvError> {
        self.count += 1;
        let with_value = match self.request.content {
            Content::CountOnly => return Ok(()),
            Content::Full => true,
            Content::KeysOnly => false,
        };
        if self.is_full() && self.request.filter == Filter::default() {
            // It counts, and nothing else.
            self.passed += 1;
            return Ok(());
        }
        let (head, value) = Head::decode(record)?;
        if !self.request.filter.passes(&head) {
            return Ok(());
        }
        self.passed += 1;
        let (limit, is_full) = (self.request.limit.unwrap_or(u64::MAX), self.is_full());
        let make = |value: &[u8]| {
            let value = if with_value { value } else { &[] };
            head.into_key_value(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
        };
        match &mut self.kept {
            Kept::AsFound { .. } if is_full => {}
            Kept::AsFound { kvs, is_full } => {
                let kv = make(value);
                let bytes = self.bytes + kv.len_bytes();
                if bytes > self.room && !kvs.is_empty() {
                    *is_full = true;
                    return Ok(());
                }
                self.bytes = bytes;
                kvs.push(kv);
            }
            Kept::Ordered { kvs, beyond } => {
                let place = place(self.request.sort, key, &head, value);
                if limit == 0 || beyond.as_ref().is_some_and(|beyond| place >= *beyond) {
                    return Ok(());
                }
                let kv = make(value);
                self.bytes += held_bytes(&place, &kv);
                kvs.insert(place, kv);
                while kvs.len() > 1 && (kvs.len() as u64 > limit || self.bytes > self.room) {
                    if let Some((place, kv)) = kvs.pop_last() {
                        self.bytes -= held_bytes(&place, &kv);
                        *beyond = Some(place);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether nothing more is kept, whatever comes.
    fn is_full(&self) -> bool {
        match &self.kept {
            Kept::AsFound { kvs, is_full } => {
                *is_full || self.request.limit.is_some_and(|limit| kvs.len() as u64 >= limit)
            }
            Kept::Ordered { .. } => false,
        }
    }

    /// That was the last.
    pub(crate) fn finish(self) -> Found {
        let kvs: Vec<_> = match self.kept {
            Kept::AsFound { kvs, .. } => kvs,
            Kept::Ordered { kvs, .. } => kvs.into_values().collect(),
        };
        let more = self.passed > kvs.len() as u64;
        Found { kvs, count: self.count, more }
    }
}

/// What keeping a key costs: what is returned of it, or the value it is ordered by if that is more.
fn held_bytes(place: &Place, kv: &KeyValue) -> usize {
    let (Rank::Up(weight) | Rank::Down(Reverse(weight)), key) = place;
    let weight = match weight {
        Weight::Number(_) => 0,
        Weight::Bytes(bytes) => key.len() + bytes.len(),
    };
    kv.len_bytes().max(weight)
}

fn place(sort: Sort, key: &[u8], head: &Head, value: &[u8]) -> Place {
    let key = Bytes::copy_from_slice(key);
    let weight = match sort.by {
        SortBy::Key => Weight::Bytes(key.clone()),
        SortBy::Version => Weight::Number(head.version),
        SortBy::CreateRevision => Weight::Number(head.create_revision.0),
        SortBy::ModRevision => Weight::Number(head.mod_revision.0),
        SortBy::Value => Weight::Bytes(Bytes::copy_from_slice(value)),
    };
    let rank = match sort.order {
        Order::Ascending => Rank::Up(weight),
        Order::Descending => Rank::Down(Reverse(weight)),
    };
    (rank, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &[u8]) -> Vec<u8> {
        let revision = Revision(2);
        let head =
            Head { create_revision: revision, mod_revision: revision, version: 1, lease: None };
        head.encode_with(value)
    }

    /// What is cut off for want of room is the end of the order, not whatever came late.
    #[test]
    fn an_ordered_answer_that_is_cut_has_no_gaps() {
        let request = RangeRequest {
            sort: Sort { by: SortBy::Value, order: Order::Ascending },
            ..RangeRequest::new(KeyRange::all())
        };
        let mut collector = Collector::new(&request, 250);
        // "b" is large and pushed out by "a"; "c" is small and would fit, but "b" comes first.
        for (key, value) in [(b"1", vec![b'b'; 150]), (b"2", vec![b'a'; 90]), (b"3", vec![b'c'; 1])]
        {
            collector.add(key, &record(&value)).unwrap();
        }
        let found = collector.finish();
        assert_eq!(found.kvs.len(), 1);
        assert_eq!(found.kvs[0].key, "2");
        assert!(found.more);
        assert_eq!(found.count, 3);
    }

    /// Values are not returned, but are held as long as they may decide the order.
    #[test]
    fn values_that_only_order_the_answer_count_too() {
        let request = RangeRequest {
            content: Content::KeysOnly,
            sort: Sort { by: SortBy::Value, order: Order::Ascending },
            ..RangeRequest::new(KeyRange::all())
        };
        let mut collector = Collector::new(&request, 1000);
        for key in 0..100_u8 {
            collector.add(&[key], &record(&[key; 600])).unwrap();
            assert!(collector.bytes <= 1000);
        }
        let found = collector.finish();
        assert_eq!(found.kvs.len(), 1);
        assert!(found.more);
    }
}
