//! `bench limits`: what the machine allows, beside what the broker makes of it, in one run.
//!
//! A publish that waits for its acknowledgement needs a write with a sync and a round trip. A bare peer
//! that does one in the middle of the other shows what the machine adds to their sum.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::bare::{self, BareQuic, Before};
use super::ours::Ours;
use super::own::OwnServer;
use super::payload::Content;
use super::sample::{Latency, median};
use super::table::{Cell, Table};
use super::work::Work;
use crate::cli::args::Global;
use crate::cli::exit::{Exit, Failure};

/// How long bytes flow through bare QUIC.
const FLOW: Duration = Duration::from_secs(3);

/// `claudebus bench limits`.
#[derive(Clone, Debug, Args)]
pub(super) struct Limits {
    /// Writes, round trips and publishes in each round
    #[arg(short = 'n', long, default_value = "2000", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Rounds; medians are shown
    #[arg(short, long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Folder below which data is kept while measuring; the one for temporary files if not given
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// One round.
struct Round {
    sync: Latency,
    round_trip: Latency,
    /// A round trip with a sync in the middle.
    synced_trip: Latency,
    publish: Latency,
    bytes: f64,
}

/// Measures all, in turns.
pub(super) async fn measure(
    limits: &Limits,
    global: &Global,
    talk: &dyn Fn(String),
) -> Result<Table<4>, Failure> {
    let folder = limits.dir.clone().unwrap_or_else(std::env::temp_dir);
    let quic = BareQuic::start(&folder)?;
    let server = OwnServer::start(global, limits.dir.as_deref(), &[]).await?;
    let ours = Ours::connect(server.global()).await?;
    let work = Work {
        size: 128,
        content: Content::Random,
        count: limits.count,
        duration: None,
        clients: 1,
        seed: 1,
        window: 1,
    };
    let mut rounds = Vec::new();
    for number in 1..=limits.rounds {
        ours.prepare().await?;
        let publish = server.during(ours.latency(&work)).await?.latency;
        let publish = publish.ok_or_else(|| Failure::new(Exit::Defect, "no latency"))?;
        let sync = bare::sync(&folder, limits.count)?;
        let round_trip = quic.round_trip(limits.count, Before::Nothing).await?;
        let synced_trip = quic.round_trip(limits.count, Before::Sync).await?;
        let bytes = quic.throughput(FLOW).await?;
        let us = |latency: Latency| latency.p50 as f64 / 1e3;
        talk(format!(
            "round {number}: sync {:.1} us, round trip {:.1} us, with a sync {:.1} us, publish {:.1} us",
            us(sync),
            us(round_trip),
            us(synced_trip),
            us(publish)
        ));
        rounds.push(Round { sync, round_trip, synced_trip, publish, bytes });
    }
    Ok(table(&rounds))
}

fn table(rounds: &[Round]) -> Table<4> {
    let p50 = |of: fn(&Round) -> u64| median(rounds.iter().map(|round| of(round) as f64)) / 1e9;
    let row = |what: &str, p50: f64, p99: Cell, ratio: Cell| {
        [Cell::Text(what.to_owned()), Cell::Seconds(p50), p99, ratio]
    };
    let sync = p50(|round| round.sync.p50);
    let trip = p50(|round| round.round_trip.p50);
    let synced_trip = p50(|round| round.synced_trip.p50);
    let publish = p50(|round| round.publish.p50);
    let sum = sync + trip;
    let bytes = median(rounds.iter().map(|round| round.bytes));
    let rows = vec![
        row(
            "4 KiB overwritten and synced",
            sync,
            Cell::Seconds(p50(|round| round.sync.p99)),
            Cell::None,
        ),
        row(
            "bare QUIC round trip",
            trip,
            Cell::Seconds(p50(|round| round.round_trip.p99)),
            Cell::None,
        ),
        row("both together", sum, Cell::None, Cell::Ratio(1.0)),
        row(
            "a bare round trip with a sync before the answer",
            synced_trip,
            Cell::Seconds(p50(|round| round.synced_trip.p99)),
            Cell::Ratio(synced_trip / sum.max(1e-9)),
        ),
        row(
            "publish, one at a time",
            publish,
            Cell::Seconds(p50(|round| round.publish.p99)),
            Cell::Ratio(publish / sum.max(1e-9)),
        ),
        [
            Cell::Text("bare QUIC, bytes a second".to_owned()),
            Cell::Bytes(bytes),
            Cell::None,
            Cell::None,
        ],
    ];
    let columns = [
        ("Measure", "measure"),
        ("p50", "value"),
        ("p99", "p99_seconds"),
        ("Times the sum", "ratio"),
    ];
    Table { bench: "limits", columns, rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_sum() {
        let latency = |p50| Latency { p50, p99: p50, p999: p50, max: p50 };
        let (sync, round_trip, synced_trip) = (latency(100), latency(50), latency(180));
        let publish = latency(225);
        let table = table(&[Round { sync, round_trip, synced_trip, publish, bytes: 1.0 }]);
        let ratios: Vec<Cell> = table.rows.iter().map(|row| row[3].clone()).collect();
        assert_eq!(ratios[2..5], [Cell::Ratio(1.0), Cell::Ratio(1.2), Cell::Ratio(1.5)]);
    }
}
