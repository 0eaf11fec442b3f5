//! The directories that a server keeps its files in: one, or two with a copy of every file each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudebus_storage::copies::{are_paired, copies_of, pair, unpair};
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
    let places = (absolute(data), absolute(&place));
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

/// Opens the copies of a data directory's files beside it, changing neither.
pub(super) fn find_copies(data: &Path, first: &Arc<dyn Disk>) -> Result<Found, RealDiskError> {
    let io = |source| RealDiskError::Io { path: data.to_path_buf(), source };
    let beside = data.join(COPIES);
    let place = match copies_of(first.as_ref()).map_err(io)? {
        Some(place) => PathBuf::from(place),
        // Its own mark may be what is damaged.
        None if beside.join("COPIES").is_file() && !data.join("COPIES").is_file() => beside,
        None => return Ok(Found::None),
    };
    if !place.is_dir() {
        return Ok(Found::Unusable(place));
    }
    let second: Arc<dyn Disk> = Arc::new(RealDisk::open(&place)?);
    if !are_paired(first.as_ref(), second.as_ref()).map_err(io)? {
        return Ok(Found::Unusable(place));
    }
    Ok(Found::Twin(Arc::new(TwinDisk::new(Arc::clone(first), second))))
}

/// The same path from wherever one stands.
fn absolute(path: &Path) -> String {
    let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    whole.display().to_string()
}
