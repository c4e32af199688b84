//! The command line as typed. Nothing here looks at the world: what the words mean together is
//! checked by the command they belong to.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::bench::Workload;
use crate::failure::Failure;
use crate::kv_args::{
    AlarmCommand, CheckCommand, CompactArgs, DelArgs, ElectArgs, LeaseCommand, LockArgs, PutArgs,
    RangeArgs, SessionCommand, TxnArgs, UnlockArgs, WatchArgs,
};
use crate::serve_args::{SERVE_EXAMPLES, ServeArgs};
use crate::tls_args::TlsCommand;

/// A replicated, linearizable key-value store that survives the loss of any minority of its nodes.
///
/// Exit codes: 0 done, 1 no such key or a comparison failed (or something did on this machine), 2
/// usage, 3 no leader or nobody reachable, 4 the outcome of a write is unknown, 5 not permitted, 6
/// data is damaged or belongs to another node.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "raft",
    version,
    arg_required_else_help = true,
    args_override_self = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is valid before and after any subcommand.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Nodes to talk to. One that answers is enough: it knows the others.
    #[arg(
        long,
        global = true,
        env = "RAFT_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) endpoints: Vec<String>,
    /// The directory with `ca.pem` and the certificate to use, as `raft tls init` writes it.
    #[arg(
        long,
        global = true,
        env = "RAFT_TLS_DIR",
        value_name = "DIR",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) tls_dir: Option<PathBuf>,
    /// How results are printed.
    #[arg(
        long,
        short,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Global options"
    )]
    pub(crate) output: Output,
    /// How long a request may take in all, with every retry.
    #[arg(
        long, global = true, value_name = "TIME", default_value = "5s", value_parser = duration,
        help_heading = "Global options"
    )]
    pub(crate) timeout: Duration,
    /// Say more on stderr; twice for everything.
    #[arg(
        long, short, global = true, action = ArgAction::Count, help_heading = "Global options"
    )]
    pub(crate) verbose: u8,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs: one line.
    Json,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the certificates of a cluster.
    #[command(subcommand)]
    Tls(TlsCommand),
    /// Run a node.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Write a value under a key.
    #[command(after_help = PUT_EXAMPLES)]
    Put(PutArgs),
    /// Read the value of a key. Exit code 1 if there is no such key.
    ///
    /// With an option that speaks of several keys it is `raft range`.
    #[command(after_help = "Examples:\n  raft get colour\n  raft get colour --stale -o json")]
    Get(RangeArgs),
    /// Read a range of keys.
    #[command(after_help = RANGE_EXAMPLES)]
    Range(RangeArgs),
    /// Remove a key, or a range of keys.
    #[command(after_help = "Examples:\n  raft del colour\n  raft del user/ --prefix --prev-kv")]
    Del(DelArgs),
    /// Do several things as one, depending on what is there. Exit code 1 if the comparisons fail.
    #[command(after_help = TXN_EXAMPLES)]
    Txn(TxnArgs),
    /// Show what happens to a key, or a range of keys, as it happens.
    ///
    /// Goes on at another node when the one that tells it is lost, without a gap. With `-o json` one
    /// line for each piece: whole revisions, and through which revision that is all.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(WatchArgs),
    /// Hold a lock while a command runs, or until Ctrl-C. At most one holds it at a time.
    ///
    /// Exit code 3 if it was lost, because no node was reached for as long as the lease lives.
    #[command(after_help = LOCK_EXAMPLES)]
    Lock(LockArgs),
    /// Be elected, and stay so until Ctrl-C; or show who is.
    #[command(
        after_help = "Examples:\n  raft elect scheduler host-1\n  raft elect scheduler --listen"
    )]
    Elect(ElectArgs),
    /// Keys that go when nobody keeps them.
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// What makes a write run once, however often it is sent.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Give up the history before a revision. The present stays.
    #[command(after_help = "Example:\n  raft compact 1000")]
    Compact(CompactArgs),
    /// Compare what the nodes hold.
    #[command(subcommand)]
    Check(CheckCommand),
    /// What an operator has to know of at once.
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Show what each node is doing.
    #[command(after_help = "Example:\n  raft status --endpoints 127.0.0.1:7101 --tls-dir certs")]
    Status,
    /// Read commands from stdin, one a line, over one connection.
    ///
    /// On a terminal there is a prompt with history. Otherwise each command is answered by one line
    /// of JSON, in order, and a command that fails by {"error":{"kind":..,"message":..}}.
    #[command(after_help = "Example:\n  printf 'put a 1\\nget a\\n' | raft shell")]
    Shell,
    /// Look at the log in a node's data directory, while the node does not run.
    #[command(subcommand)]
    Log(LogCommand),
    /// Run a cluster on this machine, kill its leader, and show that nothing is lost.
    #[command(after_help = "Examples:\n  raft demo --exit\n  raft demo --nodes 5 --dir ./demo")]
    Demo(DemoArgs),
    /// Put a load on the cluster, measure it, and see that nothing is lost.
    ///
    /// Each client begins its next operation when the last is done, or, with --rate, operations are
    /// due at fixed times and latencies count from then on. Afterwards a sample of what was
    /// acknowledged is read back, and what the nodes hold is compared: exit code 6 if anything is
    /// missing or differs. It writes below --prefix, and leaves its keys.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Box<BenchArgs>),
    /// Print a script that completes `raft` commands in a shell.
    #[command(after_help = "Example:\n  raft completion bash > raft.bash && . ./raft.bash")]
    Completion(CompletionArgs),
}

