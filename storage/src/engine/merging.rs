//! Merges as the owner of the engine sees them: which segments, and what changes when one is done.
//!
//! Segments with erased records come first, then those that are mostly dead, then many small ones.
//! What is merged must be neighbours in every stream, so that each stream's records stay in
//! files whose ranges do not overlap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::background::Maintenance;
use super::maintenance::{MergeDone, MergeJob, MergeWishes, StreamView};
use super::segments::SegmentFile;
use crate::segment::{MergeLimits, SegmentId};

/// As many files of similar size are joined,
const JOINED: usize = 8;
/// and as many while publishers press: fewer passes over the same bytes, for more files meanwhile.
const JOINED_UNDER_PRESSURE: usize = 32;
/// So many times the files that are joined may wait before merging goes as fast as it can.
const BACKLOG: usize = 16;
/// A merge reads at most this many tail budgets, so that its end is in sight.
const MERGE_BUDGETS: u64 = 32;
/// Rounds of adding what stands between, before giving up.
const ROUNDS: usize = 8;

/// Segments to be merged.
#[derive(Default)]
struct Chosen {
    ids: BTreeSet<u64>,
    is_urgent: bool,
}

/// The merge that is under way.
#[derive(Debug, Default)]
pub(super) struct Merging {
    inputs: BTreeSet<u64>,
    /// Something was erased in its inputs of which it does not know, and which it copies.
    copies_erased: bool,
    /// Records of the inputs that could be read when it began.
    live: u64,
    wishes: Arc<MergeWishes>,
}

impl Merging {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Whether it reads this segment.
    pub(super) fn contains(&self, id: u64) -> bool {
        self.inputs.contains(&id)
    }

    /// A record of this segment was erased.
    pub(super) fn note_erased(&mut self, id: u64) {
        self.copies_erased |= self.contains(id);
    }
}

impl Engine {
    /// Begins a merge if there is none and one is worth its while.
    pub(super) fn merge_if_worthwhile(&mut self) {
        let Chosen { ids: chosen, is_urgent } = self.choose();
        if !self.merging.is_empty() {
            if is_urgent {
                self.hurry_merge();
            }
            return;
        }
        if chosen.is_empty() {
            return;
        }
        let mut inputs = Vec::new();
        let mut streams = BTreeMap::new();
        for id in &chosen {
            let Some(held) = self.contents.segments.held.get(id) else { continue };
            for range in &held.file.meta.streams {
                let Some(stream) = self.contents.streams.get(&range.stream) else { continue };
                streams.entry(range.stream).or_insert_with(|| StreamView {
                    first_seq: stream.first_seq,
                    gone: stream.gone.clone(),
                    compression: stream.options.compression,
                });
            }
            // The file is held, not only its description: it must not be removed meanwhile.
            inputs.push(Arc::clone(&held.file));
        }
        let limits = MergeLimits {
            own_file_bytes: self.options.tail_budget as u64 / 4,
            ..MergeLimits::default()
        };
        let wishes =
            Arc::new(MergeWishes { is_urgent: is_urgent.into(), ..MergeWishes::default() });
        self.merging = Merging {
            copies_erased: false,
            live: self.live_of(&chosen),
            inputs: chosen,
            wishes: Arc::clone(&wishes),
        };
        self.background.maintain(Maintenance::Merge(MergeJob { inputs, streams, limits, wishes }));
    }

    /// Somebody waits for the merge that goes on.
    fn hurry_merge(&self) {
        self.merging.wishes.is_urgent.store(true, Ordering::Relaxed);
    }

    /// Segments that are being merged are dead, and their room is wanted. A merge of records that are mostly
    /// dead by now is given up: what it wrote would be merged again at once. Of others the end is waited for.
    pub(super) fn press_merge(&self) {
        if self.live_of(&self.merging.inputs) * 2 < self.merging.live {
            self.merging.wishes.is_abandoned.store(true, Ordering::Relaxed);
        } else {
            self.hurry_merge();
        }
    }

    /// Records of segments that can be read.
    fn live_of(&self, ids: &BTreeSet<u64>) -> u64 {
        let held = &self.contents.segments.held;
        ids.iter().filter_map(|id| held.get(id)).map(|held| held.live).sum()
    }

