//! What a user can get wrong: one line on stderr that names it, the right exit code, never a panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::net::UdpSocket;
use std::path::Path;

use bytes::Bytes;
use raft_core::{Batch, Entry, LogId, LogStore, Payload};
use raft_log::{DataDir, RocksLog, RocksLogConfig};
use raft_tests::{Answer, Background, Cluster, Options, Ran, free_port, raft, until};
use rcgen::{CertificateParams, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};

fn lone() -> Cluster {
    Cluster::with(Options { nodes: 1, ..Options::default() })
}

fn serve(cluster: &Cluster, change: impl FnOnce(&mut Vec<String>)) -> Ran {
    let mut words = cluster.serve_words(1);
    change(&mut words);
    raft(words)
}

/// Replaces what follows the flag `name`.
fn set(words: &mut [String], name: &str, value: &str) {
    let at = words.iter().position(|word| word == name).expect("the flag is there");
    words[at + 1] = value.to_owned();
}

#[test]
fn unknown_configuration_key() {
    let cluster = Cluster::prepare(Options::default());
    let file = cluster.spare_dir("node.toml");
    fs::write(&file, "node-id = 1\n\nelection-tiemout = \"1s\"\n").unwrap();
    let ran = serve(&cluster, |words| {
        words.extend(["--config".to_owned(), file.to_str().unwrap().to_owned()]);
    });
    ran.assert_refused(2, &["election-tiemout", "node.toml:3", "election-timeout"]);
}

#[test]
fn options_that_make_no_sense() {
    let cluster = Cluster::prepare(Options { nodes: 1, extra: Vec::new() });
    let with = |more: &[&str]| {
        serve(&cluster, |words| words.extend(more.iter().map(|word| (*word).to_owned())))
    };
    with(&["--election-timeout", "10ms", "--heartbeat-interval", "50ms"])
        .assert_refused(2, &["election", "heartbeat"]);
    with(&["--join", "127.0.0.1:1"]).assert_refused(2, &["--join", "--bootstrap"]);
    let ran = serve(&cluster, |words| set(words, "--bootstrap", "2=127.0.0.1:7102"));
    ran.assert_refused(2, &["--bootstrap", "node 1"]);
    let ran = serve(&cluster, |words| set(words, "--bootstrap", "1=127.0.0.1"));
    ran.assert_refused(2, &["--bootstrap", "127.0.0.1", "HOST:PORT"]);
    let ran = serve(&cluster, |words| words.truncate(words.len() - 2));
    ran.assert_refused(2, &["--bootstrap", "--join"]);
    raft(["serve"]).assert_refused(2, &["--node-id"]);
    raft(["put", "k"]).assert_refused(2, &["VALUE"]);
}

#[test]
fn port_in_use() {
    let cluster = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = socket.local_addr().unwrap().to_string();
    let ran = serve(&cluster, |words| {
        set(words, "--listen", &taken);
        set(words, "--bootstrap", &format!("1={taken}"));
    });
    ran.assert_refused(2, &[&taken, "--listen"]);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let ran = serve(&cluster, |words| words.extend(["--http".to_owned(), taken.clone()]));
    ran.assert_refused(2, &[&taken, "--http"]);
}

#[test]
fn data_directory_of_another_process() {
    let cluster = lone();
    let port = free_port();
    let ran = serve(&cluster, |words| {
        let address = format!("127.0.0.1:{port}");
        set(words, "--listen", &address);
        set(words, "--bootstrap", &format!("1={address}"));
    });
    ran.assert_refused(6, &[cluster.data_dir(1).to_str().unwrap(), "in use by process"]);
}

#[test]
fn data_directory_of_another_node() {
    let mut cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    cluster.kill(1);
    let ran = serve(&cluster, |words| {
        set(words, "--node-id", "2");
        let address = cluster.address(1);
        set(words, "--bootstrap", &format!("1=127.0.0.1:{},2={address}", free_port()));
    });
    ran.assert_refused(6, &[cluster.data_dir(1).to_str().unwrap(), "node 1", "2"]);
}

