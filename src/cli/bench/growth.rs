//! `bench growth`: how cost grows with message size, streams, consumers, subjects and stored bytes.
//!
//! Each point is measured on an empty server of its own, or on the one that is named: messages are
//! published and then received, or both at a time where many streams or consumers are what grows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::own::OwnServer;
use super::spread::{Amount, Part, Spread, Taking};
use super::table::{Cell, Table};
use super::usage::Usage;
use crate::cli::args::Global;
use crate::cli::connect::connect;
use crate::cli::exit::Failure;
use crate::cli::output::readable_size;
use crate::client::{Client, LocalServer};
use crate::config::text;

/// Connections that consumers share.
const CONNECTIONS: usize = 10;
/// Bytes of a message while other things than its size grow.
const SIZE: u64 = 128;
/// Bytes of a message while stored bytes grow.
const STORED_SIZE: u64 = 1024;
/// Longest time to store what is to be there before a point is measured, in times of its duration.
const FILLING: u32 = 60;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Axis {
    /// Bytes of each message, from 16 to 1 MiB
    Size,
    /// Streams, from 1 to 1,000, each with a consumer that receives meanwhile
    Streams,
    /// Consumers of disjoint parts of a stream, from 1 to 1,000, that receive meanwhile
    Consumers,
    /// Subjects, from 1 to 1,000,000
    Subjects,
    /// Bytes stored before, from 100 MB to what --stored says
    Stored,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Streams => "streams",
            Self::Consumers => "consumers",
            Self::Subjects => "subjects",
            Self::Stored => "stored",
        }
    }

    fn points(self, stored: u64) -> Vec<u64> {
        match self {
            Self::Size => vec![16, 128, 1024, 16 << 10, 128 << 10, 1 << 20],
            Self::Streams | Self::Consumers => vec![1, 10, 100, 1000],
            Self::Subjects => vec![1, 1000, 100_000, 1_000_000],
            Self::Stored => {
                let mut points = vec![100_000_000, 1_000_000_000, 10_000_000_000];
                points.retain(|point| *point < stored);
                points.push(stored);
                points
            }
        }
    }

    fn show(self, point: u64) -> String {
        match self {
            Self::Size | Self::Stored => readable_size(point),
            _ => point.to_string(),
        }
    }
}

/// From so many subjects on their memory is more than what differs from one start to the next anyway.
const COUNTED_SUBJECTS: u64 = 1_000_000;

/// `claudebus bench growth`.
#[derive(Clone, Debug, Args)]
pub(super) struct Growth {
    /// What grows; everything, one after the other, if not given
    #[arg(long, value_enum, value_delimiter = ',')]
    axis: Vec<Axis>,
    /// Bytes that are stored in the end
    #[arg(long, value_name = "SIZE", default_value = "10GB", value_parser = text::size)]
    stored: u64,
    /// How long each point publishes, and how long it receives at most
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = text::positive_duration)]
    duration: Duration,
    /// Process of the server that --server names, to read what it uses; found by itself if it is the
    /// one of this machine
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Folder below which data is kept while measuring; the one for temporary files if not given
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// What one point came to.
struct Point {
    axis: Axis,
    at: u64,
    published: Phase,
    received: Phase,
    resident: Option<u64>,
    /// Memory once it has been started again and has nothing to do; of subjects only.
    at_rest: Option<u64>,
}

/// Messages that went one way, and what that used.
#[derive(Clone, Copy, Debug)]
struct Phase {
    messages: u64,
    seconds: f64,
    usage: Option<Usage>,
}

impl Phase {
    fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds.max(1e-9)
    }

    /// Of what was used, the part of a million messages.
    fn per_million(&self, of: impl Fn(&Usage) -> f64) -> Option<f64> {
        Some(of(&self.usage?) * 1e6 / self.messages.max(1) as f64)
    }
}

/// The server that is measured.
enum Measured {
    Own(Box<OwnServer>),
    Named(Global, Option<u32>),
}

