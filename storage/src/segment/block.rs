//! Blocks: consecutive records of one stream, compressed together and self-describing.
//!
//! A block carries a checksum over all it stores and every record in it one of its own. Decoding
//! verifies the first; a record's own is verified when the record is handed out, as a slice of one
//! buffer: a reader of a few records does not pay for all of them. No record is ever copied.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::varint::{self, Reader};
use super::{BLOCK_BYTES, BLOCK_BYTES_MAX};
use crate::ids::StreamId;
use crate::log::Compression;
use crate::record::Record;

/// "CBBK", little-endian.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"CBBK");
/// Bytes before the stored ones.
pub(crate) const HEADER: usize = 80;
/// Bytes after the stored ones: the checksum.
pub(crate) const CHECKSUM: usize = 8;
/// Bytes of a record's own checksum.
const RECORD_CHECKSUM: usize = 4;
/// zstd's level: its own default, beyond which the writing thread could not keep up with publishers.
const ZSTD_LEVEL: i32 = 3;

/// Where a block lies and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// Sequence of its first record.
    pub first_seq: u64,
    /// Sequence of its last record.
    pub last_seq: u64,
    /// The earliest time of its records, in nanoseconds since the Unix epoch.
    pub first_time: u64,
    /// The latest time of its records, in nanoseconds since the Unix epoch.
    pub last_time: u64,
    /// Where it starts in the file.
    pub offset: u64,
    /// Its length in the file in bytes, with header and checksum.
    pub length: u32,
    /// How many records.
    pub count: u32,
}

impl BlockEntry {
    /// The value under the key `last_seq` in a block table.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.last_seq - self.first_seq);
        varint::put(out, self.first_time);
        varint::put(out, self.last_time - self.first_time);
        varint::put(out, self.offset);
        varint::put(out, u64::from(self.length));
        varint::put(out, u64::from(self.count));
    }

    pub(crate) fn decode(last_seq: u64, value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let first_seq = last_seq.checked_sub(reader.varint()?)?;
        let first_time = reader.varint()?;
        let last_time = first_time.checked_add(reader.varint()?)?;
        let offset = reader.varint()?;
        let length = u32::try_from(reader.varint()?).ok()?;
        let count = u32::try_from(reader.varint()?).ok()?;
        let complete = reader.left() == 0;
        complete.then_some(Self {
            first_seq,
            last_seq,
            first_time,
            last_time,
            offset,
            length,
            count,
        })
    }
}

/// The seed of a record's own checksum: a record that stands under a wrong sequence, time or stream
/// does not pass.
fn record_seed(stream: StreamId, seq: u64, time: u64) -> u64 {
    seq ^ time.rotate_left(24) ^ stream.0.rotate_left(48)
}

/// Compresses blocks, keeping its tables between them.
pub(crate) struct Compressor {
    lz4: lz4_flex::block::CompressTable,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    output: Vec<u8>,
}

impl Compressor {
    pub(crate) fn new() -> Self {
        Self { lz4: lz4_flex::block::CompressTable::default(), zstd: None, output: Vec::new() }
    }

    /// The codec's number and the bytes to store. A block that does not shrink stays as it is.
    fn compress<'a>(
        &'a mut self,
        raw: &'a [u8],
        compression: Compression,
    ) -> std::io::Result<(u8, &'a [u8])> {
        let bound = match compression {
            Compression::Off => return Ok((0, raw)),
            Compression::Lz4 => lz4_flex::block::get_maximum_output_size(raw.len()),
            Compression::Zstd => zstd::zstd_safe::compress_bound(raw.len()),
        };
        if self.output.len() < bound {
            self.output.resize(bound, 0);
        }
        let (codec, length) = if compression == Compression::Lz4 {
            let length =
                lz4_flex::block::compress_into_with_table(raw, &mut self.output, &mut self.lz4)
                    .map_err(std::io::Error::other)?;
            (1, length)
        } else {
            let compressor = match &mut self.zstd {
                Some(compressor) => compressor,
                None => self.zstd.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
            };
            (2, compressor.compress_to_buffer(raw, &mut self.output)?)
        };
        match self.output.get(..length) {
            Some(smaller) if length < raw.len() => Ok((codec, smaller)),
            _ => Ok((0, raw)),
        }
    }
}

