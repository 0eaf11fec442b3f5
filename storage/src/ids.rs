//! Identifiers that appear in files and in the [`Log`](crate::Log) trait.

use std::fmt;

/// A stream as storage knows it. Never reused, so that a late read of a deleted stream cannot
/// return another stream's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream #{}", self.0)
    }
}

/// A place in the journal: the number of a group. Everything decided in groups up to and including
/// a position is durable once [`Log::durable`](crate::Log::durable) has reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub u64);

impl Position {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.0)
    }
}

/// Names a read that needs the disk until its answer arrives as
/// [`LogEvent::Read`](crate::LogEvent::Read).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// A subject of one stream, as a small number. `slot` is reused after the stream's last message of
/// that subject is gone; `generation` then differs, so a remembered id never means another subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId {
    /// Index into tables with one entry per subject.
    pub slot: u32,
    /// Distinguishes successive users of a slot.
    pub generation: u32,
}

/// A 128-bit fingerprint of a message id. The broker computes it with a keyed hash, so that nobody
/// can craft two ids that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u128);
