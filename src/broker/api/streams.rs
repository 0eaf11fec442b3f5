//! Operations on single streams, and on the account.

use claudebus_storage::log::Filter;
use claudebus_storage::{Log, StreamId};

use crate::model::api::{ApiResponse, PurgeOptions, StreamInfoOptions};
use crate::model::error::ApiError;
use crate::model::request::{SessionId, Token};
use crate::model::stream::Storage;

use super::super::Broker;
use super::super::advisories::Change;
use super::super::jobs::Task;
use super::Reply;

impl<L: Log> Broker<L> {
    /// `INFO`.
    pub(super) fn account_info(&mut self) -> ApiResponse {
        let (mut memory, mut storage, mut consumers) = (0, 0, 0);
        for stream in self.catalog.iter() {
            let bytes = self.log.stream(stream.id).map_or(0, |held| held.bytes);
            match stream.config.storage {
                Storage::Memory => memory += bytes,
                Storage::File => storage += bytes,
            }
            consumers += stream.consumers.len();
        }
        let limits = serde_json::json!({
            "max_memory": -1, "max_storage": -1, "max_streams": -1, "max_consumers": -1,
            "max_ack_pending": -1, "memory_max_stream_bytes": -1,
            "storage_max_stream_bytes": -1, "max_bytes_required": false,
        });
        ApiResponse::Json(serde_json::json!({
            "memory": memory, "storage": storage, "reserved_memory": 0, "reserved_storage": 0,
            "streams": self.catalog.len(), "consumers": consumers, "limits": limits,
            // Requests before this one, as JetStream counts.
            "api": { "level": 1, "total": self.api_total - 1, "errors": self.api_errors },
        }))
    }

    /// `SERVER.INFO`: the broker's part; the shell adds its own.
    pub(super) fn server_info(&self) -> ApiResponse {
        let scrub = self.log.scrubbed();
        ApiResponse::Json(serde_json::json!({
            "server_name": self.names.server,
            "version": env!("CARGO_PKG_VERSION"),
            "streams": self.catalog.len(),
            "jobs": self.jobs.len(),
            "damage": {
                "lost_ranges": self.damage.lost_ranges,
                "lost_sequences": self.damage.lost_sequences,
                "damaged_reads": self.damage.damaged_reads,
                "gaps_told": self.damage.gaps_told,
            },
            "copies": self.log.copies(),
            "scrub": {
                "bytes": scrub.bytes,
                "passes": scrub.passes,
                "damaged": scrub.damaged,
                "repaired": scrub.repaired,
                "last": scrub.last,
            },
            "api": { "total": self.api_total, "errors": self.api_errors },
        }))
    }

    pub(super) fn stream_answer(
        &self,
        id: StreamId,
        options: &StreamInfoOptions,
        did_create: bool,
    ) -> Result<Reply, ApiError> {
        let info = Box::new(self.stream_info(id, options)?);
        let subjects = self.subjects_page(id, options);
        Ok(Reply::Now(ApiResponse::Stream { info, did_create, subjects }))
    }

    pub(super) fn stream_delete(&mut self, name: &str) -> Result<Reply, ApiError> {
        let id = self.catalog.id_of(name).ok_or_else(ApiError::stream_not_found)?;
        self.delete_stream(id);
        self.advise_stream(Change::Deleted, name);
        Ok(Reply::Now(ApiResponse::Deleted { success: true }))
    }

    pub(super) fn stream_purge(
        &mut self,
        answer: (SessionId, Token),
        name: &str,
        options: &PurgeOptions,
    ) -> Result<Reply, ApiError> {
        if options.seq > 0 && options.keep > 0 {
            return Err(ApiError::bad_request());
        }
        let stream = self.catalog.find(name).ok_or_else(ApiError::stream_not_found)?;
        if stream.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if stream.config.deny_purge {
            return Err(ApiError::purge_failed("stream purge not permitted"));
        }
        let id = stream.id;
        let held = self.log.stream(id).unwrap_or_default();
        let pattern = options.filter.as_deref().filter(|filter| !filter.is_empty());
        let moves_on = options.seq > held.last_seq && !stream.is_mirror();
        if pattern.is_none() && options.keep == 0 && (options.seq == 0 || moves_on) {
            let purged = self.clear_stream(id, options.seq);
            return Ok(Reply::Now(ApiResponse::Purged { success: true, purged }));
        }
        let filter = pattern.map_or_else(Filter::all, |pattern| Filter::any_of([pattern]));
        let matching = if filter.is_all() {
            held.messages
        } else {
            let mut matching = 0;
            self.log.subjects(id, &filter, &mut |_, subject| matching += subject.count);
            matching
        };
        let below = if options.seq > 0 { options.seq } else { held.last_seq + 1 };
        let left = matching.saturating_sub(options.keep);
        let below = below.min(held.last_seq + 1);
        let task =
            Task::Purge { cursor: held.first_seq, below, left, purged: 0, answer: Some(answer) };
        self.start_job(id, task, filter);
        Ok(Reply::Later)
    }

    /// Deletes all records of a stream. The next one gets the sequence `next`, if that is higher than it
    /// would be.
    fn clear_stream(&mut self, id: StreamId, next: u64) -> u64 {
        let purged = self.log.clear(id);
        self.log.skip(id, next.saturating_sub(1));
        self.forget_schedules(id);
        let last = self.log.stream(id).map_or(0, |held| held.last_seq);
        let now = self.now;
        if let Some(stream) = self.catalog.get_mut(id) {
            stream.overflowing.clear();
            for (seat, member) in stream.consumers.iter_mut() {
                member.consumer.cleared(now, last);
                self.turns.add(id, seat);
            }
        }
        for job in self.jobs.values_mut().filter(|job| job.stream == id) {
            if let Task::Open(opening) = &mut job.task {
                opening.cleared(last);
            }
        }
        purged
    }
}
