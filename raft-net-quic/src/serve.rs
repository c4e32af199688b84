//! Clients, as a node sees them: requests come in on one stream, replies leave in any order. What is
//! answered more than once has streams of its own ([`crate::subscribe`]).
//!
//! A request counts as unanswered until its reply is written. When a client has too many of them,
//! or too many bytes, its stream is not read: QUIC's flow control then holds the client up, and
//! nobody else. A client that does not read its replies is disconnected.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use crate::certified;
use crate::close::{Refusal, RefusalKind};
use crate::frame::{self, Assembly, FrameError, FrameReader, ReadFault};
use crate::mailbox::{Mailbox, Rejected};
use crate::shared::Shared;
use crate::subscribe::{self, Subscriber};
use crate::wire::{
    CALL, CLIENT_HEAD_BYTES, ClientHello, HELLO_BYTES, NO_REPLY, REPLY, REPLY_TOO_LONG,
    ServerHello, VERSION, client_head, split_client_head,
};

/// Serves the requests of clients.
pub trait ClientService: Send + Sync + 'static {
    /// Takes a request. Called on a thread of the runtime, so it must not block; `reply` may be
    /// used later, from any thread, in any order.
    fn call(&self, request: Bytes, reply: Responder);

    /// Takes a request that is to be answered again and again, until either side has enough. Called on
    /// a thread of the runtime, so it must not block; a task is the place for what follows. By default
    /// nobody is given anything.
    fn subscribe(&self, request: Bytes, subscriber: Subscriber) {
        let _ = request;
        drop(subscriber);
    }
}

/// Answers one request. Dropping it tells the client that there will be no answer.
#[derive(Debug)]
pub struct Responder {
    id: u64,
    client: Arc<Client>,
    /// What the request occupies until its reply is written.
    room: Option<Room>,
}

/// What all requests of one client share.
#[derive(Debug)]
struct Client {
    replies: Mailbox<Reply>,
    connection: Connection,
}

#[derive(Debug)]
struct Reply {
    id: u64,
    /// The answer, or `None` if there will be none.
    body: Option<Bytes>,
    /// Freed once the reply is written.
    _room: Option<Room>,
}

#[derive(Debug)]
struct Room {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Responder {
    /// Sends the answer. If the client is gone, it goes nowhere.
    pub fn send(mut self, reply: Bytes) {
        self.finish(Some(reply));
    }

