//! `tls`: certificates of the server and of its clients.

use std::path::PathBuf;
use std::time::Duration;

use super::error::NatsConfError;
use super::mapping::{Table, asks_for_nothing, take};
use super::tree::Entry;
use crate::config::tls::Verify;
use crate::server::{ClientCertificates, HandshakeFirst, NatsCertificate, NatsTls};

/// How long a client has to begin the handshake before it is told of it, where both is fine. 50 ms, as
/// nats-server.
const AUTO: Duration = Duration::from_millis(50);

/// How connections are secured, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate's file.
    pub cert: Option<PathBuf>,
    /// The file of its key.
    pub key: Option<PathBuf>,
    /// The file of certificates that have signed clients' certificates.
    pub ca: Option<PathBuf>,
    /// Which clients' certificates are looked at.
    pub verify: Verify,
    /// Time for the handshake.
    pub timeout: Option<Duration>,
    /// Whether the handshake comes before INFO.
    pub first: HandshakeFirst,
}

const TLS: Table<TlsOptions> = Table {
    within: "tls",
    rows: &[
        ("cert_file", |tls, e| e.path().map(|path| tls.cert = Some(path))),
        ("key_file", |tls, e| e.path().map(|path| tls.key = Some(path))),
        ("ca_file", |tls, e| e.path().map(|path| tls.ca = Some(path))),
        ("verify", |tls, e| {
            // What maps names verifies them too, wherever it stands.
            e.boolean().map(|on| match (on, tls.verify) {
                (true, Verify::Off) => tls.verify = Verify::On,
                (false, Verify::On) => tls.verify = Verify::Off,
                _ => {}
            })
        }),
        ("verify_and_map", |tls, e| {
            e.boolean().map(|on| {
                if on {
                    tls.verify = Verify::Map;
                }
            })
        }),
        ("timeout", |tls, e| e.positive_duration().map(|time| tls.timeout = Some(time))),
        ("handshake_first", first),
        ("first", first),
        ("immediate", first),
    ],
    ignored: &[
        ("cipher_suites", "TLS 1.3 leaves no choice that matters"),
        ("curve_preferences", "TLS 1.3 leaves no choice that matters"),
        ("min_version", "it is TLS 1.3 always"),
        ("insecure", "it is for connections that a server opens, of which there are none"),
    ],
    refused: &[
        ("verify_cert_and_check_known_urls", "there are no routes or leaf nodes"),
        ("connection_rate_limit", "what handshakes may cost is bounded already"),
        ("pinned_certs", "sign clients' certificates with an authority of their own (ca_file)"),
        ("certs", "one certificate is shown (cert_file and key_file)"),
        ("certificates", "one certificate is shown (cert_file and key_file)"),
        ("cert_store", "certificates are files (cert_file)"),
        ("cert_match", "certificates are files (cert_file)"),
        ("cert_match_by", "certificates are files (cert_file)"),
        ("ocsp_peer", "TLS comes without it"),
    ],
};

/// The value of `tls`; none if it asks for nothing.
pub(super) fn tls(
    entry: &Entry,
    warnings: &mut Vec<String>,
) -> Result<Option<TlsOptions>, NatsConfError> {
    if asks_for_nothing(entry) {
        return Ok(None);
    }
    let mut found = TlsOptions::default();
    take(&TLS, entry.map()?, &mut found, warnings)?;
    found.nats_tls().map_err(|why| entry.invalid(why))?;
    Ok(Some(found))
}

fn first(tls: &mut TlsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    let text = entry.value.text().unwrap_or_default();
    tls.first = match entry.boolean() {
        Ok(true) => HandshakeFirst::Always,
        Ok(false) => HandshakeFirst::Never,
        Err(_) if text.eq_ignore_ascii_case("auto") => HandshakeFirst::Within(AUTO),
        Err(_) => HandshakeFirst::Within(entry.positive_duration()?),
    };
    Ok(())
}

impl TlsOptions {
    /// What they mean together.
    ///
    /// # Errors
    /// What is missing, in nats-server's words where it has some.
    pub fn nats_tls(&self) -> Result<NatsTls, String> {
        let (certificate, key) = match (&self.cert, &self.key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (None, _) => return Err("TLS Server certificate must be present and valid".to_owned()),
            (_, None) => return Err("TLS Server private key must be present and valid".to_owned()),
        };
        let clients = match (self.verify, &self.ca) {
            (Verify::Off, _) => ClientCertificates::NotAsked,
            (verify, Some(ca)) => ClientCertificates::Verified {
                authorities: ca.clone(),
                name_users: verify == Verify::Map,
            },
            (_, None) => {
                return Err(
                    "clients' certificates are to be verified, and `ca_file` (--tlscacert) \
                            does not say who may have signed them"
                        .to_owned(),
                );
            }
        };
        Ok(NatsTls {
            certificate: NatsCertificate::Files { certificate, key },
            clients,
            first: self.first,
            timeout: self.timeout,
        })
    }
}
