//! A consumer's stream: pulls and acknowledgements in, deliveries and statuses out.

use claudebus_storage::prefetch::prefetch;

use super::{Ending, unexpected};
use crate::model::api::ApiRequest;
use crate::model::event::{Delivery, Event};
use crate::model::request::{Ack, ConnectionId, Pull, ReplyTo, Request, Token};
use crate::wire::native::{
    ClientFrame, DELIVER_OVERHEAD, Output, PullFrame, ServerFrame, StatusFrame,
};

/// Bytes after which deliveries go on in another frame. 64 KiB: a client works on the first while
/// the next is on its way, and no frame but that of one large message exceeds the limit.
const DELIVER_PART: usize = 64 << 10;

/// The question whether the consumer exists, among requests; pulls have tokens of their own.
const EXISTS: Token = Token(0);

#[derive(Debug)]
pub(super) struct Consumer {
    stream: String,
    consumer: String,
    /// Whether CONSUMER_READY was sent.
    ready: bool,
    /// See [`Session::take_delivered`](super::Session::take_delivered).
    delivered: usize,
}

impl Consumer {
    /// Asks whether the consumer exists before anything else.
    pub(super) fn open(
        connection: ConnectionId,
        (stream, consumer): (String, String),
        requests: &mut Vec<Request>,
    ) -> Self {
        let request =
            ApiRequest::ConsumerInfo { stream: stream.clone(), consumer: consumer.clone() };
        requests.push(Request::Opened { connection });
        requests.push(Request::Api { token: EXISTS, request });
        Self { stream, consumer, ready: false, delivered: 0 }
    }

    pub(super) fn receive(
        &mut self,
        frame: ClientFrame,
        requests: &mut Vec<Request>,
    ) -> Result<(), Ending> {
        requests.push(match frame {
            ClientFrame::Pull(pull) => Request::Pull(self.pull(&pull)),
            ClientFrame::Raise { token, more, more_bytes } => {
                Request::Raise { token: Token(token), more, more_bytes }
            }
            ClientFrame::Cancel { token } => Request::Cancel { token: Token(token) },
            ClientFrame::Ack { kind, sequences, confirm } => Request::Ack(Ack {
                stream: self.stream.clone(),
                consumer: self.consumer.clone(),
                sequences,
                kind,
                confirm: confirm.map(|token| ReplyTo::Session(Token(token))),
                subject: String::new(),
            }),
            other => {
                let rule = "only PULL, RAISE, CANCEL and ACK follow on a consumer's stream";
                return Err(unexpected(&other, rule));
            }
        });
        Ok(())
    }

    fn pull(&self, pull: &PullFrame) -> Pull {
        Pull {
            reply: ReplyTo::Session(Token(pull.token)),
            stream: self.stream.clone(),
            consumer: self.consumer.clone(),
            batch: pull.batch,
            max_bytes: pull.max_bytes,
            expires: pull.expires,
            no_wait: pull.no_wait,
            heartbeat: pull.heartbeat,
            renewable: pull.renewable,
            group: None,
        }
    }

    pub(super) fn event(&mut self, event: Event, out: &mut Output) -> Result<(), Ending> {
        match event {
            Event::Answer { token: EXISTS, result } if !self.ready => match result {
                Ok(_) => {
                    self.ready = true;
                    ServerFrame::ConsumerReady.encode(out);
                }
                Err(error) => {
                    ServerFrame::Refused(error.clone()).encode(out);
                    return Err(Ending::Refused(error));
                }
            },
            Event::Deliver { token, deliveries, .. } => {
                self.delivered += deliveries.iter().map(Delivery::charge).sum::<usize>();
                deliver(token.0, &deliveries, out);
            }
            Event::PullStatus { token, status } => {
                ServerFrame::Status(StatusFrame { token: token.0, status }).encode(out);
            }
            Event::Gap { token, gap } => {
                ServerFrame::Gap { token: token.0, gap }.encode(out);
            }
            Event::AckConfirmed { token, result } => {
                ServerFrame::AckConfirmed { token: token.0, error: result.err() }.encode(out);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn take_delivered(&mut self) -> usize {
        std::mem::take(&mut self.delivered)
    }
}

/// Encodes deliveries in frames of about [`DELIVER_PART`] bytes.
fn deliver(token: u64, mut deliveries: &[Delivery], out: &mut Output) {
    while !deliveries.is_empty() {
        let mut bytes = 0;
        let whole = deliveries
            .iter()
            .take_while(|delivery| {
                bytes += delivery.record.data().len() + DELIVER_OVERHEAD;
                bytes <= DELIVER_PART
            })
            .count()
            .max(1);
        let (part, rest) = deliveries.split_at(whole);
        prefetch(part.iter().map(|delivery| &**delivery.record.data()));
        ServerFrame::encode_deliveries(token, part, out);
        deliveries = rest;
    }
}
