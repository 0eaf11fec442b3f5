//! The task behind a consumer: writes pulls and acknowledgements, hands out deliveries, and goes on
//! after a lost connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::Handle;
use super::acks::Acks;
use crate::client::error::{AckError, ConsumeError};
use crate::client::frames::{FrameReader, FrameWriter, StreamError, open};
use crate::client::link::{Busy, Link, Up};
use crate::model::event::{Delivery as Delivered, PullStatus};
use crate::model::request::AckKind;
use crate::wire::native::{ClientFrame, PullFrame, ServerFrame, StatusFrame};

/// JetStream's word for a server that stops.
const SERVER_SHUTDOWN: &str = "Server Shutdown";

/// What a pull asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct PullOptions {
    pub(super) batch: u64,
    /// Zero for no limit.
    pub(super) max_bytes: u64,
    pub(super) expires: Option<Duration>,
    pub(super) no_wait: bool,
    pub(super) renewable: bool,
    /// On a new connection it is asked for again only with so many bytes left; zero for always.
    pub(super) least_bytes: u64,
}

/// What a pull gets.
#[derive(Debug)]
pub(super) enum Item {
    Deliveries(Vec<Delivered>),
    Ended(PullStatus),
    Failed(ConsumeError),
}

/// A pull that is not over.
#[derive(Debug)]
struct Pull {
    /// Unbounded, but no more can come than the pull asked for.
    sender: mpsc::UnboundedSender<Item>,
    /// What is still asked for.
    options: PullOptions,
    deadline: Option<Instant>,
    /// Whether the server was told of it on this connection.
    open: bool,
}

impl Pull {
    /// Whether enough is left to ask for.
    fn is_worthwhile(&self) -> bool {
        self.options.batch > 0 && self.options.max_bytes >= self.options.least_bytes
    }

    /// The frame that asks for what is left.
    fn frame(&mut self, token: u64) -> ClientFrame {
        self.open = true;
        let PullOptions { batch, max_bytes, no_wait, renewable, .. } = self.options;
        let expires = self
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        ClientFrame::Pull(PullFrame {
            token,
            batch,
            max_bytes,
            expires,
            no_wait,
            renewable,
            heartbeat: None,
        })
    }
}

#[derive(Debug)]
struct State {
    pulls: HashMap<u64, Pull>,
    next_token: u64,
    /// Frames about pulls that wait to be written.
    commands: Vec<ClientFrame>,
    acks: Acks,
    /// The task waits for work.
    idle: bool,
    /// Why nothing more is taken in.
    closed: Option<ConsumeError>,
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the task if it waits.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
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
    fn give_back(&self, deliveries: impl Iterator<Item = Delivered>) {
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

/// The receiving end of a pull. Dropping it withdraws the pull.
#[derive(Debug)]
pub(super) struct PullReceiver {
    handle: Arc<Handle>,
    token: u64,
    receiver: mpsc::UnboundedReceiver<Item>,
}

impl PullReceiver {
    pub(super) fn start(handle: &Arc<Handle>, options: PullOptions) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let token = handle.shared.change(|state| {
            let token = state.next_token;
            state.next_token += 1;
            if let Some(error) = &state.closed {
                let _ = sender.send(Item::Failed(error.clone()));
                return token;
            }
            let deadline = options.expires.map(|wait| Instant::now() + wait);
            let mut pull = Pull { sender, options, deadline, open: false };
            state.commands.push(pull.frame(token));
            state.pulls.insert(token, pull);
            token
        });
        Self { handle: Arc::clone(handle), token, receiver }
    }

    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    pub(super) async fn receive(&mut self) -> Option<Item> {
        self.receiver.recv().await
    }

    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.receiver.poll_recv(cx)
    }

    /// Allows more messages and bytes.
    pub(super) fn raise(&self, more: u64, more_bytes: u64) {
        let token = self.token;
        self.handle.shared.change(|state| {
            let Some(pull) = state.pulls.get_mut(&token) else { return };
            pull.options.batch += more;
            pull.options.max_bytes += more_bytes;
            let frame = if pull.open {
                ClientFrame::Raise { token, more, more_bytes }
            } else if pull.is_worthwhile() {
                pull.frame(token)
            } else {
                return;
            };
            state.commands.push(frame);
        });
    }

    /// Gives back deliveries that were received and not seen.
    pub(super) fn give_back(&self, deliveries: impl Iterator<Item = Delivered>) {
        self.handle.shared.give_back(deliveries);
    }
}

impl Drop for PullReceiver {
    fn drop(&mut self) {
        let token = self.token;
        self.handle.shared.change(|state| {
            if state.pulls.remove(&token).is_some() {
                state.commands.push(ClientFrame::Cancel { token });
            }
        });
        self.receiver.close();
        while let Ok(item) = self.receiver.try_recv() {
            if let Item::Deliveries(deliveries) = item {
                self.give_back(deliveries.into_iter());
            }
        }
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
    let limit = up.welcome.limits.max_frame;
    let (mut reader, mut writer) =
        match open(&up.transport, limit, &first, &ServerFrame::ConsumerReady).await {
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

/// On a new stream, asks for what is left of each pull. What waited to be written is part of that.
fn ask_again(state: &mut State) {
    state.commands.clear();
    let now = Instant::now();
    state.pulls.retain(|_, pull| {
        let over = pull.deadline.is_some_and(|deadline| deadline <= now);
        if over {
            let status = PullStatus {
                code: 408,
                text: "Request Timeout".into(),
                pending_messages: pull.options.batch,
                pending_bytes: pull.options.max_bytes,
                last: (0, 0),
                ended: true,
            };
            let _ = pull.sender.send(Item::Ended(status));
        }
        !over
    });
    for (token, pull) in &mut state.pulls {
        pull.open = false;
        // A pull that is used up is asked for when it is raised.
        if pull.is_worthwhile() {
            state.commands.push(pull.frame(*token));
        }
    }
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

/// Ends a pull, unless only the connection is about to end: then it is asked for again on the next.
fn end_pull(state: &mut State, token: u64, status: PullStatus) {
    if status.text == SERVER_SHUTDOWN {
        if let Some(pull) = state.pulls.get_mut(&token) {
            pull.open = false;
        }
    } else if let Some(pull) = state.pulls.remove(&token) {
        // Whoever no longer listens does not care.
        let _ = pull.sender.send(Item::Ended(status));
    }
}

/// Hands deliveries to their pull, or back if nobody waits for them any more.
fn deliver(shared: &Shared, token: u64, deliveries: Vec<Delivered>) {
    let mut state = shared.lock();
    let Some(pull) = state.pulls.get_mut(&token) else {
        drop(state);
        return shared.give_back(deliveries.into_iter());
    };
    let options = &mut pull.options;
    options.batch = options.batch.saturating_sub(deliveries.len() as u64);
    if options.max_bytes > 0 {
        let bytes: u64 = deliveries.iter().map(|d| Delivered::pull_bytes(&d.record)).sum();
        // Zero would mean no limit.
        options.max_bytes = options.max_bytes.saturating_sub(bytes).max(1);
    }
    let done = options.batch == 0 && !options.renewable;
    // The receiver withdraws the pull before it goes.
    let _ = pull.sender.send(Item::Deliveries(deliveries));
    if done {
        state.pulls.remove(&token);
    }
}
