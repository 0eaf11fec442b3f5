//! Events on their way to sessions, held back until what they depend on is durable.
//!
//! Events of one session keep their order: what need not wait still waits behind what does, except
//! for core messages, which are promised nothing and leave at once.

use std::collections::VecDeque;

use claudebus_storage::Position;
use hashbrown::HashMap;

use crate::model::event::Event;
use crate::model::request::SessionId;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    ready: VecDeque<(SessionId, Event)>,
    /// Depend on the open group.
    open: Vec<(SessionId, Event)>,
    /// Depend on groups that are on their way to the disk, oldest first.
    waiting: VecDeque<(Position, Vec<(SessionId, Event)>)>,
    /// How many events of each session are in `open` and `waiting`; no entry for none.
    held: HashMap<SessionId, usize>,
}

impl Outbox {
    /// Leaves at once, past everything.
    pub(super) fn send_at_once(&mut self, session: SessionId, event: Event) {
        self.ready.push_back((session, event));
    }

    /// Leaves at once, unless something of the session waits: then behind it.
    pub(super) fn send_in_order(&mut self, session: SessionId, event: Event) {
        if self.held.contains_key(&session) {
            self.send_when_durable(session, event);
        } else {
            self.ready.push_back((session, event));
        }
    }

    /// Leaves when everything decided so far is durable.
    pub(super) fn send_when_durable(&mut self, session: SessionId, event: Event) {
        *self.held.entry(session).or_default() += 1;
        self.open.push((session, event));
    }

    /// The open group was closed as `position`.
    pub(super) fn close_group(&mut self, position: Position, durable: Position) {
        if !self.open.is_empty() {
            self.waiting.push_back((position, std::mem::take(&mut self.open)));
        }
        self.release(durable);
    }

    /// Everything up to `durable` is on disk.
    pub(super) fn release(&mut self, durable: Position) {
        while self.waiting.front().is_some_and(|(position, _)| *position <= durable) {
            let Some((_, events)) = self.waiting.pop_front() else { return };
            for (session, event) in events {
                self.count_down(session);
                self.ready.push_back((session, event));
            }
        }
    }

    /// The next event that may leave.
    pub(super) fn next(&mut self) -> Option<(SessionId, Event)> {
        self.ready.pop_front()
    }

    fn count_down(&mut self, session: SessionId) {
        if let Some(count) = self.held.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;
    use crate::model::request::Token;

    fn event(token: u64) -> Event {
        Event::AckConfirmed { token: Token(token), result: Ok(()) }
    }

    fn drain(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next())
            .map(|(_, event)| match event {
                Event::AckConfirmed { token, .. } => token.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_waits_holds_up_its_own_session_only() {
        let mut outbox = Outbox::default();
        let (a, b) = (SessionId(1), SessionId(2));
        outbox.send_in_order(a, event(1));
        outbox.send_when_durable(a, event(2));
        outbox.send_in_order(a, event(3));
        outbox.send_in_order(b, event(4));
        outbox.send_at_once(a, event(5));
        outbox.close_group(Position(1), Position(0));
        assert_eq!(drain(&mut outbox), [1, 4, 5]);
        outbox.release(Position(0));
        assert!(drain(&mut outbox).is_empty());
        outbox.release(Position(1));
        assert_eq!(drain(&mut outbox), [2, 3]);
        outbox.send_in_order(a, event(6));
        assert_eq!(drain(&mut outbox), [6]);
    }
}
