//! `claudebus serve`: run the server.

mod crash;
mod logging;
mod place;

use clap::Args;
use claudebus_storage::engine::ScrubOptions;

use super::allocator;
use super::args::ConfigSource;
use super::config::{environment, load};
use super::exit::{Exit, Failure};
use super::lame_duck::{Wish, send_away};
use super::output::Output;
use crate::client::{ApiError, Client, LocalServer, RequestError};
use crate::config::{ConfigFile, Durability, Resolved, ServerSettings, StreamPlan};
use crate::server::{
    NatsTls, RunningServer, Server, ServerBuilder, ServerFailure, StartError, Stopped,
};

/// Largest token file. A token is some dozen bytes; whatever is larger is another file.
const MAX_TOKEN_FILE: u64 = 64 << 10;

/// With fewer open files than this, segments are closed and opened again and again, and connections
/// find no room: 256 segments, and as many connections.
const FEW_FILES: usize = 512;

/// `claudebus serve`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "Every setting can also be given in the environment or in the file; a flag wins over the \
    environment, which wins over the file. `claudebus config show` tells what is in force.\n\n\
    CLAUDEBUS_CRASH_AT=<place>:<n> ends the process at the n-th passage of a place in storage, to test recovery."
)]
pub(super) struct Serve {
    /// Where settings come from.
    #[command(flatten)]
    source: ConfigSource,
}

/// Runs the server until it is told to stop.
pub(super) fn run(serve: &Serve, output: &mut Output) -> Result<(), Failure> {
    let is_exposed = allocator::set_up();
    let (file, resolved) = load(&serve.source)?;
    file.require("event_bus.streams")?;
    logging::start(&resolved.settings)?;
    let files = claudebus_storage::disk::raise_file_limit();
    if files < FEW_FILES {
        tracing::warn!(
            files,
            "few files may be open at a time; more is slow or fails. Raise it: ulimit -n {FEW_FILES}"
        );
    }
    let builder = describe(&resolved, &file)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        if is_exposed {
            allocator::outlive_broken_pipes()?;
        }
        serve_until_stopped(builder, &resolved.settings, &file, output).await
    });
    // Whatever still runs was cut off on purpose.
    runtime.shutdown_background();
    result
}

/// The server that the configuration describes.
pub(super) fn describe(resolved: &Resolved, file: &ConfigFile) -> Result<ServerBuilder, Failure> {
    let settings = &resolved.settings;
    let mut builder = Server::builder()
        .data_directory(settings.data_directory())
        .quic(settings.quic)
        .durability(match settings.durability {
            Durability::Sync => claudebus_storage::Durability::Sync,
            Durability::Interval(every) => claudebus_storage::Durability::Interval(every),
            Durability::Os => claudebus_storage::Durability::Os,
        })
        .limits(settings.limits.clone())
        .server_limits(settings.connections.clone())
        .tail_budget(usize::try_from(settings.tail_budget).unwrap_or(usize::MAX))
        .default_streams(StreamPlan::new(&file.sections.event_bus).provisional)
        .crash_points(crash::crash_points(environment(crash::CRASH_VARIABLE).as_deref())?);
    if settings.copies > 1 {
        builder = builder.two_copies(settings.copies_dir.clone());
    }
    let (interval, rate) = (settings.scrub_interval, settings.scrub_rate);
    builder = builder.scrub((!interval.is_zero() && rate > 0).then_some(ScrubOptions {
        interval,
        rate,
        ..ScrubOptions::default()
    }));
    if let Some(address) = settings.nats {
        builder = builder.nats(address);
    }
    if let Some(address) = settings.websocket {
        builder = builder.websocket(address);
    }
    let nats_tls = resolved.nats_tls()?;
    let is_certified = nats_tls.as_ref().is_some_and(NatsTls::names_users);
    if let Some(options) = nats_tls {
        builder = builder.nats_tls(options);
    }
    for user in file.users(is_certified)? {
        builder = builder.user(user);
    }
    if let Some(address) = settings.http {
        builder = builder.http(address);
    }
    for host in &settings.http_hosts {
        builder = builder.http_host(host);
    }
    if let Some(path) = LocalServer::path() {
        builder = builder.context_file(path);
    }
    if let Some(token) = &settings.auth_token {
        builder = builder.auth_token(&token.0);
    }
    if let Some(path) = &settings.auth_token_file {
        builder = builder.auth_token(read_token(path)?);
    }
    Ok(builder)
}

