//! How answers of the store are printed. The names in the JSON are etcd's.

use bytes::Bytes;
use comfy_table::Table;
use raft_kv::client::Comparison;
use raft_kv::{
    Alarm, DeleteOutcome, Event, EventKind, KeyValue, LeaseId, LeaseOutcome, LeaseStatus,
    OpOutcome, PutOutcome, RangeOutcome, RangeReply, SessionStatus, TxnOutcome, Watched,
};
use serde_json::{Map, Value, json};

use crate::output::{put_bytes, shown, table};

pub(crate) fn kv(kv: &KeyValue) -> Value {
    let mut fields = Map::new();
    put_bytes(&mut fields, "key", &kv.key);
    put_bytes(&mut fields, "value", &kv.value);
    let numbers = [
        ("create_revision", kv.create_revision.0),
        ("mod_revision", kv.mod_revision.0),
        ("version", kv.version),
        ("lease", lease(kv)),
    ];
    fields.extend(numbers.map(|(name, number)| (name.to_owned(), number.into())));
    Value::Object(fields)
}

pub(crate) fn put(put: &PutOutcome) -> Value {
    let mut fields = json!({ "revision": put.revision.0 });
    if let Some(previous) = &put.previous {
        fields["prev_kv"] = kv(previous);
    }
    fields
}

pub(crate) fn delete(delete: &DeleteOutcome) -> Value {
    let mut fields = json!({ "deleted": delete.deleted, "revision": delete.revision.0 });
    if !delete.previous.is_empty() {
        fields["prev_kvs"] = delete.previous.iter().map(kv).collect();
    }
    fields
}

pub(crate) fn range(reply: &RangeReply) -> Value {
    let mut fields = found(&reply.kvs, reply.count, reply.more);
    fields["revision"] = reply.revision.0.into();
    fields
}

pub(crate) fn txn(txn: &TxnOutcome) -> Value {
    let responses = txn.responses.iter().map(|response| match response {
        OpOutcome::Put(outcome) => json!({ "response_put": put(outcome) }),
        OpOutcome::Range(RangeOutcome { kvs, count, more }) => {
            json!({ "response_range": found(kvs, *count, *more) })
        }
        OpOutcome::DeleteRange(outcome) => json!({ "response_delete_range": delete(outcome) }),
        OpOutcome::Txn(nested) => json!({ "response_txn": self::txn(nested) }),
    });
    json!({
        "succeeded": txn.succeeded,
        "revision": txn.revision.0,
        "responses": responses.collect::<Value>(),
    })
}

fn found(kvs: &[KeyValue], count: u64, more: bool) -> Value {
    json!({ "kvs": kvs.iter().map(kv).collect::<Value>(), "count": count, "more": more })
}

pub(crate) fn watched(said: &Watched) -> Value {
    json!({
        "revision": said.through.0,
        "events": said.events.iter().map(event).collect::<Value>(),
    })
}

fn event(event: &Event) -> Value {
    let mut fields = json!({ "type": event.kind, "kv": kv(&event.kv) });
    if let Some(previous) = &event.prev_kv {
        fields["prev_kv"] = kv(previous);
    }
    fields
}

pub(crate) fn held(key: &Bytes, token: u64, lease: LeaseId) -> Value {
    let mut fields = Map::new();
    put_bytes(&mut fields, "key", key);
    fields.extend([("token".to_owned(), token.into()), ("lease".to_owned(), lease.0.get().into())]);
    Value::Object(fields)
}

/// Who is elected, for people.
pub(crate) fn elected_line(kv: &KeyValue) -> String {
    format!("{}  {}", shown(&kv.key), shown(&kv.value))
}

/// An event for people.
pub(crate) fn event_line(event: &Event) -> String {
    let (key, revision) = (shown(&event.kv.key), event.revision());
    let before = event.prev_kv.as_ref();
    let before = before.map_or_else(String::new, |kv| format!("  (was {})", shown(&kv.value)));
    match event.kind {
        EventKind::Put => format!("{revision}  PUT  {key}  {}{before}", shown(&event.kv.value)),
        EventKind::Delete => format!("{revision}  DELETE  {key}{before}"),
    }
}

