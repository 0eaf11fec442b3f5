//! What NATS's monitoring tools read over HTTP, and that it has the names that a NATS server gives it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::python::interpreter;
use crate::serving::{Serving, until};
use crate::web_socket::WebSocket;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// An answer of HTTP: its status and its body.
pub(crate) fn get(address: SocketAddr, path: &str, accept: &str) -> (u16, String) {
    let mut stream = connect(address);
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn json_of(address: SocketAddr, path: &str) -> Value {
    let (status, body) = get(address, path, "*/*");
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// A client by hand: it says `text` and waits for PONG.
fn client(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(text.as_bytes()).unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"PONG\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        heard.push(byte[0]);
    }
    stream
}

/// Makes a stream S with a message and a consumer c, and stays connected.
fn busy_client(address: SocketAddr) -> TcpStream {
    let stream = json!({"name": "S", "subjects": ["s.>"], "storage": "file"});
    let consumer = json!({
        "stream_name": "S",
        "config": {"durable_name": "c", "ack_policy": "explicit", "deliver_policy": "all"},
    });
    let about = "{\"verbose\":false,\"name\":\"me\",\"lang\":\"hand\",\"version\":\"1.2.3\"}";
    let mut client = client(address, &format!("CONNECT {about}\r\nSUB in 1\r\nPING\r\n"));
    for (subject, body) in [
        ("$JS.API.STREAM.CREATE.S", stream.to_string()),
        ("s.a", "hello".to_owned()),
        ("$JS.API.CONSUMER.DURABLE.CREATE.S.c", consumer.to_string()),
    ] {
        write!(client, "PUB {subject} in {}\r\n{body}\r\n", body.len()).unwrap();
        let mut heard = Vec::new();
        // Answers are JSON.
        while !heard.ends_with(b"}\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            heard.push(byte[0]);
        }
        let heard = String::from_utf8(heard).unwrap();
        assert!(!heard.contains("\"error\""), "{subject}: {heard}");
    }
    client
}

const ALL: &str = "/jsz?accounts=1&streams=1&consumers=1&config=1";

fn address(server: &Serving, listener: &str) -> SocketAddr {
    let ready = std::fs::read(server.path("ready.json")).unwrap();
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    ready[listener].as_str().unwrap().parse().unwrap()
}

#[test]
fn connections_are_listed_with_what_they_did() {
    let server = Serving::start();
    let (nats, http) = (address(&server, "nats"), address(&server, "http"));
    assert_eq!(json_of(http, "/connz")["connections"], json!([]));
    let open = client(
        nats,
        "CONNECT {\"verbose\":false,\"name\":\"me\",\"lang\":\"hand\",\"version\":\"1.2.3\",\
         \"auth_token\":\"hidden\"}\r\nSUB a 1\r\nPUB a 5\r\nhello\r\nPUB b 2\r\nhi\r\nPING\r\n",
    );
    let mut web = WebSocket::open(http, "/nats", &[]).unwrap();
    web.line();
    let connz = json_of(http, "/connz");
    let [first, second] = &connz["connections"].as_array().unwrap()[..] else { panic!("{connz}") };
    let fields = ["name", "lang", "version", "type", "kind", "ip", "subscriptions", "in_msgs"];
    assert_eq!(
        fields.map(|field| &first[field]).map(ToString::to_string).join(" "),
        r#""me" "hand" "1.2.3" "nats" "Client" "127.0.0.1" 1 2"#
    );
    let counts = ["in_bytes", "out_msgs", "out_bytes"].map(|field| &first[field]);
    assert_eq!(counts, [&json!(7), &json!(1), &json!(5)]);
    assert_eq!(first["port"], open.local_addr().unwrap().port());
    assert_eq!((&second["type"], second.get("name")), (&json!("websocket"), None));
    assert!(first["start"].as_str() <= first["last_activity"].as_str(), "{first}");
    assert!(!connz.to_string().contains("hidden"), "{connz}");
    let page = json_of(http, "/connz?offset=1&limit=1&sort=subs");
    assert_eq!((&page["total"], &page["num_connections"]), (&json!(2), &json!(1)));
    assert_eq!(page["connections"][0]["cid"], second["cid"], "most subscriptions first");
    let one = json_of(http, &format!("/connz?cid={}", second["cid"]));
    assert_eq!(one["connections"][0]["cid"], second["cid"]);
    assert_eq!(get(http, "/connz?sort=bogus", "*/*").0, 400);
    assert_eq!(get(http, "/connz?offset=x", "*/*").0, 400);
    assert_eq!(json_of(http, "/subsz")["num_subscriptions"], 1);
    drop(open);
    until("the connection is gone", || json_of(http, "/connz")["total"] == 1);
    let varz = json_of(http, "/varz");
    let counts = ["connections", "total_connections", "in_msgs", "in_bytes", "out_bytes"];
    assert_eq!(counts.map(|field| varz[field].as_u64().unwrap()), [1, 2, 2, 7, 5], "{varz}");
}

#[test]
fn streams_and_consumers_are_told_as_far_as_asked() {
    let server = Serving::start();
    let (nats, http) = (address(&server, "nats"), address(&server, "http"));
    let _client = busy_client(nats);
    let jsz = json_of(http, "/jsz");
    assert_eq!((&jsz["streams"], jsz.get("account_details")), (&json!(1), None));
    let jsz = json_of(http, ALL);
    let stream = &jsz["account_details"][0]["stream_detail"][0];
    assert_eq!((&stream["name"], &stream["state"]["messages"]), (&json!("S"), &json!(1)));
    assert_eq!(stream["config"]["subjects"], json!(["s.>"]));
    let consumer = &stream["consumer_detail"][0];
    assert_eq!((&consumer["name"], &consumer["num_pending"]), (&json!("c"), &json!(1)));
    let jsz = json_of(http, "/jsz?streams=true");
    let stream = &jsz["account_details"][0]["stream_detail"][0];
    assert_eq!((stream.get("config"), stream.get("consumer_detail")), (None, None), "{stream}");
    assert_eq!(json_of(http, "/jsz?acc=other&streams=1").get("account_details"), None);
    assert_eq!(get(http, "/jsz?streams=maybe", "*/*").0, 400);
}

#[test]
fn health_is_told_to_people_and_to_tools() {
    let server = Serving::start();
    let (nats, http) = (address(&server, "nats"), address(&server, "http"));
    let _client = busy_client(nats);
    assert_eq!(get(http, "/healthz", "*/*"), (200, "ok\n".to_owned()));
    let ok = (200, r#"{"status":"ok"}"#.to_owned());
    assert_eq!(get(http, "/healthz", "application/json"), ok);
    for question in ["js-enabled-only=true", "js-server-only=1", "account=$G&stream=S&consumer=c"] {
        assert_eq!(get(http, &format!("/healthz?{question}"), "*/*"), ok, "{question}");
    }
    for (question, status) in [
        ("js-enabled-only=x", 400),
        ("stream=S", 400),
        ("account=other", 404),
        ("account=$G&stream=T", 404),
        ("account=$G&stream=S&consumer=d", 404),
    ] {
        assert_eq!(get(http, &format!("/healthz?{question}"), "*/*").0, status, "{question}");
    }
}

/// A NATS server with a port for monitoring.
struct Nats(Child);

impl Nats {
    /// Starts it; where it listens for clients and for HTTP.
    fn start(program: &Path, home: &Path) -> Option<(Self, SocketAddr, SocketAddr)> {
        let child = Command::new(program)
            .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-m", "-1", "--ports_file_dir"])
            .arg(home)
            .arg("-sd")
            .arg(home.join("store"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut server = Self(child);
        let mut ports = Value::Null;
        until("the NATS server listens", || {
            assert!(server.0.try_wait().unwrap().is_none(), "the NATS server has ended");
            let files = std::fs::read_dir(home).unwrap().flatten();
            let mut files = files.map(|file| file.path());
            let file = files.find(|path| path.extension().is_some_and(|name| name == "ports"));
            let text = file.and_then(|file| std::fs::read(file).ok()).unwrap_or_default();
            ports = serde_json::from_slice(&text).unwrap_or_default();
            ports["monitoring"].is_array()
        });
        let address = |kind: &str| {
            let url = ports[kind][0].as_str().unwrap();
            url.split_once("://").unwrap().1.parse().unwrap()
        };
        let (nats, http) = (address("nats"), address("monitoring"));
        Some((server, nats, http))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The names of all fields, with those that they are in: `jetstream.config.max_memory`.
fn names(value: &Value, within: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = format!("{within}.{name}");
                names(value, &name, found);
                found.insert(name);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| names(value, within, found)),
        _ => {}
    }
}

#[test]
fn fields_have_the_names_that_a_nats_server_gives_them() {
    /// nats-server shows these as well, if they are set.
    const IF_SET: &[&str] = &["/varz.jetstream.config.sync_always", "/jsz.config.sync_always"];
    let beside = interpreter().map(|python| python.with_file_name("nats-server"));
    let program =
        beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("nats-server"));
    let home = tempfile::tempdir().unwrap();
    let Some((_nats, nats, http)) = Nats::start(&program, home.path()) else {
        assert_ne!(std::env::var("CI").ok().as_deref(), Some("true"), "there is no nats-server");
        println!("skipped: there is no nats-server; tests/all.sh sets it up");
        return;
    };
    let server = Serving::start();
    let (our_nats, our_http) = (address(&server, "nats"), address(&server, "http"));
    let _clients = [busy_client(nats), busy_client(our_nats)];
    for path in ["/varz", "/connz", "/subsz", ALL] {
        let [theirs, ours] = [http, our_http].map(|http| {
            let mut found = BTreeSet::new();
            let within = path.split('?').next().unwrap();
            names(&json_of(http, path), within, &mut found);
            found
        });
        let invented: Vec<_> = ours
            .difference(&theirs)
            // What a server says of itself in metadata depends on its version.
            .filter(|name| !name.contains(".metadata._nats.") && !IF_SET.contains(&name.as_str()))
            .collect();
        assert!(invented.is_empty(), "{path}: {invented:?}");
        assert!(ours.len() * 3 > theirs.len(), "{path} has {} of {}", ours.len(), theirs.len());
    }
}
