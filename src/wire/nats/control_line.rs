//! Control lines: a verb, its arguments, and the end of the line.

use memchr::memchr;

use super::error::ProtocolError;

/// Most arguments of an operation: those of HPUB.
const MOST_ARGUMENTS: usize = 4;

/// Most digits of a number. nats-server takes longer ones, even of zeros, for no number.
const MOST_DIGITS: usize = 9;

/// A part of the bytes that a line lies in: where it starts, and its length.
pub(super) type Part = (usize, usize);

/// What a client may begin a line with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Connect,
    Publish,
    PublishWithHeaders,
    Subscribe,
    Unsubscribe,
    Ping,
    Pong,
    Ok,
    Error,
    Info,
}

impl Verb {
    /// The verb that `bytes` begin with; nothing if they may yet become one. No verb begins with
    /// another, so that the first wrong byte shows, without waiting for the end of a line that may
    /// never come.
    fn of(bytes: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let Some(first) = bytes.first() else { return Ok(None) };
        let verb = match first.to_ascii_uppercase() {
            b'P' => match bytes.get(1).map(u8::to_ascii_uppercase) {
                None => return Ok(None),
                Some(b'U') => Self::Publish,
                Some(b'I') => Self::Ping,
                _ => Self::Pong,
            },
            b'H' => Self::PublishWithHeaders,
            b'S' => Self::Subscribe,
            b'U' => Self::Unsubscribe,
            b'C' => Self::Connect,
            b'+' => Self::Ok,
            b'-' => Self::Error,
            b'I' => Self::Info,
            _ => return Err(ProtocolError::UnknownOperation),
        };
        let name = verb.name();
        let seen = bytes.get(..name.len()).unwrap_or(bytes);
        if !name.get(..seen.len()).is_some_and(|start| start.eq_ignore_ascii_case(seen)) {
            return Err(ProtocolError::UnknownOperation);
        }
        match bytes.get(name.len()) {
            Some(next) if verb.is_set_apart() && !is_blank(*next) => {
                Err(ProtocolError::UnknownOperation)
            }
            None if seen.len() < name.len() || verb.is_set_apart() => Ok(None),
            _ => Ok(Some(verb)),
        }
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::Connect => b"CONNECT",
            Self::Publish => b"PUB",
            Self::PublishWithHeaders => b"HPUB",
            Self::Subscribe => b"SUB",
            Self::Unsubscribe => b"UNSUB",
            Self::Ping => b"PING",
            Self::Pong => b"PONG",
            Self::Ok => b"+OK",
            Self::Error => b"-ERR",
            Self::Info => b"INFO",
        }
    }

    /// Whether a space or tab must follow. nats-server takes `CONNECT{}` and `PINGS`.
    fn is_set_apart(self) -> bool {
        !matches!(self, Self::Connect | Self::Ping | Self::Pong | Self::Ok | Self::Info)
    }
}

/// A complete line.
#[derive(Clone, Copy, Debug)]
pub(super) struct ControlLine {
    pub(super) verb: Verb,
    /// What stands between verb and line end.
    pub(super) arguments: Part,
    /// Where the next line or the payload starts.
    pub(super) end: usize,
}

impl ControlLine {
    /// The line that starts at `start` of `bytes`, or nothing if its end is not there yet. Its
    /// arguments may have `limit` bytes, without the blank after the verb and the line's end.
    ///
    /// # Errors
    /// [`ProtocolError::UnknownOperation`] at the first byte that no verb has there, and
    /// [`ProtocolError::ControlLine`] as soon as there are too many.
    pub(super) fn at(
        bytes: &[u8],
        start: usize,
        limit: usize,
    ) -> Result<Option<Self>, ProtocolError> {
        let line = bytes.get(start..).unwrap_or_default();
        let Some(verb) = Verb::of(line)? else { return Ok(None) };
        let name = verb.name().len();
        let blank = line.get(name).is_some_and(|byte| is_blank(*byte));
        let skipped = name + usize::from(blank);
        let rest = line.get(skipped..).unwrap_or_default();
        // A line within the limit ends with `\r\n` in these bytes at the latest, so that a payload
        // is never searched.
        let rest = rest.get(..limit + 2).unwrap_or(rest);
        let newline = memchr(b'\n', rest);
        let before = newline.and_then(|at| rest.get(..at)).unwrap_or(rest);
        let text = before.strip_suffix(b"\r").unwrap_or(before);
        if text.len() > limit {
            return Err(ProtocolError::ControlLine { limit });
        }
        let arguments = (start + skipped, text.len());
        Ok(newline.map(|at| Self { verb, arguments, end: start + skipped + at + 1 }))
    }
}

/// Arguments of one line.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    parts: [Part; MOST_ARGUMENTS],
    count: usize,
}

