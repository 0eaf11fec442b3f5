//! What clients send.

use bytes::Bytes;

use super::consumer::{PullFrame, put_ack, put_pull, take_ack, take_pull};
use super::control::{Hello, json, to_json};
use super::error::FrameError;
use super::frame::{ClientKind, Frame};
use super::messages::{take_publish, take_send, writer_of};
use super::output::Output;
use super::publisher::take_producer;
use super::reader::Reader;
use crate::model::batch::MessageBatch;
use crate::model::request::{AckKind, ProducerId};

/// A frame from a client.
#[derive(Clone, Debug)]
pub enum ClientFrame {
    /// First frame of the first stream.
    Hello(Hello),
    /// A request, on the control stream.
    Request {
        /// Chosen by the client; the answer repeats it.
        id: u64,
        /// JetStream's API subject without `$JS.API.`, or one of ours.
        operation: String,
        /// The JSON body; may be empty.
        body: Bytes,
    },
    /// First frame of a publisher's stream.
    OpenPublisher {
        /// Who numbers the messages.
        producer: ProducerId,
    },
    /// Numbered messages. Never empty.
    Publish {
        /// Counter of the first message.
        first: u64,
        /// The messages: slices of the frame.
        batch: MessageBatch,
    },
    /// First frame of a consumer's stream.
    OpenConsumer {
        /// The stream's name.
        stream: String,
        /// The consumer's name.
        consumer: String,
    },
    /// Asks for messages.
    Pull(PullFrame),
    /// Allows more messages and bytes to a renewable pull.
    Raise {
        /// The pull.
        token: u64,
        /// Messages.
        more: u64,
        /// Bytes.
        more_bytes: u64,
    },
    /// Withdraws a pull.
    Cancel {
        /// The pull.
        token: u64,
    },
    /// Acknowledges deliveries of this stream's consumer.
    Ack {
        /// What the acknowledgement says.
        kind: AckKind,
        /// Inclusive ranges of stream sequences, ascending.
        sequences: Vec<(u64, u64)>,
        /// If given, ACK_CONFIRMED repeats it. Not zero.
        confirm: Option<u64>,
    },
    /// First frame of a stream for messages that are not stored.
    OpenMessages,
    /// Begins a subscription.
    Subscribe {
        /// Names it.
        token: u64,
        /// Subject pattern.
        subject: String,
        /// Queue group.
        queue: Option<String>,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The subscription.
        token: u64,
        /// Messages after which it ends, counted from its beginning; at once if none.
        max: Option<u64>,
    },
    /// Messages without numbers.
    Send {
        /// The messages: slices of the frame.
        batch: MessageBatch,
        /// Whether the sender's own subscriptions get them too.
        echo: bool,
    },
    /// Asks for BARRIER_REACHED once everything before it on this stream is in force.
    Barrier {
        /// Repeated in the answer.
        token: u64,
    },
}