/// Events for people, a row each.
pub(crate) fn events_table(said: &Watched) -> Table {
    let rows = said.events.iter().map(|event| {
        let kind = match event.kind {
            EventKind::Put => "PUT",
            EventKind::Delete => "DELETE",
        };
        let previous = event.prev_kv.as_ref().map_or_else(String::new, |kv| shown(&kv.value));
        let (key, value) = (shown(&event.kv.key), shown(&event.kv.value));
        vec![event.revision().to_string(), kind.to_owned(), key, value, previous]
    });
    table(&["REVISION", "EVENT", "KEY", "VALUE", "PREVIOUS VALUE"], rows)
}

pub(crate) fn lease_outcome(outcome: &LeaseOutcome) -> Value {
    let LeaseOutcome { lease, ttl_ms, revision } = outcome;
    json!({ "id": lease.0, "ttl": ttl_ms / 1_000, "revision": revision.0 })
}

/// Seconds, as in etcd; those that are left are rounded up, so that 0 is the end.
pub(crate) fn lease_status(status: &LeaseStatus, with_keys: bool) -> Value {
    let LeaseStatus { lease, ttl_ms, remaining_ms, key_count, keys } = status;
    let mut fields = json!({
        "id": lease.0,
        "granted_ttl": ttl_ms / 1_000,
        "ttl": remaining_ms.div_ceil(1_000),
        "key_count": key_count,
    });
    if with_keys {
        fields["keys"] = keys
            .iter()
            .map(|key| {
                let mut named = Map::new();
                put_bytes(&mut named, "key", key);
                Value::Object(named)
            })
            .collect();
    }
    fields
}

pub(crate) fn session_status(status: &SessionStatus) -> Value {
    let SessionStatus { session, ttl_ms, remaining_ms, unacknowledged } = status;
    json!({
        "session": session.0,
        "ttl_ms": ttl_ms,
        "remaining_ms": remaining_ms,
        "unacknowledged": unacknowledged,
    })
}

pub(crate) fn lease_table(outcome: &LeaseOutcome) -> Table {
    let LeaseOutcome { lease, ttl_ms, revision } = outcome;
    let row = vec![lease.to_string(), (ttl_ms / 1_000).to_string(), revision.to_string()];
    table(&["LEASE", "LIVES (S)", "REVISION"], [row])
}

pub(crate) fn leases_table<'a>(leases: impl IntoIterator<Item = &'a LeaseStatus>) -> Table {
    let rows = leases.into_iter().map(|status| {
        let numbers = [
            status.lease.0.get(),
            status.ttl_ms / 1_000,
            status.remaining_ms.div_ceil(1_000),
            status.key_count,
        ];
        let mut row: Vec<_> = numbers.iter().map(u64::to_string).collect();
        row.push(status.keys.iter().map(shown).collect::<Vec<_>>().join(" "));
        row
    });
    table(&["LEASE", "LIVES (S)", "LEFT (S)", "KEYS", ""], rows)
}

pub(crate) fn sessions_table(sessions: &[SessionStatus]) -> Table {
    let rows = sessions.iter().map(|status| {
        let SessionStatus { session, ttl_ms, remaining_ms, unacknowledged } = status;
        let numbers = [session.0, ttl_ms / 1_000, remaining_ms.div_ceil(1_000), *unacknowledged];
        numbers.iter().map(u64::to_string).collect()
    });
    table(&["SESSION", "LIVES (S)", "LEFT (S)", "UNACKNOWLEDGED"], rows)
}

/// Keys for people.
pub(crate) fn kv_table<'a>(kvs: impl IntoIterator<Item = &'a KeyValue>) -> Table {
    let rows = kvs.into_iter().map(|kv| {
        let KeyValue { key, value, create_revision, mod_revision, version, .. } = kv;
        let numbers = [create_revision.0, mod_revision.0, *version, lease(kv)];
        let mut row = vec![shown(key), shown(value)];
        row.extend(numbers.map(|number| number.to_string()));
        row
    });
    table(&["KEY", "VALUE", "CREATED AT", "MODIFIED AT", "VERSION", "LEASE"], rows)
}

pub(crate) fn put_table(put: &PutOutcome) -> Table {
    let mut head = vec!["REVISION"];
    let mut row = vec![put.revision.to_string()];
    if let Some(previous) = &put.previous {
        head.extend(["PREVIOUS VALUE", "VERSION"]);
        row.extend([shown(&previous.value), previous.version.to_string()]);
    }
    table(&head, [row])
}

pub(crate) fn delete_table(delete: &DeleteOutcome) -> Table {
    if !delete.previous.is_empty() {
        return kv_table(&delete.previous);
    }
    let row = vec![delete.deleted.to_string(), delete.revision.to_string()];
    table(&["DELETED", "REVISION"], [row])
}