/// What a shell line may hold: the subcommands that are one request each.
#[derive(Clone, Debug, Parser)]
#[command(name = "raft", no_binary_name = true, disable_version_flag = true)]
pub(crate) struct ShellLine {
    #[command(subcommand)]
    pub(crate) request: Request,
}

/// One request to the cluster.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Request {
    /// Write a value under a key.
    Put(PutArgs),
    /// Read the value of a key.
    Get(RangeArgs),
    /// Read a range of keys.
    Range(RangeArgs),
    /// Remove a key, or a range of keys.
    Del(DelArgs),
    /// Do several things as one, depending on what is there.
    Txn(TxnArgs),
    /// Wait for what happens to a key, or a range of keys.
    Watch(WatchArgs),
    /// Wait for a lock, and hold it until `unlock` or the end of the shell.
    Lock(LockArgs),
    /// Wait to be elected, and stay so until `unlock` or the end of the shell; or show who is.
    Elect(ElectArgs),
    /// Give up a lock, or what one was elected to.
    Unlock(UnlockArgs),
    /// Keys that go when nobody keeps them.
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// What makes a write run once, however often it is sent.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Give up the history before a revision.
    Compact(CompactArgs),
    /// Compare what the nodes hold.
    #[command(subcommand)]
    Check(CheckCommand),
    /// What an operator has to know of at once.
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Show what each node is doing.
    Status,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Read the whole log: every checksum, and whether each entry follows the one before.
    ///
    /// Exit code 6 if anything is wrong; the message says what and where.
    #[command(after_help = "Example:\n  raft log verify /var/lib/raft")]
    Verify(LogArgs),
    /// Print the entries of the log.
    #[command(after_help = "Example:\n  raft log dump /var/lib/raft --from 100 --to 120 -o json")]
    Dump(LogDumpArgs),
    /// Show where the log starts and ends, its terms, its members and its size.
    #[command(after_help = "Example:\n  raft log stat /var/lib/raft -o json")]
    Stat(LogArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LogArgs {
    /// The data directory of the node.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LogDumpArgs {
    /// The data directory of the node.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The first index to print.
    #[arg(long, value_name = "INDEX", default_value_t = 1)]
    pub(crate) from: u64,
    /// The last index to print. By default the last there is.
    #[arg(long, value_name = "INDEX")]
    pub(crate) to: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the nodes keep their data; a new or empty directory. It stays afterwards. By default a
    /// temporary one that is removed.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How many nodes. Three survive the loss of one, five of two.
    #[arg(
        long, value_name = "COUNT", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(3..=9)
    )]
    pub(crate) nodes: u16,
    /// Stop after the show instead of staying up.
    #[arg(long)]
    pub(crate) exit: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    /// What each client does over and over.
    #[arg(value_name = "WORKLOAD")]
    pub(crate) workload: Workload,
    /// How many clients ask at the same time.
    #[arg(
        long, value_name = "COUNT", default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=50_000)
    )]
    pub(crate) clients: u16,
    /// How many connections they share.
    #[arg(
        long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=10_000)
    )]
    pub(crate) connections: u16,
    /// How many bytes a value has.
    #[arg(
        long, value_name = "BYTES", default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(0..=1 << 20)
    )]
    pub(crate) value_size: u32,
    /// How many keys there are. Each operation takes one at random.
    #[arg(
        long, value_name = "COUNT", default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000)
    )]
    pub(crate) keys: u64,
    /// What every key begins with.
    #[arg(long, value_name = "TEXT", default_value = "bench/")]
    pub(crate) prefix: String,
    /// Operations a second of all clients together. By default as many as there can be.
    #[arg(
        long, value_name = "OPS", value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    pub(crate) rate: Option<u32>,
    /// For how long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Read what any node has, instead of what is certainly the newest.
    #[arg(long)]
    pub(crate) stale: bool,
    /// How many of 100 operations of a mixed load are reads.
    #[arg(
        long, value_name = "PERCENT", default_value_t = 90,
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    pub(crate) reads: u8,
    /// How many keys one range reads.
    #[arg(
        long, value_name = "COUNT", default_value_t = 100,
        value_parser = clap::value_parser!(u16).range(1..=10_000)
    )]
    pub(crate) limit: u16,
    /// How many clients write while --clients watch. They share a connection of their own.
    #[arg(
        long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=50_000)
    )]
    pub(crate) writers: u16,
    /// Do not compare what the nodes hold afterwards: each reads all it has.
    #[arg(long)]
    pub(crate) skip_compare: bool,
    /// Draw latencies and throughput into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Put the load on etcd instead: etcd://HOST:PORT,..., without TLS.
    #[arg(long, value_name = "URL")]
    pub(crate) target: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell to complete in.
    pub(crate) shell: clap_complete::Shell,
}

