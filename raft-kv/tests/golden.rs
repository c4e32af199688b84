//! Golden scripts: the corner cases of ranges, transactions, leases and sessions, as a table that can
//! be read.
//!
//! A script in `scripts/` writes to a store and reads it; expected outcomes stand below each group of
//! commands. `UPDATE_GOLDENFILES=1` writes what was seen instead: read it, it must be what etcd does
//! or say why it is not.
//!
//! | command | does |
//! |---|---|
//! | `put k v`, `put k keep=value`, `put k v keep=lease` | writes; `prev` shows what was there |
//! | `del k`, `del k end`, `del prefix=p` | deletes; `prev` shows what was there |
//! | `get k`, `get k end`, `get prefix=p`, `get from=k` | reads; `rev= limit= sort= order= min_mod= max_mod= min_create= max_create=`, `keys`, `count` |
//! | `compact r` | gives up history |
//! | `grant id ttl=ms`, `keep id`, `revoke id` | leases; a put has one with `lease=id` |
//! | `open ttl=ms`, `alive s`, `close s`, `... session=s number=n lowest=n` | sessions, and commands of one |
//! | `... at=ms` | any command, with the time that the leader says it is |
//! | `if version k is 0` (`not`, `below`, `above`), `then ...`, `else ...`, `commit` | a transaction; `then txn` begins one inside, `end` ends it |

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::error::Error;
use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::path::Path;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer as Arguments, Command as Line, Context};
use raft_core::sessions::{ClusterTime, SessionId, SessionTag};
use raft_core::{Payload, Term};
use raft_kv::{
    Command, Compact, Compare, Content, DeleteRange, Divergence, Field, Filter, KeyRange, KeyValue,
    LeaseGrant, LeaseId, LeaseOutcome, MachineVersion, Nested, OpOutcome, Order, Outcome, Proposal,
    Put, RangeRequest, Relation, Revision, SortBy, Stamp, Target, Txn, TxnOp, TxnOutcome,
};
use support::Subject;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[test]
fn range() {
    run_folder("range");
}

#[test]
fn lease() {
    run_folder("lease");
}

#[test]
fn session() {
    run_folder("session");
}

#[test]
fn upkeep() {
    run_folder("upkeep");
}

#[test]
fn txn() {
    run_folder("txn");
}

fn run_folder(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(folder);
    let mut scripts: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no script in {folder:?}");
    for script in scripts {
        goldenscript::run(&mut Script::new(), &script).unwrap();
    }
}

struct Script {
    subject: Subject,
    /// The transaction that is being written down, and those around it with their sides.
    txn: Txn,
    around: Vec<(Txn, Side)>,
}

#[derive(Clone, Copy)]
enum Side {
    Then,
    Else,
}

impl Script {
    fn new() -> Self {
        Self { subject: Subject::new(), txn: Txn::default(), around: Vec::new() }
    }

    fn add(&mut self, side: Side, args: &mut Arguments<'_>) -> Result<()> {
        let word = args.next_pos().ok_or("then what?")?;
        let op = match word {
            "put" => TxnOp::Put(put(args)?),
            "get" => TxnOp::Range(get(args)?),
            "del" => TxnOp::DeleteRange(delete(args)?),
            "txn" => {
                self.around.push((std::mem::take(&mut self.txn), side));
                return Ok(());
            }
            other => return Err(format!("no such operation: {other}").into()),
        };
        side.of(&mut self.txn).push(op);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let (outer, side) = self.around.pop().ok_or("no transaction around this one")?;
        let inner = std::mem::replace(&mut self.txn, outer);
        side.of(&mut self.txn).push(TxnOp::Txn(Nested::new(inner)));
        Ok(())
    }

    fn propose(
        &mut self,
        time: Option<ClusterTime>,
        session: Option<SessionTag>,
        command: Command,
    ) -> String {
        // The term of the subject's entries.
        let stamp = time.map(|time| Stamp { term: Term(1), time });
        let proposal = Proposal { stamp, session, command };
        let outcomes = self.subject.apply([Payload::Command(proposal.encode())]);
        shown(&Outcome::decode(&outcomes[0]).unwrap())
    }

    fn read(&self, request: &RangeRequest) -> String {
        match self.subject.reader().range(request) {
            Ok(reply) => shown_range(&reply.kvs, reply.count, reply.more),
            Err(error) => format!("error: {error}\n"),
        }
    }
}

impl Side {
    fn of(self, txn: &mut Txn) -> &mut Vec<TxnOp> {
        match self {
            Self::Then => &mut txn.then,
            Self::Else => &mut txn.otherwise,
        }
    }
}

impl goldenscript::Runner for Script {
    type Command = Line;

