//! Restores: a stream from an archive.
//!
//! The messages go to the log as they come, under a number that no stream has yet; the stream is there when
//! all has come and made sense, in one group of the journal, and before that it is confirmed to nobody. A
//! restore that another process has begun is dropped when the broker opens.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claudebus_storage::log::Pressure;
use claudebus_storage::{Log, NewRecord, StreamId};

use crate::model::api::ApiResponse;
use crate::model::archive::{self, ArchivedConsumer, ArchivedState, Entry};
use crate::model::error::ApiError;
use crate::model::event::ConsumerPath;
use crate::model::headers::{get, names};
use crate::model::request::Token;
use crate::model::s2;
use crate::model::schedule::PREFIX;
use crate::model::stream::StreamConfig;
use crate::model::subject::is_pattern;
use crate::model::time::Timestamp;

use super::super::Broker;
use super::super::advisories::Change;
use super::super::api::complete_consumer;
use super::super::consumer::Consumer;
use super::super::member::Member;
use super::super::state;
use super::super::stream::ttl::Ttl;
use super::super::stream::{Stream, config};
use super::{MAX_TRANSFERS, NAME_LENGTH, PATIENCE};

/// Most bytes of an entry, and of all consumers of an archive together. 16 MiB: consumers with some hundred
/// thousand deliveries that await acknowledgement.
const MAX_ENTRY: u64 = 16 << 20;
/// How long a chunk waits for its confirmation at least while the log is busy.
const PAUSE: Duration = Duration::from_millis(20);

/// One that is under way.
#[derive(Debug)]
pub(in crate::broker) struct Restoring {
    /// The number that the stream will have.
    id: StreamId,
    config: StreamConfig,
    packed: s2::Reader,
    archive: archive::Reader,
    /// What the archive says of the stream, once that has come.
    state: Option<ArchivedState>,
    messages: u64,
    consumers: Vec<(String, ArchivedConsumer)>,
    consumer_bytes: u64,
    /// Bytes that have come.
    bytes: u64,
    /// Why it cannot be, which is told at the end.
    failure: Option<String>,
    /// Chunks that are confirmed when the log is less busy.
    withheld: Vec<Token>,
    until: Duration,
    began: Timestamp,
}

impl<L: Log> Broker<L> {
    /// Begins a restore.
    pub(in crate::broker) fn begin_restore(
        &mut self,
        wanted: StreamConfig,
    ) -> Result<ApiResponse, ApiError> {
        let mut wanted = config::complete(wanted, &self.limits)?;
        self.check_origins(&mut wanted)?;
        if self.catalog.find(&wanted.name).is_some_and(|stream| !stream.provisional) {
            return Err(ApiError::restore_name_exists());
        }
        if !wanted.sources.is_empty() || wanted.allow_msg_schedules {
            let why = "streams with sources or schedules cannot be restored";
            return Err(ApiError::restore_failed(why));
        }
        let is_full = self.transfers.restores.len() >= MAX_TRANSFERS
            || self.catalog.len() >= self.limits.max_streams;
        if is_full {
            return Err(ApiError::insufficient_resources());
        }
        let stream = wanted.name.clone();
        let restoring = self.prepare_restore(wanted);
        let name = self.draw_name(NAME_LENGTH);
        self.advise_restore(&stream);
        self.wake_transfer(&name, Some(PATIENCE));
        let deliver_subject = format!("$JS.SNAPSHOT.RESTORE.{stream}.{name}");
        self.transfers.restores.insert(name, restoring);
        Ok(ApiResponse::Restore { deliver_subject })
    }

    /// Makes a place in the log.
    fn prepare_restore(&mut self, config: StreamConfig) -> Restoring {
        let id = StreamId(self.catalog.next_id);
        self.catalog.next_id += 1;
        self.log.put(state::NEXT_STREAM, &self.catalog.next_id.to_le_bytes());
        self.log.put(&state::restore_key(id), config.name.as_bytes());
        let began = Timestamp(self.now.wall);
        self.log.create_stream(id, Stream::new(id, config.clone(), began).options());
        Restoring {
            id,
            config,
            packed: s2::Reader::default(),
            archive: archive::Reader::new(MAX_ENTRY),
            state: None,
            messages: 0,
            consumers: Vec::new(),
            consumer_bytes: 0,
            bytes: 0,
            failure: None,
            withheld: Vec::new(),
            until: self.now.monotonic + PATIENCE,
            began,
        }
    }

    /// Forgets restores that an earlier process did not finish.
    pub(in crate::broker) fn drop_restores(&mut self) {
        for (key, _) in self.log.states(state::RESTORES) {
            if let Some((id, _)) = state::parse_key(state::RESTORES, &key)
                && self.log.stream(id).is_some()
            {
                self.log.drop_stream(id);
            }
            self.log.forget(&key);
        }
    }

