//! How requests travel: the store's client over the transport's client channel.
//!
//! A node answers two kinds of requests on one channel: those of the store, which `raft-kv`
//! understands, and those about the cluster itself (`admin.rs`). The first byte says which.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use raft_kv::client::{Channel, ChannelError, NotSentKind, Replies, WatchChannel};
use raft_net_quic::{CallError, ConnectError, QuicClient, RefusalKind, Subscription};

/// Whom a request is for, as its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Desk {
    /// The key-value store.
    Store,
    /// The cluster itself.
    Admin,
}

impl Desk {
    const fn byte(self) -> u8 {
        match self {
            Self::Store => 0,
            Self::Admin => 1,
        }
    }

    /// Addresses a request.
    pub(crate) fn address(self, request: &[u8]) -> Bytes {
        let mut addressed = BytesMut::with_capacity(request.len() + 1);
        addressed.put_u8(self.byte());
        addressed.put_slice(request);
        addressed.freeze()
    }

    /// Whom a request is for, and the request. `None` if it is for nobody here.
    pub(crate) fn of(mut request: Bytes) -> Option<(Self, Bytes)> {
        let first = *request.first()?;
        let desk = [Self::Store, Self::Admin].into_iter().find(|desk| desk.byte() == first)?;
        Some((desk, request.split_off(1)))
    }
}

/// Carries the requests of the store's client.
#[derive(Clone)]
pub(crate) struct StoreChannel {
    quic: QuicClient,
}

impl StoreChannel {
    pub(crate) fn new(quic: QuicClient) -> Self {
        Self { quic }
    }
}

impl Channel for StoreChannel {
    async fn call(
        &self,
        endpoint: &str,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, ChannelError> {
        let request = Desk::Store.address(&request);
        self.quic.call(endpoint, request, deadline).await.map_err(channel_error)
    }
}

/// The replies to one request of the store's client.
pub(crate) struct StoreReplies(Subscription);

impl WatchChannel for StoreChannel {
    type Replies = StoreReplies;

    async fn subscribe(
        &self,
        endpoint: &str,
        request: Bytes,
        deadline: Instant,
    ) -> Result<StoreReplies, ChannelError> {
        let request = Desk::Store.address(&request);
        let subscription = self.quic.subscribe(endpoint, request, deadline).await;
        subscription.map(StoreReplies).map_err(channel_error)
    }
}

impl Replies for StoreReplies {
    async fn next(&mut self) -> Result<Option<Bytes>, ChannelError> {
        self.0.next().await.map_err(channel_error)
    }
}

fn channel_error(error: CallError) -> ChannelError {
    let message = error.to_string();
    match error {
        CallError::NotSent { cause, .. } => {
            ChannelError::NotSent { kind: not_sent_kind(&cause), message }
        }
        // Whatever else there will be: only what is surely not sent may be sent again (rule C4).
        CallError::Lost { .. } | _ => ChannelError::Lost { message },
    }
}

fn not_sent_kind(cause: &ConnectError) -> NotSentKind {
    match cause {
        ConnectError::Unresolvable { .. } => NotSentKind::Unresolvable,
        ConnectError::OursRefused(_) | ConnectError::TheirsRefused(_) => NotSentKind::Tls,
        ConnectError::TooLong { .. } => NotSentKind::TooLarge,
        ConnectError::Refused(refusal) => {
            let lasting = matches!(
                refusal.kind,
                RefusalKind::Version | RefusalKind::Cluster | RefusalKind::Certificate
            );
            if lasting { NotSentKind::Tls } else { NotSentKind::Unreachable }
        }
        ConnectError::NoAnswer
        | ConnectError::Failed { .. }
        | ConnectError::Deadline
        | ConnectError::Busy
        | _ => NotSentKind::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_reach_the_desk_they_are_for() {
        for desk in [Desk::Store, Desk::Admin] {
            let addressed = desk.address(b"request");
            assert_eq!(Desk::of(addressed), Some((desk, Bytes::from_static(b"request"))));
        }
        assert_eq!(Desk::of(Bytes::new()), None);
        assert_eq!(Desk::of(Bytes::from_static(b"\x7frequest")), None);
    }
}
