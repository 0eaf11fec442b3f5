//! A running server: where it is found, how it is reached from within, and how it ends.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::broker_thread::Input;
use super::connection::{Peer, Shared, serve};
use super::error::ServerFailure;
use super::ready::{ContextFile, Ready, ReadyError, ReadyFile};
use crate::client::transport::Transport;
use crate::client::{Client, ConnectError, Fingerprint};
use crate::wire::native::ErrorCode;

/// How long the last packets of connections are waited for.
const LAST_PACKETS: Duration = Duration::from_millis(500);

/// Longest time from one NATS client that is sent away to the next. 1 s, as nats-server.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How a server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// All was answered and the log was closed.
    Clean,
    /// Time ran out: the log was left as it was, which is safe, and the next start takes longer.
    Cut,
}

/// What a server is made of.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) quic: Option<SocketAddr>,
    pub(super) nats: Option<SocketAddr>,
    pub(super) websocket: Option<SocketAddr>,
    pub(super) http: Option<SocketAddr>,
    pub(super) endpoint: Option<quinn::Endpoint>,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) authority_pem: Option<String>,
    pub(super) ready: Ready,
    pub(super) ready_file: Option<ReadyFile>,
    pub(super) context_file: Option<ContextFile>,
    /// Listeners, which end when the server stops.
    pub(super) tasks: JoinSet<()>,
    /// Tasks that are cut off when the server stops.
    pub(super) background: JoinSet<()>,
    stop: watch::Sender<bool>,
    leave: watch::Sender<bool>,
    all_gone: mpsc::Receiver<()>,
    ended: oneshot::Receiver<Result<(), ServerFailure>>,
    /// What `ended` has told, which it does once.
    result: Option<Result<(), ServerFailure>>,
}

impl Parts {
    pub(super) fn new(
        shared: Arc<Shared>,
        (stop, leave): (watch::Sender<bool>, watch::Sender<bool>),
        all_gone: mpsc::Receiver<()>,
        ended: oneshot::Receiver<Result<(), ServerFailure>>,
    ) -> Self {
        Self {
            shared,
            quic: None,
            nats: None,
            websocket: None,
            http: None,
            endpoint: None,
            fingerprint: None,
            authority_pem: None,
            ready: Ready::default(),
            ready_file: None,
            context_file: None,
            tasks: JoinSet::new(),
            background: JoinSet::new(),
            stop,
            leave,
            all_gone,
            ended,
            result: None,
        }
    }

    /// How the broker's thread ended, once it has.
    async fn end(&mut self) -> Result<(), ServerFailure> {
        let result = match self.result.take() {
            Some(result) => result,
            None => (&mut self.ended)
                .await
                .unwrap_or_else(|_| Err(ServerFailure::Panic("its thread is gone".to_owned()))),
        };
        self.result = Some(result.clone());
        result
    }
}

/// A server that runs. Dropping it cuts it off, which loses nothing that was acknowledged;
/// [`shutdown`](Self::shutdown) ends it cleanly.
pub struct RunningServer {
    parts: Parts,
}

impl std::fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningServer").field("ready", &self.parts.ready).finish_non_exhaustive()
    }
}

