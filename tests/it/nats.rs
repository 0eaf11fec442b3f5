//! nats-py, which knows nothing of this server, against its NATS listener. The same tests run against
//! a NATS server: that control shows that they ask for nothing but what such a server does.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::python::interpreter;
use crate::serving::{Serving, end_of, until};

/// The script limits each of its own waits; this one is for a script that hangs all the same.
const LIMIT: Duration = Duration::from_secs(300);

/// A script that finds fewer tests than this has lost some.
const FEWEST_TESTS: usize = 120;

/// Names the program that is missing; that is no excuse where everything has been set up.
fn skip(what: &str) {
    assert_ne!(std::env::var("CI").ok().as_deref(), Some("true"), "there is no {what}");
    eprintln!("skipped: there is no {what}; tests/all.sh sets it up");
}

/// The server under test, and how the script starts another one of its kind.
struct Peer<'a> {
    kind: &'a str,
    address: &'a str,
    command: Value,
}

/// Runs the script, which leaves in `home` what it says. Panics unless all its tests pass.
fn run(python: &Path, home: &Path, peer: &Peer<'_>) {
    let talk = home.join("script");
    let file = File::create(&talk).unwrap();
    let mut script = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/test_nats.py"))
        .env("NATS_URL", format!("nats://{}", peer.address))
        .env("SERVER_KIND", peer.kind)
        .env("SERVER_COMMAND", peer.command.to_string())
        // Nothing that it starts may read the settings of this machine, or be found by its clients.
        .env("CLAUDEBUS_CONTEXT", home.join("script-context.json"))
        .env("XDG_CONFIG_HOME", home)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", python.display()));
    let status = end_of(&mut script, LIMIT);
    let talk = std::fs::read_to_string(talk).unwrap();
    let has_passed = status.is_some_and(|status| status.success());
    assert!(has_passed, "against {}: {status:?} (none: too slow)\n{talk}", peer.kind);
    assert!(tests_in(&talk) >= FEWEST_TESTS, "tests are missing\n{talk}");
}

/// How many tests ran, as unittest says.
fn tests_in(talk: &str) -> usize {
    let mut counts = talk.lines().filter_map(|line| line.strip_prefix("Ran "));
    counts.find_map(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn nats_py_works_with_this_server() {
    let Some(python) = interpreter() else { return skip("Python with nats-py") };
    let serving = Serving::start();
    let ready = std::fs::read(serving.path("ready.json")).unwrap();
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    let command = json!([
        env!("CARGO_BIN_EXE_claudebus"),
        "serve",
        "--quic",
        "127.0.0.1:0",
        "--http",
        "off",
        "--nats",
        "127.0.0.1:{port}",
        "--data",
        "{data}",
    ]);
    let address = ready["nats"].as_str().expect("the ready file names the NATS listener");
    run(&python, serving.home.path(), &Peer { kind: "claudebus", address, command });
}

/// A NATS server, with its store in a directory of its own.
struct Nats(Child);

impl Nats {
    fn start(program: &Path, store: &Path) -> Option<(Self, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let child = Command::new(program)
            .args(["-js", "-a", "127.0.0.1", "-p", &address.port().to_string(), "-sd"])
            .arg(store)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut server = Self(child);
        until("the NATS server listens", || {
            assert!(server.0.try_wait().unwrap().is_none(), "the NATS server has ended");
            TcpStream::connect(address).is_ok()
        });
        Some((server, address.to_string()))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_same_tests_pass_with_a_nats_server() {
    let Some(python) = interpreter() else { return skip("Python with nats-py") };
    // It comes with a Python package, or is on the `PATH`.
    let beside = python.with_file_name("nats-server");
    let program = if beside.exists() { beside } else { PathBuf::from("nats-server") };
    let home = tempfile::tempdir().unwrap();
    let Some((_server, address)) = Nats::start(&program, &home.path().join("store")) else {
        return skip("nats-server");
    };
    let command = json!([program, "-js", "-a", "127.0.0.1", "-p", "{port}", "-sd", "{data}"]);
    run(&python, home.path(), &Peer { kind: "nats-server", address: &address, command });
}
