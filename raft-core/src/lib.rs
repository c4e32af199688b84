//! The Raft consensus core, in three rings, and the contracts of the parts around it.
//!
//! - Ring 0, the protocol, is pure: events in, effects out. It never fails, blocks, reads a clock or
//!   sees a disk, a socket or a payload.
//! - Ring 1 carries effects out through three traits: [`LogStore`], [`Transport`], [`StateMachine`].
//!   It has no clock and no thread either, so a simulator can run it.
//! - Ring 2 adds the clock and the threads.
//!
//! Paper: "In Search of an Understandable Consensus Algorithm (Extended Version)", cited as §;
//! Ongaro's dissertation is cited as "dissertation". Rule ids (E1, L4, ...) are those of
//! docs/correctness.md.

#[macro_use]
mod mutant;

mod config;
mod entry;
mod event;
mod log_store;
mod message;
mod node;
mod protocol;
pub mod sessions;
mod snapshot;
mod state_machine;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;
mod types;

pub use config::{ClockDrift, Config, ConfigError};
pub use entry::{Entry, Membership, Payload, PeerInfo};
pub use event::{
    Change, ChangeStep, Effect, Event, FollowerStatus, Refusal, ReplicationMode, RoleName,
    SnapshotStatus, Span, Status, Ticket,
};
pub use log_store::{Batch, Installed, LogReader, LogStore, Recovered, StoreError};
pub use message::{AppendOutcome, Campaign, Envelope, Message, VoteOutcome};
pub use node::{
    Committed, Handle, Node, NodeOptions, ReadLevel, RequestError, StartError, StopCause,
};
pub use protocol::{Raft, change as membership, quorum};
pub use snapshot::{SnapshotFile, SnapshotHeader, SnapshotMeta, SnapshotReader, SnapshotSource};
pub use state_machine::{Applied, MachineError, StateMachine};
pub use transport::{Arrival, Inbox, Peers, Sent, SnapshotOutcome, SnapshotTicket, Transport};
pub use types::{ClusterId, HardState, Identity, Incarnation, Index, LogId, NodeId, Term, Ticks};
