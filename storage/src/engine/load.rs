//! Loading what the newest usable checkpoint wrote, and sweeping what no manifest lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::checkpointer::SEGMENTS;
use super::contents::Contents;
use super::report::{OpenError, lose};
use super::segments::{Archive, SegmentFile};
use crate::copies;
use crate::disk::Disk;
use crate::ids_file;
use crate::journal::{self, FIRST_FILE};
use crate::manifest::{self, ListedSegment, Manifest, ManifestError};
use crate::segment::{ReadStats, SegmentMeta};
use crate::state::entries::Entry;
use crate::state::file::StateError;
use crate::state::merge::{Live, each_merged};
use crate::state::{
    self, Key, StreamValue, decode_gone, decode_keyed, decode_segment, decode_subject,
};
use crate::stream::Stream;

/// A checkpoint in memory.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) manifest: Manifest,
    pub(super) previous: Option<Manifest>,
    pub(super) contents: Contents,
    /// The newest checkpoint could not be used, the one before it was.
    pub(super) fell_back: bool,
    pub(super) next_file: u64,
    pub(super) next_segment: u64,
    /// Segment files that no manifest lists.
    pub(super) unlisted: Vec<String>,
    /// Copies of files that were made again.
    pub(super) repaired: u64,
}

/// Why one checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("a state file holds what no version writes: {0}")]
    Nonsense(String),
    #[error("{0} is listed but is not there")]
    Missing(String),
    #[error("cannot read message ids: {0}")]
    Ids(std::io::Error),
}

impl LoadError {
    /// A newer version wrote it: no other checkpoint is tried.
    fn newer(&self) -> Option<OpenError> {
        let (file, found, known) = match self {
            Self::Manifest(ManifestError::Newer { file, major }) => (file, *major, manifest::MAJOR),
            Self::State(StateError::Newer { file, major }) => (file, *major, state::file::MAJOR),
            _ => return None,
        };
        Some(OpenError::Newer { file: file.clone(), found, known })
    }
}

/// Loads the newest checkpoint that can be used.
pub(super) fn load(disk: &dyn Disk, archive: &Arc<Archive>) -> Result<Loaded, OpenError> {
    let generations = Manifest::generations(disk).map_err(OpenError::io("list the manifests"))?;
    let present = list(disk, SEGMENTS)?;
    let mut repaired = match disk.copies() {
        [] => 0,
        _ => copies::mend_listed(disk).map_err(OpenError::io("compare the copies"))?,
    };
    let mut problems = Vec::new();
    let mut loaded = None;
    for (index, generation) in generations.iter().enumerate() {
        let mut result = load_one(disk, archive, *generation, &present);
        // Only then are all copies read to their end.
        if result.is_err() && !disk.copies().is_empty() {
            repaired += copies::mend_checkpoint(disk, *generation);
            result = load_one(disk, archive, *generation, &present);
        }
        match result {
            Ok((manifest, contents)) => {
                let rest = generations.get(index + 1..).unwrap_or_default();
                let previous = rest.iter().find_map(|older| Manifest::read(disk, *older).ok());
                let fell_back = !problems.is_empty();
                loaded =
                    Some(Loaded { manifest, previous, contents, fell_back, ..Loaded::default() });
                break;
            }
            Err(error) => {
                if let Some(newer) = error.newer() {
                    return Err(newer);
                }
                tracing::error!(generation, %error, "a checkpoint cannot be used");
                problems.push((*generation, error));
            }
        }
    }
    if loaded.is_none()
        && let Some((generation, error)) = problems.first()
        && !problems.iter().all(|(generation, _)| was_never_finished(disk, *generation))
    {
        let reason = error.to_string();
        return Err(OpenError::Damaged { file: manifest::path(*generation), reason });
    }
    for (generation, _) in &problems {
        lose(disk, &manifest::path(*generation))?;
    }
    let fell_back = !problems.is_empty();
    let mut loaded = loaded.unwrap_or_else(|| Loaded { fell_back, ..Loaded::default() });
    loaded.repaired = repaired;
    // What is built upon must stay: a process that was killed may not have come to this.
    disk.sync_dir(manifest::DIR).map_err(OpenError::io("sync the manifests"))?;
    hold_retired(&mut loaded, archive);
    sweep(disk, &mut loaded, &present)?;
    Ok(loaded)
}

