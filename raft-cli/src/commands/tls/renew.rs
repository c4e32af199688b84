//! `raft tls renew`: certificates that last longer, of the same authority and for the same names.
//!
//! Unless new keys are asked for, a certificate keeps its key. Then one file changes, in one step, and
//! whatever reads the pair at any moment finds one that fits. A new key is put in place before its
//! certificate; a node that runs uses neither until both are there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use raft_net_quic::named_node;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SubjectPublicKeyInfo};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo as SubjectKey;

use super::authority::{Authority, parse, read_certificates, unfit};
use super::{cannot_write, leaf_params};
use crate::args::Output;
use crate::failure::Failure;
use crate::output;
use crate::tls_args::TlsRenewArgs;

pub(in crate::commands) fn renew(args: &TlsRenewArgs, form: Output) -> Result<ExitCode, Failure> {
    let authority = Authority::read(args.ca.as_deref().unwrap_or(&args.dir))?;
    let names = renewable(&args.dir)?;
    // All of them are made before the first is replaced: what cannot be done changes nothing.
    let mut made = Vec::new();
    for name in &names {
        made.push(authority.renewed(&args.dir.join(name), args.new_keys)?);
    }
    for renewed in &made {
        if let Some(key) = &renewed.key {
            replace(&renewed.certificate.0.with_extension("key"), key, 0o600)?;
        }
        replace(&renewed.certificate.0, &renewed.certificate.1, 0o644)?;
    }
    output::renewed(form, &args.dir, &names, authority.end())
}

