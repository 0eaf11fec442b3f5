//! The state of a client's connection, as the tasks that use it see it.
//!
//! One task, the supervisor, keeps the connection; the others wait here for it to stand, and are
//! told when the client is being closed. It does no I/O itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::event::{ConnectionEvent, EVENT_BACKLOG};
use super::transport::Transport;
use crate::wire::native::Welcome;

/// How long a task waits before it opens a stream anew on a connection that still stands. Streams
/// end without their connection only when the server is in trouble.
const REOPEN_DELAY: Duration = Duration::from_millis(100);

/// A connection that stands.
#[derive(Clone, Debug)]
pub(super) struct Up {
    /// Number of the connection, from 1.
    pub(super) epoch: u64,
    pub(super) transport: Transport,
    pub(super) welcome: Arc<Welcome>,
}

#[derive(Clone, Debug)]
enum Phase {
    Down,
    Up(Up),
    Closed,
}

#[derive(Clone, Debug)]
struct State {
    phase: Phase,
    /// The client is to be closed once everything in flight is done.
    closing: bool,
}

/// The client is closed; the reason is in the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// Shared by the client, its supervisor and all tasks.
#[derive(Debug)]
pub(super) struct Link {
    state: watch::Sender<State>,
    /// Tasks with something left to do.
    busy: watch::Sender<usize>,
    events: broadcast::Sender<ConnectionEvent>,
}

/// A task has something left to do.
#[derive(Debug)]
pub(super) struct Busy(Arc<Link>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|tasks| *tasks -= 1);
    }
}

impl Link {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(State { phase: Phase::Down, closing: false }),
            busy: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENT_BACKLOG),
        })
    }

    /// Keeps the connection open, while the client closes, until the guard is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.send_modify(|tasks| *tasks += 1);
        Busy(Arc::clone(self))
    }

    /// Waits until no task has anything left to do.
    pub(super) async fn drained(&self) {
        // The sender lives in self, so that waiting cannot fail.
        let _ = self.busy.subscribe().wait_for(|tasks| *tasks == 0).await;
    }

    /// Waits for a connection.
    pub(super) async fn up(&self) -> Result<Up, Closed> {
        let mut state = self.state.subscribe();
        let state =
            state.wait_for(|s| !matches!(s.phase, Phase::Down)).await.map_err(|_| Closed)?;
        match &state.phase {
            Phase::Up(up) => Ok(up.clone()),
            Phase::Down | Phase::Closed => Err(Closed),
        }
    }

    /// The connection, if it stands now.
    pub(super) fn current(&self) -> Option<Up> {
        match &self.state.borrow().phase {
            Phase::Up(up) => Some(up.clone()),
            Phase::Down | Phase::Closed => None,
        }
    }

    /// To be called after a stream of connection `epoch` broke: waits until the supervisor has
    /// noticed too, or a moment if the connection itself is sound.
    pub(super) async fn lost(&self, epoch: u64) {
        let mut state = self.state.subscribe();
        let changed = state.wait_for(|s| !matches!(&s.phase, Phase::Up(up) if up.epoch == epoch));
        let _ = tokio::time::timeout(REOPEN_DELAY, changed).await;
    }

    /// Waits until the client is being closed, or is closed.
    pub(super) async fn closing(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|s| s.closing || matches!(s.phase, Phase::Closed)).await;
    }

    /// Waits until the client is closed for good.
    pub(super) async fn closed(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|s| matches!(s.phase, Phase::Closed)).await;
    }

    /// Whether the client is being closed, or is closed.
    pub(super) fn is_closing(&self) -> bool {
        let state = self.state.borrow();
        state.closing || matches!(state.phase, Phase::Closed)
    }

    pub(super) fn set_closing(&self) {
        self.state.send_modify(|state| state.closing = true);
    }

    pub(super) fn set_up(&self, up: Up) {
        self.state.send_modify(|state| state.phase = Phase::Up(up));
    }

    pub(super) fn set_down(&self) {
        self.state.send_modify(|state| state.phase = Phase::Down);
    }

    /// Ends the client, once.
    pub(super) fn set_closed(&self, reason: &str) {
        let first = self.state.send_if_modified(|state| {
            let first = !matches!(state.phase, Phase::Closed);
            if first {
                state.phase = Phase::Closed;
            }
            first
        });
        if first {
            self.tell(ConnectionEvent::Closed { reason: reason.to_owned() });
        }
    }

    /// Tells observers, if there are any.
    pub(super) fn tell(&self, event: ConnectionEvent) {
        let _ = self.events.send(event);
    }

    pub(super) fn events(&self) -> broadcast::Receiver<ConnectionEvent> {
        self.events.subscribe()
    }
}
