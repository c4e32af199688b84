//! `raft del`: removes a key. It is no failure if there is none.

use raft_kv::KeyRange;

use crate::args::DelArgs;
use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::output::Reply;

pub(super) async fn request(session: &Session, args: &DelArgs) -> Result<Reply, Failure> {
    let delete = session.client().delete(KeyRange::One(args.key.clone()));
    let outcome = delete.await.map_err(client_failure)?;
    Ok(Reply::Del { deleted: outcome.deleted, revision: outcome.revision.0 })
}
