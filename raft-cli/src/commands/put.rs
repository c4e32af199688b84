//! `raft put`: writes a value under a key.

use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::kv_args::PutArgs;
use crate::output::Reply;

pub(super) async fn request(session: &Session, args: &PutArgs) -> Result<Reply, Failure> {
    session.client().put_with(args.put()).await.map(Reply::Put).map_err(client_failure)
}
