//! Atomic batches of NATS clients (ADR-50): messages of one stream that name their batch in a header wait
//! here until its last one comes. Then all are checked against what was there before, and stored in one
//! group of the journal, or none is.
//!
//! Messages of a batch reach core subscriptions when they come, as others do; that is not done here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::{Fingerprint, Log, Pressure, StreamId};

use crate::model::api::BatchMessage;
use crate::model::batch::MessageView;
use crate::model::error::ApiError;
use crate::model::headers::{self, Block, names};
use crate::model::stream::Discard;

use super::counting::{Total, is_unread};
use super::publish::{New, Placed};
use super::run::Run;
use super::stream::Stream;
use super::stream::asked::{Asked, Rollup};
use super::{Broker, Deadline};

/// Longest id of a batch, in bytes. 64, as JetStream.
const MAX_ID: usize = 64;

/// The level of the API that a message of a batch may ask for: that of the `eob` commit (ADR-50).
const LEVEL: u32 = 3;

/// A batch of a stream, by its id.
pub(super) type BatchKey = (StreamId, Arc<str>);

/// The batches that are not committed yet.
#[derive(Debug, Default)]
pub(super) struct Staging {
    batches: BTreeMap<BatchKey, Waiting>,
    bytes: usize,
}

/// The messages of one.
#[derive(Debug, Default)]
struct Waiting {
    messages: Vec<BatchMessage>,
    bytes: usize,
    /// When it is given up, by the monotonic clock.
    until: Duration,
}

/// What a message costs while it waits, in bytes.
fn cost(subject: &str, headers: &[u8], payload: &[u8]) -> usize {
    size_of::<BatchMessage>() + subject.len() + headers.len() + payload.len()
}

/// What became of a message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Staged {
    /// It waits for the others.
    Waits,
    /// All are stored: where the last one is, and how many there are.
    Committed { id: Arc<str>, last: Placed, count: usize },
}

/// Why a batch was given up, in the words of its advisory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Timeout,
    Incomplete,
    Large,
    Unsupported,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Incomplete => "incomplete",
            Self::Large => "large",
            Self::Unsupported => "unsupported",
        }
    }
}

impl Waiting {
    fn remove_last(&mut self) {
        if let Some(BatchMessage { subject, headers, payload }) = self.messages.pop() {
            self.bytes -= cost(&subject, &headers, &payload);
        }
    }
}

impl Staging {
    /// Bytes of all messages that wait.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(&mut self, key: &BatchKey) -> Option<Waiting> {
        let waiting = self.batches.remove(key)?;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    fn of_stream(&self, id: StreamId) -> impl Iterator<Item = &BatchKey> {
        let all = self.batches.range((id, Arc::from(""))..);
        all.map(|(key, _)| key).take_while(move |key| key.0 == id)
    }
}

/// How a message ends its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    /// Not at all.
    No,
    /// It is the last one.
    Last,
    /// The one before it was the last one; it is not stored itself.
    EndOfBatch,
    /// In no way that there is.
    Invalid,
}

impl Commit {
    fn read(block: &[u8]) -> Self {
        match headers::get(block, names::BATCH_COMMIT) {
            None | Some("") => Self::No,
            Some("1") => Self::Last,
            Some("eob") => Self::EndOfBatch,
            Some(_) => Self::Invalid,
        }
    }
}

/// The id of the batch that a message is of.
pub(super) fn batch_of(block: &[u8]) -> Option<&str> {
    headers::get(block, names::BATCH_ID).filter(|id| !id.is_empty())
}

