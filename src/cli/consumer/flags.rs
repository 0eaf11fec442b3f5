//! A consumer's configuration as flags, or as a file of JSON.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::exit::Failure;
use crate::cli::stream::read_json;
use crate::config::text;
use crate::model::consumer::{AckPolicy, ConsumerConfig, DeliverPolicy, ReplayPolicy};
use crate::model::time::Timestamp;

/// Flags of `consumer add` and `consumer edit`. What is not given stays as it is.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ConsumerFlags {
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Subjects it wants; all of the stream's unless given
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    filter: Vec<String>,
    /// Where it begins: all, new, last, last-per-subject, a sequence, or a time (RFC 3339)
    #[arg(long, value_name = "WHERE", value_parser = start)]
    deliver: Option<Start>,
    /// What an acknowledgement covers
    #[arg(long, value_name = "POLICY")]
    ack: Option<AckWord>,
    /// How long a delivery may stay without an acknowledgement before it is repeated
    #[arg(long, value_name = "DURATION", value_parser = text::positive_duration)]
    ack_wait: Option<Duration>,
    /// Deliveries of one message before it becomes a dead letter; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    max_deliver: Option<i64>,
    /// Waits before each further delivery, with commas between: 1s,10s,1m
    #[arg(long, value_name = "DURATIONS", value_delimiter = ',', value_parser = text::positive_duration)]
    backoff: Vec<Duration>,
    /// Deliveries that may await acknowledgement at a time; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    max_pending: Option<i64>,
    /// How fast stored messages come: instant, original, or a factor such as 10x
    #[arg(long, value_name = "SPEED", value_parser = replay)]
    replay: Option<Replay>,
    /// One message of a key at a time, by subject or by the header of this name
    #[arg(long, value_name = "subject|HEADER")]
    order_by: Option<String>,
    /// Of the next messages, those with the highest Claudebus-Priority (0 to 9) first
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    by_priority: Option<bool>,
    /// Leave payloads out
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    headers_only: Option<bool>,
    /// Delete it when nobody used it for so long
    #[arg(long, value_name = "DURATION", value_parser = text::duration)]
    inactive_threshold: Option<Duration>,
    /// Take what this file gives, JetStream's JSON; flags win over it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// Where a consumer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Start {
    /// A policy that needs nothing else.
    Policy(DeliverPolicy),
    /// At this sequence.
    Sequence(u64),
    /// At this time.
    Time(Timestamp),
}

/// Reads a [`Start`].
pub(in crate::cli) fn start(word: &str) -> Result<Start, String> {
    Ok(Start::Policy(match word {
        "all" => DeliverPolicy::All,
        "new" => DeliverPolicy::New,
        "last" => DeliverPolicy::Last,
        "last-per-subject" => DeliverPolicy::LastPerSubject,
        _ => {
            if let Ok(sequence) = word.parse() {
                return Ok(Start::Sequence(sequence));
            }
            if let Ok(time) = word.parse() {
                return Ok(Start::Time(time));
            }
            return Err(format!(
                "`{word}` is none of all, new, last, last-per-subject, a sequence, or a time such \
                 as 2026-01-31T12:00:00Z"
            ));
        }
    }))
}

impl Start {
    /// Writes it into `config`.
    pub(in crate::cli) fn apply(&self, config: &mut ConsumerConfig) {
        (config.opt_start_seq, config.opt_start_time) = (0, None);
        match self {
            Self::Policy(policy) => config.deliver_policy = *policy,
            Self::Sequence(sequence) => {
                config.deliver_policy = DeliverPolicy::ByStartSequence;
                config.opt_start_seq = *sequence;
            }
            Self::Time(time) => {
                config.deliver_policy = DeliverPolicy::ByStartTime;
                config.opt_start_time = Some(*time);
            }
        }
    }
}

/// `--ack`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AckWord {
    /// Each message is acknowledged
    Explicit,
    /// A message and all before it
    All,
    /// Nothing is acknowledged
    None,
}

/// How fast stored messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Replay {
    policy: ReplayPolicy,
    percent: u64,
}

/// Reads a [`Replay`].
pub(in crate::cli) fn replay(word: &str) -> Result<Replay, String> {
    let original = |percent| Ok(Replay { policy: ReplayPolicy::Original, percent });
    match word {
        "instant" => return Ok(Replay { policy: ReplayPolicy::Instant, percent: 0 }),
        "original" => return original(0),
        _ => {}
    }
    let factor: Option<f64> = word.strip_suffix('x').and_then(|factor| factor.parse().ok());
    match factor.map(|factor| (factor * 100.0).round()) {
        Some(percent) if (1.0..=1_000_000.0).contains(&percent) => original(percent as u64),
        _ => {
            Err(format!("`{word}` is none of instant, original, or a factor from 0.01x to 10000x"))
        }
    }
}

