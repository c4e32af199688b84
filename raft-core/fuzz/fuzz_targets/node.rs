//! One node with its workers, and whatever arrives.

#![no_main]
#![allow(clippy::print_stdout, dead_code, reason = "shared with a test that tells what fails")]

#[path = "../../tests/fuzz/events.rs"]
mod events;
#[path = "../../tests/fuzz/node.rs"]
mod node;
#[path = "../../tests/fuzz/promises.rs"]
mod promises;
#[path = "../../tests/fuzz/script.rs"]
mod script;

libfuzzer_sys::fuzz_target!(|script: node::NodeScript| node::run(&script, false));
