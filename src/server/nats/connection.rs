//! One NATS connection: bytes in, a session, bytes out.
//!
//! A single task reads, writes and takes events, whichever can go on. What is written goes out together
//! with whatever else is ready by then.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use claudebus_storage::Pressure;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::super::attachment::{Attachment, PARTING, PRESSURE_PAUSE, SENT_PART};
use super::super::broker_thread::{Batch, Gone, Input};
use super::super::busy_wait::{Linger, is_single};
use super::super::connection::Shared;
use super::super::counters::add;
use super::super::http_listener::Visitor;
use super::super::login::{Admitted, Presented};
use super::clients::{Client, Place};
use crate::model::request::{Request, SessionId};
use crate::session::nats::{Ending, Session};
use crate::wire::Output;
use crate::wire::nats::{Decoder, Info};

/// Longest line without a payload, in bytes. 4,096, as nats-server.
pub(super) const MAX_CONTROL_LINE: usize = 4096;

/// Least and most room for one read, in bytes: connections that carry much are read in large pieces,
/// the many that carry little hold no memory.
const LEAST_READ: usize = 512;
const MOST_READ: usize = 256 << 10;

/// Chunks of one write: as many as a system call takes without a copy of its own.
const MOST_CHUNKS: usize = 64;

/// Why a connection's work ended.
enum End {
    Session(Ending),
    /// The peer or the network ended it, or did not take what was sent.
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

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    /// What the client was told first, but for who it is itself.
    info: Arc<Info>,
    place: Place,
    id: SessionId,
    session: Session,
    /// What the client may sign to show who it is.
    nonce: Option<String>,
    /// The names in its certificate.
    certified: Vec<String>,
    /// What may send only so much before the client is let in.
    visitor: Option<Visitor>,
    decoder: Decoder,
    /// Room for the next read.
    room: usize,
    /// Whether storage holds this connection up.
    held: bool,
    /// Under pressure: no read before this.
    paused: Option<Instant>,
    requests: Vec<Request>,
    out: Output,
    /// Chunks to be written, and their bytes.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Bytes of deliveries in the queue, or written and not given back to the broker yet.
    delivered: usize,
    /// Bytes that were ever queued, those up to the last delivery, and those that were written.
    queued_ever: u64,
    delivered_until: u64,
    written_ever: u64,
    pending: Arc<AtomicUsize>,
    linger: Linger,
    times: Times,
}

/// When something was heard or said last.
struct Times {
    opened: Instant,
    /// The client must have said who it is.
    login: Instant,
    /// The client was heard.
    heard: Instant,
    /// The client took something, or there was nothing for it to take.
    written: Instant,
    /// The next sign of life is asked for.
    ping: Instant,
}

impl Connection {
    /// In a box, so that the tasks it is handed on between do not each make room for it.
    pub(super) fn new(shared: Arc<Shared>, info: &Arc<Info>, place: Place) -> Box<Self> {
        let (id, address) = (place.client().id, place.client().address);
        let now = Instant::now();
        let mut out = Output::new();
        let nonce = shared.logins.nonce();
        let client_ip = address.ip().to_string();
        let own = Info { client_id: id.0, client_ip, nonce: nonce.clone(), ..Info::clone(info) };
        let mut session = Session::new(
            Arc::clone(&shared.limits),
            shared.welcome.name.as_str().into(),
            shared.logins.is_open(),
        )
        .in_domain(shared.domain.clone());
        session.greet(own, &mut out);
        Box::new(Self {
            info: Arc::clone(info),
            place,
            id,
            session,
            nonce,
            certified: Vec::new(),
            visitor: None,
            decoder: Decoder::new(shared.limits.max_payload, MAX_CONTROL_LINE),
            room: LEAST_READ,
            held: false,
            paused: None,
            requests: Vec::new(),
            out,
            queue: VecDeque::new(),
            queued: 0,
            delivered: 0,
            queued_ever: 0,
            delivered_until: 0,
            written_ever: 0,
            pending: Arc::default(),
            linger: Linger::new(Arc::clone(&shared.broker.awaited)),
            times: Times {
                opened: now,
                login: now + shared.server_limits.login_timeout,
                heard: now,
                written: now,
                ping: now + shared.server_limits.ping_interval,
            },
            shared,
        })
    }