impl Replay {
    /// Writes it into `config`.
    pub(in crate::cli) fn apply(self, config: &mut ConsumerConfig) {
        (config.replay_policy, config.replay_percent) = (self.policy, self.percent);
    }
}

impl ConsumerFlags {
    /// A new durable consumer of this name.
    pub(super) fn create(&self, name: &str) -> Result<ConsumerConfig, Failure> {
        let mut config = match &self.file {
            Some(path) => read_json(path, ConsumerConfig::default())?,
            None => ConsumerConfig { ack_policy: AckPolicy::Explicit, ..Default::default() },
        };
        config.name = Some(name.to_owned());
        config.durable_name = Some(name.to_owned());
        self.apply(&mut config);
        Ok(config)
    }

    /// The consumer `config`, changed.
    pub(super) fn edit(&self, config: ConsumerConfig) -> Result<ConsumerConfig, Failure> {
        let mut edited = match &self.file {
            Some(path) => read_json(path, config.clone())?,
            None => config.clone(),
        };
        edited.name = config.name;
        edited.durable_name = config.durable_name;
        self.apply(&mut edited);
        Ok(edited)
    }

    /// Writes what was given into `config`.
    fn apply(&self, config: &mut ConsumerConfig) {
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(value) = from {
                *to = value;
            }
        }
        if let Some(text) = &self.description {
            config.description = Some(text.clone()).filter(|text| !text.is_empty());
        }
        if !self.filter.is_empty() {
            set_filters(config, &self.filter);
        }
        if let Some(start) = &self.deliver {
            start.apply(config);
        }
        if !self.backoff.is_empty() {
            self.backoff.clone_into(&mut config.backoff);
        }
        set(
            &mut config.ack_policy,
            self.ack.map(|word| match word {
                AckWord::Explicit => AckPolicy::Explicit,
                AckWord::All => AckPolicy::All,
                AckWord::None => AckPolicy::None,
            }),
        );
        if let Some(replay) = self.replay {
            replay.apply(config);
        }
        set(&mut config.ack_wait, self.ack_wait);
        set(&mut config.max_deliver, self.max_deliver);
        set(&mut config.max_ack_pending, self.max_pending);
        if let Some(key) = &self.order_by {
            config.order_by = Some(key.clone());
        }
        set(&mut config.by_priority, self.by_priority);
        set(&mut config.headers_only, self.headers_only);
        set(&mut config.inactive_threshold, self.inactive_threshold);
    }
}

/// Sets one filter or several, each in the field JetStream has for it.
pub(in crate::cli) fn set_filters(config: &mut ConsumerConfig, filters: &[String]) {
    match filters {
        [one] => {
            config.filter_subject = Some(one.clone());
            config.filter_subjects.clear();
        }
        several => {
            config.filter_subject = None;
            several.clone_into(&mut config.filter_subjects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_durable_and_explicit_unless_told_otherwise() {
        let flags = ConsumerFlags {
            filter: vec!["a".into(), "b".into()],
            deliver: Some(Start::Sequence(7)),
            ..Default::default()
        };
        let config = flags.create("c").unwrap();
        assert_eq!(config.durable_name.as_deref(), Some("c"));
        assert_eq!(config.ack_policy, AckPolicy::Explicit);
        assert_eq!(config.filter_subjects, ["a", "b"]);
        assert_eq!(config.opt_start_seq, 7);
        let flags = ConsumerFlags { filter: vec!["c".into()], ..Default::default() };
        let edited = flags.edit(config).unwrap();
        assert_eq!(edited.filters().collect::<Vec<_>>(), ["c"]);
        assert_eq!(edited.deliver_policy, DeliverPolicy::ByStartSequence);
    }

    #[test]
    fn how_fast_it_goes() {
        let percent = |word| replay(word).map(|replay| replay.percent);
        assert_eq!(
            (percent("original"), percent("10x"), percent("0.5x")),
            (Ok(0), Ok(1000), Ok(50))
        );
        assert_eq!(replay("instant").unwrap().policy, ReplayPolicy::Instant);
        for bad in ["fast", "10", "0x", "-1x", "NaNx", "1e9x"] {
            assert!(replay(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn where_a_consumer_begins() {
        assert_eq!(start("new"), Ok(Start::Policy(DeliverPolicy::New)));
        assert_eq!(start("12"), Ok(Start::Sequence(12)));
        assert!(matches!(start("2026-01-31T12:00:00Z"), Ok(Start::Time(_))));
        assert!(start("soon").unwrap_err().contains("soon"));
    }
}
