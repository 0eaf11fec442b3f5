//! The open group: what was decided since the last commit, encoded as it is decided, so that closing
//! it costs nothing.

use bytes::Bytes;

use crate::codec::checksum_with_seed;
use crate::journal::effect::EntryPlace;
use crate::journal::format::{FILE_HEADER, fold};
use crate::journal::shared::Group;
use crate::journal::writer::JournalWriter;

/// A group that is still being added to, and the file it will go to.
#[derive(Debug)]
pub(super) struct OpenGroup {
    /// Its number; the groups before it were sent.
    pub(super) number: u64,
    seed: u64,
    file: u64,
    salt: u64,
    /// Bytes of the file that are spoken for. Never less than what the writer uses.
    used: u64,
    file_size: u64,
    entries: u32,
    digest: u64,
    /// Full buffers of this group, in order.
    pub(super) pieces: Vec<Bytes>,
}

impl OpenGroup {
    /// The group after `last`, in file number `file`.
    pub(super) fn new(seed: u64, file: u64, last: u64, file_size: u64) -> Self {
        Self {
            number: last + 1,
            seed,
            file,
            salt: salt_of(seed, file),
            used: FILE_HEADER,
            file_size,
            entries: 0,
            digest: 0,
            pieces: Vec::new(),
        }
    }

    /// Whether nothing was decided since the last commit.
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Where the next entry goes. The first one may begin a new file: a group lies in one file, and
    /// its checksums carry that file's salt.
    pub(super) fn place(&mut self) -> EntryPlace {
        if self.entries == 0
            && self.used > FILE_HEADER
            && self.used + self.reserve() > self.file_size
        {
            self.file += 1;
            self.salt = salt_of(self.seed, self.file);
            self.used = FILE_HEADER;
        }
        EntryPlace { salt: self.salt, group: self.number, index: self.entries }
    }

    /// Room for one more group of usual size. A larger one makes the file grow, which is slower.
    fn reserve(&self) -> u64 {
        (self.file_size / 8).min(4 << 20)
    }

    /// Counts an entry that was encoded.
    pub(super) fn added(&mut self, sum: u64) {
        self.entries += 1;
        self.digest = fold(self.digest, sum);
    }

    /// Closes the group, whose last buffer is `last`, and begins the next. Returns it and the bytes
    /// it takes in the journal.
    pub(super) fn close(&mut self, last: Option<Bytes>) -> (Group, u64) {
        let mut pieces = std::mem::take(&mut self.pieces);
        let body = match last {
            Some(last) if pieces.is_empty() => last,
            last => {
                pieces.extend(last);
                if pieces.is_empty() { Bytes::new() } else { pieces.remove(0) }
            }
        };
        let group = Group {
            number: self.number,
            file: self.file,
            salt: self.salt,
            entries: self.entries,
            digest: self.digest,
            body,
            more: pieces,
        };
        let space = JournalWriter::space(group.body_len());
        self.used += space;
        self.number += 1;
        self.entries = 0;
        self.digest = 0;
        (group, space)
    }
}

fn salt_of(seed: u64, file: u64) -> u64 {
    checksum_with_seed(&file.to_le_bytes(), seed)
}
