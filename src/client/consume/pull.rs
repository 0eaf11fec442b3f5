//! Pulls: what was asked of the server and is not over, and the end that receives what comes.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Handle;
use super::task::{Shared, State};
use crate::client::error::ConsumeError;
use crate::model::event::{Delivery as Delivered, Gap, PullStatus};
use crate::wire::native::{ClientFrame, PullFrame};

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
    Gap(Arc<Gap>),
    Ended(PullStatus),
    Failed(ConsumeError),
}

/// A pull that is not over.
#[derive(Debug)]
pub(super) struct Pull {
    /// Unbounded, but no more can come than the pull asked for.
    pub(super) sender: mpsc::UnboundedSender<Item>,
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

/// On a new stream, asks for what is left of each pull. What waited to be written is part of that.
pub(super) fn ask_again(state: &mut State) {
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
                stalled: None,
                reply: None,
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

/// Ends a pull, unless only the connection is about to end: then it is asked for again on the next.
pub(super) fn end_pull(state: &mut State, token: u64, status: PullStatus) {
    if status.text == SERVER_SHUTDOWN {
        if let Some(pull) = state.pulls.get_mut(&token) {
            pull.open = false;
        }
    } else if let Some(pull) = state.pulls.remove(&token) {
        // Whoever no longer listens does not care.
        let _ = pull.sender.send(Item::Ended(status));
    }
}

/// Tells a pull of a gap. One that is over no longer hears of it; the client's events tell of all.
pub(super) fn tell_gap(state: &State, token: u64, gap: Arc<Gap>) {
    if let Some(pull) = state.pulls.get(&token) {
        // The receiver withdraws the pull before it goes.
        let _ = pull.sender.send(Item::Gap(gap));
    }
}

/// Hands deliveries to their pull, or back if nobody waits for them any more.
pub(super) fn deliver(shared: &Shared, token: u64, deliveries: Vec<Delivered>) {
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
