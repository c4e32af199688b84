//! Switches on one built-in fault of `raft-core` after the other and sees who notices: the simulator, with the
//! core's own invariants and without, and the golden scripts. Fails if a fault survives.
//!
//! `make mutants` builds this with `--cfg raft_mutants`; in any other build there is nothing to switch on.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a command")]

use std::process::ExitCode;

#[cfg(raft_mutants)]
#[path = "mutants/hunt.rs"]
mod hunt;

#[cfg(raft_mutants)]
fn main() -> ExitCode {
    hunt::main()
}

#[cfg(not(raft_mutants))]
fn main() -> ExitCode {
    eprintln!("no faults are built in; run `make mutants`");
    ExitCode::from(2)
}
