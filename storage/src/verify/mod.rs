//! Checking a whole data directory from end to end, without changing anything: both manifests and all
//! they list, the journal, the index, and then what a start would make of it all.
//!
//! The directory must not be in use. [`quarantine()`] is the only part that writes, and only when it
//! is asked to; nothing is ever deleted.

mod files;
mod journal;
mod quarantine;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::overlay::Overlay;
use crate::disk::{Disk, TwinDisk};
use crate::engine::{Engine, EngineOptions, Workers};
use crate::ids::StreamId;
use crate::index;

pub(crate) use files::segments_of;
pub use quarantine::{QuarantineError, Quarantined, quarantine};

/// What damage means for whoever uses the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Records are lost.
    Records,
    /// Durable groups of the journal are lost; what was in them is not known.
    Groups,
    /// One checkpoint cannot be used. If there is no other, a start fails, which is a finding of its own.
    Checkpoint,
    /// Only what finds records faster is damaged.
    Search,
    /// A second copy, or what stands around it, is good.
    Nothing,
    /// The file has another copy, which is whole.
    Copy,
    /// There are no second copies that could be used, of any file.
    Copies,
    /// The directory cannot be used at all.
    Start,
}

impl Harm {
    /// The same in words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Records => "these records are lost; everything else can be read",
            Self::Groups => {
                "changes that were acknowledged are lost; the next start leaves their sequences out"
            }
            Self::Checkpoint => {
                "nothing is lost if the server starts: the checkpoint before it and the journal take its place"
            }
            Self::Search => "no record is lost; finding some takes longer",
            Self::Nothing => "nothing is lost",
            Self::Copy => {
                "nothing is lost: the other copy is whole, and --repair or a running server makes this one again"
            }
            Self::Copies => {
                "nothing is lost by it: what counts is in the data directory; a server that starts with two copies makes the second ones again"
            }
            Self::Start => "the server does not start; restore the data directory from a backup",
        }
    }

    /// A word for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Groups => "groups",
            Self::Checkpoint => "checkpoint",
            Self::Search => "search",
            Self::Nothing => "nothing",
            Self::Copy => "copy",
            Self::Copies => "copies",
            Self::Start => "start",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, below the data directory.
    pub file: String,
    /// Which copy of it, from 1, where there are several.
    pub copy: Option<usize>,
    /// First byte concerned, and the one after the last; nothing if it is the whole file.
    pub bytes: Option<(u64, u64)>,
    /// Stream, first and last sequence that cannot be read because of it.
    pub lost: Option<(StreamId, u64, u64)>,
    /// First and last group of the journal concerned.
    pub groups: Option<(u64, u64)>,
    /// What is wrong.
    pub what: String,
    /// What it means.
    pub harm: Harm,
}

impl Finding {
    fn new(file: impl Into<String>, what: impl fmt::Display, harm: Harm) -> Self {
        let (file, what) = (file.into(), what.to_string());
        Self { file, copy: None, bytes: None, lost: None, groups: None, what, harm }
    }

    fn at(self, start: u64, end: u64) -> Self {
        Self { bytes: Some((start, end)), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(copy) = self.copy {
            write!(f, ", copy {copy}")?;
        }
        if let Some((start, end)) = self.bytes {
            write!(f, ", bytes {start} to {end}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some((first, last)) = self.groups {
            write!(f, "; groups {first} to {last}")?;
        }
        if let Some((stream, first, last)) = self.lost {
            write!(f, "; sequences {first} to {last} of {stream}")?;
        }
        Ok(())
    }
}

/// A stream as a start would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedStream {
    /// Its number.
    pub id: StreamId,
    /// The lowest sequence that should be readable.
    pub first: u64,
    /// The highest sequence ever given out.
    pub last: u64,
    /// Records that it should hold.
    pub messages: u64,
    /// Records that were read.
    pub readable: u64,
}

/// What was gone through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Checkpoints whose manifests are good.
    pub checkpoints: u64,
    /// Files that were read.
    pub files: u64,
    /// Records in segments.
    pub records: u64,
    /// Groups in the journal that no checkpoint covers.
    pub groups: u64,
    /// Whether groups were found that were written and never acknowledged; that is no damage.
    pub is_torn: bool,
    /// The streams, ascending.
    pub streams: Vec<VerifiedStream>,
}

