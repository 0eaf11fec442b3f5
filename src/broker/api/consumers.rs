//! Operations on single consumers.

use std::sync::Arc;
use std::time::Duration;

use claudebus_storage::{Log, StreamId};

use crate::model::api::{ApiResponse, ConsumerAction};
use crate::model::consumer::{ConsumerConfig, DeliverPolicy};
use crate::model::error::ApiError;
use crate::model::request::{SessionId, Token};
use crate::model::time::Timestamp;

use super::super::Broker;
use super::{Reply, consumer_rules as rules};

/// Characters of the name of a consumer that has none.
const NAME_LENGTH: usize = 8;

impl<L: Log> Broker<L> {
    pub(super) fn consumer_create(
        &mut self,
        answer: (SessionId, Token),
        stream: &str,
        mut config: ConsumerConfig,
        action: ConsumerAction,
    ) -> Result<Reply, ApiError> {
        if config.name.is_none() {
            config.name.clone_from(&config.durable_name);
        }
        // A name that is made up here does not become part of the configuration.
        let name = config.name.clone().unwrap_or_else(|| self.draw_name(NAME_LENGTH));
        rules::check_name(&name, &config)?;
        let id = self.use_stream(stream)?;
        let Some(stream) = self.catalog.get(id) else { return Err(ApiError::stream_not_found()) };
        let config = rules::complete(config, &stream.config, &self.limits)?;
        if let Some(member) = stream.consumers.get(&name) {
            let same = rules::is_same(member.consumer.config(), &config);
            if same {
                return self.consumer_answer(id, &name);
            }
            if action == ConsumerAction::Create {
                return Err(ApiError::consumer_already_exists());
            }
            return self.consumer_update(id, &name, config);
        }
        if action == ConsumerAction::Update {
            return Err(ApiError::consumer_does_not_exist());
        }
        if self.is_opening(id, &name) {
            self.refuse_opening(answer);
            return Ok(Reply::Later);
        }
        let Some(stream) = self.catalog.get(id) else { return Err(ApiError::stream_not_found()) };
        let count = stream.consumers.len() + self.num_opening(id);
        let most = usize::try_from(stream.config.max_consumers).unwrap_or(usize::MAX);
        if count >= most.min(self.limits.max_consumers) {
            return Err(ApiError::maximum_consumers_limit());
        }
        let others = stream.consumers.iter().map(|(_, member)| member.consumer.config());
        rules::check_among(&config, &stream.config, others)?;
        self.open_consumer(id, Arc::from(name), config, answer);
        Ok(Reply::Later)
    }

    fn consumer_update(
        &mut self,
        id: StreamId,
        name: &str,
        config: ConsumerConfig,
    ) -> Result<Reply, ApiError> {
        let bound = self.is_bound(id, name);
        let now = self.now;
        let Some(stream) = self.catalog.get_mut(id) else {
            return Err(ApiError::stream_not_found());
        };
        let stream_config = stream.config.clone();
        let others = stream.consumers.iter().filter(|(other, _)| &***other != name);
        rules::check_among(&config, &stream_config, others.map(|(_, m)| m.consumer.config()))?;
        let Some((name, member)) = stream.member_mut(name) else {
            return Err(ApiError::consumer_not_found());
        };
        rules::check_update(member.consumer.config(), &config, bound)?;
        let moved = member.consumer.config().deliver_subject != config.deliver_subject;
        if moved {
            // The server's own pull names the old subject.
            member.consumer.drop_unheard_pulls(|_| false);
        }
        let connection = stream.consumers.seat_mut(&name).map(|seat| seat.connection);
        if let Some(mut member) = stream.consumers.leave(&name) {
            if let Some(subject) = &config.deliver_subject {
                self.listened.add(subject, &(id, Arc::clone(&name)));
            }
            member.consumer.reconfigure(config, now);
            member.refresh();
            stream.consumers.join(Arc::clone(&name), member);
        }
        if let Some(seat) = stream.consumers.seat_mut(&name) {
            seat.connection = connection.unwrap_or_default();
        }
        self.keep_consumer(id, &name);
        self.recount(id, &name);
        self.drop_unwanted(id);
        self.stir(id, &name);
        self.consumer_answer(id, &name)
    }

