//! What went wrong in nats-server, by its published advisories, tried on this server: requests and
//! operations that no client sends. Those of logins and permissions are in `nats_login`, those of
//! certificates in `nats_tls`, those of configurations and keys beside the code in `src/server/login`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::monitoring::get;
use crate::nats_wire::{Server, Wire, publish};
use crate::serving::{Serving, until};
use crate::web_socket::{BINARY, LAST, WebSocket};

/// Where answers go.
const INBOX: &str = "_INBOX.me";

fn serving(server: &Server) -> &Serving {
    let Server::Ours(serving) = server else { panic!("it is ours") };
    serving
}

/// Where a listener is, as the ready file says; nothing if it is not there.
fn listener(serving: &Serving, name: &str) -> Option<String> {
    let ready: Value =
        serde_json::from_slice(&std::fs::read(serving.path("ready.json")).unwrap()).unwrap();
    ready[name].as_str().map(str::to_owned)
}

/// A client that hears its answers.
fn client(server: &Server) -> Wire {
    let mut client = server.client(&json!({}));
    assert_eq!(client.ask(&format!("SUB {INBOX} 1\r\n")), "");
    client
}

/// The JSON that answers a request.
fn request(client: &mut Wire, operation: &str, body: &str) -> Value {
    client.send(&publish(&format!("$JS.API.{operation}"), INBOX, body));
    let head = client.until("\r\n");
    assert!(head.starts_with("MSG "), "{operation} {body}: {head}");
    let line = client.until("\r\n");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{operation} {body}: {error} {line}"))
}

/// CVE-2026-33218, CVE-2026-29785, secnote-2026-19: operations that come in another order, or twice, or
/// in part, ended the server.
#[test]
fn operations_in_any_order_end_one_connection_at_most() {
    const CONNECT: &str = "CONNECT {\"headers\":true}\r\n";
    let server = Server::ours("");
    let operations = [
        CONNECT,
        "CONNECT {}\r\n",
        "CONNECT null\r\n",
        "CONNECT {\"protocol\":99}\r\n",
        "CONNECT {\"user\":[],\"pass\":{}}\r\n",
        "CONNECT {\"nkey\":\"\",\"sig\":\"\"}\r\n",
        "INFO {}\r\n",
        "INFO\r\n",
        "PING\r\n",
        "PONG\r\n",
        "+OK\r\n",
        "-ERR 'x'\r\n",
        "SUB a 1\r\n",
        "SUB a\r\n",
        "UNSUB 1 -1\r\n",
        "UNSUB 99\r\n",
        "PUB a 0\r\n\r\n",
        "PUB a 1\r\nxy\r\n",
        "PUB\r\n",
        "HPUB a 0 0\r\n\r\n",
        "HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        "HPUB a 5 2\r\nxx\r\n",
        "MSG a 1 0\r\n\r\n",
        "RS+ a b\r\n",
        "LS- a\r\n",
        "A+ x\r\n",
        "\r\n",
        "\0\0\r\n",
    ];
    for first in operations {
        for before in ["", CONNECT] {
            let mut wire = Wire::open(&server.address());
            wire.send(&format!("{before}{first}{first}"));
        }
        for second in operations {
            Wire::open(&server.address()).send(&format!("{first}{second}"));
        }
    }
    assert_eq!(client(&server).ask("SUB a 2\r\nPUB a 1\r\nx\r\n"), "MSG a 2 1\r\nx\r\n");
}

