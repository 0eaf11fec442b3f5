//! From the tree to options: one row for each key that is known.

use std::time::Duration;

use super::error::NatsConfError;
use super::keys::{IGNORED, IGNORED_JETSTREAM, REFUSED, REFUSED_JETSTREAM, REFUSED_LIMITS};
use super::options::{NatsOptions, without_effect};
use super::tree::{Entry, Kind};
use super::{login, secure, websocket};

/// Longest line without a payload, in bytes: fixed, as nats-server's default.
const CONTROL_LINE: i64 = 4096;

/// Signs of life that may stay unanswered: fixed, as nats-server's default.
const PINGS: i64 = 2;

/// Least room for what waits for one connection: as much as is delivered to one at a time.
const LEAST_PENDING: i64 = 1 << 20;

/// Largest message that can be allowed. 64 MiB, as nats-server.
const MOST_PAYLOAD: i64 = 64 << 20;

/// Most connections or subscriptions that can be allowed: more than memory holds.
const MOST: i64 = u32::MAX as i64;

/// Least time from SIGUSR2 to the end. 30 s, as nats-server: clients are to have time to go elsewhere.
const LEAST_LAME_DUCK: Duration = Duration::from_secs(30);

/// What one row does with an entry of its key.
pub(super) type Take<T> = fn(&mut T, &Entry) -> Result<(), NatsConfError>;

/// The keys of one map, and what they change in a `T`.
pub(super) struct Table<T: 'static> {
    /// The key of the map; empty at the top.
    pub(super) within: &'static str,
    /// Keys that are known.
    pub(super) rows: &'static [(&'static str, Take<T>)],
    /// Keys that have no effect, and why.
    pub(super) ignored: &'static [(&'static str, &'static str)],
    /// Keys that ask for what is not here, and what to do instead.
    pub(super) refused: &'static [(&'static str, &'static str)],
}

const TOP: Table<NatsOptions> =
    Table { within: "", rows: TOP_ROWS, ignored: IGNORED, refused: REFUSED };

const TOP_ROWS: &[(&str, Take<NatsOptions>)] = &[
    ("listen", |o, e| {
        let (host, port) = e.listen()?;
        o.port = port;
        // A port alone leaves the host as it is.
        o.host = host.or(o.host.take());
        Ok(())
    }),
    ("port", |o, e| e.port().map(|port| o.port = port)),
    ("host", host),
    ("net", host),
    ("addr", host),
    ("http", http),
    ("http_port", |o, e| e.port().map(|port| o.http_port = Some(port))),
    ("monitor_port", |o, e| e.port().map(|port| o.http_port = Some(port))),
    ("server_name", server_name),
    ("max_payload", |o, e| e.within(1, MOST_PAYLOAD).map(|size| o.max_payload = Some(size))),
    ("max_connections", max_connections),
    ("max_conn", max_connections),
    ("max_subscriptions", max_subscriptions),
    ("max_subs", max_subscriptions),
    ("max_pending", |o, e| e.within(LEAST_PENDING, 1 << 40).map(|size| o.max_pending = Some(size))),
    ("max_pending_size", |o, e| {
        e.within(LEAST_PENDING, 1 << 40).map(|size| o.max_pending = Some(size))
    }),
    ("max_control_line", |_, e| fixed(e, CONTROL_LINE)),
    ("ping_interval", |o, e| e.positive_duration().map(|time| o.ping_interval = Some(time))),
    ("ping_max", |_, e| fixed(e, PINGS)),
    ("write_deadline", |o, e| e.positive_duration().map(|time| o.write_deadline = Some(time))),
    ("lame_duck_duration", lame_duck_duration),
    ("lame_duck", lame_duck_duration),
    ("lame_duck_grace_period", |o, e| {
        e.duration().map(|time| o.lame_duck_grace_period = Some(time))
    }),
    ("jetstream", jetstream),
    ("store_dir", store_dir),
    ("storedir", store_dir),
    ("authorization", login::authorization),
    ("accounts", login::accounts),
    ("no_auth_user", |o, e| e.string().map(|name| o.no_auth_user = Some(name))),
    ("tls", |o, e| secure::tls(e, &mut o.warnings).map(|tls| o.tls = tls)),
    ("websocket", websocket::websocket),
    ("ws", websocket::websocket),
    ("debug", |o, e| e.boolean().map(|on| o.debug = on)),
    ("trace", |o, e| e.boolean().map(|on| o.trace = on)),
    ("trace_verbose", |o, e| e.boolean().map(|on| o.trace |= on)),
    ("logtime", |o, e| e.boolean().map(|on| o.logtime = on)),
    ("logtime_utc", |o, e| e.boolean().map(|on| o.logtime_utc = on)),
    ("log_file", log_file),
    ("logfile", log_file),
    ("pid_file", |o, e| e.path().map(|path| o.pid_file = Some(path))),
    ("pidfile", |o, e| e.path().map(|path| o.pid_file = Some(path))),
    ("ports_file_dir", |o, e| e.path().map(|path| o.ports_file_dir = Some(path))),
];

const JETSTREAM: Table<NatsOptions> = Table {
    within: "jetstream",
    rows: &[
        ("store_dir", store_dir),
        ("storedir", store_dir),
        ("domain", domain),
        ("enabled", |o, e| e.boolean().map(|on| o.jetstream = on)),
        ("enable", |o, e| e.boolean().map(|on| o.jetstream = on)),
        ("limits", |o, e| apply(&JETSTREAM_LIMITS, e.map()?, o)),
    ],
    ignored: IGNORED_JETSTREAM,
    refused: REFUSED_JETSTREAM,
};

