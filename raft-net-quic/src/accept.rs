//! Lets others in: nodes and clients, after TLS and their hello, and never more than there is room
//! for.

use std::sync::Arc;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming, VarInt};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, warn};

use crate::certified;
use crate::close::{Refusal, RefusalKind};
use crate::endpoint::{PEER_STREAMS, snapshot_streams};
use crate::error::ConnectError;
use crate::peer::handshake::{self, Expected, HandshakeError};
use crate::peer::link::{self, Link};
use crate::serve;
use crate::shared::Shared;
use crate::wire::PEER_PROTOCOL;

/// Accepts connections until the endpoint is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let room = &shared.slots.handshakes;
        let from = incoming.remote_address();
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
            if let Some(suppressed) = shared.log.pass("handshakes", "") {
                warn!(%from, suppressed, "too many connections are being set up; refused");
            }
            incoming.refuse();
            continue;
        };
        // Under load, sending from a forged address must not be enough to occupy a place.
        let crowded = room.available_permits() < shared.limits.handshakes / 2;
        if crowded && !incoming.remote_address_validated() {
            let _ = incoming.retry(); // It cannot fail: the address is not validated.
            continue;
        }
        shared.runtime.spawn(admit(Arc::clone(&shared), incoming, permit));
    }
}

async fn admit(shared: Arc<Shared>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let from = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let limit = shared.limits.handshake_timeout;
    let connection = match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            if let Some(suppressed) = shared.log.pass("tls", &from.ip().to_string()) {
                let error = describe(&ConnectError::of(&error));
                warn!(%from, %error, suppressed, "a connection could not be set up");
            }
            return;
        }
        Err(_) => return debug!(%from, "a connection was not set up in time"),
    };
    if is_peer(&connection) {
        admit_peer(shared, connection, permit).await;
    } else {
        drop(permit); // The hello of a client has its own time limit, and its connection a place.
        admit_client(shared, connection).await;
    }
}

async fn admit_peer(shared: Arc<Shared>, connection: Connection, permit: OwnedSemaphorePermit) {
    let from = connection.remote_address();
    let Ok(_place) = Arc::clone(&shared.slots.peers).try_acquire_owned() else {
        let detail = "too many connections of nodes; try again in a moment";
        return Refusal::new(RefusalKind::Busy, detail).close(&connection);
    };
    let limit = shared.limits.handshake_timeout;
    let greeted = tokio::time::timeout(limit, greet(&shared, &connection)).await;
    let refusal = match greeted {
        Ok(Ok((id, hello))) => {
            drop(permit);
            connection.set_max_concurrent_uni_streams(VarInt::from_u32(PEER_STREAMS));
            connection.set_max_concurrent_bi_streams(snapshot_streams(&shared.limits));
            let link = Arc::new(Link::new(&shared, connection, &hello, false));
            return link::run(shared, id, link).await;
        }
        Ok(Err(HandshakeError::Ours(refusal))) => refusal,
        Ok(Err(HandshakeError::Connection(error))) => {
            if let Some(suppressed) = shared.log.pass("greet", &from.ip().to_string()) {
                let error = describe(&ConnectError::of(&error));
                warn!(%from, %error, suppressed, "a node broke off while connecting");
            }
            return;
        }
        Err(_) => Refusal::new(RefusalKind::Slow, "no hello in time"),
    };
    if let Some(suppressed) = shared.log.pass("refused", &from.ip().to_string()) {
        warn!(%from, reason = %refusal, suppressed, "refused a node");
    }
    refusal.close(&connection);
    // The other side learns why only if the connection is kept until the reason is sent.
    connection.closed().await;
}

async fn greet(
    shared: &Shared,
    connection: &Connection,
) -> Result<(raft_core::NodeId, crate::wire::PeerHello), HandshakeError> {
    let node = certified::node(connection, &shared.cluster)
        .map_err(|stranger| HandshakeError::Ours(stranger.refusal()))?;
    let expected = Expected { node, incarnation: shared.registry.incarnation(node) };
    let hello = handshake::answer(connection, shared.identity, shared.session, expected).await?;
    Ok((node, hello))
}

async fn admit_client(shared: Arc<Shared>, connection: Connection) {
    let from = connection.remote_address();
    let Some(_one_of_its) = shared.slots.client_addresses.enter(from.ip()) else {
        if let Some(suppressed) = shared.log.pass("crowd", &from.ip().to_string()) {
            warn!(%from, suppressed, "a client has too many connections; refused");
        }
        let detail = "too many connections from this address; use fewer, or try again in a moment";
        return Refusal::new(RefusalKind::Busy, detail).close(&connection);
    };
    let Ok(_place) = Arc::clone(&shared.slots.clients).try_acquire_owned() else {
        let detail = "too many connections of clients; try again in a moment";
        return Refusal::new(RefusalKind::Busy, detail).close(&connection);
    };
    serve::run(&shared, connection).await;
}

/// Which of the two protocols TLS has agreed on. It refuses connections that name neither.
fn is_peer(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|any| any.downcast::<HandshakeData>().ok());
    data.and_then(|data| data.protocol).is_some_and(|protocol| protocol == PEER_PROTOCOL)
}

/// Errors are worded for the side that dials; for the side that accepts the roles are swapped.
fn describe(error: &ConnectError) -> String {
    match error {
        ConnectError::TheirsRefused(fault) => format!("its certificate is not accepted: {fault}"),
        ConnectError::OursRefused(fault) => format!("it does not accept our certificate: {fault}"),
        ConnectError::Refused(refusal) => format!("it refused: {refusal}"),
        ConnectError::NoAnswer => "it fell silent".to_owned(),
        ConnectError::Unresolvable { .. }
        | ConnectError::Failed { .. }
        | ConnectError::Deadline
        | ConnectError::Busy
        | ConnectError::TooLong { .. } => error.to_string(),
    }
}
