//! Transactions: several operations as one, chosen by comparisons with what is there.
//!
//! The semantics are etcd's. All comparisons, those of nested transactions too, look at the store
//! as it was before the transaction. Operations then run in order; a range sees what operations
//! before it have written. Whatever is written is one revision, so a key may be changed once only:
//! by one put, or by deletes.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::command::{DeleteOutcome, DeleteRange, Put, PutOutcome, Refused};
use crate::model::{KeyRange, KeyValue, LeaseId, Revision};
use crate::range::RangeRequest;

/// Does `then` if all comparisons hold, `otherwise` if not. All or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// What is compared. If there is nothing, that holds.
    pub compare: Vec<Compare>,
    /// What is done if all comparisons hold.
    pub then: Vec<TxnOp>,
    /// What is done if not.
    pub otherwise: Vec<TxnOp>,
}

/// A comparison. Holds if it does for every key of the range.
///
/// Where there is no key, its numbers are 0 and it has no lease; but a comparison of its value does
/// not hold, whatever the relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Which keys.
    pub range: KeyRange,
    /// How a key is to relate to the target.
    pub relation: Relation,
    /// What of a key is compared, with what.
    pub target: Target,
}

/// How what is found relates to what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// It is the same.
    Equal,
    /// It is not the same.
    NotEqual,
    /// It is less.
    Less,
    /// It is greater.
    Greater,
}

/// What of a key is compared, with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Its value, by bytes.
    Value(Bytes),
    /// How many times it was written since it was created; 0 if it is not there.
    Version(u64),
    /// The revision that created it; 0 if it is not there.
    CreateRevision(Revision),
    /// The revision that wrote it last; 0 if it is not there.
    ModRevision(Revision),
    /// Its lease. None is less than any.
    Lease(Option<LeaseId>),
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOp {
    /// Writes one key.
    Put(Put),
    /// Reads a range.
    Range(RangeRequest),
    /// Deletes the keys of a range.
    DeleteRange(DeleteRange),
    /// Another transaction.
    Txn(Nested<Txn>),
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnOutcome {
    /// The revision after it. A new one if it has written anything.
    pub revision: Revision,
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// What came of the operations, in order.
    pub responses: Vec<OpOutcome>,
}

/// What came of one operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpOutcome {
    /// A key was written.
    Put(PutOutcome),
    /// A range was read.
    Range(RangeOutcome),
    /// Keys were deleted.
    DeleteRange(DeleteOutcome),
    /// A transaction was done.
    Txn(Nested<TxnOutcome>),
}

/// What a range within a transaction has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeOutcome {
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// How many keys there are in the range, whether returned or not.
    pub count: u64,
    /// Whether the limit has cut some off.
    pub more: bool,
}

impl Txn {
    /// Whether it writes nothing, whichever way it goes.
    pub fn is_read_only(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| match op {
            TxnOp::Range(_) => true,
            TxnOp::Put(_) | TxnOp::DeleteRange(_) => false,
            TxnOp::Txn(txn) => txn.is_read_only(),
        })
    }

    /// Whether it puts anything, one way or the other.
    pub fn puts(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|op| match op {
            TxnOp::Put(_) => true,
            TxnOp::Range(_) | TxnOp::DeleteRange(_) => false,
            TxnOp::Txn(txn) => txn.puts(),
        })
    }

    /// Whether it makes sense, whatever the store holds.
    ///
    /// # Errors
    ///
    /// [`Refused::TooManyParts`], [`Refused::EmptyKey`] or [`Refused::DuplicateKey`].
    pub fn check(&self) -> Result<(), Refused> {
        let mut left = MAX_PARTS;
        self.check_parts(1, &mut left)?;
        for path in [&self.then, &self.otherwise] {
            Changed::of(path)?;
        }
        Ok(())
    }

    fn check_parts(&self, depth: u8, left: &mut usize) -> Result<(), Refused> {
        let too_many = Refused::TooManyParts { list: MAX_LIST, all: MAX_PARTS, depth: MAX_DEPTH };
        let lengths = [self.compare.len(), self.then.len(), self.otherwise.len()];
        let sum = lengths.iter().sum::<usize>();
        if depth > MAX_DEPTH || lengths.iter().any(|length| *length > MAX_LIST) || sum > *left {
            return Err(too_many);
        }
        *left -= sum;
        if self.compare.iter().any(|compare| is_keyless(&compare.range)) {
            return Err(Refused::EmptyKey);
        }
        for op in self.then.iter().chain(&self.otherwise) {
            match op {
                TxnOp::Put(Put { key, .. }) if key.is_empty() => return Err(Refused::EmptyKey),
                TxnOp::Range(RangeRequest { range, .. })
                | TxnOp::DeleteRange(DeleteRange { range, .. })
                    if is_keyless(range) =>
                {
                    return Err(Refused::EmptyKey);
                }
                TxnOp::Put(_) | TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
                TxnOp::Txn(txn) => txn.check_parts(depth + 1, left)?,
            }
        }
        Ok(())
    }
}

