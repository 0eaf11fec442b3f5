//! Everything that effects change, in memory: streams, keyed state, message ids and the tail.
//!
//! [`Contents::apply`] replays an effect. The engine makes the same changes when it decides one. No
//! file and no thread is known here.

use hashbrown::HashMap;

use super::segments::Segments;
use crate::ids::StreamId;
use crate::journal::effect::{Effect, RecordEntry};
use crate::keyed::KeyedStates;
use crate::stream::Stream;
use crate::tail::{Chunks, PLACE_BYTES, Place};
use crate::window::{Remembered, Window};

/// See the module's text.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) streams: HashMap<StreamId, Box<Stream>>,
    /// Streams dropped since the last checkpoint.
    pub(super) dropped: Vec<StreamId>,
    pub(super) keyed: KeyedStates,
    pub(super) window: Window,
    pub(super) chunks: Chunks,
    /// Records in tails, to charge for their places.
    pub(super) tail_records: usize,
    /// The latest record time seen, in nanoseconds since the Unix epoch.
    pub(super) clock: u64,
    /// Records to be overwritten where they are sealed, since the last checkpoint.
    pub(super) erased: Vec<(StreamId, u64)>,
    pub(super) segments: Segments,
}

impl Contents {
    /// Memory that unsealed records take, in bytes.
    pub(super) fn tail_bytes(&self) -> usize {
        self.chunks.bytes() + self.tail_records * PLACE_BYTES
    }

    /// Counts anew what segments hold of streams from which records went.
    pub(super) fn recount(&mut self) {
        for stream in self.streams.values_mut().filter(|stream| stream.sealed_is_dirty) {
            self.segments.recount(stream);
            stream.sealed_is_dirty = false;
        }
    }

    pub(super) fn drop_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.tail_records -= stream.tail.len();
            self.segments.forget(&stream.sealed);
            self.window.drop_stream(id);
            self.dropped.push(id);
        }
    }

    pub(super) fn clear(&mut self, id: StreamId) -> u64 {
        let Some(stream) = self.streams.get_mut(&id) else { return 0 };
        self.tail_records -= stream.tail.len();
        self.segments.forget(&stream.sealed);
        stream.cleared()
    }

    /// Applies an effect that was read from the journal. `chunk` and `offset` say where a record's
    /// entry lies.
    pub(super) fn apply(&mut self, effect: &Effect<'_>, chunk: u64, offset: u32) {
        match *effect {
            Effect::Created { stream, options } => {
                self.streams.insert(stream, Box::new(Stream::new(options)));
            }
            Effect::Updated { stream, options } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.options.compression = options.compression;
                    stream.is_dirty = true;
                }
            }
            Effect::Dropped { stream } => self.drop_stream(stream),
            Effect::Record(record) => self.apply_record(&record, chunk, offset),
            Effect::Skipped { stream, last } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.skipped(last);
                }
            }
            Effect::Deleted { stream: id, seq, size, subject, erase } => {
                let Some(stream) = self.streams.get_mut(&id) else { return };
                let Some(subject) = stream.subjects.get(subject) else { return };
                if stream.deleted(seq, subject.id, size) && erase {
                    self.erased.push((id, seq));
                }
            }
            Effect::Cleared { stream } => {
                self.clear(stream);
            }
            Effect::Put { key, base } => self.keyed.put(key, base),
            Effect::Noted { key, note } => {
                self.keyed.note(key, note);
            }
            Effect::Forgotten { key } => self.keyed.forget(key),
        }
    }

    fn apply_record(&mut self, record: &RecordEntry<'_>, chunk: u64, offset: u32) {
        let Some(stream) = self.streams.get_mut(&record.stream) else { return };
        if record.seq <= stream.last_seq {
            return;
        }
        let RecordEntry { seq, time, expires, .. } = *record;
        let subject = stream.appended(seq, record.subject(), time, expires, record.size());
        stream.tail.push(&Place { seq, chunk, offset, subject }, stream.subjects.sketch(subject));
        self.tail_records += 1;
        self.clock = self.clock.max(time);
        if let Some((id, until)) = record.message_id {
            self.window.remember(record.stream, Remembered { id, seq, until });
        }
    }
}
