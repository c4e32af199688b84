//! How one request is carried through: whom to ask, when to ask again, when to give up.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use raft_core::Index;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::{Answer, ErrorReply, Header, Rejection, Reply, Request};

use super::Client;
use super::channel::{Channel, ChannelError, NotSentKind};
use super::directory::Preference;
use super::error::ClientError;

/// What it means to send a request twice, and who can answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes something. Only the leader can.
    Write,
    /// The same, but of a session: it is not run twice.
    Session,
    /// It changes nothing that matters. Only the leader can answer.
    Read,
    /// It changes nothing, and anybody can answer.
    Anyone,
}

/// What is to be done after an attempt.
enum Next {
    /// Nothing: this is the end of it.
    Done(Box<Result<(Header, Answer), ClientError>>),
    /// Ask somebody else.
    Elsewhere,
    /// Ask the same node again, after this time.
    Again(Duration),
}

/// One request on its way.
struct Journey {
    kind: Kind,
    deadline: Instant,
    /// Who was asked since the last pause.
    tried: BTreeSet<String>,
    /// How many hints were followed since then.
    hops: u32,
    /// The longest that one attempt may take if it can be repeated.
    attempt: Duration,
    pause: Duration,
    /// What the last failure was, for the message.
    last: Option<Obstacle>,
    /// Whether any node has answered anything.
    any_answer: bool,
    /// Whether anything stood in the way that may pass by itself.
    may_pass: bool,
    /// Whether an attempt may have changed something, of which there was no answer.
    may_be_done: bool,
}

/// What stood in the way.
#[derive(Clone, Debug)]
enum Obstacle {
    NotSent { kind: NotSentKind, message: String },
    Lost(String),
    NotLeading(String),
    Busy { retry_after: Duration, message: String },
    Behind(Index),
    NotUnderstood { endpoint: String, message: String },
}

impl<C: Channel> Client<C> {
    /// Carries `request` through. `expect` takes the kind of answer that belongs to it.
    pub(super) async fn run<T>(
        &self,
        request: &Request,
        kind: Kind,
        expect: impl Fn(Answer) -> Option<T>,
    ) -> Result<T, ClientError> {
        self.run_until(Instant::now() + self.timeout, request, kind, expect).await
    }

    /// The same, until a deadline.
    pub(super) async fn run_until<T>(
        &self,
        deadline: Instant,
        request: &Request,
        kind: Kind,
        expect: impl Fn(Answer) -> Option<T>,
    ) -> Result<T, ClientError> {
        let (header, answer) = self.carry(&request.encode(), kind, deadline).await?;
        if let Some(answer) = expect(answer) {
            self.directory().on_seen(header.applied);
            return Ok(answer);
        }
        let message = format!("node {} gave an answer of another kind", header.node);
        match kind {
            Kind::Write | Kind::Session => Err(ClientError::Unknown { message }),
            Kind::Read | Kind::Anyone => {
                Err(ClientError::NotUnderstood { endpoint: "a node".to_owned(), message })
            }
        }
    }

    async fn carry(
        &self,
        request: &Bytes,
        kind: Kind,
        deadline: Instant,
    ) -> Result<(Header, Answer), ClientError> {
        let mut journey = Journey::new(kind, self.timeout, deadline);
        loop {
            let next = self.directory().next(&journey.tried, journey.preference());
            let next = match next {
                Some(endpoint) => {
                    journey.tried.insert(endpoint.clone());
                    self.visit(&endpoint, request, &mut journey).await
                }
                None => {
                    if let Some(error) = self.hopeless(&journey) {
                        return Err(error);
                    }
                    Next::Again(journey.end_round())
                }
            };
            match next {
                Next::Done(result) => return *result,
                Next::Elsewhere => {}
                Next::Again(pause) => {
                    if Instant::now() + pause >= journey.deadline {
                        return Err(self.given_up(&journey));
                    }
                    tokio::time::sleep(pause).await;
                }
            }
            if Instant::now() >= journey.deadline {
                return Err(self.given_up(&journey));
            }
        }
    }