/// Checks everything in `disk`, and calls `found` for each thing that is wrong. With the result
/// comes the log as a start would make it, if one would: nothing that is done to it reaches the disk.
///
/// # Errors
/// What the operating system says when it lists a directory; everything else is a [`Finding`].
pub fn verify(
    disk: &Arc<dyn Disk>,
    found: &mut dyn FnMut(Finding),
) -> io::Result<(Verified, Option<Engine>)> {
    let mut verified = Verified::default();
    match disk.copies() {
        [] => check_files(disk.as_ref(), disk.as_ref(), &mut verified, found)?,
        copies => check_copies(disk.as_ref(), copies, &mut verified, found)?,
    }
    if let Some(root) = disk.root() {
        check_index(root, found);
    }
    let engine = recover(disk, &mut verified, found);
    Ok((verified, engine))
}

/// Checks every file of `copy`. What files there are is known from all copies in `disk`.
fn check_files(
    disk: &dyn Disk,
    copy: &dyn Disk,
    verified: &mut Verified,
    found: &mut dyn FnMut(Finding),
) -> io::Result<()> {
    files::check_format(copy, found);
    let through = files::check_checkpoints(disk, copy, verified, found)?;
    journal::check(copy, through, verified, found)
}

/// Checks all copies, each by itself: what one of them has whole is not lost.
fn check_copies(
    disk: &dyn Disk,
    copies: &[Arc<dyn Disk>],
    verified: &mut Verified,
    found: &mut dyn FnMut(Finding),
) -> io::Result<()> {
    let mut all = Vec::new();
    for (number, copy) in copies.iter().enumerate() {
        let mut seen = Verified::default();
        let mut findings = journal::missing(disk, copy.as_ref())?;
        check_files(disk, copy.as_ref(), &mut seen, &mut |finding| findings.push(finding))?;
        for finding in &mut findings {
            finding.copy = Some(number + 1);
        }
        // A damaged copy is gone through in part.
        if seen.records + seen.groups >= verified.records + verified.groups {
            *verified = seen;
        }
        all.push(findings);
    }
    let files: Vec<BTreeSet<String>> =
        all.iter().map(|findings| findings.iter().map(|one| one.file.clone()).collect()).collect();
    for (number, findings) in all.into_iter().enumerate() {
        let mut others = files.iter().enumerate().filter(|(other, _)| *other != number);
        let others: Vec<_> = others.by_ref().map(|(_, files)| files).collect();
        for finding in findings {
            let is_whole_elsewhere = others.iter().any(|files| !files.contains(&finding.file));
            let harm = if is_whole_elsewhere { Harm::Copy } else { finding.harm };
            found(Finding { harm, ..finding });
        }
    }
    Ok(())
}

/// The index is compared with its own mark; it is never the only copy of anything.
fn check_index(root: &Path, found: &mut dyn FnMut(Finding)) {
    match index::is_vouched_for(&root.join(index::DIR)) {
        Ok(false) => found(Finding::new(
            index::DIR,
            "its files are not what its last close left; it is built again at the next start",
            Harm::Search,
        )),
        Ok(true) => {}
        Err(error) => found(Finding::new(index::DIR, error, Harm::Search)),
    }
}

/// Opens the log above the directory, as a start would, and compares its parts with each other.
fn recover(
    disk: &Arc<dyn Disk>,
    verified: &mut Verified,
    found: &mut dyn FnMut(Finding),
) -> Option<Engine> {
    let options = EngineOptions {
        workers: Workers::Inline,
        index: false,
        // Only spares have this size, and they stay in memory.
        journal_file_size: 1 << 16,
        ..EngineOptions::default()
    };
    let above = |disk: &Arc<dyn Disk>| Arc::new(Overlay::new(Arc::clone(disk))) as Arc<dyn Disk>;
    let overlay = match disk.copies() {
        [first, second] => Arc::new(TwinDisk::new(above(first), above(second))),
        _ => above(disk),
    };
    let mut engine = match Engine::open(options, overlay, Arc::new(|| {})) {
        Ok(engine) => engine,
        Err(error) => {
            found(Finding::new(".", error, Harm::Start));
            return None;
        }
    };
    for lost in &engine.recovery_report().losses.ranges {
        let what = match lost.is_certain {
            true => "the journal lost these sequences",
            false => "the journal may have lost these sequences; none of them is given out again",
        };
        let finding = Finding::new(&lost.file, what, Harm::Records).at(lost.offset, lost.offset);
        found(Finding { lost: Some((lost.stream, lost.first, lost.last)), ..finding });
    }
    let mut streams = BTreeMap::new();
    for id in engine.stream_ids() {
        let stream = engine.inspect(id, &mut |inspected| {
            let (file, what, lost) = inspected;
            found(Finding { lost, ..Finding::new(file, what, Harm::Records) });
        });
        streams.extend(stream.map(|stream| (id, stream)));
    }
    verified.streams = streams.into_values().collect();
    Some(engine)
}
