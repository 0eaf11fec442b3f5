//! Which subjects stand in which blocks: gathered while writing, read as postings.

use std::io;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::StreamRange;
use super::block::BlockEntry;
use super::varint::{self, Reader};

/// What a segment holds of one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectEntry {
    /// How many records.
    pub count: u64,
    /// Sequence of the first one.
    pub first: u64,
    /// Sequence of the last one.
    pub last: u64,
}

impl SubjectEntry {
    /// The entry in the value of a subject table. `base` is the stream's first sequence.
    pub(crate) fn decode(value: &[u8], base: u64) -> Option<Self> {
        Self::take(&mut Reader::new(value), base)
    }

    fn take(reader: &mut Reader<'_>, base: u64) -> Option<Self> {
        let count = reader.varint()?;
        let first = base.checked_add(reader.varint()?)?;
        let last = first.checked_add(reader.varint()?)?;
        Some(Self { count, first, last })
    }
}

/// A subject while its stream is being written.
#[derive(Clone, Copy, Debug)]
struct Gathered {
    start: u32,
    length: u16,
    /// Number of the first block it stands in, counted from 0 in the stream.
    first_block: u32,
    last_block: u32,
    blocks: u32,
    count: u64,
    first: u64,
    last: u64,
}

/// The subjects of the stream being written. Nothing is allocated for a record of a known subject.
#[derive(Default)]
pub(crate) struct SubjectTable {
    text: Vec<u8>,
    subjects: Vec<Gathered>,
    by_text: HashTable<u32>,
    /// (subject, block), for each block of a subject but its first.
    postings: Vec<(u32, u32)>,
    /// The subject of the record before.
    recent: u32,
}

impl SubjectTable {
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.subjects.clear();
        self.by_text.clear();
        self.postings.clear();
        self.recent = 0;
    }

    /// Distinct subjects so far.
    pub(crate) fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Notes a record of `subject`.
    pub(crate) fn touch(&mut self, subject: &[u8], seq: u64, block: u32) -> io::Result<()> {
        let number = self.number(subject, seq, block)?;
        self.recent = number;
        let Some(gathered) = self.subjects.get_mut(number as usize) else {
            return Ok(());
        };
        gathered.count += 1;
        gathered.last = seq;
        if gathered.last_block != block {
            gathered.last_block = block;
            gathered.blocks += 1;
            self.postings.push((number, block));
        }
        Ok(())
    }

    fn number(&mut self, subject: &[u8], seq: u64, block: u32) -> io::Result<u32> {
        let recent = self.subjects.get(self.recent as usize);
        if recent.is_some_and(|gathered| slice(&self.text, gathered) == subject) {
            return Ok(self.recent);
        }
        let hash = xxh3_64(subject);
        let same = |number: &u32| {
            let gathered = self.subjects.get(*number as usize);
            gathered.is_some_and(|gathered| slice(&self.text, gathered) == subject)
        };
        if let Some(number) = self.by_text.find(hash, same) {
            return Ok(*number);
        }
        let too_many = |_| io::Error::other("the subjects of one stream in a segment exceed 4 GiB");
        let number = u32::try_from(self.subjects.len()).map_err(too_many)?;
        let start = u32::try_from(self.text.len()).map_err(too_many)?;
        let length = u16::try_from(subject.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "a subject exceeds 65,535 bytes")
        })?;
        self.text.extend_from_slice(subject);
        self.subjects.push(Gathered {
            start,
            length,
            first_block: block,
            last_block: block,
            blocks: 1,
            count: 0,
            first: seq,
            last: seq,
        });
        let (text, subjects) = (&self.text, &self.subjects);
        self.by_text.insert_unique(hash, number, |number| {
            subjects.get(*number as usize).map_or(0, |gathered| xxh3_64(slice(text, gathered)))
        });
        Ok(number)
    }

    /// Calls `visit` with each subject and the value that says where it stands, in order of text.
    /// `blocks` are the stream's, `base` its first sequence.
    pub(crate) fn each(
        &mut self,
        blocks: &[BlockEntry],
        base: u64,
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        // Blocks of one subject stay ascending: the sort is stable.
        self.postings.sort_by_key(|(subject, _)| *subject);
        let mut order: Vec<(u32, u32)> = Vec::with_capacity(self.subjects.len());
        let mut start = 0u32;
        for (number, gathered) in (0u32..).zip(&self.subjects) {
            order.push((number, start));
            start += gathered.blocks - 1;
        }
        let text = |number: u32| {
            self.subjects.get(number as usize).map_or(&[][..], |found| slice(&self.text, found))
        };
        order.sort_unstable_by(|(left, _), (right, _)| text(*left).cmp(text(*right)));
        let mut value = Vec::new();
        for (number, start) in order {
            let Some(gathered) = self.subjects.get(number as usize) else { continue };
            let start = start as usize;
            let postings = self.postings.get(start..start + gathered.blocks as usize - 1);
            value.clear();
            encode(&mut value, gathered, postings.unwrap_or_default(), blocks, base);
            visit(text(number), &value)?;
        }
        Ok(())
    }
}

