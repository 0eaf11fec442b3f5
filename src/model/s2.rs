//! S2 streams (<https://github.com/klauspost/compress/tree/master/s2>), in which JetStream sends snapshots:
//! the framing of Snappy, with blocks in which an offset may be repeated.
//!
//! What is written here is plain Snappy within an S2 stream, which every reader of S2 reads. What is read
//! may be anything that S2 writes; its checksums are checked, and no block is larger than [`MAX_BLOCK`].

mod block;
mod checksum;

pub use block::MAX_BLOCK;
pub(in crate::model) use block::put_varint;

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum S2Error {
    /// It is no S2 stream, or was changed on its way.
    #[error("s2: corrupt input")]
    Corrupt,
    /// The bytes are not those that were written.
    #[error("s2: corrupt input, crc mismatch")]
    Checksum,
    /// A block is larger than [`MAX_BLOCK`].
    #[error("s2: a block is larger than 4 MiB")]
    TooLarge,
    /// It stops in the middle.
    #[error("unexpected EOF")]
    Incomplete,
}

const IDENTIFIER: &[u8; 10] = b"\xff\x06\x00\x00S2sTwO";
const SNAPPY_IDENTIFIER: &[u8; 10] = b"\xff\x06\x00\x00sNaPpY";
const COMPRESSED: u8 = 0x00;
const PLAIN: u8 = 0x01;
/// From here on chunks may be passed over: indexes and padding.
const SKIPPABLE: u8 = 0x80;
/// Bytes before the body of a chunk: its type and length.
const HEAD: usize = 4;
/// Bytes of a checksum.
const SUM: usize = 4;
/// Bytes that are written as one chunk, the most that Snappy allows.
const CHUNK: usize = 64 << 10;

/// Begins a stream.
pub fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(IDENTIFIER);
}

/// Adds bytes to a stream.
pub fn put(bytes: &[u8], out: &mut Vec<u8>) {
    for piece in bytes.chunks(CHUNK) {
        let packed = block::pack(piece);
        let (kind, body) = match &packed {
            Some(packed) => (COMPRESSED, packed.as_slice()),
            None => (PLAIN, piece),
        };
        // A body is no longer than a piece, so that its length fits three bytes.
        let length = u32::try_from(body.len() + SUM).unwrap_or_default();
        out.push(kind);
        out.extend(length.to_le_bytes().into_iter().take(3));
        out.extend_from_slice(&checksum::of(piece).to_le_bytes());
        out.extend_from_slice(body);
    }
}

/// Reads a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct Reader {
    input: Vec<u8>,
    /// Up to where the input was read.
    at: usize,
    has_begun: bool,
}

