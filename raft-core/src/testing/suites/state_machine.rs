//! What every [`StateMachine`] must do. Rules C1, C3, L18, M9, S2, S3.
//!
//! To test a machine of your own, say where it lives by implementing [`MachinePlace`], and let
//! [`state_machine_suite!`](crate::state_machine_suite) make a test of each case:
//!
//! ```ignore
//! raft_core::state_machine_suite!(my_machine, MyPlace::new);
//! ```
//!
//! A complete machine that passes is in `raft-core/tests/file_machine/mod.rs`; machines that do not,
//! each broken in one way, are in `raft-core/tests/state_machine_suite.rs`.
//!
//! A machine may be lazy: what it applied may be durable later, and a snapshot may be of an earlier
//! entry than the last. It may never be less than [`StateMachine::durable`] has answered.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "the cases are tests: they fail by panicking"
)]

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::entry::{Entry, Membership, Payload};
use crate::snapshot::{SnapshotFile, SnapshotMeta, SnapshotReader, SnapshotSource};
use crate::state_machine::{MachineError, StateMachine};
use crate::testing::MemSnapshot;
use crate::types::{Index, LogId, NodeId, Term};

/// Where a machine under test lives. It outlives the machine, as a disk outlives a process.
pub trait MachinePlace: Sized + Send + 'static {
    /// The machine.
    type Machine: StateMachine;

    /// Opens the machine. The first time it is empty. Then it holds at least what the one before had
    /// made durable; that one is dropped by then.
    fn open(&self) -> Self::Machine;

    /// What would be found if the power went at this moment, as a place of its own: a copy of the
    /// directory. The machine is open, and may be in the middle of a restore.
    fn image(&self) -> Self;

    /// A command; the same number makes the same. Choose a few keys that the numbers share, so that
    /// order shows, and outcomes that tell of the state before.
    fn command(&self, number: u64) -> Bytes;

    /// What tells two states apart: a hash, or all of the state. `machine` is of this place.
    fn digest(&self, machine: &Self::Machine) -> Vec<u8>;

    /// A command that the machine must not pass over, if there is any: one of a later version (rule L18).
    fn unknown_command(&self) -> Option<Bytes> {
        None
    }
}

/// Makes a module `$name` with a test of each case; `$make` gives a new, empty
/// [`MachinePlace`](crate::testing::suites::state_machine::MachinePlace), as often as it is called.
#[macro_export]
macro_rules! state_machine_suite {
    ($name:ident, $make:expr) => {
        $crate::__state_machine_cases! { @each tests [$name, $make] }
    };
}

/// The list of cases, in one place.
#[doc(hidden)]
#[macro_export]
macro_rules! __state_machine_cases {
    (@each $kind:ident [$($with:tt)*]) => {
        $crate::__state_machine_cases! { @$kind [$($with)*]
            a_new_machine_has_applied_nothing
            every_entry_has_one_outcome_and_counts
            batches_cut_in_any_way_do_the_same
            a_crash_between_any_two_calls_is_made_good_by_the_log
            everything_is_durable_in_the_end
            a_snapshot_is_of_the_entry_it_names
            a_snapshot_reads_the_same_in_any_pieces
            a_restored_machine_goes_on_like_any_other
            a_restore_lasts
            a_crash_while_restoring_leaves_one_state_or_the_other
            two_snapshots_do_not_disturb_each_other
            a_snapshot_that_is_not_whole_changes_nothing
            an_unknown_command_stops_the_machine
        }
    };
    (@tests [$name:ident, $make:expr] $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports, reason = "what the maker is may be named in full")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::testing::suites::state_machine::$case(&|| ($make)());
                }
            )*
        }
    };
    (@list [$place:ident] $($case:ident)*) => {
        vec![$((stringify!($case), $case::<$place> as fn(&dyn Fn() -> $place))),*]
    };
}

