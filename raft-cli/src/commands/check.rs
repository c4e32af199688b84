//! `raft check`: whether all nodes hold the same.

use raft_kv::Revision;

use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::kv_args::{CheckCommand, ConsistencyArgs};
use crate::output::Reply;

pub(super) async fn request(session: &Session, what: &CheckCommand) -> Result<Reply, Failure> {
    let CheckCommand::Consistency(ConsistencyArgs { rev, within }) = what;
    let client = session.client().with_timeout(*within);
    let comparison = client.compare(rev.map(Revision)).await.map_err(client_failure)?;
    Ok(Reply::Compared(comparison))
}
