//! Effects as they are decided: each is applied in memory and added to the open group.

use super::Engine;
use crate::ids::{Position, StreamId, SubjectId};
use crate::journal::effect::{Effect, encode, encode_record, encoded_len, record_len};
use crate::journal::format::ENTRY_FRAME;
use crate::journal::shared::Group;
use crate::log::{StreamOptions, WindowFull};
use crate::record::{NewRecord, Record, StorageKind};
use crate::stream::Stream;
use crate::tail::Place;
use crate::window::{ENTRY_BYTES, Remembered};

/// A group larger than this is closed early, in bytes; its length field has 32 bits.
const GROUP_LIMIT: usize = 1 << 30;

impl Engine {
    /// Adds an effect to the open group.
    fn journal(&mut self, effect: &Effect<'_>) {
        let place = self.group.place();
        let chunks = &mut self.contents.chunks;
        let room = chunks.room(encoded_len(effect), place.group, &mut self.group.pieces);
        let sum = encode(room, place, effect);
        self.group.added(sum);
    }

    pub(super) fn create(&mut self, id: StreamId, options: StreamOptions) {
        self.contents.streams.insert(id, Box::new(Stream::new(options)));
        self.journal(&Effect::Created { stream: id, options });
    }

    pub(super) fn update(&mut self, id: StreamId, options: StreamOptions) {
        let Some(stream) = self.contents.streams.get_mut(&id) else { return };
        stream.options.compression = options.compression;
        stream.is_dirty = true;
        let options = stream.options;
        self.journal(&Effect::Updated { stream: id, options });
    }

    pub(super) fn drop_one(&mut self, id: StreamId) {
        if self.contents.streams.contains_key(&id) {
            self.contents.drop_stream(id);
            self.progress.calls_to_space = 0;
            self.journal(&Effect::Dropped { stream: id });
        }
    }

    /// Appends a record; see [`Log::append`](crate::Log::append). The hot path.
    pub(super) fn append_one(
        &mut self,
        id: StreamId,
        record: &NewRecord<'_>,
    ) -> Result<u64, WindowFull> {
        if record.message_id.is_some() {
            self.make_room_for_id(id, record.time)?;
        }
        let contents = &mut self.contents;
        let Some(stream) = contents.streams.get_mut(&id) else { return Ok(0) };
        let seq = stream.last_seq + 1;
        let storage = stream.options.storage;
        let size = storage.size(record.subject.len(), record.headers.len(), record.payload.len());
        let subject = stream.appended(seq, record.subject, record.time, record.expires, size);
        if storage == StorageKind::Memory {
            stream.volatile.insert(seq, (Record::copy_of(seq, record), subject));
        } else {
            let place = self.group.place();
            let len = record_len(record) + ENTRY_FRAME;
            let room = contents.chunks.room(len, place.group, &mut self.group.pieces);
            let offset = room.len() as u32;
            let sum = encode_record(room, place, id, seq, record);
            self.group.added(sum);
            contents.chunks.mark_record();
            let chunk = contents.chunks.open_number();
            stream
                .tail
                .push(&Place { seq, chunk, offset, subject }, stream.subjects.sketch(subject));
            contents.tail_records += 1;
        }
        contents.clock = contents.clock.max(record.time);
        if let Some((id_of_message, until)) = record.message_id {
            contents.window.remember(id, Remembered { id: id_of_message, seq, until });
        }
        Ok(seq)
    }

    /// Drops expired message ids; an error if the budget is used up by live ones.
    fn make_room_for_id(&mut self, stream: StreamId, now: u64) -> Result<(), WindowFull> {
        let budget = self.options.message_id_budget;
        let window = &mut self.contents.window;
        window.expire_stream(stream, now);
        if window.bytes() + ENTRY_BYTES > budget {
            window.expire(now);
            if window.bytes() + ENTRY_BYTES > budget {
                return Err(WindowFull);
            }
        }
        Ok(())
    }

    /// Drops expired message ids if there is no room for so many more.
    pub(super) fn has_room_in_window(&mut self, now: u64, count: usize) -> bool {
        let (budget, window) = (self.options.message_id_budget, &mut self.contents.window);
        let more = ENTRY_BYTES.saturating_mul(count);
        if window.bytes().saturating_add(more) > budget {
            window.expire(now);
        }
        window.bytes().saturating_add(more) <= budget
    }

    pub(super) fn skip_to(&mut self, id: StreamId, last: u64) {
        let Some(stream) = self.contents.streams.get_mut(&id) else { return };
        if last > stream.last_seq {
            stream.skipped(last);
            self.journal(&Effect::Skipped { stream: id, last });
        }
    }

    pub(super) fn delete_one(
        &mut self,
        id: StreamId,
        seq: u64,
        subject: SubjectId,
        size: u64,
        erase: bool,
    ) -> bool {
        let Some(stream) = self.contents.streams.get_mut(&id) else { return false };
        if !stream.contains(seq) {
            return false;
        }
        if !stream.is_volatile() {
            let text = stream.subjects.text(subject).unwrap_or_default();
            let effect = Effect::Deleted { stream: id, seq, size, subject: text, erase };
            let place = self.group.place();
            let chunks = &mut self.contents.chunks;
            let room = chunks.room(encoded_len(&effect), place.group, &mut self.group.pieces);
            let sum = encode(room, place, &effect);
            self.group.added(sum);
        }
        stream.deleted(seq, subject, size);
        if erase && !stream.is_volatile() {
            self.contents.erased.push((id, seq));
        }
        true
    }

    pub(super) fn clear_all(&mut self, id: StreamId) -> u64 {
        let count = self.contents.clear(id);
        if count > 0 {
            self.progress.calls_to_space = 0;
            self.journal(&Effect::Cleared { stream: id });
        }
        count
    }

    pub(super) fn put_state(&mut self, key: &[u8], base: &[u8]) {
        self.contents.keyed.put(key, base);
        self.journal(&Effect::Put { key, base });
    }

    pub(super) fn note_state(&mut self, key: &[u8], note: &[u8]) -> (usize, usize) {
        let sizes = self.contents.keyed.note(key, note);
        self.journal(&Effect::Noted { key, note });
        sizes
    }

    pub(super) fn forget_state(&mut self, key: &[u8]) {
        self.contents.keyed.forget(key);
        self.journal(&Effect::Forgotten { key });
    }

    /// Closes the open group and sends it to the journal's writer.
    pub(super) fn commit_group(&mut self) -> Position {
        if !self.group.is_empty() {
            let group = self.close_group();
            match self.background.is_for_owner(&group) {
                true => self.kept = Some(group),
                false => self.journal.send(group),
            }
        }
        self.checkpoint_if_due();
        Position(self.group.number - 1)
    }

    /// Closes the open group; what was kept back goes before it.
    fn close_group(&mut self) -> Group {
        self.release_kept(false);
        let number = self.group.number;
        let last = self.contents.chunks.seal(number);
        let (group, space) = self.group.close(last);
        debug_assert!(group.body_len() < GROUP_LIMIT, "callers commit far earlier");
        self.journal_bytes += space;
        group
    }

    /// See [`Log::release`](crate::Log::release).
    pub(super) fn release_kept(&mut self, is_idle: bool) -> bool {
        let Some(group) = self.kept.take() else { return false };
        let unwritten = if is_idle { self.background.write_now(group) } else { Some(group) };
        let Some(group) = unwritten else { return true };
        self.journal.send(group);
        false
    }
}
