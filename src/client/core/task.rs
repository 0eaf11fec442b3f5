//! The task behind subscriptions and requests: writes what is sent, in order, and hands out what is
//! received.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

use super::subscription::Entry;
use crate::client::error::SendError;
use crate::client::event::ConnectionEvent;
use crate::client::frames::{FrameReader, FrameWriter, StreamError, open};
use crate::client::link::{Busy, Link, Up};
use crate::model::event::CoreMessage as Received;
use crate::wire::native::{ClientFrame, MessagesWriter, ServerFrame};

/// Bytes that wait to be sent before senders wait. 8 MiB: enough to bridge a lost connection for a
/// moment, and a bound on memory.
const OUTGOING_BYTES: usize = 8 << 20;

/// A frame of messages is closed at this size, as a publisher's is.
const FRAME_BYTES: usize = 64 << 10;

/// Something to write, in order.
#[derive(Debug)]
enum Piece {
    Frame(ClientFrame),
    Messages(MessagesWriter),
}

#[derive(Debug)]
struct State {
    outgoing: VecDeque<Piece>,
    outgoing_bytes: usize,
    subscriptions: BTreeMap<u64, Entry>,
    next_token: u64,
    barriers: BTreeMap<u64, oneshot::Sender<()>>,
    /// The subscription that answers come to, and its subject without the last token.
    inbox: Option<(u64, Arc<str>)>,
    asked: BTreeMap<u64, oneshot::Sender<Received>>,
    next_question: u64,
    max_payload: usize,
    max_messages: u64,
    idle: bool,
    closed: bool,
    /// Keeps the connection open while something that was sent may not have arrived.
    busy: Option<Busy>,
    /// The barrier that will tell, once the client is being closed.
    last_barrier: Option<u64>,
    closing: bool,
}

/// Shared by subscriptions, questions and the task.
#[derive(Debug)]
pub(super) struct Shared {
    link: Arc<Link>,
    state: Mutex<State>,
    work: Notify,
    progress: Notify,
}

impl State {
    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn barrier(&mut self) -> u64 {
        let token = self.token();
        self.outgoing.push_back(Piece::Frame(ClientFrame::Barrier { token }));
        token
    }

    fn subscribe_frame(token: u64, entry: &Entry) -> ClientFrame {
        ClientFrame::Subscribe {
            token,
            subject: entry.subject.to_string(),
            queue: entry.queue.clone(),
        }
    }

    /// On a new stream: subscriptions first, then what still waits to be sent.
    fn begin(&mut self) {
        self.outgoing.retain(|piece| matches!(piece, Piece::Messages(_)));
        for token in self.barriers.keys() {
            self.outgoing.push_back(Piece::Frame(ClientFrame::Barrier { token: *token }));
        }
        for (token, entry) in self.subscriptions.iter().rev() {
            let frame = Self::subscribe_frame(*token, entry);
            self.outgoing.push_front(Piece::Frame(frame));
        }
        self.last_barrier = None;
    }

    fn put_message(&mut self, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
        let size = subject.len() + reply.len() + headers.len() + payload.len();
        let max_messages = self.max_messages;
        let open = match self.outgoing.back_mut() {
            Some(Piece::Messages(writer))
                if writer.len() + size <= FRAME_BYTES && writer.count() < max_messages =>
            {
                writer
            }
            _ => {
                self.outgoing.push_back(Piece::Messages(MessagesWriter::new()));
                let Some(Piece::Messages(writer)) = self.outgoing.back_mut() else { return };
                writer
            }
        };
        open.push(subject, reply, headers, payload);
        self.outgoing_bytes += size;
    }
}

impl Shared {
    pub(super) fn new(link: Arc<Link>) -> Self {
        let limits = link.current().map(|up| up.welcome.limits).unwrap_or_default();
        let state = State {
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            subscriptions: BTreeMap::new(),
            next_token: 0,
            barriers: BTreeMap::new(),
            inbox: None,
            asked: BTreeMap::new(),
            next_question: 0,
            max_payload: limits.max_payload,
            max_messages: limits.max_batch_messages as u64,
            idle: false,
            closed: false,
            busy: None,
            last_barrier: None,
            closing: false,
        };
        Self { link, state: Mutex::new(state), work: Notify::new(), progress: Notify::new() }
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

    pub(super) async fn send(
        &self,
        subject: &str,
        reply: &str,
        headers: &[u8],
        payload: &[u8],
    ) -> Result<(), SendError> {
        let size = headers.len() + payload.len();
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let sent = self.change(|state| {
                if state.closed {
                    return Err(SendError::Closed);
                }
                let limit = state.max_payload;
                if size > limit {
                    return Err(SendError::TooLarge { size, limit });
                }
                let room =
                    state.outgoing_bytes == 0 || state.outgoing_bytes + size <= OUTGOING_BYTES;
                if room {
                    state.put_message(subject, reply, headers, payload);
                    state.busy.get_or_insert_with(|| self.link.busy());
                    state.last_barrier = None;
                }
                Ok(room)
            })?;
            if sent {
                return Ok(());
            }
            progress.await;
        }
    }

