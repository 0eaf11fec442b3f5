//! The settings of the server as one table, from which flags, environment variables, keys of the
//! file and `claudebus config show` follow.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::sections::Secret;
use super::settings::ServerSettings;
use super::text;

/// One row of [`SETTINGS`].
pub struct Setting {
    /// Key in the `server` section, dotted.
    pub key: &'static str,
    /// Name of the flag of `serve`, if it has one.
    pub flag: Option<&'static str>,
    /// What its value is, for help.
    pub value: &'static str,
    /// What it does, and why the default is what it is.
    pub help: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Reads it.
    pub set: fn(&mut ServerSettings, &str) -> Result<(), String>,
    /// Shows it, in a form that `set` reads; empty for none.
    pub show: fn(&ServerSettings) -> String,
}

impl Setting {
    /// The environment variable: `CLAUDEBUS_` and the key in capitals.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("CLAUDEBUS_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Whether it is `true` or `false`, so that its flag needs no value.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.value == "BOOL"
    }
}

/// A setting without a flag.
const fn quiet(
    key: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut ServerSettings, &str) -> Result<(), String>,
    show: fn(&ServerSettings) -> String,
) -> Setting {
    Setting { key, flag: None, value, help, secret: false, set, show }
}

/// A setting with a flag.
const fn flagged(
    key: &'static str,
    flag: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut ServerSettings, &str) -> Result<(), String>,
    show: fn(&ServerSettings) -> String,
) -> Setting {
    Setting { key, flag: Some(flag), value, help, secret: false, set, show }
}

/// A setting whose value is never shown.
const fn secret(mut setting: Setting) -> Setting {
    setting.secret = true;
    setting
}

/// An address, or `off` for none.
fn address_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "off" => Ok(None),
        _ => address(text).map(Some).map_err(|why| format!("{why}, or `off`")),
    }
}

fn show_address(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "off".to_owned(), |address| address.to_string())
}