#[test]
fn write_ahead_log_in_the_wrong_place() {
    let mut cluster = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    let (used, empty) = (cluster.spare_dir("used"), cluster.spare_dir("empty"));
    fs::create_dir_all(&used).unwrap();
    fs::write(used.join("notes.txt"), "somebody's").unwrap();
    let on =
        |words: &mut Vec<String>, dir: &Path| words.extend(["--wal-dir".to_owned(), text(dir)]);
    let ran = serve(&cluster, |words| on(words, &used));
    ran.assert_refused(6, &[&text(&used), "notes.txt", "empty"]);

    let mut words = cluster.serve_words(1);
    on(&mut words, &empty);
    cluster.launch_with(1, words);
    assert_eq!(cluster.raft(&["put", "k", "v"]).code, Some(0));
    cluster.kill(1);
    let ran = serve(&cluster, |words| on(words, &used));
    ran.assert_refused(6, &[&text(&used), &text(&empty), "wal"]);
    fs::rename(&empty, cluster.spare_dir("unmounted")).unwrap();
    let ran = serve(&cluster, |_| {});
    ran.assert_refused(6, &[&text(&empty), "mounted"]);
    fs::rename(cluster.spare_dir("unmounted"), &empty).unwrap();
    cluster.launch_with(1, cluster.serve_words(1));
    assert_eq!(cluster.raft(&["get", "k"]).code, Some(0));
}

#[test]
fn data_directory_of_another_cluster() {
    let mut cluster = lone();
    cluster.kill(1);
    let dir = text(&cluster.data_dir(1));
    // Another authority: certificates of another `raft tls init`.
    let other = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    let ran = serve(&cluster, |words| set(words, "--tls-dir", &text(&other.tls_dir())));
    ran.assert_refused(6, &[&dir, "cluster", "--bootstrap"]);
    // The same authority, and founders of whom none is a member.
    let ran = serve(&cluster, |words| {
        let address = format!("127.0.0.1:{}", free_port());
        set(words, "--listen", &address);
        set(words, "--bootstrap", &format!("1={address}"));
    });
    ran.assert_refused(6, &[&dir, "cluster", "--bootstrap"]);
    // A list that has merely grown is ignored: its founders are known.
    let mut words = cluster.serve_words(1);
    let list = format!("{},2=127.0.0.1:{}", cluster.bootstrap(), free_port());
    set(&mut words, "--bootstrap", &list);
    cluster.launch_with(1, words);
    assert_eq!(cluster.raft(&["put", "k", "v"]).code, Some(0));
}

#[test]
fn damaged_log() {
    let mut cluster = lone();
    let mut shell = cluster.shell();
    for number in 0..50 {
        assert!(shell.ask(&format!("put k{number} v")).is_done());
    }
    cluster.kill(1);
    let log = cluster.data_dir(1).join("log");
    let mut damaged = 0;
    for entry in fs::read_dir(&log).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|end| end == "log") && !bytes.is_empty() {
            // Near the start: further on may be what nothing hangs on any more.
            let early = bytes.len().min(200) / 2;
            bytes[early] ^= 0xff;
            fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "there is a write-ahead log to damage");
    raft(cluster.serve_words(1)).assert_refused(6, &[log.to_str().unwrap(), "damaged"]);
}

/// Rule L18. What is committed and not understood is not passed over: the node stops there, each time.
#[test]
fn a_command_that_nobody_understands() {
    let mut cluster = lone();
    assert_eq!(cluster.raft(&["put", "k", "before"]).code, Some(0));
    cluster.stop(1);
    let index = {
        let dir = DataDir::open(&cluster.data_dir(1)).unwrap();
        let mut log = RocksLog::open(&dir, RocksLogConfig::default()).unwrap();
        let found = log.recover().unwrap();
        let index = found.last.next();
        let id = LogId::new(found.hard.term, index);
        let command = Payload::Command(Bytes::from_static(b"\xee of a later version"));
        let entries = vec![Entry { id, payload: command }];
        log.persist(&Batch { seq: 1, entries, ..Batch::default() }).unwrap();
        index
    };
    for _ in 0..2 {
        let ran = raft(cluster.serve_words(1));
        assert_eq!(ran.code, Some(6), "{ran:#?}");
        // Other threads may log after it.
        let error = ran.stderr.lines().find(|line| line.starts_with("error: "));
        let names_it = error.is_some_and(|line| line.contains(&format!("{index}@")));
        assert!(names_it, "{ran:#?}");
    }
}

