//! A deterministic simulator: the shipped node on simulated disks, networks and clocks, all of it drawn
//! from one seed.
//!
//! - `plan.rs` draws what a run is made of; `dice.rs` is where chance comes from;
//! - `world.rs` takes what happens next from `schedule.rs` and lets it happen: `traffic.rs` (over `wire.rs`
//!   and `network.rs`), `workers.rs` (on `disk.rs` and `machine.rs`), `processes.rs` (of a `host.rs`),
//!   `clients.rs`;
//! - `nemesis.rs` breaks things and plays the operator; `healing.rs` ends a run, and waits for progress;
//! - `truth.rs` and `view.rs` check after every event that what must hold still does;
//! - `coverage.rs` counts what was met; `run.rs` does one run, `summary.rs`
//!   adds many up, `shrink.rs` finds out what a failing one needs.
//!
//! The seed and the commit are a complete bug report: the same seed gives the same run, byte for byte, on
//! any machine.

mod clients;
mod coverage;
mod dice;
mod disk;
mod healing;
mod host;
mod machine;
pub mod mutants;
mod nemesis;
mod network;
mod plan;
mod processes;
mod run;
mod schedule;
pub mod shrink;
pub mod summary;
mod traffic;
mod truth;
mod view;
mod wire;
mod workers;
mod world;

pub use coverage::{Coverage, Seen};
pub use plan::{Fault, Plan};
pub use run::{Outcome, Tracing, run};
pub use truth::{Check, Violation};
