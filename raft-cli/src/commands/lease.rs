//! `raft lease`: keys that go when nobody keeps them.

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

use raft_kv::LeaseId;

use super::{on_session, stopped};
use crate::args::{Global, Output};
use crate::connect::{Session, client_failure};
use crate::failure::{Failure, Kind};
use crate::kv_args::LeaseCommand;
use crate::output::{self, Reply};
use crate::{kv_output, terminal};

/// Keeps a lease alive until it is told to stop, and says so each time.
pub(super) fn keep(global: &Global, id: NonZeroU64) -> Result<ExitCode, Failure> {
    on_session(global, async |session| {
        loop {
            let renewed = async {
                let kept =
                    session.client().keep_alive(LeaseId(id)).await.map_err(client_failure)?;
                let line = match global.output {
                    Output::Json => kv_output::lease_outcome(&kept).to_string(),
                    Output::Table => format!("lease {id}: {} s from now", kept.ttl_ms / 1_000),
                };
                let is_heard = output::try_line(&line)?;
                // Two may fail before it is too late.
                tokio::time::sleep(Duration::from_millis(kept.ttl_ms / 3)).await;
                Ok::<_, Failure>(is_heard)
            };
            tokio::select! {
                renewed = renewed => if !renewed? { return Ok(ExitCode::SUCCESS) },
                asked = terminal::asked_to_stop() => return stopped(asked),
            }
        }
    })
}

pub(super) async fn request(session: &Session, what: &LeaseCommand) -> Result<Reply, Failure> {
    let client = session.client();
    match what {
        LeaseCommand::Grant { ttl, id } => {
            let id = id.map(LeaseId);
            client.grant(id, Duration::from_secs(*ttl)).await.map(Reply::Lease)
        }
        LeaseCommand::Revoke { id } => client.revoke(LeaseId(*id)).await.map(Reply::Lease),
        LeaseCommand::KeepAlive { id, once: _ } => {
            client.keep_alive(LeaseId(*id)).await.map(Reply::Lease)
        }
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
