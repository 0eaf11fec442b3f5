//! `claudebus consumer`: look after consumers.

mod flags;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::Global;
use super::connect::connect;
use super::exit::Failure;
use super::output::{Output, confirm, thousands};
use super::stream::{deleted, nonzero};
use crate::config::text::{self, show_duration};
use crate::model::consumer::{
    AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, Idle, ReplayPolicy,
};
use crate::model::time::Timestamp;
use flags::ConsumerFlags;
pub(super) use flags::{Replay, Start, replay, set_filters, start};

/// `claudebus consumer`.
#[derive(Debug, Args)]
pub(super) struct Consumer {
    #[command(subcommand)]
    command: ConsumerCommand,
}

/// Which consumer.
#[derive(Debug, Args)]
struct Which {
    /// The stream
    stream: String,
    /// The consumer
    consumer: String,
}

#[derive(Debug, Subcommand)]
enum ConsumerCommand {
    /// List a stream's consumers
    #[command(visible_alias = "list")]
    Ls {
        /// The stream
        stream: String,
    },
    /// Show a consumer's configuration and state, and why it is idle
    Info(Which),
    /// Create a durable consumer
    #[command(visible_alias = "create")]
    Add {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        flags: Box<ConsumerFlags>,
    },
    /// Change a consumer; what is not given stays
    Edit {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        flags: Box<ConsumerFlags>,
    },
    /// Delete a consumer
    #[command(visible_alias = "delete")]
    Rm {
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Deliver nothing for a while
    Pause {
        #[command(flatten)]
        which: Which,
        /// How long
        #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = text::positive_duration)]
        duration: Duration,
    },
    /// Deliver again
    Resume(Which),
    /// Take messages from a consumer and acknowledge them
    Next(super::subscribe::Next),
}

/// Runs `claudebus consumer`.
pub(super) async fn run(
    consumer: &Consumer,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = connect(global).await?;
    match &consumer.command {
        ConsumerCommand::Ls { stream } => list(&client.list_consumers(stream).await?, output),
        ConsumerCommand::Info(Which { stream, consumer }) => {
            info(&client.consumer_info(stream, consumer).await?, output)
        }
        ConsumerCommand::Add { which: Which { stream, consumer }, flags } => {
            let config = flags.create(consumer)?;
            info(&client.add_consumer(stream, config).await?.info().await?, output)
        }
        ConsumerCommand::Edit { which: Which { stream, consumer }, flags } => {
            let config = flags.edit(client.consumer_info(stream, consumer).await?.config)?;
            info(&client.update_consumer(stream, config).await?.info().await?, output)
        }
        ConsumerCommand::Rm { which: Which { stream, consumer }, yes } => {
            let pending = client.consumer_info(stream, consumer).await?.num_pending;
            let pending = thousands(pending);
            let question = format!(
                "Delete consumer {consumer} of {stream}, which has {pending} messages to come?"
            );
            confirm(&question, *yes)?;
            client.delete_consumer(stream, consumer).await?;
            deleted(&format!("consumer {consumer} of {stream}"), output)
        }
        ConsumerCommand::Pause { which: Which { stream, consumer }, duration } => {
            let until =
                now().0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
            client.pause_consumer(stream, consumer, Some(Timestamp(until))).await?;
            info(&client.consumer_info(stream, consumer).await?, output)
        }
        ConsumerCommand::Resume(Which { stream, consumer }) => {
            client.pause_consumer(stream, consumer, None).await?;
            info(&client.consumer_info(stream, consumer).await?, output)
        }
        ConsumerCommand::Next(next) => super::subscribe::next(next, &client, output).await,
    }
}

/// The time on the wall.
pub(super) fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(u64::try_from(since_epoch.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX))
}

/// Prints consumers, one a line.
fn list(consumers: &[ConsumerInfo], output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return consumers.iter().try_for_each(|info| output.json(info));
    }
    if consumers.is_empty() {
        output.talk("the stream has no consumers");
    }
    output.table(
        [
            "Consumer",
            "Filter",
            "To come",
            "Unacknowledged",
            "Redelivered",
            "Acknowledged to",
            "Idle",
        ],
        consumers.iter().map(|info| {
            [
                info.name.clone(),
                filters(&info.config),
                thousands(info.num_pending),
                thousands(info.num_ack_pending),
                thousands(info.num_redelivered),
                info.ack_floor.stream_seq.to_string(),
                info.idle.as_ref().map(why_idle).unwrap_or_default(),
            ]
        }),
    )
}

/// A consumer's filters in a line.
fn filters(config: &ConsumerConfig) -> String {
    let filters: Vec<_> = config.filters().collect();
    if filters.is_empty() { ">".to_owned() } else { filters.join(" ") }
}

