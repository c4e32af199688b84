//! `raft log verify | dump | stat`: what is in a data directory, while no node runs on it.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use indicatif::{ProgressBar, ProgressStyle};
use raft_core::{Entry, Index, Membership, Payload};
use raft_log::LogStat;
use serde_json::{Value, json};

use crate::args::{LogCommand, LogDumpArgs, Output};
use crate::failure::Failure;
use crate::{faults, output};

pub(super) fn run(command: &LogCommand, form: Output) -> Result<ExitCode, Failure> {
    match command {
        LogCommand::Verify(args) => {
            // Draws on stderr, and only if that is a terminal.
            let bar = ProgressBar::new(0).with_style(
                ProgressStyle::with_template("{bar:40} {pos}/{len} entries, {eta} left")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            let found = raft_log::verify(&args.dir, &mut |read, total| {
                bar.set_length(total);
                bar.set_position(read);
            });
            bar.finish_and_clear();
            print(&found.map_err(faults::of_directory)?, form, Some("whole"))
        }
        LogCommand::Dump(args) => dump(args, form),
        LogCommand::Stat(args) => {
            let found = raft_log::stat(&args.dir).map_err(faults::of_directory)?;
            print(&found, form, None)
        }
    }
}

fn print(stat: &LogStat, form: Output, verdict: Option<&str>) -> Result<ExitCode, Failure> {
    match form {
        Output::Json => output::print_line(&to_json(stat, verdict).to_string()),
        Output::Table => output::print_line(&to_text(stat, verdict)),
    }
}

fn to_json(stat: &LogStat, verdict: Option<&str>) -> Value {
    let (membership_at, membership) = &stat.membership;
    let runs: Vec<_> = stat
        .runs
        .iter()
        .map(|(term, first)| json!({ "term": term.0, "first_index": first.0 }))
        .collect();
    let mut found = json!({
        "node_id": stat.identity.node.as_u64(),
        "cluster": stat.identity.cluster.to_string(),
        "incarnation": stat.identity.incarnation.to_string(),
        "term": stat.hard.term.0,
        "vote": stat.hard.vote.map(raft_core::NodeId::as_u64),
        "base_index": stat.base.index.0,
        "base_term": stat.base.term.0,
        "last_index": stat.last.index.0,
        "last_term": stat.last.term.0,
        "entries": stat.entries,
        "runs": runs,
        "members": members(membership),
        "members_at": membership_at.index.0,
        "writes": stat.writes,
        "acknowledged_writes": stat.acknowledged,
        "disk_bytes": stat.disk_bytes,
    });
    if let Some(verdict) = verdict {
        found["verdict"] = verdict.into();
    }
    found
}

fn to_text(stat: &LogStat, verdict: Option<&str>) -> String {
    let (at, membership) = &stat.membership;
    let vote = stat.hard.vote.map_or_else(|| "nobody".to_owned(), |node| format!("node {node}"));
    let runs: Vec<_> =
        stat.runs.iter().map(|(term, first)| format!("{term} from {first}")).collect();
    let mut lines = vec![
        format!("node        {} of cluster {}", stat.identity.node, stat.identity.cluster),
        format!("term        {}, vote for {vote}", stat.hard.term),
        format!("entries     {}, after {} through {}", stat.entries, stat.base, stat.last),
        format!("terms       {}", if runs.is_empty() { "-".to_owned() } else { runs.join(", ") }),
        format!("members     {} (at index {})", members(membership).join(", "), at.index),
        format!("writes      {}, of them acknowledged {}", stat.writes, stat.acknowledged),
        format!("disk        {} bytes", stat.disk_bytes),
    ];
    if let Some(verdict) = verdict {
        lines.push(format!("verdict     {verdict}"));
    }
    lines.join("\n")
}

fn members(membership: &Membership) -> Vec<String> {
    membership.peers.iter().map(|(id, peer)| format!("{id}={}", peer.address)).collect()
}

fn dump(args: &LogDumpArgs, form: Output) -> Result<ExitCode, Failure> {
    let through = Index(args.to.unwrap_or(u64::MAX));
    if through.0 < args.from {
        return Err(Failure::usage(format!(
            "--to {} is before --from {}; give the lower index first",
            through.0, args.from
        )));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    raft_log::dump(&args.dir, Index(args.from), through, &mut |entry| {
        written = match form {
            Output::Json => writeln!(out, "{}", entry_json(&entry)),
            Output::Table => writeln!(out, "{}", entry_text(&entry)),
        };
        written.is_ok()
    })
    .map_err(faults::of_directory)?;
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever reads our output may stop when it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::failed(format!("cannot write to stdout: {error}"))),
    }
}

fn entry_json(entry: &Entry) -> Value {
    let mut line = json!({ "index": entry.id.index.0, "term": entry.id.term.0 });
    match &entry.payload {
        Payload::Empty => line["kind"] = "empty".into(),
        Payload::Command(bytes) => {
            line["kind"] = "command".into();
            line["bytes"] = bytes.len().into();
            line["command_base64"] = BASE64.encode(bytes).into();
        }
        Payload::Membership(membership) => {
            line["kind"] = "membership".into();
            line["members"] = members(membership).into();
        }
    }
    line
}

/// A long command is cut: who wants all of it asks for JSON.
fn entry_text(entry: &Entry) -> String {
    const SHOWN: usize = 48;
    let what = match &entry.payload {
        Payload::Empty => "empty".to_owned(),
        Payload::Command(bytes) => {
            let shown = &bytes[..bytes.len().min(SHOWN)];
            let more = if bytes.len() > SHOWN { "..." } else { "" };
            format!("command     {} bytes  {}{more}", bytes.len(), shown.escape_ascii())
        }
        Payload::Membership(membership) => {
            format!("membership  {}", members(membership).join(", "))
        }
    };
    format!("{:>10} {:>6}  {what}", entry.id.index.0, entry.id.term.0)
}
