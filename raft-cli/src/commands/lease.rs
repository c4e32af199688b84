//! `raft lease`: keys that go when nobody keeps them.

use std::time::Duration;

use raft_kv::LeaseId;

use crate::connect::{Session, client_failure};
use crate::failure::{Failure, Kind};
use crate::kv_args::LeaseCommand;
use crate::output::Reply;

pub(super) async fn request(session: &Session, what: &LeaseCommand) -> Result<Reply, Failure> {
    let client = session.client();
    match what {
        LeaseCommand::Grant { ttl, id } => {
            let id = id.map(LeaseId);
            client.grant(id, Duration::from_secs(*ttl)).await.map(Reply::Lease)
        }
        LeaseCommand::Revoke { id } => client.revoke(LeaseId(*id)).await.map(Reply::Lease),
        LeaseCommand::KeepAlive { id } => client.keep_alive(LeaseId(*id)).await.map(Reply::Lease),
        LeaseCommand::Timetolive { id, keys } => {
            return match client.time_to_live(LeaseId(*id), *keys).await.map_err(client_failure)? {
                Some(status) => Ok(Reply::LeaseStatus(status)),
                None => Err(Failure::new(Kind::NotFound, format!("there is no lease {id}"))),
            };
        }
        LeaseCommand::List => client.leases().await.map(Reply::Leases),
    }
    .map_err(client_failure)
}
