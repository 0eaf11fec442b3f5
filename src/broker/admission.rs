//! Whether a stream takes a message: what its publisher expects, what the stream allows, and whether
//! there is room.

use claudebus_storage::{Log, Pressure};

use crate::model::batch::MessageView;
use crate::model::error::ApiError;
use crate::model::stream::Storage;

use super::Broker;
use super::publish::{New, as_stored};
use super::run::Run;
use super::stream::Stream;
use super::stream::asked::Asked;

impl<L: Log> Broker<L> {
    /// What the publisher expects of the stream, before de-duplication.
    pub(super) fn check_expectations(
        &self,
        stream: &Stream,
        subject: &str,
        asked: &Asked<'_>,
    ) -> Result<(), ApiError> {
        if asked.expected_stream.is_some_and(|name| *name != *stream.name) {
            return Err(ApiError::expected_stream_mismatch());
        }
        if asked.ttl.is_some() && !stream.config.allow_msg_ttl {
            return Err(ApiError::ttl_disabled());
        }
        if let Some(expected) = asked.expected_last_of_subject {
            let subject = asked.expected_subject.unwrap_or(subject);
            let last = if crate::model::subject::has_wildcard(subject) {
                let mut last = 0;
                let filter = claudebus_storage::log::Filter::any_of([subject]);
                self.log.subjects(stream.id, &filter, &mut |_, s| last = last.max(s.last));
                last
            } else {
                self.log.subject(stream.id, subject).map_or(0, |summary| summary.last)
            };
            if last != expected {
                return Err(ApiError::wrong_last_sequence(last));
            }
        }
        if let Some(expected) = asked.expected_last {
            let last = self.log.stream(stream.id).map_or(0, |held| held.last_seq);
            if last != expected {
                return Err(ApiError::wrong_last_sequence(last));
            }
        }
        Ok(())
    }

    /// What remains to be checked once the message is known to be no duplicate.
    pub(super) fn check_rest(
        &self,
        stream: &Stream,
        run: &Run<'_>,
        new: &New<'_>,
        message: &MessageView<'_>,
    ) -> Result<(), ApiError> {
        if new.asked.expected_last_id.is_some_and(|id| id != stream.last_message_id) {
            return Err(ApiError::wrong_last_message_id(&stream.last_message_id));
        }
        self.check_shape(stream, run, new, message)?;
        let message = as_stored(message, new.counted.as_ref());
        let (subject, headers) = (run.stored_as(), message.headers.len());
        let size = stream.storage().size(subject.len(), headers, message.payload.len());
        self.check_room(stream, subject, size)
    }

    /// Whether a stream takes a message of this kind and size, if it has room.
    pub(super) fn check_shape(
        &self,
        stream: &Stream,
        run: &Run<'_>,
        new: &New<'_>,
        message: &MessageView<'_>,
    ) -> Result<(), ApiError> {
        let (asked, message) = (&new.asked, as_stored(message, new.counted.as_ref()));
        if asked.rollup.is_some() && (!stream.config.allow_rollup_hdrs || stream.config.deny_purge)
        {
            return Err(ApiError::rollup_not_permitted());
        }
        if message.headers.len() > self.limits.max_headers {
            return Err(ApiError::header_too_large());
        }
        let size = message.headers.len() + message.payload.len();
        if size > run.rules.max_message {
            return Err(ApiError::message_too_large());
        }
        if run.no_space {
            return Err(ApiError::storage_exceeded());
        }
        Ok(())
    }

    /// Whether the stream is on a disk that is full.
    pub(super) fn is_out_of_space(&self, stream: &Stream) -> bool {
        self.log.pressure() == Pressure::NoSpace && stream.config.storage == Storage::File
    }

    /// Whether a stream that discards new messages has room for one more of `size` bytes.
    pub(super) fn check_room(
        &self,
        stream: &Stream,
        subject: &str,
        size: u64,
    ) -> Result<(), ApiError> {
        if stream.config.discard != crate::model::stream::Discard::New {
            return Ok(());
        }
        let held = self.log.stream(stream.id).unwrap_or_default();
        // Where the oldest message of the subject makes room, the others keep their places.
        let replaces = stream.max_per_subject().is_some_and(|most| {
            self.log.subject(stream.id, subject).is_some_and(|summary| summary.count >= most)
        });
        if replaces && stream.config.discard_new_per_subject {
            return Err(ApiError::store_failed("maximum messages per subject exceeded"));
        }
        if !replaces && stream.max_msgs().is_some_and(|most| held.messages >= most) {
            return Err(ApiError::store_failed("maximum messages exceeded"));
        }
        if !replaces && stream.max_bytes().is_some_and(|most| held.bytes + size > most) {
            return Err(ApiError::store_failed("maximum bytes exceeded"));
        }
        Ok(())
    }
}