/// A case and its name.
pub type Case<P> = (&'static str, fn(&dyn Fn() -> P));

/// Every case with its name, for those who run them in another way. Each makes its own places.
pub fn cases<P: MachinePlace>() -> Vec<Case<P>> {
    crate::__state_machine_cases!(@each list [P])
}

/// A new machine stands before the first entry, however often it is opened.
pub fn a_new_machine_has_applied_nothing<P: MachinePlace>(new: &dyn Fn() -> P) {
    let place = new();
    for _ in 0..2 {
        let mut machine = place.open();
        assert_eq!(machine.applied().last, LogId::ZERO);
        assert_eq!(machine.applied().membership, None);
        assert_eq!(machine.durable().unwrap(), Index::ZERO);
    }
}

/// Entries that are no commands have an empty outcome and count all the same (rule M9).
pub fn every_entry_has_one_outcome_and_counts<P: MachinePlace>(new: &dyn Fn() -> P) {
    let place = new();
    let mut machine = place.open();
    let mut outcomes = vec![Bytes::from_static(b"of somebody else")];
    let mut membership = None;
    for (number, entry) in history(&place).iter().enumerate() {
        machine.apply(std::slice::from_ref(entry), &mut outcomes).unwrap();
        assert_eq!(outcomes.len(), number + 2, "one outcome an entry, after those of others");
        match &entry.payload {
            Payload::Command(_) => {}
            Payload::Empty => assert_eq!(outcomes[number + 1], ""),
            Payload::Membership(found) => {
                assert_eq!(outcomes[number + 1], "");
                membership = Some((entry.id, Membership::clone(found)));
            }
        }
        assert_eq!(
            (machine.applied().last, machine.applied().membership),
            (entry.id, membership.clone())
        );
    }
    assert_eq!(outcomes[0], "of somebody else");
}

/// Where a batch ends says when entries came, which differs between nodes (rule C1).
pub fn batches_cut_in_any_way_do_the_same<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    for seed in 0..8 {
        let mut draw = Draw(seed);
        let place = new();
        let mut machine = place.open();
        let (mut outcomes, mut at) = (Vec::new(), 0);
        while at < known.log.len() {
            // Sometimes none at all.
            let next = (at + draw.below(2 + 9 * seed)).min(known.log.len());
            machine.apply(&known.log[at..next], &mut outcomes).unwrap();
            at = next;
        }
        assert_eq!(outcomes, known.outcomes, "cut by seed {seed}");
        known.check(&place, &machine);
    }
}

/// A crash leaves a state that was there, with how far it had come, and not before what was durable;
/// the log does the rest (rule C3).
pub fn a_crash_between_any_two_calls_is_made_good_by_the_log<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let mut place = new();
    let mut machine = place.open();
    let (mut draw, mut durable) = (Draw(3), 0);
    for step in 0..24 {
        let at = usize::try_from(machine.applied().last.index.0).unwrap();
        let next = (at + draw.below(7)).min(known.log.len());
        machine.apply(&known.log[at..next], &mut Vec::new()).unwrap();
        if step % 3 == 1 {
            let answer = machine.durable().unwrap().0;
            assert!(answer >= durable, "what is durable goes back from {durable} to {answer}");
            assert!(answer <= next as u64, "more is durable than was applied");
            durable = answer;
        }
        if step % 5 == 4 {
            drop(machine.snapshot().unwrap());
        }
        // The power is cut; every other time the machine lives on and a copy of it has died.
        let image = place.image();
        if step % 2 == 0 {
            drop(machine);
            place = image;
            machine = place.open();
            known.check_found(&place, &machine, durable..=next as u64);
        } else {
            let mut other = image.open();
            known.check_found(&image, &other, durable..=next as u64);
            known.finish(&image, &mut other);
        }
    }
    known.finish(&place, &mut machine);
}

/// Asked again and again, a machine makes everything durable; the log could not be cut otherwise.
pub fn everything_is_durable_in_the_end<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let place = new();
    let mut machine = place.open();
    known.finish(&place, &mut machine);
    make_durable(&mut machine);
    let image = place.image();
    drop(machine);
    known.check(&image, &image.open());
    known.check(&place, &place.open());
}

