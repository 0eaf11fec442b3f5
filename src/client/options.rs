//! How a client is set up.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use super::error::ConnectError;
use super::event::ConnectionEvent;
use super::local::LocalServer;
use super::publish::WindowLimits;
use super::quic::QuicOptions;
use super::tls::{Fingerprint, Trust};
use super::transport::Transport;
use super::{Client, supervisor};

/// The address when neither the caller nor a local server names one.
const DEFAULT_URL: &str = "quic://localhost:4222";

/// How a lost connection is made again: after `first`, then twice as long each time up to `longest`,
/// each shortened by a random part of at most half, so that many clients don't come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectPolicy {
    /// Wait before the first attempt. 50 ms: a restarted server is back in less than a second.
    pub first: Duration,
    /// Longest wait. 5 s: soon enough for people.
    pub longest: Duration,
    /// Attempts before the client is closed; none to go on for ever, the default.
    pub attempts: Option<u32>,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(5), attempts: None }
    }
}

impl ReconnectPolicy {
    /// Wait before attempt `attempt`, counted from 1; `random` lies in 0..1.
    pub(super) fn delay(&self, attempt: u32, random: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        full.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
    }
}

/// Called with every connection event, on the client's own task: it must return quickly.
pub(super) type EventCallback = Arc<dyn Fn(&ConnectionEvent) + Send + Sync>;

/// Settings of a client. Made by [`Client::builder`], used by [`ClientBuilder::connect`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use claudebus::client::Client;
///
/// let client = Client::builder()
///     .url("quic://bus.example.org:4222")
///     .ca_file("/etc/claudebus/ca.pem")
///     .token("s3cret")
///     .name("billing")
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientBuilder {
    url: Option<String>,
    ca_file: Option<PathBuf>,
    fingerprint: Option<String>,
    pub(super) token: Option<String>,
    pub(super) name: String,
    pub(super) reconnect: ReconnectPolicy,
    connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    idle_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) window: WindowLimits,
    pub(super) on_event: Option<EventCallback>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tokens are secrets.
        f.debug_struct("ClientBuilder")
            .field("url", &self.url)
            .field("ca_file", &self.ca_file)
            .field("fingerprint", &self.fingerprint)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            url: None,
            ca_file: None,
            fingerprint: None,
            token: None,
            name: String::new(),
            reconnect: ReconnectPolicy::default(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            window: WindowLimits::default(),
            on_event: None,
        }
    }
}

impl ClientBuilder {
    /// Where the server is, `quic://host:port`. Without it, the server of this machine is found
    /// through its context file (see [`LocalServer`]), or expected at `quic://localhost:4222`.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The PEM file of the certificate authority to believe. Not needed for a server on this
    /// machine.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Believes only the server whose certificate has this SHA-256 fingerprint, in hexadecimal.
    #[must_use]
    pub fn fingerprint(mut self, sha256: impl Into<String>) -> Self {
        self.fingerprint = Some(sha256.into());
        self
    }

    /// The secret that lets the client in, where the server wants one.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The client's name, shown by the server to people.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How a lost connection is made again.
    #[must_use]
    pub fn reconnect(mut self, policy: ReconnectPolicy) -> Self {
        self.reconnect = policy;
        self
    }

    /// Longest wait for one attempt to connect. 5 s by default: several lost packets on a slow line.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Longest wait for the answer to a request. 10 s by default: longer than any, on a busy disk.
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// Silence after which the connection counts as lost. 10 s by default, with a sign of life three
    /// times in that; a restarted server is noticed this late at worst.
    #[must_use]
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// Longest wait, when the client is closed, for what is still in flight. 5 s by default.
    #[must_use]
    pub fn close_timeout(mut self, limit: Duration) -> Self {
        self.close_timeout = limit;
        self
    }

    /// How much each publisher may have in flight.
    #[must_use]
    pub fn publish_window(mut self, limits: WindowLimits) -> Self {
        self.window = limits;
        self
    }

    /// Calls `observer` with every connection event. It runs on the client's own task and must
    /// return quickly; [`Client::events`] is the same as a stream.
    #[must_use]
    pub fn on_event(mut self, observer: impl Fn(&ConnectionEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(observer));
        self
    }

    /// Connects, and keeps the connection from then on.
    ///
    /// # Errors
    /// [`ConnectError`] if the first connection cannot be made.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        supervisor::start(self, Target::Network).await
    }

    /// Uses a connection that stands already, such as one within the process
    /// ([`Transport::memory`]). It is not made again when it breaks: the client is closed then.
    ///
    /// # Errors
    /// [`ConnectError`] if the greeting fails.
    pub async fn connect_over(self, transport: Transport) -> Result<Client, ConnectError> {
        supervisor::start(self, Target::Given(transport)).await
    }

    /// Where to connect to and whom to believe, as things stand now.
    pub(super) fn resolve(&self) -> Result<(Address, QuicOptions), ConnectError> {
        let local = match (&self.url, &self.fingerprint, &self.ca_file) {
            // The context file of another server must not stand in the way.
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => None,
            _ => LocalServer::find()?,
        };
        let url = match (&self.url, &local) {
            (Some(url), _) => url.as_str(),
            (None, Some(local)) if !local.url.is_empty() => local.url.as_str(),
            _ => DEFAULT_URL,
        };
        let address: Address = url.parse()?;
        let trust = if let Some(fingerprint) = &self.fingerprint {
            Trust::Pinned(fingerprint.parse::<Fingerprint>()?)
        } else if let Some(ca_file) = &self.ca_file {
            Trust::Authority(ca_file.clone())
        } else {
            local
                .filter(|local| is_that_server(&address, local))
                .map(|local| Trust::Authority(local.ca))
                .ok_or_else(|| ConnectError::NoTrust { address: address.to_string() })?
        };
        let options = QuicOptions {
            trust,
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
        };
        Ok((address, options))
    }
}

/// Whether the local server listens at this address.
fn is_that_server(address: &Address, local: &LocalServer) -> bool {
    local.url.parse::<Address>().is_ok_and(|at| {
        at.port == address.port
            && (at.host == address.host || (at.is_loopback() && address.is_loopback()))
    })
}

/// What to connect to.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The address in the settings.
    Network,
    /// A connection that stands already.
    Given(Transport),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        let policy = ReconnectPolicy::default();
        assert_eq!(policy.delay(1, 0.0), Duration::from_millis(50));
        assert_eq!(policy.delay(3, 0.0), Duration::from_millis(200));
        assert_eq!(policy.delay(3, 1.0), Duration::from_millis(100));
        assert_eq!(policy.delay(u32::MAX, 0.0), policy.longest);
    }

    #[test]
    fn the_local_authority_counts_for_the_local_server_only() {
        let local = LocalServer { url: "quic://localhost:4222".into(), ..Default::default() };
        let is = |text: &str| is_that_server(&text.parse().unwrap(), &local);
        assert!(is("127.0.0.1:4222") && is("quic://localhost"));
        assert!(!is("quic://localhost:4223") && !is("quic://example.org:4222"));
    }

    #[test]
    fn settings_do_not_show_the_token() {
        let text = format!("{:?}", Client::builder().token("s3cret"));
        assert!(!text.contains("s3cret"));
    }
}
