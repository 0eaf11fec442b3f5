//! The log in nats-server's form: `[pid] 2026/11/22 01:02:03.000000 [INF] Server is ready`.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::Context;
use tracing_subscriber::{EnvFilter, Layer, prelude::*};

use crate::cli::exit::{Exit, Failure};
use crate::config::nats_conf::NatsOptions;

/// Where lines go. Clones write to the same place.
#[derive(Clone)]
pub(super) struct Log(Arc<Inner>);

struct Inner {
    /// The file and its path; stderr if there is none.
    file: Option<(Mutex<File>, PathBuf)>,
    has_time: bool,
    is_utc: bool,
}

impl Log {
    /// Opens the log that the options describe, and sends log events there.
    pub(super) fn start(options: &NatsOptions) -> Result<Self, Failure> {
        let log = Self::open(options)?;
        let filter = match (options.trace, options.debug) {
            (true, _) => "info,claudebus=trace,claudebus_storage=trace",
            (false, true) => "info,claudebus=debug,claudebus_storage=debug",
            (false, false) => "info",
        };
        tracing_subscriber::registry()
            .with(log.clone().with_filter(EnvFilter::new(filter)))
            .try_init()
            .map_err(|error| Failure::new(Exit::Failed, error))?;
        Ok(log)
    }

    fn open(options: &NatsOptions) -> Result<Self, Failure> {
        let file = options.log_file.as_ref().map(|path| {
            append(path).map(|file| (Mutex::new(file), path.clone())).map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    format_args!("error opening log file {}: {error}", path.display()),
                )
            })
        });
        let (has_time, is_utc) = (options.logtime, options.logtime_utc);
        Ok(Self(Arc::new(Inner { file: file.transpose()?, has_time, is_utc })))
    }

    /// Opens the file again, which may have been moved away. False if there is none.
    pub(super) fn reopen(&self) -> io::Result<bool> {
        let Some((file, path)) = &self.0.file else { return Ok(false) };
        let opened = append(path)?;
        *file.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(true)
    }

    /// Writes a line that informs.
    pub(super) fn info(&self, text: impl std::fmt::Display) {
        self.line("INF", &text.to_string());
    }

    /// Writes a line about what people should know.
    pub(super) fn warn(&self, text: impl std::fmt::Display) {
        self.line("WRN", &text.to_string());
    }

    /// Writes a line about what went wrong.
    pub(super) fn error(&self, text: impl std::fmt::Display) {
        self.line("ERR", &text.to_string());
    }

    /// Writes the last line of a server that cannot go on.
    pub(super) fn fatal(&self, text: impl std::fmt::Display) {
        self.line("FTL", &text.to_string());
    }

    fn line(&self, level: &str, text: &str) {
        let line = line(self.0.has_time.then(|| time(self.0.is_utc)).as_deref(), level, text);
        // A log that cannot be written is no reason to stop serving.
        let _ = match &self.0.file {
            Some((file, _)) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
            }
            None => io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn time(is_utc: bool) -> String {
    let now = if is_utc {
        jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC)
    } else {
        jiff::Zoned::now()
    };
    now.strftime("%Y/%m/%d %H:%M:%S%.6f").to_string()
}

/// One line. What clients say must not look like lines of the server, so line breaks are written as `\n`.
fn line(time: Option<&str>, level: &str, text: &str) -> String {
    let mut line = format!("[{}] ", std::process::id());
    if let Some(time) = time {
        line.push_str(time);
        line.push(' ');
    }
    line.push('[');
    line.push_str(level);
    line.push_str("] ");
    for next in text.chars() {
        if next.is_control() {
            line.extend(next.escape_default());
        } else {
            line.push(next);
        }
    }
    line.push('\n');
    line
}

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => "ERR",
            tracing::Level::WARN => "WRN",
            tracing::Level::INFO => "INF",
            tracing::Level::DEBUG => "DBG",
            tracing::Level::TRACE => "TRC",
        };
        let mut text = Text::default();
        event.record(&mut text);
        self.line(level, &format!("{}{}", text.message, text.fields));
    }
}

/// Collects what an event says.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_nats_server() {
        let pid = std::process::id();
        let time_then = "2026/11/22 01:02:03.000000";
        assert_eq!(
            line(Some(time_then), "INF", "Server is ready"),
            format!("[{pid}] {time_then} [INF] Server is ready\n")
        );
        assert_eq!(
            line(None, "DBG", "a\n[INF] b\u{1b}"),
            format!("[{pid}] [DBG] a\\n[INF] b\\u{{1b}}\n")
        );
        let now = time(true);
        assert_eq!(now.len(), time_then.len(), "{now}");
        assert!(
            now.bytes()
                .zip(time_then.bytes())
                .all(|(a, b)| a.is_ascii_digit() == b.is_ascii_digit())
        );
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("old"));
        let options = NatsOptions { log_file: Some(path.clone()), ..NatsOptions::default() };
        let log = Log::open(&options).unwrap();
        log.info("one");
        std::fs::rename(&path, &old).unwrap();
        assert!(log.reopen().unwrap());
        log.error("two");
        assert!(std::fs::read_to_string(old).unwrap().ends_with("[INF] one\n"));
        assert!(std::fs::read_to_string(path).unwrap().ends_with("[ERR] two\n"));
        assert!(!Log::open(&NatsOptions::default()).unwrap().reopen().unwrap());
    }
}
