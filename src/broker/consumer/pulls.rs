//! Who waits for messages: pull requests in the order they take turns.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use crate::model::consumer::PriorityPolicy;
use crate::model::duration::as_go;
use crate::model::event::PullStatus;
use crate::model::request::{Pull, PullGroup, ReplyTo, SessionId, Token};
use crate::model::time::Now;

use super::groups::{Groups, Load, Verdict};

/// Messages in a row to one renewable pull before the next has its turn. A batch of this size is
/// worth a frame of its own; strict turns by message would cost a frame for each.
const TURN: u64 = 64;

/// What a consumer's configuration allows a pull. Zero for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PullLimits {
    /// Pulls that wait at the same time.
    pub(crate) max_waiting: u64,
    /// Messages of one pull.
    pub(crate) max_batch: u64,
    /// Bytes of one pull.
    pub(crate) max_bytes: u64,
    /// How long a pull may wait.
    pub(crate) max_expires: Duration,
}

/// What a message counts towards the bytes of a pull.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    /// Subject, headers and payload.
    pub(super) stored: u64,
    /// The subject of its acknowledgement, which NATS clients get with it. Zero if no such pull counts bytes.
    pub(super) reply: u64,
}

/// A pull that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) session: SessionId,
    pub(super) reply: ReplyTo,
    messages_left: u64,
    /// `None` if bytes are not limited.
    bytes_left: Option<u64>,
    deadline: Option<Duration>,
    heartbeat: Option<(Duration, Duration)>,
    no_wait: bool,
    renewable: bool,
    group: Option<Box<PullGroup>>,
    /// The next message did not fit the bytes left: others go on until it is raised.
    starved: bool,
    delivered: u64,
    turn: u64,
}

impl Waiting {
    fn has_room(&self) -> bool {
        self.messages_left > 0 && self.bytes_left != Some(0) && !self.starved
    }

    fn counted(&self, size: Size) -> u64 {
        match self.reply {
            ReplyTo::Session(_) => size.stored,
            ReplyTo::Subject(_) => size.stored + size.reply,
        }
    }

    fn fits(&self, size: Size) -> bool {
        self.bytes_left.is_none_or(|left| self.counted(size) <= left)
    }

    /// Takes messages of these sizes until one does not fit or its turn is over. A pull that is
    /// alone has no need of turns, unless each message may be the last that it is entitled to.
    fn take_row(&mut self, sizes: impl Iterator<Item = Size>, is_alone: bool) -> usize {
        let is_alone = is_alone && !self.group.as_deref().is_some_and(Groups::has_thresholds);
        let turn = match (is_alone, self.renewable) {
            (true, _) => u64::MAX,
            (false, true) => TURN.saturating_sub(self.turn).max(1),
            (false, false) => 1,
        };
        let most = turn.min(self.messages_left);
        let mut count = 0;
        for size in sizes {
            if count == most || !self.fits(size) {
                break;
            }
            let counted = self.counted(size);
            self.bytes_left = self.bytes_left.map(|left| left - counted);
            count += 1;
        }
        self.messages_left -= count;
        self.delivered += count;
        self.turn += count;
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    fn status(
        &self,
        code: u16,
        text: impl Into<Cow<'static, str>>,
        last: (u64, u64),
    ) -> PullStatus {
        PullStatus {
            code,
            text: text.into(),
            pending_messages: self.messages_left,
            pending_bytes: self.bytes_left.unwrap_or(0),
            last,
            ended: code != 100,
            reply: None,
            stalled: None,
        }
    }
}

/// The queue of pulls.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    queue: VecDeque<Waiting>,
    /// Which of them have messages.
    pub(super) groups: Groups,
}

/// A status and whom it is for.
type Told = (SessionId, ReplyTo, PullStatus);

