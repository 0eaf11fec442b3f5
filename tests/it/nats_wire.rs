//! A NATS client of bare lines, and the servers it talks to: this one, and nats-server where there is one,
//! of which the same is asked.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::python::interpreter;
use crate::serving::{Serving, until};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What two-way connections have in common.
pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    seen: Vec<u8>,
    pub(crate) info: Value,
}

impl Wire {
    /// Connects, and reads INFO.
    pub(crate) fn open(address: &str) -> Self {
        let mut wire = Self::before_info(address);
        wire.read_info();
        wire
    }

    /// Connects to a server that does not speak first.
    pub(crate) fn before_info(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self { stream: Box::new(stream), seen: Vec::new(), info: Value::Null }
    }

    /// The same connection, secured. Fails where the server does not accept the certificate, which it may
    /// say only later.
    pub(crate) fn secure(self, config: Arc<rustls::ClientConfig>) -> Self {
        let name = "localhost".try_into().unwrap();
        let client = rustls::ClientConnection::new(config, name).unwrap();
        let stream = Box::new(rustls::StreamOwned::new(client, self.stream));
        Self { stream, ..self }
    }

    pub(crate) fn read_info(&mut self) {
        let line = self.until("\r\n");
        let json = line.strip_prefix("INFO ").unwrap_or_else(|| panic!("no INFO: {line}"));
        self.info = serde_json::from_str(json.trim()).unwrap();
    }

    pub(crate) fn send(&mut self, text: &str) {
        // A server that has closed shows when it is read from.
        let _ = self.stream.write_all(text.as_bytes()).and_then(|()| self.stream.flush());
    }

    /// All up to the first `end`, which is included; all there is if the server closes.
    pub(crate) fn until(&mut self, end: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let found = self.seen.windows(end.len()).position(|part| part == end.as_bytes());
            if let Some(at) = found {
                let rest = self.seen.split_off(at + end.len());
                return text(std::mem::replace(&mut self.seen, rest));
            }
            let mut bytes = [0; 4096];
            assert!(Instant::now() < deadline, "no {end:?}: {}", text(self.seen.clone()));
            match self.stream.read(&mut bytes) {
                Ok(count) if count > 0 => self.seen.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("no {end:?}: {}", text(self.seen.clone()))
                }
                _ => return text(std::mem::take(&mut self.seen)) + "<closed>",
            }
        }
    }

    /// All bytes until the server closes.
    pub(crate) fn rest(&mut self, bytes: &mut Vec<u8>) {
        bytes.append(&mut self.seen);
        // However it closes.
        let _ = self.stream.read_to_end(bytes);
    }

    /// What the server says to this before it answers a PING that follows.
    pub(crate) fn ask(&mut self, words: &str) -> String {
        self.send(&format!("{words}PING\r\n"));
        let mut said = String::new();
        loop {
            let line = self.until("\r\n");
            match line.as_str() {
                "PONG\r\n" => return said,
                // It may ask too.
                "PING\r\n" => self.send("PONG\r\n"),
                _ => said += &line,
            }
            if said.ends_with("<closed>") {
                return said;
            }
        }
    }

    /// Logs in with these options. What the server says but for PONG.
    pub(crate) fn connect(&mut self, options: &Value) -> String {
        let mut all = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "protocol": 0,
        });
        all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.ask(&format!("CONNECT {all}\r\n"))
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// PUB of a message, maybe with a reply subject.
pub(crate) fn publish(subject: &str, reply: &str, payload: &str) -> String {
    let space = if reply.is_empty() { "" } else { " " };
    format!("PUB {subject} {reply}{space}{}\r\n{payload}\r\n", payload.len())
}

/// A server with a configuration.
pub(crate) enum Server {
    Ours(Serving),
    Real { name: &'static str, child: Child, ports: Value, _home: tempfile::TempDir },
}

impl Server {
    /// This server.
    pub(crate) fn ours(yaml: &str) -> Self {
        Self::ours_with(yaml, &[])
    }

    pub(crate) fn ours_with(yaml: &str, arguments: &[&str]) -> Self {
        let mut serving = Serving { home: tempfile::tempdir().unwrap(), child: None };
        let file = serving.path("config.yaml");
        std::fs::write(&file, yaml).unwrap();
        let arguments = [&["--config", file.to_str().unwrap()], arguments].concat();
        serving.begin(&arguments, &[]);
        serving.until_ready();
        Self::Ours(serving)
    }

