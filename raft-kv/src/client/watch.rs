//! A watch, as its user sees it: one row of events without a gap, whichever nodes come and go.
//!
//! It knows what it has been told, so it can go on at any node: that revision is its resume token. A
//! revision is passed on whole; what a node has told of half a revision is forgotten with the node.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::api::{Answer, ErrorReply, Reply, Request};
use crate::model::Revision;
use crate::watch::{Event, WatchRequest, Watched};

use super::Client;
use super::attempt::jittered;
use super::channel::{ChannelError, NotSentKind, Replies, WatchChannel};
use super::directory::Preference;
use super::error::ClientError;

impl<C: WatchChannel> Client<C> {
    /// Watches what `request` asks for. Nothing is sent before the first [`Watching::next`]; from then
    /// on "now" is when a node first said that the watch has begun.
    pub fn watch(&self, request: WatchRequest) -> Watching<C> {
        Watching {
            client: self.clone(),
            request,
            line: None,
            part: Vec::new(),
            said: VecDeque::new(),
        }
    }
}

/// A watch under way. Dropping it ends it.
pub struct Watching<C: WatchChannel> {
    client: Client<C>,
    /// What to ask for if it has to be asked again.
    request: WatchRequest,
    /// The node that tells it.
    line: Option<Line<C::Replies>>,
    /// The first part of a revision that does not fit into one reply.
    part: Vec<Event>,
    /// What is there to be passed on.
    said: VecDeque<Watched>,
}

struct Line<R> {
    endpoint: String,
    replies: R,
    since: Instant,
}

impl<R> Line<R> {
    fn is_new(&self) -> bool {
        self.since.elapsed() < SHORT
    }
}

/// Why a node tells no more.
enum Stop {
    /// Another may.
    Elsewhere(String),
    /// None will.
    For(ClientError),
}

impl<C: WatchChannel> Watching<C> {
    /// Waits for what is next: events by revision, each revision whole; no events only as word of
    /// progress, if that was asked for. Looks for another node when the one that tells it is lost, and
    /// goes on there with nothing lost and nothing twice. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] if no node was to be had for the client's timeout: to call this
    /// again goes on trying. [`ClientError::Compacted`] if what is next is compacted, and
    /// [`ClientError::Rejected`] if the request makes no sense: they last.
    pub async fn next(&mut self) -> Result<Watched, ClientError> {
        loop {
            if let Some(said) = self.said.pop_front() {
                return Ok(said);
            }
            if self.line.is_none() {
                self.connect().await?;
                continue;
            }
            match self.listen().await {
                Ok(()) => {}
                Err(Stop::Elsewhere(why)) => {
                    tracing::debug!(why, "a watch goes on elsewhere");
                    let was_short = self.line.as_ref().is_some_and(|line| line.is_new());
                    self.hang_up();
                    if was_short {
                        // Nodes that take a watch and let go of it at once are in trouble enough.
                        tokio::time::sleep(jittered(PAUSE_SHORT)).await;
                    }
                }
                Err(Stop::For(error)) => {
                    self.hang_up();
                    return Err(error);
                }
            }
        }
    }

    /// The revision from which another watch would go on where this one is. `None` before it has begun.
    pub fn resume_from(&self) -> Option<Revision> {
        self.said.front().map_or(self.request.from, |said| {
            let first = said.events.first().map(Event::revision);
            Some(first.unwrap_or_else(|| said.through.next()))
        })
    }

