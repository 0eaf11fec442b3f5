//! The control stream: the greeting, then requests and their answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::error::{ConnectError, RequestError};
use super::frames::{FrameReader, FrameWriter, StreamError};
use super::transport::Transport;
use crate::model::error::ApiError;
use crate::wire::native::{ClientFrame, DirectMessage, Hello, MINOR, ServerFrame, Welcome};

/// Requests that wait for their answers before more are refused. 1,024: more than any program has
/// hands for, and a bound on memory.
pub(super) const MAX_WAITING_REQUESTS: usize = 1024;

/// Most bytes of a REQUEST frame beside operation and body: its kind, a number and two lengths.
const REQUEST_OVERHEAD: usize = 32;

/// Bytes of answers that came in parts and are not complete. 256 MiB: a page of 100,000 long
/// subjects fits.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A connection that has been greeted.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) transport: Transport,
    pub(super) welcome: Arc<Welcome>,
    reader: FrameReader,
    writer: FrameWriter,
}

/// Says hello on a new connection.
pub(super) async fn greet(
    transport: Transport,
    address: &str,
    name: &str,
    token: Option<String>,
    limit: Duration,
) -> Result<Greeted, ConnectError> {
    let greeting = exchange(&transport, name, token);
    match tokio::time::timeout(limit, greeting).await {
        Ok(Ok((welcome, reader, writer))) => {
            Ok(Greeted { transport, welcome: Arc::new(welcome), reader, writer })
        }
        Ok(Err(StreamError::Refused(error))) => {
            Err(ConnectError::Refused { address: address.to_owned(), reason: error.to_string() })
        }
        Ok(Err(StreamError::Io(error))) => {
            Err(ConnectError::Handshake { address: address.to_owned(), reason: error.to_string() })
        }
        Ok(Err(error)) => {
            Err(ConnectError::Protocol { address: address.to_owned(), reason: error.to_string() })
        }
        Err(_) => Err(ConnectError::Timeout { address: address.to_owned(), after: limit }),
    }
}

async fn exchange(
    transport: &Transport,
    name: &str,
    token: Option<String>,
) -> Result<(Welcome, FrameReader, FrameWriter), StreamError> {
    let (reader, writer) = transport.open().await?;
    let mut reader = FrameReader::new(reader);
    let mut writer = FrameWriter::new(writer);
    let name = if name.is_empty() { "claudebus-rust" } else { name };
    writer.put(&ClientFrame::Hello(Hello {
        minor: MINOR,
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        token,
    }));
    writer.flush().await?;
    match reader.next().await? {
        ServerFrame::Welcome(welcome) => {
            reader.set_limit(welcome.limits.max_frame);
            Ok((welcome, reader, writer))
        }
        other => Err(StreamError::Unexpected(other.name())),
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// JSON, as JetStream's API answers.
    Json(Bytes),
    /// A stored message.
    Message(DirectMessage),
}

/// One request and whom to tell.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) operation: String,
    pub(super) body: Bytes,
    /// Whether it may be sent again when the connection breaks before the answer comes.
    pub(super) idempotent: bool,
    pub(super) answer: oneshot::Sender<Result<Answer, RequestError>>,
}

impl Request {
    /// Its length as it is sent, in bytes, or a little more.
    fn len(&self) -> usize {
        self.operation.len() + self.body.len() + REQUEST_OVERHEAD
    }

    /// Tells whoever asked that this cannot be sent: the server would break the connection.
    fn refuse(self, limit: usize) {
        let size = self.len();
        let error = RequestError::TooLarge { operation: self.operation, size, limit };
        // Whoever gave up waiting needs no answer.
        let _ = self.answer.send(Err(error));
    }
}

/// Requests on their way. Outlives connections.
#[derive(Debug)]
pub(super) struct Control {
    requests: mpsc::Receiver<Request>,
    waiting: Mutex<BTreeMap<u64, Request>>,
    next_id: u64,
}

