//! A connection to etcd, by its own protocol and without TLS.
//!
//! As our client does, it asks the leader, and goes on with another node if that one fails.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, Event, GetOptions, GetResponse, KvClient,
    Txn, TxnOp, WatchClient, WatchOptions, WatchStream,
};
use raft_kv::api::ReadLevel;
use tokio::time::{Instant, sleep, timeout};

use super::target::Found;
use crate::failure::{Failure, Kind};

/// One HTTP/2 connection to the leader, and one to another node once it is asked.
pub(crate) struct EtcdConnection {
    addresses: Vec<String>,
    timeout: Duration,
    /// Who is asked for writes and linearizable reads. Replaced when it fails.
    leader: Mutex<Leader>,
    /// Who is asked for stale reads.
    any: KvClient,
    /// Who tells what happens: the same node.
    any_watch: WatchClient,
}

/// A watch under way.
pub(crate) struct EtcdWatching(WatchStream);

#[derive(Clone)]
struct Leader {
    kv: KvClient,
    /// Told apart from its successor by this.
    turn: usize,
}

impl EtcdConnection {
    pub(super) async fn open(
        addresses: &[String],
        number: usize,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let at = leader_of(addresses).await?;
        let leader = Leader { kv: connect(&addresses[at]).await?.kv_client(), turn: at };
        let any = connect(&addresses[number % addresses.len()]).await?;
        Ok(Self {
            addresses: addresses.to_vec(),
            timeout,
            leader: Mutex::new(leader),
            any: any.kv_client(),
            any_watch: any.watch_client(),
        })
    }

    pub(super) async fn put(&self, key: &Bytes, value: &Bytes) -> Result<u64, Failure> {
        let put = |mut kv: KvClient| {
            let (key, value) = (key.to_vec(), value.to_vec());
            async move { kv.put(key, value, None).await }
        };
        let response = self.lead(put).await?;
        Ok(revision(response.header()))
    }

    pub(super) async fn get(
        &self,
        key: &Bytes,
        level: ReadLevel,
    ) -> Result<Option<Found>, Failure> {
        let response = self.read(key, GetOptions::new(), level).await?;
        Ok(response.kvs().first().map(|kv| Found {
            revision: kv.mod_revision().unsigned_abs(),
            value: Bytes::copy_from_slice(kv.value()),
        }))
    }

