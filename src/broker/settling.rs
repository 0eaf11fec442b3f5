//! Acknowledgements, and what becomes of messages that a consumer has settled.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use claudebus_storage::log::Filter;
use claudebus_storage::{Log, StreamId, SubjectId};
use rand::RngExt;

use crate::model::consumer::AckPolicy;
use crate::model::error::ApiError;
use crate::model::event::Event;
use crate::model::request::{Ack, AckKind, ReplyTo, SessionId};
use crate::model::stream::Retention;

use super::Broker;
use super::consumer::Settled;
use super::jobs::Task;
use super::stream::Stream;

impl<L: Log> Broker<L> {
    /// Applies acknowledgements.
    pub(super) fn ack(&mut self, from: SessionId, ack: Ack) {
        let Ack { stream, consumer, sequences, kind, confirm, subject } = ack;
        let id = self.catalog.id_of(&stream);
        let now = self.now;
        let mut settled = Vec::new();
        let mut delivered = true;
        if matches!(kind, AckKind::Nak { .. }) {
            self.advise_refusals(&stream, &consumer, &sequences);
        } else if kind == AckKind::Ack {
            self.sample_acks(&stream, &consumer, &sequences);
        }
        let mut is_acked = true;
        let known = id.and_then(|id| {
            let (name, member) = self.catalog.get_mut(id)?.member_mut(&consumer)?;
            let was_delivered =
                |(first, last): &(u64, u64)| member.consumer.was_delivered(*first, *last);
            delivered = sequences.iter().all(was_delivered);
            is_acked = member.consumer.ack_policy() != AckPolicy::None;
            member.consumer.ack(now, &sequences, &kind, &mut settled);
            Some((id, name))
        });
        match &known {
            None => {}
            Some((id, name)) => {
                self.mourning.insert((*id, Arc::clone(name)));
                self.stir(*id, name);
                self.discard_settled(*id, &settled);
            }
        }
        if let Some(reply) = confirm {
            let result = match known {
                // Over NATS nobody is behind the subject of an acknowledgement that is not wanted.
                Some(_) if !is_acked && matches!(reply, ReplyTo::Subject(_)) => {
                    Err(ApiError::consumer_not_found())
                }
                None => Err(ApiError::consumer_not_found()),
                Some(_) if !delivered => Err(ApiError::not_delivered()),
                Some(_) => Ok(()),
            };
            self.confirm_ack(from, reply, result, &subject);
        }
    }

    /// Says of each delivery that it was refused, before it is.
    fn advise_refusals(&mut self, stream: &str, consumer: &str, sequences: &[(u64, u64)]) {
        let id = self.catalog.id_of(stream);
        let Some(member) = id.and_then(|id| self.catalog.get(id)?.consumers.get(consumer)) else {
            return;
        };
        let path = Arc::clone(member.consumer.path());
        if !self.is_advised(&format!("CONSUMER.MSG_NAKED.{stream}.{consumer}")) {
            return;
        }
        let refused = member.consumer.deliveries_of(sequences);
        for delivery in refused {
            self.advise_refused(&path, &delivery);
        }
    }

    /// Tells how long acknowledgements took, of the share of them that the consumer wants to know.
    fn sample_acks(&mut self, stream: &str, consumer: &str, sequences: &[(u64, u64)]) {
        let id = self.catalog.id_of(stream);
        let Some(member) = id.and_then(|id| self.catalog.get(id)?.consumers.get(consumer)) else {
            return;
        };
        if member.consumer.config().sample_freq.is_none() {
            return;
        }
        let percent = member.consumer.config().sampled_percent();
        let path = Arc::clone(member.consumer.path());
        let acked = member.consumer.deliveries_of(sequences);
        for delivery in acked {
            if self.rng.random_range(0..100) < percent {
                self.tell_ack(&path, &delivery);
            }
        }
    }

    fn confirm_ack(
        &mut self,
        from: SessionId,
        reply: ReplyTo,
        result: Result<(), ApiError>,
        subject: &str,
    ) {
        match reply {
            ReplyTo::Session(token) => {
                self.outbox.send_when_durable(from, Event::AckConfirmed { token, result });
            }
            // JetStream says nothing of what was never delivered.
            ReplyTo::Subject(_) if result == Err(ApiError::not_delivered()) => {}
            // An empty message confirms; for a consumer that is not there nobody answers.
            ReplyTo::Subject(reply) if result != Err(ApiError::consumer_not_found()) => {
                self.answer_subject(reply.into(), Bytes::new(), Bytes::new());
            }
            ReplyTo::Subject(reply) => self.unheard(from, subject, &reply),
        }
    }

    /// Deletes settled messages that the stream need not keep.
    pub(super) fn discard_settled(&mut self, id: StreamId, settled: &[Settled]) {
        if settled.is_empty() || !self.catalog.get(id).is_some_and(Stream::deletes_settled) {
            return;
        }
        let mut unknown = VecDeque::new();
        // The text of a subject is looked up once for a row of messages of it.
        let mut known: Option<(SubjectId, String)> = None;
        for message in settled {
            let Some(meta) = message.meta else {
                unknown.push_back(message.seq);
                continue;
            };
            if known.as_ref().is_none_or(|(subject, _)| *subject != meta.subject) {
                let text = self.log.subject_text(id, meta.subject);
                known = text.map(|text| (meta.subject, text.to_owned()));
            }
            // Without a text the subject is gone, and the message with it.
            let Some((_, subject)) = &known else { continue };
            if !self.is_wanted(id, message.seq, subject)
                && self.log.delete(id, message.seq, meta.subject, meta.size)
            {
                self.tell_removed(id, message.seq, subject);
            }
        }
        if !unknown.is_empty() {
            self.start_job(id, Task::Discard { seqs: unknown }, Filter::all());
        }
    }

    /// Whether a message that some consumer settled must stay for another. On a work queue the
    /// one consumer that wants a message is the one that settles it.
    pub(super) fn is_wanted(&self, id: StreamId, seq: u64, subject: &str) -> bool {
        self.catalog.get(id).is_some_and(|stream| {
            let interest = stream.config.retention == Retention::Interest;
            // A schedule stays until it is done, whoever has seen it.
            stream.timetable.contains(seq)
                || interest
                    && (self.is_to_be_copied(stream, seq, subject)
                        || stream.consumers.iter().any(|(_, member)| {
                            member.filter().matches(subject) && !member.consumer.has_settled(seq)
                        }))
        })
    }

    /// Deletes what nobody wants on an interest stream, after a consumer went or chose others.
    pub(super) fn drop_unwanted(&mut self, id: StreamId) {
        let interest =
            self.catalog.get(id).is_some_and(|s| s.config.retention == Retention::Interest);
        if interest && let Some(held) = self.log.stream(id) {
            let task = Task::Disinterest { cursor: held.first_seq, until: held.last_seq };
            self.start_job(id, task, Filter::all());
        }
    }
}
