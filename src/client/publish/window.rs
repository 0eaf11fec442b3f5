//! What is in flight: a ring of published messages, and what became of them.
//!
//! Messages are numbered; the ring holds one small slot for each that may still be answered. Answers
//! come for ranges and are kept as ranges, merged where they continue each other, until the last
//! ticket that asks for them is gone. No allocation per message. It knows no sockets and no frames.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

use hashbrown::HashMap;

use super::{Ack, PublishError};
use crate::model::error::ApiError;

/// How much may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// Messages. 32,768 by default: two million a second for the 16 ms that a slow disk may take
    /// to make a group durable.
    pub messages: usize,
    /// Bytes of frames. 8 MiB by default: half a gigabyte a second for the same time. A single
    /// larger message may be in flight alone.
    pub bytes: usize,
}

impl Default for WindowLimits {
    fn default() -> Self {
        Self { messages: 32_768, bytes: 8 << 20 }
    }
}

/// One message in flight.
#[derive(Clone, Copy, Debug)]
struct Slot {
    bytes: u32,
    /// Nobody asks for its answer any more.
    abandoned: bool,
    answered: bool,
}

/// What became of `count` messages from `first` on.
#[derive(Debug)]
struct Answer {
    first: u64,
    count: u64,
    /// Tickets that may still ask.
    live: u64,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum Outcome {
    /// Stored; the sequence is that of the first, zero for all if it is no longer known.
    Published {
        stream: Arc<str>,
        seq: u64,
        duplicate: bool,
    },
    Failed(PublishError),
}

/// What messages are answered with.
enum Told<'a> {
    /// As in [`Outcome`]; `first` has the sequence.
    Published {
        first: u64,
        stream: &'a Arc<str>,
        seq: u64,
        duplicate: bool,
    },
    Failed(&'a PublishError),
}

impl Told<'_> {
    /// That of the messages from `counter` on.
    fn outcome(&self, counter: u64) -> Outcome {
        match *self {
            Self::Published { first, stream, seq, duplicate } => Outcome::Published {
                stream: Arc::clone(stream),
                seq: if seq == 0 { 0 } else { seq + (counter - first) },
                duplicate,
            },
            Self::Failed(error) => Outcome::Failed(error.clone()),
        }
    }
}

/// Messages next to each other that are answered together.
struct Run {
    first: u64,
    count: u64,
    /// Tickets that may still ask.
    live: u64,
}

impl Answer {
    fn get(&self, counter: u64) -> Result<Ack, PublishError> {
        match &self.outcome {
            Outcome::Published { stream, seq, duplicate } => Ok(Ack {
                stream: Arc::clone(stream),
                seq: if *seq == 0 { 0 } else { seq + (counter - self.first) },
                duplicate: *duplicate,
            }),
            Outcome::Failed(error) => Err(error.clone()),
        }
    }

    fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Takes `next` in if it continues this answer.
    fn merge(&mut self, next: &Self) -> bool {
        let continues = self.end() == next.first
            && match (&self.outcome, &next.outcome) {
                (
                    Outcome::Published { stream, seq, duplicate },
                    Outcome::Published { stream: next_stream, seq: next_seq, duplicate: next_dup },
                ) => {
                    stream == next_stream
                        && duplicate == next_dup
                        && *seq != 0
                        && seq + self.count == *next_seq
                }
                _ => false,
            };
        if continues {
            self.count += next.count;
            self.live += next.live;
        }
        continues
    }
}

/// Messages in flight and answers not yet asked for.
#[derive(Debug)]
pub(super) struct Window {
    limits: WindowLimits,
    /// Counter of the first slot.
    base: u64,
    slots: VecDeque<Slot>,
    open_messages: usize,
    open_bytes: usize,
    answers: VecDeque<Answer>,
    waiting: HashMap<u64, Waker>,
    /// The first failure that no ticket will ever tell.
    unseen: Option<PublishError>,
}

impl Window {
    pub(super) fn new(limits: WindowLimits) -> Self {
        Self {
            limits,
            // Counters begin at 1.
            base: 1,
            slots: VecDeque::new(),
            open_messages: 0,
            open_bytes: 0,
            answers: VecDeque::new(),
            waiting: HashMap::new(),
            unseen: None,
        }
    }

