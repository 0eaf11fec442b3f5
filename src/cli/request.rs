//! `claudebus request` and `claudebus reply`: ask whoever listens, and be one who does.

use std::time::Duration;

use clap::Args;

use super::args::Global;
use super::connect::connect;
use super::exec;
use super::exit::{Exit, Failure};
use super::message::{Look, MessageFormat, header};
use super::output::Output;
use super::subscribe::{interrupted, shown_core};
use crate::client::Message;
use crate::config::text;

/// `claudebus request`.
#[derive(Debug, Args)]
pub(super) struct Request {
    /// Whom to ask
    subject: String,
    /// The payload
    #[arg(default_value = "")]
    message: String,
    /// Add a header; may be given more than once
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Longest wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = text::positive_duration)]
    wait: Duration,
    #[command(flatten)]
    look: Look,
}

/// `claudebus reply`.
#[derive(Debug, Args)]
pub(super) struct Reply {
    /// Which requests to answer
    subject: String,
    /// The answer
    #[arg(required_unless_present = "exec", conflicts_with = "exec")]
    message: Option<String>,
    /// Run this command for each request, with the payload on its standard input: what it prints is
    /// the answer
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Share the requests with all others of this group
    #[arg(long, value_name = "GROUP")]
    queue: Option<String>,
    /// Stop after so many requests
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Runs `claudebus request`.
pub(super) async fn request(
    args: &Request,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    let show = args.look.resolve(MessageFormat::Raw, output)?;
    let mut message = Message::new(&args.subject, args.message.clone());
    for (key, value) in &args.headers {
        message = message.header(key, value);
    }
    let client = connect(global).await?;
    let answer = client.request_message(message, args.wait).await?;
    let payload = answer.payload();
    show.print(&shown_core(&answer, &payload), output)
}

/// Runs `claudebus reply`.
pub(super) async fn reply(
    args: &Reply,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = connect(global).await?;
    let mut requests = match &args.queue {
        Some(queue) => client.queue_subscribe(&args.subject, queue).await?,
        None => client.subscribe(&args.subject).await?,
    };
    output.talk(format_args!("answering on {}", args.subject));
    let mut interrupt = std::pin::pin!(interrupted());
    let mut seen = 0;
    while args.count.is_none_or(|count| seen < count) {
        let request = tokio::select! {
            () = &mut interrupt => break,
            request = requests.next() => request,
        };
        let Some(request) = request else {
            return Err(Failure::new(Exit::NotConnected, "the connection was closed"));
        };
        if request.reply().is_none() {
            output.talk(format_args!("a message on {} asked for no answer", request.subject()));
            continue;
        }
        seen += 1;
        let answer = match (&args.message, &args.exec) {
            (Some(message), _) => message.clone().into_bytes(),
            (None, command) => {
                let payload = request.payload();
                let command = command.as_deref().unwrap_or("cat");
                exec::answer(command, &shown_core(&request, &payload)).await?
            }
        };
        request.respond(answer).await?;
    }
    client.flush().await?;
    client.close().await;
    Ok(())
}