/// Prints all about one consumer.
fn info(info: &ConsumerInfo, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(info);
    }
    output.line(format_args!("Consumer {} of stream {}", info.name, info.stream_name))?;
    output.pairs(describe(&info.config))?;
    output.line("")?;
    let paused = if info.paused { show_duration(info.pause_remaining) } else { String::new() };
    output.pairs([
        ("To come", thousands(info.num_pending)),
        ("Unacknowledged", thousands(info.num_ack_pending)),
        ("Redelivered", thousands(info.num_redelivered)),
        ("Delivered to", info.delivered.stream_seq.to_string()),
        ("Acknowledged to", info.ack_floor.stream_seq.to_string()),
        ("Waiting pulls", nonzero(info.num_waiting)),
        ("Paused for", paused),
        ("Idle because", info.idle.as_ref().map(why_idle).unwrap_or_default()),
        ("Created", info.created.to_string()),
    ])
}

/// Where a consumer begins.
pub(super) fn beginning(config: &ConsumerConfig) -> String {
    match config.deliver_policy {
        DeliverPolicy::All => "with the first message".to_owned(),
        DeliverPolicy::Last => "with the last message".to_owned(),
        DeliverPolicy::New => "with what came after its creation".to_owned(),
        DeliverPolicy::LastPerSubject => "with the last message of each subject".to_owned(),
        DeliverPolicy::ByStartSequence => format!("at sequence {}", config.opt_start_seq),
        DeliverPolicy::ByStartTime => {
            let time = config.opt_start_time.unwrap_or_default();
            format!("at {time}")
        }
    }
}

/// A configuration in words.
fn describe(config: &ConsumerConfig) -> Vec<(&'static str, String)> {
    let ack = match config.ack_policy {
        AckPolicy::None => "nothing",
        AckPolicy::All => "each message and all before it",
        AckPolicy::Explicit => "each message",
    };
    let limit = |limit: i64| match u64::try_from(limit) {
        Ok(limit) if limit > 0 => thousands(limit),
        _ => "no limit".to_owned(),
    };
    let or_none = |time: Duration| if time.is_zero() { String::new() } else { show_duration(time) };
    vec![
        ("Description", config.description.clone().unwrap_or_default()),
        ("Filter", filters(config)),
        ("Begins", beginning(config)),
        ("Acknowledge", ack.to_owned()),
        ("Wait for it", or_none(config.ack_wait)),
        ("Backoff", config.backoff.iter().map(|&t| show_duration(t)).collect::<Vec<_>>().join(" ")),
        ("Deliveries", limit(config.max_deliver)),
        ("Unacknowledged", limit(config.max_ack_pending)),
        ("Replay", speed(config)),
        ("One at a time by", config.order_by.clone().unwrap_or_default()),
        ("By priority", if config.by_priority { "yes".to_owned() } else { String::new() }),
        ("Headers only", if config.headers_only { "yes".to_owned() } else { String::new() }),
        ("Deleted after", or_none(config.inactive_threshold)),
    ]
}

/// How fast stored messages come, if not at once.
pub(super) fn speed(config: &ConsumerConfig) -> String {
    match (config.replay_policy, config.replay_percent) {
        (ReplayPolicy::Instant, _) => String::new(),
        (ReplayPolicy::Original, 0) => "at original speed".to_owned(),
        (ReplayPolicy::Original, percent) => {
            format!("at {} % of original speed", thousands(percent))
        }
    }
}

/// Why a consumer delivers nothing, in words that say what to do.
fn why_idle(idle: &Idle) -> String {
    match idle {
        Idle::EndOfStream => "all is delivered".to_owned(),
        Idle::NoPullWaiting => "nobody asks for messages".to_owned(),
        Idle::Standby => "whoever asks stands by, as their priority group has it".to_owned(),
        Idle::MaxAckPending => "too many deliveries await acknowledgement".to_owned(),
        Idle::FilterMatchesNothing => "nothing left matches the filter".to_owned(),
        Idle::Paused { until } => format!("paused until {until}"),
        Idle::BackingOff { until } => {
            format!("refused messages wait for their time; the next at {until}")
        }
        Idle::RateLimited { until } => format!("at the limit of its rate until {until}"),
        Idle::Replaying { until } => format!("replaying; the next message comes at {until}"),
        Idle::KeysInFlight => "earlier messages of the same keys are in flight".to_owned(),
        Idle::Reading => "reading from disk".to_owned(),
        Idle::SlowSession => "the receiver is slow".to_owned(),
        Idle::DeadLettersFull => "the dead-letter stream is full".to_owned(),
        Idle::Damaged(what) => format!("damaged: {what}"),
    }
}
