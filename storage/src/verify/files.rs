//! The format file, and manifests with all they list: state files, id files and segments.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::{Finding, Harm, Verified};
use crate::copies::KEPT_MANIFESTS;
use crate::disk::Disk;
use crate::engine::is_format_file;
use crate::ids_file;
use crate::manifest::{self, Manifest};
use crate::segment::{self, SegmentError, SegmentMeta};
use crate::state::file::{StateError, StateFile, read_through};
use crate::state::merge::{Live, each_merged};
use crate::state::{Key, decode_segment};

/// Whether the file that names the format says what this version writes.
pub(super) fn check_format(disk: &dyn Disk, found: &mut dyn FnMut(Finding)) {
    const FILE: &str = "FORMAT";
    match read_all(disk, FILE) {
        Ok(bytes) if is_format_file(&bytes) => {}
        Ok(_) => found(Finding::new(FILE, "it is not what this version writes", Harm::Nothing)),
        Err(error) => found(Finding::new(FILE, error, Harm::Nothing)),
    }
}

/// Checks both checkpoints in `copy`; which those are is known from all copies in `disk`. Returns the
/// last group that the older one covers.
pub(super) fn check_checkpoints(
    disk: &dyn Disk,
    copy: &dyn Disk,
    verified: &mut Verified,
    found: &mut dyn FnMut(Finding),
) -> io::Result<u64> {
    let mut through: Option<u64> = None;
    // Files that both checkpoints list are read once.
    let mut seen = BTreeSet::new();
    // Older manifests come back when power is lost before their removal is durable; what they list
    // is gone, and nobody asks them.
    let generations = list(disk, manifest::DIR, Manifest::generations)?;
    for generation in generations.into_iter().take(KEPT_MANIFESTS) {
        let read = Manifest::read(copy, generation);
        if let Err(error) = &read {
            found(Finding::new(manifest::path(generation), error, Harm::Checkpoint));
        }
        let others = || disk.copies().iter();
        let elsewhere = || others().find_map(|o| Manifest::read(o.as_ref(), generation).ok());
        if let Some(manifest) = read.ok().or_else(elsewhere) {
            verified.checkpoints += 1;
            through = Some(through.map_or(manifest.through, |t| t.min(manifest.through)));
            check_listed(copy, &manifest, &mut seen, verified, found);
        }
    }
    Ok(through.unwrap_or(0))
}

/// Lists a directory; one that is not there is empty.
pub(super) fn list<T>(
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

pub(super) fn read_all(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn check_listed(
    disk: &dyn Disk,
    manifest: &Manifest,
    seen: &mut BTreeSet<String>,
    verified: &mut Verified,
    found: &mut dyn FnMut(Finding),
) {
    let mut is_whole = true;
    for file in &manifest.states {
        let first_time = seen.insert(file.path());
        if let Err(error) = read_through(disk, *file) {
            is_whole = false;
            if first_time {
                found(of_state(*file, &error));
            }
        }
        verified.files += u64::from(first_time);
    }
    for file in &manifest.ids {
        if seen.insert(ids_file::path(file.id)) {
            verified.files += 1;
            if let Err(error) = ids_file::read(disk, file) {
                found(Finding::new(ids_file::path(file.id), error, Harm::Checkpoint));
            }
        }
    }
    let metas = is_whole.then(|| segments_of(disk, &manifest.states).ok()).flatten();
    for listed in &manifest.segments {
        if !seen.insert(listed.id.path()) {
            continue;
        }
        verified.files += 1;
        let meta = metas.as_ref().and_then(|metas| metas.get(&listed.id.0));
        let meta = meta.filter(|meta| meta.digest == listed.digest);
        if metas.is_some() && meta.is_none() {
            let what = format!("the state files say nothing of {}", listed.id.path());
            found(Finding::new(manifest::path(manifest.generation), what, Harm::Checkpoint));
        }
        // Without what the state says, the file is compared with itself.
        let meta = match meta.map_or_else(|| SegmentMeta::read(disk, listed.id), |m| Ok(m.clone()))
        {
            Ok(meta) => Arc::new(meta),
            Err(error) => {
                found(of_segment(&listed.id.path(), &error, None, None));
                continue;
            }
        };
        let checked = segment::verify(disk, &meta, &mut |damage| {
            found(of_segment(&listed.id.path(), &damage.error, damage.end, damage.lost));
        });
        verified.records += checked.records;
    }
}

fn of_state(file: StateFile, error: &StateError) -> Finding {
    match error {
        StateError::Damaged { file, offset, what } => Finding {
            bytes: Some((*offset, *offset)),
            ..Finding::new(file, what, Harm::Checkpoint)
        },
        error => Finding::new(file.path(), error, Harm::Checkpoint),
    }
}

fn of_segment(
    path: &str,
    error: &SegmentError,
    end: Option<u64>,
    lost: Option<(crate::StreamId, u64, u64)>,
) -> Finding {
    let harm = if lost.is_some() { Harm::Records } else { Harm::Search };
    let finding = match error {
        SegmentError::Damaged { file, offset, what } => {
            Finding::new(file, what, harm).at(*offset, end.unwrap_or(*offset))
        }
        error => Finding::new(path, error, harm),
    };
    Finding { lost, ..finding }
}

/// What the state files say of segments.
pub(crate) fn segments_of(
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
