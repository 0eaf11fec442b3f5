//! `claudebus stream`: look after streams.

mod flags;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::Global;
use super::connect::connect;
use super::exit::Failure;
use super::output::{Output, confirm, readable_size, thousands};
use crate::client::Client;
use crate::config::text::show_duration;
use crate::model::api::{SUBJECTS_PAGE, StreamInfoOptions};
use crate::model::stream::{Retention, StreamConfig, StreamInfo};
use crate::model::subject::overlap;
use flags::StreamFlags;
pub(super) use flags::read_json;

/// `claudebus stream`.
#[derive(Debug, Args)]
pub(super) struct Stream {
    #[command(subcommand)]
    command: StreamCommand,
}

#[derive(Debug, Subcommand)]
enum StreamCommand {
    /// List streams
    #[command(visible_alias = "list")]
    Ls {
        /// Only those that capture something this matches
        #[arg(long, value_name = "SUBJECT")]
        subject: Option<String>,
    },
    /// Show a stream's configuration and state
    Info {
        /// The stream
        stream: String,
    },
    /// Create a stream
    #[command(visible_alias = "create")]
    Add {
        /// Its name
        stream: String,
        /// Its configuration.
        #[command(flatten)]
        flags: Box<StreamFlags>,
    },
    /// Change a stream; what is not given stays
    Edit {
        /// The stream
        stream: String,
        /// What to change.
        #[command(flatten)]
        flags: Box<StreamFlags>,
    },
    /// Delete a stream and all its messages
    #[command(visible_alias = "delete")]
    Rm {
        /// The stream
        stream: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// List a stream's subjects and their number of messages
    Subjects {
        /// The stream
        stream: String,
        /// Only those that this matches
        #[arg(long, value_name = "SUBJECT", default_value = ">")]
        filter: String,
    },
}

/// Runs `claudebus stream`.
pub(super) async fn run(
    stream: &Stream,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    // What is wrong with the command line is told before a connection is made.
    let created = match &stream.command {
        StreamCommand::Add { stream, flags } => Some(flags.create(stream)?),
        _ => None,
    };
    let client = connect(global).await?;
    match &stream.command {
        StreamCommand::Ls { subject } => {
            let mut streams = client.list_streams().await?;
            if let Some(wanted) = subject {
                streams.retain(|info| info.config.subjects.iter().any(|s| overlap(s, wanted)));
            }
            list(&streams, output)
        }
        StreamCommand::Info { stream } => info(&client.stream_info(stream).await?, output),
        StreamCommand::Add { stream, .. } => {
            let config = created.unwrap_or_default();
            let made = client.create_stream(config).await?;
            output.talk(format_args!("stream {stream} is there"));
            info(&made, output)
        }
        StreamCommand::Edit { stream, flags } => {
            let config = flags.edit(client.stream_info(stream).await?.config)?;
            info(&client.update_stream(config).await?, output)
        }
        StreamCommand::Rm { stream, yes } => {
            let messages = client.stream_info(stream).await?.state.messages;
            let messages = thousands(messages);
            confirm(&format!("Delete stream {stream} with {messages} messages?"), *yes)?;
            client.delete_stream(stream).await?;
            deleted(&format!("stream {stream}"), output)
        }
        StreamCommand::Subjects { stream, filter } => {
            subjects(&client, stream, filter, output).await
        }
    }
}

/// Says that something is gone.
pub(super) fn deleted(what: &str, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&serde_json::json!({"success": true}));
    }
    output.talk(format_args!("deleted {what}"));
    Ok(())
}

/// Prints streams, one a line.
pub(super) fn list(streams: &[StreamInfo], output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return streams.iter().try_for_each(|info| output.json(info));
    }
    if streams.is_empty() {
        output.talk(
            "there are no streams yet; publish to a default stream such as claude.hello, \
                     or make one: claudebus stream add ORDERS --subjects 'orders.>'",
        );
    }
    output.table(
        ["Stream", "Subjects", "Messages", "Size", "First", "Last", "Consumers"],
        streams.iter().map(|info| {
            let state = &info.state;
            [
                info.config.name.clone(),
                info.config.subjects.join(" "),
                thousands(state.messages),
                readable_size(state.bytes),
                state.first_seq.to_string(),
                state.last_seq.to_string(),
                state.consumer_count.to_string(),
            ]
        }),
    )
}

