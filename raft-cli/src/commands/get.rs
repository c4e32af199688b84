//! `raft get`: reads the value of a key. Linearizable, unless a stale answer will do.

use raft_kv::api::ReadLevel;

use crate::args::GetArgs;
use crate::connect::{Session, client_failure};
use crate::failure::{Failure, Kind};
use crate::output::{Found, Reply};

pub(super) async fn request(session: &Session, args: &GetArgs) -> Result<Reply, Failure> {
    let level = if args.stale { ReadLevel::Stale } else { ReadLevel::Linearizable };
    let got = session.client().get(args.key.clone(), level).await.map_err(client_failure)?;
    let Some(kv) = got.kv else {
        let key = String::from_utf8_lossy(&args.key);
        return Err(Failure::new(Kind::NotFound, format!("there is no key {key:?}")));
    };
    Ok(Reply::Get(Found {
        key: kv.key,
        value: kv.value,
        revision: got.revision.0,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
    }))
}