impl<L: Log> Broker<L> {
    /// Takes a message of a batch, which is committed with its last one.
    pub(super) fn stage(
        &mut self,
        id: StreamId,
        batch: &str,
        message: &MessageView<'_>,
    ) -> Result<Staged, ApiError> {
        self.check_stageable(id, batch, message)?;
        let number: u64 = headers::get(message.headers, names::BATCH_SEQUENCE)
            .and_then(|text| text.parse().ok())
            .ok_or_else(ApiError::batch_sequence_missing)?;
        let commit = Commit::read(message.headers);
        let key = (id, Arc::from(batch));
        let most = self.limits.max_atomic_messages;
        let is_large = number > most as u64 + u64::from(commit == Commit::EndOfBatch);
        if !self.staging.batches.contains_key(&key) {
            if is_large {
                return Err(ApiError::batch_too_large(most));
            }
            if number != 1 {
                return Err(ApiError::batch_incomplete());
            }
            if self.staging.batches.len() >= self.limits.max_batches
                || self.staging.of_stream(id).count() >= self.limits.max_stream_batches
            {
                return Err(ApiError::too_many_batches());
            }
            self.staging.batches.insert(key.clone(), Waiting::default());
        }
        let level = headers::get(message.headers, names::REQUIRED_API_LEVEL);
        if !level.is_none_or(|text| text.parse().is_ok_and(|level: u32| level <= LEVEL)) {
            self.abandon_batch(&key, Reason::Unsupported);
            return Err(ApiError::required_api_level());
        }
        if commit == Commit::Invalid {
            self.drop_batch(&key);
            return Err(ApiError::batch_commit_invalid());
        }
        let before = self.staging.batches.get(&key).map_or(0, |waiting| waiting.messages.len());
        let is_next = number == before as u64 + 1;
        if !is_next || (commit == Commit::EndOfBatch && before == 0) {
            self.abandon_batch(&key, Reason::Incomplete);
            return Err(ApiError::batch_incomplete());
        }
        if is_large {
            self.abandon_batch(&key, Reason::Large);
            return Err(ApiError::batch_too_large(most));
        }
        if commit != Commit::EndOfBatch {
            self.add_to_batch(&key, message)?;
        }
        if commit == Commit::No {
            let end = self.now.monotonic + self.limits.batch_timeout;
            if let Some(waiting) = self.staging.batches.get_mut(&key) {
                waiting.until = end;
            }
            self.schedule.set(Deadline::Batch(key), Some(end));
            return Ok(Staged::Waits);
        }
        self.end_batch(key, commit)
    }

    /// Stores a batch whose last message has come. If a counter must be read first the batch waits on, as it
    /// was before that message, which may come again.
    fn end_batch(&mut self, key: BatchKey, commit: Commit) -> Result<Staged, ApiError> {
        let mut waiting = self.staging.take(&key).unwrap_or_default();
        self.schedule.set(Deadline::Batch(key.clone()), None);
        let own = match waiting.messages.last_mut() {
            Some(last) if commit == Commit::EndOfBatch => {
                let mut block = Block::from_existing(&last.headers);
                let block = block.add(names::BATCH_COMMIT, "1").clone().finish();
                Some(std::mem::replace(&mut last.headers, block))
            }
            _ => None,
        };
        let outcome = self.commit_batch(key.0, &waiting.messages);
        if outcome.as_ref().is_err_and(is_unread) {
            match (own, waiting.messages.last_mut()) {
                (Some(headers), Some(last)) => last.headers = headers,
                _ => waiting.remove_last(),
            }
            self.put_batch_back(key, waiting);
            return Err(ApiError::counter_unread());
        }
        let (last, count) = outcome?;
        Ok(Staged::Committed { id: key.1, last, count })
    }

    /// Has a batch wait again until when it would have.
    fn put_batch_back(&mut self, key: BatchKey, waiting: Waiting) {
        if !waiting.messages.is_empty() {
            self.schedule.set(Deadline::Batch(key.clone()), Some(waiting.until));
            self.staging.bytes += waiting.bytes;
            self.staging.batches.insert(key, waiting);
        }
    }

    /// What is wrong with a message whatever its batch is.
    fn check_stageable(
        &self,
        id: StreamId,
        batch: &str,
        message: &MessageView<'_>,
    ) -> Result<(), ApiError> {
        let stream = self.catalog.get(id).ok_or_else(ApiError::stream_not_found)?;
        if stream.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        let size = message.headers.len() + message.payload.len();
        if size > self.limits.max_payload {
            return Err(ApiError::payload_too_large(self.limits.max_payload));
        }
        if size > stream.rules.max_message {
            return Err(ApiError::message_too_large());
        }
        if batch.len() > MAX_ID {
            return Err(ApiError::batch_id_invalid());
        }
        Ok(())
    }

