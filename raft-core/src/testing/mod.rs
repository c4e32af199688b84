//! What people who build on this crate need to test what they build. Feature `testing`.
//!
//! - [`MemDisk`] and [`MemLog`]: a log in memory on a model of a disk that fails when told to;
//! - [`MemStore`] and [`MemMachine`]: a small replicated map, with a hash of its state;
//! - [`MemNet`]: a network inside one process, which can be cut;
//! - [`suites`]: what the parts must do, as tests for whoever writes one;
//! - [`SteppedNode`]: a whole node without threads or a clock, run one step at a time.
//!
//! With the first three, [`crate::Node::start`] gives a cluster inside one test; see
//! `raft-core/tests/node`. With the last a simulator decides the order of everything; ours is in
//! `tests/src/sim`. Nothing here is meant for anything but tests: nothing survives the process.

mod mem_log;
mod mem_machine;
mod mem_net;
mod stepped;
pub mod suites;

pub use self::mem_log::{DiskFault, MemDisk, MemLog};
pub use self::mem_machine::{MemMachine, MemSnapshot, MemStore};
pub use self::mem_net::{MemNet, MemTransport};
pub use self::stepped::{ApplyJob, FetchJob, LogJob, Report, SteppedNode};
/// Built-in faults; only with `--cfg raft_mutants`.
#[cfg(raft_mutants)]
pub use crate::mutant::{set_invariants, switch_on};
