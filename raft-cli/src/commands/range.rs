//! `raft range`: reads keys. `raft get` is the same for one key, and says so if there is none.

use raft_kv::{KeyRange, RangeReply};

use crate::connect::{Session, client_failure};
use crate::failure::{Failure, Kind};
use crate::kv_args::RangeArgs;
use crate::output::{Found, Reply};

pub(super) async fn request(session: &Session, args: &RangeArgs) -> Result<Reply, Failure> {
    read(session, args).await.map(Reply::Range)
}

/// `raft get`. With options that speak of several keys it is `raft range`.
pub(super) async fn get(session: &Session, args: &RangeArgs) -> Result<Reply, Failure> {
    let found = read(session, args).await?;
    if !args.is_plain() {
        return Ok(Reply::Range(found));
    }
    let revision = found.revision;
    match found.kvs.into_iter().next() {
        Some(kv) => Ok(Reply::Get(Found { kv, revision })),
        None => Err(no_such_key(&args.keys.range()?)),
    }
}

async fn read(session: &Session, args: &RangeArgs) -> Result<RangeReply, Failure> {
    session.client().range(args.request()?, args.level()?).await.map_err(client_failure)
}

fn no_such_key(range: &KeyRange) -> Failure {
    let key = String::from_utf8_lossy(range.first());
    Failure::new(Kind::NotFound, format!("there is no key {key:?}"))
}
