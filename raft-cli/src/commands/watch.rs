//! `raft watch`: what happens to some keys, as it happens.

use std::process::ExitCode;
use std::time::Duration;

use raft_kv::{Event, EventFilter, Revision, WatchRequest, Watched};

use crate::args::{Global, Output};
use crate::connect::{Session, client_failure};
use crate::failure::Failure;
use crate::kv_args::{EventName, WatchArgs};
use crate::output::{self, Reply};
use crate::{kv_output, terminal};

/// Prints events as they come, until there were enough, or it is told to stop.
pub(super) fn run(global: &Global, args: &WatchArgs) -> Result<ExitCode, Failure> {
    let request = request_of(args)?;
    let runtime = terminal::runtime(1)?;
    runtime.block_on(async {
        let session = Session::open(global)?;
        let done = tokio::select! {
            done = stream(&session, request, args, global.output) => done,
            asked = terminal::asked_to_stop() => asked.map(|()| ExitCode::SUCCESS).map_err(|error| {
                Failure::failed(format!("signals cannot be received: {error}"))
            }),
        };
        session.close().await;
        done
    })
}

async fn stream(
    session: &Session,
    request: WatchRequest,
    args: &WatchArgs,
    form: Output,
) -> Result<ExitCode, Failure> {
    let mut watching = session.client().watch(request);
    let mut left = args.count;
    while left != Some(0) {
        let mut said = watching.next().await.map_err(client_failure)?;
        limit(&mut said, &mut left);
        let lines = match form {
            Output::Json => vec![kv_output::watched(&said).to_string()],
            Output::Table => said.events.iter().map(kv_output::event_line).collect(),
        };
        for line in lines {
            if !output::try_line(&line)? {
                return Ok(ExitCode::SUCCESS); // Whoever reads has seen enough.
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for as many events as are asked for, one at least, and answers with all of them: a shell gives
/// one answer to each line.
pub(super) async fn request(session: &Session, args: &WatchArgs) -> Result<Reply, Failure> {
    let mut watching = session.client().watch(request_of(args)?);
    let mut left = Some(args.count.unwrap_or(1).max(1));
    let mut all = Watched::default();
    while left != Some(0) {
        let mut said = watching.next().await.map_err(client_failure)?;
        limit(&mut said, &mut left);
        all.events.append(&mut said.events);
        all.through = said.through;
    }
    Ok(Reply::Watched(all))
}

/// Takes no more events than are left.
fn limit(said: &mut Watched, left: &mut Option<u64>) {
    let Some(left) = left else { return };
    said.events.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= u64::try_from(said.events.len()).unwrap_or(u64::MAX).min(*left);
    if let Some(last) = said.events.last().map(Event::revision) {
        said.through = last;
    }
}

fn request_of(args: &WatchArgs) -> Result<WatchRequest, Failure> {
    let leaves_out = |name| args.filter.contains(&name);
    let filter = EventFilter {
        no_put: leaves_out(EventName::Put),
        no_delete: leaves_out(EventName::Delete),
    };
    let progress = |time: Duration| {
        u32::try_from(time.as_millis()).map_err(|_| {
            Failure::usage(format!("--progress {time:?} is too long; give 49 days at most"))
        })
    };
    Ok(WatchRequest {
        from: (args.rev > 0).then_some(Revision(args.rev)),
        filter,
        prev_kv: args.prev_kv,
        progress_ms: args.progress.map(progress).transpose()?,
        ..WatchRequest::new(args.keys.range()?)
    })
}