/// The certificates in `dir` that are renewed: those of nodes, and that of clients.
pub(super) fn renewable(dir: &Path) -> Result<Vec<String>, Failure> {
    let unreadable = |error: io::Error| Failure::usage(format!("{}: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() else { continue };
        let Some(stem) = name.strip_suffix(".pem") else { continue };
        // In the order of their ids, clients last.
        let node = named_node(&format!("{stem}.raft")).map(|(id, _)| id.as_u64());
        if node.is_some() || stem == "client" {
            found.push((node.unwrap_or(u64::MAX), name));
        }
    }
    if found.is_empty() {
        return Err(Failure::usage(format!(
            "{} holds no certificate to renew (node-ID.pem or client.pem); `raft tls init` makes \
             new ones",
            dir.display()
        )));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// A certificate that is not in place yet, and its key if that is new. PEM.
struct Renewed {
    certificate: (PathBuf, String),
    key: Option<String>,
}

impl Authority {
    /// The successor of the certificate at `path`.
    fn renewed(&self, path: &Path, new_key: bool) -> Result<Renewed, Failure> {
        let before = read_certificates(path)?.swap_remove(0);
        let before = parse(path, &before)?;
        // Every `raft tls init` gives its authority the same name: only the signature tells.
        let ours = SubjectKey::from_der(&self.public_key)
            .is_ok_and(|(_, key)| before.verify_signature(Some(&key)).is_ok());
        if !ours {
            let authority = self.path.display();
            return Err(unfit(path, &format!("was issued by another authority than {authority}")));
        }
        let mut params = params_of(path, &before)?;
        params.not_after = self.end();
        let failed = |error: rcgen::Error| unfit(path, &format!("cannot be renewed ({error})"));
        let (made, key) = if new_key {
            let key = KeyPair::generate().map_err(failed)?;
            (params.signed_by(&key, &self.issuer), Some(key.serialize_pem()))
        } else {
            let key = SubjectPublicKeyInfo::from_der(before.public_key().raw).map_err(failed)?;
            (params.signed_by(&key, &self.issuer), None)
        };
        Ok(Renewed { certificate: (path.to_owned(), made.map_err(failed)?.pem()), key })
    }
}

/// The same names and purposes as before.
fn params_of(path: &Path, before: &X509Certificate<'_>) -> Result<CertificateParams, Failure> {
    let names = alternative_names(path, before)?;
    let garbled = |error: x509_parser::error::X509Error| unfit(path, &error.to_string());
    let common_name = before.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    let mut usages = Vec::new();
    if let Some(found) = before.extended_key_usage().map_err(garbled)? {
        let server = found.value.server_auth.then_some(ExtendedKeyUsagePurpose::ServerAuth);
        let client = found.value.client_auth.then_some(ExtendedKeyUsagePurpose::ClientAuth);
        usages.extend(server.into_iter().chain(client));
    }
    leaf_params(common_name.unwrap_or_default(), names, &usages)
        .map_err(|error| unfit(path, &format!("cannot be renewed ({error})")))
}

/// The names and addresses that a certificate is for.
pub(super) fn alternative_names(
    path: &Path,
    certificate: &X509Certificate<'_>,
) -> Result<Vec<String>, Failure> {
    let found = certificate.subject_alternative_name();
    let found = found.map_err(|error| unfit(path, &error.to_string()))?;
    let names = found.map_or(&[][..], |found| &found.value.general_names);
    let kept = |name| {
        name_of(name).ok_or_else(|| {
            unfit(path, &format!("has a name of a kind that is not kept ({name:?})"))
        })
    };
    names.iter().map(kept).collect()
}

// Listing the other kinds would tie us to the parser's version.
fn name_of(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let ipv4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
    let ip = ipv4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
    ip.ok().map(|ip| ip.to_string())
}

/// Puts `text` in place of `path` in one step: whoever reads it finds the old or the new, whole.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    // A link stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let beside = path.with_extension("new");
    let replaced = write_anew(&beside, text, mode)
        .and_then(|()| fs::rename(&beside, &path))
        .and_then(|()| path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all()));
    replaced.map_err(|error| {
        let _ = fs::remove_file(&beside); // Whatever is wrong there, too, the first error says more.
        cannot_write(&path, &error)
    })
}

fn write_anew(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::CA;
    use crate::tls_args::TlsInitArgs;
    use raft_net_quic::ClusterName;
    use rcgen::PublicKeyData;

    fn init(dir: &Path) {
        let cluster = ClusterName::new("blue").unwrap();
        let hosts = vec!["db.example".into(), "10.0.0.1".into(), "fe80::1".into()];
        let args = TlsInitArgs { dir: dir.to_owned(), nodes: 2, cluster, hosts };
        super::super::write(&args).unwrap();
    }

    fn args(dir: &Path, new_keys: bool) -> TlsRenewArgs {
        TlsRenewArgs { dir: dir.to_owned(), ca: None, new_keys }
    }

    fn read(dir: &Path, file: &str) -> Vec<u8> {
        fs::read(dir.join(file)).unwrap()
    }

    /// Names, purposes and key of a certificate.
    fn described(dir: &Path, file: &str) -> (String, Vec<u8>) {
        let path = dir.join(file);
        let der = read_certificates(&path).unwrap().swap_remove(0);
        let parsed = parse(&path, &der).unwrap();
        let names = format!("{:?} {:?}", parsed.subject_alternative_name(), parsed.subject());
        let usages = format!("{:?} {:?}", parsed.extended_key_usage(), parsed.key_usage());
        (names + &usages, parsed.public_key().raw.to_vec())
    }

    #[test]
    fn what_is_renewed_has_the_same_names_purposes_and_key() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        init(dir);
        for file in ["node-1", "node-2", "client"] {
            let (pem, key) = (format!("{file}.pem"), format!("{file}.key"));
            let before = (described(dir, &pem), read(dir, &pem), read(dir, &key));
            renew(&args(dir, false), Output::Json).unwrap();
            let after = (described(dir, &pem), read(dir, &pem), read(dir, &key));
            assert_eq!(after.0, before.0);
            assert_ne!(after.1, before.1);
            assert_eq!(after.2, before.2);
        }
        let (names, _) = described(dir, "node-1.pem");
        for part in ["node-1.blue", "localhost", "db.example"] {
            assert!(names.contains(part), "{names}");
        }
    }

    #[test]
    fn new_keys_belong_to_their_certificates_and_stay_secret() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        init(dir);
        let before = read(dir, "node-2.key");
        renew(&args(dir, true), Output::Json).unwrap();
        assert_ne!(read(dir, "node-2.key"), before);
        for file in ["node-1", "node-2", "client"] {
            let key = String::from_utf8(read(dir, &format!("{file}.key"))).unwrap();
            let key = KeyPair::from_pem(&key).unwrap();
            let (_, public_key) = described(dir, &format!("{file}.pem"));
            assert_eq!(key.subject_public_key_info(), public_key, "{file}");
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let path = dir.join(format!("{file}.key"));
                assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
        let left = fs::read_dir(dir).unwrap().count();
        assert_eq!(left, 8, "nothing is left lying about");
    }

    #[test]
    fn what_cannot_be_renewed_changes_nothing() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let refused = |args: &TlsRenewArgs, part: &str| {
            let failure = renew(args, Output::Json).unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        };
        refused(&args(ours.path(), false), "ca.key");
        init(ours.path());
        init(theirs.path());
        let before = read(ours.path(), "node-1.pem");

        let foreign =
            TlsRenewArgs { ca: Some(theirs.path().to_owned()), ..args(ours.path(), false) };
        refused(&foreign, "node-1.pem was issued by another authority");
        fs::copy(ours.path().join(CA), theirs.path().join(CA)).unwrap();
        refused(&foreign, "no certificate for the key");
        fs::write(ours.path().join("node-2.pem"), "garbage").unwrap();
        refused(&args(ours.path(), false), "node-2.pem holds no certificate");
        assert_eq!(read(ours.path(), "node-1.pem"), before);

        for file in ["node-1.pem", "node-2.pem", "client.pem"] {
            fs::remove_file(ours.path().join(file)).unwrap();
        }
        refused(&args(ours.path(), false), "no certificate to renew");
    }
}
