//! The authority of a cluster, as `raft tls` finds it again: its key, and its certificate among those of
//! `ca.pem`.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::LEAF_DAYS;
use crate::failure::{Failure, Kind};
use crate::serve::CA;

/// Who issues certificates.
pub(super) struct Authority {
    pub(super) path: PathBuf,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) public_key: Vec<u8>,
    ends: OffsetDateTime,
}

impl Authority {
    /// Reads `ca.key`, and finds its certificate in `ca.pem`, which may hold others.
    pub(super) fn read(dir: &Path) -> Result<Self, Failure> {
        let (path, key_path) = (dir.join(CA), dir.join("ca.key"));
        let key = fs::read_to_string(&key_path).map_err(|error| {
            Failure::usage(format!(
                "cannot read {}: {error}; say with --ca where the authority is kept",
                key_path.display()
            ))
        })?;
        let key = KeyPair::from_pem(&key)
            .map_err(|error| unfit(&key_path, &format!("is no private key ({error})")))?;
        let public_key = key.subject_public_key_info();
        for certificate in read_certificates(&path)? {
            let parsed = parse(&path, &certificate)?;
            if parsed.public_key().raw != public_key {
                continue;
            }
            let ends = parsed.validity().not_after.to_datetime();
            if ends <= OffsetDateTime::now_utc() {
                return Err(unfit(&path, &format!("ended on {}", parsed.validity().not_after)));
            }
            let issuer = Issuer::from_ca_cert_der(&certificate, key)
                .map_err(|error| unfit(&path, &format!("cannot be used ({error})")))?;
            return Ok(Self { path, issuer, public_key, ends });
        }
        Err(unfit(&path, &format!("has no certificate for the key in {}", key_path.display())))
    }

    /// When what is made now ends: in two years, or with the authority.
    pub(super) fn end(&self) -> OffsetDateTime {
        (OffsetDateTime::now_utc() + Duration::days(LEAF_DAYS)).min(self.ends)
    }
}

/// At least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|error| unfit(path, &format!("cannot be read ({error})")))?;
    if found.is_empty() { Err(unfit(path, "holds no certificate")) } else { Ok(found) }
}

pub(super) fn parse<'a>(
    path: &Path,
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, Failure> {
    let parsed = X509Certificate::from_der(der);
    parsed.map(|(_, parsed)| parsed).map_err(|error| unfit(path, &error.to_string()))
}

pub(super) fn unfit(path: &Path, why: &str) -> Failure {
    Failure::new(Kind::Usage, format!("{} {why}; nothing was changed", path.display()))
}
