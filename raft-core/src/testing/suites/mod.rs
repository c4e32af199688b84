//! Conformance suites: what a part must do to be used under this core, as tests that its author runs.

pub mod log_store;
pub mod state_machine;
pub mod transport;
