//! `claudebus dead`: messages that consumers gave up.

use base64::Engine as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::args::Global;
use super::connect::connect;
use super::exit::{Exit, Failure};
use super::message::{MessageFormat, Shown};
use super::output::{Output, confirm, thousands};
use crate::client::{Client, DeadLetterPage};
use crate::model::api::{DeadLetter, DeadOptions, StoredMessage};
use crate::model::headers;

/// `claudebus dead`.
#[derive(Debug, Args)]
pub(super) struct Dead {
    #[command(subcommand)]
    command: DeadCommand,
}

/// Which dead letters; all that are named must hold.
#[derive(Clone, Debug, Args)]
struct Filter {
    /// Sequences in the dead-letter stream, as `ls` shows them
    #[arg(value_name = "SEQ")]
    sequences: Vec<u64>,
    /// Given up by this consumer
    #[arg(long, value_name = "CONSUMER")]
    consumer: Option<String>,
    /// Published to a subject that this matches
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    /// List dead letters, oldest first
    #[command(visible_alias = "list")]
    Ls {
        /// The stream they were in
        stream: String,
        #[command(flatten)]
        filter: Filter,
    },
    /// Show a dead letter with its payload
    Show {
        /// The stream it was in
        stream: String,
        /// Its sequence in the dead-letter stream
        seq: u64,
    },
    /// Publish dead letters to their stream again
    Requeue {
        /// The stream they were in
        stream: String,
        #[command(flatten)]
        filter: Filter,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Delete dead letters
    #[command(visible_alias = "rm")]
    Drop {
        /// The stream they were in
        stream: String,
        #[command(flatten)]
        filter: Filter,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Filter {
    fn options(&self) -> DeadOptions {
        DeadOptions {
            sequences: self.sequences.clone(),
            consumer: self.consumer.clone(),
            subject: self.subject.clone(),
            from: 0,
            limit: self.limit.unwrap_or(0),
        }
    }

    /// Something must be named before something is changed.
    fn some(&self, all: bool) -> Result<DeadOptions, Failure> {
        let named = !self.sequences.is_empty() || self.consumer.is_some() || self.subject.is_some();
        match (named || self.limit.is_some(), all) {
            (false, false) => Err(Failure::usage("which dead letters?")
                .hint("name their sequences, --consumer or --subject, or say --all")),
            (true, true) => Err(Failure::usage("--all and a filter contradict each other")),
            _ => Ok(self.options()),
        }
    }
}

/// Runs `claudebus dead`.
pub(super) async fn run(dead: &Dead, global: &Global, output: &mut Output) -> Result<(), Failure> {
    match &dead.command {
        DeadCommand::Ls { stream, filter } => {
            let client = connect(global).await?;
            list(&client, stream, filter.options(), output).await
        }
        DeadCommand::Show { stream, seq } => {
            let client = connect(global).await?;
            let options = DeadOptions { sequences: vec![*seq], ..DeadOptions::default() };
            let page = client.dead_letters(stream, options).await?;
            match page.letters.first() {
                Some(letter) => show(letter, output),
                None => Err(Failure::new(
                    Exit::NotFound,
                    format_args!("stream {stream} has no dead letter {seq}"),
                )
                .hint(format_args!("`claudebus dead ls {stream}` lists them"))),
            }
        }
        DeadCommand::Requeue { stream, filter, all } => {
            let options = filter.some(*all)?;
            let client = connect(global).await?;
            let settled = client.requeue_dead_letters(stream, options).await?;
            done("requeued", settled, output)
        }
        DeadCommand::Drop { stream, filter, all, yes } => {
            let options = filter.some(*all)?;
            confirm(&format!("Delete these dead letters of {stream} for good?"), *yes)?;
            let client = connect(global).await?;
            let settled = client.drop_dead_letters(stream, options).await?;
            done("deleted", settled, output)
        }
    }
}

/// Prints how many were settled. None at all is a failure: what was named is not there.
fn done(what: &str, settled: u64, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        output.json(&json!({ what: settled }))?;
    }
    match settled {
        0 => Err(Failure::new(Exit::NotFound, "no dead letter is like that")
            .hint("`claudebus dead ls STREAM` lists them")),
        _ if output.is_json() => Ok(()),
        1 => output.line(format_args!("{what} 1 dead letter")),
        _ => output.line(format_args!("{what} {} dead letters", thousands(settled))),
    }
}

/// Prints dead letters, one a line, page by page.
async fn list(
    client: &Client,
    stream: &str,
    mut options: DeadOptions,
    output: &mut Output,
) -> Result<(), Failure> {
    let most = options.limit;
    let mut rows = Vec::new();
    let mut seen: u64 = 0;
    loop {
        options.limit = if most == 0 { 0 } else { most - seen };
        let DeadLetterPage { total, letters } =
            client.dead_letters(stream, options.clone()).await?;
        seen += letters.len() as u64;
        for letter in &letters {
            if output.is_json() {
                output.json(letter)?;
            } else {
                rows.push(row(letter));
            }
        }
        let Some(last) = letters.last() else { break };
        options.from = last.seq + 1;
        if letters.len() >= total || (most > 0 && seen >= most) {
            break;
        }
    }
    if seen == 0 {
        output.talk(format_args!("stream {stream} has no such dead letters"));
    }
    output.table(["Seq", "Subject", "Was", "Consumer", "Reason", "Attempts", "Given up"], rows)
}

fn row(letter: &DeadLetter) -> [String; 7] {
    [
        letter.seq.to_string(),
        letter.subject.clone(),
        letter.stream_seq.to_string(),
        letter.consumer.clone(),
        letter.reason.clone(),
        letter.attempts.to_string(),
        letter.last.to_string(),
    ]
}

fn show(letter: &DeadLetter, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(letter);
    }
    output.pairs([
        ("Dead letter", letter.seq.to_string()),
        ("Consumer", letter.consumer.clone()),
        ("Reason", letter.reason.clone()),
        ("Attempts", letter.attempts.to_string()),
        ("First delivered", letter.first.to_string()),
        ("Given up", letter.last.to_string()),
        ("Was sequence", letter.stream_seq.to_string()),
        ("Requeued before", super::stream::nonzero(letter.requeued)),
    ])?;
    output.line("")?;
    print_stored(&letter.message, output)
}

/// Prints the message of a dead letter, which is JSON.
fn print_stored(message: &StoredMessage, output: &mut Output) -> Result<(), Failure> {
    let decode = |text: &str| {
        base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| {
            Failure::new(Exit::Failed, format_args!("the server's answer is damaged: {error}"))
        })
    };
    let (headers, payload) = (decode(&message.hdrs)?, decode(&message.data)?);
    let shown = Shown {
        subject: &message.subject,
        reply: "",
        headers: headers::iter(&headers).collect(),
        payload: &payload,
        stored: None,
    };
    shown.print(MessageFormat::Text, "", output)
}
