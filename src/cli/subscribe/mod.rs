//! `claudebus subscribe` and `claudebus consumer next`: receive messages.

mod core;
mod settle;

use std::time::Duration;

use clap::Args;

use super::args::Global;
use super::connect::connect;
use super::consumer::{Replay, Start, beginning, replay, set_filters, speed, start};
use super::exit::{Exit, Failure};
use super::message::{Look, MessageFormat, Show, Shown, Stored};
use super::output::{Output, say, thousands};
use crate::client::{
    AckPolicy, Client, Consumer, ConsumerConfig, Credit, Delivery, Fetched, Gap, Received,
};
use crate::config::text;
use crate::model::subject::overlap;
pub(super) use core::shown as shown_core;
use settle::{AckWord, Settler, Then};

/// How long a consumer without a name outlives its last reader.
const EPHEMERAL_LIFE: Duration = Duration::from_secs(30);

/// How long one pull waits before the next is sent. The server bounds it as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// `claudebus subscribe`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --stream and --durable, messages come as they are published and are not stored for you.\n\n\
    Examples:\n  \
    claudebus subscribe 'claude.>'\n  \
    claudebus subscribe --stream CLAUDE_EVENTS                    all that is stored, then what comes\n  \
    claudebus subscribe 'orders.>' --durable billing              goes on where it stopped\n  \
    claudebus subscribe 'orders.>' --durable mailer --exec ./mail.sh\n  \
    claudebus subscribe --stream ORDERS --count 10 --format template --template '{{seq}} {{header:Trace}}'"
)]
pub(super) struct Subscribe {
    /// Which messages: `*` stands for one token, `>` at the end for all that follow
    #[arg(required_unless_present = "stream")]
    subject: Option<String>,
    /// Receive what this stream stores
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// As the consumer of this name, which is made if it is not there and remembers what is done
    #[arg(long, value_name = "NAME")]
    durable: Option<String>,
    /// Share the messages with all others of this group (not with --stream or --durable)
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["stream", "durable"])]
    queue: Option<String>,
    /// Where a new consumer begins: all, new, last, last-per-subject, a sequence, or a time
    #[arg(long, value_name = "WHERE", value_parser = start)]
    deliver: Option<Start>,
    /// How fast a new consumer brings stored messages: instant, original, or a factor such as 10x
    #[arg(long, value_name = "SPEED", value_parser = replay)]
    replay: Option<Replay>,
    /// When messages are acknowledged
    #[arg(long, value_name = "WHEN")]
    ack: Option<AckWord>,
    /// Stop after so many messages
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop when nothing came for so long
    #[arg(long, value_name = "DURATION", value_parser = text::positive_duration)]
    wait: Option<Duration>,
    /// Run this command for each message, with the payload on its standard input: 0 acknowledges,
    /// anything else has it delivered again
    #[arg(long, value_name = "COMMAND", conflicts_with = "ack")]
    exec: Option<String>,
    /// With --exec: wait so long before a message is delivered again
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = text::duration, requires = "exec")]
    retry_delay: Duration,
    #[command(flatten)]
    look: Look,
}

/// `claudebus consumer next`.
#[derive(Debug, Args)]
pub(super) struct Next {
    /// The stream
    stream: String,
    /// The consumer
    consumer: String,
    /// How many messages
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// How long to wait for them
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = text::positive_duration)]
    wait: Duration,
    /// What to tell the server about them
    #[arg(long, value_name = "WHAT", default_value = "ack")]
    then: Then,
    #[command(flatten)]
    look: Look,
}

/// What to show of a delivery.
fn shown<'a>(delivery: &'a Delivery, payload: &'a [u8]) -> Shown<'a> {
    Shown {
        subject: delivery.subject(),
        reply: "",
        headers: delivery.headers().collect(),
        payload,
        stored: Some(Stored {
            stream: delivery.stream(),
            seq: delivery.seq(),
            time: delivery.time(),
            delivery: Some((delivery.consumer(), delivery.attempts())),
        }),
    }
}

