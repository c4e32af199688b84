//! The file of `raft serve --config`: the same names as the flags, in TOML.
//!
//! A key that is not known is refused by name, because a misspelt key that is ignored is a setting
//! that is not in force. Nothing here decides what wins; `founding.rs` and `serve` do.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use raft_core::NodeId;
use serde::{Deserialize, Deserializer};

use crate::args;
use crate::failure::Failure;
use crate::serve_args::Times;

/// What the file says. Everything may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ConfigFile {
    #[serde(alias = "node_id")]
    pub(crate) node_id: Option<NodeId>,
    #[serde(alias = "data_dir")]
    pub(crate) data_dir: Option<PathBuf>,
    #[serde(alias = "wal_dir")]
    pub(crate) wal_dir: Option<PathBuf>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) advertise: Option<String>,
    pub(crate) http: Option<SocketAddr>,
    #[serde(alias = "tls_dir")]
    pub(crate) tls_dir: Option<PathBuf>,
    pub(crate) bootstrap: Option<String>,
    pub(crate) join: Option<String>,
    #[serde(alias = "lease_drift")]
    pub(crate) lease_drift: Option<u32>,
    #[serde(alias = "election_timeout", deserialize_with = "time")]
    pub(crate) election_timeout: Option<Duration>,
    #[serde(alias = "heartbeat_interval", deserialize_with = "time")]
    pub(crate) heartbeat_interval: Option<Duration>,
    #[serde(alias = "snapshot_rate")]
    pub(crate) snapshot_rate: Option<NonZeroU32>,
    #[serde(alias = "client_connections")]
    pub(crate) client_connections: Option<NonZeroU32>,
    #[serde(deserialize_with = "size")]
    pub(crate) quota: Option<u64>,
    #[serde(alias = "quota_warning", deserialize_with = "size")]
    pub(crate) quota_warning: Option<u64>,
    #[serde(alias = "min_free", deserialize_with = "size")]
    pub(crate) min_free: Option<u64>,
    #[serde(alias = "retain_revisions")]
    pub(crate) retain_revisions: Option<u64>,
    #[serde(alias = "retain_age", deserialize_with = "long_time")]
    pub(crate) retain_age: Option<Duration>,
    #[serde(alias = "compare_every", deserialize_with = "times")]
    pub(crate) compare_every: Option<Times>,
}

impl ConfigFile {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("cannot read --config {}: {error}", path.display()))
        })?;
        Self::parse(&text)
            .map_err(|(line, what)| Failure::usage(format!("{}:{line}: {what}", path.display())))
    }

    /// The settings in `text`, or the line that is wrong and what is wrong with it.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or_default();
            (before.matches('\n').count() + 1, error.message().to_owned())
        })
    }
}

fn time<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(source)?;
    args::duration(&text).map(Some).map_err(serde::de::Error::custom)
}

fn long_time<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(source)?;
    args::long_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

fn times<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Times>, D::Error> {
    let text = String::deserialize(source)?;
    Times::parse(&text).map(Some).map_err(serde::de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(source)?;
    args::bytes(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_names_of_the_flags() {
        let text = "node-id = 2\ndata_dir = \"d\"\nlisten = \"127.0.0.1:7102\"\n\
                    election-timeout = \"300ms\"\nsnapshot-rate = 20\nclient-connections = 9000\nbootstrap = \"1=a:1,2=b:2\"\n\
                    quota = \"8GiB\"\nretain-age = \"7days\"\ncompare-every = \"never\"\n";
        let file = ConfigFile::parse(text).unwrap();
        assert_eq!(file.node_id, NodeId::new(2));
        assert_eq!(file.data_dir, Some(PathBuf::from("d")));
        assert_eq!(file.listen, Some("127.0.0.1:7102".parse().unwrap()));
        assert_eq!(file.election_timeout, Some(Duration::from_millis(300)));
        assert_eq!(file.snapshot_rate, NonZeroU32::new(20));
        assert_eq!(file.client_connections, NonZeroU32::new(9000));
        assert_eq!(file.quota, Some(8 << 30));
        assert_eq!(file.retain_age, Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(file.compare_every, Some(Times::Never));
        assert_eq!(ConfigFile::parse("").unwrap(), ConfigFile::default());
    }

    #[test]
    fn names_the_line_of_what_is_wrong() {
        for (text, line, part) in [
            ("node-id = 1\nfrobnicate = 3\n", 2, "frobnicate"),
            ("node-id = 0\n", 1, "nonzero"),
            ("\n\nelection-timeout = \"soon\"\n", 3, "soon"),
            ("listen = \"nowhere\"\n", 1, "socket address"),
            ("node-id = \n", 1, ""),
            ("quota = \"much\"\n", 1, "much"),
            ("compare-every = \"0s\"\n", 1, "0s"),
        ] {
            let (found, what) = ConfigFile::parse(text).unwrap_err();
            assert_eq!(found, line, "{text:?}: {what}");
            assert!(what.contains(part), "{text:?}: {what}");
        }
    }
}