impl Pulls {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Who waits.
    pub(super) fn waiting(&self) -> Vec<(SessionId, ReplyTo)> {
        self.queue.iter().map(|waiting| (waiting.session, waiting.reply.clone())).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a pull, or tells why not. `available` messages are there for it.
    pub(super) fn add(
        &mut self,
        now: Now,
        session: SessionId,
        pull: Pull,
        limits: PullLimits,
        available: u64,
    ) -> Option<Told> {
        let refuse = |text: Cow<'static, str>, code| {
            let status = PullStatus {
                code,
                text,
                pending_messages: pull.batch,
                pending_bytes: pull.max_bytes,
                last: (0, 0),
                ended: true,
                reply: None,
                stalled: None,
            };
            Some((session, pull.reply.clone(), status))
        };
        if let Some(refusal) = refusal(&pull, limits) {
            return refuse(refusal.1, refusal.0);
        }
        if let Some((code, text)) = self.groups.refusal(&pull) {
            return refuse(text.into(), code);
        }
        self.groups.hear(now, &pull);
        if pull.expires == Some(Duration::ZERO) {
            return refuse("Request Timeout".into(), 408);
        }
        if pull.no_wait && pull.expires.is_none() {
            // A client may ask for any number of messages.
            let claimed =
                self.queue.iter().fold(0, |sum: u64, w| sum.saturating_add(w.messages_left));
            if available == 0 {
                return refuse("No Messages".into(), 404);
            }
            if claimed >= available {
                return refuse("Requests Pending".into(), 408);
            }
        }
        if limits.max_waiting > 0 && self.queue.len() as u64 >= limits.max_waiting {
            // With heartbeats the client would pull again at once and spin; silence makes it wait.
            return if pull.heartbeat.is_some() {
                None
            } else {
                refuse("Exceeded MaxWaiting".into(), 409)
            };
        }
        self.enqueue(Waiting {
            session,
            reply: pull.reply,
            messages_left: pull.batch,
            bytes_left: (pull.max_bytes > 0).then_some(pull.max_bytes),
            deadline: pull.expires.map(|wait| now.monotonic + wait),
            heartbeat: pull.heartbeat.map(|every| (every, now.monotonic + every)),
            no_wait: pull.no_wait,
            renewable: pull.renewable,
            group: pull.group,
            starved: false,
            delivered: 0,
            turn: 0,
        });
        None
    }

    pub(super) fn raise(&mut self, session: SessionId, token: Token, more: u64, more_bytes: u64) {
        let found = self
            .queue
            .iter_mut()
            .find(|w| w.renewable && w.session == session && w.reply == ReplyTo::Session(token));
        if let Some(waiting) = found {
            waiting.messages_left = waiting.messages_left.saturating_add(more);
            waiting.bytes_left = waiting.bytes_left.map(|left| left.saturating_add(more_bytes));
            waiting.starved = false;
        }
    }

    pub(super) fn cancel(&mut self, session: SessionId, token: Token) {
        self.queue.retain(|w| w.session != session || w.reply != ReplyTo::Session(token));
    }

    pub(super) fn session_closed(&mut self, session: SessionId) {
        self.queue.retain(|waiting| waiting.session != session);
    }

    /// Drops pulls whose reply subject nobody listens to any more.
    pub(super) fn retain_listening(&mut self, listens: impl Fn(&str) -> bool) {
        self.queue.retain(|waiting| match &waiting.reply {
            ReplyTo::Session(_) => true,
            ReplyTo::Subject(subject) => listens(subject),
        });
    }

    /// Whether a pull waits whose messages go to a subject.
    pub(super) fn sends_to(&self, subject: &str) -> bool {
        self.queue
            .iter()
            .any(|waiting| matches!(&waiting.reply, ReplyTo::Subject(to) if to == subject))
    }

    /// Whether a pull of a NATS client counts bytes.
    pub(super) fn counts_replies(&self) -> bool {
        self.queue.iter().any(|waiting| {
            waiting.bytes_left.is_some() && matches!(waiting.reply, ReplyTo::Subject(_))
        })
    }

    /// How many messages pulls of open sessions can take now; not counted further than `most`.
    pub(super) fn room(&self, most: u64, open: &dyn Fn(SessionId) -> bool, load: Load) -> Room {
        let mut room = Room::default();
        for waiting in self.queue.iter().filter(|waiting| waiting.has_room()) {
            if self.groups.judge(waiting.group.as_deref(), load) == Verdict::StandBy {
                room.stands_by = true;
            } else if open(waiting.session) {
                room.messages = room.messages.saturating_add(waiting.messages_left);
            } else {
                room.closed = true;
            }
            if room.messages >= most {
                break;
            }
        }
        room
    }