/// Keys, and how many more there are; or only how many, if none were asked for.
pub(crate) fn range_table(reply: &RangeReply) -> Table {
    if reply.kvs.is_empty() {
        let row = vec![reply.count.to_string(), reply.revision.to_string()];
        return table(&["COUNT", "REVISION"], [row]);
    }
    let mut table = kv_table(&reply.kvs);
    if reply.more {
        table.add_row([format!("({} keys in all)", reply.count)]);
    }
    table
}

/// What operations came to, for people: a row each, and one for each key they tell of.
pub(crate) fn txn_table(txn: &TxnOutcome) -> Table {
    let mut rows = Vec::new();
    add_rows(txn, 0, &mut rows);
    table(&["OPERATION", "RESULT", "KEY", "VALUE"], rows)
}

fn add_rows(txn: &TxnOutcome, depth: usize, rows: &mut Vec<Vec<String>>) {
    let way = if txn.succeeded { "then" } else { "else" };
    add_row(depth, "txn", format!("{way}, revision {}", txn.revision), &[], rows);
    for response in &txn.responses {
        let (operation, result, kvs) = match response {
            OpOutcome::Put(put) => ("put", "done".to_owned(), put.previous.as_slice()),
            OpOutcome::Range(RangeOutcome { kvs, count, more }) => {
                let rest = if *more { ", more follow" } else { "" };
                ("range", format!("count {count}{rest}"), &kvs[..])
            }
            OpOutcome::DeleteRange(delete) => {
                ("delete", format!("deleted {}", delete.deleted), &delete.previous[..])
            }
            OpOutcome::Txn(nested) => {
                add_rows(nested, depth + 1, rows);
                continue;
            }
        };
        add_row(depth + 1, operation, result, kvs, rows);
    }
}

fn add_row(
    depth: usize,
    operation: &str,
    result: String,
    kvs: &[KeyValue],
    rows: &mut Vec<Vec<String>>,
) {
    let blank = String::new;
    rows.push(vec![format!("{}{operation}", "  ".repeat(depth)), result, blank(), blank()]);
    rows.extend(kvs.iter().map(|kv| vec![blank(), blank(), shown(&kv.key), shown(&kv.value)]));
}

fn lease(kv: &KeyValue) -> u64 {
    kv.lease.map_or(0, |lease| lease.0.get())
}

pub(crate) fn alarm(alarm: Alarm) -> Value {
    match alarm {
        Alarm::Diverged { node, revision } => {
            json!({ "alarm": "diverged", "node": node, "revision": revision.0 })
        }
        Alarm::SpaceLow { node } => json!({ "alarm": "space_low", "node": node }),
        Alarm::NoSpace { node } => json!({ "alarm": "no_space", "node": node }),
        // One that is added later has a message at least.
        other => json!({ "alarm": "other", "node": other.node() }),
    }
}

/// What the nodes hold, and which of them are wrong.
pub(crate) fn comparison(comparison: &Comparison) -> Value {
    let diverging = comparison.diverging();
    let nodes = comparison.nodes.iter().map(|node| {
        let digest = node.digest.as_ref();
        json!({
            "node_id": node.node_id,
            "address": node.address,
            "keys": digest.ok().map(|digest| digest.keys),
            "hash": digest.ok().map(|digest| format!("{:032x}", digest.hash)),
            "diverged": digest.ok().map(|_| diverging.contains(&node.node_id)),
            "error": digest.err(),
        })
    });
    json!({
        "revision": comparison.revision.0,
        "consistent": diverging.is_empty(),
        "complete": comparison.is_complete(),
        "nodes": nodes.collect::<Value>(),
    })
}

pub(crate) fn comparison_table(comparison: &Comparison) -> Table {
    let diverging = comparison.diverging();
    let rows = comparison.nodes.iter().map(|node| {
        let start = [node.node_id.to_string(), node.address.clone()];
        let end = match &node.digest {
            Ok(digest) => {
                let is_wrong = diverging.contains(&node.node_id);
                let verdict = if is_wrong { "DIFFERS FROM THE OTHERS" } else { "ok" };
                [digest.keys.to_string(), format!("{:032x}", digest.hash), verdict.to_owned()]
            }
            Err(why) => ["-".to_owned(), "-".to_owned(), why.clone()],
        };
        [&start[..], &end[..]].concat()
    });
    let head = format!("AT REVISION {}", comparison.revision);
    table(&["NODE", "ADDRESS", "KEYS", "HASH", &head], rows)
}
