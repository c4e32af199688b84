//! Transactions as JSON, on one line:
//!
//! ```json
//! {"compare":[{"key":"a","target":"version","op":"=","value":0}],
//!  "then":[{"put":{"key":"a","value":"1"}}],
//!  "else":[{"range":{"key":"a"}}]}
//! ```
//!
//! Names are etcd's; those of its own JSON (`success`, `request_put`, a comparison with a field for
//! its target) are taken too. An operation or comparison may also be a string, as
//! [`txn_text`] reads it. Bytes that are no text stand under a name that ends in
//! `_base64`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::ValueEnum;
use raft_kv::{Compare, Nested, Relation, Target, Txn, TxnOp};
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::kv_args::{DelArgs, KeysArgs, PutArgs, RangeArgs};
use crate::txn_text;

/// Reads a whole transaction.
pub(crate) fn parse(text: &str) -> Result<Txn, Failure> {
    let value = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("the transaction is not JSON: {error}")))?;
    txn(value)
}

fn txn(value: Value) -> Result<Txn, Failure> {
    let mut fields = Object::of("a transaction", value)?;
    let txn = Txn {
        compare: list(&mut fields, &["compare"], compare)?,
        then: list(&mut fields, &["then", "success"], op)?,
        otherwise: list(&mut fields, &["else", "failure"], op)?,
    };
    fields.finish()?;
    Ok(txn)
}

fn list<T>(
    fields: &mut Object,
    names: &[&str],
    read: impl Fn(Value) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    match fields.take(names) {
        None => Ok(Vec::new()),
        Some(Value::Array(values)) => values.into_iter().map(read).collect(),
        Some(other) => Err(fields.bad(names[0], "a list", &other)),
    }
}

fn compare(value: Value) -> Result<Compare, Failure> {
    if let Value::String(line) = &value {
        return txn_text::compare(line);
    }
    let mut fields = Object::of("a comparison", value)?;
    let range = keys(&mut fields)?.range()?;
    let relation = match fields.text(&["op", "result"])?.as_deref() {
        None => Relation::Equal,
        Some(name) => relation(name)
            .ok_or_else(|| fields.bad("op", "one of =, !=, <, >", &name.to_owned().into()))?,
    };
    let target = target(&mut fields)?;
    fields.finish()?;
    Ok(Compare { range, relation, target })
}

fn relation(name: &str) -> Option<Relation> {
    match name.to_ascii_uppercase().as_str() {
        "EQUAL" => Some(Relation::Equal),
        "NOT_EQUAL" => Some(Relation::NotEqual),
        "LESS" => Some(Relation::Less),
        "GREATER" => Some(Relation::Greater),
        _ => txn_text::relation(name),
    }
}

/// What is compared: named by `target`, with the operand under that name or as `value`; or only by
/// the name of the operand.
fn target(fields: &mut Object) -> Result<Target, Failure> {
    let named = fields.text(&["target"])?.map(|name| name.to_ascii_lowercase());
    for (names, canonical) in [
        (&["version", "ver"][..], "version"),
        (&["create_revision", "create"], "create"),
        (&["mod_revision", "mod"], "mod"),
        (&["lease"], "lease"),
    ] {
        let is_named = named.as_deref().is_some_and(|name| names.contains(&name));
        let operand = match fields.take(names) {
            Some(operand) => operand,
            None if is_named => fields.take(&["value"]).unwrap_or_else(|| 0.into()),
            None => continue,
        };
        if named.is_some() && !is_named {
            return Err(fields.bad(names[0], "left out, since it is not the target", &operand));
        }
        let number = operand.as_str().map_or_else(|| operand.to_string(), str::to_owned);
        return txn_text::target(canonical, &number)
            .ok_or_else(|| fields.bad(canonical, "a number", &operand));
    }
    match named.as_deref() {
        None | Some("value" | "val") => {
            Ok(Target::Value(fields.bytes("value")?.ok_or_else(|| {
                Failure::usage("a comparison lacks a target: value, version, create, mod or lease")
            })?))
        }
        Some(other) => {
            let other = other.to_owned().into();
            Err(fields.bad("target", "one of value, version, create, mod, lease", &other))
        }
    }
}

