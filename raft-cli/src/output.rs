//! What a request came to, and how it is printed: a table for people, one line of JSON for
//! programs.
//!
//! The names in the JSON are part of the interface. Bytes that are not UTF-8 go under a name of
//! their own, `..._base64`, so that a reader never has to guess.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use comfy_table::{ContentArrangement, Table, presets};
use raft_kv::api::Condition;
use raft_kv::client::Comparison;
use raft_kv::{
    Alarm, CompactOutcome, DeleteOutcome, KeyValue, LeaseId, LeaseOutcome, LeaseStatus, Listing,
    PutOutcome, RangeReply, Revision, SessionStatus, TxnOutcome, Watched,
};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::args::Output;
use crate::failure::{Failure, Kind};
use crate::kv_output;

/// What one request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Put(PutOutcome),
    Get(Found),
    Range(RangeReply),
    Del(DeleteOutcome),
    Txn(TxnOutcome),
    Watched(Watched),
    Held { key: Bytes, token: u64, lease: LeaseId },
    Elected(KeyValue),
    Compact(CompactOutcome),
    Lease(LeaseOutcome),
    LeaseStatus(LeaseStatus),
    Leases(Listing<LeaseStatus>),
    Session { session: u64, ttl_ms: u64 },
    Sessions(Listing<SessionStatus>),
    Compared(Comparison),
    Alarms(Vec<Alarm>),
    Status(Vec<NodeStatus>),
}

/// A key that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kv: KeyValue,
    /// That of the store when it was read.
    pub(crate) revision: Revision,
}

/// A row of `raft status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeStatus {
    /// `None` if only an endpoint is known, and nobody answers there.
    pub(crate) node_id: Option<u64>,
    pub(crate) address: String,
    /// `None` if it does not answer.
    pub(crate) seen: Option<Seen>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) role: &'static str,
    pub(crate) term: u64,
    pub(crate) leader_id: Option<u64>,
    pub(crate) last_index: u64,
    pub(crate) commit_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) revision: u64,
    pub(crate) condition: Condition,
}

impl Reply {
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Put(put) => kv_output::put(put),
            Self::Get(found) => found.to_json(),
            Self::Range(found) => kv_output::range(found),
            Self::Del(delete) => kv_output::delete(delete),
            Self::Txn(txn) => kv_output::txn(txn),
            Self::Watched(said) => kv_output::watched(said),
            Self::Held { key, token, lease } => kv_output::held(key, *token, *lease),
            Self::Elected(kv) => kv_output::kv(kv),
            Self::Compact(compact) => {
                json!({ "revision": compact.revision.0, "compact_revision": compact.compacted.0 })
            }
            Self::Lease(lease) => kv_output::lease_outcome(lease),
            Self::LeaseStatus(lease) => kv_output::lease_status(lease, true),
            Self::Leases(leases) => {
                let rows = leases.items.iter().map(|lease| kv_output::lease_status(lease, false));
                json!({ "leases": rows.collect::<Value>(), "more": leases.more })
            }
            Self::Session { session, ttl_ms } => json!({ "session": session, "ttl_ms": ttl_ms }),
            Self::Sessions(sessions) => {
                let rows = sessions.items.iter().map(kv_output::session_status);
                json!({ "sessions": rows.collect::<Value>(), "more": sessions.more })
            }
            Self::Compared(comparison) => kv_output::comparison(comparison),
            Self::Alarms(alarms) => {
                let rows = alarms.iter().map(|alarm| {
                    let mut fields = kv_output::alarm(*alarm);
                    fields["message"] = alarm.to_string().into();
                    fields
                });
                json!({ "alarms": rows.collect::<Value>() })
            }
            Self::Status(nodes) => nodes.iter().map(NodeStatus::to_json).collect(),
        }
    }

    pub(crate) fn to_table(&self) -> Table {
        match self {
            Self::Put(put) => kv_output::put_table(put),
            Self::Get(found) => kv_output::kv_table([&found.kv]),
            Self::Range(found) => kv_output::range_table(found),
            Self::Del(delete) => kv_output::delete_table(delete),
            Self::Txn(txn) => kv_output::txn_table(txn),
            Self::Watched(said) => kv_output::events_table(said),
            Self::Held { key, token, lease } => {
                let row = vec![shown(key), token.to_string(), lease.to_string()];
                table(&["KEY", "TOKEN", "LEASE"], [row])
            }
            Self::Elected(kv) => kv_output::kv_table([kv]),
            Self::Compact(compact) => table(
                &["REVISION", "COMPACTED TO"],
                [vec![compact.revision.to_string(), compact.compacted.to_string()]],
            ),
            Self::Lease(lease) => kv_output::lease_table(lease),
            Self::LeaseStatus(lease) => kv_output::leases_table([lease]),
            Self::Leases(leases) => kv_output::leases_table(&leases.items),
            Self::Session { session, ttl_ms } => table(
                &["SESSION", "LIVES (S)"],
                [vec![session.to_string(), (ttl_ms / 1_000).to_string()]],
            ),
            Self::Sessions(sessions) => kv_output::sessions_table(&sessions.items),
            Self::Compared(comparison) => kv_output::comparison_table(comparison),
            Self::Alarms(alarms) => {
                table(&["ALARM"], alarms.iter().map(|alarm| vec![alarm.to_string()]))
            }
            Self::Status(nodes) => table(
                &[
                    "NODE", "ADDRESS", "ROLE", "TERM", "LEADER", "LAST", "COMMIT", "APPLIED",
                    "ALARMS",
                ],
                nodes.iter().map(NodeStatus::to_row),
            ),
        }
    }

    pub(crate) fn print(&self, form: Output) -> Result<ExitCode, Failure> {
        let printed = match form {
            Output::Json => print_line(&self.to_json().to_string())?,
            Output::Table => print_line(&self.to_table().to_string())?,
        };
        Ok(self.shortfall().map_or(printed, |kind| ExitCode::from(kind.exit_code())))
    }

    /// Whether what was asked for is done, but did not come to what was hoped for.
    fn shortfall(&self) -> Option<Kind> {
        if let Self::Compared(comparison) = self {
            if !comparison.diverging().is_empty() {
                return Some(Kind::Refused);
            }
            return (!comparison.is_complete()).then_some(Kind::Unavailable);
        }
        // A transaction whose comparisons failed.
        matches!(self, Self::Txn(TxnOutcome { succeeded: false, .. })).then_some(Kind::Failed)
    }
}

