//! A server as the options describe it, from its first line in the log to its last.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use super::failed;
use super::files::{Listener, PortsFile, write_pid};
use super::log::Log;
use crate::cli::allocator;
use crate::cli::exit::Failure;
use crate::cli::lame_duck::{Wish, send_away};
use crate::config::nats_conf::{NatsOptions, Port, WebSocketOptions};
use crate::model::answer::NATS_VERSION;
use crate::model::limits::Limits;
use crate::server::{RunningServer, Server, ServerBuilder, ServerLimits, Stopped};

/// Below the store directory: where nats-server keeps streams, too.
const DATA: &str = "jetstream";

/// The server that the options describe.
pub(super) fn describe(options: &NatsOptions) -> Result<ServerBuilder, Failure> {
    let host = host(options)?;
    let server_limits = server_limits(options);
    check_lame_duck(&server_limits)?;
    let mut builder = Server::builder()
        .in_memory()
        .nats(SocketAddr::new(host, options.port.number()))
        .limits(limits(options))
        .server_limits(server_limits);
    if let Some(directory) = data_directory(options) {
        builder = builder.data_directory(directory);
    }
    // 0 switches it off, as in nats-server.
    if let Some(port) = options.http_port.filter(|port| *port != Port::Number(0)) {
        let host = options.http_host.as_deref().map_or(Ok(host), resolve)?;
        builder = builder.http(SocketAddr::new(host, port.number()));
    }
    if let Some(name) = &options.server_name {
        builder = builder.name(name);
    }
    if let Some(domain) = &options.domain {
        builder = builder.domain(domain);
    }
    builder = admit(builder, options)?;
    if let Some(tls) = &options.tls {
        builder = builder.nats_tls(tls.nats_tls().map_err(failed)?);
    }
    if let Some(websocket) = &options.websocket {
        builder = listen_for_websocket(builder, websocket, host)?;
    }
    builder.check().map_err(failed)?;
    Ok(builder)
}

/// Who is let in.
fn admit(mut builder: ServerBuilder, options: &NatsOptions) -> Result<ServerBuilder, Failure> {
    if let Some(token) = &options.token {
        builder = builder.auth_token(&token.0);
    }
    for user in options.logins().map_err(failed)? {
        builder = builder.user(user);
    }
    if let Some(nobody) = &options.no_auth_user {
        builder = builder.no_auth_user(nobody);
    }
    Ok(builder)
}

/// The listener for WebSocket.
fn listen_for_websocket(
    mut builder: ServerBuilder,
    options: &WebSocketOptions,
    host: IpAddr,
) -> Result<ServerBuilder, Failure> {
    let host = options.host.as_deref().map_or(Ok(host), resolve)?;
    let port = options.port.map_or(0, Port::number);
    builder = builder.websocket(SocketAddr::new(host, port));
    if let Some(tls) = &options.tls {
        builder = builder.websocket_tls(tls.nats_tls().map_err(failed)?);
    }
    for origin in &options.origins {
        builder = builder.http_host(origin);
    }
    Ok(builder)
}

/// Where streams are kept; nowhere without JetStream.
fn data_directory(options: &NatsOptions) -> Option<PathBuf> {
    let store = || options.store_dir.clone().unwrap_or_else(|| std::env::temp_dir().join("nats"));
    options.jetstream.then(|| store().join(DATA))
}

fn limits(options: &NatsOptions) -> Limits {
    let default = Limits::default();
    Limits {
        max_payload: options.max_payload.unwrap_or(default.max_payload),
        max_subscriptions: options.max_subscriptions.unwrap_or(default.max_subscriptions),
        max_pending_bytes: options.max_pending.unwrap_or(default.max_pending_bytes),
        max_request_batch: options.max_request_batch.unwrap_or(default.max_request_batch),
        ..default
    }
}

fn server_limits(options: &NatsOptions) -> ServerLimits {
    let default = ServerLimits::default();
    ServerLimits {
        max_nats_connections: options.max_connections.unwrap_or(default.max_nats_connections),
        ping_interval: options.ping_interval.unwrap_or(default.ping_interval),
        write_timeout: options.write_deadline.unwrap_or(default.write_timeout),
        login_timeout: options.auth_timeout.unwrap_or(default.login_timeout),
        lame_duck_duration: options.lame_duck_duration.unwrap_or(default.lame_duck_duration),
        lame_duck_grace_period: options
            .lame_duck_grace_period
            .unwrap_or(default.lame_duck_grace_period),
        ..default
    }
}

/// Whether clients have time to leave between the grace period and the end.
fn check_lame_duck(limits: &ServerLimits) -> Result<(), Failure> {
    let ServerLimits { lame_duck_duration: duration, lame_duck_grace_period: grace, .. } = limits;
    if grace < duration {
        return Ok(());
    }
    Err(failed(format_args!(
        "lame duck grace period ({grace:?}) should be strictly lower than lame duck duration ({duration:?})"
    )))
}

