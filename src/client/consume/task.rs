//! The task behind a consumer: writes pulls and acknowledgements, hands out deliveries, and goes on
//! after a lost connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::{Notify, oneshot};

use super::acks::Acks;
use super::pull::{Item, Pull, ask_again, deliver, end_pull, tell_gap};
use crate::client::error::{AckError, ConsumeError};
use crate::client::event::ConnectionEvent;
use crate::client::frames::{FrameReader, FrameWriter, StreamError, open};
use crate::client::link::{Busy, Link, Up};
use crate::model::event::{Delivery as Delivered, PullStatus};
use crate::model::request::AckKind;
use crate::wire::native::{ClientFrame, ServerFrame, StatusFrame};

/// What the handles and the task change.
#[derive(Debug)]
pub(super) struct State {
    pub(super) pulls: HashMap<u64, Pull>,
    pub(super) next_token: u64,
    /// Frames about pulls that wait to be written.
    pub(super) commands: Vec<ClientFrame>,
    acks: Acks,
    /// The task waits for work.
    idle: bool,
    /// Why nothing more is taken in.
    pub(super) closed: Option<ConsumeError>,
    /// The client is being closed: acknowledgements are confirmed.
    closing: bool,
    /// All handles are gone.
    abandoned: bool,
    /// Keeps the connection open while an acknowledgement may not have arrived.
    busy: Option<Busy>,
}

/// Shared by the consumer's handles, its deliveries and its task.
#[derive(Debug)]
pub(super) struct Shared {
    link: Arc<Link>,
    stream: String,
    consumer: String,
    state: Mutex<State>,
    /// There is something to write for a task that waits for it.
    work: Notify,
    /// Acknowledgements were written.
    progress: Notify,
}

impl Shared {
    pub(super) fn new(link: Arc<Link>, stream: String, consumer: String) -> Self {
        let state = State {
            pulls: HashMap::new(),
            next_token: 1,
            commands: Vec::new(),
            acks: Acks::default(),
            idle: false,
            closed: None,
            closing: false,
            abandoned: false,
            busy: None,
        };
        Self {
            link,
            stream,
            consumer,
            state: Mutex::new(state),
            work: Notify::new(),
            progress: Notify::new(),
        }
    }

    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    pub(super) fn name(&self) -> &str {
        &self.consumer
    }

    pub(super) fn status_error(&self, status: PullStatus) -> ConsumeError {
        ConsumeError::Status {
            consumer: self.consumer.clone(),
            code: status.code,
            text: status.text.into_owned(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the task if it waits.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        result
    }

    pub(super) async fn ack(&self, kind: AckKind, seq: u64) -> Result<(), AckError> {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let added = self.change(|state| {
                if state.closed.is_some() {
                    return Err(AckError::Closed);
                }
                let room = state.acks.has_room();
                if room {
                    state.acks.add(kind.clone(), seq);
                    state.busy.get_or_insert_with(|| self.link.busy());
                }
                Ok(room)
            })?;
            if added {
                return Ok(());
            }
            progress.await;
        }
    }

    pub(super) async fn ack_confirmed(&self, seq: u64) -> Result<(), AckError> {
        let (waiter, told) = oneshot::channel();
        self.change(|state| {
            if state.closed.is_some() {
                return Err(AckError::Closed);
            }
            state.acks.add_confirmed(seq, waiter);
            state.busy.get_or_insert_with(|| self.link.busy());
            Ok(())
        })?;
        told.await.unwrap_or(Err(AckError::Closed))
    }

    /// Gives deliveries that nobody saw back to the consumer.
    pub(super) fn give_back(&self, deliveries: impl Iterator<Item = Delivered>) {
        let mut deliveries = deliveries.peekable();
        if deliveries.peek().is_none() {
            return;
        }
        self.change(|state| {
            if state.closed.is_none() {
                state.busy.get_or_insert_with(|| self.link.busy());
                for delivered in deliveries {
                    let again = AckKind::Nak { delay: Duration::ZERO };
                    state.acks.add(again, delivered.record.seq);
                }
            }
        });
    }

    /// All handles are gone.
    pub(super) fn abandon(&self) {
        self.change(|state| state.abandoned = true);
    }

    /// Nothing more will come.
    fn fail(&self, error: &ConsumeError) {
        let mut state = self.lock();
        state.closed = Some(error.clone());
        for (_, pull) in state.pulls.drain() {
            // Whoever no longer listens does not care.
            let _ = pull.sender.send(Item::Failed(error.clone()));
        }
        let ack_error = match error {
            ConsumeError::Refused { error, .. } => AckError::Refused(error.clone()),
            _ => AckError::Closed,
        };
        state.acks.fail(&ack_error);
        state.busy = None;
        drop(state);
        self.progress.notify_waiters();
    }
}

/// Why a consumer's stream is no longer served.
enum End {
    /// All handles are gone and everything has arrived.
    Done,
    Broken(StreamError),
}

/// Serves a consumer until its handles are gone or the client is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let closed = || ConsumeError::Closed { consumer: shared.consumer.clone() };
    let closing = async {
        shared.link.closing().await;
        shared.change(|state| state.closing = true);
        shared.link.closed().await;
    };
    tokio::select! {
        biased;
        error = serve(&shared) => {
            if let Some(error) = error {
                shared.fail(&error);
            }
        }
        () = closing => shared.fail(&closed()),
    }
}