/// Prints all about one stream.
fn info(info: &StreamInfo, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(info);
    }
    let state = &info.state;
    output.line(format_args!("Stream {}", info.config.name))?;
    output.pairs(describe(&info.config))?;
    output.line("")?;
    output.pairs([
        ("Messages", thousands(state.messages)),
        ("Size", readable_size(state.bytes)),
        ("Sequences", format!("{} to {}", state.first_seq, state.last_seq)),
        ("First", if state.messages == 0 { String::new() } else { state.first_ts.to_string() }),
        ("Last", if state.last_seq == 0 { String::new() } else { state.last_ts.to_string() }),
        ("Deleted inside", nonzero(state.num_deleted)),
        ("Subjects", nonzero(state.num_subjects)),
        ("Consumers", state.consumer_count.to_string()),
        ("Created", info.created.to_string()),
    ])
}

/// A configuration in words.
fn describe(config: &StreamConfig) -> Vec<(&'static str, String)> {
    let retention = match config.retention {
        Retention::Limits => "until a limit is exceeded",
        Retention::Interest => "until all consumers have acknowledged",
        Retention::WorkQueue => "until acknowledged (work queue)",
    };
    let yes = |flag: bool, text: &str| if flag { text.to_owned() } else { String::new() };
    vec![
        ("Description", config.description.clone().unwrap_or_default()),
        ("Subjects", config.subjects.join(" ")),
        ("Mirror of", config.mirror.as_ref().map(|of| of.name.clone()).unwrap_or_default()),
        ("Copies", config.sources.iter().map(|of| of.name.as_str()).collect::<Vec<_>>().join(" ")),
        ("Republished to", config.republish.as_ref().map(|to| to.dest.clone()).unwrap_or_default()),
        ("Kept", retention.to_owned()),
        ("Longest age", age(config.max_age)),
        ("Most messages", limit(config.max_msgs, thousands)),
        ("Most bytes", limit(config.max_bytes, readable_size)),
        ("Largest message", limit(config.max_msg_size, readable_size)),
        ("Most by subject", limit(config.max_msgs_per_subject, thousands)),
        ("When full", format!("discard {:?}", config.discard).to_lowercase()),
        ("Storage", format!("{:?}", config.storage).to_lowercase()),
        ("Compression", format!("{:?}", config.block_compression).to_lowercase()),
        ("Duplicate window", show_duration(config.duplicate_window)),
        ("Dead letters", if config.dead_letters.enabled { "kept" } else { "not kept" }.to_owned()),
        ("Direct reads", yes(config.allow_direct, "allowed")),
        ("Own time to live", yes(config.allow_msg_ttl, "allowed")),
        ("Schedules", yes(config.allow_msg_schedules, "allowed")),
        ("Rollup", yes(config.allow_rollup_hdrs, "allowed")),
        ("Deleting", yes(config.deny_delete, "denied")),
        ("Purging", yes(config.deny_purge, "denied")),
        ("Sealed", yes(config.sealed, "yes")),
    ]
}

/// A limit in words.
fn limit(limit: i64, show: fn(u64) -> String) -> String {
    match u64::try_from(limit) {
        Ok(limit) if limit > 0 => show(limit),
        _ => "no limit".to_owned(),
    }
}

/// An age in words.
fn age(age: Duration) -> String {
    if age.is_zero() { "no limit".to_owned() } else { show_duration(age) }
}

/// A count, or nothing.
pub(super) fn nonzero(count: u64) -> String {
    if count == 0 { String::new() } else { thousands(count) }
}

/// Prints subjects and their counts, most messages first.
async fn subjects(
    client: &Client,
    stream: &str,
    filter: &str,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut counts = BTreeMap::new();
    loop {
        let options = StreamInfoOptions {
            subjects_filter: filter.to_owned(),
            offset: counts.len() as u64,
            deleted_details: false,
        };
        let page = client.stream_info_with(stream, options).await?.state.subjects;
        let last = page.len() < SUBJECTS_PAGE;
        counts.extend(page);
        if last {
            break;
        }
    }
    if output.is_json() {
        return counts.iter().try_for_each(|(subject, messages)| {
            output.json(&serde_json::json!({"subject": subject, "messages": messages}))
        });
    }
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(subject, messages)| (std::cmp::Reverse(**messages), *subject));
    output.table(
        ["Subject", "Messages"],
        sorted.into_iter().map(|(subject, messages)| [subject.clone(), thousands(*messages)]),
    )
}
