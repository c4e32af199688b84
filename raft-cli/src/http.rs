//! The operators' window: plain HTTP, read only, small.
//!
//! `/healthz` says that the process runs, `/readyz` that the node knows a leader, `/status` what
//! the node does as JSON, `/metrics` a few gauges in Prometheus' text format. Nothing here can
//! change anything, and nothing here sees a key or a value. Connections are bounded in number and
//! in time, because anybody who reaches the port may open them.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use raft_core::{Handle, RoleName, Status};
use raft_kv::api::Condition;
use raft_kv::{Service, Space};
use raft_net_quic::{CertificateExpiry, Monitor, SnapshotProgress};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// What there is to be seen of a node.
#[derive(Clone)]
pub(crate) struct Sights {
    pub(crate) handle: Handle,
    pub(crate) network: Monitor,
    pub(crate) service: Service,
}

/// Answers on `listener` for as long as the runtime lives.
pub(crate) async fn serve(listener: TcpListener, sights: Sights) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely. Others get the chance to close theirs.
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let sights = sights.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer_to(request, &sights));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE_TIMEOUT)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%from, %error, "HTTP connection ended"),
                Err(_) => tracing::debug!(%from, "HTTP connection closed: open for too long"),
            }
            drop(place);
        });
    }
}

/// Binds, before anything else of the node is started.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn answer_to(
    request: Request<Incoming>,
    sights: &Sights,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = if matches!(*request.method(), Method::GET | Method::HEAD) {
        let Sights { handle, network, service } = sights;
        let store = service.condition();
        let page = Page { status: &handle.status(), store, snapshots: network.snapshots() };
        let (expiry, stopped) = (network.certificate_expiry(), handle.stopped().is_some());
        answer(request.uri().path(), &page, expiry, stopped)
    } else {
        Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n")
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

struct Answer {
    code: StatusCode,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn text(code: StatusCode, body: impl Into<String>) -> Self {
        Self { code, kind: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// What `/status` shows.
#[derive(Serialize)]
struct Page<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// How its store is.
    store: Condition,
    /// How far snapshots are that come in or go out.
    snapshots: Vec<SnapshotProgress>,
}

fn answer(path: &str, page: &Page<'_>, expiry: CertificateExpiry, stopped: bool) -> Answer {
    let status = page.status;
    match path {
        "/healthz" if stopped => {
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, "the node has stopped\n")
        }
        "/healthz" => Answer::text(StatusCode::OK, "ok\n"),
        "/readyz" if stopped || status.leader.is_none() => {
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, "no leader is known\n")
        }
        "/readyz" => Answer::text(StatusCode::OK, "ok\n"),
        "/status" => match serde_json::to_string(page) {
            Ok(body) => {
                Answer { code: StatusCode::OK, kind: "application/json", body: body + "\n" }
            }
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        "/metrics" => Answer {
            kind: "text/plain; version=0.0.4",
            ..Answer::text(StatusCode::OK, metrics(status, &page.store, expiry))
        },
        _ => Answer::text(
            StatusCode::NOT_FOUND,
            "there is /healthz, /readyz, /status and /metrics\n",
        ),
    }
}

fn metrics(status: &Status, store: &Condition, expiry: CertificateExpiry) -> String {
    let seconds = |moment: SystemTime| {
        moment.duration_since(UNIX_EPOCH).map_or(0, |since_1970| since_1970.as_secs())
    };
    let leads = u64::from(status.role == RoleName::Leader);
    let gauges = [
        ("raft_term", "The term this node is in.", status.term.0),
        ("raft_is_leader", "1 if this node leads.", leads),
        ("raft_has_leader", "1 if this node knows a leader.", u64::from(status.leader.is_some())),
        ("raft_last_index", "The last entry of its log.", status.last.index.0),
        ("raft_persisted_index", "The last entry that is durable here.", status.persisted.0),
        ("raft_commit_index", "The last entry known to be committed.", status.commit.0),
        ("raft_applied_index", "The last entry that is applied.", status.applied.0),
        ("raft_log_base_index", "Entries up to here are only in snapshots.", status.base.index.0),
        (
            "raft_kv_stored_bytes",
            "The bytes of keys and values with their history.",
            store.stored_bytes,
        ),
        (
            "raft_kv_quota_bytes",
            "The most of these there may be. 0 if there is no limit.",
            store.quota_bytes.unwrap_or(0),
        ),
        ("raft_kv_free_bytes", "The bytes that the disk has to spare.", store.free_bytes),
        (
            "raft_kv_no_space",
            "1 while puts are refused for want of space here.",
            u64::from(store.space == Space::Full),
        ),
        ("raft_kv_alarms", "How many alarms this node knows of.", store.alarms.len() as u64),
        (
            "raft_kv_machine_version",
            "The version of commands that is in force.",
            store.version.0.into(),
        ),
        (
            "raft_certificate_expiry_timestamp_seconds",
            "When the node's certificate ends, in seconds since 1970.",
            seconds(expiry.certificate),
        ),
        (
            "raft_authority_expiry_timestamp_seconds",
            "When the first of the authorities that are believed ends, in seconds since 1970.",
            seconds(expiry.authority),
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        metric(&mut text, name, help, "gauge", value);
    }
    let help = "Messages dropped because they made no sense.";
    metric(&mut text, "raft_dropped_messages_total", help, "counter", status.dropped);
    text
}

fn metric(text: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

const MAX_CONNECTIONS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 << 10;
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use raft_core::{Index, LogId, Membership, NodeId, Term};
    use raft_kv::{Alarm, MachineVersion};
    use raft_net_quic::SnapshotDirection;

    use super::*;

    fn status(leader: Option<NodeId>) -> Status {
        Status {
            id: NodeId::new(1).unwrap(),
            role: RoleName::Leader,
            term: Term(3),
            vote: None,
            leader,
            base: LogId::ZERO,
            last: LogId::new(Term(3), Index(9)),
            persisted: Index(8),
            commit: Index(7),
            applied: Index(6),
            membership: Membership::default(),
            membership_at: LogId::ZERO,
            followers: Vec::new(),
            lease: false,
            removed: None,
            dropped: 2,
        }
    }

    fn expiry() -> CertificateExpiry {
        let after = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        CertificateExpiry { certificate: after(1_900_000_000), authority: after(2_000_000_000) }
    }

    fn store() -> Condition {
        Condition {
            stored_bytes: 90,
            quota_bytes: Some(100),
            free_bytes: 1_000,
            space: Space::Full,
            version: MachineVersion::SUPPORTED,
            supports: MachineVersion::SUPPORTED,
            alarms: vec![Alarm::NoSpace { node: NodeId::new(1).unwrap() }],
        }
    }

    fn page(status: &Status) -> Page<'_> {
        let snapshot = SnapshotProgress {
            peer: NodeId::new(2).unwrap(),
            direction: SnapshotDirection::Incoming,
            last: LogId::ZERO,
            bytes: 5,
            total_bytes: 10,
        };
        Page { status, store: store(), snapshots: vec![snapshot] }
    }

    #[test]
    fn ready_means_that_a_leader_is_known() {
        let code =
            |path, leader, stopped| answer(path, &page(&status(leader)), expiry(), stopped).code;
        let leader = NodeId::new(1);
        assert_eq!(code("/readyz", leader, false), StatusCode::OK);
        assert_eq!(code("/readyz", None, false), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(code("/readyz", leader, true), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(code("/healthz", None, false), StatusCode::OK);
        assert_eq!(code("/healthz", None, true), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(code("/", leader, false), StatusCode::NOT_FOUND);
    }

    #[test]
    fn metrics_and_status_show_the_numbers() {
        let status = status(NodeId::new(1));
        let text = answer("/metrics", &page(&status), expiry(), false).body;
        for line in [
            "raft_term 3",
            "raft_is_leader 1",
            "raft_commit_index 7",
            "raft_kv_stored_bytes 90",
            "raft_kv_no_space 1",
            "raft_kv_alarms 1",
            "raft_certificate_expiry_timestamp_seconds 1900000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        let json: serde_json::Value =
            serde_json::from_str(&answer("/status", &page(&status), expiry(), false).body).unwrap();
        assert_eq!(json["role"], "leader");
        assert_eq!(json["applied"], 6);
        assert_eq!(json["store"]["alarms"][0]["no_space"]["node"], 1);
        assert_eq!(json["snapshots"][0]["direction"], "incoming");
        assert_eq!(json["snapshots"][0]["bytes"], 5);
    }
}