/// Gathers the records of one block.
#[derive(Default)]
pub(crate) struct BlockBuilder {
    raw: Vec<u8>,
    first_seq: u64,
    last_seq: u64,
    first_time: u64,
    last_time: u64,
    /// The time of the record before, which is not `last_time` if times went back.
    previous_time: u64,
    count: u32,
}

impl BlockBuilder {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `bytes` more would make the block larger than it should be.
    pub(crate) fn is_full_for(&self, bytes: usize) -> bool {
        self.count > 0 && self.raw.len() + bytes > BLOCK_BYTES
    }

    pub(crate) fn push(&mut self, stream: StreamId, record: &Record) {
        let start = self.raw.len();
        let data = record.data();
        let raw = &mut self.raw;
        if self.count == 0 {
            self.first_seq = record.seq;
            self.last_seq = 0;
            self.previous_time = 0;
            self.first_time = record.time;
            self.last_time = record.time;
        }
        varint::put(raw, record.seq - self.last_seq);
        varint::put_signed(raw, self.previous_time, record.time);
        varint::put(raw, (record.subject_len() as u64) << 1 | u64::from(record.expires.is_some()));
        varint::put(raw, record.headers_len() as u64);
        varint::put(raw, (data.len() - record.subject_len() - record.headers_len()) as u64);
        if let Some(expires) = record.expires {
            varint::put_signed(raw, record.time, expires);
        }
        raw.extend_from_slice(data);
        let seed = record_seed(stream, record.seq, record.time);
        let sum = xxh3_64_with_seed(raw.get(start..).unwrap_or_default(), seed) as u32;
        raw.extend_from_slice(&sum.to_le_bytes());
        self.last_seq = record.seq;
        self.previous_time = record.time;
        self.first_time = self.first_time.min(record.time);
        self.last_time = self.last_time.max(record.time);
        self.count += 1;
    }

    /// Appends the block to `out`, where it will stand at `offset` of the file, and begins the next.
    pub(crate) fn seal(
        &mut self,
        stream: StreamId,
        compression: Compression,
        compressor: &mut Compressor,
        place: (u64, u64),
        out: &mut Vec<u8>,
    ) -> std::io::Result<BlockEntry> {
        let (offset, seed) = place;
        let start = out.len();
        let (codec, stored) = compressor.compress(&self.raw, compression)?;
        let too_large = |_| std::io::Error::other("a block is larger than 4 GiB");
        let raw_len = u32::try_from(self.raw.len()).map_err(too_large)?;
        let stored_len = u32::try_from(stored.len()).map_err(too_large)?;
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[codec, 0, 0, 0]);
        for number in [stream.0, self.first_seq, self.last_seq, self.first_time, self.last_time] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.count, raw_len, stored_len, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        // Reserved for the tag of an encrypted block.
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(stored);
        let sum = xxh3_64_with_seed(out.get(start..).unwrap_or_default(), seed);
        out.extend_from_slice(&sum.to_le_bytes());
        let entry = BlockEntry {
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            first_time: self.first_time,
            last_time: self.last_time,
            offset,
            length: u32::try_from(out.len() - start).map_err(too_large)?,
            count: self.count,
        };
        self.raw.clear();
        self.count = 0;
        Ok(entry)
    }
}

/// One record's place in a decoded block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) time: u64,
    expires: Option<u64>,
    start: u32,
    length: u32,
    headers: u32,
    subject: u16,
    /// Bytes of its numbers, which stand before `start`.
    numbers: u8,
}

/// A decoded block, whose own checksum was good.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) stream: StreamId,
    pub(crate) entries: Vec<Entry>,
    raw: Bytes,
}

/// The numbers in a block's header.
struct Header {
    codec: u8,
    stream: StreamId,
    first_seq: u64,
    last_seq: u64,
    first_time: u64,
    last_time: u64,
    count: u32,
    raw_len: u32,
    stored_len: u32,
}