/// The first line of a token file.
fn read_token(path: &std::path::Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Config, format_args!("token file {}: {why}", path.display()))
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
    file.take(MAX_TOKEN_FILE).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    match text.lines().next().map(str::trim) {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(wrong(&"its first line is empty")
            .hint("write a long random token, for example: openssl rand -hex 32")),
    }
}

/// Starts the server, tells where it is, and waits until it stops or is told to.
async fn serve_until_stopped(
    builder: ServerBuilder,
    settings: &ServerSettings,
    file: &ConfigFile,
    output: &Output,
) -> Result<(), Failure> {
    // Listened for before anybody can know that there is something to stop.
    let mut stop = Signals::listen()?;
    let mut server = tokio::select! {
        server = builder.start() => server?,
        // Nothing was promised to anybody yet, so this end is as clean as any.
        _ = stop.next() => return Ok(()),
    };
    make_streams(&server, file).await?;
    banner(&server, settings, file, output);
    // Last, so that whoever waits for the file finds the streams and the banner too.
    if let Some(path) = &settings.ready_file {
        server.write_ready_file(path).map_err(StartError::from)?;
    }
    let wish = tokio::select! {
        result = server.wait() => return Ok(result?),
        wish = stop.next() => wish,
    };
    if wish == Wish::LameDuck {
        output.talk("sending NATS clients away, then stopping; SIGTERM stops now");
        let grace = settings.connections.lame_duck_grace_period;
        let leaving = send_away(&server, grace, || {});
        tokio::select! {
            result = server.wait() => return Ok(result?),
            () = leaving => {}
            () = stop.stop() => {}
        }
    }
    output.talk("stopping; a second signal stops at once");
    tokio::select! {
        result = server.shutdown() => {
            if result? == Stopped::Cut {
                output.talk("stopped without the last checkpoint; the next start replays the journal");
            }
            Ok(())
        }
        _ = stop.next() => Err(Failure::silent(Exit::Interrupted)),
    }
}

/// Makes the configured streams, or brings them to the configured form.
async fn make_streams(server: &RunningServer, file: &ConfigFile) -> Result<(), Failure> {
    let plan = StreamPlan::new(&file.sections.event_bus);
    if plan.configured.is_empty() {
        return Ok(());
    }
    let client = Client::builder().name("configuration").connect_over(server.connect()).await?;
    for config in plan.configured {
        let name = config.name.clone();
        let exists = |error: &RequestError| {
            error.api().is_some_and(|e| e.err_code == ApiError::stream_name_exists().err_code)
        };
        let result = match client.create_stream(config.clone()).await {
            Err(error) if exists(&error) => client.update_stream(config).await,
            result => result,
        };
        result.map_err(|error| {
            Failure::new(Exit::Config, format_args!("stream {name} of the configuration: {error}"))
                .hint("change the file, or the stream with `claudebus stream edit`")
        })?;
    }
    client.close().await;
    Ok(())
}

