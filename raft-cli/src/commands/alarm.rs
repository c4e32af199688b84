//! `raft alarm`: what an operator has to know of at once.

use std::collections::BTreeSet;

use raft_kv::Alarm;

use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::kv_args::AlarmCommand;
use crate::output::Reply;

pub(super) async fn request(session: &Session, what: &AlarmCommand) -> Result<Reply, Failure> {
    let client = session.client();
    let alarms: BTreeSet<Alarm> = match what {
        // Each node knows of its own space only.
        AlarmCommand::List => {
            let nodes = client.status_all().await.map_err(client_failure)?;
            let seen = nodes.into_iter().filter_map(|node| node.status.ok());
            seen.flat_map(|status| status.condition.alarms).collect()
        }
        AlarmCommand::Disarm { node } => {
            let left = client.clear_alarms(*node).await.map_err(client_failure)?;
            left.into_iter()
                .map(|left| Alarm::Diverged { node: left.node, revision: left.revision })
                .collect()
        }
    };
    Ok(Reply::Alarms(alarms.into_iter().collect()))
}
