//! One TCP connection that speaks the protocol of NATS as far as it must to tell operations apart.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// One operation of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// The control line, without what ends it.
    pub(crate) line: String,
    /// The header block, if it is an `HMSG`.
    pub(crate) headers: Option<Vec<u8>>,
    /// The body of a `MSG` or `HMSG`.
    pub(crate) payload: Vec<u8>,
}

impl Operation {
    /// The first word of the line, as the server wrote it.
    pub(crate) fn verb(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The words after the verb; subject, subscription, reply if there is one, sizes.
    fn words(&self) -> Vec<&str> {
        self.line.split_ascii_whitespace().skip(1).collect()
    }

    /// The subject a message was published to; none for other operations.
    pub(crate) fn subject(&self) -> Option<&str> {
        matches!(self.verb(), "MSG" | "HMSG").then(|| self.words().first().copied()).flatten()
    }

    /// The subscription a message came for; none for other operations.
    pub(crate) fn subscription(&self) -> Option<&str> {
        matches!(self.verb(), "MSG" | "HMSG").then(|| self.words().get(1).copied()).flatten()
    }

    /// The reply subject of a message.
    pub(crate) fn reply(&self) -> Option<&str> {
        let sizes = match self.verb() {
            "MSG" => 1,
            "HMSG" => 2,
            _ => return None,
        };
        let words = self.words();
        (words.len() == 3 + sizes).then(|| words[2])
    }

    /// The status of a message that has one on its first line of headers.
    pub(crate) fn status(&self) -> Option<u16> {
        let text = String::from_utf8_lossy(self.headers.as_deref()?).into_owned();
        let first = text.lines().next()?.strip_prefix("NATS/1.0 ")?.to_owned();
        first.split(' ').next()?.parse().ok()
    }
}

/// What a look at the connection came to.
pub(crate) enum Came {
    Operation(Operation),
    /// The server closed the connection.
    End,
    /// Nothing came in time.
    Nothing,
}

/// An open connection, or one that the server has closed.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    is_over: bool,
}

impl Connection {
    /// Connects. What the server says first is not read yet.
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new(), is_over: false }
    }

    /// Sends bytes. A server that has closed the connection does not see them.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Closes it from this side.
    pub(crate) fn close(&mut self) {
        // The server may have closed it already.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.is_over = true;
    }

    /// The next operation that comes before the deadline.
    pub(crate) fn next(&mut self, deadline: Instant) -> Came {
        loop {
            if let Some(operation) = self.take() {
                return Came::Operation(operation);
            }
            if self.is_over {
                return Came::End;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_over = true,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Came::Nothing;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // The peer may reset the connection when it closes it with bytes unread.
                Err(_) => self.is_over = true,
            }
        }
    }

    /// The first whole operation of what was read.
    fn take(&mut self) -> Option<Operation> {
        let end = self.unread.windows(2).position(|pair| pair == b"\r\n")?;
        let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        let mut operation = Operation { line, headers: None, payload: Vec::new() };
        let sizes: Vec<usize> =
            operation.words().iter().rev().map_while(|word| word.parse().ok()).take(2).collect();
        let (header, total) = match (operation.verb(), sizes.as_slice()) {
            ("MSG", [total, ..]) => (0, *total),
            ("HMSG", [total, header]) => (*header, *total),
            _ => {
                self.unread.drain(..end + 2);
                return Some(operation);
            }
        };
        let start = end + 2;
        if self.unread.len() < start + total + 2 {
            return None;
        }
        if operation.verb() == "HMSG" {
            operation.headers = Some(self.unread[start..start + header].to_vec());
        }
        operation.payload = self.unread[start + header..start + total].to_vec();
        self.unread.drain(..start + total + 2);
        Some(operation)
    }
}