/// The state is as of the entry that the head names, whatever is applied while it is read (rules S2, M9).
pub fn a_snapshot_is_of_the_entry_it_names<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let place = new();
    let mut machine = place.open();
    for part in [1..2, 2..11, 11..40] {
        let (from, through) = (part.start - 1, part.end - 1);
        machine.apply(&known.log[from..through], &mut Vec::new()).unwrap();
        let durable = machine.durable().unwrap();
        let mut source = machine.snapshot().unwrap();
        let meta = source.meta().clone();
        let bounds = durable..=Index(through as u64);
        assert!(bounds.contains(&meta.last.index), "{} is not within {bounds:?}", meta.last);
        known.check_meta(&meta);
        // It goes on while the image is read, and beyond what the image is of.
        let arrived = receive(&mut *source);
        let other = new();
        let mut restored = other.open();
        let applied = restored.restore(Box::new(arrived)).unwrap();
        assert_eq!(applied, restored.applied());
        known.check(&other, &restored);
        known.finish(&other, &mut restored);
    }
    let mut source = snapshot_of_all(&machine);
    known.finish(&place, &mut machine);
    make_durable(&mut machine);
    let other = new();
    let mut restored = other.open();
    restored.restore(Box::new(receive(&mut *source))).unwrap();
    assert_eq!(restored.applied().last.index, Index(39), "what came later is not in it");
    known.check(&other, &restored);
    known.check(&place, &machine);
}

/// Whatever offset and however many bytes are asked for.
pub fn a_snapshot_reads_the_same_in_any_pieces<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let place = new();
    let mut machine = place.open();
    machine.apply(&known.log[..30], &mut Vec::new()).unwrap();
    let mut source = snapshot_of_all(&machine);
    let files = source.files().to_vec();
    let whole = contents(&mut *source);
    known.finish(&place, &mut machine);
    let mut draw = Draw(9);
    for (number, (file, content)) in files.iter().zip(&whole).enumerate() {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        assert!(!file.name.is_empty() && file.name.len() <= 255, "{:?}", file.name);
        assert!(file.name.bytes().all(is_plain), "{:?} is no plain file name", file.name);
        for size in [1, 7, 4096, 1 << 20] {
            for _ in 0..20 {
                let offset = draw.below(content.len() as u64 + 2);
                let mut buffer = vec![0xee; size];
                let filled = source.read_at(number, offset as u64, &mut buffer).unwrap();
                let rest = &content[offset.min(content.len())..];
                assert!(filled > 0 || rest.is_empty(), "nothing is read before the end");
                assert_eq!(buffer[..filled], rest[..filled], "{} at {offset}", file.name);
            }
        }
        assert_eq!(source.read_at(number, 0, &mut []).unwrap(), 0);
        assert_eq!(
            source.read_at(number, file.bytes + (1 << 20), &mut [0]).unwrap(),
            0,
            "behind the end"
        );
    }
    assert!(source.read_at(files.len(), 0, &mut [0]).is_err(), "there is no such file");
    let names: std::collections::BTreeSet<_> = files.iter().map(|file| &file.name).collect();
    assert_eq!(names.len(), files.len(), "two files have one name");
}

/// A snapshot takes the place of an empty state or another one, and does the same as replay.
pub fn a_restored_machine_goes_on_like_any_other<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let place = new();
    let mut machine = place.open();
    machine.apply(&known.log[..30], &mut Vec::new()).unwrap();
    let mut source = snapshot_of_all(&machine);
    let arrived = receive(&mut *source);
    for before in [0, 12] {
        let other = new();
        let mut restored = other.open();
        // Of another history: nothing of it may be left.
        restored.apply(&other_history(&other)[..before], &mut Vec::new()).unwrap();
        restored.restore(Box::new(arrived.clone())).unwrap();
        known.check(&other, &restored);
        let mut outcomes = Vec::new();
        restored.apply(&known.log[30..], &mut outcomes).unwrap();
        assert_eq!(outcomes, known.outcomes[30..]);
        known.check(&other, &restored);
        // Its own snapshots are as good.
        let mut source = snapshot_of_all(&restored);
        let third = new();
        let mut again = third.open();
        again.restore(Box::new(receive(&mut *source))).unwrap();
        known.check(&third, &again);
    }
}

/// A restore is durable when it returns: the log before it may be gone (rule S3).
pub fn a_restore_lasts<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let place = new();
    let mut machine = place.open();
    machine.apply(&known.log[..20], &mut Vec::new()).unwrap();
    let mut source = snapshot_of_all(&machine);
    let other = new();
    let mut restored = other.open();
    restored.apply(&other_history(&other)[..5], &mut Vec::new()).unwrap();
    restored.restore(Box::new(receive(&mut *source))).unwrap();
    assert!(restored.durable().unwrap() >= Index(20));
    let image = other.image();
    drop(restored);
    let mut found = image.open();
    assert_eq!(found.applied().last.index, Index(20));
    known.check(&image, &found);
    known.finish(&image, &mut found);
    drop(found);
    let found = other.open();
    known.check(&other, &found);
}

