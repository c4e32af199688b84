//! Clients call a node: many calls at once, answers in any order, and the difference between "not
//! sent" and "lost".

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::Transport;
use raft_net_quic::{CallError, ClientLimits, ConnectError, LossCause, QuicClient, Responder};
use tokio::runtime::Runtime;

use common::{
    Authority, Node, PATIENCE, Service, any_port, config, identity, noise, runtime, until,
};

struct Scene {
    runtime: Runtime,
    node: Node,
    client: QuicClient,
    endpoint: String,
    authority: Authority,
}

impl Scene {
    fn new(service: impl Fn(Bytes, Responder) + Send + Sync + 'static) -> Self {
        Self::with(service, |_| {})
    }

    fn with(
        service: impl Fn(Bytes, Responder) + Send + Sync + 'static,
        change: impl FnOnce(&mut raft_net_quic::Limits),
    ) -> Self {
        let (runtime, authority) = (runtime(), Authority::new());
        let mut config = config(&authority, 1);
        change(&mut config.limits);
        let node = Node::serve(&runtime, config, Arc::new(Service(service)));
        let client = QuicClient::new(&authority.client(), ClientLimits::default()).unwrap();
        let endpoint = format!("localhost:{}", node.address.port());
        Self { runtime, node, client, endpoint, authority }
    }

    fn call(&self, request: impl Into<Bytes>) -> Result<Bytes, CallError> {
        self.call_within(request, PATIENCE)
    }

    fn call_within(&self, request: impl Into<Bytes>, limit: Duration) -> Result<Bytes, CallError> {
        let deadline = Instant::now() + limit;
        self.runtime.block_on(self.client.call(&self.endpoint, request.into(), deadline))
    }

    fn calls(&self, requests: impl Iterator<Item = Bytes>) -> Vec<Result<Bytes, CallError>> {
        let deadline = Instant::now() + PATIENCE;
        let started: Vec<_> = requests
            .map(|request| {
                let (client, endpoint) = (self.client.clone(), self.endpoint.clone());
                let call = async move { client.call(&endpoint, request, deadline).await };
                self.runtime.spawn(call)
            })
            .collect();
        started.into_iter().map(|call| self.runtime.block_on(call).unwrap()).collect()
    }
}

/// Answers with what it was asked.
fn echo(request: Bytes, reply: Responder) {
    reply.send(request);
}

/// Keeps what it was asked.
type Kept = Arc<Mutex<Vec<(Bytes, Responder)>>>;

fn keep() -> (Kept, impl Fn(Bytes, Responder) + Send + Sync + 'static) {
    let kept = Kept::default();
    let keeping = Arc::clone(&kept);
    (kept, move |request, reply| keeping.lock().unwrap().push((request, reply)))
}

#[test]
fn requests_of_every_size_are_answered() {
    let scene = Scene::new(echo);
    for size in [0, 1, 100, 1200, 4095, 4096, 65_536, 1 << 20, 2 << 20] {
        let request = Bytes::from(noise(size, 1));
        assert_eq!(scene.call(request.clone()).unwrap(), request);
    }
    let error = scene.call(vec![0; (2 << 20) + 1]).unwrap_err();
    assert!(matches!(error, CallError::NotSent { cause: ConnectError::TooLong { .. }, .. }));
}

#[test]
fn the_node_says_who_it_is() {
    let scene = Scene::new(echo);
    let server = scene.client.server(&scene.endpoint, Instant::now() + PATIENCE);
    assert_eq!(scene.runtime.block_on(server).unwrap(), identity(1));
}

#[test]
fn answers_come_in_any_order() {
    let (kept, service) = keep();
    let scene = Scene::new(service);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("all requests are there", || kept.lock().unwrap().len() == 500);
            for (request, reply) in kept.lock().unwrap().drain(..).rev() {
                reply.send(request);
            }
        });
        let requests = (0..500_u32).map(|n| Bytes::copy_from_slice(&n.to_le_bytes()));
        for (answer, n) in scene.calls(requests).into_iter().zip(0_u32..) {
            assert_eq!(answer.unwrap()[..], n.to_le_bytes());
        }
    });
}

