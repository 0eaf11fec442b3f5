//! From a description to a running server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use claudebus_storage::{Durability, Engine, EngineOptions, MemoryLog};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::accept::accept;
use super::broker_thread::{Setup, Started, spawn};
use super::builder::ServerBuilder;
use super::clock::Clock;
use super::connection::Shared;
use super::counters::Counters;
use super::error::{StartError, TlsError};
use super::hosts::Hosts;
use super::limits::ServerLimits;
use super::login::{Credential, Logins, User};
use super::monitor::{Addresses, Site};
use super::nats::{NatsCertificate, NatsTls, Tls};
use super::ready::{ContextFile, Ready, ReadyFile};
use super::running::{Parts, RunningServer};
use super::tls::Identity;
use super::{disk, http, nats, quic};
use crate::broker::BrokerOptions;
use crate::wire::native::{MINOR, Welcome, WireLimits};

/// How often it is looked whether the certificate is due.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(12 * 3600);
/// Smallest journal file. 1 MiB: below it, changing files would cost more than it saves.
const MIN_JOURNAL_FILE: u64 = 1 << 20;

pub(super) async fn start(builder: ServerBuilder) -> Result<RunningServer, StartError> {
    builder.check()?;
    let clock = Clock::new();
    let counters = Arc::new(Counters::default());
    // The log first: it locks the data directory, which holds the certificates too.
    let Started { handle, ended } = open_broker(&builder, clock, &counters).await?;
    let (stop, stopping) = watch::channel(false);
    let (leave, leaving) = watch::channel(false);
    let (alive, all_gone) = mpsc::channel(1);
    let shared = Arc::new(Shared {
        broker: handle,
        limits: Arc::new(builder.limits.clone()),
        server_limits: builder.server_limits.clone(),
        counters,
        clock,
        nats_clients: Arc::default(),
        logins: logins(&builder),
        welcome: welcome(&builder),
        domain: builder.domain.as_deref().map(Arc::from),
        stopping,
        leaving,
        sessions: AtomicU64::new(1),
        connections: AtomicU64::new(1),
        alive,
    });
    let mut parts = Parts::new(shared, (stop, leave), all_gone, ended);
    match listen(&builder, clock, &mut parts).await {
        Ok(()) => Ok(RunningServer::new(parts)),
        Err(error) => {
            // The directory must be free again when the caller learns of it.
            let _ = RunningServer::new(parts).shutdown().await;
            Err(error)
        }
    }
}

async fn open_broker(
    builder: &ServerBuilder,
    clock: Clock,
    counters: &Arc<Counters>,
) -> Result<Started, StartError> {
    let setup = Setup {
        options: BrokerOptions {
            limits: builder.limits.clone(),
            default_streams: builder.default_streams.clone(),
            server_name: builder.name.clone(),
            domain: builder.domain.clone(),
            seed: rand::random(),
        },
        clock,
        counters: Arc::clone(counters),
        input_queue: builder.server_limits.input_queue,
    };
    let Some(data) = builder.data.clone() else {
        return spawn(setup, |_waker| Ok(MemoryLog::new())).await;
    };
    let mut options = EngineOptions {
        durability: builder.durability,
        scrub: builder.scrub,
        crash_points: builder.crash_points,
        ..EngineOptions::default()
    };
    if let Some(bytes) = builder.tail_budget {
        options.tail_budget = bytes;
        // Smaller budgets get by with smaller journal files.
        options.journal_file_size =
            options.journal_file_size.min(bytes as u64 / 2).max(MIN_JOURNAL_FILE);
    }
    let copies = builder.copies.clone();
    spawn(setup, move |waker| {
        let disk = disk::open(&data, copies)?;
        Ok(Engine::open(options, disk, waker)?)
    })
    .await
}

/// Who is let in.
fn logins(builder: &ServerBuilder) -> Logins {
    let is_plain = |user: &&User| match &user.credential {
        Credential::Password(password) => password.is_plain(),
        Credential::Key(_) | Credential::Certificate => false,
    };
    let plain: Vec<&str> =
        builder.users.iter().filter(is_plain).map(|user| user.name.as_str()).collect();
    if !plain.is_empty() {
        tracing::warn!(
            users = plain.join(", "),
            "passwords stand in plain text in the configuration; write bcrypt or argon2id hashes"
        );
    }
    let certified = builder.nats_tls.as_ref().is_some_and(NatsTls::names_users);
    Logins::new(builder.tokens.clone(), &builder.users, certified)
        .with_nobody(builder.nobody.as_deref(), &builder.users)
}

fn welcome(builder: &ServerBuilder) -> Welcome {
    Welcome {
        // The smaller of both, of which there is one yet.
        minor: MINOR,
        server_id: format!("{:032x}", rand::random::<u128>()),
        name: builder.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        durability: durability(builder),
        limits: WireLimits::of(&builder.limits, builder.server_limits.max_streams as usize),
    }
}

/// The durability in force, as configuration writes it.
fn durability(builder: &ServerBuilder) -> String {
    match builder.durability {
        _ if builder.data.is_none() => "memory".to_owned(),
        Durability::Sync => "sync".to_owned(),
        Durability::Interval(every) => {
            format!("interval:{}", humantime::format_duration(every))
        }
        Durability::Os => "os".to_owned(),
    }
}

