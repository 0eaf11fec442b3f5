//! Writing a segment: records in, blocks and tables out.

use std::io;

use super::block::{BlockBuilder, BlockEntry, Compressor};
use super::layout::{self, StreamEntry, Trailer};
use super::output::{Output, Pace};
use super::subjects::SubjectTable;
use super::table::{Pointer, TableBuilder};
use super::{SegmentId, SegmentMeta, StreamRange};
use crate::disk::Disk;
use crate::ids::StreamId;
use crate::log::Compression;
use crate::record::Record;

/// Writes one segment. Memory: the file is buffered by the MiB, and a stream's tables are held until
/// the next stream begins, about 60 bytes and its text for each distinct subject.
pub struct SegmentWriter<'a> {
    id: SegmentId,
    out: Output<'a>,
    compressor: Compressor,
    compression: Compression,
    block: BlockBuilder,
    /// What is known of the stream being written.
    range: Option<StreamRange>,
    blocks: Vec<BlockEntry>,
    subjects: SubjectTable,
    /// (time, sequence) of records that expire by themselves.
    expiries: Vec<(u64, u64)>,
    table: TableBuilder,
    directory: Vec<StreamEntry>,
}

fn out_of_order(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl<'a> SegmentWriter<'a> {
    /// Begins the file of `id`, which must not exist, in the existing directory `segments`. `pace` is
    /// called after each sync and may sleep; an error it returns abandons the file.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(disk: &dyn Disk, id: SegmentId, pace: Pace<'a>) -> io::Result<Self> {
        let mut out = Output::create(disk, id, pace)?;
        out.buffer().extend_from_slice(&layout::encode_header(id));
        Ok(Self {
            id,
            out,
            compressor: Compressor::new(),
            compression: Compression::default(),
            block: BlockBuilder::default(),
            range: None,
            blocks: Vec::new(),
            subjects: SubjectTable::default(),
            expiries: Vec::new(),
            table: TableBuilder::default(),
            directory: Vec::new(),
        })
    }

    /// Adds a record. Streams come in ascending order, and sequences within each.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a record out of order; else what the operating system or
    /// the pace says. The file must be abandoned after an error.
    pub fn add(
        &mut self,
        stream: StreamId,
        compression: Compression,
        record: &Record,
    ) -> io::Result<()> {
        if self.range.is_none_or(|range| range.stream != stream) {
            self.end_stream()?;
            self.begin_stream(stream, record)?;
        }
        let Some(range) = &mut self.range else {
            return Ok(());
        };
        if range.count > 0 && record.seq <= range.last_seq {
            let last = range.last_seq;
            return Err(out_of_order(format!("{stream}: sequence {} after {last}", record.seq)));
        }
        let data = record.data();
        range.last_seq = record.seq;
        range.count += 1;
        range.bytes += data.len() as u64;
        range.first_time = range.first_time.min(record.time);
        range.last_time = range.last_time.max(record.time);
        if let Some(expires) = record.expires {
            range.next_expiry = Some(range.next_expiry.map_or(expires, |next| next.min(expires)));
            self.expiries.push((expires, record.seq));
        }
        if self.block.is_full_for(data.len()) {
            self.seal(stream)?;
        }
        self.compression = compression;
        let block = u32::try_from(self.blocks.len()).map_err(io::Error::other)?;
        let subject = data.get(..record.subject_len()).unwrap_or_default();
        self.subjects.touch(subject, record.seq, block)?;
        self.block.push(stream, record);
        Ok(())
    }

    /// Bytes of the file so far, without the open block and the tables of the open stream.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.out.place().0
    }

    /// Distinct subjects of the open stream so far.
    #[must_use]
    pub fn subjects(&self) -> usize {
        self.subjects.len()
    }

    /// Completes the file and makes its bytes durable. Its name is durable once the caller has
    /// synced the directory `segments`.
    ///
    /// # Errors
    /// What the operating system or the pace says.
    pub fn finish(self) -> io::Result<SegmentMeta> {
        self.complete().map(|(meta, _)| meta)
    }

    /// [`finish`](Self::finish), and the pace for another writer.
    pub(crate) fn complete(mut self) -> io::Result<(SegmentMeta, Pace<'a>)> {
        self.end_stream()?;
        let mut value = Vec::new();
        for entry in &self.directory {
            value.clear();
            entry.encode(&mut value);
            self.table.push(&entry.range.stream.0.to_be_bytes(), &value, &mut self.out)?;
        }
        let directory = self.table.finish(&mut self.out)?;
        let digest = self.out.digest()?;
        let length = self.out.place().0 + layout::TRAILER as u64;
        let streams = u32::try_from(self.directory.len()).map_err(io::Error::other)?;
        let trailer = Trailer { segment: self.id, directory, streams, digest, length };
        let pace = self.out.finish(&trailer.encode())?;
        let streams = self.directory.iter().map(|entry| entry.range).collect();
        Ok((SegmentMeta { id: self.id, length, digest, streams }, pace))
    }

    fn begin_stream(&mut self, stream: StreamId, record: &Record) -> io::Result<()> {
        if let Some(before) = self.directory.last().map(|entry| entry.range.stream)
            && before >= stream
        {
            return Err(out_of_order(format!("{stream} after {before}")));
        }
        if record.seq == 0 {
            return Err(out_of_order(format!("{stream}: sequences begin with 1")));
        }
        self.range = Some(StreamRange {
            stream,
            first_seq: record.seq,
            last_seq: record.seq,
            count: 0,
            bytes: 0,
            first_time: record.time,
            last_time: record.time,
            next_expiry: None,
        });
        Ok(())
    }

    fn seal(&mut self, stream: StreamId) -> io::Result<()> {
        let place = self.out.place();
        let entry = self.block.seal(
            stream,
            self.compression,
            &mut self.compressor,
            place,
            self.out.buffer(),
        )?;
        self.blocks.push(entry);
        self.out.spill()
    }

    /// Writes the last block and the tables of the open stream.
    fn end_stream(&mut self) -> io::Result<()> {
        let Some(range) = self.range.take() else {
            return Ok(());
        };
        if !self.block.is_empty() {
            self.seal(range.stream)?;
        }
        let subjects = self.subjects.len() as u64;
        let (table, out) = (&mut self.table, &mut self.out);
        self.subjects.each(&self.blocks, range.first_seq, |subject, value| {
            table.push(subject, value, out)
        })?;
        let subject_table = table.finish(out)?;
        let block_table = self.write_blocks()?;
        let expiry_table = self.write_expiries()?;
        self.subjects.clear();
        self.blocks.clear();
        self.expiries.clear();
        self.directory.push(StreamEntry {
            range,
            subjects,
            block_table,
            subject_table,
            expiry_table,
        });
        Ok(())
    }

    fn write_blocks(&mut self) -> io::Result<Pointer> {
        let mut value = Vec::new();
        for block in &self.blocks {
            value.clear();
            block.encode(&mut value);
            self.table.push(&block.last_seq.to_be_bytes(), &value, &mut self.out)?;
        }
        self.table.finish(&mut self.out)
    }

    fn write_expiries(&mut self) -> io::Result<Pointer> {
        if self.expiries.is_empty() {
            return Ok(Pointer::default());
        }
        self.expiries.sort_unstable();
        for (time, seq) in &self.expiries {
            let key = expiry_key(*time, *seq);
            self.table.push(&key, &[], &mut self.out)?;
        }
        self.table.finish(&mut self.out)
    }
}

/// The key of an expiry table.
pub(crate) fn expiry_key(time: u64, seq: u64) -> [u8; 16] {
    (u128::from(time) << 64 | u128::from(seq)).to_be_bytes()
}
