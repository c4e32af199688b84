//! Requests about the cluster itself, and their answers. So far one: "take me in".
//!
//! Few and rare, so they travel as JSON. Only the leader can do them; any other node says so.

use bytes::Bytes;
use raft_core::{Change, ChangeStep, Handle, NodeId, RequestError, Status};
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AdminRequest {
    /// Send this node the log, and let it vote once it has caught up.
    Join {
        /// Its id, which nobody has had before (rule M10).
        node: NodeId,
        /// Where the others find it, as `host:port`.
        address: String,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AdminReply {
    /// It is done, or was done before.
    Done,
    /// Not now, or not here. Ask again later.
    Later(String),
    /// It will never be done.
    Refused(String),
}

impl AdminRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Names and numbers always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Does what the request asks, and answers.
    pub(crate) fn carry_out(
        request: &[u8],
        handle: &Handle,
        reply: impl FnOnce(Bytes) + Send + 'static,
    ) {
        let Self::Join { node, address } = match serde_json::from_slice(request) {
            Ok(request) => request,
            Err(error) => {
                let message = format!("the request is not understood: {error}");
                return reply(AdminReply::Refused(message).encode());
            }
        };
        if let Some(answer) = known(&handle.status(), node, &address) {
            return reply(answer.encode());
        }
        let steps = vec![ChangeStep::Admit(node, Some(address))];
        let change = Change { steps, expected_at: None };
        handle.change_membership(change, move |done| {
            let answer = match done {
                Ok(_) => AdminReply::Done,
                // Whatever is unknown is seen in the membership when it is asked again.
                Err(RequestError::Refused(raft_core::Refusal::Invalid(why))) => {
                    AdminReply::Refused(why)
                }
                Err(error) => AdminReply::Later(error.to_string()),
            };
            reply(answer.encode());
        });
    }
}

/// The answer to a node that is a member already.
fn known(status: &Status, node: NodeId, address: &str) -> Option<AdminReply> {
    let peer = status.membership.peers.get(&node)?;
    Some(if peer.address == address {
        AdminReply::Done
    } else {
        AdminReply::Refused(format!(
            "node {node} is a member already, at {}; an id is never given to another node",
            peer.address
        ))
    })
}

impl AdminReply {
    fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub(crate) fn decode(reply: &[u8]) -> Self {
        serde_json::from_slice(reply)
            .unwrap_or_else(|error| Self::Later(format!("the answer is not understood: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_survive_the_journey() {
        let node = NodeId::new(4).expect("not zero");
        let request = AdminRequest::Join { node, address: "a:1".to_owned() };
        let found: AdminRequest = serde_json::from_slice(&request.encode()).unwrap();
        assert_eq!(found, request);
        for reply in [AdminReply::Done, AdminReply::Refused("why".to_owned())] {
            assert_eq!(AdminReply::decode(&reply.encode()), reply);
        }
        assert!(matches!(AdminReply::decode(b"garbage"), AdminReply::Later(_)));
    }
}
