//! `raft lock` and `raft elect`: what is held until the command ends, or the one run under it does.
//!
//! In a shell a lock is held until `unlock`, or the end of the shell.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use raft_kv::recipes::{Lock, RecipeError, observe};
use tokio::process::Command;

use super::{on_session, stopped};
use crate::args::{Global, Output};
use crate::channel::StoreChannel;
use crate::connect::{Session, client_failure};
use crate::failure::{Failure, Kind};
use crate::kv_args::{ElectArgs, LockArgs, UnlockArgs};
use crate::output::{self, Reply};
use crate::{kv_output, terminal};

/// Holds a lock while a command runs, or until it is told to stop.
pub(super) fn run(global: &Global, args: &LockArgs) -> Result<ExitCode, Failure> {
    let wanted = wanted_lock(args)?;
    on_session(global, async |session| hold(session, &wanted, &args.command, global.output).await)
}

/// Holds an office until it is told to stop; or says who holds it, again and again.
pub(super) fn elect(global: &Global, args: &ElectArgs) -> Result<ExitCode, Failure> {
    if args.listen {
        return on_session(global, async |session| {
            listen(session, &args.name, global.output).await
        });
    }
    let wanted = wanted_office(args)?;
    on_session(global, async |session| hold(session, &wanted, &[], global.output).await)
}

/// In a shell: holds a lock from here on.
pub(super) async fn request(session: &Session, args: &LockArgs) -> Result<Reply, Failure> {
    if !args.command.is_empty() {
        return Err(Failure::usage("a shell runs no commands; leave it out, and `unlock` later"));
    }
    keep(session, &wanted_lock(args)?).await
}

/// In a shell: holds an office from here on, or says who does.
pub(super) async fn elect_request(session: &Session, args: &ElectArgs) -> Result<Reply, Failure> {
    if args.listen {
        let mut observer = observe(session.client(), args.name.clone());
        return observer.next().await.map(Reply::Elected).map_err(client_failure);
    }
    keep(session, &wanted_office(args)?).await
}

/// In a shell: gives up a lock or an office.
pub(super) async fn unlock(session: &Session, args: &UnlockArgs) -> Result<Reply, Failure> {
    let Some(lock) = session.held().await.remove(&args.name) else {
        let name = args.name.escape_ascii();
        return Err(Failure::new(Kind::NotFound, format!("this shell does not hold \"{name}\"")));
    };
    let reply = held(&lock);
    lock.release().await.map_err(client_failure)?;
    Ok(reply)
}

/// What is to be held.
struct Wanted {
    name: Bytes,
    value: Bytes,
    ttl: Duration,
    /// The longest to wait for it.
    wait: Option<Duration>,
}

fn wanted_lock(args: &LockArgs) -> Result<Wanted, Failure> {
    wanted(&args.name, Bytes::new(), args.ttl, args.wait)
}

fn wanted_office(args: &ElectArgs) -> Result<Wanted, Failure> {
    let value = args.proposal.clone().unwrap_or_default();
    wanted(&args.name, value, args.ttl, args.wait)
}

fn wanted(
    name: &Bytes,
    value: Bytes,
    ttl: Duration,
    wait: Option<Duration>,
) -> Result<Wanted, Failure> {
    if name.is_empty() {
        return Err(Failure::usage("the name is empty; give one"));
    }
    if ttl < LEAST_TTL {
        return Err(Failure::usage(format!(
            "--ttl {ttl:?} is too short; give {LEAST_TTL:?} or more"
        )));
    }
    Ok(Wanted { name: name.clone(), value, ttl, wait })
}

async fn acquire(session: &Session, wanted: &Wanted) -> Result<Lock<StoreChannel>, Failure> {
    let Wanted { name, value, ttl, wait } = wanted;
    let acquiring = Lock::acquire_with(session.client(), name.clone(), value.clone(), *ttl);
    let acquired = match wait {
        Some(wait) => tokio::time::timeout(*wait, acquiring).await.map_err(|_| {
            let name = name.escape_ascii();
            Failure::new(Kind::Unavailable, format!("\"{name}\" was not free within {wait:?}"))
        })?,
        None => acquiring.await,
    };
    acquired.map_err(recipe_failure)
}

async fn keep(session: &Session, wanted: &Wanted) -> Result<Reply, Failure> {
    let is_held =
        session.held().await.get(&wanted.name).is_some_and(|lock| !lock.tenure().is_lost());
    if is_held {
        let name = wanted.name.escape_ascii();
        return Err(Failure::usage(format!(
            "this shell holds \"{name}\" already; unlock it first"
        )));
    }
    let lock = acquire(session, wanted).await?;
    let reply = held(&lock);
    session.held().await.insert(wanted.name.clone(), lock);
    Ok(reply)
}

async fn hold(
    session: &Session,
    wanted: &Wanted,
    command: &[OsString],
    form: Output,
) -> Result<ExitCode, Failure> {
    let lock = tokio::select! {
        lock = acquire(session, wanted) => lock?,
        asked = terminal::asked_to_stop() => return stopped(asked),
    };
    let lost = lock.tenure().lost();
    let done = tokio::select! {
        done = work(&lock, command, form) => done,
        () = lost => Err(recipe_failure(RecipeError::Lost)),
    };
    // Whatever came of it: who is next need not wait until the lease has ended.
    let released = lock.release().await.map_err(client_failure);
    let code = done?;
    released.map(|()| code)
}

/// What is done while the lock is held. Dropping it kills the command.
async fn work(
    lock: &Lock<StoreChannel>,
    command: &[OsString],
    form: Output,
) -> Result<ExitCode, Failure> {
    let Some((program, words)) = command.split_first() else {
        held(lock).print(form)?;
        return stopped(terminal::asked_to_stop().await);
    };
    let mut command = Command::new(program);
    command
        .args(words)
        .env("RAFT_LOCK_KEY", String::from_utf8_lossy(lock.key()).as_ref())
        .env("RAFT_LOCK_TOKEN", lock.token().to_string())
        .kill_on_drop(true);
    let ended = command.status().await.map_err(|error| {
        Failure::failed(format!("cannot run {}: {error}", program.to_string_lossy()))
    })?;
    // As a shell does for what was ended by a signal, but for its number.
    Ok(ended
        .code()
        .map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1))))
}

async fn listen(session: &Session, name: &Bytes, form: Output) -> Result<ExitCode, Failure> {
    let mut observer = observe(session.client(), name.clone());
    loop {
        let elected = tokio::select! {
            elected = observer.next() => elected.map_err(client_failure)?,
            asked = terminal::asked_to_stop() => return stopped(asked),
        };
        let line = match form {
            Output::Json => kv_output::kv(&elected).to_string(),
            Output::Table => kv_output::elected_line(&elected),
        };
        if !output::try_line(&line)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn held(lock: &Lock<StoreChannel>) -> Reply {
    let (key, token) = (lock.key().clone(), lock.token().0);
    Reply::Held { key, token, lease: lock.tenure().lease() }
}

fn recipe_failure(error: RecipeError) -> Failure {
    match error {
        RecipeError::Request(error) => client_failure(error),
        RecipeError::Lost | RecipeError::NotACounter { .. } | RecipeError::Overflow { .. } | _ => {
            Failure::new(Kind::Unavailable, error)
        }
    }
}

/// A lease is kept alive three times within its life; a shorter one would end by a moment's delay.
const LEAST_TTL: Duration = Duration::from_secs(1);
