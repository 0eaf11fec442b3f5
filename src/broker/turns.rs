//! Which consumers have something to deliver, and in which order they have their turns.
//!
//! What several consumers send to one connection in a row leaves in few packets, and wakes both ends once.
//! So consumers whose messages go to the same connection follow each other.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use claudebus_storage::StreamId;

use crate::model::request::ConnectionId;

use super::pacing::Pacing;
use super::stream::{Place, Seat};

/// Consumers that are served in one turn of the broker, unless the server stops. While more wait, each turn
/// of it also takes what came in: under load each finds several messages at its turn, which costs little
/// more than one would. With a thousand at work and nothing else to do, 16 turns follow each other.
pub(super) const TURN_CONSUMERS: usize = 64;

/// A consumer's turn, or that of who has its place now; nobody's if the place is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// Where its messages go.
    connection: ConnectionId,
    pub(super) stream: StreamId,
    pub(super) place: Place,
}

/// Who waits for a turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: BTreeSet<Turn>,
    /// The last one that was served when not all had their turn.
    served: Option<Turn>,
    /// Whether all that wait have their turn at a time.
    serves_all: bool,
    /// When they have it otherwise.
    pacing: Pacing,
}

impl Turns {
    /// A consumer may have something to deliver. One that waits already keeps its turn, also if its
    /// messages go to another connection by now.
    pub(super) fn add(&mut self, stream: StreamId, seat: &mut Seat) {
        if !std::mem::replace(&mut seat.waits, true) {
            let Seat { connection, place, .. } = *seat;
            self.waiting.insert(Turn { connection, stream, place });
        }
    }

    /// Those whose turn it is at `now`: in a circle, so that none is left out.
    pub(super) fn take(&mut self, now: Duration) -> Vec<Turn> {
        let count = match self.serves_all {
            true => self.waiting.len(),
            false => self.pacing.admit(now, self.waiting.len(), TURN_CONSUMERS),
        };
        if self.waiting.len() == count {
            return std::mem::take(&mut self.waiting).into_iter().collect();
        }
        let after = self.served.map_or(Bound::Unbounded, Bound::Excluded);
        let (rest, all) = (self.waiting.range((after, Bound::Unbounded)), self.waiting.iter());
        let taken: Vec<_> = rest.chain(all).take(count).copied().collect();
        for turn in &taken {
            self.waiting.remove(turn);
        }
        self.served = taken.last().copied().or(self.served);
        taken
    }

    /// When somebody has a turn, if anybody waits for one: a moment that has passed means at once.
    pub(super) fn next(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then(|| self.pacing.next().unwrap_or_default())
    }

    /// Whether consumers let messages gather between their turns.
    pub(super) fn is_pacing(&self) -> bool {
        !self.serves_all && self.pacing.is_pacing()
    }

    /// From now on all that wait have their turn at a time.
    pub(super) fn serve_all(&mut self) {
        self.serves_all = true;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn seat(connection: u64, place: usize) -> Seat {
        Seat { connection: ConnectionId(connection), place: Place(place), waits: false }
    }

    #[test]
    fn each_has_a_turn_and_those_of_a_connection_follow_each_other() {
        let (mut turns, connections) = (Turns::default(), 10);
        for place in 0..1000 {
            let mut seat = seat(place % connections, usize::try_from(place).unwrap());
            turns.add(StreamId(1), &mut seat);
        }
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        while turns.next().is_some() {
            let taken = turns.take(Duration::ZERO);
            assert!((1..=TURN_CONSUMERS).contains(&taken.len()));
            order.extend(taken.iter().map(|turn| turn.connection));
            seen.extend(taken.iter().map(|turn| turn.place));
        }
        assert_eq!(seen.len(), 1000);
        order.dedup();
        assert_eq!(order.len(), 10, "each connection is served once: {order:?}");
    }

    #[test]
    fn whoever_comes_again_and_again_keeps_nobody_from_a_turn() {
        let mut turns = Turns::default();
        let mut seats: Vec<Seat> = (0..200).map(|place| seat(7, place)).collect();
        let mut served = BTreeSet::new();
        for _ in 0..20 {
            seats.iter_mut().for_each(|seat| turns.add(StreamId(1), seat));
            for turn in turns.take(Duration::ZERO) {
                seats[turn.place.0].waits = false;
                served.insert(turn.place);
            }
        }
        assert_eq!(served.len(), 200);
    }

    #[test]
    fn a_server_that_stops_serves_all_at_once() {
        let mut turns = Turns::default();
        turns.serve_all();
        for place in 0..200 {
            turns.add(StreamId(1), &mut seat(7, place));
        }
        assert_eq!(turns.take(Duration::ZERO).len(), 200);
        assert_eq!(turns.next(), None);
    }
}