/// Runs `claudebus consumer next`.
pub(super) async fn next(next: &Next, client: &Client, output: &mut Output) -> Result<(), Failure> {
    let show = next.look.resolve(MessageFormat::Text, output)?;
    let consumer = client.consumer(&next.stream, &next.consumer).await?;
    let end = tokio::time::Instant::now() + next.wait;
    let mut seen = 0;
    while seen < next.count {
        // No more than may be unsettled at a time: the server would hold back the rest.
        let most = u64::try_from(consumer.config().max_ack_pending).unwrap_or(0);
        let most = if most == 0 { u64::MAX } else { most };
        let batch = most.min(next.count - seen);
        let wait = end.saturating_duration_since(tokio::time::Instant::now());
        let fetch = consumer.fetch(batch);
        let fetch = if wait.is_zero() { fetch.no_wait() } else { fetch.expires(wait) };
        let Fetched { deliveries, gaps } = fetch.with_gaps().await?;
        gaps.iter().for_each(|gap| tell_gap(gap));
        for delivery in &deliveries {
            show.print(&shown(delivery, &delivery.payload()), output)?;
        }
        output.flush()?;
        for delivery in &deliveries {
            settle::tell(delivery, next.then).await?;
        }
        seen += deliveries.len() as u64;
        // What is not settled for good would come again, or hold back what follows.
        let settles = matches!(next.then, Then::Ack | Then::Term);
        if (deliveries.len() as u64) < batch || !settles {
            break;
        }
    }
    // Closing waits for what a consumer that is still open has on its way.
    client.close().await;
    drop(consumer);
    if seen == 0 {
        let wait = text::show_duration(next.wait);
        return Err(Failure::new(Exit::TimedOut, format_args!("no message came within {wait}"))
            .hint(format_args!(
                "`claudebus consumer info {} {}` tells why",
                next.stream, next.consumer
            )));
    }
    Ok(())
}

/// Runs `claudebus subscribe`.
pub(super) async fn run(
    args: &Subscribe,
    global: &Global,
    output: &mut Output,
) -> Result<(), Failure> {
    let show = args.look.resolve(MessageFormat::Text, output)?;
    let client = connect(global).await?;
    if args.stream.is_none() && args.durable.is_none() {
        let result = core::receive(args, &client, &show, output).await;
        client.close().await;
        return result;
    }
    let consumer = open(args, &client, output).await?;
    let result = match args.count {
        Some(count) => receive_some(args, count, &consumer, &show, output).await,
        None => receive(args, &consumer, &show, output).await,
    };
    if args.durable.is_none() {
        // Nobody can come back to it. If that fails, the server forgets it by itself.
        let _ = client.delete_consumer(consumer.stream(), consumer.name()).await;
    }
    // Closing waits for what a consumer that is still open has on its way.
    client.close().await;
    drop(consumer);
    result
}

/// What ended the wait for the next message.
enum Woken<T> {
    /// It came, or there will be no more.
    Next(Option<T>),
    /// Nothing is there at this moment.
    Idle,
    /// Nothing came for as long as we wait.
    TimedOut,
    /// The user wants to stop.
    Interrupted,
}

/// Waits for `next`. With `dirty`, tells at once if it is not there yet, so that what was printed
/// can be handed on; otherwise waits as long as `wait` says.
async fn wake<T>(
    next: impl Future<Output = Option<T>>,
    dirty: bool,
    wait: Option<Duration>,
    interrupt: impl Future<Output = ()>,
) -> Woken<T> {
    let limit = async {
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = interrupt => Woken::Interrupted,
        next = next => Woken::Next(next),
        () = std::future::ready(()), if dirty => Woken::Idle,
        () = limit => Woken::TimedOut,
    }
}

/// Resolves when the user or the system wants the program to stop.
pub(super) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler the default action ends the process, which is what is wanted.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The end of a subscription that should have brought `count` messages and brought `seen`.
fn ended(seen: u64, count: Option<u64>, exit: Exit) -> Result<(), Failure> {
    match count {
        Some(count) if seen < count => {
            let (seen, count) = (thousands(seen), thousands(count));
            Err(Failure::new(exit, format_args!("{seen} of {count} messages came")))
        }
        _ => Ok(()),
    }
}

