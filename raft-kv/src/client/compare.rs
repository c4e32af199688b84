//! Whether all nodes hold the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use raft_core::NodeId;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::api::{Answer, ErrorReply, Reply, Request};
use crate::digest::RevisionDigest;
use crate::model::Revision;

use super::channel::{Channel, ChannelError};
use super::error::ClientError;
use super::{Client, ReadLevel};

/// What the nodes of a cluster hold at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Which revision.
    pub revision: Revision,
    /// The members, by id.
    pub nodes: Vec<Compared>,
}

/// What one node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Which.
    pub node_id: NodeId,
    /// Where it is, as `host:port`.
    pub address: String,
    /// What it holds, or why it does not say.
    pub digest: Result<RevisionDigest, String>,
}

impl Comparison {
    /// The nodes that hold something else than most, by id. If no state is that of more nodes than any other,
    /// nobody knows who is right, and it is all that answered.
    pub fn diverging(&self) -> Vec<NodeId> {
        let mut holders: BTreeMap<u128, Vec<NodeId>> = BTreeMap::new();
        for node in &self.nodes {
            if let Ok(digest) = &node.digest {
                holders.entry(digest.hash).or_default().push(node.node_id);
            }
        }
        let most = holders.values().map(Vec::len).max().unwrap_or(0);
        let is_clear = holders.values().filter(|nodes| nodes.len() == most).count() == 1;
        let others = holders.into_values().filter(|nodes| !is_clear || nodes.len() < most);
        let mut diverging: Vec<_> = others.flatten().collect();
        diverging.sort();
        diverging
    }

    /// Whether every member has answered.
    pub fn is_complete(&self) -> bool {
        self.nodes.iter().all(|node| node.digest.is_ok())
    }
}

impl<C: Channel> Client<C> {
    /// Has every member say what it holds at `revision`, or now: whatever was acknowledged before. Each reads
    /// all of its data; those that have not come as far are waited for, as long as this client's timeout.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]. That a node does not answer is no error, but stands in its place.
    pub async fn compare(&self, revision: Option<Revision>) -> Result<Comparison, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let revision = match revision {
            Some(revision) => revision,
            // Any key will do.
            None => self.get("\0", ReadLevel::Linearizable).await?.revision,
        };
        let mut calls = JoinSet::new();
        for (node_id, address) in self.members().await?.addresses() {
            let channel = self.channel.clone();
            calls.spawn(async move {
                let digest = digest_at(&*channel, &address, revision, deadline).await;
                Compared { node_id, address, digest }
            });
        }
        let mut nodes = Vec::new();
        while let Some(joined) = calls.join_next().await {
            // A call that panicked has no answer; it is simply missing.
            nodes.extend(joined.ok());
        }
        nodes.sort_by_key(|node| node.node_id);
        Ok(Comparison { revision, nodes })
    }
}

/// What the node at `address` holds at `revision`. Asks again, until `deadline`, a node that is behind or busy;
/// one that cannot be reached, for a short while.
pub(crate) async fn digest_at<C: Channel>(
    channel: &C,
    address: &str,
    revision: Revision,
    deadline: Instant,
) -> Result<RevisionDigest, String> {
    let mut heard = Instant::now();
    loop {
        let request = Request::Digest { revision }.encode();
        let asked = Instant::now();
        let answer = channel.call(address, request, deadline).await;
        if answer.is_ok() {
            heard = Instant::now();
        }
        let why = match answer {
            Ok(reply) => match Reply::decode(&reply).map(|reply| reply.body) {
                Ok(Ok(Answer::Digest(digest))) => return Ok(digest),
                Ok(Err(ErrorReply::Behind { applied })) => {
                    format!("it has applied no more than entry {applied}")
                }
                Ok(Err(ErrorReply::Busy { message, .. } | ErrorReply::Unavailable { message })) => {
                    message
                }
                Ok(Err(ErrorReply::Rejected { message, .. })) => return Err(message),
                Ok(Err(ErrorReply::Compacted { revision, compacted })) => {
                    return Err(format!(
                        "revision {revision} is compacted; the oldest there is {compacted}"
                    ));
                }
                Ok(Ok(_) | Err(_)) => return Err("it answers something else".to_owned()),
                Err(error) => return Err(format!("its answer is not understood: {error}")),
            },
            Err(ChannelError::NotSent { message, .. } | ChannelError::Lost { message }) => message,
        };
        let is_late = deadline.saturating_duration_since(Instant::now()) < PAUSE;
        // It may have been busy with the answer until it was lost.
        if is_late || asked.duration_since(heard) >= SILENCE {
            return Err(why);
        }
        sleep(PAUSE).await;
    }
}

/// A node that was not heard of for so long is not asked any more.
const SILENCE: Duration = Duration::from_secs(3);
/// Before a node is asked again.
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(hashes: &[Option<u128>]) -> Comparison {
        let revision = Revision(7);
        let compared = |(id, hash): (u64, &Option<u128>)| Compared {
            node_id: NodeId::new(id).unwrap(),
            address: format!("host{id}:1"),
            digest: hash
                .map(|hash| RevisionDigest { revision, keys: 1, hash })
                .ok_or_else(|| "it is away".to_owned()),
        };
        Comparison { revision, nodes: (1..).zip(hashes).map(compared).collect() }
    }

    #[test]
    fn those_that_are_fewer_are_wrong_and_a_draw_is_nobodys() {
        for (hashes, expected) in [
            (&[Some(5), Some(5), Some(5)][..], &[][..]),
            (&[Some(5), Some(6), Some(5)], &[2]),
            (&[Some(5), Some(6), Some(7), Some(7)], &[1, 2]),
            (&[Some(5), Some(6), None], &[1, 2]),
            (&[Some(5), None, None], &[]),
            (&[None, None, None], &[]),
        ] {
            let comparison = comparison(hashes);
            let diverging: Vec<_> = comparison.diverging().iter().map(|id| id.as_u64()).collect();
            assert_eq!(diverging, expected, "{hashes:?}");
            assert_eq!(comparison.is_complete(), !hashes.contains(&None));
        }
    }
}
