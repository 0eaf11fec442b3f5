//! What became of published messages, counted and in words.

use crate::cli::output::thousands;
use crate::client::Ack;

/// What became of the messages.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) stored: u64,
    duplicates: u64,
    /// The one stream that stored all, with the first and last sequence; none if there were more.
    pub(super) range: Option<(std::sync::Arc<str>, u64, u64)>,
}

impl Tally {
    pub(super) fn add(&mut self, ack: &Ack) {
        self.duplicates += u64::from(ack.duplicate);
        self.stored += 1;
        self.range = match self.range.take() {
            None if self.stored == 1 => Some((ack.stream.clone(), ack.seq, ack.seq)),
            Some((stream, first, last)) if stream == ack.stream => {
                Some((stream, first.min(ack.seq), last.max(ack.seq)))
            }
            _ => None,
        };
    }

    /// What was stored of `wanted` messages.
    pub(super) fn of(&self, wanted: u64) -> String {
        let mut text = format!("stored {} of {}", thousands(self.stored), thousands(wanted));
        if let Some((stream, first, last)) = &self.range {
            text += &format!(" in {stream}, {} to {}", thousands(*first), thousands(*last));
        }
        text
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.range {
            Some((stream, seq, _)) if self.stored == 1 && self.duplicates == 0 => {
                return write!(f, "stored in {stream} as {seq}");
            }
            Some((stream, 0, _)) if self.stored == 1 => {
                return write!(f, "was stored in {stream} before");
            }
            Some((stream, seq, _)) if self.stored == 1 => {
                return write!(f, "was stored in {stream} before, as {seq}");
            }
            Some((stream, first, last)) => {
                let (first, last) = (thousands(*first), thousands(*last));
                let stored = thousands(self.stored);
                write!(f, "stored {stored} messages in {stream}, {first} to {last}")?;
            }
            None => write!(f, "stored {} messages", thousands(self.stored))?,
        }
        if self.duplicates > 0 {
            write!(f, "; {} were there before", thousands(self.duplicates))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(stream: &str, seq: u64, duplicate: bool) -> Ack {
        Ack { stream: stream.into(), seq, duplicate }
    }

    fn tally(acks: &[Ack]) -> String {
        let mut tally = Tally::default();
        acks.iter().for_each(|ack| tally.add(ack));
        tally.to_string()
    }

    #[test]
    fn what_became_of_the_messages() {
        assert_eq!(tally(&[ack("A", 7, false)]), "stored in A as 7");
        assert_eq!(tally(&[ack("A", 7, true)]), "was stored in A before, as 7");
        assert_eq!(tally(&[ack("A", 0, true)]), "was stored in A before");
        assert_eq!(
            tally(&[ack("A", 7, false), ack("A", 8, true)]),
            "stored 2 messages in A, 7 to 8; 1 were there before"
        );
        assert_eq!(
            tally(&[ack("A", 7, false), ack("B", 1, false), ack("B", 2, false)]),
            "stored 3 messages"
        );
        assert_eq!(tally(&[]), "stored 0 messages");
    }
}
