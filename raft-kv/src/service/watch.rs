//! A watch, in the name of a node: what to say next, and when.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::api::{Answer, ErrorReply, Rejection, Request};
use crate::error::KvError;
use crate::watch::{Step, Watched, Watcher};

use super::check::{check, rejected, unreadable};
use super::{BUSY_MS, Inner, Service};

/// A watch of one client. Holds little while nothing happens, and reads no further than it is asked to.
pub struct Watch {
    inner: Arc<Inner>,
    state: State,
    progress: Option<Duration>,
    _place: Option<OwnedSemaphorePermit>,
}

enum State {
    /// To say what there is to say at first.
    New(Box<Watcher>),
    /// Under way.
    On(Box<Watcher>),
    /// To say why there is no watch.
    Refused(ErrorReply),
    /// Everything is said.
    Over,
}

impl Service {
    /// Begins a watch. `request` may be any bytes: what is wrong with them the watch says.
    pub fn watch(&self, request: &[u8]) -> Watch {
        let inner = Arc::clone(&self.inner);
        let begun = inner.begin(request);
        let (state, progress, place) = match begun {
            Ok((watcher, progress, place)) => (State::New(watcher), progress, Some(place)),
            Err(error) => (State::Refused(error), None, None),
        };
        Watch { inner, state, progress, _place: place }
    }
}

impl Inner {
    fn begin(
        &self,
        request: &[u8],
    ) -> Result<(Box<Watcher>, Option<Duration>, OwnedSemaphorePermit), ErrorReply> {
        let not_understood = |message| rejected(Rejection::NotUnderstood, message);
        let request = Request::decode(request)
            .map_err(|error| not_understood(format!("the request is not understood: {error}")))?;
        check(&request, self.reader.config())?;
        let Request::Watch(request) = request else {
            return Err(not_understood("only a watch has many replies".to_owned()));
        };
        if *self.is_cut_off.borrow() {
            return Err(cut_off());
        }
        let applied = self.reader.applied().index;
        if applied < request.min_applied {
            return Err(ErrorReply::Behind { applied });
        }
        let place = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| {
            let limit = self.reader.config().max_watches;
            let message = format!("this node has {limit} watches, and takes no more");
            ErrorReply::Busy { retry_after_ms: BUSY_MS, message }
        })?;
        let progress = request.progress_ms.map(|ms| Duration::from_millis(ms.into()));
        let watcher = Watcher::new(self.reader.clone(), &request).map_err(unreadable)?;
        Ok((Box::new(watcher), progress, place))
    }
}

impl Watch {
    /// Waits for the next reply, to be sent as it is. `None` once there will be no more: the last one
    /// has said why. Needs a tokio runtime with time enabled. Not to be called again if it was cancelled.
    pub async fn next(&mut self) -> Option<Bytes> {
        let body = match std::mem::replace(&mut self.state, State::Over) {
            State::New(watcher) => {
                let begun = watcher.begun();
                self.state = State::On(watcher);
                Ok(begun)
            }
            State::On(watcher) => self.go_on(watcher).await,
            State::Refused(error) => Err(error),
            State::Over => return None,
        };
        Some(self.inner.reply(body.map(Answer::Watched)).encode())
    }

    async fn go_on(&mut self, mut watcher: Box<Watcher>) -> Result<Watched, ErrorReply> {
        let mut is_cut_off = self.inner.is_cut_off.subscribe();
        loop {
            let said = match watcher.step() {
                Step::Say(news) => Some(news),
                Step::Read => {
                    let (back, read) = self.read(watcher).await?;
                    watcher = back;
                    read.map_err(unreadable)?
                }
                Step::Wait => tokio::select! {
                    () = watcher.news() => None,
                    () = pause(self.progress) => watcher.progress(),
                    _ = is_cut_off.wait_for(|is_cut_off| *is_cut_off) => {
                        return Err(cut_off());
                    }
                },
            };
            if let Some(said) = said {
                self.state = State::On(watcher);
                return Ok(said);
            }
        }
    }

    /// Has history read on a thread that may wait for the disk.
    async fn read(
        &self,
        watcher: Box<Watcher>,
    ) -> Result<(Box<Watcher>, Result<Option<Watched>, KvError>), ErrorReply> {
        let (done, read) = oneshot::channel();
        let mut job = (watcher, done);
        loop {
            let run = |(mut watcher, done): (Box<Watcher>, oneshot::Sender<_>)| {
                let read = watcher.read();
                let _ = done.send((watcher, read)); // The client may be gone.
            };
            match self.inner.pool.run(job, run) {
                Ok(()) => break,
                // Others read. There is no hurry: what was missed is in the history.
                Err(back) => job = back,
            }
            tokio::time::sleep(Duration::from_millis(BUSY_MS.into())).await;
        }
        read.await.map_err(|_| ErrorReply::Unavailable { message: "the node stops".to_owned() })
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("progress", &self.progress).finish_non_exhaustive()
    }
}

fn cut_off() -> ErrorReply {
    let message = "this node has no leader or has stopped, so nothing happens here".to_owned();
    ErrorReply::Unavailable { message }
}

/// For ever, if there is no time.
async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
