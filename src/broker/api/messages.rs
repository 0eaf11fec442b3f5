//! Getting and deleting single messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, Record, StreamId};

use crate::model::api::{ApiRequest, ApiResponse, MessageGetOptions, StoredMessage};
use crate::model::error::ApiError;
use crate::model::request::{SessionId, Token};
use crate::model::schedule::STREAM;
use crate::model::stream::Storage;
use crate::model::time::Timestamp;

use super::super::jobs::Task;
use super::super::reading::one;
use super::super::sessions::SERVER;
use super::super::stream::Stream;
use super::super::{Awaiting, Broker};
use super::{Parked, ParkedId, Reply};

/// Records read at once to find the last of a subject whose exact place is not known.
const SEARCH_RECORDS: usize = 4096;

/// A message as JSON shows it.
pub(in crate::broker) fn stored_message(record: &Record, no_headers: bool) -> StoredMessage {
    StoredMessage {
        subject: record.subject().to_owned(),
        seq: record.seq,
        hdrs: if no_headers { String::new() } else { STANDARD.encode(record.headers()) },
        data: STANDARD.encode(record.payload()),
        time: Timestamp(record.time),
    }
}

impl<L: Log> Broker<L> {
    pub(super) fn message_get(
        &mut self,
        answer: (SessionId, Token),
        request: &ApiRequest,
        name: &str,
        options: &MessageGetOptions,
        direct: bool,
    ) -> Result<Reply, ApiError> {
        let stream = if direct { self.find_direct(name)? } else { self.find_stream(name)? };
        let id = stream.id;
        let (read, filter) = self.read_of(id, options)?;
        let parked = ParkedId(self.next_parked);
        self.next_parked += 1;
        let mut request = request.clone();
        if let (ApiRequest::MessageGet { stream, .. }, Some(found)) =
            (&mut request, self.catalog.get(id))
        {
            stream.clone_from(&found.config.name);
        }
        let waiting =
            Parked { answer, request, reads: 1, rounds: 0, did_create: false, read: None };
        self.parked.insert(parked, waiting);
        self.search(parked, read, filter, None);
        Ok(Reply::Later)
    }

    fn find_stream(&self, name: &str) -> Result<&Stream, ApiError> {
        self.catalog.find(name).ok_or_else(ApiError::stream_not_found)
    }

    /// The stream that answers direct gets from the one of this name: itself, or a mirror of it if it is
    /// not there.
    pub(in crate::broker) fn find_direct(&self, name: &str) -> Result<&Stream, ApiError> {
        if let Some(stream) = self.catalog.find(name) {
            return Some(stream)
                .filter(|s| s.config.allow_direct)
                .ok_or_else(ApiError::no_responders);
        }
        let mirrors = |stream: &&Stream| {
            stream.config.mirror_direct
                && stream.config.mirror.as_ref().is_some_and(|mirror| mirror.name == name)
        };
        self.catalog.iter().find(mirrors).ok_or_else(ApiError::stream_not_found)
    }

    /// What a get reads.
    fn read_of(
        &self,
        id: StreamId,
        options: &MessageGetOptions,
    ) -> Result<(ReadRequest, Filter), ApiError> {
        let held = self.log.stream(id).unwrap_or_default();
        let from_on = |from: u64| ReadRequest { to: held.last_seq, ..one(id, from) };
        let named = [
            options.last_by_subj.is_some(),
            options.start_time.is_some(),
            options.seq > 0 && options.next_by_subj.is_none(),
            options.next_by_subj.is_some(),
        ];
        if named.iter().filter(|named| **named).count() != 1 {
            return Err(ApiError::bad_request());
        }
        if let Some(subject) = &options.last_by_subj {
            let filter = Filter::any_of([subject.as_str()]);
            let mut best: Option<claudebus_storage::log::SubjectSummary> = None;
            self.log.subjects(id, &filter, &mut |_, summary| {
                if best.is_none_or(|known| known.last < summary.last) {
                    best = Some(summary);
                }
            });
            let best = best.ok_or_else(ApiError::message_not_found)?;
            if best.last_is_exact {
                return Ok((one(id, best.last), Filter::all()));
            }
            let search = ReadRequest {
                to: best.last,
                max_records: SEARCH_RECORDS,
                max_bytes: 1 << 20,
                ..one(id, best.first)
            };
            return Ok((search, filter));
        }
        if let Some(subject) = &options.next_by_subj {
            let from = options.seq.max(held.first_seq);
            return Ok((from_on(from), Filter::any_of([subject.as_str()])));
        }
        if let Some(time) = options.start_time {
            return Ok((ReadRequest { since: time.0, ..from_on(held.first_seq) }, Filter::all()));
        }
        if !self.log.contains(id, options.seq) {
            return Err(ApiError::message_not_found());
        }
        Ok((one(id, options.seq), Filter::all()))
    }

