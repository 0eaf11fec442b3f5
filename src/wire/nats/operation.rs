//! What clients send.

use super::connect::Connect;
use super::control_line::{Arguments, ControlLine, Part, Verb, number};
use super::error::ProtocolError;
use crate::model::batch::MessageBatch;

/// One operation of a client, or a row of messages. `+OK` and INFO mean nothing from a client: the
/// decoder skips them.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Options of the connection. May come again.
    Connect(Box<Connect>),
    /// PUB and HPUB that followed each other, in the buffer they arrived in. Never empty.
    Publish(MessageBatch),
    /// Begins a subscription.
    Subscribe {
        /// Names it on this connection. Any text.
        sid: Box<str>,
        /// Subject pattern, not yet checked.
        subject: Box<str>,
        /// Queue group.
        queue: Option<Box<str>>,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The subscription.
        sid: Box<str>,
        /// Messages after which it ends, counted from its beginning; at once if none. What is no
        /// number, zero, or of more than nine digits is none, as in nats-server.
        max: Option<u64>,
    },
    /// Asks for PONG.
    Ping,
    /// Answers PING.
    Pong,
}

impl Operation {
    /// The operation of a line within `bytes`, or nothing if it means nothing.
    ///
    /// # Errors
    /// [`ProtocolError`] if the arguments are not what the operation takes, and also for PUB and
    /// HPUB, which are not a line alone.
    pub(super) fn of_line(bytes: &[u8], line: ControlLine) -> Result<Option<Self>, ProtocolError> {
        match line.verb {
            Verb::Connect => {
                let (start, len) = line.arguments;
                let options = bytes.get(start..start + len).unwrap_or_default();
                Ok(Some(Self::Connect(Box::new(Connect::from_json(options)?))))
            }
            Verb::Subscribe => subscribe(bytes, line).map(Some),
            Verb::Unsubscribe => unsubscribe(bytes, line).map(Some),
            Verb::Ping => Ok(Some(Self::Ping)),
            Verb::Pong => Ok(Some(Self::Pong)),
            Verb::Ok => Ok(None),
            Verb::Info => ignore_info(bytes, line).map(|()| None),
            Verb::Error => Err(ProtocolError::Parse("-ERR: clients do not send it")),
            Verb::Publish | Verb::PublishWithHeaders => Err(ProtocolError::UnknownOperation),
        }
    }
}

/// INFO is what servers say to each other. From a client it changes nothing, but it must be JSON, as in
/// nats-server.
fn ignore_info(bytes: &[u8], line: ControlLine) -> Result<(), ProtocolError> {
    let (start, len) = line.arguments;
    let text = bytes.get(start..start + len).unwrap_or_default();
    serde_json::from_slice::<Option<serde_json::Map<String, serde_json::Value>>>(text)
        .map(drop)
        .map_err(|_| ProtocolError::Parse("INFO: it takes an object in JSON"))
}

fn subscribe(bytes: &[u8], line: ControlLine) -> Result<Operation, ProtocolError> {
    let (subject, queue, sid) = match Arguments::split(bytes, line.arguments).parts() {
        [subject, sid] => (*subject, None, *sid),
        [subject, queue, sid] => (*subject, Some(*queue), *sid),
        _ => return Err(ProtocolError::Parse("SUB: it takes a subject, maybe a queue, and an id")),
    };
    let queue = queue.map(|queue| text(bytes, queue)).transpose()?;
    Ok(Operation::Subscribe { sid: text(bytes, sid)?, subject: text(bytes, subject)?, queue })
}

fn unsubscribe(bytes: &[u8], line: ControlLine) -> Result<Operation, ProtocolError> {
    let (sid, max) = match Arguments::split(bytes, line.arguments).parts() {
        [sid] => (*sid, None),
        [sid, max] => (*sid, number(bytes, *max)),
        _ => return Err(ProtocolError::Parse("UNSUB: it takes an id and maybe a number")),
    };
    let max = max.and_then(|max| u64::try_from(max).ok()).filter(|max| *max > 0);
    Ok(Operation::Unsubscribe { sid: text(bytes, sid)?, max })
}

fn text(bytes: &[u8], (start, len): Part) -> Result<Box<str>, ProtocolError> {
    bytes
        .get(start..start + len)
        .and_then(|part| std::str::from_utf8(part).ok())
        .map(Into::into)
        .ok_or(ProtocolError::NotText)
}
