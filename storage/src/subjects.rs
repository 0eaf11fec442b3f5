//! The subjects of one stream: text, count, first and last sequence, and a small number for each.
//!
//! Built for a million subjects in about 100 MB: texts lie in shared chunks, a slot is 40 bytes, a sketch 8, and
//! the hash table holds only slot numbers. It does not know which records exist; the engine says what
//! was appended and deleted.

use hashbrown::HashTable;

use crate::codec::checksum;
use crate::ids::SubjectId;
use crate::log::{Filter, SubjectSummary};
use crate::sketch::Sketch;

/// Capacity of a full chunk of texts, in bytes; a subject is never longer.
const CHUNK: usize = 1 << 16;
/// Capacity of the first chunk: most streams have few subjects.
const FIRST_CHUNK: usize = 256;
/// In `Slot::last`: no record stands at `last` any more. Sequences stay below 2^63.
const INEXACT: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    chunk: u32,
    offset: u16,
    len: u16,
    hash: u32,
    /// Raised when the slot is freed. Its lowest bit is not special.
    generation: u32,
    /// 0 for a free slot.
    count: u64,
    first: u64,
    last: u64,
}

/// What changed since the last checkpoint, and is to be written with the next.
#[derive(Debug, Default)]
struct Dirty {
    /// One bit per slot.
    marks: Vec<u64>,
    slots: Vec<u32>,
    /// Texts of subjects that are gone.
    removed: Vec<Box<str>>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct SubjectTable {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    /// One for each slot, apart from them, so that a filter reads little memory.
    sketches: Vec<Sketch>,
    free: Vec<u32>,
    chunks: Vec<Vec<u8>>,
    /// Bytes in chunks, and how many of them belong to no subject any more.
    text_bytes: usize,
    dead_bytes: usize,
    /// The slot used last: publishers tend to stay on a subject.
    recent: u32,
    dirty: Dirty,
}

/// Spreads the 32 bits that are kept over the 64 that the hash table wants.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn hash_of(text: &str) -> u32 {
    (checksum(text.as_bytes()) >> 32) as u32
}