    /// Waits until the server has taken everything before this.
    pub(super) async fn barrier(&self) -> Result<(), SendError> {
        let (sender, reached) = oneshot::channel();
        self.change(|state| {
            if state.closed {
                return Err(SendError::Closed);
            }
            let token = state.barrier();
            state.barriers.insert(token, sender);
            Ok(())
        })?;
        reached.await.map_err(|_| SendError::Closed)
    }

    /// Prepares a question: its answer will come to a subject of its own.
    pub(super) fn ask(self: &Arc<Self>) -> Result<Asked, SendError> {
        let (sender, receiver) = oneshot::channel();
        let (number, reply) = self.change(|state| {
            if state.closed {
                return Err(SendError::Closed);
            }
            let inbox = match &state.inbox {
                Some((_, inbox)) => Arc::clone(inbox),
                None => open_inbox(state),
            };
            state.next_question += 1;
            let number = state.next_question;
            state.asked.insert(number, sender);
            Ok((number, format!("{inbox}.{number}")))
        })?;
        Ok(Asked { shared: Arc::clone(self), number, reply, receiver: Some(receiver) })
    }

    /// Nothing more is taken in, and nothing will come.
    fn fail(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.subscriptions.clear();
        state.barriers.clear();
        state.asked.clear();
        state.outgoing.clear();
        state.busy = None;
        drop(state);
        self.progress.notify_waiters();
    }

    /// Hands out a message. Tells if the subscription is too slow for it.
    pub(super) fn receive(&self, token: u64, message: Received) -> Option<ConnectionEvent> {
        let mut state = self.lock();
        if state.inbox.as_ref().is_some_and(|(inbox, _)| *inbox == token) {
            let number = std::str::from_utf8(&message.subject)
                .ok()
                .and_then(|subject| subject.rsplit('.').next()?.parse::<u64>().ok());
            if let Some(asked) = number.and_then(|number| state.asked.remove(&number)) {
                // Whoever gave up waiting needs no answer.
                let _ = asked.send(message);
            }
            return None;
        }
        let entry = state.subscriptions.get(&token)?;
        entry.receive(message)
    }
}

fn open_inbox(state: &mut State) -> Arc<str> {
    let inbox: Arc<str> = format!("_INBOX.{:032x}", rand::random::<u128>()).into();
    let token = state.token();
    let (sender, _) = mpsc::channel(1);
    let entry =
        Entry { subject: format!("{inbox}.*").into(), queue: None, sender, counts: Arc::default() };
    let frame = State::subscribe_frame(token, &entry);
    state.outgoing.push_back(Piece::Frame(frame));
    state.subscriptions.insert(token, entry);
    state.inbox = Some((token, Arc::clone(&inbox)));
    inbox
}

/// A question that was prepared. Dropping it forgets the question.
#[derive(Debug)]
pub(super) struct Asked {
    shared: Arc<Shared>,
    number: u64,
    reply: String,
    receiver: Option<oneshot::Receiver<Received>>,
}

impl Asked {
    pub(super) fn reply(&self) -> &str {
        &self.reply
    }

    pub(super) async fn answer(mut self) -> Result<Received, SendError> {
        match self.receiver.take() {
            Some(receiver) => receiver.await.map_err(|_| SendError::Closed),
            None => Err(SendError::Closed),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.shared.lock().asked.remove(&self.number);
    }
}

/// Begins a subscription and gives its token.
pub(super) fn subscribe(shared: &Shared, entry: Entry) -> Result<u64, SendError> {
    shared.change(|state| {
        if state.closed {
            return Err(SendError::Closed);
        }
        let token = state.token();
        let frame = State::subscribe_frame(token, &entry);
        state.outgoing.push_back(Piece::Frame(frame));
        state.subscriptions.insert(token, entry);
        Ok(token)
    })
}

/// Ends a subscription.
pub(super) fn unsubscribe(shared: &Shared, token: u64) {
    shared.change(|state| {
        if state.subscriptions.remove(&token).is_some() {
            let frame = ClientFrame::Unsubscribe { token, max: None };
            state.outgoing.push_back(Piece::Frame(frame));
        }
    });
}

/// Serves messages until the client is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let closing = async {
        shared.link.closing().await;
        shared.change(|state| state.closing = true);
        shared.link.closed().await;
    };
    tokio::select! {
        biased;
        () = serve(&shared) => {}
        () = closing => {}
    }
    shared.fail();
}

