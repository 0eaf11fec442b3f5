//! Counters (ADR-49): the last message of a subject holds a number, and a message to it says by how much that
//! grows.
//!
//! The last message may be on the disk alone. While it is read, what is published to its stream waits, in
//! order; only publishers that cannot be made to wait are told to come again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use claudebus_storage::log::{
    Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest, SubjectSummary,
};
use claudebus_storage::{Log, ReadId, Record, StreamId};
use hashbrown::HashMap;

use crate::model::batch::{MessageBatch, MessageView};
use crate::model::decimal::Decimal;
use crate::model::error::ApiError;
use crate::model::headers::{self, Block, names};

use super::puback;
use super::publish::New;
use super::reading::one;
use super::run::Run;
use super::stream::Stream;
use super::stream::asked::Asked;
use super::{Awaiting, Broker};

/// Counters whose last number is remembered. 65,536 busy ones; when there are more, all are forgotten, and
/// read again.
const MAX_KNOWN: usize = 65_536;

/// Bytes of what is remembered of counters; beyond, all are forgotten too. 16 MiB: numbers may be long.
const MAX_KNOWN_BYTES: usize = 16 << 20;

/// Messages that wait for a read. 10,000: what some clients publish in the time of one.
const MAX_STALLED: usize = 10_000;

/// Bytes of the messages that wait for a read. 16 MiB: two of the largest.
const MAX_STALLED_BYTES: usize = 16 << 20;

/// Searches that are begun and for which nobody waits any more. 256: what they found may be long.
const MAX_SEARCHES: usize = 256;

/// Records of one step of a search.
const STEP_RECORDS: usize = 1024;

/// What the counters had come to that one was copied from: by stream, and by subject there.
type Sources = BTreeMap<String, BTreeMap<String, String>>;

/// What a counter has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) value: Decimal,
    /// What the counters have come to that it was copied from, in JSON.
    sources: Option<String>,
}

impl Total {
    /// What a counter's last message says.
    fn read(record: &Record) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Body {
            val: String,
        }
        let body: Body = serde_json::from_slice(record.payload()).ok()?;
        let sources = headers::get(record.headers(), names::COUNTER_SOURCES).map(str::to_owned);
        Some(Self { value: Decimal::parse(&body.val)?, sources })
    }

    /// Bytes that it takes.
    fn size(&self) -> usize {
        self.value.digits() + self.sources.as_ref().map_or(0, String::len)
    }

    /// The body of a message that says so.
    fn body(&self) -> Vec<u8> {
        format!("{{\"val\":\"{}\"}}", self.value).into_bytes()
    }
}

/// What is stored for a message to a counter.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) total: Total,
    pub(super) payload: Vec<u8>,
    /// Other headers than its own.
    pub(super) headers: Option<Vec<u8>>,
}

/// The look for the last message of a counter, where it is not known which one that is.
#[derive(Debug)]
struct Search {
    /// The next sequence to be looked at, and the last one.
    cursor: u64,
    upto: u64,
    /// How many messages the subject had when it began: fewer make what was found worthless.
    count: u64,
    /// What is being read.
    reading: Option<ReadId>,
    /// What the last message said that was found; nothing inside if it is no counter's.
    found: Option<Option<Total>>,
}

impl Search {
    /// Takes what was read. The subject may be a pattern that others match too.
    fn take(&mut self, subject: &str, records: &[Record], next: u64) {
        if let Some(record) = records.iter().rfind(|record| record.subject() == subject) {
            self.found = Some(Total::read(record));
        }
        self.cursor = next;
    }

    fn is_over(&self) -> bool {
        self.cursor > self.upto
    }

    /// What cannot be read is no counter, and is not tried again for every message.
    fn give_up(&mut self) {
        (self.cursor, self.found) = (self.upto + 1, Some(None));
    }
}

/// What is remembered of a counter.
#[derive(Debug)]
struct Known {
    /// The sequence of its last message.
    seq: u64,
    /// How many messages it had, if it was looked for: then it holds though the last one may be gone, while
    /// no other goes.
    count: Option<u64>,
    total: Total,
}

