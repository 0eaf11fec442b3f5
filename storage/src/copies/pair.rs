//! Which two directories belong together, and making one from the other.
//!
//! Each of them has a file that says so. A directory whose copies were not kept for a while is out of
//! date and never taken for a copy: it is made anew. Nothing of a directory that belongs to another
//! one, or to none, is touched.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{is_filler, replace};
use crate::codec::checksum;
use crate::disk::{Disk, TwinDisk, put_file};
use crate::{ids_file, journal, manifest, state};

/// Says of a directory which other one holds its copies, or whose copies it holds.
const MARK: &str = "COPIES";
const MARK_TEXT: &str = "claudebus copies 1\n";
/// Far more than a mark has.
const MARK_MOST: u64 = 16 << 10;
const FORMAT: &str = "FORMAT";
/// Directories whose files have copies.
const DIRS: [&str; 5] = [manifest::DIR, state::DIR, ids_file::DIR, journal::DIR, "segments"];

/// Why two directories cannot hold copies of each other's files.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The second directory has files that are no copies of the first one's.
    #[error(
        "{place} holds files that are not copies of this data directory; name an empty directory \
         for the copies, or empty this one if nothing in it is needed"
    )]
    Foreign {
        /// The second directory.
        place: String,
    },
    /// The first directory has no log, and the second one's cannot be known to be complete.
    #[error(
        "the data directory holds no log, and {place} holds one that is incomplete or out of date; restore \
         the data directory from a backup, or empty {place} if nothing in it is needed"
    )]
    NoLog {
        /// The second directory.
        place: String,
    },
    /// The first directory is incomplete, and the second one is needed to complete it.
    #[error(
        "the data directory was being restored from its copies in {place} and is not complete; start \
         once more with two copies, and with this directory for them"
    )]
    Unfinished {
        /// The second directory.
        place: String,
    },
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the operating system said.
        source: io::Error,
    },
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> PairError {
    move |source| PairError::Io { action: action.into(), source }
}

/// What [`pair()`] had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Nothing: both directories belong together.
    Known,
    /// So many files were copied into the second one.
    Made(u64),
    /// The data directory was empty; so many files were copied back into it.
    Restored(u64),
}

/// How far a pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Both directories hold the same.
    InUse,
    /// The second one is being made from the first.
    Making,
    /// The first one is being made from the second.
    Restoring,
    /// The second one is out of date.
    Unused,
}

impl Phase {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::InUse, "in use"),
        (Self::Making, "being made"),
        (Self::Restoring, "being restored"),
        (Self::Unused, "unused"),
    ];
}

/// The mark of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    pair: u64,
    phase: Phase,
    /// Where the other directory is, for people and for `verify`.
    other: String,
}

impl Mark {
    fn encode(&self) -> String {
        let phase = Phase::NAMES.iter().find(|(phase, _)| *phase == self.phase);
        let phase = phase.map_or("", |(_, name)| name);
        let text =
            format!("{MARK_TEXT}pair {:016x}\nphase {phase}\nother {}\n", self.pair, self.other);
        format!("{text}sum {:016x}\n", checksum(text.as_bytes()))
    }

    fn decode(text: &str) -> Option<Self> {
        let (text, sum) = text.split_at_checked(text.rfind("sum ")?)?;
        if *sum != format!("sum {:016x}\n", checksum(text.as_bytes())) {
            return None;
        }
        let mut lines = text.strip_prefix(MARK_TEXT)?.lines();
        let pair = u64::from_str_radix(lines.next()?.strip_prefix("pair ")?, 16).ok()?;
        let phase = lines.next()?.strip_prefix("phase ")?;
        let (phase, _) = *Phase::NAMES.iter().find(|(_, name)| *name == phase)?;
        let other = lines.next()?.strip_prefix("other ")?.to_owned();
        Some(Self { pair, phase, other })
    }

    /// The mark of a directory. One that cannot be understood is none.
    fn read(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let file = match disk.open(MARK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = vec![0; file.len()?.min(MARK_MOST) as usize];
        file.read_at(&mut bytes, 0)?;
        Ok(Self::decode(&String::from_utf8_lossy(&bytes)))
    }

    fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        put_file(disk, MARK, self.encode().as_bytes(), true)
    }
}

/// Where the copies of a directory's files are kept, if they are.
///
/// # Errors
/// What the operating system says.
pub fn copies_of(disk: &dyn Disk) -> io::Result<Option<String>> {
    let mark = Mark::read(disk)?;
    Ok(mark.filter(|mark| mark.phase != Phase::Unused).map(|mark| mark.other))
}

