//! `raft demo`: a cluster on this machine, its leader killed, and nothing lost.
//!
//! A newcomer's first minute, and an honest test: the nodes are processes of this very binary with
//! real disks and certificates, the leader dies by SIGKILL, and every write that was acknowledged
//! is read back. Exits with 0 only if none was lost.

mod nodes;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use raft_kv::api::ReadLevel;
use raft_net_quic::{ClientLimits, ClusterName};
use tempfile::TempDir;
use tokio::task::JoinSet;

use self::nodes::Nodes;
use crate::args::{DemoArgs, Global};
use crate::connect::{Session, client_failure};
use crate::failure::{Failure, Kind};
use crate::output::{self, NodeStatus, Reply, Seen};
use crate::terminal;
use crate::tls_args::TlsInitArgs;

pub(super) fn run(args: &DemoArgs, global: &Global) -> Result<ExitCode, Failure> {
    let home = Home::prepare(args.dir.as_deref())?;
    let tls = home.path().join("tls");
    super::tls::write(&TlsInitArgs {
        dir: tls.clone(),
        nodes: args.nodes,
        cluster: ClusterName::default(),
        hosts: Vec::new(),
    })?;
    let runtime = terminal::runtime(1)?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            // In this order: a demo that stays up is meant to be ended by a signal.
            biased;
            outcome = show(args, global, home.path(), &tls) => outcome,
            asked = terminal::asked_to_stop() => asked.map_err(no_signals).and_then(|()| {
                Err(Failure::failed("interrupted before the demo was over"))
            }),
        }
    });
    runtime.shutdown_background();
    outcome
}

/// Where the nodes live. A temporary directory goes with it.
enum Home {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Home {
    fn prepare(dir: Option<&Path>) -> Result<Self, Failure> {
        let Some(dir) = dir else {
            let made = tempfile::Builder::new().prefix("raft-demo-").tempdir();
            return made.map(Self::Temporary).map_err(|error| {
                Failure::failed(format!("cannot make a temporary directory: {error}; give --dir"))
            });
        };
        let unusable = |error| {
            Failure::usage(format!("--dir {}: {error}; choose another directory", dir.display()))
        };
        fs::create_dir_all(dir).map_err(unusable)?;
        // Nodes get new addresses each time, so those of an earlier demo would not find each other.
        if fs::read_dir(dir).map_err(unusable)?.next().is_some() {
            return Err(Failure::usage(format!(
                "--dir {} is not empty; choose an empty or new directory",
                dir.display()
            )));
        }
        // The children and the user's other terminals are elsewhere.
        dir.canonicalize().map(Self::Given).map_err(unusable)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(dir) => dir,
        }
    }
}

async fn show(
    args: &DemoArgs,
    global: &Global,
    home: &Path,
    tls: &Path,
) -> Result<ExitCode, Failure> {
    say(&format!(
        "Starting {} nodes on this machine; their data is in {}",
        args.nodes,
        home.display()
    ))?;
    let mut nodes = Nodes::start(home, tls, args.nodes)?;
    let endpoints = nodes.addresses();
    let client =
        Global { endpoints: endpoints.clone(), tls_dir: Some(tls.to_owned()), ..global.clone() };
    // All nodes are on this machine: one that is silent for so long is dead.
    let limits =
        ClientLimits { idle_timeout: Duration::from_millis(500), ..ClientLimits::default() };
    let session = Arc::new(Session::open_with(&client, limits)?);
    let (leader, seen) = leader(&session).await?;
    say(&format!("Leader: node {leader}, elected in term {}", seen.term))?;

    let start = Instant::now();
    let written = write_all(&session).await?;
    let seconds = start.elapsed().as_secs_f64();
    say(&format!(
        "Wrote {written} keys in {seconds:.2} s; each was on a majority of disks before it was \
         acknowledged"
    ))?;

    say(&format!("Killing the leader, node {leader}, with SIGKILL"))?;
    nodes.kill(leader)?;
    let outage = first_write(&session, Instant::now()).await?;
    let (next, seen) = self::leader(&session).await?;
    say(&format!(
        "The next write succeeded after {:.2} s; node {next} leads now, in term {}",
        outage.as_secs_f64(),
        seen.term
    ))?;

    let lost = count_lost(&session).await?;
    say(&format!("Read all keys back: {lost} of {KEYS} keys lost"))?;

    say(&format!("Restarting node {leader}"))?;
    let start = Instant::now();
    nodes.restart(leader)?;
    let through = catch_up(&session, leader).await?;
    say(&format!(
        "Node {leader} caught up in {:.2} s: it has applied everything up to entry {through}",
        start.elapsed().as_secs_f64()
    ))?;
    let status = super::status::request(&session).await?;
    say(&format!("\n{}\n", status.to_table()))?;
    say(&format!(
        "Result: {lost} of {KEYS} keys lost, fail-over in {:.2} s",
        outage.as_secs_f64()
    ))?;
    if !args.exit && lost == 0 {
        stay(&mut nodes, &endpoints, tls).await?;
    }
    nodes.stop();
    if lost == 0 {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::new(
            Kind::Refused,
            format!("{lost} acknowledged writes were lost; please report it"),
        ))
    }
}