impl RunningServer {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// Where the server is found, and what the ready file says.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.parts.ready
    }

    /// Writes [`ready`](Self::ready) to a file, for whoever waits until more than the server is ready. It
    /// is removed when the server stops.
    ///
    /// # Errors
    /// [`ReadyError`].
    pub fn write_ready_file(&mut self, path: impl AsRef<Path>) -> Result<(), ReadyError> {
        self.parts.ready_file = Some(ReadyFile::write(path.as_ref(), &self.parts.ready)?);
        Ok(())
    }

    /// Address of the QUIC listener, with the port it really has.
    #[must_use]
    pub fn quic_address(&self) -> Option<SocketAddr> {
        self.parts.quic
    }

    /// Address of the listener for NATS clients, with the port it really has.
    #[must_use]
    pub fn nats_address(&self) -> Option<SocketAddr> {
        self.parts.nats
    }

    /// Address of the listener for NATS clients over WebSocket alone, with the port it really has.
    #[must_use]
    pub fn websocket_address(&self) -> Option<SocketAddr> {
        self.parts.websocket
    }

    /// Address of the HTTP listener.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.parts.http
    }

    /// The server's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.shared.welcome.name
    }

    /// Names this run of the server, as NATS clients are told.
    #[must_use]
    pub fn id(&self) -> String {
        super::nats::server_id(&self.parts.shared.welcome.server_id)
    }

    /// The certificate that clients are to trust, in PEM.
    #[must_use]
    pub fn authority_pem(&self) -> Option<&str> {
        self.parts.authority_pem.as_deref()
    }

    /// SHA-256 of the server's certificate, for clients that trust it alone.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.parts.fingerprint
    }

    /// Connects from within the process: the same protocol over memory, without a secret.
    #[must_use]
    pub fn connect(&self) -> Transport {
        let (transport, streams) = Transport::memory();
        tokio::spawn(serve(Arc::clone(&self.parts.shared), Peer::Memory(streams)));
        transport
    }

    /// A client within the process.
    ///
    /// # Errors
    /// [`ConnectError`] if the server has failed.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        Client::builder().connect_over(self.connect()).await
    }

    /// Waits until the server fails by itself. May be called again after it was cancelled.
    ///
    /// # Errors
    /// [`ServerFailure`]: the process must end, with
    /// [`exit_code`](ServerFailure::exit_code).
    pub async fn wait(&mut self) -> Result<(), ServerFailure> {
        self.parts.end().await
    }

    /// Takes no new connections from now on, and tells NATS clients that the server is going to stop
    /// (nats-server's lame duck mode). Those that are connected are served as before. Returns how many
    /// NATS clients there are.
    pub fn stop_accepting(&self) -> usize {
        // Received by no one if nothing listens.
        let _ = self.parts.leave.send(true);
        self.parts.shared.nats_clients.open().len()
    }

    /// Closes the connections of NATS clients one after the other, spread over the time that
    /// [`lame_duck_duration`](super::ServerLimits::lame_duck_duration) leaves behind the
    /// [grace period](super::ServerLimits::lame_duck_grace_period), and a second apart at most, so that they do not
    /// all come to another server at once. The future does not borrow the server.
    pub fn close_nats_clients(&self) -> impl Future<Output = ()> + Send + use<> {
        let limits = &self.parts.shared.server_limits;
        let time = limits.lame_duck_duration.saturating_sub(limits.lame_duck_grace_period);
        let clients = Arc::clone(&self.parts.shared.nats_clients);
        async move {
            let open = clients.open();
            let count = u32::try_from(open.len()).unwrap_or(u32::MAX).max(1);
            let pause = (time / count).min(LONGEST_PAUSE);
            let began = tokio::time::Instant::now();
            for (client, before) in open.iter().zip(0..) {
                tokio::time::sleep_until(began + pause * before).await;
                client.dismiss();
            }
        }
    }

    /// Stops: nothing new is taken, what was accepted is answered, waiting pulls learn of it, the
    /// log is closed. Takes [`stop_timeout`](super::ServerLimits::stop_timeout) at most.
    ///
    /// # Errors
    /// [`ServerFailure`] if the journal failed meanwhile.
    pub async fn shutdown(self) -> Result<Stopped, ServerFailure> {
        let limit = self.parts.shared.server_limits.stop_timeout;
        match tokio::time::timeout(limit, self.stop()).await {
            Ok(result) => result.map(|()| Stopped::Clean),
            Err(_) => Ok(Stopped::Cut),
        }
    }

    async fn stop(self) -> Result<(), ServerFailure> {
        let mut parts = self.parts;
        drop((parts.ready_file.take(), parts.context_file.take()));
        parts.background.abort_all();
        // Received by no one if nothing listens.
        let _ = parts.stop.send(true);
        // Fails only if the broker is gone, which the end tells.
        let _ = parts.shared.broker.send(Input::Stop).await;
        let result = parts.end().await;
        let Parts { shared, endpoint, mut tasks, mut all_gone, .. } = parts;
        // Connections hold what is needed to wait for them; this one is not one of them.
        drop(shared);
        while tasks.join_next().await.is_some() {}
        let _ = all_gone.recv().await;
        if let Some(endpoint) = endpoint {
            endpoint.close(quinn::VarInt::from_u32(ErrorCode::Shutdown.number()), b"shutting down");
            // The last packets of the connections; those that do not answer are not waited for.
            let _ = tokio::time::timeout(LAST_PACKETS, endpoint.wait_idle()).await;
        }
        result
    }
}
