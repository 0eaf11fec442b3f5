//! What people do with dead letters: list them, publish them again, drop them.
//!
//! The job that does it goes through the dead-letter stream a page at a time.

use claudebus_storage::log::{Filter, ReadRequest};
use claudebus_storage::{Log, Record, StreamId};

use crate::model::api::{ApiRequest, ApiResponse, DeadLetter, DeadOptions, LIST_PAGE};
use crate::model::error::ApiError;
use crate::model::headers::{Block, get, names};
use crate::model::request::{SessionId, Token};
use crate::model::subject::matches;

use super::Broker;
use super::api::stored_message;
use super::dead_letters::DEATH;
use super::jobs::{Progress, Task};
use super::reading::one;

/// What is done with dead letters.
#[derive(Debug)]
enum Deed {
    List(Vec<DeadLetter>),
    Requeue { target: StreamId },
    Drop,
}

/// A job on dead letters: goes through `DLQ_<stream>` and does its deed to those that are meant.
#[derive(Debug)]
pub(super) struct Exhumation {
    pub(super) answer: (SessionId, Token),
    options: DeadOptions,
    deed: Deed,
    cursor: u64,
    until: u64,
    left: u64,
    settled: u64,
    total: u64,
    failure: Option<ApiError>,
}

impl Exhumation {
    /// What is to be read next.
    pub(super) fn next_read(&self, stream: StreamId) -> Option<ReadRequest> {
        let some = self.cursor <= self.until && self.left > 0 && self.failure.is_none();
        let read = ReadRequest {
            to: self.until,
            max_records: LIST_PAGE,
            max_bytes: 1 << 20,
            ..one(stream, self.cursor)
        };
        some.then_some(read)
    }

    /// Goes on behind damage.
    pub(super) fn pass_over(&mut self, last: u64) {
        self.cursor = last + 1;
    }

    /// The answer when all is done.
    pub(super) fn result(self) -> Result<ApiResponse, ApiError> {
        // What was requeued before the target was full is told; the rest is still there to list.
        if let Some(error) = self.failure.filter(|_| self.settled == 0) {
            return Err(error);
        }
        Ok(match self.deed {
            Deed::List(letters) => ApiResponse::DeadLetters {
                total: usize::try_from(self.total).unwrap_or(usize::MAX),
                letters,
            },
            Deed::Requeue { .. } | Deed::Drop => ApiResponse::Settled { settled: self.settled },
        })
    }

    fn is_meant(&self, record: &Record) -> bool {
        let options = &self.options;
        let header = |name| get(record.headers(), name).unwrap_or_default();
        (options.sequences.is_empty() || options.sequences.contains(&record.seq))
            && options.consumer.as_ref().is_none_or(|name| name == header(names::DEAD_CONSUMER))
            && options
                .subject
                .as_ref()
                .is_none_or(|pattern| matches(pattern, header(names::DEAD_SUBJECT)))
    }
}

impl<L: Log> Broker<L> {
    /// Starts listing, requeueing or dropping dead letters.
    pub(super) fn dead_letters(
        &mut self,
        answer: (SessionId, Token),
        request: &ApiRequest,
    ) -> Result<(), ApiError> {
        let (name, options, deed) = match request {
            ApiRequest::DeadList { stream, options } => (stream, options, Deed::List(Vec::new())),
            ApiRequest::DeadRequeue { stream, options } => {
                let target = self.catalog.id_of(stream).ok_or_else(ApiError::stream_not_found)?;
                (stream, options, Deed::Requeue { target })
            }
            ApiRequest::DeadDrop { stream, options } => (stream, options, Deed::Drop),
            _ => return Err(ApiError::bad_request()),
        };
        let Some(id) = self.find_dead_stream(name).map(|letters| letters.id) else {
            return self.answer_without_letters(answer, name, options, &deed);
        };
        let held = self.log.stream(id).unwrap_or_default();
        if let Some(seq) = options.sequences.iter().find(|seq| !self.log.contains(id, **seq)) {
            return Err(ApiError::dead_letter_not_found(seq));
        }
        let most = if matches!(deed, Deed::List(_)) { LIST_PAGE as u64 } else { u64::MAX };
        let first = options.sequences.iter().min().copied().unwrap_or(0);
        let exhumation = Exhumation {
            answer,
            cursor: held.first_seq.max(options.from).max(first),
            until: options.sequences.iter().max().copied().unwrap_or(held.last_seq),
            left: if options.limit == 0 { most } else { options.limit.min(most) },
            settled: 0,
            total: held.messages,
            failure: None,
            options: options.clone(),
            deed,
        };
        self.start_job(id, Task::Exhume(Box::new(exhumation)), Filter::all());
        Ok(())
    }