/// Binds the listeners, starts their tasks and writes the files that tell of them.
async fn listen(
    builder: &ServerBuilder,
    clock: Clock,
    parts: &mut Parts,
) -> Result<(), StartError> {
    let tls_directory = builder.data.as_ref().map(|data| data.join("tls"));
    let identity = identity(builder, tls_directory.as_deref(), clock)?;
    let nats_tls = match &builder.nats_tls {
        Some(options) => Some(Arc::new(Tls::new(options, identity.as_ref())?)),
        None => None,
    };
    if let (Some(address), Some(identity)) = (builder.quic, &identity) {
        let endpoint = quic::bind(address, identity, &builder.server_limits)?;
        parts.quic = endpoint.local_addr().ok();
        parts.tasks.spawn(accept(Arc::clone(&parts.shared), endpoint.clone()));
        parts.endpoint = Some(endpoint);
    }
    if let Some(address) = builder.nats {
        let listener = bind("NATS", address).await?;
        parts.nats = listener.local_addr().ok();
        let shared = Arc::clone(&parts.shared);
        parts.tasks.spawn(nats::serve(listener, shared, nats_tls.clone()));
    }
    if let Some(identity) = identity {
        parts.fingerprint = identity.fingerprint();
        parts.authority_pem = Some(identity.authority_pem);
        if let Some(directory) = tls_directory.clone() {
            let renewal = Renewal {
                quic: builder.quic.zip(parts.endpoint.clone()),
                nats: nats_tls.filter(|_| shows_local(builder)),
                directory,
                limits: builder.server_limits.clone(),
            };
            parts.background.spawn(renewal.run(clock));
        }
    }
    listen_to_http(builder, parts).await?;
    let ready = Ready {
        quic: parts.quic,
        nats: parts.nats,
        websocket: parts.websocket,
        http: parts.http,
        pid: std::process::id(),
        // Clients in other folders look for these, and two servers are told apart by them. Both
        // directories exist by now.
        data: builder.data.as_deref().map(disk::absolute),
        ca: tls_directory
            .filter(|_| parts.authority_pem.is_some())
            .map(|tls| disk::absolute(&tls).join("ca.pem")),
        fingerprint: parts.fingerprint.map(|fingerprint| fingerprint.to_string()),
        durability: durability(builder),
    };
    if let Some(path) = &builder.context_file {
        parts.context_file = ContextFile::write(path, &ready);
    }
    if let Some(path) = &builder.ready_file {
        parts.ready_file = Some(ReadyFile::write(path, &ready)?);
    }
    parts.ready = ready;
    Ok(())
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { what, address, source })
}

/// The listeners that speak HTTP, if only to begin with.
async fn listen_to_http(builder: &ServerBuilder, parts: &mut Parts) -> Result<(), StartError> {
    if let Some(address) = builder.websocket {
        let listener = bind("WebSocket", address).await?;
        parts.websocket = listener.local_addr().ok();
        let hosts = Arc::new(Hosts::new(parts.websocket, &builder.http_hosts));
        let told = parts.nats.or(parts.websocket).unwrap_or(address);
        let tls = match &builder.websocket_tls {
            Some(options) => Some(Arc::new(Tls::new(options, None)?)),
            None => None,
        };
        let gate = nats::Gate::new(Arc::clone(&parts.shared), told, hosts, tls.as_deref());
        parts.tasks.spawn(nats::serve_websocket(listener, gate, tls));
    }
    if let Some(address) = builder.http {
        let listener = bind("HTTP", address).await?;
        parts.http = listener.local_addr().ok();
        let hosts = Arc::new(Hosts::new(parts.http, &builder.http_hosts));
        let addresses = Addresses {
            nats: parts.nats,
            websocket: parts.websocket,
            http: parts.http.unwrap_or(address),
            nats_tls: builder.nats_tls.is_some(),
            nats_verify: builder.nats_tls.as_ref().is_some_and(NatsTls::verifies),
            websocket_tls: builder.websocket_tls.is_some(),
        };
        let site = Site::new(Arc::clone(&parts.shared), addresses);
        parts.tasks.spawn(http::serve(listener, site, hosts));
    }
    Ok(())
}

/// Whether NATS clients are shown the server's own certificate.
fn shows_local(builder: &ServerBuilder) -> bool {
    builder.nats_tls.as_ref().is_some_and(|tls| tls.certificate == NatsCertificate::Local)
}

/// The server's own certificate, if a listener shows it.
fn identity(
    builder: &ServerBuilder,
    directory: Option<&Path>,
    clock: Clock,
) -> Result<Option<Identity>, StartError> {
    if builder.quic.is_none() && !shows_local(builder) {
        return Ok(None);
    }
    let now = clock.now().wall / 1_000_000_000;
    Ok(Some(match directory {
        Some(directory) => Identity::in_directory(directory, now)?.0,
        None => Identity::ephemeral(now)?,
    }))
}

/// Has the certificate made anew when it is due, and shows the new one to new connections.
struct Renewal {
    quic: Option<(SocketAddr, quinn::Endpoint)>,
    nats: Option<Arc<Tls>>,
    directory: PathBuf,
    limits: ServerLimits,
}

impl Renewal {
    async fn run(self, clock: Clock) {
        loop {
            tokio::time::sleep(CERTIFICATE_CHECK).await;
            let now = clock.now().wall / 1_000_000_000;
            let shown = match Identity::in_directory(&self.directory, now) {
                Ok((_, false)) => continue,
                Ok((identity, true)) => self.show(&identity),
                Err(error) => Err(error),
            };
            match shown {
                Ok(()) => tracing::info!("the server certificate was renewed"),
                Err(error) => tracing::error!(%error, "cannot renew the server certificate"),
            }
        }
    }

    fn show(&self, identity: &Identity) -> Result<(), TlsError> {
        if let Some((address, endpoint)) = &self.quic {
            let config = quic::server_config(*address, identity, &self.limits)?;
            endpoint.set_server_config(Some(config));
        }
        self.nats.as_ref().map_or(Ok(()), |tls| tls.renew(identity))
    }
}
