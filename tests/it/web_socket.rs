//! A WebSocket client of RFC 6455 alone, byte by byte, so that frames are cut as a test wants them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::nats_wire::Stream;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The key and what must be answered to it are the document's own (section 1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The first bit of a message's last frame.
pub(crate) const LAST: u8 = 0x80;

/// An open connection.
pub(crate) struct WebSocket {
    stream: Box<dyn Stream>,
    /// The answer that opened it.
    head: String,
    /// What binary frames have brought and nobody has read yet.
    received: Vec<u8>,
}

impl WebSocket {
    /// Connects; the answer's status line and headers if it is not the one that opens a WebSocket.
    pub(crate) fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, String> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self::open_over(Box::new(stream), address, path, headers)
    }

    /// The same over a connection that is there, to a server at `address`.
    pub(crate) fn open_over(
        mut stream: Box<dyn Stream>,
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, String> {
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        if !head.starts_with("HTTP/1.1 101") {
            return Err(head);
        }
        assert!(head.contains(ACCEPT), "{head}");
        Ok(Self { stream, head, received: Vec::new() })
    }

    /// The status line and headers that opened it.
    pub(crate) fn head(&self) -> &str {
        &self.head
    }

    /// Sends these bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends one frame. `first` is its first byte: what it is, and [`LAST`] or not.
    pub(crate) fn frame(&mut self, first: u8, payload: &[u8]) {
        /// Changes what is sent, as a client must.
        const MASK: [u8; 4] = [0x11, 0x22, 0x44, 0x88];
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length @ 126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).unwrap();
    }

    /// Sends a message of one frame.
    pub(crate) fn send(&mut self, text: &str) {
        self.frame(LAST | BINARY, text.as_bytes());
    }

    /// The next frame: what it is, and its payload. The server's frames are whole messages.
    pub(crate) fn next_frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).unwrap();
        assert_eq!(head[1] & 0x80, 0, "servers do not mask");
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length).unwrap();
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.stream.read_exact(&mut length).unwrap();
                u64::from_be_bytes(length)
            }
            length => length.into(),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).unwrap();
        assert_eq!(head[0] & LAST, LAST, "the frame is a whole message");
        (head[0] & 0x0F, payload)
    }

    /// Takes `count` bytes from the frames that come, all of which must be binary.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            let (kind, payload) = self.next_frame();
            assert_eq!(kind, BINARY, "{payload:?}");
            self.received.extend(payload);
        }
        self.received.drain(..count).collect()
    }

    /// Takes a line, without its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.bytes(1));
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).unwrap()
    }

    /// Whether the other side ends the connection, whatever it says before.
    pub(crate) fn ends(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Whether the other side has ended the connection, which is waited for.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}
