//! Streams that a configuration wants, as JetStream configurations.

use std::time::Duration;

use super::sections::{EventBus, StreamRetention, StreamSection};
use crate::model::stream::{Retention, StreamConfig};

/// For how long message ids are remembered unless a stream says otherwise.
const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(120);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The streams that come into being at their first message: name, subjects, age and count.
pub const DEFAULT_STREAMS: [(&str, &str, Duration, i64); 4] = [
    ("CLAUDE_EVENTS", "claude.>", Duration::from_secs(7 * DAY.as_secs()), 100_000),
    ("MCP_EVENTS", "mcp.>", Duration::from_secs(3 * DAY.as_secs()), 50_000),
    ("SYSTEM_EVENTS", "system.>", Duration::from_secs(30 * DAY.as_secs()), 1_000_000),
    ("AI_EVENTS", "ai.>", Duration::from_secs(90 * DAY.as_secs()), 500_000),
];

/// The streams of a configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamPlan {
    /// Made at start-up, or brought to this form.
    pub configured: Vec<StreamConfig>,
    /// Made at their first message, unless somebody defines them otherwise before.
    pub provisional: Vec<StreamConfig>,
}

impl StreamPlan {
    /// What `event_bus` asks for.
    #[must_use]
    pub fn new(event_bus: &EventBus) -> Self {
        let configured: Vec<_> = event_bus.streams.iter().map(StreamConfig::from).collect();
        let mut provisional =
            if event_bus.default_streams { default_streams() } else { Vec::new() };
        provisional.retain(|stream| configured.iter().all(|other| other.name != stream.name));
        Self { configured, provisional }
    }
}

/// [`DEFAULT_STREAMS`] as configurations.
#[must_use]
pub fn default_streams() -> Vec<StreamConfig> {
    DEFAULT_STREAMS
        .iter()
        .map(|&(name, subject, max_age, max_msgs)| StreamConfig {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            max_age,
            max_msgs,
            duplicate_window: DEDUPLICATION_WINDOW,
            ..StreamConfig::default()
        })
        .collect()
}

impl From<&StreamSection> for StreamConfig {
    fn from(section: &StreamSection) -> Self {
        let (retention, age) = match section.retention {
            Some(StreamRetention::Age(age)) => (Retention::Limits, Some(age)),
            Some(StreamRetention::Policy(policy)) => (policy, None),
            None => (Retention::Limits, None),
        };
        let max_age = section.max_age.or(age).unwrap_or_default();
        // A window longer than the messages live is refused by JetStream.
        let window = section.deduplication_window.unwrap_or(DEDUPLICATION_WINDOW);
        let duplicate_window = if max_age.is_zero() { window } else { window.min(max_age) };
        let limit = |limit: Option<u64>| limit.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX));
        let mut config = Self {
            name: section.name.clone(),
            description: section.description.clone(),
            subjects: section.subjects.clone(),
            retention,
            max_age,
            duplicate_window,
            max_msgs: limit(section.max_msgs),
            max_bytes: limit(section.max_bytes),
            max_msg_size: limit(section.max_msg_size),
            max_msgs_per_subject: limit(section.max_msgs_per_subject),
            discard: section.discard,
            storage: section.storage,
            block_compression: section.compression,
            ..Self::default()
        };
        config.dead_letters.enabled = section.dead_letters;
        config
    }
}
