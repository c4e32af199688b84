//! Certificates and keys: reading them, checking them at the start, and what TLS is told.
//!
//! The files are checked before they are used, so that an operator learns at the start what would
//! otherwise show as a handshake that fails on another machine. Chain and validity are verified in
//! every handshake, on both sides, without exception. Sessions are never resumed and there is no
//! 0-RTT: an expired certificate must not live on in a ticket, and nothing can be replayed.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use raft_core::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::config::TlsFiles;
use crate::error::NetError;
use crate::names::{ClusterName, Party, node_name};
use crate::wire::{CLIENT_PROTOCOL, PEER_PROTOCOL};

/// What was read from the files, checked.
#[derive(Debug)]
pub(crate) struct Material {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    expiry: CertificateExpiry,
}

/// When certificates in use end. The node takes up new files by itself, so all there is to do is to
/// put them in place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The last moment of our own certificate, or of an intermediate one if that ends sooner.
    pub certificate: SystemTime,
    /// The last moment of the authority that ends first, of those that have not ended.
    pub authority: SystemTime,
}

/// What is in the files, to see whether it has changed.
#[derive(PartialEq, Eq)]
pub(crate) struct Contents {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Contents {
    /// Reads the files as they are.
    pub(crate) fn read(files: &TlsFiles) -> Result<Self, NetError> {
        let TlsFiles { ca, certificate, key } = files;
        Ok(Self { ca: read(ca)?, certificate: read(certificate)?, key: read(key)? })
    }
}

impl Material {
    /// Checks what is in the files.
    pub(crate) fn of(files: &TlsFiles, contents: &Contents) -> Result<Self, NetError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let (authorities, authority) = certificates(&files.ca, &contents.ca, Ended::LeftOut)?;
        for found in authorities {
            roots.add(found).map_err(|error| NetError::Garbled {
                path: files.ca.clone(),
                expected: "certificates of authorities",
                detail: error.to_string(),
            })?;
        }
        let (chain, certificate) =
            certificates(&files.certificate, &contents.certificate, Ended::Refused)?;
        let key =
            PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| NetError::Garbled {
                path: files.key.clone(),
                expected: PRIVATE_KEY,
                detail: error.to_string(),
            })?;
        let (files, roots) = (files.clone(), Arc::new(roots));
        let expiry = CertificateExpiry { certificate, authority };
        let material = Self { files, provider, roots, chain, key, expiry };
        material.check_pair()?;
        material.check_issuer()?;
        Ok(material)
    }

    /// When what is in use ends.
    pub(crate) fn expiry(&self) -> CertificateExpiry {
        self.expiry
    }

    /// Whom the certificate speaks for.
    pub(crate) fn party(&self) -> Result<Party, NetError> {
        Party::of_certificate(self.leaf()).map_err(|error| self.unusable(error))
    }

    /// Checks that the certificate is the one of `node`, and fit for a server. It says in which
    /// cluster.
    pub(crate) fn check_node(&self, node: NodeId) -> Result<ClusterName, NetError> {
        let other = |names| {
            let certificate = self.files.certificate.clone();
            Err(NetError::OtherNode { certificate, node, names })
        };
        let cluster = match self.party()? {
            Party::Node(id, cluster) if id == node => cluster,
            Party::Node(id, _) => return other(Some(id)),
            Party::Client(_) => return other(None),
        };
        let name = ServerName::try_from(node_name(node, &cluster));
        let name = name.map_err(|error| self.unusable(error))?;
        self.server_verifier()?
            .verify_server_cert(self.leaf(), &self.chain[1..], &name, &[], UnixTime::now())
            .map_err(|error| self.unusable(error))?;
        Ok(cluster)
    }

    /// For accepting connections, of nodes and of clients.
    pub(crate) fn server(&self) -> Result<QuicServerConfig, NetError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&self.roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| self.unusable(error))?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.unusable(error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| self.unusable(error))?;
        config.alpn_protocols = vec![PEER_PROTOCOL.to_vec(), CLIENT_PROTOCOL.to_vec()];
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(|error| self.unusable(error))
    }

    /// For calling other nodes as a node.
    pub(crate) fn peer(&self) -> Result<QuicClientConfig, NetError> {
        self.caller(PEER_PROTOCOL)
    }

    /// For calling nodes as a client.
    pub(crate) fn client(&self) -> Result<QuicClientConfig, NetError> {
        self.caller(CLIENT_PROTOCOL)
    }

    fn caller(&self, protocol: &[u8]) -> Result<QuicClientConfig, NetError> {
        let verifier = Arc::new(AnyNode(self.server_verifier()?));
        // "Dangerous" is rustls' word for any verifier that is handed over; ours does verify.
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.unusable(error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| self.unusable(error))?;
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        QuicClientConfig::try_from(config).map_err(|error| self.unusable(error))
    }

    fn server_verifier(&self) -> Result<Arc<WebPkiServerVerifier>, NetError> {
        WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&self.roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| self.unusable(error))
    }

    fn check_pair(&self) -> Result<(), NetError> {
        match CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &self.provider) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InconsistentKeys(_)) => Err(NetError::KeyMismatch {
                key: self.files.key.clone(),
                certificate: self.files.certificate.clone(),
            }),
            Err(error) => Err(NetError::Garbled {
                path: self.files.key.clone(),
                expected: PRIVATE_KEY,
                detail: error.to_string(),
            }),
        }
    }

    fn check_issuer(&self) -> Result<(), NetError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&self.roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| self.unusable(error))?;
        let checked = verifier.verify_client_cert(self.leaf(), &self.chain[1..], UnixTime::now());
        match checked {
            Ok(_) => Ok(()),
            // A second authority of the same name has another key: that is a bad signature.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => Err(NetError::OtherAuthority {
                certificate: self.files.certificate.clone(),
                ca: self.files.ca.clone(),
            }),
            Err(error) => Err(self.unusable(error)),
        }
    }

    fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0] // `certificates` returns at least one.
    }

    fn unusable(&self, error: impl ToString) -> NetError {
        NetError::Unusable { path: self.files.certificate.clone(), detail: error.to_string() }
    }
}

