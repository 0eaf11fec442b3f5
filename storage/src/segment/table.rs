//! Sorted tables in pages: how a segment finds blocks, subjects, expiries and streams.
//!
//! A table maps keys to values in ascending order of key. Its entries lie in pages of about
//! [`PAGE_BYTES`]; further pages hold the last key of each page below and where it lies, and so on
//! up to one root. A look-up reads one page of each level. Keys share prefixes with the one before.

use std::io;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::SegmentError;
use super::output::Output;
use super::varint::{self, Reader};

/// "CBPG", little-endian.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"CBPG");
/// Bytes before the entries.
pub(crate) const HEADER: usize = 16;
/// Bytes after the entries.
pub(crate) const CHECKSUM: usize = 8;
/// A page is closed before it would grow past this, unless one entry is larger: one read of the
/// disk's own unit, which is cheap to search from its start.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Where a page lies. Length 0: there is no table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Pointer {
    pub(crate) fn is_none(self) -> bool {
        self.length == 0
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        varint::put(out, self.offset);
        varint::put(out, u64::from(self.length));
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let offset = reader.varint()?;
        Some(Self { offset, length: u32::try_from(reader.varint()?).ok()? })
    }
}

/// A page being filled.
#[derive(Default)]
struct PageBuilder {
    body: Vec<u8>,
    last_key: Vec<u8>,
    count: u32,
}

impl PageBuilder {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        let shared = match self.count {
            0 => 0,
            _ => self.last_key.iter().zip(key).take_while(|(a, b)| a == b).count(),
        };
        let own = key.get(shared..).unwrap_or_default();
        varint::put(&mut self.body, shared as u64);
        varint::put(&mut self.body, own.len() as u64);
        varint::put(&mut self.body, value.len() as u64);
        self.body.extend_from_slice(own);
        self.body.extend_from_slice(value);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.count += 1;
    }

    fn write(&mut self, level: u8, out: &mut Output<'_>) -> io::Result<Pointer> {
        let (offset, seed) = out.place();
        let too_large = |_| io::Error::other("a page of a segment's table is larger than 4 GiB");
        let body = u32::try_from(self.body.len()).map_err(too_large)?;
        let buffer = out.buffer();
        let start = buffer.len();
        buffer.extend_from_slice(&MAGIC.to_le_bytes());
        buffer.extend_from_slice(&[level, 0, 0, 0]);
        buffer.extend_from_slice(&self.count.to_le_bytes());
        buffer.extend_from_slice(&body.to_le_bytes());
        buffer.extend_from_slice(&self.body);
        let sum = xxh3_64_with_seed(buffer.get(start..).unwrap_or_default(), seed);
        buffer.extend_from_slice(&sum.to_le_bytes());
        let length = u32::try_from(buffer.len() - start).map_err(too_large)?;
        out.spill()?;
        self.body.clear();
        self.count = 0;
        Ok(Pointer { offset, length })
    }
}

/// Writes a table, entry by entry in ascending order of key.
#[derive(Default)]
pub(crate) struct TableBuilder {
    levels: Vec<PageBuilder>,
}

impl TableBuilder {
    pub(crate) fn push(
        &mut self,
        key: &[u8],
        value: &[u8],
        out: &mut Output<'_>,
    ) -> io::Result<()> {
        self.push_at(0, key, value, out)
    }

    /// Writes what is open, and returns where the root lies. The builder can be used again.
    pub(crate) fn finish(&mut self, out: &mut Output<'_>) -> io::Result<Pointer> {
        if self.levels.is_empty() {
            self.levels.push(PageBuilder::default());
        }
        let mut level = 0;
        loop {
            let root = self.close(level, out)?;
            let above = self.levels.get(level + 1).is_some_and(|page| page.count > 0);
            let key = self.levels.get(level).map(|page| page.last_key.clone()).unwrap_or_default();
            if !above {
                return Ok(root);
            }
            self.push_pointer(level + 1, &key, root, out)?;
            level += 1;
        }
    }