fn is_keyless(range: &KeyRange) -> bool {
    matches!(range, KeyRange::One(key) if key.is_empty())
}

/// What a list of operations may change.
#[derive(Default)]
struct Changed {
    put: BTreeSet<Bytes>,
    deleted: Vec<KeyRange>,
}

impl Changed {
    /// Refuses a list that could change a key twice, unless by deletes only: what is deleted is not
    /// there to be deleted again. The two ways of a nested transaction may put the same key, since
    /// only one of them is gone.
    fn of(ops: &[TxnOp]) -> Result<Self, Refused> {
        let mut all = Self::default();
        for op in ops {
            if let TxnOp::DeleteRange(delete) = op {
                all.deleted.push(delete.range.clone());
            }
        }
        for op in ops {
            if let TxnOp::Txn(txn) = op {
                let (then, otherwise) = (Self::of(&txn.then)?, Self::of(&txn.otherwise)?);
                let deletes = || then.deleted.iter().chain(&otherwise.deleted);
                if let Some(key) = all.put.iter().find(|key| deletes().any(|r| r.contains(key))) {
                    return Err(Refused::DuplicateKey(key.clone()));
                }
                for key in then.put.union(&otherwise.put) {
                    all.put(key)?;
                }
                all.deleted.extend(then.deleted);
                all.deleted.extend(otherwise.deleted);
            }
        }
        for op in ops {
            if let TxnOp::Put(put) = op {
                all.put(&put.key)?;
            }
        }
        Ok(all)
    }

    fn put(&mut self, key: &Bytes) -> Result<(), Refused> {
        let is_deleted = self.deleted.iter().any(|range| range.contains(key));
        if is_deleted || !self.put.insert(key.clone()) {
            return Err(Refused::DuplicateKey(key.clone()));
        }
        Ok(())
    }
}

impl Compare {
    /// Whether one key makes it hold. `None` stands for a range without keys.
    pub(crate) fn holds(&self, kv: Option<&KeyValue>) -> bool {
        let zero = Revision(0);
        let ordering = match &self.target {
            // There is no telling an empty value from none at all, so it never holds.
            Target::Value(value) => match kv {
                Some(kv) => kv.value.cmp(value),
                None => return false,
            },
            Target::Version(version) => kv.map_or(0, |kv| kv.version).cmp(version),
            Target::CreateRevision(at) => kv.map_or(zero, |kv| kv.create_revision).cmp(at),
            Target::ModRevision(at) => kv.map_or(zero, |kv| kv.mod_revision).cmp(at),
            Target::Lease(lease) => kv.and_then(|kv| kv.lease).cmp(lease),
        };
        match self.relation {
            Relation::Equal => ordering == Ordering::Equal,
            Relation::NotEqual => ordering != Ordering::Equal,
            Relation::Less => ordering == Ordering::Less,
            Relation::Greater => ordering == Ordering::Greater,
        }
    }
}

/// A value inside one of its own kind. Decoding it refuses to go deeper than transactions may be,
/// so that hostile bytes cannot exhaust the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Nested<T>(Box<T>);

impl<T> Nested<T> {
    /// Puts `inner` inside.
    pub fn new(inner: T) -> Self {
        Self(Box::new(inner))
    }

    /// Takes it out.
    pub fn into_inner(self) -> T {
        *self.0
    }
}

impl<T> DerefMut for Nested<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Deref for Nested<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Nested<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let _level = Level::enter().ok_or_else(|| D::Error::custom("it is nested too deep"))?;
        T::deserialize(from).map(Self::new)
    }
}

/// One level of decoding on this thread.
struct Level;

