//! The way to a node whose state machine is [`Sessions`](crate::Sessions).

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use raft_core::sessions::{Sight, Stamp, Timekeeper};
use raft_core::{Handle, LogId, RequestError, RoleName};

use crate::error::DecodeError;
use crate::machine::View;
use crate::proposal::{Outcome, Proposal, Request};

/// Proposes requests with the time on them, and lets time move on while this node leads and there is a session
/// that it can end. Cheap to clone; ends with the last clone or with the node.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

/// Why a request has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The node says why. A command with a tag may be sent again whatever it says, with the same tag.
    #[error(transparent)]
    Node(#[from] RequestError),
    /// It is done, but what became of it cannot be told.
    #[error("the outcome at {at} is not understood: {source}")]
    Outcome {
        /// Where it stands.
        at: LogId,
        /// Why.
        source: DecodeError,
    },
}

#[derive(Debug)]
struct Inner {
    handle: Handle,
    view: View,
    keeper: Mutex<Timekeeper>,
    started: Instant,
}

impl Gate {
    /// The way to the node behind `handle`; `view` is of its state machine.
    ///
    /// # Errors
    ///
    /// If the thread for the clock cannot be started.
    pub fn start(handle: Handle, view: View) -> io::Result<Self> {
        let keeper = Mutex::new(Timekeeper::new(Duration::ZERO, sight(&handle, &view)));
        let inner = Arc::new(Inner { handle, view, keeper, started: Instant::now() });
        let weak = Arc::downgrade(&inner);
        thread::Builder::new().name("sessions-clock".to_owned()).spawn(move || keep_time(&weak))?;
        Ok(Self { inner })
    }

    /// Replicates a request. `done` is called once, on one of the node's threads, and must not block.
    pub fn propose(
        &self,
        request: Request,
        done: impl FnOnce(Result<Outcome, GateError>) + Send + 'static,
    ) {
        let stamp = self.inner.with_time(|keeper, now| keeper.stamp(now));
        let proposal = Proposal { stamp, request };
        self.inner.handle.propose(proposal.encode(), move |result| {
            done(result.map_err(GateError::Node).and_then(|committed| {
                Outcome::decode(&committed.outcome)
                    .map_err(|source| GateError::Outcome { at: committed.id, source })
            }));
        });
    }

    /// What is to be seen of the sessions.
    pub fn view(&self) -> &View {
        &self.inner.view
    }

    /// The node.
    pub fn handle(&self) -> &Handle {
        &self.inner.handle
    }
}

impl Inner {
    fn with_time<T>(&self, with: impl FnOnce(&mut Timekeeper, Duration) -> T) -> T {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.started.elapsed();
        keeper.observe(now, sight(&self.handle, &self.view));
        with(&mut keeper, now)
    }

    /// The stamp for an entry of its own, if one is due.
    fn tick(&self) -> Option<Stamp> {
        self.with_time(|keeper, now| if keeper.is_tick_due(now) { keeper.stamp(now) } else { None })
    }
}

fn keep_time(gate: &Weak<Inner>) {
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(inner) = gate.upgrade() else { return };
        if inner.handle.stopped().is_some() {
            return;
        }
        if let Some(stamp) = inner.tick() {
            let tick = Proposal { stamp: Some(stamp), request: Request::Tick };
            // Whether it gets through is seen in the log; if not, the next one will.
            inner.handle.propose(tick.encode(), |_| {});
        }
    }
}

fn sight(handle: &Handle, view: &View) -> Sight {
    let status = handle.status();
    let leading = (status.role == RoleName::Leader).then_some(status.term);
    let (clock, is_idle) = view.clock();
    Sight { clock, is_idle, leading }
}

/// How often it is looked whether time has to move on.
const LOOK_EVERY: Duration = Duration::from_millis(100);
