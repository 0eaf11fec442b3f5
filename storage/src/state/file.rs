//! State files: a header, blocks of sorted entries, a trailer. Written once, read from front to back.

use std::io;
use std::sync::Arc;

use super::entries::Entry;
use super::{Action, DIR};
use crate::codec::{Fields, PutFields, checksum, checksum_with_seed};
use crate::disk::{Disk, DiskFile};
use crate::segment::Pace;

const MAGIC: &[u8; 8] = b"CBSTATE\0";
/// Files of a newer major version are refused.
pub(crate) const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// Length of the header, in bytes.
const HEADER: usize = 64;
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"CBSE");
/// Length of the trailer, in bytes.
const TRAILER: usize = 40;
/// A block is ended once it has this many bytes; one entry may be larger.
const BLOCK: usize = 64 << 10;
/// Written and synced at least this often, in bytes.
const STEP: usize = 1 << 20;
/// Before a block: its length and checksum.
const FRAME: usize = 4 + 8;

/// What the manifest knows of a state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateFile {
    pub(crate) id: u64,
    pub(crate) length: u64,
    pub(crate) digest: u64,
}

impl StateFile {
    pub(crate) fn path(&self) -> String {
        path(self.id)
    }
}

pub(crate) fn path(id: u64) -> String {
    format!("{DIR}/{id:016x}.st")
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{file} is damaged at byte {offset}: {what}")]
    Damaged { file: String, offset: u64, what: &'static str },
    #[error("{file} has format {major}, this version knows formats up to {MAJOR}")]
    Newer { file: String, major: u16 },
    #[error("cannot read {file}: {source}")]
    Io { file: String, source: io::Error },
}

/// Reads one file to its end.
pub(crate) fn read_through(disk: &dyn Disk, file: StateFile) -> Result<(), StateError> {
    let mut reader = StateReader::open(disk, file)?;
    while reader.next()?.is_some() {}
    Ok(())
}

pub(crate) struct StateWriter<'a> {
    id: u64,
    file: Arc<dyn DiskFile>,
    pace: Pace<'a>,
    block: Vec<u8>,
    out: Vec<u8>,
    written: u64,
    digest: u64,
    count: u64,
}

impl<'a> StateWriter<'a> {
    pub(crate) fn create(disk: &dyn Disk, id: u64, pace: Pace<'a>) -> io::Result<Self> {
        let file = disk.create(&path(id))?;
        let mut out = Vec::with_capacity(STEP + BLOCK);
        out.bytes(MAGIC);
        out.u16(MAJOR);
        out.u16(MINOR);
        out.u32(0);
        out.u64(id);
        // Reserved for encryption: cipher, key id, nonce. All zero: none.
        out.resize(HEADER - 8, 0);
        let sum = checksum(&out);
        out.u64(sum);
        Ok(Self { id, file, pace, block: Vec::new(), out, written: 0, digest: 0, count: 0 })
    }

