//! Rules of mirrors and sources that other streams decide.

use std::collections::{BTreeSet, VecDeque};

use claudebus_storage::Log;

use crate::model::error::ApiError;
use crate::model::stream::StreamConfig;
use crate::model::subject::is_pattern;

use super::Broker;

impl<L: Log> Broker<L> {
    /// Checks a complete configuration against the streams it copies from, and takes over what a mirror
    /// has of its origin.
    ///
    /// # Errors
    /// The first thing that is wrong, as JetStream says it.
    pub(super) fn check_origins(&self, config: &mut StreamConfig) -> Result<(), ApiError> {
        let is_smaller = |name: &str| {
            let origin = self.catalog.find(name).map_or(-1, |s| s.config.max_msg_size);
            config.max_msg_size > 0 && origin > 0 && config.max_msg_size < origin
        };
        if config.mirror.as_ref().is_some_and(|mirror| is_smaller(&mirror.name)) {
            return Err(ApiError::mirror_max_message_size());
        }
        if config.sources.iter().any(|source| is_smaller(&source.name)) {
            return Err(ApiError::source_max_message_size());
        }
        if self.forms_cycle(config) {
            return Err(ApiError::stream_invalid_config("detected cycle"));
        }
        let wrong = |subject: &&String| !subject.is_empty() && !is_pattern(subject);
        if let Some(filter) = config.mirror.as_ref().map(|m| &m.filter_subject).filter(wrong) {
            return Err(ApiError::stream_create_failed(format_args!(
                "subject filter '{filter}' for the mirror invalid subject"
            )));
        }
        if let Some(filter) = config.sources.iter().map(|s| &s.filter_subject).find(wrong) {
            return Err(ApiError::stream_create_failed(format_args!(
                "subject filter '{filter}' for the source: invalid subject"
            )));
        }
        if let Some(mirror) = &config.mirror
            && let Some(origin) = self.catalog.find(&mirror.name)
        {
            config.mirror_direct = origin.config.allow_direct;
        }
        Ok(())
    }

    /// Whether a stream of this configuration would copy from itself, by whatever way. All such ways are
    /// refused, also those on which no message would go round.
    fn forms_cycle(&self, config: &StreamConfig) -> bool {
        let mut seen = BTreeSet::new();
        let mut waiting = VecDeque::from([config]);
        while let Some(stream) = waiting.pop_front() {
            for source in stream.mirror.iter().chain(&stream.sources) {
                if source.name == config.name {
                    return true;
                }
                if seen.insert(source.name.as_str())
                    && let Some(origin) = self.catalog.find(&source.name)
                {
                    waiting.push_back(&origin.config);
                }
            }
        }
        false
    }
}
