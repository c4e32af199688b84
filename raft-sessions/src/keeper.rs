//! Who writes pairs: in the background, so that applying goes on.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use raft_core::{SnapshotReader, SnapshotSource};

use crate::books::Books;
use crate::kept::{Home, Kept, Part, Unfit};

/// Writes pairs, one at a time, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Keeper {
    home: Arc<Home>,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The writer is to give up.
    is_cancelled: AtomicBool,
}

#[derive(Debug)]
struct State {
    kept: Arc<Kept>,
    is_busy: bool,
    failed: Option<io::Error>,
}

impl Keeper {
    /// Goes on after `kept`.
    pub(crate) fn new(home: Home, kept: Kept) -> Self {
        let state = State { kept: Arc::new(kept), is_busy: false, failed: None };
        let is_cancelled = AtomicBool::new(false);
        let shared = Arc::new(Shared { state: Mutex::new(state), is_cancelled });
        Self { home: Arc::new(home), shared, writer: Mutex::new(None) }
    }

    /// The last pair.
    ///
    /// # Errors
    ///
    /// What the disk said when the next was to be written.
    pub(crate) fn kept(&self) -> io::Result<Arc<Kept>> {
        let mut state = lock(&self.shared.state);
        state.failed.take().map_or_else(|| Ok(state.kept.clone()), Err)
    }

    pub(crate) fn is_busy(&self) -> bool {
        lock(&self.shared.state).is_busy
    }

    /// Begins to write the next pair. Nothing, while one is being written.
    pub(crate) fn begin(
        &self,
        books: Books,
        mut source: Box<dyn SnapshotSource>,
    ) -> io::Result<()> {
        let number = {
            let mut state = lock(&self.shared.state);
            if state.is_busy {
                return Ok(());
            }
            state.is_busy = true;
            state.kept.next_number()
        };
        // It has said that it is done.
        self.wait();
        let (home, shared) = (self.home.clone(), self.shared.clone());
        let job = move || {
            let write = || {
                home.write(number, books, &mut *source, &shared.is_cancelled)
                    .and_then(|part| home.name(part))
            };
            // What is read is the inner machine's code. If it panics here, the node has to stop, as
            // it does when that happens anywhere else.
            let written = catch_unwind(AssertUnwindSafe(write))
                .unwrap_or_else(|_| Err(io::Error::other("reading the inner machine panicked")));
            drop(source);
            shared.done(written);
        };
        *lock(&self.writer) =
            Some(thread::Builder::new().name("sessions-keep".to_owned()).spawn(job)?);
        Ok(())
    }

    /// Ends what is being written, and takes a pair from elsewhere instead.
    pub(crate) fn receive(&self, snapshot: &mut dyn SnapshotReader) -> Result<Part, Unfit> {
        self.cancel();
        let number = lock(&self.shared.state).kept.next_number();
        self.home.receive(number, snapshot)
    }

    /// Makes `part` the last pair.
    pub(crate) fn take(&self, part: Part) -> io::Result<()> {
        let kept = self.home.name(part)?;
        self.shared.done(Ok(kept));
        Ok(())
    }

    /// Until nothing is being written.
    pub(crate) fn wait(&self) {
        let writer = lock(&self.writer).take();
        // One that panicked has written nothing that counts.
        drop(writer.map(JoinHandle::join));
    }

    fn cancel(&self) {
        self.shared.is_cancelled.store(true, Ordering::Relaxed);
        self.wait();
        self.shared.is_cancelled.store(false, Ordering::Relaxed);
        let mut state = lock(&self.shared.state);
        (state.is_busy, state.failed) = (false, None);
    }
}

impl Shared {
    /// Nothing is being written any more, and this is what came of it.
    fn done(&self, written: io::Result<Kept>) {
        let mut state = lock(&self.state);
        state.is_busy = false;
        match written {
            Ok(kept) => {
                let former = std::mem::replace(&mut state.kept, Arc::new(kept));
                former.retire();
                // Removing it may take long, and applying must not wait for that.
                drop(state);
                drop(former);
            }
            Err(error) => state.failed = Some(error),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// A panic elsewhere leaves these as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