    fn push_at(
        &mut self,
        level: usize,
        key: &[u8],
        value: &[u8],
        out: &mut Output<'_>,
    ) -> io::Result<()> {
        if self.levels.len() <= level {
            self.levels.push(PageBuilder::default());
        }
        let full = self.levels.get(level).is_some_and(|page| {
            page.count > 0
                && HEADER + CHECKSUM + page.body.len() + key.len() + value.len() > PAGE_BYTES
        });
        if full {
            let last = self.levels.get(level).map(|page| page.last_key.clone()).unwrap_or_default();
            let pointer = self.close(level, out)?;
            self.push_pointer(level + 1, &last, pointer, out)?;
        }
        if let Some(page) = self.levels.get_mut(level) {
            page.push(key, value);
        }
        Ok(())
    }

    fn push_pointer(
        &mut self,
        level: usize,
        key: &[u8],
        pointer: Pointer,
        out: &mut Output<'_>,
    ) -> io::Result<()> {
        let mut value = Vec::with_capacity(16);
        pointer.encode(&mut value);
        self.push_at(level, key, &value, out)
    }

    fn close(&mut self, level: usize, out: &mut Output<'_>) -> io::Result<Pointer> {
        let number = u8::try_from(level).map_err(io::Error::other)?;
        match self.levels.get_mut(level) {
            Some(page) => page.write(number, out),
            None => Ok(Pointer::default()),
        }
    }
}

/// Where pages are read from.
pub(crate) trait Pages {
    /// The bytes of the page at `pointer`, its checksum verified.
    fn page(&self, pointer: Pointer) -> Result<Bytes, SegmentError>;

    /// The error of a page at `offset` that contradicts itself.
    fn damaged(&self, offset: u64, what: &'static str) -> SegmentError;
}

/// Checks that `bytes` are a page, by its checksum made with `seed`.
pub(crate) fn check_page(bytes: &[u8], seed: u64) -> Result<(), &'static str> {
    let body_end = bytes.len().checked_sub(CHECKSUM).ok_or("a page is cut off")?;
    let (body, sum) = bytes.split_at_checked(body_end).ok_or("a page is cut off")?;
    if sum != xxh3_64_with_seed(body, seed).to_le_bytes() {
        return Err("a page's checksum does not match");
    }
    if body.get(..4) != Some(&MAGIC.to_le_bytes()) {
        return Err("no page starts here");
    }
    Ok(())
}

/// A page being read, entry by entry.
struct PageCursor {
    page: Bytes,
    offset: u64,
    level: u8,
    /// Entries not read yet.
    left: u32,
    /// Where the next entry starts in the page.
    at: usize,
    key: Vec<u8>,
    value: std::ops::Range<usize>,
}

impl PageCursor {
    fn open(page: Bytes, offset: u64) -> Option<Self> {
        let mut reader = Reader::new(page.get(4..)?);
        let level = reader.u8()?;
        let _reserved: [u8; 3] = reader.array()?;
        let left = reader.u32()?;
        let body = reader.u32()? as usize;
        let fits = HEADER + body + CHECKSUM == page.len();
        let value = HEADER..HEADER;
        fits.then_some(Self { page, offset, level, left, at: HEADER, key: Vec::new(), value })
    }

    /// Goes to the next entry. `Some(false)` at the end, `None` if the page contradicts itself.
    fn advance(&mut self) -> Option<bool> {
        if self.left == 0 {
            return Some(false);
        }
        let end = self.page.len() - CHECKSUM;
        let mut reader = Reader::new(self.page.get(self.at..end)?);
        let shared = usize::try_from(reader.varint()?).ok()?;
        let own = usize::try_from(reader.varint()?).ok()?;
        let length = usize::try_from(reader.varint()?).ok()?;
        let own = reader.take(own)?;
        if shared > self.key.len() {
            return None;
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(own);
        let start = end - reader.left();
        reader.take(length)?;
        self.value = start..start + length;
        self.at = start + length;
        self.left -= 1;
        Some(true)
    }

    fn value(&self) -> &[u8] {
        self.page.get(self.value.clone()).unwrap_or_default()
    }
}

/// A key and its value.
type Entry<'a> = (&'a [u8], &'a [u8]);

/// Goes through a table in ascending order of key.
pub(crate) struct Cursor<'a, P: Pages + ?Sized> {
    pages: &'a P,
    /// From the root to the leaf.
    path: Vec<PageCursor>,
    /// The leaf stands on an entry that was not handed out yet.
    ready: bool,
}

