//! The seam to an index that may know where a block lies without reading the segment's own tables.

use super::{BlockEntry, SegmentId};
use crate::ids::StreamId;

/// Answers look-ups faster than a segment's tables do, where it can. What it does not know is
/// looked up in the tables, so it may know little; what it does say must be true.
pub trait BlockLocator: Send + Sync {
    /// The block of `segment` that holds `stream`'s sequence `seq` or a gap around it.
    fn block(&self, segment: SegmentId, stream: StreamId, seq: u64) -> Option<BlockEntry>;

    /// The value of `subject` in the segment's subject table, byte for byte.
    fn subject(&self, segment: SegmentId, stream: StreamId, subject: &str) -> Option<Vec<u8>>;
}
