//! Reads: from memory at once, from segments by a reader thread.

use std::sync::Arc;

use super::Engine;
use super::reader::ReadJob;
use crate::ids::{ReadId, StreamId};
use crate::log::{Filter, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use crate::prefetch::{AHEAD, prefetch};
use crate::record::Record;
use crate::sketch::Sketch;
use crate::stream::Stream;
use crate::tail::{Chunks, Place};

/// A read looks into at most this many segments before it answers.
const PLAN: usize = 16;
/// Ranges of at most this many records are counted one by one in memory.
const COUNTED_AT_ONCE: u64 = 4096;

/// How much of a read's limits is used up.
struct Taken {
    records: usize,
    bytes: usize,
}

impl Taken {
    fn is_full(&self, request: &ReadRequest) -> bool {
        self.records == request.max_records || (self.records > 0 && self.bytes >= request.max_bytes)
    }
}

impl Engine {
    pub(super) fn read_records(
        &mut self,
        request: &ReadRequest,
        filter: &Filter,
        records: &mut Vec<Record>,
    ) -> ReadOutcome {
        let Some(stream) = self.contents.streams.get(&request.stream) else {
            return ReadOutcome::Ready { next: request.to.saturating_add(1) };
        };
        if request.from > request.to {
            return ReadOutcome::Ready { next: request.from };
        }
        let from = request.from.max(stream.first_seq);
        let to = request.to.min(stream.last_seq);
        if from > to {
            return ReadOutcome::Ready { next: request.to.saturating_add(1) };
        }
        if stream.is_volatile() {
            let next = read_volatile(stream, request, filter, records);
            return ReadOutcome::Ready { next };
        }
        let tail_first = stream.tail.first().unwrap_or(u64::MAX);
        if from < tail_first && stream.sealed_at(from).is_some_and(|range| range.first <= to) {
            return self.read_sealed(request, from, filter);
        }
        self.close_buffer_of(request.stream);
        let chunks = &self.contents.chunks;
        let Some(stream) = self.contents.streams.get(&request.stream) else {
            return ReadOutcome::Ready { next: request.to.saturating_add(1) };
        };
        let next = read_tail(stream, chunks, request, filter, records);
        ReadOutcome::Ready { next }
    }

    /// Records of the open group are read from its buffer, which is closed for that.
    fn close_buffer_of(&mut self, stream: StreamId) {
        let last = self.contents.streams.get(&stream).and_then(|stream| stream.tail.last_chunk());
        if last == Some(self.contents.chunks.open_number()) {
            let piece = self.contents.chunks.seal(self.group.number);
            self.group.pieces.extend(piece);
        }
    }

    pub(super) fn read_known_records(
        &mut self,
        id: StreamId,
        seqs: &[u64],
        max_bytes: usize,
        records: &mut Vec<Record>,
    ) -> usize {
        self.close_buffer_of(id);
        let Some(stream) = self.contents.streams.get(&id) else { return seqs.len() };
        let chunks = &self.contents.chunks;
        // What lies before the tail is on the disk, or gone.
        let first = stream.tail.first().unwrap_or(u64::MAX);
        let known = seqs.iter().take_while(|seq| **seq >= first || stream.is_volatile());
        let mut places = Vec::with_capacity(seqs.len());
        places.extend(known.map(|seq| stream.tail.at(*seq)));
        prefetch(places.iter().flatten().map(|place| chunks.head(place)));
        let (mut looked_at, mut bytes) = (0, 0);
        for (seq, place) in seqs.iter().zip(&places) {
            if bytes >= max_bytes {
                break;
            }
            looked_at += 1;
            let record = match place {
                Some(place) if stream.contains(*seq) => chunks.record(place),
                Some(_) => None,
                None => stream.volatile.get(seq).map(|(record, _)| record.clone()),
            };
            bytes += record.as_ref().map_or(0, |record| record.data().len());
            records.extend(record);
        }
        looked_at
    }

    /// Hands a read to a reader thread.
    fn read_sealed(&mut self, request: &ReadRequest, from: u64, filter: &Filter) -> ReadOutcome {
        let id = ReadId(self.next_read);
        self.next_read += 1;
        let mut plan = Vec::new();
        if let Some(stream) = self.contents.streams.get(&request.stream) {
            let start = stream.sealed.partition_point(|range| range.last < from);
            let ranges = stream.sealed.iter().skip(start).take(PLAN);
            for range in ranges.take_while(|range| range.first <= request.to) {
                if let Some(held) = self.contents.segments.held.get(&range.segment) {
                    plan.push((Arc::clone(&held.file), range.last));
                }
            }
        }
        let request = ReadRequest { from, ..request.clone() };
        let filter = filter.clone();
        self.background.reads.push(ReadJob { id, request, filter, plan });
        self.counters.reads += 1;
        ReadOutcome::Waiting(id)
    }

    /// What a reader found, without what was deleted meanwhile.
    pub(super) fn recheck(
        &mut self,
        stream: StreamId,
        result: Result<ReadBatch, ReadError>,
    ) -> Result<ReadBatch, ReadError> {
        let mut batch = result.inspect_err(|error| {
            tracing::error!(%error, "a read failed");
        });
        match &mut batch {
            Ok(batch) => match self.contents.streams.get(&stream) {
                Some(stream) => batch.records.retain(|record| stream.contains(record.seq)),
                None => batch.records.clear(),
            },
            Err(_) => self.counters.failed_reads += 1,
        }
        batch
    }

    pub(super) fn count_records(
        &self,
        stream: &Stream,
        filter: &Filter,
        from: u64,
        to: u64,
    ) -> Option<u64> {
        if filter.is_all() {
            return Some(stream.count(from, to));
        }
        if from > to || from > stream.last_seq || to < stream.first_seq {
            return Some(0);
        }
        if from <= stream.first_seq && to >= stream.last_seq {
            return Some(count_subjects(stream, filter));
        }
        let from = from.max(stream.first_seq);
        let to = to.min(stream.last_seq);
        if to - from >= COUNTED_AT_ONCE {
            return None;
        }
        let count = if stream.is_volatile() {
            let subjects = stream.volatile.range(from..=to).map(|(_, (_, subject))| *subject);
            subjects.filter(|subject| stream.subjects.is_wanted(*subject, filter)).count()
        } else {
            if stream.tail.first().is_none_or(|first| from < first) {
                return None;
            }
            let places = stream.tail.range(from, to, filter);
            places.filter(|(place, sketch)| is_wanted(stream, place, *sketch, filter)).count()
        };
        Some(count as u64)
    }
}

/// Records of all subjects that `filter` wants.
fn count_subjects(stream: &Stream, filter: &Filter) -> u64 {
    let patterns = filter.patterns().unwrap_or_default();
    if let [one] = patterns
        && !crate::subject::has_wildcard(one)
    {
        return stream.subjects.get(one).map_or(0, |subject| subject.count);
    }
    let mut count = 0;
    stream.subjects.for_each_wanted(filter, |_, subject| count += subject.count);
    count
}

fn read_tail(
    stream: &Stream,
    chunks: &Chunks,
    request: &ReadRequest,
    filter: &Filter,
    records: &mut Vec<Record>,
) -> u64 {
    let mut taken = Taken { records: 0, bytes: 0 };
    let places = stream.tail.range(request.from.max(stream.first_seq), request.to, filter);
    let mut wanted = places
        .filter(|(place, sketch)| is_wanted(stream, place, *sketch, filter))
        .map(|(place, _)| place);
    let mut ahead = Vec::new();
    loop {
        let room = request.max_records.saturating_sub(taken.records).saturating_add(1);
        // As many as there is room for if they are like the last one; that is not known of the first.
        let last = records
            .last()
            .filter(|_| taken.records > 0)
            .map_or(usize::MAX, |record| record.data().len());
        let left = request.max_bytes.saturating_sub(taken.bytes) / last.max(1);
        ahead.extend(wanted.by_ref().take(room.min(left.saturating_add(1)).min(AHEAD)));
        if ahead.is_empty() {
            return request.to.saturating_add(1);
        }
        prefetch(ahead.iter().map(|place| chunks.head(place)));
        for place in ahead.drain(..) {
            if taken.is_full(request) {
                return place.seq;
            }
            let Some(record) = chunks.record(&place) else { continue };
            if record.time < request.since {
                continue;
            }
            taken.records += 1;
            taken.bytes += record.data().len();
            records.push(record);
        }
    }
}

fn is_wanted(stream: &Stream, place: &Place, sketch: Sketch, filter: &Filter) -> bool {
    filter.wants(sketch, || stream.subjects.text(place.subject).unwrap_or_default())
        && !stream.gone.contains(place.seq)
}

fn read_volatile(
    stream: &Stream,
    request: &ReadRequest,
    filter: &Filter,
    records: &mut Vec<Record>,
) -> u64 {
    let mut taken = Taken { records: 0, bytes: 0 };
    for (seq, (record, subject)) in stream.volatile.range(request.from..=request.to) {
        if record.time < request.since || !stream.subjects.is_wanted(*subject, filter) {
            continue;
        }
        if taken.is_full(request) {
            return *seq;
        }
        taken.records += 1;
        taken.bytes += record.data().len();
        records.push(record.clone());
    }
    request.to.saturating_add(1)
}
