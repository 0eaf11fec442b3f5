//! PUB and HPUB: where the parts of one message lie, and whether it is all there.

use super::control_line::{Arguments, ControlLine, Part, Verb, number};
use super::error::ProtocolError;

/// What a decoder allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of headers and payload together.
    pub(super) payload: usize,
    /// Bytes of an operation's arguments.
    pub(super) control_line: usize,
    /// Whether HPUB may come.
    pub(super) headers: bool,
}

/// One message, by positions in the buffer it arrived in. Headers and payload follow each other from
/// `body`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) subject: Part,
    /// Of length 0 if there is none.
    pub(super) reply: Part,
    pub(super) body: usize,
    pub(super) headers: usize,
    pub(super) payload: usize,
}

/// What starts at some position.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// A complete message, and where the next operation starts.
    Message(Message, usize),
    /// A line of another operation.
    Other(ControlLine),
    /// The start of something that is only complete when the buffer has so many bytes, or more; 0
    /// where that cannot be told yet.
    Unfinished(usize),
}

/// What starts at `start` of `bytes`.
///
/// # Errors
/// [`ProtocolError`] of a line or its arguments as soon as that line is there, and of a payload's
/// end as soon as its first wrong byte is there.
pub(super) fn find(bytes: &[u8], start: usize, limits: Limits) -> Result<Found, ProtocolError> {
    let Some(line) = ControlLine::at(bytes, start, limits.control_line)? else {
        return Ok(Found::Unfinished(0));
    };
    let message = match line.verb {
        Verb::Publish => without_headers(bytes, line)?,
        Verb::PublishWithHeaders if !limits.headers => {
            return Err(ProtocolError::HeadersNotAllowed);
        }
        Verb::PublishWithHeaders => with_headers(bytes, line)?,
        _ => return Ok(Found::Other(line)),
    };
    let size = message.headers + message.payload;
    if size > limits.payload {
        return Err(ProtocolError::MaximumPayload { size, limit: limits.payload });
    }
    let end = message.body + size;
    match (bytes.get(end), bytes.get(end + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(Found::Message(message, end + 2)),
        (Some(b'\r'), None) => Ok(Found::Unfinished(end + 2)),
        (None, _) => Ok(Found::Unfinished(end + 1)),
        _ => Err(ProtocolError::UnknownOperation),
    }
}

fn without_headers(bytes: &[u8], line: ControlLine) -> Result<Message, ProtocolError> {
    let (subject, reply, size) = match Arguments::split(bytes, line.arguments).parts() {
        [subject, size] => (*subject, (0, 0), *size),
        [subject, reply, size] => (*subject, *reply, *size),
        _ => {
            return Err(ProtocolError::Parse("PUB: it takes a subject, maybe a reply, and a size"));
        }
    };
    let payload = number(bytes, size)
        .ok_or(ProtocolError::Parse("PUB: its size is not a number of at most nine digits"))?;
    Ok(Message { subject, reply, body: line.end, headers: 0, payload })
}

fn with_headers(bytes: &[u8], line: ControlLine) -> Result<Message, ProtocolError> {
    let (subject, reply, headers, size) = match Arguments::split(bytes, line.arguments).parts() {
        [subject, headers, size] => (*subject, (0, 0), *headers, *size),
        [subject, reply, headers, size] => (*subject, *reply, *headers, *size),
        _ => {
            return Err(ProtocolError::Parse(
                "HPUB: it takes a subject, maybe a reply, and two sizes",
            ));
        }
    };
    let (Some(headers), Some(size)) = (number(bytes, headers), number(bytes, size)) else {
        return Err(ProtocolError::Parse("HPUB: a size is not a number of at most nine digits"));
    };
    let payload = size
        .checked_sub(headers)
        .ok_or(ProtocolError::Parse("HPUB: its headers are larger than the whole"))?;
    Ok(Message { subject, reply, body: line.end, headers, payload })
}
