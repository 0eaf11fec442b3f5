//! `server.nats_tls`: five settings that make sense together or not at all.

use std::path::PathBuf;

use super::error::ConfigError;
use super::resolve::Resolved;
use crate::server::{ClientCertificates, HandshakeFirst, NatsCertificate, NatsTls};

/// `nats_tls.cert` for the server's own certificate.
const LOCAL: &str = "local";

/// How connections of NATS clients are secured, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTlsSettings {
    /// The certificate's file, or `local`; none for no TLS.
    pub cert: Option<PathBuf>,
    /// The file of its key.
    pub key: Option<PathBuf>,
    /// The file of certificates that have signed clients' certificates.
    pub ca: Option<PathBuf>,
    /// Which clients' certificates are looked at.
    pub verify: Verify,
    /// Whether the handshake comes before INFO.
    pub handshake_first: bool,
}

/// Which clients' certificates are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// None is asked for.
    #[default]
    Off,
    /// Each client must have one.
    On,
    /// Each client must have one, and it names the user.
    Map,
}

impl std::fmt::Display for Verify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Map => "map",
        })
    }
}

impl std::str::FromStr for Verify {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            "map" => Ok(Self::Map),
            _ => Err(format!("`{word}` is not one of off, on, map")),
        }
    }
}

impl NatsTlsSettings {
    /// What they mean together; nothing without TLS.
    fn options(&self) -> Result<Option<NatsTls>, (&'static str, &'static str)> {
        let Some(cert) = &self.cert else {
            // Half of what TLS needs must not become a connection without it.
            return if *self == Self::default() {
                Ok(None)
            } else {
                Err(("nats_tls.cert", "it is not given, and other settings of nats_tls are"))
            };
        };
        let certificate = match &self.key {
            None if cert.as_os_str() == LOCAL => NatsCertificate::Local,
            Some(_) if cert.as_os_str() == LOCAL => {
                return Err(("nats_tls.key", "the certificate `local` has a key of its own"));
            }
            Some(key) => NatsCertificate::Files { certificate: cert.clone(), key: key.clone() },
            None => return Err(("nats_tls.cert", "the file of its key is missing, nats_tls.key")),
        };
        let clients = match (self.verify, &self.ca) {
            (Verify::Off, None) => ClientCertificates::NotAsked,
            (Verify::Off, Some(_)) => {
                return Err((
                    "nats_tls.ca",
                    "it is for nothing unless nats_tls.verify is on or map",
                ));
            }
            (_, None) => {
                let why =
                    "it needs nats_tls.ca, the certificates of who has signed those of clients";
                return Err(("nats_tls.verify", why));
            }
            (verify, Some(ca)) => ClientCertificates::Verified {
                authorities: ca.clone(),
                name_users: verify == Verify::Map,
            },
        };
        let first =
            if self.handshake_first { HandshakeFirst::Always } else { HandshakeFirst::Never };
        Ok(Some(NatsTls { certificate, clients, first, timeout: None }))
    }
}

impl Resolved {
    /// How connections of NATS clients are secured; nothing without TLS.
    ///
    /// # Errors
    /// [`ConfigError`] about settings that do not go together.
    pub fn nats_tls(&self) -> Result<Option<NatsTls>, ConfigError> {
        self.settings.nats_tls.options().map_err(|(key, why)| ConfigError::Invalid {
            place: self.origin(key).to_string(),
            path: format!("server.{key}"),
            why: why.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cert: &str, key: &str, ca: &str, verify: Verify) -> NatsTlsSettings {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        let (cert, key, ca) = (path(cert), path(key), path(ca));
        NatsTlsSettings { cert, key, ca, verify, handshake_first: false }
    }

    #[test]
    fn settings_make_sense_together() {
        use Verify::{Map, Off, On};
        assert_eq!(settings("", "", "", Off).options(), Ok(None));
        let local = settings("local", "", "", Off).options().unwrap().unwrap();
        assert_eq!(local.certificate, NatsCertificate::Local);
        let mapped = settings("c", "k", "a", Map).options().unwrap().unwrap();
        assert!(matches!(mapped.clients, ClientCertificates::Verified { name_users: true, .. }));
        for (settings, key) in [
            (settings("", "k", "", Off), "nats_tls.cert"),
            (settings("", "", "", On), "nats_tls.cert"),
            (settings("c", "", "", Off), "nats_tls.cert"),
            (settings("local", "k", "", Off), "nats_tls.key"),
            (settings("c", "k", "a", Off), "nats_tls.ca"),
            (settings("c", "k", "", On), "nats_tls.verify"),
        ] {
            assert_eq!(settings.options().unwrap_err().0, key, "{settings:?}");
        }
        let first = NatsTlsSettings { handshake_first: true, ..NatsTlsSettings::default() };
        assert!(first.options().is_err());
    }
}
