//! The mark of a clean close: a list of the index's files with their lengths and digests.
//!
//! sled opens files that were damaged while it was closed without a word, and then lacks entries; so
//! its files are compared with the mark before it sees them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3Default;

const NAME: &str = "CLEAN";
const FIRST_LINE: &str = "claudebus index 1\n";

/// Makes sled's files under `directory` durable, then the mark that vouches for them.
pub(super) fn write(directory: &Path) -> io::Result<()> {
    let files = files(&directory.join("sled"))?;
    for path in &files {
        File::open(path)?.sync_all()?;
    }
    let mark = directory.join(NAME);
    fs::write(&mark, describe(directory, &files)?)?;
    File::open(&mark)?.sync_all()?;
    sync_directory(directory)
}

/// Removes the mark, durably, and returns whether the files are what it vouched for.
pub(super) fn take(directory: &Path) -> io::Result<bool> {
    let mark = directory.join(NAME);
    let expected = match fs::read(&mark) {
        Ok(expected) => expected,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let real = files(&directory.join("sled")).and_then(|files| describe(directory, &files));
    fs::remove_file(&mark)?;
    sync_directory(directory)?;
    // What cannot be read is not what it was.
    Ok(real.is_ok_and(|real| real.as_bytes() == expected))
}

/// Whether the files are what the mark says, changing nothing. Without a mark nothing is claimed.
pub(super) fn is_true(directory: &Path) -> io::Result<bool> {
    let expected = match fs::read(directory.join(NAME)) {
        Ok(expected) => expected,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let real = files(&directory.join("sled")).and_then(|files| describe(directory, &files));
    Ok(real.is_ok_and(|real| real.as_bytes() == expected))
}

/// One line for each file: its path, length, digest.
fn describe(directory: &Path, files: &[PathBuf]) -> io::Result<String> {
    let mut text = FIRST_LINE.to_owned();
    for path in files {
        let mut file = File::open(path)?;
        let mut digest = Xxh3Default::new();
        let mut buffer = vec![0; 1024 * 1024];
        let mut length = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            digest.update(buffer.get(..count).unwrap_or_default());
            length += count;
        }
        let name = path.strip_prefix(directory).unwrap_or(path).display();
        text.push_str(&format!("{name} {length} {:016x}\n", digest.digest()));
    }
    Ok(text)
}

/// All files below `directory`, sorted.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Elsewhere a directory cannot be synced; a mark that reappears after a power failure vouches for
/// files that have changed, which is noticed.
#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("sled/blobs")).unwrap();
        fs::write(directory.path().join("sled/db"), [7; 3000]).unwrap();
        fs::write(directory.path().join("sled/blobs/1"), [8; 10]).unwrap();
        write(directory.path()).unwrap();
        directory
    }

    #[test]
    fn it_is_good_once() {
        let directory = sample();
        assert!(take(directory.path()).unwrap());
        assert!(!take(directory.path()).unwrap(), "what happens from now on is not vouched for");
    }

    #[test]
    fn any_change_of_the_files_is_noticed() {
        let changes: [fn(&Path); 4] = [
            |sled| fs::write(sled.join("db"), [[7; 2999].as_slice(), &[6]].concat()).unwrap(),
            |sled| fs::write(sled.join("db"), [7; 2999]).unwrap(),
            |sled| fs::write(sled.join("snap.1.generating"), []).unwrap(),
            |sled| fs::remove_file(sled.join("blobs/1")).unwrap(),
        ];
        for change in changes {
            let directory = sample();
            change(&directory.path().join("sled"));
            assert!(!take(directory.path()).unwrap());
        }
    }
}