    /// Adds an entry; keys ascend.
    pub(crate) fn add(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let too_long = |_| io::Error::other("a state key or value of more than 4 GiB");
        self.block.u8(entry.action.code());
        self.block.u32(u32::try_from(entry.key.len()).map_err(too_long)?);
        self.block.u32(u32::try_from(entry.value.len()).map_err(too_long)?);
        self.block.bytes(entry.key);
        self.block.bytes(entry.value);
        self.count += 1;
        if self.block.len() >= BLOCK { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let offset = self.written + self.out.len() as u64;
        let sum = checksum_with_seed(&self.block, self.id.rotate_left(40) ^ offset);
        self.digest = crate::journal::format::fold(self.digest, sum);
        self.out.u32(self.block.len() as u32);
        self.out.u64(sum);
        self.out.bytes(&self.block);
        self.block.clear();
        if self.out.len() >= STEP { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        for step in self.out.chunks(STEP) {
            self.file.write_at(step, self.written)?;
            self.file.sync()?;
            self.written += step.len() as u64;
            (self.pace)(step.len() as u64)?;
        }
        self.out.clear();
        Ok(())
    }

    /// Ends the file; its bytes are durable. The caller syncs the directory.
    pub(crate) fn finish(mut self) -> io::Result<StateFile> {
        self.end_block()?;
        let length = self.written + self.out.len() as u64 + TRAILER as u64;
        let start = self.out.len();
        self.out.u32(TRAILER_MAGIC);
        self.out.u32(0);
        self.out.u64(self.count);
        self.out.u64(self.digest);
        self.out.u64(length);
        let sum = checksum_with_seed(self.out.get(start..).unwrap_or_default(), self.id);
        self.out.u64(sum);
        self.flush()?;
        Ok(StateFile { id: self.id, length, digest: self.digest })
    }
}

/// Reads a state file from front to back, checking everything.
pub(crate) struct StateReader {
    file: Arc<dyn DiskFile>,
    meta: StateFile,
    /// Where the next block stands.
    offset: u64,
    /// Read ahead: bytes from `offset` on.
    ahead: Vec<u8>,
    ahead_at: usize,
    block: Vec<u8>,
    at: usize,
    digest: u64,
}

impl StateReader {
    pub(crate) fn open(disk: &dyn Disk, meta: StateFile) -> Result<Self, StateError> {
        let io = |source| StateError::Io { file: meta.path(), source };
        let file = disk.open(&meta.path()).map_err(io)?;
        let mut reader = Self {
            file,
            meta,
            offset: 0,
            ahead: Vec::new(),
            ahead_at: 0,
            block: Vec::new(),
            at: 0,
            digest: 0,
        };
        if reader.file.len().map_err(io)? != meta.length {
            return Err(reader.damaged("its length is not what the manifest says"));
        }
        let header = reader.take(HEADER)?;
        reader.check_header(&header)?;
        Ok(reader)
    }

    fn check_header(&self, header: &[u8]) -> Result<(), StateError> {
        let (body, sum) = header.split_at_checked(HEADER - 8).unwrap_or_default();
        let mut fields = Fields::new(body);
        if fields.take(8) != Some(MAGIC) || Fields::new(sum).u64() != Some(checksum(body)) {
            return Err(self.damaged("the header is not a state file's"));
        }
        match fields.u16() {
            Some(major) if major > MAJOR => {
                Err(StateError::Newer { file: self.meta.path(), major })
            }
            _ => Ok(()),
        }
    }

    fn damaged(&self, what: &'static str) -> StateError {
        StateError::Damaged { file: self.meta.path(), offset: self.offset, what }
    }

    /// The next `len` bytes of the file.
    fn take(&mut self, len: usize) -> Result<Vec<u8>, StateError> {
        let have = self.ahead.len() - self.ahead_at;
        if have < len {
            let left = (self.meta.length - self.offset) as usize;
            if left < len {
                return Err(self.damaged("it ends in the middle"));
            }
            let wanted = left.min(len.max(STEP));
            let mut bytes = vec![0; wanted];
            self.file
                .read_at(&mut bytes, self.offset)
                .map_err(|source| StateError::Io { file: self.meta.path(), source })?;
            self.ahead = bytes;
            self.ahead_at = 0;
        }
        let taken = self.ahead.get(self.ahead_at..self.ahead_at + len).unwrap_or_default().to_vec();
        self.ahead_at += len;
        self.offset += len as u64;
        Ok(taken)
    }

    /// Reads the next block; false at the end of the file.
    fn next_block(&mut self) -> Result<bool, StateError> {
        if self.offset == self.meta.length {
            return Ok(false);
        }
        if self.offset + TRAILER as u64 == self.meta.length {
            self.check_trailer()?;
            return Ok(false);
        }
        let offset = self.offset;
        let frame = self.take(FRAME)?;
        let mut fields = Fields::new(&frame);
        let (Some(len), Some(sum)) = (fields.u32(), fields.u64()) else {
            return Err(self.damaged("a block has no frame"));
        };
        if u64::from(len) > self.meta.length - self.offset {
            return Err(self.damaged("a block is longer than the file"));
        }
        self.block = self.take(len as usize)?;
        self.at = 0;
        if checksum_with_seed(&self.block, self.meta.id.rotate_left(40) ^ offset) != sum {
            return Err(StateError::Damaged {
                file: self.meta.path(),
                offset,
                what: "the checksum of a block does not match",
            });
        }
        self.digest = crate::journal::format::fold(self.digest, sum);
        Ok(true)
    }

    fn check_trailer(&mut self) -> Result<(), StateError> {
        if self.digest != self.meta.digest {
            return Err(self.damaged("its digest is not what the manifest says"));
        }
        let trailer = self.take(TRAILER)?;
        let (body, sum) = trailer.split_at_checked(TRAILER - 8).unwrap_or_default();
        if Fields::new(sum).u64() != Some(checksum_with_seed(body, self.meta.id)) {
            return Err(self.damaged("the trailer's checksum does not match"));
        }
        Ok(())
    }

    /// The next entry, or nothing at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>, StateError> {
        while self.at >= self.block.len() {
            if !self.next_block()? {
                return Ok(None);
            }
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let Some((end, entry_len)) = entry_span(rest) else {
            return Err(self.damaged("an entry does not fit its block"));
        };
        let start = self.at;
        self.at += entry_len;
        let entry = self.block.get(start..start + end).and_then(decode_entry);
        let file = &self.meta;
        entry.map(Some).ok_or_else(|| StateError::Damaged {
            file: file.path(),
            offset: self.offset,
            what: "an entry of no known kind",
        })
    }
}

/// The length of the entry at the start of `bytes`, if it fits.
fn entry_span(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut fields = Fields::new(bytes);
    fields.u8()?;
    let (key, value) = (fields.u32()? as usize, fields.u32()? as usize);
    let len = 9_usize.checked_add(key)?.checked_add(value)?;
    (len <= bytes.len()).then_some((len, len))
}

fn decode_entry(bytes: &[u8]) -> Option<Entry<'_>> {
    let mut fields = Fields::new(bytes);
    let action = Action::of_code(fields.u8()?)?;
    let (key, value) = (fields.u32()? as usize, fields.u32()? as usize);
    Some(Entry { key: fields.take(key)?, action, value: fields.take(value)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;
    use crate::disk::SimulatedDisk;

    fn write(disk: &SimulatedDisk, count: u32) -> StateFile {
        disk.create_dir(DIR).unwrap();
        let mut pace = |_| Ok(());
        let mut writer = StateWriter::create(disk, 5, &mut pace).unwrap();
        for n in 0..count {
            let key = n.to_be_bytes();
            let value = vec![n as u8; 500];
            writer.add(&Entry { key: &key, action: Action::Put, value: &value }).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(disk: &SimulatedDisk, meta: StateFile) -> Result<u32, StateError> {
        let mut reader = StateReader::open(disk, meta)?;
        let mut count = 0;
        while let Some(entry) = reader.next()? {
            assert_eq!(entry.key, u32::to_be_bytes(count));
            assert_eq!(entry.value, vec![count as u8; 500]);
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn entries_come_back() {
        for count in [0, 1, 5_000] {
            let disk = SimulatedDisk::new();
            let meta = write(&disk, count);
            assert_eq!(read(&disk, meta).unwrap(), count);
        }
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let disk = SimulatedDisk::new();
        let meta = write(&disk, 40);
        let good = disk.contents(&meta.path()).unwrap();
        for at in (0..good.len()).step_by(13) {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            disk.damage(&meta.path(), bytes);
            assert!(read(&disk, meta).is_err(), "byte {at}");
        }
        disk.damage(&meta.path(), good[..good.len() - 1].to_vec());
        assert!(read(&disk, meta).is_err());
    }
}
