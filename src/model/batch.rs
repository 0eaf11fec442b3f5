//! A batch of messages in the one buffer it arrived in.

use bytes::Bytes;

/// Messages on their way to the broker. The parts of all of them are ranges of one buffer, so that
/// handing a batch over costs the same for one message and for a thousand.
#[derive(Clone, Debug, Default)]
pub struct MessageBatch {
    buffer: Bytes,
    entries: Vec<Entry>,
}

/// Where the parts of one message lie in the buffer: one after the other from `start`.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    subject: u16,
    reply: u16,
    headers: u32,
    payload: u32,
    /// Where the subject starts if it is not at `start`: batches may name a subject once.
    subject_start: u32,
}

/// One message of a batch, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageView<'a> {
    /// Where it goes.
    pub subject: &'a str,
    /// Where an answer is expected, or empty.
    pub reply: &'a str,
    /// The header block (`NATS/1.0\r\n…\r\n\r\n`), or empty.
    pub headers: &'a [u8],
    /// The message body.
    pub payload: &'a [u8],
}

/// A part of a message lies outside the buffer, is too long, or is not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message's parts do not fit the frame they arrived in")]
pub struct PartsDoNotFit;

impl MessageBatch {
    /// An empty batch over `buffer`, which must be shorter than 4 GiB.
    #[must_use]
    pub fn new(buffer: Bytes) -> Self {
        Self { buffer, entries: Vec::new() }
    }

    /// An empty batch over `buffer`, with room for `count` messages.
    #[must_use]
    pub fn with_capacity(buffer: Bytes, count: usize) -> Self {
        Self { buffer, entries: Vec::with_capacity(count) }
    }

    /// A batch of one message, copied.
    #[must_use]
    pub fn of_one(subject: &str, reply: &str, headers: &[u8], payload: &[u8]) -> Self {
        let mut bytes =
            Vec::with_capacity(subject.len() + reply.len() + headers.len() + payload.len());
        bytes.extend_from_slice(subject.as_bytes());
        bytes.extend_from_slice(reply.as_bytes());
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(payload);
        let mut batch = Self::new(Bytes::from(bytes));
        // The lengths were just put together, so they fit; an oversized subject leaves the batch
        // empty, which the receiver refuses.
        let _ = batch.push(0, (0, subject.len()), reply.len(), headers.len(), payload.len());
        batch
    }

    /// Adds a message whose subject is at `subject` = (start, length), and whose reply, headers and
    /// payload follow each other: from the end of the subject if that is at `start`, otherwise
    /// from `start`. All in bytes.
    ///
    /// # Errors
    /// [`PartsDoNotFit`]; the batch is unchanged then.
    pub fn push(
        &mut self,
        start: usize,
        subject: (usize, usize),
        reply: usize,
        headers: usize,
        payload: usize,
    ) -> Result<(), PartsDoNotFit> {
        let own = if subject.0 == start { subject.1 } else { 0 };
        let end = [own, reply, headers, payload]
            .into_iter()
            .try_fold(start, usize::checked_add)
            .ok_or(PartsDoNotFit)?;
        let subject_end = subject.0.checked_add(subject.1).ok_or(PartsDoNotFit)?;
        if end > self.buffer.len() || subject_end > self.buffer.len() {
            return Err(PartsDoNotFit);
        }
        let text = |from: usize, len: usize| {
            self.buffer.get(from..from + len).is_some_and(|b| std::str::from_utf8(b).is_ok())
        };
        if !text(subject.0, subject.1) || !text(start + own, reply) {
            return Err(PartsDoNotFit);
        }
        self.entries.push(Entry {
            start: u32::try_from(start).map_err(|_| PartsDoNotFit)?,
            subject: u16::try_from(subject.1).map_err(|_| PartsDoNotFit)?,
            reply: u16::try_from(reply).map_err(|_| PartsDoNotFit)?,
            headers: u32::try_from(headers).map_err(|_| PartsDoNotFit)?,
            payload: u32::try_from(payload).map_err(|_| PartsDoNotFit)?,
            subject_start: u32::try_from(subject.0).map_err(|_| PartsDoNotFit)?,
        });
        Ok(())
    }

    /// How many messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that the batch keeps in memory.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.buffer.len() + self.entries.len() * size_of::<Entry>()
    }

    /// A part of a message of this batch as a slice of the shared buffer. Anything else is copied.
    #[must_use]
    pub fn slice(&self, part: &[u8]) -> Bytes {
        let start = (part.as_ptr() as usize).wrapping_sub(self.buffer.as_ptr() as usize);
        if start <= self.buffer.len() && part.len() <= self.buffer.len() - start {
            self.buffer.slice(start..start + part.len())
        } else {
            Bytes::copy_from_slice(part)
        }
    }

    /// The messages in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MessageView<'_>> {
        self.entries.iter().map(|entry| self.view(*entry))
    }

    fn view(&self, entry: Entry) -> MessageView<'_> {
        let start = entry.start as usize;
        let subject_start = entry.subject_start as usize;
        let subject_len = usize::from(entry.subject);
        let own = if subject_start == start { subject_len } else { 0 };
        let reply = start + own;
        let headers = reply + usize::from(entry.reply);
        let payload = headers + entry.headers as usize;
        let bytes = |from: usize, len: usize| self.buffer.get(from..from + len).unwrap_or_default();
        let text = |from, len| std::str::from_utf8(bytes(from, len)).unwrap_or_default();
        MessageView {
            subject: text(subject_start, subject_len),
            reply: text(reply, usize::from(entry.reply)),
            headers: bytes(headers, entry.headers as usize),
            payload: bytes(payload, entry.payload as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_may_be_named_once() {
        let mut batch = MessageBatch::new(Bytes::from_static(b"a.bonetwo"));
        batch.push(0, (0, 3), 0, 0, 3).expect("fits");
        batch.push(6, (0, 3), 0, 0, 3).expect("fits");
        let seen: Vec<_> = batch.iter().map(|m| (m.subject, m.payload)).collect();
        assert_eq!(seen, [("a.b", b"one".as_slice()), ("a.b", b"two".as_slice())]);
    }

    #[test]
    fn parts_outside_the_buffer_are_refused() {
        let mut batch = MessageBatch::new(Bytes::from_static(b"abc"));
        assert_eq!(batch.push(0, (0, 1), 0, 0, 3), Err(PartsDoNotFit));
        assert_eq!(batch.push(0, (2, 2), 0, 0, 0), Err(PartsDoNotFit));
        assert_eq!(batch.push(usize::MAX, (0, 1), 1, 0, 0), Err(PartsDoNotFit));
        assert!(batch.is_empty());
    }

    #[test]
    fn one_message_has_all_its_parts() {
        let batch = MessageBatch::of_one("s", "r", b"h", b"p");
        let message = batch.iter().next().expect("one message");
        assert_eq!((message.subject, message.reply), ("s", "r"));
        assert_eq!((message.headers, message.payload), (b"h".as_slice(), b"p".as_slice()));
    }
}
