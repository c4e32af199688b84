//! `raft del`: removes keys. It is no failure if there are none.

use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::kv_args::DelArgs;
use crate::output::Reply;

pub(super) async fn request(session: &Session, args: &DelArgs) -> Result<Reply, Failure> {
    session.client().delete_with(args.delete()?).await.map(Reply::Del).map_err(client_failure)
}
