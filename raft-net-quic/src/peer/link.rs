//! One connection with another node, from its handshake to its end.
//!
//! Each side opens a stream a lane and writes to it whatever its mailbox holds, many messages in
//! one write. Each side reads whatever streams the other opened and hands over all that has arrived
//! in one call. A frame that breaks the rules, or speaks in another node's name, closes the
//! connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream};
use raft_core::{Envelope, Incarnation, Message, NodeId, Sent};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::close::{Refusal, RefusalKind};
use crate::frame::{self, FrameReader, ReadFault};
use crate::mailbox::{Mailbox, Rejected};
use crate::peer::Adopted;
use crate::shared::Shared;
use crate::snapshot;
use crate::wire::{CONTROL_FRAME_BYTES, Lane, PeerHello, weight_bytes};

/// A connection whose other side is known.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) dialed_by_us: bool,
    /// Which life of the other process it leads to.
    pub(crate) session: u64,
    pub(crate) incarnation: Incarnation,
    control: Mailbox<Envelope>,
    bulk: Mailbox<Envelope>,
}

impl Link {
    /// A connection on which `hello` was received.
    pub(crate) fn new(
        shared: &Shared,
        connection: Connection,
        hello: &PeerHello,
        dialed_by_us: bool,
    ) -> Self {
        let mailbox = || Mailbox::new(shared.limits.queue_messages, shared.limits.queue_bytes);
        Self {
            connection,
            dialed_by_us,
            session: hello.session,
            incarnation: hello.incarnation,
            control: mailbox(),
            bulk: mailbox(),
        }
    }