    fn consumer_answer(&mut self, id: StreamId, name: &str) -> Result<Reply, ApiError> {
        let info = self.consumer_info(id, name)?;
        Ok(Reply::Now(ApiResponse::Consumer(Box::new(info))))
    }

    pub(super) fn consumer_get(&mut self, stream: &str, name: &str) -> Result<Reply, ApiError> {
        let id = self.use_stream(stream)?;
        self.consumer_answer(id, name)
    }

    pub(super) fn consumer_delete(&mut self, stream: &str, name: &str) -> Result<Reply, ApiError> {
        let id = self.catalog.id_of(stream).ok_or_else(ApiError::stream_not_found)?;
        if !self.remove_consumer(id, &Arc::from(name)) {
            return Err(ApiError::consumer_not_found());
        }
        self.drop_unwanted(id);
        Ok(Reply::Now(ApiResponse::Deleted { success: true }))
    }

    pub(super) fn consumer_unpin(
        &mut self,
        stream: &str,
        name: &str,
        group: &str,
    ) -> Result<Reply, ApiError> {
        let id = self.catalog.id_of(stream).ok_or_else(ApiError::stream_not_found)?;
        let found = self.catalog.get_mut(id).and_then(|stream| stream.member_mut(name));
        let Some((name, member)) = found else { return Err(ApiError::consumer_not_found()) };
        if !member.consumer.unpin(group) {
            return Err(ApiError::no_priority_group());
        }
        self.stir(id, &name);
        Ok(Reply::Now(ApiResponse::Unpinned {}))
    }

    pub(super) fn consumer_pause(
        &mut self,
        stream: &str,
        name: &str,
        until: Option<Timestamp>,
    ) -> Result<Reply, ApiError> {
        let id = self.catalog.id_of(stream).ok_or_else(ApiError::stream_not_found)?;
        let now = self.now;
        let until = until.filter(|until| until.0 > 0);
        let found = self.catalog.get_mut(id).and_then(|stream| stream.member_mut(name));
        let Some((name, member)) = found else { return Err(ApiError::consumer_not_found()) };
        let config = ConsumerConfig { pause_until: until, ..member.consumer.config().clone() };
        member.consumer.reconfigure(config, now);
        self.keep_consumer(id, &name);
        if let Ok(info) = self.consumer_info(id, &name) {
            self.advise_pause(&info);
        }
        self.stir(id, &name);
        let until = until.unwrap_or_default();
        let remaining = until.0.saturating_sub(now.wall);
        Ok(Reply::Now(ApiResponse::Paused {
            paused: remaining > 0,
            pause_until: until,
            pause_remaining: Duration::from_nanos(remaining),
        }))
    }

    /// Lets a consumer go on at a sequence, or at the first that is not acknowledged, as if it had delivered
    /// nothing from there on.
    pub(super) fn consumer_reset(
        &mut self,
        stream: &str,
        name: &str,
        seq: Option<u64>,
    ) -> Result<Reply, ApiError> {
        let id = self.catalog.id_of(stream).ok_or_else(ApiError::stream_not_found)?;
        let found = self.catalog.get_mut(id).and_then(|stream| stream.member_mut(name));
        let Some((name, member)) = found else { return Err(ApiError::consumer_not_found()) };
        if let Some(seq) = seq {
            check_reset(member.consumer.config(), seq)?;
        }
        let reset_seq = seq.unwrap_or_else(|| member.consumer.first_unsettled());
        self.reset_consumer(id, &name, reset_seq);
        let info = Box::new(self.consumer_info(id, &name)?);
        Ok(Reply::Now(ApiResponse::ConsumerReset { info, reset_seq }))
    }
}

/// Whether a consumer may begin at a sequence.
fn check_reset(config: &ConsumerConfig, seq: u64) -> Result<(), ApiError> {
    match config.deliver_policy {
        DeliverPolicy::All | DeliverPolicy::ByStartTime => Ok(()),
        DeliverPolicy::ByStartSequence if seq >= config.opt_start_seq => Ok(()),
        DeliverPolicy::ByStartSequence => Err(ApiError::consumer_invalid_reset("below start seq")),
        _ => Err(ApiError::consumer_invalid_reset("not allowed")),
    }
}
