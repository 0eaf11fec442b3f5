//! Records that are in the journal but not yet in a segment: where each lies in the buffers that
//! were written.
//!
//! Two parts: the [`Chunks`] of the whole log, and per stream a [`Tail`] of 32 bytes a record, of which
//! a search for a few among many looks at eight. It does not know which records were deleted; the engine
//! asks its bitmaps.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::codec::Fields;
use crate::ids::SubjectId;
use crate::journal::effect::{Effect, RecordEntry, decode};
use crate::log::Filter;
use crate::record::Record;
use crate::sketch::{ROW, Sketch};

/// New buffers have this capacity, so that small groups share one. In bytes.
const BUFFER: usize = 1 << 20;

/// Buffers kept to be filled again, at most: what one checkpoint of the usual size lets go. Memory
/// that is given back and taken anew costs a fault for each page, and lies idle meanwhile.
const SPARE_BUFFERS: usize = 32;

/// The buffers that groups were encoded in, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    /// Number of the first chunk in `sealed`.
    base: u64,
    sealed: VecDeque<Chunk>,
    open: BytesMut,
    /// Empty buffers to be filled again.
    spare: Vec<BytesMut>,
    /// The open chunk holds records, not only other effects.
    open_has_records: bool,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Chunk {
    /// The group it belongs to.
    group: u64,
    /// Empty if it held no records.
    bytes: Bytes,
}

impl Chunks {
    /// Number of the chunk that is being filled.
    pub(crate) fn open_number(&self) -> u64 {
        self.base + self.sealed.len() as u64
    }

    /// The buffer to encode `len` bytes into. A full buffer is pushed to `pieces` first.
    pub(crate) fn room(
        &mut self,
        len: usize,
        group: u64,
        pieces: &mut Vec<Bytes>,
    ) -> &mut BytesMut {
        if self.open.capacity() - self.open.len() < len {
            if let Some(piece) = self.seal(group) {
                pieces.push(piece);
            }
            if self.open.capacity() < len {
                let spare = if len <= BUFFER { self.spare.pop() } else { None };
                self.open = spare.unwrap_or_else(|| BytesMut::with_capacity(len.max(BUFFER)));
            }
        }
        &mut self.open
    }

    /// The open chunk gets a record.
    pub(crate) fn mark_record(&mut self) {
        self.open_has_records = true;
    }

    /// Closes the open chunk, if anything is in it, and returns its bytes.
    pub(crate) fn seal(&mut self, group: u64) -> Option<Bytes> {
        if self.open.is_empty() {
            return None;
        }
        let bytes = self.open.split().freeze();
        let kept = if self.open_has_records { bytes.clone() } else { Bytes::new() };
        self.open_has_records = false;
        self.bytes += kept.len();
        self.sealed.push_back(Chunk { group, bytes: kept });
        Some(bytes)
    }

    /// Adds a buffer that was read back from the journal. Returns its number.
    pub(crate) fn adopt(&mut self, group: u64, bytes: Bytes) -> u64 {
        self.bytes += bytes.len();
        self.sealed.push_back(Chunk { group, bytes });
        self.open_number() - 1
    }

    /// Bytes held for records.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + if self.open_has_records { self.open.len() } else { 0 }
    }

    /// The first chunk that holds something of a group after `group`.
    pub(crate) fn first_after(&self, group: u64) -> u64 {
        self.base + self.sealed.partition_point(|chunk| chunk.group <= group) as u64
    }

    /// Lets go of all chunks before `chunk`.
    pub(crate) fn release_before(&mut self, chunk: u64) {
        while self.base < chunk {
            let Some(old) = self.sealed.pop_front() else { return };
            self.bytes -= old.bytes.len();
            self.base += 1;
            self.keep_buffer(old.bytes);
        }
    }

    /// Keeps the buffer that `bytes` were the last ones of. Whoever still reads something of it
    /// keeps it instead, and it is given back after that.
    fn keep_buffer(&mut self, bytes: Bytes) {
        if self.spare.len() < SPARE_BUFFERS
            && let Ok(mut buffer) = bytes.try_into_mut()
        {
            buffer.clear();
            // Its pieces were split off one after the other; the last one alone has it all.
            if buffer.try_reclaim(BUFFER) && buffer.capacity() < 2 * BUFFER {
                self.spare.push(buffer);
            }
        }
    }

    /// The chunks before `chunk`, for another thread to read records from.
    pub(crate) fn share_before(&self, chunk: u64) -> SharedChunks {
        let count = usize::try_from(chunk.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let bytes = self.sealed.iter().take(count).map(|chunk| chunk.bytes.clone()).collect();
        SharedChunks { base: self.base, bytes }
    }

    fn bytes_of(&self, chunk: u64) -> Option<&Bytes> {
        self.sealed.get(usize::try_from(chunk.checked_sub(self.base)?).ok()?).map(|c| &c.bytes)
    }

    /// Where a record's entry begins in a sealed chunk, to be fetched with others before each is decoded.
    pub(crate) fn head(&self, place: &Place) -> &[u8] {
        head_in(self.bytes_of(place.chunk), place)
    }

    /// The record at a place in a sealed chunk.
    pub(crate) fn record(&self, place: &Place) -> Option<Record> {
        record_in(self.bytes_of(place.chunk)?, place)
    }
}

