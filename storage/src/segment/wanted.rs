//! What a segment's subject table tells: which subjects a filter wants, how many records they have,
//! and which blocks hold them.

use std::sync::Arc;

use super::cache::{Kept, Key};
use super::read::{ReadStats, Segment};
use super::subjects::{BlockSet, SubjectEntry};
use super::table::{self, Cursor, Pages};
use super::{SegmentError, StreamRange};
use crate::ids::StreamId;
use crate::log::{Filter, ReadError};
use crate::subject;

impl Segment {
    /// How many records of the stream the filter wants, deleted ones included, if `from..=to`
    /// covers all of the stream in this segment; else `None`.
    ///
    /// # Errors
    /// [`ReadError`] if the table cannot be read.
    pub fn count(
        &self,
        stream: StreamId,
        filter: &Filter,
        from: u64,
        to: u64,
        stats: &ReadStats,
    ) -> Result<Option<u64>, ReadError> {
        let Some(range) = self.meta.stream(stream) else {
            return Ok(Some(0));
        };
        if from > range.first_seq || to < range.last_seq {
            return Ok(None);
        }
        if filter.is_all() {
            return Ok(Some(range.count));
        }
        let mut count = 0;
        self.subjects(stream, filter, stats, &mut |_, entry| count += entry.count)?;
        Ok(Some(count))
    }

    /// Calls `visit` once for each subject of the stream that the filter wants, deleted records
    /// counted.
    ///
    /// # Errors
    /// [`ReadError`] if the table cannot be read.
    pub fn subjects(
        &self,
        stream: StreamId,
        filter: &Filter,
        stats: &ReadStats,
        visit: &mut dyn FnMut(&str, SubjectEntry),
    ) -> Result<(), ReadError> {
        let Some(range) = self.meta.stream(stream) else {
            return Ok(());
        };
        self.each_subject(range, filter, stats, &mut |text, value| {
            visit(text, SubjectEntry::decode(value, range.first_seq)?);
            Some(())
        })
        .map_err(|error| error.into_read(stream, range.first_seq, range.last_seq))
    }

    /// Records and distinct subjects of the stream.
    pub(crate) fn density(
        &self,
        stream: StreamId,
        stats: &ReadStats,
    ) -> Result<(u64, u64), SegmentError> {
        self.entry(stream, stats).map(|entry| (entry.range.count, entry.subjects))
    }

    /// Calls `visit` with each subject of the stream and its value in the subject table, until it
    /// returns `None`.
    pub(crate) fn subject_values(
        &self,
        stream: StreamId,
        stats: &ReadStats,
        visit: &mut dyn FnMut(&str, &[u8]) -> Option<()>,
    ) -> Result<(), SegmentError> {
        let Some(range) = self.meta.stream(stream) else { return Ok(()) };
        self.each_subject(range, &Filter::all(), stats, visit)
    }

    /// The blocks that hold subjects the filter wants.
    pub(super) fn blocks_for(
        &self,
        range: &StreamRange,
        filter: &Filter,
        stats: &ReadStats,
    ) -> Result<Arc<BlockSet>, SegmentError> {
        let key = Key::Filter(self.meta.id, range.stream, filter.clone());
        if let Some(Kept::Blocks(blocks)) = self.file.cache().get(&key) {
            return Ok(blocks);
        }
        let blocks = Arc::new(match self.is_wanted_whole(range, filter, stats)? {
            true => BlockSet::all_of(range),
            false => self.gather(range, filter, stats)?,
        });
        self.file.cache().put(&key, &Kept::Blocks(Arc::clone(&blocks)));
        Ok(blocks)
    }

    /// Whether the filter wants every subject; the first that it does not want ends the search. It is
    /// asked first because the blocks of all subjects together are as many as the records, and their
    /// order would have to be found.
    fn is_wanted_whole(
        &self,
        range: &StreamRange,
        filter: &Filter,
        stats: &ReadStats,
    ) -> Result<bool, SegmentError> {
        // Literal patterns need no look at the table, and rarely name all subjects.
        let mut patterns = filter.patterns().unwrap_or_default().iter();
        if !patterns.any(|pattern| subject::has_wildcard(pattern)) {
            return Ok(false);
        }
        let root = self.entry(range.stream, stats)?.subject_table;
        let tables = self.file.tables(stats);
        let mut cursor = Cursor::seek(&tables, root, &[])?;
        while let Some((key, _)) = cursor.next()? {
            let text = std::str::from_utf8(key);
            let damaged = |_| self.file.error(root.offset, "a subject is no text");
            if !filter.matches(text.map_err(damaged)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn gather(
        &self,
        range: &StreamRange,
        filter: &Filter,
        stats: &ReadStats,
    ) -> Result<BlockSet, SegmentError> {
        let mut blocks = BlockSet::default();
        self.each_subject(range, filter, stats, &mut |_, value| {
            blocks.add(value, range.first_seq)
        })?;
        blocks.close();
        Ok(blocks)
    }

    /// Calls `visit` once with each wanted subject and its value, which it refuses with `None` if it
    /// contradicts itself.
    fn each_subject(
        &self,
        range: &StreamRange,
        filter: &Filter,
        stats: &ReadStats,
        visit: &mut dyn FnMut(&str, &[u8]) -> Option<()>,
    ) -> Result<(), SegmentError> {
        let root = self.entry(range.stream, stats)?.subject_table;
        let tables = self.file.tables(stats);
        let damaged = || self.file.error(root.offset, "a subject's entry contradicts itself");
        let all: [Box<str>; 1] = [Box::from(">")];
        let patterns = filter.patterns().unwrap_or(&all);
        for (number, pattern) in patterns.iter().enumerate() {
            // A subject belongs to the first pattern that matches it.
            let earlier = patterns.get(..number).unwrap_or_default();
            let taken = |text: &str| earlier.iter().any(|other| subject::matches(other, text));
            if !subject::has_wildcard(pattern) {
                if !taken(pattern)
                    && let Some(value) = self.subject_value(&tables, root, range.stream, pattern)?
                {
                    visit(pattern, &value).ok_or_else(damaged)?;
                }
                continue;
            }
            let prefix = subject::literal_prefix(pattern).as_bytes();
            let mut cursor = Cursor::seek(&tables, root, prefix)?;
            while let Some((key, value)) = cursor.next()? {
                if !key.starts_with(prefix) {
                    break;
                }
                let text = std::str::from_utf8(key).map_err(|_| damaged())?;
                if (filter.is_all() || subject::matches(pattern, text)) && !taken(text) {
                    visit(text, value).ok_or_else(damaged)?;
                }
            }
        }
        Ok(())
    }

    fn subject_value(
        &self,
        tables: &dyn Pages,
        root: table::Pointer,
        stream: StreamId,
        subject: &str,
    ) -> Result<Option<Vec<u8>>, SegmentError> {
        let known = self.locator.as_ref().and_then(|l| l.subject(self.meta.id, stream, subject));
        if known.is_some() {
            return Ok(known);
        }
        Ok(table::get(tables, root, subject.as_bytes())?.map(Vec::from))
    }
}
