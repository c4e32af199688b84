//! The commands: one file each. A command checks what was typed, does it, and prints what came of
//! it.

mod alarm;
mod bench;
mod check;
mod compact;
mod completion;
mod del;
mod demo;
mod lease;
mod lock;
mod log;
mod put;
mod range;
mod serve;
mod session;
mod shell;
mod status;
mod tls;
mod txn;
mod watch;

use std::process::ExitCode;

use tracing::level_filters::LevelFilter;

pub(crate) use self::serve::TICK;
use crate::args::{Cli, Command, Global, Request};
use crate::connect::Session;
use crate::failure::Failure;
use crate::kv_args::LeaseCommand;
use crate::output::Reply;
use crate::terminal;
use crate::tls_args::TlsCommand;

/// Does what was asked.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { global, command } = cli;
    // A node tells its story; everything else speaks only when it fails.
    let least = match command {
        Command::Serve(_) => LevelFilter::INFO,
        Command::Tls(_)
        | Command::Put(_)
        | Command::Get(_)
        | Command::Range(_)
        | Command::Del(_)
        | Command::Txn(_)
        | Command::Watch(_)
        | Command::Lock(_)
        | Command::Elect(_)
        | Command::Lease(_)
        | Command::Session(_)
        | Command::Compact(_)
        | Command::Check(_)
        | Command::Alarm(_)
        | Command::Status
        | Command::Shell
        | Command::Log(_)
        | Command::Demo(_)
        | Command::Bench(_)
        | Command::Completion(_) => LevelFilter::OFF,
    };
    let log = terminal::start_log(least, global.verbose);
    if !matches!(command, Command::Serve(_)) {
        log.open();
    }
    match command {
        Command::Tls(TlsCommand::Init(args)) => tls::init(&args, global.output),
        Command::Tls(TlsCommand::Add(args)) => tls::add(&args, global.output),
        Command::Tls(TlsCommand::Renew(args)) => tls::renew(&args, global.output),
        Command::Serve(args) => serve::run(*args, &global, &log),
        Command::Put(args) => once(&global, &Request::Put(args)),
        Command::Get(args) => once(&global, &Request::Get(args)),
        Command::Range(args) => once(&global, &Request::Range(args)),
        Command::Del(args) => once(&global, &Request::Del(args)),
        Command::Txn(args) => once(&global, &Request::Txn(txn::from_stdin(args)?)),
        Command::Watch(args) => watch::run(&global, &args),
        Command::Lock(args) => lock::run(&global, &args),
        Command::Elect(args) => lock::elect(&global, &args),
        Command::Lease(LeaseCommand::KeepAlive { id, once: false }) => lease::keep(&global, id),
        Command::Lease(what) => once(&global, &Request::Lease(what)),
        Command::Session(what) => once(&global, &Request::Session(what)),
        Command::Compact(args) => once(&global, &Request::Compact(args)),
        Command::Check(what) => once(&global, &Request::Check(what)),
        Command::Alarm(what) => once(&global, &Request::Alarm(what)),
        Command::Status => once(&global, &Request::Status),
        Command::Shell => shell::run(&global),
        Command::Log(command) => log::run(&command, global.output),
        Command::Demo(args) => demo::run(&args, &global),
        Command::Bench(args) => bench::run(&args, &global),
        Command::Completion(args) => completion::run(&args),
    }
}

/// Makes one request and prints its reply.
fn once(global: &Global, request: &Request) -> Result<ExitCode, Failure> {
    let runtime = terminal::runtime(1)?;
    let reply = runtime.block_on(async {
        let session = Session::open(global)?;
        let reply = answer(&session, request).await;
        session.close().await;
        reply
    })?;
    reply.print(global.output)
}

/// Works on a session for as long as it takes.
fn on_session(
    global: &Global,
    work: impl AsyncFnOnce(&Session) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let runtime = terminal::runtime(1)?;
    runtime.block_on(async {
        let session = Session::open(global)?;
        let done = work(&session).await;
        session.close().await;
        done
    })
}

/// How a command ends that goes on until it is asked to stop.
fn stopped(asked: std::io::Result<()>) -> Result<ExitCode, Failure> {
    asked
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| Failure::failed(format!("signals cannot be received: {error}")))
}

/// Makes one request, on a session that may make more.
async fn answer(session: &Session, request: &Request) -> Result<Reply, Failure> {
    match request {
        Request::Put(args) => put::request(session, args).await,
        Request::Get(args) => range::get(session, args).await,
        Request::Range(args) => range::request(session, args).await,
        Request::Del(args) => del::request(session, args).await,
        Request::Txn(args) => txn::request(session, args).await,
        Request::Watch(args) => watch::request(session, args).await,
        Request::Lock(args) => lock::request(session, args).await,
        Request::Elect(args) => lock::elect_request(session, args).await,
        Request::Unlock(args) => lock::unlock(session, args).await,
        Request::Lease(what) => lease::request(session, what).await,
        Request::Session(what) => session::request(session, what).await,
        Request::Compact(args) => compact::request(session, args).await,
        Request::Check(what) => check::request(session, what).await,
        Request::Alarm(what) => alarm::request(session, what).await,
        Request::Status => status::request(session).await,
    }
}