impl Reader {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(piece);
    }

    /// Bytes that have come and were not read.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.input.len() - self.at
    }

    /// The bytes of the next block; nothing if it has not come as a whole.
    ///
    /// # Errors
    /// [`S2Error`].
    pub fn next_block(&mut self) -> Result<Option<Vec<u8>>, S2Error> {
        loop {
            let input = self.input.get(self.at..).unwrap_or_default();
            let Some((&[kind, a, b, c], rest)) = input.split_first_chunk::<HEAD>() else {
                return Ok(None);
            };
            let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
            let is_data = kind == COMPRESSED || kind == PLAIN;
            if !self.has_begun && kind != 0xff {
                return Err(S2Error::Corrupt);
            }
            if is_data && length > MAX_BLOCK + MAX_BLOCK / 4 {
                return Err(S2Error::TooLarge);
            }
            let Some(body) = rest.get(..length) else { return Ok(None) };
            let found = match kind {
                0xff => {
                    let whole = input.get(..HEAD + length).unwrap_or_default();
                    if whole != IDENTIFIER && whole != SNAPPY_IDENTIFIER {
                        return Err(S2Error::Corrupt);
                    }
                    self.has_begun = true;
                    None
                }
                COMPRESSED | PLAIN => Some(data(kind, body)?),
                SKIPPABLE.. => None,
                _ => return Err(S2Error::Corrupt),
            };
            self.at += HEAD + length;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// [`S2Error::Incomplete`] if it stops in the middle.
    pub fn end(&self) -> Result<(), S2Error> {
        if self.has_begun && self.unread() == 0 { Ok(()) } else { Err(S2Error::Incomplete) }
    }
}

/// The bytes of one chunk.
fn data(kind: u8, body: &[u8]) -> Result<Vec<u8>, S2Error> {
    let (sum, packed) = body.split_first_chunk::<SUM>().ok_or(S2Error::Corrupt)?;
    let bytes = if kind == PLAIN { packed.to_vec() } else { block::unpack(packed)? };
    if checksum::of(&bytes).to_le_bytes() == *sum { Ok(bytes) } else { Err(S2Error::Checksum) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(stream: &[u8], piece: usize) -> Result<Vec<u8>, S2Error> {
        let mut reader = Reader::default();
        let mut bytes = Vec::new();
        for piece in stream.chunks(piece.max(1)) {
            reader.push(piece);
            while let Some(block) = reader.next_block()? {
                bytes.extend(block);
            }
        }
        reader.end().map(|()| bytes)
    }

    fn written(bytes: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        begin(&mut stream);
        put(bytes, &mut stream);
        stream
    }

    #[test]
    fn a_stream_of_the_go_library_is_read() {
        // `hello hello hello hello`, and padding, as s2.NewWriter writes it.
        let bytes = b"hello hello hello hello";
        let mut stream = written(bytes);
        stream.extend_from_slice(b"\xfe\x02\x00\x00\x00\x00");
        assert_eq!(read(&stream, 3).as_deref(), Ok(&bytes[..]));
        assert!(stream.len() < bytes.len() + 18 + 6, "it is smaller packed");
    }

    #[test]
    fn what_was_changed_is_noticed() {
        let stream = written(b"hello hello hello hello");
        for at in 0..stream.len() {
            let mut changed = stream.clone();
            changed[at] ^= 0x10;
            assert!(read(&changed, 9).is_err(), "byte {at}");
        }
        assert_eq!(read(&stream[..stream.len() - 1], 9), Err(S2Error::Incomplete));
        assert_eq!(read(b"", 9), Err(S2Error::Incomplete));
        assert_eq!(read(b"garbage", 9), Err(S2Error::Corrupt));
    }

    #[test]
    fn blocks_are_no_larger_than_they_may_be() {
        let mut stream = Vec::new();
        begin(&mut stream);
        stream.extend_from_slice(&[COMPRESSED, 0xff, 0xff, 0xff]);
        assert_eq!(read(&stream, 99), Err(S2Error::TooLarge));
    }

    /// Otherwise many small frames in one piece would each move all that follows them.
    #[test]
    fn what_was_read_is_dropped_with_the_next_piece() {
        let mut stream = written(b"a");
        stream.extend([0xfe, 0, 0, 0].repeat(1000));
        let last = &written(b"b")[IDENTIFIER.len()..];
        let mut reader = Reader::default();
        reader.push(&stream);
        assert_eq!(reader.unread(), stream.len());
        assert_eq!(reader.next_block(), Ok(Some(b"a".to_vec())));
        assert_eq!(reader.next_block(), Ok(None));
        assert_eq!((reader.unread(), reader.input.len()), (0, stream.len()));
        reader.push(last);
        assert_eq!((reader.unread(), reader.input.len()), (last.len(), last.len()));
        assert_eq!(reader.next_block(), Ok(Some(b"b".to_vec())));
        assert_eq!(reader.end(), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            words in prop::collection::vec("[a-c]{1,9}", 0..900),
            noise in prop::collection::vec(any::<u8>(), 0..300),
            piece in 1_usize..5000,
        ) {
            let bytes = [words.concat().into_bytes(), noise].concat();
            prop_assert_eq!(read(&written(&bytes), piece), Ok(bytes));
        }

        #[test]
        fn garbage_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = Vec::new();
            begin(&mut stream);
            stream.extend_from_slice(&bytes);
            _ = read(&stream, 50);
            _ = block::unpack(&bytes);
        }
    }
}
