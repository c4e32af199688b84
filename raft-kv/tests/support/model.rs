//! What the store has to do, in the fewest words: every state there has been, in full.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;
use raft_kv::{
    Command, Compact, CompactOutcome, Compare, Content, DeleteOutcome, DeleteRange, Field, Filter,
    KeyRange, KeyValue, KvError, KvReader, Nested, OpOutcome, Order, Outcome, Put, PutOutcome,
    RangeOutcome, RangeRequest, Refused, Relation, Revision, SortBy, Target, Txn, TxnOp,
    TxnOutcome,
};

type State = BTreeMap<Bytes, KeyValue>;

#[derive(Clone)]
pub(crate) struct Model {
    /// By revision, from the oldest that can be read.
    states: BTreeMap<u64, State>,
    compacted: Revision,
}

impl Model {
    pub(crate) fn new() -> Self {
        // Revisions 0 and 1 are both the empty store.
        Self { states: [(0, State::new()), (1, State::new())].into(), compacted: Revision(0) }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(*self.states.last_key_value().unwrap().0)
    }

    pub(crate) fn now(&self) -> &State {
        self.states.last_key_value().unwrap().1
    }

    pub(crate) fn run(&mut self, command: &Command) -> Outcome {
        let mut next = self.now().clone();
        let result = match command {
            Command::Put(put) => {
                self.check_put(put).map(|()| Outcome::Put(self.put(&mut next, put)))
            }
            Command::DeleteRange(delete) => {
                Ok(Outcome::DeleteRange(self.delete(&mut next, delete)))
            }
            Command::Compact(Compact { revision }) => {
                return match self.readable(*revision, true) {
                    Err(refused) => Outcome::Refused(refused),
                    Ok(()) => {
                        self.compacted = *revision;
                        self.states.retain(|at, _| *at >= revision.0);
                        let compacted = *revision;
                        Outcome::Compact(CompactOutcome { revision: self.revision(), compacted })
                    }
                };
            }
            Command::OpenSession { .. }
            | Command::KeepSession(_)
            | Command::CloseSession(_)
            | Command::Tick
            | Command::GrantLease(_)
            | Command::KeepLease(_)
            | Command::RevokeLease(_) => panic!("tests/timed.rs has a model of {command:?}"),
            Command::Activate(_) | Command::RaiseAlarm(_) | Command::ClearAlarms(_) => {
                panic!("tests/scripts/upkeep has what there is to {command:?}")
            }
            Command::Txn(txn) => txn.check().and_then(|()| {
                self.check_txn(txn)?;
                let mut outcome = self.txn(&mut next, txn);
                // It is one revision, whichever part of it has written.
                settle(
                    &mut outcome,
                    if next == *self.now() { self.revision() } else { self.next() },
                );
                Ok(Outcome::Txn(outcome))
            }),
        };
        if result.is_ok() && next != *self.now() {
            self.states.insert(self.next().0, next);
        }
        result.unwrap_or_else(Outcome::Refused)
    }

    fn next(&self) -> Revision {
        self.revision().next()
    }

    fn readable(&self, revision: Revision, later: bool) -> Result<(), Refused> {
        let (current, compacted) = (self.revision(), self.compacted);
        if revision < compacted || (later && revision == compacted) {
            return Err(Refused::Compacted { revision, compacted });
        }
        if revision > current {
            return Err(Refused::FutureRevision { revision, current });
        }
        Ok(())
    }

    fn check_put(&self, put: &Put) -> Result<(), Refused> {
        if put.key.is_empty() {
            return Err(Refused::EmptyKey);
        }
        if let Field::Set(Some(lease)) = put.lease {
            return Err(Refused::NoSuchLease(lease));
        }
        if put.needs_key() && !self.now().contains_key(&put.key) {
            return Err(Refused::NoSuchKey(put.key.clone()));
        }
        Ok(())
    }

    fn put(&self, next: &mut State, put: &Put) -> PutOutcome {
        let revision = self.next();
        let before = next.get(&put.key).cloned();
        let kv = KeyValue {
            key: put.key.clone(),
            value: match &put.value {
                Field::Set(value) => value.clone(),
                Field::Keep => before.as_ref().unwrap().value.clone(),
            },
            create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            lease: match put.lease {
                Field::Set(lease) => lease,
                Field::Keep => before.as_ref().unwrap().lease,
            },
        };
        next.insert(put.key.clone(), kv);
        PutOutcome { revision, previous: before.filter(|_| put.prev_kv) }
    }

    fn delete(&self, next: &mut State, delete: &DeleteRange) -> DeleteOutcome {
        let gone = in_range(next, &delete.range);
        next.retain(|key, _| !delete.range.contains(key));
        DeleteOutcome {
            revision: if gone.is_empty() { self.revision() } else { self.next() },
            deleted: gone.len() as u64,
            previous: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    fn succeeds(&self, txn: &Txn) -> bool {
        txn.compare.iter().all(|compare| {
            let found = in_range(self.now(), &compare.range);
            if found.is_empty() {
                return holds(compare, None);
            }
            found.iter().all(|kv| holds(compare, Some(kv)))
        })
    }

    fn way<'t>(&self, txn: &'t Txn) -> &'t [TxnOp] {
        if self.succeeds(txn) { &txn.then } else { &txn.otherwise }
    }