/// Reads the command line. Help and version are printed, and end the program, here.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Failure> {
    Cli::try_parse_from(words).map_err(|error| complaint(&error))
}

/// Reads a line of `raft shell` that was split into words.
pub(crate) fn parse_line(words: Vec<String>) -> Result<Request, Failure> {
    ShellLine::try_parse_from(words).map(|line| line.request).map_err(|error| {
        if shows_help(&error) {
            Failure::usage(
                "a line is one of: put KEY VALUE, get KEY, range KEY [END], del KEY [END], \
                 txn {JSON}, lease .., session .., compact REVISION, check .., alarm .., status; each \
                 with the options of `raft`",
            )
        } else {
            complaint(&error)
        }
    })
}

/// The definition of the command line, for completions.
pub(crate) fn definition() -> clap::Command {
    Cli::command()
}

fn complaint(error: &clap::Error) -> Failure {
    if shows_help(error) {
        // Asked for help: stdout, exit code 0. Given nothing at all: stderr, exit code 2.
        error.exit();
    }
    Failure::usage(format!("{}; see `raft --help`", first_sentence(error)))
}

fn shows_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// What clap complains of, without the usage that follows after an empty line.
fn first_sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.split("\n\n").next().unwrap_or_default().to_owned()
}

/// A key or a value: what was typed, be it text or not.
pub(crate) fn any_bytes() -> impl TypedValueParser<Value = Bytes> {
    OsStringValueParser::new().map(|typed| Bytes::from(typed.into_encoded_bytes()))
}

/// A span of time with its unit, as in `100ms` or `1s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let span = any_duration(text)?;
    if span.is_zero() || span > Duration::from_secs(24 * 60 * 60) {
        return Err(format!("{text} is out of range; use more than 0 and at most a day"));
    }
    Ok(span)
}

