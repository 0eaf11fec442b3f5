//! Sequences that are lost: kept with their stream, and told to each consumer whose position passes
//! over them.
//!
//! Two kinds meet here. What the log lost with damage in its journal is known once, when it is opened,
//! and is kept as state from then on. Damaged blocks of segments are met by whoever reads them.

use std::collections::VecDeque;
use std::sync::Arc;

use claudebus_storage::log::{LostRange, ReadError};
use claudebus_storage::record::StorageKind;
use claudebus_storage::{Log, StreamId};

use crate::model::event::{Event, Gap};
use crate::model::request::{ReplyTo, SessionId};

use super::member::Member;
use super::restore::{RestoreError, not_understood};
use super::state;
use super::stream::Stream;
use super::{Broker, Catalog};

/// Gaps kept of one stream; the oldest go first. 1024: far more than damage that anyone lives with.
const MAX_GAPS: usize = 1024;
/// Gaps that wait for a consumer's next pull; the oldest go first, and stay in the log's words.
const MAX_WAITING: usize = 256;

/// Damage since the start, for the server's information.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DamageCounts {
    /// Gaps found when the log was opened.
    pub(super) lost_ranges: u64,
    /// Sequences in them.
    pub(super) lost_sequences: u64,
    /// Reads that met damage.
    pub(super) damaged_reads: u64,
    /// Gaps told to consumers' sessions.
    pub(super) gaps_told: u64,
}

/// What a consumer is told of damage.
#[derive(Debug, Default)]
pub(super) struct GapsToTell {
    waiting: VecDeque<Arc<Gap>>,
    /// The stream's gaps below this were told, or are none of this consumer's business.
    from: u64,
}

impl GapsToTell {
    /// For a consumer that begins at `cursor`.
    pub(super) fn new(cursor: u64) -> Self {
        Self { waiting: VecDeque::new(), from: cursor }
    }

    fn push(&mut self, gap: Arc<Gap>) {
        if self.waiting.back() == Some(&gap) {
            return;
        }
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(gap);
    }
}

/// The stream's gaps as they are kept.
fn kept_gaps<L: Log>(log: &L, id: StreamId) -> Result<Vec<Arc<Gap>>, RestoreError> {
    let Some((_, kept)) = log.states(&state::gaps_key(id)).pop() else { return Ok(Vec::new()) };
    let gaps: Vec<Gap> = serde_json::from_slice(&kept.base)
        .map_err(|why| not_understood(format!("the lost sequences of {id}"), why))?;
    Ok(gaps.into_iter().map(Arc::new).collect())
}

impl<L: Log> Broker<L> {
    /// Takes in what opening the log found to be lost. Called once all streams are restored.
    pub(super) fn restore_gaps(&mut self) -> Result<(), RestoreError> {
        let losses = self.log.losses().clone();
        for id in self.catalog.ids() {
            let mut gaps = kept_gaps(&self.log, id)?;
            let known = gaps.len();
            let Some(stream) = self.catalog.get_mut(id) else { continue };
            for lost in losses.ranges.iter().filter(|lost| lost.stream == id) {
                let gap = gap_of(&stream.name, lost);
                if gaps.iter().any(|known| (known.first, known.last) == (gap.first, gap.last)) {
                    continue;
                }
                tracing::error!(stream = %stream.name, first = gap.first, last = gap.last,
                    file = gap.file, offset = gap.offset, certain = gap.is_certain,
                    "the journal is damaged: these sequences are lost");
                self.damage.lost_ranges += 1;
                self.damage.lost_sequences += gap.last - gap.first + 1;
                gaps.push(Arc::new(gap));
            }
            gaps.sort_by_key(|gap| gap.last);
            let excess = gaps.len().saturating_sub(MAX_GAPS);
            gaps.drain(..excess);
            let is_new = gaps.len() + excess > known;
            if is_new {
                let kept: Vec<&Gap> = gaps.iter().map(Arc::as_ref).collect();
                self.log.put(&state::gaps_key(id), &state::to_json(&kept));
            }
            stream.gaps = gaps;
        }
        Ok(())
    }

    /// Leaves out the sequences that a stream may have given out and lost, so that none is given out again. A
    /// mirror gives out none: what it lost of its origin's it copies again, if that still has it.
    pub(super) fn leave_out_doubtful(&mut self, stream: &Stream) {
        if stream.is_mirror() {
            return;
        }
        let ranges = &self.log.losses().ranges;
        let doubtful = ranges.iter().filter(|lost| lost.stream == stream.id && !lost.is_certain);
        if let Some(last) = doubtful.map(|lost| lost.last).max() {
            self.log.skip(stream.id, last);
        }
    }

