//! Two copies of every file: which of them is whole, and making the other one again.
//!
//! A [`TwinDisk`](crate::TwinDisk) keeps two directories alike without knowing what stands in them.
//! Here the formats' checksums decide which copy is right. [`pair()`] says whether two directories
//! belong together, and makes one from the other where they do not yet. Nothing here is asked for
//! while every copy is whole.

mod journal;
mod pair;
mod sealed;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

pub use pair::{PairError, Pairing, are_paired, belongs_to, copies_of, pair, unpair};

pub(crate) use journal::mend_journal;
pub(crate) use sealed::{Flaw, Sealed, look, mend, repair};

use crate::disk::Disk;
use crate::journal::files::{BALLAST, spare_number};
use crate::manifest::{Manifest, ManifestError};

/// Copied and synced in steps of this many bytes.
const STEP: u64 = 1 << 20;
/// What a copy is called until it is complete. No format knows this ending.
const UNFINISHED: &str = "mend";

/// Every disk that holds a copy: `disk` itself if there is one copy of each file.
pub(crate) fn all(disk: &dyn Disk) -> impl Iterator<Item = &dyn Disk> {
    let copies = disk.copies();
    let itself = copies.is_empty().then_some(disk);
    copies.iter().map(Arc::as_ref).chain(itself)
}

/// Makes `path` in `to` from what it is in `from`. It takes its place as a whole or not at all.
pub(crate) fn replace(from: &dyn Disk, to: &dyn Disk, path: &str) -> io::Result<()> {
    let source = from.open(path)?;
    let unfinished = format!("{path}.{UNFINISHED}");
    match to.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = to.create(&unfinished).and_then(|target| {
        let (len, mut at) = (source.len()?, 0);
        while at < len {
            let mut bytes = vec![0; (len - at).min(STEP) as usize];
            source.read_at(&mut bytes, at)?;
            target.write_at(&bytes, at)?;
            target.sync()?;
            at += bytes.len() as u64;
        }
        target.sync()
    });
    if let Err(error) = written {
        let _ = to.remove(&unfinished);
        return Err(error);
    }
    to.rename(&unfinished, path)?;
    to.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))
}

/// Whether every copy of the file is there with this length. Always, where there is one copy.
pub(crate) fn is_everywhere(disk: &dyn Disk, path: &str, len: u64) -> bool {
    let has = |copy: &Arc<dyn Disk>| copy.open(path).and_then(|file| file.len()).ok() == Some(len);
    disk.copies().iter().all(has)
}

/// Brings both copies of small and listed files in line before a log is opened: the manifests that
/// count are whole, and nothing they list is missing on one side. What is in the files is looked at only where
/// their lengths differ. Returns how many copies were made again.
pub(crate) fn mend_listed(disk: &dyn Disk) -> io::Result<u64> {
    let mut repaired = 0;
    for generation in Manifest::generations(disk)?.into_iter().take(KEPT_MANIFESTS) {
        repaired += mend(disk, &Sealed::Manifest(generation)).repaired;
        let Ok(manifest) = Manifest::read(disk, generation) else { continue };
        for file in Sealed::listed(&manifest) {
            if !is_everywhere(disk, &file.path(), file.length()) {
                repaired += mend(disk, &file).repaired;
            }
        }
    }
    Ok(repaired)
}

/// Makes damaged and missing copies again, of everything that can be told to be damaged: all files are
/// read. Only for a log that is not open. Returns how many copies were made again.
///
/// # Errors
/// What the operating system says when it lists a directory, or the journal cannot be written.
pub fn repair_all(disk: &dyn Disk) -> io::Result<u64> {
    if disk.copies().is_empty() {
        return Ok(0);
    }
    let mut repaired = crate::engine::mend_format(disk)?;
    let mut through: Option<u64> = None;
    let mut files = BTreeMap::new();
    for generation in Manifest::generations(disk)?.into_iter().take(KEPT_MANIFESTS) {
        repaired += mend(disk, &Sealed::Manifest(generation)).repaired;
        let Ok(manifest) = Manifest::read(disk, generation) else { continue };
        through = Some(through.map_or(manifest.through, |t| t.min(manifest.through)));
        files.extend(Sealed::listed(&manifest).map(|file| (file.path(), file)));
    }
    repaired += files.values().map(|file| mend(disk, file).repaired).sum::<u64>();
    Ok(repaired + mend_journal(disk, through.unwrap_or(0))?)
}

/// Whether a manifest that counts lists the file, or it is one itself.
///
/// # Errors
/// If that is not known: the directory or a manifest cannot be read.
pub(crate) fn is_listed(disk: &dyn Disk, file: &Sealed) -> io::Result<bool> {
    let mut is_known = false;
    for generation in Manifest::generations(disk)?.into_iter().take(KEPT_MANIFESTS) {
        if *file == Sealed::Manifest(generation) {
            return Ok(true);
        }
        match read_manifest(disk, generation) {
            Ok(manifest) if Sealed::listed(&manifest).any(|listed| listed == *file) => {
                return Ok(true);
            }
            Ok(_) => is_known = true,
            // A checkpoint came meanwhile; the newer one says.
            Err(ManifestError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    if is_known { Ok(false) } else { Err(io::Error::other("there is no manifest")) }
}

/// The manifest of a generation, from the first copy that has it whole.
pub(crate) fn read_manifest(disk: &dyn Disk, generation: u64) -> Result<Manifest, ManifestError> {
    let mut copies = all(disk).map(|copy| Manifest::read(copy, generation));
    let first = copies.next().unwrap_or_else(|| Manifest::read(disk, generation));
    first.or_else(|error| copies.find_map(Result::ok).ok_or(error))
}

/// So many manifests count, the newest.
pub(crate) const KEPT_MANIFESTS: usize = 2;

/// Makes good whatever of a checkpoint can be: all of it is read. Returns how many copies were made again.
pub(crate) fn mend_checkpoint(disk: &dyn Disk, generation: u64) -> u64 {
    let mut repaired = mend(disk, &Sealed::Manifest(generation)).repaired;
    if let Ok(manifest) = Manifest::read(disk, generation) {
        let files = Sealed::listed(&manifest).filter(|file| !matches!(file, Sealed::Segment(_)));
        repaired += files.map(|file| mend(disk, &file).repaired).sum::<u64>();
    }
    repaired
}

/// Removes what an interrupted copy left, and the ballast if one side has none: it is taken up anew.
pub(crate) fn clean(disk: &dyn Disk, dirs: &[&str]) -> io::Result<()> {
    for dir in dirs {
        let ending = format!(".{UNFINISHED}");
        for name in disk.list(dir)?.into_iter().filter(|name| name.ends_with(&ending)) {
            disk.remove(&format!("{dir}/{name}"))?;
        }
    }
    match disk.open(BALLAST).and_then(|file| file.len()) {
        Ok(len) if !is_everywhere(disk, BALLAST, len) => disk.remove(BALLAST),
        _ => Ok(()),
    }
}

/// Whether a file takes up room and holds nothing that counts.
fn is_filler(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path == BALLAST || spare_number(name).is_some() || name.ends_with(&format!(".{UNFINISHED}"))
}