    /// One attempt at one node.
    async fn visit(&self, endpoint: &str, request: &Bytes, journey: &mut Journey) -> Next {
        // A write that goes to a dead node may have to be reported as unknown, after all of the
        // timeout. So ask something harmless first, unless the node was alive a moment ago. The
        // answer also says who leads.
        if journey.kind == Kind::Write {
            let is_fresh = self.directory().is_fresh(endpoint, Instant::now(), FRESH);
            if !is_fresh && let Some(next) = self.probe(endpoint, journey).await {
                return next;
            }
        }
        let (deadline, begun) = (journey.attempt_deadline(), Instant::now());
        let call = self.call(endpoint, request.clone(), deadline);
        let reply = match journey.kind {
            // What can be sent again need not wait for a leader that is gone.
            Kind::Session | Kind::Read => tokio::select! {
                reply = call => reply,
                () = self.overthrown(endpoint) => {
                    Err(Obstacle::Lost(format!("{endpoint}: another node leads now")))
                }
            },
            Kind::Write | Kind::Anyone => call.await,
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(obstacle) => {
                self.directory().on_silence(endpoint);
                return journey.on_obstacle(obstacle);
            }
        };
        journey.any_answer = true;
        let Reply { header, body } = reply;
        match body {
            Ok(answer) => {
                let mut directory = self.directory();
                if journey.kind != Kind::Anyone {
                    directory.on_led(endpoint, header.term);
                    directory.on_answer_after(begun.elapsed());
                }
                if let Answer::Members(members) = &answer {
                    directory.on_members(members);
                }
                Next::Done(Box::new(Ok((header, answer))))
            }
            Err(error) => self.on_error(endpoint, error, journey),
        }
    }

    fn on_error(&self, endpoint: &str, error: ErrorReply, journey: &mut Journey) -> Next {
        match error {
            ErrorReply::NotLeader { leader, term } => {
                let news = self.directory().on_not_leader(endpoint, leader.as_ref(), term);
                if let Some(news) = news.filter(|_| journey.hops < HOPS) {
                    // It may have been asked before it was elected.
                    journey.hops += 1;
                    journey.tried.remove(&news);
                }
                let message = format!("{endpoint} does not lead in term {term}");
                journey.note(Obstacle::NotLeading(message));
                Next::Elsewhere
            }
            ErrorReply::Busy { retry_after_ms, message } => {
                let retry_after = Duration::from_millis(retry_after_ms.into());
                let message = format!("{endpoint}: {message}");
                journey.note(Obstacle::Busy { retry_after, message });
                journey.tried.remove(endpoint);
                Next::Again(jittered(retry_after.clamp(PAUSE_FIRST, PAUSE_MOST)))
            }
            ErrorReply::Superseded => {
                journey.tried.remove(endpoint);
                Next::Again(jittered(PAUSE_FIRST))
            }
            ErrorReply::Behind { applied } => {
                journey.note(Obstacle::Behind(applied));
                Next::Elsewhere
            }
            ErrorReply::Unavailable { message } => {
                journey.note(Obstacle::NotLeading(format!("{endpoint}: {message}")));
                Next::Elsewhere
            }
            ErrorReply::Unknown { message } => {
                let message = format!("{endpoint}: {message}");
                journey.on_obstacle(Obstacle::Lost(message))
            }
            // Whether an earlier attempt was run in the session nobody knows any more.
            ErrorReply::Rejected {
                kind: Rejection::SessionEnded | Rejection::Sequence,
                message,
            } if journey.may_be_done => Next::failed(ClientError::Unknown { message }),
            ErrorReply::Rejected { kind, message } => {
                Next::failed(ClientError::Rejected { kind, message })
            }
            ErrorReply::Compacted { revision, compacted } => {
                Next::failed(ClientError::Compacted { revision, compacted })
            }
        }
    }

    /// Asks `endpoint` who the members are. `None` if it leads, and so may be sent a write.
    async fn probe(&self, endpoint: &str, journey: &mut Journey) -> Option<Next> {
        let deadline = journey.deadline.min(Instant::now() + journey.attempt);
        let reply = match self.call(endpoint, Request::Members.encode(), deadline).await {
            Ok(reply) => reply,
            Err(obstacle) => {
                self.directory().on_silence(endpoint);
                journey.note(obstacle);
                return Some(Next::Elsewhere);
            }
        };
        journey.any_answer = true;
        let Ok(Answer::Members(members)) = reply.body else {
            let message = "no list of members".to_owned();
            let endpoint = endpoint.to_owned();
            journey.note(Obstacle::NotUnderstood { endpoint, message });
            return Some(Next::Elsewhere);
        };
        let term = reply.header.term;
        let is_leader = members.leader.as_ref().is_some_and(|hint| hint.node == reply.header.node);
        self.directory().on_members(&members);
        if is_leader {
            return None;
        }
        Some(self.on_error(
            endpoint,
            ErrorReply::NotLeader { leader: members.leader, term },
            journey,
        ))
    }

