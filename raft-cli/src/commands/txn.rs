//! `raft txn`: several operations as one. What is to be done comes as an argument or from stdin.

use std::io::{self, Read};

use raft_kv::Txn;

use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::kv_args::TxnArgs;
use crate::output::Reply;
use crate::{txn_json, txn_text};

pub(super) async fn request(session: &Session, args: &TxnArgs) -> Result<Reply, Failure> {
    let text = args.json.as_deref().ok_or_else(|| {
        Failure::usage(
            "the transaction is missing; in a shell give it as JSON in the line: \
             txn {\"compare\":[..],\"then\":[..],\"else\":[..]}",
        )
    })?;
    session.client().txn(parse(text)?).await.map(Reply::Txn).map_err(client_failure)
}

/// Where there is no argument, all of stdin takes its place.
pub(super) fn from_stdin(args: TxnArgs) -> Result<TxnArgs, Failure> {
    if args.json.is_some() {
        return Ok(args);
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("cannot read stdin: {error}; send UTF-8 text")))?;
    if text.len() as u64 > MAX_BYTES {
        let message = format!("the transaction has more than {MAX_BYTES} bytes; send less at once");
        return Err(Failure::usage(message));
    }
    Ok(TxnArgs { json: Some(text) })
}

fn parse(text: &str) -> Result<Txn, Failure> {
    if text.trim_start().starts_with('{') { txn_json::parse(text) } else { txn_text::parse(text) }
}

/// More than any transaction has that a node would take.
const MAX_BYTES: u64 = 32 << 20;