/// CVE-2026-27889: a length of 64 bits was added to another one.
#[test]
fn lengths_that_cannot_be_end_the_connection() {
    let server = Server::ours("");
    let lengths =
        [1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX - 13, u64::MAX];
    for length in lengths {
        for operation in [
            format!("PUB a {length}\r\n"),
            format!("HPUB a 12 {length}\r\nNATS/1.0\r\n\r\n"),
            format!("HPUB a {length} {length}\r\n"),
        ] {
            let mut wire = client(&server);
            wire.send(&operation);
            assert!(wire.until("<never>").ends_with("<closed>"), "{operation}");
        }
        let http = listener(serving(&server), "http").unwrap().parse().unwrap();
        let mut socket = WebSocket::open(http, "/nats", &[]).unwrap();
        socket.line();
        let head = [&[LAST | BINARY, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat();
        socket.raw(&head);
        assert!(socket.ends(), "{length}");
    }
    client(&server);
}

/// CVE-2026-27571: what was small became large before anybody had logged in. There is no compression.
#[test]
fn nothing_is_decompressed() {
    let server = Server::ours("");
    let http = listener(serving(&server), "http").unwrap().parse().unwrap();
    let offer = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")];
    let mut socket = WebSocket::open(http, "/nats", &offer).unwrap();
    assert!(!socket.head().to_ascii_lowercase().contains("sec-websocket-extensions"));
    socket.line();
    // A frame that says it is compressed.
    socket.frame(LAST | 0x40 | BINARY, &[0x4a, 0x4c, 0xa4, 0x3d, 0, 0]);
    assert!(socket.ends());
    let mut wire = Wire::open(&server.address());
    assert!(wire.info.get("compression").is_none(), "{}", wire.info);
    assert_eq!(wire.connect(&json!({"compression": "s2_auto"})), "");
}

/// CVE-2026-33219, secnote-2026-25: who had not logged in kept memory. That it is not for long is another
/// test.
#[test]
fn strangers_keep_little_memory() {
    const STRANGERS: usize = 300;
    /// What a connection costs, and one line of 4 KiB that has not ended.
    const EACH: usize = 17 << 10;
    let yaml = "users: [{name: ann, password: secret}]\nserver: {connections: {nats_login: 60s}}";
    let server = Server::ours(yaml);
    let serving = serving(&server);
    let pid = serving.child.as_ref().unwrap().id();
    let http = listener(serving, "http").unwrap().parse().unwrap();
    let part = format!("CONNECT {{\"user\":\"{}", "x".repeat(4095 - 17));
    let mut strangers = Vec::new();
    let mut hold = |count: usize| {
        strangers.extend((0..count).map(|_| {
            let mut wire = Wire::open(&server.address());
            wire.send(&part);
            wire
        }));
        let sent = u64::try_from(strangers.len() * part.len()).unwrap();
        until("all that was sent has been read", || {
            let (_, stats) = get(http, "/stats", "*/*");
            let stats: Value = serde_json::from_str(&stats).unwrap();
            stats["bytes_in"].as_u64().unwrap() >= sent
        });
        resident(pid)
    };
    // What the server needs once, it takes on the way.
    let held: Vec<usize> = (0..4).map(|_| hold(STRANGERS)).collect();
    let held = held.windows(2).map(|two| two[1].saturating_sub(two[0])).min().unwrap();
    assert!(held < STRANGERS * EACH, "{held} bytes for {STRANGERS}");
}

/// The same over WebSocket, which keeps a message until it is whole.
#[test]
fn strangers_over_websocket_keep_little_memory() {
    let yaml = "users: [{name: ann, password: secret}]\nserver: {connections: {nats_login: 60s}}";
    let server = Server::ours(yaml);
    let http = listener(serving(&server), "http").unwrap().parse().unwrap();
    let open = || {
        let mut socket = WebSocket::open(http, "/nats", &[]).unwrap();
        socket.line();
        socket
    };
    let mut stranger = open();
    // The beginning of a message of a megabyte, with the login that would permit it at its end.
    let head = [&[LAST | BINARY, 0x80 | 127][..], &(1_u64 << 20).to_be_bytes(), &[0; 4]].concat();
    stranger.raw(&head);
    stranger.raw(&[b' '; 48 << 10]);
    assert!(stranger.ends(), "it may go on");
    // Who has logged in may send as much at once.
    let mut ann = open();
    ann.send("CONNECT {\"user\":\"ann\",\"pass\":\"secret\",\"verbose\":false}\r\nPING\r\n");
    assert_eq!(ann.line(), "PONG");
    let payload = "x".repeat(1 << 20);
    ann.send(&format!("SUB a 1\r\n{}PING\r\n", publish("a", "", &payload)));
    assert_eq!(ann.line(), format!("MSG a 1 {}", payload.len()));
    assert!(ann.bytes(payload.len()) == payload.as_bytes());
}

/// Bytes of memory that a process has, but for what is mapped from files, such as the program.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// CVE-2022-28357: a name that a client chose became the name of a file.
#[test]
fn names_of_clients_are_no_names_of_files() {
    let server = Server::ours("");
    let mut client = client(&server);
    for name in ["..", "../../x", "/etc/x", "a/b", "a\\b", "x\u{0}y", &"n".repeat(256), "a b", ""] {
        let body = json!({"name": name, "subjects": ["names"]}).to_string();
        let answer = request(&mut client, "STREAM.CREATE.fine", &body);
        assert!(answer["error"].is_object(), "{name:?}: {answer}");
    }
    for name in ["CON", "-rf", "größe", "%2e%2e", &"n".repeat(255)] {
        let body = json!({"name": name, "subjects": [format!("names.{name}")]}).to_string();
        let answer = request(&mut client, &format!("STREAM.CREATE.{name}"), &body);
        assert_eq!(answer["config"]["name"], name, "{answer}");
        let consumer = json!({"stream_name": name, "config": {"durable_name": name, "name": name}});
        let operation = format!("CONSUMER.CREATE.{name}.{name}");
        let answer = request(&mut client, &operation, &consumer.to_string());
        assert_eq!(answer["name"], name, "{answer}");
        client.send(&publish(&format!("names.{name}"), INBOX, "x"));
        assert!(client.until("}\r\n").contains("\"seq\""));
    }
    let serving = serving(&server);
    let mut found = Vec::new();
    files(serving.home.path(), &mut found);
    assert!(found.len() > 3, "{found:?}");
    for file in found {
        for named in ["CON", "-rf", "größe", "%2e", "nnn"] {
            assert!(!file.contains(named), "{file}");
        }
    }
}

/// Paths below a folder.
fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        found.push(path.strip_prefix(folder).unwrap().display().to_string());
        if path.is_dir() {
            files(&path, found);
        }
    }
}

