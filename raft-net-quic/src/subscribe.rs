//! Subscriptions, as a node sees them: a request that is answered again and again, on a stream of its
//! own.
//!
//! QUIC holds each stream up by itself: a client that does not read one subscription delays neither its
//! others nor its calls, and the node keeps at most a window of it. How many a client may have at a time
//! is how many streams it may open.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::Semaphore;
use tracing::debug;

use crate::close::{Refusal, RefusalKind};
use crate::frame::{Assembly, FrameReader, ReadFault};
use crate::shared::Shared;

/// Answers one subscription, for as long as anybody listens. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscriber {
    stream: SendStream,
    assembly: Assembly,
    item_bytes: usize,
}

/// Why a subscriber gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriberLost {
    /// It has ended the subscription, or its connection is gone.
    #[error("the subscriber is gone")]
    Gone,
    /// The item is over the limit for replies. Nothing of it was sent.
    #[error("an item of {bytes} bytes, at most {limit} are allowed")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// That of the largest.
        limit: usize,
    },
}

impl Subscriber {
    /// Sends the next item. Waits while the subscriber reads more slowly than it is sent to. Cancelling
    /// this in the midst leaves half an item behind, so nothing more may be sent then.
    ///
    /// # Errors
    ///
    /// See [`SubscriberLost`].
    pub async fn send(&mut self, item: Bytes) -> Result<(), SubscriberLost> {
        let pushed = self.assembly.push(&[], item, self.item_bytes);
        pushed
            .map_err(|error| SubscriberLost::TooLong { bytes: error.bytes, limit: error.limit })?;
        let mut pieces = self.assembly.take();
        self.stream.write_all_chunks(&mut pieces).await.map_err(|_| SubscriberLost::Gone)
    }

    /// Waits until nobody listens any more.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stream.stopped();
        async move {
            let _ = stopped.await; // However it ended.
        }
    }
}

/// Takes the subscriptions of one client until its connection ends, which is never before this ends.
pub(crate) async fn accept(shared: &Arc<Shared>, connection: &Connection) -> Result<(), Refusal> {
    let openings = Arc::new(Semaphore::new(OPENINGS));
    loop {
        // What is not taken yet stays with QUIC, which holds its sender up.
        let opening = Arc::clone(&openings).acquire_owned().await;
        let Ok((send, recv)) = connection.accept_bi().await else {
            connection.closed().await;
            return Ok(());
        };
        let (shared, connection) = (Arc::clone(shared), connection.clone());
        tokio::spawn(async move {
            let _opening = opening;
            if let Err(refusal) = begin(&shared, send, recv).await {
                debug!(from = %connection.remote_address(), reason = %refusal, "subscription");
                refusal.close(&connection);
            }
        });
    }
}

/// Reads what is wanted and hands it on.
async fn begin(shared: &Shared, send: SendStream, recv: RecvStream) -> Result<(), Refusal> {
    let limits = &shared.limits;
    let mut frames = FrameReader::new(recv, limits.request_bytes.min(REQUEST_BYTES));
    let request = tokio::time::timeout(limits.handshake_timeout, frames.next()).await;
    let request = match request {
        Ok(Ok(Some(request))) => request,
        // Ended or reset before there was anything.
        Ok(Ok(None) | Err(ReadFault::Stream(_))) => return Ok(()),
        Ok(Err(ReadFault::Frame(error))) => {
            let detail = format!("subscription: {error}");
            return Err(Refusal::new(RefusalKind::Malformed, detail));
        }
        Err(_) => {
            let detail = "a subscription that does not say for what";
            return Err(Refusal::new(RefusalKind::Slow, detail));
        }
    };
    let assembly = Assembly::default();
    let subscriber = Subscriber { stream: send, assembly, item_bytes: limits.reply_bytes };
    shared.clients.subscribe(request, subscriber);
    Ok(())
}

/// The largest request of a subscription: it names what is wanted, and carries none of it.
const REQUEST_BYTES: usize = 256 << 10;
/// So many requests of one connection are read at a time.
const OPENINGS: usize = 16;
