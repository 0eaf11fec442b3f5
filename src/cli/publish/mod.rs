//! `claudebus publish`: store messages in streams.

mod lines;
mod sending;
mod tally;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::args::Global;
use super::connect::connect;
use super::exit::{Exit, Failure};
use super::message::header;
use super::output::{Output, thousands};
use super::template::{UnknownName, fill};
use crate::client::{BatchAck, Client, Message};
use crate::config::text;
use crate::model::schedule::Schedule;
use crate::model::subject::is_name;
use crate::model::time::Timestamp;
use lines::read_line;
use sending::Sending;

/// Most messages that are collected to be stored together: more than fit the one frame that carries
/// them.
const MAX_ATOMIC: u64 = 65_536;

/// Most bytes of a line of standard input, or of a file: the largest message a server can take.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// `{{n}}` in help. Help takes a bare `{n}` for a line break, so a sequence without width, which
/// ends no style, stands inside; where output has no styles it is taken out again.
macro_rules! n {
    () => {
        "{{\x1b[0mn}}"
    };
}

const LATER: &str = "Later, and again and again";

/// `claudebus publish`.
#[derive(Debug, Args)]
#[command(after_help = concat!("Examples:\n  \
    claudebus publish claude.task.started hello\n  \
    claudebus publish orders.new --file order.json -H 'Content-Type: application/json' --id 4711\n  \
    claudebus publish load.test 'message ", n!(), "' --count 10000\n  \
    claudebus publish orders.remind 4711 --in 10m\n  \
    claudebus publish report.make '' --cron '0 8 * * 1-5' --tz Europe/Berlin --name report\n  \
    tail -f app.log | claudebus publish system.log.app --stdin"))]
pub(super) struct Publish {
    #[arg(help = concat!("Where to; ", n!(), " is filled in with --count and --stdin"))]
    subject: String,
    #[arg(help = concat!("The payload; ", n!(), " and {{time}} are filled in with --count"))]
    #[arg(required_unless_present_any = ["stdin", "file"], conflicts_with_all = ["stdin", "file"])]
    message: Option<String>,
    /// One message for each line of standard input
    #[arg(long, conflicts_with_all = ["file", "count"])]
    stdin: bool,
    /// The payload is in this file; `-` is standard input as a whole
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Add a header; may be given more than once
    #[arg(short = 'H', long = "header", value_name = "KEY:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    #[arg(help = concat!("Store it once under this id, however often it is published; ", n!(), " is filled in"))]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Publish so many
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Store all of them or none, with --count or --stdin; --id is that of them all
    #[arg(long)]
    atomic: bool,
    /// Remove it after this time, on streams that allow it
    #[arg(long, value_name = "DURATION", value_parser = text::positive_duration)]
    ttl: Option<Duration>,
    /// Publish it after this time: the server keeps it until then
    #[arg(long = "in", value_name = "DURATION", value_parser = text::positive_duration, group = "when", help_heading = LATER)]
    wait: Option<Duration>,
    /// Publish it at this time, such as 2030-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", group = "when", help_heading = LATER)]
    at: Option<Timestamp>,
    /// Publish it again and again, so often; at least 1s
    #[arg(long, value_name = "DURATION", value_parser = text::positive_duration, group = "when", help_heading = LATER)]
    every: Option<Duration>,
    /// Publish it whenever this says: minute, hour, day of month, month, day of week; or @hourly,
    /// @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "EXPRESSION", group = "when", help_heading = LATER)]
    cron: Option<String>,
    /// The time zone of --cron, such as Europe/Berlin; UTC unless given
    #[arg(long, value_name = "ZONE", requires = "cron", help_heading = LATER)]
    tz: Option<String>,
    /// Names the schedule, to replace or cancel it; one by chance unless given
    #[arg(long, value_name = "NAME", requires = "when", conflicts_with_all = ["stdin", "count"], help_heading = LATER)]
    name: Option<String>,
    /// Only this stream may store it
    #[arg(long, value_name = "STREAM", conflicts_with = "when")]
    expect_stream: Option<String>,
    /// Store it only if the stream's last sequence is this
    #[arg(long, value_name = "SEQ", conflicts_with = "when")]
    expect_last_seq: Option<u64>,
    /// Store it only if the subject's last sequence is this; 0 for none yet
    #[arg(long, value_name = "SEQ", conflicts_with = "when")]
    expect_last_subject_seq: Option<u64>,
}

/// Runs `claudebus publish`.
pub(super) async fn run(
    publish: &Publish,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    let payload = match (&publish.message, &publish.file) {
        (Some(message), _) => Some(message.clone().into_bytes()),
        (None, Some(path)) => Some(read(path)?),
        (None, None) => None,
    };
    // Mistakes are told before a connection is made.
    publish.message(1, payload.as_deref().unwrap_or_default())?;
    let client = connect(global).await?;
    if publish.atomic {
        let result = atomically(publish, payload.as_deref(), &client, output).await;
        client.close().await;
        return result;
    }
    let mut sending = Sending::new(&client, publish, global.timeout, output);
    let sent = match payload {
        Some(payload) => sending.repeat(&payload).await,
        None => sending.lines().await,
    };
    let result = sending.finish(sent).await;
    if !matches!(&result, Err(failure) if failure.exit == Exit::TimedOut) {
        // Closing waits for the server, which after a time-out is not there to be waited for.
        client.close().await;
    }
    result
}