/// Never something of both, and never data of one with the head of the other (rule S3).
pub fn a_crash_while_restoring_leaves_one_state_or_the_other<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let place = new();
    let mut machine = place.open();
    machine.apply(&known.log[..30], &mut Vec::new()).unwrap();
    let mut source = snapshot_of_all(&machine);
    let arrived = receive(&mut *source);

    let other = Arc::new(Mutex::new(new()));
    let mut restored = other.lock().unwrap().open();
    restored.apply(&known.log[..12], &mut Vec::new()).unwrap();
    make_durable(&mut restored);
    let images = Arc::new(Mutex::new(Vec::new()));
    let (watched, taken) = (other.clone(), images.clone());
    let take_image = move || {
        let mut taken = taken.lock().unwrap();
        if taken.len() < MAX_IMAGES {
            taken.push(watched.lock().unwrap().image());
        }
        Ok(())
    };
    let hooked = Hooked { inner: arrived, before_read: Box::new(take_image) };
    restored.restore(Box::new(hooked)).unwrap();
    images.lock().unwrap().push(other.lock().unwrap().image());
    let images = std::mem::take(&mut *images.lock().unwrap());
    let last = images.len() - 1;
    for (number, image) in images.iter().enumerate() {
        let mut found = image.open();
        let index = found.applied().last.index.0;
        assert!(index == 30 || number < last && index == 12, "image {number} is of {index}");
        known.check(image, &found);
        known.finish(image, &mut found);
    }
}

/// A node may send snapshots to several followers at once.
pub fn two_snapshots_do_not_disturb_each_other<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let place = new();
    let mut machine = place.open();
    machine.apply(&known.log[..15], &mut Vec::new()).unwrap();
    let mut first = snapshot_of_all(&machine);
    machine.apply(&known.log[15..40], &mut Vec::new()).unwrap();
    let mut second = snapshot_of_all(&machine);
    let third = snapshot_of_all(&machine);
    known.finish(&place, &mut machine);
    drop(third);
    for (source, through) in [(&mut first, 15), (&mut second, 40)] {
        let other = new();
        let mut restored = other.open();
        restored.restore(Box::new(receive(&mut **source))).unwrap();
        assert_eq!(restored.applied().last.index, Index(through));
        known.check(&other, &restored);
    }
}

/// A snapshot that ends early, or cannot be read, is refused, and the old state is still there.
pub fn a_snapshot_that_is_not_whole_changes_nothing<P: MachinePlace>(new: &dyn Fn() -> P) {
    let known = Known::of(new);
    let place = new();
    let mut machine = place.open();
    machine.apply(&known.log[..30], &mut Vec::new()).unwrap();
    let mut source = snapshot_of_all(&machine);
    let arrived = receive(&mut *source);
    let longest = source.files().iter().enumerate().max_by_key(|(_, file)| file.bytes);
    let Some((longest, file)) = longest.filter(|(_, file)| file.bytes > 0) else { return };
    let fails = || Box::new(|| Err(io::Error::other("told to fail")));
    let broken: [(&str, Box<dyn SnapshotReader>); 3] = [
        (
            "cut short",
            Box::new(Short { inner: arrived.clone(), file: longest, ends: file.bytes - 1 }),
        ),
        ("empty", Box::new(Short { inner: arrived.clone(), file: longest, ends: 0 })),
        ("unreadable", Box::new(Hooked { inner: arrived, before_read: fails() })),
    ];
    let other = new();
    let mut restored = other.open();
    restored.apply(&known.log[..12], &mut Vec::new()).unwrap();
    make_durable(&mut restored);
    for (what, snapshot) in broken {
        let refused = restored.restore(snapshot);
        assert!(refused.is_err(), "a snapshot that is {what} was taken: {refused:?}");
        assert_eq!(restored.applied().last.index, Index(12), "after one that is {what}");
        known.check(&other, &restored);
        let image = other.image();
        let mut found = image.open();
        assert_eq!(found.applied().last.index, Index(12), "after one that is {what}");
        known.check(&image, &found);
        known.finish(&image, &mut found);
    }
    // It is none the worse for it.
    known.finish(&other, &mut restored);
}

