//! What `serve` is told, with its defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::sections::Secret;
use super::text;
use super::tls::NatsTlsSettings;
use crate::model::limits::Limits;
use crate::server::ServerLimits;

/// What `serve` is told.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Data directory; the platform's place for data if not given.
    pub data: Option<PathBuf>,
    /// Address of the QUIC listener.
    pub quic: SocketAddr,
    /// Address of the listener for NATS clients; none switches it off.
    pub nats: Option<SocketAddr>,
    /// How their connections are secured.
    pub nats_tls: NatsTlsSettings,
    /// Address of the listener for NATS clients over WebSocket alone; none switches it off.
    pub websocket: Option<SocketAddr>,
    /// Address of the HTTP listener; none switches it off.
    pub http: Option<SocketAddr>,
    /// When an acknowledgement may leave.
    pub durability: Durability,
    /// Filter of log events.
    pub log: String,
    /// Whether log events are JSON.
    pub log_json: bool,
    /// Written once the server can be connected to.
    pub ready_file: Option<PathBuf>,
    /// Bytes in memory before they are written to segment files.
    pub tail_budget: u64,
    /// Copies of every file: 1 or 2.
    pub copies: usize,
    /// Where the second ones are; below the data directory if not given.
    pub copies_dir: Option<PathBuf>,
    /// From one pass of scrubbing to the next; zero for never.
    pub scrub_interval: Duration,
    /// Bytes that scrubbing reads in a second; 0 for none.
    pub scrub_rate: u64,
    /// What clients must present.
    pub auth_token: Option<Secret>,
    /// A file that holds it.
    pub auth_token_file: Option<PathBuf>,
    /// Whether a chaos plan may be loaded.
    pub allow_chaos: bool,
    /// Host names that HTTP requests may use beside loopback names.
    pub http_hosts: Vec<String>,
    /// Limits of the broker.
    pub limits: Limits,
    /// Limits of connections, and the time a clean stop may take.
    pub connections: ServerLimits,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            data: None,
            quic: SocketAddr::from(([127, 0, 0, 1], 4222)),
            nats: Some(SocketAddr::from(([127, 0, 0, 1], 4222))),
            nats_tls: NatsTlsSettings::default(),
            websocket: None,
            http: Some(SocketAddr::from(([127, 0, 0, 1], 8222))),
            durability: Durability::Sync,
            log: "info".to_owned(),
            log_json: false,
            ready_file: None,
            tail_budget: 64 << 20,
            copies: 1,
            copies_dir: None,
            scrub_interval: Duration::from_secs(7 * 24 * 3600),
            scrub_rate: 4 << 20,
            auth_token: None,
            auth_token_file: None,
            allow_chaos: false,
            http_hosts: Vec::new(),
            limits: Limits::default(),
            connections: ServerLimits::default(),
        }
    }
}

impl ServerSettings {
    /// The data directory in force. The current folder's `claudebus-data` where the platform has
    /// no place for data.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| {
            dirs::data_dir().map_or_else(|| "claudebus-data".into(), |dir| dir.join("claudebus"))
        })
    }
}

/// When an acknowledgement may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has confirmed that the message is on it.
    Sync,
    /// At once; the disk is asked to confirm so often. A power cut loses that much.
    Interval(Duration),
    /// At once; the operating system writes when it likes. A power cut loses up to half a minute.
    Os,
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sync => f.write_str("sync"),
            Self::Interval(every) => write!(f, "interval:{}", text::show_duration(*every)),
            Self::Os => f.write_str("os"),
        }
    }
}

impl std::str::FromStr for Durability {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "sync" => Ok(Self::Sync),
            "os" => Ok(Self::Os),
            _ => match word.strip_prefix("interval:") {
                Some(every) => text::positive_duration(every).map(Self::Interval),
                None => {
                    Err(format!("`{word}` is no durability; write sync, interval:<duration> or os"))
                }
            },
        }
    }
}
