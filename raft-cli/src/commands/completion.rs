//! `raft completion`: a script for the user's shell.

use std::process::ExitCode;

use crate::args::{self, CompletionArgs};
use crate::failure::Failure;
use crate::output;

pub(super) fn run(args: &CompletionArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::definition(), "raft", &mut script);
    output::print_line(String::from_utf8_lossy(&script).trim_end())
}
