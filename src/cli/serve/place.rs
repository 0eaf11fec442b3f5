//! File systems that are no good place for a journal.

use std::path::Path;

/// What is questionable about the file system that `directory` is on, if anything is known to be.
/// Only Linux tells.
pub(super) fn questionable(directory: &Path) -> Option<&'static str> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let directory = std::fs::canonicalize(directory).ok()?;
    verdict(file_system(&mounts, &directory)?)
}

/// The type of the file system that holds `directory`: of the longest mount point above it, and of
/// those the last.
fn file_system<'a>(mounts: &'a str, directory: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, point, kind) = (words.next()?, words.next()?, words.next()?);
            // White space in mount points is written in octal.
            let point = point.replace("\\040", " ");
            directory.starts_with(&point).then_some((point.len(), kind))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
}

/// What is questionable about a type of file system.
fn verdict(kind: &str) -> Option<&'static str> {
    match kind {
        "tmpfs" | "ramfs" => Some("a file system in memory: everything is gone after a restart"),
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "fuse.sshfs" => {
            Some("a network file system: syncs are slow, and a lost connection stops the server")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_point_counts() {
        let mounts =
            "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nh:/x /tmp/my\\040net nfs4 rw 0 0\n";
        let kind = |path: &str| file_system(mounts, Path::new(path));
        assert_eq!(kind("/var/lib"), Some("ext4"));
        assert_eq!(kind("/tmp/data"), Some("tmpfs"));
        assert_eq!(kind("/tmpx"), Some("ext4"));
        assert_eq!(kind("/tmp/my net/data"), Some("nfs4"));
        assert!(verdict("ext4").is_none() && verdict("tmpfs").is_some());
    }
}
