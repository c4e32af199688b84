//! The state machine around the other.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_core::sessions::{ClusterTime, SessionTable};
use raft_core::{
    Applied, Entry, Index, LogId, MachineError, Membership, Payload, SnapshotReader,
    SnapshotSource, StateMachine,
};

use crate::books::{Books, Decision, Event, Note};
use crate::error::SessionsError;
use crate::keeper::Keeper;
use crate::kept::{Home, KeptSource, MachinePart};
use crate::proposal::{Outcome, Proposal, Request};

/// `S`, with exactly-once sessions around it. Its commands are [`Proposal`]s and its outcomes
/// [`Outcome`]s; `S` sees the commands that they carry, and empty entries for the rest.
///
/// Commands without a tag reach `S` in batches. A command of a session is the last of its batch, since whether
/// the next may be run depends on how long the answer is.
///
/// Durable by its pairs (see the crate), whatever `S` makes of [`StateMachine::durable`].
#[derive(Debug)]
pub struct Sessions<S> {
    machine: S,
    books: Books,
    keeper: Keeper,
    past: Mutex<Past>,
    view: View,
}

/// What it takes to have the books of an earlier entry: `S` may give snapshots that are older than what it
/// has applied.
#[derive(Debug)]
struct Past {
    /// The books as of the last pair, or as of an entry that no snapshot of `S` can come before.
    books: Books,
    /// What came after.
    notes: Vec<Note>,
    /// What the notes weigh.
    weight: usize,
    /// Once they weigh so much, it is asked how far `S` is durable.
    patience: usize,
}

/// What others see of the books, at any time. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    clock: AtomicU64,
    has_sessions: AtomicBool,
}

impl<S: StateMachine> Sessions<S> {
    /// Puts sessions around `machine`, with what was kept in the directory `dir`, which is theirs alone. If
    /// nothing was, both must be new. Puts the machine back to the last pair, if it stands elsewhere.
    ///
    /// # Errors
    ///
    /// [`SessionsError`].
    pub fn open(dir: &Path, mut machine: S) -> Result<Self, SessionsError> {
        let home = Home::open(dir)?;
        let (kept, books) = match home.load()? {
            Some((kept, books)) => {
                if machine.applied().last != books.applied.last {
                    put_to(&mut machine, books.applied.last, kept.machine())?;
                }
                (kept, books)
            }
            None => {
                let applied = machine.applied().last;
                if applied != LogId::ZERO {
                    return Err(SessionsError::NotNew { applied });
                }
                // So that there is a way back, however far the machine goes by itself.
                let books = Books::default();
                let mut source = machine.snapshot()?;
                let written = home
                    .write(FIRST, books.clone(), &mut *source, &AtomicBool::new(false))
                    .and_then(|part| home.name(part));
                let kept = written.map_err(|source| {
                    let path = dir.to_owned();
                    SessionsError::Io { doing: "keeping the first pair", path, source }
                })?;
                (kept, books)
            }
        };
        let past = Past::new(books.clone());
        let keeper = Keeper::new(home, kept);
        let view = View::default();
        view.show(&books);
        Ok(Self { machine, books, keeper, past: Mutex::new(past), view })
    }

    /// The inner machine.
    pub fn machine(&self) -> &S {
        &self.machine
    }

    /// The sessions as of the last entry applied.
    pub fn sessions(&self) -> &SessionTable {
        self.books.sessions()
    }

    /// How many entries it could go back, for the sake of snapshots that are older than what was applied. If
    /// it comes to some 65,000, or with long answers to 256 MiB, while a pair is being written, applying waits
    /// for that.
    pub fn remembered(&self) -> usize {
        lock(&self.past).notes.len()
    }

    /// What is to be seen of it once it is in a node: what a [`Gate`](crate::Gate) needs.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Applies what waits for the inner machine, and pushes the outcomes.
    fn run(
        &mut self,
        batch: &mut Batch,
        outcomes: &mut Vec<Bytes>,
    ) -> Result<Option<Bytes>, MachineError> {
        if batch.entries.is_empty() {
            return Ok(None);
        }
        let mut answers = Vec::with_capacity(batch.entries.len());
        self.machine.apply(&batch.entries, &mut answers)?;
        assert_eq!(
            answers.len(),
            batch.entries.len(),
            "the inner machine gives an outcome an entry"
        );
        let last = answers.last().cloned();
        for (settled, answer) in batch.settled.drain(..).zip(answers) {
            outcomes.push(settled.unwrap_or_else(|| Outcome::Answer(answer).encode()));
        }
        batch.entries.clear();
        Ok(last)
    }