    /// A chunk comes; an empty one is the end. Returns the stream if it is there now.
    pub(in crate::broker) fn restore_chunk(
        &mut self,
        token: Token,
        name: &str,
        payload: &[u8],
    ) -> Result<Option<StreamId>, ApiError> {
        let Some(mut restoring) = self.transfers.restores.remove(name) else {
            return Err(ApiError::no_responders());
        };
        if payload.is_empty() {
            self.wake_transfer(name, None);
            return self.finish_restore(restoring).map(Some);
        }
        restoring.bytes += payload.len() as u64;
        restoring.until = self.now.monotonic + PATIENCE;
        if restoring.failure.is_none()
            && let Err(why) = self.take_chunk(&mut restoring, payload)
        {
            restoring.failure = Some(why);
        }
        let is_busy = restoring.failure.is_none() && self.log.pressure() >= Pressure::High;
        if is_busy {
            restoring.withheld.push(token);
        } else {
            self.confirm_chunk(token);
        }
        self.wake_transfer(name, Some(if is_busy { PAUSE } else { PATIENCE }));
        self.transfers.restores.insert(name.to_owned(), restoring);
        Ok(None)
    }

    fn confirm_chunk(&mut self, token: Token) {
        self.tell_asker(token, Bytes::new(), Bytes::new());
        self.done_asking(token);
    }

    pub(super) fn restore_timeout(&mut self, name: &str) {
        let Some(restoring) = self.transfers.restores.get_mut(name) else { return };
        if restoring.until <= self.now.monotonic {
            if let Some(restoring) = self.transfers.restores.remove(name) {
                self.abandon_restore(restoring);
            }
            return;
        }
        if self.log.pressure() >= Pressure::High {
            return self.wake_transfer(name, Some(PAUSE));
        }
        let left = restoring.until.saturating_sub(self.now.monotonic);
        for token in std::mem::take(&mut restoring.withheld) {
            self.confirm_chunk(token);
        }
        self.wake_transfer(name, Some(left));
    }

    fn abandon_restore(&mut self, restoring: Restoring) {
        for token in restoring.withheld {
            self.confirm_chunk(token);
        }
        self.log.drop_stream(restoring.id);
        self.log.forget(&state::restore_key(restoring.id));
    }

    /// Takes all entries that have come as a whole.
    fn take_chunk(&mut self, restoring: &mut Restoring, payload: &[u8]) -> Result<(), String> {
        if self.log.pressure() >= Pressure::Full {
            return Err("the server's disk or memory cannot take more now".to_owned());
        }
        restoring.packed.push(payload);
        while let Some(block) = restoring.packed.next_block().map_err(|why| why.to_string())? {
            restoring.archive.push(&block);
            while let Some(entry) = restoring.archive.next_entry().map_err(|why| why.to_string())? {
                self.take_entry(restoring, &entry)?;
            }
        }
        Ok(())
    }

    fn take_entry(&mut self, restoring: &mut Restoring, entry: &Entry) -> Result<(), String> {
        if entry.seq > 0 {
            return self.take_message(restoring, entry);
        }
        let not_understood = |why| format!("{} is not understood: {why}", entry.name);
        if entry.name == archive::STATE {
            let state = serde_json::from_slice(&entry.body).map_err(not_understood)?;
            restoring.state = Some(state);
            return Ok(());
        }
        let Some(name) = entry.name.strip_prefix(archive::CONSUMERS) else {
            return Err(format!("the archive holds {:?}, which is not known", entry.name));
        };
        restoring.consumer_bytes += entry.body.len() as u64;
        let is_too_much = restoring.consumer_bytes > MAX_ENTRY
            || restoring.consumers.len() >= self.limits.max_consumers;
        if is_too_much {
            return Err("the archive holds too many consumers".to_owned());
        }
        let consumer = serde_json::from_slice(&entry.body).map_err(not_understood)?;
        restoring.consumers.push((name.to_owned(), consumer));
        Ok(())
    }