    /// Queues a message for its lane.
    pub(crate) fn send(&self, envelope: Envelope) -> Sent {
        let lane = Lane::of(&envelope);
        let bytes = weight_bytes(&envelope);
        match self.mailbox(lane).put(envelope, bytes) {
            Ok(()) => Sent::Queued,
            Err(Rejected::Full) => Sent::Full,
            Err(Rejected::Closed) => Sent::Unreachable,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Closes at once; what was queued is lost.
    pub(crate) fn close(&self, refusal: &Refusal) {
        self.discard();
        refusal.close(&self.connection);
    }

    /// Drops what waits, and takes nothing more.
    fn discard(&self) {
        self.control.discard();
        self.bulk.discard();
    }

    /// Takes no further messages; those that wait are still written.
    fn retire(&self) {
        self.control.close();
        self.bulk.close();
    }

    fn mailbox(&self, lane: Lane) -> &Mailbox<Envelope> {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }
}

/// Uses the connection with `id` until it ends.
pub(crate) async fn run(shared: Arc<Shared>, id: NodeId, link: Arc<Link>) {
    let (peer, adopted) = shared.registry.adopt(shared.identity.node, id, &link);
    match adopted {
        Adopted::Current(before) => {
            info!(peer = %id, address = %link.connection.remote_address(), "connected");
            if let Some(before) = before {
                replace(&shared, id, &before, &link);
            }
        }
        Adopted::Spare => retire(&shared, Arc::clone(&link)),
        Adopted::Unwanted => {
            let detail = format!("node {id} is not a member of the cluster any more");
            link.close(&Refusal::new(RefusalKind::Removed, detail));
        }
    }
    if link.is_open() {
        // Rule M10: the leader records in which life it met this node.
        shared.deliver(|inbox| inbox.met(id, link.incarnation));
    }
    carry(&shared, id, &link).await;
    link.discard();
    if peer.lose(&link) {
        let reason = link.connection.close_reason().map(|reason| reason.to_string());
        let reason = reason.unwrap_or_default();
        if let Some(suppressed) = shared.log.pass("lost", &id.to_string()) {
            info!(peer = %id, %reason, suppressed, "connection lost");
        }
        // Rule S6: what was queued or under way may be lost.
        shared.deliver(|inbox| inbox.unreachable(id));
    }
    shared.registry.forget_if_unused(id);
}

/// Does away with a connection in whose place `link` has come.
fn replace(shared: &Arc<Shared>, id: NodeId, before: &Arc<Link>, link: &Link) {
    if before.session == link.session && before.dialed_by_us != link.dialed_by_us {
        // Both sides dialed at once. Nothing is wrong with it, so nothing on it is lost.
        return retire(shared, Arc::clone(before));
    }
    let detail = "a newer connection has taken its place";
    before.close(&Refusal::new(RefusalKind::Replaced, detail));
    shared.deliver(|inbox| inbox.unreachable(id));
}

/// Lets a connection that is not needed run dry. Whoever dialed it closes it.
fn retire(shared: &Shared, link: Arc<Link>) {
    link.retire();
    if link.dialed_by_us {
        shared.runtime.spawn(async move {
            tokio::time::sleep(RUN_DRY).await;
            let detail = "both nodes dialed, the other connection stays";
            link.close(&Refusal::new(RefusalKind::Replaced, detail));
        });
    }
}

/// Carries messages and snapshots both ways until the connection ends. Its tasks end with it.
async fn carry(shared: &Arc<Shared>, id: NodeId, link: &Arc<Link>) {
    let mut tasks = JoinSet::new();
    for lane in [Lane::Control, Lane::Bulk] {
        tasks.spawn(write(Arc::clone(shared), Arc::clone(link), lane));
    }
    loop {
        tokio::select! {
            stream = link.connection.accept_uni() => match stream {
                Ok(stream) => {
                    tasks.spawn(read(Arc::clone(shared), id, link.connection.clone(), stream));
                }
                Err(_) => return,
            },
            stream = link.connection.accept_bi() => match stream {
                // A task that lives on when the connection is lost, to keep what has arrived.
                Ok((send, recv)) => drop(
                    shared.runtime.spawn(snapshot::receive(Arc::clone(shared), id, send, recv)),
                ),
                Err(_) => return,
            },
            Some(_) = tasks.join_next() => {} // Frees what the task held.
        }
    }
}

/// Writes what is put into the mailbox of `lane`, until it is closed or the connection ends.
async fn write(shared: Arc<Shared>, link: Arc<Link>, lane: Lane) {
    let limit = frame_bytes(&shared, lane);
    let Ok(mut stream) = link.connection.open_uni().await else { return };
    // An error means that the connection is gone, which the first write finds out too.
    let _ = stream.set_priority(lane.priority());
    let mut buffer = vec![lane.byte()];
    let mut batch = Vec::new();
    while link.mailbox(lane).take(&mut batch, BATCH_BYTES).await {
        for envelope in batch.drain(..) {
            if let Err(error) = frame::append(&envelope, limit, &mut buffer)
                && let Some(suppressed) = shared.log.pass("too long", &envelope.to.to_string())
            {
                warn!(peer = %envelope.to, %error, suppressed, "message dropped");
            }
        }
        // The next write is likely to be as long as this one.
        let next = Vec::with_capacity(buffer.len().min(BATCH_BYTES));
        let piece = Bytes::from(std::mem::replace(&mut buffer, next));
        if let Err(error) = stream.write_chunk(piece).await {
            // Also when only the stream was stopped: without a lane the connection is useless.
            debug!(?lane, %error, "lane broken");
            return link.close(&Refusal::new(RefusalKind::Malformed, "a lane was stopped"));
        }
    }
    let _ = stream.finish(); // An error means that the connection is gone.
}

/// Reads a lane that the other side opened, until it ends.
async fn read(shared: Arc<Shared>, id: NodeId, connection: Connection, stream: RecvStream) {
    if let Err(ReadFault::Frame(error)) = read_lane(&shared, id, stream).await {
        let refusal = Refusal::new(RefusalKind::Malformed, error.to_string());
        if let Some(suppressed) = shared.log.pass("malformed", &id.to_string()) {
            warn!(peer = %id, %error, suppressed, "disconnected: it sent what no node sends");
        }
        refusal.close(&connection);
    }
}

async fn read_lane(shared: &Shared, id: NodeId, mut stream: RecvStream) -> Result<(), ReadFault> {
    let mut byte = [0];
    if stream.read(&mut byte).await?.is_none() {
        return Ok(());
    }
    let Some(lane) = Lane::of_byte(byte[0]) else {
        let detail = format!("a stream of the unknown kind {}", byte[0]);
        return Err(ReadFault::Frame(frame::FrameError::Garbled(detail)));
    };
    let mut frames = FrameReader::new(stream, frame_bytes(shared, lane));
    while frames.fill().await? {
        let mut arrived = Vec::new();
        let ended = loop {
            match frames.ready() {
                Ok(Some(frame)) => match frame::decode::<Envelope>(&frame).and_then(|envelope| {
                    check(&envelope, id, shared.identity.node).map(|()| envelope)
                }) {
                    Ok(envelope) => arrived.push(envelope),
                    Err(error) => break Err(error),
                },
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // What came before the fault is as good as any.
        shared.deliver(|inbox| inbox.messages(arrived));
        ended?;
    }
    Ok(())
}

/// Rule L17: a node speaks in its own name, to us, and snapshots do not travel as messages.
fn check(envelope: &Envelope, from: NodeId, own: NodeId) -> Result<(), frame::FrameError> {
    let fault = |detail| Err(frame::FrameError::Garbled(detail));
    if envelope.from != from {
        return fault(format!("node {from} speaks in the name of node {}", envelope.from));
    }
    if envelope.to != own {
        return fault(format!("a message for node {}, but this is node {own}", envelope.to));
    }
    if matches!(envelope.message, Message::Snapshot(_)) {
        return fault("a snapshot as a message".to_owned());
    }
    Ok(())
}

fn frame_bytes(shared: &Shared, lane: Lane) -> usize {
    match lane {
        Lane::Control => CONTROL_FRAME_BYTES,
        Lane::Bulk => shared.limits.bulk_frame_bytes,
    }
}

/// About how much goes into one write: enough to fill packets and to amortise the write, little
/// enough to be forgotten quickly when the connection breaks.
const BATCH_BYTES: usize = 64 << 10;
/// How long a connection that is not needed is still read.
const RUN_DRY: Duration = Duration::from_secs(1);
