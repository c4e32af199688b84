//! `raft tls`: the certificates of a cluster. `init` is here, `add` and `renew` in files of their own.
//!
//! One authority, one certificate a node, one for clients. A node's certificate says which node it
//! is, and of which cluster, by the DNS name `node-N.CLUSTER`; a client's says `client.CLUSTER` and can
//! never speak as a node, because it may not serve. Private keys are created with mode 0600, not changed to it afterwards,
//! and no existing file is ever replaced.

mod add;
mod authority;
mod renew;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use raft_core::NodeId;
use raft_net_quic::{ClusterName, client_name, named_node, node_name};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::args::Output;
use crate::failure::{Failure, Kind};
use crate::output;
use crate::tls_args::TlsInitArgs;

pub(super) use add::add;
pub(super) use renew::renew;

pub(super) fn init(args: &TlsInitArgs, form: Output) -> Result<ExitCode, Failure> {
    let names = write(args)?;
    output::certificates(form, &args.dir, &names)
}

/// Makes and writes the files, and gives their names.
pub(super) fn write(args: &TlsInitArgs) -> Result<Vec<String>, Failure> {
    let hosts = checked_hosts(&args.hosts)?;
    let plan =
        Plan { dir: args.dir.clone(), cluster: args.cluster.clone(), nodes: args.nodes, hosts };
    plan.refuse_to_overwrite()?;
    let files = plan.certificates().map_err(|error| {
        Failure::usage(format!("the certificates cannot be made: {error}; check each --host"))
    })?;
    write_all(&plan.dir, &files)?;
    Ok(files.into_iter().map(|file| file.name).collect())
}

/// What is to be made.
struct Plan {
    dir: PathBuf,
    cluster: ClusterName,
    nodes: u16,
    hosts: Vec<String>,
}

/// A file that is not written yet.
struct PemFile {
    name: String,
    text: String,
    secret: bool,
}

impl Plan {
    fn names(&self) -> impl Iterator<Item = String> {
        let nodes = (1..=self.nodes).map(|id| format!("node-{id}"));
        ["ca".to_owned()].into_iter().chain(nodes).chain(["client".to_owned()])
    }

    fn refuse_to_overwrite(&self) -> Result<(), Failure> {
        self.names().try_for_each(|name| refuse_to_overwrite(&self.dir, &name))
    }

    fn certificates(&self) -> Result<Vec<PemFile>, rcgen::Error> {
        let authority = authority()?;
        let mut files = Vec::new();
        push(&mut files, "ca", authority.pem(), authority.key());
        for id in (1..=self.nodes).filter_map(|id| NodeId::new(id.into())) {
            let names = names_of_node(id, &self.cluster, &self.hosts);
            let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            issue(&mut files, &authority, &format!("node-{id}"), names, &usages)?;
        }
        let names = vec![client_name(&self.cluster)];
        issue(&mut files, &authority, "client", names, &[ExtendedKeyUsagePurpose::ClientAuth])?;
        Ok(files)
    }
}

/// What a node is reached by, and the name that says which it is.
fn names_of_node(id: NodeId, cluster: &ClusterName, hosts: &[String]) -> Vec<String> {
    let mut names = vec![node_name(id, cluster)];
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    for host in hosts {
        if !names.contains(host) {
            names.push(host.clone());
        }
    }
    names
}

fn refuse_to_overwrite(dir: &Path, name: &str) -> Result<(), Failure> {
    for path in [".pem", ".key"].map(|end| dir.join(format!("{name}{end}"))) {
        if fs::symlink_metadata(&path).is_ok() {
            return Err(exists(&path));
        }
    }
    Ok(())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = params("raft cluster authority", Vec::new(), CA_DAYS)?;
    // No authority below this one: a stolen leaf key cannot make certificates.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn issue(
    files: &mut Vec<PemFile>,
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    names: Vec<String>,
    usages: &[ExtendedKeyUsagePurpose],
) -> Result<(), rcgen::Error> {
    let key = KeyPair::generate()?;
    let params = leaf_params(&format!("raft {name}"), names, usages)?;
    let certificate = params.signed_by(&key, authority)?;
    push(files, name, certificate.pem(), &key);
    Ok(())
}

