//! A session of the HTTP listener's own, to ask the broker what only it knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::super::attachment::Attachment;
use super::super::broker_thread::{Batch, Gone, Input};
use super::super::connection::Shared;
use crate::model::api::{ApiRequest, ApiResponse, ListOptions};
use crate::model::consumer::ConsumerInfo;
use crate::model::error::ApiError;
use crate::model::event::Event;
use crate::model::request::{ConnectionId, Request, SessionId, Token};
use crate::model::stream::StreamInfo;

/// How long an answer may take. 5 s: a broker that needs longer is ill, as `/healthz` tells.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the broker did not say.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the broker has stopped")]
    Gone,
    #[error("the broker does not answer")]
    TooSlow,
    #[error(transparent)]
    Refused(#[from] ApiError),
    #[error("the broker answered something else")]
    Odd,
}

impl From<Gone> for AskError {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// The session. It ends with this value.
#[derive(Debug)]
pub(super) struct Inquiry {
    shared: Arc<Shared>,
    id: SessionId,
    events: mpsc::UnboundedReceiver<Batch>,
    pending: Arc<AtomicUsize>,
    asked: u64,
    _attachment: Attachment,
}

impl Inquiry {
    pub(super) async fn open(shared: &Arc<Shared>) -> Result<Self, AskError> {
        let pending = Arc::<AtomicUsize>::default();
        let id = shared.next_session();
        let (attachment, events) = Attachment::new(&shared.broker, id, &pending).await?;
        shared
            .broker
            .send(Input::Requests(
                id,
                vec![Request::Opened { connection: ConnectionId::default() }],
            ))
            .await?;
        let shared = Arc::clone(shared);
        Ok(Self { shared, id, events, pending, asked: 0, _attachment: attachment })
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&mut self, request: ApiRequest) -> Result<ApiResponse, AskError> {
        self.asked += 1;
        let token = Token(self.asked);
        let requests = vec![Request::Api { token, request }];
        self.shared.broker.send(Input::Requests(self.id, requests)).await?;
        tokio::time::timeout(PATIENCE, self.answer(token)).await.map_err(|_| AskError::TooSlow)?
    }

    async fn answer(&mut self, asked: Token) -> Result<ApiResponse, AskError> {
        while let Some((events, bytes)) = self.events.recv().await {
            self.pending.fetch_sub(bytes, Ordering::Relaxed);
            for event in events {
                match event {
                    Event::Answer { token, result } if token == asked => return Ok(result?),
                    Event::Close { .. } => return Err(AskError::Gone),
                    _ => {}
                }
            }
        }
        Err(AskError::Gone)
    }

    /// What is stored in all, as `INFO` says it.
    pub(super) async fn account(&mut self) -> Result<Value, AskError> {
        match self.ask(ApiRequest::AccountInfo).await? {
            ApiResponse::Json(body) => Ok(body),
            _ => Err(AskError::Odd),
        }
    }

    /// All streams, asked for page by page. Those that come or go meanwhile may be missed.
    pub(super) async fn streams(&mut self) -> Result<Vec<StreamInfo>, AskError> {
        let mut all = Vec::new();
        loop {
            let options = ListOptions { offset: all.len() as u64, subject: None };
            match self.ask(ApiRequest::StreamList(options)).await? {
                ApiResponse::StreamList { total, streams, .. } => {
                    let is_last = streams.is_empty() || all.len() + streams.len() >= total;
                    all.extend(streams);
                    if is_last {
                        return Ok(all);
                    }
                }
                _ => return Err(AskError::Odd),
            }
        }
    }

    /// All consumers of a stream, likewise. None if the stream has gone.
    pub(super) async fn consumers(&mut self, stream: &str) -> Result<Vec<ConsumerInfo>, AskError> {
        let mut all = Vec::new();
        loop {
            let options = ListOptions { offset: all.len() as u64, subject: None };
            let request = ApiRequest::ConsumerList { stream: stream.to_owned(), options };
            match self.ask(request).await {
                Ok(ApiResponse::ConsumerList { total, consumers, .. }) => {
                    let is_last = consumers.is_empty() || all.len() + consumers.len() >= total;
                    all.extend(consumers);
                    if is_last {
                        return Ok(all);
                    }
                }
                Ok(_) => return Err(AskError::Odd),
                Err(AskError::Refused(error)) if error == ApiError::stream_not_found() => {
                    return Ok(all);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