async fn write_all(session: &Arc<Session>) -> Result<u64, Failure> {
    let bar = bar(KEYS, "writing");
    let mut tasks = JoinSet::new();
    let mut written = 0;
    for number in 0..KEYS {
        if tasks.len() == AT_ONCE {
            written += joined(tasks.join_next().await)?;
            bar.inc(1);
        }
        let session = Arc::clone(session);
        tasks.spawn(async move { put(&session, key(number), value(number)).await });
    }
    while let Some(done) = tasks.join_next().await {
        written += joined(Some(done))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(written)
}

async fn count_lost(session: &Arc<Session>) -> Result<u64, Failure> {
    let bar = bar(KEYS, "reading");
    let mut tasks = JoinSet::new();
    let mut lost = 0;
    for number in 0..KEYS {
        if tasks.len() == AT_ONCE {
            lost += joined(tasks.join_next().await)?;
            bar.inc(1);
        }
        let session = Arc::clone(session);
        tasks.spawn(async move { is_lost(&session, number).await });
    }
    while let Some(done) = tasks.join_next().await {
        lost += joined(Some(done))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(lost)
}

/// What a task has counted, or why it failed.
fn joined(
    done: Option<Result<Result<u64, Failure>, tokio::task::JoinError>>,
) -> Result<u64, Failure> {
    match done {
        None => Ok(0),
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => Err(Failure::failed(format!("a task of the demo broke: {error}"))),
    }
}

async fn put(session: &Session, key: String, value: String) -> Result<u64, Failure> {
    session.client().put(key, value).await.map(|_| 1).map_err(client_failure)
}

async fn is_lost(session: &Session, number: u64) -> Result<u64, Failure> {
    let got = session.client().get(key(number), ReadLevel::Linearizable).await;
    let kv = got.map_err(client_failure)?.kv;
    Ok(u64::from(kv.is_none_or(|kv| kv.value != value(number).as_bytes())))
}

/// How long it takes until a write succeeds. It may be tried more than once: it is the same each
/// time.
async fn first_write(session: &Session, killed: Instant) -> Result<Duration, Failure> {
    let spinner = spinner("waiting for the next write to succeed");
    loop {
        match put(session, "demo/after-the-kill".to_owned(), "written".to_owned()).await {
            Ok(_) => break,
            Err(failure) if killed.elapsed() > PATIENCE => return Err(failure),
            Err(_) => {}
        }
    }
    spinner.finish_and_clear();
    Ok(killed.elapsed())
}

/// Who leads, once somebody does.
async fn leader(session: &Session) -> Result<(u64, Seen), Failure> {
    let start = Instant::now();
    loop {
        let nodes = match super::status::request(session).await {
            Ok(Reply::Status(nodes)) => nodes,
            Ok(_) | Err(_) => Vec::new(),
        };
        let leads = |node: NodeStatus| {
            let seen = node.seen.filter(|seen| seen.role == "leader")?;
            Some((node.node_id?, seen))
        };
        // One that was deposed and does not know it yet is in an older term.
        if let Some(found) = nodes.into_iter().filter_map(leads).max_by_key(|(_, seen)| seen.term) {
            return Ok(found);
        }
        give_up_after(start, "no node was elected")?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until `node` has applied what the leader has committed. Gives the entry.
async fn catch_up(session: &Session, node: u64) -> Result<u64, Failure> {
    let (_, seen) = leader(session).await?;
    let bar = bar(seen.commit_index, "catching up");
    let start = Instant::now();
    loop {
        if let Ok(Reply::Status(nodes)) = super::status::request(session).await {
            let row = nodes.iter().find(|row| row.node_id == Some(node));
            let applied =
                row.and_then(|row| row.seen.as_ref()).map_or(0, |seen| seen.applied_index);
            bar.set_position(applied);
            if applied >= seen.commit_index {
                bar.finish_and_clear();
                return Ok(applied);
            }
        }
        give_up_after(start, "the restarted node did not catch up")?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Leaves the cluster to the user until Ctrl-C, or until a node stops by itself.
async fn stay(nodes: &mut Nodes, endpoints: &[String], tls: &Path) -> Result<(), Failure> {
    let quote = |text: &str| shlex::try_quote(text).map(String::from).unwrap_or_default();
    let dir = quote(&tls.display().to_string());
    say("The cluster stays up until Ctrl-C. To use it, paste this into another terminal:\n")?;
    say(&format!("export RAFT_ENDPOINTS={} RAFT_TLS_DIR={dir}\n", endpoints.join(",")))?;
    say("Then try: raft status, raft put colour green, raft get colour, raft shell")?;
    let mut stop = pin!(terminal::asked_to_stop());
    loop {
        tokio::select! {
            asked = &mut stop => return asked.map_err(no_signals),
            () = tokio::time::sleep(Duration::from_millis(500)) => nodes.check()?,
        }
    }
}

fn no_signals(error: io::Error) -> Failure {
    Failure::failed(format!("signals cannot be received: {error}"))
}

fn give_up_after(start: Instant, what: &str) -> Result<(), Failure> {
    if start.elapsed() < PATIENCE {
        return Ok(());
    }
    Err(Failure::new(Kind::Unavailable, format!("{what} within {} s", PATIENCE.as_secs())))
}

fn say(line: &str) -> Result<(), Failure> {
    output::print_line(line).map(|_| ())
}

/// Shown on a terminal only, on stderr.
fn bar(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message(what);
    let style = ProgressStyle::with_template("{msg:>12} [{bar:40}] {pos}/{len} {per_sec}");
    // The template is ours; if it were wrong, the default would do.
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn spinner(what: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn key(number: u64) -> String {
    format!("demo/{number:04}")
}

fn value(number: u64) -> String {
    format!("value {number}")
}

/// How many keys are written.
const KEYS: u64 = 1000;

/// How many requests are under way at once.
const AT_ONCE: usize = 16;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
