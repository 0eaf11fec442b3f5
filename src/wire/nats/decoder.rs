//! Cuts what a client sends into operations, and gathers messages in a row into batches.

use bytes::{Buf, BytesMut};

use super::control_line::ControlLine;
use super::error::ProtocolError;
use super::operation::Operation;
use super::publish::{Found, Limits, Message, find};
use crate::model::batch::MessageBatch;

/// Most messages of one batch: enough that handing a batch over costs next to nothing for each, and
/// few enough that other connections are not kept waiting.
const MOST_MESSAGES: usize = 4096;

/// Bytes after which a batch ends: positions in a batch have 32 bits, and one message more than this
/// always fits. In practice what was read at once is less.
const BATCH_BYTES: usize = 8 << 20;

/// Cuts the bytes of one client into operations.
///
/// ```
/// use claudebus::wire::nats::{Decoder, Operation};
/// let mut decoder = Decoder::new(1 << 20, 4096);
/// decoder.buffer().extend_from_slice(b"PUB orders.new 5\r\nhel");
/// assert!(decoder.next_operation().unwrap().is_none());
/// decoder.buffer().extend_from_slice(b"lo\r\nPUB orders.new 0\r\n\r\nPING\r\n");
/// let Ok(Some(Operation::Publish(batch))) = decoder.next_operation() else { panic!() };
/// assert_eq!(batch.iter().map(|m| m.payload).collect::<Vec<_>>(), [&b"hello"[..], b""]);
/// assert!(matches!(decoder.next_operation(), Ok(Some(Operation::Ping))));
/// ```
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limits: Limits,
    /// Bytes that `buffer` must have before it is worth looking at again, as far as is known.
    wanted: usize,
    /// Complete messages at the start of `buffer`. Only kept for its memory.
    row: Vec<Message>,
    /// What was wrong, once something was.
    broken: Option<ProtocolError>,
}

/// Why a row of messages ends.
enum Stop {
    /// The batch is full.
    Full,
    /// Another operation.
    Line(ControlLine),
    /// More bytes are needed: so many in all, if not 0.
    Unfinished(usize),
}

impl Decoder {
    /// A decoder that refuses messages of more than `max_payload` bytes (headers and payload) and
    /// operations whose arguments have more than `max_control_line` bytes, which counts up to
    /// 65,535. Headers are not allowed at first.
    #[must_use]
    pub fn new(max_payload: usize, max_control_line: usize) -> Self {
        // A batch counts the bytes of a subject in 16 bits.
        let control_line = max_control_line.min(usize::from(u16::MAX));
        let limits = Limits { payload: max_payload, control_line, headers: false };
        Self { buffer: BytesMut::new(), limits, wanted: 0, row: Vec::new(), broken: None }
    }

    /// Where received bytes are appended. Messages are slices of what lies here.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether HPUB may come from now on, as CONNECT says.
    pub fn allow_headers(&mut self, allowed: bool) {
        self.limits.headers = allowed;
    }

    /// Bytes still missing to complete the next message, as far as is known; 0 if nothing is. Memory
    /// is to be reserved in bounded steps as bytes arrive, not by what a client claims.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.buffer.len())
    }

    /// The next complete operation, or nothing until more bytes arrive. All complete messages that
    /// follow each other are one operation, up to 4,096 of them. When there is nothing more, less
    /// than the largest message and its control line stays in the buffer.
    ///
    /// # Errors
    /// [`ProtocolError`], after all operations before the fault; the same again from then on.
    pub fn next_operation(&mut self) -> Result<Option<Operation>, ProtocolError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let next = self.decode();
        if let Err(error) = &next {
            self.broken = Some(error.clone());
        }
        next
    }

    fn decode(&mut self) -> Result<Option<Operation>, ProtocolError> {
        while self.buffer.len() >= self.wanted {
            self.wanted = 0;
            let (end, stop) = self.scan();
            if end > 0 {
                // What comes after the row is looked at again when it is at the start.
                return self.take_row(end).map(Some);
            }
            match stop? {
                Stop::Full => return Ok(None),
                Stop::Unfinished(wanted) => {
                    self.wanted = wanted;
                    return Ok(None);
                }
                Stop::Line(line) => {
                    let operation = Operation::of_line(&self.buffer, line)?;
                    self.buffer.advance(line.end);
                    if operation.is_some() {
                        return Ok(operation);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Fills the row with the messages at the start of the buffer. Returns where they end, and why.
    fn scan(&mut self) -> (usize, Result<Stop, ProtocolError>) {
        self.row.clear();
        let mut end = 0;
        while self.row.len() < MOST_MESSAGES && end < BATCH_BYTES {
            match find(&self.buffer, end, self.limits) {
                Ok(Found::Message(message, next)) => {
                    self.row.push(message);
                    end = next;
                }
                Ok(Found::Other(line)) => return (end, Ok(Stop::Line(line))),
                Ok(Found::Unfinished(wanted)) => return (end, Ok(Stop::Unfinished(wanted))),
                Err(error) => return (end, Err(error)),
            }
        }
        (end, Ok(Stop::Full))
    }

    /// Makes a batch of the row, which ends at `end`.
    fn take_row(&mut self, end: usize) -> Result<Operation, ProtocolError> {
        let bytes = self.buffer.split_to(end).freeze();
        let mut batch = MessageBatch::with_capacity(bytes, self.row.len());
        for message in &self.row {
            let Message { subject, reply, body, headers, payload } = *message;
            // Lengths and positions fit by the limits above, so that only text can be wrong.
            if batch.push_parts(subject, reply, body, headers, payload).is_err() {
                self.broken = Some(ProtocolError::NotText);
                break;
            }
        }
        if batch.is_empty() { Err(ProtocolError::NotText) } else { Ok(Operation::Publish(batch)) }
    }
}