fn op(value: Value) -> Result<TxnOp, Failure> {
    if let Value::String(line) = &value {
        return txn_text::op(line);
    }
    let mut fields = Object::of("an operation", value)?;
    let op = if let Some(put) = fields.take(&["put", "request_put"]) {
        TxnOp::Put(put_args(put)?.put())
    } else if let Some(range) = fields.take(&["range", "get", "request_range"]) {
        TxnOp::Range(range_args(range)?.request()?)
    } else if let Some(delete) =
        fields.take(&["delete_range", "delete", "del", "request_delete_range"])
    {
        TxnOp::DeleteRange(del_args(delete)?.delete()?)
    } else if let Some(nested) = fields.take(&["txn", "request_txn"]) {
        TxnOp::Txn(Nested::new(txn(nested)?))
    } else {
        return Err(Failure::usage("an operation is one of put, range, delete_range, txn"));
    };
    fields.finish()?;
    Ok(op)
}

fn put_args(value: Value) -> Result<PutArgs, Failure> {
    let mut fields = Object::of("a put", value)?;
    let args = PutArgs {
        key: fields.bytes("key")?.unwrap_or_default(),
        value: fields.bytes("value")?,
        lease: fields.number(&["lease"])?.unwrap_or(0),
        prev_kv: fields.flag(&["prev_kv"])?,
        ignore_value: fields.flag(&["ignore_value"])?,
        ignore_lease: fields.flag(&["ignore_lease"])?,
    };
    fields.finish()?;
    if args.value.is_some() == args.ignore_value {
        return Err(Failure::usage("a put has either a value or ignore_value"));
    }
    if args.lease != 0 && args.ignore_lease {
        return Err(Failure::usage("a put has a lease or ignore_lease, not both"));
    }
    Ok(args)
}

fn del_args(value: Value) -> Result<DelArgs, Failure> {
    let mut fields = Object::of("a deletion", value)?;
    let args = DelArgs { keys: keys(&mut fields)?, prev_kv: fields.flag(&["prev_kv"])? };
    fields.finish()?;
    Ok(args)
}

fn range_args(value: Value) -> Result<RangeArgs, Failure> {
    let mut fields = Object::of("a range", value)?;
    let args = RangeArgs {
        keys: keys(&mut fields)?,
        limit: fields.number(&["limit"])?.unwrap_or(0),
        rev: fields.number(&["revision", "rev"])?.unwrap_or(0),
        sort_by: fields.choice(&["sort_by", "sort_target"])?,
        order: fields.choice(&["order", "sort_order"])?,
        keys_only: fields.flag(&["keys_only"])?,
        count_only: fields.flag(&["count_only"])?,
        min_mod_rev: fields.number(&["min_mod_revision", "min_mod_rev"])?,
        max_mod_rev: fields.number(&["max_mod_revision", "max_mod_rev"])?,
        min_create_rev: fields.number(&["min_create_revision", "min_create_rev"])?,
        max_create_rev: fields.number(&["max_create_revision", "max_create_rev"])?,
        stale: false,
        consistency: None,
        max_lag: None,
        max_age: None,
    };
    fields.finish()?;
    Ok(args)
}

fn keys(fields: &mut Object) -> Result<KeysArgs, Failure> {
    let keys = KeysArgs {
        key: fields.bytes("key")?.unwrap_or_default(),
        range_end: fields.bytes("range_end")?.filter(|end| !end.is_empty()),
        prefix: fields.flag(&["prefix"])?,
        from_key: fields.flag(&["from_key"])?,
    };
    let ways = [keys.range_end.is_some(), keys.prefix, keys.from_key];
    if ways.into_iter().filter(|way| *way).count() > 1 {
        return Err(Failure::usage("say one of range_end, prefix and from_key"));
    }
    Ok(keys)
}

/// An object from which fields are taken. None may be left over.
struct Object {
    what: &'static str,
    fields: Map<String, Value>,
}

impl Object {
    fn of(what: &'static str, value: Value) -> Result<Self, Failure> {
        let Value::Object(fields) = value else {
            return Err(Failure::usage(format!("{what} is an object, not {}", short(&value))));
        };
        Ok(Self { what, fields })
    }

    /// The field with one of these names.
    fn take(&mut self, names: &[&str]) -> Option<Value> {
        names.iter().find_map(|name| self.fields.remove(*name))
    }

    fn bytes(&mut self, name: &str) -> Result<Option<Bytes>, Failure> {
        let base64 = format!("{name}_base64");
        if let Some(value) = self.take(&[&base64]) {
            let bytes = value.as_str().and_then(|text| BASE64.decode(text).ok());
            return match bytes {
                Some(bytes) => Ok(Some(bytes.into())),
                None => Err(self.bad(&base64, "base64", &value)),
            };
        }
        Ok(self.text(&[name])?.map(Bytes::from))
    }

