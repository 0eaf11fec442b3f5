//! Comparing the parts of an open log with each other, for `claudebus verify`: every sequence that
//! a stream claims to hold must be found exactly once.

use crate::engine::Engine;
use crate::ids::StreamId;
use crate::log::{Filter, Log, LogEvent, ReadBatch, ReadError, ReadOutcome, ReadRequest};
use crate::verify::VerifiedStream;

/// Records of one read.
const READ_RECORDS: usize = 4096;
/// Bytes of one read.
const READ_BYTES: usize = 4 << 20;

/// A contradiction: the file, what is wrong, and the sequences it costs.
pub(crate) type Contradiction = (String, String, Option<(StreamId, u64, u64)>);

impl Engine {
    /// All streams, ascending.
    pub(crate) fn stream_ids(&self) -> Vec<StreamId> {
        let mut ids: Vec<_> = self.contents.streams.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Reads a stream from its first sequence to its last, and compares what comes with what it
    /// should hold. Only for [`Workers::Inline`](super::Workers::Inline). Damage that reads meet is counted and
    /// not told: whoever checks the files has told it.
    pub(crate) fn inspect(
        &mut self,
        id: StreamId,
        found: &mut dyn FnMut(Contradiction),
    ) -> Option<VerifiedStream> {
        let summary = self.stream(id)?;
        self.check_ranges(id, found);
        let mut stream = VerifiedStream {
            id,
            first: summary.first_seq,
            last: summary.last_seq,
            messages: summary.messages,
            readable: 0,
        };
        let mut at = summary.first_seq;
        let mut damaged = 0;
        while at <= summary.last_seq {
            match self.read_now(id, at, summary.last_seq) {
                Ok(batch) => {
                    let next = batch.next.min(summary.last_seq + 1).max(at + 1);
                    let before = at;
                    for record in &batch.records {
                        self.missing(id, at, record.seq, found);
                        at = record.seq + 1;
                    }
                    self.missing(id, at.max(before), next, found);
                    at = next;
                    stream.readable += batch.records.len() as u64;
                }
                Err(ReadError::Damaged { last, .. }) => {
                    let last = last.max(at).min(summary.last_seq);
                    damaged += self.present(id, at, last);
                    at = last + 1;
                }
                Err(error) => {
                    let lost = Some((id, at, summary.last_seq));
                    found(("segments".to_owned(), error.to_string(), lost));
                    return Some(stream);
                }
            }
        }
        if stream.readable + damaged > summary.messages {
            let (read, count) = (stream.readable + damaged, summary.messages);
            let what = format!("{id} counts {count} records and holds {read}");
            found(("state".to_owned(), what, None));
        }
        Some(stream)
    }

    /// No sequence may lie in two segments.
    fn check_ranges(&self, id: StreamId, found: &mut dyn FnMut(Contradiction)) {
        let Some(stream) = self.contents.streams.get(&id) else { return };
        let pairs = stream.sealed.iter().zip(stream.sealed.iter().skip(1));
        for (one, next) in pairs.filter(|(one, next)| one.last >= next.first) {
            let what = format!(
                "{id} has sequences {} to {} in this segment and in {:016x} too",
                next.first, one.last, one.segment
            );
            found((crate::segment::SegmentId(next.segment).path(), what, None));
        }
    }

    /// Tells which of the sequences from `from` to before `to` should have come.
    fn missing(&self, id: StreamId, from: u64, to: u64, found: &mut dyn FnMut(Contradiction)) {
        let Some(stream) = self.contents.streams.get(&id) else { return };
        if from >= to || stream.count(from, to - 1) == 0 {
            return;
        }
        let mut absent = (from..to).filter(|seq| stream.contains(*seq));
        let first = absent.next().unwrap_or(from);
        let last = absent.next_back().unwrap_or(first);
        let file = stream.sealed_at(first).filter(|range| range.first <= first);
        let file = file.map_or_else(
            || "segments".to_owned(),
            |range| crate::segment::SegmentId(range.segment).path(),
        );
        found((file, "records that are listed are in no file".to_owned(), Some((id, first, last))));
    }

    fn present(&self, id: StreamId, from: u64, to: u64) -> u64 {
        self.contents.streams.get(&id).map_or(0, |stream| stream.count(from, to))
    }

    /// A read that is waited for.
    fn read_now(&mut self, stream: StreamId, from: u64, to: u64) -> Result<ReadBatch, ReadError> {
        let request = ReadRequest {
            stream,
            from,
            to,
            since: 0,
            max_records: READ_RECORDS,
            max_bytes: READ_BYTES,
        };
        let mut records = Vec::new();
        match self.read(&request, &Filter::all(), &mut records) {
            ReadOutcome::Ready { next } => Ok(ReadBatch { records, next }),
            ReadOutcome::Waiting(id) => {
                self.run_background();
                loop {
                    match self.poll() {
                        Ok(Some(LogEvent::Read(answered, batch))) if answered == id => {
                            return batch;
                        }
                        Ok(Some(_)) => {}
                        other => {
                            let reason = format!("the read was not answered: {other:?}");
                            return Err(ReadError::Io { file: "segments".to_owned(), reason });
                        }
                    }
                }
            }
        }
    }
}
