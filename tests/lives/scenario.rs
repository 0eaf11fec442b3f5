//! What runs against the broker: streams of every kind of retention, and their consumers.

use std::time::Duration;

use claudebus::client::{AckPolicy, ConsumerConfig, DeadLetters, Discard, Retention, StreamConfig};

use super::payload::Name;

/// When messages must leave a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Never.
    Keep,
    /// When it holds so many newer ones.
    Count(u64),
    /// When newer ones fill so many bytes.
    Bytes(u64),
    /// When they are so old.
    Age(Duration),
    /// When their subject holds so many newer ones.
    PerSubject(u64),
    /// Not before the application purges them; new ones are refused past so many.
    Full(u64),
    /// When the queue's consumer is done with them.
    WorkQueue,
    /// When both consumers are done with them.
    Interest,
    /// Never; published with message ids, some of them again.
    Ids,
    /// When the application deletes them, one by one.
    Edited,
}

/// One stream.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Its name.
    pub stream: &'static str,
    /// What leaves it.
    pub rule: Rule,
    /// How many publishers it has.
    pub publishers: u16,
    /// Messages that each of them has in flight at once.
    pub burst: u64,
    /// How many subjects it has.
    pub subjects: u64,
}

const fn line(
    stream: &'static str,
    rule: Rule,
    publishers: u16,
    burst: u64,
    subjects: u64,
) -> Line {
    Line { stream, rule, publishers, burst, subjects }
}

/// All streams. Their index is how the oracle names them.
pub const LINES: &[Line] = &[
    line("KEEP", Rule::Keep, 2, 200, 16),
    line("COUNT", Rule::Count(3_000), 1, 200, 8),
    line("BYTES", Rule::Bytes(1 << 20), 1, 200, 8),
    line("AGE", Rule::Age(Duration::from_secs(8)), 1, 100, 8),
    line("SUBJECT", Rule::PerSubject(3), 1, 100, 500),
    line("FULL", Rule::Full(1_500), 1, 50, 4),
    line("WORK", Rule::WorkQueue, 2, 150, 2),
    line("INTEREST", Rule::Interest, 1, 100, 8),
    line("IDS", Rule::Ids, 1, 100, 8),
    line("EDITED", Rule::Edited, 1, 100, 8),
];

impl Line {
    /// Where a message is published.
    pub fn subject(&self, name: Name) -> String {
        format!("{}.{}", self.stream.to_lowercase(), self.subject_index(name))
    }

    /// Which of the stream's subjects that is.
    pub fn subject_index(&self, name: Name) -> u64 {
        // Publishers of one stream share its subjects.
        (name.n / 3 + u64::from(name.publisher)) % self.subjects
    }

    /// The message id it is published with, if any.
    pub fn message_id(&self, name: Name) -> Option<String> {
        (self.rule == Rule::Ids).then(|| format!("{}-{}", name.publisher, name.n))
    }

    /// How the stream is created.
    pub fn config(&self) -> StreamConfig {
        let mut config = StreamConfig {
            name: self.stream.to_owned(),
            subjects: vec![format!("{}.>", self.stream.to_lowercase())],
            dead_letters: DeadLetters::default(),
            ..StreamConfig::default()
        };
        match self.rule {
            Rule::Keep | Rule::Edited => {}
            Rule::Ids => config.duplicate_window = Duration::from_secs(120),
            Rule::Count(most) => config.max_msgs = most as i64,
            Rule::Bytes(most) => config.max_bytes = most as i64,
            Rule::Age(most) => config.max_age = most,
            Rule::PerSubject(most) => config.max_msgs_per_subject = most as i64,
            Rule::Full(most) => {
                config.max_msgs = most as i64;
                config.discard = Discard::New;
            }
            Rule::WorkQueue => config.retention = Retention::WorkQueue,
            Rule::Interest => config.retention = Retention::Interest,
        }
        config
    }
}

/// How a consumer's application works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Fetches, then waits until each acknowledgement is confirmed. What the oracle may then be
    /// strict about.
    Confirmed,
    /// Receives continuously and acknowledges without waiting.
    Streamed,
}

/// One consumer.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerLine {
    /// Index of its stream in [`LINES`].
    pub line: usize,
    /// Its name.
    pub name: &'static str,
    /// The one subject it wants (index), or all.
    pub subject: Option<u64>,
    /// Attempts before a message is dead; none for no limit.
    pub max_deliver: Option<u64>,
    /// How its application works.
    pub style: Style,
}

/// Time to acknowledge. Short, so that rounds see redeliveries; far longer than an application
/// needs here.
pub const ACK_WAIT: Duration = Duration::from_millis(1500);

const fn consumer(
    line: usize,
    name: &'static str,
    subject: Option<u64>,
    max_deliver: Option<u64>,
    style: Style,
) -> ConsumerLine {
    ConsumerLine { line, name, subject, max_deliver, style }
}

/// All consumers. Their index is how the oracle names them.
pub const CONSUMERS: &[ConsumerLine] = &[
    consumer(0, "keep", None, Some(2), Style::Confirmed),
    consumer(1, "tail", None, None, Style::Streamed),
    consumer(6, "even", Some(0), Some(2), Style::Confirmed),
    consumer(6, "odd", Some(1), Some(2), Style::Confirmed),
    consumer(7, "first", None, None, Style::Confirmed),
    consumer(7, "second", None, None, Style::Streamed),
];

impl ConsumerLine {
    /// The stream it reads.
    pub fn stream(&self) -> &'static str {
        LINES[self.line].stream
    }

    /// Whether it gets this message.
    pub fn wants(&self, name: Name) -> bool {
        self.subject.is_none_or(|subject| LINES[self.line].subject_index(name) == subject)
    }

    /// Whether its application never manages this message, so that it must become a dead letter.
    pub fn fails_on(&self, name: Name) -> bool {
        self.max_deliver.is_some() && name.n % 64 == 7
    }

    /// How the consumer is created.
    pub fn config(&self) -> ConsumerConfig {
        let filter = self.subject.map(|n| format!("{}.{n}", self.stream().to_lowercase()));
        ConsumerConfig {
            durable_name: Some(self.name.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: self.max_deliver.map_or(-1, |n| n as i64),
            max_ack_pending: 5_000,
            filter_subject: filter,
            ..ConsumerConfig::default()
        }
    }
}
