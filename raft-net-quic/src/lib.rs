//! An encrypted, pipelined transport for [`raft_core`] on QUIC, and the channel on which clients
//! talk to nodes.
//!
//! One UDP socket a node carries everything: messages between nodes, snapshots, clients. TLS is
//! always mutual: a peer may only speak as the node that its certificate names, and a certificate
//! of a client cannot speak as a node (rule L17).
//!
//! ```text
//! QuicTransport ── accept ──┬── peer    control lane, bulk lane, snapshots   <-> other nodes
//!                  dial  ───┤── serve   requests and replies                 <-> QuicClient
//!                           └── subscribe  requests with many replies       <-> Subscription
//! ```
//!
//! What is absent: no retries of messages (the protocol repeats what it needs), no meaning of any
//! request or reply (they are bytes), no plaintext mode.

mod accept;
mod addresses;
mod certified;
mod client;
mod close;
mod config;
mod endpoint;
mod error;
mod frame;
#[cfg(test)]
mod fuzz;
mod log_gate;
mod mailbox;
mod monitor;
mod names;
mod peer;
mod renewal;
mod serve;
mod shared;
mod snapshot;
mod subscribe;
mod tls;
mod transport;
mod wire;

pub use client::{QuicClient, Subscription};
pub use close::{Refusal, RefusalKind};
pub use config::{ClientLimits, Limits, QuicConfig, TlsFiles};
pub use error::{CallError, CertificateFault, ConnectError, LossCause, NetError};
pub use monitor::{Monitor, SnapshotDirection, SnapshotProgress};
pub use names::{ClusterName, client_name, named_node, node_name};
pub use serve::{ClientService, Responder};
pub use subscribe::{Subscriber, SubscriberLost};
pub use tls::CertificateExpiry;
pub use transport::QuicTransport;
