//! A stream for messages that are published and subscribed to without being stored.

use std::collections::HashSet;

use bytes::Bytes;

use super::publisher::check_count;
use super::{Ending, unexpected};
use crate::model::api::ApiRequest;
use crate::model::error::ApiError;
use crate::model::event::{CoreMessage, Event};
use crate::model::limits::Limits;
use crate::model::request::{Request, Token};
use crate::model::subject::is_pattern;
use crate::wire::native::{ClientFrame, FrameError, Output, ServerFrame, strip};

#[derive(Debug, Default)]
pub(super) struct Messages {
    /// Tokens of subscriptions that were not ended by the client.
    subscriptions: HashSet<u64>,
    /// See [`Session::take_delivered`](super::Session::take_delivered).
    delivered: usize,
}

impl Messages {
    pub(super) fn receive(
        &mut self,
        frame: ClientFrame,
        limits: &Limits,
        requests: &mut Vec<Request>,
        out: &mut Output,
    ) -> Result<(), Ending> {
        match frame {
            ClientFrame::Subscribe { token, subject, queue } => {
                self.subscribe(token, &subject, limits).inspect_err(|ending| {
                    if let Ending::Refused(error) = ending {
                        ServerFrame::Refused(error.clone()).encode(out);
                    }
                })?;
                requests.push(Request::Subscribe { token: Token(token), subject, queue });
            }
            ClientFrame::Unsubscribe { token, max } => {
                if max.is_none() {
                    self.subscriptions.remove(&token);
                }
                requests.push(Request::Unsubscribe { token: Token(token), max });
            }
            ClientFrame::Send { batch, echo } => {
                check_count("SEND", batch.len(), limits)?;
                requests.push(Request::Send { batch, echo });
            }
            // The broker answers in order, and only when what came before is durable.
            ClientFrame::Barrier { token } => {
                requests
                    .push(Request::Api { token: Token(token), request: ApiRequest::ServerInfo });
            }
            other => {
                let rule = "only SUBSCRIBE, UNSUBSCRIBE, SEND and BARRIER follow on a stream for \
                            messages";
                return Err(unexpected(&other, rule));
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, token: u64, subject: &str, limits: &Limits) -> Result<(), Ending> {
        if !is_pattern(subject) {
            return Err(Ending::Refused(ApiError::invalid_subject(subject)));
        }
        if self.subscriptions.len() >= limits.max_subscriptions {
            return Err(Ending::Refused(ApiError::insufficient_resources()));
        }
        if !self.subscriptions.insert(token) {
            let what = "the token names another subscription";
            return Err(FrameError::Malformed { frame: "SUBSCRIBE", what }.into());
        }
        Ok(())
    }

    pub(super) fn event(&mut self, event: Event, out: &mut Output) {
        match event {
            // Of a push consumer, for a subscription to its `deliver_subject`.
            Event::Deliver { token, deliveries, .. } => {
                for delivery in &deliveries {
                    self.delivered += delivery.charge();
                    let record = strip(delivery).record;
                    let message = CoreMessage {
                        subject: record.data().slice(..record.subject_len()),
                        reply: Bytes::new(),
                        headers: record.headers_bytes(),
                        payload: record.payload_bytes(),
                    };
                    ServerFrame::Message { token: token.0, message }.encode(out);
                }
            }
            Event::Message { token, message } => {
                ServerFrame::Message { token: token.0, message }.encode(out);
            }
            Event::Answer { token, .. } => {
                ServerFrame::BarrierReached { token: token.0 }.encode(out);
            }
            _ => {}
        }
    }

    pub(super) fn take_delivered(&mut self) -> usize {
        std::mem::take(&mut self.delivered)
    }
}
