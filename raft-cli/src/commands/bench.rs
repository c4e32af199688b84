//! `raft bench`: puts a load on a cluster, tells what it took, and sees that nothing is lost.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use raft_kv::api::ReadLevel;
use raft_kv::client::Comparison;

use crate::args::{BenchArgs, Global, Output};
use crate::bench::fanout::STAMP_BYTES;
use crate::bench::load::Measured;
use crate::bench::report::Report;
use crate::bench::target::{Connection, Target};
use crate::bench::{KeySpace, Plan, Workload, audit, load, plot};
use crate::failure::Failure;
use crate::terminal;

pub(super) fn run(args: &BenchArgs, global: &Global) -> Result<ExitCode, Failure> {
    let plan = plan(args)?;
    let target = args.target.as_deref().map_or(Ok(Target::Raft), Target::parse)?;
    if let Some(file) = &args.plot {
        // Before the load rather than after it.
        write(file, "")?;
    }
    let runtime = terminal::runtime(THREADS)?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            done = measure(&plan, &target, global) => done,
            _ = terminal::asked_to_stop() => Err(Failure::failed("interrupted")),
        }
    });
    runtime.shutdown_background();
    let Done { measured, read_back, comparison } = outcome?;
    let report =
        Report { plan: &plan, measured: &measured, read_back, comparison: comparison.as_ref() };
    if measured.latency.is_empty()
        && let Some((_, failure)) = measured.errors.values().next()
    {
        return Err(failure.clone());
    }
    if let Some(file) = &args.plot {
        let title = format!(
            "{} with {} clients on {} connections",
            plan.workload.name(),
            plan.clients,
            plan.connections
        );
        let picture = plot::draw(&measured, &title);
        write(file, &picture.map_err(|error| Failure::failed(format!("no picture: {error}")))?)?;
    }
    if global.output == Output::Json {
        for complaint in report.complaints() {
            terminal::warn(&complaint);
        }
    }
    report.print(global.output)
}

/// Checks what was typed.
fn plan(args: &BenchArgs) -> Result<Plan, Failure> {
    if args.connections > args.clients {
        return Err(Failure::usage(format!(
            "--connections {} are more than --clients {}; a connection without a client has \
             nothing to carry",
            args.connections, args.clients
        )));
    }
    let value_bytes = usize::try_from(args.value_size).unwrap_or(usize::MAX);
    if args.workload == Workload::Watch && value_bytes < STAMP_BYTES {
        return Err(Failure::usage(format!(
            "--value-size {value_bytes}: a value that is watched tells when it was written; give \
             {STAMP_BYTES} bytes at least"
        )));
    }
    Ok(Plan {
        workload: args.workload,
        clients: args.clients.into(),
        connections: args.connections.into(),
        keys: KeySpace::new(args.prefix.clone(), args.keys, value_bytes),
        rate: args.rate,
        duration: args.duration,
        level: if args.stale { ReadLevel::Stale } else { ReadLevel::Linearizable },
        reads_percent: args.reads.into(),
        limit: args.limit.into(),
        writers: args.writers.into(),
        compares: !args.skip_compare,
    })
}

/// What has come of a run.
struct Done {
    measured: Measured,
    /// How many keys were read back.
    read_back: usize,
    /// `None` if the nodes were not asked.
    comparison: Option<Comparison>,
}

async fn measure(plan: &Plan, target: &Target, global: &Global) -> Result<Done, Failure> {
    let mut connections = Vec::new();
    for number in 0..plan.all_connections() {
        connections.push(Arc::new(Connection::open(target, global, number).await?));
    }
    load::fill(plan, &connections).await?;
    let (measured, sample) = load::run(plan, &connections).await?;
    let read_back = sample.read_back(&plan.keys, &connections).await?;
    let comparison = if plan.compares { audit::compare(&connections[0]).await? } else { None };
    for connection in connections {
        connection.close().await;
    }
    Ok(Done { measured, read_back, comparison })
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    fs::write(file, text).map_err(|error| {
        Failure::usage(format!("--plot {}: {error}; choose another file", file.display()))
    })
}

/// Threads that carry the network of the clients.
const THREADS: usize = 2;