impl Control {
    pub(super) fn new(requests: mpsc::Receiver<Request>) -> Self {
        Self { requests, waiting: Mutex::new(BTreeMap::new()), next_id: 1 }
    }

    /// Serves requests until the stream breaks.
    pub(super) async fn run(&mut self, greeted: &mut Greeted) -> StreamError {
        let Self { requests, waiting, next_id } = self;
        let Greeted { reader, writer, welcome, .. } = greeted;
        let limit = welcome.limits.max_frame;
        let result = tokio::select! {
            result = write(requests, waiting, next_id, writer, limit) => result,
            result = read(waiting, reader) => result,
        };
        match result {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// The connection broke: what cannot be sent again has failed.
    pub(super) fn disconnected(&mut self) {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, request) in waiting.extract_if(.., |_, request| !request.idempotent) {
            let operation = request.operation;
            // Whoever gave up waiting needs no answer.
            let _ = request.answer.send(Err(RequestError::Disconnected { operation }));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(
    requests: &mut mpsc::Receiver<Request>,
    waiting: &Mutex<BTreeMap<u64, Request>>,
    next_id: &mut u64,
    writer: &mut FrameWriter,
    limit: usize,
) -> Result<std::convert::Infallible, StreamError> {
    // What the last connection left unanswered goes first, under the old numbers.
    {
        let mut waiting = lock(waiting);
        for (_, request) in waiting.extract_if(.., |_, r| r.answer.is_closed() || r.len() > limit) {
            request.refuse(limit);
        }
        for (id, request) in &*waiting {
            writer.put(&frame(*id, request));
        }
    }
    loop {
        writer.flush().await?;
        let Some(request) = requests.recv().await else {
            // All clients are gone; the supervisor is about to end this.
            std::future::pending::<()>().await;
            continue;
        };
        // Whoever gave up waiting needs no answer.
        if request.answer.is_closed() {
            continue;
        }
        if request.len() > limit {
            request.refuse(limit);
            continue;
        }
        let id = *next_id;
        *next_id += 1;
        writer.put(&frame(id, &request));
        let mut waiting = lock(waiting);
        waiting.retain(|_, request| !request.answer.is_closed());
        if waiting.len() >= MAX_WAITING_REQUESTS {
            let error =
                RequestError::Busy { operation: request.operation, limit: MAX_WAITING_REQUESTS };
            let _ = request.answer.send(Err(error));
            let _ = writer.output().take();
        } else {
            waiting.insert(id, request);
        }
    }
}

fn frame(id: u64, request: &Request) -> ClientFrame {
    let Request { operation, body, .. } = request;
    ClientFrame::Request { id, operation: operation.clone(), body: body.clone() }
}

async fn read(
    waiting: &Mutex<BTreeMap<u64, Request>>,
    reader: &mut FrameReader,
) -> Result<std::convert::Infallible, StreamError> {
    let mut parts = BTreeMap::<u64, BytesMut>::new();
    loop {
        let (id, result) = match reader.next().await? {
            ServerFrame::Response { id, more: true, body, .. } => {
                parts.entry(id).or_default().extend_from_slice(&body);
                if parts.values().map(BytesMut::len).sum::<usize>() > MAX_ANSWER_BYTES {
                    return Err(StreamError::Unexpected("an endless answer"));
                }
                continue;
            }
            ServerFrame::Response { id, ok, body, .. } => {
                let body = match parts.remove(&id) {
                    Some(mut whole) => {
                        whole.extend_from_slice(&body);
                        whole.freeze()
                    }
                    None => body,
                };
                (id, if ok { Ok(Answer::Json(body)) } else { Err(body) })
            }
            ServerFrame::ResponseMessage(message) => (message.id, Ok(Answer::Message(message))),
            other => return Err(StreamError::Unexpected(other.name())),
        };
        let Some(request) = lock(waiting).remove(&id) else { continue };
        let operation = request.operation;
        let result = result.map_err(|body| match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => RequestError::Api { operation, error },
            Err(error) => RequestError::Answer { operation, reason: error.to_string() },
        });
        let _ = request.answer.send(result);
    }
}
