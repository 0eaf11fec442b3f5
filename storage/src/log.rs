//! The seam between the broker and storage: what a log is.
//!
//! The broker decides, the log remembers. The log holds streams of [`Record`]s and, beside them,
//! keyed state whose meaning only the broker knows. Everything that changes it is an *effect*: it
//! is visible to reads at once, belongs to the open group, and is durable when the group's
//! [`Position`] is. After a crash the log holds exactly the effects of a prefix of the groups that
//! includes every durable one.
//!
//! The trait has no clock and starts no thread. What needs a disk is answered later by
//! [`Log::poll`].

use std::sync::Arc;

use crate::ids::{Fingerprint, Position, ReadId, StreamId, SubjectId};
use crate::record::{NewRecord, Record, StorageKind};
#[cfg(feature = "engine")]
use crate::sketch::{Sketch, SketchPattern};
use crate::subject::Shape;

/// How a stream is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// On disk or in memory. Fixed at creation.
    pub storage: StorageKind,
    /// How blocks of segment files are compressed. May change; applies to blocks written later.
    pub compression: Compression,
}

/// Compression of the blocks of segment files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Stored as they are.
    Off,
    /// LZ4: the default, for its speed.
    #[default]
    Lz4,
    /// Zstandard at level 3: denser, slower.
    Zstd,
}

/// What a stream holds now, as far as memory knows. Exact at all times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSummary {
    /// Records that can be read.
    pub messages: u64,
    /// Their sizes by [`StorageKind::size`], in bytes.
    pub bytes: u64,
    /// The lowest sequence that can be read; `last_seq + 1` when there is none.
    pub first_seq: u64,
    /// The highest sequence ever given out; 0 when none was.
    pub last_seq: u64,
    /// Time of the last record ever appended, in nanoseconds since the Unix epoch; 0 when none was.
    pub last_time: u64,
    /// Distinct subjects among the records that can be read.
    pub subjects: u64,
}

/// What a stream holds of one subject. Exact at all times, except that `first` is a lower bound
/// after the subject's oldest record was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectSummary {
    /// The subject's number.
    pub id: SubjectId,
    /// Records of this subject that can be read.
    pub count: u64,
    /// No record of this subject has a lower sequence.
    pub first: u64,
    /// The highest sequence of a readable record of this subject. After that very record was
    /// deleted alone it is an upper bound, and `last_is_exact` is false.
    pub last: u64,
    /// Whether a record of this subject stands at `last`.
    pub last_is_exact: bool,
}

/// Which subjects a read wants. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    patterns: Option<Arc<Patterns>>,
}

/// Patterns, the shape of each, and what it asks of a sketch.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Patterns {
    texts: Box<[Box<str>]>,
    #[cfg(feature = "engine")]
    sketches: Box<[SketchPattern]>,
    shapes: Box<[Shape]>,
}

