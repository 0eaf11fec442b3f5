//! What the server sends.

use std::sync::Arc;

use bytes::Bytes;

use super::consumer::{
    StatusFrame, put_deliver, put_gap, put_status, take_deliver, take_gap, take_status,
};
use super::control::{DirectMessage, Welcome, json, put_record, record_len, take_record, to_json};
use super::error::FrameError;
use super::frame::{Frame, ServerKind};
use super::output::{Output, varints_len};
use super::publisher::{
    StoredRange, put_published, take_published, take_refused_message, take_stream_name,
};
use super::reader::Reader;
use crate::model::error::ApiError;
use crate::model::event::{CoreMessage, Delivery, Gap};

/// Flag of RESPONSE: the request was done.
const OK: u8 = 1;
/// Flag of RESPONSE: another part follows.
const MORE: u8 = 2;

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// Answers HELLO.
    Welcome(Welcome),
    /// The server does not go on with this stream. Its last frame.
    Refused(ApiError),
    /// The answer to a request, or a part of it: a long one comes as several frames, whose bodies
    /// are joined.
    Response {
        /// The request.
        id: u64,
        /// Whether it was done; otherwise the body is an error.
        ok: bool,
        /// Whether another part follows.
        more: bool,
        /// JSON.
        body: Bytes,
    },
    /// The answer to a direct get that found a message.
    ResponseMessage(DirectMessage),
    /// Messages may be published.
    PublisherReady,
    /// Messages are stored.
    Published {
        /// Counter of the first.
        first: u64,
        /// Where they are: each range goes on where the one before ends. At least one.
        ranges: Vec<StoredRange>,
    },
    /// What an alias on this stream stands for.
    StreamName {
        /// The alias.
        alias: u64,
        /// The stream's name.
        name: String,
    },
    /// A message was not stored.
    RefusedMessage {
        /// Its counter.
        counter: u64,
        /// Why.
        error: ApiError,
    },
    /// Pulls may be sent.
    ConsumerReady,
    /// Messages for a pull.
    Deliver {
        /// The pull.
        token: u64,
        /// At least one. `record.expires` is not on the wire.
        deliveries: Vec<Delivery>,
    },
    /// Something else about a pull.
    Status(StatusFrame),
    /// The consumer passes over sequences that are lost.
    Gap {
        /// The pull.
        token: u64,
        /// What is lost.
        gap: Arc<Gap>,
    },
    /// Acknowledgements are durable, or were refused.
    AckConfirmed {
        /// What ACK gave to confirm.
        token: u64,
        /// Why they were refused, if they were.
        error: Option<ApiError>,
    },
    /// Subscriptions may be made and messages sent.
    MessagesReady,
    /// A message for a subscription.
    Message {
        /// The subscription.
        token: u64,
        /// The message.
        message: CoreMessage,
    },
    /// Everything before the BARRIER is in force.
    BarrierReached {
        /// What BARRIER gave.
        token: u64,
    },
}

