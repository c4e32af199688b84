//! Who is at the other end of a connection, by the certificate that TLS has verified.
//!
//! TLS proves that a certificate comes from our authority. Whether its owner belongs to our cluster,
//! and is the node that was called, is checked here, right after and before anything is said (rule
//! L17). A refusal names both clusters, on both sides.

use quinn::Connection;
use raft_core::NodeId;
use rustls::pki_types::CertificateDer;

use crate::close::{Refusal, RefusalKind};
use crate::error::{CertificateFault, ConnectError};
use crate::names::{ClusterName, NameError, Party};

/// Why a certificate of our authority does not do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// It does not say whom it speaks for.
    Unnamed(NameError),
    /// It is a client's, and a node is expected.
    Client,
    /// It is of another cluster.
    OtherCluster { theirs: String, ours: String },
    /// It is another node's than the one that was called.
    OtherNode { called: NodeId, found: NodeId },
}

/// Which node of the cluster `own` has connected to us.
pub(crate) fn node(connection: &Connection, own: &ClusterName) -> Result<NodeId, Stranger> {
    match party(connection)? {
        Party::Node(id, cluster) if cluster == *own => Ok(id),
        Party::Client(_) => Err(Stranger::Client),
        other @ Party::Node(..) => Err(other_cluster(&other, own.to_string())),
    }
}

/// Checks that the node that answers us is `called`.
pub(crate) fn called_node(
    connection: &Connection,
    own: &ClusterName,
    called: NodeId,
) -> Result<(), Stranger> {
    let found = node(connection, own)?;
    if found == called { Ok(()) } else { Err(Stranger::OtherNode { called, found }) }
}

/// Checks that whoever has connected to us as a client has any business in the cluster `own`. A node
/// may, to ask for being admitted.
pub(crate) fn client(connection: &Connection, own: &ClusterName) -> Result<(), Stranger> {
    let party = party(connection)?;
    if party.is_of(own) { Ok(()) } else { Err(other_cluster(&party, own.to_string())) }
}

/// Checks that the node that answers `own`, a client, is of a cluster that its certificate is for.
pub(crate) fn server(connection: &Connection, own: &Party) -> Result<(), Stranger> {
    match party(connection)? {
        Party::Node(_, cluster) if own.is_of(&cluster) => Ok(()),
        Party::Client(_) => Err(Stranger::Client),
        other @ Party::Node(..) => Err(other_cluster(&other, own.clusters())),
    }
}

impl Stranger {
    /// Says so to the other side.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Unnamed(error) => Refusal::new(RefusalKind::Certificate, error.to_string()),
            Self::Client => Refusal::new(
                RefusalKind::Certificate,
                "the certificate names no node; a client's certificate cannot speak as a node, \
                 use node-<id>.pem",
            ),
            Self::OtherCluster { theirs, ours } => Refusal::new(
                RefusalKind::Cluster,
                format!(
                    "a certificate of cluster {theirs} was shown to one of cluster {ours}; use \
                     certificates of one cluster, or the right address"
                ),
            ),
            Self::OtherNode { called, found } => Refusal::new(
                RefusalKind::Certificate,
                format!("node {called} was called, and the certificate is that of node {found}"),
            ),
        }
    }

    /// Says so to whoever wanted to connect.
    pub(crate) fn fault(self) -> ConnectError {
        ConnectError::TheirsRefused(match self {
            Self::Unnamed(error) => CertificateFault::Other(error.to_string()),
            Self::Client | Self::OtherNode { .. } => CertificateFault::OtherName,
            Self::OtherCluster { theirs, ours } => CertificateFault::OtherCluster { theirs, ours },
        })
    }

    /// Closes the connection for this reason, and says it to whoever wanted to connect.
    pub(crate) fn turn_away(self, connection: &Connection) -> ConnectError {
        self.refusal().close(connection);
        self.fault()
    }
}

/// Whom the certificate of the other side speaks for.
fn party(connection: &Connection) -> Result<Party, Stranger> {
    let identity = connection.peer_identity();
    let chain = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain.as_ref().and_then(|chain| chain.first());
    // There is one: both sides demand it.
    let party = leaf.map_or(Err(NameError::Garbled), |leaf| Party::of_certificate(leaf));
    party.map_err(Stranger::Unnamed)
}

fn other_cluster(theirs: &Party, ours: String) -> Stranger {
    Stranger::OtherCluster { theirs: theirs.clusters(), ours }
}
