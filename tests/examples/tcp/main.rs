//! A cluster of three nodes on a transport of one's own: plain TCP, in `transport.rs`.
//!
//! `cargo run --release -p raft-tests --example tcp` lets it replicate a command;
//! `cargo test --release -p raft-tests --example tcp` runs the suite that every transport must pass.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example ends where it fails")]

mod transport;

use std::sync::mpsc::channel;
use std::time::Duration;

use raft_core::testing::{MemDisk, MemMachine, MemStore};
use raft_core::{
    ClusterId, Config, Handle, Identity, Incarnation, Membership, Node, NodeId, NodeOptions,
};

use transport::TcpTransport;

fn main() {
    let ids = [1, 2, 3].map(|id| NodeId::new(id).unwrap());
    let transports = ids.map(|node| {
        let own = Identity { cluster: ClusterId(1), node, incarnation: Incarnation(1) };
        TcpTransport::bind(own, ([127, 0, 0, 1], 0).into()).unwrap()
    });
    let addresses = transports.each_ref().map(|one| one.address().unwrap().to_string());
    let members = Membership::of_voters(ids.into_iter().zip(addresses));
    let stores = [(); 3].map(|()| MemStore::new());
    let nodes: Vec<_> = transports
        .into_iter()
        .zip(&stores)
        .zip(ids)
        .map(|((transport, store), id)| {
            let log = MemDisk::founded(members.clone()).log();
            Node::start(NodeOptions::new(Config::new(id)), log, transport, store.machine()).unwrap()
        })
        .collect();

    // Whoever does not lead refuses.
    let written = (0..500).find_map(|_| nodes.iter().find_map(put)).expect("nobody leads");
    println!("written at {written}");
    while stores.iter().any(|store| store.get(b"greeting").is_none()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("all three nodes have it");
    nodes.iter().for_each(|node| node.stop(Duration::from_secs(1)));
}

/// Asks this node to write; where, if it did.
fn put(node: &Handle) -> Option<String> {
    let (answer, answered) = channel();
    node.propose(MemMachine::put(b"greeting", b"hello"), move |outcome| {
        let _ = answer.send(outcome);
    });
    let committed = answered.recv().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    committed.ok().map(|committed| committed.id.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use raft_core::testing::suites::transport::Network;

    use super::*;

    /// Nodes on loopback. One that comes back listens where it was.
    #[derive(Default)]
    struct Loopback(Mutex<BTreeMap<NodeId, SocketAddr>>);

    impl Network for Loopback {
        type Transport = TcpTransport;

        fn open(&self, identity: Identity) -> (TcpTransport, String) {
            let mut addresses = self.0.lock().unwrap();
            let before = addresses.get(&identity.node).copied();
            let transport = (0..500).find_map(|_| {
                std::thread::sleep(Duration::from_millis(10)); // The last one may still listen.
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                TcpTransport::bind(identity, before.unwrap_or(any)).ok()
            });
            let transport = transport.expect("the port is free again");
            let address = transport.address().unwrap();
            addresses.insert(identity.node, address);
            (transport, address.to_string())
        }

        /// TCP cannot leave without a word: the system says it.
        fn vanish(&self, transport: TcpTransport) {
            drop(transport);
        }
    }

    raft_core::transport_suite!(tcp, Loopback::default);
}
