//! `raft compact`: gives up the history before a revision.

use raft_kv::Revision;

use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::kv_args::CompactArgs;
use crate::output::Reply;

pub(super) async fn request(session: &Session, args: &CompactArgs) -> Result<Reply, Failure> {
    let compact = session.client().compact(Revision(args.revision));
    compact.await.map(Reply::Compact).map_err(client_failure)
}