impl Arguments {
    /// Cuts the part `within` of `bytes` at runs of blanks.
    pub(super) fn split(bytes: &[u8], within: Part) -> Self {
        let (first, len) = within;
        let text = bytes.get(first..first + len).unwrap_or_default();
        let mut found = Self::default();
        let mut start = None;
        for (at, byte) in text.iter().enumerate() {
            // A carriage return separates as well, as in nats-server.
            let between = is_blank(*byte) || *byte == b'\r';
            match start {
                Some(from) if between => {
                    found.add((first + from, at - from));
                    start = None;
                }
                None if !between => start = Some(at),
                _ => {}
            }
        }
        if let Some(from) = start {
            found.add((first + from, len - from));
        }
        found
    }

    fn add(&mut self, part: Part) {
        if let Some(place) = self.parts.get_mut(self.count) {
            *place = part;
        }
        self.count += 1;
    }

    /// Where they lie. Empty also if there are more than any operation takes: none takes none.
    pub(super) fn parts(&self) -> &[Part] {
        self.parts.get(..self.count).unwrap_or_default()
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// A number of one to nine decimal digits.
pub(super) fn number(bytes: &[u8], (start, len): Part) -> Option<usize> {
    let digits = bytes.get(start..start + len)?;
    if digits.is_empty() || digits.len() > MOST_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Below 10^9, which fits.
    Some(digits.iter().fold(0, |value, digit| value * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_and_not_too_many() {
        for (text, value) in [
            ("0", Some(0)),
            ("000000005", Some(5)),
            ("999999999", Some(999_999_999)),
            ("0000000005", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1x", None),
        ] {
            assert_eq!(number(text.as_bytes(), (0, text.len())), value, "{text}");
        }
    }

    #[test]
    fn arguments_are_cut_at_runs_of_blanks() {
        for (text, parts) in [
            ("a", &[(0, 1)][..]),
            (" \ta \t bc\t", &[(2, 1), (6, 2)]),
            ("a b c d", &[(0, 1), (2, 1), (4, 1), (6, 1)]),
            ("a b c d e", &[]),
            ("a\rb", &[(0, 1), (2, 1)]),
            (" ", &[]),
            ("", &[]),
        ] {
            let found = Arguments::split(text.as_bytes(), (0, text.len()));
            assert_eq!(found.parts(), parts, "{text:?}");
        }
    }

    #[test]
    fn only_the_given_part_is_cut() {
        assert_eq!(Arguments::split(b"SUB a 1\r\n", (4, 3)).parts(), [(4, 1), (6, 1)]);
    }

    #[test]
    fn a_verb_is_refused_at_its_first_wrong_byte() {
        for text in ["X", "PX", "PUX", "PUBX", "SUB\r", "UNSUB\n", "HPUB1", "-ERR\r", "+K", "\r"] {
            let found = ControlLine::at(text.as_bytes(), 0, 10);
            assert_eq!(found.unwrap_err(), ProtocolError::UnknownOperation, "{text:?}");
        }
        for text in
            ["", "P", "pU", "PUB", "PUB ", "Sub\t", "CONNEC", "CONNECT", "-E", "+", "PINGS", "inf"]
        {
            let found = ControlLine::at(text.as_bytes(), 0, 10);
            assert!(matches!(found, Ok(None)), "{text:?} {found:?}");
        }
    }

    #[test]
    fn a_line_may_begin_anywhere_and_end_with_or_without_a_carriage_return() {
        for (text, arguments, end) in [
            ("..SUB a 1\r\n", (6, 3), 11),
            ("..SUB a 1\n", (6, 3), 10),
            ("..CONNECT{}\r\n", (9, 2), 13),
            ("..ping\n", (6, 0), 7),
            ("..PUB \r\nSUB", (6, 0), 8),
        ] {
            let line = ControlLine::at(text.as_bytes(), 2, 10).unwrap().unwrap();
            assert_eq!((line.arguments, line.end), (arguments, end), "{text:?}");
        }
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_byte_more_does_not() {
        let at = |text: &str| ControlLine::at(text.as_bytes(), 0, 5).map(|line| line.is_some());
        let longer = Err(ProtocolError::ControlLine { limit: 5 });
        for (text, found) in [
            ("SUB 12345\r\n", Ok(true)),
            ("SUB 12345\n", Ok(true)),
            ("SUB 12345\r", Ok(false)),
            ("SUB 12345", Ok(false)),
            ("SUB 123456\r\n", longer.clone()),
            ("SUB 123456\n", longer.clone()),
            ("SUB 123456\r", longer.clone()),
            ("SUB 123456", longer.clone()),
            ("SUB 12345\r\r\n", longer.clone()),
            ("SUB 12345\r\r", longer.clone()),
            ("SUB 12345\rx", longer.clone()),
            ("SUB 12345678901234567890\n", longer.clone()),
            ("PING 12345\n", Ok(true)),
            ("PING 123456\n", longer),
        ] {
            assert_eq!(at(text), found, "{text:?}");
        }
    }
}
