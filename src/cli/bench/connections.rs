//! `bench connections`: what a NATS connection costs that is idle, what its subscriptions cost, and how
//! long one message takes to reach many subscribers.
//!
//! Bare sockets speak to both sides in turns, so that no client library is measured.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::own::OwnServer;
use super::sample::median;
use super::table::{Cell, Table};
use super::usage::Usage;
use crate::cli::args::Global;
use crate::cli::exit::{Exit, Failure};

/// What all are subscribed to.
const SUBJECT: &str = "bench.all";
/// Bytes that a connection reads at a time.
const READ: usize = 64 << 10;
/// Connections that each hold many subscriptions.
const HOLDERS: usize = 5;
/// The payload of the messages that go to all.
const PAYLOAD: &[u8] = b"0123456789abcdef";
/// Longest wait for a message to reach all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for a server's memory to hold still.
const SETTLE: Duration = Duration::from_secs(10);

/// `claudebus bench connections`.
#[derive(Clone, Debug, Args)]
pub(super) struct Connections {
    /// Idle connections
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    idle: u32,
    /// Subscribers that each message goes to, and subscriptions of each of five connections
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u16).range(1..))]
    subscribers: u16,
    /// Messages to all of them in each round
    #[arg(short = 'n', long, default_value = "200", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Rounds per side; medians are shown
    #[arg(short, long, default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Do the same with this server, in turns
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    against: Option<String>,
    /// Its process, to see its memory
    #[arg(long, value_name = "PID", requires = "against")]
    against_pid: Option<u32>,
    /// Folder below which data is kept while measuring; the one for temporary files if not given
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

fn address(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("nats://").unwrap_or(text);
    match address.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        _ => Err(format!("`{text}` is no address such as 127.0.0.1:4222")),
    }
}

/// A server, and what was measured of it, round by round.
struct Side {
    name: &'static str,
    address: String,
    pid: Option<u32>,
    idle: Vec<f64>,
    subscription: Vec<f64>,
    /// One message to many connections.
    wide: Vec<f64>,
    /// One message to many subscriptions of one connection.
    deep: Vec<f64>,
}

impl Side {
    fn new(name: &'static str, address: String, pid: Option<u32>) -> Self {
        let (idle, subscription, wide, deep) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { name, address, pid, idle, subscription, wide, deep }
    }

    async fn round(&mut self, connections: &Connections) -> Result<(), Failure> {
        let before = settled(self.pid).await;
        let mut idle = Vec::new();
        for _ in 0..connections.idle {
            idle.push(Socket::connect(&self.address).await?);
        }
        let after = settled(self.pid).await;
        self.idle.extend(each(before, after, idle.len()));

        let count = usize::from(connections.subscribers);
        let mut holders = Vec::new();
        for holder in 0..HOLDERS {
            let mut socket = Socket::connect(&self.address).await?;
            let subjects = (0..count).map(|number| format!("bench.held.{holder}.{number}"));
            socket.subscribe(subjects).await?;
            holders.push(socket);
        }
        let held = settled(self.pid).await;
        self.subscription.extend(each(after, held, HOLDERS * count));

        let mut deep = Audience::gather(&self.address, 1, count).await?;
        self.deep.push(deep.tell(connections.count).await?);
        drop(deep);
        let mut wide = Audience::gather(&self.address, count, 1).await?;
        self.wide.push(wide.tell(connections.count).await?);
        Ok(())
    }
}

/// Bytes more for each of so many, as far as memory is known.
fn each(before: Option<u64>, after: Option<u64>, count: usize) -> Option<f64> {
    Some((after? as f64 - before? as f64) / count as f64)
}

/// A server's memory once it has held still for a moment.
async fn settled(pid: Option<u32>) -> Option<u64> {
    let began = Instant::now();
    let mut last = Usage::of(pid)?;
    while began.elapsed() < SETTLE {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = Usage::of(pid)?;
        if now.resident == last.resident && now.cpu - last.cpu < 0.02 {
            break;
        }
        last = now;
    }
    Some(last.resident)
}

