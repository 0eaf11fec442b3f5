//! What becomes of a delivery once it is shown or a command has run for it.

use std::time::Duration;

use clap::ValueEnum;
use tokio::io::AsyncBufReadExt as _;

use super::{Subscribe, shown};
use crate::cli::exec;
use crate::cli::exit::Failure;
use crate::cli::message::Show;
use crate::cli::output::Output;
use crate::client::{AckPolicy, Consumer, Delivery};
use crate::config::text;

/// Deliveries shown before they are handed on and acknowledged together, unless it is quiet.
const MAX_SHOWN: usize = 256;

/// Messages on their way here. 4,096: many round trips at full speed.
const MAX_ON_THE_WAY: u64 = 4096;

/// JetStream's time to acknowledge where a consumer names none.
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);

/// `--ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AckWord {
    /// Once they are printed
    Auto,
    /// Never
    None,
    /// When you say so: a line `ack`, `nak [delay]`, `term [reason]` or `wip` for each
    Manual,
}

/// `--then`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Then {
    /// They are done
    Ack,
    /// Deliver them again
    Nak,
    /// Never deliver them again: they become dead letters
    Term,
    /// Nothing: they come again when their time is over
    Nothing,
}

/// Tells the server about a delivery.
pub(super) async fn tell(delivery: &Delivery, then: Then) -> Result<(), Failure> {
    match then {
        Then::Ack => delivery.ack_confirmed().await?,
        Then::Nak => delivery.nak(Duration::ZERO).await?,
        Then::Term => delivery.terminate("terminated by hand").await?,
        Then::Nothing => {}
    }
    Ok(())
}

/// What is done with deliveries.
enum Way {
    /// They are shown, and acknowledged if the consumer wants that.
    Show { ack: bool },
    /// They are shown, and the user says what becomes of them.
    Ask(tokio::io::Lines<tokio::io::BufReader<tokio::io::Stdin>>),
    /// A command runs for each.
    Run { command: String, retry_delay: Duration, ack: bool },
}

/// Settles deliveries one after the other.
pub(super) struct Settler {
    way: Way,
    ack_wait: Duration,
    /// Shown, not handed on, not acknowledged.
    shown: Vec<Delivery>,
    dirty: bool,
    /// The last one acknowledged.
    last: Option<Delivery>,
}

impl Settler {
    pub(super) fn new(args: &Subscribe, consumer: &Consumer) -> Self {
        let acks = consumer.config().ack_policy != AckPolicy::None;
        let way = match (&args.exec, args.ack) {
            (Some(command), _) => {
                Way::Run { command: command.clone(), retry_delay: args.retry_delay, ack: acks }
            }
            (None, Some(AckWord::Manual)) => {
                Way::Ask(tokio::io::BufReader::new(tokio::io::stdin()).lines())
            }
            (None, word) => Way::Show { ack: acks && word != Some(AckWord::None) },
        };
        let ack_wait = match consumer.config().ack_wait {
            Duration::ZERO => DEFAULT_ACK_WAIT,
            wait => wait,
        };
        Self { way, ack_wait, shown: Vec::new(), dirty: false, last: None }
    }

    /// How many messages may be on their way here. One, where each takes its time: others may
    /// share the work then.
    pub(super) fn batch(&self) -> u64 {
        match self.way {
            Way::Show { .. } => MAX_ON_THE_WAY,
            Way::Ask(_) | Way::Run { .. } => 1,
        }
    }

    /// Whether something was shown and not handed on.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Shows a delivery, or runs its command, and settles it now or with others.
    pub(super) async fn take(
        &mut self,
        delivery: Delivery,
        show: &Show,
        output: &mut Output,
    ) -> Result<(), Failure> {
        if let Way::Run { command, retry_delay, ack } = &self.way {
            return run(&delivery, command, *retry_delay, *ack, self.ack_wait, output).await;
        }
        show.print(&shown(&delivery, &delivery.payload()), output)?;
        if let Way::Ask(lines) = &mut self.way {
            output.flush()?;
            return ask(&delivery, lines, output).await;
        }
        self.dirty = true;
        self.shown.push(delivery);
        if self.shown.len() >= MAX_SHOWN { self.hand_on(output).await } else { Ok(()) }
    }

