//! Transactions. First it is decided which way each goes, and whether that makes sense; then the
//! operations are staged one after the other.

use std::ops::ControlFlow;

use crate::command::{Command, Refused};
use crate::error::KvError;
use crate::model::Revision;
use crate::range::{Collector, RangeRequest};
use crate::reader::readable;
use crate::record::key_value;
use crate::scan::View;
use crate::txn::{Compare, Nested, OpOutcome, RangeOutcome, Txn, TxnOp, TxnOutcome};

use super::write::Budget;
use super::{Applier, Stop};

/// A transaction of which it is known which way it goes.
struct Decided<'t> {
    succeeded: bool,
    steps: Vec<Step<'t>>,
}

enum Step<'t> {
    /// Anything but a transaction.
    Op(&'t TxnOp),
    Txn(Decided<'t>),
}

impl Applier<'_> {
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome, Stop> {
        txn.check()?;
        let decided = self.decide(txn)?;
        self.check(&decided)?;
        let mut outcome = self.run(&decided, &mut Budget::new())?;
        settle(&mut outcome, self.revision_so_far());
        Ok(outcome)
    }

    /// Whether the database has to show everything before `command` is run: the past, and the keys
    /// of a lease, are read from the database only.
    pub(super) fn reads_database(command: &Command) -> bool {
        fn any(ops: &[TxnOp]) -> bool {
            ops.iter().any(|op| match op {
                TxnOp::Put(_) | TxnOp::DeleteRange(_) => false,
                TxnOp::Range(request) => request.revision.is_some(),
                TxnOp::Txn(txn) => any(&txn.then) || any(&txn.otherwise),
            })
        }
        match command {
            Command::Txn(txn) => any(&txn.then) || any(&txn.otherwise),
            Command::RevokeLease(_) | Command::RaiseAlarm(_) | Command::ClearAlarms(_) => true,
            Command::Put(_)
            | Command::DeleteRange(_)
            | Command::Compact(_)
            | Command::OpenSession { .. }
            | Command::KeepSession(_)
            | Command::CloseSession(_)
            | Command::Tick
            | Command::GrantLease(_)
            | Command::KeepLease(_)
            | Command::Activate(_) => false,
        }
    }

    fn decide<'t>(&self, txn: &'t Txn) -> Result<Decided<'t>, KvError> {
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded = succeeded && self.holds(compare)?;
        }
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let steps = ops.iter().map(|op| match op {
            TxnOp::Txn(nested) => Ok(Step::Txn(self.decide(nested)?)),
            TxnOp::Put(_) | TxnOp::Range(_) | TxnOp::DeleteRange(_) => Ok(Step::Op(op)),
        });
        Ok(Decided { succeeded, steps: steps.collect::<Result<_, KvError>>()? })
    }

    fn holds(&self, compare: &Compare) -> Result<bool, KvError> {
        let (mut any, mut all) = (false, true);
        self.visit(&compare.range, |key, record| {
            any = true;
            all = compare.holds(Some(&key_value(key, record)?));
            Ok(if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(if any { all } else { compare.holds(None) })
    }

    /// Whether what is to be done makes sense, given what is there before any of it.
    fn check(&self, decided: &Decided<'_>) -> Result<(), Stop> {
        for step in &decided.steps {
            match step {
                Step::Op(TxnOp::Put(put)) => self.check_put(put)?,
                Step::Op(TxnOp::Range(request)) => {
                    readable(request.revision, self.state).map_err(unreadable)?;
                }
                Step::Op(TxnOp::DeleteRange(_) | TxnOp::Txn(_)) => {}
                Step::Txn(decided) => self.check(decided)?,
            }
        }
        Ok(())
    }

    fn run(&mut self, decided: &Decided<'_>, budget: &mut Budget) -> Result<TxnOutcome, Stop> {
        let mut responses = Vec::new();
        for step in &decided.steps {
            responses.push(match step {
                Step::Op(TxnOp::Put(put)) => OpOutcome::Put(self.stage_put(put.clone(), budget)?),
                Step::Op(TxnOp::DeleteRange(delete)) => {
                    OpOutcome::DeleteRange(self.stage_delete(delete, budget)?)
                }
                Step::Op(TxnOp::Range(request)) => OpOutcome::Range(self.read(request, budget)?),
                Step::Op(TxnOp::Txn(_)) => continue, // Decided transactions stand apart.
                Step::Txn(decided) => OpOutcome::Txn(Nested::new(self.run(decided, budget)?)),
            });
        }
        let revision = self.revision_so_far();
        Ok(TxnOutcome { revision, succeeded: decided.succeeded, responses })
    }

    /// Reads the present, with what was staged before, or the past, of which the transaction is no
    /// part.
    fn read(&self, request: &RangeRequest, budget: &mut Budget) -> Result<RangeOutcome, Stop> {
        let found = if request.revision.is_some() {
            let view = View::new(self.store)?;
            let at = readable(request.revision, view.state()).map_err(unreadable)?;
            view.range(request, at, budget.room())?
        } else {
            let mut found = Collector::new(request, budget.room());
            self.visit(&request.range, |key, record| {
                found.add(key, record)?;
                Ok(ControlFlow::Continue(()))
            })?;
            found.finish()
        };
        for kv in &found.kvs {
            budget.returns(kv)?;
        }
        Ok(RangeOutcome { kvs: found.kvs, count: found.count, more: found.more })
    }
}

/// Lets all parts of the outcome speak of the revision that the whole has made.
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

fn unreadable(error: KvError) -> Stop {
    match error {
        KvError::Compacted { revision, compacted } => {
            Refused::Compacted { revision, compacted }.into()
        }
        KvError::FutureRevision { revision, current } => {
            Refused::FutureRevision { revision, current }.into()
        }
        KvError::Locked { .. }
        | KvError::Io { .. }
        | KvError::Storage { .. }
        | KvError::Format { .. }
        | KvError::Newer { .. }
        | KvError::Corrupt { .. }
        | KvError::WrongSnapshot { .. }
        | KvError::Config(_) => Stop::Failed(error),
    }
}
