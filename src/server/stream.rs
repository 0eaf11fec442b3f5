//! One stream of a connection: bytes in, a session, bytes out.
//!
//! A single task reads, writes and takes events, whichever can go on, so that a client that does not
//! read never keeps its acknowledgements from being read, and nothing is locked.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use claudebus_storage::Pressure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::attachment::{Attachment, PARTING, PRESSURE_PAUSE, SENT_PART};
use super::broker_thread::{Batch, Gone, Input};
use super::busy_wait::{Linger, is_single};
use super::connection::Shared;
use super::counters::{Gauge, add};
use crate::client::transport::{Reader, Writer};
use crate::model::error::ApiError;
use crate::model::request::{ConnectionId, Request, SessionId};
use crate::session::native::{Ending, Session};
use crate::wire::native::{Decoder, ErrorCode, FRAME_OVERHEAD, FrameError, Hello, Output};

/// Longest frame before WELCOME, in bytes: HELLO with a long token.
const MAX_HELLO: usize = 16 << 10;

/// Least and most room for one read, in bytes: streams that carry much are read in large pieces,
/// the many that carry little don't hold memory.
const LEAST_READ: usize = 4 << 10;
const MOST_READ: usize = 256 << 10;

/// How a stream ended, as far as its connection is concerned.
#[derive(Debug)]
pub(super) enum Over {
    /// The stream is done; the connection goes on.
    Stream,
    /// The connection is to be closed: the client broke the protocol.
    Broken(FrameError),
    /// The connection is to be closed: the client was not let in, and was told.
    NotAdmitted,
    /// The server stops.
    Stopping,
}

/// Why a stream's work ended.
enum End {
    Session(Ending),
    /// The peer or the network ended it.
    Lost,
    /// The broker cut the line: too much waited.
    TooSlow,
    /// The broker is gone.
    Gone,
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        Self::Session(ending)
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Session(error.into())
    }
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

pub(super) struct Stream {
    shared: Arc<Shared>,
    id: SessionId,
    session: Session,
    /// Told once HELLO is accepted; only on the first stream.
    welcomed: Option<oneshot::Sender<()>>,
    /// Whether the peer needs no secret.
    trusted: bool,
    decoder: Decoder,
    /// Room for the next read.
    room: usize,
    /// Whether the peer may still send.
    open: bool,
    /// Under pressure: no read before this.
    paused: Option<Instant>,
    requests: Vec<Request>,
    out: Output,
    /// Chunks to be written, and their bytes.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Bytes of deliveries in the queue, or written and not given back to the broker yet.
    delivered: usize,
    pending: Arc<AtomicUsize>,
    linger: Linger,
}

impl Stream {
    pub(super) fn first(
        shared: Arc<Shared>,
        connection: ConnectionId,
        trusted: bool,
        welcomed: oneshot::Sender<()>,
    ) -> Self {
        let session = Session::first(Arc::clone(&shared.limits), connection);
        Self::new(shared, session, trusted, Some(welcomed), MAX_HELLO)
    }

    pub(super) fn further(shared: Arc<Shared>, connection: ConnectionId, trusted: bool) -> Self {
        let session = Session::further(Arc::clone(&shared.limits), connection);
        let limit = shared.limits.max_payload + FRAME_OVERHEAD;
        Self::new(shared, session, trusted, None, limit)
    }

    fn new(
        shared: Arc<Shared>,
        session: Session,
        trusted: bool,
        welcomed: Option<oneshot::Sender<()>>,
        max_frame: usize,
    ) -> Self {
        Self {
            id: shared.next_session(),
            linger: Linger::new(Arc::clone(&shared.broker.awaited)),
            shared,
            session,
            welcomed,
            trusted,
            decoder: Decoder::new(max_frame),
            room: LEAST_READ,
            open: true,
            paused: None,
            requests: Vec::new(),
            out: Output::new(),
            queue: VecDeque::new(),
            queued: 0,
            delivered: 0,
            pending: Arc::default(),
        }
    }

    /// Serves the stream to its end.
    pub(super) async fn run(mut self, mut reader: Reader, mut writer: Writer) -> Over {
        let _gauge = Gauge::new(&self.shared.counters, |counters| &counters.streams);
        let attached = Attachment::new(&self.shared.broker, self.id, &self.pending).await;
        let Ok((_attachment, mut incoming)) = attached else { return Over::Stopping };
        let mut end = self.work(&mut reader, &mut writer, &mut incoming).await;
        if matches!(end, End::Gone) {
            end = self.last_events(&mut incoming).await;
        }
        self.part(end, reader, writer).await
    }

