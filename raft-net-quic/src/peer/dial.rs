//! Keeps a member connected: resolves its address anew each time, dials, and backs off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Connection;
use rand::Rng;
use tracing::warn;

use crate::certified;
use crate::error::ConnectError;
use crate::names::node_name;
use crate::peer::Peer;
use crate::peer::handshake::{self, Expected, HandshakeError};
use crate::peer::link::{self, Link};
use crate::shared::{Shared, lock};
use crate::wire::PeerHello;

/// Dials `address` whenever there is no connection with `peer`. Runs until it is aborted.
pub(super) async fn keep_connected(shared: Arc<Shared>, peer: Arc<Peer>, address: String) {
    let mut linked = peer.linked.subscribe();
    let mut back_off = BackOff::default();
    // The sender lives in `peer`, so waiting cannot fail.
    while linked.wait_for(|linked| !linked).await.is_ok() {
        let started = Instant::now();
        match connect(&shared, &peer, &address).await {
            Ok((connection, hello)) => {
                let link = Arc::new(Link::new(&shared, connection, &hello, true));
                // A task of its own: the connection outlives this dialer if the address changes.
                let running = link::run(Arc::clone(&shared), peer.id, link);
                let _ = shared.runtime.spawn(running).await; // An error means the runtime stops.
            }
            Err(error) => {
                if let Some(suppressed) = shared.log.pass("dial", &peer.id.to_string()) {
                    warn!(peer = %peer.id, %address, %error, suppressed, "cannot connect");
                }
            }
        }
        if started.elapsed() > STEADY {
            back_off = BackOff::default();
        }
        tokio::time::sleep(back_off.next()).await;
    }
}

async fn connect(
    shared: &Shared,
    peer: &Peer,
    address: &str,
) -> Result<(Connection, PeerHello), ConnectError> {
    let resolved = tokio::time::timeout(RESOLVE, resolve(shared, address));
    let addresses = resolved.await.map_err(|_| ConnectError::NoAnswer)??;
    let mut last = ConnectError::NoAnswer;
    for address in addresses {
        // QUIC itself repeats its first packet less and less often; a fresh attempt starts over, so
        // that a node that comes up is found soon.
        let limit = shared.idle_timeout.clamp(MIN_ATTEMPT, MAX_ATTEMPT);
        match tokio::time::timeout(limit, attempt(shared, peer, address)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last = error,
            Err(_) => last = ConnectError::NoAnswer,
        }
    }
    Err(last)
}

async fn attempt(
    shared: &Shared,
    peer: &Peer,
    address: SocketAddr,
) -> Result<(Connection, PeerHello), ConnectError> {
    let failed = |error: quinn::ConnectError| ConnectError::Failed { detail: error.to_string() };
    let config = lock(&shared.peer_config).clone();
    let name = node_name(peer.id, &shared.cluster);
    let connecting = shared.endpoint.connect_with(config, address, &name).map_err(failed)?;
    let connection = connecting.await.map_err(|error| ConnectError::of(&error))?;
    certified::called_node(&connection, &shared.cluster, peer.id)
        .map_err(|stranger| stranger.turn_away(&connection))?;
    let expected = Expected { node: peer.id, incarnation: shared.registry.incarnation(peer.id) };
    let called = handshake::call(&connection, shared.identity, shared.session, expected).await;
    match called {
        Ok(hello) => Ok((connection, hello)),
        Err(HandshakeError::Ours(refusal)) => {
            refusal.close(&connection);
            Err(ConnectError::Failed { detail: refusal.detail })
        }
        Err(HandshakeError::Connection(error)) => Err(ConnectError::of(&error)),
    }
}

/// The addresses behind `host:port` that our socket can reach.
async fn resolve(shared: &Shared, address: &str) -> Result<Vec<SocketAddr>, ConnectError> {
    let unresolvable = |detail: String| ConnectError::Unresolvable { detail };
    let found =
        tokio::net::lookup_host(address).await.map_err(|error| unresolvable(error.to_string()))?;
    let ipv6 = shared.endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
    let usable: Vec<_> =
        found.filter(|address| ipv6 || address.is_ipv4()).take(MAX_ADDRESSES).collect();
    if usable.is_empty() {
        return Err(unresolvable(format!("{address} has no address of our kind (IPv4)")));
    }
    Ok(usable)
}

/// Doubles from attempt to attempt, with jitter, so that nodes do not dial in step.
#[derive(Debug)]
struct BackOff {
    next: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { next: FIRST_PAUSE }
    }
}

impl BackOff {
    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LAST_PAUSE);
        pause.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that lasted so long was a success.
const STEADY: Duration = Duration::from_secs(5);
const RESOLVE: Duration = Duration::from_secs(5);
const MIN_ATTEMPT: Duration = Duration::from_millis(200);
const MAX_ATTEMPT: Duration = Duration::from_secs(2);
const MAX_ADDRESSES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap_and_differ() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..20).map(|_| back_off.next()).collect();
        assert!(pauses[0] >= FIRST_PAUSE / 2 && pauses[0] < FIRST_PAUSE);
        assert!(pauses[10..].iter().all(|pause| *pause >= LAST_PAUSE / 2 && *pause < LAST_PAUSE));
        assert!(pauses[10..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}
