//! Transactions as etcdctl reads them: comparisons, an empty line, what to do if they hold, an empty
//! line, what to do if not.
//!
//! ```text
//! mod("colour") > "0"
//!
//! put colour "green"
//!
//! get colour
//! ```

use bytes::Bytes;
use clap::{Parser, Subcommand};
use raft_kv::{Compare, KeyRange, LeaseId, Relation, Revision, Target, Txn, TxnOp};

use crate::failure::Failure;
use crate::kv_args::{DelArgs, PutArgs, RangeArgs};

/// Reads a whole transaction.
pub(crate) fn parse(text: &str) -> Result<Txn, Failure> {
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    let mut part = 0;
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            part += 1;
        } else if let Some(lines) = parts.get_mut(part) {
            lines.push(line);
        } else {
            return Err(Failure::usage(format!(
                "a transaction has three parts, divided by empty lines; {line:?} follows the third"
            )));
        }
    }
    let [compare, then, otherwise] = parts;
    Ok(Txn {
        compare: compare.into_iter().map(self::compare).collect::<Result<_, _>>()?,
        then: then.into_iter().map(op).collect::<Result<_, _>>()?,
        otherwise: otherwise.into_iter().map(op).collect::<Result<_, _>>()?,
    })
}

/// Reads one comparison: `mod("key") > "0"`.
pub(crate) fn compare(line: &str) -> Result<Compare, Failure> {
    let bad = || {
        Failure::usage(format!(
            "{line:?} is no comparison; write it like mod(\"key\") > \"0\", with value, version, \
             create, mod or lease, and =, !=, < or >"
        ))
    };
    let (name, rest) = line.split_once('(').ok_or_else(bad)?;
    let (key, rest) = word(rest, ')').ok_or_else(bad)?;
    let rest = rest.strip_prefix(')').ok_or_else(bad)?.trim_start();
    let operator = rest.find(|c| !"=!<>".contains(c)).ok_or_else(bad)?;
    let (operator, rest) = rest.split_at(operator);
    let relation = relation(operator).ok_or_else(bad)?;
    let (operand, rest) = word(rest, '\n').ok_or_else(bad)?;
    if key.is_empty() || !rest.trim().is_empty() {
        return Err(bad());
    }
    let target = target(name.trim(), &operand).ok_or_else(bad)?;
    Ok(Compare { range: KeyRange::One(key.into()), relation, target })
}

/// Reads one operation: `put`, `get` or `del`, with the options of the commands.
pub(crate) fn op(line: &str) -> Result<TxnOp, Failure> {
    let words = shlex::split(line)
        .ok_or_else(|| Failure::usage(format!("a quote is not closed in {line:?}; close it")))?;
    let line = Line::try_parse_from(words).map_err(|_| {
        Failure::usage(format!(
            "{line:?} is no operation; write put KEY VALUE, get KEY or del KEY, with their options"
        ))
    })?;
    Ok(match line.op {
        Op::Put(args) => TxnOp::Put(args.put()),
        Op::Get(args) => TxnOp::Range(args.request()?),
        Op::Del(args) => TxnOp::DeleteRange(args.delete()?),
    })
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct Line {
    #[command(subcommand)]
    op: Op,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
enum Op {
    Put(PutArgs),
    #[command(alias = "range")]
    Get(RangeArgs),
    Del(DelArgs),
}

pub(crate) fn relation(operator: &str) -> Option<Relation> {
    Some(match operator {
        "=" | "==" => Relation::Equal,
        "!=" => Relation::NotEqual,
        "<" => Relation::Less,
        ">" => Relation::Greater,
        _ => return None,
    })
}

/// What of a key is compared, with what. Also by the short names that etcdctl takes.
pub(crate) fn target(name: &str, operand: &str) -> Option<Target> {
    let number = || operand.parse::<u64>().ok();
    Some(match name {
        "value" | "val" => Target::Value(Bytes::from(operand.to_owned())),
        "version" | "ver" => Target::Version(number()?),
        "create" | "c" | "create_revision" => Target::CreateRevision(Revision(number()?)),
        "mod" | "m" | "mod_revision" => Target::ModRevision(Revision(number()?)),
        "lease" => Target::Lease(std::num::NonZeroU64::new(number()?).map(LeaseId)),
        _ => return None,
    })
}

/// The first word of `text`, quoted or up to `end`, and what follows it.
fn word(text: &str, end: char) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = text.split_at(text.find(end).unwrap_or(text.len()));
        let word = word.trim_end();
        return (!word.is_empty()).then(|| (word.to_owned(), rest));
    };
    let mut word = String::new();
    let mut letters = quoted.char_indices();
    loop {
        match letters.next()? {
            (at, '"') => return Some((word, quoted[at + 1..].trim_start())),
            (_, '\\') => word.push(match letters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            (_, other) => word.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_kv::{DeleteRange, Put, RangeRequest};

    use super::*;

    #[test]
    fn a_transaction_has_three_parts() {
        let text = "mod(\"key 1\") > \"0\"\nval(k) = \"a \\\"b\\\"\"\n\n\
                    put key1 \"over written\" --prev-kv\n\ndel a --prefix\nget b c --limit 3\n";
        let txn = parse(text).unwrap();
        let mod_revision = Target::ModRevision(Revision(0));
        let value = Target::Value("a \"b\"".into());
        let of = |key: &'static str, relation, target| Compare {
            range: KeyRange::One(key.into()),
            relation,
            target,
        };
        assert_eq!(
            txn.compare,
            [of("key 1", Relation::Greater, mod_revision), of("k", Relation::Equal, value)]
        );
        let put = Put { prev_kv: true, ..Put::new("key1", "over written") };
        assert_eq!(txn.then, [TxnOp::Put(put)]);
        let delete = DeleteRange { range: KeyRange::prefix("a"), prev_kv: false };
        let range = KeyRange::Between { first: "b".into(), before: "c".into() };
        let read = RangeRequest { limit: Some(3), ..RangeRequest::new(range) };
        assert_eq!(txn.otherwise, [TxnOp::DeleteRange(delete), TxnOp::Range(read)]);
    }

    #[test]
    fn parts_may_be_empty_or_missing() {
        assert_eq!(parse("").unwrap(), Txn::default());
        let txn = parse("\nput a 1").unwrap();
        assert_eq!((txn.compare.len(), txn.then.len(), txn.otherwise.len()), (0, 1, 0));
        let txn = parse("\n\nput a 1\n\n").unwrap();
        assert_eq!((txn.compare.len(), txn.then.len(), txn.otherwise.len()), (0, 0, 1));
    }

    #[test]
    fn nonsense_is_named() {
        for line in [
            "mod",
            "mod(",
            "mod()",
            "mod(a)",
            "mod(a) >",
            "mod(a) ~ 1",
            "mod(a) > b",
            "frob(a) = 1",
            "mod(a) = \"1",
            "mod(\"a\") = \"1\" 2",
            "mod(\"\") = \"1\"",
        ] {
            let failure = compare(line).unwrap_err();
            assert!(failure.message.contains(&format!("{line:?}")), "{line}: {failure}");
        }
        for line in ["frob a", "put a", "get", "put 'a b", "get a --prefix --from-key", "--help"] {
            assert!(op(line).is_err(), "{line}");
        }
        assert!(parse("\n\n\nput a 1").is_err());
    }
}
