//! What a server is told before it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use claudebus_storage::engine::ScrubOptions;
use claudebus_storage::{CrashPoints, Durability};

use super::error::StartError;
use super::limits::ServerLimits;
use super::login::{Tokens, User};
use super::nats::NatsTls;
use super::running::RunningServer;
use super::start::start;
use crate::model::limits::Limits;
use crate::model::stream::StreamConfig;

/// A server that is not running yet: [`Server::builder`].
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Begins to describe a server. Without further words it keeps its log in memory, listens
    /// nowhere and is reached by [`RunningServer::connect`] alone.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }
}

/// Where the second copies of files are kept.
#[derive(Clone, Debug)]
pub(super) struct Copies {
    /// A directory below the data directory if not given.
    pub(super) place: Option<PathBuf>,
}

/// Describes a server.
#[derive(Clone, Debug)]
pub struct ServerBuilder {
    pub(super) name: String,
    pub(super) domain: Option<String>,
    pub(super) data: Option<PathBuf>,
    pub(super) quic: Option<SocketAddr>,
    pub(super) nats: Option<SocketAddr>,
    pub(super) nats_tls: Option<NatsTls>,
    pub(super) websocket: Option<SocketAddr>,
    pub(super) websocket_tls: Option<NatsTls>,
    pub(super) http: Option<SocketAddr>,
    pub(super) http_hosts: Vec<String>,
    pub(super) durability: Durability,
    pub(super) limits: Limits,
    pub(super) server_limits: ServerLimits,
    pub(super) tail_budget: Option<usize>,
    pub(super) copies: Option<Copies>,
    pub(super) scrub: Option<ScrubOptions>,
    pub(super) default_streams: Vec<StreamConfig>,
    pub(super) ready_file: Option<PathBuf>,
    pub(super) context_file: Option<PathBuf>,
    pub(super) tokens: Tokens,
    pub(super) users: Vec<User>,
    pub(super) nobody: Option<String>,
    pub(super) crash_points: CrashPoints,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            name: "claudebus".to_owned(),
            domain: None,
            data: None,
            quic: None,
            nats: None,
            nats_tls: None,
            websocket: None,
            websocket_tls: None,
            http: None,
            http_hosts: Vec::new(),
            durability: Durability::default(),
            limits: Limits::default(),
            server_limits: ServerLimits::default(),
            tail_budget: None,
            copies: None,
            scrub: Some(ScrubOptions::default()),
            default_streams: Vec::new(),
            ready_file: None,
            context_file: None,
            tokens: Tokens::default(),
            users: Vec::new(),
            nobody: None,
            crash_points: CrashPoints::default(),
        }
    }
}

impl ServerBuilder {
    /// Whether a server may start like this, as far as that shows without starting one.
    ///
    /// # Errors
    /// [`StartError::Unprotected`] if others than this machine could reach it without a token or a
    /// user's password.
    pub fn check(&self) -> Result<(), StartError> {
        let open = [self.quic, self.nats, self.websocket, self.http].into_iter().flatten();
        match open.into_iter().find(|address| !address.ip().is_loopback()) {
            Some(address) if !self.is_protected() => Err(StartError::Unprotected(address)),
            _ => Ok(()),
        }
    }

    /// Whether clients must say who they are to do everything.
    fn is_protected(&self) -> bool {
        let nobody = self.users.iter().find(|user| Some(&user.name) == self.nobody.as_ref());
        let is_open = nobody.is_some_and(|user| user.grant.is_everything());
        !is_open && (!self.tokens.is_empty() || !self.users.is_empty())
    }

    /// The server's name, for people. `claudebus` by default.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The domain of the streams, for NATS clients, which may then say `$JS.<domain>.API` for `$JS.API`. One word
    /// of a subject. None by default.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Keeps the log in this directory, which is made if it is not there.
    #[must_use]
    pub fn data_directory(mut self, path: impl AsRef<Path>) -> Self {
        self.data = Some(path.as_ref().to_path_buf());
        self
    }

