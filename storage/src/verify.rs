//! Checking a whole data directory from end to end, without changing anything: both manifests and all
//! they list, and the journal.
//!
//! The index is not looked at: it is never the only copy of anything. The directory must not be in use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::disk::Disk;
use crate::ids_file;
use crate::journal::format::{FILE_HEADER, FileHeader, HeaderError};
use crate::journal::scan::scan;
use crate::journal::{self, number_of};
use crate::manifest::{self, Manifest};
use crate::segment::{self, SegmentMeta};
use crate::state::file::{StateError, StateFile};
use crate::state::merge::{Live, each_merged};
use crate::state::{Key, decode_segment};

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A file cannot be used.
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A place in a segment is damaged.
    Segment(segment::Damage),
    /// Durable groups of the journal cannot be read completely.
    Journal {
        /// The file.
        file: String,
        /// First and last group concerned.
        groups: (u64, u64),
        /// First byte, and the one after the last.
        bytes: (u64, u64),
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, reason } => write!(f, "{file}: {reason}"),
            Self::Segment(damage) => write!(f, "{damage}"),
            Self::Journal { file, groups: (first, last), bytes: (start, end) } => write!(
                f,
                "{file}: groups {first} to {last} are damaged between bytes {start} and {end}"
            ),
        }
    }
}

/// What was gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
}

/// So many manifests count, the newest.
const KEPT_MANIFESTS: usize = 2;

/// Checks everything in `disk`, and calls `found` for each thing that is wrong.
///
/// # Errors
/// What the operating system says when it lists a directory; everything else is a [`Finding`].
pub fn verify(disk: &dyn Disk, found: &mut dyn FnMut(Finding)) -> io::Result<Verified> {
    let mut verified = Verified::default();
    let mut through: Option<u64> = None;
    // Files that both checkpoints list are read once.
    let mut seen = BTreeSet::new();
    // Older manifests come back when power is lost before their removal is durable; what they list
    // is gone, and nobody asks them.
    let generations = list(disk, manifest::DIR, Manifest::generations)?;
    for generation in generations.into_iter().take(KEPT_MANIFESTS) {
        match Manifest::read(disk, generation) {
            Ok(manifest) => {
                verified.checkpoints += 1;
                through = Some(through.map_or(manifest.through, |t| t.min(manifest.through)));
                check_listed(disk, &manifest, &mut seen, &mut verified, found);
            }
            Err(error) => {
                found(Finding::File {
                    file: manifest::path(generation),
                    reason: error.to_string(),
                });
            }
        }
    }
    check_journal(disk, through.unwrap_or(0), &mut verified, found)?;
    Ok(verified)
}

/// Lists a directory; one that is not there is empty.
fn list<T>(
    disk: &dyn Disk,
    dir: &str,
    names: impl FnOnce(&dyn Disk) -> io::Result<Vec<T>>,
) -> io::Result<Vec<T>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(_) => names(disk),
    }
}

fn check_listed(
    disk: &dyn Disk,
    manifest: &Manifest,
    seen: &mut BTreeSet<String>,
    verified: &mut Verified,
    found: &mut dyn FnMut(Finding),
) {
    let mut wrong = |file: String, reason: String| found(Finding::File { file, reason });
    let metas = match segments_of(disk, &manifest.states) {
        Ok(metas) => metas,
        Err(StateError::Damaged { file, offset, what }) => {
            wrong(file, format!("{what} (byte {offset})"));
            BTreeMap::new()
        }
        Err(error) => {
            wrong(manifest::path(manifest.generation), error.to_string());
            BTreeMap::new()
        }
    };
    verified.files += manifest.states.iter().filter(|file| seen.insert(file.path())).count() as u64;
    for file in &manifest.ids {
        if seen.insert(ids_file::path(file.id)) {
            verified.files += 1;
            if let Err(error) = ids_file::read(disk, file) {
                wrong(ids_file::path(file.id), error.to_string());
            }
        }
    }
    for listed in &manifest.segments {
        if !seen.insert(listed.id.path()) {
            continue;
        }
        verified.files += 1;
        let meta = metas.get(&listed.id.0).filter(|meta| meta.digest == listed.digest);
        // Without what the state says, the file is compared with itself.
        let meta = match meta.map_or_else(|| SegmentMeta::read(disk, listed.id), |m| Ok(m.clone()))
        {
            Ok(meta) => Arc::new(meta),
            Err(error) => {
                found(Finding::File { file: listed.id.path(), reason: error.to_string() });
                continue;
            }
        };
        let checked = segment::verify(disk, &meta, &mut |damage| found(Finding::Segment(damage)));
        verified.records += checked.records;
    }
}