    pub(super) async fn range(
        &self,
        first: &Bytes,
        before: &Bytes,
        limit: u64,
        level: ReadLevel,
    ) -> Result<usize, Failure> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_range(before.to_vec()).with_limit(limit);
        Ok(self.read(first, options, level).await?.kvs().len())
    }

    pub(super) async fn count(&self, first: &Bytes, before: &Bytes) -> Result<u64, Failure> {
        let options = GetOptions::new().with_range(before.to_vec()).with_count_only();
        let response = self.read(first, options, ReadLevel::Linearizable).await?;
        Ok(response.count().unsigned_abs())
    }

    pub(super) async fn txn(
        &self,
        key: &Bytes,
        value: &Bytes,
        other: &Bytes,
    ) -> Result<u64, Failure> {
        let (key, value) = (key.to_vec(), value.to_vec());
        let compare = Compare::version(key.clone(), CompareOp::NotEqual, i64::MAX);
        let ops = [TxnOp::put(key, value, None), TxnOp::get(other.to_vec(), None)];
        let txn = Txn::new().when([compare]).and_then(ops);
        let response =
            self.lead(|mut kv| attempt(&txn, move |txn| async move { kv.txn(txn).await }));
        Ok(revision(response.await?.header()))
    }

    pub(super) async fn put_all(&self, kvs: &[(Bytes, Bytes)]) -> Result<(), Failure> {
        let puts = kvs.iter().map(|(key, value)| TxnOp::put(key.to_vec(), value.to_vec(), None));
        let txn = Txn::new().and_then(puts.collect::<Vec<_>>());
        self.lead(|mut kv| attempt(&txn, move |txn| async move { kv.txn(txn).await })).await?;
        Ok(())
    }

    pub(super) async fn watch(
        &self,
        first: &Bytes,
        before: &Bytes,
        from: u64,
    ) -> Result<EtcdWatching, Failure> {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_range(before.to_vec()).with_start_revision(from);
        let mut any = self.any_watch.clone();
        let stream = any.watch(first.to_vec(), Some(options)).await;
        stream.map(EtcdWatching).map_err(|error| failure(&error))
    }

    async fn read(
        &self,
        key: &Bytes,
        options: GetOptions,
        level: ReadLevel,
    ) -> Result<GetResponse, Failure> {
        match level {
            ReadLevel::Linearizable | ReadLevel::Lease | ReadLevel::Follower => {
                let get = |mut kv: KvClient| {
                    let (key, options) = (key.to_vec(), options.clone());
                    async move { kv.get(key, Some(options)).await }
                };
                self.lead(get).await
            }
            ReadLevel::Stale | ReadLevel::Within { .. } => {
                let mut any = self.any.clone();
                let options = options.with_serializable();
                any.get(key.to_vec(), Some(options)).await.map_err(|error| failure(&error))
            }
        }
    }

    /// Asks the leader, and other nodes if it fails, until the time is up.
    async fn lead<T, F>(&self, ask: impl Fn(KvClient) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + self.timeout;
        loop {
            let Leader { kv, turn } = self.leader().clone();
            let error = match timeout(ATTEMPT, ask(kv)).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => failure(&error),
                Err(_) => Failure::new(Kind::UnknownOutcome, "etcd does not answer"),
            };
            let may_pass = matches!(error.kind, Kind::Unavailable | Kind::UnknownOutcome);
            if !may_pass || Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            self.replace(turn).await;
            sleep(PAUSE).await;
        }
    }

    /// Goes on with the next node, unless somebody has done so already.
    async fn replace(&self, turn: usize) {
        if self.leader().turn != turn {
            return;
        }
        let next = turn + 1;
        if let Ok(client) = connect(&self.addresses[next % self.addresses.len()]).await {
            let mut leader = self.leader();
            if leader.turn == turn {
                *leader = Leader { kv: client.kv_client(), turn: next };
            }
        }
    }

    fn leader(&self) -> MutexGuard<'_, Leader> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EtcdWatching {
    pub(super) async fn next(&mut self) -> Result<Vec<Found>, Failure> {
        let ended = |why| Failure::new(Kind::Unavailable, format!("etcd has ended a watch{why}"));
        let said = self.0.message().await.map_err(|error| failure(&error))?;
        let said = said.ok_or_else(|| ended(String::new()))?;
        if said.canceled() {
            return Err(ended(format!(": {}", said.cancel_reason())));
        }
        let kvs = said.events().iter().filter_map(Event::kv);
        Ok(kvs
            .map(|kv| Found {
                revision: kv.mod_revision().unsigned_abs(),
                value: Bytes::copy_from_slice(kv.value()),
            })
            .collect())
    }
}

/// Hands `ask` a request of its own.
fn attempt<T: Clone, F>(request: &T, ask: impl FnOnce(T) -> F) -> F {
    ask(request.clone())
}

/// Which of the nodes leads.
async fn leader_of(addresses: &[String]) -> Result<usize, Failure> {
    let mut last = None;
    for (at, address) in addresses.iter().enumerate() {
        let endpoint = format!("http://{address}");
        let status = async { Client::connect([&endpoint], Some(options())).await?.status().await };
        match status.await {
            Ok(status) => {
                let id = status.header().map(etcd_client::ResponseHeader::member_id);
                if id == Some(status.leader()) {
                    return Ok(at);
                }
            }
            Err(error) => last = Some(failure(&error)),
        }
    }
    let none = || Failure::new(Kind::Unavailable, "none of the nodes of --target leads etcd");
    Err(last.unwrap_or_else(none))
}

async fn connect(address: &str) -> Result<Client, Failure> {
    let client = Client::connect([format!("http://{address}")], Some(options())).await;
    client.map_err(|error| failure(&error))
}

fn options() -> ConnectOptions {
    ConnectOptions::new().with_connect_timeout(Duration::from_secs(2))
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision().unsigned_abs())
}

/// Whether it is worth asking another node is all that matters here.
fn failure(error: &Error) -> Failure {
    let kind = match error {
        Error::TransportError(_) | Error::IoError(_) | Error::EndpointError(_) => Kind::Unavailable,
        Error::GRpcStatus(status) => match i32::from(status.code()) {
            CODE_UNKNOWN | CODE_DEADLINE | CODE_CANCELLED => Kind::UnknownOutcome,
            CODE_UNAVAILABLE => Kind::Unavailable,
            _ => Kind::Usage,
        },
        Error::InvalidArgs(_) | Error::InvalidUri(_) => Kind::Usage,
        _ => Kind::Failed,
    };
    Failure::new(kind, format!("etcd: {error}"))
}

/// Codes of gRPC.
const CODE_CANCELLED: i32 = 1;
const CODE_UNKNOWN: i32 = 2;
const CODE_DEADLINE: i32 = 4;
const CODE_UNAVAILABLE: i32 = 14;

/// The longest wait for one node.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);
