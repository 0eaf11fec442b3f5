//! The thread that owns the broker: it takes batches of requests, turns the broker, and hands events
//! to sessions.
//!
//! One turn: all requests that wait (up to a bound) are handled, the log's news and due deadlines
//! too, and what was decided becomes one group of the journal. The thread sleeps until there is
//! input, news from the log, or a deadline.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use claudebus_storage::{Engine, Log, LogFailure, MemoryLog, Pressure, Waker};
use tokio::sync::{mpsc, oneshot, watch};

use super::busy_wait::{FOR_INPUT, Worth, is_step};
use super::clock::Clock;
use super::counters::{Counters, add, set};
use super::error::{ServerFailure, StartError};
use crate::broker::{Broker, BrokerOptions};
use crate::model::error::ApiError;
use crate::model::event::{Delivery, Event, Published};
use crate::model::request::{Request, SessionId};
use crate::model::time::Now;

/// Inputs of one turn. 256: with the next bound, a group that takes a disk about half a
/// millisecond.
const MAX_TURN_INPUTS: usize = 256;

/// Bytes of messages of one turn, after which it is closed. 1 MiB.
const MAX_TURN_BYTES: usize = 1 << 20;

/// Longest sleep: deadlines far off are looked at again after this.
const MAX_SLEEP: Duration = Duration::from_secs(3600);
/// What a stream's name keeps in memory beside its text, in bytes, about.
const NAME_OVERHEAD: usize = 64;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Input {
    /// A session exists; its events go this way.
    Open(SessionId, Line),
    /// Requests of a session, in order.
    Requests(SessionId, Vec<Request>),
    /// The session is over.
    Closed(SessionId),
    /// Answered by the next turn.
    Probe(oneshot::Sender<()>),
    /// Answer what was accepted, close the log, end.
    Stop,
}

/// Events of one turn for one session, and the bytes they count for.
pub(super) type Batch = (Vec<Event>, usize);

/// The way of events to one session.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) events: mpsc::UnboundedSender<Batch>,
    /// Bytes on their way. The session takes off what it has taken.
    pub(super) pending: Arc<AtomicUsize>,
}

/// Gives input to the thread. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct BrokerHandle {
    input: mpsc::Sender<Input>,
    wake: Arc<Wake>,
    pub(super) pressure: watch::Receiver<Pressure>,
    /// Whether a connection waits awake for an answer.
    pub(super) awaited: Arc<AtomicBool>,
}

/// The thread has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

impl BrokerHandle {
    /// Hands over an input; waits while too many wait.
    pub(super) async fn send(&self, input: Input) -> Result<(), Gone> {
        self.input.send(input).await.map_err(|_| Gone)?;
        self.wake.wake();
        Ok(())
    }

    /// Whether the thread has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.input.is_closed()
    }
}

/// Wakes the thread if it sleeps.
#[derive(Debug, Default)]
struct Wake {
    thread: OnceLock<Thread>,
    sleeping: AtomicBool,
}

