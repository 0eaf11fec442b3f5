//! Whom a client believes: a certificate authority, or one certificate by its fingerprint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// A SHA-256 fingerprint of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// A fingerprint that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a SHA-256 fingerprint; give 64 hexadecimal digits, with or without colons, as `claudebus serve` prints them"
)]
pub struct FingerprintError(String);

impl std::str::FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let wrong = || FingerprintError(text.to_owned());
        let digits: Vec<u8> = text
            .trim_start_matches("sha256:")
            .bytes()
            .filter(|b| *b != b':')
            .map(|b| char::from(b).to_digit(16).map(|digit| digit as u8))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .filter_map(|pair| match pair {
                [high, low] => Some(high << 4 | low),
                _ => None,
            })
            .collect();
        if digits.len() != 64 {
            return Err(wrong());
        }
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

impl Fingerprint {
    /// The fingerprint of a certificate in DER. None if the TLS library lacks SHA-256.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
        let hash = suite.common.hash_provider.hash(certificate);
        hash.as_ref().try_into().ok().map(Self)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whom to believe.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Servers whose certificate the authority in this PEM file has signed.
    Authority(PathBuf),
    /// The server with this certificate, whatever its name and age.
    Pinned(Fingerprint),
}

/// The trust settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The certificate file cannot be read.
    #[error("cannot read the certificate authority file {}: {reason}; give the ca.pem of the server's data directory", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The TLS library refuses the settings.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// No TLS 1.3 cipher for QUIC.
    #[error("cannot set up TLS: {0}")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// The TLS side of a QUIC client. Reads the authority's file.
pub(crate) fn client_config(
    trust: &Trust,
    alpn: &[u8],
) -> Result<quinn::crypto::rustls::QuicClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = match trust {
        Trust::Authority(path) => {
            builder.with_root_certificates(roots(path)?).with_no_client_auth()
        }
        Trust::Pinned(fingerprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedCertificate {
                fingerprint: *fingerprint,
                provider,
            }))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config.try_into()?)
}

fn roots(path: &Path) -> Result<rustls::RootCertStore, TrustError> {
    let unusable = |reason: String| TrustError::Authority { path: path.to_path_buf(), reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?
    {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// Believes one certificate only. The handshake's signature still proves that the server has its key.
#[derive(Debug)]
struct PinnedCertificate {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match Fingerprint::of(certificate) {
            Some(seen) if seen == self.fingerprint => Ok(ServerCertVerified::assertion()),
            seen => Err(rustls::Error::General(format!(
                "the server's certificate has fingerprint {}, not the pinned {}; if the server was set up anew, pin the new one",
                seen.map_or_else(String::new, |seen| seen.to_string()),
                self.fingerprint
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn fingerprints_are_sha_256_in_hex() {
        let shown = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Fingerprint::of(b"").unwrap().to_string(), shown);
        assert_eq!(shown.parse(), Ok(Fingerprint::of(b"").unwrap()));
        let colons: Vec<_> =
            shown.as_bytes().chunks(2).map(|c| std::str::from_utf8(c).unwrap()).collect();
        assert_eq!(colons.join(":").to_uppercase().parse(), Ok(Fingerprint::of(b"").unwrap()));
        for wrong in ["", "e3", &shown[1..], &format!("{shown}00"), &shown.replace('e', "x")] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_missing_authority_is_named() {
        let trust = Trust::Authority("/nowhere/ca.pem".into());
        let error = client_config(&trust, b"x").err().unwrap().to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }
}
