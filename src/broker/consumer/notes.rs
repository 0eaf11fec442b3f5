//! A consumer's durable state as bytes: a base, and notes of what changed since.
//!
//! All numbers are LEB128 variable-length integers.
//!
//! | note | bytes |
//! |---|---|
//! | delivered | 1, wall time, first stream sequence, first consumer sequence, count: both go up by one |
//! | delivered again | 2, wall time, stream sequence, consumer sequence |
//! | settled | 3, first stream sequence, count |
//! | held back | 4, stream sequence, priority, number of its key or 0 |
//! | terminated | 5, stream sequence, length of the words, the words |
//!
//! A base is: 1 (version), cursor, delivered (consumer, stream sequence, wall time), last consumer
//! sequence, floor (consumer, stream sequence), count of listed sequences and each as the distance
//! from the one before, count of pending messages and for each: distance of its sequence from the
//! one before, consumer sequence, attempts, first and last wall time.
//!
//! A base of version 2, of consumers that order messages by key or priority, goes on with: count of
//! messages held back and for each its sequence, priority, and the number of its key or 0; count of
//! keys in flight and for each the sequence and the key's number.
//!
//! A base of version 3, of consumers with terminated messages that are not dead letters yet, is: 3,
//! length of a base of version 1 or 2, that base, and a note for each such message.

use std::sync::Arc;
use std::time::Duration;

use crate::model::consumer::ConsumerConfig;
use crate::model::event::ConsumerPath;
use crate::model::time::{Now, Timestamp};

use super::holding::Traits;
use super::pending::{Entry, State};
use super::{Consumer, DeadReason, Start};

const DELIVERED: u8 = 1;
const DELIVERED_AGAIN: u8 = 2;
const SETTLED: u8 = 3;
const HELD: u8 = 4;
const TERMINATED: u8 = 5;
const BASE_VERSION: u8 = 1;
const ORDERED_BASE_VERSION: u8 = 2;
const DYING_BASE_VERSION: u8 = 3;
/// Most bytes that are kept of the words with which a message was terminated.
const MAX_WORDS: usize = 1024;
/// Longest run in one note. No turn makes longer ones; damaged bytes must not cost hours.
const MAX_RUN: u64 = 1 << 24;

/// Bytes that are not a consumer's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored state of a consumer is not understood at byte {at} of {what}")]
pub(crate) struct NotUnderstood {
    what: &'static str,
    at: usize,
}

/// Changes of this turn. A run of deliveries or settlements becomes one note.
#[derive(Debug, Default)]
pub(super) struct Notes {
    bytes: Vec<u8>,
    run: Option<Run>,
}

#[derive(Clone, Copy, Debug)]
enum Run {
    Delivered { wall: u64, seq: u64, consumer_seq: u64, count: u64 },
    Settled { seq: u64, count: u64 },
}

impl Notes {
    pub(super) fn delivered(&mut self, wall: u64, seq: u64, consumer_seq: u64) {
        if let Some(Run::Delivered { wall: w, seq: s, consumer_seq: c, count }) = &mut self.run
            && *w == wall
            && *s + *count == seq
            && *c + *count == consumer_seq
            && *count < MAX_RUN
        {
            *count += 1;
            return;
        }
        self.flush();
        self.run = Some(Run::Delivered { wall, seq, consumer_seq, count: 1 });
    }

    pub(super) fn delivered_again(&mut self, wall: u64, seq: u64, consumer_seq: u64) {
        self.flush();
        self.bytes.push(DELIVERED_AGAIN);
        for number in [wall, seq, consumer_seq] {
            put(&mut self.bytes, number);
        }
    }

    pub(super) fn settled(&mut self, seq: u64) {
        if let Some(Run::Settled { seq: s, count }) = &mut self.run
            && *s + *count == seq
            && *count < MAX_RUN
        {
            *count += 1;
            return;
        }
        self.flush();
        self.run = Some(Run::Settled { seq, count: 1 });
    }

    pub(super) fn held(&mut self, seq: u64, traits: Traits) {
        self.flush();
        self.bytes.push(HELD);
        for number in [seq, u64::from(traits.priority), traits.key.unwrap_or(0)] {
            put(&mut self.bytes, number);
        }
    }

    pub(super) fn terminated(&mut self, seq: u64, words: &str) {
        self.flush();
        put_terminated(&mut self.bytes, seq, words);
    }

    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.flush();
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes))
    }

    fn flush(&mut self) {
        match self.run.take() {
            None => {}
            Some(Run::Delivered { wall, seq, consumer_seq, count }) => {
                self.bytes.push(DELIVERED);
                for number in [wall, seq, consumer_seq, count] {
                    put(&mut self.bytes, number);
                }
            }
            Some(Run::Settled { seq, count }) => {
                self.bytes.push(SETTLED);
                put(&mut self.bytes, seq);
                put(&mut self.bytes, count);
            }
        }
    }
}