/// Reads all state files to the end; returns what they say of segments.
fn segments_of(
    disk: &dyn Disk,
    states: &[StateFile],
) -> Result<BTreeMap<u64, SegmentMeta>, StateError> {
    let mut metas = BTreeMap::new();
    let mut live = Live::default();
    each_merged(disk, states, |entry| {
        if live.is_wanted(&entry)
            && let Some(Key::Segment(id)) = Key::decode(entry.key)
            && let Some(meta) = decode_segment(id, entry.value)
        {
            metas.insert(id.0, meta);
        }
        Ok::<(), StateError>(())
    })?;
    Ok(metas)
}

fn check_journal(
    disk: &dyn Disk,
    through: u64,
    verified: &mut Verified,
    found: &mut dyn FnMut(Finding),
) -> io::Result<()> {
    let names = list(disk, journal::DIR, |disk| disk.list(journal::DIR))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let mut files = Vec::new();
    for number in numbers {
        let path = journal::path(number);
        match read_header(disk, &path) {
            Ok(Some(header)) if header.file == number => files.push((path, header)),
            // It was never begun.
            Ok(_) => {}
            Err(error) => found(Finding::File { file: path, reason: error.to_string() }),
        }
    }
    let mut next = through + 1;
    for (index, (path, header)) in files.iter().enumerate() {
        let successor = files.get(index + 1).map(|(_, successor)| successor);
        let end = successor.map(|next| (next.predecessor_end, next.first_group - 1));
        if end.is_some_and(|(_, last)| last < next) {
            continue;
        }
        if header.first_group > next {
            let reason =
                format!("groups {next} to {} before it are missing", header.first_group - 1);
            found(Finding::File { file: path.clone(), reason });
        }
        verified.files += 1;
        let bytes = match read_all(disk, path) {
            Ok(bytes) => bytes,
            Err(error) => {
                found(Finding::File { file: path.clone(), reason: error.to_string() });
                continue;
            }
        };
        let scan = scan(&bytes, header, next, end);
        for damage in &scan.damage {
            found(Finding::Journal {
                file: path.clone(),
                groups: damage.groups,
                bytes: (damage.range.start as u64, damage.range.end as u64),
            });
        }
        verified.groups += scan.groups.len() as u64;
        verified.is_torn |= scan.is_torn;
        next = scan.groups.last().map_or(next, |group| group.number + 1);
        next = end.map_or(next, |(_, last)| next.max(last + 1));
    }
    Ok(())
}

fn read_header(disk: &dyn Disk, path: &str) -> io::Result<Option<FileHeader>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.len()?.min(FILE_HEADER) as usize];
    file.read_at(&mut bytes, 0)?;
    match FileHeader::decode(&bytes) {
        Ok(header) => Ok(Some(header)),
        Err(HeaderError::Newer(major)) => {
            Err(io::Error::other(format!("format {major} is newer than this version")))
        }
        Err(HeaderError::Invalid) if bytes.iter().any(|byte| *byte != 0) => {
            Err(io::Error::other("the header is damaged in both copies"))
        }
        Err(HeaderError::Invalid) => Ok(None),
    }
}

fn read_all(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}
