//! To be filled in: see docs/architecture.md.
fn main() {}