async fn serve(shared: &Shared) -> Option<ConsumeError> {
    loop {
        let Ok(up) = shared.link.up().await else {
            return Some(ConsumeError::Closed { consumer: shared.consumer.clone() });
        };
        match serve_connection(shared, &up).await {
            End::Done => return None,
            // The consumer does not exist, or is not for us.
            End::Broken(StreamError::Refused(error)) if error.code < 500 => {
                return Some(ConsumeError::Refused { consumer: shared.consumer.clone(), error });
            }
            End::Broken(error) => {
                tracing::debug!(consumer = shared.consumer, %error, "the consumer's stream broke");
                shared.lock().acks.rewind();
                shared.link.lost(up.epoch).await;
            }
        }
    }
}

async fn serve_connection(shared: &Shared, up: &Up) -> End {
    let first = ClientFrame::OpenConsumer {
        stream: shared.stream.clone(),
        consumer: shared.consumer.clone(),
    };
    let limits = up.welcome.limits;
    let (mut reader, mut writer) =
        match open(&up.transport, limits, &first, &ServerFrame::ConsumerReady).await {
            Ok(streams) => streams,
            Err(error) => return End::Broken(error),
        };
    ask_again(&mut shared.lock());
    let end = tokio::select! {
        end = read(shared, &mut reader) => end,
        end = write(shared, &mut writer) => end,
    };
    if matches!(end, End::Done) {
        writer.finish().await;
    }
    end
}

async fn write(shared: &Shared, writer: &mut FrameWriter) -> End {
    loop {
        let work = shared.work.notified();
        let frames = {
            let mut state = shared.lock();
            let mut frames = std::mem::take(&mut state.commands);
            // Nobody comes after whoever is gone, so that what they said must be known to arrive.
            let last_words = state.closing || state.abandoned;
            frames.extend(state.acks.take(last_words));
            if frames.is_empty() {
                if state.abandoned && state.acks.is_settled() {
                    return End::Done;
                }
                state.idle = true;
            }
            if state.acks.is_settled() {
                state.busy = None;
            }
            frames
        };
        if frames.is_empty() {
            work.await;
            continue;
        }
        for frame in &frames {
            writer.put(frame);
        }
        if let Err(error) = writer.flush().await {
            return End::Broken(error.into());
        }
        shared.progress.notify_waiters();
    }
}

async fn read(shared: &Shared, reader: &mut FrameReader) -> End {
    loop {
        let frame = match reader.next().await {
            Ok(frame) => frame,
            Err(error) => return End::Broken(error),
        };
        match frame {
            ServerFrame::Deliver { token, deliveries } => deliver(shared, token, deliveries),
            ServerFrame::Status(StatusFrame { token, status }) if status.ended => {
                end_pull(&mut shared.lock(), token, status);
            }
            ServerFrame::Status(_) => {}
            ServerFrame::Gap { token, gap } => {
                tracing::error!(consumer = shared.consumer, %gap, "messages are lost");
                shared.link.tell(ConnectionEvent::Gap((*gap).clone()));
                tell_gap(&shared.lock(), token, gap);
            }
            ServerFrame::AckConfirmed { token, error } => {
                let result = error.map_or(Ok(()), |error| Err(AckError::Refused(error)));
                // Woken, the writer ends if that was the last thing it waited for.
                shared.change(|state| {
                    state.acks.confirmed(token, &result);
                    if state.acks.is_settled() {
                        state.busy = None;
                    }
                });
            }
            other => return End::Broken(StreamError::Unexpected(other.name())),
        }
    }
}