/// A connection that has said who it is.
struct Socket {
    stream: TcpStream,
}

impl Socket {
    async fn connect(address: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.map_err(|error| {
            let text = format_args!("cannot connect to {address}: {error}");
            Failure::new(Exit::NotConnected, text).hint("try fewer: --idle, or raise `ulimit -n`")
        })?;
        stream.set_nodelay(true)?;
        let mut socket = Self { stream };
        let connect = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":0}\r\n";
        socket.stream.write_all(connect.as_bytes()).await?;
        socket.round_trip().await?;
        Ok(socket)
    }

    async fn subscribe(&mut self, subjects: impl Iterator<Item = String>) -> Result<(), Failure> {
        let lines: String =
            subjects.enumerate().map(|(sid, subject)| format!("SUB {subject} {sid}\r\n")).collect();
        self.stream.write_all(lines.as_bytes()).await?;
        self.round_trip().await
    }

    /// Waits until the server has done all that it was sent.
    async fn round_trip(&mut self) -> Result<(), Failure> {
        self.stream.write_all(b"PING\r\n").await?;
        let mut heard = Vec::new();
        while !heard.ends_with(b"PONG\r\n") {
            if self.stream.read_buf(&mut heard).await? == 0 {
                let text = String::from_utf8_lossy(&heard).trim_end().to_owned();
                let text = format_args!("the server closed a connection: {text}");
                return Err(Failure::new(Exit::Failed, text));
            }
        }
        Ok(())
    }
}

/// Connections that are subscribed to one subject, and who publishes to it.
struct Audience {
    publisher: Socket,
    heard: Arc<Heard>,
    /// Bytes that one message leads to.
    expected: usize,
    /// They end with this value.
    _listeners: JoinSet<()>,
}

/// What all of an audience have read of the present message.
#[derive(Default)]
struct Heard {
    bytes: AtomicUsize,
    more: Notify,
}

impl Audience {
    /// So many connections with so many subscriptions each.
    async fn gather(address: &str, connections: usize, each: usize) -> Result<Self, Failure> {
        let heard = Arc::new(Heard::default());
        let mut listeners = JoinSet::new();
        for _ in 0..connections {
            let mut socket = Socket::connect(address).await?;
            socket.subscribe((0..each).map(|_| SUBJECT.to_owned())).await?;
            listeners.spawn(listen(socket.stream, Arc::clone(&heard)));
        }
        let line = |sid| format!("MSG {SUBJECT} {sid} {}\r\n", PAYLOAD.len()).len();
        let expected = (0..each).map(|sid| line(sid) + PAYLOAD.len() + 2).sum::<usize>();
        let publisher = Socket::connect(address).await?;
        Ok(Self { publisher, heard, expected: connections * expected, _listeners: listeners })
    }

    /// Publishes messages one after the other. Returns the median of the seconds until all had one.
    async fn tell(&mut self, count: u32) -> Result<f64, Failure> {
        let mut message = format!("PUB {SUBJECT} {}\r\n", PAYLOAD.len()).into_bytes();
        message.extend_from_slice(PAYLOAD);
        message.extend_from_slice(b"\r\n");
        let mut times = Vec::new();
        for _ in 0..count {
            self.heard.bytes.store(0, Ordering::Relaxed);
            let began = Instant::now();
            self.publisher.stream.write_all(&message).await?;
            let all = async {
                while self.heard.bytes.load(Ordering::Relaxed) < self.expected {
                    self.heard.more.notified().await;
                }
            };
            tokio::time::timeout(PATIENCE, all).await.map_err(|_| {
                let (got, wanted) = (self.heard.bytes.load(Ordering::Relaxed), self.expected);
                let text = format_args!("of {wanted} bytes to all subscribers {got} came");
                Failure::new(Exit::TimedOut, text)
            })?;
            times.push(began.elapsed().as_secs_f64());
        }
        Ok(median(times))
    }
}

/// Counts what comes on a connection until it ends.
async fn listen(mut stream: TcpStream, heard: Arc<Heard>) {
    let mut room = vec![0; READ];
    while let Ok(read) = stream.read(&mut room).await
        && read > 0
    {
        heard.bytes.fetch_add(read, Ordering::Relaxed);
        heard.more.notify_one();
    }
}