/// CVE-2022-42708, secnote-2026-28, and panics of 2026: numbers that are too large or too small, sums of
/// them, and fields that are nothing.
#[test]
fn fields_that_make_no_sense_are_answered() {
    let server = Server::ours("");
    let mut client = client(&server);
    let stream = json!({"name": "S", "subjects": ["s.>"], "storage": "memory"});
    assert!(request(&mut client, "STREAM.CREATE.S", &stream.to_string())["error"].is_null());
    for (operation, within, fields) in [
        ("STREAM.CREATE.X", "", STREAM_FIELDS),
        ("STREAM.UPDATE.S", "", STREAM_FIELDS),
        ("CONSUMER.CREATE.S.x", "config", CONSUMER_FIELDS),
        ("STREAM.NAMES", "", LIST_FIELDS),
        ("STREAM.LIST", "", LIST_FIELDS),
        ("STREAM.INFO.S", "", LIST_FIELDS),
        ("CONSUMER.NAMES.S", "", LIST_FIELDS),
        ("CONSUMER.LIST.S", "", LIST_FIELDS),
        ("SCHEDULE.LIST", "", LIST_FIELDS),
        ("DEAD.LIST.S", "", LIST_FIELDS),
        ("STREAM.PURGE.S", "", GET_FIELDS),
        ("STREAM.MSG.GET.S", "", GET_FIELDS),
        ("STREAM.MSG.DELETE.S", "", GET_FIELDS),
        ("CONSUMER.PAUSE.S.x", "", &["pause_until"]),
    ] {
        for field in fields {
            for value in ABSURD {
                let body = body(operation, within, field, value);
                request(&mut client, operation, &body);
                request(&mut client, "STREAM.DELETE.X", "");
                request(&mut client, "CONSUMER.DELETE.S.x", "");
            }
        }
    }
    let consumer =
        "{\"stream_name\":\"S\",\"config\":{\"durable_name\":\"c\",\"ack_policy\":\"explicit\"}}";
    assert_eq!(request(&mut client, "CONSUMER.DURABLE.CREATE.S.c", consumer)["name"], "c");
    let pull = |body: &str| publish("$JS.API.CONSUMER.MSG.NEXT.S.c", INBOX, body);
    // Together more than can be counted.
    let huge = pull("{\"batch\":9223372036854775807,\"expires\":9223372036854775807}");
    client.send(&huge.repeat(3));
    client.send(&pull("{\"batch\":1,\"no_wait\":true}"));
    assert!(client.until("\r\n\r\n\r\n").contains("404 No Messages"));
    let update = request(&mut client, "STREAM.INFO.S", "");
    assert_eq!(update["config"]["name"], "S", "{update}");
    // Monitoring pages too.
    let http = listener(serving(&server), "http").unwrap().parse().unwrap();
    for page in ["/connz", "/subsz", "/jsz"] {
        for number in ["-1", "9223372036854775807", "18446744073709551615", "1e308", "x"] {
            let (status, _) = get(http, &format!("{page}?offset={number}&limit={number}"), "*/*");
            assert!(status == 200 || status == 400, "{page} {number}: {status}");
        }
    }
}