    fn finish(&mut self, body: Option<Bytes>) {
        let Some(room) = self.room.take() else { return };
        let bytes = body.as_ref().map_or(0, Bytes::len) + CLIENT_HEAD_BYTES;
        let reply = Reply { id: self.id, body, _room: Some(room) };
        if self.client.replies.put(reply, bytes) == Err(Rejected::Full) {
            let detail = "too many replies wait to be read";
            Refusal::new(RefusalKind::Slow, detail).close(&self.client.connection);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.finish(None);
    }
}

/// Serves one client until its connection ends.
pub(crate) async fn run(shared: &Arc<Shared>, connection: Connection) {
    let from = connection.remote_address();
    debug!(%from, "client connected");
    let Err(refusal) = talk(shared, &connection).await else {
        return debug!(%from, "client disconnected");
    };
    if let Some(suppressed) = shared.log.pass("client", &from.ip().to_string()) {
        warn!(%from, reason = %refusal, suppressed, "client disconnected");
    }
    refusal.close(&connection);
    // The other side learns why only if the connection is kept until the reason is sent.
    connection.closed().await;
}

/// Talks until the client is gone, which is `Ok`, or has to be sent away.
async fn talk(shared: &Arc<Shared>, connection: &Connection) -> Result<(), Refusal> {
    certified::client(connection, &shared.cluster).map_err(|stranger| stranger.refusal())?;
    let opening = async {
        let Ok((mut send, recv)) = connection.accept_bi().await else { return Ok(None) };
        let mut frames = FrameReader::new(recv, HELLO_BYTES);
        let Some(frame) = or_malformed(frames.next().await)? else { return Ok(None) };
        check_hello(&frame)?;
        let hello = ServerHello { version: VERSION, identity: shared.identity };
        let mut frame = BytesMut::new();
        frame::encode(&hello, HELLO_BYTES, &mut frame).map_err(|error| malformed(&error))?;
        let written = send.write_chunk(frame.freeze()).await;
        Ok(written.is_ok().then_some((send, frames)))
    };
    let opened = tokio::time::timeout(shared.limits.handshake_timeout, opening).await;
    let opened = opened.map_err(|_| Refusal::new(RefusalKind::Slow, "no hello in time"))??;
    let Some((send, frames)) = opened else { return Ok(()) };

    let limits = &shared.limits;
    // A reply for each request fits; the bytes are what can run over.
    let replies = Mailbox::new(usize::MAX, limits.client_reply_bytes);
    let client = Arc::new(Client { replies, connection: connection.clone() });
    let streams = limits.client_subscriptions.saturating_add(1); // And the one for calls.
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
    let result = tokio::select! {
        result = subscribe::accept(shared, connection) => result,
        result = read_requests(shared, &client, frames) => result,
        result = write_replies(shared, &client, send) => result,
    };
    client.replies.discard();
    result
}

async fn read_requests(
    shared: &Shared,
    client: &Arc<Client>,
    frames: FrameReader,
) -> Result<(), Refusal> {
    let limits = &shared.limits;
    let mut frames = frames.with_limit(limits.request_bytes.saturating_add(CLIENT_HEAD_BYTES));
    let requests = Arc::new(Semaphore::new(limits.client_requests.min(Semaphore::MAX_PERMITS)));
    let all_bytes = u32::try_from(limits.client_request_bytes).unwrap_or(u32::MAX >> 4);
    let bytes = Arc::new(Semaphore::new(usize::try_from(all_bytes).unwrap_or(usize::MAX >> 4)));
    while let Some(mut frame) = or_malformed(frames.next().await)? {
        let Some((id, kind)) = split_client_head(&frame) else {
            return Err(malformed(&FrameError::Truncated));
        };
        if kind != CALL {
            return Err(malformed(&format!("a request of the unknown kind {kind}")));
        }
        // A request over all of the room waits for all of it.
        let weight = u32::try_from(frame.len()).unwrap_or(all_bytes).min(all_bytes);
        let room = tokio::try_join!(
            Arc::clone(&requests).acquire_owned(),
            Arc::clone(&bytes).acquire_many_owned(weight),
        );
        let Ok((request, weighed)) = room else { return Ok(()) }; // They are never closed.
        let room = Some(Room { _request: request, _bytes: weighed });
        let reply = Responder { id, client: Arc::clone(client), room };
        shared.clients.call(frame.split_off(CLIENT_HEAD_BYTES), reply);
    }
    // The client has finished its stream, and may still read replies.
    client.connection.closed().await;
    Ok(())
}

async fn write_replies(
    shared: &Shared,
    client: &Client,
    mut stream: SendStream,
) -> Result<(), Refusal> {
    let limit = shared.limits.reply_bytes.saturating_add(CLIENT_HEAD_BYTES);
    let mut assembly = Assembly::default();
    let mut batch = Vec::new();
    while client.replies.take(&mut batch, BATCH_BYTES).await {
        for reply in &mut batch {
            let (kind, body) = match reply.body.take() {
                Some(body) => (REPLY, body),
                None => (NO_REPLY, Bytes::new()),
            };
            if assembly.push(&client_head(reply.id, kind), body, limit).is_err() {
                // Without a body it is shorter than any limit.
                let _ = assembly.push(&client_head(reply.id, REPLY_TOO_LONG), Bytes::new(), limit);
            }
        }
        let mut pieces = assembly.take();
        let writing = stream.write_all_chunks(&mut pieces);
        match tokio::time::timeout(shared.limits.stall_timeout, writing).await {
            Ok(Ok(())) => batch.clear(), // Only now are these requests answered.
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(Refusal::new(RefusalKind::Slow, "replies are not read")),
        }
    }
    Ok(())
}

fn check_hello(frame: &[u8]) -> Result<(), Refusal> {
    let (version, _) =
        postcard::take_from_bytes::<u16>(frame).map_err(|error| malformed(&error))?;
    if version != VERSION {
        let detail = format!(
            "the client speaks protocol version {version}, the node {VERSION}; run the same \
             release everywhere"
        );
        return Err(Refusal::new(RefusalKind::Version, detail));
    }
    frame::decode::<ClientHello>(frame).map(|_| ()).map_err(|error| malformed(&error))
}

/// A stream that was reset or lost has just ended; a frame that breaks the rules is refused.
fn or_malformed(read: Result<Option<Bytes>, ReadFault>) -> Result<Option<Bytes>, Refusal> {
    match read {
        Ok(frame) => Ok(frame),
        Err(ReadFault::Stream(_)) => Ok(None),
        Err(ReadFault::Frame(error)) => Err(malformed(&error)),
    }
}

fn malformed(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Malformed, format!("request: {error}"))
}

/// About how much goes into one write.
const BATCH_BYTES: usize = 256 << 10;