    /// Nothing of the stream ever died.
    fn answer_without_letters(
        &mut self,
        answer: (SessionId, Token),
        name: &str,
        options: &DeadOptions,
        deed: &Deed,
    ) -> Result<(), ApiError> {
        if let Some(seq) = options.sequences.first() {
            return Err(ApiError::dead_letter_not_found(seq));
        }
        if self.catalog.id_of(name).is_none() {
            return Err(ApiError::stream_not_found());
        }
        let response = match deed {
            Deed::List(_) => ApiResponse::DeadLetters { total: 0, letters: Vec::new() },
            Deed::Requeue { .. } | Deed::Drop => ApiResponse::Settled { settled: 0 },
        };
        self.answer_api(answer, Ok(response));
        Ok(())
    }

    /// Takes what a job on dead letters read.
    pub(super) fn exhume(
        &mut self,
        id: StreamId,
        exhumation: &mut Exhumation,
        records: &[Record],
        next: u64,
    ) -> Progress {
        for record in records {
            if exhumation.left == 0 {
                break;
            }
            if !exhumation.is_meant(record) {
                continue;
            }
            match &mut exhumation.deed {
                Deed::List(letters) => letters.push(dead_letter(record)),
                Deed::Drop => {
                    exhumation.settled += u64::from(self.remove_record(id, record, false));
                }
                Deed::Requeue { target } => {
                    // A pointer to what could not be read has nothing to publish: it stays.
                    if get(record.headers(), names::DEAD_SUBJECT).is_none_or(str::is_empty) {
                        continue;
                    }
                    if let Err(error) = self.requeue(*target, record) {
                        exhumation.failure = Some(error);
                        return Progress::Done;
                    }
                    exhumation.settled += u64::from(self.remove_record(id, record, false));
                }
            }
            exhumation.left -= 1;
        }
        exhumation.cursor = next;
        Progress::More
    }

    /// Publishes a dead letter to its stream again, in the group that removes the dead letter. Its
    /// message id is not looked at: it would be taken for a duplicate of itself.
    fn requeue(&mut self, target: StreamId, record: &Record) -> Result<(), ApiError> {
        let block = record.headers();
        let subject = get(block, names::DEAD_SUBJECT).unwrap_or_default().to_owned();
        let before = get(block, names::REQUEUED).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let mut headers = Block::from_existing(block);
        for name in DEATH {
            headers.remove(name);
        }
        headers.remove(names::REQUEUED).add(names::REQUEUED, &(before + 1).to_string());
        let headers = headers.finish();
        let stream = self.catalog.get(target).ok_or_else(ApiError::stream_not_found)?;
        if stream.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if self.is_out_of_space(stream) {
            return Err(ApiError::storage_exceeded());
        }
        let size = stream.storage().size(subject.len(), headers.len(), record.payload().len());
        self.check_room(stream, &subject, size)?;
        if !self.append_own(target, &subject, &headers, record.payload(), None) {
            return Err(ApiError::insufficient_resources());
        }
        Ok(())
    }
}

/// A dead letter as lists show it.
fn dead_letter(record: &Record) -> DeadLetter {
    let header = |name| get(record.headers(), name).unwrap_or_default();
    let number = |name| header(name).parse().unwrap_or(0);
    DeadLetter {
        seq: record.seq,
        consumer: header(names::DEAD_CONSUMER).to_owned(),
        subject: header(names::DEAD_SUBJECT).to_owned(),
        stream_seq: number(names::DEAD_SEQUENCE),
        reason: header(names::DEAD_REASON).to_owned(),
        attempts: number(names::DEAD_ATTEMPTS),
        requeued: number(names::REQUEUED),
        first: header(names::DEAD_FIRST).parse().unwrap_or_default(),
        last: header(names::DEAD_LAST).parse().unwrap_or_default(),
        message: stored_message(record, false),
    }
}