/// What a certificate says that issues no others.
fn leaf_params(
    common_name: &str,
    names: Vec<String>,
    usages: &[ExtendedKeyUsagePurpose],
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(common_name, names, LEAF_DAYS)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(
    common_name: &str,
    names: Vec<String>,
    days: i64,
) -> Result<CertificateParams, rcgen::Error> {
    // Names that are IP addresses become IP names here.
    let mut params = CertificateParams::new(names)?;
    debug_assert!(
        params
            .subject_alt_names
            .iter()
            .all(|name| { matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)) })
    );
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    // The clocks of the nodes may lag ours a little.
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::minutes(CLOCK_SKEW_MINUTES);
    params.not_after = now + Duration::days(days);
    Ok(params)
}

fn push(files: &mut Vec<PemFile>, name: &str, certificate: String, key: &KeyPair) {
    files.push(PemFile { name: format!("{name}.pem"), text: certificate, secret: false });
    files.push(PemFile { name: format!("{name}.key"), text: key.serialize_pem(), secret: true });
}

fn write_all(dir: &Path, files: &[PemFile]) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| cannot_write(dir, &error))?;
    for file in files {
        let path = dir.join(&file.name);
        let mut options = OpenOptions::new();
        // `create_new` also covers what appeared since we looked.
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(if file.secret { 0o600 } else { 0o644 });
        }
        let written = options.open(&path).and_then(|mut target| {
            target.write_all(file.text.as_bytes())?;
            target.sync_all()
        });
        written.map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                exists(&path)
            } else {
                cannot_write(&path, &error)
            }
        })?;
    }
    Ok(())
}

fn exists(path: &Path) -> Failure {
    Failure::usage(format!(
        "{} exists already and is not overwritten; remove it or choose another --dir",
        path.display()
    ))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Kind::Failed,
        format!("cannot write {}: {error}; choose another --dir", path.display()),
    )
}

fn checked_hosts(hosts: &[String]) -> Result<Vec<String>, Failure> {
    hosts.iter().map(|host| checked_host(host)).collect()
}

/// A name of the form `node-N.CLUSTER` would let one node speak as another.
fn checked_host(host: &str) -> Result<String, Failure> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    let sound = !bare.is_empty()
        && bare.len() <= 253
        && bare.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*'));
    if !sound {
        return Err(Failure::usage(format!(
            "{host:?} is neither a host name nor an IP address; give --host without a port"
        )));
    }
    if named_node(&bare.to_ascii_lowercase()).is_some() {
        return Err(Failure::usage(format!(
            "--host {host} has the form node-ID.CLUSTER, by which a certificate names its node; \
             choose another name"
        )));
    }
    Ok(bare.to_owned())
}

const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 730;
const CLOCK_SKEW_MINUTES: i64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &Path) -> Plan {
        let hosts = vec!["db.example".into(), "10.0.0.1".into()];
        Plan { dir: dir.to_owned(), cluster: ClusterName::default(), nodes: 2, hosts }
    }

    #[test]
    fn writes_a_pair_for_each_and_keeps_keys_secret() {
        let dir = tempfile::tempdir().unwrap();
        let files = plan(dir.path()).certificates().unwrap();
        write_all(dir.path(), &files).unwrap();
        let names: Vec<_> = files.iter().map(|file| &*file.name).collect();
        assert_eq!(
            names,
            [
                "ca.pem",
                "ca.key",
                "node-1.pem",
                "node-1.key",
                "node-2.pem",
                "node-2.key",
                "client.pem",
                "client.key"
            ]
        );
        #[cfg(unix)]
        for file in &files {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.path().join(&file.name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, if file.secret { 0o600 } else { 0o644 }, "{}", file.name);
        }
    }

    #[test]
    fn refuses_to_overwrite_anything() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node-2.key"), "precious").unwrap();
        let failure = plan(dir.path()).refuse_to_overwrite().unwrap_err();
        assert_eq!(failure.kind, Kind::Usage);
        assert!(failure.message.contains("node-2.key"), "{failure}");
    }

    #[test]
    fn hosts_cannot_pose_as_nodes() {
        for bad in ["node-1.raft", "NODE-2.other.example", "", "a b", "host:7101"] {
            assert!(checked_host(bad).is_err(), "{bad:?}");
        }
        assert_eq!(checked_host("[::1]").unwrap(), "::1");
        assert_eq!(checked_host("db.example").unwrap(), "db.example");
    }
}
