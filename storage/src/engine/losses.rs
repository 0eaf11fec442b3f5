//! What damage in the journal costs: which sequences of which stream cannot be accounted for.
//!
//! A record names its stream and sequence, so one that follows a lost one tells what was lost before
//! it. Behind the last damage nothing does: then as many sequences are in doubt as records may have
//! been lost, and none of them may be given out again.

use hashbrown::HashMap;

use super::contents::Contents;
use crate::ids::StreamId;
use crate::journal::effect::{Effect, decode};
use crate::journal::scan::Doubt;
use crate::log::{LostRange, StreamOptions};
use crate::stream::Stream;

/// The last damage met.
#[derive(Clone, Debug)]
struct Place {
    file: String,
    offset: u64,
}

/// Kept while the journal is replayed.
#[derive(Debug, Default)]
pub(super) struct Losses {
    place: Option<Place>,
    /// Entries that could not be read so far, at most.
    missing: u64,
    /// How many that were when a stream's sequences were last certain.
    certain: HashMap<StreamId, u64>,
    /// The highest sequence in groups that were dropped as torn and may have been acknowledged.
    claimed: HashMap<StreamId, u64>,
    found: Vec<LostRange>,
}

impl Losses {
    /// What follows was written behind damage at this place.
    pub(super) fn met(&mut self, file: &str, offset: u64) {
        self.place = Some(Place { file: file.to_owned(), offset });
    }

    /// So many entries of what was just passed cannot be read.
    pub(super) fn count(&mut self, missing: u64) {
        self.missing += missing;
    }

    /// How many records may have been lost.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// An effect is about to be applied: what it tells of its stream's sequences.
    pub(super) fn learn(&mut self, effect: &Effect<'_>, contents: &mut Contents) {
        let (id, seq) = match effect {
            Effect::Record(record) => (record.stream, record.seq),
            Effect::Skipped { stream, last } => (*stream, *last),
            Effect::Dropped { stream } => {
                self.found.retain(|lost| lost.stream != *stream);
                return;
            }
            _ => return,
        };
        let Some(place) = &self.place else { return };
        if !contents.streams.contains_key(&id) && !contents.dropped.contains(&id) {
            // Its creation is what was lost.
            let stream = Stream::new(StreamOptions::default());
            contents.streams.insert(id, Box::new(stream));
        }
        let Some(stream) = contents.streams.get(&id) else { return };
        if matches!(effect, Effect::Record(_)) && seq > stream.last_seq + 1 {
            self.found.push(LostRange {
                stream: id,
                first: stream.last_seq + 1,
                last: seq - 1,
                file: place.file.clone(),
                offset: place.offset,
                is_certain: true,
            });
        }
        self.certain.insert(id, self.missing);
    }

    /// Groups are dropped that may have been acknowledged.
    pub(super) fn claim(&mut self, doubt: &Doubt, bytes: &[u8]) {
        for entry in &doubt.entries {
            let (id, seq) = match bytes.get(entry.clone()).and_then(decode) {
                Some(Effect::Record(record)) => (record.stream, record.seq),
                Some(Effect::Skipped { stream, last }) => (stream, last),
                _ => continue,
            };
            let claimed = self.claimed.entry(id).or_default();
            *claimed = seq.max(*claimed);
        }
    }

    /// Everything lost, the uncertain ends of streams included: those are to be skipped before
    /// anything is appended that gets a new sequence.
    pub(super) fn finish(mut self, contents: &Contents) -> Vec<LostRange> {
        let Some(Place { file, offset }) = self.place else { return self.found };
        let mut ids: Vec<_> = contents.streams.keys().copied().collect();
        ids.sort_unstable();
        for stream in ids {
            let Some(held) = contents.streams.get(&stream).filter(|held| !held.is_volatile())
            else {
                continue;
            };
            let missing = self.missing - self.certain.get(&stream).copied().unwrap_or(0);
            let claimed = self.claimed.get(&stream).copied().unwrap_or(0);
            let (first, last) = (held.last_seq + 1, held.last_seq.max(claimed) + missing);
            if last >= first {
                let file = file.clone();
                self.found.push(LostRange { stream, first, last, file, offset, is_certain: false });
            }
        }
        self.found
    }
}