impl ServerFrame {
    /// The frame's name in `docs/protocol.md`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "WELCOME",
            Self::Refused(_) => "REFUSED",
            Self::Response { .. } => "RESPONSE",
            Self::ResponseMessage(_) => "RESPONSE_MESSAGE",
            Self::PublisherReady => "PUBLISHER_READY",
            Self::Published { .. } => "PUBLISHED",
            Self::StreamName { .. } => "STREAM_NAME",
            Self::RefusedMessage { .. } => "REFUSED_MESSAGE",
            Self::ConsumerReady => "CONSUMER_READY",
            Self::Deliver { .. } => "DELIVER",
            Self::Status(_) => "STATUS",
            Self::Gap { .. } => "GAP",
            Self::AckConfirmed { .. } => "ACK_CONFIRMED",
            Self::MessagesReady => "MESSAGES_READY",
            Self::Message { .. } => "MESSAGE",
            Self::BarrierReached { .. } => "BARRIER_REACHED",
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`FrameError`] if the type is unknown or the body is not exactly what the type asks for.
    pub fn decode(frame: Frame) -> Result<Self, FrameError> {
        let Frame { kind, body } = frame;
        let reader = |name| Reader::new(body.clone(), name);
        match kind {
            k if k == ServerKind::Welcome as u8 => Ok(Self::Welcome(json(&body, "WELCOME")?)),
            k if k == ServerKind::Refused as u8 => take_refused(reader("REFUSED")),
            k if k == ServerKind::Response as u8 => take_response(reader("RESPONSE")),
            k if k == ServerKind::ResponseMessage as u8 => take_direct(reader("RESPONSE_MESSAGE")),
            k if k == ServerKind::PublisherReady as u8 => {
                reader("PUBLISHER_READY").end().map(|()| Self::PublisherReady)
            }
            k if k == ServerKind::Published as u8 => take_published(reader("PUBLISHED")),
            k if k == ServerKind::StreamName as u8 => take_stream_name(reader("STREAM_NAME")),
            k if k == ServerKind::RefusedMessage as u8 => {
                take_refused_message(reader("REFUSED_MESSAGE"))
            }
            k if k == ServerKind::ConsumerReady as u8 => {
                reader("CONSUMER_READY").end().map(|()| Self::ConsumerReady)
            }
            k if k == ServerKind::Deliver as u8 => take_deliver(reader("DELIVER")),
            k if k == ServerKind::Status as u8 => take_status(reader("STATUS")),
            k if k == ServerKind::Gap as u8 => take_gap(reader("GAP")),
            k if k == ServerKind::AckConfirmed as u8 => take_ack_confirmed(reader("ACK_CONFIRMED")),
            k if k == ServerKind::MessagesReady as u8 => {
                reader("MESSAGES_READY").end().map(|()| Self::MessagesReady)
            }
            k if k == ServerKind::Message as u8 => take_message(reader("MESSAGE")),
            k if k == ServerKind::BarrierReached as u8 => take_barrier(reader("BARRIER_REACHED")),
            other => Err(FrameError::UnknownType(other)),
        }
    }

    /// Appends the frame to `out`. Large messages are not copied.
    pub fn encode(&self, out: &mut Output) {
        match self {
            Self::Welcome(welcome) => {
                out.frame(ServerKind::Welcome as u8, &[&to_json(welcome)], |_| {});
            }
            Self::Refused(error) => out.frame(ServerKind::Refused as u8, &[], |fields| {
                fields.error(error);
            }),
            Self::Response { id, ok, more, body } => {
                let flags = if *ok { OK } else { 0 } | if *more { MORE } else { 0 };
                out.frame(ServerKind::Response as u8, &[body], |fields| {
                    fields.varint(*id).u8(flags);
                });
            }
            Self::ResponseMessage(direct) => put_direct(direct, false, out),
            Self::PublisherReady => out.frame(ServerKind::PublisherReady as u8, &[], |_| {}),
            Self::Published { first, ranges } => put_published(*first, ranges, out),
            Self::StreamName { alias, name } => {
                out.frame(ServerKind::StreamName as u8, &[], |fields| {
                    fields.varint(*alias).field(name.as_bytes());
                });
            }
            Self::RefusedMessage { counter, error } => {
                out.frame(ServerKind::RefusedMessage as u8, &[], |fields| {
                    fields.varint(*counter).error(error);
                });
            }
            Self::ConsumerReady => out.frame(ServerKind::ConsumerReady as u8, &[], |_| {}),
            Self::Deliver { token, deliveries } => put_deliver(*token, deliveries, out),
            Self::Status(status) => put_status(status, out),
            Self::Gap { token, gap } => put_gap(*token, gap, out),
            Self::AckConfirmed { token, error } => {
                out.frame(ServerKind::AckConfirmed as u8, &[], |fields| {
                    fields.varint(*token).u8(u8::from(error.is_none()));
                    if let Some(error) = error {
                        fields.error(error);
                    }
                });
            }
            Self::MessagesReady => out.frame(ServerKind::MessagesReady as u8, &[], |_| {}),
            Self::Message { token, message } => put_message(*token, message, out),
            Self::BarrierReached { token } => {
                out.frame(ServerKind::BarrierReached as u8, &[], |fields| {
                    fields.varint(*token);
                });
            }
        }
    }

    /// Encodes deliveries without first putting them into a frame of their own.
    pub fn encode_deliveries(token: u64, deliveries: &[Delivery], out: &mut Output) {
        put_deliver(token, deliveries, out);
    }

    /// Encodes the answer to a direct get, leaving out the headers if asked.
    pub fn encode_direct(direct: &DirectMessage, without_headers: bool, out: &mut Output) {
        put_direct(direct, without_headers, out);
    }
}

fn take_refused(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let error = reader.error()?;
    reader.end()?;
    Ok(ServerFrame::Refused(error))
}

/// A byte that is 0 or 1.
fn take_bool(reader: &mut Reader) -> Result<bool, FrameError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.malformed("a truth value is neither 0 nor 1")),
    }
}

fn take_response(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let id = reader.varint()?;
    let flags = reader.flags(OK | MORE)?;
    let (ok, more) = (flags & OK != 0, flags & MORE != 0);
    Ok(ServerFrame::Response { id, ok, more, body: reader.rest() })
}

fn put_direct(direct: &DirectMessage, without_headers: bool, out: &mut Output) {
    let DirectMessage { id, stream, record } = direct;
    let len = varints_len([*id, stream.len() as u64, record.seq, record.time])
        + stream.len()
        + record_len(record, without_headers);
    out.head(ServerKind::ResponseMessage as u8, len);
    out.fields().varint(*id).field(stream.as_bytes()).varint(record.seq).varint(record.time);
    put_record(record, without_headers, out);
}

fn take_direct(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let id = reader.varint()?;
    let stream = reader.text()?;
    let (seq, time) = (reader.varint()?, reader.varint()?);
    let record = take_record(&mut reader, seq, time)?;
    reader.end()?;
    Ok(ServerFrame::ResponseMessage(DirectMessage { id, stream, record }))
}

fn take_ack_confirmed(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let token = reader.varint()?;
    let error = if take_bool(&mut reader)? { None } else { Some(reader.error()?) };
    reader.end()?;
    Ok(ServerFrame::AckConfirmed { token, error })
}

fn put_message(token: u64, message: &CoreMessage, out: &mut Output) {
    let CoreMessage { subject, reply, headers, payload } = message;
    out.frame(ServerKind::Message as u8, &[payload], |fields| {
        fields.varint(token).len(subject.len()).len(reply.len()).len(headers.len());
        fields.raw(subject).raw(reply).raw(headers);
    });
}

fn take_message(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let token = reader.varint()?;
    let (subject, reply, headers) = (reader.len()?, reader.len()?, reader.len()?);
    let message = CoreMessage {
        subject: reader.bytes(subject)?,
        reply: reader.bytes(reply)?,
        headers: reader.bytes(headers)?,
        payload: reader.rest(),
    };
    if std::str::from_utf8(&message.subject).is_err()
        || std::str::from_utf8(&message.reply).is_err()
    {
        return Err(reader.malformed("a subject is not UTF-8"));
    }
    Ok(ServerFrame::Message { token, message })
}

fn take_barrier(mut reader: Reader) -> Result<ServerFrame, FrameError> {
    let token = reader.varint()?;
    reader.end()?;
    Ok(ServerFrame::BarrierReached { token })
}