/// A body that is as it should be but for one field.
fn body(operation: &str, within: &str, field: &str, value: &str) -> String {
    let rest = match operation.split_once('.').map(|(kind, _)| kind) {
        Some("STREAM") if operation.ends_with(".X") => "\"name\":\"X\",\"subjects\":[\"x\"],",
        Some("STREAM") if operation.contains("UPDATE") => "\"name\":\"S\",\"subjects\":[\"s.>\"],",
        Some("CONSUMER") if within == "config" => "\"name\":\"x\",",
        _ => "",
    };
    let fields = format!("{{{rest}\"{field}\":{value}}}");
    if within.is_empty() {
        return fields;
    }
    format!("{{\"stream_name\":\"S\",\"{within}\":{fields}}}")
}

const ABSURD: &[&str] = &[
    "null",
    "-1",
    "0",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "\"x\"",
    "[null]",
    "{}",
];

const STREAM_FIELDS: &[&str] = &[
    "consumer_limits",
    "duplicate_window",
    "first_seq",
    "max_age",
    "max_bytes",
    "max_consumers",
    "max_msg_size",
    "max_msgs",
    "max_msgs_per_subject",
    "metadata",
    "mirror",
    "num_replicas",
    "placement",
    "republish",
    "retention",
    "sources",
    "subject_delete_marker_ttl",
    "subject_transform",
    "subjects",
];

const CONSUMER_FIELDS: &[&str] = &[
    "ack_policy",
    "ack_wait",
    "backoff",
    "deliver_group",
    "deliver_subject",
    "filter_subject",
    "filter_subjects",
    "idle_heartbeat",
    "inactive_threshold",
    "max_ack_pending",
    "max_batch",
    "max_bytes",
    "max_deliver",
    "max_expires",
    "max_waiting",
    "num_replicas",
    "opt_start_seq",
    "opt_start_time",
    "pause_until",
    "priority_groups",
    "priority_timeout",
    "rate_limit_bps",
    "sample_freq",
];

const LIST_FIELDS: &[&str] = &["offset", "limit", "subject", "subjects_filter", "deleted_details"];

const GET_FIELDS: &[&str] =
    &["seq", "keep", "filter", "last_by_subj", "next_by_subj", "start_time", "no_erase"];

