//! A connection that a load can use: to a cluster of ours, or to etcd.
//!
//! Both are asked the same. Neither side is favoured: each connection goes to the leader for what
//! only the leader can answer, and stale reads are spread over all nodes.

use std::time::Duration;

use bytes::Bytes;
use raft_kv::api::ReadLevel;
use raft_kv::client::{self, Comparison};
use raft_kv::{
    Compare, Content, KeyRange, KeyValue, Put, RangeRequest, Relation, Revision,
    Target as Compared, Txn, TxnOp, WatchRequest,
};

use crate::args::Global;
use crate::channel::StoreChannel;
use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::founding::checked_address;

#[cfg(feature = "etcd")]
use super::etcd::{EtcdConnection, EtcdWatching};

/// What the load is put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The cluster of `--endpoints`.
    Raft,
    /// The etcd that has nodes at these addresses, without TLS.
    Etcd(Vec<String>),
}

/// A key as it was found, or as a watch tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The revision that wrote it last.
    pub(crate) revision: u64,
    pub(crate) value: Bytes,
}

/// A watch under way. Dropping it ends it.
pub(crate) enum Watching {
    Raft(Box<client::Watching<StoreChannel>>),
    #[cfg(feature = "etcd")]
    Etcd(EtcdWatching),
}

/// One connection.
pub(crate) enum Connection {
    Raft(Box<Session>),
    #[cfg(feature = "etcd")]
    Etcd(EtcdConnection),
}

impl Target {
    /// Reads what was typed.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let Some(addresses) = text.strip_prefix("etcd://") else {
            return Err(Failure::usage(format!(
                "--target: {text:?} is no target; write etcd://HOST:PORT,... or leave it out for \
                 the cluster of --endpoints"
            )));
        };
        let addresses = addresses.split(',').map(|text| checked_address("--target", text.trim()));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        if cfg!(feature = "etcd") {
            Ok(Self::Etcd(addresses))
        } else {
            Err(Failure::usage(
                "--target etcd://...: this raft was built without etcd's client; build it with \
                 `cargo build --release --workspace --features raft-cli/etcd`",
            ))
        }
    }
}

impl Connection {
    /// Opens the connection of this number. Endpoints are given to it in turn.
    pub(crate) async fn open(
        target: &Target,
        global: &Global,
        number: usize,
    ) -> Result<Self, Failure> {
        match target {
            Target::Raft => {
                let mut global = global.clone();
                let turn = number.checked_rem(global.endpoints.len()).unwrap_or_default();
                global.endpoints.rotate_left(turn);
                Ok(Self::Raft(Box::new(Session::open(&global)?)))
            }
            #[cfg(feature = "etcd")]
            Target::Etcd(addresses) => {
                let opened = EtcdConnection::open(addresses, number, global.timeout).await?;
                Ok(Self::Etcd(opened))
            }
            #[cfg(not(feature = "etcd"))]
            Target::Etcd(_) => Err(Failure::usage("this raft was built without etcd's client")),
        }
    }

