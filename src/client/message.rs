//! Messages on their way out.

use bytes::Bytes;

use crate::model::headers::{Block, is_key, is_value, names};

/// A message to publish or send: a subject, headers, and a payload.
///
/// ```
/// use claudebus::client::Message;
///
/// let message = Message::new("orders.new", r#"{"total": 12}"#)
///     .header("Trace", "8f2c")
///     .id("order-4711");
/// ```
#[derive(Clone, Debug)]
pub struct Message {
    pub(super) subject: String,
    pub(super) headers: Option<Block>,
    pub(super) payload: Bytes,
    /// The first header that cannot be one.
    pub(super) wrong_header: Option<String>,
}

impl Message {
    /// A message without headers.
    #[must_use]
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), headers: None, payload: payload.into(), wrong_header: None }
    }

    /// Adds a header. Keys may be given more than once. Whatever cannot be a header is refused when
    /// the message is published.
    #[must_use]
    pub fn header(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let (key, value) = (key.as_ref(), value.as_ref());
        if !is_key(key) || !is_value(value) {
            self.wrong_header.get_or_insert_with(|| key.to_owned());
        }
        self.headers.get_or_insert_default().add(key, value);
        self
    }

    /// The message's id: a second message with the same id within the stream's duplicate window is
    /// not stored again. Needed only when an application publishes the same event again by itself;
    /// what the client resends after a lost connection is stored once anyway.
    #[must_use]
    pub fn id(self, id: impl AsRef<str>) -> Self {
        self.header(names::MESSAGE_ID, id)
    }

    /// Only the stream of this name shall store it.
    #[must_use]
    pub fn expect_stream(self, stream: impl AsRef<str>) -> Self {
        self.header(names::EXPECTED_STREAM, stream)
    }

    /// Stored only if the stream's last sequence is this.
    #[must_use]
    pub fn expect_last_sequence(self, seq: u64) -> Self {
        self.header(names::EXPECTED_LAST_SEQUENCE, seq.to_string())
    }

    /// Stored only if the last sequence of the message's subject is this; zero for no message yet.
    #[must_use]
    pub fn expect_last_subject_sequence(self, seq: u64) -> Self {
        self.header(names::EXPECTED_LAST_SUBJECT_SEQUENCE, seq.to_string())
    }

    /// Removed after this time, on streams that allow it. At least a second; parts of seconds are
    /// cut off.
    #[must_use]
    pub fn ttl(self, ttl: std::time::Duration) -> Self {
        self.header(names::TTL, format!("{}s", ttl.as_secs()))
    }

    /// The header block, or nothing.
    pub(super) fn into_headers(self) -> (String, Vec<u8>, Bytes) {
        (self.subject, self.headers.map(Block::finish).unwrap_or_default(), self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::headers;

    #[test]
    fn headers_are_built_and_wrong_ones_noted() {
        let message = Message::new("a", "x").id("7").header("K", "v");
        assert_eq!(message.wrong_header, None);
        let (_, block, _) = message.into_headers();
        assert!(headers::is_well_formed(&block));
        assert_eq!(headers::get(&block, "Nats-Msg-Id"), Some("7"));
        let wrong = Message::new("a", "x").header("two words", "v").header("K", "a\r\nb");
        assert_eq!(wrong.wrong_header.as_deref(), Some("two words"));
    }
}