#[test]
fn founders_with_different_lists_never_form_a_cluster() {
    let mut cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    let second = free_port();
    // Node 2 believes in a cluster of two; node 1 founded one alone.
    let address = format!("127.0.0.1:{second}");
    let dir = cluster.spare_dir("second");
    let list = format!("1={},2={address}", cluster.address(1));
    let mut words: Vec<String> =
        ["serve", "--node-id", "2", "--listen", &address, "--bootstrap"].map(str::to_owned).into();
    words.extend([list, "--tls-dir".to_owned(), text(&cluster.tls_dir())]);
    words.extend(["--data-dir".to_owned(), text(&dir)]);
    let stranger = Background::start(&words);
    let ran = cluster.raft_at(&[1], &["put", "k", "v"]);
    assert_eq!(ran.code, Some(0), "node 1 goes on by itself: {ran:?}");
    until("node 2 says whom it does not know", || stranger.log().contains("cluster").then_some(()));
    let status = cluster.raft_at(&[1], &["status"]).json();
    assert_eq!(status.as_array().map(Vec::len), Some(1), "{status}");
    drop(stranger);
    cluster.kill(1);
}

#[test]
fn missing_certificate() {
    let cluster = lone();
    let empty = cluster.spare_dir("empty");
    fs::create_dir(&empty).unwrap();
    let endpoints = cluster.endpoints(&[1]);
    raft(["get", "k", "--endpoints", &endpoints, "--tls-dir", empty.to_str().unwrap()])
        .assert_refused(2, &["ca.pem", "empty"]);
    raft(["get", "k", "--endpoints", &endpoints]).assert_refused(2, &["--tls-dir"]);

    let other = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    fs::remove_file(other.tls_dir().join("node-1.pem")).unwrap();
    raft(other.serve_words(1)).assert_refused(2, &["node-1.pem"]);
}

#[test]
fn expired_certificate() {
    let cluster = lone();
    let tls = cluster.spare_dir("expired");
    copy_dir(&cluster.tls_dir(), &tls);
    sign(&cluster.tls_dir(), &tls, "client", &["client.raft"], -1);
    let endpoints = cluster.endpoints(&[1]);
    raft(["get", "k", "--endpoints", &endpoints, "--tls-dir", tls.to_str().unwrap()])
        .assert_refused(5, &["expired"]);

    let other = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    sign(&other.tls_dir(), &other.tls_dir(), "node-1", &["node-1.raft", "127.0.0.1"], -1);
    raft(other.serve_words(1)).assert_refused(5, &["node-1.pem", "expired"]);
}

#[test]
fn certificate_of_another_authority() {
    let (cluster, other) = (lone(), Cluster::prepare(Options::default()));
    let endpoints = cluster.endpoints(&[1]);
    let tls = other.tls_dir();
    raft(["put", "k", "v", "--endpoints", &endpoints, "--tls-dir", tls.to_str().unwrap()])
        .assert_refused(5, &[&endpoints]);
}

/// The same authority: only the name of the cluster tells them apart.
#[test]
fn certificate_of_another_cluster() {
    let cluster = lone();
    let tls = cluster.spare_dir("other");
    copy_dir(&cluster.tls_dir(), &tls);
    sign(&cluster.tls_dir(), &tls, "client", &["client.other"], 30);
    let endpoints = cluster.endpoints(&[1]);
    raft(["put", "k", "v", "--endpoints", &endpoints, "--tls-dir", tls.to_str().unwrap()])
        .assert_refused(5, &["cluster raft", "cluster other"]);

    let mut named = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    let blue = text(&named.spare_dir("blue"));
    let init = ["tls", "init", "--nodes", "1", "--dir", &blue, "--cluster"];
    raft(init.iter().chain(&["Blue"])).assert_refused(2, &["Blue", "DNS"]);
    let made = raft(init.iter().chain(&["blue"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    sign(Path::new(&blue), Path::new(&blue), "client", &["client.raft"], 30);
    let mut words = named.serve_words(1);
    set(&mut words, "--tls-dir", &blue);
    named.launch_with(1, words);
    let endpoints = named.endpoints(&[1]);
    raft(["put", "k", "v", "--endpoints", &endpoints, "--tls-dir", &blue])
        .assert_refused(5, &["cluster raft", "cluster blue"]);
}

#[test]
fn certificate_of_another_node() {
    let cluster = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    let tls = cluster.tls_dir();
    for end in ["pem", "key"] {
        fs::copy(tls.join(format!("node-2.{end}")), tls.join(format!("node-1.{end}"))).unwrap();
    }
    raft(cluster.serve_words(1)).assert_refused(5, &["node-1.pem"]);
}

#[test]
fn a_peer_that_speaks_garbage() {
    let cluster = lone();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for size in [1_usize, 20, 1200, 1400] {
        for _ in 0..200 {
            let datagram: Vec<u8> = (0..size)
                .map(|_| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    noise.to_be_bytes()[0]
                })
                .collect();
            socket.send_to(&datagram, cluster.address(1)).unwrap();
        }
    }
    assert_eq!(cluster.raft(&["put", "k", "v"]).code, Some(0), "the node goes on");
    assert!(!cluster.log(1).contains("panic"), "{}", cluster.log(1));
}

#[test]
fn an_endpoint_that_speaks_garbage() {
    let cluster = lone();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        socket.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
        while let Ok((size, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..size], from);
        }
    });
    let tls = cluster.tls_dir();
    raft(["get", "k", "--timeout", "1s", "--endpoints", &address, "--tls-dir", &text(&tls)])
        .assert_refused(3, &[&address]);
    echo.join().unwrap();
}

