//! The README's first minute, as it would be pasted: publish, consume, kill the broker, start it
//! again, and everything is still there.
//!
//! Each block of the README that stands under `<!-- test: name -->` is run by bash, with the program
//! that was built for this test first in the path and its folders in a temporary place.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The shell code under `<!-- test: name -->`.
fn block(name: &str) -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"))
        .expect("there is a README");
    let mark = format!("<!-- test: {name} -->\n```sh\n");
    let (_, rest) = readme.split_once(&mark).unwrap_or_else(|| panic!("no block {name}"));
    rest.split_once("```").expect("the block ends").0.to_owned()
}

/// A machine's home, with a shell in it.
struct Home {
    directory: tempfile::TempDir,
    server: Option<Child>,
}

impl Home {
    fn shell(&self, script: &str) -> Command {
        let programs: PathBuf = Path::new(env!("CARGO_BIN_EXE_claudebus"))
            .parent()
            .expect("a program is in a folder")
            .into();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell
            .args(["-euc", script])
            .current_dir(self.directory.path())
            .env("HOME", self.directory.path())
            .env("XDG_DATA_HOME", self.directory.path().join("data"))
            .env("XDG_CONFIG_HOME", self.directory.path().join("config"))
            .env("PATH", format!("{}:{path}", programs.display()));
        shell
    }

    /// Runs the block that starts the broker, with the program that is built already, and waits
    /// until it is ready.
    fn serve(&mut self) {
        let command = block("serve").replace("cargo run --release -- ", "exec claudebus ");
        assert!(command.contains("claudebus serve"), "{command}");
        let child = self.shell(&command).stderr(Stdio::null()).spawn().expect("bash runs");
        self.server = Some(child);
        let start = Instant::now();
        while !self.run("claudebus stats --output json >/dev/null 2>&1 && echo up").contains("up") {
            assert!(start.elapsed() < LIMIT, "the broker does not answer; is a port in use?");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a script prints.
    fn run(&self, script: &str) -> String {
        let output = self.shell(script).output().expect("bash runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends the broker as the README does, but only the one of this test.
    fn kill(&mut self) {
        assert!(block("kill").contains("-9"), "the README ends it the hard way");
        let mut server = self.server.take().expect("it runs");
        server.kill().expect("it can be killed");
        server.wait().expect("it ends");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[test]
fn the_first_minute_works_as_pasted() {
    let mut home =
        Home { directory: tempfile::tempdir().expect("a temporary folder"), server: None };
    home.serve();
    let first = home.run(&block("first"));
    assert!(first.contains("Hello 1") && first.contains("Hello 2"), "{first}");
    assert!(!first.contains("Hello 3"), "only two were asked for: {first}");
    home.kill();
    home.serve();
    let again = home.run(&block("again"));
    assert!(again.contains("Hello 3"), "{again}");
    assert!(!again.contains("Hello 2"), "it was acknowledged: {again}");
    assert!(again.contains("Messages: 3"), "{again}");
    let later = home.run(&block("later"));
    assert!(later.contains("claude.beat") && later.ends_with("cancelled report\n"), "{later}");
}
