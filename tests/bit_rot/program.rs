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
        let ready = home.join("ready");
        let _ = std::fs::remove_file(&ready);
        let child = claudebus(home)
            .arg("serve")
            .args(["--quic", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--ready-file")
            .arg(&ready)
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
