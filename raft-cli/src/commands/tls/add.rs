//! `raft tls add`: a certificate for one more node, of the same authority and cluster.

use std::path::Path;
use std::process::ExitCode;

use raft_net_quic::{ClusterName, named_node};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};

use super::authority::{Authority, parse, read_certificates, unfit};
use super::renew::{alternative_names, renewable};
use super::{checked_hosts, leaf_params, names_of_node, push, refuse_to_overwrite, write_all};
use crate::args::Output;
use crate::failure::Failure;
use crate::output;
use crate::tls_args::TlsAddArgs;

pub(in crate::commands) fn add(args: &TlsAddArgs, form: Output) -> Result<ExitCode, Failure> {
    let hosts = checked_hosts(&args.hosts)?;
    let name = format!("node-{}", args.node);
    refuse_to_overwrite(&args.dir, &name)?;
    let ca = args.ca.as_deref().unwrap_or(&args.dir);
    let authority = Authority::read(ca)?;
    let cluster = match &args.cluster {
        Some(cluster) => cluster.clone(),
        None => cluster_in(ca)?,
    };
    let names = names_of_node(args.node, &cluster, &hosts);
    let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let failed = |error: rcgen::Error| {
        Failure::usage(format!("the certificate cannot be made: {error}; check each --host"))
    };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = leaf_params(&format!("raft {name}"), names, &usages).map_err(failed)?;
    params.not_after = authority.end();
    let certificate = params.signed_by(&key, &authority.issuer).map_err(failed)?;
    let mut files = Vec::new();
    push(&mut files, &name, certificate.pem(), &key);
    write_all(&args.dir, &files)?;
    let names: Vec<_> = files.into_iter().map(|file| file.name).collect();
    output::certificates(form, &args.dir, &names)
}

/// The cluster of the certificates that are there already.
fn cluster_in(dir: &Path) -> Result<ClusterName, Failure> {
    let mut found: Option<ClusterName> = None;
    for name in renewable(dir)? {
        let path = dir.join(&name);
        let der = read_certificates(&path)?.swap_remove(0);
        let certificate = parse(&path, &der)?;
        for name in alternative_names(&path, &certificate)? {
            let Some((_, cluster)) = named_node(&name) else { continue };
            if found.as_ref().is_some_and(|found| *found != cluster) {
                let other = found.map(|found| found.to_string()).unwrap_or_default();
                let what =
                    format!("is of cluster {cluster} and others are of {other}: say --cluster");
                return Err(unfit(&path, &what));
            }
            found = Some(cluster);
        }
    }
    found.ok_or_else(|| {
        Failure::usage(format!(
            "{} holds no certificate of a node that would tell the name of the cluster; say \
             --cluster",
            dir.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use raft_core::NodeId;

    use super::*;
    use crate::tls_args::{TlsInitArgs, TlsRenewArgs};

    fn init(dir: &Path, cluster: &str) {
        let cluster = ClusterName::new(cluster).unwrap();
        let args = TlsInitArgs { dir: dir.to_owned(), nodes: 2, cluster, hosts: Vec::new() };
        super::super::write(&args).unwrap();
    }

    fn args(dir: &Path, node: u64) -> TlsAddArgs {
        TlsAddArgs {
            dir: dir.to_owned(),
            node: NodeId::new(node).unwrap(),
            ca: None,
            cluster: None,
            hosts: vec!["db4.example".into()],
        }
    }

    #[test]
    fn one_more_node_is_of_the_same_cluster_and_authority() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        init(dir, "blue");
        add(&args(dir, 9), Output::Json).unwrap();
        let path = dir.join("node-9.pem");
        let der = read_certificates(&path).unwrap().swap_remove(0);
        let names = alternative_names(&path, &parse(&path, &der).unwrap()).unwrap();
        for name in ["node-9.blue", "localhost", "db4.example"] {
            assert!(names.iter().any(|found| found == name), "{names:?}");
        }
        // It can be renewed like those that were made first.
        let renewal = TlsRenewArgs { dir: dir.to_owned(), ca: None, new_keys: false };
        super::super::renew(&renewal, Output::Json).unwrap();
    }

    #[test]
    fn nothing_is_overwritten_and_what_is_missing_is_named() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let refused = |args: &TlsAddArgs, part: &str| {
            let failure = add(args, Output::Json).unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        };
        refused(&args(dir, 3), "ca.key");
        init(dir, "blue");
        refused(&args(dir, 2), "node-2.pem exists already");
        let other = tempfile::tempdir().unwrap();
        init(other.path(), "green");
        fs::copy(other.path().join("node-1.pem"), dir.join("node-5.pem")).unwrap();
        refused(&args(dir, 3), "say --cluster");
        for file in ["node-1.pem", "node-2.pem", "node-5.pem"] {
            fs::remove_file(dir.join(file)).unwrap();
        }
        refused(&args(dir, 3), "say --cluster");
        let cluster = Some(ClusterName::new("blue").unwrap());
        add(&TlsAddArgs { cluster, ..args(dir, 3) }, Output::Json).unwrap();
    }
}
