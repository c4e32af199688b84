//! [`QuicClient`]: calls nodes, over one connection to each.
//!
//! It retries nothing by itself: only its user knows which request may be repeated. What it does
//! know is whether a request can have reached the node, and that is what its errors say.

mod channel;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{ClientConfig, Endpoint};
use raft_core::Identity;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::certified;
use crate::client::channel::Channel;
use crate::close::{Refusal, RefusalKind};
use crate::config::{ClientLimits, TlsFiles};
use crate::endpoint;
use crate::error::{CallError, ConnectError, LossCause, NetError};
use crate::frame::FrameReader;
use crate::names::Party;
use crate::shared::lock;
use crate::tls::{Contents, Material};

/// Calls nodes. Keeps one connection to each endpoint, on which any number of calls are under way
/// at the same time, and connects again when it is lost.
///
/// Certificates are read again for each connection that is made, so they can be replaced while it
/// is in use.
///
/// Cloning gives another handle to the same connections. They belong to the runtime of the first
/// call.
#[derive(Clone)]
pub struct QuicClient {
    inner: Arc<Inner>,
}

struct Inner {
    tls: TlsFiles,
    dialing: Mutex<Dialing>,
    limits: ClientLimits,
    state: Mutex<State>,
}

/// How to dial: what was in the files, and what came of it.
struct Dialing {
    contents: Contents,
    /// Whom our certificate speaks for.
    party: Arc<Party>,
    config: ClientConfig,
}

impl Dialing {
    fn new(tls: &TlsFiles, contents: Contents, limits: &ClientLimits) -> Result<Self, NetError> {
        let material = Material::of(tls, &contents)?;
        let config = endpoint::client_config(limits, &material)?;
        Ok(Self { contents, party: Arc::new(material.party()?), config })
    }
}

#[derive(Default)]
struct State {
    /// Made at the first call: a socket needs a runtime.
    ipv4: Option<Endpoint>,
    ipv6: Option<Endpoint>,
    /// By `host:port`.
    slots: BTreeMap<String, Slot>,
}

/// The connection to one endpoint, or the attempt to make one.
enum Slot {
    Ready(Arc<Channel>),
    /// All who wait for the same attempt get its result, and it outlives those who give up.
    Connecting(watch::Receiver<Option<Connected>>),
}

/// What a node says again and again. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    items: FrameReader,
    endpoint: String,
    /// Keeps the connection in use.
    _channel: Arc<Channel>,
}

impl Subscription {
    /// Waits for the next item. `None` once the node has ended the subscription. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`CallError::Lost`] if the connection is gone or the node broke the rules.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        self.items.next().await.map_err(|fault| CallError::Lost {
            endpoint: self.endpoint.clone(),
            cause: LossCause::Connection { detail: fault.to_string() },
        })
    }
}

type Connected = Result<Arc<Channel>, ConnectError>;

impl QuicClient {
    /// Reads and checks the certificates. Nothing is sent before the first call.
    ///
    /// # Errors
    ///
    /// See [`NetError`]: a file is missing or unfit.
    pub fn new(tls: &TlsFiles, limits: ClientLimits) -> Result<Self, NetError> {
        let contents = Contents::read(tls)?;
        let dialing = Mutex::new(Dialing::new(tls, contents, &limits)?);
        let tls = tls.clone();
        Ok(Self { inner: Arc::new(Inner { tls, dialing, limits, state: Mutex::default() }) })
    }

    /// Sends `request` to the node at `endpoint` (`host:port`) and waits for its reply.
    ///
    /// Dropping the future gives the call up: if it was not written yet, it is not sent.
    ///
    /// # Errors
    ///
    /// [`CallError::NotSent`] if the request has surely not reached the node; [`CallError::Lost`]
    /// if it may have.
    pub async fn call(
        &self,
        endpoint: &str,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let not_sent = |cause| CallError::NotSent { endpoint: endpoint.to_owned(), cause };
        let limit = self.inner.limits.request_bytes;
        if request.len() > limit {
            return Err(not_sent(ConnectError::TooLong { bytes: request.len(), limit }));
        }
        let channel = self.channel(endpoint, deadline).await.map_err(not_sent)?;
        let answer = channel.call(request, deadline).await;
        answer.map_err(|unanswered| unanswered.at(endpoint))
    }

