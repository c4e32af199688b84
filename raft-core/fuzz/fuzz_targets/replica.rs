//! One replica of ring 0, and whatever happens to it.

#![no_main]
#![allow(clippy::print_stdout, dead_code, reason = "shared with a test that tells what fails")]

#[path = "../../tests/fuzz/events.rs"]
mod events;
#[path = "../../tests/fuzz/promises.rs"]
mod promises;
#[path = "../../tests/fuzz/replica.rs"]
mod replica;
#[path = "../../tests/fuzz/script.rs"]
mod script;

libfuzzer_sys::fuzz_target!(|script: script::Script| replica::run(&script, false));