#[test]
fn empty_key() {
    let cluster = lone();
    cluster.raft(&["put", "", "v"]).assert_refused(2, &["key"]);
    cluster.raft(&["get", ""]).assert_refused(2, &["key"]);
    cluster.raft(&["del", ""]).assert_refused(2, &["key"]);
}

#[test]
fn value_over_the_limit() {
    let cluster = lone();
    let mut shell = cluster.shell();
    let limit = 1 << 20;
    assert!(shell.ask(&format!("put k {}", "x".repeat(limit))).is_done(), "the limit itself");
    match shell.ask(&format!("put k {}", "x".repeat(limit + 1))) {
        Answer::Failed(kind, message) => {
            assert_eq!(kind, "usage");
            assert!(message.contains("1048577") && message.contains("1048576"), "{message}");
        }
        Answer::Done(value) => panic!("taken: {value}"),
    }
    assert!(shell.ask("put k small").is_done(), "the shell goes on");
}

#[test]
fn endpoints_that_do_not_resolve() {
    let cluster = lone();
    let tls = text(&cluster.tls_dir());
    let at = |endpoints: &str| {
        raft(["get", "k", "--timeout", "2s", "--tls-dir", &tls, "--endpoints", endpoints])
    };
    at("no-such-host.invalid:7101").assert_refused(3, &["no-such-host.invalid:7101"]);
    at("127.0.0.1").assert_refused(2, &["127.0.0.1", "HOST:PORT"]);
    raft(["get", "k", "--tls-dir", &tls]).assert_refused(2, &["--endpoints", "RAFT_ENDPOINTS"]);
    let nobody = format!("127.0.0.1:{}", free_port());
    at(&nobody).assert_refused(3, &[&nobody]);
    // One that does not resolve does not spoil the others.
    let mixed = format!("no-such-host.invalid:7101,{}", cluster.address(1));
    let ran = raft(["put", "k", "v", "--tls-dir", &tls, "--endpoints", &mixed]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn a_join_that_cannot_work() {
    let cluster = lone();
    let nobody = format!("127.0.0.1:{}", free_port());
    let words = |id: &str, others: &str| {
        let listen = format!("127.0.0.1:{}", free_port());
        let dir = text(&cluster.spare_dir(&format!("join-{id}")));
        let tls = text(&cluster.tls_dir());
        ["serve", "--node-id", id, "--data-dir", &dir, "--listen", &listen, "--tls-dir", &tls]
            .into_iter()
            .chain(["--timeout", "2s", "--join", others])
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    raft(words("2", &nobody)).assert_refused(3, &[&nobody]);
    // A wiped disk that comes back under an old id (rule M10).
    raft(words("1", cluster.address(1))).assert_refused(6, &["node 1", "member"]);
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Replaces a certificate in `to` by one that ends so many days from now, signed by the authority
/// in `from`.
fn sign(from: &Path, to: &Path, name: &str, names: &[&str], days: i64) {
    let read = |file: &str| fs::read_to_string(from.join(file)).unwrap();
    let authority_key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let authority = Issuer::from_ca_cert_pem(&read("ca.pem"), authority_key).unwrap();
    let key = KeyPair::from_pem(&fs::read_to_string(to.join(format!("{name}.key"))).unwrap());
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = OffsetDateTime::now_utc() - Duration::days(30);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
    let certificate = params.signed_by(&key.unwrap(), &authority).unwrap();
    fs::write(to.join(format!("{name}.pem")), certificate.pem()).unwrap();
}
