//! `raft session`: what makes a write run once. Clients open their own; this is for looking, and for
//! trying it out.

use raft_core::sessions::SessionId;
use raft_kv::{Command, Outcome};

use crate::connect::{Session, client_failure};
use crate::failure::{Failure, Kind};
use crate::kv_args::SessionCommand;
use crate::output::Reply;

pub(super) async fn request(session: &Session, what: &SessionCommand) -> Result<Reply, Failure> {
    let client = session.client();
    let command = match what {
        SessionCommand::Open { ttl } => Command::OpenSession { ttl_ms: ttl.saturating_mul(1_000) },
        SessionCommand::KeepAlive { id } => Command::KeepSession(SessionId(*id)),
        SessionCommand::Close { id } => Command::CloseSession(SessionId(*id)),
        SessionCommand::List => {
            return client.sessions().await.map(Reply::Sessions).map_err(client_failure);
        }
    };
    let outcome = client.plainly(command).await.map_err(client_failure)?;
    let Outcome::Session { session, ttl_ms } = outcome else {
        return Err(Failure::new(Kind::Unavailable, "a node answered something else than asked"));
    };
    Ok(Reply::Session { session: session.0, ttl_ms })
}