    /// Gives messages of these sizes in bytes, in their order, to the pull whose turn it is: as many
    /// as it takes in a row. Pulls that not even the first one fits end with a status. Returns how
    /// many messages go to whom; `None` if there are none, or no open pull is left.
    pub(super) fn take(
        &mut self,
        now: Now,
        open: &dyn Fn(SessionId) -> bool,
        load: Load,
        sizes: impl Iterator<Item = Size>,
        told: &mut Vec<Told>,
    ) -> Option<(SessionId, ReplyTo, usize)> {
        let mut sizes = sizes.peekable();
        let first = *sizes.peek()?;
        loop {
            let at = self.next(open, load, told)?;
            let is_alone = self.queue.len() == 1;
            let waiting = self.queue.get_mut(at)?;
            if !waiting.fits(first) {
                if waiting.renewable && waiting.delivered > 0 {
                    // It is raised when its messages were handled; until then others go on.
                    waiting.starved = true;
                    continue;
                }
                let waiting = self.queue.remove(at)?;
                let status = waiting.status(409, "Message Size Exceeds MaxBytes", (0, 0));
                told.push((waiting.session, waiting.reply, status));
                continue;
            }
            self.groups.serve(now, waiting.group.as_deref_mut());
            let count = waiting.take_row(sizes, is_alone);
            if let Some((every, next)) = &mut waiting.heartbeat {
                *next = now.monotonic + *every;
            }
            let to = (waiting.session, waiting.reply.clone());
            self.after_taking(at, told);
            return Some((to.0, to.1, count));
        }
    }

    /// The pull whose turn it is. Those that stand by go behind the others; those of a client that is not
    /// pinned any more end.
    fn next(
        &mut self,
        open: &dyn Fn(SessionId) -> bool,
        load: Load,
        told: &mut Vec<Told>,
    ) -> Option<usize> {
        if self.groups.serve_all() {
            return self.queue.iter().position(|w| w.has_room() && open(w.session));
        }
        let mut at = 0;
        for _ in 0..self.queue.len() {
            let waiting = self.queue.get(at)?;
            if !waiting.has_room() || !open(waiting.session) {
                at += 1;
                continue;
            }
            match self.groups.judge(waiting.group.as_deref(), load) {
                Verdict::Serve => return Some(at),
                Verdict::StandBy => {
                    let waiting = self.queue.remove(at)?;
                    self.queue.push_back(waiting);
                }
                Verdict::WrongPin => {
                    let waiting = self.queue.remove(at)?;
                    let status = waiting.status(423, "Nats-Wrong-Pin-Id", (0, 0));
                    told.push((waiting.session, waiting.reply, status));
                }
            }
        }
        None
    }

    /// Puts a pull behind the others of its priority.
    fn enqueue(&mut self, waiting: Waiting) {
        let place = match self.groups.policy() {
            PriorityPolicy::Prioritized => {
                let rank = Groups::rank(waiting.group.as_deref());
                let is_behind = |other: &Waiting| Groups::rank(other.group.as_deref()) > rank;
                self.queue.iter().position(is_behind)
            }
            _ => None,
        };
        self.queue.insert(place.unwrap_or(self.queue.len()), waiting);
    }

    fn after_taking(&mut self, at: usize, told: &mut Vec<Told>) {
        let Some(waiting) = self.queue.get_mut(at) else { return };
        if waiting.renewable {
            if waiting.turn >= TURN {
                waiting.turn = 0;
                self.rotate(at);
            }
            return;
        }
        if waiting.messages_left > 0 {
            self.rotate(at);
            return;
        }
        if let Some(waiting) = self.queue.remove(at)
            && waiting.bytes_left.is_some_and(|left| left > 0)
        {
            let status = waiting.status(409, "Batch Completed", (0, 0));
            told.push((waiting.session, waiting.reply, status));
        }
    }

