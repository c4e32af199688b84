//! `raft serve`: what flags and file say, checked together; then the node itself (`serve.rs`).
//!
//! Flags win over the file, the file over the defaults.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use raft_core::{ClockDrift, Config, Ticks};
use raft_kv::Upkeep;

use crate::args::Global;
use crate::config_file::ConfigFile;
use crate::failure::Failure;
use crate::founding::{Founders, checked_address};
use crate::serve::{self, Origin, Settings, SpaceSettings};
use crate::serve_args::{ServeArgs, Times};
use crate::terminal::LogGate;

pub(super) fn run(args: ServeArgs, global: &Global, log: &LogGate) -> Result<ExitCode, Failure> {
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    serve::run(settings(args, file, global)?, log)
}

fn settings(args: ServeArgs, file: ConfigFile, global: &Global) -> Result<Settings, Failure> {
    // A flag for one kind of origin overrides whatever kind the file has.
    let (bootstrap, join) = if args.bootstrap.is_some() || args.join.is_some() {
        (args.bootstrap, args.join)
    } else {
        (file.bootstrap, file.join)
    };
    let advertise = args.advertise.or(file.advertise);
    let settings = Settings {
        node: needed("node-id", args.node_id.or(file.node_id))?,
        data_dir: needed("data-dir", args.data_dir.or(file.data_dir))?,
        wal_dir: args.wal_dir.or(file.wal_dir),
        listen: needed("listen", args.listen.or(file.listen))?,
        advertise: advertise.map(|text| checked_address("--advertise", &text)).transpose()?,
        http: args.http.or(file.http),
        tls_dir: needed("tls-dir", global.tls_dir.clone().or(file.tls_dir))?,
        origin: origin(bootstrap, join)?,
        election_timeout: args
            .election_timeout
            .or(file.election_timeout)
            .unwrap_or(ELECTION_TIMEOUT),
        heartbeat_interval: args
            .heartbeat_interval
            .or(file.heartbeat_interval)
            .unwrap_or(HEARTBEAT_INTERVAL),
        snapshot_rate: args.snapshot_rate.or(file.snapshot_rate),
        client_connections: args.client_connections.or(file.client_connections),
        lease_drift: args.lease_drift.or(file.lease_drift),
        space: SpaceSettings {
            quota: args.quota.or(file.quota),
            warning: args.quota_warning.or(file.quota_warning),
            min_free: args.min_free.or(file.min_free),
        },
        upkeep: Upkeep {
            retain_revisions: args.retain_revisions.or(file.retain_revisions),
            retain_age: args.retain_age.or(file.retain_age),
            compare_every: args
                .compare_every
                .or(file.compare_every)
                .map_or_else(|| Upkeep::default().compare_every, Times::every),
        },
        join_timeout: global.timeout,
        exit_with_parent: args.exit_with_parent,
    };
    check(&settings)?;
    Ok(settings)
}

fn needed<T>(name: &str, value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| {
        Failure::usage(format!("--{name} is missing; give the flag, or {name} in --config"))
    })
}

fn origin(bootstrap: Option<String>, join: Option<String>) -> Result<Option<Origin>, Failure> {
    match (bootstrap, join) {
        (Some(_), Some(_)) => Err(Failure::usage(
            "--bootstrap founds a cluster and --join enters one; give only one of them",
        )),
        (Some(list), None) => Ok(Some(Origin::Bootstrap(Founders::parse(&list)?))),
        (None, Some(list)) => {
            let others = list.split(',').map(|text| checked_address("--join", text.trim()));
            Ok(Some(Origin::Join(others.collect::<Result<_, _>>()?)))
        }
        // Fine for a directory that is initialised already.
        (None, None) => Ok(None),
    }
}

fn check(settings: &Settings) -> Result<(), Failure> {
    let Settings { node, listen, advertise, election_timeout, heartbeat_interval, .. } = settings;
    match &settings.origin {
        Some(Origin::Bootstrap(founders)) => {
            founders.address_of(*node, *listen, advertise.as_deref())?;
        }
        Some(Origin::Join(_)) => {
            check_joining(*listen, advertise.as_deref())?;
        }
        None => {}
    }
    let shown = |time: &Duration| humantime::format_duration(*time).to_string();
    if *heartbeat_interval < TICK {
        return Err(Failure::usage(format!(
            "--heartbeat-interval {} is less than a tick of the node's clock; use {} or more",
            shown(heartbeat_interval),
            shown(&TICK)
        )));
    }
    // Counted as the protocol counts, in whole ticks.
    if ticks(*election_timeout).0 < ticks(*heartbeat_interval).0.saturating_mul(2) {
        return Err(Failure::usage(format!(
            "--election-timeout {} is less than twice --heartbeat-interval {}; followers would \
             campaign against a leader that lives; ten times is usual",
            shown(election_timeout),
            shown(heartbeat_interval)
        )));
    }
    Ok(())
}