/// What is known of counters.
#[derive(Debug, Default)]
pub(super) struct Counting {
    known: HashMap<(StreamId, Box<str>), Known>,
    known_bytes: usize,
    /// What is being read.
    searches: HashMap<(StreamId, Box<str>), Search>,
    /// Messages that wait until one before them can be counted, each a batch of its own.
    stalled: BTreeMap<StreamId, VecDeque<MessageBatch>>,
    count: usize,
    stalled_bytes: usize,
}

impl Counting {
    /// Remembers what a counter has come to.
    pub(super) fn keep(&mut self, id: StreamId, subject: &str, seq: u64, total: Total) {
        self.remember((id, Box::from(subject)), Known { seq, count: None, total });
    }

    fn remember(&mut self, key: (StreamId, Box<str>), known: Known) {
        let size = key.1.len() + known.total.size();
        if self.known.len() >= MAX_KNOWN || self.known_bytes + size > MAX_KNOWN_BYTES {
            self.known.clear();
            self.known_bytes = 0;
        }
        self.known_bytes += size;
        let subject = key.1.len();
        if let Some(before) = self.known.insert(key, known) {
            self.known_bytes -= subject + before.total.size();
        }
    }

    /// Bytes of what is remembered, and of the messages that wait.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.known_bytes, self.stalled_bytes)
    }

    /// What is remembered of a counter, if that still holds.
    fn recall(&self, key: &(StreamId, Box<str>), now: &SubjectSummary) -> Option<&Total> {
        let known = self.known.get(key).filter(|known| known.seq == now.last)?;
        (now.last_is_exact || known.count == Some(now.count)).then_some(&known.total)
    }

    /// Begins to wait for what is read of a counter.
    fn begin(&mut self, key: (StreamId, Box<str>), search: Search) {
        if self.searches.len() >= MAX_SEARCHES {
            self.searches.retain(|_, search| search.reading.is_some());
        }
        self.searches.insert(key, search);
    }

    /// Remembers what a search has found if it is over, unless that is no counter.
    fn end(&mut self, key: &(StreamId, Box<str>)) {
        let is_found = |search: &Search| search.is_over() && search.found != Some(None);
        if self.searches.get(key).is_some_and(is_found)
            && let Some(Search { upto, count, found, .. }) = self.searches.remove(key)
        {
            let total = found.flatten().unwrap_or_default();
            self.remember(key.clone(), Known { seq: upto, count: Some(count), total });
        }
    }

    /// Forgets the counters of a stream that is deleted. Returns the messages that waited.
    fn forget(&mut self, id: StreamId) -> Vec<MessageBatch> {
        let Self { known, known_bytes, .. } = self;
        known.retain(|(of, subject), known| {
            if *of == id {
                *known_bytes -= subject.len() + known.total.size();
            }
            *of != id
        });
        self.searches.retain(|(of, _), _| *of != id);
        std::iter::from_fn(|| self.take(id)).collect()
    }

    fn has_room_for(&self, message: &MessageBatch) -> bool {
        self.count < MAX_STALLED && self.stalled_bytes + message.pinned_bytes() <= MAX_STALLED_BYTES
    }

    /// Whether messages of a stream wait.
    pub(super) fn is_stalled(&self, id: StreamId) -> bool {
        self.stalled.contains_key(&id)
    }

    fn take(&mut self, id: StreamId) -> Option<MessageBatch> {
        let waiting = self.stalled.get_mut(&id)?;
        let first = waiting.pop_front();
        self.count -= usize::from(first.is_some());
        self.stalled_bytes -= first.as_ref().map_or(0, MessageBatch::pinned_bytes);
        if waiting.is_empty() {
            self.stalled.remove(&id);
        }
        first
    }

    fn put_back(&mut self, id: StreamId, message: MessageBatch) {
        self.stalled_bytes += message.pinned_bytes();
        self.stalled.entry(id).or_default().push_front(message);
        self.count += 1;
    }
}

