//! What streams and consumers look like from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use claudebus_storage::log::Filter;
use claudebus_storage::{Log, StreamId};

use crate::model::api::{SUBJECTS_PAGE, StreamInfoOptions, SubjectsPage};
use crate::model::consumer::ConsumerInfo;
use crate::model::error::ApiError;
use crate::model::stream::{StreamInfo, StreamState};
use crate::model::time::Timestamp;

use super::Broker;

/// Deleted sequences listed at most, so that an answer stays below some megabytes.
const MAX_DELETED: usize = 100_000;

impl<L: Log> Broker<L> {
    /// The time of a stream's first record: `Ok(0)` if it holds none, `Err` with its sequence if
    /// it must be read.
    pub(super) fn first_time(&self, id: StreamId) -> Result<u64, u64> {
        let held = self.log.stream(id).unwrap_or_default();
        if held.messages == 0 {
            return Ok(0);
        }
        let known = self.catalog.get(id).and_then(|stream| stream.first_time);
        match known {
            Some((seq, time)) if seq == held.first_seq => Ok(time),
            _ => Err(held.first_seq),
        }
    }

    /// Everything about a stream. The time of its first record is zero if it is not known.
    pub(super) fn stream_info(
        &self,
        id: StreamId,
        options: &StreamInfoOptions,
    ) -> Result<StreamInfo, ApiError> {
        let stream = self.catalog.get(id).ok_or_else(ApiError::stream_not_found)?;
        let held = self.log.stream(id).unwrap_or_default();
        let mut state = StreamState {
            messages: held.messages,
            bytes: held.bytes,
            first_seq: if held.last_seq == 0 { 0 } else { held.first_seq },
            first_ts: Timestamp(self.first_time(id).unwrap_or(0)),
            last_seq: held.last_seq,
            last_ts: Timestamp(held.last_time.max(stream.last_unkept_at(held.last_seq))),
            num_subjects: held.subjects,
            num_deleted: (held.last_seq + 1)
                .saturating_sub(held.first_seq)
                .saturating_sub(held.messages),
            consumer_count: stream.consumers.len(),
            ..StreamState::default()
        };
        if options.deleted_details && state.num_deleted > 0 {
            state.deleted = (held.first_seq..=held.last_seq)
                .filter(|seq| !self.log.contains(id, *seq))
                .take(MAX_DELETED)
                .collect();
        }
        if !options.subjects_filter.is_empty() {
            state.subjects = self.subjects_of(id, options);
        }
        Ok(StreamInfo {
            config: stream.config.clone(),
            created: stream.created,
            state,
            mirror: stream
                .config
                .mirror
                .is_some()
                .then(|| self.source_infos(stream).pop())
                .flatten(),
            sources: if stream.config.mirror.is_some() {
                Vec::new()
            } else {
                self.source_infos(stream)
            },
            ts: Timestamp(self.now.wall),
        })
    }

    fn subjects_of(&self, id: StreamId, options: &StreamInfoOptions) -> BTreeMap<String, u64> {
        let filter = Filter::any_of([options.subjects_filter.as_str()]);
        let mut all = BTreeMap::new();
        self.log.subjects(id, &filter, &mut |subject, summary| {
            all.insert(subject.to_owned(), summary.count);
        });
        let offset = usize::try_from(options.offset).unwrap_or(usize::MAX);
        all.into_iter().skip(offset).take(SUBJECTS_PAGE).collect()
    }

    /// Where the subjects of [`stream_info`](Self::stream_info) stand among all that match.
    pub(super) fn subjects_page(&self, id: StreamId, options: &StreamInfoOptions) -> SubjectsPage {
        if options.subjects_filter.is_empty() {
            return SubjectsPage::default();
        }
        let filter = Filter::any_of([options.subjects_filter.as_str()]);
        let mut total = 0;
        self.log.subjects(id, &filter, &mut |_, _| total += 1);
        // As in nats-server, nothing is said of a page where there is nothing at all.
        let offset = usize::try_from(options.offset).unwrap_or(usize::MAX);
        SubjectsPage { total, offset: if total > 0 { offset } else { 0 } }
    }

    /// Everything about a consumer.
    pub(super) fn consumer_info(
        &mut self,
        id: StreamId,
        name: &str,
    ) -> Result<ConsumerInfo, ApiError> {
        if let Some(stream) = self.catalog.get_mut(id) {
            // From here on it knows what was appended lately.
            stream.member_mut(name);
        }
        let stream = self.catalog.get(id).ok_or_else(ApiError::stream_not_found)?;
        let member = stream.consumers.get(name).ok_or_else(ApiError::consumer_not_found)?;
        let consumer = &member.consumer;
        let config = consumer.config().clone();
        let push = config.deliver_subject.is_some();
        let paused_for =
            config.pause_until.map_or(0, |until| until.0.saturating_sub(self.now.wall));
        Ok(ConsumerInfo {
            stream_name: stream.name.to_string(),
            name: name.to_owned(),
            created: consumer.created(),
            delivered: consumer.delivered(),
            ack_floor: consumer.ack_floor(),
            num_ack_pending: consumer.num_ack_pending(),
            num_redelivered: consumer.num_redelivered(),
            num_waiting: if push { 0 } else { consumer.num_waiting() },
            num_pending: consumer.num_pending(),
            push_bound: push && self.is_bound(id, name),
            paused: paused_for > 0,
            pause_remaining: Duration::from_nanos(paused_for),
            ts: Timestamp(self.now.wall),
            priority_groups: consumer.priority_groups(),
            idle: Some(self.why_idle(id, member)),
            config,
        })
    }
}