/// To pass over a command that others understand would let replicas part (rule L18).
pub fn an_unknown_command_stops_the_machine<P: MachinePlace>(new: &dyn Fn() -> P) {
    let place = new();
    let Some(unknown) = place.unknown_command() else { return };
    let mut log = history(&place);
    log[10].payload = Payload::Command(unknown);
    let mut machine = place.open();
    machine.apply(&log[..4], &mut Vec::new()).unwrap();
    let refused = machine.apply(&log[4..20], &mut Vec::new());
    assert!(matches!(refused, Err(MachineError::Unknown { .. })), "{refused:?}");
    assert!(machine.applied().last < log[10].id, "it counts as applied");
    drop(machine);
    // Nor does it go away by starting again.
    let mut machine = place.open();
    let at = usize::try_from(machine.applied().last.index.0).unwrap();
    assert!(at <= 10, "it counts as applied after a start");
    let refused = machine.apply(&log[at..], &mut Vec::new());
    assert!(matches!(refused, Err(MachineError::Unknown { .. })), "{refused:?}");
}

/// A log, and what a machine that applied it one by one had answered and come to at each entry.
struct Known {
    log: Vec<Entry>,
    outcomes: Vec<Bytes>,
    /// At each index, 0 for before the first.
    states: Vec<(SnapshotMeta, Vec<u8>)>,
}

impl Known {
    fn of<P: MachinePlace>(new: &dyn Fn() -> P) -> Self {
        let place = new();
        let mut machine = place.open();
        let log = history(&place);
        let mut outcomes = Vec::new();
        let mut states = vec![state(&place, &machine)];
        for entry in &log {
            machine.apply(std::slice::from_ref(entry), &mut outcomes).unwrap();
            states.push(state(&place, &machine));
        }
        let different: std::collections::BTreeSet<_> = states.iter().map(|(_, it)| it).collect();
        assert!(different.len() > 8, "the commands change too little: tests could not fail");
        Self { log, outcomes, states }
    }

    /// The machine is as it should be where it stands.
    fn check<P: MachinePlace>(&self, place: &P, machine: &P::Machine) {
        let (meta, digest) = state(place, machine);
        let at = usize::try_from(meta.last.index.0).unwrap();
        let (known_meta, known_digest) = &self.states[at];
        assert_eq!(meta, *known_meta);
        assert!(digest == *known_digest, "the state at {} is another one", meta.last);
    }

    fn check_found<P: MachinePlace>(
        &self,
        place: &P,
        machine: &P::Machine,
        bounds: std::ops::RangeInclusive<u64>,
    ) {
        let found = machine.applied().last.index.0;
        assert!(bounds.contains(&found), "{found} was found, which is not within {bounds:?}");
        self.check(place, machine);
    }

    fn check_meta(&self, meta: &SnapshotMeta) {
        assert_eq!(*meta, self.states[usize::try_from(meta.last.index.0).unwrap()].0);
    }

    /// Applies what is left of the log, and checks outcomes and state.
    fn finish<P: MachinePlace>(&self, place: &P, machine: &mut P::Machine) {
        let at = usize::try_from(machine.applied().last.index.0).unwrap();
        let mut outcomes = Vec::new();
        machine.apply(&self.log[at..], &mut outcomes).unwrap();
        assert_eq!(outcomes, self.outcomes[at..], "outcomes after {at}");
        self.check(place, machine);
    }
}

/// How far a machine has come, in a form that does not tell "never" from "the founding one", which a
/// machine that was restored cannot know; and its state.
fn state<P: MachinePlace>(place: &P, machine: &P::Machine) -> (SnapshotMeta, Vec<u8>) {
    (machine.applied().to_meta(&SnapshotMeta::default()), place.digest(machine))
}

