//! The directories that a server keeps its files in: one, or two with a copy of every file each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudebus_storage::copies::{are_paired, belongs_to, copies_of, pair, unpair};
use claudebus_storage::disk::{Disk, TwinDisk};
use claudebus_storage::{RealDisk, RealDiskError};

use super::builder::Copies;
use super::error::StartError;

/// Where the copies are unless another directory is named.
const COPIES: &str = "copies";

/// Opens the data directory, and makes its copies if they are wanted and not there yet.
pub(super) fn open(data: &Path, copies: Option<Copies>) -> Result<Arc<dyn Disk>, StartError> {
    let first: Arc<dyn Disk> = Arc::new(RealDisk::open(data)?);
    let Some(copies) = copies else {
        if let Some(place) = unpair(first.as_ref()).map_err(StartError::Copies)? {
            tracing::warn!(
                data = %data.display(), copies = %place,
                "one copy of each file is kept from now on; those in the other directory are out of date and can be removed"
            );
        }
        return Ok(first);
    };
    let place = copies.place.unwrap_or_else(|| data.join(COPIES));
    let second: Arc<dyn Disk> = Arc::new(RealDisk::open(&place)?);
    let places = (marked(data), marked(&place));
    let paired = pair(first, second, (&places.0, &places.1), rand::random());
    let (disk, _) = paired.map_err(StartError::Copies)?;
    Ok(Arc::new(disk))
}

/// What is said of a directory's copies.
pub(super) enum Found {
    /// There are none.
    None,
    /// They are out of date, or not there.
    Unusable(PathBuf),
    /// They were opened.
    Twin(Arc<dyn Disk>),
}

/// Opens the copies of a data directory's files beside it, changing neither. Copies in the directory itself
/// go where it goes; those elsewhere must say that they are of this one, for what was found may have
/// been copied from where they belong.
pub(super) fn find_copies(data: &Path, first: &Arc<dyn Disk>) -> Result<Found, RealDiskError> {
    let io = |source| RealDiskError::Io { path: data.to_path_buf(), source };
    let inside = data.join(COPIES);
    let has_inside = inside.join("COPIES").is_file();
    let place = match copies_of(first.as_ref()).map_err(io)? {
        Some(place) => PathBuf::from(place),
        // Its own mark may be what is damaged.
        None if has_inside && !data.join("COPIES").is_file() => return Ok(Found::Unusable(inside)),
        None => return Ok(Found::None),
    };
    if has_inside {
        let second: Arc<dyn Disk> = Arc::new(RealDisk::open(&inside)?);
        if are_paired(first.as_ref(), second.as_ref()).map_err(io)? {
            return Ok(Found::Twin(Arc::new(TwinDisk::new(Arc::clone(first), second))));
        }
    }
    if !place.is_dir() || belongs_to(&place).map_err(io)?.as_deref() != Some(marked(data).as_str())
    {
        return Ok(Found::Unusable(place));
    }
    let second: Arc<dyn Disk> = Arc::new(RealDisk::open(&place)?);
    if !are_paired(first.as_ref(), second.as_ref()).map_err(io)? {
        return Ok(Found::Unusable(place));
    }
    Ok(Found::Twin(Arc::new(TwinDisk::new(Arc::clone(first), second))))
}

/// The same path from wherever one stands, if there is something.
pub(super) fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// A path as the directories' marks have it.
fn marked(path: &Path) -> String {
    absolute(path).display().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Copies a directory and all in it.
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    /// What is found of the copies of a directory.
    fn found(data: &Path) -> (Found, Arc<dyn Disk>) {
        let first: Arc<dyn Disk> = Arc::new(RealDisk::open(data).unwrap());
        (find_copies(data, &first).unwrap(), first)
    }

    /// Where the second copies are that were found.
    fn second(data: &Path) -> PathBuf {
        match found(data).0 {
            Found::Twin(disk) => disk.copies().last().unwrap().root().unwrap().to_path_buf(),
            Found::None => panic!("none"),
            Found::Unusable(place) => panic!("{} is unusable", place.display()),
        }
    }

    #[test]
    fn copies_elsewhere_are_those_of_one_directory() {
        let home = tempfile::tempdir().unwrap();
        let (data, place) = (home.path().join("data"), home.path().join("elsewhere"));
        drop(open(&data, Some(Copies { place: Some(place.clone()) })).unwrap());
        assert_eq!(second(&data), std::fs::canonicalize(&place).unwrap());
        let backup = home.path().join("backup");
        copy(&data, &backup);
        // Not even while they are in use is that an error.
        let in_use = RealDisk::open(&place).unwrap();
        assert!(matches!(found(&backup).0, Found::Unusable(_)));
        drop(in_use);
        assert!(matches!(found(&backup).0, Found::Unusable(_)));
    }

    #[test]
    fn copies_inside_go_with_their_directory() {
        let home = tempfile::tempdir().unwrap();
        let (data, backup) = (home.path().join("data"), home.path().join("backup"));
        drop(open(&data, Some(Copies { place: None })).unwrap());
        copy(&data, &backup);
        assert_eq!(second(&backup), backup.join(COPIES));
        let moved = home.path().join("moved");
        std::fs::rename(&data, &moved).unwrap();
        assert_eq!(second(&moved), moved.join(COPIES));
    }
}