impl Consumer {
    /// Everything that must survive, as bytes.
    pub(crate) fn base(&self) -> Vec<u8> {
        let mut terminated = Vec::new();
        for seq in &self.dying {
            if let Some(State::Dying(DeadReason::Terminated(words))) =
                self.pending.get(*seq).map(|entry| &entry.state)
            {
                put_terminated(&mut terminated, *seq, words);
            }
        }
        let base = self.base_of_living();
        if terminated.is_empty() {
            return base;
        }
        let mut bytes = vec![DYING_BASE_VERSION];
        put(&mut bytes, base.len() as u64);
        [bytes, base, terminated].concat()
    }

    fn base_of_living(&self) -> Vec<u8> {
        let version = if self.holding.is_some() { ORDERED_BASE_VERSION } else { BASE_VERSION };
        let mut bytes = vec![version];
        let time = self.delivered.last_active.unwrap_or_default().0;
        // What was read ahead was not delivered: after a restart it is read again.
        let cursor = self.fetched.front().map_or(self.cursor, |record| record.seq);
        for number in [
            cursor,
            self.delivered.consumer_seq,
            self.delivered.stream_seq,
            time,
            self.last_consumer_seq,
            self.floor.consumer_seq,
            self.floor.stream_seq,
            self.listed.len() as u64,
        ] {
            put(&mut bytes, number);
        }
        let mut previous = 0;
        for seq in &self.listed {
            put(&mut bytes, seq - previous);
            previous = *seq;
        }
        put(&mut bytes, self.pending.len() as u64);
        previous = 0;
        for entry in self.pending.iter() {
            for number in
                [entry.seq - previous, entry.consumer_seq, entry.attempts, entry.first, entry.last]
            {
                put(&mut bytes, number);
            }
            previous = entry.seq;
        }
        if let Some(holding) = &self.holding {
            put(&mut bytes, holding.len() as u64);
            for (seq, traits) in holding.iter() {
                for number in [seq, u64::from(traits.priority), traits.key.unwrap_or(0)] {
                    put(&mut bytes, number);
                }
            }
            let in_flight = holding.in_flight();
            put(&mut bytes, in_flight.len() as u64);
            for (seq, key) in in_flight {
                put(&mut bytes, seq);
                put(&mut bytes, key);
            }
        }
        bytes
    }

    /// Rebuilds a consumer from what was kept. Messages that were out wait for what is left of
    /// their time, but no longer than the whole of it.
    ///
    /// # Errors
    /// [`NotUnderstood`] if the bytes are not from [`Consumer::base`] and
    /// [`Consumer::take_notes`].
    pub(crate) fn restore(
        path: Arc<ConsumerPath>,
        config: ConsumerConfig,
        created: Timestamp,
        (base, notes): (&[u8], &[u8]),
        now: Now,
    ) -> Result<Self, NotUnderstood> {
        let mut consumer = Self::new(path, config, created, Start::default(), now);
        consumer.replay = None;
        consumer.read_base(base)?;
        consumer.apply(notes)?;
        consumer.resume(now);
        // What was just read is stored already.
        consumer.notes = Notes::default();
        Ok(consumer)
    }

    fn read_base(&mut self, base: &[u8]) -> Result<(), NotUnderstood> {
        let mut reader = Reader { bytes: base, at: 0, what: "the base" };
        let version = reader.byte();
        if version == Some(DYING_BASE_VERSION) {
            let living = reader.bytes()?;
            let terminated = base.get(reader.at..).unwrap_or_default();
            self.read_living(living)?;
            return self.apply(terminated);
        }
        self.read_living(base)
    }

    fn read_living(&mut self, base: &[u8]) -> Result<(), NotUnderstood> {
        let mut reader = Reader { bytes: base, at: 0, what: "the base" };
        let version = reader.byte();
        if ![Some(BASE_VERSION), Some(ORDERED_BASE_VERSION)].contains(&version) {
            return Err(reader.error());
        }
        self.cursor = reader.number()?;
        self.delivered.consumer_seq = reader.number()?;
        self.delivered.stream_seq = reader.number()?;
        let time = reader.number()?;
        self.delivered.last_active = (time > 0).then_some(Timestamp(time));
        self.last_consumer_seq = reader.number()?;
        self.floor.consumer_seq = reader.number()?;
        self.floor.stream_seq = reader.number()?;
        let mut previous: u64 = 0;
        for _ in 0..reader.number()? {
            previous = previous.checked_add(reader.number()?).ok_or_else(|| reader.error())?;
            self.listed.push_back(previous);
        }
        previous = 0;
        for _ in 0..reader.number()? {
            previous = previous.checked_add(reader.number()?).ok_or_else(|| reader.error())?;
            self.pending.insert(Entry {
                seq: previous,
                consumer_seq: reader.number()?,
                attempts: reader.number()?,
                first: reader.number()?,
                last: reader.number()?,
                meta: None,
                state: State::Due,
            });
        }
        if version == Some(ORDERED_BASE_VERSION) {
            self.read_held(&mut reader)?;
        }
        if reader.at == base.len() { Ok(()) } else { Err(reader.error()) }
    }