    fn text(&mut self, names: &[&str]) -> Result<Option<String>, Failure> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(names[0], "a string", &other)),
        }
    }

    fn number(&mut self, names: &[&str]) -> Result<Option<u64>, Failure> {
        let Some(value) = self.take(names) else { return Ok(None) };
        // etcd writes numbers as strings, since JavaScript has none of 64 bits.
        let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        number.map(Some).ok_or_else(|| self.bad(names[0], "a number from 0 on", &value))
    }

    fn flag(&mut self, names: &[&str]) -> Result<bool, Failure> {
        match self.take(names) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.bad(names[0], "true or false", &other)),
        }
    }

    fn choice<T: ValueEnum>(&mut self, names: &[&str]) -> Result<Option<T>, Failure> {
        let Some(text) = self.text(names)? else { return Ok(None) };
        match T::from_str(&text, true) {
            Ok(choice) => Ok(Some(choice)),
            Err(_) => {
                Err(self.bad(names[0], "one of the names in `raft range --help`", &text.into()))
            }
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(Failure::usage(format!("{} has no field {name:?}", self.what))),
        }
    }

    fn bad(&self, name: &str, expected: &str, found: &Value) -> Failure {
        let found = short(found);
        Failure::usage(format!("{name:?} of {} has to be {expected}, not {found}", self.what))
    }
}

/// A value as it may stand in a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((end, _)) => format!("{}..", &text[..end]),
    }
}

/// The most letters of a value that a message shows.
const SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use raft_kv::{KeyRange, Put, RangeRequest, Revision};

    use super::*;

    #[test]
    fn our_names_and_etcds_mean_the_same() {
        let ours = r#"{"compare":[{"key":"a","target":"mod","op":">","value":3}],
            "then":[{"put":{"key":"b","value":"1"}}],
            "else":[{"range":{"key":"a","prefix":true,"limit":2}}]}"#;
        let etcds = r#"{"compare":[{"key":"a","target":"MOD","result":"GREATER","mod_revision":"3"}],
            "success":[{"request_put":{"key_base64":"Yg==","value":"1"}}],
            "failure":[{"request_range":{"key":"a","range_end":"b","limit":"2"}}]}"#;
        let lines = r#"{"compare":["mod(a) > 3"],"then":["put b 1"],
            "else":["get a --prefix --limit 2"]}"#;
        let expected = Txn {
            compare: vec![Compare {
                range: KeyRange::One("a".into()),
                relation: Relation::Greater,
                target: Target::ModRevision(Revision(3)),
            }],
            then: vec![TxnOp::Put(Put::new("b", "1"))],
            otherwise: vec![TxnOp::Range(RangeRequest {
                limit: Some(2),
                ..RangeRequest::new(KeyRange::prefix("a"))
            })],
        };
        for text in [ours, etcds, lines] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_target_may_be_named_by_its_operand_alone() {
        let of = |text: &str| {
            let text = format!(r#"{{"compare":[{{"key":"a",{text}}}]}}"#);
            parse(&text).map(|txn| txn.compare[0].target.clone())
        };
        assert_eq!(of(r#""value":"x""#).unwrap(), Target::Value("x".into()));
        assert_eq!(of(r#""version":2"#).unwrap(), Target::Version(2));
        assert_eq!(of(r#""create_revision":2"#).unwrap(), Target::CreateRevision(Revision(2)));
        assert_eq!(of(r#""lease":0"#).unwrap(), Target::Lease(None));
        assert_eq!(of(r#""target":"version","value":0"#).unwrap(), Target::Version(0));
        for bad in [
            r#""target":"frob","value":0"#,
            r#""target":"version","mod_revision":0"#,
            r#""target":"version","value":"x""#,
            r#""op":"="#,
            r#""value":7"#,
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, part) in [
            ("[]", "a transaction"),
            ("{", "not JSON"),
            (r#"{"when":[]}"#, "\"when\""),
            (r#"{"then":{}}"#, "\"then\""),
            (r#"{"then":[{"frob":{}}]}"#, "put, range"),
            (r#"{"then":[{"put":{"key":"a"}}]}"#, "ignore_value"),
            (r#"{"then":[{"put":{"key":"a","value":"b","lease":-1}}]}"#, "\"lease\""),
            (r#"{"then":[{"range":{"key":"a","prefix":true,"range_end":"b"}}]}"#, "one of"),
            (r#"{"then":[{"range":{"key":"a","sort_by":"age"}}]}"#, "\"sort_by\""),
            (r#"{"then":[{"put":{"key_base64":"?","value":"b"}}]}"#, "base64"),
        ] {
            let failure = parse(text).unwrap_err();
            assert!(failure.message.contains(part), "{text}: {failure}");
        }
    }
}