    fn check_txn(&self, txn: &Txn) -> Result<(), Refused> {
        for op in self.way(txn) {
            match op {
                TxnOp::Put(put) => self.check_put(put)?,
                TxnOp::Range(RangeRequest { revision: Some(at), .. }) => {
                    self.readable(*at, false)?;
                }
                TxnOp::Range(_) | TxnOp::DeleteRange(_) => {}
                TxnOp::Txn(txn) => self.check_txn(txn)?,
            }
        }
        Ok(())
    }

    fn txn(&self, next: &mut State, txn: &Txn) -> TxnOutcome {
        let responses = self.way(txn).iter().map(|op| match op {
            TxnOp::Put(put) => OpOutcome::Put(self.put(next, put)),
            TxnOp::DeleteRange(delete) => OpOutcome::DeleteRange(self.delete(next, delete)),
            TxnOp::Range(request) => {
                let state = match request.revision {
                    None => &*next,
                    Some(at) => &self.states[&at.0],
                };
                OpOutcome::Range(answer(state, request))
            }
            TxnOp::Txn(txn) => OpOutcome::Txn(Nested::new(self.txn(next, txn))),
        });
        let responses = responses.collect();
        TxnOutcome { revision: Revision(0), succeeded: self.succeeds(txn), responses }
    }

    /// Every revision that can be read, and the present.
    pub(crate) fn check_all(&self, reader: &KvReader) {
        assert_eq!(reader.revision(), self.revision());
        for (at, state) in &self.states {
            let request = RangeRequest {
                revision: Some(Revision(*at)),
                ..RangeRequest::new(KeyRange::all())
            };
            let reply = reader.range(&request).unwrap();
            assert_eq!(reply.kvs, in_range(state, &KeyRange::all()), "at revision {at}");
        }
        let now = reader.range(&RangeRequest::new(KeyRange::all())).unwrap();
        assert_eq!(now.kvs, in_range(self.now(), &KeyRange::all()));
    }

    pub(crate) fn check(&self, reader: &KvReader, request: &RangeRequest) {
        let reply = match reader.range(request) {
            Err(KvError::Compacted { .. }) => {
                assert!(request.revision.unwrap() < self.compacted);
                return;
            }
            Err(KvError::FutureRevision { .. }) => {
                assert!(request.revision.unwrap() > self.revision());
                return;
            }
            other => other.unwrap(),
        };
        let at = request.revision.unwrap_or_else(|| self.revision());
        let expected = answer(&self.states[&at.0], request);
        assert_eq!(reply.revision, self.revision());
        let found = RangeOutcome { kvs: reply.kvs, count: reply.count, more: reply.more };
        assert_eq!(found, expected);
    }
}

fn in_range(state: &State, range: &KeyRange) -> Vec<KeyValue> {
    state.values().filter(|kv| range.contains(&kv.key)).cloned().collect()
}

fn answer(state: &State, request: &RangeRequest) -> RangeOutcome {
    let mut kvs = in_range(state, &request.range);
    let count = kvs.len() as u64;
    if request.content == Content::CountOnly {
        return RangeOutcome { count, ..RangeOutcome::default() };
    }
    kvs.retain(|kv| passes(request.filter, kv));
    kvs.sort_by(|a, b| {
        let ordering = match request.sort.by {
            SortBy::Key => a.key.cmp(&b.key),
            SortBy::Version => a.version.cmp(&b.version),
            SortBy::CreateRevision => a.create_revision.cmp(&b.create_revision),
            SortBy::ModRevision => a.mod_revision.cmp(&b.mod_revision),
            SortBy::Value => a.value.cmp(&b.value),
        };
        let ordering = match request.sort.order {
            Order::Ascending => ordering,
            Order::Descending => ordering.reverse(),
        };
        ordering.then_with(|| a.key.cmp(&b.key))
    });
    if request.content == Content::KeysOnly {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    let limit = request.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    RangeOutcome { kvs, count, more }
}

fn passes(filter: Filter, kv: &KeyValue) -> bool {
    filter.min_mod_revision.is_none_or(|min| kv.mod_revision >= min)
        && filter.max_mod_revision.is_none_or(|max| kv.mod_revision <= max)
        && filter.min_create_revision.is_none_or(|min| kv.create_revision >= min)
        && filter.max_create_revision.is_none_or(|max| kv.create_revision <= max)
}

fn holds(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let number = |of: fn(&KeyValue) -> u64| kv.map_or(0, of);
    let ordering = match &compare.target {
        Target::Value(value) => match kv {
            None => return false,
            Some(kv) => kv.value.cmp(value),
        },
        Target::Version(version) => number(|kv| kv.version).cmp(version),
        Target::CreateRevision(at) => number(|kv| kv.create_revision.0).cmp(&at.0),
        Target::ModRevision(at) => number(|kv| kv.mod_revision.0).cmp(&at.0),
        Target::Lease(lease) => {
            let id = |lease: Option<raft_kv::LeaseId>| lease.map_or(0, |id| id.0.get());
            id(kv.and_then(|kv| kv.lease)).cmp(&id(*lease))
        }
    };
    match compare.relation {
        Relation::Equal => ordering == Ordering::Equal,
        Relation::NotEqual => ordering != Ordering::Equal,
        Relation::Less => ordering == Ordering::Less,
        Relation::Greater => ordering == Ordering::Greater,
    }
}

fn settle(outcome: &mut TxnOutcome, revision: Revision) {
    outcome.revision = revision;
    for response in &mut outcome.responses {
        match response {
            OpOutcome::Put(put) => put.revision = revision,
            OpOutcome::DeleteRange(delete) => delete.revision = revision,
            OpOutcome::Range(_) => {}
            OpOutcome::Txn(txn) => settle(txn, revision),
        }
    }
}
