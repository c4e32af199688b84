//! What can be said of a request without the node: whether it makes sense, and how to say that it
//! does not.

use bytes::Bytes;

use raft_core::sessions::SessionError;

use crate::api::{ErrorReply, Rejection, Request, Write};
use crate::command::{Command, Field, Put, Refused};
use crate::config::KvConfig;
use crate::error::KvError;
use crate::model::KeyRange;
use crate::txn::{Target, Txn, TxnOp};
use crate::watch::WatchRequest;

/// Whether a request may go on. Limits are those of this node; what it lets pass all nodes apply
/// alike.
pub(super) fn check(request: &Request, config: &KvConfig) -> Result<(), ErrorReply> {
    match request {
        Request::Write(write) => check_write(write, config),
        Request::Range(read) => check_range(&read.request.range, config),
        Request::Watch(watch) => check_watch(watch, config),
        Request::Status | Request::Members | Request::Inspect(_) | Request::Digest { .. } => Ok(()),
    }
}

fn check_write(write: &Write, config: &KvConfig) -> Result<(), ErrorReply> {
    let Write { session, command } = write;
    if matches!(command, Command::Activate(_) | Command::RaiseAlarm(_)) {
        let message = "only the cluster itself can say that; clients cannot".to_owned();
        return Err(rejected(Rejection::NotUnderstood, message));
    }
    if matches!(command, Command::Tick) || (session.is_some() && command.concerns_sessions()) {
        return Err(senseless(&Refused::NotInSession));
    }
    check_command(command, config)
}

fn check_watch(watch: &WatchRequest, config: &KvConfig) -> Result<(), ErrorReply> {
    match watch.progress_ms {
        Some(ms) if ms < LEAST_PROGRESS_MS => {
            let message = format!(
                "word of progress every {ms} ms is asked for; at least {LEAST_PROGRESS_MS} ms"
            );
            Err(rejected(Rejection::TooMuch, message))
        }
        Some(_) | None => check_range(&watch.range, config),
    }
}

fn check_command(command: &Command, config: &KvConfig) -> Result<(), ErrorReply> {
    match command {
        Command::Put(put) => check_put(put, config),
        Command::DeleteRange(delete) => check_range(&delete.range, config),
        Command::Txn(txn) => {
            // First of all whether it is too deep to be walked through.
            txn.check().map_err(|refused| senseless(&refused))?;
            check_txn(txn, config)
        }
        Command::Compact(_)
        | Command::OpenSession { .. }
        | Command::KeepSession(_)
        | Command::CloseSession(_)
        | Command::Tick
        | Command::GrantLease(_)
        | Command::KeepLease(_)
        | Command::RevokeLease(_)
        | Command::Activate(_)
        | Command::RaiseAlarm(_)
        | Command::ClearAlarms(_) => Ok(()),
    }
}

fn check_txn(txn: &Txn, config: &KvConfig) -> Result<(), ErrorReply> {
    for compare in &txn.compare {
        check_range(&compare.range, config)?;
        if let Target::Value(value) = &compare.target {
            check_value(value, config)?;
        }
    }
    for op in txn.then.iter().chain(&txn.otherwise) {
        match op {
            TxnOp::Put(put) => check_put(put, config)?,
            TxnOp::Range(request) => check_range(&request.range, config)?,
            TxnOp::DeleteRange(delete) => check_range(&delete.range, config)?,
            TxnOp::Txn(txn) => check_txn(txn, config)?,
        }
    }
    Ok(())
}

fn check_put(put: &Put, config: &KvConfig) -> Result<(), ErrorReply> {
    check_key(&put.key, config)?;
    match &put.value {
        Field::Set(value) => check_value(value, config),
        Field::Keep => Ok(()),
    }
}

fn check_value(value: &Bytes, config: &KvConfig) -> Result<(), ErrorReply> {
    let (bytes, limit) = (value.len(), config.max_value_bytes);
    if bytes <= limit {
        return Ok(());
    }
    let message = format!("the value has {bytes} bytes; at most {limit} are allowed");
    Err(rejected(Rejection::ValueTooLarge, message))
}