    /// Sends `request` to the node at `endpoint`, which answers it as often as it likes. `deadline` is
    /// for sending it.
    ///
    /// # Errors
    ///
    /// As [`QuicClient::call`]; [`ConnectError::Busy`] also if the node allows no further subscription
    /// on this connection before the deadline.
    pub async fn subscribe(
        &self,
        endpoint: &str,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Subscription, CallError> {
        let not_sent = |cause| CallError::NotSent { endpoint: endpoint.to_owned(), cause };
        let channel = self.channel(endpoint, deadline).await.map_err(not_sent)?;
        let items = channel.subscribe(request, deadline).await;
        let items = items.map_err(|unanswered| unanswered.at(endpoint))?;
        Ok(Subscription { items, endpoint: endpoint.to_owned(), _channel: channel })
    }

    /// Who answers at `endpoint` (`host:port`), as proved and said when the connection was made.
    ///
    /// # Errors
    ///
    /// [`CallError::NotSent`] if there is no connection.
    pub async fn server(&self, endpoint: &str, deadline: Instant) -> Result<Identity, CallError> {
        let channel = self.channel(endpoint, deadline).await;
        let channel =
            channel.map_err(|cause| CallError::NotSent { endpoint: endpoint.to_owned(), cause })?;
        Ok(channel.identity())
    }

    /// Closes every connection and waits until the nodes were told, so that they need not find out
    /// by a timeout. Calls under way fail; later calls connect again.
    pub async fn close(&self) {
        let State { ipv4, ipv6, .. } = std::mem::take(&mut *lock(&self.inner.state));
        for endpoint in ipv4.into_iter().chain(ipv6) {
            farewell().close_all(&endpoint);
            let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
        }
    }

    /// A connection to `endpoint`: the one that is there, or a new one.
    async fn channel(&self, endpoint: &str, deadline: Instant) -> Connected {
        let mut attempt = match self.slot(endpoint) {
            Slot::Ready(channel) => return Ok(channel),
            Slot::Connecting(attempt) => attempt,
        };
        let connected = attempt.wait_for(Option::is_some);
        match tokio::time::timeout_at(deadline.into(), connected).await {
            Ok(Ok(result)) => match &*result {
                Some(connected) => connected.clone(),
                None => Err(ConnectError::NoAnswer), // It has just been waited for.
            },
            Ok(Err(_)) => Err(ConnectError::Failed { detail: "the runtime stops".to_owned() }),
            Err(_) => Err(ConnectError::NoAnswer),
        }
    }

    fn slot(&self, endpoint: &str) -> Slot {
        let mut state = lock(&self.inner.state);
        match state.slots.get(endpoint) {
            Some(Slot::Ready(channel)) if channel.is_open() => {
                return Slot::Ready(Arc::clone(channel));
            }
            Some(Slot::Connecting(attempt)) if attempt.has_changed().is_ok() => {
                return Slot::Connecting(attempt.clone());
            }
            Some(Slot::Ready(_) | Slot::Connecting(_)) | None => {}
        }
        if state.slots.len() >= self.inner.limits.endpoints {
            state.slots.retain(|_, slot| match slot {
                Slot::Ready(channel) => channel.is_open(),
                Slot::Connecting(attempt) => attempt.has_changed().is_ok(),
            });
        }
        let (sender, attempt) = watch::channel(None);
        state.slots.insert(endpoint.to_owned(), Slot::Connecting(attempt.clone()));
        drop(state);
        tokio::spawn(connect(Arc::clone(&self.inner), endpoint.to_owned(), sender));
        Slot::Connecting(attempt)
    }
}

/// Makes one attempt and tells all who wait for it. A failed attempt is not remembered.
async fn connect(inner: Arc<Inner>, endpoint: String, sender: watch::Sender<Option<Connected>>) {
    let attempt = dial_any(&inner, &endpoint);
    let connected = match tokio::time::timeout(inner.limits.connect_timeout, attempt).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectError::NoAnswer),
    };
    if let Ok(channel) = &connected {
        lock(&inner.state).slots.insert(endpoint, Slot::Ready(Arc::clone(channel)));
    }
    // From here on `has_changed` of the receivers fails once this sender is dropped: whoever comes
    // later starts a new attempt, whoever waits still sees the value.
    sender.send_replace(Some(connected));
}