    /// Keeps the log in memory: gone when the server stops. For tests and trials. The default.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.data = None;
        self
    }

    /// Listens for QUIC on this UDP address; port 0 takes any free one.
    #[must_use]
    pub fn quic(mut self, address: SocketAddr) -> Self {
        self.quic = Some(address);
        self
    }

    /// Listens for QUIC on any free port of the loopback interface.
    #[must_use]
    pub fn quic_on_free_port(self) -> Self {
        self.quic((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Listens for NATS clients on this TCP address; port 0 takes any free one.
    #[must_use]
    pub fn nats(mut self, address: SocketAddr) -> Self {
        self.nats = Some(address);
        self
    }

    /// Secures the connections of NATS clients, but for those over WebSocket.
    #[must_use]
    pub fn nats_tls(mut self, options: NatsTls) -> Self {
        self.nats_tls = Some(options);
        self
    }

    /// Listens for NATS clients over WebSocket on this TCP address, at every path; port 0 takes any free
    /// one. The HTTP listener takes them too, at `/nats`, if there is one for NATS clients.
    #[must_use]
    pub fn websocket(mut self, address: SocketAddr) -> Self {
        self.websocket = Some(address);
        self
    }

    /// Secures the connections of the WebSocket listener: `wss` instead of `ws`. The handshake comes first
    /// there, whatever the options say.
    #[must_use]
    pub fn websocket_tls(mut self, options: NatsTls) -> Self {
        self.websocket_tls = Some(options);
        self
    }

    /// Listens for HTTP on this TCP address; port 0 takes any free one.
    #[must_use]
    pub fn http(mut self, address: SocketAddr) -> Self {
        self.http = Some(address);
        self
    }

    /// Answers HTTP requests for this host name too, and lets web pages from there connect as NATS
    /// clients. Others than loopback names and the listener's own address are refused otherwise, so
    /// that a web page cannot reach the listener under a name of its own.
    #[must_use]
    pub fn http_host(mut self, host: impl Into<String>) -> Self {
        self.http_hosts.push(host.into());
        self
    }

    /// Listens nowhere: the server is reached by [`RunningServer::client`] and
    /// [`RunningServer::connect`] alone. The default.
    #[must_use]
    pub fn without_listeners(mut self) -> Self {
        self.quic = None;
        self.nats = None;
        self.websocket = None;
        self.http = None;
        self
    }

    /// When an acknowledgement may leave. After the disk has confirmed, by default.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Limits of the broker.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Limits of connections.
    #[must_use]
    pub fn server_limits(mut self, limits: ServerLimits) -> Self {
        self.server_limits = limits;
        self
    }

    /// Bytes of records kept in memory before they are written to segment files.
    #[must_use]
    pub fn tail_budget(mut self, bytes: usize) -> Self {
        self.tail_budget = Some(bytes);
        self
    }

    /// Keeps two copies of every file, the second one in this directory; preferably on another disk. Without
    /// a path, in a directory below the data directory.
    #[must_use]
    pub fn two_copies(mut self, place: Option<PathBuf>) -> Self {
        self.copies = Some(Copies { place });
        self
    }

    /// When files are read again in the background, so that damage is found before they are needed;
    /// `None` for never.
    #[must_use]
    pub fn scrub(mut self, options: Option<ScrubOptions>) -> Self {
        self.scrub = options;
        self
    }

    /// Streams that come into being at their first use.
    #[must_use]
    pub fn default_streams(mut self, streams: Vec<StreamConfig>) -> Self {
        self.default_streams = streams;
        self
    }

    /// Writes [`Ready`](super::Ready) to this file once everything is bound, and removes it when the server
    /// stops.
    #[must_use]
    pub fn ready_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ready_file = Some(path.as_ref().to_path_buf());
        self
    }

    /// Writes to this file where clients of this machine find the server, as long as it runs:
    /// see [`LocalServer::path`](crate::client::LocalServer::path). If it cannot be written the server
    /// warns of it, and runs.
    #[must_use]
    pub fn context_file(mut self, path: impl AsRef<Path>) -> Self {
        self.context_file = Some(path.as_ref().to_path_buf());
        self
    }

    /// Lets in clients that know this secret, who may do everything; may be called several times. Without
    /// any, and without users, everyone who can reach the server is let in, and it listens on loopback
    /// only.
    #[must_use]
    pub fn auth_token(mut self, token: impl Into<String>) -> Self {
        self.tokens.add(token.into());
        self
    }

    /// Lets in this user, of the NATS protocol. May be called several times; names are unique.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// NATS clients that present nothing are let in as this user, who must be one of the users.
    #[must_use]
    pub fn no_auth_user(mut self, name: impl Into<String>) -> Self {
        self.nobody = Some(name.into());
        self
    }

    /// Places where tests may end the process.
    #[must_use]
    pub fn crash_points(mut self, points: CrashPoints) -> Self {
        self.crash_points = points;
        self
    }

    /// Starts the server on the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(self) -> Result<RunningServer, StartError> {
        start(self).await
    }
}
