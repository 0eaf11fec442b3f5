//! Archives of streams, as nats-server 2.15 writes and reads them: what a snapshot is, unpacked.
//!
//! `NATSARC1`, and then entries one after the other: the length of a name, a time in nanoseconds since the
//! Unix epoch, a sequence, the lengths of headers and of a body, as LEB128 numbers (the time as a signed one,
//! zigzag), and then name, headers and body. The name of a message is its subject. What has no sequence is a
//! file in JSON: `state.json`, [`ArchivedState`], which comes first, and `consumers/<name>`,
//! [`ArchivedConsumer`]. An entry of zeros ends the archive.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::consumer::{ConsumerConfig, SequencePair};
use super::s2::put_varint;

/// What every archive begins with.
const MAGIC: &[u8] = b"NATSARC1";
/// What tape archives have at byte 257: those of servers before 2.15 are such.
const TAPE: (usize, &[u8]) = (257, b"ustar");
/// The name of the first entry.
pub const STATE: &str = "state.json";
/// What names of consumers begin with.
pub const CONSUMERS: &str = "consumers/";
/// Longest name of an entry, in bytes: longer than any subject.
const MAX_NAME: u64 = 64 << 10;

/// What is wrong with an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It is of a server before 2.15.
    #[error(
        "a backup of a NATS server before 2.15 holds that server's files, which cannot be read; restore it there and back it up with 2.15"
    )]
    Tape,
    /// It begins otherwise.
    #[error("not an archive of a stream")]
    NoArchive,
    /// An entry makes no sense.
    #[error("an entry of the archive is damaged")]
    Damaged,
    /// An entry is larger than is allowed.
    #[error("an entry of the archive is too large")]
    TooLarge,
    /// There is more behind its end.
    #[error("there is more behind the end of the archive")]
    More,
    /// It stops in the middle.
    #[error("unexpected EOF")]
    Incomplete,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The subject of a message, or the name of a file.
    pub name: String,
    /// In nanoseconds since the Unix epoch.
    pub time: u64,
    /// Of a message; 0 of a file.
    pub seq: u64,
    /// The header block, or empty.
    pub headers: Vec<u8>,
    /// What the message or the file holds.
    pub body: Vec<u8>,
}

/// `state.json`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ArchivedState {
    /// How many messages follow.
    pub messages: u64,
    /// The first sequence.
    pub first_seq: u64,
    /// The last sequence, which may be of no message.
    pub last_seq: u64,
}

/// A consumer: how it is to be, and how far it came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ArchivedConsumer {
    /// Its configuration.
    pub config: ConsumerConfig,
    /// Its progress.
    pub state: ConsumerProgress,
}

/// How far a consumer came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerProgress {
    /// The last delivery.
    pub delivered: SequencePair,
    /// Up to where everything is acknowledged.
    pub ack_floor: SequencePair,
    /// Deliveries that await acknowledgement, by stream sequence.
    #[serde(
        deserialize_with = "super::stream::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub pending: BTreeMap<u64, Outstanding>,
    /// How often those of them were delivered again that were, by stream sequence.
    #[serde(
        deserialize_with = "super::stream::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub redelivered: BTreeMap<u64, u64>,
}

/// One delivery that awaits acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Outstanding {
    /// Its number among the consumer's deliveries.
    pub sequence: u64,
    /// When it was delivered, in nanoseconds since the Unix epoch.
    pub timestamp: i64,
}

/// Begins an archive.
pub fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(MAGIC);
}

/// Adds a file.
pub fn put_file(name: &str, time: u64, body: &[u8], out: &mut Vec<u8>) {
    put(name, time, 0, b"", body, out);
}

/// Adds an entry; `seq` is 0 for a file.
pub fn put(name: &str, time: u64, seq: u64, headers: &[u8], body: &[u8], out: &mut Vec<u8>) {
    put_varint(name.len() as u64, out);
    // Zigzag doubles what is not negative. The 63 bits last until the year 2262.
    put_varint(time << 1, out);
    for number in [seq, headers.len() as u64, body.len() as u64] {
        put_varint(number, out);
    }
    for bytes in [name.as_bytes(), headers, body] {
        out.extend_from_slice(bytes);
    }
}

/// Ends an archive.
pub fn end(out: &mut Vec<u8>) {
    put("", 0, 0, b"", b"", out);
}

/// Reads an archive that comes in pieces.
#[derive(Debug)]
pub struct Reader {
    input: Vec<u8>,
    /// Up to where the input was read.
    at: usize,
    has_begun: bool,
    is_over: bool,
    /// Most bytes of an entry's headers and body.
    most: u64,
}