    fn enter_all(
        &mut self,
        entries: &[Entry],
        outcomes: &mut Vec<Bytes>,
    ) -> Result<(), MachineError> {
        let mut batch = Batch::default();
        for entry in entries {
            let before = self.books.applied.last;
            assert_eq!(entry.id.index, before.index.next(), "not the next entry after {before}");
            self.enter(entry, &mut batch, outcomes)?;
        }
        self.run(&mut batch, outcomes).map(drop)
    }

    fn enter(
        &mut self,
        entry: &Entry,
        batch: &mut Batch,
        outcomes: &mut Vec<Bytes>,
    ) -> Result<(), MachineError> {
        let id = entry.id;
        let event = match event(entry) {
            Ok(event) => event,
            Err(error) => {
                self.run(batch, outcomes)?;
                return Err(error);
            }
        };
        let mut answer = None;
        match &event {
            Event::Nothing => {
                self.books.pass(id, None);
                batch.add(entry.clone(), Some(Bytes::new()));
            }
            Event::Membership(membership) => {
                self.books.pass(id, Some(membership.clone()));
                batch.add(entry.clone(), Some(Bytes::new()));
            }
            Event::Request(proposal) => match self.books.decide(id, proposal) {
                Decision::Settled(outcome) => {
                    batch.add(Entry { id, payload: Payload::Empty }, Some(outcome.encode()));
                }
                Decision::Run(tag) => {
                    batch.add(Entry { id, payload: Payload::Command(proposal.command()) }, None);
                    if let Some(tag) = tag {
                        let given = self.run(batch, outcomes)?.unwrap_or_default();
                        // It may be a piece of something long, which must not stay for its sake.
                        let given = Bytes::copy_from_slice(&given);
                        self.books.answered(tag, given.clone());
                        answer = Some(given);
                    }
                }
            },
        }
        let note = Note { id, event: event.without_command(), answer };
        lock(&self.past).add(note);
        Ok(())
    }

    /// Lets go of notes that no snapshot can ask for any more, and sees to it that there will be some.
    fn trim(&mut self) -> Result<(), MachineError> {
        let past = self.past.get_mut().unwrap_or_else(PoisonError::into_inner);
        if past.weight < past.patience {
            return Ok(());
        }
        let floor = self.machine.durable()?;
        past.advance(floor);
        // A machine that lives in memory will never say so by itself.
        if past.weight >= PATIENCE {
            if past.weight >= LIMIT {
                // The disk is slower than the log: those who propose have to wait for it.
                self.keeper.wait();
            }
            self.keep()?;
        }
        let mut past = lock(&self.past);
        past.patience = past.weight + PATIENCE;
        Ok(())
    }

    /// Begins to keep a pair, if there is anything new in it.
    fn keep(&self) -> Result<(), MachineError> {
        let mut past = lock(&self.past);
        if self.keeper.is_busy() {
            return Ok(());
        }
        let kept = self.keeper.kept().map_err(storage("keeping a pair"))?.index();
        if kept >= self.books.applied.last.index {
            return Ok(());
        }
        let source = self.machine.snapshot()?;
        let last = source.meta().last;
        if last.index <= kept || last.index < past.books.applied.last.index {
            return Ok(());
        }
        past.advance(last.index);
        assert_eq!(past.books.applied.last, last, "a snapshot is of an entry that was applied");
        let books = past.books.clone();
        self.keeper.begin(books, source).map_err(storage("keeping a pair"))
    }
}

impl<S: StateMachine> StateMachine for Sessions<S> {
    fn applied(&self) -> Applied {
        self.books.applied.clone()
    }

    fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Bytes>) -> Result<(), MachineError> {
        let before = self.books.applied.last;
        if let Err(error) = self.enter_all(entries, outcomes) {
            // The node stops. What was begun does not count as applied.
            self.books.applied.last = before;
            return Err(error);
        }
        self.view.show(&self.books);
        self.trim()
    }

    /// How far the last pair goes; begins the next, which takes time in proportion to the inner machine's data.
    fn durable(&mut self) -> Result<Index, MachineError> {
        let kept = self.keeper.kept().map_err(storage("keeping a pair"))?.index();
        // One that gives old snapshots gives newer ones once it is asked to.
        self.machine.durable()?;
        self.keep()?;
        Ok(kept)
    }

    /// The last pair. Begins the next, if that is not of the last entry.
    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let kept = self.keeper.kept().map_err(storage("keeping a pair"))?;
        self.keep()?;
        Ok(Box::new(KeptSource::new(kept)))
    }

    fn restore(&mut self, mut snapshot: Box<dyn SnapshotReader>) -> Result<Applied, MachineError> {
        let last = snapshot.meta().last;
        let unknown =
            |what| MachineError::Unknown { what: format!("the snapshot of {last}: {what}") };
        let part = self.keeper.receive(&mut *snapshot).map_err(|unfit| unknown(unfit.0))?;
        // The pair counts after the machine has taken its part. If the power goes in between, the machine is
        // put back to the pair before.
        if let Err(error) = put_to(&mut self.machine, last, part.machine()) {
            part.discard();
            return Err(error);
        }
        self.books = part.books().clone();
        *lock(&self.past) = Past::new(self.books.clone());
        self.keeper.take(part).map_err(storage("keeping a snapshot"))?;
        self.view.show(&self.books);
        Ok(self.applied())
    }
}

impl View {
    /// What time it is in the log, and whether there is no session that time could end.
    pub fn clock(&self) -> (ClusterTime, bool) {
        let clock = ClusterTime(self.shared.clock.load(Ordering::Acquire));
        (clock, !self.shared.has_sessions.load(Ordering::Acquire))
    }

    fn show(&self, books: &Books) {
        self.shared.clock.store(books.clock.0, Ordering::Release);
        self.shared.has_sessions.store(!books.sessions().is_empty(), Ordering::Release);
    }
}

impl Past {
    fn new(books: Books) -> Self {
        Self { books, notes: Vec::new(), weight: 0, patience: PATIENCE }
    }

    fn add(&mut self, note: Note) {
        self.weight += weight(&note);
        self.notes.push(note);
    }

    /// Brings the books up to `to`.
    fn advance(&mut self, to: Index) {
        let after = self.notes.partition_point(|note| note.id.index <= to);
        for note in self.notes.drain(..after) {
            self.weight -= weight(&note);
            self.books.replay(note);
        }
    }
}

/// Entries that wait for the inner machine, each with its outcome if that is known already.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    settled: Vec<Option<Bytes>>,
}

impl Batch {
    fn add(&mut self, entry: Entry, settled: Option<Bytes>) {
        self.entries.push(entry);
        self.settled.push(settled);
    }
}

/// Has `machine` take `part`, which is of `last`.
fn put_to<S: StateMachine>(
    machine: &mut S,
    last: LogId,
    part: MachinePart,
) -> Result<(), MachineError> {
    let applied = machine.restore(Box::new(part))?;
    // The node cannot see it: what it is told is how far the books are.
    assert_eq!(applied.last, last, "the inner machine restored something else");
    Ok(())
}

/// One, and one more for every 4 KiB that were answered: a client may acknowledge its answers at once, so
/// the bounds of the books are none for the notes.
fn weight(note: &Note) -> usize {
    1 + note.answer.as_ref().map_or(0, |answer| answer.len() / 4096)
}

fn event(entry: &Entry) -> Result<Event, MachineError> {
    match &entry.payload {
        Payload::Empty => Ok(Event::Nothing),
        Payload::Membership(membership) => Ok(Event::Membership(Membership::clone(membership))),
        Payload::Command(command) => {
            // Never passed over: replicas would part without anybody noticing (rule L18).
            Proposal::decode(command).map(Event::Request).map_err(|error| MachineError::Unknown {
                what: format!("the request at {}: {error}", entry.id),
            })
        }
    }
}

impl Proposal {
    /// What the inner machine is given.
    fn command(&self) -> Bytes {
        match &self.request {
            Request::Run { command, .. } => command.clone(),
            Request::Open { .. } | Request::Keep(_) | Request::Close(_) | Request::Tick => {
                Bytes::new()
            }
        }
    }
}

fn storage(doing: &'static str) -> impl Fn(std::io::Error) -> MachineError {
    move |source| MachineError::Storage { doing, source: Box::new(source) }
}

/// A panic elsewhere leaves these as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of the first pair.
const FIRST: u64 = 1;
/// Notes of so much weight come together before it is asked how far the inner machine is durable.
const PATIENCE: usize = 16_384;
/// If they weigh more, and a pair is being written, applying waits for that.
const LIMIT: usize = 4 * PATIENCE;