/// Verifies that a server is *a* node: the chain, the time, the purpose, the signature, as always.
///
/// Which node of which cluster it is, the caller checks before it sends anything (`handshake`): a
/// client cannot know who is at an address, and a refusal there says why, which an alert of TLS
/// does not.
#[derive(Debug)]
struct AnyNode(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Instead of the name that was called, the name that the certificate claims as a node's is
        // verified. A certificate that claims none, such as a client's, is refused.
        let named = match Party::of_certificate(end_entity) {
            Ok(Party::Node(id, cluster)) => ServerName::try_from(node_name(id, &cluster)),
            Ok(Party::Client(_)) => return Err(CertificateError::NotValidForName.into()),
            Err(_) => return Err(CertificateError::BadEncoding.into()),
        };
        let named = named.map_err(|_| CertificateError::BadEncoding)?;
        self.0.verify_server_cert(end_entity, intermediates, &named, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What to do about a certificate that has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Nobody would believe it, nor what it has signed.
    Refused,
    /// Its successor may stand beside it, while certificates are replaced one by one.
    LeftOut,
}

/// The certificates in a file, at least one, all of them valid now; and when the first of them ends.
fn certificates(
    path: &Path,
    contents: &[u8],
    ended: Ended,
) -> Result<(Vec<CertificateDer<'static>>, SystemTime), NetError> {
    let garbled = |detail: String| NetError::Garbled {
        path: path.to_owned(),
        expected: "a certificate",
        detail,
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(contents)
        .collect::<Result<_, _>>()
        .map_err(|error| garbled(error.to_string()))?;
    let expired =
        |end: ASN1Time| Err(NetError::Expired { path: path.to_owned(), expired: end.to_string() });
    let (mut valid, mut first_end, mut left_out) = (Vec::new(), None::<ASN1Time>, None);
    for certificate in found {
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| garbled(error.to_string()))?;
        let (start, end) = (parsed.validity().not_before, parsed.validity().not_after);
        if ASN1Time::now() > end {
            if ended == Ended::Refused {
                return expired(end);
            }
            left_out = Some(end);
            continue;
        }
        if ASN1Time::now() < start {
            let valid_from = start.to_string();
            return Err(NetError::NotYetValid { path: path.to_owned(), valid_from });
        }
        first_end = Some(first_end.map_or(end, |first| first.min(end)));
        valid.push(certificate);
    }
    match (first_end, left_out) {
        (Some(first_end), _) => Ok((valid, moment(first_end))),
        (None, Some(end)) => expired(end),
        (None, None) => Err(garbled("there is none in it".to_owned())),
    }
}

/// A moment after 1970, as this one must be to lie in the future.
fn moment(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn read(path: &Path) -> Result<Vec<u8>, NetError> {
    let unreadable = |source| NetError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

const PRIVATE_KEY: &str = "a private key";
/// Whatever is longer is not a certificate.
const MAX_FILE_BYTES: u64 = 1 << 20;
