//! What nats-server can be told, by its flags or its file, as far as this server can do it.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::super::sections::Secret;
use super::login::NatsUser;
use super::secure::TlsOptions;
use super::websocket::WebSocketOptions;
use crate::config::users::Permissions;

/// A port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Any free one: written -1.
    Any,
    /// This one.
    Number(u16),
}

impl Port {
    /// As sockets take it: 0 for any free one.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Any => 0,
            Self::Number(number) => number,
        }
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "-1" => Ok(Self::Any),
            text => text
                .parse()
                .map(Self::Number)
                .map_err(|_| format!("`{text}` is not a port; write 1 to 65535, or -1 for any")),
        }
    }
}

/// What nats-server can be told. What nobody said is left to the server's own defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsOptions {
    /// Where clients connect to; none if nobody said.
    pub host: Option<String>,
    /// The port of clients. 4222, as nats-server.
    pub port: Port,
    /// The host of the HTTP listener, if it is another one.
    pub http_host: Option<String>,
    /// The port of the HTTP listener, if there is one.
    pub http_port: Option<Port>,
    /// The server's name.
    pub server_name: Option<String>,
    /// Largest message in bytes.
    pub max_payload: Option<usize>,
    /// Connections at once.
    pub max_connections: Option<usize>,
    /// Subscriptions of one connection.
    pub max_subscriptions: Option<usize>,
    /// Bytes waiting for one connection.
    pub max_pending: Option<usize>,
    /// From one sign of life asked for to the next.
    pub ping_interval: Option<Duration>,
    /// How long a client may take nothing.
    pub write_deadline: Option<Duration>,
    /// Time for a client to say who it is.
    pub auth_timeout: Option<Duration>,
    /// Time from SIGUSR2 to the end.
    pub lame_duck_duration: Option<Duration>,
    /// How much of that passes before the first client is sent away.
    pub lame_duck_grace_period: Option<Duration>,
    /// Whether streams are kept on the disk.
    pub jetstream: bool,
    /// Where; below it, `jetstream` is the data directory.
    pub store_dir: Option<PathBuf>,
    /// The domain of the streams.
    pub domain: Option<String>,
    /// What clients must present.
    pub token: Option<Secret>,
    /// The one user there is, if no list of them is given.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Users, of a list.
    pub users: Vec<NatsUser>,
    /// What users may do of whom nothing is said.
    pub default_permissions: Option<Permissions>,
    /// The user that clients are who present nothing.
    pub no_auth_user: Option<String>,
    /// How connections are secured; not at all if nobody said.
    pub tls: Option<TlsOptions>,
    /// The listener for WebSocket, if there is one.
    pub websocket: Option<WebSocketOptions>,
    /// Most messages of one request for them, where a consumer says nothing itself.
    pub max_request_batch: Option<u64>,
    /// Log what happens in detail.
    pub debug: bool,
    /// Log the protocol.
    pub trace: bool,
    /// Whether lines of the log begin with the time.
    pub logtime: bool,
    /// Whether that is in UTC, not in the machine's time zone.
    pub logtime_utc: bool,
    /// The log's file; stderr if there is none.
    pub log_file: Option<PathBuf>,
    /// A file for the process id.
    pub pid_file: Option<PathBuf>,
    /// A directory for a file with the addresses.
    pub ports_file_dir: Option<PathBuf>,
    /// What was said and has no effect, in words.
    pub warnings: Vec<String>,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            host: None,
            port: Port::Number(4222),
            http_host: None,
            http_port: None,
            server_name: None,
            max_payload: None,
            max_connections: None,
            max_subscriptions: None,
            max_pending: None,
            ping_interval: None,
            write_deadline: None,
            auth_timeout: None,
            lame_duck_duration: None,
            lame_duck_grace_period: None,
            jetstream: false,
            store_dir: None,
            domain: None,
            token: None,
            user: None,
            password: None,
            users: Vec::new(),
            default_permissions: None,
            no_auth_user: None,
            tls: None,
            websocket: None,
            max_request_batch: None,
            debug: false,
            trace: false,
            logtime: true,
            logtime_utc: false,
            log_file: None,
            pid_file: None,
            ports_file_dir: None,
            warnings: Vec::new(),
        }
    }
}

impl NatsOptions {
    /// Notes that something was said which has no effect, and why.
    pub fn warn(&mut self, what: impl std::fmt::Display, why: &str) {
        self.warnings.push(without_effect(what, why));
    }
}

/// The words for something that was said and has no effect.
pub(super) fn without_effect(what: impl std::fmt::Display, why: &str) -> String {
    format!("{what} has no effect: {why}")
}
