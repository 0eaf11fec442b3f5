//! Addresses of servers: `quic://host:port`. It resolves nothing.

/// The port of the native protocol when an address names none.
pub const DEFAULT_PORT: u16 = 4222;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

/// An address that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another scheme.
    #[error(
        "\"{address}\" is not an address of the native protocol: it begins with \"{scheme}://\"; write quic://host:4222"
    )]
    Scheme {
        /// The whole address.
        address: String,
        /// What it begins with.
        scheme: String,
    },
    /// No host.
    #[error("\"{address}\" names no host; write quic://host:4222")]
    NoHost {
        /// The whole address.
        address: String,
    },
    /// A port that is no number below 65,536, or zero.
    #[error("\"{port}\" in \"{address}\" is not a port; write a number from 1 to 65535")]
    Port {
        /// The whole address.
        address: String,
        /// What stands where the port should.
        port: String,
    },
    /// Something behind the port.
    #[error("\"{address}\" has a path, a query or a login; write quic://host:4222 only")]
    Extra {
        /// The whole address.
        address: String,
    },
}

impl Address {
    /// Whether the host is this machine by its address or as `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = text.to_owned();
        let rest = match text.split_once("://") {
            Some(("quic", rest)) => rest,
            Some((scheme, _)) => {
                return Err(AddressError::Scheme { scheme: scheme.to_owned(), address });
            }
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(AddressError::Extra { address });
        }
        let (host, port) = split_port(rest);
        if host.is_empty() {
            return Err(AddressError::NoHost { address });
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse::<u16>() {
                Ok(number) if number > 0 => number,
                _ => return Err(AddressError::Port { port: port.to_owned(), address }),
            },
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Host and port; IPv6 addresses stand in brackets, or alone.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => ("", None),
        };
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "quic://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "quic://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn addresses_people_write() {
        for (text, shown, loopback) in [
            ("quic://localhost:4222", "quic://localhost:4222", true),
            ("bus.example.org", "quic://bus.example.org:4222", false),
            ("127.0.0.1:9", "quic://127.0.0.1:9", true),
            ("quic://[::1]:7/", "quic://[::1]:7", true),
            ("::1", "quic://[::1]:4222", true),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert!(error("nats://h:4222").contains("nats://"));
        assert!(error("quic://").contains("names no host"));
        assert!(error("quic://[::1:4222").contains("names no host"));
        assert!(error("h:0").contains("is not a port"));
        assert!(error("h:65536").contains("is not a port"));
        assert!(error("quic://u:p@h:1").contains("login"));
        assert!(error("quic://h:1/x").contains("path"));
    }
}
