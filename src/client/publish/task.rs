//! The task behind a publisher: writes frames, reads acknowledgements, and sends again what a lost
//! connection left open.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use hashbrown::HashMap;
use tokio::sync::Notify;

use super::window::{Window, WindowLimits};
use super::{Ack, PublishError};
use crate::client::frames::{FrameReader, FrameWriter, StreamError, open};
use crate::client::link::{Busy, Link, Up};
use crate::model::request::ProducerId;
use crate::model::subject::is_publishable;
use crate::wire::native::{
    ClientFrame, Decoder, MessagesWriter, Numbered, Output, ServerFrame, StoredRange, WireLimits,
};

/// A frame is closed at this size. 64 KiB: the cost of a frame is nothing against it, and the
/// server works on one while the next is on its way.
const FRAME_BYTES: usize = 64 << 10;

/// Bytes of a message beside its parts, at most: flags and three lengths.
const MESSAGE_OVERHEAD: usize = 16;

/// Shared by the publisher's handles, its tickets and its task.
#[derive(Debug)]
pub(super) struct Shared {
    link: Arc<Link>,
    producer: ProducerId,
    state: Mutex<State>,
    /// There is something to write for a task that waits for it.
    work: Notify,
    /// Something was answered.
    progress: Notify,
}

#[derive(Debug)]
struct State {
    window: Window,
    limits: WireLimits,
    /// The frame being filled.
    filling: MessagesWriter,
    /// Full frames, and those to be sent again.
    queue: VecDeque<Numbered>,
    /// Frames on their way, until all of their messages are answered.
    sent: VecDeque<Numbered>,
    /// The last subject that was found to be one: it is mostly the next one too.
    last_subject: String,
    /// The task waits for work.
    idle: bool,
    /// Nothing more is taken in.
    closed: bool,
    /// All handles are gone.
    abandoned: bool,
    /// Keeps the connection open while something is in flight.
    busy: Option<Busy>,
}

impl State {
    /// Counter of the first message of the frame being filled.
    fn first_filling(&self) -> u64 {
        self.window.next() - self.filling.count()
    }

    fn close_frame(&mut self) {
        if !self.filling.is_empty() {
            let first = self.first_filling();
            self.queue.push_back(self.filling.numbered(first));
        }
    }

    /// The next frame to write.
    fn next_frame(&mut self) -> Option<Numbered> {
        if self.queue.is_empty() {
            self.close_frame();
        }
        let frame = self.queue.pop_front()?;
        self.sent.push_back(frame.clone());
        Some(frame)
    }

    /// Forgets what is answered; tells whether nothing is left.
    fn settle(&mut self) -> bool {
        let below = self.window.answered_below();
        while self.sent.front().is_some_and(|frame| frame.first + frame.count <= below) {
            self.sent.pop_front();
        }
        let empty = below == self.window.next();
        if empty {
            self.busy = None;
        }
        empty
    }

    /// The connection is lost: what is not answered goes to the front of the queue, as it was.
    fn rewind(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        for frame in sent.into_iter().rev() {
            for run in open_runs(frame, &self.window).into_iter().rev() {
                self.queue.push_front(run);
            }
        }
    }
}

/// The unanswered messages of a frame: all of it as it is, or runs of them encoded anew.
fn open_runs(frame: Numbered, window: &Window) -> Vec<Numbered> {
    let counters = frame.first..frame.first + frame.count;
    if counters.clone().all(|counter| window.is_open(counter)) {
        return vec![frame];
    }
    let mut runs = Vec::new();
    let mut writer = MessagesWriter::new();
    let mut first = frame.first;
    let Some(batch) = decode(&frame) else { return runs };
    for (counter, message) in counters.zip(batch.iter()) {
        if window.is_open(counter) {
            if writer.is_empty() {
                first = counter;
            }
            writer.push(message.subject, "", message.headers, message.payload);
        } else if !writer.is_empty() {
            runs.push(writer.numbered(first));
        }
    }
    if !writer.is_empty() {
        runs.push(writer.numbered(first));
    }
    runs
}