/// Something of everything, in three terms.
fn history<P: MachinePlace>(place: &P) -> Vec<Entry> {
    let entry = |index: u64| {
        let payload = match index {
            1 | 21 | 50 => Payload::Empty,
            2 => Payload::Membership(Box::new(membership(3))),
            35 => Payload::Membership(Box::new(membership(5))),
            _ => Payload::Command(place.command(index)),
        };
        Entry { id: LogId::new(Term(1 + index / 21), Index(index)), payload }
    };
    (1..=ENTRIES).map(entry).collect()
}

/// Commands that stand nowhere in [`history`].
fn other_history<P: MachinePlace>(place: &P) -> Vec<Entry> {
    let entry = |index| Entry {
        id: LogId::new(Term(1), Index(index)),
        payload: Payload::Command(place.command(1000 + index)),
    };
    (1..=ENTRIES).map(entry).collect()
}

fn membership(nodes: u64) -> Membership {
    Membership::of_voters(
        (1..=nodes).filter_map(|id| Some((NodeId::new(id)?, format!("host-{id}:7101")))),
    )
}

fn make_durable(machine: &mut impl StateMachine) {
    let last = machine.applied().last.index;
    for _ in 0..PATIENCE {
        if machine.durable().unwrap() >= last {
            return;
        }
        std::thread::sleep(A_MOMENT);
    }
    panic!("asked {PATIENCE} times, {last} is not durable");
}

/// Asked for until it holds everything.
fn snapshot_of_all(machine: &impl StateMachine) -> Box<dyn SnapshotSource> {
    let last = machine.applied().last;
    for _ in 0..PATIENCE {
        let source = machine.snapshot().unwrap();
        assert!(source.meta().last <= last, "{} is not applied yet", source.meta().last);
        if source.meta().last == last {
            return source;
        }
        std::thread::sleep(A_MOMENT);
    }
    panic!("asked {PATIENCE} times, no snapshot holds {last}");
}

fn receive(source: &mut dyn SnapshotSource) -> MemSnapshot {
    let meta = source.meta().clone();
    MemSnapshot::receive(meta, source).expect("a source gives as many bytes as it promised")
}

/// What is in each file.
fn contents(source: &mut dyn SnapshotSource) -> Vec<Vec<u8>> {
    let files = source.files().to_vec();
    let read = |(number, file): (usize, &SnapshotFile)| {
        let mut content = vec![0; usize::try_from(file.bytes).unwrap()];
        let mut filled = 0;
        while filled < content.len() {
            let bytes = source.read_at(number, filled as u64, &mut content[filled..]).unwrap();
            assert!(bytes > 0, "{} ends at {filled} of {}", file.name, file.bytes);
            filled += bytes;
        }
        content
    };
    files.iter().enumerate().map(read).collect()
}

/// What is called before each read of a snapshot; it may fail in its place.
type BeforeRead = Box<dyn FnMut() -> io::Result<()> + Send>;

/// A snapshot during whose reads something happens.
struct Hooked {
    inner: MemSnapshot,
    before_read: BeforeRead,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl SnapshotReader for Hooked {
    fn meta(&self) -> &SnapshotMeta {
        SnapshotReader::meta(&self.inner)
    }

    fn files(&self) -> &[SnapshotFile] {
        SnapshotReader::files(&self.inner)
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (self.before_read)()?;
        SnapshotReader::read_at(&mut self.inner, file, offset, buffer)
    }
}

/// A snapshot one of whose files ends before it should.
#[derive(Debug)]
struct Short {
    inner: MemSnapshot,
    file: usize,
    ends: u64,
}

impl SnapshotReader for Short {
    fn meta(&self) -> &SnapshotMeta {
        SnapshotReader::meta(&self.inner)
    }

    fn files(&self) -> &[SnapshotFile] {
        SnapshotReader::files(&self.inner)
    }

    fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = if file == self.file { self.ends.saturating_sub(offset) } else { u64::MAX };
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        SnapshotReader::read_at(&mut self.inner, file, offset, &mut buffer[..bytes])
    }
}

/// Numbers that are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound).unwrap()
    }
}

/// How many entries the histories have.
const ENTRIES: u64 = 60;
/// How often a machine is asked for what may take its time, and what it is given in between.
const PATIENCE: u32 = 10_000;
const A_MOMENT: Duration = Duration::from_millis(1);
/// The most moments of a restore that are looked at.
const MAX_IMAGES: usize = 16;
