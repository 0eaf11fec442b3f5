//! The same with the program itself: a server that was killed, one flipped bit, `claudebus verify`, and a
//! server again, whose consumers are told what is lost.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::copy_tree;

/// How long a server may take to be ready, and a command to end.
const PATIENCE: Duration = Duration::from_secs(60);

fn claudebus(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_claudebus"));
    command
        .env("CLAUDEBUS_CONTEXT", home.join("context.json"))
        .env("XDG_CONFIG_HOME", home)
        .env("HOME", home)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    claudebus(home).args(arguments).output().unwrap()
}

struct Server(std::process::Child);

impl Server {
    fn start(home: &Path, data: &Path) -> Self {
        Self::start_with(home, data, &[])
    }

    fn start_with(home: &Path, data: &Path, more: &[&str]) -> Self {
        let ready = home.join("ready");
        let _ = std::fs::remove_file(&ready);
        let child = claudebus(home)
            .arg("serve")
            .args(["--quic", "127.0.0.1:0", "--nats", "off", "--http", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--ready-file")
            .arg(&ready)
            .args(more)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(home.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut server = Self(child);
        let began = Instant::now();
        while !ready.exists() {
            assert!(server.0.try_wait().unwrap().is_none(), "{}", log(home));
            assert!(began.elapsed() < PATIENCE, "{}", log(home));
            std::thread::yield_now();
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log(home: &Path) -> String {
    std::fs::read_to_string(home.join("log")).unwrap_or_default()
}

#[test]
fn a_killed_server_tells_its_consumers_what_rotted() {
    let home = tempfile::tempdir().unwrap();
    let (home, base) = (home.path(), home.path().join("base"));
    let server = Server::start(home, &base);
    assert!(run(home, &["stream", "add", "ORDERS", "--subjects", "orders.>"]).status.success());
    for n in 1..=5 {
        let text = format!("message number {n} of five");
        assert!(run(home, &["publish", "orders.new", &text]).status.success());
    }
    drop(server);
    let journal = std::fs::read_dir(base.join("journal")).unwrap();
    let mut journal: Vec<_> = journal.map(|e| e.unwrap().file_name()).collect();
    journal.sort();
    let journal = journal[0].to_str().unwrap().to_owned();
    for lost in [3, 5] {
        let data = home.join(format!("data-{lost}"));
        copy_tree(&base, &data);
        let file = data.join("journal").join(&journal);
        let mut bytes = std::fs::read(&file).unwrap();
        let text = format!("message number {lost}");
        let at = bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let checked = run(home, &["verify", data.to_str().unwrap()]);
        assert_eq!(checked.status.code(), Some(65));
        let out = String::from_utf8(checked.stdout).unwrap();
        let told = format!("sequences {lost} to {lost} of ORDERS");
        assert!(out.contains(&told), "{out}");

        let server = Server::start(home, &data);
        let arguments = ["subscribe", "--stream", "ORDERS", "--wait", "500ms", "-q"];
        let got = run(home, &arguments);
        let (out, error) =
            (String::from_utf8(got.stdout).unwrap(), String::from_utf8(got.stderr).unwrap());
        for n in 1..=5 {
            let came = out.contains(&format!("message number {n} "));
            assert_eq!(came, n != lost, "{n}: {out} {error}");
        }
        assert!(error.contains("gap: sequences") && error.contains("of ORDERS"), "{error}");
        assert!(log(home).contains("ORDERS"), "{}", log(home));
        let published = run(home, &["publish", "orders.new", "next", "--output", "json"]);
        let published = String::from_utf8(published.stdout).unwrap();
        assert!(published.contains("\"seq\":6"), "{published}");
        let stats = run(home, &["stats", "--output", "json"]);
        let stats = String::from_utf8(stats.stdout).unwrap();
        assert!(stats.contains("\"lost_ranges\":1"), "{stats}");
        drop(server);
    }
}

/// With two copies a flip costs nothing: not while the server is stopped, not while it runs, and
/// `verify --repair` leaves both copies alike.
#[test]
fn a_server_with_two_copies_delivers_everything() {
    let home = tempfile::tempdir().unwrap();
    let (home, data) = (home.path(), home.path().join("data"));
    let copies = home.join("other-disk");
    let two = ["--copies", "2", "--copies-dir", copies.to_str().unwrap(), "--tail-budget", "1MiB"];
    let server = Server::start_with(home, &data, &two);
    assert!(run(home, &["stream", "add", "ORDERS", "--subjects", "orders.>"]).status.success());
    // Enough for segment files of some blocks each.
    let body = "0123456789abcdef".repeat(64);
    let message = format!("message number {{{{n}}}} of {body}");
    let sent = run(home, &["publish", "orders.new", &message, "--count", "3000"]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    drop(server);
    let all_come = |what: &str| {
        let arguments = ["subscribe", "--stream", "ORDERS", "--wait", "2s", "-q"];
        let got = run(home, &arguments);
        let error = String::from_utf8_lossy(&got.stderr).into_owned();
        let out = String::from_utf8(got.stdout).unwrap();
        assert_eq!(out.matches("message number").count(), 3000, "{what}: {error}\n{}", log(home));
        assert!(!error.contains("gap"), "{what}: {error}");
    };
    // Stopped: a bit in each kind of file, now in one copy, now in the other.
    for (number, dir) in ["journal", "segments", "state", "manifest"].iter().enumerate() {
        let side = if number % 2 == 0 { &data } else { &copies };
        flip_in_all(&side.join(dir));
        let checked = run(home, &["verify", data.to_str().unwrap()]);
        let out = String::from_utf8(checked.stdout).unwrap();
        assert_eq!(checked.status.code(), Some(65), "{dir}: {out}");
        assert!(
            out.contains("the other copy is whole") && !out.contains("are lost"),
            "{dir}: {out}"
        );
        let server = Server::start_with(home, &data, &two);
        all_come(dir);
        drop(server);
        let repaired = run(home, &["verify", data.to_str().unwrap(), "--repair"]);
        let text = String::from_utf8_lossy(&repaired.stdout).into_owned();
        assert!(matches!(repaired.status.code(), Some(0 | 65)), "{dir}: {text}");
        let again = run(home, &["verify", data.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&again.stdout).into_owned();
        assert_eq!(again.status.code(), Some(0), "{dir}: {text}");
    }
    // Running: what is damaged meanwhile is met by reads, delivered from the other copy, and made again.
    let server = Server::start_with(home, &data, &two);
    let damaged = flip_in_all(&data.join("segments"));
    all_come("running");
    let began = Instant::now();
    loop {
        let stats = run(home, &["stats", "--output", "json"]);
        let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
        let text = stats.to_string();
        assert!(text.contains("\"copies\":2"), "{text}");
        let wholes = damaged.iter().filter(|path| same(path, &copies.join("segments"))).count();
        if wholes == damaged.len() {
            assert!(!text.contains("\"repaired\":0"), "{text}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{wholes} of {}: {text}\n{}", damaged.len(), log(home));
        std::thread::yield_now();
    }
    all_come("repaired");
    drop(server);
    // One copy is enough again, and says so.
    let server = Server::start_with(home, &data, &["--tail-budget", "1MiB"]);
    assert!(log(home).contains("out of date"), "{}", log(home));
    all_come("one copy");
    drop(server);
}

/// Flips a bit in the middle of what is in each file that is still there; returns the files.
fn flip_in_all(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut flipped = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.contains("spare") || name.contains("ballast") {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let Some(byte) = bytes.get_mut(used / 2) else { continue };
        *byte ^= 4;
        std::fs::write(&path, bytes).unwrap();
        flipped.push(path);
    }
    flipped
}

/// Whether a file is what its copy is, or both are gone.
fn same(path: &Path, copies: &Path) -> bool {
    let copy = copies.join(path.file_name().unwrap());
    std::fs::read(path).ok() == std::fs::read(copy).ok()
}