/// Reads a frame of ours back; it was well formed when it was written.
fn decode(frame: &Numbered) -> Option<crate::model::batch::MessageBatch> {
    let mut output = Output::new();
    frame.encode(&mut output);
    let mut decoder = Decoder::new(usize::MAX);
    for chunk in output.take() {
        decoder.buffer().extend_from_slice(&chunk);
    }
    match ClientFrame::decode(decoder.next_frame().ok()??) {
        Ok(ClientFrame::Publish { batch, .. }) => Some(batch),
        _ => None,
    }
}

impl Shared {
    pub(super) fn new(
        link: Arc<Link>,
        producer: ProducerId,
        window: WindowLimits,
        limits: WireLimits,
    ) -> Self {
        let state = State {
            window: Window::new(window),
            limits,
            filling: MessagesWriter::new(),
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            last_subject: String::new(),
            idle: false,
            closed: false,
            abandoned: false,
            busy: None,
        };
        Self {
            link,
            producer,
            state: Mutex::new(state),
            work: Notify::new(),
            progress: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message in and gives its counter; none if the window is full.
    pub(super) fn try_push(
        &self,
        subject: &str,
        headers: &[u8],
        payload: &[u8],
    ) -> Result<Option<u64>, PublishError> {
        let mut state = self.lock();
        if state.closed {
            return Err(PublishError::Closed);
        }
        if state.last_subject != subject {
            if !is_publishable(subject) {
                return Err(PublishError::Subject(subject.to_owned()));
            }
            state.last_subject.clear();
            state.last_subject.push_str(subject);
        }
        let (size, limit) = (headers.len() + payload.len(), state.limits.max_payload);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let bytes = size + subject.len() + MESSAGE_OVERHEAD;
        if !state.window.has_room(bytes) {
            return Ok(None);
        }
        let full = state.filling.len() + bytes > FRAME_BYTES
            || state.filling.count() >= state.limits.max_batch_messages as u64;
        if full {
            state.close_frame();
        }
        state.filling.push(subject, "", headers, payload);
        let counter = state.window.push(bytes);
        if state.busy.is_none() {
            state.busy = Some(self.link.busy());
        }
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok(Some(counter))
    }

    /// The same, waiting for room.
    pub(super) async fn push_when_room(
        &self,
        subject: &str,
        headers: &[u8],
        payload: &[u8],
    ) -> Result<u64, PublishError> {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            // Registered before looking, so that no progress is missed in between.
            progress.as_mut().enable();
            if let Some(counter) = self.try_push(subject, headers, payload)? {
                return Ok(counter);
            }
            progress.await;
        }
    }

    pub(super) async fn flush(&self) -> Result<(), PublishError> {
        let target = self.lock().window.next();
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let mut state = self.lock();
                if state.window.answered_below() >= target {
                    return state.window.take_unseen().map_or(Ok(()), Err);
                }
            }
            progress.await;
        }
    }

    pub(super) fn poll(&self, counter: u64, waker: &Waker) -> Poll<Result<Ack, PublishError>> {
        self.lock().window.poll(counter, waker)
    }

    pub(super) fn abandon_ticket(&self, counter: u64) {
        self.lock().window.abandon(counter);
    }

    /// All handles are gone.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.work.notify_one();
    }

    /// Nothing more is taken in.
    fn close(&self) {
        self.lock().closed = true;
        self.progress.notify_waiters();
    }

    /// Nothing more will be answered.
    fn fail(&self, error: &PublishError) {
        let mut wake = Vec::new();
        let mut state = self.lock();
        state.closed = true;
        state.window.fail(error, &mut wake);
        state.queue.clear();
        state.settle();
        drop(state);
        self.tell(wake);
    }

    fn tell(&self, wake: Vec<Waker>) {
        for waker in wake {
            waker.wake();
        }
        self.progress.notify_waiters();
    }
}

