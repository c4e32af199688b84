//! What must hold whatever happens, seen from above: the simulator knows all disks, all logs and all
//! clients at once, and compares every event with what was true before.
//!
//! Paper: Figure 3. The checks know nothing of how the protocol works; they look at disks, at what was
//! applied, and at what clients were told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use raft_core::{HardState, Index, LogId, NodeId, Term};

use super::machine::{Command, REGISTERS, Step};

/// What was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// At most one leader in a term (§5.2).
    ElectionSafety,
    /// A leader never overwrites its own log (§5.3).
    LeaderAppendOnly,
    /// Equal index and term mean equal logs up to there (§5.3).
    LogMatching,
    /// What is committed is in the log of every later leader (§5.4).
    LeaderCompleteness,
    /// While a leader holds a lease nobody else is elected (dissertation 6.4.1).
    LeaseExclusion,
    /// No two replicas apply different things at one index (§5.4.3).
    StateMachineSafety,
    /// What is committed or acknowledged is on the disks of a quorum, and stays.
    Durability,
    /// Every client sees what an only server would have shown it (§8).
    Linearizability,
    /// A client was told that something has not happened, and it has.
    Promise,
    /// Terms, votes, commit and applied indices never fall.
    Monotone,
    /// At most one change of membership at a time (dissertation 4.1).
    OneChange,
    /// Once faults stop there is progress, in bounded time.
    Liveness,
    /// A node can always come back from its disk.
    Restart,
    /// The same seed gives the same run.
    Determinism,
    /// An assertion of the code under test.
    Panic,
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// By whom and how.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(check: Check, what: impl Into<String>) -> Self {
        Self { check, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.what)
    }
}

/// Builds the violation only if there is one.
macro_rules! ensure {
    ($holds:expr, $check:ident, $($what:tt)+) => {
        if !$holds {
            return Err($crate::sim::truth::Violation::new($crate::sim::truth::Check::$check, format!($($what)+)));
        }
    };
}
pub(crate) use ensure;

/// What is known to be true, for ever.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    leaders: BTreeMap<Term, NodeId>,
    /// By index, from 1: the term that was committed there.
    committed: Vec<Term>,
    /// By index: the term of the leader that knew first.
    committed_in: Vec<Term>,
    /// By index: every entry that was ever on any disk.
    written: Vec<Vec<Known>>,
    /// By index: the hash of the state after it.
    hashes: Vec<u64>,
    /// Every value of each register: since which index, which.
    registers: [Vec<(u64, u32)>; REGISTERS],
    /// By operation.
    fates: Vec<Fate>,
    /// The highest place in the log that an answer to a client has shown to exist.
    pub(crate) floor: u64,
    /// Who was a voter in any configuration that anybody went by.
    pub(crate) ever_voters: BTreeSet<NodeId>,
}

/// An entry on some disk, and what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    term: Term,
    before: Term,
    payload: u64,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// Where it was applied; 0 if it was not.
    index: u64,
    /// What its register held before.
    before: u32,
    /// Somebody was told that it would never take effect.
    void: bool,
}

