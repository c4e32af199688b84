//! The hub hands each event, as it happens, to whoever wants it.
//!
//! One thread, which sleeps until the state machine rings. It takes the new changes in order, from memory if
//! they are still there, finds for each key who wants to know of it, makes the event once for all of them and
//! puts it into their queues.
//! A queue has a limit, and so have all together: whoever is over it has lost its seat, from a revision
//! on which it is told, and reads history from there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::KvError;
use crate::model::Revision;
use crate::reader::Live;
use crate::scan::View;
use crate::unwritten;

use super::history::{self, Change, Happened, Position, Wanted};
use super::index::{Interests, SeatId};
use super::{Event, Watched};

/// Hands out events. There is one for a store, from the first watch on.
pub(crate) struct Hub {
    shared: Mutex<Shared>,
    /// Bytes in all queues; an event counts in each.
    queued: AtomicUsize,
}

struct Shared {
    seats: BTreeMap<SeatId, Arc<Seat>>,
    interests: Interests,
    next_id: SeatId,
    /// Every event before this revision was handed out. Means nothing while nobody has a seat.
    next: Revision,
}

/// A place at which events arrive.
struct Seat {
    wanted: Wanted,
    /// What is before this the watcher has read in the history.
    from: Revision,
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The seat is lost: what is from this revision on has to be read in the history.
    lost: Option<Revision>,
}

/// A seat that somebody has. It is given up when this is dropped.
pub(crate) struct Ticket {
    hub: Arc<Hub>,
    id: SeatId,
    seat: Arc<Seat>,
}

/// What a seat has for its watcher.
pub(crate) enum Taken {
    /// Events, and through which revision that is all.
    News(Watched),
    /// Nothing new.
    Nothing,
    /// Nothing more will come. Go on from here in the history.
    Lost(Revision),
}

/// Tells the hub that something was applied. To ring it costs the state machine a look at a flag.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    is_wanted: AtomicBool,
    hub: OnceLock<Thread>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        if self.is_wanted.load(Ordering::SeqCst) && self.is_wanted.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(hub) = self.hub.get() {
            hub.unpark();
        }
    }
}

impl Hub {
    /// Starts a hub for the store of `live`. Its thread ends with that.
    pub(crate) fn start(live: &Arc<Live>) -> Result<Arc<Self>, KvError> {
        let shared = Shared {
            seats: BTreeMap::new(),
            interests: Interests::default(),
            next_id: 0,
            next: Revision::EMPTY,
        };
        let hub = Arc::new(Self { shared: Mutex::new(shared), queued: AtomicUsize::new(0) });
        let (weak, working) = (Arc::downgrade(live), Arc::clone(&hub));
        let thread = thread::Builder::new().name("kv-watch".to_owned());
        let thread = thread
            .spawn(move || working.run(&weak))
            .map_err(KvError::io("starting a thread for", "watches"))?;
        let _ = live.bell().hub.set(thread.thread().clone()); // Set once, by who starts it.
        Ok(hub)
    }

    /// Takes a seat for a watcher that has been told everything before `position`. `None` if it is too
    /// far behind: it has to read more history first.
    pub(super) fn sit(
        self: &Arc<Self>,
        live: &Live,
        wanted: &Wanted,
        position: Position,
    ) -> Result<Option<Ticket>, KvError> {
        let mut shared = self.lock();
        if shared.seats.is_empty() {
            shared.next = position.revision.min(live.state().revision.next());
        }
        let mut queue = Queue::default();
        if position < Position::of(shared.next) {
            // The little that has happened since it looked last. Nothing can be handed out meanwhile.
            let store = live.store();
            let view = View::new(&store)?;
            let (past, reached) = history::read(&view, wanted, position, QUEUE_BYTES)?;
            if reached.revision < shared.next || view.state().compacted >= position.revision {
                return Ok(None);
            }
            let events = past.events.into_iter().take_while(|event| event.revision() < shared.next);
            queue.events.extend(events.map(Arc::new));
            queue.bytes = queue.events.iter().map(|event| event.len_bytes()).sum();
        }
        let from = position.revision.max(shared.next);
        self.queued.fetch_add(queue.bytes, Ordering::Relaxed);
        let queue = Mutex::new(queue);
        let seat = Arc::new(Seat { wanted: wanted.clone(), from, queue, news: Notify::new() });
        let id = shared.next_id;
        shared.next_id += 1;
        shared.seats.insert(id, Arc::clone(&seat));
        shared.interests.add(&wanted.range, id);
        drop(shared);
        // It may have slept through what nobody wanted to know.
        live.bell().wake();
        Ok(Some(Ticket { hub: Arc::clone(self), id, seat }))
    }