impl ClientFrame {
    /// The frame's name in `docs/protocol.md`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::Request { .. } => "REQUEST",
            Self::OpenPublisher { .. } => "OPEN_PUBLISHER",
            Self::Publish { .. } => "PUBLISH",
            Self::OpenConsumer { .. } => "OPEN_CONSUMER",
            Self::Pull(_) => "PULL",
            Self::Raise { .. } => "RAISE",
            Self::Cancel { .. } => "CANCEL",
            Self::Ack { .. } => "ACK",
            Self::OpenMessages => "OPEN_MESSAGES",
            Self::Subscribe { .. } => "SUBSCRIBE",
            Self::Unsubscribe { .. } => "UNSUBSCRIBE",
            Self::Send { .. } => "SEND",
            Self::Barrier { .. } => "BARRIER",
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
            k if k == ClientKind::Hello as u8 => Ok(Self::Hello(json(&body, "HELLO")?)),
            k if k == ClientKind::Request as u8 => take_request(reader("REQUEST")),
            k if k == ClientKind::OpenPublisher as u8 => {
                Ok(Self::OpenPublisher { producer: take_producer(reader("OPEN_PUBLISHER"))? })
            }
            k if k == ClientKind::Publish as u8 => {
                let (first, batch) = take_publish(reader("PUBLISH"))?;
                Ok(Self::Publish { first, batch })
            }
            k if k == ClientKind::OpenConsumer as u8 => take_open_consumer(reader("OPEN_CONSUMER")),
            k if k == ClientKind::Pull as u8 => take_pull(reader("PULL")),
            k if k == ClientKind::Raise as u8 => take_raise(reader("RAISE")),
            k if k == ClientKind::Cancel as u8 => {
                Ok(Self::Cancel { token: take_token(reader("CANCEL"))? })
            }
            k if k == ClientKind::Ack as u8 => take_ack(reader("ACK")),
            k if k == ClientKind::OpenMessages as u8 => {
                reader("OPEN_MESSAGES").end()?;
                Ok(Self::OpenMessages)
            }
            k if k == ClientKind::Subscribe as u8 => take_subscribe(reader("SUBSCRIBE")),
            k if k == ClientKind::Unsubscribe as u8 => take_unsubscribe(reader("UNSUBSCRIBE")),
            k if k == ClientKind::Send as u8 => {
                let (batch, echo) = take_send(reader("SEND"))?;
                Ok(Self::Send { batch, echo })
            }
            k if k == ClientKind::Barrier as u8 => {
                Ok(Self::Barrier { token: take_token(reader("BARRIER"))? })
            }
            other => Err(FrameError::UnknownType(other)),
        }
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Output) {
        match self {
            Self::Hello(hello) => out.frame(ClientKind::Hello as u8, &[&to_json(hello)], |_| {}),
            Self::Request { id, operation, body } => {
                out.frame(ClientKind::Request as u8, &[body], |fields| {
                    fields.varint(*id).field(operation.as_bytes());
                });
            }
            Self::OpenPublisher { producer } => {
                out.frame(ClientKind::OpenPublisher as u8, &[], |fields| {
                    fields.raw(&producer.0.to_be_bytes());
                });
            }
            Self::Publish { first, batch } => writer_of(batch).numbered(*first).encode(out),
            Self::OpenConsumer { stream, consumer } => {
                out.frame(ClientKind::OpenConsumer as u8, &[], |fields| {
                    fields.field(stream.as_bytes()).field(consumer.as_bytes());
                });
            }
            Self::Pull(pull) => put_pull(pull, out),
            Self::Raise { token, more, more_bytes } => {
                out.frame(ClientKind::Raise as u8, &[], |fields| {
                    fields.varint(*token).varint(*more).varint(*more_bytes);
                });
            }
            Self::Cancel { token } => put_token(ClientKind::Cancel, *token, out),
            Self::Ack { kind, sequences, confirm } => put_ack(kind, sequences, *confirm, out),
            Self::OpenMessages => out.frame(ClientKind::OpenMessages as u8, &[], |_| {}),
            Self::Subscribe { token, subject, queue } => {
                out.frame(ClientKind::Subscribe as u8, &[], |fields| {
                    let queue = queue.as_deref().unwrap_or_default();
                    fields.varint(*token).field(subject.as_bytes()).field(queue.as_bytes());
                });
            }
            Self::Unsubscribe { token, max } => {
                out.frame(ClientKind::Unsubscribe as u8, &[], |fields| {
                    fields.varint(*token).varint(max.unwrap_or(0));
                });
            }
            Self::Send { batch, echo } => writer_of(batch).encode_send(*echo, out),
            Self::Barrier { token } => put_token(ClientKind::Barrier, *token, out),
        }
    }
}

fn put_token(kind: ClientKind, token: u64, out: &mut Output) {
    out.frame(kind as u8, &[], |fields| {
        fields.varint(token);
    });
}

fn take_token(mut reader: Reader) -> Result<u64, FrameError> {
    let token = reader.varint()?;
    reader.end()?;
    Ok(token)
}

fn take_request(mut reader: Reader) -> Result<ClientFrame, FrameError> {
    let id = reader.varint()?;
    let operation = reader.text()?;
    Ok(ClientFrame::Request { id, operation, body: reader.rest() })
}

fn take_open_consumer(mut reader: Reader) -> Result<ClientFrame, FrameError> {
    let frame = ClientFrame::OpenConsumer { stream: reader.text()?, consumer: reader.text()? };
    reader.end()?;
    Ok(frame)
}

fn take_raise(mut reader: Reader) -> Result<ClientFrame, FrameError> {
    let token = reader.varint()?;
    let frame = ClientFrame::Raise { token, more: reader.varint()?, more_bytes: reader.varint()? };
    reader.end()?;
    Ok(frame)
}

fn take_subscribe(mut reader: Reader) -> Result<ClientFrame, FrameError> {
    let token = reader.varint()?;
    let subject = reader.text()?;
    let queue = Some(reader.text()?).filter(|queue| !queue.is_empty());
    reader.end()?;
    Ok(ClientFrame::Subscribe { token, subject, queue })
}

fn take_unsubscribe(mut reader: Reader) -> Result<ClientFrame, FrameError> {
    let token = reader.varint()?;
    let max = Some(reader.varint()?).filter(|max| *max > 0);
    reader.end()?;
    Ok(ClientFrame::Unsubscribe { token, max })
}