impl Measured {
    async fn start(growth: &Growth, global: &Global) -> Result<Self, Failure> {
        if global.server.is_none() {
            let server = OwnServer::start(global, growth.dir.as_deref(), &[]).await?;
            return Ok(Self::Own(Box::new(server)));
        }
        let local = LocalServer::find().ok().flatten();
        let local = local.filter(|local| Some(&local.url) == global.server.as_ref());
        Ok(Self::Named(global.clone(), growth.pid.or(local.map(|local| local.pid))))
    }

    async fn connect(&self) -> Result<Client, Failure> {
        match self {
            Self::Own(server) => server.connect().await,
            Self::Named(global, _) => connect(global).await,
        }
    }

    /// Does something with it; fails if a server of its own ends meanwhile.
    async fn during<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match self {
            Self::Own(server) => server.during(work).await,
            Self::Named(..) => work.await,
        }
    }

    fn usage(&self) -> Option<Usage> {
        match self {
            Self::Own(server) => Usage::of(server.pid()),
            Self::Named(_, pid) => Usage::of(*pid),
        }
    }

    /// The memory of a server of its own after a start with what is stored: what it was given while it worked
    /// and has not returned does not count.
    async fn resident_at_rest(&mut self) -> Result<Option<u64>, Failure> {
        let Self::Own(server) = self else { return Ok(None) };
        server.wait_idle().await;
        server.restart().await?;
        server.wait_idle().await;
        Ok(self.usage().map(|usage| usage.resident))
    }
}

/// A time that runs, and what the server had used when it began.
struct Watch {
    began: Instant,
    before: Option<Usage>,
}

impl Watch {
    fn start(server: &Measured) -> Self {
        Self { began: Instant::now(), before: server.usage() }
    }

    fn stop(&self, server: &Measured, messages: u64) -> Phase {
        let seconds = self.began.elapsed().as_secs_f64();
        let usage = server.usage().zip(self.before).map(|(now, before)| now.since(&before));
        Phase { messages, seconds, usage }
    }
}

/// Measures all points.
pub(super) async fn measure(
    growth: &Growth,
    global: &Global,
    talk: &dyn Fn(String),
) -> Result<Table<9>, Failure> {
    let axes = match growth.axis.as_slice() {
        [] => Axis::value_variants(),
        some => some,
    };
    let mut rows = Vec::new();
    for axis in axes {
        let mut first = None;
        for at in axis.points(growth.stored) {
            let mut server = Measured::start(growth, global).await?;
            let point = measure_point(growth, &mut server, *axis, at).await?;
            talk(format!("{} {}: {:.0}/s in", axis.name(), axis.show(at), point.published.rate()));
            let first = *first.get_or_insert(point.at_rest);
            rows.push(row(&point, first));
        }
    }
    let columns = [
        ("Axis", "axis"),
        ("At", "at"),
        ("In", "published_per_second"),
        ("Out", "received_per_second"),
        ("CPU s per 1M in", "cpu_seconds_per_million_published"),
        ("CPU s per 1M out", "cpu_seconds_per_million_received"),
        ("Written per 1M in", "bytes_written_per_million_published"),
        ("Memory", "resident_bytes"),
        ("Memory per subject", "bytes_per_subject"),
    ];
    Ok(Table { bench: "growth", columns, rows })
}

/// `first` is the memory at rest at the first point of the axis.
fn row(point: &Point, first: Option<u64>) -> [Cell; 9] {
    let cpu = |phase: &Phase| phase.per_million(|usage| usage.cpu);
    let per_subject = point
        .at_rest
        .zip(first)
        .filter(|_| point.at >= COUNTED_SUBJECTS)
        .map(|(at_rest, first)| (at_rest as f64 - first as f64) / point.at as f64);
    [
        Cell::Text(point.axis.name().to_owned()),
        Cell::Text(point.axis.show(point.at)),
        Cell::Rate(point.published.rate()),
        Cell::Rate(point.received.rate()),
        Cell::of(cpu(&point.published), Cell::Ratio),
        Cell::of(cpu(&point.received), Cell::Ratio),
        Cell::of(point.published.per_million(|usage| usage.written as f64), Cell::Bytes),
        Cell::of(point.resident, |bytes| Cell::Bytes(bytes as f64)),
        Cell::of(per_subject, Cell::Bytes),
    ]
}

