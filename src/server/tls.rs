//! Certificates of the server's own: a local authority, and a certificate signed by it.
//!
//! They live in `tls/` of the data directory: `ca.pem` for clients to trust, `server.pem`, and their
//! keys, readable by the owner only. The authority lasts; the server's certificate is made anew when
//! it has less than 30 days left or the machine's name has changed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsError;
use crate::client::Fingerprint;
use crate::wire::native::ALPN;

const DAY: u64 = 24 * 3600;
/// How long a server certificate is valid.
const VALID_DAYS: u64 = 90;
/// With how little left it is made anew.
const RENEW_DAYS: u64 = 30;
/// How long the authority is valid: longer than a data directory will be in use.
const AUTHORITY_DAYS: u64 = 20 * 365;

/// What the server shows to clients.
#[derive(Debug)]
pub(super) struct Identity {
    /// The authority's certificate, for clients to trust.
    pub(super) authority_pem: String,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Says until when and for which names a certificate file is good, in a line of its own before the
/// certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    not_after: u64,
    names: String,
}

impl Terms {
    fn line(&self) -> String {
        format!("claudebus: not after {} for {}\n", self.not_after, self.names)
    }

    fn read(pem: &str) -> Option<Self> {
        let rest = pem.lines().next()?.strip_prefix("claudebus: not after ")?;
        let (not_after, names) = rest.split_once(" for ")?;
        Some(Self { not_after: not_after.parse().ok()?, names: names.to_owned() })
    }
}

impl Identity {
    /// Certificates that live in memory only. `now` in seconds since the Unix epoch.
    pub(super) fn ephemeral(now: u64) -> Result<Self, TlsError> {
        let (authority_pem, issuer) = make_authority(now)?;
        let (server_pem, key_pem) = make_certificate(&issuer, &names(), now)?;
        Self::new(authority_pem, &server_pem, &key_pem, Path::new("the certificate in memory"))
    }

    /// Certificates in `dir`, made where missing and made anew where due. Returns the identity
    /// and whether its certificate is new.
    pub(super) fn in_directory(dir: &Path, now: u64) -> Result<(Self, bool), TlsError> {
        create_private_dir(dir)?;
        let [ca, ca_key, server, server_key] =
            ["ca.pem", "ca-key.pem", "server.pem", "server-key.pem"].map(|name| dir.join(name));
        if !ca.exists() || !ca_key.exists() {
            // What an earlier authority signed is worth nothing now. It goes first: whatever a loss
            // of power leaves of what follows, no certificate stays that does not fit.
            let _ = fs::remove_file(&server);
            let (pem, issuer) = make_authority(now)?;
            write_private(&ca_key, issuer.key().serialize_pem().as_bytes())?;
            write_private(&ca, pem.as_bytes())?;
        }
        let authority_pem = read(&ca)?;
        let names = names();
        let joined = names.join(",");
        let terms = fs::read_to_string(&server).ok().and_then(|pem| Terms::read(&pem));
        let good = terms
            .is_some_and(|terms| terms.names == joined && terms.not_after > now + RENEW_DAYS * DAY);
        let renewed = !good || !server_key.exists();
        if renewed {
            let key =
                KeyPair::from_pem(&read(&ca_key)?).map_err(|error| damaged(&ca_key, error))?;
            let issuer = Issuer::from_ca_cert_pem(&authority_pem, key)
                .map_err(|error| damaged(&ca, error))?;
            let (pem, key_pem) = make_certificate(&issuer, &names, now)?;
            let _ = fs::remove_file(&server);
            write_private(&server_key, key_pem.as_bytes())?;
            write_private(&server, pem.as_bytes())?;
        }
        let identity = Self::new(authority_pem, &read(&server)?, &read(&server_key)?, &server)?;
        Ok((identity, renewed))
    }