impl Filter {
    /// Every subject.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Subjects matched by any of `patterns`. No patterns, or `>` among them, means every subject.
    pub fn any_of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let texts: Box<[Box<str>]> = patterns.into_iter().map(Box::from).collect();
        if texts.is_empty() || texts.iter().any(|pattern| &**pattern == ">") {
            return Self::all();
        }
        let patterns = Patterns {
            shapes: texts.iter().map(|pattern| Shape::of(pattern)).collect(),
            #[cfg(feature = "engine")]
            sketches: texts.iter().map(|pattern| SketchPattern::of(pattern)).collect(),
            texts,
        };
        Self { patterns: Some(Arc::new(patterns)) }
    }

    /// The patterns, or nothing if every subject is wanted.
    #[must_use]
    pub fn patterns(&self) -> Option<&[Box<str>]> {
        self.patterns.as_deref().map(|patterns| &*patterns.texts)
    }

    /// Whether every subject is wanted.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.patterns.is_none()
    }

    /// Whether `subject` is wanted.
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        let Some(patterns) = &self.patterns else { return true };
        let mut both = patterns.texts.iter().zip(&patterns.shapes);
        both.any(|(pattern, shape)| shape.matches(pattern, subject))
    }

    /// Of a row of sketches, at most [`ROW`](crate::sketch::ROW), those whose subjects may be wanted: a
    /// bit for each, the lowest for the first.
    #[cfg(feature = "engine")]
    pub(crate) fn passing(&self, row: &[Sketch]) -> u64 {
        match &self.patterns {
            Some(patterns) => {
                patterns.sketches.iter().fold(0, |bits, pattern| bits | pattern.passing(row))
            }
            None => u64::MAX.checked_shr((crate::sketch::ROW - row.len()) as u32).unwrap_or(0),
        }
    }

    /// Whether a subject of this sketch is wanted, whose text `subject` gives when it is needed.
    #[cfg(feature = "engine")]
    pub(crate) fn wants<'a>(&self, sketch: Sketch, subject: impl Fn() -> &'a str) -> bool {
        let Some(patterns) = &self.patterns else { return true };
        let mut both = patterns.texts.iter().zip(&patterns.sketches);
        both.any(|(pattern, sketched)| sketched.matches(pattern, sketch, &subject))
    }
}

/// What to read: records of one stream in ascending order.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The stream.
    pub stream: StreamId,
    /// The lowest sequence wanted.
    pub from: u64,
    /// The highest sequence wanted.
    pub to: u64,
    /// Only records whose time is at least this, in nanoseconds since the Unix epoch; 0 for all.
    pub since: u64,
    /// Stop after this many records.
    pub max_records: usize,
    /// Stop once this many bytes of records were taken; at least one record is returned.
    pub max_bytes: usize,
}

/// What a read found.
#[derive(Clone, Debug, Default)]
pub struct ReadBatch {
    /// The records, in ascending order of sequence. All could be read at the moment the batch was
    /// handed over; ask [`Log::contains`] before using one later.
    pub records: Vec<Record>,
    /// The first sequence that was not examined: go on from here. Greater than `to` when the
    /// request was answered completely.
    pub next: u64,
}

/// The immediate answer to a read.
#[derive(Debug)]
pub enum ReadOutcome {
    /// Answered from memory; the records were added to the caller's vector. `next` is the first
    /// sequence that was not examined.
    Ready {
        /// The first sequence that was not examined.
        next: u64,
    },
    /// The disk is needed; the answer comes as [`LogEvent::Read`] under this id.
    Waiting(ReadId),
}

/// Why a read failed. The damage is confined: other reads go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Bytes on disk do not match their checksum.
    #[error(
        "sequences {first} to {last} of {stream} are damaged in {file} at byte {offset}; \
         run `claudebus verify` on the data directory"
    )]
    Damaged {
        /// The stream.
        stream: StreamId,
        /// First sequence that is lost with this damage.
        first: u64,
        /// Last sequence that is lost with this damage.
        last: u64,
        /// The file.
        file: String,
        /// Where in the file the damaged block starts.
        offset: u64,
    },
    /// The operating system could not read.
    #[error("cannot read {file}: {reason}")]
    Io {
        /// The file.
        file: String,
        /// What the operating system said.
        reason: String,
    },
}

/// Sequences of a stream that opening the log could not account for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// The stream.
    pub stream: StreamId,
    /// First sequence concerned.
    pub first: u64,
    /// Last sequence concerned.
    pub last: u64,
    /// The damaged file.
    pub file: String,
    /// Where the damage starts in it.
    pub offset: u64,
    /// Whether these sequences were given out for certain. Otherwise they are those that may have been, and
    /// whoever gives them out skips them first ([`Log::skip`]), so that none that was acknowledged is given
    /// out again. A copy that takes its sequences from elsewhere goes on where its records end.
    pub is_certain: bool,
}

/// What opening the log found to be lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The sequences, by stream as far as it is known.
    pub ranges: Vec<LostRange>,
    /// How many records may have been lost without a trace of their stream, at most.
    pub missing: u64,
}

