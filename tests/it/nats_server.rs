//! The program under the name of nats-server, started as test harnesses and scripts start one: by its flags, by a
//! configuration file, with a log, a pid file and a ports file. What both say is compared with a real nats-server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::python::interpreter;
use crate::serving::until;

/// How long an answer may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A program called nats-server, with a folder of its own.
struct Dropped {
    home: tempfile::TempDir,
    child: Option<Child>,
}

impl Dropped {
    fn new() -> Self {
        Self::of(Path::new(env!("CARGO_BIN_EXE_claudebus")))
    }

    fn of(program: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(program, home.path().join("nats-server")).unwrap();
        Self { home, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("nats-server"));
        command.args(arguments).current_dir(self.home.path()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts it and waits until it says that it is ready, in `log`, which is stderr's file if it writes none.
    fn start(&mut self, arguments: &[&str], log: &str) {
        let talk = std::fs::File::create(self.path("stderr")).unwrap();
        self.child = Some(self.command(arguments).stderr(talk).spawn().unwrap());
        until("the server is ready", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {} {}", self.read(log), self.read("stderr"));
            self.read(log).contains("[INF] Server is ready\n")
        });
    }

    /// The text of a file; empty if there is none.
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Where it says in its log that it listens.
    fn address(&self, log: &str) -> String {
        let log = self.read(log);
        let (_, rest) =
            log.split_once("Listening for client connections on ").expect("it says where");
        rest.lines().next().unwrap().to_owned()
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end; the exit code, or none if a signal ended it.
    fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        until("the server has ended", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A NATS client of bare lines.
struct Raw {
    reader: BufReader<TcpStream>,
    info: Value,
}

impl Raw {
    /// Connects with these options of CONNECT.
    fn connect(address: &str, options: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut raw = Self { reader: BufReader::new(stream), info: Value::Null };
        let info = raw.line();
        raw.info = serde_json::from_str(info.strip_prefix("INFO ").expect(&info)).unwrap();
        raw.send(&format!("CONNECT {{\"verbose\":false,\"headers\":true{options}}}\r\nPING\r\n"));
        raw
    }

    fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The next line, without its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The answer to a request.
    fn ask(&mut self, subject: &str, body: &str) -> Value {
        self.send(&format!(
            "SUB _INBOX.x 1\r\nPUB {subject} _INBOX.x {}\r\n{body}\r\n",
            body.len()
        ));
        let head = self.line();
        let length: usize = head.rsplit(' ').next().unwrap().parse().expect(&head);
        let mut payload = vec![0; length + 2];
        self.reader.read_exact(&mut payload).unwrap();
        self.send("UNSUB 1\r\n");
        serde_json::from_slice(&payload).unwrap()
    }
}

/// What HTTP answers to GET.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What it wrote to stderr.
fn talk(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_harness_of_flags_finds_its_server_and_its_streams_again() {
    let mut server = Dropped::new();
    let arguments = [
        "-p",
        "-1",
        "-a",
        "127.0.0.1",
        "-m",
        "-1",
        "-js",
        "-sd=store",
        "-P",
        "pid",
        "--ports_file_dir",
        ".",
    ];
    server.start(&arguments, "stderr");
    let address = server.address("stderr");
    assert_eq!(server.read("pid"), server.id().to_string());
    let ports = format!("nats-server_{}.ports", server.id());
    let told: Value = serde_json::from_str(&server.read(&ports)).unwrap();
    assert_eq!(told["nats"][0], format!("nats://{address}"));
    let monitor = told["monitoring"][0].as_str().unwrap().trim_start_matches("http://").to_owned();
    let varz = get(&monitor, "/varz");
    assert!(varz.starts_with("HTTP/1.1 200"), "{varz}");
    assert!(get(&monitor, "/healthz").starts_with("HTTP/1.1 200"));

    let mut client = Raw::connect(&address, "");
    assert_eq!(client.line(), "PONG");
    let varz: Value = serde_json::from_str(varz.split_once("\r\n\r\n").unwrap().1).unwrap();
    for (field, same) in [("server_id", "server_id"), ("port", "port"), ("version", "version")] {
        assert_eq!(client.info[field], varz[same], "{field}");
    }
    assert!(
        server
            .read("stderr")
            .contains(&format!("  ID:       {}", varz["server_id"].as_str().unwrap()))
    );
    let made =
        client.ask("$JS.API.STREAM.CREATE.ORDERS", r#"{"name":"ORDERS","subjects":["orders"]}"#);
    assert_eq!(made["did_create"], true, "{made}");
    assert_eq!(client.ask("orders", "hello")["seq"], 1);
    server.signal("-KILL");
    assert_eq!(server.ended(), None);

    server.start(&arguments, "stderr");
    let mut client = Raw::connect(&server.address("stderr"), "");
    assert_eq!(client.line(), "PONG");
    let names = client.ask("$JS.API.STREAM.NAMES", "");
    // No default streams either.
    assert_eq!(names["streams"], serde_json::json!(["ORDERS"]));
    assert!(server.path("store/jetstream").is_dir());
    let ports = server.path(&format!("nats-server_{}.ports", server.id()));
    assert!(ports.is_file());
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
    assert!(!ports.exists());
    assert!(server.read("stderr").contains("[INF] Server Exiting.."));
}

#[test]
fn a_harness_of_a_file_and_a_log_finds_its_server() {
    let mut server = Dropped::new();
    server.write("token.conf", "token: $TOKEN\n");
    server.write(
        "nats.conf",
        "# a server\nTOKEN: s3cret\nserver_name = \"dropped\"\nmax_payload: 64KB\n\
         jetstream: { store_dir: \"store\", max_file: 1G }\n\
         authorization {\n  token: $TOKEN\n}\nhttp: 127.0.0.1:-1\n",
    );
    server.start(
        &["-a", "localhost", "-p", "-1", "-l", "log", "-P", "pid", "-c", "nats.conf"],
        "log",
    );
    assert_eq!(server.read("stderr"), "", "all goes to the log");
    let log = server.read("log");
    assert!(log.contains("[INF] Using configuration file: nats.conf"), "{log}");
    assert!(log.contains("[WRN] nats.conf:5:34: `max_file` has no effect: "), "{log}");
    assert!(log.contains("  Store Directory: \"store/jetstream\""), "{log}");
    let address = server.address("log");

    let mut client = Raw::connect(&address, r#","auth_token":"s3cret""#);
    assert_eq!(client.line(), "PONG");
    assert_eq!(
        (&client.info["server_name"], &client.info["max_payload"]),
        (&"dropped".into(), &65_536.into())
    );
    assert_eq!(client.info["auth_required"], true);
    for wrong in ["", r#","auth_token":"other""#] {
        assert_eq!(Raw::connect(&address, wrong).line(), "-ERR 'Authorization Violation'");
    }

    std::fs::rename(server.path("log"), server.path("old")).unwrap();
    assert!(server.run(&["--signal", "reopen=pid"]).status.success());
    until("the log was opened again", || server.read("log").contains("File log re-opened"));
    server.signal("-HUP");
    until("it has said that it reads no file again", || {
        server.read("log").contains("[ERR] Failed to reload")
    });
    let pid = server.id().to_string();
    drop(client);
    // Nobody is to be sent away, which takes no time.
    assert!(server.run(&[&format!("-sl=ldm={pid}")]).status.success());
    assert_eq!(server.ended(), Some(0));
    assert!(
        talk(&server.run(&["--signal", "stop=pid"])).contains(&format!("signal \"stop\" {pid}: "))
    );
}

/// The server starts itself once more, for its allocator, before it reads anything: a pipe gives its bytes once.
#[cfg(target_os = "linux")]
#[test]
fn a_configuration_may_come_through_a_pipe() {
    use std::io::Write as _;

    let mut server = Dropped::new();
    let arguments = ["-c", "/dev/stdin", "-l", "log"];
    let child = server.command(&arguments).stdin(Stdio::piped()).spawn();
    let child = server.child.insert(child.unwrap());
    let conf = b"host: 127.0.0.1\nport: -1\nauthorization { token: secret }\n";
    child.stdin.take().unwrap().write_all(conf).unwrap();
    until("the server is ready", || server.read("log").contains("[INF] Server is ready\n"));
    let name = std::fs::read_to_string(format!("/proc/{}/comm", server.id())).unwrap();
    assert_eq!(name, "nats-server\n", "as in every list of processes");
    let mut stranger = Raw::connect(&server.address("log"), "");
    assert!(stranger.line().contains("Authorization Violation"));
}

/// What a server in lame duck mode does, its own lines in the log at the end.
fn lame_duck(mut server: Dropped) -> Vec<String> {
    server.write("f.conf", "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"\n");
    server.start(&["-a", "127.0.0.1", "-p", "-1", "-c", "f.conf"], "stderr");
    let address = server.address("stderr");
    let mut told = Raw::connect(&address, r#","protocol":1"#);
    let mut old = Raw::connect(&address, "");
    assert_eq!((told.line(), old.line()), ("PONG".to_owned(), "PONG".to_owned()));
    server.signal("-USR2");
    let is_end = |line: &str| line.starts_with("INFO ") && line.contains("\"ldm\":true");
    let line = std::iter::repeat_with(|| told.line()).find(|line| is_end(line) || line.is_empty());
    let info: Value = serde_json::from_str(&line.unwrap()[5..]).unwrap();
    assert_eq!(info["client_id"], told.info["client_id"]);
    // The clients are told and the listener is closed at the same time.
    until("nobody is let in", || TcpStream::connect(&address).is_err());
    // Those that are there are served until they are sent away.
    told.send("SUB a 1\r\nPUB a 2\r\nhi\r\n");
    assert_eq!((told.line(), told.line()), ("MSG a 1 2".to_owned(), "hi".to_owned()));
    for client in [&mut told, &mut old] {
        let next = std::iter::repeat_with(|| client.line()).find(|line| line != "PING");
        assert_eq!(next.as_deref(), Some(""), "the connection ends without a word");
    }
    assert_eq!(server.ended(), Some(0));
    let log = server.read("stderr");
    let said = log.lines().filter_map(|line| line.split_once("[INF] ")).map(|(_, said)| said);
    let said = said.skip_while(|said| !said.contains("user defined signal 2"));
    said.filter(|said| !said.contains("JetStream")).map(str::to_owned).collect()
}

#[test]
fn clients_are_told_of_the_end_and_sent_away_one_by_one() {
    let ours = lame_duck(Dropped::new());
    assert_eq!(ours.len(), 5, "{ours:?}");
    let Some(real) = real() else { return };
    assert_eq!(ours, lame_duck(Dropped::of(&real)));
}

#[test]
fn without_jetstream_nothing_is_stored() {
    let mut server = Dropped::new();
    server.start(&["-p", "-1", "-T=false", "-DV"], "stderr");
    let log = server.read("stderr");
    assert!(log.lines().all(|line| line.starts_with(&format!("[{}] [", server.id()))), "{log}");
    assert!(log.contains("[WRN] Listening on 127.0.0.1 only"), "{log}");
    assert!(server.address("stderr").starts_with("127.0.0.1:"));
    let left: Vec<_> = std::fs::read_dir(server.home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}: the link and stderr");
    server.signal("-INT");
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn what_cannot_be_done_is_said_and_ends_with_1() {
    let server = Dropped::new();
    server.write("cluster.conf", "port: -1\ncluster {\n  port: 6222\n}\n");
    server.write("typo.conf", "jetstream {\n  store_dri: x\n}\n");
    let duck = "lame_duck_duration: 30s\nlame_duck_grace_period: 40s\n";
    server.write("duck.conf", duck);
    for (arguments, says) in [
        (
            &["-c", "cluster.conf"][..],
            "nats-server: cluster.conf:2:1: `cluster` is not supported: ",
        ),
        (
            &["-t", "-c", "typo.conf"],
            "nats-server: typo.conf:2:3: unknown field \"store_dri\" in `jetstream`; did you mean `store_dir`?",
        ),
        (&["-c", "none.conf"], "nats-server: cannot read the configuration file none.conf: "),
        (&["--tls"], "nats-server: TLS Server certificate must be present and valid"),
        (&["--user", "ann"], "nats-server: the user `ann` has no password"),
        (
            &["-a", "0.0.0.0", "-p", "-1"],
            "nats-server: 0.0.0.0:0 can be reached from other machines",
        ),
        (&["-t"], "nats-server: must specify [-c, --config] option"),
        (
            &["-c", "duck.conf", "-p", "-1"],
            "nats-server: lame duck grace period (40s) should be strictly lower than lame duck duration (30s)",
        ),
    ] {
        let output = server.run(arguments);
        let error = talk(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with(says), "{arguments:?}: {error}");
    }
}

#[test]
fn a_port_in_use_ends_the_log() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let server = Dropped::new();
    let output = server.run(&["-a", "127.0.0.1", "-p", &port]);
    assert_eq!(output.status.code(), Some(1));
    assert!(talk(&output).contains("[FTL] cannot listen on 127.0.0.1:"), "{}", talk(&output));
}

#[test]
fn the_subcommand_is_the_same_as_the_name() {
    let server = Dropped::new();
    let by_name = server.run(&["--version"]);
    let by_command = Command::new(env!("CARGO_BIN_EXE_claudebus"))
        .args(["nats-server", "--version"])
        .output()
        .unwrap();
    assert_eq!(by_name.stdout, by_command.stdout);
    let version = String::from_utf8(by_name.stdout).unwrap();
    assert!(version.starts_with("nats-server: v2."), "{version}");
    let help = String::from_utf8(server.run(&["-h"]).stdout).unwrap();
    assert!(help.contains("Usage: nats-server [options]"), "{help}");
}

/// A real nats-server, if there is one: it comes with a Python package, or is on the `PATH`.
fn real() -> Option<PathBuf> {
    let beside = interpreter().map(|python| python.with_file_name("nats-server"));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| "nats-server".into());
    if Command::new(&program).arg("-v").output().is_ok() {
        return Some(program);
    }
    assert_ne!(std::env::var("CI").ok().as_deref(), Some("true"), "there is no nats-server");
    eprintln!("skipped: there is no nats-server; tests/all.sh sets it up");
    None
}

#[test]
fn mistakes_are_told_in_the_words_of_nats_server() {
    let Some(real) = real() else { return };
    let ours = Dropped::new();
    for arguments in [
        &["--foo"][..],
        &["-p"],
        &["-js=x"],
        &["---p"],
        &["extra"],
        &["--signal", "bogus=2147483647"],
        &["-t"],
    ] {
        let told = |output: &Output| {
            let talk = talk(output);
            let line = talk.lines().find(|line| !line.is_empty()).unwrap_or_default();
            line.strip_prefix("nats-server: ").unwrap_or(line).to_owned()
        };
        let theirs = Command::new(&real).args(arguments).output().unwrap();
        assert_eq!(told(&ours.run(arguments)), told(&theirs), "{arguments:?}");
    }
}

/// Files that both read, and files that neither does.
const GOOD: &[&str] = &[
    "port: 4333 # x\n// y\nhost = \"0.0.0.0\"\nauthorization { token: abc }",
    "{\"port\": 4333, \"host\": \"127.0.0.1\"}",
    "\"port\": 4333, \"host\": \"127.0.0.1\"",
    "port: 4333; host: 127.0.0.1",
    "PORT 4333",
    "P=4333\nport: $P",
    "listen: localhost:4333",
    "listen: 4333",
    "port: 4333\nport: 4334",
    "jetstream\n{\nstore_dir: x\n}",
    "jetstream { max_mem: 1GiB\nmax_file: 1Ti, sync_interval: always; store_dir = \"x\" }",
    "jetstream: enabled",
    "ping_interval: 2s\nwrite_deadline: \"10s\"\nlame_duck_duration: \"30s\"",
    "max_connections: 64k\nmax_subscriptions: 0\nmax_pending: 10MB\nmax_payload 64K",
    "max_control_line: 4KB\nping_max: 2",
    "debug: on\ntrace: yes\nlogtime: no\nlog_file: /tmp/x\npid_file '/tmp/y'",
    "server_name: ab#c",
    "server_name: \"a\\x41\"",
    "authorization { token: $HOME, timeout: 2 }",
    "http: localhost:8222",
    "monitor_port: 8222\nclient_advertise: \"x:4222\"",
    "authorization { user: ann, password: s3cret, timeout: 1 }",
    "authorization { users: [ {user: ann, pass: a, permissions: {pub: a, sub: [b, \"c q\"]}}, {user: bob} ] }\nno_auth_user: bob",
    "authorization { default_permissions { publish { allow: a, deny: [b] } }\nusers = [ {user: ann, password: a, permission { allow_responses: { max: 2, expires: \"1m\" } } } ] }",
    "accounts { A { users: [ {user: ann, pass: a} ] } }",
    "websocket { port: 8080, no_tls: true, allowed_origins: [\"http://a.example\"], handshake_timeout: 2s }",
    "jetstream { strict: true, limits { max_request_batch: 100 } }",
];
const BAD: &[&str] = &[
    "foo: 3",
    "port: $NOPE",
    "server_name: a b",
    "server_name: \"a b\"",
    "max_payload: 1.5MB",
    "debug: maybe",
    "host: [1,2",
    "jetstream { store_dir: \"/tmp/x\" max_mem: 1G }",
    "jetstream { domian: x }",
    "server_name: \"a\\q\"",
    "port: 4333\n: 1",
    "jetstream {",
    "include none.conf",
    "ping_interval: soon",
    "authorization { token: abc",
    "authorization { user: ann, password: a, token: t }",
    "authorization { user: ann, password: a, users: [{user: bob}] }",
    "authorization { token: t, users: [{user: bob}] }",
    "authorization { users: [{user: bob}, {user: bob}] }",
    "authorization { users: [{pass: bob}] }",
    "authorization { users: [{user: bob, permissions: {publish: \"a..b\"}}] }",
    "tls { cert_file: none.pem }",
    "lame_duck_duration: 29s",
];

#[test]
fn files_are_good_or_bad_as_for_nats_server() {
    let Some(real) = real() else { return };
    let ours = Dropped::new();
    let check = |program: &Path, text: &str| {
        ours.write("f.conf", text);
        let mut command = Command::new(program);
        let output =
            command.args(["-c", "f.conf", "-t"]).current_dir(ours.home.path()).output().unwrap();
        (output.status.success(), talk(&output))
    };
    for (texts, is_good) in [(GOOD, true), (BAD, false)] {
        for text in texts {
            for program in [real.as_path(), &ours.path("nats-server")] {
                let (success, says) = check(program, text);
                assert_eq!(success, is_good, "{}: {text:?}: {says}", program.display());
            }
        }
    }
}
