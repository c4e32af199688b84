//! Whole nodes on real threads and a real clock, in one process: what the simulator, which has neither,
//! cannot see.
//!
//! `serving.rs` is about what a node does for its callers, `stopping.rs` about how it ends. Nothing here
//! measures time: a test waits until something is so, for as long as a slow machine may need.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(clippy::disallowed_methods, reason = "these are the tests with threads and a real clock")]

mod cluster;
mod serving;
mod stopping;
