//! The fixed parts of a segment file: its header, its trailer, and what its directory says of each
//! stream.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::table::Pointer;
use super::varint::{self, Reader};
use super::{MAJOR, MINOR, SegmentId, StreamRange, seed};
use crate::ids::StreamId;

/// The first bytes of every segment.
const HEADER_MAGIC: &[u8; 8] = b"CBSEGMNT";
/// The last bytes of every segment.
const TRAILER_MAGIC: &[u8; 8] = b"CBSEGEND";
/// Length of the file's header in bytes.
pub(crate) const HEADER: usize = 96;
/// Length of the file's trailer in bytes.
pub(crate) const TRAILER: usize = 64;

/// What is wrong with a header or trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// A later version wrote it.
    Newer(u16),
    /// It is damaged, or no segment at all.
    Damaged(&'static str),
}

/// The file's header. Cipher, key id, nonce and tag are reserved and zero.
pub(crate) fn encode_header(segment: SegmentId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(HEADER_MAGIC);
    out.extend_from_slice(&MAJOR.to_le_bytes());
    out.extend_from_slice(&MINOR.to_le_bytes());
    // Cipher (2), reserved (2).
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&segment.0.to_le_bytes());
    // Key id (16), nonce (24), tag (16), reserved (8).
    out.extend_from_slice(&[0; 64]);
    let sum = xxh3_64_with_seed(&out, seed(segment, 0));
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Checks a file's header, and returns which segment it says it is.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<SegmentId, Wrong> {
    const CUT: Wrong = Wrong::Damaged("the file is shorter than its header");
    let mut reader = Reader::new(bytes);
    if reader.take(8).ok_or(CUT)? != HEADER_MAGIC {
        return Err(Wrong::Damaged("this is not a segment file"));
    }
    let major = reader.u16().ok_or(CUT)?;
    if major > MAJOR {
        return Err(Wrong::Newer(major));
    }
    reader.take(2 + 4).ok_or(CUT)?;
    let segment = SegmentId(reader.u64().ok_or(CUT)?);
    reader.take(64).ok_or(CUT)?;
    let covered = bytes.get(..HEADER - 8).ok_or(CUT)?;
    if reader.u64() != Some(xxh3_64_with_seed(covered, seed(segment, 0))) {
        return Err(Wrong::Damaged("the file header's checksum does not match"));
    }
    Ok(segment)
}

/// The end of a file, from which all else is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) segment: SegmentId,
    pub(crate) directory: Pointer,
    /// How many streams the directory holds.
    pub(crate) streams: u32,
    /// XXH3-64 of all bytes before the trailer.
    pub(crate) digest: u64,
    /// Length of the file with the trailer.
    pub(crate) length: u64,
}

impl Trailer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.directory.offset.to_le_bytes());
        out.extend_from_slice(&self.directory.length.to_le_bytes());
        out.extend_from_slice(&self.streams.to_le_bytes());
        out.extend_from_slice(&self.digest.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.segment.0.to_le_bytes());
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(TRAILER_MAGIC);
        if let Some((sum, covered)) = out.split_first_chunk_mut::<8>() {
            let seed = seed(self.segment, self.length);
            *sum = xxh3_64_with_seed(covered, seed).to_le_bytes();
        }
        out
    }

    /// The trailer in the last bytes of a file. The place of the version and the magic is the same
    /// in all versions to come.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Wrong> {
        const CUT: Wrong = Wrong::Damaged("the file is shorter than its trailer");
        let mut reader = Reader::new(bytes);
        let sum = reader.u64().ok_or(CUT)?;
        let directory =
            Pointer { offset: reader.u64().ok_or(CUT)?, length: reader.u32().ok_or(CUT)? };
        let streams = reader.u32().ok_or(CUT)?;
        let digest = reader.u64().ok_or(CUT)?;
        let length = reader.u64().ok_or(CUT)?;
        let segment = SegmentId(reader.u64().ok_or(CUT)?);
        let major = reader.u16().ok_or(CUT)?;
        reader.take(6).ok_or(CUT)?;
        if reader.take(8).ok_or(CUT)? != TRAILER_MAGIC {
            return Err(Wrong::Damaged("the file does not end as a segment does"));
        }
        if major > MAJOR {
            return Err(Wrong::Newer(major));
        }
        let covered = bytes.get(8..).ok_or(CUT)?;
        if sum != xxh3_64_with_seed(covered, seed(segment, length)) {
            return Err(Wrong::Damaged("the trailer's checksum does not match"));
        }
        Ok(Self { segment, directory, streams, digest, length })
    }
}

