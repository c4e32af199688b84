//! The names in certificates: which node does a certificate speak for?
//!
//! A node's certificate has the DNS name `node-<id>.raft` among its subject alternative names,
//! once. A client's has none of that form. The common name and everything else is ignored.

use raft_core::NodeId;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The DNS name by which a certificate names the node `id`: `node-7.raft`.
pub fn node_name(id: NodeId) -> String {
    format!("{PREFIX}{id}{SUFFIX}")
}

/// Which node the DER certificate speaks for; `None` if it is not a node's.
///
/// The caller has verified the certificate, or does so next: this only reads it.
pub(crate) fn node_of_certificate(der: &[u8]) -> Result<Option<NodeId>, NameError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NameError::Garbled)?;
    let names = certificate.subject_alternative_name().map_err(|_| NameError::Garbled)?;
    let Some(names) = names else { return Ok(None) };
    let mut found = None;
    for name in &names.value.general_names {
        let Some(id) = dns_name(name).and_then(node_of_name) else { continue };
        if found.is_some_and(|other| other != id) {
            return Err(NameError::Several);
        }
        found = Some(id);
    }
    Ok(found)
}

/// Why a certificate cannot say which node it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// It is not a certificate, or its names cannot be read.
    #[error("the certificate cannot be read")]
    Garbled,
    /// It would let its owner choose who to be.
    #[error("the certificate names several nodes")]
    Several,
}

// Only DNS names count. Listing the other kinds would tie us to the parser's version.
fn dns_name<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::DNSName(name) = name { Some(name) } else { None }
}

/// The inverse of [`node_name`]. Only the one spelling counts: no leading zeros or signs.
fn node_of_name(name: &str) -> Option<NodeId> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let id = digits.parse().ok()?;
    (node_name(id) == name).then_some(id)
}

const PREFIX: &str = "node-";
const SUFFIX: &str = ".raft";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_spelling_names_a_node() {
        let seven = NodeId::new(7);
        assert_eq!(node_of_name("node-7.raft"), seven);
        assert_eq!(node_of_name("node-18446744073709551615.raft"), NodeId::new(u64::MAX));
        for other in [
            "node-0.raft",
            "node-07.raft",
            "node-+7.raft",
            "node-.raft",
            "node-7",
            "node-7.raft.",
            "Node-7.raft",
            "client.raft",
            "x.node-7.raft",
            "node-18446744073709551616.raft",
        ] {
            assert_eq!(node_of_name(other), None, "{other}");
        }
    }

    #[test]
    fn garbage_is_not_a_certificate() {
        assert_eq!(node_of_certificate(b"garbage"), Err(NameError::Garbled));
    }
}