/// CVE-2020-28466, CVE-2022-42709: what leads to itself ended the server.
#[test]
fn circles_are_refused_or_end() {
    let server = Server::ours("");
    let mut client = client(&server);
    let mut create = |config: Value| {
        let name = config["name"].as_str().unwrap().to_owned();
        request(&mut client, &format!("STREAM.CREATE.{name}"), &config.to_string())
    };
    for refused in [
        json!({"name": "A", "sources": [{"name": "A"}]}),
        json!({"name": "A", "mirror": {"name": "A"}}),
        json!({"name": "A", "subjects": ["a.>"], "republish": {"src": ">", "dest": "a.>"}}),
        json!({"name": "A", "subjects": ["a.>"], "republish": {"src": "a.>", "dest": "a.b.>"}}),
    ] {
        let answer = create(refused.clone());
        assert!(answer["error"].is_object(), "{refused}: {answer}");
    }
    for made in [
        json!({"name": "A", "subjects": ["a.>"], "sources": [{"name": "B"}]}),
        json!({"name": "P", "subjects": ["p.>"], "republish": {"src": "p.>", "dest": "q.>"}}),
        json!({"name": "Q", "subjects": ["q.>"], "republish": {"src": "q.>", "dest": "p.>"}}),
    ] {
        let answer = create(made);
        assert!(answer["error"].is_null(), "{answer}");
    }
    for closing in [
        json!({"name": "B", "subjects": ["b.>"], "sources": [{"name": "A"}]}),
        json!({"name": "B", "mirror": {"name": "A"}}),
    ] {
        let answer = create(closing.clone());
        assert!(answer["error"].is_object(), "{closing}: {answer}");
    }
    // Two streams that hand each message to the other stop doing so.
    client.send(&publish("p.x", INBOX, "x"));
    assert!(client.until("}\r\n").contains("\"seq\""));
    let mut counts = [0; 2];
    until("the messages have stopped going round", || {
        let now = ["P", "Q"].map(|name| {
            let info = request(&mut client, &format!("STREAM.INFO.{name}"), "");
            info["state"]["messages"].as_u64().unwrap()
        });
        std::mem::replace(&mut counts, now) == now && now[0] > 0
    });
    assert!(counts.iter().sum::<u64>() < 100, "{counts:?}");
}

/// CVE-2026-33223, CVE-2026-33246, secnote-2026-20: headers that a client had made up were believed.
#[test]
fn headers_of_the_server_are_its_own() {
    let server = Server::ours("");
    let mut client = client(&server);
    assert_eq!(client.ask("SUB trace.> 2\r\n"), "");
    let stream = json!({"name": "S", "subjects": ["s.>"], "allow_direct": true});
    assert!(request(&mut client, "STREAM.CREATE.S", &stream.to_string())["error"].is_null());
    let headers = "NATS/1.0\r\nNats-Trace-Dest: trace.all\r\nNats-Trace-Only: true\r\n\
                   Nats-Sequence: 99\r\nnats-sequence: 98\r\nNats-Subject: other\r\n\
                   Nats-Stream: OTHER\r\nNats-Time-Stamp: 1970-01-01T00:00:00Z\r\n\
                   Nats-Request-Info: {\"acc\":\"SYS\"}\r\nNats-Num-Pending: 7\r\nStatus: 503\r\n\r\n";
    let size = headers.len();
    client.send(&format!("HPUB s.a {INBOX} {size} {}\r\n{headers}x\r\n", size + 1));
    client.until("\r\n");
    assert!(client.until("\r\n").contains("\"seq\":1"));
    // The server's own come last, as in nats-server, and none of the others is among them.
    let got = request(&mut client, "STREAM.MSG.GET.S", "{\"seq\":1}");
    assert_eq!((&got["message"]["seq"], &got["message"]["subject"]), (&json!(1), &json!("s.a")));
    let consumer =
        "{\"stream_name\":\"S\",\"config\":{\"durable_name\":\"c\",\"ack_policy\":\"explicit\"}}";
    assert_eq!(request(&mut client, "CONSUMER.DURABLE.CREATE.S.c", consumer)["name"], "c");
    let pull = publish("$JS.API.CONSUMER.MSG.NEXT.S.c", INBOX, "{\"batch\":1}");
    client.send(&pull);
    let line = client.until("\r\n");
    assert!(line.starts_with("HMSG s.a 1 $JS.ACK.S.c.1.1.1."), "{line}");
    client.until("x\r\n");
    assert_eq!(client.ask(""), "", "nothing is traced");
}

