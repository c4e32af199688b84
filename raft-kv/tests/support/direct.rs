//! The service of a node as a channel without a network.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use raft_kv::Service;
use raft_kv::client::{Channel, ChannelError, NotSentKind, Replies, WatchChannel};
use tokio::sync::mpsc;

/// The service of a node as a channel without a network. A line breaks after as many replies as the
/// next number says, if there is one.
#[derive(Clone)]
pub(crate) struct Direct {
    service: Service,
    breaks: Arc<Mutex<VecDeque<u32>>>,
}

impl Direct {
    pub(crate) fn new(service: &Service, breaks: impl IntoIterator<Item = u32>) -> Self {
        let breaks = Arc::new(Mutex::new(breaks.into_iter().collect()));
        Self { service: service.clone(), breaks }
    }
}

impl Channel for Direct {
    async fn call(&self, _: &str, request: Bytes, _: Instant) -> Result<Bytes, ChannelError> {
        let (send, reply) = tokio::sync::oneshot::channel();
        self.service.call(request, move |bytes| drop(send.send(bytes)));
        reply.await.map_err(|_| ChannelError::Lost { message: "no reply".to_owned() })
    }
}

pub(crate) struct Line {
    replies: mpsc::Receiver<Bytes>,
    left: Option<u32>,
}

impl WatchChannel for Direct {
    type Replies = Line;

    async fn subscribe(&self, _: &str, request: Bytes, _: Instant) -> Result<Line, ChannelError> {
        let left = self.breaks.lock().unwrap().pop_front();
        if left == Some(0) {
            let (kind, message) = (NotSentKind::Unreachable, "not now".to_owned());
            return Err(ChannelError::NotSent { kind, message });
        }
        let (send, replies) = mpsc::channel(1);
        let mut watch = self.service.watch(&request);
        tokio::spawn(async move {
            while let Some(reply) = watch.next().await {
                if send.send(reply).await.is_err() {
                    return;
                }
            }
        });
        Ok(Line { replies, left })
    }
}

impl Replies for Line {
    async fn next(&mut self) -> Result<Option<Bytes>, ChannelError> {
        match &mut self.left {
            Some(0) => return Err(ChannelError::Lost { message: "it broke".to_owned() }),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(self.replies.recv().await)
    }
}
