//! What the process itself has: a log on stderr, a runtime, signals.
//!
//! stdout belongs to results, stderr to everything else.

use std::io::{self, IsTerminal};

use tokio::runtime::{Builder, Runtime};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Sends the log to stderr. `least` is what is shown without `-v`; each `-v` shows one level more.
/// The variable RAFT_LOG says it in detail instead, as in `RAFT_LOG=raft_core=trace`.
pub(crate) fn start_log(least: LevelFilter, verbose: u8) {
    let levels = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    let start = levels.iter().position(|level| *level == least).unwrap_or_default();
    let level = levels[(start + usize::from(verbose)).min(levels.len() - 1)];
    // A word in RAFT_LOG that makes no sense must not keep a node from starting.
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var("RAFT_LOG")
        .from_env_lossy();
    // Only a second call can fail, and then there is a log already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
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