    fn new(
        authority_pem: String,
        server_pem: &str,
        key_pem: &str,
        file: &Path,
    ) -> Result<Self, TlsError> {
        let certificate = CertificateDer::from_pem_slice(server_pem.as_bytes())
            .map_err(|error| damaged(file, error))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| damaged(file, error))?;
        Ok(Self { authority_pem, certificate, key })
    }

    /// The certificate, and its key.
    pub(super) fn certificate(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.certificate.clone()], self.key.clone_key())
    }

    /// A secret that stays the same from run to run, by which a client believes that its connection
    /// is gone (stateless reset, RFC 9000 section 10.3).
    pub(super) fn reset_key(&self) -> ring::hmac::Key {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.key.secret_der());
        let derived = ring::hmac::sign(&key, b"claudebus stateless reset");
        ring::hmac::Key::new(ring::hmac::HMAC_SHA256, derived.as_ref())
    }

    /// SHA-256 of the certificate, for clients that trust it alone.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        Fingerprint::of(&self.certificate)
    }

    /// TLS 1.3 with ring, our protocol's name, and no data before the handshake is complete, which
    /// an attacker could send twice.
    pub(super) fn quic_config(&self) -> Result<quinn::crypto::rustls::QuicServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.max_early_data_size = 0;
        Ok(config.try_into()?)
    }
}

/// Names and addresses that clients may use for this machine.
fn names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if let Some(host) = hostname()
        && !names.contains(&host)
    {
        names.push(host);
    }
    names
}

/// The machine's name, if it can stand in a certificate.
fn hostname() -> Option<String> {
    let name = std::env::var("HOSTNAME")
        .or_else(|_| std::env::var("COMPUTERNAME"))
        .or_else(|_| fs::read_to_string("/proc/sys/kernel/hostname"))
        .or_else(|_| fs::read_to_string("/etc/hostname"))
        .ok()?;
    let name = name.trim().to_ascii_lowercase();
    let fits = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    fits.then_some(name)
}

fn make_authority(now: u64) -> Result<(String, Issuer<'static, KeyPair>), TlsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    set_validity(&mut params, now, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "claudebus local authority");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

/// A certificate and its key, in PEM.
fn make_certificate(
    issuer: &Issuer<'_, KeyPair>,
    names: &[String],
    now: u64,
) -> Result<(String, String), TlsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    set_validity(&mut params, now, VALID_DAYS);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "claudebus");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let pem = params.signed_by(&key, issuer)?.pem();
    let terms = Terms { not_after: now + VALID_DAYS * DAY, names: names.join(",") };
    Ok((terms.line() + &pem, key.serialize_pem()))
}

/// From a day ago, for clocks that differ, to so many days from now.
fn set_validity(params: &mut CertificateParams, now: u64, days: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(DAY));
    params.not_after = epoch + Duration::from_secs(now + days * DAY);
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> TlsError {
    TlsError::Damaged { path: path.to_path_buf(), reason: error.to_string() }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TlsError {
    let path: PathBuf = path.to_path_buf();
    move |source| TlsError::File { action, path, source }
}

fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn create_private_dir(path: &Path) -> Result<(), TlsError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).and_then(|()| sync_name(path)).map_err(failed("create", path))
}

/// Makes the name of a file or directory durable. Clients trust what is in these files; a loss of power
/// must not make the server another one.
#[cfg(unix)]
fn sync_name(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Windows has no way to sync a directory; its file systems journal names.
#[cfg(not(unix))]
fn sync_name(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Replaces a file whole and durably, readable by its owner only, so that a crash leaves the old or
/// the new.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    let draft = path.with_extension("tmp");
    let write = || {
        // A draft that an earlier run left behind may have other permissions.
        let _ = fs::remove_file(&draft);
        let mut options = fs::OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        sync_name(path)
    };
    write().map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn certificates_last_and_are_renewed_in_time() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let tls = dir.path().join("tls");
        let (first, new) = Identity::in_directory(&tls, NOW).expect("made");
        assert!(new);
        let day = |days: u64| Identity::in_directory(&tls, NOW + days * DAY).expect("kept");
        let (same, new) = day(59);
        assert!(!new);
        assert_eq!(same.fingerprint(), first.fingerprint());
        let (renewed, new) = day(60);
        assert!(new);
        assert_ne!(renewed.fingerprint(), first.fingerprint());
        assert_eq!(renewed.authority_pem, first.authority_pem);
        renewed.quic_config().expect("a certificate that fits its key");
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary folder");
        Identity::in_directory(dir.path(), NOW).expect("made");
        for name in ["ca-key.pem", "server-key.pem"] {
            let mode = fs::metadata(dir.path().join(name)).expect(name).permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Identity::in_directory(dir.path(), NOW).expect("made");
        fs::write(dir.path().join("server-key.pem"), "nothing").expect("written");
        let error = Identity::in_directory(dir.path(), NOW).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}
