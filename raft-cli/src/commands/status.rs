//! `raft status`: what each node is doing. One endpoint is enough to find the others.

use raft_core::{NodeId, RoleName};
use raft_kv::client::MemberStatus;

use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::output::{NodeStatus, Reply, Seen};

pub(super) async fn request(session: &Session) -> Result<Reply, Failure> {
    let members = session.client().status_all().await.map_err(client_failure)?;
    Ok(Reply::Status(members.into_iter().map(row).collect()))
}

fn row(member: MemberStatus) -> NodeStatus {
    let MemberStatus { node_id, address, status } = member;
    let seen = status.ok().map(|status| Seen {
        role: role(status.role),
        term: status.term.0,
        leader_id: status.leader_id.map(NodeId::as_u64),
        last_index: status.last_index.0,
        commit_index: status.commit_index.0,
        applied_index: status.applied_index.0,
        revision: status.revision.0,
        condition: status.condition,
    });
    NodeStatus { node_id: node_id.map(NodeId::as_u64), address, seen }
}

/// Whether a candidate asks first or campaigns already is of no interest to an operator.
const fn role(role: RoleName) -> &'static str {
    match role {
        RoleName::Leader => "leader",
        RoleName::Follower => "follower",
        RoleName::PreCandidate | RoleName::Candidate => "candidate",
        RoleName::Learner => "learner",
    }
}
