//! Setting damage aside: copies of damaged bytes, with a note, and files that a start does without.
//!
//! Nothing is deleted and nothing that counts is changed: what a start would miss is copied, and
//! only what it sets aside or builds again by itself is moved.

use std::collections::BTreeSet;
use std::io;

use super::files::read_all;
use super::{Finding, Harm};
use crate::disk::Disk;
use crate::engine::{LOST, is_newer_format, set_aside};
use crate::{index, manifest};

/// The most that one finding has copied, in bytes: a block and more, and no endless file.
const COPY_LIMIT: u64 = 256 << 20;

/// Something that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it was.
    pub from: String,
    /// Where it, or its copy, is.
    pub to: String,
    /// Whether it is no longer where it was.
    pub moved: bool,
}

/// Why something could not be set aside.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {file} aside in lost+found: {source}; nothing of it was changed")]
pub struct QuarantineError {
    /// The file.
    pub file: String,
    /// What the operating system said.
    pub source: io::Error,
}

/// Sets aside what `findings` name. `starts` says that the log could be opened as it is, so that
/// what it did without may be moved. Doing it again changes nothing.
///
/// # Errors
/// [`QuarantineError`] at the first file that cannot be copied or moved.
pub fn quarantine(
    disk: &dyn Disk,
    findings: &[Finding],
    starts: bool,
) -> Result<Vec<Quarantined>, QuarantineError> {
    let mut done = Vec::new();
    let mut moved = BTreeSet::new();
    for finding in findings {
        let failed = |source| QuarantineError { file: finding.file.clone(), source };
        // What has a whole copy is made again, and needs no keeping; copies that are not there have nothing to keep.
        let is_kept = finding.file == "." || matches!(finding.harm, Harm::Copy | Harm::Copies);
        if is_kept || moved.contains(&finding.file) {
            continue;
        }
        disk.create_dir(LOST).map_err(failed)?;
        let is_dispensable = is_dispensable(disk, finding, starts);
        let to = if is_dispensable {
            moved.insert(finding.file.clone());
            set_aside(disk, &finding.file).map_err(failed)?
        } else {
            let to = format!("{LOST}/{}", copy_of(finding));
            if !copy(disk, finding, &to).map_err(failed)? {
                continue;
            }
            to
        };
        note(disk, &format!("{to}.txt"), finding).map_err(failed)?;
        done.push(Quarantined { from: finding.file.clone(), to, moved: is_dispensable });
    }
    Ok(done)
}

/// Whether a start does without the file: it sets it aside or writes it anew by itself.
fn is_dispensable(disk: &dyn Disk, finding: &Finding, starts: bool) -> bool {
    let file = finding.file.as_str();
    let in_dir = |dir: &str| file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    if file == index::DIR {
        return true;
    }
    if file == "FORMAT" {
        // What a later version wrote keeps this one away.
        return starts && read_all(disk, file).is_ok_and(|bytes| !is_newer_format(&bytes));
    }
    // A manifest that was got over. A journal file of which nothing can be read may still count for what it cost.
    starts
        && finding.bytes.is_none()
        && finding.groups.is_none()
        && in_dir(manifest::DIR)
        && disk.open(file).is_ok()
}

/// What its copied bytes are called.
fn copy_of(finding: &Finding) -> String {
    let name = finding.file.replace('/', "-");
    match finding.bytes {
        Some((start, end)) => format!("{name}-{start}-{end}"),
        None => name,
    }
}

/// Copies the damaged bytes, or the file if they are not known. False if that was done before, or
/// there is nothing to copy.
fn copy(disk: &dyn Disk, finding: &Finding, to: &str) -> io::Result<bool> {
    let file = match disk.open(&finding.file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    let (start, end) = match finding.bytes {
        Some((start, end)) if start < end => (start, end.min(len)),
        _ => (0, len),
    };
    let mut bytes = vec![0; end.saturating_sub(start).min(COPY_LIMIT) as usize];
    file.read_at(&mut bytes, start)?;
    write(disk, to, &bytes)
}

fn note(disk: &dyn Disk, path: &str, finding: &Finding) -> io::Result<()> {
    let text = format!("{finding}\n{}\n", finding.harm.meaning());
    write(disk, path, text.as_bytes()).map(|_| ())
}

/// Writes a new file durably. False if there is one already.
fn write(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<bool> {
    let file = match disk.create(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    };
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.sync_dir(LOST)?;
    Ok(true)
}
