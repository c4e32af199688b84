//! What can go wrong, by what the caller can do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use quinn::ConnectionError;
use raft_core::NodeId;

use crate::close::Refusal;
use crate::names::ClusterName;

/// Why a transport or a client could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// Another process listens there. Stop it, or listen elsewhere.
    #[error("UDP port {address} is in use by another process; stop it or listen elsewhere")]
    PortInUse {
        /// Where this node should have listened.
        address: SocketAddr,
    },
    /// The address is not one of this machine, or the system refused the socket.
    #[error("cannot listen on {address}: {source}")]
    Socket {
        /// Where this node should have listened.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A file of [`TlsFiles`](crate::TlsFiles) is missing or cannot be read.
    #[error("cannot read {}: {source}; `raft tls init` makes certificates and keys", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is there but does not hold what it should.
    #[error(
        "{} does not hold {expected} in PEM form ({detail}); `raft tls init` makes new ones in a \
         new directory",
        path.display()
    )]
    Garbled {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A certificate was valid once. Make a new one.
    #[error(
        "the certificate in {} expired on {expired}; make new ones with `raft tls renew` (and \
         check this machine's clock)",
        path.display()
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// Its last moment.
        expired: String,
    },
    /// A certificate is not valid yet. Most likely the clock of this machine is wrong.
    #[error(
        "the certificate in {} is not valid before {valid_from}; check this machine's clock, or \
         make new ones with `raft tls init`",
        path.display()
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// Its first moment.
        valid_from: String,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key in {} does not belong to the certificate in {}; use the pair that `raft tls \
         init` made together",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificate.
        certificate: PathBuf,
    },
    /// Nobody of this cluster would believe the certificate.
    #[error(
        "the certificate in {} was not issued by the authority in {}; take both from the same \
         `raft tls init`",
        certificate.display(), ca.display()
    )]
    OtherAuthority {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the authorities.
        ca: PathBuf,
    },
    /// The certificate is for another node, or for a client.
    #[error(
        "the certificate in {} is not that of node {node} ({}); node {node} needs the file \
         node-{node}.pem that `raft tls init` made",
        certificate.display(),
        names.map_or_else(|| "it names no node".to_owned(), |other| format!("it names node {other}"))
    )]
    OtherNode {
        /// The file with the certificate.
        certificate: PathBuf,
        /// Who we are.
        node: NodeId,
        /// Whom it names.
        names: Option<NodeId>,
    },
    /// New certificates are of another cluster than those in use. They are not taken up.
    #[error(
        "the certificate in {} is of cluster {names}, and this node runs in cluster {cluster}; put \
         one of {cluster} in its place",
        certificate.display()
    )]
    OtherCluster {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The cluster that we are in.
        cluster: ClusterName,
        /// The cluster that it names.
        names: ClusterName,
    },
    /// The certificate or key cannot be used for another reason.
    #[error("the certificate in {} cannot be used: {detail}; `raft tls init` makes new ones", path.display())]
    Unusable {
        /// The file with the certificate.
        path: PathBuf,
        /// What the TLS library says.
        detail: String,
    },
    /// The directory for arriving snapshots cannot be made or emptied.
    #[error("cannot prepare {} for arriving snapshots: {source}", path.display())]
    Incoming {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A duration is out of range.
    #[error("an idle timeout of {idle_timeout:?} is not possible; choose 10 ms to 1 hour")]
    IdleTimeout {
        /// What was asked for.
        idle_timeout: Duration,
    },
}

/// Why a call has no answer. The two cases differ in what the caller may do next.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request has not reached the node and never will: it is safe to send it again, there or
    /// to another node.
    #[error("{endpoint}: {cause}")]
    NotSent {
        /// Whom it was for.
        endpoint: String,
        /// Why.
        cause: ConnectError,
    },
    /// The request may have reached the node, and may still take effect.
    #[error("{endpoint}: {cause}; the request may have taken effect")]
    Lost {
        /// Whom it was for.
        endpoint: String,
        /// What happened instead of an answer.
        cause: LossCause,
    },
}