    /// The broker takes nothing more: what it has answered is still to be sent.
    async fn last_events(&mut self, events: &mut mpsc::UnboundedReceiver<Batch>) -> End {
        while let Some((batch, _)) = events.recv().await {
            for event in batch {
                if let Err(ending) = self.session.event(event, &mut self.out) {
                    return ending.into();
                }
            }
        }
        End::Gone
    }

    async fn work(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
        events: &mut mpsc::UnboundedReceiver<Batch>,
    ) -> End {
        let mut pressure = self.shared.broker.pressure.clone();
        loop {
            let level = *pressure.borrow();
            let held = self.session.is_publisher() && level == Pressure::Full;
            let may_read = self.open
                && !held
                && self.paused.is_none()
                && !self.session.is_busy()
                && self.queued < self.shared.server_limits.max_unsent;
            let pause = self.paused;
            let result = tokio::select! {
                read = read_some(reader, self.decoder.buffer(), self.room), if may_read => {
                    self.received(read, level).await
                }
                written = write_some(writer, &mut self.queue), if !self.queue.is_empty() => {
                    self.written(written).await
                }
                batch = events.recv(), if self.queued < self.shared.server_limits.max_unsent => {
                    match batch {
                        Some(batch) => self.take_events(batch, events).await,
                        None if self.shared.broker.is_closed() => Err(End::Gone),
                        None => Err(End::TooSlow),
                    }
                }
                () = tokio::task::yield_now(), if self.linger.goes_on() => Ok(()),
                _ = pressure.changed(), if held => Ok(()),
                () = sleep_until(pause), if pause.is_some() => {
                    self.paused = None;
                    Ok(())
                }
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    /// Bytes were read, or the peer has finished or is gone.
    async fn received(&mut self, read: io::Result<usize>, pressure: Pressure) -> Result<(), End> {
        let read = read.map_err(|_| End::Lost)?;
        if read == 0 {
            self.open = false;
            self.decoder.finish()?;
            let result = self.session.finish(&mut self.requests);
            self.hand_over().await?;
            return Ok(result?);
        }
        add(&self.shared.counters.bytes_in, read);
        self.room = match read {
            _ if read >= self.room => (self.room * 2).min(MOST_READ),
            _ if read < self.room / 8 => (self.room / 2).max(LEAST_READ),
            _ => self.room,
        };
        if pressure == Pressure::High && self.session.is_publisher() {
            self.paused = Some(Instant::now() + PRESSURE_PAUSE);
        }
        self.take_frames().await
    }

    /// Gives complete frames to the session, and what it asks to the broker.
    async fn take_frames(&mut self) -> Result<(), End> {
        loop {
            let result = self.feed_session();
            let is_single = is_single(&self.requests);
            self.hand_over().await?;
            self.queue_output();
            match result? {
                Some(hello) => self.greet(&hello).await?,
                None => {
                    if is_single {
                        self.linger.begin();
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Returns HELLO if it came, which is to be decided on before anything else.
    fn feed_session(&mut self) -> Result<Option<Hello>, End> {
        while !self.session.is_busy() {
            let Some(frame) = self.decoder.next_frame()? else { break };
            let hello = self.session.receive(frame, &mut self.requests, &mut self.out)?;
            if hello.is_some() {
                return Ok(hello);
            }
        }
        Ok(None)
    }

    async fn greet(&mut self, hello: &Hello) -> Result<(), End> {
        if !self.trusted && !self.shared.logins.admit_wholly(hello.token.as_deref()).await {
            return Err(self.session.refuse(ApiError::not_admitted(), &mut self.out).into());
        }
        let welcome = self.shared.welcome.clone();
        self.decoder.set_limit(self.shared.limits.max_payload + FRAME_OVERHEAD);
        self.session.welcome(welcome, &mut self.requests, &mut self.out);
        if let Some(welcomed) = self.welcomed.take() {
            // The connection waits for this unless it is over.
            let _ = welcomed.send(());
        }
        tracing::debug!(session = self.id.0, name = hello.name, version = hello.version, "hello");
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<(), Gone> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let requests = std::mem::take(&mut self.requests);
        self.shared.broker.send(Input::Requests(self.id, requests)).await
    }

    /// Takes a batch of events, and others that came meanwhile.
    async fn take_events(
        &mut self,
        batch: Batch,
        more: &mut mpsc::UnboundedReceiver<Batch>,
    ) -> Result<(), End> {
        let was_busy = self.session.is_busy();
        self.linger.answered();
        let mut next = Some(batch);
        let mut result = Ok(());
        while let Some((events, bytes)) = next {
            self.pending.fetch_sub(bytes, Ordering::Relaxed);
            result =
                events.into_iter().try_for_each(|event| self.session.event(event, &mut self.out));
            let room = self.queued + self.out.len() < self.shared.server_limits.max_unsent;
            next = if result.is_ok() && room { more.try_recv().ok() } else { None };
        }
        self.queue_output();
        result?;
        if was_busy && !self.session.is_busy() {
            self.take_frames().await?;
        }
        Ok(())
    }

    fn queue_output(&mut self) {
        self.queued += self.out.len();
        self.out.move_to(&mut self.queue);
        self.delivered += self.session.take_delivered();
    }

    async fn written(&mut self, written: io::Result<usize>) -> Result<(), End> {
        let written = written.map_err(|_| End::Lost)?;
        add(&self.shared.counters.bytes_out, written);
        self.queued -= written;
        // A session that has more room than it uses is not worth a word after each write.
        let worth_telling = self.shared.limits.max_session_deliveries / SENT_PART;
        if self.queue.is_empty() && self.delivered > worth_telling {
            let bytes = std::mem::take(&mut self.delivered);
            self.requests.push(Request::Sent { bytes });
            self.hand_over().await?;
        }
        Ok(())
    }

    /// Lets the last answers leave, and ends both directions.
    async fn part(&mut self, end: End, reader: Reader, mut writer: Writer) -> Over {
        self.linger.give_up();
        let over = match end {
            End::Lost => return Over::Stream,
            End::TooSlow => {
                reset(reader, writer, ErrorCode::TooSlow);
                return Over::Stream;
            }
            End::Session(Ending::Broken(error)) => {
                add(&self.shared.counters.protocol_errors, 1);
                return Over::Broken(error);
            }
            End::Gone => return Over::Stopping,
            End::Session(Ending::Done) => Over::Stream,
            End::Session(Ending::Refused(error)) if error == ApiError::shutting_down() => {
                Over::Stopping
            }
            End::Session(Ending::Refused(_)) if self.welcomed.is_some() => Over::NotAdmitted,
            End::Session(Ending::Refused(_)) => Over::Stream,
        };
        self.queue_output();
        let last = async {
            while !self.queue.is_empty() {
                let written = write_some(&mut writer, &mut self.queue).await?;
                add(&self.shared.counters.bytes_out, written);
            }
            writer.finish().await;
            if let (Over::NotAdmitted | Over::Stopping, Writer::Quic(stream)) = (&over, &mut writer)
            {
                // The connection is about to be closed, which would overtake what was written.
                let _ = stream.stopped().await;
            }
            io::Result::Ok(())
        };
        // A client that does not read its last answers is not waited for.
        let _ = tokio::time::timeout(PARTING, last).await;
        over
    }
}

fn reset(reader: Reader, writer: Writer, code: ErrorCode) {
    let code = quinn::VarInt::from_u32(code.number());
    // Either direction may have ended already.
    if let Writer::Quic(mut stream) = writer {
        let _ = stream.reset(code);
    }
    if let Reader::Quic(mut stream) = reader {
        let _ = stream.stop(code);
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Reads what has arrived, up to about `room` bytes; 0 once the peer has finished. Nothing is lost
/// if the future is dropped.
async fn read_some(reader: &mut Reader, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
    if buffer.capacity() - buffer.len() < room / 2 {
        buffer.reserve(room);
    }
    reader.read_buf(buffer).await
}

/// Writes some of the chunks, without copying them where the stream can keep them. Nothing is lost
/// if the future is dropped.
async fn write_some(writer: &mut Writer, queue: &mut VecDeque<Bytes>) -> io::Result<usize> {
    let written = match writer {
        Writer::Quic(stream) => {
            let written =
                stream.write_chunks(queue.make_contiguous()).await.map_err(io::Error::other)?;
            queue.drain(..written.chunks);
            written.bytes
        }
        Writer::Memory(stream) => {
            let Some(chunk) = queue.front_mut() else { return Ok(0) };
            let written = stream.write(chunk).await?;
            chunk.advance(written);
            if chunk.is_empty() {
                queue.pop_front();
            }
            written
        }
    };
    Ok(written)
}
