//! Messages as they are published, which nobody keeps for us.

use super::{Subscribe, Woken, ended, interrupted, wake};
use crate::cli::exec;
use crate::cli::exit::{Exit, Failure};
use crate::cli::message::{Show, Shown};
use crate::cli::output::Output;
use crate::client::{Client, CoreMessage};

/// What to show of a message.
pub(in crate::cli) fn shown<'a>(message: &'a CoreMessage, payload: &'a [u8]) -> Shown<'a> {
    Shown {
        subject: message.subject(),
        reply: message.reply().unwrap_or(""),
        headers: message.headers().collect(),
        payload,
        stored: None,
    }
}

/// Receives until there is a reason to stop.
pub(super) async fn receive(
    args: &Subscribe,
    client: &Client,
    show: &Show,
    output: &mut Output,
) -> Result<(), Failure> {
    let subject = args.subject.as_deref().unwrap_or(">");
    if args.deliver.is_some() || args.ack.is_some() || args.replay.is_some() {
        return Err(Failure::usage("--deliver, --ack and --replay are about stored messages")
            .hint("add --stream or --durable"));
    }
    let mut subscription = match &args.queue {
        Some(queue) => client.queue_subscribe(subject, queue).await?,
        None => client.subscribe(subject).await?,
    };
    output.talk(format_args!("listening on {subject}"));
    let mut interrupt = std::pin::pin!(interrupted());
    let (mut seen, mut dirty, mut dropped) = (0, false, 0);
    while args.count.is_none_or(|count| seen < count) {
        match wake(subscription.next(), dirty, args.wait, interrupt.as_mut()).await {
            Woken::Next(Some(message)) => {
                let payload = message.payload();
                let message = shown(&message, &payload);
                match &args.exec {
                    Some(command) => {
                        exec::run(command, &message).await?;
                    }
                    None => show.print(&message, output)?,
                }
                (seen, dirty) = (seen + 1, true);
            }
            Woken::Idle => {
                output.flush()?;
                dirty = false;
                let now = subscription.dropped();
                if now > dropped {
                    output.talk(format_args!("{} messages were missed: too slow", now - dropped));
                    dropped = now;
                }
            }
            Woken::Next(None) => {
                return Err(Failure::new(Exit::NotConnected, "the connection was closed"));
            }
            Woken::TimedOut => return ended(seen, args.count, Exit::TimedOut),
            Woken::Interrupted => return ended(seen, args.count, Exit::Interrupted),
        }
    }
    Ok(())
}
