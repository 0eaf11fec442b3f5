//! Atomic batches: messages of any streams that are stored all, or none of them.
//!
//! All are checked against what was there before the first is stored; what is stored is one group of
//! the journal. The batch's id is the first message's.

use std::collections::BTreeMap;

use claudebus_storage::{Log, Pressure, StreamId};

use crate::model::api::{ApiResponse, BatchMessage, BatchPlace};
use crate::model::batch::{MessageBatch, MessageView};
use crate::model::error::ApiError;
use crate::model::headers::is_well_formed;
use crate::model::request::SessionId;
use crate::model::stream::Discard;
use crate::model::subject::is_publishable;

use super::Broker;
use super::publish::{New, Placed};
use super::run::Run;

/// A message of a batch that its stream takes.
struct Ready<'m> {
    message: MessageView<'m>,
    run: Run<'m>,
    stream: StreamId,
    new: New<'m>,
}

/// What a batch adds to a stream.
#[derive(Default)]
struct Added<'m> {
    messages: u64,
    bytes: u64,
    subjects: BTreeMap<&'m str, u64>,
}

impl<L: Log> Broker<L> {
    /// Stores all messages, or none.
    pub(super) fn publish_atomically(
        &mut self,
        from: SessionId,
        messages: &[BatchMessage],
    ) -> Result<ApiResponse, ApiError> {
        let most = self.limits.max_atomic_messages;
        if messages.is_empty() {
            return Err(ApiError::bad_request_because("a batch holds one message at least"));
        }
        if messages.len() > most {
            return Err(ApiError::batch_too_large(most));
        }
        if self.log.pressure() >= Pressure::Full {
            return Err(ApiError::storage_exceeded());
        }
        let mut ready = Vec::with_capacity(messages.len());
        for (at, message) in messages.iter().enumerate() {
            match self.check_in_batch(at, message).map_err(|error| at_message(at, &error))? {
                Ok(checked) => ready.push(checked),
                Err(placed) => return Ok(self.answer_batch(true, &[placed])),
            }
        }
        self.check_room_for(&ready)?;
        let placed = self.announcing_later(|broker| broker.place_all(from, ready))?;
        Ok(self.answer_batch(false, &placed))
    }

    /// Stores messages that were checked. Only the first may have an id, so only it can fail.
    fn place_all(
        &mut self,
        from: SessionId,
        ready: Vec<Ready<'_>>,
    ) -> Result<Vec<Placed>, ApiError> {
        let mut placed = Vec::with_capacity(ready.len());
        for Ready { message, mut run, stream, new } in ready {
            let batch = MessageBatch::of_one(message.subject, "", message.headers, message.payload);
            placed.push(self.place(&mut run, stream, &message, new)?);
            if let Some(view) = batch.iter().next() {
                self.deliver_core(from, &run.route, &batch, &view, true);
            }
            self.end_run(Some(&run));
        }
        Ok(placed)
    }

    /// Checks one message. Where it was stored before, if it was.
    fn check_in_batch<'m>(
        &mut self,
        at: usize,
        message: &'m BatchMessage,
    ) -> Result<Result<Ready<'m>, Placed>, ApiError> {
        let BatchMessage { subject, headers, payload } = message;
        if !headers.is_empty() && !is_well_formed(headers) {
            return Err(ApiError::bad_request_because("its header block is malformed"));
        }
        if !is_publishable(subject) {
            return Err(ApiError::invalid_subject(subject));
        }
        let run = self.begin_run(subject, None);
        let stream = run.stream.ok_or_else(ApiError::no_stream_matches)?;
        if headers.len() + payload.len() > self.limits.max_payload {
            return Err(ApiError::payload_too_large(self.limits.max_payload));
        }
        let view = MessageView { subject, reply: "", headers, payload };
        let checked = self.check(&run, stream, &view)?;
        if at > 0 && checked.as_ref().map_or(true, New::has_id) {
            return Err(ApiError::bad_request_because(
                "only the first message of a batch has a Nats-Msg-Id: it is the batch's",
            ));
        }
        Ok(match checked {
            Err(seq) => Err(Placed { stream, seq, duplicate: true }),
            Ok(new) => Ok(Ready { message: view, run, stream, new }),
        })
    }

    /// Whether streams that discard new messages have room for all. What the batch itself would
    /// push out is not counted as room.
    fn check_room_for(&self, ready: &[Ready<'_>]) -> Result<(), ApiError> {
        let mut added: BTreeMap<StreamId, Added<'_>> = BTreeMap::new();
        for Ready { message, stream: id, run, .. } in ready {
            let Some(stream) = self.catalog.get(*id) else { continue };
            let (subject, headers) = (run.stored_as().len(), message.headers.len());
            let added = added.entry(*id).or_default();
            added.messages += 1;
            added.bytes += stream.storage().size(subject, headers, message.payload.len());
            *added.subjects.entry(run.stored_as()).or_default() += 1;
        }
        for (id, added) in added {
            let Some(stream) = self.catalog.get(id) else { continue };
            if stream.config.discard != Discard::New {
                continue;
            }
            let held = self.log.stream(id).unwrap_or_default();
            // A message by message check has passed, so what is one only has room.
            if added.messages > 1
                && stream.max_msgs().is_some_and(|most| held.messages + added.messages > most)
            {
                return Err(ApiError::store_failed("maximum messages exceeded"));
            }
            if added.messages > 1
                && stream.max_bytes().is_some_and(|most| held.bytes + added.bytes > most)
            {
                return Err(ApiError::store_failed("maximum bytes exceeded"));
            }
            let exceeds = |(subject, more): (&&str, &u64)| {
                let count = self.log.subject(id, subject).map_or(0, |summary| summary.count);
                stream.max_per_subject().is_some_and(|most| count + more > most)
            };
            if stream.config.discard_new_per_subject && added.subjects.iter().any(exceeds) {
                return Err(ApiError::store_failed("maximum messages per subject exceeded"));
            }
        }
        Ok(())
    }

    fn answer_batch(&self, duplicate: bool, placed: &[Placed]) -> ApiResponse {
        let place = |placed: &Placed| BatchPlace {
            stream: self.catalog.get(placed.stream).map_or("", |stream| &stream.name).to_owned(),
            seq: placed.seq,
        };
        ApiResponse::Batch { duplicate, stored: placed.iter().map(place).collect() }
    }
}

/// The error of one message of a batch says which.
fn at_message(at: usize, error: &ApiError) -> ApiError {
    let description = format!("message {} of the batch: {}", at + 1, error.description).into();
    ApiError { description, ..*error }
}