impl Wake {
    fn wake(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// A log that can be ended cleanly.
pub(super) trait CloseLog: Log {
    /// Makes everything durable and leaves it as is best for the next start.
    fn close(self) -> Result<(), LogFailure>;
}

impl CloseLog for Engine {
    fn close(self) -> Result<(), LogFailure> {
        Self::close(self)
    }
}

impl CloseLog for MemoryLog {
    fn close(self) -> Result<(), LogFailure> {
        Ok(())
    }
}

/// What the thread starts with.
pub(super) struct Setup {
    pub(super) options: BrokerOptions,
    pub(super) clock: Clock,
    pub(super) counters: Arc<Counters>,
    pub(super) input_queue: usize,
}

/// A thread that has begun.
pub(super) struct Started {
    pub(super) handle: BrokerHandle,
    /// Tells how the thread ended.
    pub(super) ended: oneshot::Receiver<Result<(), ServerFailure>>,
}

/// Starts the thread and waits until the log is open and the broker restored.
pub(super) async fn spawn<L, F>(setup: Setup, open: F) -> Result<Started, StartError>
where
    L: CloseLog + 'static,
    F: FnOnce(Waker) -> Result<L, StartError> + Send + 'static,
{
    let (input, inputs) = mpsc::channel(setup.input_queue);
    let (pressure_told, pressure) = watch::channel(Pressure::Normal);
    let (started, starting) = oneshot::channel();
    let (ended_told, ended) = oneshot::channel();
    let wake = Arc::new(Wake::default());
    let awaited = Arc::default();
    let handle = BrokerHandle { input, wake: Arc::clone(&wake), pressure, awaited };
    let body = move || {
        let _ = wake.thread.set(std::thread::current());
        let limit = setup.options.limits.max_pending_bytes;
        let waker: Waker = {
            let wake = Arc::clone(&wake);
            Arc::new(move || wake.wake())
        };
        let opened =
            open(waker).and_then(|log| Ok(Broker::open(log, setup.options, setup.clock.now())?));
        let broker = match opened {
            Ok(broker) => broker,
            Err(error) => {
                // Whoever started the server and went away needs no answer.
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        let thread = BrokerThread {
            broker,
            inputs,
            wake,
            clock: setup.clock,
            counters: setup.counters,
            lines: Lines { lines: HashMap::new(), ready: Vec::new(), limit },
            pressure: pressure_told,
            stopping: false,
            lone: false,
            worth: Worth::new(),
        };
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| thread.run()));
        let _ = ended_told.send(match result {
            Ok(result) => result.map_err(ServerFailure::from),
            Err(panic) => Err(ServerFailure::Panic(panic_text(&*panic))),
        });
    };
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(body)
        .map_err(StartError::Thread)?;
    starting.await.map_err(|_| StartError::Gone)??;
    Ok(Started { handle, ended })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

struct BrokerThread<L: Log> {
    broker: Broker<L>,
    inputs: mpsc::Receiver<Input>,
    wake: Arc<Wake>,
    clock: Clock,
    counters: Arc<Counters>,
    lines: Lines,
    pressure: watch::Sender<Pressure>,
    stopping: bool,
    /// Whether the last turn that took input took a single step of a client.
    lone: bool,
    /// Whether it is worth it to wait awake for the next.
    worth: Worth,
}

impl<L: CloseLog> BrokerThread<L> {
    fn run(mut self) -> Result<(), LogFailure> {
        while !self.stopping {
            if self.turn()? {
                continue;
            }
            // From here on whoever has something for this thread wakes it; what came before is
            // found by one more turn.
            self.wake.sleeping.store(true, Ordering::SeqCst);
            if !self.watch_for_input() && !self.turn()? {
                std::thread::park_timeout(self.sleep());
            }
            self.wake.sleeping.store(false, Ordering::SeqCst);
        }
        self.stop()
    }

    /// After a turn with a single step of a client: waits awake for the next one, where that is of use. Returns whether
    /// there is something to do.
    fn watch_for_input(&mut self) -> bool {
        let wake = &self.wake;
        std::mem::take(&mut self.lone)
            && self.worth.wait(FOR_INPUT, || {
                let has_input = !self.inputs.is_empty();
                (has_input || !wake.sleeping.load(Ordering::SeqCst)).then_some(has_input)
            })
    }

    /// One turn. Returns whether there was anything to do.
    fn turn(&mut self) -> Result<bool, LogFailure> {
        let now = self.clock.now();
        let mut busy = self.take_inputs(now);
        self.broker.handle_log(now)?;
        if self.broker.poll_timeout().is_some_and(|due| due <= now.monotonic) {
            self.broker.handle_timeout(now);
            busy = true;
        }
        let position = self.broker.commit();
        while let Some((session, event)) = self.broker.poll_event() {
            self.lines.put(session, event);
        }
        busy |= self.lines.hand_over(&self.counters);
        set(&self.counters.position, position.0);
        set(&self.counters.durable, self.broker.log().durable().0);
        add(&self.counters.turns, usize::from(busy));
        self.tell_pressure();
        let has_more = self.broker.poll_timeout().is_some_and(|due| due <= now.monotonic);
        busy |= self.broker.release(self.inputs.is_empty() && !has_more);
        Ok(busy)
    }

    fn take_inputs(&mut self, now: Now) -> bool {
        let mut bytes = 0;
        for taken in 0..MAX_TURN_INPUTS {
            if bytes >= MAX_TURN_BYTES {
                break;
            }
            let Ok(input) = self.inputs.try_recv() else { return taken > 0 };
            let is_step = matches!(&input, Input::Requests(_, requests) if is_step(requests));
            self.lone = taken == 0 && is_step;
            bytes += self.take(now, input);
        }
        true
    }

    /// Takes one input. Returns the bytes of messages it held.
    fn take(&mut self, now: Now, input: Input) -> usize {
        match input {
            Input::Open(session, line) => {
                self.lines.lines.insert(session, LineState { line, events: Vec::new(), bytes: 0 });
            }
            Input::Requests(session, requests) => {
                add(&self.counters.requests, requests.len());
                let bytes = requests.iter().map(message_bytes).sum();
                for request in requests {
                    self.broker.handle(now, session, request);
                }
                return bytes;
            }
            Input::Closed(session) => {
                self.lines.lines.remove(&session);
                self.broker.handle(now, session, Request::Closed);
            }
            Input::Probe(answer) => {
                // Whoever stopped waiting needs no answer.
                let _ = answer.send(());
            }
            Input::Stop => self.stopping = true,
        }
        0
    }

    fn tell_pressure(&mut self) {
        let pressure = self.broker.log().pressure();
        self.pressure.send_if_modified(|told| std::mem::replace(told, pressure) != pressure);
        set(&self.counters.pressure, pressure as u64);
    }

    /// How long nothing can be due.
    fn sleep(&self) -> Duration {
        let due = self.broker.poll_timeout().unwrap_or(Duration::MAX);
        due.saturating_sub(self.clock.uptime()).min(MAX_SLEEP)
    }

    /// Answers what was accepted, says goodbye, and closes the log.
    fn stop(mut self) -> Result<(), LogFailure> {
        self.broker.shut_down(self.clock.now());
        let position = self.broker.commit();
        loop {
            self.wake.sleeping.store(true, Ordering::SeqCst);
            self.broker.handle_log(self.clock.now())?;
            while let Some((session, event)) = self.broker.poll_event() {
                self.lines.put(session, event);
            }
            if self.broker.log().durable() >= position {
                break;
            }
            std::thread::park_timeout(MAX_SLEEP);
        }
        self.lines.close_all();
        self.lines.hand_over(&self.counters);
        // Sessions end now, and not only after the checkpoint.
        drop((self.inputs, self.lines));
        self.broker.into_log().close()
    }
}

/// Bytes that a request's messages keep in memory.
fn message_bytes(request: &Request) -> usize {
    match request {
        Request::Publish { batch, .. }
        | Request::Send { batch, .. }
        | Request::Overhear { batch, .. } => batch.pinned_bytes(),
        _ => 0,
    }
}

/// The ways to all sessions.
struct Lines {
    lines: HashMap<SessionId, LineState>,
    /// Sessions that have events to be handed over.
    ready: Vec<SessionId>,
    /// [`Limits::max_pending_bytes`](crate::model::limits::Limits::max_pending_bytes).
    limit: usize,
}

struct LineState {
    line: Line,
    events: Vec<Event>,
    bytes: usize,
}

impl Lines {
    fn put(&mut self, session: SessionId, event: Event) {
        // Events for a session that is over go nowhere.
        let Some(line) = self.lines.get_mut(&session) else { return };
        if line.events.is_empty() {
            self.ready.push(session);
        }
        line.bytes += event_bytes(&event);
        line.events.push(event);
    }

    /// Hands each session its events. Returns whether there were any.
    fn hand_over(&mut self, counters: &Counters) -> bool {
        let any = !self.ready.is_empty();
        for session in self.ready.drain(..) {
            let Some(state) = self.lines.get_mut(&session) else { continue };
            let (events, bytes) =
                (std::mem::take(&mut state.events), std::mem::take(&mut state.bytes));
            add(&counters.events, events.len());
            let before = state.line.pending.fetch_add(bytes, Ordering::Relaxed);
            // A single large event always passes.
            let too_slow = before > 0 && before + bytes > self.limit;
            if too_slow {
                add(&counters.sessions_too_slow, 1);
            }
            if too_slow || state.line.events.send((events, bytes)).is_err() {
                // The session notices that the line is cut, and closes.
                self.lines.remove(&session);
            }
        }
        any
    }

    fn close_all(&mut self) {
        let sessions: Vec<_> = self.lines.keys().copied().collect();
        for session in sessions {
            self.put(session, Event::Close { reason: ApiError::shutting_down() });
        }
    }
}

/// Bytes that an event keeps in memory, about.
fn event_bytes(event: &Event) -> usize {
    match event {
        Event::Message { message, .. } => {
            128 + message.subject.len()
                + message.reply.len()
                + message.headers.len()
                + message.payload.len()
        }
        Event::Deliver { deliveries, .. } => deliveries.iter().map(Delivery::charge).sum(),
        // Room that is not used counts, as it is not given back before the event is told.
        Event::Published { named, ranges } => {
            let names: usize = named.iter().map(|(_, name)| NAME_OVERHEAD + name.len()).sum();
            128 + names + ranges.capacity() * size_of::<Published>()
        }
        Event::Answer { .. } => 1024,
        _ => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Setup {
        Setup {
            options: BrokerOptions::default(),
            clock: Clock::new(),
            counters: Arc::default(),
            input_queue: 4,
        }
    }

    #[tokio::test]
    async fn a_failing_journal_ends_the_thread_with_its_own_exit_code() {
        let started = spawn(setup(), |_| {
            let mut log = MemoryLog::new();
            log.fail("cannot sync journal/7: no such device");
            Ok(log)
        });
        let Started { handle, ended } = started.await.expect("the log opens");
        let failure = ended.await.expect("it tells").expect_err("the journal failed");
        assert_eq!(failure.exit_code(), 74);
        assert!(failure.to_string().contains("journal/7"), "{failure}");
        assert!(handle.send(Input::Stop).await.is_err());
    }

    #[tokio::test]
    async fn a_line_that_is_not_emptied_is_cut_at_its_limit() {
        let (events, mut taken) = mpsc::unbounded_channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let line = Line { events, pending: Arc::clone(&pending) };
        let state = LineState { line, events: Vec::new(), bytes: 0 };
        let mut lines = Lines {
            lines: HashMap::from([(SessionId(1), state)]),
            ready: Vec::new(),
            limit: 2 * 128,
        };
        let event = || Event::Refused { counter: 1, error: ApiError::stream_not_found() };
        let counters = Counters::default();
        for _ in 0..2 {
            lines.put(SessionId(1), event());
            assert!(lines.hand_over(&counters));
        }
        assert_eq!(pending.load(Ordering::Relaxed), 256, "at the limit");
        lines.put(SessionId(1), event());
        lines.hand_over(&counters);
        assert!(lines.lines.is_empty(), "one past the limit");
        assert_eq!(counters.sessions_too_slow.load(Ordering::Relaxed), 1);
        assert!(taken.recv().await.is_some() && taken.recv().await.is_some());
        assert!(taken.recv().await.is_none());
    }
}