const DISORDER: &str = "a page contradicts itself";

impl<'a, P: Pages + ?Sized> Cursor<'a, P> {
    /// Before the first entry whose key is at least `key`.
    pub(crate) fn seek(pages: &'a P, root: Pointer, key: &[u8]) -> Result<Self, SegmentError> {
        let mut cursor = Self { pages, path: Vec::new(), ready: false };
        if root.is_none() {
            return Ok(cursor);
        }
        cursor.descend(root, None)?;
        loop {
            let Some(page) = cursor.path.last_mut() else {
                return Ok(cursor);
            };
            let damage = page.offset;
            loop {
                match page.advance() {
                    Some(true) if page.key.as_slice() >= key => break,
                    Some(true) => {}
                    Some(false) => {
                        cursor.path.clear();
                        return Ok(cursor);
                    }
                    None => return Err(pages.damaged(damage, DISORDER)),
                }
            }
            if page.level == 0 {
                cursor.ready = true;
                return Ok(cursor);
            }
            cursor.down()?;
        }
    }

    /// The next entry.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>, SegmentError> {
        self.skip_to(&[])
    }

    /// The first entry whose key is at least `key`, of those not handed out yet. What lies between is passed
    /// over, whole pages without reading them.
    pub(crate) fn skip_to(&mut self, key: &[u8]) -> Result<Option<Entry<'_>>, SegmentError> {
        let mut is_read = std::mem::take(&mut self.ready);
        loop {
            let Some(page) = self.path.last_mut() else { return Ok(None) };
            match if is_read { Some(true) } else { page.advance() } {
                Some(true) if page.key.as_slice() < key => {}
                Some(true) if page.level == 0 => break,
                Some(true) => self.down()?,
                Some(false) => {
                    self.path.pop();
                }
                None => {
                    let offset = page.offset;
                    return Err(self.pages.damaged(offset, DISORDER));
                }
            }
            is_read = false;
        }
        Ok(self.path.last().map(|page| (page.key.as_slice(), page.value())))
    }

    /// Opens the page that the current entry of the lowest open page points to.
    fn down(&mut self) -> Result<(), SegmentError> {
        let Some(page) = self.path.last() else {
            return Ok(());
        };
        let (offset, level) = (page.offset, page.level);
        let pointer = Pointer::decode(&mut Reader::new(page.value()));
        let pointer = pointer.ok_or_else(|| self.pages.damaged(offset, DISORDER))?;
        self.descend(pointer, Some(level))
    }

    fn descend(&mut self, pointer: Pointer, above: Option<u8>) -> Result<(), SegmentError> {
        let page = PageCursor::open(self.pages.page(pointer)?, pointer.offset);
        // A page must be one level below the one that points to it, so that no loop is possible.
        match page {
            Some(page) if above.is_none_or(|above| page.level.checked_add(1) == Some(above)) => {
                self.path.push(page);
                Ok(())
            }
            _ => Err(self.pages.damaged(pointer.offset, DISORDER)),
        }
    }
}

