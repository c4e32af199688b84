//! The transport does what every transport must do: the suite of `raft_core::testing`.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use raft_core::testing::suites::transport::Network;
use raft_core::{Identity, NodeId};
use raft_net_quic::{NetError, QuicConfig, QuicTransport};
use tokio::runtime::Runtime;

use common::{Authority, NoService, any_port, incoming, runtime, until};

/// Nodes on loopback, each with a runtime of its own, as if each were a process.
struct Quic {
    authority: Authority,
    nodes: Mutex<BTreeMap<NodeId, (SocketAddr, Runtime)>>,
}

impl Quic {
    fn new() -> Self {
        Self { authority: Authority::new(), nodes: Mutex::default() }
    }
}

impl Network for Quic {
    type Transport = QuicTransport;

    fn open(&self, identity: Identity) -> (QuicTransport, String) {
        let id = identity.node.as_u64();
        let mut nodes = self.nodes.lock().unwrap();
        let (address, runtime) =
            nodes.remove(&identity.node).unwrap_or_else(|| (any_port(), runtime()));
        let tls = self.authority.node(id);
        let config = QuicConfig::new(address, identity, tls, incoming(&self.authority, id));
        let mut bound = None;
        until("the port is free", || {
            let handle = runtime.handle().clone();
            match QuicTransport::bind(handle, config.clone(), Arc::new(NoService)) {
                Ok(transport) => bound = Some(transport),
                Err(NetError::PortInUse { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            bound.is_some()
        });
        let transport = bound.unwrap();
        let address = transport.local_addr();
        nodes.insert(identity.node, (address, runtime));
        (transport, address.to_string())
    }

    fn vanish(&self, transport: QuicTransport) {
        let id = transport.identity().node;
        let (_, runtime) = self.nodes.lock().unwrap().remove(&id).unwrap();
        runtime.shutdown_background(); // Its tasks stop in the middle of whatever they do.
        drop(transport);
    }
}

raft_core::transport_suite!(quic, Quic::new);
