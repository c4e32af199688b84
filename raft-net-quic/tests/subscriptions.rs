//! Requests that are answered again and again: each on its own, held up by none but its reader.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_net_quic::{
    CallError, ClientLimits, ConnectError, Limits, QuicClient, Subscriber, SubscriberLost,
    Subscription,
};
use tokio::runtime::Runtime;

use common::{Authority, Node, PATIENCE, Subscriptions, config, runtime, until};

struct Scene {
    runtime: Runtime,
    node: Option<Node>,
    client: QuicClient,
    endpoint: String,
}

impl Scene {
    fn new(service: impl Fn(Bytes, Subscriber) + Send + Sync + 'static) -> Self {
        Self::with(|_| {}, service)
    }

    fn with(
        change: impl FnOnce(&mut Limits),
        service: impl Fn(Bytes, Subscriber) + Send + Sync + 'static,
    ) -> Self {
        let (runtime, authority) = (runtime(), Authority::new());
        let mut config = config(&authority, 1);
        change(&mut config.limits);
        let node = Node::serve(&runtime, config, Arc::new(Subscriptions(service)));
        let client = QuicClient::new(&authority.client(), ClientLimits::default()).unwrap();
        let endpoint = format!("localhost:{}", node.address.port());
        Self { runtime, node: Some(node), client, endpoint }
    }

    fn subscribe(&self, request: &'static str) -> Result<Subscription, CallError> {
        self.subscribe_within(request, PATIENCE)
    }

    fn subscribe_within(
        &self,
        request: &'static str,
        limit: Duration,
    ) -> Result<Subscription, CallError> {
        let deadline = Instant::now() + limit;
        let subscribing = self.client.subscribe(&self.endpoint, request.into(), deadline);
        self.runtime.block_on(subscribing)
    }

    fn next(&self, subscription: &mut Subscription) -> Result<Option<Bytes>, CallError> {
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, subscription.next()).await.expect("an item in time")
        })
    }
}

/// Says what it was asked, then numbers, as many as the request says.
fn count(request: Bytes, mut subscriber: Subscriber) {
    tokio::spawn(async move {
        let many: u32 = std::str::from_utf8(&request).unwrap().parse().unwrap();
        for number in 0..many {
            subscriber.send(number.to_string().into()).await.unwrap();
        }
    });
}

#[test]
fn items_come_in_order_until_the_node_has_no_more() {
    let scene = Scene::new(count);
    let mut few = scene.subscribe("3").unwrap();
    let mut none = scene.subscribe("0").unwrap();
    for number in 0..3 {
        assert_eq!(scene.next(&mut few).unwrap().unwrap(), number.to_string());
    }
    assert_eq!(scene.next(&mut few).unwrap(), None);
    assert_eq!(scene.next(&mut none).unwrap(), None);
}

/// A service that takes calls only ends every subscription at once.
#[test]
fn a_service_without_subscriptions_ends_them() {
    let (runtime, authority) = (runtime(), Authority::new());
    let node = Node::start(&runtime, config(&authority, 1));
    let client = QuicClient::new(&authority.client(), ClientLimits::default()).unwrap();
    let endpoint = format!("localhost:{}", node.address.port());
    let ended = runtime.block_on(async {
        let deadline = Instant::now() + PATIENCE;
        client.subscribe(&endpoint, Bytes::new(), deadline).await.unwrap().next().await
    });
    assert_eq!(ended.unwrap(), None);
}

/// Who does not read one subscription gets all of the others, and the node keeps a window of it.
#[test]
fn a_subscription_that_is_not_read_holds_up_itself_alone() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&sent);
    let scene = Scene::new(move |request, mut subscriber| {
        let sent = Arc::clone(&counting);
        tokio::spawn(async move {
            let item = Bytes::from(vec![7; 64 << 10]);
            while request == "endless" && subscriber.send(item.clone()).await.is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
            let _ = subscriber.send("other".into()).await;
        });
    });
    let mut endless = scene.subscribe("endless").unwrap();
    scene.next(&mut endless).unwrap().unwrap();
    let mut stands = usize::MAX;
    until("the node stops", || {
        let before = std::mem::replace(&mut stands, sent.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(100));
        before == stands
    });
    assert!(stands < 1_000, "{stands} items of 64 KiB were taken for somebody who does not read");
    for _ in 0..10 {
        let mut other = scene.subscribe("other").unwrap();
        assert_eq!(scene.next(&mut other).unwrap().unwrap(), "other");
    }
    // It goes on where it stood.
    (0..stands + 10).for_each(|_| drop(scene.next(&mut endless).unwrap().unwrap()));
}

#[test]
fn the_node_hears_that_nobody_listens_any_more() {
    let gone = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&gone);
    let scene = Scene::new(move |_, mut subscriber| {
        let gone = Arc::clone(&counting);
        tokio::spawn(async move {
            subscriber.send("here".into()).await.unwrap();
            subscriber.gone().await;
            assert_eq!(subscriber.send("still?".into()).await, Err(SubscriberLost::Gone));
            gone.fetch_add(1, Ordering::Relaxed);
        });
    });
    let mut subscriptions: Vec<_> = (0..3).map(|_| scene.subscribe("x").unwrap()).collect();
    subscriptions.iter_mut().for_each(|one| assert!(scene.next(one).unwrap().is_some()));
    subscriptions.pop();
    until("one is gone", || gone.load(Ordering::Relaxed) == 1);
    scene.runtime.block_on(scene.client.close());
    until("all are gone", || gone.load(Ordering::Relaxed) == 3);
}

#[test]
fn too_many_wait_and_too_large_is_refused() {
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keeping = Arc::clone(&kept);
    let small = |limits: &mut Limits| {
        limits.client_subscriptions = 2;
        limits.reply_bytes = 10;
    };
    let scene = Scene::with(small, move |_, mut subscriber| {
        let kept = Arc::clone(&keeping);
        tokio::spawn(async move {
            let large = subscriber.send(vec![0; 11].into()).await;
            assert_eq!(large, Err(SubscriberLost::TooLong { bytes: 11, limit: 10 }));
            subscriber.send("fits".into()).await.unwrap();
            kept.lock().unwrap().push(subscriber);
        });
    });
    let mut subscriptions: Vec<_> = (0..2).map(|_| scene.subscribe("x").unwrap()).collect();
    subscriptions.iter_mut().for_each(|one| {
        assert_eq!(scene.next(one).unwrap().unwrap(), "fits");
    });
    let third = scene.subscribe_within("x", Duration::from_millis(200));
    assert!(
        matches!(third, Err(CallError::NotSent { cause: ConnectError::Busy, .. })),
        "{third:?}"
    );
    kept.lock().unwrap().clear();
    assert_eq!(scene.next(&mut subscriptions[0]).unwrap(), None);
    drop(subscriptions);
    assert_eq!(scene.next(&mut scene.subscribe("x").unwrap()).unwrap().unwrap(), "fits");
}

#[test]
fn a_node_that_goes_ends_its_subscriptions_with_an_error() {
    let mut scene = Scene::new(|_, mut subscriber| {
        tokio::spawn(async move {
            subscriber.send("here".into()).await.unwrap();
            subscriber.gone().await;
        });
    });
    let mut subscription = scene.subscribe("x").unwrap();
    scene.next(&mut subscription).unwrap().unwrap();
    drop(scene.node.take());
    assert!(matches!(scene.next(&mut subscription), Err(CallError::Lost { .. })));
}