impl Header {
    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        Self::fields(&mut Reader::new(bytes)).ok_or("a block is shorter than its header")?
    }

    fn fields(reader: &mut Reader<'_>) -> Option<Result<Self, &'static str>> {
        if reader.u32()? != MAGIC {
            return Some(Err("no block starts here"));
        }
        let codec = reader.u8()?;
        let cipher = reader.u8()?;
        let reserved = reader.u16()?;
        let header = Self {
            codec,
            stream: StreamId(reader.u64()?),
            first_seq: reader.u64()?,
            last_seq: reader.u64()?,
            first_time: reader.u64()?,
            last_time: reader.u64()?,
            count: reader.u32()?,
            raw_len: reader.u32()?,
            stored_len: reader.u32()?,
        };
        if cipher != 0 || reserved != 0 || reader.u32()? != 0 || reader.array()? != [0u8; 16] {
            return Some(Err("the block uses a feature this version does not have"));
        }
        if header.raw_len as usize > BLOCK_BYTES_MAX {
            return Some(Err("the block claims to be larger than any block"));
        }
        Some(Ok(header))
    }
}

impl Block {
    /// Decodes the block in `bytes`, whose checksum was made with `seed`.
    pub(crate) fn decode(bytes: Vec<u8>, seed: u64) -> Result<Self, &'static str> {
        let body_end = bytes.len().checked_sub(CHECKSUM).ok_or("a block is cut off")?;
        let (body, sum) = bytes.split_at_checked(body_end).ok_or("a block is cut off")?;
        if sum != xxh3_64_with_seed(body, seed).to_le_bytes() {
            return Err("a block's checksum does not match");
        }
        let header = Header::decode(body)?;
        let stored = body.get(HEADER..).ok_or("a block is cut off")?;
        if stored.len() != header.stored_len as usize {
            return Err("a block has another length than it says");
        }
        let raw = match header.codec {
            0 => Bytes::from(bytes).slice(HEADER..body_end),
            codec => Bytes::from(decompress(codec, stored, header.raw_len as usize)?),
        };
        if raw.len() != header.raw_len as usize {
            return Err("a block decodes to another length than it says");
        }
        let entries = parse(&header, &raw).ok_or("a block contradicts itself")?;
        Ok(Self { stream: header.stream, entries, raw })
    }

    /// Whether the block is what its table says.
    pub(crate) fn is(&self, stream: StreamId, place: &BlockEntry) -> bool {
        let ends = (self.entries.first(), self.entries.last());
        let (Some(first), Some(last)) = ends else {
            return false;
        };
        self.stream == stream
            && first.seq == place.first_seq
            && last.seq == place.last_seq
            && self.entries.len() == place.count as usize
    }

    /// Bytes it keeps in memory.
    pub(crate) fn memory(&self) -> usize {
        self.raw.len() + self.entries.len() * size_of::<Entry>()
    }

    /// The subject of the record at `entry`, as bytes.
    pub(crate) fn subject(&self, entry: &Entry) -> &[u8] {
        let start = entry.start as usize;
        self.raw.get(start..start + usize::from(entry.subject)).unwrap_or_default()
    }

    /// The record at `entry`, a slice of the block, its own checksum verified.
    pub(crate) fn record(&self, entry: &Entry) -> Result<Record, &'static str> {
        if !self.is_intact(entry) {
            return Err("a record's checksum does not match");
        }
        let start = entry.start as usize;
        let data = self.raw.slice(start..start + entry.length as usize);
        Record::new(entry.seq, entry.time, entry.expires, data, entry.subject, entry.headers)
            .ok_or("a subject is no text")
    }

    /// Whether the record's own checksum is right.
    fn is_intact(&self, entry: &Entry) -> bool {
        let (start, end) = (entry.start as usize, entry.start as usize + entry.length as usize);
        let hashed = self.raw.get(start - usize::from(entry.numbers)..end).unwrap_or_default();
        let sum = xxh3_64_with_seed(hashed, record_seed(self.stream, entry.seq, entry.time)) as u32;
        self.raw.get(end..end + RECORD_CHECKSUM) == Some(sum.to_le_bytes().as_slice())
    }
}

fn decompress(codec: u8, stored: &[u8], raw_len: usize) -> Result<Vec<u8>, &'static str> {
    const WRONG: &str = "a block cannot be decompressed";
    let mut raw = vec![0; raw_len];
    let length = match codec {
        1 => lz4_flex::block::decompress_into(stored, &mut raw).map_err(|_| WRONG)?,
        2 => zstd::bulk::decompress_to_buffer(stored, raw.as_mut_slice()).map_err(|_| WRONG)?,
        _ => return Err("the block's compression is unknown"),
    };
    if length == raw_len { Ok(raw) } else { Err(WRONG) }
}

