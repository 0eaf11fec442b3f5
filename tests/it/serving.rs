//! A server of the real binary, for the tests of this folder.

use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;

use super::cli::claudebus;

/// Longest wait for a server to start or stop, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A server of the real binary, on free ports, with everything of its own in one folder.
pub(crate) struct Serving {
    pub(crate) home: tempfile::TempDir,
    pub(crate) child: Option<Child>,
}

impl Serving {
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut serving = Self { home: tempfile::tempdir().unwrap(), child: None };
        serving.begin(arguments, environment);
        serving.until_ready();
        serving
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Starts the process and does not wait for it.
    pub(crate) fn begin(&mut self, arguments: &[&str], environment: &[(&str, &str)]) {
        let _ = std::fs::remove_file(self.path("ready.json"));
        let talk = std::fs::File::create(self.path("stderr")).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_claudebus"));
        command
            .args(["serve", "--quic", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--nats", "127.0.0.1:0", "--data"])
            .arg(self.path("data"))
            .arg("--ready-file")
            .arg(self.path("ready.json"))
            .args(arguments)
            .env("CLAUDEBUS_CONTEXT", self.path("context.json"))
            .env("XDG_CONFIG_HOME", self.home.path())
            .envs(environment.iter().copied())
            .stderr(talk);
        self.child = Some(command.spawn().unwrap());
    }

    pub(crate) fn talk(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap()
    }

    pub(crate) fn until_ready(&mut self) {
        until("the server is ready", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}: {}", self.talk());
            }
            self.path("ready.json").exists()
        });
    }

    /// Runs a command against this server.
    pub(crate) fn run(&self, arguments: &[&str]) -> Command {
        let mut command = claudebus(self.home.path());
        command.args(arguments);
        command
    }

    /// What a command that succeeds prints.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}\nserver: {}",
            String::from_utf8_lossy(&output.stderr),
            self.talk()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one JSON value that a command prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The exit code and the talk of a command that fails.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let status = std::process::Command::new("kill").args([name, &id]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end; its exit code, or none if a signal ended it.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        until("the server has ended", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// Whether each thread stands still. A signal is only on its way when `kill` has returned, and
    /// a thread it has not reached yet could still answer.
    pub(crate) fn is_stopped(&self) -> bool {
        let pid = self.child.as_ref().unwrap().id();
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        })
    }

    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.ended()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a program to end. Ends it, and tells of no status, if that takes longer than `limit`.
pub(crate) fn end_of(program: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        if let Some(status) = program.try_wait().unwrap() {
            return Some(status);
        }
        if begin.elapsed() > limit {
            program.kill().unwrap();
            program.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