    /// Writes a key. Gives the revision that has it.
    pub(crate) async fn put(&self, key: Bytes, value: Bytes) -> Result<u64, Failure> {
        match self {
            Self::Raft(session) => {
                let put = session.client().put(key, value).await;
                put.map(|outcome| outcome.revision.0).map_err(client_failure)
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(etcd) => etcd.put(&key, &value).await,
        }
    }

    /// Reads a key.
    pub(crate) async fn get(&self, key: Bytes, level: ReadLevel) -> Result<Option<Found>, Failure> {
        match self {
            Self::Raft(session) => {
                let got = session.client().get(key, level).await.map_err(client_failure)?;
                Ok(got.kv.map(Found::from))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(etcd) => etcd.get(&key, level).await,
        }
    }

    /// Reads at most `limit` keys from `first` on and before `before`. Gives how many they are.
    pub(crate) async fn range(
        &self,
        (first, before): (Bytes, Bytes),
        limit: u64,
        level: ReadLevel,
    ) -> Result<usize, Failure> {
        match self {
            Self::Raft(session) => {
                let mut request = RangeRequest::new(KeyRange::Between { first, before });
                request.limit = Some(limit);
                let found = session.client().range(request, level).await.map_err(client_failure)?;
                Ok(found.kvs.len())
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(etcd) => etcd.range(&first, &before, limit, level).await,
        }
    }

    /// How many keys there are from `first` on and before `before`.
    pub(crate) async fn count(&self, first: Bytes, before: Bytes) -> Result<u64, Failure> {
        match self {
            Self::Raft(session) => {
                let mut request = RangeRequest::new(KeyRange::Between { first, before });
                request.content = Content::CountOnly;
                let found = session.client().range(request, ReadLevel::Linearizable).await;
                found.map(|found| found.count).map_err(client_failure)
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(etcd) => etcd.count(&first, &before).await,
        }
    }

    /// Compares a key, which always holds, writes it, and reads `other`, as one. Gives the revision
    /// that has it.
    pub(crate) async fn txn(&self, key: Bytes, value: Bytes, other: Bytes) -> Result<u64, Failure> {
        match self {
            Self::Raft(session) => {
                let compare = Compare {
                    range: KeyRange::One(key.clone()),
                    relation: Relation::NotEqual,
                    target: Compared::Version(NO_VERSION),
                };
                let read = RangeRequest::new(KeyRange::One(other));
                let txn = Txn {
                    compare: vec![compare],
                    then: vec![TxnOp::Put(Put::new(key, value)), TxnOp::Range(read)],
                    otherwise: Vec::new(),
                };
                let outcome = session.client().txn(txn).await.map_err(client_failure)?;
                Ok(outcome.revision.0)
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(etcd) => etcd.txn(&key, &value, &other).await,
        }
    }

    /// Writes several keys as one.
    pub(crate) async fn put_all(&self, kvs: Vec<(Bytes, Bytes)>) -> Result<(), Failure> {
        match self {
            Self::Raft(session) => {
                let puts = kvs.into_iter().map(|(key, value)| TxnOp::Put(Put::new(key, value)));
                let txn = Txn { then: puts.collect(), ..Txn::default() };
                session.client().txn(txn).await.map(|_| ()).map_err(client_failure)
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(etcd) => etcd.put_all(&kvs).await,
        }
    }

    /// Watches the keys from `first` on and before `before`, from that revision on.
    pub(crate) async fn watch(
        &self,
        (first, before): (Bytes, Bytes),
        from: u64,
    ) -> Result<Watching, Failure> {
        match self {
            Self::Raft(session) => {
                let mut request = WatchRequest::new(KeyRange::Between { first, before });
                request.from = Some(Revision(from));
                Ok(Watching::Raft(Box::new(session.client().watch(request))))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(etcd) => etcd.watch(&first, &before, from).await.map(Watching::Etcd),
        }
    }

    /// What each node of a cluster of ours holds now. `None` for etcd. Nodes that are behind are
    /// waited for, as long as `within`.
    pub(crate) async fn compare(&self, within: Duration) -> Result<Option<Comparison>, Failure> {
        match self {
            Self::Raft(session) => {
                let client = session.client().with_timeout(within);
                client.compare(None).await.map(Some).map_err(client_failure)
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => Ok(None),
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Raft(session) => session.close().await,
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => {}
        }
    }
}

impl Watching {
    /// Waits for what is next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Vec<Found>, Failure> {
        match self {
            Self::Raft(watching) => {
                let said = watching.next().await.map_err(client_failure)?;
                let events = said.events.into_iter();
                Ok(events.map(|event| Found::from(event.kv)).collect())
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(watching) => watching.next().await,
        }
    }
}

impl From<KeyValue> for Found {
    fn from(kv: KeyValue) -> Self {
        Self { revision: kv.mod_revision.0, value: kv.value }
    }
}

/// More often than this no key is written.
const NO_VERSION: u64 = i64::MAX.unsigned_abs();