/// Which directory the one at `path` says it belongs to, if it says so. It need not be open: whoever it
/// does belong to may use it now.
///
/// # Errors
/// What the operating system says.
pub fn belongs_to(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read(path.join(MARK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => Ok(Mark::decode(&String::from_utf8_lossy(&bytes?)).map(|mark| mark.other)),
    }
}

/// Whether both directories say that they hold each other's copies, so that they may be read as one.
///
/// # Errors
/// What the operating system says.
pub fn are_paired(first: &dyn Disk, second: &dyn Disk) -> io::Result<bool> {
    let (mine, theirs) = (Mark::read(first)?, Mark::read(second)?);
    let is_known = |mark: &Mark| mark.phase == Phase::InUse;
    Ok(matches!((&mine, &theirs), (Some(mine), Some(theirs))
        if is_known(mine) && is_known(theirs) && mine.pair == theirs.pair))
}

/// Two directories as one that keeps two copies of each file. `places` say where they are; `seed`
/// names a new pair. Neither may be in use.
///
/// # Errors
/// [`PairError`]; what both directories held is still there.
pub fn pair(
    first: Arc<dyn Disk>,
    second: Arc<dyn Disk>,
    places: (&str, &str),
    seed: u64,
) -> Result<(TwinDisk, Pairing), PairError> {
    let (here, there) = (first.as_ref(), second.as_ref());
    let read = |disk, place: &str| {
        Mark::read(disk).map_err(failed(format!("read the mark {MARK} of {place}")))
    };
    let (mine, theirs) = (read(here, places.0)?, read(there, places.1)?);
    let look = |disk, place: &str| is_blank(disk).map_err(failed(format!("list {place}")));
    let (am_blank, is_other_blank) = (look(here, places.0)?, look(there, places.1)?);
    // A mark that is lost or damaged is known by what the other one says.
    let is_mine = match (&mine, &theirs) {
        (Some(mine), Some(theirs)) => mine.pair == theirs.pair,
        (Some(mine), None) => mine.other == places.1,
        (None, Some(theirs)) => theirs.other == places.0,
        (None, None) => false,
    };
    // An operator may copy a directory together with the one below it that holds its copies, or replace
    // the disk of either.
    let is_to_restore = match &mine {
        Some(mine) => {
            is_mine && (mine.phase == Phase::Restoring || (am_blank && mine.phase == Phase::InUse))
        }
        None => {
            am_blank && !is_other_blank && theirs.as_ref().is_some_and(|t| t.phase == Phase::InUse)
        }
    };
    if !is_other_blank && !is_mine && !is_to_restore {
        return Err(PairError::Foreign { place: places.1.to_owned() });
    }
    if am_blank && !is_other_blank && !is_to_restore {
        return Err(PairError::NoLog { place: places.1.to_owned() });
    }
    let known = if is_to_restore { &theirs } else { &mine };
    let number = known.as_ref().map_or(seed, |mark| mark.pair);
    let mark = |phase, other: &str| Mark { pair: number, phase, other: other.to_owned() };
    let note = |disk: &dyn Disk, phase, (place, other): (&str, &str)| {
        mark(phase, other).write(disk).map_err(failed(format!("write the mark {MARK} of {place}")))
    };
    let (of_first, of_second) = (places, (places.1, places.0));
    let is_in_use =
        |mark: &Option<Mark>| mark.as_ref().is_some_and(|mark| mark.phase == Phase::InUse);
    let done = if is_to_restore {
        tracing::warn!(
            data = places.0,
            copies = places.1,
            "the data directory is empty or incomplete and its copies are not; it is restored from them"
        );
        note(here, Phase::Restoring, of_first)?;
        Pairing::Restored(make(there, here).map_err(failed(format!("restore {}", places.0)))?)
    } else if is_mine && is_in_use(&mine) && is_in_use(&theirs) && !is_other_blank {
        return Ok((TwinDisk::new(first, second), Pairing::Known));
    } else {
        tracing::info!(data = places.0, copies = places.1, "copies of all files are being made");
        note(here, Phase::Making, of_first)?;
        note(there, Phase::Making, of_second)?;
        Pairing::Made(make(here, there).map_err(failed(format!("copy into {}", places.1)))?)
    };
    note(there, Phase::InUse, of_second)?;
    note(here, Phase::InUse, of_first)?;
    tracing::info!(data = places.0, copies = places.1, ?done, "every file has two copies");
    Ok((TwinDisk::new(first, second), done))
}

/// Notes that copies are no longer kept. Returns where they were, if they were kept until now.
///
/// # Errors
/// [`PairError`] if this directory is not complete without its copies, or the note cannot be written.
pub fn unpair(disk: &dyn Disk) -> Result<Option<String>, PairError> {
    let mark = Mark::read(disk).map_err(failed(format!("read the mark {MARK}")))?;
    match mark {
        Some(Mark { phase: Phase::Restoring, other, .. }) => {
            Err(PairError::Unfinished { place: other })
        }
        Some(mark) if mark.phase != Phase::Unused => {
            let unused = Mark { phase: Phase::Unused, ..mark.clone() };
            unused.write(disk).map_err(failed(format!("write the mark {MARK}")))?;
            Ok(Some(mark.other))
        }
        _ => Ok(None),
    }
}

/// Whether a directory holds no log.
fn is_blank(disk: &dyn Disk) -> io::Result<bool> {
    if disk.open(FORMAT).is_ok() {
        return Ok(false);
    }
    for dir in DIRS {
        if files(disk, dir)?.iter().any(|path| !is_filler(path)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The paths in a directory; one that is not there is empty.
fn files(disk: &dyn Disk, dir: &str) -> io::Result<Vec<String>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => Ok(names?.into_iter().map(|name| format!("{dir}/{name}")).collect()),
    }
}

/// Makes the log in `to` what it is in `from`, which nobody changes meanwhile. Returns the number of
/// files.
fn make(from: &dyn Disk, to: &dyn Disk) -> io::Result<u64> {
    for dir in DIRS {
        to.create_dir(dir)?;
        for path in files(to, dir)? {
            to.remove(&path)?;
        }
        to.sync_dir(dir)?;
    }
    let mut count = 0;
    for dir in DIRS {
        for path in files(from, dir)?.into_iter().filter(|path| !is_filler(path)) {
            replace(from, to, &path)?;
            count += 1;
        }
    }
    // Last: what has it is a log.
    match replace(from, to, FORMAT) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
        Ok(()) => count += 1,
    }
    to.sync_dir("")?;
    Ok(count)
}
