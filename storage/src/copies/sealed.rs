//! Files that are written once: each of their copies is whole or it is not, which the manifest and the
//! files' own checksums tell.

use std::io;

use super::{all, replace};
use crate::disk::{Disk, is_passing};
use crate::ids_file;
use crate::manifest::{self, IdFile, ListedSegment, Manifest, ManifestError};
use crate::segment::{self, SegmentError};
use crate::state::file::{StateError, StateFile, read_through};

/// Why a copy did not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    /// It is damaged or missing.
    #[error("{0}")]
    Damaged(String),
    /// It could not be read now, and nothing is known of it.
    #[error("{0}")]
    Unread(String),
}

impl Flaw {
    fn of_io(error: &io::Error, what: String) -> Self {
        if is_passing(error) { Self::Unread(what) } else { Self::Damaged(what) }
    }

    pub(crate) fn of_manifest(error: &ManifestError) -> Self {
        match error {
            ManifestError::Io { source, .. } => Self::of_io(source, error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }

    fn of_state(error: &StateError) -> Self {
        match error {
            StateError::Io { source, .. } => Self::of_io(source, error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }

    fn of_segment(error: &SegmentError) -> Self {
        match error {
            SegmentError::Io { is_passing: true, .. } => Self::Unread(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// A file that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// The manifest of a generation.
    Manifest(u64),
    State(StateFile),
    Ids(IdFile),
    Segment(ListedSegment),
}

impl Sealed {
    /// Everything that a manifest lists.
    pub(crate) fn listed(manifest: &Manifest) -> impl Iterator<Item = Self> + '_ {
        let states = manifest.states.iter().copied().map(Self::State);
        let ids = manifest.ids.iter().copied().map(Self::Ids);
        states.chain(ids).chain(manifest.segments.iter().copied().map(Self::Segment))
    }

    pub(crate) fn path(&self) -> String {
        match self {
            Self::Manifest(generation) => manifest::path(*generation),
            Self::State(file) => file.path(),
            Self::Ids(file) => ids_file::path(file.id),
            Self::Segment(listed) => listed.id.path(),
        }
    }

    /// Its length; a manifest does not say its own.
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Manifest(_) => 0,
            Self::State(file) => file.length,
            Self::Ids(file) => file.length,
            Self::Segment(listed) => listed.length,
        }
    }

    /// Reads all of it, in little memory, and says what is wrong with it.
    pub(crate) fn check(&self, disk: &dyn Disk) -> Result<(), Flaw> {
        match self {
            Self::Manifest(generation) => {
                let read = Manifest::read(disk, *generation);
                read.map(|_| ()).map_err(|error| Flaw::of_manifest(&error))
            }
            Self::State(file) => read_through(disk, *file).map_err(|error| Flaw::of_state(&error)),
            Self::Ids(file) => {
                let read = ids_file::read(disk, file);
                read.map(|_| ()).map_err(|error| Flaw::of_io(&error, error.to_string()))
            }
            Self::Segment(listed) => {
                let ListedSegment { id, length, digest } = *listed;
                let read = segment::check_digest(disk, id, length, digest);
                read.map_err(|error| Flaw::of_segment(&error))
            }
        }
    }
}

/// What was found of a file's copies, and done about it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What is wrong with copies that were not whole.
    pub(crate) damaged: Vec<String>,
    /// Of these, how many are whole now.
    pub(crate) repaired: u64,
    /// Whether a copy could not be read for a reason that passes: it is to be looked at again.
    pub(crate) is_unread: bool,
}

impl Outcome {
    /// Whether a copy is damaged still.
    pub(crate) fn is_bad(&self) -> bool {
        (self.damaged.len() as u64) > self.repaired
    }
}

/// Reads every copy of the file, and makes those that are not whole again from one that is.
pub(crate) fn mend(disk: &dyn Disk, file: &Sealed) -> Outcome {
    repair(disk, file, look(disk, file))
}

/// Reads every copy of the file, and says what is wrong with each.
pub(crate) fn look(disk: &dyn Disk, file: &Sealed) -> Vec<Result<(), Flaw>> {
    all(disk).map(|copy| file.check(copy)).collect()
}

/// Makes copies again that are not whole, from one that is. `found` says what [`look`] said.
pub(crate) fn repair(disk: &dyn Disk, file: &Sealed, found: Vec<Result<(), Flaw>>) -> Outcome {
    let path = file.path();
    let copies: Vec<&dyn Disk> = all(disk).collect();
    let whole = found.iter().position(Result::is_ok).and_then(|at| copies.get(at));
    let mut outcome = Outcome::default();
    for (number, (copy, found)) in copies.iter().zip(found).enumerate() {
        let why = match found {
            Ok(()) => continue,
            Err(Flaw::Unread(_)) => {
                outcome.is_unread = true;
                continue;
            }
            Err(Flaw::Damaged(why)) => why,
        };
        let number = number + 1;
        match whole.map(|whole| replace(*whole, *copy, &path)) {
            Some(Ok(())) => {
                tracing::warn!(file = %path, copy = number, %why, "a damaged or missing copy of a file was made again from the other one");
                outcome.repaired += 1;
            }
            Some(Err(error)) if is_passing(&error) => {
                outcome.is_unread = true;
                continue;
            }
            Some(Err(error)) => {
                tracing::error!(file = %path, copy = number, %why, %error, "a damaged or missing copy of a file cannot be made again; the other one is whole");
            }
            None => {}
        }
        outcome.damaged.push(why);
    }
    outcome
}