/// Some chunks, for another thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedChunks {
    base: u64,
    bytes: Vec<Bytes>,
}

impl SharedChunks {
    fn bytes_of(&self, chunk: u64) -> Option<&Bytes> {
        self.bytes.get(usize::try_from(chunk.checked_sub(self.base)?).ok()?)
    }

    /// Where a record's entry begins, to be fetched with others before each is looked at.
    pub(crate) fn head(&self, place: &Place) -> &[u8] {
        head_in(self.bytes_of(place.chunk), place)
    }

    /// The length of a record's entry, in bytes.
    pub(crate) fn entry_len(&self, place: &Place) -> usize {
        Fields::new(self.head(place)).u32().unwrap_or(0) as usize
    }

    /// A record's entry.
    pub(crate) fn entry(&self, place: &Place) -> &[u8] {
        let start = place.offset as usize;
        let bytes = self.bytes_of(place.chunk).and_then(|bytes| bytes.get(start..));
        bytes.and_then(|bytes| bytes.get(..self.entry_len(place))).unwrap_or_default()
    }

    /// The record at a place.
    pub(crate) fn record(&self, place: &Place) -> Option<Record> {
        record_in(self.bytes_of(place.chunk)?, place)
    }
}

/// Bytes of an entry that its fields and a subject of the usual length take.
const HEAD: usize = 128;

fn head_in<'a>(bytes: Option<&'a Bytes>, place: &Place) -> &'a [u8] {
    let from = bytes.and_then(|bytes| bytes.get(place.offset as usize..)).unwrap_or_default();
    from.get(..HEAD).unwrap_or(from)
}

/// The record entry at `place`, which the engine wrote or checked there.
fn record_in(bytes: &Bytes, place: &Place) -> Option<Record> {
    let start = place.offset as usize;
    let mut fields = Fields::new(bytes.get(start..)?);
    let Effect::Record(entry) = decode(fields.long_bytes()?)? else { return None };
    record_of(bytes, &entry)
}

fn record_of(bytes: &Bytes, entry: &RecordEntry<'_>) -> Option<Record> {
    let data = bytes.slice_ref(entry.data);
    Record::new(entry.seq, entry.time, entry.expires, data, entry.subject_len, entry.headers_len)
}

/// Where a record lies, and what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seq: u64,
    pub(crate) chunk: u64,
    /// Of the entry's length field in the chunk.
    pub(crate) offset: u32,
    pub(crate) subject: SubjectId,
}

/// [`Place`] in 24 bytes: chunks are counted from the tail's own base.
#[derive(Clone, Copy, Debug)]
struct Packed {
    seq: u64,
    chunk: u32,
    offset: u32,
    subject: SubjectId,
}

/// The unsealed records of one stream, in ascending order.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    chunk_base: u64,
    places: VecDeque<Packed>,
    /// Of the subject of each.
    sketches: VecDeque<Sketch>,
}

impl Tail {
    pub(crate) fn push(&mut self, place: &Place, sketch: Sketch) {
        if self.places.is_empty() {
            self.chunk_base = place.chunk;
        } else if place.chunk - self.chunk_base > u64::from(u32::MAX) {
            self.rebase();
        }
        let chunk = (place.chunk - self.chunk_base) as u32;
        let Place { seq, offset, subject, .. } = *place;
        self.places.push_back(Packed { seq, chunk, offset, subject });
        self.sketches.push_back(sketch);
    }

    fn rebase(&mut self) {
        let Some(first) = self.places.front().map(|place| place.chunk) else { return };
        self.chunk_base += u64::from(first);
        for place in &mut self.places {
            place.chunk -= first;
        }
    }