    fn add_to_batch(&mut self, key: &BatchKey, message: &MessageView<'_>) -> Result<(), ApiError> {
        let MessageView { subject, headers, payload, .. } = *message;
        let size = cost(subject, headers, payload);
        if self.staging.bytes + size > self.limits.max_batch_bytes {
            self.drop_batch(key);
            return Err(ApiError::too_many_batches());
        }
        if let Some(waiting) = self.staging.batches.get_mut(key) {
            let (subject, headers) = (subject.to_owned(), headers.to_vec());
            waiting.messages.push(BatchMessage { subject, headers, payload: payload.to_vec() });
            waiting.bytes += size;
            self.staging.bytes += size;
        }
        Ok(())
    }

    /// Forgets a batch. Returns whether there was one.
    fn drop_batch(&mut self, key: &BatchKey) -> bool {
        self.schedule.set(Deadline::Batch(key.clone()), None);
        self.staging.take(key).is_some()
    }

    /// Forgets a batch, and tells so.
    fn abandon_batch(&mut self, key: &BatchKey, reason: Reason) {
        if !self.drop_batch(key) {
            return;
        }
        let Some(stream) = self.catalog.get(key.0).map(|stream| Arc::clone(&stream.name)) else {
            return;
        };
        self.advise_batch_abandoned(&stream, &key.1, reason.word());
    }

    /// The next message of a batch has taken too long.
    pub(super) fn batch_timeout(&mut self, key: &BatchKey) {
        self.abandon_batch(key, Reason::Timeout);
    }

    /// Forgets the batches of a stream that takes none any more.
    pub(super) fn drop_batches_of(&mut self, id: StreamId) {
        let keys: Vec<BatchKey> = self.staging.of_stream(id).cloned().collect();
        for key in keys {
            self.drop_batch(&key);
        }
    }

    /// Stores all messages, or none. Returns where the last one is, and how many there are.
    fn commit_batch(
        &mut self,
        id: StreamId,
        messages: &[BatchMessage],
    ) -> Result<(Placed, usize), ApiError> {
        if self.log.pressure() >= Pressure::Full {
            return Err(ApiError::storage_exceeded());
        }
        let mut before = Before::default();
        let mut ready = Vec::with_capacity(messages.len());
        for BatchMessage { subject, headers, payload } in messages {
            let view = MessageView { subject, reply: "", headers, payload };
            let run = self.begin_run(subject, None);
            let new = self.check_staged(id, &run, &view, &mut before)?;
            before.add(run.stored_as());
            ready.push((view, run, new));
        }
        self.check_room_for_batch(id, &ready)?;
        let ids = before.ids.len();
        if ids > 0 && !self.log.has_room_for_ids(self.now.wall, ids) {
            return Err(ApiError::id_window_full());
        }
        let last = self.announcing_later(|broker| broker.place_batch(id, ready))?;
        Ok((last, messages.len()))
    }