    /// Returns when another node than `endpoint` is known to lead since a later term. While `endpoint` says
    /// nothing to anybody, one of those who wait for it asks the others, now and then.
    async fn overthrown(&self, endpoint: &str) {
        let since = self.directory().led_until(endpoint);
        loop {
            let patience = self.directory().patience();
            tokio::time::sleep(patience).await;
            let ask = {
                let mut directory = self.directory();
                let now = Instant::now();
                if directory.leads_elsewhere(endpoint, since) {
                    return;
                }
                if directory.is_fresh(endpoint, now, patience) {
                    continue;
                }
                directory.begin_lookout(endpoint, now)
            };
            let mut calls = JoinSet::new();
            for other in ask {
                let client = self.clone();
                calls.spawn(async move {
                    let deadline = Instant::now() + LOOKOUT;
                    let reply = client.call(&other, Request::Members.encode(), deadline).await;
                    (other, reply)
                });
            }
            while let Some(joined) = calls.join_next().await {
                // Who is silent here as well is asked again, by whoever comes next.
                let Ok((other, Ok(Reply { header, body: Ok(Answer::Members(members)) }))) = joined
                else {
                    continue;
                };
                let mut directory = self.directory();
                directory.on_members(&members);
                if let Some(leader) = &members.leader {
                    directory.on_rumour(&other, leader, header.term);
                }
                if directory.leads_elsewhere(endpoint, since) {
                    return;
                }
            }
        }
    }

    /// One call. Says nothing about whether it may be repeated.
    async fn call(
        &self,
        endpoint: &str,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Reply, Obstacle> {
        let call = self.channel.call(endpoint, request, deadline.into_std());
        // The channel keeps the deadline. Should it not, this client does.
        let result = tokio::time::timeout_at(deadline + GRACE, call).await;
        let bytes = match result {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(ChannelError::NotSent { kind, message })) => {
                return Err(Obstacle::NotSent { kind, message });
            }
            Ok(Err(ChannelError::Lost { message })) => return Err(Obstacle::Lost(message)),
            Err(_) => return Err(Obstacle::Lost(format!("{endpoint}: no answer in time"))),
        };
        let reply = Reply::decode(&bytes).map_err(|error| Obstacle::NotUnderstood {
            endpoint: endpoint.to_owned(),
            message: error.to_string(),
        })?;
        self.directory().on_reply(endpoint, &reply.header, Instant::now());
        Ok(reply)
    }

    /// After a round: whether there is no point in another.
    fn hopeless(&self, journey: &Journey) -> Option<ClientError> {
        if journey.any_answer || journey.may_pass {
            return None;
        }
        match &journey.last {
            Some(Obstacle::NotSent { kind: NotSentKind::Unresolvable, message }) => {
                Some(ClientError::BadEndpoint { message: message.clone() })
            }
            Some(Obstacle::NotSent { kind: NotSentKind::Tls, message }) => {
                Some(ClientError::NotPermitted { message: message.clone() })
            }
            Some(Obstacle::NotUnderstood { endpoint, message }) => {
                let (endpoint, message) = (endpoint.clone(), message.clone());
                Some(ClientError::NotUnderstood { endpoint, message })
            }
            None => Some(ClientError::BadEndpoint {
                message: "no endpoint is given; name at least one as host:port".to_owned(),
            }),
            Some(_) => None,
        }
    }

    /// The time is up, and nothing was done.
    fn given_up(&self, journey: &Journey) -> ClientError {
        if let Some(error) = self.hopeless(journey) {
            return error;
        }
        let last = journey.last.as_ref().map(Obstacle::to_message).unwrap_or_default();
        if journey.may_be_done {
            let waited = self.timeout;
            let message = format!("no node has answered for it within {waited:?} ({last})");
            return ClientError::Unknown { message };
        }
        match &journey.last {
            Some(Obstacle::Behind(applied)) => {
                ClientError::Behind { wanted: self.directory().applied(), applied: *applied }
            }
            Some(Obstacle::Busy { retry_after, message }) => {
                ClientError::Busy { retry_after: *retry_after, message: message.clone() }
            }
            _ if journey.any_answer => ClientError::NoLeader { waited: self.timeout, last },
            _ => {
                let endpoints = self.directory().given().join(", ");
                ClientError::Unreachable { endpoints, last }
            }
        }
    }
}

