//! nats.js, which knows nothing of this server, in node against its NATS listener. The same tests run
//! against a NATS server: that control shows that they ask for nothing but what such a server does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::nats_wire::Server;
use crate::python::interpreter;
use crate::serving::end_of;

/// The scripts limit each of their own waits; this one is for scripts that hang all the same.
const LIMIT: Duration = Duration::from_secs(180);

/// Suites that run for both servers.
const SUITES: &[&str] = &["core", "streams", "consumers", "kv", "objects", "restart"];

/// A run that finds fewer tests than this has lost some.
const FEWEST_TESTS: usize = 70;

/// Where the scripts are, and the packages that they import once `npm ci` has been there.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js")
}

/// Whether node and its packages are there. Names what is missing; that is no excuse where everything
/// has been set up.
pub(crate) fn is_set_up() -> bool {
    let has_packages = folder().join("node_modules/@nats-io/transport-node").exists();
    let node = Command::new("node").arg("--version").stdout(Stdio::null()).status();
    let is_there = has_packages && node.is_ok_and(|status| status.success());
    if !is_there {
        skip("node with nats.js");
    }
    is_there
}

/// Says what is not there, which nothing excuses where everything has been set up.
pub(crate) fn skip(what: &str) {
    assert_ne!(std::env::var("CI").ok().as_deref(), Some("true"), "there is no {what}");
    eprintln!("skipped: there is no {what}; tests/all.sh sets it up");
}

/// Runs these files with node's own test runner, which leaves in `home` what it says. Panics unless all
/// tests pass, and they are so many at least.
pub(crate) fn run(files: &[&str], home: &Path, environment: &[(&str, String)], fewest: usize) {
    let talk = home.join("script");
    let file = File::create(&talk).unwrap();
    let mut command = Command::new("node");
    command
        .args(["--test", "--test-reporter=tap", "--test-force-exit", "--test-concurrency=8"])
        .args(files.iter().map(|name| folder().join(format!("{name}.test.mjs"))))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        // Nothing that it starts may read the settings of this machine, or be found by its clients.
        .env("CLAUDEBUS_CONTEXT", home.join("script-context.json"))
        .env("XDG_CONFIG_HOME", home)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file);
    let mut script = command.spawn().expect("node runs");
    let status = end_of(&mut script, LIMIT);
    let talk = std::fs::read_to_string(talk).unwrap();
    let has_passed = status.is_some_and(|status| status.success());
    assert!(has_passed, "{files:?}: {status:?} (none: too slow)\n{talk}");
    assert!(count("pass", &talk) >= fewest, "tests are missing\n{talk}");
    assert_eq!(count("skipped", &talk), 0, "tests were skipped\n{talk}");
}

/// A number of the runner's summary.
fn count(what: &str, talk: &str) -> usize {
    let prefix = format!("# {what} ");
    talk.lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.parse().ok())
        .next_back()
        .unwrap_or(0)
}

/// What scripts are told about a server, and how they start another one of its kind.
fn about(server: &Server, command: &Value) -> Vec<(&'static str, String)> {
    vec![
        ("NATS_URL", format!("nats://{}", server.address())),
        ("SERVER_KIND", server.name().to_owned()),
        ("SERVER_COMMAND", command.to_string()),
    ]
}

fn ours() -> Value {
    json!([
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
    ])
}

fn suites() -> Vec<String> {
    SUITES.iter().map(|name| format!("suites/{name}")).collect()
}

#[test]
fn nats_js_works_with_this_server() {
    if !is_set_up() {
        return;
    }
    let server = Server::ours("");
    let Server::Ours(serving) = &server else { panic!("it is ours") };
    let ready = std::fs::read(serving.path("ready.json")).unwrap();
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    let mut environment = about(&server, &ours());
    environment.push(("QUIC_URL", format!("quic://{}", ready["quic"].as_str().unwrap())));
    environment.push(("QUIC_CA", ready["ca"].as_str().unwrap().to_owned()));
    let mut files = suites();
    files.push("suites/quic".to_owned());
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    run(&files, serving.home.path(), &environment, FEWEST_TESTS + 3);
}

#[test]
fn the_same_tests_pass_in_node_with_a_nats_server() {
    if !is_set_up() {
        return;
    }
    let Some(server) = Server::real("") else { return };
    let beside = interpreter().map(|python| python.with_file_name("nats-server"));
    let program = beside.filter(|path| path.exists()).unwrap_or("nats-server".into());
    let command = json!([program, "-js", "-a", "127.0.0.1", "-p", "{port}", "-sd", "{data}"]);
    let home = tempfile::tempdir().unwrap();
    let files = suites();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    run(&files, home.path(), &about(&server, &command), FEWEST_TESTS);
}