/// Whether an error says that a counter is being read.
pub(super) fn is_unread(error: &ApiError) -> bool {
    *error == ApiError::counter_unread()
}

impl<L: Log> Broker<L> {
    /// What a message lets its counter grow by; nothing if its stream has none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check_increment(
        stream: &Stream,
        asked: &Asked<'_>,
        message: &MessageView<'_>,
    ) -> Result<Option<Decimal>, ApiError> {
        let counts = stream.config.allow_msg_counter;
        let Some(text) = asked.increment else {
            return if counts { Err(ApiError::increment_missing()) } else { Ok(None) };
        };
        let increment = Decimal::parse(text).ok_or_else(ApiError::increment_invalid)?;
        if !counts {
            return Err(ApiError::counters_disabled());
        }
        if !message.payload.is_empty() {
            return Err(ApiError::counter_with_payload());
        }
        let expects = asked.expected_stream.is_some()
            || asked.expected_last_id.is_some()
            || asked.expected_subject.is_some()
            || asked.expected_last.is_some()
            || asked.expected_last_of_subject.is_some();
        if expects || asked.rollup.is_some() {
            return Err(ApiError::increment_invalid());
        }
        Ok(Some(increment))
    }

    /// Lets a counter grow from `known`, or from what its last message says, and puts into `new` what is to be
    /// stored.
    pub(super) fn count_up(
        &mut self,
        id: StreamId,
        subject: &str,
        headers: &[u8],
        increment: &Decimal,
        known: Option<Total>,
        new: &mut New<'_>,
    ) -> Result<(), ApiError> {
        let mut total = match known {
            Some(total) => total,
            None => self.total_of(id, subject)?,
        };
        total.value = total.value.plus(increment);
        let headers = total.sources.as_ref().map(|sources| {
            let mut block = Block::from_existing(headers);
            block.set(names::COUNTER_SOURCES, sources);
            block.finish()
        });
        let payload = total.body();
        new.set_counted(Counted { total, payload, headers });
        Ok(())
    }

    /// What is stored for a counter's message that was copied from `origin`: the counter grows by as much as
    /// that of the origin has grown since it was copied last. `headers` are those of the copy.
    pub(super) fn count_copy(
        &mut self,
        id: StreamId,
        subject: &str,
        origin: &str,
        record: &Record,
        headers: &[u8],
    ) -> Result<Counted, ApiError> {
        if headers::get(headers, names::INCREMENT).and_then(Decimal::parse).is_none() {
            return Err(ApiError::increment_missing());
        }
        let theirs = Total::read(record).ok_or_else(ApiError::counter_broken)?.value;
        let mut total = self.total_of(id, subject)?;
        let known = total.sources.as_deref().map(serde_json::from_str).transpose();
        let mut sources: Sources =
            known.map_err(|_| ApiError::counter_broken())?.unwrap_or_default();
        let of_origin = sources.entry(origin.to_owned()).or_default();
        let before = of_origin.insert(record.subject().to_owned(), theirs.to_string());
        let before = before.as_deref().and_then(Decimal::parse).unwrap_or_default();
        let increment = theirs.minus(&before);
        total.value = total.value.plus(&increment);
        // Maps of texts, whose serialization cannot fail.
        let sources = serde_json::to_string(&sources).unwrap_or_default();
        let mut block = Block::from_existing(headers);
        block.set(names::INCREMENT, &increment.to_string()).set(names::COUNTER_SOURCES, &sources);
        total.sources = Some(sources);
        Ok(Counted { payload: total.body(), total, headers: Some(block.finish()) })
    }

    /// What a counter has come to.
    fn total_of(&mut self, id: StreamId, subject: &str) -> Result<Total, ApiError> {
        let Some(summary) = self.log.subject(id, subject) else { return Ok(Total::default()) };
        let (upto, count) = (summary.last, summary.count);
        let key = (id, Box::from(subject));
        if let Some(total) = self.counting.recall(&key, &summary) {
            return Ok(total.clone());
        }
        let cursor = if summary.last_is_exact { upto } else { summary.first };
        let is_same = |search: &Search| search.upto == upto && search.count == count;
        let mut search = match self.counting.searches.remove(&key).filter(is_same) {
            Some(search) if search.reading.is_some() => {
                self.counting.searches.insert(key, search);
                return Err(ApiError::counter_unread());
            }
            begun => begun.unwrap_or(Search { cursor, upto, count, reading: None, found: None }),
        };
        let filter = Filter::any_of([subject]);
        while !search.is_over() {
            let max_records = if search.cursor == upto { 1 } else { STEP_RECORDS };
            let read = ReadRequest { to: upto, max_records, ..one(id, search.cursor) };
            let mut records = Vec::new();
            match self.log.read(&read, &filter, &mut records) {
                ReadOutcome::Ready { next } => search.take(subject, &records, next),
                ReadOutcome::Waiting(read) => {
                    self.reads.insert(read, Awaiting::Counter(id, key.1.clone()));
                    self.counting.begin(key, Search { reading: Some(read), ..search });
                    return Err(ApiError::counter_unread());
                }
            }
        }
        let total = search.found.unwrap_or(Some(Total::default()));
        let total = total.ok_or_else(ApiError::counter_broken)?;
        let known = Known { seq: upto, count: Some(count), total: total.clone() };
        self.counting.remember(key, known);
        Ok(total)
    }

    /// Has a message wait until those before it are counted. Returns whether there is room for it.
    pub(super) fn stall(&mut self, id: StreamId, message: &MessageView<'_>, answers: bool) -> bool {
        let MessageView { subject, reply, headers, payload } = *message;
        let reply = if answers { reply } else { "" };
        let message = MessageBatch::of_one(subject, reply, headers, payload);
        if !self.counting.has_room_for(&message) {
            return false;
        }
        self.counting.count += 1;
        self.counting.stalled_bytes += message.pinned_bytes();
        self.counting.stalled.entry(id).or_default().push_back(message);
        true
    }

    /// Some of a counter's stream was read.
    pub(super) fn counter_read(
        &mut self,
        id: StreamId,
        subject: &str,
        read: ReadId,
        result: Result<ReadBatch, ReadError>,
    ) {
        let key = (id, Box::from(subject));
        let search = self.counting.searches.get_mut(&key);
        if let Some(search) = search.filter(|search| search.reading == Some(read)) {
            search.reading = None;
            match result {
                Ok(batch) => search.take(subject, &batch.records, batch.next),
                Err(_) => search.give_up(),
            }
        }
        self.counting.end(&key);
        while let Some(batch) = self.counting.take(id) {
            if !self.take_stalled(&batch) {
                return self.counting.put_back(id, batch);
            }
        }
    }

    /// A stream is about to be deleted: its counters are forgotten, and who waits for one is told.
    pub(super) fn forget_counters(&mut self, id: StreamId) {
        let Some(name) = self.catalog.get(id).map(|stream| Arc::clone(&stream.name)) else {
            return;
        };
        for batch in self.counting.forget(id) {
            let Some(message) = batch.get(0).filter(|message| !message.reply.is_empty()) else {
                continue;
            };
            let error = Err(ApiError::stream_not_found());
            let body = puback::body(&name, None, error, &mut bytes::BytesMut::new());
            self.answer_subject(batch.slice(message.reply.as_bytes()), bytes::Bytes::new(), body);
        }
    }

    /// Stores a message that has waited. Returns whether it need not wait again.
    fn take_stalled(&mut self, batch: &MessageBatch) -> bool {
        let Some(message) = batch.get(0) else { return true };
        let mut run: Run<'_> = self.begin_run(message.subject, None);
        let outcome = self.store_or_stage(&mut run, &message);
        let is_done = !outcome.as_ref().is_err_and(is_unread);
        if is_done && !message.reply.is_empty() {
            self.answer_publish(batch, &run, &message, outcome, &mut bytes::BytesMut::new());
        }
        self.end_run(Some(&run));
        is_done
    }
}