/// The value under exactly `key`.
pub(crate) fn get<P: Pages + ?Sized>(
    pages: &P,
    root: Pointer,
    key: &[u8],
) -> Result<Option<Bytes>, SegmentError> {
    let mut cursor = Cursor::seek(pages, root, key)?;
    Ok(match cursor.next()? {
        Some((found, value)) if found == key => Some(Bytes::copy_from_slice(value)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::segment::SegmentId;
    use crate::segment::testing::Directory;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The bytes of a file that holds nothing but a table.
    struct Plain(Vec<u8>);

    impl Pages for Plain {
        fn page(&self, pointer: Pointer) -> Result<Bytes, SegmentError> {
            let start = pointer.offset as usize;
            let bytes = self.0.get(start..start.saturating_add(pointer.length as usize));
            let bytes = bytes.ok_or_else(|| self.damaged(pointer.offset, "outside"))?;
            let seed = crate::segment::seed(SegmentId(1), pointer.offset);
            check_page(bytes, seed).map_err(|what| self.damaged(pointer.offset, what))?;
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn damaged(&self, offset: u64, what: &'static str) -> SegmentError {
            SegmentError::damaged("table", offset, what)
        }
    }

    fn build(entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> (Plain, Pointer) {
        let disk = Directory::new();
        let mut pace = |_| Ok(());
        let mut out = Output::create(&disk, SegmentId(1), &mut pace).unwrap();
        let mut table = TableBuilder::default();
        for (key, value) in entries {
            table.push(key, value, &mut out).unwrap();
        }
        let root = table.finish(&mut out).unwrap();
        let _pace = out.finish(&[]).unwrap();
        (Plain(std::fs::read(disk.path(&SegmentId(1).path())).unwrap()), root)
    }

    fn list(pages: &Plain, root: Pointer, from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut cursor = Cursor::seek(pages, root, from).unwrap();
        let mut found = Vec::new();
        while let Some((key, value)) = cursor.next().unwrap() {
            found.push((key.to_vec(), value.to_vec()));
        }
        found
    }

    #[test]
    fn three_levels_are_searched_in_three_pages() {
        let entries: BTreeMap<Vec<u8>, Vec<u8>> = (0..40_000u32)
            .map(|n| {
                (n.wrapping_mul(2_654_435_761).to_be_bytes().repeat(4), n.to_be_bytes().to_vec())
            })
            .collect();
        let (pages, root) = build(&entries);
        assert_eq!(PageCursor::open(pages.page(root).unwrap(), 0).unwrap().level, 2);
        for (key, value) in entries.iter().step_by(997) {
            assert_eq!(get(&pages, root, key).unwrap().unwrap(), value.as_slice());
        }
        assert_eq!(list(&pages, root, &[]).len(), entries.len());
        assert_eq!(list(&pages, root, &[0xff; 20]), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_lies_between_is_skipped(
            numbers in prop::collection::btree_set(0u32..5_000, 0..2_000),
            first in 0u32..5_000,
            steps in prop::collection::vec(0u32..400, 0..40),
        ) {
            let of = |n: &u32| (n.to_be_bytes().to_vec(), n.to_le_bytes().repeat(9));
            let entries: BTreeMap<_, _> = numbers.iter().map(of).collect();
            let (pages, root) = build(&entries);
            let mut cursor = Cursor::seek(&pages, root, &first.to_be_bytes()).unwrap();
            let (mut at, mut handed_out) = (first, None);
            for step in steps {
                at += step;
                let found = cursor.skip_to(&at.to_be_bytes()).unwrap();
                let found = found.map(|(key, value)| (key.to_vec(), value.to_vec()));
                let from = handed_out.map_or(at, |last: u32| at.max(last + 1));
                let expected = numbers.range(from..).next();
                prop_assert_eq!(&found, &expected.map(of));
                let Some(expected) = expected else { break };
                handed_out = Some(*expected);
            }
        }

        #[test]
        fn a_table_is_an_ordered_map(
            entries in prop::collection::btree_map(
                prop::collection::vec(0u8..4, 0..6),
                prop_oneof![9 => prop::collection::vec(any::<u8>(), 0..200),
                            1 => prop::collection::vec(any::<u8>(), 4000..9000)],
                0..200),
            from in prop::collection::vec(0u8..4, 0..6),
        ) {
            let (pages, root) = build(&entries);
            let expected: Vec<_> =
                entries.range(from.clone()..).map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(list(&pages, root, &from), expected);
            let value = get(&pages, root, &from).unwrap().map(Vec::from);
            prop_assert_eq!(value.as_ref(), entries.get(&from));
        }

        #[test]
        fn arbitrary_pages_never_panic(
            body in prop::collection::vec(any::<u8>(), 0..300),
            level in 0u8..3,
            count in 0u32..20,
        ) {
            let mut page = MAGIC.to_le_bytes().to_vec();
            page.extend_from_slice(&[level, 0, 0, 0]);
            page.extend_from_slice(&count.to_le_bytes());
            page.extend_from_slice(&(body.len() as u32).to_le_bytes());
            page.extend_from_slice(&body);
            let sum = xxh3_64_with_seed(&page, crate::segment::seed(SegmentId(1), 0));
            page.extend_from_slice(&sum.to_le_bytes());
            let length = page.len() as u32;
            let pages = Plain(page);
            if let Ok(mut cursor) = Cursor::seek(&pages, Pointer { offset: 0, length }, b"m") {
                while let Ok(Some(_)) = cursor.next() {}
            }
        }
    }
}
