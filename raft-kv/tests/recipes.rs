//! Locks, elections and counters, by several clients of one node.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use raft_kv::api::ReadLevel;
use raft_kv::client::Client;
use raft_kv::recipes::{Counter, Lock, RecipeError, campaign, leader, observe};
use raft_kv::{KeyRange, Put, Revision, Txn, TxnOp};
use support::config;
use support::direct::Direct;
use support::running::Running;

const PATIENCE: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(10);

fn client(running: &Running) -> Client<Direct> {
    Client::new(Direct::new(&running.service, []), vec!["n1:1".to_owned()], PATIENCE)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_held_by_one_at_a_time() {
    let running = Running::leading(config());
    let inside = Arc::new(AtomicUsize::new(0));
    let holders = (0..5).map(|_| {
        let (client, inside) = (client(&running), Arc::clone(&inside));
        tokio::spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..4 {
                let lock = soon(Lock::acquire(&client, "job", TTL)).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                tokio::task::yield_now().await;
                tokens.push(lock.token());
                inside.fetch_sub(1, Ordering::SeqCst);
                lock.release().await.unwrap();
            }
            tokens
        })
    });
    let mut tokens: Vec<Vec<Revision>> = Vec::new();
    for holder in holders.collect::<Vec<_>>() {
        tokens.push(soon(holder).await.unwrap());
    }
    assert!(tokens.iter().all(|of_one| of_one.is_sorted()));
    let left = client(&running).delete(KeyRange::prefix("job/")).await.unwrap();
    assert_eq!(left.deleted, 0, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_to_who_waits_longest() {
    let running = Running::leading(config());
    let [one, two, three] = [(); 3].map(|()| client(&running));
    let first = Lock::acquire(&one, "job", TTL).await.unwrap();
    assert!(Lock::try_acquire(&two, "job", TTL).await.unwrap().is_none());
    let waits = |number: u64, client: Client<Direct>| async move {
        let waiting = tokio::spawn(async move { Lock::acquire(&client, "job", TTL).await });
        let queue = KeyRange::prefix("job/");
        loop {
            let request = raft_kv::RangeRequest::new(queue.clone());
            let found = one.range(request, ReadLevel::Linearizable).await.unwrap();
            if found.count == number {
                return (waiting, one);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (second, one) = soon(waits(2, two)).await;
    // Who gives up leaves the queue.
    let given_up = {
        let client = three.clone();
        tokio::spawn(async move { Lock::acquire(&client, "job", TTL).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    given_up.abort();
    assert!(!second.is_finished());
    let token = first.token();
    drop(first);
    let second = soon(second).await.unwrap().unwrap();
    assert!(second.token() > token);

    // The token is good for a comparison: who has lost the lock writes nothing.
    let write = |compare| Txn {
        compare: vec![compare],
        then: vec![TxnOp::Put(Put::new("protected", "x"))],
        otherwise: Vec::new(),
    };
    assert!(one.txn(write(second.is_held())).await.unwrap().succeeded);
    let held = second.is_held();
    second.release().await.unwrap();
    assert!(!one.txn(write(held)).await.unwrap().succeeded);
    let free = soon(Lock::acquire(&three, "job", TTL)).await.unwrap();
    free.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_the_lease_knows_it() {
    let running = Running::leading(config());
    let (one, two) = (client(&running), client(&running));
    let lock = Lock::acquire(&one, "job", Duration::from_secs(1)).await.unwrap();
    assert!(!lock.tenure().is_lost());
    // It lives longer than it would without being kept.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!lock.tenure().is_lost());
    two.revoke(lock.tenure().lease()).await.unwrap();
    let next = soon(Lock::acquire(&two, "job", TTL)).await.unwrap();
    assert!(next.token() > lock.token());
    soon(lock.tenure().lost()).await;
    assert!(lock.tenure().is_lost());
    // Whose lease ends while waiting is told.
    let waiting = tokio::spawn(async move { Lock::acquire(&one, "job", TTL).await.map(drop) });
    let lease = loop {
        let leases = two.leases().await.unwrap();
        let other = leases.items.iter().find(|status| status.lease != next.tenure().lease());
        match other.filter(|status| status.key_count > 0) {
            Some(status) => break status.lease,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    two.revoke(lease).await.unwrap();
    assert_eq!(soon(waiting).await.unwrap(), Err(RecipeError::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_office_is_seen_by_everybody() {
    let running = Running::leading(config());
    let [one, two, three] = [(); 3].map(|()| client(&running));
    let mut observer = observe(&three, "office");
    assert_eq!(leader(&three, b"office").await.unwrap().0, None);
    let office = campaign(&one, "office", "one", TTL).await.unwrap();
    assert_eq!(&soon(observer.next()).await.unwrap().value[..], b"one");
    office.proclaim("one still").await.unwrap();
    assert_eq!(&soon(observer.next()).await.unwrap().value[..], b"one still");
    let waiting = tokio::spawn(async move { campaign(&two, "office", "two", TTL).await });
    while client(&running).leases().await.unwrap().items.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let key = office.lock().key().clone();
    assert_eq!(leader(&three, b"office").await.unwrap().0.unwrap().key, key);
    office.resign().await.unwrap();
    let second = soon(waiting).await.unwrap().unwrap();
    let found = soon(observer.next()).await.unwrap();
    assert_eq!((&found.key, &found.value[..]), (second.lock().key(), &b"two"[..]));
    three.revoke(second.lock().tenure().lease()).await.unwrap();
    assert_eq!(second.proclaim("late").await, Err(RecipeError::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_counts_each_once() {
    let running = Running::leading(config());
    let adders = (0..4).map(|_| {
        let counter = Counter::new(&client(&running), "hits");
        tokio::spawn(async move {
            for _ in 0..25 {
                counter.add(1).await.unwrap();
            }
        })
    });
    for adder in adders.collect::<Vec<_>>() {
        soon(adder).await.unwrap();
    }
    let client = client(&running);
    let counter = Counter::new(&client, "hits");
    assert_eq!(counter.get().await.unwrap(), 100);
    assert_eq!(counter.add(-101).await.unwrap(), -1);
    let error = counter.add(i64::MIN).await.unwrap_err();
    assert_eq!(error, RecipeError::Overflow { count: -1, delta: i64::MIN });
    client.put("hits", "many").await.unwrap();
    let error = counter.get().await.unwrap_err();
    assert!(error.to_string().contains("\"hits\" is no counter: its value is \"many\""), "{error}");
}