fn check_range(range: &KeyRange, config: &KvConfig) -> Result<(), ErrorReply> {
    match range {
        KeyRange::One(key) => check_key(key, config),
        KeyRange::From(first) if first.is_empty() => Ok(()),
        KeyRange::From(first) => check_key(first, config),
        KeyRange::Between { first, before } if first >= before => {
            let (first, before) = (first.escape_ascii(), before.escape_ascii());
            let message =
                format!("the range from \"{first}\" ends at \"{before}\", before it begins");
            Err(rejected(Rejection::EmptyRange, message))
        }
        // The end may be one byte longer than a key, to include the longest.
        KeyRange::Between { first, before } => {
            let limit = config.max_key_bytes + 1;
            check_length(first, limit).and_then(|()| check_length(before, limit))
        }
    }
}

fn check_key(key: &Bytes, config: &KvConfig) -> Result<(), ErrorReply> {
    if key.is_empty() {
        return Err(senseless(&Refused::EmptyKey));
    }
    check_length(key, config.max_key_bytes)
}

fn check_length(key: &Bytes, limit: usize) -> Result<(), ErrorReply> {
    if key.len() <= limit {
        return Ok(());
    }
    let message = format!("the key has {} bytes; at most {limit} are allowed", key.len());
    Err(rejected(Rejection::KeyTooLong, message))
}

/// What the store has refused, as clients are told.
pub(super) fn senseless(refused: &Refused) -> ErrorReply {
    let kind = match refused {
        Refused::EmptyKey => Rejection::EmptyKey,
        Refused::NoSuchLease(_) => Rejection::NoSuchLease,
        Refused::FutureRevision { .. } => Rejection::FutureRevision,
        Refused::TooMuch { .. }
        | Refused::TooManyParts { .. }
        | Refused::TooManyLeases { .. }
        | Refused::LeaseFull { .. } => Rejection::TooMuch,
        Refused::LeaseExists(_) => Rejection::LeaseExists,
        Refused::NotInSession => Rejection::NotInSession,
        Refused::Session(error) => match error {
            SessionError::Ended { .. } => Rejection::SessionEnded,
            SessionError::TooMuchHeld { .. } => Rejection::TooMuch,
            SessionError::Acknowledged { .. } | SessionError::Jump { .. } | _ => {
                Rejection::Sequence
            }
        },
        Refused::NotActive { .. } => Rejection::NotActive,
        Refused::NoSuchKey(_) => Rejection::NoSuchKey,
        Refused::DuplicateKey(_) => Rejection::DuplicateKey,
        Refused::Compacted { revision, compacted } => {
            return ErrorReply::Compacted { revision: *revision, compacted: *compacted };
        }
    };
    rejected(kind, refused.to_string())
}

/// Why the store could not be read, as clients are told.
pub(super) fn unreadable(error: KvError) -> ErrorReply {
    match error {
        KvError::Compacted { revision, compacted } => ErrorReply::Compacted { revision, compacted },
        KvError::FutureRevision { .. } => rejected(Rejection::FutureRevision, error.to_string()),
        KvError::Locked { .. }
        | KvError::Io { .. }
        | KvError::Storage { .. }
        | KvError::Format { .. }
        | KvError::Newer { .. }
        | KvError::Corrupt { .. }
        | KvError::WrongSnapshot { .. }
        | KvError::Config(_) => {
            tracing::error!(%error, "the store cannot be read");
            ErrorReply::Unavailable { message: error.to_string() }
        }
    }
}

/// A watch costs nothing while nothing happens, unless it says so all the time.
const LEAST_PROGRESS_MS: u32 = 100;

pub(super) fn rejected(kind: Rejection, message: String) -> ErrorReply {
    ErrorReply::Rejected { kind, message }
}