/// Publishes all messages together.
async fn atomically(
    publish: &Publish,
    payload: Option<&[u8]>,
    client: &Client,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut messages = Vec::new();
    if let Some(payload) = payload {
        if publish.count > MAX_ATOMIC
            || publish.count.saturating_mul(payload.len() as u64) > MAX_INPUT_BYTES
        {
            return Err(too_much_at_once());
        }
        for n in 1..=publish.count {
            messages.push(publish.message(n, payload)?);
        }
    } else {
        let mut input = tokio::io::BufReader::new(tokio::io::stdin());
        let limit = usize::try_from(MAX_INPUT_BYTES).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for n in 1.. {
            let mut line = Vec::new();
            if read_line(&mut input, &mut line, limit).await? == 0 {
                break;
            }
            bytes += line.len();
            if n > MAX_ATOMIC || bytes > limit {
                return Err(too_much_at_once());
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            messages.push(publish.message(n, text.strip_suffix(b"\r").unwrap_or(text))?);
        }
    }
    let BatchAck { duplicate, stored } = client.publish_atomically(messages).await?;
    if output.is_json() {
        return output.json(&json!({ "duplicate": duplicate, "stored": stored }));
    }
    if duplicate {
        return output.line("were stored before");
    }
    output.line(format_args!("stored {} messages together", thousands(stored.len() as u64)))
}

fn too_much_at_once() -> Failure {
    Failure::usage("that is more than any server stores together")
        .hint("--atomic is for some hundred messages")
}

/// Reads a payload.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, format_args!("cannot read {}: {error}", path.display()))
    };
    let mut payload = Vec::new();
    let input: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    input.take(MAX_INPUT_BYTES + 1).read_to_end(&mut payload).map_err(failed)?;
    if payload.len() as u64 > MAX_INPUT_BYTES {
        return Err(Failure::new(
            Exit::Failed,
            format_args!("{} is larger than any server takes", path.display()),
        )
        .hint("store it elsewhere and publish where it is"));
    }
    Ok(payload)
}

/// When a message is published, if not at once.
enum When<'a> {
    After(Duration),
    At(Timestamp),
    Every(Duration),
    Cron(&'a str),
}

impl Publish {
    /// When it is published, if not at once. Mistakes are told before a connection is made.
    fn schedule(&self) -> Result<Option<When<'_>>, Failure> {
        let when = if let Some(wait) = self.wait {
            When::After(wait)
        } else if let Some(time) = self.at {
            When::At(time)
        } else if let Some(interval) = self.every {
            if interval < Duration::from_secs(1) {
                return Err(Failure::usage("--every is a second or more"));
            }
            When::Every(interval)
        } else if let Some(expression) = &self.cron {
            Schedule::parse(expression, self.tz.as_deref()).map_err(Failure::usage)?;
            When::Cron(expression)
        } else {
            return Ok(None);
        };
        if self.name.as_ref().is_some_and(|name| !is_name(name)) {
            return Err(Failure::usage("--name is letters and digits, without dots or spaces"));
        }
        Ok(Some(when))
    }

    /// Whether the payload is a template too.
    fn is_template(&self) -> bool {
        self.count > 1 && self.message.is_some()
    }

    /// The message with number `n`.
    fn message(&self, n: u64, payload: &[u8]) -> Result<Message, Failure> {
        let fill_in = |template: &str| -> Result<String, Failure> {
            if !template.contains("{{") {
                return Ok(template.to_owned());
            }
            let value = |name: &str| match name {
                "n" => Some(Cow::Owned(n.to_string().into_bytes())),
                "time" => Some(Cow::Owned(super::consumer::now().to_string().into_bytes())),
                _ => None,
            };
            let filled = fill(template, value).map_err(|UnknownName(name)| {
                Failure::usage(format_args!("`{{{{{name}}}}}` stands for nothing"))
                    .hint("known are {{n}} and {{time}}")
            })?;
            Ok(String::from_utf8_lossy(&filled).into_owned())
        };
        let subject = fill_in(&self.subject)?;
        let mut message = match self.message.as_deref() {
            Some(template) if self.is_template() => Message::new(subject, fill_in(template)?),
            _ => Message::new(subject, payload.to_vec()),
        };
        for (key, value) in &self.headers {
            message = message.header(key, value);
        }
        if let Some(id) = self.id.as_ref().filter(|_| n == 1 || !self.atomic) {
            message = message.id(fill_in(id)?);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        message = match self.schedule()? {
            None => message,
            Some(When::After(wait)) => message.deliver_after(wait),
            Some(When::At(time)) => message.deliver_at(time),
            Some(When::Every(interval)) => message.deliver_every(interval),
            Some(When::Cron(expression)) => message.deliver_cron(expression, self.tz.as_deref()),
        };
        if let Some(name) = &self.name {
            message = message.schedule_name(name);
        }
        if let Some(stream) = &self.expect_stream {
            message = message.expect_stream(stream);
        }
        if let Some(seq) = self.expect_last_seq {
            message = message.expect_last_sequence(seq);
        }
        if let Some(seq) = self.expect_last_subject_seq {
            message = message.expect_last_subject_sequence(seq);
        }
        Ok(message)
    }
}