impl Reader {
    /// A reader of entries with at most so many bytes of headers and body.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { input: Vec::new(), at: 0, has_begun: false, is_over: false, most }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(piece);
    }

    /// The next entry; nothing if it has not come as a whole, or all were read.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let left = self.input.get(self.at..).unwrap_or_default();
        if self.is_over {
            return if left.is_empty() { Ok(None) } else { Err(ArchiveError::More) };
        }
        if !self.has_begun {
            let Some(rest) = left.strip_prefix(MAGIC) else { return unlike(left) };
            self.at += left.len() - rest.len();
            self.has_begun = true;
            return self.next_entry();
        }
        let mut input = Input { bytes: left, at: 0 };
        let Some(numbers) = input.numbers()? else { return Ok(None) };
        let [name, time, seq, headers, body] = numbers;
        if numbers == [0; 5] {
            self.at += input.at;
            self.is_over = true;
            return self.next_entry();
        }
        if name > MAX_NAME || headers.saturating_add(body) > self.most {
            return Err(ArchiveError::TooLarge);
        }
        if name == 0 || time & 1 == 1 {
            return Err(ArchiveError::Damaged);
        }
        let parts = (input.take(name), input.take(headers), input.take(body));
        let (Some(name), Some(headers), Some(body)) = parts else { return Ok(None) };
        let name = std::str::from_utf8(name).map_err(|_| ArchiveError::Damaged)?.to_owned();
        let (headers, body) = (headers.to_vec(), body.to_vec());
        self.at += input.at;
        Ok(Some(Entry { name, time: time >> 1, seq, headers, body }))
    }

    /// Whether the archive may end here.
    ///
    /// # Errors
    /// [`ArchiveError::Incomplete`] if it stops in the middle.
    pub fn end(&self) -> Result<(), ArchiveError> {
        if self.is_over { Ok(()) } else { Err(ArchiveError::Incomplete) }
    }
}

/// What begins otherwise than an archive, unless there is too little of it to say.
fn unlike(input: &[u8]) -> Result<Option<Entry>, ArchiveError> {
    let (place, tape) = TAPE;
    match input.get(place..place + tape.len()) {
        _ if MAGIC.starts_with(input) => Ok(None),
        Some(found) if found == tape => Err(ArchiveError::Tape),
        None => Ok(None),
        Some(_) => Err(ArchiveError::NoArchive),
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    /// The numbers an entry begins with; nothing if they have not come as a whole.
    fn numbers(&mut self) -> Result<Option<[u64; 5]>, ArchiveError> {
        let mut numbers = [0; 5];
        for number in &mut numbers {
            let mut shift = 0;
            loop {
                let Some(byte) = self.bytes.get(self.at) else { return Ok(None) };
                self.at += 1;
                let bits = u64::from(byte & 0x7f);
                if shift == 63 && bits > 1 || shift > 63 {
                    return Err(ArchiveError::Damaged);
                }
                *number |= bits << shift;
                shift += 7;
                if *byte < 0x80 {
                    break;
                }
            }
        }
        Ok(Some(numbers))
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Entry>, ArchiveError> {
        let mut reader = Reader::new(1 << 20);
        let mut entries = Vec::new();
        for piece in bytes.chunks(piece) {
            reader.push(piece);
            while let Some(entry) = reader.next_entry()? {
                entries.push(entry);
            }
        }
        reader.end().map(|()| entries)
    }

    #[test]
    fn an_archive_is_byte_for_byte_nats_servers() {
        let mut archive = Vec::new();
        begin(&mut archive);
        put("s.a", 1_795_324_112_056_922_453, 1, b"", b"payload0", &mut archive);
        end(&mut archive);
        let expected =
            b"NATSARC1\x03\xaa\xc5\xc5\xbd\x92\xf1\xa2\xea1\x01\x00\x08s.apayload0\x00\x00\x00\x00\x00";
        assert_eq!(archive, expected);
    }

    #[test]
    fn entries_come_back_however_they_are_cut() {
        let mut archive = Vec::new();
        begin(&mut archive);
        put_file(STATE, 5, b"{}", &mut archive);
        put("s", 7, u64::MAX, b"NATS/1.0\r\n\r\n", b"", &mut archive);
        end(&mut archive);
        for piece in 1..archive.len() {
            let entries = read(&archive, piece).unwrap();
            assert_eq!((entries[0].name.as_str(), entries[0].seq, entries[0].time), (STATE, 0, 5));
            assert_eq!((entries[1].seq, entries[1].headers.len()), (u64::MAX, 12));
        }
        let less = &archive[..archive.len() - 1];
        assert_eq!(read(less, 7), Err(ArchiveError::Incomplete));
        archive.push(0);
        assert_eq!(read(&archive, 7), Err(ArchiveError::More));
    }

    #[test]
    fn what_is_no_archive_is_named() {
        assert_eq!(read(&[b'x'; 300], 7), Err(ArchiveError::NoArchive));
        let tape = [&[b'x'; 257][..], b"ustar\0"].concat();
        assert_eq!(read(&tape, 7), Err(ArchiveError::Tape));
        assert_eq!(
            read(b"NATSARC1\x01\x02\x01\xff\xff\xff\x07\x00", 99),
            Err(ArchiveError::TooLarge)
        );
        assert_eq!(read(b"NATSARC1\x00\x02\x01\x00\x00", 99), Err(ArchiveError::Damaged));
    }
}
