//! Files that are written once: each of their copies is whole or it is not, which the manifest and the
//! files' own checksums tell.

use super::{all, replace};
use crate::disk::Disk;
use crate::ids_file;
use crate::manifest::{self, IdFile, ListedSegment, Manifest};
use crate::segment;
use crate::state::file::{StateFile, StateReader};

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
    pub(crate) fn check(&self, disk: &dyn Disk) -> Result<(), String> {
        match self {
            Self::Manifest(generation) => {
                Manifest::read(disk, *generation).map(|_| ()).map_err(|error| error.to_string())
            }
            Self::State(file) => read_state(disk, *file).map_err(|error| error.to_string()),
            Self::Ids(file) => {
                ids_file::read(disk, file).map(|_| ()).map_err(|error| error.to_string())
            }
            Self::Segment(listed) => {
                let ListedSegment { id, length, digest } = *listed;
                segment::check_digest(disk, id, length, digest).map_err(|error| error.to_string())
            }
        }
    }
}

fn read_state(disk: &dyn Disk, file: StateFile) -> Result<(), crate::state::file::StateError> {
    let mut reader = StateReader::open(disk, file)?;
    while reader.next()?.is_some() {}
    Ok(())
}

/// What was found of a file's copies, and done about it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What is wrong with copies that were not whole.
    pub(crate) damaged: Vec<String>,
    /// Of these, how many are whole now.
    pub(crate) repaired: u64,
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
pub(crate) fn look(disk: &dyn Disk, file: &Sealed) -> Vec<Result<(), String>> {
    all(disk).map(|copy| file.check(copy)).collect()
}

/// Makes copies again that are not whole, from one that is. `found` says what [`look`] said.
pub(crate) fn repair(disk: &dyn Disk, file: &Sealed, found: Vec<Result<(), String>>) -> Outcome {
    let path = file.path();
    let copies: Vec<&dyn Disk> = all(disk).collect();
    let whole = found.iter().position(Result::is_ok).and_then(|at| copies.get(at));
    let mut outcome = Outcome::default();
    for (number, (copy, found)) in copies.iter().zip(found).enumerate() {
        let Err(why) = found else { continue };
        let number = number + 1;
        match whole.map(|whole| replace(*whole, *copy, &path)) {
            Some(Ok(())) => {
                tracing::warn!(file = %path, copy = number, %why, "a damaged or missing copy of a file was made again from the other one");
                outcome.repaired += 1;
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
