//! `bench recovery`: how soon a server is back after `kill -9`.
//!
//! Each time it is killed while messages are published at full speed, so that the journal holds much
//! that is not yet in segment files. The page cache is emptied where that is allowed, and the time
//! runs from the start of the new process.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::own::{OwnServer, drop_caches};
use super::sample::median;
use super::spread::{Amount, Part, Spread, stream_name};
use super::table::{Cell, Table};
use crate::cli::args::Global;
use crate::cli::exit::{Exit, Failure};
use crate::config::text;

/// Subjects of the stream.
const SUBJECTS: u64 = 100_000;
/// Messages between two looks at how much is stored.
const PIECE: u64 = 100_000;
/// Longest wait for the oldest message.
const PATIENCE: Duration = Duration::from_secs(60);

/// `claudebus bench recovery`.
#[derive(Clone, Debug, Args)]
pub(super) struct Recovery {
    /// Payload bytes that are stored before the first crash
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = text::size)]
    stored: u64,
    /// Bytes of each payload
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,
    /// How long messages are published before each crash
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = text::positive_duration)]
    duration: Duration,
    /// Crashes; medians are shown
    #[arg(short, long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Bytes the server keeps in memory before they are written to segment files; its default if not
    /// given
    #[arg(long, value_name = "SIZE")]
    tail_budget: Option<String>,
    /// Folder below which data is kept while measuring; the one for temporary files if not given
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// Seconds from the start of the process.
#[derive(Clone, Copy, Debug)]
struct Times {
    ready: f64,
    acknowledged: f64,
    read: f64,
    /// Messages found.
    stored: u64,
}

/// Crashes a server again and again.
pub(super) async fn measure(
    recovery: &Recovery,
    global: &Global,
    talk: &dyn Fn(String),
) -> Result<Table<5>, Failure> {
    let arguments: Vec<&str> = match &recovery.tail_budget {
        Some(size) => vec!["--tail-budget", size],
        None => Vec::new(),
    };
    let mut server = OwnServer::start(global, recovery.dir.as_deref(), &arguments).await?;
    let size = recovery.size as usize;
    let spread = Spread { subjects: SUBJECTS, ..Spread::single(size) };
    let client = server.connect().await?;
    spread.create(&client).await?;
    let (mut stored, count) = (0, recovery.stored / u64::from(recovery.size));
    while stored < count {
        let piece = Amount::Messages(PIECE.min(count - stored));
        stored += server.during(spread.publish(&client, stored, piece)).await?;
    }
    client.close().await;
    talk(format!("{stored} messages stored"));
    let (mut all, mut cold) = (Vec::new(), true);
    for round in 1..=recovery.rounds {
        let client = server.connect().await?;
        // It is killed at full speed, with what is in flight.
        let publishing = spread.publish(&client, stored, Amount::Time(Duration::MAX));
        tokio::select! {
            ended = server.during(publishing) => drop(ended?),
            () = tokio::time::sleep(recovery.duration) => {}
        }
        server.kill();
        drop(client);
        cold &= drop_caches();
        server.restart().await?;
        let times = server.during(times(&server)).await?;
        let Times { ready, acknowledged, read, stored: now } = times;
        stored = now;
        talk(format!(
            "crash {round}: ready {ready:.3} s, acknowledged {acknowledged:.3} s, read {read:.3} s"
        ));
        all.push(times);
    }
    Ok(table(&all, stored * u64::from(recovery.size), cold))
}

/// When the first message is acknowledged, and when the oldest one is read.
async fn times(server: &OwnServer) -> Result<Times, Failure> {
    let since = || server.started.elapsed().as_secs_f64();
    let ready = since();
    let client = server.connect().await?;
    Spread::single(1).publish(&client, 0, Amount::Messages(1)).await?;
    let acknowledged = since();
    let consumer = Part::all(0).open(&client).await?;
    let mut messages = consumer.messages();
    let first = tokio::time::timeout(PATIENCE, messages.next()).await;
    let missing = || Failure::new(Exit::TimedOut, "the oldest message did not come");
    let first = first.map_err(|_| missing())?.ok_or_else(missing)??;
    if first.seq() != 1 {
        return Err(Failure::new(Exit::Failed, "the oldest message is not the first one"));
    }
    let read = since();
    let stored = client.stream_info(&stream_name(0)).await?.state.messages;
    Ok(Times { ready, acknowledged, read, stored })
}

fn table(all: &[Times], stored: u64, cold: bool) -> Table<5> {
    let row = |what: &str, of: fn(&Times) -> f64| {
        let longest = all.iter().map(of).fold(0.0, f64::max);
        let cache = if cold { "cold" } else { "warm" };
        [
            Cell::Text(what.to_owned()),
            Cell::Seconds(median(all.iter().map(of))),
            Cell::Seconds(longest),
            Cell::Bytes(stored as f64),
            Cell::Text(cache.to_owned()),
        ]
    };
    let columns = [
        ("From the start to", "until"),
        ("Median", "median_seconds"),
        ("Longest", "longest_seconds"),
        ("Stored", "stored_bytes"),
        ("Cache", "cache"),
    ];
    let rows = vec![
        row("ready", |times| times.ready),
        row("first acknowledgement", |times| times.acknowledged),
        row("oldest message read", |times| times.read),
    ];
    Table { bench: "recovery", columns, rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_longest_are_told() {
        let times =
            |ready| Times { ready, acknowledged: ready + 1.0, read: ready + 2.0, stored: 1 };
        let table = table(&[times(3.0), times(1.0), times(2.0)], 1, true);
        let read = table.rows.last().map(|row| (row[1].clone(), row[2].clone()));
        assert_eq!(read, Some((Cell::Seconds(4.0), Cell::Seconds(5.0))));
    }
}
