//! Messages on their way out.

use std::time::Duration;

use bytes::Bytes;

use crate::model::duration::to_go;
use crate::model::headers::{Block, is_key, is_value, names};
use crate::model::schedule;
use crate::model::time::Timestamp;

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
    ttl: Option<Duration>,
    schedule: Option<Scheduled>,
    schedule_name: Option<String>,
}

/// When a message is to be published.
#[derive(Clone, Debug)]
struct Scheduled {
    /// As [`names::SCHEDULE`] has it.
    pattern: String,
    time_zone: Option<String>,
}

impl Message {
    /// A message without headers.
    #[must_use]
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            subject: subject.into(),
            headers: None,
            payload: payload.into(),
            wrong_header: None,
            ttl: None,
            schedule: None,
            schedule_name: None,
        }
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
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Published at this time, or at once if it has passed. The server keeps it until then, through
    /// restarts, and publishes it once. Its acknowledgement tells where it is kept; listed by
    /// [`Client::schedules`](super::Client::schedules).
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let server = claudebus::server::Server::builder().start().await.unwrap();
    /// # let client =
    /// #     claudebus::client::Client::builder().connect_over(server.connect()).await?;
    /// # client.create_stream(claudebus::client::StreamConfig {
    /// #     name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default()
    /// # }).await?;
    /// use std::time::Duration;
    ///
    /// use claudebus::client::Message;
    ///
    /// let reminder = Message::new("orders.remind", "4711").deliver_after(Duration::from_secs(600));
    /// client.publish_message(reminder).await?;
    /// let report = Message::new("orders.report", "")
    ///     .deliver_cron("0 8 * * 1-5", Some("Europe/Berlin"))
    ///     .schedule_name("morning-report");
    /// client.publish_message(report).await?;
    /// assert_eq!(client.schedules(None).await?.len(), 2);
    /// client.cancel_schedule("morning-report").await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn deliver_at(self, time: Timestamp) -> Self {
        self.deliver(format!("@at {time}"), None)
    }

    /// Published so long after the server has stored it, once; see [`Self::deliver_at`].
    #[must_use]
    pub fn deliver_after(self, wait: Duration) -> Self {
        self.deliver(format!("@after {}", to_go(wait)), None)
    }

    /// Published again and again, so often, the first time after that long; at least a second. What
    /// passes while no server runs is made up for by one message. See [`Self::deliver_at`].
    #[must_use]
    pub fn deliver_every(self, interval: Duration) -> Self {
        self.deliver(format!("@every {}", to_go(interval)), None)
    }

    /// Published whenever a cron expression says so, in a time zone (`Europe/Berlin`) or UTC: minute,
    /// hour, day of month, month, day of week; with six fields, seconds come first. See
    /// [`Self::deliver_at`].
    #[must_use]
    pub fn deliver_cron(self, expression: impl Into<String>, time_zone: Option<&str>) -> Self {
        self.deliver(expression.into(), time_zone)
    }

    fn deliver(mut self, pattern: String, time_zone: Option<&str>) -> Self {
        let time_zone = time_zone.map(str::to_owned);
        self.schedule = Some(Scheduled { pattern, time_zone });
        self
    }

    /// Names the schedule of a message that is to be delivered later: letters and digits, no dots. A
    /// second message of the same name replaces the first. Without a name it has one by chance.
    #[must_use]
    pub fn schedule_name(mut self, name: impl Into<String>) -> Self {
        self.schedule_name = Some(name.into());
        self
    }

    /// The subject, the header block or nothing, and the payload, as they are sent.
    pub(super) fn into_parts(self) -> (String, Vec<u8>, Bytes) {
        let Self { mut subject, mut headers, payload, ttl, schedule, schedule_name, .. } = self;
        let ttl = ttl.map(|ttl| format!("{}s", ttl.as_secs()));
        if let Some(Scheduled { pattern, time_zone }) = schedule {
            let block = headers.get_or_insert_default();
            block.add(names::SCHEDULE, &pattern).add(names::SCHEDULE_TARGET, &subject);
            if let Some(zone) = time_zone {
                block.add(names::SCHEDULE_TIME_ZONE, &zone);
            }
            if let Some(ttl) = ttl {
                block.add(names::SCHEDULE_TTL, &ttl);
            }
            let name = schedule_name.unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
            subject = format!("{}{name}", schedule::PREFIX);
        } else if let Some(ttl) = ttl {
            headers.get_or_insert_default().add(names::TTL, &ttl);
        }
        (subject, headers.map(Block::finish).unwrap_or_default(), payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::headers;

    #[test]
    fn a_later_message_goes_to_its_schedule() {
        let message = Message::new("a.b", "x").ttl(Duration::from_secs(9));
        let (subject, block, _) = message.clone().into_parts();
        assert_eq!((&*subject, headers::get(&block, "Nats-TTL")), ("a.b", Some("9s")));
        let first = message.clone().schedule_name("n").deliver_after(Duration::from_secs(1));
        assert_eq!(first.into_parts().0, "$SCHEDULE.n", "the order of the calls does not matter");
        let later = message.deliver_cron("0 8 * * *", Some("UTC")).schedule_name("n");
        let (subject, block, _) = later.into_parts();
        assert_eq!(subject, "$SCHEDULE.n");
        for (key, value) in [
            ("Nats-Schedule", Some("0 8 * * *")),
            ("Nats-Schedule-Target", Some("a.b")),
            ("Nats-Schedule-Time-Zone", Some("UTC")),
            ("Nats-Schedule-TTL", Some("9s")),
            ("Nats-TTL", None),
        ] {
            assert_eq!(headers::get(&block, key), value, "{key}");
        }
    }

    #[test]
    fn headers_are_built_and_wrong_ones_noted() {
        let message = Message::new("a", "x").id("7").header("K", "v");
        assert_eq!(message.wrong_header, None);
        let (_, block, _) = message.into_parts();
        assert!(headers::is_well_formed(&block));
        assert_eq!(headers::get(&block, "Nats-Msg-Id"), Some("7"));
        let wrong = Message::new("a", "x").header("two words", "v").header("K", "a\r\nb");
        assert_eq!(wrong.wrong_header.as_deref(), Some("two words"));
    }
}