#[test]
fn many_calls_share_a_connection() {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let scene = Scene::new(move |request, reply: Responder| {
        counting.fetch_add(1, Ordering::Relaxed);
        reply.send(request);
    });
    let requests = (0..20_000_u32).map(|n| Bytes::copy_from_slice(&n.to_le_bytes()));
    for (answer, n) in scene.calls(requests).into_iter().zip(0_u32..) {
        assert_eq!(answer.unwrap()[..], n.to_le_bytes());
    }
    assert_eq!(count.load(Ordering::Relaxed), 20_000);
}

#[test]
fn a_dropped_responder_says_that_there_is_no_answer() {
    let scene = Scene::new(|_, reply| drop(reply));
    let error = scene.call("?").unwrap_err();
    assert!(matches!(error, CallError::Lost { cause: LossCause::NoAnswer, .. }), "{error}");
}

#[test]
fn an_answer_over_the_limit_says_so_and_the_connection_stays() {
    let scene = Scene::with(
        |request, reply| reply.send(if request == "big" { vec![0; 101].into() } else { request }),
        |limits| limits.reply_bytes = 100,
    );
    let error = scene.call("big").unwrap_err();
    assert!(matches!(error, CallError::Lost { cause: LossCause::TooLong, .. }), "{error}");
    assert_eq!(scene.call("small").unwrap(), "small");
}

#[test]
fn a_deadline_after_sending_is_a_loss() {
    let (kept, service) = keep();
    let scene = Scene::new(service);
    let error = scene.call_within("?", Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, CallError::Lost { cause: LossCause::Deadline, .. }), "{error}");
    // The late answer disturbs nobody.
    let (_, reply) = kept.lock().unwrap().pop().unwrap();
    reply.send(Bytes::from_static(b"late"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("the next request is there", || !kept.lock().unwrap().is_empty());
            kept.lock().unwrap().pop().unwrap().1.send(Bytes::from_static(b"answer"));
        });
        assert_eq!(scene.call("!").unwrap(), "answer");
    });
}

