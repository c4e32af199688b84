//! What the process itself has: a log on stderr, a runtime, signals.
//!
//! stdout belongs to results, stderr to everything else.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// What was logged while a node starts. It is shown once the node is ready, or is taking its time.
/// A node that refuses to start says why in one line, and that line stands alone.
#[derive(Clone, Debug)]
pub(crate) struct LogGate {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug)]
struct Held {
    /// `None` once lines go straight to stderr.
    lines: Option<Vec<u8>>,
    since: Instant,
}

impl LogGate {
    fn new(open: bool) -> Self {
        let lines = (!open).then(Vec::new);
        Self { held: Arc::new(Mutex::new(Held { lines, since: Instant::now() })) }
    }

    /// Shows what was held, and from now on every line at once.
    pub(crate) fn open(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lines) = held.lines.take() {
            // A log that cannot be written has nobody to tell.
            let _ = io::stderr().write_all(&lines);
        }
    }

    /// Whether a line has to wait; then it was kept.
    fn hold(&self, line: &[u8]) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let patient = held.since.elapsed() < HELD_TIME;
        match &mut held.lines {
            Some(lines) if patient && lines.len() < HELD_BYTES => {
                lines.extend_from_slice(line);
                true
            }
            Some(_) | None => false,
        }
    }
}

impl Write for LogGate {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.hold(line) {
            self.open();
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Sends the log to stderr, through a gate that is closed unless somebody asked for more than
/// usual. `least` is what is shown without `-v`; `-v` shows more, `-vv` everything. The variable
/// RAFT_LOG says it in detail instead, as in `RAFT_LOG=raft_core=trace`.
pub(crate) fn start_log(least: LevelFilter, verbose: u8) -> LogGate {
    // Whoever asks for more wants to see it, come what may.
    let detail = std::env::var("RAFT_LOG").unwrap_or_default();
    let gate = LogGate::new(verbose > 0 || !detail.is_empty());
    let writer = gate.clone();
    let level = match verbose {
        0 => least,
        1 if least < LevelFilter::INFO => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        2.. => LevelFilter::TRACE,
    };
    // A word in RAFT_LOG that makes no sense must not keep a node from starting.
    let filter = EnvFilter::builder().with_default_directive(level.into()).parse_lossy(detail);
    // Only a second call can fail, and then there is a log already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    gate
}

/// Says on stderr what is worth knowing and stops nothing.
pub(crate) fn warn(line: &str) {
    // If stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "warning: {line}");
}

/// Makes a panic say its one line and where it happened, instead of a backtrace. A panic is a bug
/// of ours; a node that finds one in itself stops and says so once more, as its last word.
pub(crate) fn tame_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let what = text.unwrap_or("no message");
        Failure::failed(format!("this is a bug, please report it: {what} ({place})")).report();
    }));
}

/// A runtime for one command that makes requests; `threads` of them run it besides the caller.
pub(crate) fn runtime(threads: usize) -> Result<Runtime, Failure> {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().map_err(|error| {
        Failure::failed(format!("cannot start threads: {error}; raise the limit of processes"))
    })
}

/// Ends when the process is asked to stop: Ctrl-C, or SIGTERM where there is one.
pub(crate) async fn asked_to_stop() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// A start that takes longer than this shows what it is doing.
const HELD_TIME: Duration = Duration::from_secs(2);
const HELD_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_held_until_the_gate_opens() {
        let gate = LogGate::new(false);
        assert!(gate.hold(b"one\n") && gate.hold(b"two\n"));
        assert_eq!(gate.held.lock().unwrap().lines.as_deref(), Some(&b"one\ntwo\n"[..]));
        gate.open();
        assert!(!gate.hold(b"three\n"));
        assert!(!LogGate::new(true).hold(b"one\n"));
    }

    #[test]
    fn a_start_that_takes_long_or_logs_much_is_shown() {
        let gate = LogGate::new(false);
        gate.held.lock().unwrap().lines = Some(vec![b'x'; HELD_BYTES]);
        assert!(!gate.hold(b"more\n"));
        let gate = LogGate::new(false);
        let Some(long_ago) = Instant::now().checked_sub(HELD_TIME) else { return };
        gate.held.lock().unwrap().since = long_ago;
        assert!(!gate.hold(b"late\n"));
    }
}
