//! Reads from segments, done by reader threads. What they find are candidates: the owner drops what
//! was deleted meanwhile.

use std::sync::Arc;

use super::segments::SegmentFile;
use crate::ids::ReadId;
use crate::log::{Filter, ReadBatch, ReadError, ReadRequest};
use crate::segment::ReadStats;

/// A read, and where to look.
pub(super) struct ReadJob {
    pub(super) id: ReadId,
    pub(super) request: ReadRequest,
    pub(super) filter: Filter,
    /// Segments that hold sequences wanted, ascending, with the last sequence of each.
    pub(super) plan: Vec<(Arc<SegmentFile>, u64)>,
}

impl ReadJob {
    /// Reads until the request is answered or the plan is done.
    pub(super) fn run(&self, stats: &ReadStats) -> Result<ReadBatch, ReadError> {
        let mut records = Vec::new();
        let mut request = self.request.clone();
        let mut bytes = 0;
        for (file, last) in &self.plan {
            let before = records.len();
            match self.read_one(file, &request, &mut records, stats) {
                Ok(next) => request.from = next.max(request.from),
                // What was found so far is the answer; the next read meets the damage first.
                Err(_) if before > 0 => break,
                Err(error) => return Err(error),
            }
            let taken = records.get(before..).unwrap_or_default();
            bytes += taken.iter().map(|record| record.data().len()).sum::<usize>();
            if request.from <= *last {
                // The limits ended it.
                break;
            }
            request.from = last.saturating_add(1);
            request.max_records = self.request.max_records.saturating_sub(records.len());
            request.max_bytes = self.request.max_bytes.saturating_sub(bytes);
            let is_full = request.max_records == 0 || request.max_bytes == 0;
            if request.from > request.to || is_full {
                break;
            }
        }
        let next = if request.from > self.request.to {
            self.request.to.saturating_add(1)
        } else {
            request.from
        };
        Ok(ReadBatch { records, next })
    }

    fn read_one(
        &self,
        file: &Arc<SegmentFile>,
        request: &ReadRequest,
        records: &mut Vec<crate::Record>,
        stats: &ReadStats,
    ) -> Result<u64, ReadError> {
        file.read(request.stream, |segment| {
            segment.read(request, &self.filter, &|_| false, records, stats)
        })
    }
}
