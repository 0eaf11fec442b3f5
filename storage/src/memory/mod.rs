//! `MemoryLog`: the log in ordered maps, as naive as can be.
//!
//! It is the model that the real engine is tested against, and what the broker's own tests run on.
//! Nothing survives the process; a restart is simulated by cloning it. Switches make it hold back
//! durability, answer reads late, run out of room or fail, so that its users can be tested for that.

mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::ids::{Fingerprint, Position, ReadId, StreamId, SubjectId};
use crate::log::{
    Filter, Log, LogEvent, LogFailure, Losses, Pressure, ReadBatch, ReadError, ReadOutcome,
    ReadRequest, State, StreamOptions, StreamSummary, SubjectSummary, WindowFull,
};
use crate::record::{NewRecord, Record};

use stream::Stream;

/// Sequences that a slow read looks at before it answers.
pub const SLOW_STEP: u64 = 2;

/// A log in memory. See the module's text.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    streams: BTreeMap<StreamId, Stream>,
    states: BTreeMap<Vec<u8>, State>,
    message_ids: HashMap<(StreamId, Fingerprint), (u64, u64)>,
    message_id_budget: Option<usize>,
    /// Whether the open group holds anything.
    open: bool,
    committed: Position,
    durable: Position,
    held: bool,
    slow: bool,
    vague: bool,
    reads: VecDeque<(ReadId, ReadRequest, Filter)>,
    next_read: u64,
    damaged: Vec<(StreamId, u64, u64)>,
    losses: Losses,
    unreadable: bool,
    failure: Option<String>,
    pressure: Pressure,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// While `held`, nothing becomes durable. Afterwards everything committed meanwhile does.
    pub fn hold_durable(&mut self, held: bool) {
        self.held = held;
    }

    /// While `slow`, every read is answered by [`Log::poll`] and counts of ranges are refused, as
    /// if all records were on disk. Such reads give up after [`SLOW_STEP`] sequences, and the first
    /// record of a subject is only known not to be below the stream's, as the log may do.
    pub fn slow_reads(&mut self, slow: bool) {
        self.slow = slow;
    }

    /// While `vague`, the last record of a subject is only known not to be above the stream's, as after
    /// it was deleted alone.
    pub fn hide_last_records(&mut self, vague: bool) {
        self.vague = vague;
    }

    /// From now on the sequences `first..=last` of `stream` cannot be read.
    pub fn damage(&mut self, stream: StreamId, first: u64, last: u64) {
        self.damaged.push((stream, first, last));
    }

    /// From now on [`Log::losses`] says this.
    pub fn lose(&mut self, losses: Losses) {
        self.losses = losses;
    }

    /// While `unreadable`, reads fail as those of a disk that cannot be read just now.
    pub fn fail_reads(&mut self, unreadable: bool) {
        self.unreadable = unreadable;
    }

    /// From now on [`Log::poll`] fails for this reason.
    pub fn fail(&mut self, reason: &str) {
        self.failure = Some(reason.to_owned());
    }

    /// What [`Log::pressure`] answers.
    pub fn set_pressure(&mut self, pressure: Pressure) {
        self.pressure = pressure;
    }

    /// How many message ids are remembered at most.
    pub fn set_message_id_budget(&mut self, ids: usize) {
        self.message_id_budget = Some(ids);
    }

    /// All records of a stream, in order.
    pub fn records(&self, stream: StreamId) -> impl Iterator<Item = &Record> {
        self.streams.get(&stream).into_iter().flat_map(Stream::records)
    }

    /// The log as its next process finds it: everything committed is durable, reads are forgotten.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let mut log = self.clone();
        log.durable = log.commit();
        log.held = false;
        log.reads.clear();
        log
    }

    fn examine(
        &self,
        request: &ReadRequest,
        filter: &Filter,
        records: &mut Vec<Record>,
    ) -> Result<u64, ReadError> {
        if self.unreadable {
            let (file, reason) = ("memory".to_owned(), "too many open files".to_owned());
            return Err(ReadError::Io { file, reason });
        }
        let Some(stream) = self.streams.get(&request.stream) else {
            return Ok(request.to.saturating_add(1));
        };
        let damaged = self
            .damaged
            .iter()
            .filter(|(id, first, last)| {
                *id == request.stream && *last >= request.from && *first <= request.to
            })
            .min_by_key(|(_, first, _)| *first);
        let Some(&(_, first, last)) = damaged else {
            return Ok(stream.read(request, filter, records));
        };
        if first <= request.from {
            return Err(ReadError::Damaged {
                stream: request.stream,
                first,
                last,
                file: "memory".to_owned(),
                offset: 0,
            });
        }
        let before = ReadRequest { to: first - 1, ..request.clone() };
        Ok(stream.read(&before, filter, records))
    }
}

