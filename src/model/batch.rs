//! A batch of messages in the one buffer it arrived in.

use std::ops::Range;

use bytes::Bytes;

/// Messages on their way to the broker. The parts of all of them are ranges of one buffer, so that
/// handing a batch over costs the same for one message and for a thousand.
#[derive(Clone, Debug, Default)]
pub struct MessageBatch {
    buffer: Bytes,
    entries: Vec<Entry>,
}

/// Where the parts of one message lie in the buffer, in bytes from its start. Headers and payload
/// follow each other from `body`.
#[derive(Clone, Copy, Debug)]
struct Entry {
    subject_start: u32,
    reply_start: u32,
    body: u32,
    headers: u32,
    payload: u32,
    subject: u16,
    reply: u16,
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
        let reply_start = start.checked_add(own).ok_or(PartsDoNotFit)?;
        let body = reply_start.checked_add(reply).ok_or(PartsDoNotFit)?;
        self.push_parts(subject, (reply_start, reply), body, headers, payload)
    }

    /// Adds a message whose `subject` and `reply` = (start, length) lie anywhere in the buffer, and
    /// whose headers and payload follow each other from `body`. A reply of length 0 is none,
    /// wherever it starts. All in bytes.
    ///
    /// # Errors
    /// [`PartsDoNotFit`]; the batch is unchanged then.
    pub fn push_parts(
        &mut self,
        subject: (usize, usize),
        reply: (usize, usize),
        body: usize,
        headers: usize,
        payload: usize,
    ) -> Result<(), PartsDoNotFit> {
        let reply = if reply.1 == 0 { (0, 0) } else { reply };
        let end = body.checked_add(headers).and_then(|end| end.checked_add(payload));
        if end.is_none_or(|end| end > self.buffer.len()) {
            return Err(PartsDoNotFit);
        }
        if !self.is_text(subject) || !self.is_text(reply) {
            return Err(PartsDoNotFit);
        }
        let number = |value: usize| u32::try_from(value).map_err(|_| PartsDoNotFit);
        let short = |value: usize| u16::try_from(value).map_err(|_| PartsDoNotFit);
        self.entries.push(Entry {
            subject_start: number(subject.0)?,
            reply_start: number(reply.0)?,
            body: number(body)?,
            headers: number(headers)?,
            payload: number(payload)?,
            subject: short(subject.1)?,
            reply: short(reply.1)?,
        });
        Ok(())
    }

    /// Whether (start, length) is a part of the buffer, and UTF-8.
    fn is_text(&self, (start, len): (usize, usize)) -> bool {
        start
            .checked_add(len)
            .and_then(|end| self.buffer.get(start..end))
            .is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
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

    /// Some of the messages, by their positions from 0, over the same buffer. Positions beyond the
    /// last message give nothing.
    #[must_use]
    pub fn range(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.entries.len());
        let entries = self.entries.get(range.start..end).unwrap_or_default().to_vec();
        Self { buffer: self.buffer.clone(), entries }
    }

    /// Leaves out the messages that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(MessageView<'_>) -> bool) {
        let kept = self.entries.iter().copied().filter(|entry| keep(self.view(*entry))).collect();
        self.entries = kept;
    }

    /// The message at this position from 0, if there is one.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<MessageView<'_>> {
        self.entries.get(at).map(|entry| self.view(*entry))
    }

    /// The messages in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MessageView<'_>> {
        self.entries.iter().map(|entry| self.view(*entry))
    }

    fn view(&self, entry: Entry) -> MessageView<'_> {
        let headers = entry.body as usize;
        let payload = headers + entry.headers as usize;
        let bytes = |from: usize, len: usize| self.buffer.get(from..from + len).unwrap_or_default();
        let text = |from: u32, len: u16| {
            std::str::from_utf8(bytes(from as usize, usize::from(len))).unwrap_or_default()
        };
        MessageView {
            subject: text(entry.subject_start, entry.subject),
            reply: text(entry.reply_start, entry.reply),
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

    #[test]
    fn parts_may_lie_anywhere() {
        let mut batch = MessageBatch::new(Bytes::from_static(b"PUB a.b re 4\r\nhhpp\r\n"));
        batch.push_parts((4, 3), (8, 2), 14, 2, 2).expect("fits");
        batch.push_parts((4, 1), (usize::MAX, 0), 20, 0, 0).expect("fits");
        let first = batch.get(0).expect("the first");
        assert_eq!((first.subject, first.reply), ("a.b", "re"));
        assert_eq!((first.headers, first.payload), (b"hh".as_slice(), b"pp".as_slice()));
        let second = batch.get(1).expect("the second");
        assert_eq!((second.subject, second.reply), ("a", ""));
        assert!(second.headers.is_empty() && second.payload.is_empty());
        assert_eq!(batch.get(2), None);
    }

    #[test]
    fn parts_that_lie_outside_or_are_no_text_are_refused() {
        let mut batch = MessageBatch::new(Bytes::from_static(b"ab\xff"));
        for (subject, reply, body, headers, payload) in [
            ((2, 1), (0, 0), 0, 0, 0),
            ((0, 1), (2, 1), 0, 0, 0),
            ((3, 1), (0, 0), 0, 0, 0),
            ((usize::MAX, 2), (0, 0), 0, 0, 0),
            ((0, 1), (1, usize::MAX), 0, 0, 0),
            ((0, 1), (0, 0), 1, 2, 1),
            ((0, 1), (0, 0), usize::MAX, 1, 0),
            ((0, 1), (0, 0), 1, usize::MAX, usize::MAX),
        ] {
            let refused = batch.push_parts(subject, reply, body, headers, payload);
            assert_eq!(refused, Err(PartsDoNotFit), "{subject:?} {reply:?} {body}");
        }
        assert!(batch.is_empty());
        batch.push_parts((0, 2), (0, 1), 0, 0, 3).expect("payloads need not be text");
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let mut batch = MessageBatch::new(Bytes::from_static(b"abc"));
        for at in 0..3 {
            batch.push(at, (at, 1), 0, 0, 0).expect("fits");
        }
        batch.retain(|message| message.subject != "b");
        assert_eq!(batch.iter().map(|message| message.subject).collect::<String>(), "ac");
    }

    #[test]
    fn a_subject_too_long_to_count_is_refused() {
        let longest = usize::from(u16::MAX);
        let mut batch = MessageBatch::new(Bytes::from(vec![b'a'; longest + 1]));
        batch.push_parts((0, longest), (0, longest), 0, 0, 0).expect("at the limit");
        assert_eq!(batch.push_parts((0, longest + 1), (0, 0), 0, 0, 0), Err(PartsDoNotFit));
        assert_eq!(batch.push_parts((0, 1), (0, longest + 1), 0, 0, 0), Err(PartsDoNotFit));
    }

    #[test]
    fn a_range_has_some_of_the_messages_and_copies_no_bytes() {
        let mut batch = MessageBatch::new(Bytes::from_static(b"abc"));
        for at in 0..3 {
            batch.push(at, (at, 1), 0, 0, 0).expect("fits");
        }
        let subjects = |batch: &MessageBatch| batch.iter().map(|m| m.subject).collect::<String>();
        assert_eq!(subjects(&batch.range(0..3)), "abc");
        assert_eq!(subjects(&batch.range(1..2)), "b");
        assert_eq!(subjects(&batch.range(1..9)), "bc");
        assert!(batch.range(3..9).is_empty() && batch.range(5..6).is_empty());
        let whole = batch.get(1).expect("the second").subject.as_ptr();
        assert_eq!(batch.range(1..2).get(0).expect("one").subject.as_ptr(), whole);
    }
}
