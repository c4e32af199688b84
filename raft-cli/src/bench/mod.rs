//! What `raft bench` is made of: a load, what it is put on, and what is told of it.
//!
//! - [`target`] is one connection to a cluster of ours, or to etcd, with the few requests a load
//!   makes of either;
//! - [`load`] drives clients over connections, and measures;
//! - [`fanout`] is the load of watches, which has writers and watchers;
//! - [`audit`] reads back what was acknowledged, and compares what the nodes hold;
//! - [`report`] and [`plot`] say what came of it.
//!
//! The command that checks the words and brings these together is `commands/bench.rs`.

pub(crate) mod audit;
#[cfg(feature = "etcd")]
mod etcd;
pub(crate) mod fanout;
pub(crate) mod load;
pub(crate) mod plot;
pub(crate) mod report;
pub(crate) mod target;

use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use raft_kv::api::ReadLevel;
use rand::RngCore;

/// What a client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Write a key.
    Put,
    /// Read a key.
    Get,
    /// Read a key, or write one: --reads says how often which.
    Mixed,
    /// Read --limit keys that follow one another.
    Range,
    /// Compare a key, write it and read another, as one.
    Txn,
    /// Watch all keys while --writers write them. What is measured is the age of each event when a
    /// watcher has it.
    Watch,
}

impl Workload {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Mixed => "mixed",
            Self::Range => "range",
            Self::Txn => "txn",
            Self::Watch => "watch",
        }
    }

    /// Whether it needs the keys to be there.
    pub(crate) const fn reads(self) -> bool {
        match self {
            Self::Put | Self::Watch => false,
            Self::Get | Self::Mixed | Self::Range | Self::Txn => true,
        }
    }
}

/// What is to be done, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) workload: Workload,
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    pub(crate) keys: KeySpace,
    /// Operations a second of all clients together. `None`: each begins the next when the last is
    /// done.
    pub(crate) rate: Option<u32>,
    pub(crate) duration: Duration,
    pub(crate) level: ReadLevel,
    /// How many of 100 operations of a mixed load are reads.
    pub(crate) reads_percent: u32,
    /// How many keys one range reads.
    pub(crate) limit: u64,
    /// How many clients write while the others watch.
    pub(crate) writers: usize,
    /// Whether the nodes say afterwards what they hold.
    pub(crate) compares: bool,
}

impl Plan {
    /// How many connections are needed: those that clients share, and for watches one to write on.
    pub(crate) fn all_connections(&self) -> usize {
        self.connections + usize::from(self.workload == Workload::Watch)
    }
}

/// The keys of a load, and what is written under them.
#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    prefix: String,
    /// How many keys there are, one at least.
    pub(crate) count: u64,
    value_bytes: usize,
    /// Values are cut out of this. It is random, so that no store can compress them away.
    pool: Bytes,
}

impl KeySpace {
    pub(crate) fn new(prefix: String, count: u64, value_bytes: usize) -> Self {
        let mut pool = vec![0; POOL_BYTES + value_bytes];
        rand::rng().fill_bytes(&mut pool);
        Self { prefix, count, value_bytes, pool: pool.into() }
    }

    /// The key of this number. Keys are in the order of their numbers.
    pub(crate) fn key(&self, number: u64) -> Bytes {
        format!("{}{number:012}", self.prefix).into()
    }

    /// The value of this number.
    pub(crate) fn value(&self, number: u32) -> Bytes {
        let start = usize::try_from(number).unwrap_or_default() % POOL_BYTES;
        self.pool.slice(start..start + self.value_bytes)
    }

    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes
    }
}

/// So many values are different.
const POOL_BYTES: usize = 1 << 20;
