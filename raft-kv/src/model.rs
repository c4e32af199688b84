//! The words of the data model, which is etcd's: revisions, keys with their history, ranges of
//! keys.

use std::fmt;
use std::num::NonZeroU64;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A state of the whole store. Each command that changes something makes the next one. An empty
/// store is at revision 1, so the first change makes revision 2, as in etcd.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// That of a store in which nothing was ever written.
    pub const EMPTY: Self = Self(1);

    /// The one after this.
    ///
    /// # Panics
    ///
    /// If there is none. Revisions are counted one by one, so that takes 2^64 writes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("revisions are counted one by one from 1"))
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names a lease. Never zero: a key without a lease has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub NonZeroU64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A key with what is known of it at some revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key. Never empty.
    pub key: Bytes,
    /// Its value, which may be empty.
    pub value: Bytes,
    /// The revision that created it. A key that was deleted and written again was created again.
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
    /// How many times it was written since it was created, at least 1.
    pub version: u64,
    /// The lease that will take it along, if any.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    /// What it counts for against limits: the bytes of key and value and a few for the rest.
    pub fn len_bytes(&self) -> usize {
        self.key.len() + self.value.len() + 48
    }
}

/// Which keys. They are ordered by their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRange {
    /// This key.
    One(Bytes),
    /// The keys from `first` on that are less than `before`. Empty if `before` is not greater.
    Between {
        /// Inclusive.
        first: Bytes,
        /// Exclusive.
        before: Bytes,
    },
    /// This key and all that follow.
    From(Bytes),
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::From(Bytes::new())
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let first = prefix.into();
        // The first key beyond the prefix: drop trailing 0xff bytes, then add one to the last byte.
        let kept = first.iter().rposition(|byte| *byte != 0xff);
        match kept {
            Some(last) => {
                let mut before = first[..=last].to_vec();
                before[last] += 1;
                Self::Between { first, before: before.into() }
            }
            None => Self::From(first),
        }
    }

    /// What etcd means by `key` and `range_end`: with an empty end the key alone, with the end `\0`
    /// the key and all that follow, otherwise the keys before the end.
    pub fn of_etcd(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Self {
        let (key, end) = (key.into(), range_end.into());
        match &end[..] {
            [] => Self::One(key),
            [0] => Self::From(key),
            _ => Self::Between { first: key, before: end },
        }
    }

    /// The least key that may be in it.
    pub fn first(&self) -> &Bytes {
        match self {
            Self::One(key) | Self::Between { first: key, .. } | Self::From(key) => key,
        }
    }

    /// The least byte string beyond it, if there is one.
    pub fn before(&self) -> Option<Bytes> {
        match self {
            Self::One(key) => Some([key, &b"\0"[..]].concat().into()),
            Self::Between { before, .. } => Some(before.clone()),
            Self::From(_) => None,
        }
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::One(key) => key.is_empty(),
            Self::Between { first, before } => first >= before,
            Self::From(_) => false,
        }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Between { first, before } => &first[..] <= key && key < &before[..],
            Self::From(first) => &first[..] <= key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_before_the_next_key_that_does_not_have_it() {
        for (prefix, inside, outside) in [
            (&b"a"[..], vec![&b"a"[..], b"a\0", b"az", b"a\xff\xff"], vec![&b"b"[..], b"A"]),
            (b"a\xff", vec![b"a\xff", b"a\xff\xff"], vec![b"a\xfe", b"b"]),
            (b"\xff\xff", vec![b"\xff\xff", b"\xff\xff\xff"], vec![b"\xff", b"\xff\xfe\xff"]),
            (b"", vec![b"\0", b"\xff"], vec![]),
        ] {
            let range = KeyRange::prefix(prefix);
            assert!(inside.iter().all(|key| range.contains(key)), "{range:?}");
            assert!(!outside.iter().any(|key| range.contains(key)), "{range:?}");
        }
    }

    #[test]
    fn etcd_ranges_mean_what_they_mean_in_etcd() {
        assert_eq!(KeyRange::of_etcd("a", ""), KeyRange::One("a".into()));
        assert_eq!(KeyRange::of_etcd("a", "\0"), KeyRange::From("a".into()));
        let all = KeyRange::of_etcd("\0", "\0");
        assert!(all.contains(b"\0") && all.contains(b"\xff"));
        let between = KeyRange::of_etcd("a", "c");
        assert!(between.contains(b"a") && between.contains(b"b\xff") && !between.contains(b"c"));
        assert!(KeyRange::of_etcd("c", "a").is_empty());
        assert!(KeyRange::of_etcd("c", "c").is_empty());
    }
}
