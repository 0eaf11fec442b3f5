//! Segment files: where records stay once they have left the journal and the tail.
//!
//! A segment is written once, by [`SegmentWriter`], and never changed. It holds blocks of records
//! of one or more streams and, for each stream, sorted tables that say where its blocks lie, which
//! subjects stand in which blocks, and which records expire when. [`Segment`] reads them;
//! [`merge()`] turns several files into better ones; [`verify()`] checks every byte.
//!
//! Deleted records, the list of the segments that count, and when to write or merge are none of
//! this module's business. The byte layout is in `storage/README.md`, chapter "Segment files".

use std::fmt;

use crate::ids::StreamId;
use crate::log::ReadError;

mod block;
mod cache;
mod expiries;
mod file;
mod layout;
mod locate;
mod merge;
mod output;
mod read;
mod salvage;
mod subjects;
mod table;
mod take;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod varint;
mod verify;
mod wanted;
mod write;

pub use block::BlockEntry;
pub use cache::BlockCache;
pub use locate::BlockLocator;
pub use merge::{Merge, MergeLimits, merge};
pub use output::Pace;
pub use read::{ReadStats, Segment};
pub use subjects::SubjectEntry;
pub(crate) use verify::check_digest;
pub use verify::{Damage, Verified, verify};
pub use write::SegmentWriter;

/// The format written by this version. A file of a greater major version is refused untouched.
pub const MAJOR: u16 = 1;
/// Grows when something is added that readers of the same major version may ignore.
pub const MINOR: u16 = 0;

/// Raw bytes in a block, unless a single record is larger: large enough to compress well, small
/// enough that fetching one record costs little more than any read of a disk.
pub const BLOCK_BYTES: usize = 16 * 1024;

/// The most raw bytes one block may claim: the largest record there can be (64 MiB of payload,
/// with its subject and headers) fits twice. Keeps a reader from believing a damaged length.
pub const BLOCK_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A writer writes and syncs whenever this much is buffered. Syncing less often makes the journal's
/// own syncs on the same disk wait for tens of milliseconds.
pub const SYNC_BYTES: usize = 1024 * 1024;

/// Names a segment. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

impl SegmentId {
    /// Its path under the data directory.
    #[must_use]
    pub fn path(self) -> String {
        format!("segments/{:016x}.seg", self.0)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {:016x}", self.0)
    }
}

/// What a segment holds of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRange {
    /// The stream.
    pub stream: StreamId,
    /// Sequence of its first record here.
    pub first_seq: u64,
    /// Sequence of its last record here.
    pub last_seq: u64,
    /// How many records.
    pub count: u64,
    /// Subjects, headers and payloads together, in bytes, before compression.
    pub bytes: u64,
    /// The earliest record's time, in nanoseconds since the Unix epoch.
    pub first_time: u64,
    /// The latest record's time, in nanoseconds since the Unix epoch.
    pub last_time: u64,
    /// The earliest time at which a record here expires by itself, in nanoseconds since the Unix
    /// epoch.
    pub next_expiry: Option<u64>,
}

/// What the manifest knows of a segment: enough to find records and to tell this file from any
/// other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Its name.
    pub id: SegmentId,
    /// Length of the file in bytes.
    pub length: u64,
    /// XXH3-64 of all bytes before the trailer.
    pub digest: u64,
    /// Its streams, ascending.
    pub streams: Vec<StreamRange>,
}

impl SegmentMeta {
    /// What it holds of `stream`, if anything.
    #[must_use]
    pub fn stream(&self, stream: StreamId) -> Option<&StreamRange> {
        let at = self.streams.binary_search_by_key(&stream, |range| range.stream).ok()?;
        self.streams.get(at)
    }
}

/// Why a segment cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The operating system could not read or write.
    #[error("cannot use {file}: {reason}")]
    Io {
        /// The file.
        file: String,
        /// What the operating system said.
        reason: String,
        /// Whether the reason has nothing to do with the file, and passes.
        is_passing: bool,
    },
    /// Bytes do not match their checksum, or contradict each other.
    #[error(
        "{file} is damaged at byte {offset}: {what}; run `claudebus verify` on the data directory"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where the damaged unit starts.
        offset: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// A later version wrote the file.
    #[error(
        "{file} has format {major}, this program reads up to {MAJOR}; \
         start the version that wrote it, the file was not touched"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its major format version.
        major: u16,
    },
    /// Two segments to merge hold the same sequence of a stream.
    #[error(
        "{stream} has sequence {seq} in two segments; run `claudebus verify` on the data directory"
    )]
    Overlap {
        /// The stream.
        stream: StreamId,
        /// The sequence found for the second time.
        seq: u64,
    },
}

impl SegmentError {
    pub(crate) fn io(file: &str, error: &std::io::Error) -> Self {
        let is_passing = crate::disk::is_passing(error);
        Self::Io { file: file.to_owned(), reason: error.to_string(), is_passing }
    }

    pub(crate) fn damaged(file: &str, offset: u64, what: &'static str) -> Self {
        Self::Damaged { file: file.to_owned(), offset, what }
    }

    /// As an error of a read that loses the sequences `first` to `last` by it.
    pub(crate) fn into_read(self, stream: StreamId, first: u64, last: u64) -> ReadError {
        match self {
            Self::Damaged { file, offset, .. } => {
                ReadError::Damaged { stream, first, last, file, offset }
            }
            // A file of a newer version is listed by no manifest that this version reads.
            Self::Newer { file, .. } => ReadError::Damaged { stream, first, last, file, offset: 0 },
            Self::Io { file, reason, .. } => ReadError::Io { file, reason },
            other => ReadError::Io { file: "segments".to_owned(), reason: other.to_string() },
        }
    }
}

/// The seed of a checksum at `offset` of a segment, so that a unit found at the wrong place does
/// not pass.
pub(crate) fn seed(segment: SegmentId, offset: u64) -> u64 {
    segment.0.rotate_left(40) ^ offset
}
