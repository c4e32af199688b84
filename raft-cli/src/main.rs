//! The binary `raft`: a node, its client and its tools. The crates do the work; this one names
//! them.
//!
//! Arguments pass two stages: as typed (`args.rs`), then checked, by the command they belong to
//! (`commands/`). Everything that fails ends as one [`failure::Failure`]: a line on stderr and an
//! exit code. `serve.rs` is the only file that names a log, a transport and a state machine
//! together.

mod admin;
mod args;
mod bench;
mod channel;
mod commands;
mod config_file;
mod connect;
mod door;
mod failure;
mod faults;
mod founding;
mod http;
mod join;
mod kv_args;
mod kv_output;
mod output;
mod serve;
mod serve_args;
mod terminal;
mod tls_args;
mod txn_json;
mod txn_text;

use std::process::ExitCode;

fn main() -> ExitCode {
    terminal::tame_panics();
    match args::parse(std::env::args_os()).and_then(commands::run) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
