//! How the C library's allocator is set up for a server, which runs for months beside others
//! (`docs/decisions/0010`).
//!
//! glibc reads this from the environment when a program starts, and never again; so a server that was
//! started without it starts itself once more, as the same process. Where that fails, and with other
//! C libraries, nothing happens.

/// Starts the program anew with what a server needs in its environment, if it has to. To be called
/// before there are threads, open files or output.
pub(super) fn set_up() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::set_up();
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

    pub(super) fn set_up() {
        let says_something = |name: &OsStr| {
            let name = name.to_string_lossy();
            name.starts_with("MALLOC_") || name == "GLIBC_TUNABLES"
        };
        if std::env::vars_os().any(|(name, _)| says_something(&name)) {
            return;
        }
        let mut arguments = std::env::args_os();
        if let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let program = as_called(&name, &path, program);
            // It returns only if it fails; then the server makes do with the defaults.
            let _ = Command::new(program).arg0(name).args(arguments).envs(SETTINGS).exec();
        }
    }

    /// The path by which `program` was called, so that the process keeps the name that it has in lists of
    /// processes; the program's own path if that cannot be told.
    fn as_called(name: &OsStr, path: &OsStr, program: PathBuf) -> PathBuf {
        let called = match Path::new(name).components().count() {
            1 => std::env::split_paths(path).map(|folder| folder.join(name)).find(|p| p.is_file()),
            _ => Some(PathBuf::from(name)),
        };
        let is_it = |called: &PathBuf| called.canonicalize().is_ok_and(|found| found == program);
        called.filter(is_it).unwrap_or(program)
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;

        #[test]
        fn a_program_is_called_by_its_name_only_where_that_is_the_same_program() {
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().canonicalize().unwrap().join("claudebus");
            let link = folder.path().join("nats-server");
            std::fs::write(&program, "").unwrap();
            std::os::unix::fs::symlink(&program, &link).unwrap();
            std::fs::write(folder.path().join("other"), "").unwrap();
            let called =
                |name: &OsStr, path: &Path| as_called(name, path.as_os_str(), program.clone());
            assert_eq!(called("nats-server".as_ref(), folder.path()), link);
            assert_eq!(called("nats-server".as_ref(), Path::new("/nowhere")), program);
            assert_eq!(called("other".as_ref(), folder.path()), program);
            assert_eq!(called(link.as_os_str(), Path::new("/nowhere")), link);
            assert_eq!(called("/nowhere/nats-server".as_ref(), folder.path()), program);
        }
    }
}