    /// Stores messages that were checked and have room. Returns where the last one is.
    fn place_batch(
        &mut self,
        id: StreamId,
        ready: Vec<(MessageView<'_>, Run<'_>, New<'_>)>,
    ) -> Result<Placed, ApiError> {
        let mut last = Placed { stream: id, seq: 0, duplicate: false };
        for (message, mut run, new) in ready {
            last = self.place(&mut run, id, &message, new)?;
            self.end_run(Some(&run));
        }
        Ok(last)
    }

    /// Checks one message of a batch, in JetStream's order.
    fn check_staged<'m>(
        &mut self,
        id: StreamId,
        run: &Run<'_>,
        message: &MessageView<'m>,
        before: &mut Before,
    ) -> Result<New<'m>, ApiError> {
        if run.stream != Some(id) {
            return Err(ApiError::no_stream_matches());
        }
        let asked = Asked::parse(message.headers)?;
        let stream = self.catalog.get(id).ok_or_else(ApiError::stream_not_found)?;
        if asked.is_copy {
            return Err(ApiError::stream_source_header());
        }
        if asked.expected_last_id.is_some() {
            let name = names::EXPECTED_LAST_MESSAGE_ID;
            return Err(ApiError::batch_unsupported_header(name));
        }
        let increment = Self::check_increment(stream, &asked, message)?;
        let fingerprint = asked.message_id.map(|text| self.id_key.fingerprint(text));
        if let Some(fingerprint) = fingerprint {
            let is_known = self.log.recall(id, fingerprint, run.time()).is_some();
            if is_known || !before.ids.insert(fingerprint) {
                return Err(ApiError::batch_duplicate());
            }
        }
        self.check_expected_in_batch(stream, run.stored_as(), &asked, before)?;
        let planned = self.plan(id, run.stored_as(), &asked)?;
        match asked.rollup {
            Some(Rollup::Subject) if before.has(run.stored_as()) => {
                return Err(ApiError::rollup_failed("batch rollup sub invalid"));
            }
            Some(Rollup::All) if before.count > 0 => {
                return Err(ApiError::rollup_failed("batch rollup all invalid"));
            }
            _ => {}
        }
        let mut new = New::of(asked, planned, fingerprint);
        if let Some(increment) = increment {
            let total = before.totals.remove(run.stored_as());
            self.count_up(id, run.stored_as(), message.headers, &increment, total, &mut new)?;
            let total = new.total().cloned();
            before.totals.extend(total.map(|total| (run.stored_as().to_owned(), total)));
        }
        let stream = self.catalog.get(id).ok_or_else(ApiError::stream_not_found)?;
        self.check_shape(stream, run, &new, message)?;
        Ok(new)
    }

    /// What the publisher expects of what was there before the batch.
    fn check_expected_in_batch(
        &self,
        stream: &Stream,
        subject: &str,
        asked: &Asked<'_>,
        before: &Before,
    ) -> Result<(), ApiError> {
        if let Some(expected) = asked.expected_last {
            let last = self.log.stream(stream.id).map_or(0, |held| held.last_seq) + before.count;
            if expected != last {
                return Err(ApiError::wrong_last_sequence(last));
            }
            if before.count > 0 {
                return Err(ApiError::wrong_last_sequence_in_batch());
            }
        }
        let about = asked.expected_subject.unwrap_or(subject);
        if asked.expected_last_of_subject.is_some() && before.has(about) {
            return Err(ApiError::wrong_last_sequence_in_batch());
        }
        self.check_expectations(stream, subject, &Asked { expected_last: None, ..asked.clone() })
    }

    /// Whether a stream that discards new messages has room for all.
    fn check_room_for_batch(
        &self,
        id: StreamId,
        ready: &[(MessageView<'_>, Run<'_>, New<'_>)],
    ) -> Result<(), ApiError> {
        let Some(stream) = self.catalog.get(id) else { return Err(ApiError::stream_not_found()) };
        if stream.config.discard != Discard::New {
            return Ok(());
        }
        let held = self.log.stream(id).unwrap_or_default();
        let (mut messages, mut bytes) = (held.messages, held.bytes);
        let mut subjects: BTreeMap<&str, u64> = BTreeMap::new();
        for (message, run, _) in ready {
            let subject = run.stored_as();
            messages += 1;
            bytes +=
                stream.storage().size(subject.len(), message.headers.len(), message.payload.len());
            let count = || self.log.subject(id, subject).map_or(0, |summary| summary.count);
            *subjects.entry(subject).or_insert_with(count) += 1;
        }
        let exceeds = |most: Option<u64>, count: u64| most.is_some_and(|most| count > most);
        let full = |why| Err(ApiError::store_failed(why));
        if stream.config.discard_new_per_subject
            && subjects.values().any(|count| exceeds(stream.max_per_subject(), *count))
        {
            return full("maximum messages per subject exceeded");
        }
        if exceeds(stream.max_msgs(), messages) {
            return full("maximum messages exceeded");
        }
        if exceeds(stream.max_bytes(), bytes) {
            return full("maximum bytes exceeded");
        }
        Ok(())
    }
}

/// What stands in a batch before one of its messages.
#[derive(Default)]
struct Before {
    count: u64,
    subjects: BTreeSet<String>,
    ids: BTreeSet<Fingerprint>,
    /// What counters have come to.
    totals: BTreeMap<String, Total>,
}

impl Before {
    fn has(&self, subject: &str) -> bool {
        self.subjects.contains(subject)
    }

    fn add(&mut self, subject: &str) {
        self.count += 1;
        if !self.has(subject) {
            self.subjects.insert(subject.to_owned());
        }
    }
}
