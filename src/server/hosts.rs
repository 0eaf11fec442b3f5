//! Which host names are ours, and which web pages may connect.
//!
//! A web page can reach a server on its visitor's machine, by having its own name resolve to 127.0.0.1
//! or, over WebSocket, as it is. Names tell such requests from others.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};

/// Host names of this server, in lower case and without port.
#[derive(Clone, Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// Loopback names, the listener's own address, and `extra` ones.
    pub(super) fn new(own: Option<SocketAddr>, extra: &[String]) -> Self {
        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
        hosts.extend(own.map(|address| match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        }));
        hosts.extend(extra.iter().map(|host| host.to_ascii_lowercase()));
        Self(hosts)
    }

    /// Whether a request is for a name of ours.
    pub(super) fn is_for_us(&self, headers: &HeaderMap) -> bool {
        host(headers).is_some_and(|host| self.0.contains(&host))
    }

    /// Whether whoever asks is no web page, or one from a host of ours: one of our names, or the very
    /// address that the request went to, for which no page can have its name resolve.
    pub(super) fn allow_origin(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::ORIGIN).iter().all(|origin| {
            let Some((_, from)) = origin.to_str().ok().and_then(|text| text.split_once("://"))
            else {
                return false;
            };
            let from = without_port(from);
            self.0.contains(&from) || (is_address(&from) && host(headers) == Some(from))
        })
    }
}

fn host(headers: &HeaderMap) -> Option<String> {
    headers.get(header::HOST)?.to_str().ok().map(without_port)
}

fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn without_port(host: &str) -> String {
    let end = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => colon,
        _ => host.len(),
    };
    host.get(..end).unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn ports_are_no_part_of_a_name() {
        for (host, name) in [
            ("localhost:8222", "localhost"),
            ("LOCALHOST", "localhost"),
            ("[::1]:8222", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:1", "127.0.0.1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn pages_from_elsewhere_are_not_allowed() {
        let hosts = Hosts::new(Some(([0, 0, 0, 0], 80).into()), &["Bus.example".to_owned()]);
        let allowed = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            hosts.allow_origin(&headers)
        };
        assert!(allowed("anything", None), "no web page");
        assert!(allowed("localhost:1", Some("http://localhost:3000")));
        assert!(allowed("localhost:1", Some("https://bus.example")));
        assert!(allowed("10.0.0.7:1", Some("http://10.0.0.7:3000")), "from where it went");
        assert!(!allowed("10.0.0.7:1", Some("http://10.0.0.8")));
        assert!(
            !allowed("evil.example:1", Some("http://evil.example:1")),
            "a name that resolves here"
        );
        assert!(!allowed("localhost:1", Some("https://evil.example")));
        assert!(!allowed("localhost:1", Some("http://localhost.evil.example")));
        assert!(!allowed("localhost:1", Some("null")));
    }
}
