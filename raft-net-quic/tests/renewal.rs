//! Certificates and authorities are replaced while nodes run: nobody is disconnected, and what is wrong
//! is not used. The files are real ones.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use quinn::ConnectionError;
use raft_core::{Arrival, Sent, Transport};
use raft_net_quic::{ClientLimits, ClusterName, QuicClient, QuicConfig, TlsFiles, node_name};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Runtime;

use common::log::Warnings;
use common::raw::{CLIENT, Hello, PEER, Raw, VERSION, frame};
use common::{Authority, Node, PATIENCE, Validity, config, identity, node, runtime, until};

/// Looks at its files all the time.
fn watchful(authority: &Authority, id: u64) -> QuicConfig {
    QuicConfig { tls_check: Duration::from_millis(10), ..config(authority, id) }
}

/// Puts the files of `from` in place of those of `to`, in an order in which they do not fit together
/// for a moment.
fn replace(from: &TlsFiles, to: &TlsFiles) {
    fs::copy(&from.certificate, &to.certificate).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    fs::copy(&from.key, &to.key).unwrap();
}

/// The certificate that the node at the other end shows.
fn shown(runtime: &Runtime, authority: &Authority, target: &Node) -> CertificateDer<'static> {
    runtime.block_on(async {
        let raw = Raw::connect(&authority.client(), CLIENT, target.address, target.id).await;
        let chain = raw.connection.peer_identity().unwrap();
        chain.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].clone()
    })
}

