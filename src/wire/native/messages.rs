//! Messages on their way to the server: the layout shared by PUBLISH and SEND.

use bytes::{Bytes, BytesMut};

use super::error::FrameError;
use super::frame::ClientKind;
use super::output::{Output, varints_len};
use super::reader::Reader;
use super::varint::{put_varint, varint_len};
use crate::model::batch::MessageBatch;

/// Flag of a message: it has the subject of the message before it in the frame.
const SAME_SUBJECT: u8 = 1;
/// Flag of a message: it has headers.
const HEADERS: u8 = 2;
/// Flag of a message: it has a reply subject. Not in PUBLISH.
const REPLY: u8 = 4;

/// Flag of SEND: the sender's own subscriptions get the messages too.
const ECHO: u8 = 1;

/// Fewest bytes of a message: flags, and the length of an empty payload.
const LEAST: usize = 2;

/// Most messages that memory is reserved for on a frame's word.
const RESERVE: usize = 4096;

/// Collects messages and encodes them as they come; finished as one PUBLISH or SEND frame.
#[derive(Debug, Default)]
pub struct MessagesWriter {
    bytes: BytesMut,
    count: u64,
    /// Where the subject of the last message with a subject of its own lies.
    subject: (usize, usize),
}

/// Encoded messages with the counters they are published under. Cloning copies no bytes, so that it
/// can be kept and sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Counter of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// The messages, encoded.
    pub messages: Bytes,
}

impl MessagesWriter {
    /// A writer without messages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no messages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a message; `reply` and `headers` may be empty. The lengths are the server's to refuse.
    pub fn push(&mut self, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
        let (start, len) = self.subject;
        let same = self.count > 0
            && self.bytes.get(start..start + len).is_some_and(|last| last == subject.as_bytes());
        let mut flags = if same { SAME_SUBJECT } else { 0 };
        if !headers.is_empty() {
            flags |= HEADERS;
        }
        if !reply.is_empty() {
            flags |= REPLY;
        }
        let out = &mut self.bytes;
        out.extend_from_slice(&[flags]);
        if !same {
            put_varint(out, subject.len() as u64);
        }
        if !reply.is_empty() {
            put_varint(out, reply.len() as u64);
        }
        if !headers.is_empty() {
            put_varint(out, headers.len() as u64);
        }
        put_varint(out, payload.len() as u64);
        if !same {
            self.subject = (out.len(), subject.len());
            out.extend_from_slice(subject.as_bytes());
        }
        out.extend_from_slice(reply.as_bytes());
        out.extend_from_slice(headers);
        out.extend_from_slice(payload);
        self.count += 1;
    }

    /// Takes the messages, numbered from `first`. The writer is empty then.
    #[must_use]
    pub fn numbered(&mut self, first: u64) -> Numbered {
        let count = std::mem::take(&mut self.count);
        Numbered { first, count, messages: self.bytes.split().freeze() }
    }

    /// Appends the messages as a SEND frame. The writer is empty then.
    pub fn encode_send(&mut self, echo: bool, out: &mut Output) {
        let messages = self.bytes.split().freeze();
        let count = std::mem::take(&mut self.count);
        out.frame(ClientKind::Send as u8, &[&messages], |fields| {
            fields.u8(if echo { ECHO } else { 0 }).varint(count);
        });
    }
}

impl Numbered {
    /// Length of the frame, in bytes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        let body = varints_len([self.first, self.count]) + self.messages.len();
        varint_len(body as u64 + 1) + 1 + body
    }

    /// Appends a PUBLISH frame.
    pub fn encode(&self, out: &mut Output) {
        out.frame(ClientKind::Publish as u8, &[&self.messages], |fields| {
            fields.varint(self.first).varint(self.count);
        });
    }
}

/// Encodes a batch anew.
pub(super) fn writer_of(batch: &MessageBatch) -> MessagesWriter {
    let mut writer = MessagesWriter::new();
    for message in batch.iter() {
        writer.push(message.subject, message.reply, message.headers, message.payload);
    }
    writer
}

