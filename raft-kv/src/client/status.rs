//! How all members are, each asked by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft_core::NodeId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::{Answer, NodeStatus, Reply, Request};

use super::Client;
use super::channel::{Channel, ChannelError, NotSentKind};
use super::error::ClientError;

/// What is known of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Which, unless only an endpoint that does not answer is known.
    pub node_id: Option<NodeId>,
    /// Where it is, as `host:port`.
    pub address: String,
    /// What it says of itself, or why it says nothing.
    pub status: Result<NodeStatus, String>,
}

/// Why an endpoint said nothing of use.
#[derive(Clone, Debug)]
struct Silence {
    kind: Option<NotSentKind>,
    message: String,
}

impl<C: Channel> Client<C> {
    /// Asks every endpoint and every member how it is, all at once. In the order of their ids,
    /// those without a known id last.
    ///
    /// # Errors
    ///
    /// If nobody answers: [`ClientError::BadEndpoint`], [`ClientError::NotPermitted`] or
    /// [`ClientError::Unreachable`].
    pub async fn status_all(&self) -> Result<Vec<MemberStatus>, ClientError> {
        let deadline = Instant::now() + self.timeout.min(PATIENCE);
        let given: BTreeSet<String> = self.directory().given().iter().cloned().collect();
        let mut answers = self.ask(given.clone(), deadline).await;
        if answers.values().all(Result::is_err) {
            return Err(self.nobody(&answers));
        }
        let listed = match self.members().await {
            Ok(members) => members.addresses(),
            Err(_) => BTreeMap::new(),
        };
        // Some members may go by another name among the endpoints.
        let known: BTreeSet<NodeId> = answers.values().flatten().map(|s| s.node_id).collect();
        let others = listed
            .iter()
            .filter(|(id, address)| !known.contains(id) && !answers.contains_key(*address))
            .map(|(_, address)| address.clone())
            .collect();
        let deadline = Instant::now() + self.timeout.min(PATIENCE);
        answers.extend(self.ask(others, deadline).await);
        Ok(table(answers, &listed))
    }

    async fn ask(
        &self,
        endpoints: BTreeSet<String>,
        deadline: Instant,
    ) -> BTreeMap<String, Result<NodeStatus, Silence>> {
        let mut calls = JoinSet::new();
        for endpoint in endpoints {
            let channel = self.channel.clone();
            calls.spawn(async move {
                let request = Request::Status.encode();
                let reply = channel.call(&endpoint, request, deadline.into_std()).await;
                (endpoint, reply)
            });
        }
        let mut answers = BTreeMap::new();
        while let Some(joined) = calls.join_next().await {
            // A call that panicked has no answer; it is simply missing.
            let Ok((endpoint, reply)) = joined else { continue };
            let answer = match reply {
                Ok(bytes) => match Reply::decode(&bytes).map(|reply| (reply.header, reply.body)) {
                    Ok((header, Ok(Answer::Status(status)))) => {
                        self.directory().on_reply(&endpoint, &header, Instant::now());
                        Ok(status)
                    }
                    Ok((_, Ok(_) | Err(_))) => Err(Silence::of("answers something else")),
                    Err(error) => {
                        Err(Silence::of(format!("the answer is not understood: {error}")))
                    }
                },
                Err(ChannelError::NotSent { kind, message }) => {
                    Err(Silence { kind: Some(kind), message })
                }
                Err(ChannelError::Lost { message }) => Err(Silence { kind: None, message }),
            };
            answers.insert(endpoint, answer);
        }
        answers
    }

    fn nobody(&self, answers: &BTreeMap<String, Result<NodeStatus, Silence>>) -> ClientError {
        let silences = || answers.values().filter_map(|answer| answer.as_ref().err());
        let all = |kind| silences().all(|silence| silence.kind == Some(kind));
        let Some(Silence { message, .. }) = silences().next().cloned() else {
            let message = "no endpoint is given; name at least one as host:port".to_owned();
            return ClientError::BadEndpoint { message };
        };
        if all(NotSentKind::Unresolvable) {
            ClientError::BadEndpoint { message }
        } else if all(NotSentKind::Tls) {
            ClientError::NotPermitted { message }
        } else {
            let endpoints = self.directory().given().join(", ");
            ClientError::Unreachable { endpoints, last: message }
        }
    }
}

impl Silence {
    fn of(message: impl Into<String>) -> Self {
        Self { kind: None, message: message.into() }
    }
}

/// One line a node. A node that answers at two endpoints has one line.
fn table(
    answers: BTreeMap<String, Result<NodeStatus, Silence>>,
    listed: &BTreeMap<NodeId, String>,
) -> Vec<MemberStatus> {
    let mut nodes = BTreeMap::new();
    let mut nameless = Vec::new();
    for (endpoint, answer) in answers {
        match answer {
            Ok(status) => {
                let node_id = Some(status.node_id);
                let address = status.address.clone();
                let line = MemberStatus { node_id, address, status: Ok(status.clone()) };
                nodes.insert(status.node_id, line);
            }
            Err(silence) => {
                let node_id = listed.iter().find(|(_, address)| **address == endpoint);
                let node_id = node_id.map(|(id, _)| *id);
                let line =
                    MemberStatus { node_id, address: endpoint, status: Err(silence.message) };
                match node_id {
                    Some(id) => {
                        nodes.entry(id).or_insert(line);
                    }
                    None => nameless.push(line),
                }
            }
        }
    }
    nodes.into_values().chain(nameless).collect()
}

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);
