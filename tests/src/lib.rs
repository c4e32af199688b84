//! What the tests of the whole share: real processes of the real binary, on real disks and sockets.
//!
//! - [`Cluster`] starts, kills, stops and restarts nodes;
//! - [`raft`] runs one command and gives its exit code and output;
//! - [`Shell`] is a client that keeps its connection.
//!
//! The nodes are reached only as a user would reach them. Nothing here links to a crate of ours.

mod binary;
mod cluster;
mod load;
mod shell;

pub use binary::{Background, Ran, binary, raft};
pub use cluster::{Cluster, Options, free_port, until};
pub use load::{Load, lost};
pub use shell::{Answer, Shell};
