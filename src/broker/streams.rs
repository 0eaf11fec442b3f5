//! Creating, changing and deleting streams; default streams.

use std::sync::Arc;

use claudebus_storage::{Log, StreamId};

use crate::model::consumer::ConsumerConfig;
use crate::model::error::ApiError;
use crate::model::schedule::PREFIX;
use crate::model::stream::StreamConfig;
use crate::model::subject::{is_subset, matches, overlap};
use crate::model::time::Timestamp;

use super::scheduling::schedules_config;
use super::state::{self, KeptStream};
use super::stream::{Stream, config};
use super::{Broker, Deadline};

/// Whether new limits for consumers hold for those that are there.
fn check_consumers(stream: &Stream, wanted: &StreamConfig) -> Result<(), ApiError> {
    let limits = &wanted.consumer_limits;
    let (pending, inactive) = (limits.max_ack_pending, limits.inactive_threshold);
    let exceeds = |config: &ConsumerConfig| {
        (pending > 0 && config.max_ack_pending > pending)
            || (!inactive.is_zero() && config.inactive_threshold > inactive)
    };
    let beyond: Vec<&str> = stream
        .consumers
        .iter()
        .filter(|(_, member)| exceeds(member.consumer.config()))
        .map(|(name, _)| &**name)
        .collect();
    if beyond.is_empty() {
        Ok(())
    } else {
        Err(ApiError::consumers_exceed_limits(beyond.join(", ")))
    }
}

impl<L: Log> Broker<L> {
    /// Creates a stream as a client asks for. An existing one of the same configuration is as
    /// good as new.
    ///
    /// # Errors
    /// What is wrong with the configuration, or which stream is in the way.
    pub(super) fn create_stream(&mut self, wanted: StreamConfig) -> Result<StreamId, ApiError> {
        let mut wanted = config::complete(wanted, &self.limits)?;
        self.check_origins(&mut wanted)?;
        if wanted.sealed {
            return Err(ApiError::stream_invalid_config(
                "stream configuration for create can not be sealed",
            ));
        }
        // An update may say so, as with nats-server.
        if wanted.mirror_direct && wanted.mirror.is_none() {
            return Err(ApiError::stream_invalid_config(
                "stream has no mirror but does have mirror direct",
            ));
        }
        if let Some(stream) = self.catalog.find(&wanted.name) {
            let (id, provisional) = (stream.id, stream.provisional);
            if !provisional {
                let same = config::is_same(&stream.config, &wanted);
                return if same { Ok(id) } else { Err(ApiError::stream_name_exists()) };
            }
            if !self.is_untouched(id) {
                return self.define_provisional(id, wanted);
            }
            self.delete_stream(id);
        }
        self.make_room_for(&wanted, None)?;
        self.add_stream(wanted, false)
    }