fn slice<'a>(text: &'a [u8], gathered: &Gathered) -> &'a [u8] {
    let start = gathered.start as usize;
    text.get(start..start + usize::from(gathered.length)).unwrap_or_default()
}

/// A subject's value: count, first, last, then the blocks it stands in by their first sequences:
/// all from one to another, or a list of differences.
fn encode(
    out: &mut Vec<u8>,
    gathered: &Gathered,
    postings: &[(u32, u32)],
    blocks: &[BlockEntry],
    base: u64,
) {
    let first_seq = |block: u32| blocks.get(block as usize).map_or(base, |block| block.first_seq);
    let all = gathered.last_block - gathered.first_block + 1 == gathered.blocks;
    varint::put(out, gathered.count);
    varint::put(out, gathered.first - base);
    varint::put(out, gathered.last - gathered.first);
    varint::put(out, u64::from(gathered.blocks) << 1 | u64::from(all));
    let mut before = first_seq(gathered.first_block);
    varint::put(out, before - base);
    if all {
        varint::put(out, first_seq(gathered.last_block) - before);
        return;
    }
    for (_, block) in postings {
        varint::put(out, first_seq(*block) - before);
        before = first_seq(*block);
    }
}

/// The blocks that a filter needs, by their first sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockSet {
    /// From the first sequence of one block to that of another, with all blocks between.
    /// Ascending, apart from each other once [`close`](Self::close)d.
    spans: Vec<(u64, u64)>,
    /// Spans that are sorted and apart; the rest of the list is not.
    closed: usize,
    /// No wanted record has a higher sequence.
    pub(crate) last: u64,
}

/// Spans gathered before they are sorted and joined, so that a filter that wants a million subjects
/// needs little memory.
const SPANS_UNSORTED: usize = 64 * 1024;

impl BlockSet {
    /// Adds the blocks of a subject; `None` if the value contradicts itself.
    pub(crate) fn add(&mut self, value: &[u8], base: u64) -> Option<()> {
        let mut reader = Reader::new(value);
        let entry = SubjectEntry::take(&mut reader, base)?;
        self.last = self.last.max(entry.last);
        let blocks = reader.varint()?;
        let mut block = base.checked_add(reader.varint()?)?;
        if blocks & 1 == 1 {
            let last = block.checked_add(reader.varint()?)?;
            self.spans.push((block, last));
        } else {
            self.spans.push((block, block));
            for _ in 1..blocks >> 1 {
                block = block.checked_add(reader.varint()?)?;
                self.spans.push((block, block));
            }
        }
        if self.spans.len() - self.closed > SPANS_UNSORTED.max(self.closed) {
            self.close();
        }
        (reader.left() == 0).then_some(())
    }

    /// Sorts and joins what was added.
    pub(crate) fn close(&mut self) {
        self.spans.sort_unstable();
        self.spans.dedup_by(|next, before| {
            let joined = next.0 <= before.1;
            if joined {
                before.1 = before.1.max(next.1);
            }
            joined
        });
        self.closed = self.spans.len();
    }

    /// The first wanted block among those whose first sequence is `seq` or more, by its own.
    pub(crate) fn at_or_after(&self, seq: u64) -> Option<u64> {
        let at = self.spans.partition_point(|(_, last)| *last < seq);
        self.spans.get(at).map(|(first, _)| (*first).max(seq))
    }

    /// All blocks of the stream in this segment.
    pub(crate) fn all_of(range: &StreamRange) -> Self {
        Self { spans: vec![(range.first_seq, range.last_seq)], closed: 1, last: range.last_seq }
    }

    /// Whether it holds all blocks of the stream in this segment.
    pub(crate) fn is_all_of(&self, range: &StreamRange) -> bool {
        let is_one_row = self.spans.len() == 1
            && self.spans.first().is_some_and(|(first, _)| *first <= range.first_seq);
        is_one_row && self.last >= range.last_seq
    }

    /// Bytes it keeps in memory.
    pub(crate) fn memory(&self) -> usize {
        self.spans.capacity() * size_of::<(u64, u64)>()
    }
}