async fn serve(shared: &Shared) {
    while let Ok(up) = shared.link.up().await {
        let error = serve_connection(shared, &up).await;
        tracing::debug!(%error, "the stream for messages broke");
        shared.link.lost(up.epoch).await;
    }
}

async fn serve_connection(shared: &Shared, up: &Up) -> StreamError {
    let limits = up.welcome.limits;
    let first = ClientFrame::OpenMessages;
    let opened = open(&up.transport, limits, &first, &ServerFrame::MessagesReady).await;
    let (mut reader, mut writer) = match opened {
        Ok(streams) => streams,
        Err(error) => return error,
    };
    {
        let mut state = shared.lock();
        state.max_payload = limits.max_payload;
        state.max_messages = limits.max_batch_messages as u64;
        state.begin();
    }
    tokio::select! {
        error = read(shared, &mut reader) => error,
        error = write(shared, &mut writer) => error,
    }
}

async fn write(shared: &Shared, writer: &mut FrameWriter) -> StreamError {
    loop {
        let work = shared.work.notified();
        let piece = {
            let mut state = shared.lock();
            let mut piece = state.outgoing.pop_front();
            if piece.is_none() && state.closing && state.busy.is_some() {
                // What was sent has arrived when this barrier is reached.
                if state.last_barrier.is_none() {
                    let token = state.barrier();
                    state.last_barrier = Some(token);
                    piece = state.outgoing.pop_front();
                }
            }
            state.idle = piece.is_none();
            piece
        };
        match piece {
            None => {
                work.await;
                continue;
            }
            Some(Piece::Frame(frame)) => writer.put(&frame),
            Some(Piece::Messages(mut messages)) => messages.encode_send(true, writer.output()),
        }
        if let Err(error) = writer.flush().await {
            return error.into();
        }
        let mut state = shared.lock();
        state.outgoing_bytes = state
            .outgoing
            .iter()
            .map(|piece| match piece {
                Piece::Messages(messages) => messages.len(),
                Piece::Frame(_) => 0,
            })
            .sum();
        drop(state);
        shared.progress.notify_waiters();
    }
}

async fn read(shared: &Shared, reader: &mut FrameReader) -> StreamError {
    loop {
        match reader.next().await {
            Ok(ServerFrame::Message { token, message }) => {
                if let Some(event) = shared.receive(token, message) {
                    shared.link.tell(event);
                }
            }
            Ok(ServerFrame::BarrierReached { token }) => {
                let mut state = shared.lock();
                if let Some(waiting) = state.barriers.remove(&token) {
                    let _ = waiting.send(());
                }
                if state.last_barrier == Some(token) {
                    state.busy = None;
                }
            }
            Ok(other) => return StreamError::Unexpected(other.name()),
            Err(error) => return error,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::subscription::SubscriptionReceiver;
    use super::*;

    fn message(subject: &str) -> Received {
        Received { subject: subject.to_owned().into(), ..Received::default() }
    }

    #[tokio::test]
    async fn answers_find_their_question() {
        let shared = Arc::new(Shared::new(Link::new()));
        let first = shared.ask().unwrap();
        let second = shared.ask().unwrap();
        let (inbox, _) = shared.lock().inbox.clone().unwrap();
        let answer = message(second.reply());
        shared.receive(inbox, answer.clone());
        assert_eq!(second.answer().await.unwrap(), answer);
        assert_eq!(shared.lock().asked.len(), 1);
        drop(first);
        assert!(shared.lock().asked.is_empty());
    }

    #[tokio::test]
    async fn a_new_stream_begins_with_the_subscriptions() {
        let shared = Arc::new(Shared::new(Link::new()));
        shared.lock().max_payload = 10;
        shared.lock().max_messages = 10;
        let kept = SubscriptionReceiver::start(&shared, "a".to_owned(), None).unwrap();
        drop(SubscriptionReceiver::start(&shared, "b".to_owned(), None).unwrap());
        shared.send("x", "", &[], b"1").await.unwrap();
        shared.send("x", "", &[], b"2").await.unwrap();
        let mut state = shared.lock();
        state.begin();
        let pieces: Vec<_> = state.outgoing.iter().collect();
        let [Piece::Frame(ClientFrame::Subscribe { token, .. }), Piece::Messages(messages)] =
            pieces.as_slice()
        else {
            panic!("{pieces:?}")
        };
        assert_eq!((*token, messages.count()), (kept.token(), 2));
    }
}