impl Level {
    fn enter() -> Option<Self> {
        DEPTH.with(|depth| {
            let deeper = depth.get() + 1;
            (deeper < MAX_DEPTH).then(|| {
                depth.set(deeper);
                Self
            })
        })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

thread_local! {
    /// How deep the value is that is being decoded.
    static DEPTH: Cell<u8> = const { Cell::new(0) };
}

// Part of what commands mean, like the limits in `apply`: the same on every node.

/// The most comparisons, or operations, in one list of a transaction. etcd's default.
const MAX_LIST: usize = 128;
/// The most comparisons and operations in a transaction with all that are in it.
const MAX_PARTS: usize = 1024;
/// The most levels of transactions.
const MAX_DEPTH: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn put(key: &'static str) -> TxnOp {
        TxnOp::Put(Put::new(key, ""))
    }

    fn delete(range: KeyRange) -> TxnOp {
        TxnOp::DeleteRange(DeleteRange { range, prev_kv: false })
    }

    fn nested(then: Vec<TxnOp>, otherwise: Vec<TxnOp>) -> TxnOp {
        TxnOp::Txn(Nested::new(Txn { compare: vec![], then, otherwise }))
    }

    fn check(then: Vec<TxnOp>) -> Result<(), Refused> {
        Txn { then, ..Txn::default() }.check()
    }

    #[test]
    fn a_key_is_changed_once() {
        let twice = |key: &'static str| Err(Refused::DuplicateKey(key.into()));
        let a = || KeyRange::One("a".into());
        assert_eq!(check(vec![put("a"), put("b")]), Ok(()));
        assert_eq!(check(vec![put("a"), put("a")]), twice("a"));
        assert_eq!(check(vec![put("a"), delete(a())]), twice("a"));
        assert_eq!(check(vec![delete(KeyRange::all()), put("b")]), twice("b"));
        assert_eq!(check(vec![delete(a()), delete(KeyRange::all())]), Ok(()));
        // Only one way is gone, here and below.
        let both = Txn { then: vec![put("a")], otherwise: vec![put("a")], ..Txn::default() };
        assert_eq!(both.check(), Ok(()));
        assert_eq!(check(vec![nested(vec![put("a")], vec![put("a")])]), Ok(()));
        assert_eq!(check(vec![nested(vec![put("a")], vec![]), put("a")]), twice("a"));
        assert_eq!(check(vec![put("a"), nested(vec![], vec![delete(a())])]), twice("a"));
        let (one, two) = (nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")]));
        assert_eq!(check(vec![one.clone(), two]), twice("a"));
        // etcd lets this pass, and then has two changes of a key in one revision.
        assert_eq!(check(vec![one, nested(vec![delete(a())], vec![])]), twice("a"));
        assert_eq!(check(vec![nested(vec![put("a")], vec![delete(a())])]), Ok(()));
    }

    #[test]
    fn lists_have_a_length_and_transactions_a_depth() {
        let too_many = |result: Result<(), Refused>| {
            assert!(matches!(result, Err(Refused::TooManyParts { .. })), "{result:?}");
        };
        let read = || TxnOp::Range(RangeRequest::new(KeyRange::all()));
        assert_eq!(check(vec![read(); MAX_LIST]), Ok(()));
        too_many(check(vec![read(); MAX_LIST + 1]));
        too_many(check(vec![nested(vec![read(); MAX_LIST], vec![]); 8]));
        let deep = |levels: u8| (1..levels).fold(vec![read()], |ops, _| vec![nested(ops, vec![])]);
        assert_eq!(check(deep(MAX_DEPTH)), Ok(()));
        too_many(check(deep(MAX_DEPTH + 1)));
    }

    #[test]
    fn what_is_nested_too_deep_is_not_decoded() {
        let deep = |levels: u32| {
            (1..levels).fold(Txn::default(), |txn, _| Txn {
                then: vec![TxnOp::Txn(Nested::new(txn))],
                ..Txn::default()
            })
        };
        let decode = |txn: &Txn| codec::decode::<Txn>(1, &codec::encode(1, txn));
        let deepest = deep(MAX_DEPTH.into());
        assert_eq!(decode(&deepest).unwrap(), deepest);
        assert!(decode(&deep(u32::from(MAX_DEPTH) + 1)).is_err());
        // No list is longer than what is left of the bytes, so this is as deep as they can say.
        let hostile: Vec<u8> = [&[1][..], &[0, 1, 3].repeat(200_000), &[0, 0, 0]].concat();
        assert!(codec::decode::<Txn>(1, &hostile).is_err());
        assert_eq!(decode(&deepest).unwrap(), deepest, "the failure has left nothing behind");
    }
}
