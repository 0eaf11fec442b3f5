//! Puts the workers of an engine together.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::background::Crew;
use super::checkpointer::{CheckpointJob, Checkpointer};
use super::load::Loaded;
use super::maintenance::Maintainer;
use super::options::{EngineOptions, LoneWriter, Workers};
use super::pacer::Pacer;
use super::scrub::Scrubber;
use super::segments::Archive;
use crate::disk::Disk;
use crate::journal::Durability;
use crate::journal::files::Filler;
use crate::journal::shared::JournalShared;
use crate::journal::writer::{JournalWriter, Predecessor};

/// The ballast is this many times the tail budget, as much as the tail may ever hold: 128 MiB.
const BALLAST_BUDGETS: u64 = 2;

/// What all workers share.
pub(super) struct CrewPlace<'a> {
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) journal: &'a Arc<JournalShared>,
    pub(super) hurry: &'a Arc<AtomicBool>,
    pub(super) options: &'a EngineOptions,
    pub(super) archive: &'a Archive,
}

impl CrewPlace<'_> {
    /// Workers that go on from what was loaded; the journal from group `last_group`.
    pub(super) fn crew(self, loaded: Loaded, predecessor: Predecessor, last_group: u64) -> Crew {
        let Self { disk, journal, hurry, options, archive } = self;
        let (counters, index) = (Arc::clone(&archive.counters), archive.index.clone());
        let crash = options.crash_points;
        let pacer = Pacer {
            journal: Arc::clone(journal),
            hurry: Arc::clone(hurry),
            is_inline: options.workers == Workers::Inline,
            has_syncs: options.durability != Durability::Os,
            crash,
        };
        let is_closed: Arc<AtomicBool> = Arc::default();
        let mending: Arc<Mutex<()>> = Arc::default();
        let scrubber = Scrubber {
            disk: Arc::clone(disk),
            options: options.scrub,
            mending: Arc::clone(&mending),
            counters: Arc::clone(&counters),
            hurry: Arc::clone(hurry),
            is_closed: Arc::clone(&is_closed),
            alarm: Arc::default(),
        };
        let next_segment = Arc::new(AtomicU64::new(loaded.next_segment));
        let (durability, file_size) = (options.durability, options.journal_file_size);
        Crew {
            writer: Arc::new(Mutex::new(JournalWriter::new(
                Arc::clone(disk),
                Arc::clone(journal),
                durability,
                crash,
                predecessor,
                last_group,
            ))),
            lone_writer: lone_writer(options),
            filler: Filler {
                disk: Arc::clone(disk),
                shared: Arc::clone(journal),
                file_size,
                ballast: options.tail_budget as u64 * BALLAST_BUDGETS,
                crash,
            },
            checkpointer: Checkpointer {
                disk: Arc::clone(disk),
                journal: Arc::clone(journal),
                crash,
                pacer: pacer.clone(),
                next_segment: Arc::clone(&next_segment),
                next_generation: loaded.manifest.generation + 1,
                current: loaded.manifest,
                previous: loaded.previous,
                next_file: loaded.next_file,
                carried: CheckpointJob::default(),
                counters: Arc::clone(&counters),
                begun: Vec::new(),
            },
            maintainer: Maintainer {
                disk: Arc::clone(disk),
                mending,
                pacer,
                crash,
                next_segment,
                index,
                is_closed,
                counters,
            },
            scrubber,
        }
    }
}

/// Who writes lone groups: the owner only if the disk can be known to be fast.
fn lone_writer(options: &EngineOptions) -> LoneWriter {
    match (options.lone_writer, options.workers) {
        (LoneWriter::Measured, Workers::Inline) => LoneWriter::Journal,
        (chosen, _) => chosen,
    }
}
