//! What one consumer received and confirmed, by sequence.

use std::collections::HashMap;
use std::time::Instant;

use super::oracle::DeadLetter;
use super::payload::Name;
use super::scenario::{ACK_WAIT, ConsumerLine};

/// What became of one message at one consumer.
#[derive(Clone, Copy, Debug, Default)]
struct Settled {
    attempts: u8,
    confirmed: bool,
    /// The confirmation came so late that the message may have been given up before.
    late: bool,
    /// Its acknowledgement was refused together with others, and may have been applied.
    unsure: bool,
}

/// The record of one consumer.
#[derive(Debug)]
pub struct Deliveries {
    line: ConsumerLine,
    messages: Vec<Settled>,
    /// Dead letters: by sequence, where they are in the dead-letter stream.
    dead: HashMap<u64, u64>,
    confirmed: u64,
    both: u64,
    unsure: u64,
}

impl Deliveries {
    /// Nothing received yet.
    pub fn new(line: ConsumerLine) -> Self {
        Self { line, messages: Vec::new(), dead: HashMap::new(), confirmed: 0, both: 0, unsure: 0 }
    }

    fn at(&mut self, seq: u64) -> &mut Settled {
        let index = seq as usize;
        if index >= self.messages.len() {
            self.messages.resize(index + 1, Settled::default());
        }
        &mut self.messages[index]
    }

    /// A message was received.
    pub fn delivered(&mut self, seq: u64, attempts: u64) -> Result<(), String> {
        let most = self.line.max_deliver.unwrap_or(u64::MAX);
        let message = self.at(seq);
        let before = *message;
        message.attempts = attempts.min(255) as u8;
        if before.confirmed {
            return Err(format!(
                "sequence {seq} came again as attempt {attempts} after attempt {} was confirmed",
                before.attempts
            ));
        }
        let was_unsure = std::mem::take(&mut message.unsure);
        self.unsure -= u64::from(was_unsure);
        if attempts == 0 || attempts > most {
            return Err(format!("sequence {seq} came as attempt {attempts} of {most}"));
        }
        // A first attempt may be forgotten in a crash, later ones are durable before they are sent.
        let back = attempts < u64::from(before.attempts);
        if back || (attempts > 1 && attempts == u64::from(before.attempts)) {
            return Err(format!(
                "sequence {seq} came as attempt {attempts} after attempt {}",
                before.attempts
            ));
        }
        Ok(())
    }

    /// The broker confirmed the acknowledgement of a message that was asked for at `since`.
    pub fn confirmed(&mut self, seq: u64, since: Instant) {
        let dead = self.dead.contains_key(&seq);
        let last = self.line.max_deliver.is_some();
        let message = self.at(seq);
        message.late = last && since.elapsed() > ACK_WAIT * 8 / 10;
        if !message.confirmed {
            message.confirmed = true;
            self.confirmed += 1;
            self.both += u64::from(dead);
        }
    }

    /// The broker refused an acknowledgement because it had forgotten a delivery: of this message,
    /// or of another that was acknowledged in the same breath.
    pub fn refused(&mut self, seq: u64) {
        let message = self.at(seq);
        if !std::mem::replace(&mut message.unsure, true) {
            self.unsure += 1;
        }
    }

    /// Whether nothing is known to be left to do, although that was not confirmed.
    pub fn is_unsure(&self, seq: u64) -> bool {
        self.messages.get(seq as usize).is_some_and(|m| m.unsure)
    }

    /// A dead letter was read. Returns whether it is new.
    pub fn dead(&mut self, letter: &DeadLetter<'_>, name: Name) -> Result<bool, String> {
        let (seq, most) = (letter.seq, self.line.max_deliver);
        if Some(letter.attempts) != most {
            return Err(format!("{name} is dead after {} attempts of {most:?}", letter.attempts));
        }
        if let Some(at) = self.dead.get(&seq) {
            return match *at == letter.at {
                true => Ok(false),
                false => Err(format!("{name} is dead at {at} and again at {}", letter.at)),
            };
        }
        self.dead.insert(seq, letter.at);
        let message = *self.at(seq);
        self.both += u64::from(message.confirmed);
        if message.confirmed && !message.late {
            return Err(format!("{name}, sequence {seq}, was confirmed and is dead all the same"));
        }
        Ok(true)
    }

    /// Whether nothing more will come of this message.
    pub fn is_settled(&self, seq: u64) -> bool {
        self.dead.contains_key(&seq) || self.messages.get(seq as usize).is_some_and(|m| m.confirmed)
    }

    /// Messages confirmed, or dead, or both, or perhaps acknowledged.
    pub fn settled(&self) -> u64 {
        self.confirmed + self.unsure + self.dead.len() as u64 - self.both
    }

    /// Dead letters.
    pub fn dead_count(&self) -> u64 {
        self.dead.len() as u64
    }

    /// Whether it was received at all.
    pub fn was_received(&self, seq: u64) -> bool {
        self.messages.get(seq as usize).is_some_and(|m| m.attempts > 0)
    }

    /// Whether it is dead.
    pub fn is_dead(&self, seq: u64) -> bool {
        self.dead.contains_key(&seq)
    }
}
