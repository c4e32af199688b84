//! What requests to the store are told on a command line, in the words of etcdctl; and what that
//! means to the store. A line of a transaction is read the same way.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use raft_core::NodeId;
use raft_kv::api::ReadLevel;
use raft_kv::{
    Content, DeleteRange, Field, Filter, KeyRange, LeaseId, Order, Put, RangeRequest, Revision,
    Sort, SortBy,
};

use crate::args::{any_bytes, duration};
use crate::failure::Failure;

#[derive(Clone, Debug, Args)]
pub(crate) struct PutArgs {
    /// The key. Not empty. Any bytes.
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// The value. Any bytes.
    #[arg(
        allow_negative_numbers = true, required_unless_present = "ignore_value",
        conflicts_with = "ignore_value", value_parser = any_bytes()
    )]
    pub(crate) value: Option<Bytes>,
    /// The lease that takes the key along when it ends.
    #[arg(long, value_name = "ID", default_value_t = 0, hide_default_value = true)]
    pub(crate) lease: u64,
    /// Show what was there before.
    #[arg(long)]
    pub(crate) prev_kv: bool,
    /// Keep the value that is there, and change the lease.
    #[arg(long)]
    pub(crate) ignore_value: bool,
    /// Keep the lease that is there, and change the value.
    #[arg(long, conflicts_with = "lease")]
    pub(crate) ignore_lease: bool,
}

/// Which keys.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct KeysArgs {
    /// The key, or where a range of keys begins. Any bytes.
    #[arg(value_parser = any_bytes())]
    pub(crate) key: Bytes,
    /// Where the range ends, exclusive.
    #[arg(value_parser = any_bytes(), conflicts_with_all = ["prefix", "from_key"])]
    pub(crate) range_end: Option<Bytes>,
    /// All keys that begin with KEY; every key, if KEY is empty.
    #[arg(long, conflicts_with = "from_key")]
    pub(crate) prefix: bool,
    /// KEY and all keys that follow it.
    #[arg(long)]
    pub(crate) from_key: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RangeArgs {
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// The most keys to return; 0 for all that fit into one answer.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    pub(crate) limit: u64,
    /// Read the store as it was at this revision.
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(crate) rev: u64,
    /// By what the answer is ordered [default: key].
    #[arg(long, value_name = "FIELD", ignore_case = true)]
    pub(crate) sort_by: Option<SortField>,
    /// Which way it is ordered [default: ascend].
    #[arg(long, value_name = "WAY", ignore_case = true)]
    pub(crate) order: Option<Way>,
    /// Leave the values out.
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Only say how many keys there are.
    #[arg(long, conflicts_with = "keys_only")]
    pub(crate) count_only: bool,
    /// Leave out keys last written before this revision.
    #[arg(long, value_name = "REVISION")]
    pub(crate) min_mod_rev: Option<u64>,
    /// Leave out keys last written after this revision.
    #[arg(long, value_name = "REVISION")]
    pub(crate) max_mod_rev: Option<u64>,
    /// Leave out keys created before this revision.
    #[arg(long, value_name = "REVISION")]
    pub(crate) min_create_rev: Option<u64>,
    /// Leave out keys created after this revision.
    #[arg(long, value_name = "REVISION")]
    pub(crate) max_create_rev: Option<u64>,
    /// Take the answer of whichever node is asked, without making sure that it is the latest.
    #[arg(long)]
    pub(crate) stale: bool,
    /// How fresh the answer must be [default: linearizable].
    #[arg(long, value_name = "LEVEL", ignore_case = true, conflicts_with = "stale")]
    pub(crate) consistency: Option<Consistency>,
    /// Take the answer of any node that has applied all but so many entries of what it knows to be
    /// committed.
    #[arg(long, value_name = "ENTRIES", conflicts_with_all = ["stale", "consistency"])]
    pub(crate) max_lag: Option<u64>,
    /// Take the answer of any node that sees what was written before so long ago.
    #[arg(
        long, value_name = "TIME", value_parser = crate::args::duration,
        conflicts_with_all = ["stale", "consistency"]
    )]
    pub(crate) max_age: Option<Duration>,
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// Every write that was acknowledged before; the leader makes sure that it leads.
    #[value(alias = "l")]
    Linearizable,
    /// The same, by the leader's lease: needs `raft serve --lease-drift`.
    Lease,
    /// The same, from whichever node is asked.
    Follower,
    /// What whichever node is asked has.
    #[value(alias = "s", alias = "serializable")]
    Stale,
}

/// By what an answer is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortField {
    /// The key.
    Key,
    /// How often the key was written.
    Version,
    /// The revision that created it.
    Create,
    /// The revision that wrote it last.
    #[value(alias = "mod")]
    Modify,
    /// The value.
    Value,
}