#[test]
fn a_connection_lost_in_the_middle_of_a_call_is_a_loss() {
    let (kept, service) = keep();
    let Scene { runtime, node, client, endpoint, authority } = Scene::new(service);
    let deadline = Instant::now() + PATIENCE;
    let call = runtime.spawn({
        let (client, endpoint) = (client.clone(), endpoint.clone());
        async move { client.call(&endpoint, Bytes::from_static(b"?"), deadline).await }
    });
    until("the request is there", || !kept.lock().unwrap().is_empty());
    let address = node.address;
    drop(node);
    let error = runtime.block_on(call).unwrap().unwrap_err();
    assert!(
        matches!(error, CallError::Lost { cause: LossCause::Connection { .. }, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("may have taken effect"), "{error}");
    kept.lock().unwrap().clear(); // Answers to nobody.

    // The client connects again by itself when the node is back at its address.
    let mut config = config(&authority, 1);
    config.listen = address;
    let _node = Node::serve(&runtime, config, Arc::new(Service(echo)));
    until("the node answers again", || {
        runtime.block_on(client.call(&endpoint, Bytes::from_static(b"!"), deadline)).is_ok()
    });
}

#[test]
fn what_cannot_be_sent_is_not_sent() {
    let authority = Authority::new();
    let runtime = runtime();
    let connect_timeout = Duration::from_millis(300);
    let limits = ClientLimits { connect_timeout, ..ClientLimits::default() };
    let client = QuicClient::new(&authority.client(), limits).unwrap();
    let call = |endpoint: &str| {
        let deadline = Instant::now() + PATIENCE;
        let called = runtime.block_on(client.call(endpoint, Bytes::from_static(b"?"), deadline));
        let error = called.unwrap_err();
        let CallError::NotSent { endpoint: named, cause } = error else { panic!("{error}") };
        assert_eq!(named, endpoint);
        cause
    };
    for endpoint in ["", "no-port", "127.0.0.1", "127.0.0.1:99999", "host.invalid:1", ":", "a b:1"]
    {
        let cause = call(endpoint);
        assert!(matches!(cause, ConnectError::Unresolvable { .. }), "{endpoint:?}: {cause}");
    }
    let deaf = std::net::UdpSocket::bind(any_port()).unwrap();
    let cause = call(&deaf.local_addr().unwrap().to_string());
    assert_eq!(cause, ConnectError::NoAnswer);
    let started = Instant::now();
    let deadline = Instant::now() + Duration::from_millis(50);
    let endpoint = deaf.local_addr().unwrap().to_string();
    let called = runtime.block_on(client.call(&endpoint, Bytes::new(), deadline));
    assert!(matches!(called, Err(CallError::NotSent { .. })));
    assert!(started.elapsed() < Duration::from_millis(290), "the deadline counts");
}

/// A client with too many unanswered requests is held up, not refused; and nobody else is.
#[test]
fn back_pressure_holds_up_only_the_client_that_causes_it() {
    let (kept, service) = keep();
    let scene = Scene::with(service, |limits| limits.client_requests = 10);
    let deadline = Instant::now() + PATIENCE;
    let calls: Vec<_> = (0..100_u32)
        .map(|n| {
            let (client, endpoint) = (scene.client.clone(), scene.endpoint.clone());
            let request = Bytes::copy_from_slice(&n.to_le_bytes());
            scene.runtime.spawn(async move { client.call(&endpoint, request, deadline).await })
        })
        .collect();
    until("ten requests are there", || kept.lock().unwrap().len() == 10);
    std::thread::sleep(Duration::from_millis(50)); // Whatever comes too much would come now.
    assert_eq!(kept.lock().unwrap().len(), 10);

    let other = QuicClient::new(&scene.authority.client(), ClientLimits::default()).unwrap();
    let call = scene.runtime.spawn({
        let endpoint = scene.endpoint.clone();
        async move { other.call(&endpoint, Bytes::from_static(b"other"), deadline).await }
    });
    until("the other client is heard", || {
        kept.lock().unwrap().iter().any(|(request, _)| request == "other")
    });
    until("all are answered", || {
        for (request, reply) in kept.lock().unwrap().drain(..) {
            reply.send(request);
        }
        calls.iter().all(tokio::task::JoinHandle::is_finished) && call.is_finished()
    });
    for call in calls {
        assert!(scene.runtime.block_on(call).unwrap().is_ok());
    }
}

#[test]
fn a_call_that_is_given_up_leaves_nothing_behind() {
    let (kept, service) = keep();
    let scene = Scene::new(service);
    let deadline = Instant::now() + PATIENCE;
    let call = scene.runtime.spawn({
        let (client, endpoint) = (scene.client.clone(), scene.endpoint.clone());
        async move { client.call(&endpoint, Bytes::from_static(b"?"), deadline).await }
    });
    until("the request is there", || !kept.lock().unwrap().is_empty());
    call.abort();
    assert!(scene.runtime.block_on(call).unwrap_err().is_cancelled());
    kept.lock().unwrap().pop().unwrap().1.send(Bytes::from_static(b"to nobody"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("the next request is there", || !kept.lock().unwrap().is_empty());
            kept.lock().unwrap().pop().unwrap().1.send(Bytes::from_static(b"answer"));
        });
        assert_eq!(scene.call("!").unwrap(), "answer");
    });
}

/// A client that sends requests and never reads its replies is disconnected before they pile up.
#[test]
fn a_client_that_does_not_read_is_disconnected() {
    let scene = Scene::with(
        |_, reply| reply.send(Bytes::from(vec![0; 1 << 20])),
        |limits| limits.client_reply_bytes = 4 << 20,
    );
    let tls = scene.authority.client();
    let (code, reason) = scene.runtime.block_on(async {
        let raw = common::raw::Raw::connect(&tls, common::raw::CLIENT, scene.node.address, 1).await;
        let head = [&7_u64.to_le_bytes()[..], &[0]].concat();
        let requests = common::raw::frame(&head).repeat(100);
        let (_send, _recv) = raw.calls(&requests).await;
        raw.refusal().await
    });
    assert_eq!(code, 10, "{reason}");
    assert!(scene.node.transport.local_addr().port() > 0);
    assert_eq!(scene.call("?").unwrap().len(), 1 << 20, "others are served");
    scene.node.transport.set_peers(&common::peers(&[]));
}
