//! When records expire: from the table, or from the records if it is damaged.

use super::read::{ReadStats, Segment};
use super::table::Cursor;
use super::{BLOCK_BYTES_MAX, SegmentError};
use crate::ids::StreamId;
use crate::log::{Filter, ReadError, ReadRequest};
use crate::record::Record;

impl Segment {
    /// When each record of the stream expires by itself, with its sequence, in order of time.
    ///
    /// # Errors
    /// [`ReadError`] if the table cannot be read.
    pub fn expiries(
        &self,
        stream: StreamId,
        stats: &ReadStats,
    ) -> Result<Vec<(u64, u64)>, ReadError> {
        let Some(range) = self.meta.stream(stream) else {
            return Ok(Vec::new());
        };
        let lost = |error: SegmentError| error.into_read(stream, range.first_seq, range.last_seq);
        let mut found = Vec::new();
        let entry = self.entry(stream, stats).map_err(lost)?;
        let tables = self.file.tables(stats);
        let mut cursor = Cursor::seek(&tables, entry.expiry_table, &[]).map_err(lost)?;
        while let Some((key, _)) = cursor.next().map_err(lost)? {
            let key: [u8; 16] = key
                .try_into()
                .map_err(|_| lost(self.file.error(entry.expiry_table.offset, "no expiry")))?;
            let key = u128::from_be_bytes(key);
            found.push(((key >> 64) as u64, key as u64));
        }
        Ok(found)
    }

    /// The same from the records themselves, for when the table is damaged. Those that cannot be read
    /// are left out.
    #[must_use]
    pub fn expiries_of_records(&self, stream: StreamId, stats: &ReadStats) -> Vec<(u64, u64)> {
        let Some(range) = self.meta.stream(stream) else { return Vec::new() };
        let mut found = Vec::new();
        let mut from = range.first_seq;
        while from <= range.last_seq {
            let (max_records, max_bytes) = (usize::MAX, BLOCK_BYTES_MAX);
            let to = range.last_seq;
            let request = ReadRequest { stream, from, to, since: 0, max_records, max_bytes };
            let mut records = Vec::new();
            let next = self.read(&request, &Filter::all(), &|_| false, &mut records, stats);
            from = match next {
                Ok(next) => next.max(from + 1),
                Err(ReadError::Damaged { last, .. }) => last.max(from) + 1,
                Err(_) => break,
            };
            let expiring = |record: &Record| Some((record.expires?, record.seq));
            found.extend(records.iter().filter_map(expiring));
        }
        found.sort_unstable();
        found
    }
}
