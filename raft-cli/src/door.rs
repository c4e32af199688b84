//! The door for clients. It is there before the node behind it, because a node needs its transport
//! to start and the transport needs somebody to hand requests to; until then it says "busy".

use std::sync::OnceLock;

use bytes::Bytes;
use raft_core::{Handle, Index, NodeId, Term};
use raft_kv::api::{ErrorReply, Header, Reply};
use raft_kv::{Revision, Service};
use raft_net_quic::{ClientService, Responder, Subscriber};

use crate::admin::AdminRequest;
use crate::channel::Desk;

/// Hands the requests of clients to whoever understands them.
pub(crate) struct Door {
    node: NodeId,
    behind: OnceLock<(Handle, Service)>,
}

impl Door {
    /// A closed door.
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, behind: OnceLock::new() }
    }

    /// From now on requests are answered.
    pub(crate) fn open(&self, handle: Handle, service: Service) {
        // Opened once; a second time would change nothing.
        let _ = self.behind.set((handle, service));
    }

    fn busy(&self) -> Bytes {
        let header = Header {
            node: self.node,
            term: Term::default(),
            applied: Index::ZERO,
            revision: Revision::EMPTY,
        };
        let message = "the node is starting".to_owned();
        Reply { header, body: Err(ErrorReply::Busy { retry_after_ms: 50, message }) }.encode()
    }
}

impl ClientService for Door {
    fn call(&self, request: Bytes, reply: Responder) {
        let Some((handle, service)) = self.behind.get() else {
            return reply.send(self.busy());
        };
        match Desk::of(request) {
            Some((Desk::Store, request)) => service.call(request, |answer| reply.send(answer)),
            Some((Desk::Admin, request)) => {
                AdminRequest::carry_out(&request, handle, |answer| reply.send(answer));
            }
            // It speaks another protocol: the client learns that there will be no answer.
            None => drop(reply),
        }
    }

    fn subscribe(&self, request: Bytes, mut subscriber: Subscriber) {
        let Some((_, service)) = self.behind.get() else {
            let busy = self.busy();
            tokio::spawn(async move { subscriber.send(busy).await });
            return;
        };
        // Only the store has anything to say again and again. Who asks for something else learns that
        // there will be no answer.
        let Some((Desk::Store, request)) = Desk::of(request) else { return };
        let mut watch = service.watch(&request);
        tokio::spawn(async move {
            let gone = subscriber.gone();
            let telling = async {
                while let Some(reply) = watch.next().await {
                    if let Err(error) = subscriber.send(reply).await {
                        return tracing::debug!(%error, "a watch has ended");
                    }
                }
            };
            tokio::select! {
                () = telling => {}
                () = gone => {}
            }
        });
    }
}
