//! Acknowledgements on their way out: collected as they come, sent as ranges. No I/O.

use hashbrown::HashMap;
use tokio::sync::oneshot;

use crate::client::error::AckError;
use crate::model::request::AckKind;
use crate::wire::native::ClientFrame;

/// Ranges of one frame. 4,096: 64 KiB at most, far below the smallest frame limit.
const RANGES_PER_FRAME: usize = 4096;

/// Ranges collected before callers wait. 65,536: a megabyte; the writer empties it at once unless
/// the connection is lost or the server is stuck.
const MAX_RANGES: usize = 65_536;

type Waiter = oneshot::Sender<Result<(), AckError>>;

/// Inclusive ranges of stream sequences as they were added: touching ones joined, not sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn add(&mut self, seq: u64) {
        match self.0.last_mut() {
            Some((_, to)) if *to + 1 == seq => *to = seq,
            Some((from, to)) if *from <= seq && seq <= *to => {}
            _ => self.0.push((seq, seq)),
        }
    }

    /// Sorted, without overlaps.
    fn sorted(mut self) -> Vec<(u64, u64)> {
        self.0.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(self.0.len());
        for (from, to) in self.0 {
            match joined.last_mut() {
                Some((_, end)) if from <= end.saturating_add(1) => *end = (*end).max(to),
                _ => joined.push((from, to)),
            }
        }
        joined
    }
}

/// Acknowledgements whose confirmation is awaited, and by whom.
#[derive(Debug, Default)]
struct Confirmed {
    ranges: Ranges,
    waiters: Vec<Waiter>,
}

/// Acknowledgements of one consumer.
#[derive(Debug, Default)]
pub(super) struct Acks {
    plain: Ranges,
    confirmed: Confirmed,
    /// Everything but plain acks, in order; equal neighbours share ranges.
    others: Vec<(AckKind, Ranges)>,
    /// Sent under a token, and not confirmed yet.
    unconfirmed: HashMap<u64, Confirmed>,
    next_token: u64,
    /// The last plain ack that was sent since anything was confirmed: whether it arrived is not
    /// known.
    last_plain: Option<u64>,
    /// The same of the others, of which none need be named: confirming nothing confirms all before.
    others_unknown: bool,
}

impl Acks {
    /// Whether more may be added.
    pub(super) fn has_room(&self) -> bool {
        let others: usize = self.others.iter().map(|(_, ranges)| ranges.0.len()).sum();
        self.plain.0.len() + self.confirmed.ranges.0.len() + others < MAX_RANGES
    }

    /// Whether everything is known to have arrived.
    pub(super) fn is_settled(&self) -> bool {
        self.is_sent()
            && self.unconfirmed.is_empty()
            && self.last_plain.is_none()
            && !self.others_unknown
    }

    /// Whether nothing waits to be sent.
    pub(super) fn is_sent(&self) -> bool {
        self.plain.0.is_empty() && self.confirmed.waiters.is_empty() && self.others.is_empty()
    }

    pub(super) fn add(&mut self, kind: AckKind, seq: u64) {
        match (kind, self.others.last_mut()) {
            (AckKind::Ack, _) => self.plain.add(seq),
            (kind, Some((last, ranges))) if *last == kind => ranges.add(seq),
            (kind, _) => {
                let mut ranges = Ranges::default();
                ranges.add(seq);
                self.others.push((kind, ranges));
            }
        }
    }

    pub(super) fn add_confirmed(&mut self, seq: u64, waiter: Waiter) {
        self.confirmed.ranges.add(seq);
        self.confirmed.waiters.push(waiter);
    }

    /// Everything that waits, as frames. `confirm_all` asks for confirmation of plain acks too, so
    /// that their arrival is known before the connection is closed.
    pub(super) fn take(&mut self, confirm_all: bool) -> Vec<ClientFrame> {
        let mut frames = Vec::new();
        self.others_unknown |= !self.others.is_empty();
        for (kind, ranges) in self.others.drain(..) {
            put(&mut frames, &kind, &ranges.sorted(), None);
        }
        let plain = std::mem::take(&mut self.plain);
        if confirm_all {
            // Acknowledgements are handled in order, so that the last one stands for all before.
            let last = self.last_plain.take();
            self.confirmed.ranges.0.extend(plain.0.into_iter().chain(last.map(|seq| (seq, seq))));
        } else {
            self.last_plain = plain.0.last().map(|(_, to)| *to).or(self.last_plain);
            put(&mut frames, &AckKind::Ack, &plain.sorted(), None);
        }
        let nothing = self.confirmed.ranges.0.is_empty();
        if !nothing || (confirm_all && self.others_unknown) {
            (self.last_plain, self.others_unknown) = (None, false);
            let confirmed = std::mem::take(&mut self.confirmed);
            self.next_token += 1;
            let confirm = Some(self.next_token);
            if nothing {
                let sequences = Vec::new();
                frames.push(ClientFrame::Ack { kind: AckKind::Ack, sequences, confirm });
            } else {
                put(&mut frames, &AckKind::Ack, &confirmed.ranges.clone().sorted(), confirm);
            }
            self.unconfirmed.insert(self.next_token, confirmed);
        }
        frames
    }

    /// The server confirmed, or refused, what was sent under a token.
    pub(super) fn confirmed(&mut self, token: u64, result: &Result<(), AckError>) {
        if let Some(confirmed) = self.unconfirmed.remove(&token) {
            for waiter in confirmed.waiters {
                // Whoever no longer waits does not care.
                let _ = waiter.send(result.clone());
            }
        }
    }

    /// The connection is lost: what was not confirmed is sent again.
    pub(super) fn rewind(&mut self) {
        for (_, confirmed) in self.unconfirmed.drain() {
            self.confirmed.ranges.0.extend(confirmed.ranges.0);
            self.confirmed.waiters.extend(confirmed.waiters);
        }
        (self.last_plain, self.others_unknown) = (None, false);
    }