    /// nats-server with JetStream; none where it is not installed, which is no excuse where everything
    /// has been set up.
    pub(crate) fn real(configuration: &str) -> Option<Self> {
        let beside = interpreter().map(|python| python.with_file_name("nats-server"));
        let program = beside.filter(|path| path.exists()).unwrap_or("nats-server".into());
        let server = Self::of_file("nats-server", &program, &[], configuration);
        if server.is_none() {
            assert_ne!(std::env::var("CI").ok().as_deref(), Some("true"), "no nats-server");
            eprintln!("skipped: there is no nats-server; tests/all.sh sets it up");
        }
        server
    }

    /// This program in the place of nats-server, and nats-server where there is one.
    pub(crate) fn both_of_file(configuration: &str) -> Vec<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_claudebus"));
        let ours = Self::of_file("claudebus nats-server", program, &["nats-server"], configuration);
        std::iter::once(ours.unwrap()).chain(Self::real(configuration)).collect()
    }

    /// A program that takes nats-server's flags, if it can be started.
    fn of_file(
        name: &'static str,
        program: &Path,
        first: &[&str],
        configuration: &str,
    ) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let mut child = start(program, first, home.path(), configuration)?;
        let mut ports = Value::Null;
        until("it listens", || {
            assert!(child.try_wait().unwrap().is_none(), "{name} has ended: {configuration}");
            let Some(found) = listens(home.path()) else { return false };
            ports = found;
            true
        });
        Some(Self::Real { name, child, ports, _home: home })
    }

    /// Both, as far as there are two.
    pub(crate) fn both(yaml: &str, configuration: &str) -> Vec<Self> {
        std::iter::once(Self::ours(yaml)).chain(Self::real(configuration)).collect()
    }

    pub(crate) fn address(&self) -> String {
        match self {
            Self::Ours(serving) => {
                let ready = std::fs::read(serving.path("ready.json")).unwrap();
                let ready: Value = serde_json::from_slice(&ready).unwrap();
                ready["nats"].as_str().unwrap().to_owned()
            }
            Self::Real { ports, .. } => {
                first_of(ports, "nats").or_else(|| first_of(ports, "tls")).unwrap()
            }
        }
    }

    /// Where web pages connect.
    pub(crate) fn websocket_url(&self) -> String {
        match self {
            Self::Ours(serving) => {
                let ready = std::fs::read(serving.path("ready.json")).unwrap();
                let ready: Value = serde_json::from_slice(&ready).unwrap();
                format!("ws://{}/nats", ready["http"].as_str().unwrap())
            }
            Self::Real { ports, .. } => format!("ws://{}", first_of(ports, "websocket").unwrap()),
        }
    }

    /// Where it listens for WebSocket, if it was started from a file that says so.
    pub(crate) fn websocket(&self) -> Option<String> {
        match self {
            Self::Ours(_) => None,
            Self::Real { ports, .. } => first_of(ports, "websocket"),
        }
    }

    /// Where it listens for HTTP, likewise.
    pub(crate) fn monitor(&self) -> Option<String> {
        match self {
            Self::Ours(_) => None,
            Self::Real { ports, .. } => first_of(ports, "monitoring"),
        }
    }

    /// What it says of itself in errors of tests.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "claudebus",
            Self::Real { name, .. } => name,
        }
    }

    /// A client that is logged in.
    pub(crate) fn client(&self, options: &Value) -> Wire {
        let mut wire = Wire::open(&self.address());
        assert_eq!(wire.connect(options), "", "{} {options}", self.name());
        wire
    }
}

fn start(program: &Path, first: &[&str], home: &Path, configuration: &str) -> Option<Child> {
    let file: PathBuf = home.join("nats.conf");
    std::fs::write(&file, configuration).unwrap();
    Command::new(program)
        .args(first)
        .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-c"])
        .arg(file)
        .arg("-sd")
        .arg(home.join("store"))
        .arg("--ports_file_dir")
        .arg(home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

/// Where a server listens, from the file that it writes when it is ready.
fn listens(home: &Path) -> Option<Value> {
    let mut entries = std::fs::read_dir(home).ok()?.filter_map(Result::ok);
    let file = entries.find(|entry| entry.path().extension().is_some_and(|e| e == "ports"))?;
    serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()
}

/// The first address of a kind, without what stands before it in a URL.
fn first_of(ports: &Value, kind: &str) -> Option<String> {
    Some(ports[kind][0].as_str()?.rsplit_once('/')?.1.to_owned())
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Real { child, .. } = self {
            // It may be over already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