    /// Hands what was shown to the reader, then acknowledges it.
    pub(super) async fn hand_on(&mut self, output: &mut Output) -> Result<(), Failure> {
        output.flush()?;
        self.dirty = false;
        let ack = matches!(self.way, Way::Show { ack: true });
        for delivery in self.shown.drain(..).filter(|_| ack) {
            delivery.ack().await?;
            self.last = Some(delivery);
        }
        Ok(())
    }

    /// Hands the rest on, and waits until the server has made all acknowledgements durable: they
    /// are handled in order, so that the last one speaks for all.
    pub(super) async fn finish(&mut self, output: &mut Output) -> Result<(), Failure> {
        self.hand_on(output).await?;
        if let Some(last) = self.last.take() {
            last.ack_confirmed().await?;
        }
        Ok(())
    }
}

/// Runs the command, with signs of life to the server as long as it takes.
async fn run(
    delivery: &Delivery,
    command: &str,
    retry_delay: Duration,
    ack: bool,
    ack_wait: Duration,
    output: &Output,
) -> Result<(), Failure> {
    let payload = delivery.payload();
    let message = shown(delivery, &payload);
    let mut running = std::pin::pin!(exec::run(command, &message));
    let mut signs = tokio::time::interval(ack_wait / 2);
    signs.tick().await;
    let succeeded = loop {
        tokio::select! {
            result = &mut running => break result?,
            _ = signs.tick(), if ack => delivery.in_progress().await?,
        }
    };
    if !succeeded {
        let (stream, seq) = (delivery.stream(), delivery.seq());
        let next = match ack {
            true => format!("it comes again in {}", text::show_duration(retry_delay)),
            false => "it does not come again".to_owned(),
        };
        output.talk(format_args!("the command failed for {stream} {seq}; {next}"));
    }
    match (ack, succeeded) {
        (false, _) => {}
        (true, true) => delivery.ack_confirmed().await?,
        (true, false) => delivery.nak(retry_delay).await?,
    }
    Ok(())
}

/// Asks what becomes of a delivery until there is an answer.
async fn ask(
    delivery: &Delivery,
    lines: &mut tokio::io::Lines<tokio::io::BufReader<tokio::io::Stdin>>,
    output: &Output,
) -> Result<(), Failure> {
    loop {
        let Some(line) = lines.next_line().await? else {
            // Whoever answered is gone; the rest comes again later.
            return Err(Failure::silent(crate::cli::exit::Exit::Ok));
        };
        match Answer::parse(&line) {
            Ok(Answer::Ack) => delivery.ack_confirmed().await?,
            Ok(Answer::Nak(delay)) => delivery.nak(delay).await?,
            Ok(Answer::Term(reason)) => delivery.terminate(reason).await?,
            Ok(Answer::InProgress) => {
                delivery.in_progress().await?;
                continue;
            }
            Err(why) => {
                output.talk(why);
                continue;
            }
        }
        return Ok(());
    }
}

/// What a line of standard input says about a delivery.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ack,
    Nak(Duration),
    Term(String),
    InProgress,
}

impl Answer {
    fn parse(line: &str) -> Result<Self, String> {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (word, rest.trim()) {
            ("ack", "") => Ok(Self::Ack),
            ("nak", "") => Ok(Self::Nak(Duration::ZERO)),
            ("nak", delay) => text::duration(delay).map(Self::Nak),
            ("term", "") => Ok(Self::Term("terminated by hand".to_owned())),
            ("term", reason) => Ok(Self::Term(reason.to_owned())),
            ("wip", "") => Ok(Self::InProgress),
            _ => Err("say ack, nak [delay], term [reason], or wip".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_answer() {
        assert_eq!(Answer::parse(" ack "), Ok(Answer::Ack));
        assert_eq!(Answer::parse("nak 5s"), Ok(Answer::Nak(Duration::from_secs(5))));
        assert_eq!(Answer::parse("term bad data"), Ok(Answer::Term("bad data".into())));
        assert_eq!(Answer::parse("wip"), Ok(Answer::InProgress));
        for bad in ["", "ok", "ack now", "nak soon"] {
            assert!(Answer::parse(bad).is_err(), "{bad}");
        }
    }
}
