//! Restores: a stream from an archive.
//!
//! The messages go to the log as they come, under a number that no stream has yet; the stream is there when
//! all has come and made sense, in one group of the journal, and before that it is confirmed to nobody. A
//! restore that another process has begun is dropped when the broker opens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claudebus_storage::log::Pressure;
use claudebus_storage::{Log, NewRecord, StreamId};

use crate::access::Grant;
use crate::model::api::ApiResponse;
use crate::model::archive::{self, ArchivedConsumer, ArchivedState, Entry};
use crate::model::error::ApiError;
use crate::model::event::ConsumerPath;
use crate::model::headers::{get, names};
use crate::model::request::{SessionId, Token};
use crate::model::s2;
use crate::model::schedule::PREFIX;
use crate::model::stream::{MAX_FIRST_SEQ, StreamConfig};
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
/// Bytes that are unpacked in one turn, so that nobody else waits long: a chunk may hold a thousand times its
/// length.
const TURN: usize = 8 << 20;
/// What a message counts beside its bytes.
const MESSAGE: usize = 64;
/// Most packed bytes that may wait for their turn. 16 MiB: clients wait for the confirmation of each chunk.
const MAX_WAITING: usize = 16 << 20;
/// How long a chunk waits for its confirmation at least while the log is busy.
const PAUSE: Duration = Duration::from_millis(20);
/// How long what waits for the next turn waits.
const SOON: Duration = Duration::from_nanos(1);

/// One that is under way.
#[derive(Debug)]
pub(in crate::broker) struct Restoring {
    /// The number that the stream will have.
    id: StreamId,
    config: StreamConfig,
    /// What its client may do; everything if none.
    grant: Option<Arc<Grant>>,
    packed: s2::Reader,
    archive: archive::Reader,
    /// What the archive says of the stream, once that has come.
    state: Option<ArchivedState>,
    messages: u64,
    consumers: BTreeMap<String, ArchivedConsumer>,
    consumer_bytes: u64,
    /// Bytes that have come.
    bytes: u64,
    /// Whether some of what has come waits for a later turn.
    is_behind: bool,
    /// Why it cannot be, which is told at the end.
    failure: Option<String>,
    /// Chunks that are confirmed when all of them is taken and the log is less busy.
    withheld: Vec<Token>,
    until: Duration,
    began: Timestamp,
}

