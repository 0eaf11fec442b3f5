//! The side of a Redis server: XADD to a stream, pipelined, with a client of its own.
//!
//! It speaks as much of RESP 2 as that needs. Consuming is not compared: Redis acknowledges
//! deliveries in another sense.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::sample::{Latencies, Sample, gather};
use super::work::{STREAM, Share, Work};
use crate::cli::exit::{Exit, Failure};

/// Bytes read at a time.
const READ: usize = 64 << 10;
/// Longest answer that is waited for: far more than any of those asked for.
const ANSWER: usize = 1 << 20;

/// What is known of a server that tells only if it is asked.
pub(super) const DURABILITY: &str = "as that server is configured";

/// A connection, on which answers come in the order of the questions.
struct Connection {
    socket: TcpStream,
    out: BytesMut,
    read: BytesMut,
}

impl Connection {
    async fn open(address: &str) -> Result<Self, Failure> {
        let socket = TcpStream::connect(address).await.map_err(|error| {
            Failure::new(Exit::NotConnected, format_args!("cannot connect to {address}: {error}"))
                .hint("start that server, or leave out --against")
        })?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, out: BytesMut::new(), read: BytesMut::with_capacity(READ) })
    }

    /// Adds a question to those that are sent next.
    fn ask(&mut self, parts: &[&[u8]]) {
        self.out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
        for part in parts {
            self.out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            self.out.extend_from_slice(part);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    async fn send(&mut self) -> Result<(), Failure> {
        self.socket.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// The next answer: its first line, or the text of a string.
    async fn answer(&mut self) -> Result<String, Failure> {
        loop {
            if let Some((answer, length)) = parse(&self.read)? {
                self.read.advance(length);
                return Ok(answer);
            }
            if self.read.len() > ANSWER {
                return Err(failed("an answer is too long"));
            }
            self.read.reserve(READ);
            if self.socket.read_buf(&mut self.read).await? == 0 {
                return Err(failed("the Redis server closed the connection"));
            }
        }
    }
}

/// The first answer in the buffer and its length, once all of it is there.
fn parse(buffer: &[u8]) -> Result<Option<(String, usize)>, Failure> {
    let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = String::from_utf8_lossy(buffer.get(1..end).unwrap_or_default()).into_owned();
    let after = end + 2;
    match buffer.first() {
        Some(b'+' | b':') => Ok(Some((line, after))),
        Some(b'-') => Err(failed(format_args!("the Redis server says: {line}"))),
        Some(b'$') => {
            let length: usize = line.parse().map_err(|_| failed("a string has no length"))?;
            let text = buffer.get(after..after + length);
            let whole = buffer.len() >= after + length + 2;
            let text = text.filter(|_| whole).map(String::from_utf8_lossy);
            Ok(text.map(|text| (text.into_owned(), after + length + 2)))
        }
        _ => Err(failed("an answer is of a kind that was not asked for")),
    }
}

pub(super) struct Redis {
    address: String,
    version: String,
    durability: String,
}

impl Redis {
    /// Connects to `redis://host:port`.
    pub(super) async fn connect(url: &str, durability: &str) -> Result<Self, Failure> {
        let address = url.strip_prefix("redis://").unwrap_or(url).trim_end_matches('/').to_owned();
        let mut connection = Connection::open(&address).await?;
        connection.ask(&[b"INFO", b"server"]);
        connection.send().await?;
        let info = connection.answer().await?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        let version = version.unwrap_or_default().trim().to_owned();
        Ok(Self { address, version, durability: durability.to_owned() })
    }

    pub(super) fn name(&self) -> String {
        format!("redis-server {}", self.version)
    }

    pub(super) fn durability(&self) -> String {
        self.durability.clone()
    }

    /// Forgets the stream; the first message makes it again.
    pub(super) async fn clean_up(&self) -> Result<(), Failure> {
        let mut connection = Connection::open(&self.address).await?;
        connection.ask(&[b"DEL", STREAM.as_bytes()]);
        connection.send().await?;
        connection.answer().await.map(drop)
    }

    /// Each client sends as many messages as its window holds, and then waits for their answers.
    pub(super) async fn publish(&self, work: &Work) -> Result<Sample, Failure> {
        let barrier = Arc::new(Barrier::new(work.clients + 1));
        let mut tasks = JoinSet::new();
        for number in 0..work.clients {
            let connection = Connection::open(&self.address).await?;
            let (share, barrier) = (work.share(number), Arc::clone(&barrier));
            let window = work.window;
            tasks.spawn(async move {
                barrier.wait().await;
                Ok::<_, Failure>((number, publish(connection, share, window).await?))
            });
        }
        barrier.wait().await;
        let began = Instant::now();
        let per_client = gather(tasks).await?;
        Ok(Sample::new(per_client, work.size, began.elapsed()))
    }

    pub(super) async fn latency(&self, work: &Work) -> Result<Sample, Failure> {
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for number in 0..work.clients {
            let mut connection = Connection::open(&self.address).await?;
            let mut share = work.share(number);
            tasks.spawn(async move {
                let mut latencies = Latencies::new()?;
                share.begin();
                while let Some(payload) = share.next() {
                    let sent = Instant::now();
                    add(&mut connection, &share.subject, &payload);
                    connection.send().await?;
                    connection.answer().await?;
                    latencies.add(sent.elapsed());
                }
                Ok::<_, Failure>((number, (share.done(), latencies)))
            });
        }
        let clients = gather(tasks).await?;
        Sample::of_latencies(clients, work.size, began.elapsed())
    }
}

/// A message with its subject and its payload.
fn add(connection: &mut Connection, subject: &str, payload: &[u8]) {
    connection.ask(&[b"XADD", STREAM.as_bytes(), b"*", b"s", subject.as_bytes(), b"p", payload]);
}

async fn publish(
    mut connection: Connection,
    mut share: Share,
    window: usize,
) -> Result<u64, Failure> {
    share.begin();
    loop {
        let mut sent = 0;
        while sent < window
            && let Some(payload) = share.next()
        {
            add(&mut connection, &share.subject, &payload);
            sent += 1;
        }
        if sent == 0 {
            return Ok(share.done());
        }
        connection.send().await?;
        for _ in 0..sent {
            connection.answer().await?;
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_whole() {
        let all = b"$5\r\nhello\r\n:7\r\n+OK\r\n";
        let (answer, length) = parse(all).expect("an answer").expect("all of it");
        assert_eq!((answer.as_str(), length), ("hello", 11));
        assert_eq!(parse(&all[11..]).expect("an answer"), Some(("7".to_owned(), 4)));
        for end in 0..11 {
            assert_eq!(parse(&all[..end]).expect("no error"), None, "{end}");
        }
        let error = parse(b"-ERR no\r\n").expect_err("an error");
        assert!(error.message.contains("ERR no"), "{error:?}");
    }
}