/// Where clients connect to. nats-server takes all interfaces if nobody says; where everyone is let in that
/// would be a server for everyone.
fn host(options: &NatsOptions) -> Result<IpAddr, Failure> {
    match &options.host {
        Some(host) => resolve(host),
        None if !is_open(options) => Ok(Ipv4Addr::UNSPECIFIED.into()),
        None => Ok(Ipv4Addr::LOCALHOST.into()),
    }
}

/// Whether clients need not say who they are.
fn is_open(options: &NatsOptions) -> bool {
    let someone = options.token.is_some() || options.user.is_some() || !options.users.is_empty();
    !someone || options.no_auth_user.is_some()
}

/// The address of a host, of IP version 4 if it has one.
fn resolve(host: &str) -> Result<IpAddr, Failure> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let wrong = |why: &dyn std::fmt::Display| failed(format_args!("host `{host}`: {why}"));
    let found: Vec<_> = (bare, 0).to_socket_addrs().map_err(|error| wrong(&error))?.collect();
    let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
    best.map(SocketAddr::ip).ok_or_else(|| wrong(&"it has no address"))
}

/// Serves until a signal or a failure. `is_exposed` is what [`allocator::set_up`] returned.
pub(super) fn serve(
    builder: ServerBuilder,
    options: &NatsOptions,
    config: Option<&Path>,
    is_exposed: bool,
) -> Result<(), Failure> {
    let log = Log::start(options)?;
    claudebus_storage::disk::raise_file_limit();
    begin(&log, options, config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        if is_exposed {
            allocator::outlive_broken_pipes()?;
        }
        serve_until_stopped(builder, options, &log).await
    });
    // Whatever still runs was cut off on purpose.
    runtime.shutdown_background();
    result.map_err(|failure| {
        // The log has it already, where everything else is.
        if !failure.message.is_empty() {
            log.fatal(&failure.message);
        }
        Failure::silent(failure.exit)
    })
}

/// The first lines of the log, and the process id.
fn begin(log: &Log, options: &NatsOptions, config: Option<&Path>) {
    log.info("Starting nats-server");
    log.info(format_args!("  Version:  {NATS_VERSION}"));
    if let Some(path) = config {
        log.info(format_args!("Using configuration file: {}", path.display()));
    }
    for warning in &options.warnings {
        log.warn(warning);
    }
    if options.host.is_none() && is_open(options) {
        log.warn(
            "Listening on 127.0.0.1 only, since everyone is let in; give a token (--auth) or a user (--user and --pass) to listen on all interfaces",
        );
    }
    if let Some(path) = &options.pid_file
        && let Err(error) = write_pid(path)
    {
        log.error(format_args!("Could not write pidfile: {}: {error}", path.display()));
    }
}

async fn serve_until_stopped(
    builder: ServerBuilder,
    options: &NatsOptions,
    log: &Log,
) -> Result<(), Failure> {
    // Listened for before anybody can know that there is something to stop.
    let mut signals = Signals::listen()?;
    let limits = server_limits(options);
    let mut server = tokio::select! {
        server = builder.start() => server?,
        // Nothing was promised to anybody yet, so this end is as clean as any.
        _ = signals.next(log) => return Ok(()),
    };
    let _ports = ports_file(&server, options, log);
    announce(&server, options, log);
    let wish = tokio::select! {
        result = server.wait() => return Ok(result?),
        wish = signals.next(log) => wish,
    };
    if wish == Wish::LameDuck {
        log.info("Entering lame duck mode, stop accepting new clients");
        let say = || log.info("Closing existing clients");
        let leaving = send_away(&server, limits.lame_duck_grace_period, say);
        tokio::select! {
            result = server.wait() => return Ok(result?),
            () = leaving => {}
            () = signals.stop(log) => {}
        }
    }
    log.info("Initiating Shutdown...");
    tokio::select! {
        result = server.shutdown() => {
            if result? == Stopped::Cut {
                log.warn("Stopped without the last checkpoint; the next start replays the journal");
            }
        }
        _ = signals.next(log) => log.warn("Stopped at once; the next start replays the journal"),
    }
    log.info("Server Exiting..");
    Ok(())
}

fn ports_file(server: &RunningServer, options: &NatsOptions, log: &Log) -> Option<PortsFile> {
    let folder = options.ports_file_dir.as_ref()?;
    let written = PortsFile::write(folder, &listeners(server, options));
    written
        .inspect_err(|error| {
            log.error(format_args!("Error writing ports file to {}: {error}", folder.display()));
        })
        .ok()
}

fn listeners(server: &RunningServer, options: &NatsOptions) -> Vec<Listener> {
    let nats = if options.tls.is_some() { "tls" } else { "nats" };
    [
        ("nats", nats, server.nats_address()),
        ("monitoring", "http", server.http_address()),
        ("websocket", websocket_scheme(options), server.websocket_address()),
    ]
    .into_iter()
    .filter_map(|(name, scheme, address)| Some(Listener { name, scheme, address: address? }))
    .collect()
}

