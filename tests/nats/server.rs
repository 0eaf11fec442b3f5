//! The two servers, as processes: started, waited for, emptied, killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::connection::{Came, Connection};
use crate::script::HANDSHAKE;

/// How long a server may take to start, and for each answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at while it starts.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Real,
    Ours,
}

/// A running server. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: String,
    /// Where the real server keeps its streams.
    streams: Option<PathBuf>,
}

impl Server {
    /// Starts one that stores below `home`, and waits until it accepts connections.
    pub(crate) fn start(kind: Kind, home: &Path) -> Self {
        std::fs::create_dir_all(home).unwrap();
        match kind {
            Kind::Real => Self::start_real(home),
            Kind::Ours => Self::start_ours(home),
        }
    }

    fn start_real(home: &Path) -> Self {
        let mut command = Command::new(program());
        command.arg("-js").arg("-sd").arg(home.join("store"));
        let mut server = Self::start_program(command, home);
        server.streams = Some(home.join("store/jetstream/$G/streams"));
        server
    }

    /// Starts one whose streams are in this domain; ours in the place of the real one.
    pub(crate) fn start_in_domain(kind: Kind, home: &Path, domain: &str) -> Self {
        std::fs::create_dir_all(home).unwrap();
        let store = home.join("store");
        let text =
            format!("jetstream {{ domain: {domain}, store_dir: \"{}\" }}\n", store.display());
        std::fs::write(home.join("nats.conf"), text).unwrap();
        let mut command = match kind {
            Kind::Real => Command::new(program()),
            Kind::Ours => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_claudebus"));
                command.arg("nats-server");
                command
            }
        };
        command.arg("-c").arg(home.join("nats.conf"));
        Self::start_program(command, home)
    }

    /// Starts a program that takes the flags of the real one.
    fn start_program(mut command: Command, home: &Path) -> Self {
        command.args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"]).arg(home);
        let mut server = Self::spawn(command.arg("-l").arg(home.join("log")));
        // It says on which port it listens in a file that it writes when it is ready.
        server.address = server.wait_for(|| {
            let mut entries = std::fs::read_dir(home).ok()?.filter_map(Result::ok);
            let file = entries.find(|entry| entry.path().extension().is_some_and(|e| e == "ports"));
            let ports = read_json(&file?.path())?;
            let url = ports.pointer("/nats/0")?.as_str()?.to_owned();
            Some(url.trim_start_matches("nats://").to_owned())
        });
        server
    }

    fn start_ours(home: &Path) -> Self {
        let ready = home.join("ready.json");
        let mut server = Self::spawn(
            Command::new(env!("CARGO_BIN_EXE_claudebus"))
                .arg("serve")
                .arg("--data")
                .arg(home.join("data"))
                .args(["--quic", "127.0.0.1:0", "--http", "off", "--nats", "127.0.0.1:0"])
                .arg("--ready-file")
                .arg(&ready)
                // Clients of this machine must not take it for their server.
                .env("CLAUDEBUS_CONTEXT", home.join("context")),
        );
        server.address =
            server.wait_for(|| Some(read_json(&ready)?.get("nats")?.as_str()?.to_owned()));
        server
    }

    fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, address: String::new(), streams: None }
    }

    fn wait_for(&mut self, mut look: impl FnMut() -> Option<String>) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended while it started: {ended:?}");
            assert!(Instant::now() < end, "the server is not ready after {PATIENCE:?}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Where it listens for clients of NATS, `127.0.0.1:<port>`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Deletes all streams, so that the next row finds nothing. `after` is the row that left them.
    pub(crate) fn clean(&self, after: &str) {
        let mut connection = Connection::open(&self.address);
        connection.send(format!("{HANDSHAKE}SUB _INBOX.clean 1\r\n").as_bytes());
        loop {
            let names = ask(&mut connection, "$JS.API.STREAM.NAMES", after);
            let names = names.get("streams").and_then(Value::as_array).cloned();
            let names = names.unwrap_or_default();
            if names.is_empty() {
                break;
            }
            for name in names {
                let subject = format!("$JS.API.STREAM.DELETE.{}", name.as_str().unwrap());
                let answer = ask(&mut connection, &subject, after);
                assert!(answer.get("error").is_none(), "after {after:?}: {subject}: {answer}");
            }
        }
        self.wait_until_deleted(after);
    }

    /// The real server deletes the files of a stream after it has answered; one of the same name that
    /// is created meanwhile finds the messages of the old one.
    fn wait_until_deleted(&self, after: &str) {
        let Some(streams) = &self.streams else { return };
        let end = Instant::now() + PATIENCE;
        while std::fs::read_dir(streams).is_ok_and(|mut entries| entries.next().is_some()) {
            assert!(Instant::now() < end, "after {after:?}: {} is not empty", streams.display());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request without a body, and its answer.
fn ask(connection: &mut Connection, subject: &str, after: &str) -> Value {
    connection.send(format!("PUB {subject} _INBOX.clean 0\r\n\r\n").as_bytes());
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connection.next(deadline) {
            Came::Operation(operation) if operation.subscription().is_some() => {
                return serde_json::from_slice(&operation.payload)
                    .unwrap_or_else(|_| panic!("after {after:?}: {subject} got {operation:?}"));
            }
            Came::Operation(_) => {}
            Came::End => panic!("after {after:?}: the server closed at {subject}"),
            Came::Nothing => panic!("after {after:?}: no answer to {subject}"),
        }
    }
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The real server's program.
fn program() -> PathBuf {
    let python = std::env::var_os("CLAUDEBUS_TEST_PYTHON").map(PathBuf::from);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let beside = |python: PathBuf| python.with_file_name("nats-server");
    let there = python.into_iter().chain([own]).map(beside).find(|path| path.exists());
    there.unwrap_or_else(|| PathBuf::from("nats-server"))
}
