//! A long time at full load: nobody has a reason to hold an election, so the term must stay.

use std::path::Path;

use crate::cells::load;
use crate::system::{Kind, Setup, System};

/// Puts the load of 256 clients on three nodes of ours. Fails if the term changes meanwhile, if a
/// write fails, or if the nodes differ afterwards.
pub(crate) fn run(raft: &Path, data: &Path, seconds: u32) -> Result<String, String> {
    let setup = Setup { extra: EXTRA.map(str::to_owned).into(), ..Setup::default() };
    let system = System::with(Kind::Raft, setup, raft, data)?;
    let before = system.term()?;
    let duration = format!("{seconds}s");
    let found = load(&system, &["put", "--clients", "256", "--duration", &duration])?;
    let after = system.term()?;
    system.compare()?;
    let number = |field: &str| found[field].as_f64().unwrap_or(f64::NAN);
    let told = format!(
        "256 clients for {seconds} s: {} puts, {:.0} a second; p50 {} us, p99 {} us, longest {:.0} ms; \
         term {before} before and {after} after, {} errors",
        number("ops"),
        number("ops_per_s"),
        number("p50_us"),
        number("p99_us"),
        number("max_us") / 1e3,
        number("errors"),
    );
    if before == after && number("errors") == 0.0 { Ok(told) } else { Err(told) }
}

/// Or the disk would be full of history in the end.
const EXTRA: [&str; 2] = ["--retain-age", "1m"];