async fn measure_point(
    growth: &Growth,
    server: &mut Measured,
    axis: Axis,
    at: u64,
) -> Result<Point, Failure> {
    let base = Spread::single(SIZE as usize);
    let spread = match axis {
        Axis::Size => Spread { size: at as usize, ..base },
        Axis::Streams => Spread { streams: at, ..base },
        Axis::Consumers => Spread { groups: at, subjects: at, ..base },
        Axis::Subjects => Spread { subjects: at, ..base },
        Axis::Stored => Spread { size: STORED_SIZE as usize, ..base },
    };
    let client = server.connect().await?;
    spread.delete(&client).await?;
    spread.create(&client).await?;
    let measuring = Measuring { growth, server, client: &client, spread: &spread, axis, at };
    let result = match axis {
        Axis::Streams | Axis::Consumers => server.during(measuring.live()).await,
        _ => server.during(measuring.in_turn()).await,
    };
    let at_rest = match (&result, axis) {
        (Ok(_), Axis::Subjects) => server.resident_at_rest().await?,
        _ => None,
    };
    if at_rest.is_none() {
        spread.delete(&client).await?;
    }
    Ok(Point { at_rest, ..result? })
}

/// One point while it is measured.
struct Measuring<'a> {
    growth: &'a Growth,
    server: &'a Measured,
    client: &'a Client,
    spread: &'a Spread,
    axis: Axis,
    at: u64,
}

impl Measuring<'_> {
    /// First in, then out.
    async fn in_turn(&self) -> Result<Point, Failure> {
        let Self { server, client, spread, axis, at, .. } = *self;
        let duration = self.growth.duration;
        let before = match axis {
            Axis::Stored => self.fill(at / STORED_SIZE).await?,
            // Every subject is there when publishing is measured.
            _ => spread.publish(client, 0, Amount::Messages(spread.subjects)).await?,
        };
        let watch = Watch::start(server);
        let count = spread.publish(client, before, Amount::Time(duration)).await?;
        let published = watch.stop(server, count);
        let resident = self.resident();
        let consumer = Part::all(0).open(client).await?;
        let mut taking = Taking::of(vec![(false, consumer)]);
        taking.wait_all(1).await?;
        let (watch, early) = (Watch::start(server), taking.received());
        let count = taking.wait(before + count, duration).await?;
        let received = watch.stop(server, count - early);
        // The time may not have sufficed to store everything.
        let at = if axis == Axis::Stored { before * STORED_SIZE } else { at };
        Ok(Point { axis, at, published, received, resident, at_rest: None })
    }

    /// Stores so many messages, or what can be stored in the time allowed.
    async fn fill(&self, count: u64) -> Result<u64, Failure> {
        let end = Instant::now() + self.growth.duration * FILLING;
        let mut stored = 0;
        while stored < count && Instant::now() < end {
            let some = (count - stored).min(100_000);
            stored += self.spread.publish(self.client, stored, Amount::Messages(some)).await?;
        }
        Ok(stored)
    }

    /// In and out at the same time, until all is received. What the server used is counted once.
    async fn live(&self) -> Result<Point, Failure> {
        let Self { server, client, spread, axis, at, .. } = *self;
        let mut clients = Vec::new();
        while clients.len() < CONNECTIONS {
            clients.push(server.connect().await?);
        }
        let mut taking = Taking::start(&clients, spread.parts(false)).await?;
        let watch = Watch::start(server);
        let count = spread.publish(client, 0, Amount::Time(self.growth.duration)).await?;
        let published = watch.stop(server, count);
        taking.wait_all(count).await?;
        let all = watch.stop(server, count);
        let published = Phase { usage: all.usage, ..published };
        let received = Phase { usage: None, ..all };
        Ok(Point { axis, at, published, received, resident: self.resident(), at_rest: None })
    }

    fn resident(&self) -> Option<u64> {
        self.server.usage().map(|usage| usage.resident)
    }
}
