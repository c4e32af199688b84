//! What a client needs of the network.

use std::future::Future;
use std::time::Instant;

use bytes::Bytes;

/// Carries a request to a node and its reply back. Retries nothing by itself.
pub trait Channel: Send + Sync + 'static {
    /// Sends `request` to the node at `endpoint` (`host:port`) and waits for its reply until
    /// `deadline`. Dropping the future gives the call up.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotSent`] only if the request has surely not reached the node and never
    /// will; otherwise [`ChannelError::Lost`].
    fn call(
        &self,
        endpoint: &str,
        request: Bytes,
        deadline: Instant,
    ) -> impl Future<Output = Result<Bytes, ChannelError>> + Send;
}

/// A channel that also carries requests with many replies.
pub trait WatchChannel: Channel {
    /// The replies to one request.
    type Replies: Replies;

    /// Sends `request` to the node at `endpoint` (`host:port`), until `deadline`. Replies may come for
    /// as long as what this returns is kept.
    ///
    /// # Errors
    ///
    /// As [`Channel::call`].
    fn subscribe(
        &self,
        endpoint: &str,
        request: Bytes,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Replies, ChannelError>> + Send;
}

/// The replies to one request, in order. Dropping it tells the node that no more are wanted.
pub trait Replies: Send + 'static {
    /// Waits for the next one. `None` after the last. Cancelling it must lose nothing.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Lost`] if the connection is gone.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, ChannelError>> + Send;
}

/// Why a call has no reply. The two cases differ in what may be done next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The request has surely not reached the node. It may be sent again.
    #[error("{message}")]
    NotSent {
        /// In what way.
        kind: NotSentKind,
        /// Whom it was for and what happened, in one line.
        message: String,
    },
    /// The request may have reached the node and may still take effect.
    #[error("{message}")]
    Lost {
        /// Whom it was for and what happened, in one line.
        message: String,
    },
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum NotSentKind {
    /// The endpoint is not `host:port`, or its name leads nowhere.
    Unresolvable,
    /// Nobody answers there.
    Unreachable,
    /// One side does not believe the other's certificate, or they belong to different clusters.
    Tls,
    /// The request is larger than the channel takes.
    TooLarge,
}