/// Receives from a consumer until there is a reason to stop. What is printed is handed on before it
/// is acknowledged, so that a reader that goes away loses nothing.
async fn receive(
    args: &Subscribe,
    consumer: &Consumer,
    show: &Show,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut settler = Settler::new(args, consumer);
    let credit = Credit { messages: settler.batch(), ..Credit::default() };
    let mut messages = consumer.messages_with(credit);
    let mut interrupt = std::pin::pin!(interrupted());
    loop {
        match wake(messages.next_or_gap(), settler.is_dirty(), args.wait, interrupt.as_mut()).await
        {
            Woken::Next(Some(received)) => match received? {
                Received::Delivery(delivery) => settler.take(delivery, show, output).await?,
                Received::Gap(gap) => tell_gap(&gap),
            },
            Woken::Idle => settler.hand_on(output).await?,
            Woken::TimedOut | Woken::Interrupted => return settler.finish(output).await,
            Woken::Next(None) => {
                return Err(Failure::new(Exit::NotConnected, "the connection was closed"));
            }
        }
    }
}

/// Receives `count` messages and asks for no more than that, so that whoever comes next finds the
/// others in their order.
async fn receive_some(
    args: &Subscribe,
    count: u64,
    consumer: &Consumer,
    show: &Show,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut settler = Settler::new(args, consumer);
    let mut interrupt = std::pin::pin!(interrupted());
    let mut seen = 0;
    let mut waited = Duration::ZERO;
    while seen < count {
        let batch = settler.batch().min(count - seen);
        // What is there comes at once, what is not yet one by one, as it comes.
        let patience = args.wait.map_or(PATIENCE, |wait| (wait - waited).min(PATIENCE));
        let fetch = async {
            let there = consumer.fetch(batch).no_wait().with_gaps().await?;
            if !there.deliveries.is_empty() || !there.gaps.is_empty() {
                return Ok(there);
            }
            consumer.fetch(1).expires(patience).with_gaps().await
        };
        let Fetched { deliveries, gaps } = tokio::select! {
            biased;
            () = &mut interrupt => {
                settler.finish(output).await?;
                return ended(seen, Some(count), Exit::Interrupted);
            }
            fetched = fetch => fetched?,
        };
        gaps.iter().for_each(|gap| tell_gap(gap));
        if deliveries.is_empty() && !gaps.is_empty() {
            // They came at once: nothing was waited for.
            continue;
        }
        if deliveries.is_empty() {
            waited += patience;
            if args.wait.is_some_and(|wait| waited >= wait) {
                settler.finish(output).await?;
                return ended(seen, Some(count), Exit::TimedOut);
            }
            continue;
        }
        waited = Duration::ZERO;
        for delivery in deliveries {
            settler.take(delivery, show, output).await?;
            seen += 1;
        }
        settler.hand_on(output).await?;
    }
    settler.finish(output).await
}

/// Messages that were lost are told even to who wants quiet: they are no talk.
fn tell_gap(gap: &Gap) {
    say(format_args!("gap: {gap}"));
}