    fn take_message(&mut self, restoring: &mut Restoring, entry: &Entry) -> Result<(), String> {
        let Entry { name: subject, time, seq, headers, body } = entry;
        let held = self.log.stream(restoring.id).unwrap_or_default();
        if *seq <= held.last_seq || !is_pattern(subject) || subject.starts_with(PREFIX) {
            return Err(format!("message {seq} makes no sense"));
        }
        if headers.len() > self.limits.max_headers
            || headers.len() + body.len() > self.limits.max_payload
        {
            return Err(format!("message {seq} is larger than the server's max_payload"));
        }
        if *seq > held.last_seq + 1 {
            self.log.skip(restoring.id, seq - 1);
        }
        let config = &restoring.config;
        let window = u64::try_from(config.duplicate_window.as_nanos()).unwrap_or(u64::MAX);
        let until = time.saturating_add(window);
        let is_known = |id: &&str| !id.is_empty() && until > self.now.wall;
        let message_id = get(headers, names::MESSAGE_ID)
            .filter(is_known)
            .map(|id| (self.id_key.fingerprint(id), until));
        let ttl = get(headers, names::TTL).filter(|_| config.allow_msg_ttl).and_then(Ttl::parse);
        let expires = ttl.map(|ttl| ttl.expires(*time));
        let time = (*time).max(held.last_time);
        let record = NewRecord { subject, headers, payload: body, time, expires, message_id };
        if self.log.append(restoring.id, &record).is_err() {
            return Err("the memory for message ids is used up".to_owned());
        }
        restoring.messages += 1;
        Ok(())
    }

    /// All has come.
    fn finish_restore(&mut self, restoring: Restoring) -> Result<StreamId, ApiError> {
        let (name, began) = (restoring.config.name.clone(), restoring.began);
        let bytes = restoring.bytes;
        let whole = match &restoring.failure {
            Some(why) => Err(why.clone()),
            None => restoring
                .packed
                .end()
                .map_err(|why| why.to_string())
                .and_then(|()| restoring.archive.end().map_err(|why| why.to_string())),
        };
        let result = match whole.map_err(ApiError::restore_failed) {
            Ok(()) => self.check_restore(&restoring),
            Err(error) => Err(error),
        };
        let result = match result {
            Ok(()) => Ok(self.settle_restore(restoring)),
            Err(error) => {
                self.abandon_restore(restoring);
                Err(error)
            }
        };
        if result.is_ok() {
            self.advise_stream(Change::Created, &name);
        }
        self.advise_restore_end(&name, began, bytes);
        result
    }

    /// Whether the stream may come to be.
    fn check_restore(&mut self, restoring: &Restoring) -> Result<(), ApiError> {
        let config = &restoring.config;
        let held = self.log.stream(restoring.id).unwrap_or_default();
        let Some(state) = &restoring.state else {
            return Err(ApiError::restore_failed("the archive holds no state"));
        };
        if restoring.messages != state.messages || held.last_seq > state.last_seq {
            return Err(ApiError::restore_failed("the archive holds other messages than it says"));
        }
        if let Some(stream) = self.catalog.find(&config.name) {
            let id = stream.id;
            if !stream.provisional || !self.is_untouched(id) {
                return Err(ApiError::restore_name_exists());
            }
            self.delete_stream(id);
        }
        if state.last_seq > held.last_seq {
            self.log.skip(restoring.id, state.last_seq);
        }
        self.make_room_for(config, None)
    }

    /// Makes the stream of what has come.
    fn settle_restore(&mut self, restoring: Restoring) -> StreamId {
        let Restoring { id, config, consumers, .. } = restoring;
        self.log.forget(&state::restore_key(id));
        self.insert_stream(Stream::new(id, config, Timestamp(self.now.wall)));
        self.note_appended(id);
        for (name, archived) in consumers {
            if let Err(error) = self.revive_consumer(id, &name, archived) {
                tracing::warn!(%id, consumer = %name, %error, "a consumer is not restored");
            }
        }
        self.schedule_expiry(id);
        self.keep_all_limits(id);
        self.read_last_id(id);
        id
    }

    fn revive_consumer(
        &mut self,
        id: StreamId,
        name: &str,
        archived: ArchivedConsumer,
    ) -> Result<(), ApiError> {
        let ArchivedConsumer { config, state: progress } = archived;
        let stream = self.catalog.get(id).ok_or_else(ApiError::stream_not_found)?;
        let config = complete_consumer(name, config, &stream.config, &self.limits)?;
        let path = ConsumerPath { stream: stream.name.to_string(), consumer: name.to_owned() };
        let last = self.log.stream(id).map_or(0, |held| held.last_seq);
        let deliver_subject = config.deliver_subject.clone();
        let consumer = Consumer::revive(Arc::new(path), config, &progress, last, self.now);
        let base = consumer.base();
        let member = Member::new(id, consumer);
        self.log.put(member.key(), &base);
        let name: Arc<str> = Arc::from(name);
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.consumers.join(Arc::clone(&name), Box::new(member));
        }
        self.keep_consumer(id, &name);
        if let Some(subject) = deliver_subject {
            self.listened.add(&subject, &(id, Arc::clone(&name)));
        }
        self.recount(id, &name);
        self.stirred.insert((id, name));
        Ok(())
    }
}
