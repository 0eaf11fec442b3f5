//! What was read from segments lately, in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::SegmentId;
use super::block::Block;
use super::subjects::BlockSet;
use crate::ids::StreamId;
use crate::log::Filter;

/// Names what is kept. Numbers of segments are never used again, so an entry never becomes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// The block or page at an offset.
    Unit(SegmentId, u64),
    /// The blocks that a filter needs.
    Filter(SegmentId, StreamId, Filter),
}

/// What is kept.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    Block(Arc<Block>),
    Page(Bytes),
    Blocks(Arc<BlockSet>),
}

impl Key {
    fn segment(&self) -> SegmentId {
        let (Self::Unit(segment, _) | Self::Filter(segment, _, _)) = self;
        *segment
    }
}

impl Kept {
    fn memory(&self) -> usize {
        /// What the maps around an entry take, roughly.
        const OVERHEAD: usize = 200;
        OVERHEAD
            + match self {
                Self::Block(block) => block.memory(),
                Self::Page(page) => page.len(),
                Self::Blocks(blocks) => blocks.memory(),
            }
    }
}

/// Decoded blocks, pages of tables and the answers of filters, the most recently used ones. Shared
/// by all segments; it may be used from many threads.
#[derive(Debug)]
pub struct BlockCache {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, (Kept, u64)>,
    /// By the time of last use.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
}

impl Default for BlockCache {
    fn default() -> Self {
        Self::new(Self::DEFAULT_BYTES)
    }
}

impl BlockCache {
    /// Holds the working set of some dozens of readers that go through different places at once.
    pub const DEFAULT_BYTES: usize = 16 * 1024 * 1024;

    /// A cache of at most `limit` bytes; with 0 nothing is kept.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    /// Bytes kept now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Kept> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let (kept, used) = inner.entries.get_mut(key)?;
        let key = inner.order.remove(used)?;
        inner.clock += 1;
        *used = inner.clock;
        inner.order.insert(inner.clock, key);
        Some(kept.clone())
    }

    pub(crate) fn put(&self, key: &Key, kept: &Kept) {
        let bytes = kept.memory();
        // One entry must not push out everything else.
        if bytes > self.limit / 4 {
            return;
        }
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.clock += 1;
        if let Some((old, used)) = inner.entries.insert(key.clone(), (kept.clone(), inner.clock)) {
            inner.bytes -= old.memory();
            inner.order.remove(&used);
        }
        inner.order.insert(inner.clock, key.clone());
        inner.bytes += bytes;
        while inner.bytes > self.limit {
            let Some((_, oldest)) = inner.order.pop_first() else {
                return;
            };
            if let Some((old, _)) = inner.entries.remove(&oldest) {
                inner.bytes -= old.memory();
            }
        }
    }

    /// Forgets what is kept of a segment, which nobody reads any more.
    pub(crate) fn forget(&self, segment: SegmentId) {
        let mut inner = self.lock();
        let Inner { entries, order, bytes, .. } = &mut *inner;
        entries.retain(|key, (kept, used)| {
            let stays = key.segment() != segment;
            if !stays {
                order.remove(used);
                *bytes -= kept.memory();
            }
            stays
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves at worst an entry that is never dropped.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(offset: u64) -> Key {
        Key::Unit(SegmentId(1), offset)
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        let cache = BlockCache::new(5000);
        let page = Kept::Page(Bytes::from(vec![0; 1000]));
        for offset in 0..4 {
            cache.put(&key(offset), &page);
        }
        assert!(cache.get(&key(0)).is_some());
        cache.put(&key(4), &page);
        assert!(cache.get(&key(0)).is_some());
        assert!(cache.get(&key(1)).is_none());
        assert!(cache.bytes() <= 5000);
    }

    #[test]
    fn what_would_fill_it_alone_is_not_kept() {
        let cache = BlockCache::new(5000);
        cache.put(&key(1), &Kept::Page(Bytes::from(vec![0; 1250])));
        assert!(cache.get(&key(1)).is_none());
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn putting_again_does_not_count_twice() {
        let cache = BlockCache::new(5000);
        for _ in 0..100 {
            cache.put(&key(1), &Kept::Page(Bytes::from(vec![0; 800])));
        }
        assert_eq!(cache.bytes(), 1000);
    }

    #[test]
    fn what_was_kept_of_a_segment_goes_with_it() {
        let cache = BlockCache::new(100_000);
        let page = Kept::Page(Bytes::from_static(&[7; 100]));
        cache.put(&Key::Unit(SegmentId(1), 0), &page);
        cache.put(&Key::Unit(SegmentId(1), 8), &page);
        let before = cache.bytes();
        cache.put(&Key::Unit(SegmentId(2), 0), &page);
        cache.forget(SegmentId(1));
        assert!(cache.get(&Key::Unit(SegmentId(1), 0)).is_none());
        assert!(cache.get(&Key::Unit(SegmentId(2), 0)).is_some());
        assert_eq!(cache.bytes(), before / 2);
        cache.forget(SegmentId(2));
        assert_eq!(cache.bytes(), 0);
    }
}