/// Nothing is lost.
static NO_LOSSES: Losses = Losses { ranges: Vec::new(), missing: 0 };

/// News from the log.
#[derive(Debug)]
pub enum LogEvent {
    /// Everything up to this position is durable.
    Durable(Position),
    /// A read that needed the disk is answered.
    Read(ReadId, Result<ReadBatch, ReadError>),
}

/// The log cannot go on: a write or sync failed. The process must stop; retrying a failed sync would
/// report success for data that the kernel has dropped (Rebello et al., ATC '20).
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the journal failed: {reason}. Nothing acknowledged is lost; check the disk and start again"
)]
pub struct LogFailure {
    /// What failed, with the file and the operating system's words.
    pub reason: String,
}

/// How much of the memory for records not yet in segments is used, and whether the disk is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below 1.5 times the tail budget.
    #[default]
    Normal,
    /// Between 1.5 and 2 times: publishers should be slowed.
    High,
    /// At 2 times: nothing that adds records should be accepted. It passes with the next checkpoint.
    Full,
    /// The disk is full: what would add records should be refused, all else goes on.
    NoSpace,
}

/// What reading files again has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    /// Bytes read.
    pub bytes: u64,
    /// Passes over all files.
    pub passes: u64,
    /// Files, or copies of files, that were found damaged or missing.
    pub damaged: u64,
    /// Copies of files that were made again from whole ones, whoever found the damage.
    pub repaired: u64,
    /// When the last pass ended, in seconds since the Unix epoch; 0 if none has.
    pub last: u64,
}

/// The message-id budget is used up; see [`Log::append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory for message ids of the duplicate window is used up")]
pub struct WindowFull;

/// Keyed state: the last value put under the key, and the notes added since, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The last value put.
    pub base: Vec<u8>,
    /// Notes added since, one after the other. Their framing is the broker's.
    pub notes: Vec<u8>,
}

/// A log of streams and keyed state. See the module's text for what it promises.
pub trait Log {
    /// Begins a stream with no records. `id` was never used before.
    fn create_stream(&mut self, id: StreamId, options: StreamOptions);

    /// Changes how a stream is kept; `storage` stays what it is.
    fn update_stream(&mut self, id: StreamId, options: StreamOptions);

    /// Forgets a stream with all its records. Keyed state stays until it is erased.
    fn drop_stream(&mut self, id: StreamId);

    /// What the stream holds, or `None` if there is no such stream.
    fn stream(&self, id: StreamId) -> Option<StreamSummary>;