    /// Finds a node that takes it.
    async fn connect(&mut self) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.client.timeout;
        let (mut tried, mut pause, mut last) = (BTreeSet::new(), PAUSE_FIRST, String::new());
        loop {
            let next = self.client.directory().next(&tried, Preference::Given);
            match next {
                Some(endpoint) => {
                    tried.insert(endpoint.clone());
                    match self.ask(&endpoint, deadline.min(Instant::now() + ATTEMPT)).await {
                        Ok(()) => return Ok(()),
                        Err(Stop::For(error)) => return Err(error),
                        Err(Stop::Elsewhere(why)) => last = why,
                    }
                }
                None => {
                    tried.clear();
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSE_MOST);
                }
            }
            if Instant::now() >= deadline {
                let endpoints = self.client.directory().given().join(", ");
                return Err(ClientError::Unreachable { endpoints, last });
            }
        }
    }

    /// Asks one node, and waits for its word that the watch has begun.
    async fn ask(&mut self, endpoint: &str, deadline: Instant) -> Result<(), Stop> {
        self.request.min_applied = self.client.directory().applied();
        let request = Request::Watch(self.request.clone()).encode();
        let channel = self.client.channel.clone();
        let asked = async {
            let line = channel.subscribe(endpoint, request, deadline.into_std()).await;
            let mut replies = line.map_err(|error| stop_of(endpoint, error))?;
            let reply = replies.next().await.map_err(|error| stop_of(endpoint, error))?;
            Ok((replies, reply))
        };
        let (replies, reply) = match tokio::time::timeout_at(deadline, asked).await {
            Ok(asked) => asked.inspect_err(|_| self.client.directory().on_silence(endpoint))?,
            Err(_) => {
                self.client.directory().on_silence(endpoint);
                return Err(Stop::Elsewhere(format!("{endpoint}: no answer in time")));
            }
        };
        let begun = self.understand(endpoint, reply)?;
        // From here on it is known where "now" was.
        self.request.from = Some(begun.through.next());
        let (endpoint, since) = (endpoint.to_owned(), Instant::now());
        self.line = Some(Line { endpoint, replies, since });
        Ok(())
    }

    /// Takes what the node says next.
    async fn listen(&mut self) -> Result<(), Stop> {
        let Some(line) = &mut self.line else { return Ok(()) };
        let reply = line.replies.next().await.map_err(|error| stop_of(&line.endpoint, error))?;
        let endpoint = line.endpoint.clone();
        let mut said = self.understand(&endpoint, reply)?;
        if said.more {
            self.part.append(&mut said.events);
            return Ok(());
        }
        if !self.part.is_empty() {
            said.events.splice(0..0, self.part.drain(..));
        }
        self.request.from = Some(said.through.next());
        self.said.push_back(said);
        Ok(())
    }

    fn understand(&self, endpoint: &str, reply: Option<Bytes>) -> Result<Watched, Stop> {
        let elsewhere = |message| Stop::Elsewhere(format!("{endpoint}: {message}"));
        let Some(reply) = reply else {
            return Err(elsewhere("it has ended the watch".to_owned()));
        };
        let Reply { header, body } = Reply::decode(&reply).map_err(|error| {
            let (endpoint, message) = (endpoint.to_owned(), error.to_string());
            Stop::For(ClientError::NotUnderstood { endpoint, message })
        })?;
        let mut directory = self.client.directory();
        directory.on_reply(endpoint, &header, Instant::now());
        match body {
            Ok(Answer::Watched(said)) => {
                directory.on_seen(header.applied);
                Ok(said)
            }
            Ok(_) => {
                let message = "an answer of another kind".to_owned();
                let endpoint = endpoint.to_owned();
                Err(Stop::For(ClientError::NotUnderstood { endpoint, message }))
            }
            Err(ErrorReply::Compacted { revision, compacted }) => {
                Err(Stop::For(ClientError::Compacted { revision, compacted }))
            }
            Err(ErrorReply::Rejected { kind, message }) => {
                Err(Stop::For(ClientError::Rejected { kind, message }))
            }
            Err(ErrorReply::Behind { applied }) => {
                Err(elsewhere(format!("it has only applied {applied}")))
            }
            Err(ErrorReply::NotLeader { .. } | ErrorReply::Superseded) => {
                Err(elsewhere("it wants a leader for a watch".to_owned()))
            }
            Err(
                ErrorReply::Busy { message, .. }
                | ErrorReply::Unknown { message }
                | ErrorReply::Unavailable { message },
            ) => Err(elsewhere(message)),
        }
    }

    /// Forgets the node, and what it has told of half a revision.
    fn hang_up(&mut self) {
        if let Some(line) = self.line.take() {
            self.client.directory().on_silence(&line.endpoint);
        }
        self.part.clear();
    }
}

impl<C: WatchChannel> fmt::Debug for Watching<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("request", &self.request).finish_non_exhaustive()
    }
}

/// What cannot be sent to one node may well be sent to another; but for what nobody would take.
fn stop_of(endpoint: &str, error: ChannelError) -> Stop {
    match error {
        ChannelError::NotSent { kind, message } => match kind {
            NotSentKind::Tls => Stop::For(ClientError::NotPermitted { message }),
            NotSentKind::Unresolvable | NotSentKind::TooLarge | NotSentKind::Unreachable => {
                Stop::Elsewhere(format!("{endpoint}: {message}"))
            }
        },
        ChannelError::Lost { message } => Stop::Elsewhere(format!("{endpoint}: {message}")),
    }
}

/// How long one node may take to say that a watch has begun.
const ATTEMPT: Duration = Duration::from_secs(2);
/// A watch that a node lets go of so soon is not asked for again at once, but after this pause.
const SHORT: Duration = Duration::from_secs(1);
const PAUSE_SHORT: Duration = Duration::from_millis(100);
/// The first and the longest pause between rounds.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MOST: Duration = Duration::from_millis(500);