    fn unpack(&self, packed: &Packed) -> Place {
        let Packed { seq, chunk, offset, subject } = *packed;
        Place { seq, chunk: self.chunk_base + u64::from(chunk), offset, subject }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The lowest sequence in the tail.
    pub(crate) fn first(&self) -> Option<u64> {
        self.places.front().map(|place| place.seq)
    }

    /// Number of the newest record's chunk.
    pub(crate) fn last_chunk(&self) -> Option<u64> {
        self.places.back().map(|place| self.chunk_base + u64::from(place.chunk))
    }

    /// Index of the first record at or after `seq`.
    fn index_of(&self, seq: u64) -> usize {
        let Some(first) = self.first() else { return 0 };
        // Sequences are mostly without gaps, so the guess is mostly right.
        let guess = usize::try_from(seq.saturating_sub(first)).unwrap_or(usize::MAX);
        if self.places.get(guess).is_some_and(|place| place.seq == seq) {
            return guess;
        }
        self.places.partition_point(|place| place.seq < seq)
    }

    /// The record of a sequence.
    pub(crate) fn at(&self, seq: u64) -> Option<Place> {
        let packed = self.places.get(self.index_of(seq))?;
        (packed.seq == seq).then(|| self.unpack(packed))
    }

    /// Records `from..=to` and the sketches of their subjects, but for those that `filter` refuses by
    /// their sketch.
    pub(crate) fn range<'a>(
        &'a self,
        from: u64,
        to: u64,
        filter: &'a Filter,
    ) -> impl Iterator<Item = (Place, Sketch)> + 'a {
        let end = to.checked_add(1).map_or(self.len(), |end| self.index_of(end));
        let (mut row, mut first, mut next) = (&[][..], 0, self.index_of(from));
        let mut passing = 0;
        std::iter::from_fn(move || {
            while passing == 0 {
                (row, first) = (self.row(next, end), next);
                next += row.len();
                if row.is_empty() {
                    return None;
                }
                passing = filter.passing(row);
            }
            let at = passing.trailing_zeros() as usize;
            passing &= passing - 1;
            Some((self.unpack(self.places.get(first + at)?), *row.get(at)?))
        })
    }

    /// The sketches of some records from index `from` on, before index `end`.
    fn row(&self, from: usize, end: usize) -> &[Sketch] {
        let (front, back) = self.sketches.as_slices();
        let (part, passed) = if from < front.len() { (front, 0) } else { (back, front.len()) };
        let end = end.min(from + ROW).saturating_sub(passed).min(part.len());
        part.get(from - passed..end).unwrap_or_default()
    }

    /// Lets go of records in chunks before `chunk`.
    pub(crate) fn release_before(&mut self, chunk: u64) {
        let count = self.count_before(chunk);
        drop(self.places.drain(..count));
        drop(self.sketches.drain(..count));
        if self.places.is_empty() && self.places.capacity() > 1024 {
            self.clear();
        }
    }

    fn count_before(&self, chunk: u64) -> usize {
        let limit = chunk.saturating_sub(self.chunk_base);
        self.places.partition_point(|place| u64::from(place.chunk) < limit)
    }

    /// The records in chunks before `chunk`, copied for another thread.
    pub(crate) fn places_before(&self, chunk: u64) -> Vec<Place> {
        let count = self.count_before(chunk);
        self.places.iter().take(count).map(|packed| self.unpack(packed)).collect()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.places = VecDeque::new();
        self.sketches = VecDeque::new();
    }
}

