//! The API: one request, one answer. An answer that needs the disk comes when it was read.

mod consumer_rules;
mod consumers;
mod lists;
mod messages;
mod streams;

use claudebus_storage::log::{Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use claudebus_storage::{Log, StreamId};

use crate::model::api::{ApiRequest, ApiResponse};
use crate::model::error::ApiError;
use crate::model::event::Event;
use crate::model::request::{SessionId, Token};

pub(super) use consumer_rules::complete_named as complete_consumer;
pub(super) use messages::stored_message;

use super::advisories::Change;
use super::reading::one;
use super::sessions::SERVER;
use super::{Awaiting, Broker};

/// How often a request is looked at again because what it reads changed meanwhile.
const MAX_ROUNDS: u32 = 3;

/// Names a parked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ParkedId(u64);

/// A request that waits for reads.
#[derive(Debug)]
pub(super) struct Parked {
    answer: (SessionId, Token),
    request: ApiRequest,
    /// Reads it still waits for.
    reads: usize,
    rounds: u32,
    /// Whether the answer says that a stream was created.
    did_create: bool,
    /// What a message get reads, to go on where it stopped.
    read: Option<(ReadRequest, Filter)>,
}

/// How a request is answered.
enum Reply {
    /// Now.
    Now(ApiResponse),
    /// By a job or a later read.
    Later,
    /// With information on these streams, which may need their first records' times.
    Needs(Vec<StreamId>),
    /// The stream was created or changed as asked, which is not done again while its first
    /// record's time is read for the answer. Others are told of the change behind it.
    Done { id: StreamId, did_create: bool, change: Option<Change> },
}

impl<L: Log> Broker<L> {
    /// Answers a request.
    pub(super) fn api(&mut self, from: SessionId, token: Token, request: ApiRequest) {
        // Direct gets are no requests of the API for NATS, whose clients look at the counts.
        self.api_total += u64::from(self.counts(from, token));
        self.keep_limits();
        self.answer_or_park((from, token), request, 0, false);
    }

    fn counts(&self, from: SessionId, token: Token) -> bool {
        from != SERVER || !self.askers.ask_directly(token)
    }

    fn answer_or_park(
        &mut self,
        answer: (SessionId, Token),
        request: ApiRequest,
        rounds: u32,
        did_create: bool,
    ) {
        match self.reply(answer, &request, rounds, did_create) {
            Ok(Reply::Now(response)) => self.answer_api(answer, Ok(response)),
            Err(error) => self.answer_api(answer, Err(error)),
            Ok(Reply::Later) => {}
            Ok(Reply::Needs(streams)) => {
                self.park(answer, request, rounds, did_create, &streams);
            }
            Ok(Reply::Done { id, did_create, change }) => {
                let Some(stream) = self.catalog.get(id).map(|found| found.config.name.clone())
                else {
                    return self.answer_api(answer, Err(ApiError::stream_not_found()));
                };
                let name = stream.clone();
                let info = ApiRequest::StreamInfo { stream, options: Default::default() };
                self.answer_or_park(answer, info, rounds, did_create);
                // The stream itself may store it, which the answer does not show.
                if let Some(change) = change {
                    self.advise_stream(change, &name);
                }
            }
        }
    }

    /// Sends an answer once everything decided so far is durable.
    pub(super) fn answer_api(
        &mut self,
        (session, token): (SessionId, Token),
        result: Result<ApiResponse, ApiError>,
    ) {
        self.api_errors += u64::from(result.is_err() && self.counts(session, token));
        if session == SERVER {
            self.answered(token, &result);
            return;
        }
        self.outbox.send_when_durable(session, Event::Answer { token, result });
    }

    fn reply(
        &mut self,
        answer: (SessionId, Token),
        request: &ApiRequest,
        rounds: u32,
        did_create: bool,
    ) -> Result<Reply, ApiError> {
        let last_round = rounds >= MAX_ROUNDS;
        match request {
            ApiRequest::AccountInfo => Ok(Reply::Now(self.account_info())),
            ApiRequest::ServerInfo => Ok(Reply::Now(self.server_info())),
            ApiRequest::StreamCreate(config) => {
                let existed = self.catalog.find(&config.name).is_some_and(|s| !s.provisional);
                let id = self.create_stream((**config).clone())?;
                let change = (!existed).then_some(Change::Created);
                Ok(Reply::Done { id, did_create: true, change })
            }
            ApiRequest::StreamUpdate(config) => {
                let id = self.update_stream((**config).clone())?;
                self.drop_unwanted(id);
                Ok(Reply::Done { id, did_create: false, change: Some(Change::Updated) })
            }
            ApiRequest::StreamInfo { stream, options } => {
                let id = self.catalog.id_of(stream).ok_or_else(ApiError::stream_not_found)?;
                if !last_round && self.first_time(id).is_err() {
                    return Ok(Reply::Needs(vec![id]));
                }
                self.stream_answer(id, options, did_create)
            }
            ApiRequest::StreamNames(options) => {
                // Whoever looks for the stream of a subject is about to use it.
                if let Some(subject) = options.subject.as_deref().filter(|s| !s.is_empty()) {
                    self.make_defaults_for(subject);
                }
                Ok(Reply::Now(self.stream_names(options)))
            }
            ApiRequest::StreamList(options) => self.stream_list(options, last_round),
            ApiRequest::StreamDelete { stream } => self.stream_delete(stream),
            ApiRequest::StreamPurge { stream, options } => {
                self.stream_purge(answer, stream, options)
            }
            ApiRequest::MessageGet { stream, options, direct } => {
                self.message_get(answer, request, stream, options, *direct)
            }
            ApiRequest::MessagesGet { stream, options } => {
                self.get_messages(answer.1, stream, options)?;
                Ok(Reply::Later)
            }
            ApiRequest::MessageDelete { stream, seq, no_erase } => {
                self.message_delete(answer, stream, *seq, !no_erase)
            }
            ApiRequest::ConsumerCreate { stream, config, action } => {
                self.consumer_create(answer, stream, (**config).clone(), *action)
            }
            ApiRequest::ConsumerInfo { stream, consumer } => self.consumer_get(stream, consumer),
            ApiRequest::ConsumerNames { stream, options } => self.consumer_names(stream, options),
            ApiRequest::ConsumerList { stream, options } => self.consumer_list(stream, options),
            ApiRequest::ConsumerDelete { stream, consumer } => {
                self.consumer_delete(stream, consumer)
            }
            ApiRequest::ConsumerPause { stream, consumer, until } => {
                self.consumer_pause(stream, consumer, *until)
            }
            ApiRequest::ConsumerReset { stream, consumer, seq } => {
                self.consumer_reset(stream, consumer, *seq)
            }
            ApiRequest::ConsumerUnpin { stream, consumer, group } => {
                self.consumer_unpin(stream, consumer, group)
            }
            ApiRequest::StreamSnapshot { stream, options } => {
                let id = self.catalog.id_of(stream).ok_or_else(ApiError::stream_not_found)?;
                if !last_round && self.first_time(id).is_err() {
                    return Ok(Reply::Needs(vec![id]));
                }
                self.begin_snapshot(id, options).map(Reply::Now)
            }
            ApiRequest::StreamRestore(config) => {
                self.begin_restore(answer.0, (**config).clone()).map(Reply::Now)
            }
            ApiRequest::RestoreChunk { name, payload } => {
                let restored = self.restore_chunk(answer.1, name, payload)?;
                let done = |id| Reply::Done { id, did_create: false, change: None };
                Ok(restored.map_or(Reply::Later, done))
            }
            ApiRequest::Refused { stream, error } => {
                self.catalog.find(stream).ok_or_else(ApiError::stream_not_found)?;
                Err(error.clone())
            }
            ApiRequest::PublishBatch { messages } => {
                self.publish_atomically(answer.0, messages).map(Reply::Now)
            }
            ApiRequest::ScheduleList { stream, options } => {
                self.list_schedules(stream.as_deref(), options).map(Reply::Now)
            }
            ApiRequest::ScheduleDelete { stream, subject } => {
                self.schedule_delete(answer, stream, subject)
            }
            ApiRequest::DeadList { .. }
            | ApiRequest::DeadRequeue { .. }
            | ApiRequest::DeadDrop { .. } => {
                self.dead_letters(answer, request)?;
                Ok(Reply::Later)
            }
        }
    }

    /// Parks a request until the times of streams' first records were read.
    fn park(
        &mut self,
        answer: (SessionId, Token),
        request: ApiRequest,
        rounds: u32,
        did_create: bool,
        streams: &[StreamId],
    ) {
        let parked = ParkedId(self.next_parked);
        self.next_parked += 1;
        let mut reads = 0;
        for id in streams {
            let Err(seq) = self.first_time(*id) else { continue };
            let mut records = Vec::new();
            match self.log.read(&one(*id, seq), &Filter::all(), &mut records) {
                ReadOutcome::Ready { .. } => self.learn_first_time(*id, &records),
                ReadOutcome::Waiting(read) => {
                    self.reads.insert(read, Awaiting::FirstTime(parked, *id));
                    reads += 1;
                }
            }
        }
        if reads == 0 {
            self.answer_or_park(answer, request, rounds + 1, did_create);
            return;
        }
        let rounds = rounds + 1;
        let waiting = Parked { answer, request, reads, rounds, did_create, read: None };
        self.parked.insert(parked, waiting);
    }

    fn learn_first_time(&mut self, id: StreamId, records: &[claudebus_storage::Record]) {
        if let (Some(record), Some(stream)) = (records.first(), self.catalog.get_mut(id)) {
            stream.first_time = Some((record.seq, record.time));
        }
    }

    /// The first record of a stream was read.
    pub(super) fn first_time_read(
        &mut self,
        parked: ParkedId,
        id: StreamId,
        result: Result<ReadBatch, ReadError>,
    ) {
        if let Ok(batch) = result {
            self.learn_first_time(id, &batch.records);
        }
        let Some(waiting) = self.parked.get_mut(&parked) else { return };
        waiting.reads -= 1;
        if waiting.reads == 0
            && let Some(Parked { answer, request, rounds, did_create, .. }) =
                self.parked.remove(&parked)
        {
            self.answer_or_park(answer, request, rounds, did_create);
        }
    }
}
