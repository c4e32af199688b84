//! What the tests of the whole share.
//!
//! [`sim`] is the deterministic simulator of the consensus core. Everything else is about real processes of
//! the real binary, on real disks and sockets:
//!
//! - [`Cluster`] starts, kills, stops and restarts nodes;
//! - [`raft`] runs one command and gives its exit code and output;
//! - [`Shell`] is a client that keeps its connection.
//!
//! Those nodes are reached only as a user would reach them.

mod binary;
mod cluster;
mod load;
mod shell;
pub mod sim;

pub use binary::{Background, Ran, binary, example, raft};
pub use cluster::{Cluster, Options, free_port, until};
pub use load::{Load, lost};
pub use shell::{Answer, Shell};
