//! `claudebus get` and `claudebus purge`: single messages of a stream, and fewer of them.

use clap::Args;
use serde_json::json;

use super::args::Global;
use super::connect::connect;
use super::exit::Failure;
use super::message::{Look, MessageFormat, Shown, Stored};
use super::output::{Output, confirm, thousands};
use crate::model::api::{MessageGetOptions, PurgeOptions};
use crate::model::time::Timestamp;

/// `claudebus get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// The stream
    stream: String,
    /// The message's sequence
    #[arg(required_unless_present_any = ["last", "next", "since"], conflicts_with_all = ["last", "since"])]
    seq: Option<u64>,
    /// The last message of this subject
    #[arg(long, value_name = "SUBJECT", conflicts_with_all = ["next", "since"])]
    last: Option<String>,
    /// The first message that this matches, at or after SEQ
    #[arg(long, value_name = "SUBJECT")]
    next: Option<String>,
    /// The first message at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    #[command(flatten)]
    look: Look,
}

/// `claudebus purge`.
#[derive(Debug, Args)]
pub(super) struct Purge {
    /// The stream
    stream: String,
    /// Only messages whose subject this matches
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Only messages before this sequence
    #[arg(long, value_name = "SEQ", conflicts_with = "keep", value_parser = clap::value_parser!(u64).range(1..))]
    before: Option<u64>,
    /// Keep the newest so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    keep: Option<u64>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Runs `claudebus get`.
pub(super) async fn get(args: &Get, global: &Global, output: &mut Output) -> Result<(), Failure> {
    let show = args.look.resolve(MessageFormat::Text, output)?;
    let client = connect(global).await?;
    let options = MessageGetOptions {
        seq: args.seq.unwrap_or(0),
        last_by_subj: args.last.clone(),
        next_by_subj: args.next.clone(),
        start_time: args.since,
        no_hdr: false,
    };
    let message = client.find_message(&args.stream, options).await?;
    let payload = message.payload();
    let shown = Shown {
        subject: message.subject(),
        reply: "",
        headers: message.headers().collect(),
        payload: &payload,
        stored: Some(Stored {
            stream: &args.stream,
            seq: message.seq(),
            time: message.time(),
            delivery: None,
        }),
    };
    show.print(&shown, output)
}

/// Runs `claudebus purge`.
pub(super) async fn purge(
    args: &Purge,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    let which = match (&args.subject, args.before, args.keep) {
        (None, None, None) => "all messages".to_owned(),
        (subject, before, keep) => {
            let subject = subject.as_ref().map(|s| format!(" on {s}")).unwrap_or_default();
            let before = before.map(|seq| format!(" before {seq}")).unwrap_or_default();
            let keep = keep.map(|n| format!(" but the newest {n}")).unwrap_or_default();
            format!("messages{subject}{before}{keep}")
        }
    };
    confirm(&format!("Delete {which} of stream {}?", args.stream), args.yes)?;
    let client = connect(global).await?;
    let options = PurgeOptions {
        filter: args.subject.clone(),
        seq: args.before.unwrap_or(0),
        keep: args.keep.unwrap_or(0),
    };
    let purged = client.purge_stream(&args.stream, options).await?;
    if output.is_json() {
        return output.json(&json!({ "purged": purged }));
    }
    output.line(format_args!("deleted {} messages", thousands(purged)))
}
