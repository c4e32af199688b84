//! What the tasks of one transport share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use quinn::{ClientConfig, Endpoint};
use raft_core::{Identity, Inbox};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::addresses::Addresses;
use crate::config::Limits;
use crate::log_gate::LogGate;
use crate::monitor::Watched;
use crate::names::ClusterName;
use crate::peer::Registry;
use crate::serve::ClientService;
use crate::snapshot::{Pace, Shelf};

/// One transport, as its tasks see it.
pub(crate) struct Shared {
    pub(crate) runtime: Handle,
    pub(crate) endpoint: Endpoint,
    /// How other nodes are dialed; replaced when the certificates are.
    pub(crate) peer_config: Mutex<ClientConfig>,
    pub(crate) identity: Identity,
    /// As our certificate has it. It does not change: a certificate of another cluster is not used.
    pub(crate) cluster: ClusterName,
    /// Drawn at random, to tell this process from the one before it.
    pub(crate) session: u64,
    pub(crate) idle_timeout: Duration,
    pub(crate) limits: Limits,
    /// Where arriving snapshots are kept.
    pub(crate) incoming: PathBuf,
    pub(crate) clients: Arc<dyn ClientService>,
    pub(crate) registry: Registry,
    pub(crate) log: LogGate,
    pub(crate) watched: Arc<Watched>,
    pub(crate) slots: Slots,
    pub(crate) pace: Pace,
    pub(crate) shelf: Shelf,
    /// Set when the node starts to receive.
    pub(crate) inbox: OnceLock<Inbox>,
    counter: AtomicU64,
    /// Set when the transport stops: what has arrived by then stays for the next start.
    pub(crate) stopping: Arc<AtomicBool>,
}

/// What may happen at the same time.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) peers: Arc<Semaphore>,
    pub(crate) clients: Arc<Semaphore>,
    pub(crate) client_addresses: Arc<Addresses>,
    pub(crate) snapshots_received: Arc<Semaphore>,
    pub(crate) snapshots_sent: Arc<Semaphore>,
}

impl Slots {
    fn new(limits: &Limits) -> Self {
        let slots = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            handshakes: slots(limits.handshakes),
            peers: slots(limits.peer_connections),
            clients: slots(limits.client_connections),
            client_addresses: Addresses::new(limits.client_connections_per_address),
            snapshots_received: slots(limits.snapshots_received),
            snapshots_sent: slots(limits.snapshots_sent),
        }
    }
}

impl Shared {
    pub(crate) fn new(
        runtime: Handle,
        endpoint: Endpoint,
        peer_config: ClientConfig,
        cluster: ClusterName,
        config: crate::config::QuicConfig,
        clients: Arc<dyn ClientService>,
        watched: Arc<Watched>,
    ) -> Self {
        Self {
            runtime,
            endpoint,
            peer_config: Mutex::new(peer_config),
            identity: config.identity,
            cluster,
            session: rand::random(),
            idle_timeout: config.idle_timeout,
            slots: Slots::new(&config.limits),
            pace: Pace::new(config.limits.snapshot_send_rate),
            shelf: Shelf::default(),
            limits: config.limits,
            incoming: config.incoming,
            clients,
            registry: Registry::default(),
            log: LogGate::default(),
            watched,
            inbox: OnceLock::new(),
            counter: AtomicU64::new(1),
            stopping: Arc::default(),
        }
    }

    /// Tells the node something, once it has started to receive.
    pub(crate) fn deliver(&self, tell: impl FnOnce(&Inbox)) {
        if let Some(inbox) = self.inbox.get() {
            tell(inbox);
        }
    }

    /// Keeps [`Shared::next_number`] from this number and those before it.
    pub(crate) fn pass_number(&self, number: u64) {
        self.counter.fetch_max(number.saturating_add(1), Ordering::Relaxed);
    }

    /// A number that this transport has not used before.
    pub(crate) fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

/// Locks what stays consistent whatever a holder of the lock may have panicked over: every critical
/// section of this crate only moves values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