/// Reads the records' places, and checks that they are what the header says. Their checksums are
/// left to whoever uses them.
fn parse(header: &Header, raw: &[u8]) -> Option<Vec<Entry>> {
    /// No record takes fewer bytes: five numbers and the checksum.
    const RECORD_BYTES_MIN: usize = 9;
    let mut entries = Vec::with_capacity((header.count as usize).min(raw.len() / RECORD_BYTES_MIN));
    let mut reader = Reader::new(raw);
    let (mut seq, mut time) = (0u64, 0u64);
    while reader.left() > 0 {
        let begin = raw.len() - reader.left();
        let step = reader.varint()?;
        if step == 0 {
            return None;
        }
        seq = seq.checked_add(step)?;
        time = reader.signed(time)?;
        let subject = reader.varint()?;
        let headers = u32::try_from(reader.varint()?).ok()?;
        let payload = usize::try_from(reader.varint()?).ok()?;
        let expires = if subject & 1 == 1 { Some(reader.signed(time)?) } else { None };
        let subject = u16::try_from(subject >> 1).ok()?;
        let start = raw.len() - reader.left();
        let length = payload.checked_add(usize::from(subject) + headers as usize)?;
        reader.take(length)?;
        reader.take(RECORD_CHECKSUM)?;
        if time < header.first_time || time > header.last_time {
            return None;
        }
        // Six varints of ten bytes at most.
        let numbers = u8::try_from(start - begin).ok()?;
        let (start, length) = (u32::try_from(start).ok()?, u32::try_from(length).ok()?);
        entries.push(Entry { seq, time, expires, start, length, headers, subject, numbers });
    }
    let fits = entries.len() == header.count as usize
        && entries.first()?.seq == header.first_seq
        && seq == header.last_seq;
    fits.then_some(entries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// A block whose header and checksum are right, around bytes that may be anything.
    fn around(codec: u8, stored: &[u8], counts: (u32, u32), ends: (u64, u64)) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[codec, 0, 0, 0]);
        for number in [1, ends.0, ends.1, 0, u64::MAX] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [counts.0, counts.1, stored.len() as u32, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(stored);
        let sum = xxh3_64_with_seed(&out, 0);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    #[test]
    fn a_length_beyond_any_block_takes_no_memory() {
        let block = around(1, b"abc", (1, u32::MAX), (1, 1));
        let error = Block::decode(block, 0).unwrap_err();
        assert!(error.contains("larger than any block"), "{error}");
    }

    /// The raw bytes of a block of `stream` with records of these sequences, otherwise alike.
    fn raw(stream: u64, seqs: &[u64]) -> Vec<u8> {
        let mut builder = BlockBuilder::default();
        for seq in seqs {
            let record = Record::new(*seq, 5, None, Bytes::from_static(b"abc"), 1, 0).unwrap();
            builder.push(StreamId(stream), &record);
        }
        builder.raw
    }

    #[test]
    fn a_record_in_the_wrong_place_is_noticed() {
        let wrap = |raw: &[u8], count, ends| around(0, raw, (count, raw.len() as u32), ends);
        let pair = raw(1, &[7, 8]);
        assert_eq!(Block::decode(wrap(&pair, 2, (7, 8)), 0).unwrap().entries.len(), 2);
        // The checksums of these blocks are right, those of a record are not: the second record
        // follows another one, so its sequence is 10; and the records are of another stream.
        let first = raw(1, &[7]).len();
        let moved = [raw(1, &[9]), pair.get(first..).unwrap().to_vec()].concat();
        for bad in [wrap(&moved, 2, (9, 10)), wrap(&raw(2, &[7, 8]), 2, (7, 8))] {
            let block = Block::decode(bad, 0).unwrap();
            let error = block.record(block.entries.last().unwrap()).unwrap_err();
            assert_eq!(error, "a record's checksum does not match");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            codec in 0u8..4,
            raw_len in 0u32..500,
            count in 0u32..50,
        ) {
            let raw_block = around(0, &bytes, (count, bytes.len() as u32), (1, 9));
            let packed_block = around(codec, &bytes, (count, raw_len), (1, 9));
            for block in [bytes.clone(), packed_block, raw_block] {
                if let Ok(block) = Block::decode(block, 0) {
                    block.entries.iter().for_each(|entry| drop(block.record(entry)));
                }
            }
            let _ = BlockEntry::decode(5, &bytes);
        }
    }
}
