//! Counters (ADR-49): the last message of a subject holds a number, and a message to it says by how much that
//! grows.
//!
//! The last message may be on the disk alone. While it is read, what is published to its stream waits, in
//! order; only publishers that cannot be made to wait are told to come again.

use std::collections::{BTreeMap, VecDeque};

use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, Record, StreamId};
use hashbrown::HashMap;

use crate::model::batch::{MessageBatch, MessageView};
use crate::model::decimal::Decimal;
use crate::model::error::ApiError;
use crate::model::headers::{self, Block, names};

use super::publish::{New, Run};
use super::reading::one;
use super::stream::Stream;
use super::stream::asked::Asked;
use super::{Awaiting, Broker};

/// Counters whose last number is remembered. 65,536 busy ones; when there are more, all are forgotten, and
/// read again.
const MAX_KNOWN: usize = 65_536;

/// Messages that wait for a read. 10,000: what some clients publish in the time of one.
const MAX_STALLED: usize = 10_000;

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
    /// What the last message said that was found; nothing inside if it is no counter's.
    found: Option<Option<Total>>,
}

impl Search {
    fn take(&mut self, records: &[Record], next: u64) {
        if let Some(record) = records.last() {
            self.found = Some(Total::read(record));
        }
        self.cursor = next;
    }

    /// What cannot be read is no counter, and is not tried again for every message.
    fn give_up(&mut self) {
        (self.cursor, self.found) = (self.upto + 1, Some(None));
    }
}

/// What is known of counters.
#[derive(Debug, Default)]
pub(super) struct Counting {
    /// By subject: the sequence of its last message when it was stored, and what that says.
    known: HashMap<(StreamId, Box<str>), (u64, Total)>,
    /// What is being read.
    searches: HashMap<(StreamId, Box<str>), Search>,
    /// Messages that wait until one before them can be counted, each a batch of its own.
    stalled: BTreeMap<StreamId, VecDeque<MessageBatch>>,
    count: usize,
}

impl Counting {
    /// Remembers what a counter has come to.
    pub(super) fn keep(&mut self, id: StreamId, subject: &str, seq: u64, total: Total) {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert((id, Box::from(subject)), (seq, total));
    }

    /// Whether messages of a stream wait.
    pub(super) fn is_stalled(&self, id: StreamId) -> bool {
        self.stalled.contains_key(&id)
    }

    fn take(&mut self, id: StreamId) -> Option<MessageBatch> {
        let waiting = self.stalled.get_mut(&id)?;
        let first = waiting.pop_front();
        self.count -= usize::from(first.is_some());
        if waiting.is_empty() {
            self.stalled.remove(&id);
        }
        first
    }

    fn put_back(&mut self, id: StreamId, message: MessageBatch) {
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
        let upto = summary.last;
        let key = (id, Box::from(subject));
        if summary.last_is_exact
            && let Some((of, total)) = self.counting.known.get(&key)
            && *of == upto
        {
            return Ok(total.clone());
        }
        let cursor = if summary.last_is_exact { upto } else { summary.first };
        let begun = self.counting.searches.remove(&key).filter(|search| search.upto == upto);
        let mut search = begun.unwrap_or(Search { cursor, upto, found: None });
        let filter = Filter::any_of([subject]);
        while search.cursor <= upto {
            let max_records = if search.cursor == upto { 1 } else { STEP_RECORDS };
            let read = ReadRequest { to: upto, max_records, ..one(id, search.cursor) };
            let mut records = Vec::new();
            match self.log.read(&read, &filter, &mut records) {
                ReadOutcome::Ready { next } => search.take(&records, next),
                ReadOutcome::Waiting(read) => {
                    self.reads.insert(read, Awaiting::Counter(id, key.1.clone()));
                    self.counting.searches.insert(key, search);
                    return Err(ApiError::counter_unread());
                }
            }
        }
        search.found.unwrap_or(Some(Total::default())).ok_or_else(ApiError::counter_broken)
    }

    /// Has a message wait until those before it are counted. Returns whether there is room for it.
    pub(super) fn stall(&mut self, id: StreamId, message: &MessageView<'_>, answers: bool) -> bool {
        if self.counting.count >= MAX_STALLED {
            return false;
        }
        let MessageView { subject, reply, headers, payload } = *message;
        let reply = if answers { reply } else { "" };
        let message = MessageBatch::of_one(subject, reply, headers, payload);
        self.counting.stalled.entry(id).or_default().push_back(message);
        self.counting.count += 1;
        true
    }

    /// Some of a counter's stream was read.
    pub(super) fn counter_read(
        &mut self,
        id: StreamId,
        subject: &str,
        result: Result<ReadBatch, ReadError>,
    ) {
        if let Some(search) = self.counting.searches.get_mut(&(id, Box::from(subject))) {
            match result {
                Ok(batch) => search.take(&batch.records, batch.next),
                Err(_) => search.give_up(),
            }
        }
        while let Some(batch) = self.counting.take(id) {
            if !self.take_stalled(&batch) {
                return self.counting.put_back(id, batch);
            }
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