impl Found {
    fn to_json(&self) -> Value {
        let mut fields = kv_output::kv(&self.kv);
        fields["revision"] = self.revision.0.into();
        fields
    }
}

impl NodeStatus {
    fn to_json(&self) -> Value {
        let seen = self.seen.as_ref();
        json!({
            "node_id": self.node_id,
            "address": self.address,
            "role": seen.map(|seen| seen.role),
            "term": seen.map(|seen| seen.term),
            "leader_id": seen.and_then(|seen| seen.leader_id),
            "last_index": seen.map(|seen| seen.last_index),
            "commit_index": seen.map(|seen| seen.commit_index),
            "applied_index": seen.map(|seen| seen.applied_index),
            "revision": seen.map(|seen| seen.revision),
            "stored_bytes": seen.map(|seen| seen.condition.stored_bytes),
            "quota_bytes": seen.and_then(|seen| seen.condition.quota_bytes),
            "free_bytes": seen.map(|seen| seen.condition.free_bytes),
            "space": seen.map(|seen| seen.condition.space),
            "machine_version": seen.map(|seen| seen.condition.version),
            "alarms": seen.map(|seen| {
                seen.condition.alarms.iter().copied().map(kv_output::alarm).collect::<Value>()
            }),
            "reachable": seen.is_some(),
        })
    }

    fn to_row(&self) -> Vec<String> {
        let mut row = vec![number(self.node_id), self.address.clone()];
        match &self.seen {
            None => row.push("unreachable".to_owned()),
            Some(seen) => {
                row.extend([
                    seen.role.to_owned(),
                    seen.term.to_string(),
                    number(seen.leader_id),
                    seen.last_index.to_string(),
                    seen.commit_index.to_string(),
                    seen.applied_index.to_string(),
                    seen.condition.alarms.len().to_string(),
                ]);
            }
        }
        row
    }
}

/// What `raft tls init` has written.
pub(crate) fn certificates(
    form: Output,
    dir: &Path,
    files: &[String],
) -> Result<ExitCode, Failure> {
    let dir = dir.display().to_string();
    match form {
        Output::Json => print_line(&json!({ "dir": dir, "files": files }).to_string()),
        Output::Table => print_line(&format!(
            "{dir}: {}\nca.key can make any certificate of the cluster: keep it away from the nodes.",
            files.join(" ")
        )),
    }
}

/// What `raft tls renew` has replaced.
pub(crate) fn renewed(
    form: Output,
    dir: &Path,
    files: &[String],
    valid_until: OffsetDateTime,
) -> Result<ExitCode, Failure> {
    let dir = dir.display().to_string();
    match form {
        Output::Json => {
            let until = valid_until.unix_timestamp();
            let line = json!({ "dir": dir, "files": files, "valid_until_unix_seconds": until });
            print_line(&line.to_string())
        }
        Output::Table => {
            let until = valid_until.date();
            print_line(&format!("{dir}: {}\nvalid until {until}", files.join(" ")))
        }
    }
}

