//! How a cluster begins: the list of its founders, and the name that follows from it.
//!
//! The name of a cluster is derived from its authority's certificate and from the founders' list.
//! Founders that were given different lists have different names, and nodes of different names
//! refuse each other: two clusters cannot grow out of one typing error (rule M15).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use raft_core::{ClusterId, LogId, Membership, NodeId, SnapshotMeta};
use ring::digest::{Context, SHA256};

use crate::failure::Failure;

/// Who founds a cluster, and where they are: the list of `--bootstrap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Founders(BTreeMap<NodeId, String>);

impl Founders {
    /// Reads `1=host:port,2=host:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let mut founders = BTreeMap::new();
        for item in text.split(',').map(str::trim) {
            let (id, address) = item.split_once('=').ok_or_else(|| {
                Failure::usage(format!("--bootstrap: {item:?} is not of the form ID=HOST:PORT"))
            })?;
            let id: NodeId = id.trim().parse().map_err(|_| {
                Failure::usage(format!("--bootstrap: {id:?} is not a node id, a number from 1 on"))
            })?;
            let address = checked_address("--bootstrap", address.trim())?;
            if let Some((other, _)) = founders.iter().find(|(_, known)| **known == address) {
                return Err(Failure::usage(format!(
                    "--bootstrap: nodes {other} and {id} have the same address {address}"
                )));
            }
            if founders.insert(id, address).is_some() {
                return Err(Failure::usage(format!("--bootstrap: node {id} is named twice")));
            }
        }
        Ok(Self(founders))
    }

    /// Where the others reach `node`, given what it was told about itself.
    pub(crate) fn address_of(
        &self,
        node: NodeId,
        listen: SocketAddr,
        advertise: Option<&str>,
    ) -> Result<&str, Failure> {
        let listed = self.0.get(&node).ok_or_else(|| {
            Failure::usage(format!(
                "--bootstrap does not name node {node} itself; the list is the same on every node \
                 and holds all of them"
            ))
        })?;
        match advertise {
            Some(advertise) if advertise != listed => Err(Failure::usage(format!(
                "--advertise is {advertise}, but --bootstrap says node {node} is at {listed}; give \
                 the same address in both"
            ))),
            Some(_) => Ok(listed),
            // Listening on every interface, or on a name, may well be what the list means.
            None => match listed.parse::<SocketAddr>() {
                Ok(address) if !listen.ip().is_unspecified() && address != listen => {
                    Err(Failure::usage(format!(
                        "node {node} listens on {listen}, but --bootstrap says it is at {listed}; \
                         if that is meant, say --advertise {listed}"
                    )))
                }
                Ok(_) | Err(_) => Ok(listed),
            },
        }
    }

    /// The name of the cluster that these nodes found under this authority (a DER certificate). Its
    /// first half names the authority, its second half the list.
    pub(crate) fn cluster_id(&self, authority: &[u8]) -> ClusterId {
        let mut parts: Vec<&[u8]> = vec![authority];
        let ids: Vec<_> = self.0.keys().map(|id| id.as_u64().to_be_bytes()).collect();
        for (id, address) in ids.iter().zip(self.0.values()) {
            parts.extend([&id[..], address.as_bytes()]);
        }
        let (high, low) = (hash("raft authority", &[authority]), hash("raft founders", &parts));
        ClusterId((u128::from(high) << 64) | u128::from(low))
    }

    /// Whether `cluster` was founded under one of these authorities.
    pub(crate) fn may_have_founded<C: AsRef<[u8]>>(cluster: ClusterId, authorities: &[C]) -> bool {
        authorities.iter().any(|authority| {
            cluster.0 >> 64 == u128::from(hash("raft authority", &[authority.as_ref()]))
        })
    }

    /// Whether the list and a membership have a node in common, at the same address. A membership
    /// that is not known yet contradicts nothing.
    pub(crate) fn knows_one_of(&self, membership: &Membership) -> bool {
        let known = |id: &NodeId, address: &String| {
            membership.peers.get(id).is_some_and(|peer| peer.address == *address)
        };
        membership.peers.is_empty() || self.0.iter().any(|(id, address)| known(id, address))
    }

    /// What their logs begin with: nothing, and these voters.
    pub(crate) fn base(&self) -> SnapshotMeta {
        let voters = self.0.iter().map(|(id, address)| (*id, address.clone()));
        SnapshotMeta {
            last: LogId::ZERO,
            membership: Membership::of_voters(voters),
            membership_at: LogId::ZERO,
        }
    }
}

/// The first 64 bits of the SHA-256 of `parts`, each with its length, under a name for the purpose.
fn hash(purpose: &str, parts: &[&[u8]]) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in [purpose.as_bytes()].iter().chain(parts) {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&context.finish().as_ref()[..8]);
    u64::from_be_bytes(first)
}