impl Restoring {
    /// Whether a consumer may come to be: its numbers are far from where numbers end, and it leads messages
    /// nowhere that the client cannot.
    fn check_consumer(&self, consumer: &ArchivedConsumer) -> Result<(), String> {
        let ArchivedConsumer { config, state } = consumer;
        let most = state.redelivered.values().copied().max().unwrap_or(0);
        if state.delivered.consumer_seq.max(most) > MAX_FIRST_SEQ {
            return Err(format!("deliveries can be {MAX_FIRST_SEQ} at most"));
        }
        let subject = config.deliver_subject.as_deref().filter(|subject| !subject.is_empty());
        match (subject, &self.grant) {
            (Some(subject), Some(grant)) if !grant.may_direct_to(subject) => {
                Err(format!("Permissions Violation for Publish to {subject:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether all has come and was taken.
    fn check_end(&self) -> Result<(), String> {
        let packed = self.packed.end().map_err(|why| why.to_string());
        let whole = packed.and_then(|()| self.archive.end().map_err(|why| why.to_string()));
        whole.map_err(|why| match self.is_behind {
            true => "the end came before the parts before it were confirmed".to_owned(),
            false => why,
        })
    }
}

impl<L: Log> Broker<L> {
    /// Begins a restore.
    pub(in crate::broker) fn begin_restore(
        &mut self,
        from: SessionId,
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
        let restoring = self.prepare_restore(from, wanted);
        let name = self.draw_name(NAME_LENGTH);
        self.advise_restore(&stream);
        self.wake_transfer(&name, Some(PATIENCE));
        let deliver_subject = format!("$JS.SNAPSHOT.RESTORE.{stream}.{name}");
        self.transfers.restores.insert(name, restoring);
        Ok(ApiResponse::Restore { deliver_subject })
    }

    /// Makes a place in the log.
    fn prepare_restore(&mut self, from: SessionId, config: StreamConfig) -> Restoring {
        let id = StreamId(self.catalog.next_id);
        self.catalog.next_id += 1;
        self.log.put(state::NEXT_STREAM, &self.catalog.next_id.to_le_bytes());
        self.log.put(&state::restore_key(id), config.name.as_bytes());
        let began = Timestamp(self.now.wall);
        self.log.create_stream(id, Stream::new(id, config.clone(), began).options());
        Restoring {
            id,
            config,
            grant: self.sessions.grant(from),
            packed: s2::Reader::default(),
            archive: archive::Reader::new(MAX_ENTRY),
            state: None,
            messages: 0,
            consumers: BTreeMap::new(),
            consumer_bytes: 0,
            bytes: 0,
            is_behind: false,
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
        restoring.withheld.push(token);
        restoring.until = self.now.monotonic + PATIENCE;
        if restoring.failure.is_none() {
            restoring.packed.push(payload);
        }
        self.go_on_with_restore(name, restoring);
        Ok(None)
    }

    /// Takes what has come, as much as one turn may, and confirms it when all is taken.
    fn go_on_with_restore(&mut self, name: &str, mut restoring: Restoring) {
        if restoring.failure.is_none()
            && let Err(why) = self.take_entries(&mut restoring)
        {
            restoring.failure = Some(why);
            restoring.is_behind = false;
            restoring.packed = s2::Reader::default();
        }
        let is_busy = restoring.failure.is_none() && self.log.pressure() >= Pressure::High;
        let after = match (is_busy, restoring.is_behind) {
            (true, _) => PAUSE,
            (false, true) => SOON,
            (false, false) => restoring.until.saturating_sub(self.now.monotonic),
        };
        if !is_busy && !restoring.is_behind {
            for token in std::mem::take(&mut restoring.withheld) {
                self.confirm_chunk(token);
            }
        }
        self.wake_transfer(name, Some(after));
        self.transfers.restores.insert(name.to_owned(), restoring);
    }

    fn confirm_chunk(&mut self, token: Token) {
        self.tell_asker(token, Bytes::new(), Bytes::new());
        self.done_asking(token);
    }

    pub(super) fn restore_timeout(&mut self, name: &str) {
        let Some(restoring) = self.transfers.restores.remove(name) else { return };
        if restoring.until <= self.now.monotonic {
            self.abandon_restore(restoring);
        } else {
            self.go_on_with_restore(name, restoring);
        }
    }

    fn abandon_restore(&mut self, restoring: Restoring) {
        for token in restoring.withheld {
            self.confirm_chunk(token);
        }
        self.log.drop_stream(restoring.id);
        self.log.forget(&state::restore_key(restoring.id));
    }

    /// Takes the entries that have come as a whole, until the turn is over or the log is busy.
    fn take_entries(&mut self, restoring: &mut Restoring) -> Result<(), String> {
        let mut taken = 0;
        loop {
            let pressure = self.log.pressure();
            if pressure >= Pressure::NoSpace {
                return Err("the server's disk cannot take more now".to_owned());
            }
            restoring.is_behind = taken >= TURN || pressure >= Pressure::High;
            if restoring.is_behind {
                if restoring.packed.unread() > MAX_WAITING {
                    return Err("parts came faster than the server confirmed them".to_owned());
                }
                return Ok(());
            }
            if let Some(entry) = restoring.archive.next_entry().map_err(|why| why.to_string())? {
                self.take_entry(restoring, &entry)?;
                taken += MESSAGE;
            } else if let Some(block) =
                restoring.packed.next_block().map_err(|why| why.to_string())?
            {
                restoring.archive.push(&block);
                taken += block.len();
            } else {
                return Ok(());
            }
            restoring.until = self.now.monotonic + PATIENCE;
        }
    }

    fn take_entry(&mut self, restoring: &mut Restoring, entry: &Entry) -> Result<(), String> {
        if entry.seq > 0 {
            return self.take_message(restoring, entry);
        }
        let not_understood = |why| format!("{} is not understood: {why}", entry.name);
        if entry.name == archive::STATE {
            let state: ArchivedState =
                serde_json::from_slice(&entry.body).map_err(not_understood)?;
            if state.last_seq > MAX_FIRST_SEQ {
                return Err(format!("{}: last_seq can be {MAX_FIRST_SEQ} at most", entry.name));
            }
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
        let consumer: ArchivedConsumer =
            serde_json::from_slice(&entry.body).map_err(not_understood)?;
        restoring.check_consumer(&consumer).map_err(|why| format!("{}: {why}", entry.name))?;
        if restoring.consumers.insert(name.to_owned(), consumer).is_some() {
            return Err(format!("the archive holds {} twice", entry.name));
        }
        Ok(())
    }

    fn take_message(&mut self, restoring: &mut Restoring, entry: &Entry) -> Result<(), String> {
        let Entry { name: subject, time, seq, headers, body } = entry;
        let held = self.log.stream(restoring.id).unwrap_or_default();
        if *seq > MAX_FIRST_SEQ {
            return Err(format!("message {seq}: sequences can be {MAX_FIRST_SEQ} at most"));
        }
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
        // One of the future would take the log's clock, which all streams share, with it.
        let time = (*time).min(self.now.wall);
        let config = &restoring.config;
        let window = u64::try_from(config.duplicate_window.as_nanos()).unwrap_or(u64::MAX);
        let until = time.saturating_add(window);
        let is_known = |id: &&str| !id.is_empty() && until > self.now.wall;
        let message_id = get(headers, names::MESSAGE_ID)
            .filter(is_known)
            .map(|id| (self.id_key.fingerprint(id), until));
        let ttl = get(headers, names::TTL).filter(|_| config.allow_msg_ttl).and_then(Ttl::parse);
        let expires = ttl.map(|ttl| ttl.expires(time));
        let time = time.max(held.last_time);
        let record = NewRecord { subject, headers, payload: body, time, expires, message_id };
        if self.log.append(restoring.id, &record).is_err() {
            return Err("the memory for message ids is used up".to_owned());
        }
        restoring.messages += 1;
        Ok(())
    }

    /// All has come.
    fn finish_restore(&mut self, mut restoring: Restoring) -> Result<StreamId, ApiError> {
        let (name, began) = (restoring.config.name.clone(), restoring.began);
        let bytes = restoring.bytes;
        for token in std::mem::take(&mut restoring.withheld) {
            self.confirm_chunk(token);
        }
        let whole = match &restoring.failure {
            Some(why) => Err(why.clone()),
            None => restoring.check_end(),
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
        // Some may be missing: those that were removed while the snapshot was taken.
        if restoring.messages > state.messages || held.last_seq > state.last_seq {
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
        self.stir(id, &name);
        Ok(())
    }
}