/// Measures all sides in turns.
pub(super) async fn measure(
    connections: &Connections,
    global: &Global,
    talk: &dyn Fn(String),
) -> Result<Table<4>, Failure> {
    let arguments = ["--nats", "127.0.0.1:0"];
    let server = OwnServer::start(global, connections.dir.as_deref(), &arguments).await?;
    let own = server.nats().ok_or_else(|| {
        Failure::new(Exit::Failed, "the server did not say where its NATS listener is")
    })?;
    let mut sides = vec![Side::new("claudebus", own.to_string(), server.pid())];
    if let Some(address) = &connections.against {
        sides.push(Side::new("the other server", address.clone(), connections.against_pid));
    }
    for round in 1..=connections.rounds {
        for side in &mut sides {
            server.during(side.round(connections)).await?;
            let last = |seconds: &[f64]| seconds.last().map_or(0.0, |last| last * 1e3);
            talk(format!(
                "round {round} of {}, {}: one message to all, {:.2} ms over one connection, {:.2} ms \
                 over many",
                connections.rounds,
                side.name,
                last(&side.deep),
                last(&side.wide)
            ));
        }
    }
    Ok(table(connections, &sides))
}

fn table(connections: &Connections, sides: &[Side]) -> Table<4> {
    let columns =
        [("Side", "side"), ("Measure", "measure"), ("Median", "median"), ("Ratio", "ratio")];
    let Connections { idle, subscribers, .. } = connections;
    let memory =
        |values: &[f64]| Cell::of((!values.is_empty()).then(|| middle(values)), Cell::Bytes);
    let time = |values: &[f64]| Cell::Seconds(middle(values));
    // How many times as fast as the other side.
    let ratio = |ours: &[f64], of: fn(&Side) -> &[f64]| match sides {
        [_, other] if !ours.is_empty() && !of(other).is_empty() => {
            Cell::Ratio(middle(of(other)) / middle(ours))
        }
        _ => Cell::None,
    };
    let mut rows = Vec::new();
    for (number, side) in sides.iter().enumerate() {
        let mut row = |measure: String, of: fn(&Side) -> &[f64], cell: &dyn Fn(&[f64]) -> Cell| {
            let ratio = if number == 0 { ratio(of(side), of) } else { Cell::None };
            rows.push([Cell::Text(side.name.into()), Cell::Text(measure), cell(of(side)), ratio]);
        };
        row(format!("memory of each of {idle} idle connections"), |s| &s.idle, &memory);
        row("memory of a subscription".into(), |s| &s.subscription, &memory);
        row(format!("one message to {subscribers} connections"), |s| &s.wide, &time);
        let deep = format!("one message to {subscribers} subscriptions of one connection");
        row(deep, |s| &s.deep, &time);
    }
    Table { bench: "connections", columns, rows }
}

fn middle(values: &[f64]) -> f64 {
    median(values.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_compared_measure_by_measure() {
        let side = |name, wide: f64| Side {
            wide: vec![wide, wide, 99.0],
            deep: vec![1.0],
            ..Side::new(name, String::new(), None)
        };
        let connections = Connections {
            idle: 1,
            subscribers: 2,
            count: 1,
            rounds: 1,
            against: None,
            against_pid: None,
            dir: None,
        };
        let table = table(&connections, &[side("a", 2.0), side("b", 3.0)]);
        let ratios: Vec<_> = table.rows.iter().map(|row| row[3].clone()).collect();
        let expected = [Cell::None, Cell::None, Cell::Ratio(1.5), Cell::Ratio(1.0)];
        assert_eq!(ratios[..4], expected);
        assert_eq!(ratios[4..], [Cell::None, Cell::None, Cell::None, Cell::None]);
        assert_eq!(table.rows[2][2], Cell::Seconds(2.0));
    }

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(address("nats://127.0.0.1:4222").as_deref(), Ok("127.0.0.1:4222"));
        assert!(address("localhost").is_err());
    }
}