/// Prints a line and flushes it.
///
/// Whoever reads our output may stop when it has seen enough: that is no failure of ours.
pub(crate) fn print_line(line: &str) -> Result<ExitCode, Failure> {
    try_line(line).map(|_| ExitCode::SUCCESS)
}

/// The same, for who has more to say: `false` if nobody reads any more.
pub(crate) fn try_line(line: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write to stdout: {error}"))),
    }
}

pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head);
    table.add_rows(rows);
    table
}

pub(crate) fn put_bytes(fields: &mut Map<String, Value>, name: &str, bytes: &Bytes) {
    match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.to_owned(), text.into()),
        Err(_) => fields.insert(format!("{name}_base64"), BASE64.encode(bytes).into()),
    };
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Bytes for a terminal: what could move its cursor is escaped.
pub(crate) fn shown(bytes: &Bytes) -> String {
    let plain = std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control));
    plain.map_or_else(|| bytes.escape_ascii().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use raft_core::NodeId;
    use raft_kv::{MachineVersion, OpOutcome, RangeOutcome, Space};

    use super::*;

    fn kv(value: &'static [u8]) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(value),
            create_revision: Revision(3),
            mod_revision: Revision(7),
            version: 2,
            lease: None,
        }
    }

    fn found(value: &'static [u8]) -> Found {
        Found { kv: kv(value), revision: Revision(9) }
    }

    #[test]
    fn json_has_the_documented_names() {
        let revision = Revision(4);
        let put = Reply::Put(PutOutcome { revision, previous: None });
        assert_eq!(put.to_json().to_string(), r#"{"revision":4}"#);
        let delete = Reply::Del(DeleteOutcome { revision, deleted: 1, previous: vec![] });
        assert_eq!(delete.to_json(), json!({ "deleted": 1, "revision": 4 }));
        assert_eq!(
            Reply::Get(found(b"v")).to_json(),
            json!({ "key": "k", "value": "v", "revision": 9, "create_revision": 3,
                    "mod_revision": 7, "version": 2, "lease": 0 })
        );
        let kv_json = json!({ "key": "k", "value": "v", "create_revision": 3, "mod_revision": 7,
                              "version": 2, "lease": 0 });
        let put = PutOutcome { revision, previous: Some(kv(b"v")) };
        let read = RangeOutcome { kvs: vec![kv(b"v")], count: 2, more: true };
        let responses = vec![OpOutcome::Put(put), OpOutcome::Range(read)];
        let txn = Reply::Txn(TxnOutcome { revision, succeeded: true, responses });
        assert_eq!(
            txn.to_json(),
            json!({ "succeeded": true, "revision": 4, "responses": [
                { "response_put": { "revision": 4, "prev_kv": kv_json } },
                { "response_range": { "kvs": [kv_json], "count": 2, "more": true } },
            ] })
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let reply = Reply::Get(found(b"\xff\0")).to_json();
        assert_eq!(reply["value_base64"], "/wA=");
        assert!(reply.get("value").is_none());
        assert!(Reply::Get(found(b"\x1b[31m\xff")).to_table().to_string().contains("\\x1b[31m"));
    }

    #[test]
    fn status_tells_who_answers() {
        let seen = Seen {
            role: "leader",
            term: 2,
            leader_id: Some(1),
            last_index: 5,
            commit_index: 4,
            applied_index: 3,
            revision: 3,
            condition: Condition {
                stored_bytes: 90,
                quota_bytes: Some(100),
                free_bytes: 1_000,
                space: Space::Low,
                version: MachineVersion::FIRST,
                supports: MachineVersion::SUPPORTED,
                alarms: vec![Alarm::SpaceLow { node: NodeId::new(1).unwrap() }],
            },
        };
        let nodes = vec![
            NodeStatus { node_id: Some(1), address: "a:1".into(), seen: Some(seen) },
            NodeStatus { node_id: Some(2), address: "b:2".into(), seen: None },
        ];
        let json = Reply::Status(nodes).to_json();
        assert_eq!(
            json,
            json!([
                { "node_id": 1, "address": "a:1", "role": "leader", "term": 2, "leader_id": 1,
                  "last_index": 5, "commit_index": 4, "applied_index": 3, "revision": 3,
                  "stored_bytes": 90, "quota_bytes": 100, "free_bytes": 1000, "space": "low",
                  "machine_version": 1, "alarms": [{ "alarm": "space_low", "node": 1 }],
                  "reachable": true },
                { "node_id": 2, "address": "b:2", "role": null, "term": null, "leader_id": null,
                  "last_index": null, "commit_index": null, "applied_index": null,
                  "revision": null, "stored_bytes": null, "quota_bytes": null, "free_bytes": null,
                  "space": null, "machine_version": null, "alarms": null, "reachable": false },
            ])
        );
    }
}