    fn choose(&self) -> Chosen {
        let held = &self.contents.segments.held;
        let usable = || {
            held.iter()
                .filter(|(id, _)| !self.unmergeable.contains(*id) && !self.merging.contains(**id))
        };
        // Somebody deleted, and wants the space.
        let one = |id: &u64| Chosen { ids: BTreeSet::from([*id]), is_urgent: true };
        if let Some((id, _)) = usable().find(|(_, segment)| segment.rewrite) {
            return one(id);
        }
        if let Some((id, _)) = usable().find(|(_, s)| s.live > 0 && s.live * 2 < s.count) {
            return one(id);
        }
        let budget = self.options.tail_budget as u64;
        let joined = if self.progress.is_pressed { JOINED_UNDER_PRESSURE } else { JOINED };
        let mut floor = 0;
        for ceiling in [budget / 8, budget, budget * 8] {
            let tier = usable().filter(|(_, segment)| {
                segment.live > 0 && (floor..ceiling).contains(&segment.file.meta.length)
            });
            let mut tier: Vec<(u64, u64)> =
                tier.map(|(id, segment)| (segment.generation, *id)).collect();
            tier.sort_unstable();
            if tier.len() >= joined {
                let oldest: BTreeSet<u64> = tier.iter().take(joined).map(|(_, id)| *id).collect();
                let ids = self.neighbours(oldest);
                if ids.len() >= joined / 2 {
                    return Chosen { ids, is_urgent: tier.len() >= BACKLOG * joined };
                }
            }
            floor = ceiling;
        }
        Chosen::default()
    }

    /// Adds what stands between the chosen segments in any stream, or leaves out what is behind a
    /// gap that is too large. Empty if that does not come to an end.
    fn neighbours(&self, mut chosen: BTreeSet<u64>) -> BTreeSet<u64> {
        for _ in 0..ROUNDS {
            let Some((between, behind)) = self.first_gap(&chosen) else { return chosen };
            let mut wider = chosen.clone();
            wider.extend(&between);
            let is_allowed = between.iter().all(|id| !self.unmergeable.contains(id));
            let limit = self.options.tail_budget as u64 * MERGE_BUDGETS;
            if is_allowed && self.bytes_of(&wider) <= limit {
                chosen = wider;
            } else {
                chosen.retain(|id| !behind.contains(id));
            }
        }
        BTreeSet::new()
    }

    fn bytes_of(&self, ids: &BTreeSet<u64>) -> u64 {
        let held = &self.contents.segments.held;
        ids.iter().filter_map(|id| held.get(id)).map(|held| held.file.meta.length).sum()
    }

    /// Segments between two chosen ones in some stream, and the chosen ones behind them.
    fn first_gap(&self, chosen: &BTreeSet<u64>) -> Option<(BTreeSet<u64>, BTreeSet<u64>)> {
        let held = &self.contents.segments.held;
        let metas = chosen.iter().filter_map(|id| held.get(id));
        let streams: BTreeSet<_> = metas
            .flat_map(|held| held.file.meta.streams.iter().map(|range| range.stream))
            .collect();
        for id in streams {
            let Some(stream) = self.contents.streams.get(&id) else { continue };
            let sealed = stream.sealed.iter().map(|range| range.segment);
            let from_first = sealed.skip_while(|segment| !chosen.contains(segment));
            let after_run = from_first.skip_while(|segment| chosen.contains(segment));
            let after: Vec<u64> = after_run.collect();
            let Some(back) = after.iter().rposition(|segment| chosen.contains(segment)) else {
                continue;
            };
            let reach = after.get(..=back).unwrap_or_default().iter().copied();
            return Some(reach.partition(|segment| !chosen.contains(segment)));
        }
        None
    }

    /// A merge came to its end: what it made takes the place of what it read.
    pub(super) fn merge_done(&mut self, done: MergeDone) {
        let merging = std::mem::take(&mut self.merging);
        let held = |id: &u64| self.contents.segments.held.get(id);
        // Erased bytes should not wait for the usual moment.
        self.progress.is_wanted |= merging.inputs.iter().filter_map(held).any(|held| held.rewrite);
        match done.outputs {
            Ok(outputs) => {
                let generation = merging.inputs.iter().filter_map(held).map(|held| held.generation);
                let generation = generation.max().unwrap_or_default();
                let contents = &mut self.contents;
                for id in &merging.inputs {
                    contents.segments.retire(*id, &mut contents.streams);
                    self.progress.removed.push(SegmentId(*id));
                }
                for meta in outputs {
                    let file = SegmentFile::new(Arc::clone(&meta), &self.archive);
                    contents.segments.add(file, generation, &mut contents.streams);
                    if let Some(held) = contents.segments.held.get_mut(&meta.id.0) {
                        held.rewrite = merging.copies_erased;
                    }
                    self.progress.added.push(meta);
                }
                self.counters.merges += 1;
            }
            Err(failure) if failure.is_given_up => {
                tracing::debug!("a merge was given up, as most of its records are gone");
                self.counters.abandoned_merges += 1;
            }
            Err(error) => {
                tracing::error!(%error, "segments could not be merged");
                self.counters.failed_merges += 1;
                if error.is_lasting {
                    self.unmergeable.extend(&merging.inputs);
                }
            }
        }
    }
}