    fn rotate(&mut self, at: usize) {
        if self.queue.len() > 1
            && let Some(waiting) = self.queue.remove(at)
        {
            self.enqueue(waiting);
        }
    }

    /// Whether some pull ends as soon as nothing can be delivered.
    pub(super) fn has_no_wait(&self) -> bool {
        self.queue.iter().any(|waiting| waiting.no_wait)
    }

    /// Nothing can be delivered now: pulls that do not want to wait end.
    pub(super) fn nothing_now(&mut self, told: &mut Vec<Told>) {
        self.end_where(
            |waiting| waiting.no_wait && (waiting.deadline.is_none() || waiting.delivered > 0),
            |waiting| waiting.status(404, "No Messages", (0, 0)),
            told,
        );
    }

    /// Ends all pulls, for instance because the consumer was deleted.
    pub(super) fn end_all(&mut self, code: u16, text: &'static str, told: &mut Vec<Told>) {
        self.end_where(|_| true, |waiting| waiting.status(code, text, (0, 0)), told);
    }

    /// Ends pulls whose time is over, and sends signs of life. `last` are the sequences of the
    /// last delivery.
    pub(super) fn timeout(&mut self, now: Duration, last: (u64, u64), told: &mut Vec<Told>) {
        self.groups.timeout(now);
        self.end_where(
            |waiting| waiting.deadline.is_some_and(|deadline| deadline <= now),
            |waiting| waiting.status(408, "Request Timeout", (0, 0)),
            told,
        );
        for waiting in &mut self.queue {
            if let Some((every, next)) = &mut waiting.heartbeat
                && *next <= now
            {
                *next = now + *every;
                let status = waiting.status(100, "Idle Heartbeat", last);
                told.push((waiting.session, waiting.reply.clone(), status));
            }
        }
    }

    /// When [`Pulls::timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.queue
            .iter()
            .flat_map(|w| w.deadline.into_iter().chain(w.heartbeat.map(|(_, next)| next)))
            .chain(self.groups.next_timeout())
            .min()
    }

    fn end_where(
        &mut self,
        ends: impl Fn(&Waiting) -> bool,
        status: impl Fn(&Waiting) -> PullStatus,
        told: &mut Vec<Told>,
    ) {
        self.queue.retain(|waiting| {
            if !ends(waiting) {
                return true;
            }
            told.push((waiting.session, waiting.reply.clone(), status(waiting)));
            false
        });
    }
}

/// What open pulls can take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// Messages that open sessions' pulls still ask for.
    pub(super) messages: u64,
    /// Whether there is a pull with room whose session cannot take anything now.
    pub(super) closed: bool,
    /// Whether there is a pull with room that stands by.
    pub(super) stands_by: bool,
}

/// Why a pull cannot be accepted at all, as JetStream says it.
fn refusal(pull: &Pull, limits: PullLimits) -> Option<(u16, Cow<'static, str>)> {
    let expires = pull.expires.unwrap_or_default();
    // A session's pull may go on for ever, and so does the server's own; another must name its end.
    let needs_end = matches!(pull.reply, ReplyTo::Subject(_)) && !pull.renewable;
    if let Some(heartbeat) = pull.heartbeat
        && (pull.expires.is_some() || needs_end)
        && heartbeat.saturating_mul(2) > expires
    {
        return Some((400, "Bad Request - heartbeat value too large".into()));
    }
    if limits.max_batch > 0 && pull.batch > limits.max_batch && !pull.renewable {
        return Some((409, format!("Exceeded MaxRequestBatch of {}", limits.max_batch).into()));
    }
    if limits.max_expires > Duration::ZERO && expires > limits.max_expires {
        let most = as_go(limits.max_expires);
        return Some((409, format!("Exceeded MaxRequestExpires of {most}").into()));
    }
    if limits.max_bytes > 0 && pull.max_bytes > limits.max_bytes {
        return Some((409, format!("Exceeded MaxRequestMaxBytes of {}", limits.max_bytes).into()));
    }
    None
}