    /// INFO, for who sends it before the connection is served.
    pub(super) fn take_greeting(&mut self) -> Vec<Bytes> {
        self.out.take()
    }

    /// The names in the client's certificate, which was found good.
    pub(super) fn set_certified(&mut self, names: Vec<String>) {
        self.certified = names;
    }

    /// What is bound in what it may send until the client is let in.
    pub(super) fn set_visitor(&mut self, visitor: Visitor) {
        self.visitor = Some(visitor);
    }

    /// Time for the client to say who it is.
    pub(super) fn login_timeout(&self) -> Duration {
        self.shared.server_limits.login_timeout
    }

    /// Serves the connection to its end.
    pub(super) async fn run<R, W>(mut self: Box<Self>, mut reader: R, mut writer: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let _alive = self.shared.alive.clone();
        // A handshake before this has a time of its own.
        self.times.login = Instant::now() + self.login_timeout();
        let attached = Attachment::new(&self.shared.broker, self.id, &self.pending).await;
        let Ok((_attachment, mut incoming)) = attached else { return };
        self.requests.push(Request::Opened { connection: self.shared.next_connection() });
        let end = match self.hand_over().await {
            Ok(()) => self.work(&mut reader, &mut writer, &mut incoming).await,
            Err(Gone) => End::Gone,
        };
        self.part(end, &mut writer, &mut incoming).await;
    }