/// A node that joins tells the others where it is, so it must be somewhere.
fn check_joining(listen: SocketAddr, advertise: Option<&str>) -> Result<(), Failure> {
    if advertise.is_none() && (listen.ip().is_unspecified() || listen.port() == 0) {
        return Err(Failure::usage(format!(
            "--listen {listen} is no address that others can reach; say with --advertise where \
             they find this node"
        )));
    }
    Ok(())
}

impl Settings {
    /// Where the others find this node, which listens on `listen`.
    pub(crate) fn address(&self, listen: SocketAddr) -> String {
        let listed = match &self.origin {
            Some(Origin::Bootstrap(founders)) => {
                founders.address_of(self.node, self.listen, self.advertise.as_deref()).ok()
            }
            Some(Origin::Join(_)) | None => self.advertise.as_deref(),
        };
        listed.map_or_else(|| listen.to_string(), str::to_owned)
    }

    /// This node's part in the protocol, counted in ticks.
    pub(crate) fn protocol(&self) -> Config {
        Config {
            election_timeout: ticks(self.election_timeout),
            heartbeat_interval: ticks(self.heartbeat_interval),
            lease: self.lease_drift.map(|ppm| ClockDrift { ppm }),
            ..Config::new(self.node)
        }
    }
}

/// Rounded up: a timeout is never shorter than it was asked for. A day has fewer than 2^24 ticks.
fn ticks(time: Duration) -> Ticks {
    Ticks(u32::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX))
}

/// A leader that is gone is missed after once to twice this. Long enough for a machine at full load: there,
/// nobody was missed in vain (`docs/performance.md`).
const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);
/// Five of them may be lost before anybody campaigns.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);

/// How long a tick of the node's clock lasts.
pub(crate) const TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::Parser;
    use raft_core::NodeId;

    use super::*;
    use crate::args::{Cli, Command};

    fn given(flags: &str, file: ConfigFile) -> Result<Settings, Failure> {
        let words = format!("raft serve --tls-dir t {flags}");
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        let Command::Serve(args) = cli.command else { panic!("not serve: {words}") };
        settings(*args, file, &cli.global)
    }

    const FOUNDER: &str = "--node-id 1 --data-dir d --listen 127.0.0.1:1 --bootstrap 1=127.0.0.1:1";

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = ConfigFile {
            node_id: NodeId::new(9),
            data_dir: Some(PathBuf::from("f")),
            listen: Some("127.0.0.1:1".parse().unwrap()),
            election_timeout: Some(Duration::from_secs(3)),
            bootstrap: Some("1=127.0.0.1:1".to_owned()),
            ..ConfigFile::default()
        };
        let settings = given("--node-id 1 --election-timeout 2s", file).unwrap();
        assert_eq!(settings.node, NodeId::new(1).unwrap());
        assert_eq!(settings.data_dir, PathBuf::from("f"));
        assert_eq!(settings.election_timeout, Duration::from_secs(2));
        assert_eq!(settings.heartbeat_interval, HEARTBEAT_INTERVAL);
        assert_eq!(settings.protocol().election_timeout, Ticks(200));
        settings.protocol().validate().unwrap();
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for (flags, part) in [
            ("--data-dir d --listen 127.0.0.1:1", "--node-id"),
            ("--node-id 1 --data-dir d --listen 0.0.0.0:1 --join 127.0.0.1:2", "--advertise"),
            (&format!("{FOUNDER} --election-timeout 90ms"), "--heartbeat-interval"),
            (&format!("{FOUNDER} --heartbeat-interval 1ms"), "tick"),
            (&format!("{FOUNDER} --advertise 127.0.0.1:2"), "--bootstrap"),
            ("--node-id 2 --data-dir d --listen 127.0.0.1:1 --bootstrap 1=127.0.0.1:1", "node 2"),
        ] {
            let failure = given(flags, ConfigFile::default()).unwrap_err();
            assert!(failure.message.contains(part), "{flags}: {failure}");
        }
    }

    #[test]
    fn every_setting_that_passes_is_one_the_protocol_takes() {
        for (election, heartbeat) in [("20ms", "10ms"), ("25ms", "11ms"), ("1d", "12h")] {
            let flags =
                format!("{FOUNDER} --election-timeout {election} --heartbeat-interval {heartbeat}");
            if let Ok(settings) = given(&flags, ConfigFile::default()) {
                settings.protocol().validate().unwrap_or_else(|error| panic!("{flags}: {error}"));
            }
        }
    }
}