    /// Reads on until the message is found or there is no more; `last` is what was found so far.
    fn search(
        &mut self,
        parked: ParkedId,
        mut read: ReadRequest,
        filter: Filter,
        mut last: Option<Record>,
    ) {
        while read.from <= read.to {
            let mut records = Vec::new();
            match self.log.read(&read, &filter, &mut records) {
                ReadOutcome::Ready { next } => {
                    let found = records.pop();
                    let done = found.is_some() && read.max_records == 1;
                    last = found.or(last);
                    read.from = next;
                    if done {
                        break;
                    }
                }
                ReadOutcome::Waiting(id) => {
                    self.reads.insert(id, Awaiting::Message(parked));
                    if let Some(waiting) = self.parked.get_mut(&parked) {
                        waiting.read = Some((read, filter));
                    }
                    return;
                }
            }
        }
        self.answer_message(parked, last.ok_or_else(ApiError::message_not_found));
    }

    /// A get's read is answered.
    pub(in crate::broker) fn message_read(
        &mut self,
        parked: ParkedId,
        result: Result<ReadBatch, ReadError>,
    ) {
        let Some(waiting) = self.parked.get_mut(&parked) else { return };
        let Some((mut read, filter)) = waiting.read.take() else { return };
        match result {
            Err(error) => {
                let why = match &error {
                    ReadError::Damaged { stream, .. } => self.explain(*stream, &error),
                    error => error.to_string(),
                };
                self.answer_message(parked, Err(ApiError::damaged(why)));
            }
            Ok(mut batch) => {
                let found = batch.records.pop();
                read.from =
                    if found.is_some() && read.max_records == 1 { u64::MAX } else { batch.next };
                self.search(parked, read, filter, found);
            }
        }
    }

    fn answer_message(&mut self, parked: ParkedId, found: Result<Record, ApiError>) {
        let Some(Parked { answer, request, .. }) = self.parked.remove(&parked) else { return };
        let ApiRequest::MessageGet { stream, options, direct } = request else { return };
        let result = found.map(|record| {
            if direct {
                ApiResponse::Direct { stream, record, no_headers: options.no_hdr }
            } else {
                ApiResponse::Message { message: stored_message(&record, options.no_hdr) }
            }
        });
        self.answer_api(answer, result);
    }

    pub(super) fn message_delete(
        &mut self,
        answer: (SessionId, Token),
        name: &str,
        seq: u64,
        erase: bool,
    ) -> Result<Reply, ApiError> {
        let stream = self.catalog.find(name).ok_or_else(ApiError::stream_not_found)?;
        let id = stream.id;
        if stream.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if stream.config.deny_delete {
            return Err(ApiError::message_delete_failed("message delete not permitted"));
        }
        if !self.log.contains(id, seq) {
            return Err(self.nothing_to_delete(answer.0, id, seq));
        }
        self.start_job(
            id,
            Task::Delete { seq, erase, must_finish: false, answer: Some(answer) },
            Filter::all(),
        );
        Ok(Reply::Later)
    }

    /// There is no such message. NATS clients are told in the words of nats-server's store, which differ
    /// by where a stream is kept.
    pub(in crate::broker) fn nothing_to_delete(
        &self,
        asker: SessionId,
        id: StreamId,
        seq: u64,
    ) -> ApiError {
        let is_file =
            self.catalog.get(id).is_some_and(|stream| stream.config.storage == Storage::File);
        if asker != SERVER || !is_file {
            return ApiError::sequence_not_found(seq);
        }
        let last = self.log.stream(id).map_or(0, |held| held.last_seq);
        let why = if seq > last { "stream store EOF" } else { "no message found" };
        ApiError::message_delete_failed(why)
    }

    /// `SCHEDULE.DELETE`.
    pub(super) fn schedule_delete(
        &mut self,
        answer: (SessionId, Token),
        name: &str,
        subject: &str,
    ) -> Result<Reply, ApiError> {
        let stream = match self.catalog.find(name) {
            Some(stream) => stream,
            None if name == STREAM => return Err(ApiError::schedule_not_found(subject)),
            None => return Err(ApiError::stream_not_found()),
        };
        if stream.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if stream.config.deny_delete {
            return Err(ApiError::message_delete_failed("message delete not permitted"));
        }
        self.delete_schedule(stream.id, subject, Some(answer))?;
        Ok(Reply::Later)
    }
}
