//! When the broker is killed: at moments drawn from the seed, and at named places in it.

use std::collections::BTreeMap;

use super::payload;

/// What the broker is doing when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Whatever it is doing.
    Running,
    /// It starts and is not ready yet.
    StartUp,
    /// It reads the journal after a crash, or is about to note what it found there.
    Replay,
    /// It changes to the next journal file.
    Rotation,
    /// It writes a segment file.
    SegmentWrite,
    /// It puts the next manifest in force.
    ManifestSwitch,
    /// It makes old journal files new ones.
    Recycle,
    /// It builds the index anew.
    IndexRebuild,
    /// It deletes files of deleted or merged data.
    Delete,
}

impl Kind {
    /// All kinds, in the order in which rounds take turns with them.
    pub const ALL: &[Self] = &[
        Self::Running,
        Self::Replay,
        Self::Rotation,
        Self::SegmentWrite,
        Self::ManifestSwitch,
        Self::Recycle,
        Self::IndexRebuild,
        Self::Delete,
        Self::StartUp,
    ];

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "random moment",
            Self::StartUp => "start-up",
            Self::Replay => "replay",
            Self::Rotation => "journal rotation",
            Self::SegmentWrite => "segment write",
            Self::ManifestSwitch => "manifest switch",
            Self::Recycle => "recycle",
            Self::IndexRebuild => "index rebuild",
            Self::Delete => "delete",
        }
    }

    /// The places in the broker where it is killed for this, with the highest passage worth
    /// drawing.
    fn points(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Running | Self::StartUp => &[],
            Self::Replay => &[
                ("replay.before", 1),
                ("replay.after", 1),
                ("open.after", 1),
                // Its own file is begun, and holds nothing yet.
                ("journal.rotate.synced", 1),
                ("journal.rotate.after", 1),
            ],
            Self::Rotation => &[
                ("journal.rotate.before", 3),
                ("journal.rotate.named", 3),
                ("journal.rotate.synced", 3),
                ("journal.rotate.after", 3),
            ],
            Self::SegmentWrite => &[
                ("segment.write.before", 3),
                ("background.sync", 9),
                ("segment.write.after", 3),
                ("merge.before", 1),
                ("merge.after", 1),
            ],
            Self::ManifestSwitch => &[
                ("manifest.write.before", 3),
                ("manifest.write.after", 3),
                ("manifest.switch.named", 3),
                ("manifest.switch.after", 3),
            ],
            Self::Recycle => &[("recycle.before", 3), ("recycle.named", 3), ("recycle.after", 3)],
            Self::IndexRebuild => &[("index.rebuild.before", 1), ("index.rebuild.after", 1)],
            Self::Delete => &[("delete.before", 3), ("delete.after", 3)],
        }
    }

    /// A place of this kind, as the broker's environment names it.
    pub fn draw(self, random: &mut u64) -> Option<String> {
        let points = self.points();
        let count = points.len() as u64;
        let (point, most) = points.get((payload::next(random) % count.max(1)) as usize)?;
        Some(format!("{point}:{}", 1 + payload::next(random) % most))
    }
}

/// How often the broker was killed, by kind.
#[derive(Clone, Debug, Default)]
pub struct Kills {
    /// Where it really died.
    pub counts: BTreeMap<Kind, u64>,
    /// By the exact place, for named ones.
    pub points: BTreeMap<String, u64>,
    /// Named places that were not reached; the broker was killed while running then.
    pub missed: u64,
}

impl Kills {
    /// It died like this.
    pub fn died(&mut self, kind: Kind) {
        *self.counts.entry(kind).or_default() += 1;
    }

    /// It died at this named place.
    pub fn died_at(&mut self, kind: Kind, place: &str) {
        self.died(kind);
        let point = place.split(':').next().unwrap_or(place);
        *self.points.entry(point.to_owned()).or_default() += 1;
    }

    /// The kind that happened least often so far, so that all get their turn.
    pub fn next(&self) -> Kind {
        let count = |kind: &Kind| self.counts.get(kind).copied().unwrap_or(0);
        let named = Kind::ALL.iter().filter(|kind| **kind != Kind::Running);
        named.min_by_key(|kind| count(kind)).copied().unwrap_or(Kind::Running)
    }

    /// Whether a run of so many rounds killed it often enough in each way: three times each in a
    /// long run.
    pub fn is_enough(&self, rounds: u64) -> bool {
        let least = if rounds >= 50 { 3 } else { 0 };
        Kind::ALL.iter().all(|kind| {
            let count = self.counts.get(kind).copied().unwrap_or(0);
            let enough = count >= least;
            if !enough {
                println!("{}: {count} kills, fewer than {least}", kind.name());
            }
            enough
        })
    }

    /// All kills.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}
