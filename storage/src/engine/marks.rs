//! The files that mark a data directory: which version of the layout it has, and whether the last stop
//! was clean.

use std::io;

use super::report::OpenError;
use crate::disk::Disk;
use crate::journal::format::MAJOR;

/// Says that the last stop was clean.
const CLEAN: &str = "CLEAN";
/// Says which version of the layout the directory has.
const FORMAT: &str = "FORMAT";
/// The whole of that file, up to the version.
const FORMAT_TEXT: &str = "claudebus data directory, format ";

/// Notes that everything is checkpointed and the journal need not be looked at.
pub(super) fn mark_clean(disk: &dyn Disk) -> io::Result<()> {
    let file = disk.create(CLEAN)?;
    file.write_at(b"stopped cleanly\n", 0)?;
    file.sync()?;
    disk.sync_dir("")
}

/// Removes the mark durably, before anything is written. Returns whether it was there.
pub(super) fn take_clean_mark(disk: &dyn Disk) -> io::Result<bool> {
    match disk.remove(CLEAN) {
        Ok(()) => disk.sync_dir("").map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a directory of a newer version before anything in it is changed; names a new one. Of two
/// copies, one that says what this version writes is right.
pub(super) fn check_format(disk: &dyn Disk) -> Result<(), OpenError> {
    mend_format(disk).map_err(OpenError::io("write the format file"))?;
    let bytes = match read_format(disk) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(OpenError::io("read the format file")(source)),
    };
    match format_version(&bytes) {
        Some(found) if found > MAJOR => {
            Err(OpenError::Newer { file: FORMAT.to_owned(), found, known: MAJOR })
        }
        Some(_) => Ok(()),
        // New, or begun by a process that lost power before it wrote anything else.
        None => write_format(disk).map_err(OpenError::io("write the format file")),
    }
}

/// Which format a format file names.
fn format_version(bytes: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.strip_prefix(FORMAT_TEXT).and_then(|rest| rest.trim().parse().ok())
}

/// Whether a format file names a version that this one knows nothing of.
pub(crate) fn is_newer_format(bytes: &[u8]) -> bool {
    format_version(bytes).is_some_and(|found| found > MAJOR)
}

/// If one copy of the format file says what this version writes, so do all. Returns how many did not.
/// A later version writes all of them before it writes anything else of its own, so one alone that
/// names it is damaged, or nothing was changed yet.
pub(crate) fn mend_format(disk: &dyn Disk) -> io::Result<u64> {
    let copies = disk.copies().iter();
    let (right, wrong): (Vec<_>, Vec<_>) = copies.partition(|copy| has_format(copy.as_ref()));
    if right.is_empty() {
        return Ok(0);
    }
    for copy in &wrong {
        write_format(copy.as_ref())?;
    }
    Ok(wrong.len() as u64)
}

fn has_format(disk: &dyn Disk) -> bool {
    read_format(disk).is_ok_and(|bytes| is_format_file(&bytes))
}

/// The beginning of the format file, which is all of one that is as it should be.
fn read_format(disk: &dyn Disk) -> io::Result<Vec<u8>> {
    let file = disk.open(FORMAT)?;
    let mut bytes = vec![0; file.len()?.min(256) as usize];
    file.read_at(&mut bytes, 0).map(|()| bytes)
}

/// Whether a format file says what this version writes.
pub(crate) fn is_format_file(bytes: &[u8]) -> bool {
    bytes == format!("{FORMAT_TEXT}{MAJOR}\n").as_bytes()
}

fn write_format(disk: &dyn Disk) -> io::Result<()> {
    let file = match disk.create(FORMAT) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(FORMAT)?,
        result => result?,
    };
    let text = format!("{FORMAT_TEXT}{MAJOR}\n");
    file.write_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)?;
    file.sync()?;
    disk.sync_dir("")
}