const JETSTREAM_LIMITS: Table<NatsOptions> = Table {
    within: "limits",
    rows: &[("max_request_batch", |o, e| {
        let most = u64::try_from(e.number()?).map_err(|_| e.invalid("it cannot be negative"))?;
        o.max_request_batch = Some(most).filter(|most| *most > 0);
        Ok(())
    })],
    ignored: &[],
    refused: REFUSED_LIMITS,
};

/// The options that a file's entries are. Where a key comes twice, the last one counts.
pub(super) fn options(entries: &[Entry]) -> Result<NatsOptions, NatsConfError> {
    let mut options = NatsOptions::default();
    apply(&TOP, entries, &mut options)?;
    Ok(options)
}

/// Changes the options as the entries of one of their maps say.
pub(super) fn apply(
    table: &Table<NatsOptions>,
    entries: &[Entry],
    into: &mut NatsOptions,
) -> Result<(), NatsConfError> {
    let mut warnings = Vec::new();
    take(table, entries, into, &mut warnings)?;
    into.warnings.append(&mut warnings);
    Ok(())
}

/// Changes `into` as the entries say, and adds to the warnings what has no effect.
pub(super) fn take<T>(
    table: &Table<T>,
    entries: &[Entry],
    into: &mut T,
    warnings: &mut Vec<String>,
) -> Result<(), NatsConfError> {
    for entry in entries {
        let key = entry.key.to_ascii_lowercase();
        if let Some((_, take)) = table.rows.iter().find(|(known, _)| *known == key) {
            take(into, entry)?;
        } else if let Some((_, why)) = table.ignored.iter().find(|(known, _)| *known == key) {
            warnings.push(without_effect(format_args!("{}: `{}`", entry.place, entry.key), why));
        } else if let Some((_, instead)) = table.refused.iter().find(|(known, _)| *known == key) {
            // An empty list or an explicit `false` asks for nothing.
            if !asks_for_nothing(entry) {
                return Err(entry.unsupported(instead));
            }
        } else if !entry.is_used {
            return Err(NatsConfError::Unknown {
                place: entry.place.clone(),
                key: entry.key.clone(),
                within: table.within,
                known: table.rows.iter().map(|(known, _)| *known).collect(),
            });
        }
    }
    Ok(())
}

/// Whether the value switches off what its key stands for.
pub(super) fn asks_for_nothing(entry: &Entry) -> bool {
    match &entry.value.kind {
        Kind::List(list) => list.is_empty(),
        Kind::Map(entries) => entries.is_empty(),
        Kind::Word(_) => matches!(entry.boolean(), Ok(false)),
        Kind::Text(text) => text.is_empty(),
    }
}

fn host(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    options.host = Some(entry.string()?).filter(|host| !host.is_empty());
    Ok(())
}

fn http(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    let (host, port) = entry.listen()?;
    options.http_host = host;
    options.http_port = Some(port);
    Ok(())
}

fn server_name(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    let name = entry.string()?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(entry.invalid("a server's name has at least one character and no spaces"));
    }
    options.server_name = Some(name);
    Ok(())
}

fn lame_duck_duration(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    let time = entry.duration()?;
    if time < LEAST_LAME_DUCK {
        return Err(entry.invalid(format!("{time:?} is too short; the minimum is 30 seconds")));
    }
    options.lame_duck_duration = Some(time);
    Ok(())
}

fn max_connections(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    // 0 and -1 stand for no limit, which is the default's to choose.
    let most = entry.within(0, MOST).or_else(|error| unlimited(entry, error))?;
    options.max_connections = Some(most).filter(|most| *most > 0);
    Ok(())
}

fn max_subscriptions(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    let most = entry.within(0, MOST).or_else(|error| unlimited(entry, error))?;
    options.max_subscriptions = Some(most).filter(|most| *most > 0);
    Ok(())
}

/// 0 for -1, which is how nats-server writes that there is no limit.
fn unlimited(entry: &Entry, error: NatsConfError) -> Result<usize, NatsConfError> {
    if entry.value.text() == Some("-1") { Ok(0) } else { Err(error) }
}

/// A key whose value cannot be changed.
fn fixed(entry: &Entry, value: i64) -> Result<(), NatsConfError> {
    match entry.number()? {
        found if found == value => Ok(()),
        found => Err(entry.invalid(format!("{found} cannot be chosen; it is always {value}"))),
    }
}

fn store_dir(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    options.store_dir = Some(entry.path()?);
    Ok(())
}

fn domain(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    let domain = entry.string()?;
    let is_no_word = |c: char| c.is_whitespace() || c.is_control() || ".*>\"\\".contains(c);
    // `$JS.API` itself would be one.
    if domain.contains(is_no_word) || domain == "API" {
        return Err(entry.invalid("a domain is one word of a subject, without ., * and >"));
    }
    options.domain = Some(domain).filter(|domain| !domain.is_empty());
    Ok(())
}

fn log_file(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    options.log_file = Some(entry.path()?);
    Ok(())
}

fn jetstream(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    if let Kind::Map(entries) = &entry.value.kind {
        options.jetstream = true;
        return apply(&JETSTREAM, entries, options);
    }
    let word = entry.value.text().unwrap_or_default().to_ascii_lowercase();
    options.jetstream = match word.as_str() {
        "enabled" | "enable" => true,
        "disabled" | "disable" => false,
        _ => entry.boolean()?,
    };
    Ok(())
}
