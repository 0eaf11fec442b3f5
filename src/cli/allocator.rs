//! How the C library's allocator is set up for a server, which runs for months beside others
//! (`docs/decisions/0010`).
//!
//! glibc reads this from the environment when a program starts, and never again; so a server that was
//! started without it starts itself once more, as the same process. Where it cannot be told for certain how it was
//! started, and with other C libraries, nothing happens.

/// Starts the program anew with what a server needs in its environment, if it has to. To be called
/// before there are threads, and before anything is read or written.
///
/// Returns whether that was tried and failed. The server makes do with the defaults then, and is to call
/// [`outlive_broken_pipes`].
#[must_use]
pub(super) fn set_up() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    let failed = glibc::set_up();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let failed = false;
    failed
}

/// Lets the process live on when it writes to a pipe or a socket that nobody reads, as Rust's programs do;
/// an attempt to start another program takes that away from them. To be called within a runtime.
///
/// # Errors
/// The system refuses it.
pub(super) fn outlive_broken_pipes() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // What catches the signal stays when its stream is dropped.
        drop(signal(SignalKind::pipe())?);
    }
    Ok(())
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::OsStr;
    use std::os::unix::process::CommandExt as _;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// What is set, unless the environment says anything about the allocator already.
    ///
    /// - `MALLOC_ARENA_MAX`: heaps that threads share. By default there are up to eight for each processor,
    ///   and each keeps what it held at its busiest.
    /// - `MALLOC_MMAP_THRESHOLD_`, in bytes: larger pieces are had from the system, and go back to it when
    ///   they are freed. By default the limit rises to the size of what was freed last, up to 32 MiB.
    const SETTINGS: [(&str, &str); 2] =
        [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "262144")];

    /// Tells the program that it was started anew. The settings do not: a loader takes them out of the
    /// environment of a program that has more rights than who started it.
    const STARTED_ANEW: &str = "_CLAUDEBUS_STARTED_ANEW";

    pub(super) fn set_up() -> bool {
        let is_set =
            |name: &OsStr| name == STARTED_ANEW || name.as_encoded_bytes().starts_with(b"MALLOC_");
        let tunables = std::env::var_os("GLIBC_TUNABLES").unwrap_or_default();
        if std::env::vars_os().any(|(name, _)| is_set(&name))
            || tunables.to_string_lossy().contains("glibc.malloc.")
        {
            return false;
        }
        let mut arguments = std::env::args_os();
        let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) else {
            return false;
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let Some(called) = as_called(&name, &path, &program) else { return false };
        // It returns only if it fails.
        let _ = Command::new(called)
            .arg0(name)
            .args(arguments)
            .envs(SETTINGS)
            .env(STARTED_ANEW, "1")
            .exec();
        true
    }

    /// The path by which `program` was called, so that the process keeps the name that it has in lists of
    /// processes. `None` if it was called in another way: by a loader, or under another name.
    fn as_called(name: &OsStr, path: &OsStr, program: &Path) -> Option<PathBuf> {
        let called = if name.as_encoded_bytes().contains(&b'/') {
            PathBuf::from(name)
        } else {
            // An empty part of it stands for the working directory.
            let mut places =
                std::env::split_paths(path).map(|part| Path::new(".").join(part).join(name));
            places.find(|place| place.is_file())?
        };
        (called.canonicalize().ok()? == program).then_some(called)
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;

        #[test]
        fn a_program_is_started_anew_only_by_a_path_that_leads_to_it() {
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().canonicalize().unwrap().join("claudebus");
            let link = folder.path().join("nats-server");
            std::fs::write(&program, "").unwrap();
            std::os::unix::fs::symlink(&program, &link).unwrap();
            std::fs::write(folder.path().join("other"), "").unwrap();
            let nowhere = Path::new("/nowhere");
            let called = |name: &OsStr, path: &Path| as_called(name, path.as_os_str(), &program);
            assert_eq!(called("nats-server".as_ref(), folder.path()), Some(link.clone()));
            assert_eq!(called("nats-server".as_ref(), nowhere), None);
            assert_eq!(called("nats-server".as_ref(), Path::new("")), None);
            assert_eq!(called("other".as_ref(), folder.path()), None);
            assert_eq!(called(link.as_os_str(), nowhere), Some(link.clone()));
            assert_eq!(called("/nowhere/nats-server".as_ref(), folder.path()), None);
            std::fs::remove_file(&program).unwrap();
            assert_eq!(called(link.as_os_str(), nowhere), None);
        }
    }
}