/// Dials all addresses of `endpoint`, one after the other with a head start each; the first that
/// answers wins. A name may have addresses at which nobody listens, and UDP does not say so.
async fn dial_any(inner: &Arc<Inner>, endpoint: &str) -> Connected {
    let unresolvable = |detail: String| ConnectError::Unresolvable { detail };
    let found = tokio::net::lookup_host(endpoint).await;
    let found = found.map_err(|error| unresolvable(error.to_string()))?;
    let mut addresses = found.take(MAX_ADDRESSES);
    let mut dialing = JoinSet::new();
    let mut last = unresolvable("the name has no address".to_owned());
    loop {
        let next = addresses.next();
        let more = next.is_some();
        if let Some(address) = next {
            let inner = Arc::clone(inner);
            dialing.spawn(async move { dial(&inner, address).await });
        }
        // While there is another address, wait for this one only so long.
        let wait = if more { HEAD_START } else { inner.limits.connect_timeout };
        match tokio::time::timeout(wait, dialing.join_next()).await {
            Ok(Some(Ok(Ok(channel)))) => return Ok(channel),
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(error))) => last = ConnectError::Failed { detail: error.to_string() },
            Ok(None) => return Err(last),
            Err(_) if more => {}
            Err(_) => return Err(ConnectError::NoAnswer),
        }
    }
}

async fn dial(inner: &Arc<Inner>, address: SocketAddr) -> Connected {
    let failed = |detail: String| ConnectError::Failed { detail };
    let reading = Arc::clone(inner);
    let dialing = tokio::task::spawn_blocking(move || reading.dialing()).await;
    let (config, own) = dialing.map_err(|error| failed(error.to_string()))?;
    let endpoint = inner.endpoint(address).map_err(|error| failed(error.to_string()))?;
    // The name is not verified, see `tls::AnyNode`; it has to be one.
    let connecting = endpoint
        .connect_with(config, address, "any-node.raft")
        .map_err(|error| failed(error.to_string()))?;
    let connection = connecting.await.map_err(|error| ConnectError::of(&error))?;
    certified::server(&connection, &own).map_err(|stranger| stranger.turn_away(&connection))?;
    Channel::open(connection, &inner.limits).await
}

impl Inner {
    /// How to dial: with the certificates that are in the files now. If they cannot be used, or are
    /// being replaced at this moment, with those that could be used last.
    fn dialing(&self) -> (ClientConfig, Arc<Party>) {
        let mut used = lock(&self.dialing);
        if let Ok(contents) = Contents::read(&self.tls)
            && contents != used.contents
            && let Ok(dialing) = Dialing::new(&self.tls, contents, &self.limits)
        {
            *used = dialing;
        }
        (used.config.clone(), Arc::clone(&used.party))
    }

    /// The socket for addresses like `address`.
    fn endpoint(&self, address: SocketAddr) -> io::Result<Endpoint> {
        let mut state = lock(&self.state);
        let (slot, any) = match address {
            SocketAddr::V4(_) => (&mut state.ipv4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (&mut state.ipv6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        match slot {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(slot.insert(endpoint::client(any)?).clone()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = lock(&self.state);
        for endpoint in state.ipv4.iter().chain(&state.ipv6) {
            farewell().close_all(endpoint);
        }
    }
}

impl fmt::Debug for QuicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.inner.state);
        f.debug_struct("QuicClient").field("endpoints", &state.slots.keys()).finish_non_exhaustive()
    }
}

fn farewell() -> Refusal {
    Refusal::new(RefusalKind::Stopping, "the client is done")
}

/// What a connection that was lost, rather than never made, means for a request.
fn connection_lost(cause: &ConnectError) -> LossCause {
    LossCause::Connection { detail: cause.to_string() }
}

const MAX_ADDRESSES: usize = 8;
const HEAD_START: Duration = Duration::from_millis(200);
/// How long a farewell may take; a node that is gone does not answer it.
const FAREWELL: Duration = Duration::from_millis(500);
