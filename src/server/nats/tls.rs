//! TLS for NATS clients: certificates, and the handshake that comes after INFO or before it.
//!
//! Who a certificate's owner is to the server is decided at login; here it is only found out which
//! names a good certificate holds.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;

use super::super::error::TlsError;
use super::super::tls::Identity;

/// How NATS clients and the server secure their connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsTls {
    /// What the server shows.
    pub certificate: NatsCertificate,
    /// What clients must show.
    pub clients: ClientCertificates,
    /// Whether the handshake comes first of all. Otherwise clients are told by INFO that it follows, as
    /// most expect.
    pub first: HandshakeFirst,
    /// Time for the handshake; as long as clients may take to say who they are if not given.
    pub timeout: Option<Duration>,
}

/// Whether the handshake comes before INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandshakeFirst {
    /// INFO comes first, and says that the handshake follows.
    #[default]
    Never,
    /// The client begins.
    Always,
    /// The client may begin within this time; INFO comes if it does not.
    Within(Duration),
}

/// The certificate of the listener for NATS clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsCertificate {
    /// One of the server's own local authority, as for QUIC.
    Local,
    /// One from elsewhere, in PEM.
    Files {
        /// The certificate, and those between it and its authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// The certificates that NATS clients must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None.
    NotAsked,
    /// One that an authority has signed.
    Verified {
        /// Certificates of authorities, in PEM.
        authorities: PathBuf,
        /// Whether a name in it is that of a user, who needs no password then; others are not let in.
        name_users: bool,
    },
}

impl NatsTls {
    /// Whether clients must show certificates.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.clients != ClientCertificates::NotAsked
    }

    /// Whether certificates name users.
    #[must_use]
    pub fn names_users(&self) -> bool {
        matches!(self.clients, ClientCertificates::Verified { name_users: true, .. })
    }
}

/// TLS of a listener.
#[derive(Debug)]
pub(in crate::server) struct Tls {
    options: NatsTls,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// `local` is needed where the options ask for the server's own certificate.
    pub(in crate::server) fn new(
        options: &NatsTls,
        local: Option<&Identity>,
    ) -> Result<Self, TlsError> {
        let config = RwLock::new(Arc::new(configure(options, local)?));
        Ok(Self { options: options.clone(), config })
    }

    /// Shows another certificate to new connections.
    pub(in crate::server) fn renew(&self, local: &Identity) -> Result<(), TlsError> {
        let config = Arc::new(configure(&self.options, Some(local))?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) fn first(&self) -> HandshakeFirst {
        self.options.first
    }

    /// Time for the handshake, if it has one of its own.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.options.timeout
    }

    pub(super) fn verifies(&self) -> bool {
        self.options.verifies()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

/// TLS 1.3 with ring. Each listener has its own memory of sessions, so that none is taken up where other
/// clients are trusted; where clients must show certificates there is none, so that each is looked at.
fn configure(options: &NatsTls, local: Option<&Identity>) -> Result<ServerConfig, TlsError> {
    let (chain, key) = match (&options.certificate, local) {
        (NatsCertificate::Local, Some(identity)) => identity.certificate(),
        (NatsCertificate::Local, None) => return Err(TlsError::NoIdentity),
        (NatsCertificate::Files { certificate, key }, _) => {
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(unusable(key))?;
            (certificates(certificate)?, key_der)
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let ClientCertificates::Verified { authorities, .. } = &options.clients else {
        return Ok(builder.with_no_client_auth().with_single_cert(chain, key)?);
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate).map_err(unusable(authorities))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(unusable(authorities))?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// All certificates of a file, of which there must be some.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).map_err(unusable(path))?;
    let found: Vec<_> = read.collect::<Result<_, _>>().map_err(unusable(path))?;
    if found.is_empty() {
        return Err(unusable(path)("it holds no certificate"));
    }
    Ok(found)
}

fn unusable<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> TlsError {
    move |error| TlsError::Unusable { path: path.to_path_buf(), reason: error.to_string() }
}

/// The names in a certificate that may be a user's: its e-mail addresses, then its common name if there
/// is just one. Whole values, which are compared as they are.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> = alternatives
        .into_iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::RFC822Name(address) => Some((*address).to_owned()),
            _ => None,
        })
        .collect();
    let mut common = certificate.subject().iter_common_name();
    if let (Some(name), None) = (common.next(), common.next())
        && let Ok(name) = name.as_str()
    {
        names.push(name.to_owned());
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(addresses: &[&str], hosts: &[&str], common: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let address = |text: &&str| SanType::Rfc822Name((*text).try_into().unwrap());
        let host = |text: &&str| SanType::DnsName((*text).try_into().unwrap());
        params.subject_alt_names =
            addresses.iter().map(address).chain(hosts.iter().map(host)).collect();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    /// CVE-2026-33248 in nats-server: parts of a name were taken for the whole.
    #[test]
    fn names_are_whole_addresses_and_the_common_name() {
        let both = certificate(&["cat@example.org", "b@c.d"], &["host"], &["cat"]);
        assert_eq!(names(&both), ["cat@example.org", "b@c.d", "cat"]);
        assert_eq!(names(&certificate(&[], &["*.example.org"], &[])), Vec::<String>::new());
        assert_eq!(names(&certificate(&[], &[], &["CN=admin, O=x"])), ["CN=admin, O=x"]);
        assert_eq!(names(&CertificateDer::from(vec![1, 2, 3])), Vec::<String>::new());
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = |certificate: &str, key: &str| NatsTls {
            certificate: NatsCertificate::Files { certificate: path(certificate), key: path(key) },
            clients: ClientCertificates::NotAsked,
            first: HandshakeFirst::Never,
            timeout: None,
        };
        let own = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(path("cert"), params.self_signed(&own).unwrap().pem()).unwrap();
        std::fs::write(path("key"), own.serialize_pem()).unwrap();
        std::fs::write(path("other"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        std::fs::write(path("empty"), "").unwrap();
        Tls::new(&files("cert", "key"), None).unwrap();
        for (certificate, key, named) in
            [("none", "key", "none"), ("empty", "key", "empty"), ("cert", "empty", "empty")]
        {
            let error = Tls::new(&files(certificate, key), None).unwrap_err().to_string();
            assert!(error.contains(&path(named).display().to_string()), "{error}");
        }
        assert!(Tls::new(&files("cert", "other"), None).is_err(), "the key of another");
        let local = NatsTls { certificate: NatsCertificate::Local, ..files("", "") };
        assert!(Tls::new(&local, None).is_err());
    }
}