    fn read_held(&mut self, reader: &mut Reader<'_>) -> Result<(), NotUnderstood> {
        let holding = self.holding.as_mut().ok_or_else(|| reader.error())?;
        for _ in 0..reader.number()? {
            let (seq, traits) = reader.held()?;
            holding.hold(seq, traits, None);
        }
        for _ in 0..reader.number()? {
            let (seq, key) = (reader.number()?, reader.number()?);
            holding.set_in_flight(seq, key);
        }
        Ok(())
    }

    fn apply(&mut self, notes: &[u8]) -> Result<(), NotUnderstood> {
        let mut reader = Reader { bytes: notes, at: 0, what: "the notes" };
        while let Some(kind) = reader.byte() {
            match kind {
                DELIVERED => {
                    let (wall, seq) = (reader.number()?, reader.number()?);
                    let (consumer_seq, count) = (reader.number()?, reader.run()?);
                    for n in 0..count {
                        let (Some(seq), Some(consumer_seq)) =
                            (seq.checked_add(n), consumer_seq.checked_add(n))
                        else {
                            return Err(reader.error());
                        };
                        self.note_first_delivery(wall, seq, consumer_seq, None);
                    }
                }
                DELIVERED_AGAIN => {
                    let (wall, seq, consumer_seq) =
                        (reader.number()?, reader.number()?, reader.number()?);
                    self.note_redelivery(wall, seq, consumer_seq);
                }
                SETTLED => {
                    let (seq, count) = (reader.number()?, reader.run()?);
                    for n in 0..count {
                        let seq = seq.checked_add(n).ok_or_else(|| reader.error())?;
                        if !self.release(seq) {
                            self.settle(seq);
                        }
                    }
                }
                HELD => {
                    let (seq, traits) = reader.held()?;
                    if self.holding.is_none() {
                        return Err(reader.error());
                    }
                    self.note_held(seq, traits, None);
                }
                TERMINATED => {
                    let seq = reader.number()?;
                    let words = String::from_utf8_lossy(reader.bytes()?).into_owned();
                    self.give_up(seq, DeadReason::Terminated(words));
                }
                _ => return Err(reader.error()),
            }
        }
        Ok(())
    }

    /// Starts the clocks of pending messages after a restart.
    pub(super) fn resume(&mut self, now: Now) {
        let waits: Vec<(u64, Duration)> = self
            .pending
            .iter()
            .filter(|entry| !matches!(entry.state, State::Dying(_)))
            .map(|entry| {
                let whole = self.ack_wait(entry.attempts);
                let gone = Duration::from_nanos(now.wall.saturating_sub(entry.last));
                (entry.seq, now.monotonic + whole.saturating_sub(gone))
            })
            .collect();
        for (seq, deadline) in waits {
            if let Some(entry) = self.pending.get_mut(seq) {
                entry.state = State::Until(deadline);
            }
            self.timers.set(deadline, seq);
        }
    }
}

fn put_terminated(bytes: &mut Vec<u8>, seq: u64, words: &str) {
    let words = words.get(..words.floor_char_boundary(MAX_WORDS)).unwrap_or_default();
    bytes.push(TERMINATED);
    put(bytes, seq);
    put(bytes, words.len() as u64);
    bytes.extend_from_slice(words.as_bytes());
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn error(&self) -> NotUnderstood {
        NotUnderstood { what: self.what, at: self.at }
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    /// A length and so many bytes.
    fn bytes(&mut self) -> Result<&'a [u8], NotUnderstood> {
        let length = usize::try_from(self.number()?).map_err(|_| self.error())?;
        let start = self.at;
        let end = start.checked_add(length).ok_or_else(|| self.error())?;
        if end > self.bytes.len() {
            return Err(self.error());
        }
        self.at = end;
        Ok(self.bytes.get(start..end).unwrap_or_default())
    }

    fn held(&mut self) -> Result<(u64, Traits), NotUnderstood> {
        let (seq, priority, key) = (self.number()?, self.number()?, self.number()?);
        let priority = u8::try_from(priority).map_err(|_| self.error())?;
        Ok((seq, Traits { key: (key > 0).then_some(key), priority }))
    }

    fn run(&mut self) -> Result<u64, NotUnderstood> {
        let count = self.number()?;
        if count > MAX_RUN { Err(self.error()) } else { Ok(count) }
    }

    fn number(&mut self) -> Result<u64, NotUnderstood> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte().ok_or_else(|| self.error())?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.error())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(number: u64) {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            let mut reader = Reader { bytes: &bytes, at: 0, what: "a test" };
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.at, bytes.len());
        }
    }

    #[test]
    fn runs_become_one_note() {
        let mut notes = Notes::default();
        for n in 0..100 {
            notes.delivered(7, 10 + n, 1 + n);
        }
        let bytes = notes.take().expect("there are notes");
        assert_eq!(bytes, [DELIVERED, 7, 10, 1, 100]);
        assert_eq!(notes.take(), None);
    }
}