/// Every setting of the server.
pub const SETTINGS: &[Setting] = &[
    flagged(
        "data",
        "data",
        "DIR",
        "Where everything is kept. The default is the platform's folder for data, so that a second \
         start finds what the first one stored",
        |s, text| path(text).map(|path| s.data = path),
        |s| s.data_directory().display().to_string(),
    ),
    flagged(
        "quic",
        "quic",
        "ADDRESS",
        "Address of the QUIC listener (UDP). Loopback unless a token is configured",
        |s, text| address(text).map(|address| s.quic = address),
        |s| s.quic.to_string(),
    ),
    flagged(
        "nats",
        "nats",
        "ADDRESS",
        "Address of the listener for NATS clients (TCP), or `off`. Loopback unless a token is configured",
        |s, text| address_or_off(text).map(|address| s.nats = address),
        |s| show_address(s.nats),
    ),
    quiet(
        "nats_tls.cert",
        "FILE",
        "Certificate of the listener for NATS clients, in PEM, or `local` for one that the server makes \
         itself, as for QUIC. Nothing means no TLS",
        |s, text| path(text).map(|path| s.nats_tls.cert = path),
        |s| show_path(s.nats_tls.cert.as_ref()),
    ),
    quiet(
        "nats_tls.key",
        "FILE",
        "Its key, in PEM",
        |s, text| path(text).map(|path| s.nats_tls.key = path),
        |s| show_path(s.nats_tls.key.as_ref()),
    ),
    quiet(
        "nats_tls.ca",
        "FILE",
        "Certificates of who has signed those of clients, in PEM",
        |s, text| path(text).map(|path| s.nats_tls.ca = path),
        |s| show_path(s.nats_tls.ca.as_ref()),
    ),
    quiet(
        "nats_tls.verify",
        "WHICH",
        "Whether NATS clients must have a certificate: `off`, `on`, or `map` if it names the user, by an \
         e-mail address or its common name",
        |s, text| text.parse().map(|verify| s.nats_tls.verify = verify),
        |s| s.nats_tls.verify.to_string(),
    ),
    quiet(
        "nats_tls.handshake",
        "WHEN",
        "When TLS begins: `after_info`, as most NATS clients expect, or `first`",
        |s, text| match text {
            "after_info" | "first" => {
                s.nats_tls.handshake_first = text == "first";
                Ok(())
            }
            _ => Err(format!("`{text}` is neither after_info nor first")),
        },
        |s| if s.nats_tls.handshake_first { "first" } else { "after_info" }.to_owned(),
    ),
    flagged(
        "websocket",
        "websocket",
        "ADDRESS",
        "Address of a listener for NATS clients over WebSocket alone, at every path, or `off`. They are \
         served by the HTTP listener too, at /nats. Loopback unless a token is configured",
        |s, text| address_or_off(text).map(|address| s.websocket = address),
        |s| show_address(s.websocket),
    ),
    flagged(
        "http",
        "http",
        "ADDRESS",
        "Address of the HTTP listener for health, metrics and NATS clients over WebSocket, or `off`",
        |s, text| address_or_off(text).map(|address| s.http = address),
        |s| show_address(s.http),
    ),
    quiet(
        "http_hosts",
        "NAMES",
        "Host names, with commas between, that HTTP requests may use beside loopback names, and whose web \
         pages may connect as NATS clients: a page must not reach the listener under a name of its own",
        |s, text| {
            s.http_hosts = text
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|n| !n.is_empty())
                .collect();
            Ok(())
        },
        |s| s.http_hosts.join(","),
    ),
    flagged(
        "durability",
        "durability",
        "WHEN",
        "When an acknowledgement may leave: `sync` (the message is on the disk), \
         `interval:<duration>` (the disk is asked so often; a power cut loses that much) or `os` \
         (whenever the system writes)",
        |s, text| text.parse().map(|durability| s.durability = durability),
        |s| s.durability.to_string(),
    ),
    flagged(
        "log",
        "log",
        "FILTER",
        "Which log events are shown: error, warn, info, debug, trace, or a filter by module such as \
         `info,claudebus::server=debug`",
        |s, text| {
            if text.trim().is_empty() {
                return Err("the filter is empty; write for example info".to_owned());
            }
            text.clone_into(&mut s.log);
            Ok(())
        },
        |s| s.log.clone(),
    ),
    flagged(
        "log_format",
        "log-format",
        "FORMAT",
        "`text` for people or `json` for programs",
        |s, text| match text {
            "text" | "json" => {
                s.log_json = text == "json";
                Ok(())
            }
            _ => Err(format!("`{text}` is no log format; write text or json")),
        },
        |s| if s.log_json { "json" } else { "text" }.to_owned(),
    ),
    flagged(
        "ready_file",
        "ready-file",
        "FILE",
        "Written, with the addresses as JSON, once the server can be connected to, and removed when it \
         stops. For scripts that start a server on port 0",
        |s, text| path(text).map(|path| s.ready_file = path),
        |s| show_path(s.ready_file.as_ref()),
    ),
    flagged(
        "tail_budget",
        "tail-budget",
        "SIZE",
        "Bytes kept in memory before they are written to segment files. Consumers that lag by less than \
         half of it never touch the disk; more makes files larger and recovery longer",
        |s, text| {
            within(text::size(text)?, 1 << 20, 64 << 30, text::show_size)
                .map(|size| s.tail_budget = size)
        },
        |s| text::show_size(s.tail_budget),
    ),
    flagged(
        "copies",
        "copies",
        "COUNT",
        "Copies of every file: 1, or 2, so that whatever is damaged or missing is made again from the other \
         one. Two write twice as much, to both directories at once",
        |s, text| within(text::count(text)?, 1, 2, |n| n.to_string()).map(|count| s.copies = count),
        |s| s.copies.to_string(),
    ),
    flagged(
        "copies_dir",
        "copies-dir",
        "DIR",
        "Where the second copies are kept, preferably on another disk; a folder below the data directory \
         if not given",
        |s, text| path(text).map(|path| s.copies_dir = path),
        |s| show_path(s.copies_dir.as_ref()),
    ),
    quiet(
        "scrub.interval",
        "DURATION",
        "How often all stored files are read again, so that damage is found before they are needed; \
         `off` for never. A week: rot is slow",
        |s, text| {
            s.scrub_interval = if text == "off" { Duration::ZERO } else { text::duration(text)? };
            Ok(())
        },
        |s| match s.scrub_interval {
            Duration::ZERO => "off".to_owned(),
            interval => text::show_duration(interval),
        },
    ),
    quiet(
        "scrub.rate",
        "SIZE",
        "How much of them is read in a second; `off` for nothing. No disk notices 4 MiB, and a week is \
         enough for 2 TiB",
        |s, text| {
            s.scrub_rate = if text == "off" { 0 } else { text::size(text)? };
            Ok(())
        },
        |s| match s.scrub_rate {
            0 => "off".to_owned(),
            rate => text::show_size(rate),
        },
    ),
    secret(flagged(
        "auth.token",
        "auth-token",
        "TOKEN",
        "What clients must present. Prefer the file or the environment: flags are visible to other \
         users of the machine",
        |s, text| {
            s.auth_token = if text.is_empty() { None } else { Some(Secret(text.to_owned())) };
            Ok(())
        },
        |s| s.auth_token.as_ref().map(|token| token.0.clone()).unwrap_or_default(),
    )),
    flagged(
        "auth.token_file",
        "auth-token-file",
        "FILE",
        "A file whose first line is what clients must present",
        |s, text| path(text).map(|path| s.auth_token_file = path),
        |s| show_path(s.auth_token_file.as_ref()),
    ),
    flagged(
        "allow_chaos",
        "allow-chaos",
        "BOOL",
        "Whether experiments of the chaos section may run. Off, so that a file copied from a test \
         harms nobody",
        |s, text| text::boolean(text).map(|allow| s.allow_chaos = allow),
        |s| s.allow_chaos.to_string(),
    ),
    flagged(
        "stop_timeout",
        "stop-timeout",
        "DURATION",
        "How long a clean stop may take before it skips the last checkpoint, which is safe but makes \
         the next start slower",
        |s, text| text::duration(text).map(|time| s.connections.stop_timeout = time),
        |s| text::show_duration(s.connections.stop_timeout),
    ),
    quiet(
        "limits.max_payload",
        "SIZE",
        "Largest message, headers included. NATS's default; larger bodies belong in an object store",
        |s, text| {
            within(text::memory_size(text)?, 1, 64 << 20, show_memory)
                .map(|size| s.limits.max_payload = size)
        },
        |s| show_memory(s.limits.max_payload),
    ),
    quiet(
        "limits.max_headers",
        "SIZE",
        "Largest header block, as JetStream's",
        |s, text| {
            within(text::memory_size(text)?, 1, 64 << 10, show_memory)
                .map(|size| s.limits.max_headers = size)
        },
        |s| show_memory(s.limits.max_headers),
    ),
    quiet(
        "limits.max_batch_messages",
        "COUNT",
        "Messages in one published batch: enough to fill a write, small enough to be fair to others",
        |s, text| text::count(text).map(|count| s.limits.max_batch_messages = count),
        |s| s.limits.max_batch_messages.to_string(),
    ),
    quiet(
        "limits.max_streams",
        "COUNT",
        "Streams; each costs some kilobytes of memory",
        |s, text| text::count(text).map(|count| s.limits.max_streams = count),
        |s| s.limits.max_streams.to_string(),
    ),
    quiet(
        "limits.max_consumers",
        "COUNT",
        "Consumers of one stream, for the same reason",
        |s, text| text::count(text).map(|count| s.limits.max_consumers = count),
        |s| s.limits.max_consumers.to_string(),
    ),
    quiet(
        "limits.max_subscriptions",
        "COUNT",
        "Core subscriptions of one session",
        |s, text| text::count(text).map(|count| s.limits.max_subscriptions = count),
        |s| s.limits.max_subscriptions.to_string(),
    ),
    quiet(
        "limits.max_pending_bytes",
        "SIZE",
        "Bytes waiting for one session before it is closed as too slow, as NATS's",
        |s, text| {
            within(text::memory_size(text)?, 1 << 20, 1 << 40, show_memory)
                .map(|size| s.limits.max_pending_bytes = size)
        },
        |s| show_memory(s.limits.max_pending_bytes),
    ),
    quiet(
        "limits.max_session_deliveries",
        "SIZE",
        "Bytes of deliveries handed to one session that it has not sent yet; more adds memory, not \
         speed",
        |s, text| {
            within(text::memory_size(text)?, 1, 1 << 40, show_memory)
                .map(|size| s.limits.max_session_deliveries = size)
        },
        |s| show_memory(s.limits.max_session_deliveries),
    ),
    quiet(
        "limits.max_pull_expires",
        "DURATION",
        "Longest wait of a pull; bounds how long a forgotten one is kept",
        |s, text| text::positive_duration(text).map(|time| s.limits.max_pull_expires = time),
        |s| text::show_duration(s.limits.max_pull_expires),
    ),
    quiet(
        "limits.max_duplicate_window",
        "DURATION",
        "Longest time for which a stream may remember message ids, which live in memory",
        |s, text| text::positive_duration(text).map(|time| s.limits.max_duplicate_window = time),
        |s| text::show_duration(s.limits.max_duplicate_window),
    ),
    quiet(
        "limits.max_atomic_messages",
        "COUNT",
        "Messages of one atomic batch, as JetStream; all are checked before one is stored",
        |s, text| text::count(text).map(|count| s.limits.max_atomic_messages = count),
        |s| s.limits.max_atomic_messages.to_string(),
    ),
    quiet(
        "limits.max_schedules",
        "COUNT",
        "Schedules of one stream: each costs about a kilobyte of memory",
        |s, text| text::count(text).map(|count| s.limits.max_schedules = count),
        |s| s.limits.max_schedules.to_string(),
    ),
    quiet(
        "limits.max_producer_ranges",
        "COUNT",
        "Ranges of counters remembered for each producer: more than a client can have in flight",
        |s, text| text::count(text).map(|count| s.limits.max_producer_ranges = count),
        |s| s.limits.max_producer_ranges.to_string(),
    ),
    quiet(
        "limits.max_producers",
        "COUNT",
        "Producers remembered; past that the longest unused is forgotten",
        |s, text| text::count(text).map(|count| s.limits.max_producers = count),
        |s| s.limits.max_producers.to_string(),
    ),
    quiet(
        "connections.max",
        "COUNT",
        "Connections at once; with the windows below, the bound on memory for the network",
        |s, text| text::count(text).map(|count| s.connections.max_connections = count),
        |s| s.connections.max_connections.to_string(),
    ),
    quiet(
        "connections.max_nats",
        "COUNT",
        "Connections of NATS clients at once. 1,024 of the files that the process may open, or half of \
         fewer, are left to everything else",
        |s, text| text::count(text).map(|count| s.connections.max_nats_connections = count),
        |s| s.connections.max_nats_connections.to_string(),
    ),
    quiet(
        "connections.nats_ping",
        "DURATION",
        "How often a NATS client that is silent is asked for a sign of life; the third question in a row \
         without an answer ends the connection",
        |s, text| text::positive_duration(text).map(|every| s.connections.ping_interval = every),
        |s| text::show_duration(s.connections.ping_interval),
    ),
    quiet(
        "connections.nats_login",
        "DURATION",
        "Time for a NATS client to say who it is, where it must",
        |s, text| text::positive_duration(text).map(|time| s.connections.login_timeout = time),
        |s| text::show_duration(s.connections.login_timeout),
    ),
    quiet(
        "connections.nats_write",
        "DURATION",
        "How long a NATS client may take nothing of what is sent to it before it is closed",
        |s, text| text::positive_duration(text).map(|time| s.connections.write_timeout = time),
        |s| text::show_duration(s.connections.write_timeout),
    ),
    quiet(
        "connections.max_streams",
        "COUNT",
        "QUIC streams of one connection: one for each publisher and consumer of a program",
        |s, text| {
            within(text::count(text)?, 1, 1 << 16, |n| n.to_string())
                .map(|count| s.connections.max_streams = count as u32)
        },
        |s| s.connections.max_streams.to_string(),
    ),
    quiet(
        "connections.stream_window",
        "SIZE",
        "Unread bytes of one stream: more than rate times round trip at full speed",
        |s, text| {
            within(text::size(text)?, 64 << 10, 1 << 30, text::show_size)
                .map(|size| s.connections.stream_window = size as u32)
        },
        |s| text::show_size(s.connections.stream_window.into()),
    ),
    quiet(
        "connections.connection_window",
        "SIZE",
        "Unread bytes of one connection; several streams' worth, so that those that are held back \
         leave room for acknowledgements",
        |s, text| {
            within(text::size(text)?, 64 << 10, 1 << 30, text::show_size)
                .map(|size| s.connections.connection_window = size as u32)
        },
        |s| text::show_size(s.connections.connection_window.into()),
    ),
    quiet(
        "connections.send_window",
        "SIZE",
        "Bytes of one connection that were sent and not acknowledged by the other side",
        |s, text| {
            within(text::size(text)?, 64 << 10, 1 << 30, text::show_size)
                .map(|size| s.connections.send_window = size)
        },
        |s| text::show_size(s.connections.send_window),
    ),
    quiet(
        "connections.idle_timeout",
        "DURATION",
        "Silence after which a connection is over; clients give signs of life",
        |s, text| text::positive_duration(text).map(|time| s.connections.idle_timeout = time),
        |s| text::show_duration(s.connections.idle_timeout),
    ),
    quiet(
        "connections.hello_timeout",
        "DURATION",
        "Time for a client to say hello; one that cannot holds memory for nothing",
        |s, text| text::positive_duration(text).map(|time| s.connections.hello_timeout = time),
        |s| text::show_duration(s.connections.hello_timeout),
    ),
    quiet(
        "connections.max_handshakes",
        "COUNT",
        "Handshakes at once; more are refused",
        |s, text| text::count(text).map(|count| s.connections.max_handshakes = count),
        |s| s.connections.max_handshakes.to_string(),
    ),
    quiet(
        "connections.retry_above",
        "COUNT",
        "Handshakes at once from which addresses are verified first: normal load never gets there, a \
         flood of forged addresses does",
        |s, text| text::count(text).map(|count| s.connections.retry_above = count),
        |s| s.connections.retry_above.to_string(),
    ),
    quiet(
        "connections.input_queue",
        "COUNT",
        "Batches of requests that wait for the broker: enough to fill a write of the journal",
        |s, text| text::count(text).map(|count| s.connections.input_queue = count),
        |s| s.connections.input_queue.to_string(),
    ),
    quiet(
        "connections.max_unsent",
        "SIZE",
        "Bytes waiting for one stream's client before its frames are no longer read",
        |s, text| {
            within(text::memory_size(text)?, 64 << 10, 1 << 40, show_memory)
                .map(|size| s.connections.max_unsent = size)
        },
        |s| show_memory(s.connections.max_unsent),
    ),
];

/// An address, with `localhost` for 127.0.0.1.
fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        format!("`{text}` is not an address; write address:port, for example 127.0.0.1:4222")
    })
}

/// A path; nothing for the default.
fn path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.contains('\0') {
        return Err("a path cannot hold a zero byte".to_owned());
    }
    Ok(if text.is_empty() { None } else { Some(PathBuf::from(text)) })
}

fn show_path(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn show_memory(size: usize) -> String {
    text::show_size(size as u64)
}

/// A number between two bounds.
fn within<N: PartialOrd + Copy>(
    found: N,
    least: N,
    most: N,
    show: fn(N) -> String,
) -> Result<N, String> {
    if found < least || found > most {
        let (found, least, most) = (show(found), show(least), show(most));
        return Err(format!("`{found}` is out of range; the least is {least}, the most is {most}"));
    }
    Ok(found)
}
