//! Messages on their way to the server, and waiting for what becomes of them.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::json;

use super::lines::read_line;
use super::tally::Tally;
use super::{MAX_INPUT_BYTES, Publish};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Output, thousands};
use crate::client::{Ack, Client, PublishError, Publisher, Ticket};
use crate::config::text;

/// Tickets waited for at a time. More than the client keeps in flight, so that it never waits for
/// us.
const MAX_TICKETS: usize = 65_536;

/// Messages on their way, and what became of them.
pub(super) struct Sending<'a> {
    args: &'a Publish,
    publisher: Publisher,
    output: &'a mut Output,
    tickets: VecDeque<Ticket>,
    /// Messages handed to the publisher.
    sent: u64,
    /// Longest wait for one acknowledgement, or for room to send.
    timeout: Duration,
    progress: Option<indicatif::ProgressBar>,
    tally: Tally,
}

impl<'a> Sending<'a> {
    pub(super) fn new(
        client: &Client,
        args: &'a Publish,
        timeout: Duration,
        output: &'a mut Output,
    ) -> Self {
        let progress = (args.count > 1 && output.shows_progress()).then(|| {
            let style = indicatif::ProgressStyle::with_template(
                "{bar:30.cyan} {human_pos}/{human_len} {per_sec} {eta}",
            );
            indicatif::ProgressBar::new(args.count)
                .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()))
        });
        Self {
            args,
            publisher: client.publisher(),
            output,
            tickets: VecDeque::new(),
            sent: 0,
            timeout,
            progress,
            tally: Tally::default(),
        }
    }

    /// Publishes `payload` as often as wanted.
    pub(super) async fn repeat(&mut self, payload: &[u8]) -> Result<(), Failure> {
        for n in 1..=self.args.count {
            self.push(n, payload).await?;
        }
        Ok(())
    }

    /// Publishes each line of standard input. What has come is acknowledged whenever no further
    /// line is there at once, so that `tail -f` shows what it did.
    pub(super) async fn lines(&mut self) -> Result<(), Failure> {
        let mut input = tokio::io::BufReader::with_capacity(256 << 10, tokio::io::stdin());
        let mut line = Vec::new();
        for n in 1.. {
            line.clear();
            let limit = usize::try_from(MAX_INPUT_BYTES).unwrap_or(usize::MAX);
            if read_line(&mut input, &mut line, limit).await? == 0 {
                break;
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            self.push(n, text).await?;
            if input.buffer().is_empty() {
                self.settle(0).await?;
                self.output.flush()?;
            }
        }
        Ok(())
    }

    async fn push(&mut self, n: u64, payload: &[u8]) -> Result<(), Failure> {
        let message = self.args.message(n, payload)?;
        let ticket = self.in_time(self.publisher.publish_message(message)).await?;
        self.sent += 1;
        self.tickets.push_back(ticket);
        self.settle(MAX_TICKETS).await
    }

    /// Waits until at most `left` messages are on their way.
    async fn settle(&mut self, left: usize) -> Result<(), Failure> {
        while self.tickets.len() > left {
            let Some(ticket) = self.tickets.pop_front() else { break };
            let ack = self.in_time(ticket).await?;
            self.count(&ack)?;
        }
        Ok(())
    }

    /// Waits for the server, but no longer than `--timeout`.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, PublishError>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::new(
                Exit::TimedOut,
                format_args!(
                    "no acknowledgement in {}: the server holds publishers back or does not \
                     answer; what was sent may or may not be stored",
                    text::show_duration(self.timeout)
                ),
            )
            .hint("its /healthz tells whether it is well; --timeout waits longer")),
        }
    }

    fn count(&mut self, ack: &Ack) -> Result<(), Failure> {
        self.tally.add(ack);
        if let Some(progress) = &self.progress {
            progress.inc(1);
        }
        if self.output.is_json() {
            return self.output.json(
                &json!({"stream": &*ack.stream, "seq": ack.seq, "duplicate": ack.duplicate}),
            );
        }
        Ok(())
    }

    pub(super) async fn finish(mut self, sent: Result<(), Failure>) -> Result<(), Failure> {
        let settled = match sent {
            Ok(()) => self.settle(0).await,
            failed => failed,
        };
        if let Some(progress) = &self.progress {
            progress.finish_and_clear();
        }
        if let Err(failure) = settled {
            return Err(self.part_way(failure).await?);
        }
        if self.output.is_json() {
            return Ok(());
        }
        match (self.args.schedule()?, &self.args.name) {
            (None, _) => self.output.line(self.tally),
            (Some(_), Some(name)) => self.output.line(format_args!("scheduled as {name}")),
            (Some(_), None) if self.tally.stored == 1 => {
                self.output.line("scheduled; `claudebus schedule ls` lists it")
            }
            (Some(_), None) => {
                let stored = thousands(self.tally.stored);
                self.output.line(format_args!("scheduled {stored} messages"))
            }
        }
    }
}

impl Sending<'_> {
    /// Adds to a failure how many messages were stored all the same.
    async fn part_way(&mut self, mut failure: Failure) -> Result<Failure, Failure> {
        // Those sent behind the one that failed may be stored as well.
        if failure.exit == Exit::TimedOut {
            self.tickets.clear();
        }
        while let Some(ticket) = self.tickets.pop_front() {
            match tokio::time::timeout(self.timeout, ticket).await {
                Ok(Ok(ack)) => self.count(&ack)?,
                Ok(Err(_)) => {}
                Err(_) => break,
            }
        }
        let wanted = if self.args.stdin { self.sent } else { self.args.count };
        if failure.message.is_empty() || wanted < 2 {
            return Ok(failure);
        }
        if self.output.is_json() {
            let range = self.tally.range.as_ref();
            self.output.json(&json!({
                "stored": self.tally.stored,
                "of": wanted,
                "stream": range.map(|(stream, ..)| &**stream),
                "first_seq": range.map(|(_, first, _)| first),
                "last_seq": range.map(|(.., last)| last),
                "error": failure.message,
            }))?;
        }
        failure.message += &format!("; {}", self.tally.of(wanted));
        Ok(failure)
    }
}
