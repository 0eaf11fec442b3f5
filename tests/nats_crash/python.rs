//! nats-py at work: a script of its own that says what was acknowledged.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::book::Book;

/// The script. Killed when dropped.
pub struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it, if there is a Python with nats-py.
pub fn start(url: &str, book: &Arc<Book>) -> Option<Script> {
    let Some(python) = std::env::var_os("CLAUDEBUS_TEST_PYTHON").map(PathBuf::from) else {
        assert_ne!(std::env::var("CI").ok().as_deref(), Some("true"), "there is no nats-py");
        println!("without nats-py: CLAUDEBUS_TEST_PYTHON is not set; tests/all.sh sets it");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/nats_load.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("Python starts");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let book = Arc::clone(book);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let (seq, name) = line.split_once(' ').expect("a sequence and a name");
            book.acknowledged(seq.parse().expect("a sequence"), name);
        }
    });
    Some(Script(child))
}