/// Whether a damaged manifest is that of a first checkpoint which a crash interrupted: one of two copies
/// has lost nothing, which is the one without that manifest, and with all of the journal from its
/// beginning. What is in the log is read from there.
fn was_never_finished(disk: &dyn Disk, generation: u64) -> bool {
    let lacks = |copy: &dyn Disk, path: &str| {
        copy.open(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    let (manifest, journal) = (manifest::path(generation), journal::path(FIRST_FILE));
    let mut copies = disk.copies().iter();
    copies.any(|copy| lacks(copy.as_ref(), &manifest) && !lacks(copy.as_ref(), &journal))
}

/// Segments that only the older manifest lists go when it goes.
fn hold_retired(loaded: &mut Loaded, archive: &Arc<Archive>) {
    let Some(previous) = &loaded.previous else { return };
    let segments = &mut loaded.contents.segments;
    for listed in &previous.segments {
        if segments.held.contains_key(&listed.id.0) {
            continue;
        }
        let ListedSegment { id, length, digest } = *listed;
        let meta = SegmentMeta { id, length, digest, streams: Vec::new() };
        let file = SegmentFile::new(Arc::new(meta), archive);
        segments.retired.insert(id.0, (file, previous.rewrite.contains(&id)));
    }
}

fn list(disk: &dyn Disk, dir: &str) -> Result<BTreeSet<String>, OpenError> {
    let names = disk.list(dir).map_err(OpenError::io(format!("list {dir}")))?;
    Ok(names.into_iter().map(|name| format!("{dir}/{name}")).collect())
}

fn load_one(
    disk: &dyn Disk,
    archive: &Arc<Archive>,
    generation: u64,
    present: &BTreeSet<String>,
) -> Result<(Manifest, Contents), LoadError> {
    let manifest = Manifest::read(disk, generation)?;
    let mut contents = Contents::default();
    let mut metas = BTreeMap::new();
    let mut live = Live::default();
    each_merged(disk, &manifest.states, |entry| {
        if !live.is_wanted(&entry) {
            return Ok(());
        }
        load_entry(&mut contents, &mut metas, &entry).ok_or_else(|| {
            LoadError::Nonsense(format!("key {:02x?}", entry.key.get(..32).unwrap_or(entry.key)))
        })
    })?;
    contents.keyed.mark_saved();
    for stream in contents.streams.values_mut() {
        stream.subjects.forget_changes();
        contents.clock = contents.clock.max(stream.last_time);
    }
    load_segments(archive, &manifest, &mut contents, &mut metas, present)?;
    for file in &manifest.ids {
        for (stream, entry) in ids_file::read(disk, file).map_err(LoadError::Ids)? {
            if contents.streams.contains_key(&stream) {
                contents.window.remember(stream, entry);
            }
        }
    }
    contents.window.mark_saved();
    Ok((manifest, contents))
}

/// Takes in one entry; `None` if it makes no sense.
fn load_entry(
    contents: &mut Contents,
    metas: &mut BTreeMap<u64, SegmentMeta>,
    entry: &Entry<'_>,
) -> Option<()> {
    match Key::decode(entry.key)? {
        Key::Stream(id) => {
            let value = StreamValue::decode(entry.value)?;
            let stream = Stream {
                options: value.options,
                epoch: value.epoch,
                messages: value.messages,
                bytes: value.bytes,
                first_seq: value.first_seq,
                last_seq: value.last_seq,
                last_time: value.last_time,
                ..Stream::default()
            };
            contents.streams.insert(id, Box::new(stream));
        }
        Key::Gone(id) => {
            contents.streams.get_mut(&id)?.gone = decode_gone(entry.value)?;
        }
        Key::Subject(id, _, text) => {
            let (count, first, last, is_exact) = decode_subject(entry.value)?;
            contents.streams.get_mut(&id)?.subjects.load(text, count, first, last, is_exact);
        }
        Key::Keyed(key) => {
            let (base, notes) = decode_keyed(entry.value)?;
            contents.keyed.put(key, base);
            contents.keyed.note(key, notes);
        }
        Key::Segment(id) => {
            metas.insert(id.0, decode_segment(id, entry.value)?);
        }
    }
    Some(())
}

fn load_segments(
    archive: &Arc<Archive>,
    manifest: &Manifest,
    contents: &mut Contents,
    metas: &mut BTreeMap<u64, SegmentMeta>,
    present: &BTreeSet<String>,
) -> Result<(), LoadError> {
    for listed in &manifest.segments {
        let path = listed.id.path();
        if !present.contains(&path) {
            return Err(LoadError::Missing(path));
        }
        let meta = metas
            .remove(&listed.id.0)
            .filter(|meta| (meta.length, meta.digest) == (listed.length, listed.digest))
            .ok_or_else(|| LoadError::Nonsense(format!("nothing about {path}")))?;
        let file = SegmentFile::new(Arc::new(meta), archive);
        load_expiries(contents, &file);
        contents.segments.add_listed(file, listed.id.0, &mut contents.streams);
    }
    for id in &manifest.rewrite {
        if let Some(held) = contents.segments.held.get_mut(&id.0) {
            held.rewrite = true;
        }
    }
    Ok(())
}

/// Reads the expiry tables of a segment; only they are needed before the first delivery.
fn load_expiries(contents: &mut Contents, file: &Arc<SegmentFile>) {
    let stats = ReadStats::default();
    for range in file.meta.streams.iter().filter(|range| range.next_expiry.is_some()) {
        let Some(stream) = contents.streams.get_mut(&range.stream) else { continue };
        let expiries = match file
            .read(range.stream, |segment| segment.expiries(range.stream, &stats))
        {
            Ok(expiries) => expiries,
            // Without the table, the records themselves tell, as far as they can be read.
            Err(error) => match file.segment() {
                Ok(segment) => {
                    tracing::error!(%error, "an expiry table is damaged; the records are read");
                    segment.expiries_of_records(range.stream, &stats)
                }
                Err(error) => {
                    tracing::error!(%error, "the records of a segment cannot be read and do not expire");
                    Vec::new()
                }
            },
        };
        let live: Vec<_> = expiries.into_iter().filter(|(_, seq)| stream.contains(*seq)).collect();
        stream.expiries.extend(live);
    }
}

/// Finds files that no manifest lists, and the numbers that must not be used again.
fn sweep(
    disk: &dyn Disk,
    loaded: &mut Loaded,
    segments: &BTreeSet<String>,
) -> Result<(), OpenError> {
    let manifests = std::iter::once(&loaded.manifest).chain(&loaded.previous);
    let listed: BTreeSet<String> = manifests
        .flat_map(|manifest| manifest.files().chain([manifest::path(manifest.generation)]))
        .collect();
    let number = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok())
    };
    loaded.next_segment = loaded.manifest.next_segment.max(1);
    for path in segments {
        let next = number(path).map_or(0, |number| number + 1);
        loaded.next_segment = loaded.next_segment.max(next);
        if !listed.contains(path) {
            if loaded.fell_back {
                lose(disk, path)?;
            } else {
                loaded.unlisted.push(path.clone());
            }
        }
    }
    loaded.next_file = 1;
    for dir in [state::DIR, ids_file::DIR, manifest::DIR] {
        for path in list(disk, dir)? {
            if dir != manifest::DIR {
                let next = number(&path).map_or(0, |number| number + 1);
                loaded.next_file = loaded.next_file.max(next);
            }
            if listed.contains(&path) {
                continue;
            }
            if loaded.fell_back {
                lose(disk, &path)?;
            } else {
                disk.remove(&path).map_err(OpenError::io(format!("remove {path}")))?;
            }
        }
    }
    Ok(())
}