    fn run(&self, live: &Weak<Live>) {
        loop {
            let Some(live) = live.upgrade() else { return };
            // Before the look: who applies after it rings.
            live.bell().is_wanted.store(true, Ordering::SeqCst);
            if self.hand_out(&live) {
                // A moment for more to gather: each time costs whoever applies a wake-up.
                thread::sleep(GATHER);
                continue;
            }
            drop(live);
            thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Hands out some of what is new. `false` if there is nothing more.
    fn hand_out(&self, live: &Live) -> bool {
        let mut shared = self.lock();
        let through = live.state().revision;
        if shared.seats.is_empty() || through < shared.next {
            return false;
        }
        let store = live.store();
        let handed = match store.unwritten().changes(shared.next, through, HAND_OUT_CHANGES) {
            Some(changes) => self.hand_out_fresh(changes, &mut shared),
            None => View::new(&store).and_then(|view| self.hand_out_of(&view, &mut shared)),
        };
        if let Err(error) = handed {
            // Whoever reads history hears of it.
            tracing::error!(%error, "watchers cannot be told what has changed");
            self.clear(&mut shared);
        }
        true
    }

    /// Hands out what comes next: whole revisions.
    fn hand_out_fresh(
        &self,
        changes: Vec<unwritten::Change>,
        shared: &mut Shared,
    ) -> Result<(), KvError> {
        for of_revision in changes.chunk_by(|a, b| a.revision == b.revision) {
            self.tell(shared, of_revision)?;
            shared.next = of_revision[0].revision.next();
        }
        Ok(())
    }

    fn hand_out_of(&self, view: &View<'_>, shared: &mut Shared) -> Result<(), KvError> {
        if view.state().purged >= shared.next {
            // What is to be handed out is gone: a snapshot was installed, or compaction was faster.
            self.clear(shared);
            return Ok(());
        }
        let mut revision = shared.next;
        let mut changes: Vec<Change<'_>> = Vec::new();
        let mut left = HAND_OUT_CHANGES;
        let mut stopped = None;
        history::each_change(view, Position::of(revision), |change| {
            if change.at.revision > revision {
                self.tell(shared, &std::mem::take(&mut changes))?;
                revision = change.at.revision;
                if left == 0 {
                    stopped = Some(revision);
                    return Ok(false);
                }
            }
            left = left.saturating_sub(1);
            changes.push(change);
            Ok(true)
        })?;
        self.tell(shared, &changes)?;
        shared.next = stopped.unwrap_or_else(|| view.state().revision.next());
        Ok(())
    }

    /// Tells of the changes of one revision.
    fn tell(&self, shared: &mut Shared, changes: &[impl Happened]) -> Result<(), KvError> {
        let mut news: BTreeMap<SeatId, Vec<Arc<Event>>> = BTreeMap::new();
        let Some(revision) = changes.first().map(Happened::revision) else { return Ok(()) };
        for change in changes {
            let Shared { seats, interests, .. } = shared;
            let (mut plain, mut with_prev) = (Vec::new(), Vec::new());
            interests.of(change.key(), |id| {
                let Some(seat) = seats.get(&id) else { return };
                if seat.from <= revision && seat.wanted.filter.passes(change.event_kind()) {
                    let among = if seat.wanted.prev_kv { &mut with_prev } else { &mut plain };
                    among.push(id);
                }
            });
            for (ids, prev_kv) in [(plain, false), (with_prev, true)] {
                if ids.is_empty() {
                    continue;
                }
                let event = Arc::new(change.event(prev_kv)?);
                ids.into_iter().for_each(|id| news.entry(id).or_default().push(event.clone()));
            }
        }
        for (id, events) in news {
            if !self.put(&shared.seats[&id], revision, events) {
                shared.leave(id);
            }
        }
        Ok(())
    }

    /// Puts the events of one revision into a queue. `false` if they do not fit, and the seat is lost.
    fn put(&self, seat: &Seat, revision: Revision, events: Vec<Arc<Event>>) -> bool {
        let bytes: usize = events.iter().map(|event| event.len_bytes()).sum();
        let mut queue = seat.lock();
        let fits = queue.bytes + bytes <= QUEUE_BYTES
            && self.queued.load(Ordering::Relaxed) + bytes <= ALL_BYTES;
        if fits {
            self.queued.fetch_add(bytes, Ordering::Relaxed);
            queue.bytes += bytes;
            queue.events.extend(events);
        } else {
            queue.lost = Some(revision);
        }
        drop(queue);
        seat.news.notify_one();
        fits
    }

    /// Takes all seats away.
    fn clear(&self, shared: &mut Shared) {
        for seat in std::mem::take(&mut shared.seats).into_values() {
            let next = shared.next.max(seat.from);
            seat.lock().lost.get_or_insert(next);
            seat.news.notify_one();
        }
        shared.interests = Interests::default();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("queued", &self.queued).finish_non_exhaustive()
    }
}

impl Shared {
    fn leave(&mut self, id: SeatId) {
        if let Some(seat) = self.seats.remove(&id) {
            self.interests.remove(&seat.wanted.range, id);
        }
    }
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// What has arrived: whole revisions, of about `room` bytes, but one at least.
    pub(super) fn take(&self, room: usize) -> Taken {
        let mut queue = self.seat.lock();
        let mut events: Vec<Event> = Vec::new();
        let mut bytes = 0;
        while let Some(event) = queue.events.front() {
            let is_next = events.last().is_none_or(|last| last.revision() < event.revision());
            if is_next && bytes > 0 && bytes + event.len_bytes() > room {
                break;
            }
            bytes += event.len_bytes();
            events.extend(queue.events.pop_front().map(Arc::unwrap_or_clone));
        }
        queue.bytes -= bytes;
        self.hub.queued.fetch_sub(bytes, Ordering::Relaxed);
        match (events.last().map(Event::revision), queue.lost) {
            (Some(through), _) => Taken::News(Watched { events, through, more: false }),
            (None, Some(revision)) => Taken::Lost(revision),
            (None, None) => Taken::Nothing,
        }
    }

    /// Waits until there may be something to take.
    pub(super) async fn news(&self) {
        self.seat.news.notified().await;
    }

    /// Through which revision everything was handed out, if nothing of it is left to take.
    pub(super) fn progress(&self) -> Option<Revision> {
        let shared = self.hub.lock();
        let queue = self.seat.lock();
        let is_idle = queue.events.is_empty() && queue.lost.is_none();
        is_idle.then(|| Revision(shared.next.max(self.seat.from).0 - 1))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.hub.lock().leave(self.id);
        let queue = std::mem::take(&mut *self.seat.lock());
        self.hub.queued.fetch_sub(queue.bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The most that waits at one seat, in bytes.
const QUEUE_BYTES: usize = 256 << 10;
/// The most that waits at all seats.
const ALL_BYTES: usize = 64 << 20;
/// About so many changes are handed out in one go, so that seats can be taken in between.
const HAND_OUT_CHANGES: usize = 4096;
/// What comes after something was handed out waits so long, to be handed out together.
const GATHER: Duration = Duration::from_micros(500);
/// How often the thread looks whether the store is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
