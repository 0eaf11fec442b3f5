//! `--signal`: tells a running server to stop, or to open its log again.

/// What can be sent, as nats-server names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Stop,
    Quit,
    Terminate,
    Reopen,
    Reload,
    LameDuck,
}

impl Command {
    fn parse(word: &str) -> Result<Self, String> {
        match word {
            "stop" => Ok(Self::Stop),
            "quit" => Ok(Self::Quit),
            "term" => Ok(Self::Terminate),
            "reopen" => Ok(Self::Reopen),
            "reload" => Ok(Self::Reload),
            "ldm" => Ok(Self::LameDuck),
            _ => Err(format!("unknown signal \"{word}\"")),
        }
    }
}

/// Sends what `text` says: `<signal>=<pid>`, `<signal>=<file with a pid>`, or `<signal>` alone to the only server
/// of this machine.
///
/// # Errors
/// What is wrong, or what the operating system says.
pub(super) fn send(text: &str) -> Result<(), String> {
    let (word, target) = match text.split_once('=') {
        Some((word, target)) => (word, Some(target).filter(|target| !target.is_empty())),
        None => (text, None),
    };
    let command = Command::parse(word)?;
    let pid = match target {
        Some(target) => process(target)?,
        None => only_server()?,
    };
    deliver(command, pid).map_err(|error| format!("signal \"{word}\" {pid}: {error}"))
}

/// The process that `target` names: by its id, or by a file that holds it.
fn process(target: &str) -> Result<i32, String> {
    let text = if target.bytes().all(|byte| byte.is_ascii_digit()) {
        target.to_owned()
    } else {
        std::fs::read_to_string(target)
            .map_err(|error| format!("invalid pid: {target}: {error}"))?
    };
    // 0 and negative numbers stand for groups of processes.
    text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(|| format!("invalid pid: {target}"))
}

/// The only other process of this machine that is such a server.
#[cfg(target_os = "linux")]
fn only_server() -> Result<i32, String> {
    let own = std::process::id().to_string();
    let entries =
        std::fs::read_dir("/proc").map_err(|error| format!("cannot list processes: {error}"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found: Vec<i32> = names
        .filter(|name| *name != own)
        .filter_map(|name| {
            let pid = name.parse().ok()?;
            is_server(&std::fs::read(format!("/proc/{name}/cmdline")).ok()?).then_some(pid)
        })
        .collect();
    match found.as_slice() {
        [] => Err("no nats-server processes running".to_owned()),
        [pid] => Ok(*pid),
        several => Err(format!(
            "multiple nats-server processes running: {several:?}; name one, as in stop=PID"
        )),
    }
}

#[cfg(not(target_os = "linux"))]
fn only_server() -> Result<i32, String> {
    Err("which server? name its process or its pid file, as in stop=PID".to_owned())
}

/// Whether a command line, with zero bytes between its arguments, is that of a server.
#[cfg(target_os = "linux")]
fn is_server(command_line: &[u8]) -> bool {
    let mut arguments = command_line.split(|byte| *byte == 0);
    let program = arguments.next().and_then(|path| path.rsplit(|byte| *byte == b'/').next());
    let name = super::files::PROGRAM.as_bytes();
    program == Some(name)
        || (program == Some(b"claudebus".as_slice()) && arguments.next() == Some(name))
}

#[cfg(unix)]
fn deliver(command: Command, pid: i32) -> std::io::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match command {
        Command::Stop => Signal::KILL,
        Command::Quit => Signal::INT,
        Command::Terminate => Signal::TERM,
        Command::Reopen => Signal::USR1,
        Command::Reload => Signal::HUP,
        Command::LameDuck => Signal::USR2,
    };
    let pid = Pid::from_raw(pid).ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, signal)?)
}

#[cfg(not(unix))]
fn deliver(_: Command, _: i32) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_named_by_id_or_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        std::fs::write(&path, "123\n").unwrap();
        assert_eq!(process("7"), Ok(7));
        assert_eq!(process(path.to_str().unwrap()), Ok(123));
        std::fs::write(&path, "-1").unwrap();
        for wrong in ["0", "-1", "99999999999", "/nowhere/pid", path.to_str().unwrap()] {
            assert!(process(wrong).unwrap_err().starts_with("invalid pid: "), "{wrong}");
        }
        assert_eq!(send("bogus=1"), Err("unknown signal \"bogus\"".to_owned()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn servers_are_known_by_their_command_line() {
        for yes in
            ["nats-server\0-js\0", "/usr/bin/nats-server\0", "/x/claudebus\0nats-server\0-p\0"]
        {
            assert!(is_server(yes.as_bytes()), "{yes:?}");
        }
        for no in
            ["", "claudebus\0serve\0", "vi\0nats-server\0", "nats-server2\0", "\0nats-server\0"]
        {
            assert!(!is_server(no.as_bytes()), "{no:?}");
        }
    }
}