/// What the directory says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamEntry {
    pub(crate) range: StreamRange,
    /// Distinct subjects.
    pub(crate) subjects: u64,
    /// Last sequence of a block -> block.
    pub(crate) block_table: Pointer,
    /// Subject -> count, first, last, postings.
    pub(crate) subject_table: Pointer,
    /// Time and sequence of each record that expires by itself -> nothing.
    pub(crate) expiry_table: Pointer,
}

impl StreamEntry {
    /// The value under the key `stream`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let range = &self.range;
        varint::put(out, range.first_seq);
        varint::put(out, range.last_seq - range.first_seq);
        varint::put(out, range.count);
        varint::put(out, range.bytes);
        varint::put(out, range.first_time);
        varint::put(out, range.last_time - range.first_time);
        varint::put(out, u64::from(range.next_expiry.is_some()));
        varint::put(out, range.next_expiry.unwrap_or_default());
        varint::put(out, self.subjects);
        self.block_table.encode(out);
        self.subject_table.encode(out);
        self.expiry_table.encode(out);
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let stream = StreamId(u64::from_be_bytes(key.try_into().ok()?));
        let mut reader = Reader::new(value);
        let first_seq = reader.varint()?;
        let last_seq = first_seq.checked_add(reader.varint()?)?;
        let count = reader.varint()?;
        let bytes = reader.varint()?;
        let first_time = reader.varint()?;
        let last_time = first_time.checked_add(reader.varint()?)?;
        let expires = reader.varint()? == 1;
        let next_expiry = reader.varint().filter(|_| expires);
        let entry = Self {
            range: StreamRange {
                stream,
                first_seq,
                last_seq,
                count,
                bytes,
                first_time,
                last_time,
                next_expiry,
            },
            subjects: reader.varint()?,
            block_table: Pointer::decode(&mut reader)?,
            subject_table: Pointer::decode(&mut reader)?,
            expiry_table: Pointer::decode(&mut reader)?,
        };
        (reader.left() == 0).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    const TRAILER_SAMPLE: Trailer = Trailer {
        segment: SegmentId(7),
        directory: Pointer { offset: 1000, length: 200 },
        streams: 3,
        digest: 99,
        length: 1264,
    };

    #[test]
    fn sizes_are_fixed() {
        assert_eq!(encode_header(SegmentId(1)).len(), HEADER);
        assert_eq!(TRAILER_SAMPLE.encode().len(), TRAILER);
    }

    #[test]
    fn a_newer_major_is_named_before_anything_else() {
        let mut header = encode_header(SegmentId(1));
        header[8] = 9;
        assert_eq!(decode_header(&header), Err(Wrong::Newer(9)));
        let mut trailer = TRAILER_SAMPLE.encode();
        trailer[48] = 9;
        assert_eq!(Trailer::decode(&trailer), Err(Wrong::Newer(9)));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (header, trailer) = (encode_header(SegmentId(5)), TRAILER_SAMPLE.encode());
        assert_eq!(decode_header(&header), Ok(SegmentId(5)));
        assert_eq!(Trailer::decode(&trailer), Ok(TRAILER_SAMPLE));
        for bit in 0..HEADER * 8 {
            let mut damaged = header.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&damaged).is_err(), "header bit {bit}");
        }
        for bit in 0..TRAILER * 8 {
            let mut damaged = trailer.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Trailer::decode(&damaged).is_err(), "trailer bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = decode_header(&bytes);
            let _ = Trailer::decode(&bytes);
            let _ = StreamEntry::decode(&[0; 8], &bytes);
        }
    }
}