/// secnote-2026-22: line ends in one place became operations in another.
#[test]
fn nothing_is_smuggled_into_what_others_are_told() {
    let server = Server::ours("");
    let mut client = client(&server);
    let mut listening = server.client(&json!({}));
    assert_eq!(listening.ask("SUB > 1\r\n"), "");
    let serving = serving(&server);
    for bad in ["a b", "a\tb", "a\r\nPUB b 1\r\nx", "a..b"] {
        for command in ["publish", "request"] {
            let (code, talk) = serving.fails(&[command, bad, "x"]);
            assert!(code > 0, "{command} {bad:?}: {talk}");
        }
        for (operation, body) in [
            ("STREAM.CREATE.S", json!({"name": "S", "subjects": [bad]})),
            (
                "STREAM.CREATE.S",
                json!({"name": "S", "subjects": ["s"], "republish": {"src": "s", "dest": bad}}),
            ),
        ] {
            let answer = request(&mut client, operation, &body.to_string());
            assert!(answer["error"].is_object(), "{body}: {answer}");
        }
    }
    let (code, talk) = serving.fails(&["publish", "fine", "x", "-H", "A:b\r\nStatus: 503"]);
    assert!(code > 0, "{talk}");
    let stream = json!({"name": "S", "subjects": ["s"], "storage": "memory"}).to_string();
    assert!(request(&mut client, "STREAM.CREATE.S", &stream)["error"].is_null());
    for (field, bad) in [
        ("deliver_subject", "a\r\n+OK"),
        ("deliver_subject", "a b"),
        ("filter_subject", "s\r\n"),
        ("durable_name", "a\r\nb"),
        ("name", "a b"),
    ] {
        let mut config = json!({"deliver_subject": "fine"});
        config[field] = bad.into();
        let body = json!({"stream_name": "S", "config": config}).to_string();
        let answer = request(&mut client, "CONSUMER.CREATE.S", &body);
        assert!(answer["error"].is_object(), "{body}: {answer}");
    }
    // The other client was told of requests, answers and advisories, each of them whole.
    listening.send("PING\r\n");
    let said = listening.until("PONG\r\n");
    assert!(!said.contains("\r\n+OK") && !said.contains("Status: 503"), "{said}");
    assert!(!said.lines().any(|line| line == "x"), "{said}");
}

/// CVE-2026-33216, CVE-2026-33247, CVE-2020-26149: secrets in monitoring pages.
#[test]
fn monitoring_tells_no_secrets() {
    const SECRETS: [&str; 4] = ["5ecret-of-ann", "5ecret-token", "5ecret-wrong", "$2b$04$abcdef"];
    let server = Server::ours(
        r#"
server: {auth: {token: 5ecret-token}}
users:
  - {name: ann, password: 5ecret-of-ann}
  - {name: bob, password: "$2b$04$abcdefghijklmnopqrstuuV3duMsC0HpUex6N9qapiuOHHWkwRXVm"}
"#,
    );
    let mut ann = server.client(&json!({"user": "ann", "pass": "5ecret-of-ann", "name": "me"}));
    server.client(&json!({"auth_token": "5ecret-token"}));
    Wire::open(&server.address()).connect(&json!({"user": "ann", "pass": "5ecret-wrong"}));
    let http = listener(serving(&server), "http").unwrap().parse().unwrap();
    for page in [
        "/",
        "/varz",
        "/connz?auth=true&subs=detail&state=all",
        "/connz?auth=1&state=closed",
        "/subsz?subs=1",
        "/jsz?accounts=true&streams=true&consumers=true&config=true",
        "/healthz",
        "/accountz",
        "/routez",
        "/debug/vars",
        "/stacksz",
    ] {
        let (_, body) = get(http, page, "*/*");
        for secret in SECRETS {
            assert!(!body.contains(secret), "{page}: {body}");
        }
    }
    ann.ask(&format!("SUB {INBOX} 1\r\n"));
    let said = ann.ask(&publish("$SYS.REQ.USER.INFO", INBOX, ""));
    for secret in SECRETS {
        assert!(!said.contains(secret), "{said}");
    }
}

/// secnote-2026-27: what was off was there all the same.
#[test]
fn what_is_off_is_not_there() {
    let server = Serving::start_with(&["--nats", "off"], &[]);
    assert_eq!(listener(&server, "nats"), None);
    assert_eq!(listener(&server, "websocket"), None);
    let http = listener(&server, "http").unwrap();
    let answer = WebSocket::open(http.parse().unwrap(), "/nats", &[]).err().unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let server = Serving::start_with(&["--http", "off"], &[]);
    assert_eq!(listener(&server, "http"), None);
    let nats = listener(&server, "nats").unwrap();
    let mut stream = TcpStream::connect(nats).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /varz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    // However it closes.
    let _ = stream.read_to_end(&mut said);
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("INFO ") && !said.contains("HTTP/1.1"), "{said}");
}