impl SubjectTable {
    /// Subjects with records.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    fn slot(&self, slot: u32) -> Slot {
        self.slots.get(slot as usize).copied().unwrap_or_default()
    }

    fn text_of(&self, slot: &Slot) -> &str {
        let start = usize::from(slot.offset);
        self.chunks
            .get(slot.chunk as usize)
            .and_then(|chunk| chunk.get(start..start + usize::from(slot.len)))
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    fn is_text(&self, slot: u32, text: &str) -> bool {
        let slot = self.slot(slot);
        let start = usize::from(slot.offset);
        slot.count != 0
            && usize::from(slot.len) == text.len()
            && self
                .chunks
                .get(slot.chunk as usize)
                .and_then(|chunk| chunk.get(start..start + text.len()))
                == Some(text.as_bytes())
    }

    fn find(&self, text: &str) -> Option<u32> {
        if self.is_text(self.recent, text) {
            return Some(self.recent);
        }
        self.table.find(spread(hash_of(text)), |slot| self.is_text(*slot, text)).copied()
    }

    /// The subject's number and counts.
    pub(crate) fn get(&self, text: &str) -> Option<SubjectSummary> {
        self.find(text).map(|slot| self.summary(slot))
    }

    /// The counts of a subject by its number.
    pub(crate) fn by_id(&self, id: SubjectId) -> Option<SubjectSummary> {
        let slot = self.slots.get(id.slot as usize)?;
        (slot.count != 0 && slot.generation == id.generation).then(|| self.summary(id.slot))
    }

    /// The text of a subject by its number.
    pub(crate) fn text(&self, id: SubjectId) -> Option<&str> {
        let slot = self.slots.get(id.slot as usize)?;
        (slot.count != 0 && slot.generation == id.generation).then(|| self.text_of(slot))
    }

    /// The subject's sketch.
    pub(crate) fn sketch(&self, id: SubjectId) -> Sketch {
        self.sketches.get(id.slot as usize).copied().unwrap_or_default()
    }

    /// Whether `filter` wants the subject. It may have no records any more.
    pub(crate) fn is_wanted(&self, id: SubjectId, filter: &Filter) -> bool {
        let Some(sketch) = self.sketches.get(id.slot as usize) else { return false };
        filter.wants(*sketch, || self.text(id).unwrap_or_default())
    }

    fn summary(&self, number: u32) -> SubjectSummary {
        let slot = self.slot(number);
        SubjectSummary {
            id: SubjectId { slot: number, generation: slot.generation },
            count: slot.count,
            first: slot.first,
            last: slot.last & !INEXACT,
            last_is_exact: slot.last & INEXACT == 0,
        }
    }

    /// Counts a record appended at `seq`, higher than all before.
    pub(crate) fn appended(&mut self, text: &str, seq: u64) -> SubjectId {
        let number = match self.find(text) {
            Some(number) => number,
            None => self.insert(text, seq),
        };
        self.recent = number;
        let mut generation = 0;
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.count += 1;
            slot.last = seq;
            generation = slot.generation;
        }
        self.touch(number);
        SubjectId { slot: number, generation }
    }

    /// Takes over what a checkpoint wrote about a subject, replacing what is known. A count
    /// of 0 removes it.
    pub(crate) fn load(&mut self, text: &str, count: u64, first: u64, last: u64, exact: bool) {
        let found = self.find(text);
        if count == 0 {
            if let Some(number) = found {
                self.remove(number);
            }
            return;
        }
        let number = found.unwrap_or_else(|| self.insert(text, first));
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.count = count;
            slot.first = first;
            slot.last = if exact { last } else { last | INEXACT };
        }
    }

    /// Counts a deleted record. Returns the subject's text while it can still be known.
    pub(crate) fn deleted(&mut self, id: SubjectId, seq: u64) {
        if self.by_id(id).is_none() {
            return;
        }
        let Some(slot) = self.slots.get_mut(id.slot as usize) else { return };
        slot.count -= 1;
        if slot.first == seq {
            slot.first = seq + 1;
        }
        if slot.last == seq {
            slot.last = seq | INEXACT;
        }
        if slot.count == 0 {
            let text = Box::from(self.text_of(&self.slot(id.slot)));
            self.remove(id.slot);
            self.dirty.removed.push(text);
        } else {
            self.touch(id.slot);
        }
    }

    fn insert(&mut self, text: &str, seq: u64) -> u32 {
        self.compact_if_due();
        let (chunk, offset) = self.store(text);
        let number = self.free.pop().unwrap_or(self.slots.len() as u32);
        if number as usize == self.slots.len() {
            self.slots.push(Slot::default());
            self.sketches.push(Sketch::default());
        }
        let hash = hash_of(text);
        if let Some(slot) = self.slots.get_mut(number as usize) {
            let generation = slot.generation;
            // `len` fits: subjects are at most 65,535 bytes.
            let len = text.len() as u16;
            *slot = Slot { chunk, offset, len, hash, generation, count: 0, first: seq, last: seq };
        }
        if let Some(sketch) = self.sketches.get_mut(number as usize) {
            *sketch = Sketch::of(text);
        }
        let slots = &self.slots;
        self.table.insert_unique(spread(hash), number, |other| {
            spread(slots.get(*other as usize).map_or(0, |slot| slot.hash))
        });
        number
    }

    fn store(&mut self, text: &str) -> (u32, u16) {
        let fits = |chunk: &Vec<u8>| chunk.len() + text.len() <= chunk.capacity();
        if !self.chunks.last().is_some_and(fits) {
            let previous = self.chunks.last().map_or(0, Vec::capacity);
            let wanted = (previous * 4).clamp(FIRST_CHUNK, CHUNK).max(text.len());
            self.chunks.push(Vec::with_capacity(wanted));
        }
        let number = self.chunks.len() - 1;
        let Some(chunk) = self.chunks.last_mut() else { return (0, 0) };
        let offset = chunk.len();
        chunk.extend_from_slice(text.as_bytes());
        self.text_bytes += text.len();
        // Offsets stay below the capacity of a chunk.
        (number as u32, offset as u16)
    }

    fn remove(&mut self, number: u32) {
        let removed = self.slot(number);
        let entry = self.table.find_entry(spread(removed.hash), |slot| *slot == number);
        if let Ok(entry) = entry {
            entry.remove();
        }
        self.dead_bytes += usize::from(removed.len);
        if let Some(slot) = self.slots.get_mut(number as usize) {
            let generation = slot.generation.wrapping_add(1);
            *slot = Slot { generation, ..Slot::default() };
        }
        self.free.push(number);
    }

    /// Copies the texts together once most of what lies in the chunks is dead.
    fn compact_if_due(&mut self) {
        if self.dead_bytes < CHUNK || self.dead_bytes * 2 < self.text_bytes {
            return;
        }
        let old = std::mem::take(&mut self.chunks);
        self.text_bytes = 0;
        self.dead_bytes = 0;
        for number in 0..self.slots.len() {
            let Some(slot) = self.slots.get(number).copied() else { continue };
            if slot.count == 0 {
                continue;
            }
            let start = usize::from(slot.offset);
            let text = old
                .get(slot.chunk as usize)
                .and_then(|chunk| chunk.get(start..start + usize::from(slot.len)))
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .unwrap_or_default();
            let (chunk, offset) = self.store(text);
            if let Some(slot) = self.slots.get_mut(number) {
                slot.chunk = chunk;
                slot.offset = offset;
            }
        }
    }

    /// Forgets all subjects. Numbers given out before stay invalid.
    pub(crate) fn clear(&mut self) {
        self.table.clear();
        self.chunks = Vec::new();
        self.text_bytes = 0;
        self.dead_bytes = 0;
        self.free.clear();
        self.dirty = Dirty::default();
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let in_use = u32::from(slot.count != 0);
            *slot = Slot { generation: slot.generation.wrapping_add(in_use), ..Slot::default() };
            self.free.push(number as u32);
        }
    }

    /// Calls `visit` for every subject that `filter` wants, in no particular order.
    pub(crate) fn for_each_wanted(
        &self,
        filter: &Filter,
        mut visit: impl FnMut(&str, SubjectSummary),
    ) {
        for ((number, slot), sketch) in self.slots.iter().enumerate().zip(&self.sketches) {
            if slot.count != 0 && filter.wants(*sketch, || self.text_of(slot)) {
                visit(self.text_of(slot), self.summary(number as u32));
            }
        }
    }

    fn touch(&mut self, number: u32) {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if word >= self.dirty.marks.len() {
            self.dirty.marks.resize(word + 1, 0);
        }
        if let Some(marks) = self.dirty.marks.get_mut(word)
            && *marks & bit == 0
        {
            *marks |= bit;
            self.dirty.slots.push(number);
        }
    }

    /// Everything loaded is as the checkpoint wrote it.
    pub(crate) fn forget_changes(&mut self) {
        self.dirty = Dirty::default();
    }

    /// How many subjects changed since the last checkpoint, at most.
    pub(crate) fn changes(&self) -> usize {
        self.dirty.slots.len() + self.dirty.removed.len()
    }

    /// Calls `visit` with every subject that changed since the last call; `None` for one that is gone.
    pub(crate) fn take_changes(&mut self, mut visit: impl FnMut(&str, Option<SubjectSummary>)) {
        let dirty = std::mem::take(&mut self.dirty);
        for text in &dirty.removed {
            // It may have come back since.
            if self.get(text).is_none() {
                visit(text, None);
            }
        }
        for number in dirty.slots {
            let slot = self.slot(number);
            if slot.count != 0 {
                visit(self.text_of(&slot), Some(self.summary(number)));
            }
        }
    }

    /// Bytes of memory in use.
    pub(crate) fn memory(&self) -> usize {
        self.table.allocation_size()
            + self.slots.capacity() * size_of::<Slot>()
            + self.sketches.capacity() * size_of::<Sketch>()
            + self.free.capacity() * 4
            + self.chunks.iter().map(Vec::capacity).sum::<usize>()
            + self.dirty.slots.capacity() * 4
            + self.dirty.marks.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_slot_is_forty_bytes() {
        assert_eq!(size_of::<Slot>(), 40);
    }

    #[test]
    fn counts_follow_appends_and_deletes() {
        let mut table = SubjectTable::default();
        let a = table.appended("a", 1);
        table.appended("b", 2);
        assert_eq!(table.appended("a", 3), a);
        let summary = table.get("a").unwrap();
        assert_eq!((summary.count, summary.first, summary.last), (2, 1, 3));
        table.deleted(a, 3);
        let summary = table.get("a").unwrap();
        assert_eq!((summary.count, summary.last, summary.last_is_exact), (1, 3, false));
        table.deleted(a, 1);
        assert!(table.get("a").is_none() && table.text(a).is_none());
        let again = table.appended("c", 4);
        assert_eq!(again.slot, a.slot, "slots are reused");
        assert_ne!(again.generation, a.generation, "and numbers are not");
        assert_eq!(table.text(again), Some("c"));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn changes_are_told_once() {
        let mut table = SubjectTable::default();
        let a = table.appended("a", 1);
        table.appended("b", 2);
        table.deleted(a, 1);
        let mut seen = Vec::new();
        table.take_changes(|text, summary| seen.push((text.to_owned(), summary.map(|s| s.count))));
        assert_eq!(seen, [("a".to_owned(), None), ("b".to_owned(), Some(1))]);
        table.take_changes(|text, _| panic!("{text} was told already"));
    }

    #[test]
    fn texts_survive_compaction() {
        let mut table = SubjectTable::default();
        let mut ids = Vec::new();
        for n in 0..20_000_u64 {
            ids.push(table.appended(&format!("some.subject.{n}"), n + 1));
        }
        for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 10 != 0) {
            table.deleted(*id, n as u64 + 1);
        }
        let before = table.memory();
        for n in 0..100_u64 {
            table.appended(&format!("later.{n}"), 30_000 + n);
        }
        assert!(table.memory() < before, "dead text is given back");
        for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 10 == 0) {
            assert_eq!(table.text(*id), Some(format!("some.subject.{n}").as_str()));
        }
        table.clear();
        assert!(table.text(ids[0]).is_none());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_million_subjects_fit() {
        let mut table = SubjectTable::default();
        for n in 0..1_000_000_u64 {
            table.appended(&format!("devices.eu-west.{n}.state"), n + 1);
        }
        table.forget_changes();
        let megabytes = table.memory() >> 20;
        assert!(megabytes <= 120, "{megabytes} MB");
        assert_eq!(table.get("devices.eu-west.777777.state").unwrap().last, 777_778);
    }
}