    async fn work<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        events: &mut mpsc::UnboundedReceiver<Batch>,
    ) -> End
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut pressure = self.shared.broker.pressure.clone();
        let mut stopping = self.shared.stopping.clone();
        let mut leaving = self.shared.leaving.clone();
        let mut stays = true;
        let mut timer = Box::pin(tokio::time::sleep_until(self.next_look()));
        self.queue_output();
        loop {
            let level = *pressure.borrow();
            self.held &= level == Pressure::Full;
            let has_room = self.queued < self.shared.server_limits.max_unsent;
            let may_read =
                has_room && !self.held && self.paused.is_none() && !self.session.is_busy();
            // Who has not logged in gets no memory before what there is has been filled.
            let spare = if self.session.is_admitted() { self.room / 2 } else { 1 };
            let result = tokio::select! {
                read = read_some(reader, self.decoder.buffer(), self.room, spare), if may_read => {
                    self.received(read, level).await
                }
                written = write_some(writer, &mut self.queue), if !self.queue.is_empty() => {
                    self.written(written).await
                }
                batch = events.recv(), if has_room => match batch {
                    Some(batch) => self.take_events(batch, events).await,
                    None if self.shared.broker.is_closed() => Err(End::Gone),
                    None => Err(End::TooSlow),
                },
                () = tokio::task::yield_now(), if self.linger.goes_on() => Ok(()),
                _ = pressure.changed(), if self.held => Ok(()),
                // A client that takes nothing must not hold up the server's end.
                _ = stopping.changed(), if !has_room => Err(End::Gone),
                changed = leaving.changed(), if stays => {
                    stays = false;
                    if changed.is_ok() {
                        self.announce_end();
                    }
                    Ok(())
                }
                () = self.place.client().dismissed() => Err(Ending::Stopping.into()),
                () = timer.as_mut() => self.look(),
            };
            if let Err(end) = result {
                return end;
            }
            self.set_timer(timer.as_mut());
        }
    }

    /// Tells the client that the server is going to stop.
    fn announce_end(&mut self) {
        let Client { id, address, .. } = self.place.client();
        let (client_id, client_ip) = (id.0, address.ip().to_string());
        let info = Info { client_id, client_ip, ldm: true, ..Info::clone(&self.info) };
        self.session.inform(&info, &mut self.out);
        self.queue_output();
    }

    /// When there may be something to do without anybody's doing.
    fn next_look(&self) -> Instant {
        let limits = &self.shared.server_limits;
        let login = (!self.session.is_admitted()).then_some(self.times.login);
        let write = (!self.queue.is_empty()).then(|| self.times.written + limits.write_timeout);
        [login, write, self.paused].into_iter().flatten().fold(self.times.ping, Instant::min)
    }

    /// Wakes earlier if need be; a wake-up too early does no harm, and is not put off each time.
    fn set_timer(&self, timer: Pin<&mut Sleep>) {
        let next = self.next_look();
        if next < timer.deadline() || timer.is_elapsed() {
            timer.reset(next);
        }
    }

    /// Looks whether time is up for something.
    fn look(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let limits = &self.shared.server_limits;
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
        }
        if !self.queue.is_empty() && self.times.written + limits.write_timeout <= now {
            add(&self.shared.counters.sessions_too_slow, 1);
            return Err(End::Lost);
        }
        if !self.session.is_admitted() && self.times.login <= now {
            return Err(self.session.refuse("Authentication Timeout", &mut self.out).into());
        }
        if self.times.ping <= now {
            let interval = limits.ping_interval;
            if self.times.heard + interval <= now {
                self.session.ping(&mut self.out)?;
                self.queue_output();
            }
            self.times.ping = now + interval;
        }
        Ok(())
    }

    /// Bytes were read, or the peer has finished or is gone.
    async fn received(&mut self, read: io::Result<usize>, pressure: Pressure) -> Result<(), End> {
        let read = read.map_err(|_| End::Lost)?;
        if read == 0 {
            return Err(End::Lost);
        }
        add(&self.shared.counters.bytes_in, read);
        self.times.heard = Instant::now();
        self.place.active(self.times.heard - self.times.opened);
        self.room = match read {
            _ if !self.session.is_admitted() => LEAST_READ,
            _ if read >= self.room => (self.room * 2).min(MOST_READ),
            _ if read < self.room / 8 => (self.room / 2).max(LEAST_READ),
            _ => self.room,
        };
        self.take_operations().await?;
        if self.session.take_publishes() {
            match pressure {
                Pressure::High => self.paused = Some(self.times.heard + PRESSURE_PAUSE),
                Pressure::Full => self.held = true,
                Pressure::Normal | Pressure::NoSpace => {}
            }
        }
        Ok(())
    }

    /// Gives complete operations to the session, and what it asks to the broker.
    async fn take_operations(&mut self) -> Result<(), End> {
        loop {
            let result = self.feed_session();
            let is_single = is_single(&self.requests);
            self.hand_over().await?;
            self.queue_output();
            if !result? {
                if is_single {
                    self.linger.begin();
                }
                return Ok(());
            }
            // What follows CONNECT waits until it is known who the client is.
            self.log_in().await?;
        }
    }

    /// Returns whether a CONNECT came, which is to be decided on before anything else.
    fn feed_session(&mut self) -> Result<bool, End> {
        self.session.set_time(self.times.opened.elapsed());
        while !self.session.is_busy() {
            let operation = match self.decoder.next_operation() {
                Ok(Some(operation)) => operation,
                Ok(None) => break,
                Err(error) => return Err(self.session.break_off(error, &mut self.out).into()),
            };
            if self.session.receive(operation, &mut self.requests, &mut self.out)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A CONNECT came. Finding out who the client is takes no longer than it may take to say so.
    async fn log_in(&mut self) -> Result<(), End> {
        let client = self.session.client();
        let presented = Presented {
            token: client.auth_token.as_deref(),
            user: client.user.as_deref(),
            password: client.pass.as_deref(),
            key: client.nkey.as_deref(),
            signature: client.sig.as_deref(),
            nonce: self.nonce.as_deref(),
            certified: &self.certified,
        };
        let admitted = self.shared.logins.admit(presented);
        let Admitted { name, grant } = match tokio::time::timeout(self.login_timeout(), admitted)
            .await
        {
            Ok(Some(admitted)) => admitted,
            Ok(None) => {
                tracing::info!(session = self.id.0, user = client.user, "a client was not let in");
                return Err(self.session.refuse("Authorization Violation", &mut self.out).into());
            }
            Err(_) => {
                return Err(self.session.refuse("Authentication Timeout", &mut self.out).into());
            }
        };
        self.session.permit(&name, grant, &mut self.requests);
        let client = self.session.client();
        tracing::debug!(session = self.id.0, name = client.name, lang = client.lang, "CONNECT");
        self.decoder.allow_headers(client.headers);
        self.place.name(client);
        self.session.admit(&mut self.requests, &mut self.out);
        if let Some(visitor) = self.visitor.take() {
            visitor.unbind();
        }
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
        self.session.set_time(self.times.opened.elapsed());
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
            self.take_operations().await?;
        }
        Ok(())
    }

    fn queue_output(&mut self) {
        if self.queue.is_empty() && !self.out.is_empty() {
            self.times.written = Instant::now();
        }
        self.queued += self.out.len();
        self.queued_ever += self.out.len() as u64;
        self.out.move_to(&mut self.queue);
        let delivered = self.session.take_delivered();
        if delivered > 0 {
            self.delivered += delivered;
            self.delivered_until = self.queued_ever;
        }
        self.place.count(self.session.traffic(), self.session.subscriptions());
        self.place.pending(self.queued);
    }

    async fn written(&mut self, written: io::Result<usize>) -> Result<(), End> {
        let written = written.map_err(|_| End::Lost)?;
        if written == 0 {
            return Err(End::Lost);
        }
        add(&self.shared.counters.bytes_out, written);
        self.queued -= written;
        self.written_ever += written as u64;
        self.times.written = Instant::now();
        self.place.active(self.times.written - self.times.opened);
        self.place.pending(self.queued);
        // A session that has more room than it uses is not worth a word after each write.
        let worth_telling = self.shared.limits.max_session_deliveries / SENT_PART;
        // What else is queued behind the deliveries does not hold others up.
        let is_written = self.written_ever >= self.delivered_until;
        if is_written && self.delivered > worth_telling {
            let bytes = std::mem::take(&mut self.delivered);
            self.requests.push(Request::Sent { bytes });
            self.hand_over().await?;
        }
        Ok(())
    }

    /// Lets the last words leave.
    async fn part<W: AsyncWrite + Unpin>(
        &mut self,
        end: End,
        writer: &mut W,
        events: &mut mpsc::UnboundedReceiver<Batch>,
    ) {
        self.linger.give_up();
        match end {
            End::Lost => return,
            End::TooSlow => {
                tracing::debug!(session = self.id.0, "a slow consumer was cut off");
                return;
            }
            End::Session(Ending::Broken(error)) => {
                add(&self.shared.counters.protocol_errors, 1);
                tracing::debug!(session = self.id.0, %error, "a client broke the protocol");
            }
            End::Session(Ending::Refused(_) | Ending::Stopping) => {}
            // The broker takes nothing more: what it has answered is still to be sent.
            End::Gone => {
                while let Some((batch, _)) = events.recv().await {
                    let events = batch.into_iter();
                    let told = events
                        .map(|event| self.session.event(event, &mut self.out))
                        .all(|result| result.is_ok());
                    if !told {
                        break;
                    }
                }
            }
        }
        self.queue_output();
        let last = async {
            while !self.queue.is_empty() {
                let written = write_some(writer, &mut self.queue).await?;
                add(&self.shared.counters.bytes_out, written);
            }
            writer.shutdown().await
        };
        // A client that does not read its last answers is not waited for.
        let _ = tokio::time::timeout(PARTING, last).await;
    }
}

/// Reads what has arrived, up to about `room` bytes; 0 once the peer has finished. Nothing is lost
/// if the future is dropped.
async fn read_some<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
    room: usize,
    spare: usize,
) -> io::Result<usize> {
    if buffer.capacity() - buffer.len() < spare {
        buffer.reserve(room);
    }
    reader.read_buf(buffer).await
}

/// Writes some of the chunks, without copying them. Nothing is lost if the future is dropped.
async fn write_some<W: AsyncWrite + Unpin>(
    writer: &mut W,
    queue: &mut VecDeque<Bytes>,
) -> io::Result<usize> {
    let written = {
        let empty = IoSlice::new(&[]);
        let mut slices = [empty; MOST_CHUNKS];
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(queue.iter()) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        writer.write_vectored(slices.get(..count).unwrap_or_default()).await?
    };
    let mut rest = written;
    while let Some(chunk) = queue.front_mut() {
        if rest < chunk.len() {
            chunk.advance(rest);
            break;
        }
        rest -= chunk.len();
        queue.pop_front();
    }
    Ok(written)
}