impl Truth {
    /// How much is committed.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.len() as u64
    }

    /// The last entry that was committed in an earlier term than `term`. What was committed in a later
    /// one a leader of `term`, elected late and leading nobody, need not hold.
    pub(crate) fn committed_before(&self, term: Term) -> LogId {
        let count = self.committed_in.iter().rposition(|known| *known < term);
        let count = count.map_or(0, |last| last + 1);
        let last = count.checked_sub(1).map_or(Term(0), |last| self.committed[last]);
        LogId::new(last, Index(count as u64))
    }

    /// The node leads in this term.
    pub(crate) fn on_leader(&mut self, term: Term, node: NodeId) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(node);
        ensure!(first == node, ElectionSafety, "{first:?} and {node:?} both lead in term {term}");
        Ok(())
    }

    /// A node of term `now` says that this entry is committed. True if nobody has said so before.
    pub(crate) fn on_committed(
        &mut self,
        node: NodeId,
        id: LogId,
        now: Term,
    ) -> Result<bool, Violation> {
        let known = self.committed();
        if id.index.0 <= known {
            let term = self.committed[place(id.index.0)];
            ensure!(
                term == id.term,
                StateMachineSafety,
                "{node:?} holds {id} for committed, where term {term} was committed before"
            );
            return Ok(false);
        }
        ensure!(
            id.index.0 == known + 1,
            StateMachineSafety,
            "{node:?} holds {id} for committed, but only {known} entries can be"
        );
        self.committed.push(id.term);
        self.committed_in.push(now);
        Ok(true)
    }

    /// An entry was written to a disk after an entry of term `before`.
    pub(crate) fn on_written(
        &mut self,
        node: NodeId,
        id: LogId,
        before: Term,
        payload: u64,
    ) -> Result<(), Violation> {
        let at = place(id.index.0);
        if self.written.len() <= at {
            self.written.resize_with(at + 1, Vec::new);
        }
        let new = Known { term: id.term, before, payload };
        match self.written[at].iter().find(|known| known.term == id.term) {
            Some(known) => ensure!(
                *known == new,
                LogMatching,
                "{node:?} writes {id} after term {before} with content {payload:x}, but elsewhere \
                 it is {known:x?}"
            ),
            None => self.written[at].push(new),
        }
        Ok(())
    }

    /// Term and vote were written to a disk.
    pub(crate) fn on_hard(node: NodeId, old: HardState, new: HardState) -> Result<(), Violation> {
        ensure!(new.term >= old.term, Monotone, "the term of {node:?} fell: {old:?} to {new:?}");
        ensure!(
            new.term > old.term || old.vote.is_none() || new.vote == old.vote,
            Monotone,
            "{node:?} voted twice in a term: {old:?}, then {new:?}"
        );
        Ok(())
    }

    /// A state machine has applied this. Returns the operation if nobody has applied it before.
    pub(crate) fn on_applied(
        &mut self,
        node: NodeId,
        step: &Step,
    ) -> Result<Option<Command>, Violation> {
        let index = step.id.index.0;
        let done = self.hashes.len() as u64;
        if index <= done {
            let expected = self.hashes[place(index)];
            ensure!(
                step.hash == expected,
                StateMachineSafety,
                "the state of {node:?} at {} is {:x}, elsewhere it was {expected:x}",
                step.id,
                step.hash
            );
            return Ok(None);
        }
        ensure!(
            index == done + 1,
            StateMachineSafety,
            "{node:?} has applied {}, but nobody has applied {}",
            step.id,
            done + 1
        );
        ensure!(
            self.committed.get(place(index)) == Some(&step.id.term),
            StateMachineSafety,
            "{node:?} applies {}, which is not committed",
            step.id
        );
        self.hashes.push(step.hash);
        let Some(command) = step.command else { return Ok(None) };
        let fate = self.fate(command.op());
        ensure!(
            fate.index == 0,
            StateMachineSafety,
            "{command:?} was applied at {} and again at {index}",
            fate.index
        );
        ensure!(!fate.void, Promise, "{command:?} was called void, and is applied at {index}");
        fate.index = index;
        if let Command::Put { register, op } = command {
            let values = &mut self.registers[usize::from(register)];
            let before = values.last().map_or(0, |(_, value)| *value);
            values.push((index, op));
            self.fate(op).before = before;
        }
        Ok(Some(command))
    }

    /// A client was told that its write is done, at this place in the log.
    pub(crate) fn on_acknowledged(
        &mut self,
        command: Command,
        id: LogId,
        outcome: u32,
        floor: u64,
    ) -> Result<(), Violation> {
        let fate = *self.fate(command.op());
        ensure!(
            fate.index == id.index.0,
            Durability,
            "{command:?} was acknowledged at {id}, but was applied at {}",
            fate.index
        );
        ensure!(
            id.index.0 > floor,
            Linearizability,
            "{command:?} stands at {id}, but {floor} was known when it was sent"
        );
        let expected = match command {
            Command::Put { .. } => fate.before,
            Command::Once { .. } => 0,
        };
        ensure!(
            outcome == expected,
            Linearizability,
            "{command:?} found {outcome}, where there was {expected}"
        );
        self.floor = self.floor.max(id.index.0);
        Ok(())
    }

    /// A client was told that its write will never take effect.
    pub(crate) fn on_void(&mut self, command: Command) -> Result<(), Violation> {
        let fate = self.fate(command.op());
        fate.void = true;
        ensure!(
            fate.index == 0,
            Promise,
            "{command:?} was called void, but was applied at {}",
            fate.index
        );
        Ok(())
    }

    /// A client was allowed to read after `index`, and found `value` in a state that has come to `at`.
    pub(crate) fn on_read(
        &mut self,
        node: NodeId,
        register: u8,
        (index, at): (u64, u64),
        value: u32,
        floor: u64,
    ) -> Result<(), Violation> {
        ensure!(at >= index, Linearizability, "{node:?} reads after {index} in a state of {at}");
        ensure!(
            index >= floor,
            Linearizability,
            "{node:?} lets a client read at {index}, but {floor} was known when it asked"
        );
        let values = &self.registers[usize::from(register)];
        let before = values.partition_point(|(since, _)| *since <= at);
        let expected = before.checked_sub(1).map_or(0, |last| values[last].1);
        ensure!(
            value == expected,
            Linearizability,
            "{node:?} shows {value} in register {register} at {at}, where {expected} is right"
        );
        self.floor = self.floor.max(at);
        Ok(())
    }

    /// Whether the operation was applied anywhere.
    pub(crate) fn was_applied(&self, op: u32) -> bool {
        self.applied_at(op).is_some()
    }

    /// Where the operation was applied, if it was.
    pub(crate) fn applied_at(&self, op: u32) -> Option<u64> {
        self.fates.get(op as usize).map(|fate| fate.index).filter(|index| *index > 0)
    }

    fn fate(&mut self, op: u32) -> &mut Fate {
        let at = op as usize;
        if self.fates.len() <= at {
            self.fates.resize_with(at + 1, Fate::default);
        }
        &mut self.fates[at]
    }
}

/// Where something at this index stands in a list that begins with index 1.
fn place(index: u64) -> usize {
    usize::try_from(index.saturating_sub(1)).expect("as many entries as fit in memory")
}
