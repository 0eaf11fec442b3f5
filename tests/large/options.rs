//! How much the large test stores and how long it waits; from the environment.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Settings of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages to store at least: `LARGE_MESSAGES`.
    pub messages: u64,
    /// Payload bytes to store at least: `LARGE_BYTES`.
    pub bytes: u64,
    /// Subjects they are spread over: `LARGE_SUBJECTS`.
    pub subjects: u64,
    /// Crashes and starts that the median is of: `LARGE_RUNS`.
    pub runs: usize,
    /// How long an empty broker stands before its memory is measured: `LARGE_IDLE_SECONDS`.
    pub idle: Duration,
    /// Bytes that a consumer which never reads has before it: `LARGE_BACKLOG`.
    pub backlog: u64,
    /// Where data lies: `LARGE_DIR`.
    pub dir: PathBuf,
}

fn number<T: FromStr>(name: &str, default: T) -> Result<T, String> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| format!("{name}={text}: give a whole number")),
    }
}

impl Options {
    /// Reads them; none if the test was not asked for.
    pub fn read() -> Result<Option<Self>, String> {
        if std::env::var("LARGE").is_ok_and(|text| text == "1") {
            return Ok(Some(Self {
                messages: number("LARGE_MESSAGES", 20_000_000)?,
                bytes: number("LARGE_BYTES", 10_000_000_000)?,
                subjects: number("LARGE_SUBJECTS", 200_000)?,
                runs: number("LARGE_RUNS", 5)?,
                idle: Duration::from_secs(number("LARGE_IDLE_SECONDS", 60)?),
                backlog: number("LARGE_BACKLOG", 1_000_000_000)?,
                dir: std::env::var_os("LARGE_DIR")
                    .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from),
            }));
        }
        Ok(None)
    }
}