/// Opens the consumer that `args` ask for, or makes it.
async fn open(args: &Subscribe, client: &Client, output: &Output) -> Result<Consumer, Failure> {
    let stream = match (&args.stream, &args.subject) {
        (Some(stream), _) => stream.clone(),
        (None, subject) => stream_of(client, subject.as_deref().unwrap_or(">")).await?,
    };
    if let Some(name) = &args.durable {
        match client.consumer(&stream, name).await {
            Ok(consumer) => {
                check_same(args, &consumer)?;
                return Ok(consumer);
            }
            Err(error) if error.api().is_some_and(|e| e.err_code == NO_CONSUMER) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut config = ConsumerConfig {
        durable_name: args.durable.clone(),
        name: args.durable.clone(),
        ack_policy: match args.ack {
            Some(AckWord::None) => AckPolicy::None,
            None if args.durable.is_none() && args.exec.is_none() => AckPolicy::None,
            _ => AckPolicy::Explicit,
        },
        ..ConsumerConfig::default()
    };
    if args.durable.is_none() {
        config.inactive_threshold = EPHEMERAL_LIFE;
    }
    if let Some(start) = &args.deliver {
        start.apply(&mut config);
    }
    if let Some(replay) = args.replay {
        replay.apply(&mut config);
    }
    if let Some(subject) = &args.subject {
        set_filters(&mut config, std::slice::from_ref(subject));
    }
    let consumer = client.create_consumer(&stream, config).await?;
    if let Some(name) = &args.durable {
        output.talk(format_args!("made consumer {name} of stream {stream}"));
    }
    Ok(consumer)
}

/// The code of "consumer not found".
const NO_CONSUMER: u32 = 10014;

/// An existing consumer must be what is asked for.
fn check_same(args: &Subscribe, consumer: &Consumer) -> Result<(), Failure> {
    check_filter(args, consumer)?;
    let config = consumer.config();
    let mut asked = config.clone();
    if let Some(start) = &args.deliver {
        start.apply(&mut asked);
    }
    if asked != *config {
        let begins = format!("begins {}", beginning(config));
        return Err(other_than_asked(consumer, &begins, "--deliver"));
    }
    if let Some(replay) = args.replay {
        replay.apply(&mut asked);
    }
    if asked.replay_policy == config.replay_policy && asked != *config {
        let (name, stream) = (consumer.name(), consumer.stream());
        let brings = format!("brings messages {}", speed(config));
        return Err(Failure::usage(format_args!("consumer {name} of {stream} {brings}")).hint(
            format_args!("to change that: claudebus consumer edit {stream} {name} --replay SPEED"),
        ));
    }
    if asked != *config {
        let speed = Some(speed(config)).filter(|speed| !speed.is_empty());
        let brings = format!("brings messages {}", speed.as_deref().unwrap_or("at once"));
        return Err(other_than_asked(consumer, &brings, "--replay"));
    }
    Ok(())
}

/// A consumer has what is settled when it is made, and `flag` asks for something else.
fn other_than_asked(consumer: &Consumer, has: &str, flag: &str) -> Failure {
    let (name, stream) = (consumer.name(), consumer.stream());
    Failure::usage(format_args!("consumer {name} of {stream} is there already and {has}")).hint(
        format_args!(
            "leave {flag} out to go on where it stopped; take another name, or delete this one with what it \
             remembers, to begin anew: claudebus consumer rm {stream} {name}"
        ),
    )
}

/// It must receive what is asked for.
fn check_filter(args: &Subscribe, consumer: &Consumer) -> Result<(), Failure> {
    let Some(subject) = &args.subject else { return Ok(()) };
    let filters: Vec<_> = consumer.config().filters().collect();
    if filters == [subject.as_str()] || (filters.is_empty() && subject == ">") {
        return Ok(());
    }
    let (name, stream) = (consumer.name(), consumer.stream());
    let has = if filters.is_empty() { ">".to_owned() } else { filters.join(" ") };
    Err(Failure::usage(format_args!(
        "consumer {name} of {stream} receives `{has}`, not `{subject}`"
    ))
    .hint(format_args!(
        "leave the subject out, or change the consumer: claudebus consumer edit {stream} {name} \
         --filter '{subject}'"
    )))
}

/// The one stream that captures something of `subject`.
async fn stream_of(client: &Client, subject: &str) -> Result<String, Failure> {
    let streams = client.list_streams().await?;
    let names: Vec<String> = streams
        .into_iter()
        .filter(|info| info.config.subjects.iter().any(|s| overlap(s, subject)))
        .map(|info| info.config.name)
        .collect();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::new(Exit::NotFound, format_args!("no stream captures `{subject}`"))
            .hint(format_args!("claudebus stream add NAME --subjects '{subject}' makes one"))),
        several => {
            let several = several.join(", ");
            Err(Failure::usage(format_args!("`{subject}` is in several streams: {several}"))
                .hint("say which one with --stream"))
        }
    }
}