    /// Appends a record under the next sequence, which is returned. With a message id, remembers
    /// the id for that sequence in the same group.
    ///
    /// # Errors
    /// [`WindowFull`] if the id cannot be remembered; nothing is appended then.
    fn append(&mut self, stream: StreamId, record: &NewRecord<'_>) -> Result<u64, WindowFull>;

    /// Whether so many more message ids can be remembered at `now`. What must be stored whole asks before
    /// it begins.
    fn has_room_for_ids(&mut self, now: u64, count: usize) -> bool;

    /// Uses up the next sequences, up to and including `last`, without records.
    fn skip(&mut self, stream: StreamId, last: u64);

    /// Deletes one record. The caller knows its subject and size from reading or delivering it.
    /// Deleting what is not there does nothing and returns false.
    fn delete(&mut self, stream: StreamId, seq: u64, subject: SubjectId, size: u64) -> bool;

    /// Deletes one record and overwrites its bytes wherever they lie: at once in memory, and with
    /// the next rewriting of its segment on disk, which is started now. Returns false if it is not
    /// there.
    fn erase(&mut self, stream: StreamId, seq: u64, subject: SubjectId, size: u64) -> bool;

    /// Deletes all records; the next sequence stays what it was. Returns how many there were.
    fn clear(&mut self, stream: StreamId) -> u64;

    /// Whether the record can be read.
    fn contains(&self, stream: StreamId, seq: u64) -> bool;

    /// What the stream holds of one subject, or `None` if nothing.
    fn subject(&self, stream: StreamId, subject: &str) -> Option<SubjectSummary>;

    /// The text of a subject of the stream, or `None` if it holds none such.
    fn subject_text(&self, stream: StreamId, id: SubjectId) -> Option<&str>;

    /// Calls `visit` for each subject that the filter wants.
    fn subjects(
        &self,
        stream: StreamId,
        filter: &Filter,
        visit: &mut dyn FnMut(&str, SubjectSummary),
    );

    /// Reads records in ascending order. Those in memory are added to `records` at once; if the
    /// first one wanted is on disk, the answer comes later. Records between `request.from` and
    /// the returned `next` that are not among the answers are not wanted or not there.
    fn read(
        &mut self,
        request: &ReadRequest,
        filter: &Filter,
        records: &mut Vec<Record>,
    ) -> ReadOutcome;

    /// Reads records that are wanted, at ascending sequences, as long as they are in memory. Those that
    /// are not there any more are passed over. Stops once `max_bytes` of records were taken. Returns how many
    /// of the sequences were looked at: none if the first is to be read with [`read`](Self::read).
    fn read_known(
        &mut self,
        stream: StreamId,
        seqs: &[u64],
        max_bytes: usize,
        records: &mut Vec<Record>,
    ) -> usize;

    /// How many records from `from` to `to` the filter wants. Small ranges and whole streams are
    /// counted at once; otherwise `None`, and the caller counts by reading.
    fn count(&self, stream: StreamId, filter: &Filter, from: u64, to: u64) -> Option<u64>;

    /// The next record of the stream to expire by itself: when (nanoseconds since the Unix
    /// epoch), and its sequence.
    fn next_expiry(&self, stream: StreamId) -> Option<(u64, u64)>;

    /// The sequence that was stored under this message id, if it is still remembered at `now`
    /// (nanoseconds since the Unix epoch).
    fn recall(&self, stream: StreamId, id: Fingerprint, now: u64) -> Option<u64>;

    /// Replaces the state under `key`, with its notes.
    fn put(&mut self, key: &[u8], base: &[u8]);

    /// Adds a note to the state under `key`. Returns the bytes of the base and of all notes, so
    /// that the caller can put a new base when the notes outgrow it.
    fn note(&mut self, key: &[u8], note: &[u8]) -> (usize, usize);

    /// Forgets the state under `key`.
    fn forget(&mut self, key: &[u8]);

    /// All keyed state whose key starts with `prefix`, in order of key. For start-up.
    fn states(&self, prefix: &[u8]) -> Vec<(Vec<u8>, State)>;

    /// Closes the open group, if it holds anything, and sends it on its way to the disk. Returns
    /// the position that everything done so far depends on.
    fn commit(&mut self) -> Position;

    /// Sends a group on its way that the last [`commit`](Self::commit) kept back for this moment.
    /// `is_idle` says that the caller has nothing else to do: then the log may write it before this
    /// returns, which it tells, and there is news. What is kept back is sent by the next
    /// [`poll`](Self::poll) at the latest.
    fn release(&mut self, _is_idle: bool) -> bool {
        false
    }

    /// Up to where everything is durable.
    fn durable(&self) -> Position;

    /// News since the last call, oldest first.
    ///
    /// # Errors
    /// [`LogFailure`] if the log cannot go on.
    fn poll(&mut self) -> Result<Option<LogEvent>, LogFailure>;

    /// What opening the log found to be lost. Reads do not meet it: it is in no file any more. The ranges
    /// that are not certain are for the caller to skip, before it appends to their streams; until it does,
    /// every start finds the same.
    fn losses(&self) -> &Losses {
        &NO_LOSSES
    }

    /// How many copies of each file are kept; 0 if there are no files.
    fn copies(&self) -> u64 {
        0
    }

    /// What reading files again has found.
    fn scrubbed(&self) -> ScrubStats {
        ScrubStats::default()
    }

    /// How full the memory for records not yet in segments is.
    fn pressure(&self) -> Pressure;
}
