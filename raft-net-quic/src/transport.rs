//! [`QuicTransport`]: the [`Transport`] of a node, and the door for its clients.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use raft_core::{
    Envelope, Identity, Inbox, Peers, Sent, SnapshotHeader, SnapshotSource, SnapshotTicket,
    Transport,
};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::accept;
use crate::close::{Refusal, RefusalKind};
use crate::config::QuicConfig;
use crate::endpoint;
use crate::error::NetError;
use crate::monitor::{Monitor, Watched};
use crate::renewal;
use crate::serve::ClientService;
use crate::shared::Shared;
use crate::snapshot::{self, Outcome, Shelf};
use crate::tls::{Contents, Material};

/// Carries messages, snapshots and the requests of clients on one UDP socket.
///
/// Dropping it closes every connection and frees the port a moment later, see
/// [`QuicTransport::closed`].
pub struct QuicTransport {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    /// Looks after the certificates.
    renewal: AbortHandle,
}

impl QuicTransport {
    /// Checks the certificates and opens the socket. Nothing is accepted before
    /// [`Transport::start`], and nothing is dialed before [`Transport::set_peers`].
    ///
    /// Its tasks run on `runtime`. The other methods may be called from any thread.
    ///
    /// # Errors
    ///
    /// See [`NetError`]: the port is in use, a file is missing or unfit, the directory for arriving
    /// snapshots cannot be made.
    pub fn bind(
        runtime: Handle,
        config: QuicConfig,
        clients: Arc<dyn ClientService>,
    ) -> Result<Self, NetError> {
        let contents = Contents::read(&config.tls)?;
        let tls = Material::of(&config.tls, &contents)?;
        let cluster = tls.check_node(config.identity.node)?;
        let peer_config = endpoint::peer_config(config.idle_timeout, &config.limits, &tls)?;
        let left = snapshot::prepare(&config.incoming)
            .map_err(|source| NetError::Incoming { path: config.incoming.clone(), source })?;
        let endpoint = {
            let _within = runtime.enter();
            endpoint::node(&config, &tls)?
        };
        let address = config.listen;
        let local_addr =
            endpoint.local_addr().map_err(|source| NetError::Socket { address, source })?;
        let (files, interval) = (config.tls.clone(), config.tls_check);
        let watched = Arc::new(Watched::new(tls.expiry()));
        let shared = Shared::new(runtime, endpoint, peer_config, cluster, config, clients, watched);
        let shared = Arc::new(shared);
        if let Some(newest) = left.last() {
            shared.pass_number(*newest);
            shared.runtime.spawn(Shelf::restore(Arc::clone(&shared), left));
        }
        let renewing = renewal::keep_fresh(Arc::clone(&shared), files, contents, interval);
        let renewal = shared.runtime.spawn(renewing).abort_handle();
        Ok(Self { shared, local_addr, renewal })
    }

    /// Tells how the transport is doing, also while a node owns it.
    pub fn monitor(&self) -> Monitor {
        Monitor::new(Arc::clone(&self.shared.watched))
    }

    /// Where it listens. The port is the one that the system chose if the configured one was 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Waits, once the transport is dropped, until every connection has been told so. A process
    /// that stops waits for this (with a time limit: a peer may be gone without a word), so that
    /// others need not find out by a timeout.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let endpoint = self.shared.endpoint.clone();
        async move { endpoint.wait_idle().await }
    }
}

impl Transport for QuicTransport {
    fn start(&mut self, inbox: Inbox) {
        if self.shared.inbox.set(inbox).is_ok() {
            self.shared.runtime.spawn(accept::run(Arc::clone(&self.shared)));
        }
    }

    fn send(&self, envelope: Envelope) -> Sent {
        self.shared.registry.send(envelope)
    }

    fn send_snapshot(
        &self,
        header: SnapshotHeader,
        source: Box<dyn SnapshotSource>,
    ) -> SnapshotTicket {
        let ticket = SnapshotTicket(self.shared.next_number());
        let outcome = Outcome::new(Arc::clone(&self.shared), header.to, ticket);
        let sending = snapshot::send(Arc::clone(&self.shared), header, source, outcome);
        self.shared.runtime.spawn(sending);
        ticket
    }

    fn set_peers(&self, peers: &Peers) {
        self.shared.registry.set_peers(&self.shared, peers);
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.renewal.abort();
        self.shared.registry.stop();
        let refusal = Refusal::new(
            RefusalKind::Stopping,
            format!("node {} stops", self.shared.identity.node),
        );
        refusal.close_all(&self.shared.endpoint);
    }
}

impl fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicTransport")
            .field("identity", &self.shared.identity)
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}
