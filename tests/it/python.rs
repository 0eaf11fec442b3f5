//! The client written in Python from `docs/protocol.md` alone, against the real server. It shows
//! that the document suffices. It does not test the SDK.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The client is an example: it stays one that can be read in a sitting.
const MOST_LINES: usize = 400;

/// The script limits each of its own steps; this one is for a script that hangs all the same.
const LIMIT: Duration = Duration::from_secs(600);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}

/// The interpreter that has aioquic: named by the environment, or in the project's own folder.
pub(crate) fn interpreter() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CLAUDEBUS_TEST_PYTHON") {
        return Some(PathBuf::from(named));
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    own.exists().then_some(own)
}

#[test]
fn the_client_has_at_most_400_lines() {
    let text = std::fs::read_to_string(folder().join("claudebus.py")).unwrap();
    let lines = text.lines().count();
    assert!(lines <= MOST_LINES, "tests/python/claudebus.py has {lines} lines");
}

#[test]
fn a_client_written_from_the_document_works() {
    let Some(python) = interpreter() else {
        assert_ne!(
            std::env::var("CI").ok().as_deref(),
            Some("true"),
            "no Python with aioquic: set CLAUDEBUS_TEST_PYTHON, or make .venv"
        );
        println!("skipped: neither CLAUDEBUS_TEST_PYTHON nor .venv/bin/python is there");
        return;
    };
    let child = Command::new(&python)
        .arg(folder().join("test_claudebus.py"))
        .arg(env!("CARGO_BIN_EXE_claudebus"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", python.display()));
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = ended.recv_timeout(LIMIT).expect("the script did not end in time").unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let all_passed = stdout.trim_end().ends_with(" passed, 0 failed");
    assert!(output.status.success() && all_passed, "{stdout}\n{stderr}");
}