/// The same, up to ten years.
pub(crate) fn long_duration(text: &str) -> Result<Duration, String> {
    let span = any_duration(text)?;
    if span < Duration::from_secs(1) || span > Duration::from_secs(10 * 366 * 24 * 60 * 60) {
        return Err(format!("{text} is out of range; use a second at least and ten years at most"));
    }
    Ok(span)
}

fn any_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a time; write it like 100ms, 5s or 1m"))
}

/// An amount of bytes, as in `512MiB` or `8GB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| format!("{text:?} is not an amount of bytes; write it like 512MiB or 8GiB"))?;
    Ok(size.as_u64())
}

/// The name of a cluster in its certificates.
const PUT_EXAMPLES: &str = "\
Examples:
  raft put colour green
  raft put colour blue --prev-kv -o json
  raft put colour --ignore-value --lease 7";

const WATCH_EXAMPLES: &str = "\
Examples:
  raft watch colour
  raft watch user/ --prefix --rev 100 --prev-kv -o json
  raft watch lock --filter put --count 1";

const LOCK_EXAMPLES: &str = "\
Examples:
  raft lock backup
  raft lock backup --ttl 30s --wait 10s ./backup.sh --full";

const RANGE_EXAMPLES: &str = "\
Examples:
  raft range a c
  raft range user/ --prefix --limit 10 --sort-by modify --order descend
  raft range '' --prefix --count-only
  raft range user/ --prefix --rev 42 -o json";

const TXN_EXAMPLES: &str = "\
Examples:
  raft txn '{\"compare\":[{\"key\":\"a\",\"target\":\"version\",\"op\":\"=\",\"value\":0}],
             \"then\":[{\"put\":{\"key\":\"a\",\"value\":\"1\"}}],\"else\":[{\"range\":{\"key\":\"a\"}}]}'
  printf 'version(a) = 0\\n\\nput a 1\\n\\nget a\\n' | raft txn";

const BENCH_EXAMPLES: &str = "\
Examples:
  raft bench put --clients 256 --duration 30s
  raft bench mixed --reads 90 --clients 64 --rate 5000 --plot mixed.svg
  raft bench range --limit 100 --keys 1000000 --stale -o json
  raft bench watch --clients 100 --connections 10 --rate 1000";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
        ShellLine::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_subcommand() {
        let words = "--endpoints a:1,b:2 --tls-dir d --output json --timeout 7s -v";
        let before = parsed(&format!("raft {words} get k")).unwrap();
        let after = parsed(&format!("raft get k {words}")).unwrap();
        for cli in [before, after] {
            assert_eq!(cli.global.endpoints, ["a:1", "b:2"]);
            assert_eq!(cli.global.tls_dir, Some(PathBuf::from("d")));
            assert_eq!(cli.global.output, Output::Json);
            assert_eq!(cli.global.timeout, Duration::from_secs(7));
            assert_eq!(cli.global.verbose, 1);
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(|below| check(below, &path));
                return;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("raft "), "`{path} --help` has no example");
        }
        definition().get_subcommands().for_each(|command| check(command, "raft"));
    }

    #[test]
    fn complaints_are_one_sentence() {
        for (line, part) in [
            ("raft put k", "<VALUE>"),
            ("raft frob", "frob"),
            ("raft get k --timeout 5", "5"),
            ("raft serve --node-id 0", "0"),
            ("raft serve --bootstrap 1=a:1 --join b:1", "--join"),
        ] {
            let error = parsed(line).unwrap_err();
            let failure = complaint(&error);
            assert!(failure.message.contains(part), "{line}: {failure}");
            assert!(!failure.message.contains("Usage"), "{line}: {failure}");
        }
    }

    #[test]
    fn a_value_may_be_a_negative_number() {
        let Command::Put(put) = parsed("raft put k -1").unwrap().command else { panic!() };
        assert_eq!(put.value.unwrap(), "-1");
    }
}
