//! The key-value store of the project: the state machine of a node, its commands, and its client.
//!
//! The data model is etcd's: a store-wide revision; keys with their history; reads of ranges, now
//! or as they were.
//!
//! - [`Kv`] is the `StateMachine`, on RocksDB; [`KvReader`] reads it alongside.
//! - Commands of a client's session are run once, however often they are sent; leases take keys along
//!   when they end. Both go by a clock that stands in the log.
//! - [`Service`] answers clients in the name of a node; [`api`] is what they say to each other.
//! - [`Service::look_after`] is what a cluster does by itself: it compares its nodes, gives up old history.
//! - [`Watch`] tells a client what happens to some keys, in order and without a gap.
//! - [`client`] is the other side. Like the service it knows nothing of the network: it is generic
//!   over a channel that carries bytes. [`recipes`] are what can be built with it: locks, elections.

mod alarm;
pub mod api;
mod apply;
pub mod client;
mod codec;
mod command;
mod config;
mod digest;
mod error;
#[cfg(test)]
mod fuzz;
mod home;
mod inspect;
mod kv;
mod model;
mod pool;
mod proposal;
mod range;
mod reader;
pub mod recipes;
mod record;
mod row_cache;
mod scan;
mod service;
mod snapshot;
mod space;
mod steward;
mod store;
mod timed;
mod turns;
mod txn;
mod unwritten;
mod version;
mod watch;
mod writer;

pub use alarm::Alarm;
pub use command::{
    Command, Compact, CompactOutcome, DeleteOutcome, DeleteRange, Divergence, Field, LeaseGrant,
    LeaseOutcome, Outcome, Put, PutOutcome, Refused,
};
pub use config::KvConfig;
pub use digest::{Digest, RevisionDigest};
pub use error::{DecodeError, KvError};
pub use inspect::{Inspected, Inspection, LeaseStatus, Listing, SessionStatus};
pub use kv::Kv;
pub use model::{KeyRange, KeyValue, LeaseId, Revision};
pub use proposal::Proposal;
pub use raft_core::sessions::Stamp;
pub use range::{Content, Filter, Order, RangeRequest, Sort, SortBy};
pub use reader::{KvReader, RangeReply};
pub use service::{Service, Watch};
pub use space::Space;
pub use steward::Upkeep;
pub use txn::{Compare, Nested, OpOutcome, RangeOutcome, Relation, Target, Txn, TxnOp, TxnOutcome};
pub use version::MachineVersion;
pub use watch::{Event, EventFilter, EventKind, WatchRequest, Watched};