    /// Nothing more will be sent.
    pub(super) fn fail(&mut self, error: &AckError) {
        self.rewind();
        self.plain = Ranges::default();
        self.others.clear();
        for waiter in std::mem::take(&mut self.confirmed).waiters {
            let _ = waiter.send(Err(error.clone()));
        }
    }
}

/// Adds frames for sorted ranges; the last carries the token, for acknowledgements are handled in
/// order.
fn put(frames: &mut Vec<ClientFrame>, kind: &AckKind, ranges: &[(u64, u64)], confirm: Option<u64>) {
    let mut chunks = ranges.chunks(RANGES_PER_FRAME).peekable();
    while let Some(chunk) = chunks.next() {
        frames.push(ClientFrame::Ack {
            kind: kind.clone(),
            sequences: chunk.to_vec(),
            confirm: confirm.filter(|_| chunks.peek().is_none()),
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::time::Duration;

    use super::*;

    /// Kind, ranges and confirmation of an ACK.
    type Parts<'a> = (&'a AckKind, &'a [(u64, u64)], Option<u64>);

    fn sent(frames: &[ClientFrame]) -> Vec<Parts<'_>> {
        frames
            .iter()
            .map(|frame| match frame {
                ClientFrame::Ack { kind, sequences, confirm } => {
                    (kind, sequences.as_slice(), *confirm)
                }
                other => panic!("{} is no ACK", other.name()),
            })
            .collect()
    }

    #[test]
    fn acks_become_sorted_ranges() {
        let mut acks = Acks::default();
        for seq in [1, 2, 3, 7, 5, 6, 2, 10, 9] {
            acks.add(AckKind::Ack, seq);
        }
        let frames = acks.take(false);
        assert_eq!(sent(&frames), [(&AckKind::Ack, &[(1, 3), (5, 7), (9, 10)][..], None)]);
        assert!(acks.is_sent() && !acks.is_settled(), "nothing says that it arrived");
    }

    #[test]
    fn equal_kinds_share_a_frame_in_order() {
        let nak = |millis| AckKind::Nak { delay: Duration::from_millis(millis) };
        let mut acks = Acks::default();
        acks.add(nak(1), 4);
        acks.add(nak(1), 5);
        acks.add(nak(2), 6);
        acks.add(AckKind::Ack, 1);
        let frames = acks.take(false);
        assert_eq!(
            sent(&frames),
            [
                (&nak(1), &[(4, 5)][..], None),
                (&nak(2), &[(6, 6)][..], None),
                (&AckKind::Ack, &[(1, 1)][..], None)
            ]
        );
    }

    #[test]
    fn long_rows_are_split_and_the_last_part_confirms() {
        let mut acks = Acks::default();
        for n in 0..=RANGES_PER_FRAME as u64 {
            acks.add_confirmed(1 + 2 * n, oneshot::channel().0);
        }
        let frames = acks.take(false);
        let tokens: Vec<_> = sent(&frames).iter().map(|(_, r, token)| (r.len(), *token)).collect();
        assert_eq!(tokens, [(RANGES_PER_FRAME, None), (1, Some(1))]);
    }

    #[tokio::test]
    async fn confirmations_survive_a_lost_connection() {
        let mut acks = Acks::default();
        let (waiter, told) = oneshot::channel();
        acks.add_confirmed(5, waiter);
        assert_eq!(sent(&acks.take(false))[0].2, Some(1));
        assert!(acks.is_sent() && !acks.is_settled());
        acks.rewind();
        let frames = acks.take(false);
        assert_eq!(sent(&frames), [(&AckKind::Ack, &[(5, 5)][..], Some(2))]);
        acks.confirmed(1, &Ok(()));
        acks.confirmed(2, &Ok(()));
        assert_eq!(told.await.unwrap(), Ok(()));
        assert!(acks.is_settled());
    }

    #[tokio::test]
    async fn closing_tells_those_who_wait() {
        let mut acks = Acks::default();
        let (waiter, told) = oneshot::channel();
        acks.add_confirmed(5, waiter);
        acks.add(AckKind::Ack, 1);
        acks.fail(&AckError::Closed);
        assert_eq!(told.await.unwrap(), Err(AckError::Closed));
        assert!(acks.is_settled());
    }

    #[test]
    fn plain_acks_are_confirmed_before_closing() {
        let mut acks = Acks::default();
        acks.add(AckKind::Ack, 1);
        acks.take(false);
        acks.add(AckKind::Ack, 5);
        let frames = acks.take(true);
        assert_eq!(sent(&frames), [(&AckKind::Ack, &[(1, 1), (5, 5)][..], Some(1))]);
        assert!(acks.is_sent() && !acks.is_settled());
        acks.confirmed(1, &Ok(()));
        assert!(acks.is_settled());
    }

    #[test]
    fn naks_are_confirmed_before_closing() {
        let mut acks = Acks::default();
        acks.add(AckKind::Nak { delay: Duration::ZERO }, 1);
        acks.take(false);
        assert!(acks.is_sent() && !acks.is_settled(), "nothing says that it arrived");
        assert_eq!(sent(&acks.take(true)), [(&AckKind::Ack, &[][..], Some(1))]);
        assert!(acks.take(true).is_empty(), "asked once");
        acks.confirmed(1, &Ok(()));
        assert!(acks.is_settled());
    }

    #[test]
    fn room_ends_at_the_limit() {
        let mut acks = Acks::default();
        for n in 0..MAX_RANGES as u64 {
            assert!(acks.has_room());
            acks.add(AckKind::Ack, 1 + 2 * n);
        }
        assert!(!acks.has_room());
    }
}
