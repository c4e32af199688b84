//! One connection of a client: many calls on one stream, and a stream for each subscription.
//!
//! A call that waits in the mailbox has surely not been sent. The writer marks it as sent just
//! before it hands it to QUIC; from then on it may have reached the node, whatever happens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, SendStream};
use raft_core::Identity;
use tokio::sync::oneshot;

use crate::client::connection_lost;
use crate::close::{Refusal, RefusalKind};
use crate::config::ClientLimits;
use crate::error::{CallError, ConnectError, LossCause};
use crate::frame::{self, Assembly, FrameReader, ReadFault};
use crate::mailbox::{Mailbox, Rejected};
use crate::shared::lock;
use crate::wire::{
    CALL, CLIENT_HEAD_BYTES, ClientHello, HELLO_BYTES, NO_REPLY, REPLY, REPLY_TOO_LONG,
    ServerHello, VERSION, client_head, split_client_head,
};

/// An open connection to a node.
#[derive(Debug)]
pub(super) struct Channel {
    connection: Connection,
    identity: Identity,
    requests: Mailbox<(u64, Bytes)>,
    calls: Mutex<Calls>,
    next_id: AtomicU64,
    request_bytes: usize,
    reply_bytes: usize,
}

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub(super) enum Unanswered {
    NotSent(ConnectError),
    Lost(LossCause),
}

impl Unanswered {
    /// The same, of a call to `endpoint`.
    pub(super) fn at(self, endpoint: &str) -> CallError {
        let endpoint = endpoint.to_owned();
        match self {
            Self::NotSent(cause) => CallError::NotSent { endpoint, cause },
            Self::Lost(cause) => CallError::Lost { endpoint, cause },
        }
    }
}

/// The calls under way.
#[derive(Debug, Default)]
struct Calls {
    open: BTreeMap<u64, Call>,
    /// Set when the connection is gone: no further calls, and why.
    ended: Option<ConnectError>,
}

#[derive(Debug)]
struct Call {
    sent: bool,
    answer: oneshot::Sender<Result<Bytes, Unanswered>>,
}

impl Channel {
    /// Exchanges hellos on a connection that was just made, and starts to use it.
    pub(super) async fn open(
        connection: Connection,
        limits: &ClientLimits,
    ) -> Result<Arc<Self>, ConnectError> {
        let (mut send, recv) =
            connection.open_bi().await.map_err(|error| ConnectError::of(&error))?;
        let mut hello = BytesMut::new();
        frame::encode(&ClientHello { version: VERSION }, HELLO_BYTES, &mut hello)
            .map_err(|error| ConnectError::Failed { detail: error.to_string() })?;
        let written = send.write_chunk(hello.freeze()).await;
        written.map_err(|error| reason(&connection, error.to_string()))?;
        // Only the answer proves that the node has accepted our certificate. Nothing is sent
        // before.
        let mut frames = FrameReader::new(recv, HELLO_BYTES);
        let answer = match frames.next().await {
            Ok(Some(frame)) => read_hello(&frame),
            Ok(None) => Err(ConnectError::Failed { detail: "no hello from the node".to_owned() }),
            Err(ReadFault::Frame(error)) => Err(ConnectError::Failed { detail: error.to_string() }),
            Err(ReadFault::Stream(error)) => Err(reason(&connection, error.to_string())),
        };
        let hello = answer.inspect_err(|error| {
            Refusal::new(RefusalKind::Malformed, error.to_string()).close(&connection);
        })?;
        let channel = Arc::new(Self {
            connection,
            identity: hello.identity,
            requests: Mailbox::new(limits.queue_requests, limits.queue_bytes),
            calls: Mutex::default(),
            next_id: AtomicU64::new(0),
            request_bytes: limits.request_bytes,
            reply_bytes: limits.reply_bytes,
        });
        let reply_bytes = limits.reply_bytes.saturating_add(CLIENT_HEAD_BYTES);
        tokio::spawn(Arc::clone(&channel).carry(send, frames.with_limit(reply_bytes)));
        Ok(channel)
    }