fn in_file(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// Nothing was lost since the arrivals were drained last.
fn undisturbed(node: &Node) {
    let lost = |arrival: &Arrival| matches!(arrival, Arrival::Unreachable(_) | Arrival::Met(..));
    assert!(!node.arrivals.try_iter().any(|arrival| lost(&arrival)), "node {}", node.id);
}

#[test]
fn a_new_certificate_is_used_and_nobody_is_disconnected() {
    let (runtime, authority) = (runtime(), Authority::new());
    let config = watchful(&authority, 1);
    let files = config.tls.clone();
    let a = Node::start(&runtime, config);
    let b = Node::start(&runtime, watchful(&authority, 2));
    a.name(&[(2, b.address)]);
    b.name(&[(1, a.address)]);
    a.reach(&b, 1);
    b.reach(&a, 1);
    assert_eq!(shown(&runtime, &authority, &a), in_file(&files.certificate));

    let names = [node_name(node(1), &ClusterName::default())];
    replace(&authority.issue("renewed", &names, true, Validity::Now), &files);
    until("it shows the new one", || {
        shown(&runtime, &authority, &a) == in_file(&files.certificate)
    });
    assert_eq!(a.transport.send(a.heartbeat(2, 2)), Sent::Queued);
    assert_eq!(b.rounds(1), [2]);
    undisturbed(&a);
    undisturbed(&b);

    // It is what other nodes get to see, too.
    drop(b);
    let b = Node::start(&runtime, watchful(&authority, 2));
    a.name(&[(2, b.address)]);
    a.reach(&b, 3);
}

/// All of a cluster moves to another authority, file by file, as docs/operations.md has it.
#[test]
fn an_authority_is_replaced_under_a_running_cluster() {
    let (runtime, old, new) = (runtime(), Authority::new(), Authority::new());
    let configs = [watchful(&old, 1), watchful(&old, 2)];
    let files = configs.each_ref().map(|config| config.tls.clone());
    let [a, b] = configs.map(|config| Node::start(&runtime, config));
    a.name(&[(2, b.address)]);
    b.name(&[(1, a.address)]);
    a.reach(&b, 1);
    b.reach(&a, 1);
    a.drain();

    // The same file for both nodes and for clients: first both authorities are believed, ...
    let ca = &files[0].ca;
    let read = |authority: &Authority| fs::read(authority.dir.path().join("ca.pem")).unwrap();
    let new_ca = read(&new);
    fs::write(ca, [read(&old), new_ca.clone()].concat()).unwrap();
    let stranger = TlsFiles { ca: ca.clone(), ..new.client() };
    until("the new authority is believed", || {
        runtime.block_on(accepts(&stranger, &a)) && runtime.block_on(accepts(&stranger, &b))
    });
    // ... then certificates come from the new one, ...
    for (id, files) in (1..).zip(&files) {
        replace(&new.node(id), files);
    }
    until("both show new ones", || {
        runtime.block_on(shows(&stranger, &a, &files[0]))
            && runtime.block_on(shows(&stranger, &b, &files[1]))
    });
    // ... and at last the old one is not believed any more.
    let left_behind = TlsFiles { ca: ca.clone(), ..old.client() };
    fs::write(ca, new_ca).unwrap();
    until("the old authority is not believed", || {
        !runtime.block_on(accepts(&left_behind, &a)) && !runtime.block_on(accepts(&left_behind, &b))
    });
    assert_eq!(a.transport.send(a.heartbeat(2, 2)), Sent::Queued);
    assert_eq!(b.rounds(1), [2]);
    undisturbed(&a);
    undisturbed(&b);
}

/// Whether a client with these files is let in.
async fn accepts(tls: &TlsFiles, target: &Node) -> bool {
    let raw = Raw::connect(tls, CLIENT, target.address, target.id).await;
    let Ok((mut send, mut recv)) = raw.connection.open_bi().await else { return false };
    let hello = frame(&postcard::to_stdvec(&VERSION).unwrap());
    send.write_all(&hello).await.is_ok() && matches!(recv.read(&mut [0]).await, Ok(Some(_)))
}

async fn shows(tls: &TlsFiles, target: &Node, files: &TlsFiles) -> bool {
    let raw = Raw::connect(tls, CLIENT, target.address, target.id).await;
    let chain = raw.connection.peer_identity().unwrap();
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().unwrap();
    chain[0] == in_file(&files.certificate)
}

/// A client that runs for years sees its own certificate end, too.
#[test]
fn a_client_takes_up_new_certificates_when_it_connects() {
    let (runtime, old, new) = (runtime(), Authority::new(), Authority::new());
    let files = old.client();
    let client = QuicClient::new(&files, ClientLimits::default()).unwrap();
    let server = |target: &Node| {
        let (endpoint, deadline) = (target.address.to_string(), Instant::now() + PATIENCE);
        runtime.block_on(client.server(&endpoint, deadline))
    };
    let before = Node::start(&runtime, config(&old, 1));
    assert_eq!(server(&before).unwrap(), identity(1));
    let after = Node::start(&runtime, config(&new, 1));
    assert!(server(&after).is_err(), "it believes an authority that it does not know");

    fs::copy(new.dir.path().join("ca.pem"), &files.ca).unwrap();
    assert!(server(&after).is_err(), "half of the files is not enough");
    replace(&new.client(), &files);
    assert_eq!(server(&after).unwrap(), identity(1));
    assert_eq!(server(&before).unwrap(), identity(1), "the connection that was there stays");
}

#[test]
fn files_that_are_wrong_are_not_used() {
    let (runtime, authority, other) = (runtime(), Authority::new(), Authority::new());
    let config = watchful(&authority, 1);
    let files = config.tls.clone();
    let a = Node::start(&runtime, config);
    let good = in_file(&files.certificate);
    let (certificate, key) = (fs::read(&files.certificate).unwrap(), fs::read(&files.key).unwrap());
    let names = [node_name(node(1), &ClusterName::default())];
    let wrong = [
        authority.node(2),
        authority.issue("old", &names, true, Validity::Past),
        authority.issue("client-1", &names, false, Validity::Now),
        authority.issue("other-1", &["node-1.other".to_owned()], true, Validity::Now),
        other.node(1),
    ];
    for wrong in &wrong {
        replace(wrong, &files);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(shown(&runtime, &authority, &a), good, "{}", wrong.certificate.display());
    }
    fs::remove_file(&files.key).unwrap();
    fs::write(&files.certificate, "garbage").unwrap();
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(shown(&runtime, &authority, &a), good);
    // What is right again is used again.
    fs::write(&files.certificate, certificate).unwrap();
    fs::write(&files.key, key).unwrap();
    let renewed = authority.issue("renewed", &names, true, Validity::Now);
    replace(&renewed, &files);
    until("the right one is used", || {
        shown(&runtime, &authority, &a) == in_file(&renewed.certificate)
    });
}

/// An authority that has ended may stay in the file beside its successor.
#[test]
fn an_authority_that_has_ended_keeps_nobody_from_starting() {
    let (runtime, authority) = (runtime(), Authority::new());
    let ended = authority.issue("ended", &["ended".to_owned()], true, Validity::Past);
    let config = watchful(&authority, 1);
    let both = [fs::read(&ended.certificate).unwrap(), fs::read(&config.tls.ca).unwrap()].concat();
    fs::write(&config.tls.ca, both).unwrap();
    let a = Node::start(&runtime, config);
    assert!(runtime.block_on(accepts(&authority.client(), &a)));
}

/// The certificate of a client, or none of this cluster, is not what a peer is let in with, before and after
/// a change.
#[test]
fn who_is_let_in_is_decided_anew_after_a_change() {
    let (runtime, authority, other) = (runtime(), Authority::new(), Authority::new());
    let config = watchful(&authority, 1);
    let files = config.tls.clone();
    let a = Node::start(&runtime, config);
    replace(
        &authority.issue(
            "renewed",
            &[node_name(node(1), &ClusterName::default())],
            true,
            Validity::Now,
        ),
        &files,
    );
    until("it is used", || shown(&runtime, &authority, &a) == in_file(&files.certificate));
    runtime.block_on(async {
        let foreign = TlsFiles { ca: files.ca.clone(), ..other.node(2) };
        let raw = Raw::connect(&foreign, PEER, a.address, 1).await;
        let closed = raw.connection.closed().await;
        assert!(matches!(closed, ConnectionError::ConnectionClosed(_)), "{closed}");
        let raw = Raw::connect(&authority.client(), PEER, a.address, 1).await;
        raw.greet(&Hello::new(identity(2), 1)).await;
        assert!(raw.refusal().await.1.contains("names no node"));
    });
}

/// From 30 days before, and after a renewal not any more.
#[test]
fn what_ends_soon_is_told_in_time() {
    let log = Warnings::keep();
    let warnings = || log.with("ends soon");
    let (runtime, authority) = (runtime(), Authority::new());
    let names = [node_name(node(1), &ClusterName::default())];
    let in_days =
        |days| authority.issue(&format!("{days}-days"), &names, true, Validity::Days(days));
    let mut config = watchful(&authority, 1);
    config.tls = in_days(20);
    let files = config.tls.clone();
    let a = Node::start(&runtime, config);
    let monitor = a.transport.monitor();
    let days_left = || {
        let left = monitor.certificate_expiry().certificate.duration_since(SystemTime::now());
        left.unwrap().as_secs_f64() / 86_400.0
    };
    assert!((19.9..20.0).contains(&days_left()), "{}", days_left());
    until("it is told", || !warnings().is_empty());
    let told = warnings();
    assert!(told[0].contains("20-days.pem") && told[0].contains("days=19"), "{told:?}");

    replace(&in_days(90), &files);
    until("the metric follows", || days_left() > 80.0);
    replace(&in_days(29), &files);
    until("it is told of the next", || warnings().len() == 2);
    std::thread::sleep(Duration::from_millis(100));
    let told = warnings();
    assert_eq!(told.len(), 2, "once a day is enough: {told:?}");
    assert!(told[1].contains("days=28"), "{told:?}");
}
