//! `raft put`: writes a value under a key.

use crate::args::PutArgs;
use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::output::Reply;

pub(super) async fn request(session: &Session, args: &PutArgs) -> Result<Reply, Failure> {
    let put = session.client().put(args.key.clone(), args.value.clone());
    let outcome = put.await.map_err(client_failure)?;
    Ok(Reply::Put { revision: outcome.revision.0 })
}