/// Reads the body of PUBLISH: the first counter and the messages, which stay where they are.
pub(super) fn take_publish(mut reader: Reader) -> Result<(u64, MessageBatch), FrameError> {
    let first = reader.varint()?;
    let batch = take_messages(reader, SAME_SUBJECT | HEADERS)?;
    if batch.is_empty() {
        return Err(FrameError::Malformed { frame: "PUBLISH", what: "it has no messages" });
    }
    Ok((first, batch))
}

/// Reads the body of SEND: the messages, and whether the sender gets them too.
pub(super) fn take_send(mut reader: Reader) -> Result<(MessageBatch, bool), FrameError> {
    let echo = reader.flags(ECHO)? == ECHO;
    Ok((take_messages(reader, SAME_SUBJECT | HEADERS | REPLY)?, echo))
}

fn take_messages(mut reader: Reader, known: u8) -> Result<MessageBatch, FrameError> {
    let count = reader.count(LEAST)?;
    let mut batch = MessageBatch::with_capacity(reader.body().clone(), count.min(RESERVE));
    let mut subject = None;
    for _ in 0..count {
        let flags = reader.flags(known)?;
        let own = if flags & SAME_SUBJECT == 0 { Some(reader.len()?) } else { None };
        let reply = if flags & REPLY == 0 { 0 } else { reader.len()? };
        let headers = if flags & HEADERS == 0 { 0 } else { reader.len()? };
        let payload = reader.len()?;
        let start = reader.position();
        if let Some(len) = own {
            subject = Some((start, len));
        }
        let named = subject.ok_or_else(|| reader.malformed("the first message has no subject"))?;
        // Each length is at most the frame's, so that the sum cannot overflow.
        reader.skip(own.unwrap_or(0) + reply + headers + payload)?;
        batch
            .push(start, named, reply, headers, payload)
            .map_err(|_| reader.malformed("a subject is too long or not UTF-8"))?;
    }
    reader.end()?;
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(out: &mut Output) -> Bytes {
        let mut decoder = super::super::Decoder::new(1 << 20);
        for chunk in out.take() {
            decoder.buffer().extend_from_slice(&chunk);
        }
        decoder.next_frame().expect("a frame").expect("complete").body
    }

    #[test]
    fn a_repeated_subject_is_named_once_and_nothing_is_copied() {
        let mut writer = MessagesWriter::new();
        writer.push("orders.new", "", b"", b"one");
        writer.push("orders.new", "", b"NATS/1.0\r\n\r\n", b"two");
        writer.push("other", "", b"", b"");
        let numbered = writer.numbered(7);
        assert_eq!(numbered.messages.windows(10).filter(|w| w == b"orders.new").count(), 1);
        let mut out = Output::new();
        numbered.encode(&mut out);
        assert_eq!(out.len(), numbered.frame_len());
        let body = body_of(&mut out);
        let range = body.as_ptr_range();
        let (first, batch) = take_publish(Reader::new(body, "PUBLISH")).expect("well formed");
        assert_eq!(first, 7);
        let seen: Vec<_> = batch.iter().map(|m| (m.subject, m.headers.len(), m.payload)).collect();
        assert_eq!(
            seen,
            [("orders.new", 0, &b"one"[..]), ("orders.new", 12, b"two"), ("other", 0, b"")]
        );
        assert!(batch.iter().all(|m| range.contains(&m.subject.as_ptr())));
    }

    #[test]
    fn a_reply_is_not_known_to_publish() {
        let mut writer = MessagesWriter::new();
        writer.push("a", "r", b"", b"");
        let mut out = Output::new();
        writer.numbered(1).encode(&mut out);
        let error = take_publish(Reader::new(body_of(&mut out), "PUBLISH")).unwrap_err();
        assert!(error.to_string().contains("unknown flags"), "{error}");
    }

    #[test]
    fn the_first_message_needs_a_subject() {
        let body = Bytes::from_static(&[1, 1, SAME_SUBJECT, 0]);
        let error = take_publish(Reader::new(body, "PUBLISH")).unwrap_err();
        assert!(error.to_string().contains("no subject"), "{error}");
    }
}