    fn run(&mut self, line: &Line, _: &Context) -> Result<String> {
        let mut args = line.consume_args();
        let time = number(&mut args, "at")?.map(ClusterTime);
        let session = tag(&mut args)?;
        let command = match line.name.as_str() {
            "put" => Some(Command::Put(put(&mut args)?)),
            "del" => Some(Command::DeleteRange(delete(&mut args)?)),
            "compact" => Some(Command::Compact(Compact {
                revision: Revision(args.next_pos().ok_or("which revision?")?.parse()?),
            })),
            "commit" => Some(Command::Txn(std::mem::take(&mut self.txn))),
            "grant" => {
                let ttl_ms = number(&mut args, "ttl")?.ok_or("how long?")?;
                let lease = args.next_pos().map(lease_id).transpose()?;
                Some(Command::GrantLease(LeaseGrant { lease, ttl_ms }))
            }
            "keep" => Some(Command::KeepLease(lease_id(args.next_pos().ok_or("which?")?)?)),
            "revoke" => Some(Command::RevokeLease(lease_id(args.next_pos().ok_or("which?")?)?)),
            "open" => {
                Some(Command::OpenSession { ttl_ms: number(&mut args, "ttl")?.ok_or("how long?")? })
            }
            "alive" => Some(Command::KeepSession(session_id(&mut args)?)),
            "close" => Some(Command::CloseSession(session_id(&mut args)?)),
            "tick" => Some(Command::Tick),
            "activate" => {
                let version = args.next_pos().ok_or("which version?")?.parse()?;
                Some(Command::Activate(MachineVersion(version)))
            }
            "alarm" => {
                let node = args.next_pos().ok_or("which node?")?.parse()?;
                let revision = Revision(number(&mut args, "revision")?.ok_or("since when?")?);
                Some(Command::RaiseAlarm(Divergence { node, revision }))
            }
            "clear" => {
                Some(Command::ClearAlarms(args.next_pos().map(|node| node.parse()).transpose()?))
            }
            _ => None,
        };
        let output = match (command, line.name.as_str()) {
            (Some(command), _) => self.propose(time, session, command),
            (None, "get") => self.read(&get(&mut args)?),
            (None, "if") => {
                self.txn.compare.push(compare(&mut args)?);
                String::new()
            }
            (None, "then") => self.add(Side::Then, &mut args).map(|()| String::new())?,
            (None, "else") => self.add(Side::Else, &mut args).map(|()| String::new())?,
            (None, "end") => self.end().map(|()| String::new())?,
            (None, name) => return Err(format!("no such command: {name}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

fn number(args: &mut Arguments<'_>, name: &str) -> Result<Option<u64>> {
    Ok(args.take_key(name).map(str::parse).transpose()?)
}

fn tag(args: &mut Arguments<'_>) -> Result<Option<SessionTag>> {
    let Some(session) = number(args, "session")?.map(SessionId) else { return Ok(None) };
    let sequence = number(args, "number")?.ok_or("which number?")?;
    let unacknowledged = number(args, "lowest")?.unwrap_or(sequence);
    Ok(Some(SessionTag { session, sequence, unacknowledged }))
}

fn session_id(args: &mut Arguments<'_>) -> Result<SessionId> {
    Ok(SessionId(args.next_pos().ok_or("which session?")?.parse()?))
}

fn lease_id(word: &str) -> Result<LeaseId> {
    Ok(LeaseId(word.parse()?))
}

fn put(args: &mut Arguments<'_>) -> Result<Put> {
    let key = args.next_pos().ok_or("which key?")?.to_owned();
    let keep = args.take_key("keep");
    let lease = number(args, "lease")?.and_then(NonZeroU64::new).map(LeaseId);
    let mut put = Put::new(key, "");
    put.lease = Field::Set(lease);
    match keep {
        Some("value") => put.value = Field::Keep,
        Some("lease") => put.lease = Field::Keep,
        Some(other) => return Err(format!("keep what: {other}?").into()),
        None => {}
    }
    while let Some(word) = args.next_pos() {
        match word {
            "prev" => put.prev_kv = true,
            value => put.value = Field::Set(value.to_owned().into()),
        }
    }
    Ok(put)
}

fn delete(args: &mut Arguments<'_>) -> Result<DeleteRange> {
    let (range, words) = range_of(args)?;
    Ok(DeleteRange { range, prev_kv: words.iter().any(|word| word == "prev") })
}

fn get(args: &mut Arguments<'_>) -> Result<RangeRequest> {
    let revision =
        |args: &mut Arguments<'_>, name: &str| number(args, name).map(|at| at.map(Revision));
    let at = revision(args, "rev")?;
    let limit = number(args, "limit")?;
    let by = args.take_key("sort").unwrap_or("key");
    let order = args.take_key("order").unwrap_or("asc");
    let filter = Filter {
        min_mod_revision: revision(args, "min_mod")?,
        max_mod_revision: revision(args, "max_mod")?,
        min_create_revision: revision(args, "min_create")?,
        max_create_revision: revision(args, "max_create")?,
    };
    let (range, words) = range_of(args)?;
    let mut request = RangeRequest { revision: at, limit, filter, ..RangeRequest::new(range) };
    request.sort.by = match by {
        "key" => SortBy::Key,
        "version" => SortBy::Version,
        "create" => SortBy::CreateRevision,
        "mod" => SortBy::ModRevision,
        "value" => SortBy::Value,
        other => return Err(format!("sort by {other}?").into()),
    };
    request.sort.order = if order == "desc" { Order::Descending } else { Order::Ascending };
    for word in words {
        match word.as_str() {
            "keys" => request.content = Content::KeysOnly,
            "count" => request.content = Content::CountOnly,
            other => return Err(format!("what is {other}?").into()),
        }
    }
    Ok(request)
}

/// The range, and the words that are no part of it.
fn range_of(args: &mut Arguments<'_>) -> Result<(KeyRange, Vec<String>)> {
    let prefix = args.take_key("prefix");
    let from = args.take_key("from");
    let mut words = Vec::new();
    while let Some(word) = args.next_pos() {
        words.push(word.to_owned());
    }
    let flag = |word: &String| ["keys", "count", "prev"].contains(&word.as_str());
    let range = match (prefix, from) {
        (Some(prefix), _) => KeyRange::prefix(prefix.to_owned()),
        (None, Some(from)) => KeyRange::From(from.to_owned().into()),
        (None, None) => {
            let first = if words.is_empty() { String::new() } else { words.remove(0) };
            match words.iter().position(|word| !flag(word)) {
                Some(at) => {
                    KeyRange::Between { first: first.into(), before: words.remove(at).into() }
                }
                None => KeyRange::One(first.into()),
            }
        }
    };
    Ok((range, words))
}

fn compare(args: &mut Arguments<'_>) -> Result<Compare> {
    let mut next = || args.next_pos().ok_or("incomplete");
    let (what, key, relation, operand) = (next()?, next()?, next()?, next()?);
    let relation = match relation {
        "is" => Relation::Equal,
        "not" => Relation::NotEqual,
        "below" => Relation::Less,
        "above" => Relation::Greater,
        other => return Err(format!("what is {other}?").into()),
    };
    let target = match what {
        "value" => Target::Value(operand.to_owned().into()),
        "version" => Target::Version(operand.parse()?),
        "create" => Target::CreateRevision(Revision(operand.parse()?)),
        "mod" => Target::ModRevision(Revision(operand.parse()?)),
        "lease" => Target::Lease(NonZeroU64::new(operand.parse()?).map(LeaseId)),
        other => return Err(format!("what is {other}?").into()),
    };
    let end = args.take_key("end").map(|end| Bytes::from(end.to_owned()));
    let range = match end {
        Some(before) => KeyRange::Between { first: key.to_owned().into(), before },
        None => KeyRange::One(key.to_owned().into()),
    };
    Ok(Compare { range, relation, target })
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Put(put) => {
            let mut text = format!("revision {}\n", put.revision);
            put.previous.iter().for_each(|kv| writeln!(text, "was {}", shown_kv(kv)).unwrap());
            text
        }
        Outcome::DeleteRange(delete) => {
            let mut text = format!("deleted {} revision {}\n", delete.deleted, delete.revision);
            delete.previous.iter().for_each(|kv| writeln!(text, "was {}", shown_kv(kv)).unwrap());
            text
        }
        Outcome::Compact(compact) => {
            format!("compacted {} revision {}\n", compact.compacted, compact.revision)
        }
        Outcome::Txn(txn) => shown_txn(txn),
        Outcome::Session { session, ttl_ms } => {
            format!("session {} lives {ttl_ms} ms\n", session.0)
        }
        Outcome::Ticked => String::new(),
        Outcome::Lease(LeaseOutcome { lease, ttl_ms, revision }) => {
            format!("lease {lease} lives {ttl_ms} ms, revision {revision}\n")
        }
        Outcome::Activated(version) => format!("version {version}\n"),
        Outcome::Alarms(alarms) => {
            let mut text = format!("{} alarms\n", alarms.len());
            for Divergence { node, revision } in alarms {
                writeln!(text, "node {node} since revision {revision}").unwrap();
            }
            text
        }
        Outcome::Refused(refused) => format!("refused: {refused}\n"),
    }
}

fn shown_txn(txn: &TxnOutcome) -> String {
    let way = if txn.succeeded { "then" } else { "else" };
    let mut text = format!("{way} revision {}\n", txn.revision);
    for response in &txn.responses {
        let lines = match response {
            OpOutcome::Put(put) => shown(&Outcome::Put(put.clone())).replace("revision", "put"),
            OpOutcome::DeleteRange(delete) => shown(&Outcome::DeleteRange(delete.clone())),
            OpOutcome::Range(found) => shown_range(&found.kvs, found.count, found.more),
            OpOutcome::Txn(txn) => shown_txn(txn),
        };
        lines.lines().for_each(|line| writeln!(text, "  {line}").unwrap());
    }
    text
}

fn shown_range(kvs: &[KeyValue], count: u64, more: bool) -> String {
    let more = if more { " and more" } else { "" };
    let mut text = format!("{} of {count}{more}\n", kvs.len());
    kvs.iter().for_each(|kv| writeln!(text, "{}", shown_kv(kv)).unwrap());
    text
}

fn shown_kv(kv: &KeyValue) -> String {
    let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
    let KeyValue { create_revision, mod_revision, version, lease, .. } = kv;
    let lease = lease.map(|id| format!(" lease={id}")).unwrap_or_default();
    format!(
        "{key}=\"{value}\" create={create_revision} mod={mod_revision} version={version}{lease}"
    )
}