/// Why a publisher's stream is no longer served.
enum End {
    /// All handles are gone and everything is answered.
    Done,
    Broken(StreamError),
}

/// Serves a publisher until its handles are gone or the client is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let closing = async {
        shared.link.closing().await;
        shared.close();
        shared.link.closed().await;
    };
    tokio::select! {
        biased;
        result = serve(&shared) => {
            if let Err(error) = result {
                shared.fail(&error);
            }
        }
        () = closing => shared.fail(&PublishError::Closed),
    }
}

async fn serve(shared: &Shared) -> Result<(), PublishError> {
    loop {
        let up = shared.link.up().await.map_err(|_| PublishError::Closed)?;
        shared.lock().limits = up.welcome.limits;
        match serve_connection(shared, &up).await {
            End::Done => return Ok(()),
            // The server does not want this publisher, now or later.
            End::Broken(StreamError::Refused(error)) if error.code < 500 => {
                return Err(PublishError::Refused(error));
            }
            End::Broken(error) => {
                tracing::debug!(%error, "the publisher's stream broke");
                shared.lock().rewind();
                shared.link.lost(up.epoch).await;
            }
        }
    }
}

async fn serve_connection(shared: &Shared, up: &Up) -> End {
    let first = ClientFrame::OpenPublisher { producer: shared.producer };
    let limits = up.welcome.limits;
    let (mut reader, mut writer) =
        match open(&up.transport, limits, &first, &ServerFrame::PublisherReady).await {
            Ok(streams) => streams,
            Err(error) => return End::Broken(error),
        };
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
        let frame = {
            let mut state = shared.lock();
            let frame = state.next_frame();
            if frame.is_none() {
                if state.abandoned && state.settle() {
                    return End::Done;
                }
                state.idle = true;
            }
            frame
        };
        match frame {
            None => work.await,
            Some(frame) => {
                frame.encode(writer.output());
                if let Err(error) = writer.flush().await {
                    return End::Broken(error.into());
                }
            }
        }
    }
}

async fn read(shared: &Shared, reader: &mut FrameReader) -> End {
    let mut streams = HashMap::new();
    loop {
        let mut next = match reader.next().await {
            Ok(frame) => Some(frame),
            Err(error) => return End::Broken(error),
        };
        // All that came with it is taken at once, and whoever waits is woken once.
        let mut wake = Vec::new();
        let mut state = shared.lock();
        let result = loop {
            let Some(frame) = next else { break Ok(()) };
            if let Err(error) = take_answer(&mut state, &mut streams, frame, &mut wake) {
                break Err(error);
            }
            match reader.next_received() {
                Ok(frame) => next = frame,
                Err(error) => break Err(error),
            }
        };
        let done = state.settle() && state.abandoned;
        drop(state);
        shared.tell(wake);
        match result {
            // However the stream ends behind the last answer.
            _ if done => return End::Done,
            Err(error) => return End::Broken(error),
            Ok(()) => {}
        }
    }
}

/// Takes what became of messages, and the names of `streams` by their aliases.
fn take_answer(
    state: &mut State,
    streams: &mut HashMap<u64, Arc<str>>,
    frame: ServerFrame,
    wake: &mut Vec<Waker>,
) -> Result<(), StreamError> {
    match frame {
        ServerFrame::StreamName { alias, name } => {
            streams.insert(alias, name.into());
        }
        ServerFrame::Published { mut first, ranges } => {
            for StoredRange { count, alias, seq, duplicate } in ranges {
                let unnamed = StreamError::Unexpected("PUBLISHED for an unnamed stream");
                let stream = streams.get(&alias).ok_or(unnamed)?;
                state.window.published((first, count), stream, seq, duplicate, wake);
                first = first.saturating_add(count);
            }
        }
        ServerFrame::RefusedMessage { counter, error } => {
            state.window.refused(counter, error, wake);
        }
        other => return Err(StreamError::Unexpected(other.name())),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