impl Log for MemoryLog {
    fn create_stream(&mut self, id: StreamId, options: StreamOptions) {
        self.open = true;
        self.streams.insert(id, Stream::new(options));
    }

    fn update_stream(&mut self, id: StreamId, options: StreamOptions) {
        self.open = true;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.update(options);
        }
    }

    fn drop_stream(&mut self, id: StreamId) {
        self.open = true;
        self.streams.remove(&id);
        self.message_ids.retain(|(stream, _), _| *stream != id);
    }

    fn stream(&self, id: StreamId) -> Option<StreamSummary> {
        self.streams.get(&id).map(Stream::summary)
    }

    fn append(&mut self, stream: StreamId, record: &NewRecord<'_>) -> Result<u64, WindowFull> {
        if let Some((id, until)) = record.message_id {
            self.message_ids.retain(|_, (_, kept_until)| *kept_until > record.time);
            if self.message_id_budget.is_some_and(|budget| self.message_ids.len() >= budget) {
                return Err(WindowFull);
            }
            if let Some(held) = self.streams.get(&stream) {
                self.message_ids.insert((stream, id), (held.last_seq() + 1, until));
            }
        }
        self.open = true;
        Ok(self.streams.get_mut(&stream).map_or(0, |held| held.append(record)))
    }

    fn has_room_for_ids(&mut self, now: u64, count: usize) -> bool {
        let live = self.message_ids.values().filter(|(_, until)| *until > now).count();
        self.message_id_budget.is_none_or(|budget| live + count <= budget)
    }

    fn skip(&mut self, stream: StreamId, last: u64) {
        self.open = true;
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.skip(last);
        }
    }

    fn delete(&mut self, stream: StreamId, seq: u64, _subject: SubjectId, _size: u64) -> bool {
        let deleted = self.streams.get_mut(&stream).is_some_and(|stream| stream.delete(seq));
        self.open |= deleted;
        deleted
    }

    fn erase(&mut self, stream: StreamId, seq: u64, subject: SubjectId, size: u64) -> bool {
        self.delete(stream, seq, subject, size)
    }

    fn clear(&mut self, stream: StreamId) -> u64 {
        let cleared = self.streams.get_mut(&stream).map_or(0, Stream::clear);
        self.open |= cleared > 0;
        cleared
    }

    fn contains(&self, stream: StreamId, seq: u64) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.contains(seq))
    }

    fn subject(&self, stream: StreamId, subject: &str) -> Option<SubjectSummary> {
        let stream = self.streams.get(&stream)?;
        let mut summary = stream.subject(subject)?;
        if self.slow {
            summary.first = stream.summary().first_seq;
        }
        if self.vague {
            (summary.last, summary.last_is_exact) = (stream.last_seq(), false);
        }
        Some(summary)
    }

    fn subject_text(&self, stream: StreamId, id: SubjectId) -> Option<&str> {
        self.streams.get(&stream)?.subject_text(id)
    }

    fn subjects(
        &self,
        stream: StreamId,
        filter: &Filter,
        visit: &mut dyn FnMut(&str, SubjectSummary),
    ) {
        if let Some(stream) = self.streams.get(&stream) {
            stream.subjects(filter, visit);
        }
    }

    fn read(
        &mut self,
        request: &ReadRequest,
        filter: &Filter,
        records: &mut Vec<Record>,
    ) -> ReadOutcome {
        if !self.slow
            && let Ok(next) = self.examine(request, filter, records)
        {
            return ReadOutcome::Ready { next };
        }
        let id = ReadId(self.next_read);
        self.next_read += 1;
        self.reads.push_back((id, request.clone(), filter.clone()));
        ReadOutcome::Waiting(id)
    }

    fn read_known(
        &mut self,
        stream: StreamId,
        seqs: &[u64],
        max_bytes: usize,
        records: &mut Vec<Record>,
    ) -> usize {
        let one = |seq| {
            let (max_records, max_bytes) = (1, usize::MAX);
            ReadRequest { stream, from: seq, to: seq, since: 0, max_records, max_bytes }
        };
        let before = records.len();
        let in_memory = seqs.iter().take_while(|seq| {
            let bytes: usize = records.iter().skip(before).map(|record| record.data().len()).sum();
            bytes < max_bytes
                && !self.slow
                && self.examine(&one(**seq), &Filter::all(), records).is_ok()
        });
        in_memory.count()
    }

    fn count(&self, stream: StreamId, filter: &Filter, from: u64, to: u64) -> Option<u64> {
        let stream = self.streams.get(&stream)?;
        let whole = from <= stream.summary().first_seq && to >= stream.last_seq();
        (whole || !self.slow).then(|| stream.count(filter, from, to))
    }

    fn next_expiry(&self, stream: StreamId) -> Option<(u64, u64)> {
        self.streams.get(&stream)?.next_expiry()
    }

    fn recall(&self, stream: StreamId, id: Fingerprint, now: u64) -> Option<u64> {
        let (seq, until) = self.message_ids.get(&(stream, id))?;
        (*until > now).then_some(*seq)
    }

    fn put(&mut self, key: &[u8], base: &[u8]) {
        self.open = true;
        self.states.insert(key.to_vec(), State { base: base.to_vec(), notes: Vec::new() });
    }

    fn note(&mut self, key: &[u8], note: &[u8]) -> (usize, usize) {
        self.open = true;
        let state = self.states.entry(key.to_vec()).or_default();
        state.notes.extend_from_slice(note);
        (state.base.len(), state.notes.len())
    }

    fn forget(&mut self, key: &[u8]) {
        self.open |= self.states.remove(key).is_some();
    }

    fn states(&self, prefix: &[u8]) -> Vec<(Vec<u8>, State)> {
        self.states
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, state)| (key.clone(), state.clone()))
            .collect()
    }

    fn commit(&mut self) -> Position {
        if self.open {
            self.open = false;
            self.committed = self.committed.next();
        }
        self.committed
    }

    fn durable(&self) -> Position {
        self.durable
    }

    fn poll(&mut self) -> Result<Option<LogEvent>, LogFailure> {
        if let Some(reason) = &self.failure {
            return Err(LogFailure { reason: reason.clone() });
        }
        if !self.held && self.durable < self.committed {
            self.durable = self.committed;
            return Ok(Some(LogEvent::Durable(self.durable)));
        }
        let Some((id, mut request, filter)) = self.reads.pop_front() else {
            return Ok(None);
        };
        request.to = request.to.min(request.from.saturating_add(SLOW_STEP - 1));
        let mut records = Vec::new();
        let result = self.examine(&request, &filter, &mut records);
        Ok(Some(LogEvent::Read(id, result.map(|next| ReadBatch { records, next }))))
    }

    fn losses(&self) -> &Losses {
        &self.losses
    }

    fn pressure(&self) -> Pressure {
        self.pressure
    }
}
