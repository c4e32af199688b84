//! The names in certificates: whom does a certificate speak for, and in which cluster?
//!
//! A node's certificate has one DNS name of the form `node-<id>.<cluster>` among its subject
//! alternative names, a client's has none; `client.<cluster>` binds it to a cluster. The common name
//! and everything else is ignored. So one authority may serve several clusters, and a certificate of
//! one of them is of no use in the others (rule L17).

use std::fmt;
use std::sync::Arc;

use raft_core::NodeId;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The name of a cluster in its certificates: a DNS name in lower case, of at most 200 bytes.
///
/// Whoever issues the certificates chooses it. Nodes take their own from their own certificate; it
/// says who belongs together before there is any data, and so before there is a
/// [`ClusterId`](raft_core::ClusterId).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// Checks the form: labels of 1 to 63 letters `a-z`, digits and inner hyphens, with dots between
    /// them. `None` for anything else.
    pub fn new(name: &str) -> Option<Self> {
        let sound = name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label);
        sound.then(|| Self(name.into()))
    }
}

/// `raft`: who has one cluster need not name it.
impl Default for ClusterName {
    fn default() -> Self {
        Self("raft".into())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The DNS name by which a certificate names the node `id` of `cluster`: `node-7.raft`.
pub fn node_name(id: NodeId, cluster: &ClusterName) -> String {
    format!("{NODE}{id}.{cluster}")
}

/// The DNS name by which a client's certificate says that it is for `cluster` only: `client.raft`.
pub fn client_name(cluster: &ClusterName) -> String {
    format!("{CLIENT}{cluster}")
}

/// The node of which cluster a DNS name stands for, the inverse of [`node_name`]. `None` if it is
/// not of that form. Only the one spelling counts: no leading zeros, signs or capitals.
pub fn named_node(name: &str) -> Option<(NodeId, ClusterName)> {
    let (digits, cluster) = name.strip_prefix(NODE)?.split_once('.')?;
    let (id, cluster) = (digits.parse().ok()?, ClusterName::new(cluster)?);
    (node_name(id, &cluster) == name).then_some((id, cluster))
}

/// Whom a certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// A node, in one cluster.
    Node(NodeId, ClusterName),
    /// A client of these clusters; of any, if there are none.
    Client(Vec<ClusterName>),
}

impl Party {
    /// Reads the names in a DER certificate. The caller has verified it, or does so next.
    pub(crate) fn of_certificate(der: &[u8]) -> Result<Self, NameError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NameError::Garbled)?;
        let names = certificate.subject_alternative_name().map_err(|_| NameError::Garbled)?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let (mut node, mut clusters) = (None, Vec::new());
        for name in names.iter().filter_map(dns_name) {
            if let Some(named) = named_node(name) {
                if node.as_ref().is_some_and(|other| *other != named) {
                    return Err(NameError::Several);
                }
                node = Some(named);
            }
            clusters.extend(name.strip_prefix(CLIENT).and_then(ClusterName::new));
        }
        Ok(node.map_or(Self::Client(clusters), |(id, cluster)| Self::Node(id, cluster)))
    }

    /// Whether it has any business in `cluster`.
    pub(crate) fn is_of(&self, cluster: &ClusterName) -> bool {
        match self {
            Self::Node(_, own) => own == cluster,
            Self::Client(clusters) => clusters.is_empty() || clusters.contains(cluster),
        }
    }

    /// The clusters that it names, for people.
    pub(crate) fn clusters(&self) -> String {
        match self {
            Self::Node(_, own) => own.to_string(),
            Self::Client(clusters) => {
                clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// Why a certificate cannot say whom it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// It is not a certificate, or its names cannot be read.
    #[error("the certificate cannot be read")]
    Garbled,
    /// It would let its owner choose who to be.
    #[error("the certificate names several nodes; only one name may begin with node-<id>.")]
    Several,
}

// Only DNS names count. Listing the other kinds would tie us to the parser's version.
fn dns_name<'a>(name: &'a GeneralName<'_>) -> Option<&'a str> {
    if let GeneralName::DNSName(name) = name { Some(name) } else { None }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

const NODE: &str = "node-";
const CLIENT: &str = "client.";
/// A DNS name has at most 253 bytes, and the id of a node needs its part.
const MAX_NAME_BYTES: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Option<(u64, String)> {
        named_node(name).map(|(id, cluster)| (id.as_u64(), cluster.to_string()))
    }

    #[test]
    fn only_one_spelling_names_a_node() {
        assert_eq!(named("node-7.raft"), Some((7, "raft".to_owned())));
        assert_eq!(named("node-7.db-2.example.org"), Some((7, "db-2.example.org".to_owned())));
        let largest = "node-18446744073709551615.raft";
        assert_eq!(named(largest), Some((u64::MAX, "raft".to_owned())));
        for other in [
            "node-0.raft",
            "node-07.raft",
            "node-+7.raft",
            "node-.raft",
            "node-7",
            "node-7.",
            "node-7.raft.",
            "node-7..raft",
            "node-7.Raft",
            "node-7.-raft",
            "Node-7.raft",
            "client.raft",
            "x.node-7.raft",
            "node-*.raft",
            "node-18446744073709551616.raft",
        ] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn the_longest_name_of_a_cluster_makes_names_of_the_length_that_dns_allows() {
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(8)].join(".");
        let cluster = ClusterName::new(&longest).unwrap();
        assert!(node_name(NodeId::new(u64::MAX).unwrap(), &cluster).len() <= 253);
        assert_eq!(ClusterName::new(&format!("{longest}d")), None);
        assert_eq!(ClusterName::new(&"a".repeat(64)), None);
        assert_eq!(ClusterName::new(""), None);
    }

    fn party(names: &[&str]) -> Result<Party, NameError> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Party::of_certificate(made.cert.der())
    }

    /// Rule L17.
    #[test]
    fn a_certificate_speaks_for_one_node_of_one_cluster() {
        let [ours, theirs] = ["a", "b.example"].map(|name| ClusterName::new(name).unwrap());
        let two = NodeId::new(2).unwrap();
        let node = party(&["localhost", "node-2.a", "127.0.0.1"]).unwrap();
        assert_eq!(node, Party::Node(two, ours.clone()));
        assert!(node.is_of(&ours) && !node.is_of(&theirs));
        // A node that has a client's name, too, is still only itself.
        assert_eq!(party(&["client.b.example", "node-2.a"]), Ok(node));
        for several in [["node-2.a", "node-3.a"], ["node-2.a", "node-2.b.example"]] {
            assert_eq!(party(&several), Err(NameError::Several));
        }

        let client = party(&["client.b.example"]).unwrap();
        assert!(client.is_of(&theirs) && !client.is_of(&ours));
        let any = party(&["alice.example"]).unwrap();
        assert!(any.is_of(&theirs) && any.is_of(&ours));
    }

    #[test]
    fn garbage_is_not_a_certificate() {
        assert_eq!(Party::of_certificate(b"garbage"), Err(NameError::Garbled));
    }
}