impl Next {
    fn failed(error: ClientError) -> Self {
        Self::Done(Box::new(Err(error)))
    }
}

impl Journey {
    fn new(kind: Kind, timeout: Duration, deadline: Instant) -> Self {
        Self {
            kind,
            deadline,
            tried: BTreeSet::new(),
            hops: 0,
            attempt: (timeout / 4).clamp(ATTEMPT_LEAST, ATTEMPT_MOST),
            pause: PAUSE_FIRST,
            last: None,
            any_answer: false,
            may_pass: false,
            may_be_done: false,
        }
    }

    fn preference(&self) -> Preference {
        match self.kind {
            Kind::Write | Kind::Session | Kind::Read => Preference::Leader,
            Kind::Anyone => Preference::Given,
        }
    }

    /// Until when to wait for an answer. To give up waiting for a write is to not know what became
    /// of it, so a write has all the time there is.
    fn attempt_deadline(&self) -> Instant {
        match self.kind {
            Kind::Write => self.deadline,
            Kind::Session | Kind::Read | Kind::Anyone => {
                self.deadline.min(Instant::now() + self.attempt)
            }
        }
    }

    /// An attempt has had no answer.
    fn on_obstacle(&mut self, obstacle: Obstacle) -> Next {
        let next = match (&obstacle, self.kind) {
            (Obstacle::NotSent { kind: NotSentKind::TooLarge, message }, _) => {
                let (kind, message) = (Rejection::ValueTooLarge, message.clone());
                Next::failed(ClientError::Rejected { kind, message })
            }
            (Obstacle::NotSent { .. }, _) | (_, Kind::Read | Kind::Anyone) => Next::Elsewhere,
            (_, Kind::Session) => {
                self.may_be_done = true;
                Next::Elsewhere
            }
            (_, Kind::Write) => {
                let message = obstacle.to_message();
                Next::failed(ClientError::Unknown { message })
            }
        };
        self.note(obstacle);
        next
    }

    fn note(&mut self, obstacle: Obstacle) {
        let is_lasting = match &obstacle {
            Obstacle::NotSent { kind, .. } => match kind {
                NotSentKind::Unresolvable | NotSentKind::Tls | NotSentKind::TooLarge => true,
                NotSentKind::Unreachable => false,
            },
            Obstacle::NotUnderstood { .. } => true,
            Obstacle::Lost(_)
            | Obstacle::NotLeading(_)
            | Obstacle::Busy { .. }
            | Obstacle::Behind(_) => false,
        };
        self.may_pass |= !is_lasting;
        self.last = Some(obstacle);
    }

    /// Everybody was asked. How long to wait before asking everybody again.
    fn end_round(&mut self) -> Duration {
        self.tried.clear();
        self.hops = 0;
        // A cluster that is slow rather than dead gets more time with each round.
        self.attempt *= 2;
        let pause = jittered(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MOST);
        pause
    }
}

impl Obstacle {
    fn to_message(&self) -> String {
        match self {
            Self::NotSent { message, .. }
            | Self::Lost(message)
            | Self::NotLeading(message)
            | Self::Busy { message, .. } => message.clone(),
            Self::Behind(applied) => format!("the last node asked had applied {applied}"),
            Self::NotUnderstood { endpoint, message } => {
                format!("{endpoint} answered something that is not understood: {message}")
            }
        }
    }
}

/// Half of `pause` to all of it, so that clients who failed together do not come back together.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

/// A node that has answered within this time is taken to be alive.
const FRESH: Duration = Duration::from_secs(1);
/// How long others may take to say who leads.
const LOOKOUT: Duration = Duration::from_millis(200);
/// The least and the most that one repeatable attempt takes at first.
const ATTEMPT_LEAST: Duration = Duration::from_millis(100);
const ATTEMPT_MOST: Duration = Duration::from_secs(2);
/// So many hints are followed without a pause. Honest nodes need two or three.
const HOPS: u32 = 16;
/// The first and the longest pause between rounds.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MOST: Duration = Duration::from_millis(500);
/// How much later than it should a channel may give up by itself.
const GRACE: Duration = Duration::from_millis(100);