    /// A mirror is a stream of its own from now on: what it may have had and lost is not given out again, though its
    /// origin may have gone before it could copy that.
    pub(super) fn leave_out_uncopied(&mut self, id: StreamId) {
        let gaps = self.catalog.get(id).map_or(&[][..], |stream| &stream.gaps);
        let doubtful = gaps.iter().filter(|gap| !gap.is_certain);
        if let Some(last) = doubtful.map(|gap| gap.last).max() {
            self.log.skip(id, last);
            self.note_appended(id);
        }
    }

    /// A stream of files that the log does not know: its creation is lost. Its sequences go on behind all
    /// that may have been given out, unless they are those of its origin.
    pub(super) fn recreate_lost(&mut self, stream: &Stream) {
        let (id, name) = (stream.id, &*stream.name);
        let missing = self.log.losses().missing;
        if missing > 0 && stream.storage() == StorageKind::File && !stream.is_mirror() {
            tracing::error!(
                stream = name,
                last = missing,
                "the journal is damaged: the stream's creation is lost, and all its messages"
            );
            self.log.skip(id, missing);
        }
    }

    /// A read met damage: told with the stream's name.
    pub(super) fn note_damaged_read(&mut self, id: StreamId, error: &ReadError) {
        let ReadError::Damaged { first, last, file, offset, .. } = error else { return };
        self.damage.damaged_reads += 1;
        let name = self.name_of(id);
        tracing::error!(stream = %name, first, last, file, offset,
            "sequences are lost with a damaged part of a segment; run `claudebus verify` on the data directory");
    }

    /// A stream's name for people.
    pub(super) fn name_of(&self, id: StreamId) -> Arc<str> {
        self.catalog.get(id).map_or_else(|| Arc::from(id.to_string()), |s| Arc::clone(&s.name))
    }

    /// What a read's error says, with the stream's name.
    pub(super) fn explain(&self, id: StreamId, error: &ReadError) -> String {
        match error {
            ReadError::Damaged { first, last, file, offset, .. } => format!(
                "sequences {first} to {last} of {} are damaged in {file} at byte {offset}; \
                 run `claudebus verify` on the data directory",
                self.name_of(id)
            ),
            error => error.to_string(),
        }
    }

    /// Who may be told of gaps in this turn, if there is anything to tell.
    pub(super) fn hear_of_gaps(&self, id: StreamId, member: &Member) -> Vec<(SessionId, ReplyTo)> {
        let of_stream = self.catalog.get(id).is_some_and(|s| s.has_gap_from(member.gaps.from));
        if of_stream || !member.gaps.waiting.is_empty() {
            member.consumer.waiting_pulls()
        } else {
            Vec::new()
        }
    }

    /// Tells `listeners` of the gaps that a consumer has come to.
    pub(super) fn tell_gaps(
        &mut self,
        id: StreamId,
        member: &mut Member,
        listeners: &[(SessionId, ReplyTo)],
    ) {
        if let Some(stream) = self.catalog.get(id).filter(|s| s.has_gap_from(member.gaps.from)) {
            let last = self.log.stream(id).map_or(0, |held| held.last_seq);
            // Nothing is read behind the last message that it wants.
            let reached = match member.consumer.num_pending() {
                0 => last + 1,
                _ => member.consumer.cursor(),
            };
            let from = member.gaps.from;
            let gaps = stream.gaps.iter();
            for gap in gaps.filter(|gap| gap.last >= from && gap.first < reached) {
                member.gaps.push(Arc::clone(gap));
            }
            member.gaps.from = member.gaps.from.max(reached);
        }
        if listeners.is_empty() || member.gaps.waiting.is_empty() {
            return;
        }
        for gap in std::mem::take(&mut member.gaps.waiting) {
            tracing::warn!(stream = %gap.stream, consumer = %member.consumer.path().consumer,
                first = gap.first, last = gap.last, "a consumer passes over lost sequences");
            for (session, reply) in listeners {
                let to = match reply {
                    ReplyTo::Session(token) => vec![(*session, *token)],
                    ReplyTo::Subject(subject) => self.listeners(subject),
                };
                for (session, token) in to {
                    self.damage.gaps_told += 1;
                    self.outbox.send_in_order(session, Event::Gap { token, gap: Arc::clone(&gap) });
                }
            }
        }
    }
}

impl Stream {
    /// Whether some of what it lost lies at or behind `seq`. Its gaps are sorted by their ends.
    fn has_gap_from(&self, seq: u64) -> bool {
        self.gaps.last().is_some_and(|gap| gap.last >= seq)
    }
}

impl Catalog {
    /// A consumer is to be told of a gap.
    pub(super) fn add_gap(&mut self, id: StreamId, name: &str, gap: Gap) {
        if let Some((_, member)) = self.get_mut(id).and_then(|stream| stream.member_mut(name)) {
            member.gaps.push(Arc::new(gap));
        }
    }
}

fn gap_of(stream: &str, lost: &LostRange) -> Gap {
    Gap {
        stream: stream.to_owned(),
        first: lost.first,
        last: lost.last,
        file: lost.file.clone(),
        offset: lost.offset,
        is_certain: lost.is_certain,
    }
}
