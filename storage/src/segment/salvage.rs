//! Finding the blocks of a segment whose tables or trailer are damaged, by going through the file from
//! the front: blocks and pages begin with a magic, say their length, and carry a checksum.
//!
//! Only what a checksum vouches for is found. Whoever uses it must see that nothing is missing.

use std::collections::BTreeMap;

use super::block::{self, Block, BlockEntry};
use super::file::{File, ReadStats};
use super::layout::{HEADER, TRAILER};
use super::{BLOCK_BYTES_MAX, SegmentError, seed, table};
use crate::ids::StreamId;

/// The blocks of each stream, ascending.
pub(crate) type Salvaged = BTreeMap<StreamId, Vec<BlockEntry>>;

const BLOCK_MAGIC: [u8; 4] = block::MAGIC.to_le_bytes();
const PAGE_MAGIC: [u8; 4] = table::MAGIC.to_le_bytes();
/// Where a block says how many bytes it stores, and what stands around them.
const BLOCK_STORED: usize = 56;
const BLOCK_FRAME: u64 = (block::HEADER + block::CHECKSUM) as u64;
/// The same of a page and its body.
const PAGE_BODY: usize = 12;
const PAGE_FRAME: u64 = (table::HEADER + table::CHECKSUM) as u64;
/// Bytes looked through at once for the next unit behind a damaged one.
const WINDOW: u64 = 64 << 10;

enum Unit {
    Block(StreamId, BlockEntry),
    Page(u64),
}

/// Goes through the file. Reads all of it once.
pub(crate) fn blocks(file: &File, stats: &ReadStats) -> Result<Salvaged, SegmentError> {
    let end = file.trailer.length.saturating_sub(TRAILER as u64);
    let mut found = Salvaged::new();
    let mut at = HEADER as u64;
    while at < end {
        at = match unit(file, at, end, stats)? {
            Some(Unit::Block(stream, entry)) => {
                let after = at + u64::from(entry.length);
                found.entry(stream).or_default().push(entry);
                after
            }
            Some(Unit::Page(length)) => at + length,
            None => next_magic(file, at + 1, end, stats)?,
        };
    }
    Ok(found)
}

/// The unit at `at`, if one stands there that is whole.
fn unit(file: &File, at: u64, end: u64, stats: &ReadStats) -> Result<Option<Unit>, SegmentError> {
    let head = file.bytes(at, (end - at).min(BLOCK_FRAME) as usize, stats)?;
    let number = |from: usize| {
        let bytes = head.get(from..from + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    let is_block = head.starts_with(&BLOCK_MAGIC);
    let length = match is_block {
        true => number(BLOCK_STORED).map(|stored| stored + BLOCK_FRAME),
        false if head.starts_with(&PAGE_MAGIC) => number(PAGE_BODY).map(|body| body + PAGE_FRAME),
        false => None,
    };
    let fits = |length: &u64| *length <= end - at && *length <= 2 * BLOCK_BYTES_MAX as u64;
    let Some(length) = length.filter(fits) else { return Ok(None) };
    let bytes = file.bytes(at, length as usize, stats)?;
    let seed = seed(file.id, at);
    if !is_block {
        return Ok(table::check_page(&bytes, seed).is_ok().then_some(Unit::Page(length)));
    }
    let Ok(block) = Block::decode(bytes, seed) else { return Ok(None) };
    let (Some(first), Some(last)) = (block.entries.first(), block.entries.last()) else {
        return Ok(None);
    };
    let times = || block.entries.iter().map(|entry| entry.time);
    let entry = BlockEntry {
        first_seq: first.seq,
        last_seq: last.seq,
        first_time: times().min().unwrap_or(0),
        last_time: times().max().unwrap_or(0),
        offset: at,
        length: length as u32,
        count: block.entries.len() as u32,
    };
    Ok(Some(Unit::Block(block.stream, entry)))
}

/// Where the next unit may stand.
fn next_magic(file: &File, from: u64, end: u64, stats: &ReadStats) -> Result<u64, SegmentError> {
    let mut at = from;
    while at < end {
        let window = file.bytes(at, (end - at).min(WINDOW) as usize, stats)?;
        let is_magic = |word: &[u8]| word == BLOCK_MAGIC || word == PAGE_MAGIC;
        if let Some(found) = window.windows(4).position(is_magic) {
            return Ok(at + found as u64);
        }
        // A magic may lie across two windows.
        at += (window.len() as u64).saturating_sub(3).max(1);
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::sync::Arc;

    use crate::StreamId;
    use crate::log::{Compression, Filter, ReadError, ReadRequest};
    use crate::record::Record;
    use crate::segment::testing::{Directory, record, write};
    use crate::segment::{BlockCache, ReadStats, Segment, SegmentError, SegmentMeta};

    fn read(disk: &Directory, meta: &Arc<SegmentMeta>) -> Result<Vec<Record>, ReadError> {
        let (stream, max) = (StreamId(1), usize::MAX);
        let request =
            ReadRequest { stream, from: 1, to: 1000, since: 0, max_records: max, max_bytes: max };
        let lost = |error: SegmentError| error.into_read(stream, 1, 20);
        let segment = Segment::open(disk, meta, &Arc::new(BlockCache::new(0))).map_err(lost)?;
        let mut out = Vec::new();
        let filter = Filter::any_of(["a", "b"]);
        segment.read(&request, &filter, &|_| false, &mut out, &ReadStats::default())?;
        Ok(out)
    }

    #[test]
    fn only_a_damaged_block_loses_records() {
        let disk = Directory::new();
        let records: Vec<_> =
            (1..=20u64).map(|seq| (StreamId(1), record(seq, "a", b"payload"))).collect();
        let meta = write(&disk, 1, Compression::Off, &records);
        let whole = read(&disk, &meta).unwrap();
        assert_eq!(whole.len(), 20);
        let path = disk.path(&meta.id.path());
        let good = std::fs::read(&path).unwrap();
        let tables = good.windows(4).position(|word| word == super::PAGE_MAGIC).unwrap();
        let (mut saved, mut lost, mut newer) = (0, 0, 0);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let opened = Segment::open(&disk, &meta, &Arc::new(BlockCache::new(0)));
            if let Err(SegmentError::Newer { .. }) = opened {
                // It says that a later version wrote it, and is left alone.
                newer += 1;
                continue;
            }
            match read(&disk, &meta) {
                Ok(found) => {
                    assert_eq!(found, whole, "byte {at}");
                    saved += usize::from(at >= tables);
                }
                Err(error) => {
                    assert!((super::HEADER..tables).contains(&at), "byte {at}: {error}");
                    assert!(matches!(error, ReadError::Damaged { first: 1, last: 20, .. }));
                    lost += 1;
                }
            }
        }
        assert_eq!((saved + newer, lost), (good.len() - tables, tables - super::HEADER));
        assert!(newer <= 2, "{newer}");
    }
}