/// Which way an answer is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// The least first.
    #[value(alias = "asc")]
    Ascend,
    /// The greatest first.
    #[value(alias = "desc")]
    Descend,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DelArgs {
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// Show what was there before.
    #[arg(long)]
    pub(crate) prev_kv: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// Begin with this revision, which may be in the past.
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(crate) rev: u64,
    /// Show what was there before.
    #[arg(long)]
    pub(crate) prev_kv: bool,
    /// Leave out events of this kind.
    #[arg(long, value_name = "KIND", ignore_case = true)]
    pub(crate) filter: Vec<EventName>,
    /// Stop after so many events. In a shell, which answers when they are there, 1 by default.
    #[arg(long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// When nothing has happened for so long, say how far the watch has come (with `-o json`).
    #[arg(long, value_name = "TIME", value_parser = crate::args::duration)]
    pub(crate) progress: Option<Duration>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LockArgs {
    /// The name of the lock. It uses the keys under NAME and a slash.
    #[arg(value_parser = any_bytes())]
    pub(crate) name: Bytes,
    /// A command to run while the lock is held, and its words; its exit code becomes ours. It finds
    /// the key and a token that grows with each holder in RAFT_LOCK_KEY and RAFT_LOCK_TOKEN.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// Who is not heard of for so long has lost it.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = crate::args::duration)]
    pub(crate) ttl: Duration,
    /// Wait no longer than this for it.
    #[arg(long, value_name = "TIME", value_parser = crate::args::duration)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ElectArgs {
    /// The name of the election. It uses the keys under NAME and a slash.
    #[arg(value_parser = any_bytes())]
    pub(crate) name: Bytes,
    /// What to say once elected.
    #[arg(value_parser = any_bytes(), conflicts_with = "listen")]
    pub(crate) proposal: Option<Bytes>,
    /// Do not take part, but show who is elected.
    #[arg(long, short)]
    pub(crate) listen: bool,
    /// Who is not heard of for so long is elected no more.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = crate::args::duration)]
    pub(crate) ttl: Duration,
    /// Wait no longer than this to be elected.
    #[arg(long, value_name = "TIME", value_parser = crate::args::duration)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UnlockArgs {
    /// The name of the lock or election.
    #[arg(value_parser = any_bytes())]
    pub(crate) name: Bytes,
}

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventName {
    /// A key was written.
    #[value(alias = "noput")]
    Put,
    /// A key was deleted.
    #[value(alias = "nodelete")]
    Delete,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompactArgs {
    /// The oldest revision that is kept.
    pub(crate) revision: u64,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CheckCommand {
    /// Whether all nodes hold the same keys and values. Exit code 6 if not, 3 if not all have answered.
    ///
    /// Each node reads all it has, so this may take long; those that are behind are waited for.
    #[command(after_help = "Example:\n  raft check consistency --within 10m")]
    Consistency(ConsistencyArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConsistencyArgs {
    /// What to compare. By default all that was acknowledged by now.
    #[arg(long, value_name = "REVISION")]
    pub(crate) rev: Option<u64>,
    /// For how long nodes are waited for.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub(crate) within: Duration,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AlarmCommand {
    /// Show what is wrong, and with which node.
    #[command(after_help = "Example:\n  raft alarm list -o json")]
    List,
    /// End the alarms about one node that differs from the others, or about all. Those about space end by
    /// themselves.
    #[command(after_help = "Example:\n  raft alarm disarm 3")]
    Disarm {
        /// Which node. By default all.
        #[arg(value_name = "NODE")]
        node: Option<NodeId>,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TxnArgs {
    /// The transaction as JSON: {"compare":[..],"then":[..],"else":[..]}. Without it, stdin is
    /// read: JSON, or comparisons, an empty line, what to do if they hold, an empty line, what to do
    /// if not.
    pub(crate) json: Option<String>,
}

/// What to do with leases. Ids are decimal numbers, times are seconds.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Grant a lease. Its keys go when it was not kept alive for so long.
    #[command(after_help = "Example:\n  raft lease grant 60")]
    Grant {
        /// How long it lives, in seconds.
        ttl: u64,
        /// Its id, instead of one that the cluster chooses.
        #[arg(long)]
        id: Option<NonZeroU64>,
    },
    /// End a lease and delete its keys.
    #[command(after_help = "Example:\n  raft lease revoke 7")]
    Revoke {
        /// Which.
        id: NonZeroU64,
    },
    /// Let a lease begin anew, again and again until Ctrl-C. In a shell, once.
    #[command(
        after_help = "Examples:\n  raft lease keep-alive 7\n  raft lease keep-alive 7 --once"
    )]
    KeepAlive {
        /// Which.
        id: NonZeroU64,
        /// Once, and no more.
        #[arg(long)]
        once: bool,
    },
    /// Show how long a lease has to live. Exit code 1 if there is none.
    #[command(after_help = "Example:\n  raft lease timetolive 7 --keys")]
    Timetolive {
        /// Which.
        id: NonZeroU64,
        /// Show its keys.
        #[arg(long)]
        keys: bool,
    },
    /// Show all leases.
    #[command(after_help = "Example:\n  raft lease list -o json")]
    List,
}

/// What to do with sessions.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Open a session.
    #[command(after_help = "Example:\n  raft session open --ttl 60")]
    Open {
        /// How long it lives after a sign of life, in seconds.
        #[arg(long, default_value_t = 60)]
        ttl: u64,
    },
    /// Show that a session is alive.
    #[command(after_help = "Example:\n  raft session keep-alive 12")]
    KeepAlive {
        /// Which.
        id: u64,
    },
    /// End a session.
    #[command(after_help = "Example:\n  raft session close 12")]
    Close {
        /// Which.
        id: u64,
    },
    /// Show all sessions.
    #[command(after_help = "Example:\n  raft session list")]
    List,
}

impl PutArgs {
    pub(crate) fn put(&self) -> Put {
        let lease = NonZeroU64::new(self.lease).map(LeaseId);
        Put {
            key: self.key.clone(),
            // One without a value keeps it; the definition sees to it that this was said.
            value: self.value.clone().map_or(Field::Keep, Field::Set),
            lease: if self.ignore_lease { Field::Keep } else { Field::Set(lease) },
            prev_kv: self.prev_kv,
        }
    }
}

impl KeysArgs {
    pub(crate) fn range(&self) -> Result<KeyRange, Failure> {
        let key = self.key.clone();
        if self.prefix {
            return Ok(KeyRange::prefix(key));
        }
        if self.from_key {
            return Ok(KeyRange::From(key));
        }
        if key.is_empty() {
            return Err(Failure::usage(
                "the key is empty; give a key, or all keys with '' --prefix",
            ));
        }
        Ok(match &self.range_end {
            None => KeyRange::One(key),
            Some(end) => KeyRange::of_etcd(key, end.clone()),
        })
    }
}

impl RangeArgs {
    /// Whether it is about one key, as a plain `get` is.
    pub(crate) fn is_plain(&self) -> bool {
        let KeysArgs { range_end, prefix, from_key, .. } = &self.keys;
        let is_one = range_end.is_none() && !prefix && !from_key;
        let is_whole = self.limit == 0 && !self.keys_only && !self.count_only;
        let is_unordered = self.sort_by.is_none() && self.order.is_none();
        is_one && is_whole && is_unordered && self.filter() == Filter::default()
    }

    pub(crate) fn request(&self) -> Result<RangeRequest, Failure> {
        let content = match (self.count_only, self.keys_only) {
            (true, _) => Content::CountOnly,
            (false, true) => Content::KeysOnly,
            (false, false) => Content::Full,
        };
        let by = match self.sort_by.unwrap_or(SortField::Key) {
            SortField::Key => SortBy::Key,
            SortField::Version => SortBy::Version,
            SortField::Create => SortBy::CreateRevision,
            SortField::Modify => SortBy::ModRevision,
            SortField::Value => SortBy::Value,
        };
        let order = match self.order.unwrap_or(Way::Ascend) {
            Way::Ascend => Order::Ascending,
            Way::Descend => Order::Descending,
        };
        Ok(RangeRequest {
            range: self.keys.range()?,
            revision: (self.rev > 0).then_some(Revision(self.rev)),
            limit: (self.limit > 0).then_some(self.limit),
            content,
            sort: Sort { by, order },
            filter: self.filter(),
        })
    }

    pub(crate) fn level(&self) -> Result<ReadLevel, Failure> {
        if self.max_lag.is_some() || self.max_age.is_some() {
            let ms = self.max_age.map(|age| u32::try_from(age.as_millis()));
            let ms = ms.transpose().map_err(|_| {
                Failure::usage(format!(
                    "--max-age {:?} is too long; give 49 days at most",
                    self.max_age
                ))
            })?;
            return Ok(ReadLevel::Within { entries: self.max_lag, ms });
        }
        Ok(match self.consistency {
            None if self.stale => ReadLevel::Stale,
            None | Some(Consistency::Linearizable) => ReadLevel::Linearizable,
            Some(Consistency::Lease) => ReadLevel::Lease,
            Some(Consistency::Follower) => ReadLevel::Follower,
            Some(Consistency::Stale) => ReadLevel::Stale,
        })
    }

    fn filter(&self) -> Filter {
        Filter {
            min_mod_revision: self.min_mod_rev.map(Revision),
            max_mod_revision: self.max_mod_rev.map(Revision),
            min_create_revision: self.min_create_rev.map(Revision),
            max_create_revision: self.max_create_rev.map(Revision),
        }
    }
}

impl DelArgs {
    pub(crate) fn delete(&self) -> Result<DeleteRange, Failure> {
        Ok(DeleteRange { range: self.keys.range()?, prev_kv: self.prev_kv })
    }
}