/// Bytes of memory for each record of a tail beyond its own.
pub(crate) const PLACE_BYTES: usize = size_of::<Packed>() + size_of::<Sketch>();

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;
    use crate::ids::StreamId;
    use crate::journal::effect::{EntryPlace, encode_record};
    use crate::record::NewRecord;

    fn add(chunks: &mut Chunks, tail: &mut Tail, seq: u64, group: u64) {
        let record = NewRecord {
            subject: "a",
            headers: b"",
            payload: b"body",
            time: seq,
            expires: None,
            message_id: None,
        };
        let mut pieces = Vec::new();
        let room = chunks.room(100, group, &mut pieces);
        let offset = room.len() as u32;
        let place = EntryPlace { salt: 0, group, index: 0 };
        encode_record(room, place, StreamId(1), seq, &record);
        chunks.mark_record();
        let subject = SubjectId { slot: 0, generation: 0 };
        let place = Place { seq, chunk: chunks.open_number(), offset, subject };
        tail.push(&place, Sketch::of("a"));
    }

    fn at(tail: &Tail, seq: u64) -> Place {
        tail.range(seq, u64::MAX, &Filter::all()).next().unwrap().0
    }

    #[test]
    fn a_place_is_32_bytes() {
        assert_eq!(PLACE_BYTES, 32);
    }

    #[test]
    fn records_are_found_until_released() {
        let mut chunks = Chunks::default();
        let mut tail = Tail::default();
        for seq in [1, 2, 5, 6] {
            add(&mut chunks, &mut tail, seq, seq);
            chunks.seal(seq);
        }
        let record = chunks.record(&at(&tail, 5)).unwrap();
        assert_eq!((record.seq, record.subject(), record.payload()), (5, "a", &b"body"[..]));
        let found = |from, to, pattern| {
            let filter = Filter::any_of([pattern]);
            tail.range(from, to, &filter).map(|(p, _)| p.seq).collect::<Vec<_>>()
        };
        assert_eq!(found(3, u64::MAX, ">"), [5, 6]);
        assert_eq!(found(2, 5, "a"), [2, 5]);
        assert_eq!(found(0, 4, "*"), [1, 2]);
        assert_eq!(found(7, 9, "a"), []);
        assert_eq!(found(5, 4, "a"), []);
        assert_eq!(found(0, 9, "a.>"), []);
        let until = chunks.first_after(2);
        let shared = chunks.share_before(until);
        let places = tail.places_before(until);
        assert_eq!(places.iter().map(|p| p.seq).collect::<Vec<_>>(), [1, 2]);
        tail.release_before(until);
        chunks.release_before(until);
        assert_eq!((tail.first(), tail.len()), (Some(5), 2));
        assert_eq!(chunks.record(&at(&tail, 6)).unwrap().seq, 6);
        assert_eq!(shared.record(&places[0]).unwrap().seq, 1, "others may still read");
    }

    /// A search among sketches, in a ring that goes on at its beginning, finds what asking each record finds.
    #[test]
    fn a_search_skips_nothing_that_is_wanted() {
        let mut tail = Tail::default();
        let text =
            |seq: u64| format!("{}.{}", if seq.is_multiple_of(7) { "b" } else { "a" }, seq % 90);
        let subject = SubjectId { slot: 0, generation: 0 };
        let push = |seqs: std::ops::Range<u64>, tail: &mut Tail| {
            for seq in seqs.map(|n| n * 2) {
                tail.push(&Place { seq, chunk: seq, offset: 0, subject }, Sketch::of(&text(seq)));
            }
        };
        push(0..500, &mut tail);
        tail.release_before(600);
        push(500..700, &mut tail);
        assert!(!tail.sketches.as_slices().1.is_empty(), "the ring is not cut");
        for patterns in [&["b.*"][..], &["a.3", "*.77"], &["c"], &["*.5", "b.8", "b.>"], &[">"]] {
            let filter = Filter::any_of(patterns.iter().copied());
            for (from, to) in
                [(0, u64::MAX), (601, 1_201), (1_024, 1_024), (1_300, 1_500), (900, 800)]
            {
                let found = tail.range(from, to, &filter).map(|(place, _)| place.seq);
                let found: Vec<u64> = found.filter(|seq| filter.matches(&text(*seq))).collect();
                let wanted = |seq: &u64| filter.matches(&text(*seq)) && (from..=to).contains(seq);
                let expected: Vec<u64> = (300..700).map(|n| n * 2).filter(wanted).collect();
                assert_eq!(found, expected, "{patterns:?} {from} {to}");
            }
        }
    }

    #[test]
    fn a_buffer_that_nobody_reads_is_filled_again() {
        let mut chunks = Chunks::default();
        let mut tail = Tail::default();
        let mut addresses = Vec::new();
        for group in 1..=3 {
            add(&mut chunks, &mut tail, group, group);
            chunks.seal(group);
            addresses.push(chunks.bytes_of(chunks.open_number() - 1).unwrap().as_ptr());
        }
        // The open buffer is full; the released one takes its place.
        chunks.open = BytesMut::new();
        let read = chunks.record(&at(&tail, 2)).unwrap();
        chunks.release_before(2);
        assert!(chunks.spare.is_empty(), "the third piece is not released");
        chunks.release_before(3);
        assert!(chunks.spare.is_empty(), "one of its records is still read");
        assert_eq!(read.payload(), b"body");
        drop(read);
        add(&mut chunks, &mut tail, 4, 4);
        chunks.seal(4);
        chunks.open = BytesMut::new();
        let address = chunks.bytes_of(chunks.open_number() - 1).unwrap().as_ptr();
        chunks.release_before(4);
        assert_eq!(chunks.spare.len(), 1);
        add(&mut chunks, &mut tail, 5, 5);
        chunks.seal(5);
        let again = chunks.bytes_of(chunks.open_number() - 1).unwrap().as_ptr();
        assert!(again == address && chunks.open.capacity() > BUFFER - 1024);
    }

    #[test]
    fn chunks_without_records_are_not_kept() {
        let mut chunks = Chunks::default();
        chunks.room(10, 1, &mut Vec::new()).extend_from_slice(b"note");
        assert_eq!(chunks.seal(1).unwrap(), "note");
        assert_eq!(chunks.bytes(), 0);
        assert!(chunks.seal(1).is_none());
    }
}