    /// A client defines a default stream that is in use.
    fn define_provisional(
        &mut self,
        id: StreamId,
        wanted: StreamConfig,
    ) -> Result<StreamId, ApiError> {
        let Some(stream) = self.catalog.get(id) else { return Err(ApiError::stream_not_found()) };
        if wanted.first_seq > 1 {
            // It has begun already.
            return Err(ApiError::stream_name_exists());
        }
        let wanted = config::check_update(&stream.config, wanted)
            .map_err(|_| ApiError::stream_name_exists())?;
        self.make_room_for(&wanted, Some(id))?;
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.provisional = false;
        }
        self.set_config(id, wanted);
        Ok(id)
    }

    /// Changes a stream.
    ///
    /// # Errors
    /// What is wrong with the configuration, or may not change.
    pub(super) fn update_stream(&mut self, wanted: StreamConfig) -> Result<StreamId, ApiError> {
        let mut wanted = config::complete(wanted, &self.limits)?;
        self.check_origins(&mut wanted)?;
        let stream = self.catalog.find(&wanted.name).ok_or_else(ApiError::stream_not_found)?;
        let id = stream.id;
        let wanted = config::check_update(&stream.config, wanted)?;
        check_consumers(stream, &wanted)?;
        self.make_room_for(&wanted, Some(id))?;
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.provisional = false;
        }
        self.set_config(id, wanted);
        Ok(id)
    }

    /// Checks that no other stream has a claim to `wanted`'s subjects. Default streams that hold
    /// nothing yield.
    pub(super) fn make_room_for(
        &mut self,
        wanted: &StreamConfig,
        own: Option<StreamId>,
    ) -> Result<(), ApiError> {
        let in_the_way: Vec<StreamId> =
            self.catalog
                .iter()
                .filter(|stream| Some(stream.id) != own)
                .filter(|stream| {
                    let mut pairs =
                        stream.config.subjects.iter().flat_map(|theirs| {
                            wanted.subjects.iter().map(move |ours| (theirs, ours))
                        });
                    pairs.any(|(theirs, ours)| overlap(theirs, ours))
                })
                .map(|stream| stream.id)
                .collect();
        let yields = |id: &StreamId| {
            self.catalog.get(*id).is_some_and(|s| s.provisional) && self.is_untouched(*id)
        };
        if !in_the_way.iter().all(yields) {
            return Err(ApiError::subjects_overlap());
        }
        for id in in_the_way {
            self.delete_stream(id);
        }
        Ok(())
    }

    /// Whether a stream holds no message and no consumer.
    pub(super) fn is_untouched(&self, id: StreamId) -> bool {
        self.log.stream(id).is_none_or(|held| held.messages == 0)
            && self.catalog.get(id).is_none_or(|stream| stream.consumers.is_empty())
    }

    /// Adds a stream whose configuration is complete and in nobody's way.
    pub(super) fn add_stream(
        &mut self,
        config: StreamConfig,
        provisional: bool,
    ) -> Result<StreamId, ApiError> {
        if self.catalog.len() >= self.limits.max_streams {
            return Err(ApiError::insufficient_resources());
        }
        let id = StreamId(self.catalog.next_id);
        self.catalog.next_id += 1;
        self.log.put(state::NEXT_STREAM, &self.catalog.next_id.to_le_bytes());
        let mut stream = Stream::new(id, config, Timestamp(self.now.wall));
        stream.provisional = provisional;
        self.log.create_stream(id, stream.options());
        if stream.config.first_seq > 1 {
            self.log.skip(id, stream.config.first_seq - 1);
        }
        self.insert_stream(stream);
        Ok(id)
    }

    /// Inserts a stream that the log has.
    pub(super) fn insert_stream(&mut self, stream: Stream) {
        let id = stream.id;
        for subject in &stream.config.subjects {
            self.router.add_stream(subject, id);
        }
        self.catalog.insert(stream);
        self.keep_stream(id);
        self.begin_copies(id);
    }

    /// Replaces a stream's configuration by a complete and permitted one.
    pub(super) fn set_config(&mut self, id: StreamId, config: StreamConfig) {
        let Some(stream) = self.catalog.get_mut(id) else { return };
        let was_mirror = stream.is_mirror();
        let (old, left) = stream.replace_config(config);
        let is_mirror = stream.is_mirror();
        let options = stream.options();
        let subjects = stream.config.subjects.clone();
        stream.age_cursor = 0;
        let stages = stream.config.allow_atomic;
        for subject in old.subjects.iter().filter(|subject| !subjects.contains(subject)) {
            self.router.remove_stream(subject, id);
        }
        for subject in subjects.iter().filter(|subject| !old.subjects.contains(subject)) {
            self.router.add_stream(subject, id);
        }
        if !stages {
            self.drop_batches_of(id);
        }
        self.log.update_stream(id, options);
        if was_mirror && !is_mirror {
            self.leave_out_uncopied(id);
        }
        self.keep_stream(id);
        self.link_sources(id, &left);
        self.keep_all_limits(id);
    }

    /// Writes a stream's configuration to the log's state.
    fn keep_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.catalog.get(id) {
            let kept = KeptStream {
                config: stream.config.clone(),
                created: stream.created,
                provisional: stream.provisional,
            };
            self.log.put(&state::stream_key(id), &state::to_json(&kept));
        }
    }

    /// Deletes a stream with its consumers.
    pub(super) fn delete_stream(&mut self, id: StreamId) {
        self.end_snapshots_of(id);
        let names: Vec<Arc<str>> = self
            .catalog
            .get(id)
            .map(|stream| stream.consumers.names().cloned().collect())
            .unwrap_or_default();
        for name in names {
            self.remove_consumer(id, &name);
        }
        self.forget_schedules(id);
        self.drop_batches_of(id);
        self.forget_counters(id);
        let Some(stream) = self.catalog.remove(id) else { return };
        for subject in &stream.config.subjects {
            self.router.remove_stream(subject, id);
        }
        self.schedule.set(Deadline::Expiry(id), None);
        self.end_jobs_of(id);
        self.end_copies(id, &stream.sources);
        self.log.forget(&state::stream_key(id));
        if !stream.gaps.is_empty() {
            self.log.forget(&state::gaps_key(id));
        }
        self.log.drop_stream(id);
    }

    /// Makes the default stream that captures `subject`, if there is one. Returns whether.
    pub(super) fn make_default_for(&mut self, subject: &str) -> bool {
        let captures =
            |config: &&StreamConfig| config.subjects.iter().any(|own| matches(own, subject));
        match self.defaults.iter().find(captures).cloned() {
            Some(config) => self.make_default(config).is_some(),
            None if subject.starts_with(PREFIX) => self.make_default(schedules_config()).is_some(),
            None => false,
        }
    }

    /// Makes the default stream that would capture all of `pattern`, unless another one does. Whoever asks
    /// for more than that looks around, and finds what is there.
    pub(super) fn make_defaults_for(&mut self, pattern: &str) {
        let captures =
            |config: &&StreamConfig| config.subjects.iter().any(|own| is_subset(pattern, own));
        let wanted: Vec<_> = self.defaults.iter().filter(captures).cloned().collect();
        for config in wanted {
            self.make_default(config);
        }
    }

    /// The stream of that name, which is made if it is a default stream.
    pub(super) fn use_stream(&mut self, name: &str) -> Result<StreamId, ApiError> {
        if let Some(id) = self.catalog.id_of(name) {
            return Ok(id);
        }
        let config = self.defaults.iter().find(|config| config.name == name).cloned();
        config.and_then(|config| self.make_default(config)).ok_or_else(ApiError::stream_not_found)
    }

    fn make_default(&mut self, config: StreamConfig) -> Option<StreamId> {
        if self.catalog.id_of(&config.name).is_some() {
            return None;
        }
        self.make_room_for(&config, None).ok()?;
        self.add_stream(config, true).ok()
    }
}