/// Looks at an address for its form only: whether it resolves may change from hour to hour.
pub(crate) fn checked_address(what: &str, text: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!("{what}: {text:?} {why}; write HOST:PORT, like 10.0.0.1:7101"))
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(wrong("has port 0, which nobody can reach"));
        }
        if address.ip().is_unspecified() {
            return Err(wrong("is every interface, not an address that others can reach"));
        }
        return Ok(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "=,/:@".contains(c)) {
        return Err(wrong("has no host"));
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        Ok(0) | Err(_) => Err(wrong("has no port from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "1=127.0.0.1:7101,2=127.0.0.1:7102,3=db.example:7103";

    fn id(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Rule M15.
    #[test]
    fn founders_with_other_lists_found_another_cluster() {
        let ours = Founders::parse(LIST).unwrap();
        let sorted =
            Founders::parse("3=db.example:7103, 2=127.0.0.1:7102, 1=127.0.0.1:7101").unwrap();
        assert_eq!(ours.cluster_id(b"ca"), sorted.cluster_id(b"ca"), "order does not matter");
        let others = [
            Founders::parse("1=127.0.0.1:7101,2=127.0.0.1:7102").unwrap(),
            Founders::parse("1=127.0.0.1:7101,2=127.0.0.1:7102,4=db.example:7103").unwrap(),
            Founders::parse("1=127.0.0.1:7101,2=127.0.0.1:7102,3=db.example:7104").unwrap(),
        ];
        for other in others {
            assert_ne!(ours.cluster_id(b"ca"), other.cluster_id(b"ca"), "{other:?}");
        }
        assert_ne!(ours.cluster_id(b"ca"), ours.cluster_id(b"another ca"));
        assert!(Founders::may_have_founded(ours.cluster_id(b"ca"), &["new", "ca"]));
        assert!(!Founders::may_have_founded(ours.cluster_id(b"ca"), &["new", "other"]));
    }

    #[test]
    fn a_list_that_is_out_of_date_still_names_the_cluster() {
        let ours = Founders::parse(LIST).unwrap();
        let grown = Founders::parse("2=127.0.0.1:7102,3=moved:7103,4=new:7104").unwrap();
        assert!(ours.knows_one_of(&grown.base().membership));
        let other = Founders::parse("1=127.0.0.1:8101,2=127.0.0.1:8102").unwrap();
        assert!(!ours.knows_one_of(&other.base().membership));
        assert!(ours.knows_one_of(&Membership::default()));
    }

    #[test]
    fn bad_lists_are_refused_by_name() {
        for (list, part) in [
            ("", "ID=HOST:PORT"),
            ("1", "ID=HOST:PORT"),
            ("0=a:1", "\"0\""),
            ("x=a:1", "\"x\""),
            ("1=a:1,1=b:1", "node 1 is named twice"),
            ("1=a:1,2=a:1", "nodes 1 and 2"),
            ("1=a", "no port"),
            ("1=a:0", "port from 1"),
            ("1=:7", "no host"),
            ("1=0.0.0.0:7", "every interface"),
            ("1=127.0.0.1:0", "port 0"),
        ] {
            let failure = Founders::parse(list).unwrap_err();
            assert!(failure.message.contains(part), "{list:?}: {failure}");
        }
    }

    #[test]
    fn a_node_must_be_where_the_list_says() {
        let founders = Founders::parse(LIST).unwrap();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let told = |node, listen, advertise| founders.address_of(id(node), at(listen), advertise);
        assert_eq!(told(1, "127.0.0.1:7101", None).unwrap(), "127.0.0.1:7101");
        assert_eq!(told(1, "0.0.0.0:7101", None).unwrap(), "127.0.0.1:7101");
        assert_eq!(told(1, "10.0.0.1:7101", Some("127.0.0.1:7101")).unwrap(), "127.0.0.1:7101");
        assert_eq!(told(3, "10.0.0.1:7103", None).unwrap(), "db.example:7103");
        assert!(told(1, "127.0.0.1:7102", None).is_err(), "listens elsewhere");
        assert!(told(1, "127.0.0.1:7101", Some("127.0.0.1:7109")).is_err(), "says otherwise");
        assert!(told(4, "127.0.0.1:7104", None).is_err(), "not in the list");
    }

    #[test]
    fn the_log_begins_with_the_founders() {
        let base = Founders::parse(LIST).unwrap().base();
        assert_eq!(base.last, LogId::ZERO);
        assert_eq!(base.membership.voters.len(), 3);
        assert_eq!(base.membership.peers[&id(3)].address, "db.example:7103");
    }
}