    /// Whether a message of `bytes` may be sent now.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.open_messages == 0
            || (self.open_messages < self.limits.messages
                && self.open_bytes + bytes <= self.limits.bytes)
    }

    /// Counter of the next message.
    pub(super) fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// Counter below which everything is answered.
    pub(super) fn answered_below(&self) -> u64 {
        self.base
    }

    /// Takes a message in; its counter is what [`Self::next`] was.
    pub(super) fn push(&mut self, bytes: usize) -> u64 {
        let counter = self.next();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.slots.push_back(Slot { bytes, abandoned: false, answered: false });
        self.open_messages += 1;
        self.open_bytes += bytes as usize;
        counter
    }

    /// Whether the message still awaits its answer.
    pub(super) fn is_open(&self, counter: u64) -> bool {
        counter
            .checked_sub(self.base)
            .and_then(|index| self.slots.get(usize::try_from(index).ok()?))
            .is_some_and(|slot| !slot.answered)
    }

    /// Messages are stored. Wakers of their tickets are added to `wake`.
    pub(super) fn published(
        &mut self,
        (first, count): (u64, u64),
        stream: &Arc<str>,
        seq: u64,
        duplicate: bool,
        wake: &mut Vec<Waker>,
    ) {
        self.answer((first, count), wake, &Told::Published { first, stream, seq, duplicate });
    }

    /// A message was refused.
    pub(super) fn refused(&mut self, counter: u64, error: ApiError, wake: &mut Vec<Waker>) {
        let error = PublishError::Refused(error);
        self.answer((counter, 1), wake, &Told::Failed(&error));
    }

    /// Nothing more will be answered: all that is in flight has failed.
    pub(super) fn fail(&mut self, error: &PublishError, wake: &mut Vec<Waker>) {
        let all = (self.base, self.slots.len() as u64);
        self.answer(all, wake, &Told::Failed(error));
    }

    /// Marks messages as answered, in runs of those that were not yet.
    fn answer(&mut self, (first, count): (u64, u64), wake: &mut Vec<Waker>, told: &Told<'_>) {
        let start = first.max(self.base);
        let end = first.saturating_add(count).min(self.next());
        let mut run: Option<Run> = None;
        for counter in start..end {
            // The counter lies between base and next, so the slot is there.
            let Some(slot) = self.slots.get_mut((counter - self.base) as usize) else { break };
            if slot.answered {
                if let Some(run) = run.take() {
                    self.keep(run, told);
                }
                continue;
            }
            slot.answered = true;
            let live = u64::from(!slot.abandoned);
            self.open_messages -= 1;
            self.open_bytes -= slot.bytes as usize;
            match &mut run {
                Some(run) => {
                    run.count += 1;
                    run.live += live;
                }
                None => run = Some(Run { first: counter, count: 1, live }),
            }
            if !self.waiting.is_empty()
                && let Some(waker) = self.waiting.remove(&counter)
            {
                wake.push(waker);
            }
        }
        if let Some(run) = run {
            self.keep(run, told);
        }
        while self.slots.front().is_some_and(|slot| slot.answered) {
            self.slots.pop_front();
            self.base += 1;
        }
    }

    /// Keeps an answer for its tickets. If there are none it costs nothing.
    fn keep(&mut self, Run { first, count, live }: Run, told: &Told<'_>) {
        if let Told::Failed(error) = *told
            && live < count
        {
            self.unseen.get_or_insert_with(|| error.clone());
        }
        if live == 0 {
            return;
        }
        let answer = Answer { first, count, live, outcome: told.outcome(first) };
        let index = self.answers.partition_point(|kept| kept.first < answer.first);
        let merged = index
            .checked_sub(1)
            .and_then(|before| self.answers.get_mut(before))
            .is_some_and(|before| before.merge(&answer));
        if !merged {
            self.answers.insert(index, answer);
        }
    }

    /// What became of a message; registers `waker` while that is open. A ticket asks until it is
    /// told, once.
    pub(super) fn poll(&mut self, counter: u64, waker: &Waker) -> Poll<Result<Ack, PublishError>> {
        if self.is_open(counter) {
            self.waiting.insert(counter, waker.clone());
            return Poll::Pending;
        }
        Poll::Ready(self.take(counter).unwrap_or(Err(PublishError::Closed)))
    }

    /// The ticket of a message is dropped without having been told.
    pub(super) fn abandon(&mut self, counter: u64) {
        if self.is_open(counter) {
            self.waiting.remove(&counter);
            if let Some(slot) = self.slots.get_mut((counter - self.base) as usize) {
                slot.abandoned = true;
            }
        } else if let Some(Err(error)) = self.take(counter) {
            self.unseen.get_or_insert(error);
        }
    }

    fn take(&mut self, counter: u64) -> Option<Result<Ack, PublishError>> {
        let index = self.answers.partition_point(|kept| kept.end() <= counter);
        let answer = self.answers.get_mut(index).filter(|answer| answer.first <= counter)?;
        let result = answer.get(counter);
        answer.live -= 1;
        if answer.live == 0 {
            self.answers.remove(index);
        }
        Some(result)
    }

    /// The first failure that no ticket told, once.
    pub(super) fn take_unseen(&mut self) -> Option<PublishError> {
        self.unseen.take()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn window(messages: usize, bytes: usize) -> Window {
        Window::new(WindowLimits { messages, bytes })
    }

    fn ask(window: &mut Window, counter: u64) -> Poll<Result<(u64, bool), PublishError>> {
        window.poll(counter, Waker::noop()).map(|r| r.map(|ack| (ack.seq, ack.duplicate)))
    }

    #[test]
    fn room_ends_at_the_limits_and_comes_back_with_answers() {
        let stream: Arc<str> = "S".into();
        let mut w = window(3, 100);
        assert!(w.has_room(1000), "one message is always let through");
        assert_eq!(w.push(40), 1);
        assert!(w.has_room(60) && !w.has_room(61));
        w.push(30);
        w.push(30);
        assert!(!w.has_room(0), "three messages are the limit");
        w.published((1, 2), &stream, 7, false, &mut Vec::new());
        assert!(w.has_room(70) && !w.has_room(71));
        assert_eq!(w.answered_below(), 3);
    }

    #[test]
    fn ranges_resolve_tickets_and_merge() {
        let stream: Arc<str> = "S".into();
        let mut w = window(100, 10_000);
        for _ in 0..10 {
            w.push(1);
        }
        assert_eq!(ask(&mut w, 4), Poll::Pending);
        let mut wake = Vec::new();
        w.published((1, 5), &stream, 100, false, &mut wake);
        assert_eq!(wake.len(), 1);
        w.published((6, 5), &stream, 105, false, &mut wake);
        assert_eq!(w.answers.len(), 1, "the second range continues the first");
        for counter in (1..=10).rev() {
            assert_eq!(ask(&mut w, counter), Poll::Ready(Ok((99 + counter, false))));
        }
        assert!(w.answers.is_empty() && w.slots.is_empty());
    }

    #[test]
    fn dropped_tickets_leave_nothing_behind() {
        let stream: Arc<str> = "S".into();
        let mut w = window(100, 10_000);
        for counter in 1..=4 {
            w.push(1);
            w.abandon(counter);
        }
        w.push(1);
        w.published((1, 5), &stream, 1, false, &mut Vec::new());
        assert_eq!(w.answers.len(), 1);
        w.abandon(5);
        assert!(w.answers.is_empty());
        assert!(w.take_unseen().is_none());
    }

    #[test]
    fn answers_given_again_change_nothing() {
        let stream: Arc<str> = "S".into();
        let mut w = window(100, 10_000);
        for _ in 0..3 {
            w.push(1);
        }
        w.refused(2, ApiError::bad_request(), &mut Vec::new());
        w.published((1, 3), &stream, 9, true, &mut Vec::new());
        w.published((1, 3), &stream, 50, false, &mut Vec::new());
        assert_eq!(ask(&mut w, 1), Poll::Ready(Ok((9, true))));
        assert_eq!(
            ask(&mut w, 2),
            Poll::Ready(Err(PublishError::Refused(ApiError::bad_request())))
        );
        assert_eq!(ask(&mut w, 3), Poll::Ready(Ok((11, true))));
        assert_eq!(w.open_bytes, 0);
    }

    #[test]
    fn a_failure_nobody_asked_for_is_kept_once() {
        let mut w = window(100, 10_000);
        w.push(1);
        w.push(1);
        w.abandon(1);
        w.refused(1, ApiError::bad_request(), &mut Vec::new());
        assert!(w.take_unseen().is_some() && w.take_unseen().is_none());
        w.refused(2, ApiError::bad_request(), &mut Vec::new());
        assert!(w.take_unseen().is_none(), "its ticket still lives");
        w.abandon(2);
        assert!(w.take_unseen().is_some());
    }

    #[test]
    fn closing_fails_what_is_open() {
        let mut w = window(100, 10_000);
        w.push(1);
        w.push(1);
        w.refused(1, ApiError::bad_request(), &mut Vec::new());
        w.fail(&PublishError::Closed, &mut Vec::new());
        assert_eq!(ask(&mut w, 2), Poll::Ready(Err(PublishError::Closed)));
        assert!(w.has_room(usize::MAX));
    }

    #[test]
    fn counters_outside_the_window_are_ignored() {
        let stream: Arc<str> = "S".into();
        let mut w = window(100, 10_000);
        w.push(1);
        w.published((5, 10), &stream, 1, false, &mut Vec::new());
        w.published((0, 1), &stream, 1, false, &mut Vec::new());
        w.published((u64::MAX, u64::MAX), &stream, 1, false, &mut Vec::new());
        assert!(w.is_open(1));
    }
}
