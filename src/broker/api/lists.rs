//! Lists of streams and consumers, in pages, by name.

use claudebus_storage::{Log, StreamId};

use crate::model::api::{ApiResponse, LIST_PAGE, ListOptions, NAMES_PAGE};
use crate::model::error::ApiError;
use crate::model::subject::overlap;

use super::super::Broker;
use super::super::stream::Stream;
use super::Reply;

fn offset(options: &ListOptions) -> usize {
    usize::try_from(options.offset).unwrap_or(usize::MAX)
}

fn is_listed(stream: &Stream, options: &ListOptions) -> bool {
    options
        .subject
        .as_deref()
        .filter(|subject| !subject.is_empty())
        .is_none_or(|wanted| stream.config.subjects.iter().any(|subject| overlap(subject, wanted)))
}

impl<L: Log> Broker<L> {
    pub(super) fn stream_names(&self, options: &ListOptions) -> ApiResponse {
        let all: Vec<&Stream> = self.catalog.iter().filter(|s| is_listed(s, options)).collect();
        let offset = offset(options).min(all.len());
        ApiResponse::StreamNames {
            total: all.len(),
            offset,
            limit: NAMES_PAGE,
            streams: all
                .iter()
                .skip(offset)
                .take(NAMES_PAGE)
                .map(|stream| stream.name.to_string())
                .collect(),
        }
    }

    pub(super) fn stream_list(
        &self,
        options: &ListOptions,
        last_round: bool,
    ) -> Result<Reply, ApiError> {
        let all: Vec<StreamId> =
            self.catalog.iter().filter(|s| is_listed(s, options)).map(|s| s.id).collect();
        let offset = offset(options).min(all.len());
        let page: Vec<StreamId> = all.iter().skip(offset).take(LIST_PAGE).copied().collect();
        if !last_round && page.iter().any(|id| self.first_time(*id).is_err()) {
            return Ok(Reply::Needs(page));
        }
        let infos = page.iter().map(|id| self.stream_info(*id, &Default::default()));
        Ok(Reply::Now(ApiResponse::StreamList {
            total: all.len(),
            offset,
            limit: LIST_PAGE,
            streams: infos.collect::<Result<_, _>>()?,
        }))
    }

    pub(super) fn consumer_names(
        &self,
        stream: &str,
        options: &ListOptions,
    ) -> Result<Reply, ApiError> {
        let stream = self.catalog.find(stream).ok_or_else(ApiError::stream_not_found)?;
        let offset = offset(options).min(stream.consumers.len());
        let page = stream.consumers.names().skip(offset).take(NAMES_PAGE);
        Ok(Reply::Now(ApiResponse::ConsumerNames {
            total: stream.consumers.len(),
            offset,
            limit: NAMES_PAGE,
            consumers: page.map(ToString::to_string).collect(),
        }))
    }

    pub(super) fn consumer_list(
        &mut self,
        stream: &str,
        options: &ListOptions,
    ) -> Result<Reply, ApiError> {
        let stream = self.catalog.find(stream).ok_or_else(ApiError::stream_not_found)?;
        let offset = offset(options).min(stream.consumers.len());
        let (id, total) = (stream.id, stream.consumers.len());
        let page: Vec<_> = stream.consumers.names().skip(offset).take(LIST_PAGE).cloned().collect();
        let infos = page.iter().map(|name| self.consumer_info(id, name));
        Ok(Reply::Now(ApiResponse::ConsumerList {
            total,
            offset,
            limit: LIST_PAGE,
            consumers: infos.collect::<Result<_, _>>()?,
        }))
    }
}