    /// Who is at the other end.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.calls).ended.is_none() && self.connection.close_reason().is_none()
    }

    /// Sends `request` and waits for the answer until `deadline`.
    pub(super) async fn call(
        &self,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Unanswered> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut calls = lock(&self.calls);
            if let Some(cause) = &calls.ended {
                return Err(Unanswered::NotSent(cause.clone()));
            }
            calls.open.insert(id, Call { sent: false, answer });
        }
        let forget = Forget { channel: self, id };
        let bytes = request.len() + CLIENT_HEAD_BYTES;
        match self.requests.put((id, request), bytes) {
            Ok(()) => {}
            Err(Rejected::Full) => return Err(Unanswered::NotSent(ConnectError::Busy)),
            // The end of the connection answers all calls, this one included.
            Err(Rejected::Closed) => {}
        }
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unanswered::Lost(LossCause::Connection {
                detail: "the runtime stops".to_owned(),
            })),
            Err(_) => match lock(&forget.channel.calls).open.get(&id) {
                Some(call) if !call.sent => Err(Unanswered::NotSent(ConnectError::Deadline)),
                Some(_) | None => Err(Unanswered::Lost(LossCause::Deadline)),
            },
        }
    }

    /// Sends `request` on a stream of its own, on which the answers will come.
    pub(super) async fn subscribe(
        &self,
        request: Bytes,
        deadline: Instant,
    ) -> Result<FrameReader, Unanswered> {
        let lost = |detail: String| Unanswered::Lost(LossCause::Connection { detail });
        let opening = tokio::time::timeout_at(deadline.into(), self.connection.open_bi()).await;
        let (mut send, recv) = match opening {
            Ok(Ok(streams)) => streams,
            Ok(Err(error)) => return Err(Unanswered::NotSent(ConnectError::of(&error))),
            // As many subscriptions as the node allows are open.
            Err(_) => return Err(Unanswered::NotSent(ConnectError::Busy)),
        };
        let mut assembly = Assembly::default();
        let (bytes, limit) = (request.len(), self.request_bytes);
        if assembly.push(&[], request, limit).is_err() {
            return Err(Unanswered::NotSent(ConnectError::TooLong { bytes, limit }));
        }
        let mut pieces = assembly.take();
        let writing = async {
            send.write_all_chunks(&mut pieces).await.map_err(|error| error.to_string())?;
            send.finish().map_err(|error| error.to_string())
        };
        match tokio::time::timeout_at(deadline.into(), writing).await {
            Ok(written) => written.map_err(lost)?,
            Err(_) => return Err(Unanswered::Lost(LossCause::Deadline)),
        }
        Ok(FrameReader::new(recv, self.reply_bytes))
    }

    /// Uses the connection until it ends, then answers all calls that are still open.
    async fn carry(self: Arc<Self>, send: SendStream, frames: FrameReader) {
        let fault = tokio::select! {
            fault = self.read(frames) => fault,
            () = self.write(send) => None,
        };
        if let Some(detail) = fault {
            Refusal::new(RefusalKind::Malformed, detail).close(&self.connection);
        }
        let cause = match self.connection.close_reason() {
            Some(error) => ConnectError::of(&error),
            None => ConnectError::Failed { detail: "the node ended the stream".to_owned() },
        };
        self.requests.discard();
        let open = {
            let mut calls = lock(&self.calls);
            calls.ended = Some(cause.clone());
            std::mem::take(&mut calls.open)
        };
        for call in open.into_values() {
            let unanswered = if call.sent {
                Unanswered::Lost(connection_lost(&cause))
            } else {
                Unanswered::NotSent(cause.clone())
            };
            let _ = call.answer.send(Err(unanswered)); // Nobody may wait any more.
        }
        let detail = "the stream has ended";
        Refusal::new(RefusalKind::Stopping, detail).close(&self.connection);
    }

    async fn write(&self, mut stream: SendStream) {
        let limit = self.request_bytes.saturating_add(CLIENT_HEAD_BYTES);
        let mut assembly = Assembly::default();
        let mut batch = Vec::new();
        while self.requests.take(&mut batch, BATCH_BYTES).await {
            {
                let mut calls = lock(&self.calls);
                for (id, body) in batch.drain(..) {
                    // Who has given up in the meantime is not sent for.
                    let Some(call) = calls.open.get_mut(&id) else { continue };
                    let head = client_head(id, CALL);
                    call.sent = assembly.push(&head, body, limit).is_ok();
                    debug_assert!(call.sent, "the size was checked when the call was made");
                }
            }
            if stream.write_all_chunks(&mut assembly.take()).await.is_err() {
                return;
            }
        }
    }

    /// Reads answers until the stream ends. `Some` if the node broke the rules.
    async fn read(&self, mut frames: FrameReader) -> Option<String> {
        loop {
            let frame = match frames.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(ReadFault::Stream(_)) => return None,
                Err(ReadFault::Frame(error)) => return Some(format!("reply: {error}")),
            };
            let Some((id, kind)) = split_client_head(&frame) else {
                return Some("reply: too short".to_owned());
            };
            let answer = match kind {
                REPLY => Ok(frame.slice(CLIENT_HEAD_BYTES..)),
                NO_REPLY => Err(Unanswered::Lost(LossCause::NoAnswer)),
                REPLY_TOO_LONG => Err(Unanswered::Lost(LossCause::TooLong)),
                other => return Some(format!("reply: of the unknown kind {other}")),
            };
            let call = lock(&self.calls).open.remove(&id);
            if let Some(call) = call {
                let _ = call.answer.send(answer); // Nobody may wait any more.
            }
        }
    }
}

/// Removes a call that has ended, however it ended; also when its future is dropped.
struct Forget<'a> {
    channel: &'a Channel,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.channel.calls).open.remove(&self.id);
    }
}

fn read_hello(frame: &[u8]) -> Result<ServerHello, ConnectError> {
    let failed = |detail: String| ConnectError::Failed { detail };
    let (version, _) =
        postcard::take_from_bytes::<u16>(frame).map_err(|error| failed(error.to_string()))?;
    if version != VERSION {
        return Err(failed(format!(
            "the node speaks protocol version {version}, the client {VERSION}; run the same \
             release everywhere"
        )));
    }
    frame::decode(frame).map_err(|error| failed(error.to_string()))
}

/// Why the connection is gone, if it is; otherwise what went wrong.
fn reason(connection: &Connection, otherwise: String) -> ConnectError {
    match connection.close_reason() {
        Some(error) => ConnectError::of(&error),
        None => ConnectError::Failed { detail: otherwise },
    }
}

/// About how much goes into one write.
const BATCH_BYTES: usize = 256 << 10;