/// Tells people where the server is and what to try.
fn banner(server: &RunningServer, settings: &ServerSettings, file: &ConfigFile, output: &Output) {
    let data = settings.data_directory();
    output.talk(format_args!("claudebus {} is ready", env!("CARGO_PKG_VERSION")));
    if let Some(address) = server.quic_address() {
        output.talk(format_args!("  QUIC         quic://{address}"));
    }
    match server.nats_address() {
        Some(address) => {
            let tls = if settings.nats_tls.cert.is_some() { ", with TLS" } else { "" };
            output.talk(format_args!("  NATS         nats://{address}{tls}"));
        }
        None => output.talk("  NATS         off"),
    }
    if let Some(address) = server.websocket_address() {
        output.talk(format_args!("  WebSocket    ws://{address}"));
    }
    match server.http_address() {
        Some(address) => output.talk(format_args!("  HTTP         http://{address}")),
        None => output.talk("  HTTP         off"),
    }
    output.talk(format_args!("  Data         {}", data.display()));
    if settings.copies > 1 {
        let place = settings.copies_dir.clone().unwrap_or_else(|| data.join("copies"));
        output.talk(format_args!("  Copies       {}", place.display()));
    }
    let meaning = match settings.durability {
        Durability::Sync => "acknowledged means on the disk".to_owned(),
        Durability::Interval(every) => {
            format!("a power cut may lose what was acknowledged in the last {every:?}")
        }
        Durability::Os => "a power cut may lose what was acknowledged".to_owned(),
    };
    output.talk(format_args!("  Durability   {}: {meaning}", settings.durability));
    if let Some(fingerprint) = server.fingerprint() {
        output.talk(format_args!("  Fingerprint  {fingerprint}"));
    }
    if let Some(kind) = place::questionable(&data) {
        output.talk(format_args!("  Mind that the data directory is on {kind}"));
    }
    for note in without_effect(file) {
        output.talk(format_args!("  {note}"));
    }
    output.talk("\nIn another terminal:");
    if settings.auth_token.is_some() || settings.auth_token_file.is_some() {
        output.talk("  export CLAUDEBUS_TOKEN=...");
    }
    output.talk("  claudebus publish claude.task.started hello");
    output.talk("  claudebus subscribe --stream CLAUDE_EVENTS");
}

/// Sections that are switched on and that nothing in this version reads.
fn without_effect(file: &ConfigFile) -> Vec<String> {
    let sections = &file.sections;
    let note = |name: &str| {
        format!("The section {name} is checked and kept; this version does not act on it")
    };
    let mut notes = Vec::new();
    if sections.event_bus.connection.url.is_some() {
        notes.push(note("event_bus.connection"));
    }
    if sections.observability.tracing.enabled {
        notes.push(note("observability.tracing"));
    }
    if sections.chaos.enabled {
        notes.push(note("chaos"));
    }
    notes
}

/// Requests of the system or the user to stop.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    user_2: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.user_2.recv() => Wish::LameDuck,
        }
    }

    #[cfg(not(unix))]
    fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> Wish {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Wish::Stop
    }

    /// Waits until the server is to stop at once.
    async fn stop(&mut self) {
        while self.next().await != Wish::Stop {}
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match &error {
            StartError::Unprotected(_) => Self::new(Exit::Config, &error)
                .hint("write a token into a file and name it with --auth-token-file, or users into the configuration"),
            StartError::Bind { what: "QUIC", .. } => Self::new(Exit::Failed, &error)
                .hint("choose another port with --quic, or 0 for any free one"),
            StartError::Bind { what: "NATS", .. } => Self::new(Exit::Failed, &error)
                .hint("choose another port with --nats, or switch it off with --nats off"),
            StartError::Bind { what: "WebSocket", .. } => Self::new(Exit::Failed, &error)
                .hint("choose another port with --websocket, or 0 for any free one"),
            StartError::Bind { .. } => Self::new(Exit::Failed, &error)
                .hint("choose another port with --http, or switch it off with --http off"),
            _ => Self::new(Exit::Failed, &error),
        }
    }
}

impl From<ServerFailure> for Failure {
    fn from(error: ServerFailure) -> Self {
        match &error {
            ServerFailure::Log(_) => Self::new(Exit::JournalFailed, &error)
                .hint("look after the disk, then start again: nothing acknowledged is lost"),
            ServerFailure::Panic(_) => Self::new(Exit::Defect, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_first_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " s3cret \nmore\n").unwrap();
        assert_eq!(read_token(&path).unwrap(), "s3cret");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(read_token(&path).unwrap_err().exit, Exit::Config);
        assert!(read_token(&folder.path().join("none")).unwrap_err().message.contains("none"));
    }

    #[test]
    fn what_is_switched_on_without_effect_is_said() {
        let yaml = include_str!("../../../config/event-bus.yaml");
        let file = ConfigFile::parse(yaml, "f", &|_| None).unwrap();
        assert_eq!(without_effect(&file).len(), 2, "connection and tracing");
        assert!(without_effect(&ConfigFile::default()).is_empty());
    }
}