fn websocket_scheme(options: &NatsOptions) -> &'static str {
    let is_secured = options.websocket.as_ref().is_some_and(|websocket| websocket.tls.is_some());
    if is_secured { "wss" } else { "ws" }
}

/// The lines that those who start a server wait for.
fn announce(server: &RunningServer, options: &NatsOptions, log: &Log) {
    log.info(format_args!("  Name:     {}", server.name()));
    log.info(format_args!("  ID:       {}", server.id()));
    if let Some(address) = server.http_address() {
        log.info(format_args!("Starting http monitor on {address}"));
    }
    match data_directory(options) {
        Some(directory) => {
            log.info("Starting JetStream");
            log.info(format_args!("  Store Directory: \"{}\"", directory.display()));
            if let Some(domain) = &options.domain {
                log.info(format_args!("  Domain:          {domain}"));
            }
            if has_foreign_streams(&directory) {
                log.warn(format_args!(
                    "{} holds streams of another nats-server, which are neither read nor changed",
                    directory.display()
                ));
            }
        }
        None => log.info("Streams are kept in memory; -js keeps them on the disk"),
    }
    if let Some(address) = server.websocket_address() {
        let scheme = websocket_scheme(options);
        log.info(format_args!("Listening for websocket clients on {scheme}://{address}"));
    }
    if let Some(address) = server.nats_address() {
        log.info(format_args!("Listening for client connections on {address}"));
        if options.tls.is_some() {
            log.info("TLS required for client connections");
        }
    }
    log.info("Server is ready");
}

/// Whether nats-server has kept streams of its usual account there.
fn has_foreign_streams(directory: &Path) -> bool {
    directory.join("$G").join("streams").is_dir()
}

/// What the system or the user asks of the server.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    user_1: tokio::signal::unix::Signal,
    user_2: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits until the server is to stop, and does meanwhile what else is asked.
    async fn next(&mut self, log: &Log) -> Wish {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {
                    log.info("Trapped \"interrupt\" signal");
                    return Wish::Stop;
                }
                _ = self.terminate.recv() => {
                    log.info("Trapped \"terminated\" signal");
                    return Wish::Stop;
                }
                _ = self.user_2.recv() => {
                    log.info("Trapped \"user defined signal 2\" signal");
                    return Wish::LameDuck;
                }
                _ = self.hangup.recv() => {
                    log.info("Trapped \"hangup\" signal");
                    log.error("Failed to reload server configuration: it is read at the start only; restart the server");
                }
                _ = self.user_1.recv() => {
                    log.info("Trapped \"user defined signal 1\" signal");
                    reopen(log);
                }
            }
        }
    }
}

#[cfg(unix)]
fn reopen(log: &Log) {
    match log.reopen() {
        Ok(true) => log.info("File log re-opened"),
        Ok(false) => log.info("File log re-open ignored, not a file logger"),
        Err(error) => log.error(format_args!("Could not open the log again: {error}")),
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self, log: &Log) -> Wish {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        log.info("Trapped \"interrupt\" signal");
        Wish::Stop
    }
}

impl Signals {
    /// Waits until the server is to stop at once.
    async fn stop(&mut self, log: &Log) {
        while self.next(log).await != Wish::Stop {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sections::Secret;

    #[test]
    fn nobody_else_reaches_a_server_without_a_token() {
        let none = NatsOptions::default();
        assert_eq!(host(&none).unwrap(), Ipv4Addr::LOCALHOST);
        let with_token = NatsOptions { token: Some(Secret("s".into())), ..NatsOptions::default() };
        assert_eq!(host(&with_token).unwrap(), Ipv4Addr::UNSPECIFIED);
        let open = NatsOptions { host: Some("0.0.0.0".into()), ..NatsOptions::default() };
        let why = describe(&open).unwrap_err().message;
        assert!(why.contains("token"), "{why}");
        describe(&NatsOptions { host: open.host, ..with_token }).unwrap();
    }

    #[test]
    fn streams_are_where_nats_server_keeps_them() {
        let on = NatsOptions { jetstream: true, ..NatsOptions::default() };
        assert_eq!(data_directory(&on), Some(std::env::temp_dir().join("nats/jetstream")));
        let there = NatsOptions { store_dir: Some("/d".into()), ..on };
        assert_eq!(data_directory(&there), Some("/d/jetstream".into()));
        assert_eq!(data_directory(&NatsOptions { jetstream: false, ..there }), None);
    }

    #[test]
    fn hosts_have_addresses() {
        assert_eq!(resolve("localhost").unwrap(), Ipv4Addr::LOCALHOST);
        assert_eq!(resolve("[::1]").unwrap().to_string(), "::1");
        assert!(resolve("no host").unwrap_err().message.contains("`no host`"));
    }
}