/// Why a request has not left, or a node could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint is not `host:port`, or the name leads nowhere. Check how it is written.
    #[error("cannot resolve it: {detail}; endpoints are written host:port")]
    Unresolvable {
        /// What the resolver says.
        detail: String,
    },
    /// Nobody answers there in time. The node may be down, or a firewall is in between.
    #[error("no answer; is the node running there?")]
    NoAnswer,
    /// The node does not believe our certificate.
    #[error("the node refused our certificate: {0}")]
    OursRefused(CertificateFault),
    /// We do not believe the node's certificate.
    #[error("the node's certificate was refused: {0}")]
    TheirsRefused(CertificateFault),
    /// The node refused the connection and says why.
    #[error("the node refused: {0}")]
    Refused(Refusal),
    /// The connection broke while it was being set up or before the request was written.
    #[error("the connection failed: {detail}")]
    Failed {
        /// How.
        detail: String,
    },
    /// The deadline passed before the request could be written.
    #[error("the deadline passed before the request could be sent")]
    Deadline,
    /// More requests wait than the client may hold. Slow down.
    #[error("too many requests wait to be sent; try again in a moment")]
    Busy,
    /// The request is larger than the client or the node takes.
    #[error("the request has {bytes} bytes, at most {limit} are allowed")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFault {
    /// It comes from another `raft tls init`.
    #[error("it was issued by another authority; use the files of one `raft tls init` everywhere")]
    OtherAuthority,
    /// Its time is over, or has not come; or a clock is wrong.
    #[error(
        "it has expired or is not yet valid; make new ones with `raft tls renew`, and check the \
         clocks"
    )]
    Expired,
    /// It does not name the node it should, or it is a client's.
    #[error("it is not for this node; each node needs its own file node-<id>.pem")]
    OtherName,
    /// It is one of another cluster, under the same authority.
    #[error(
        "it is of cluster {theirs}, ours of cluster {ours}; use certificates of one cluster, or the \
         right address"
    )]
    OtherCluster {
        /// The cluster that it names.
        theirs: String,
        /// The one that our certificate names; several, with commas, if it is a client's for them.
        ours: String,
    },
    /// None was shown.
    #[error("none was shown; every node and client needs one from `raft tls init`")]
    Missing,
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// What happened to a request that was sent, instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LossCause {
    /// The connection is gone.
    #[error("the connection was lost ({detail})")]
    Connection {
        /// How.
        detail: String,
    },
    /// The deadline passed.
    #[error("no answer before the deadline")]
    Deadline,
    /// The node says that it will not answer this request.
    #[error("the node has no answer to this request")]
    NoAnswer,
    /// The answer is larger than the node may send.
    #[error("the answer is larger than a reply may be")]
    TooLong,
}

impl ConnectError {
    /// Sorts the ways in which a connection can fail before anything was sent on it.
    pub(crate) fn of(error: &ConnectionError) -> Self {
        if let Some(refusal) = Refusal::of(error) {
            return Self::Refused(refusal);
        }
        if let ConnectionError::TransportError(error) = error
            && let Some(alert) = tls_alert(error.code.into())
        {
            return Self::TheirsRefused(CertificateFault::of_alert(alert, &error.reason));
        }
        if let ConnectionError::ConnectionClosed(close) = error {
            if let Some(alert) = tls_alert(close.error_code.into()) {
                let reason = String::from_utf8_lossy(&close.reason);
                return Self::OursRefused(CertificateFault::of_alert(alert, &reason));
            }
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED {
                let detail = "the node has too many connections; try again in a moment";
                return Self::Refused(Refusal::new(crate::close::RefusalKind::Busy, detail));
            }
        }
        if matches!(error, ConnectionError::TimedOut) {
            return Self::NoAnswer;
        }
        Self::Failed { detail: error.to_string() }
    }
}

impl CertificateFault {
    /// What the side that verified a certificate said about it, in the form of a TLS alert. One
    /// name stands for several alerts because rustls chooses between them by how far it got.
    fn of_alert(alert: u8, reason: &str) -> Self {
        match alert {
            // unknown_ca; decrypt_error: an authority of the same name with another key.
            48 | 51 => Self::OtherAuthority,
            // bad_certificate covers wrong names, among others.
            42 if reason.contains("NotValidForName") || reason.contains("not valid for name") => {
                Self::OtherName
            }
            45 => Self::Expired,
            116 => Self::Missing,
            other => {
                let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
                Self::Other(format!("TLS alert {other} {reason}").trim_end().to_owned())
            }
        }
    }
}

/// QUIC carries TLS alerts as error codes 0x100 to 0x1ff (RFC 9001 4.8).
fn tls_alert(code: u64) -> Option<u8> {
    code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}
