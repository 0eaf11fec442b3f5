//! A configuration file of nats-server says the same here as there: users, TLS, WebSocket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::nats_tls::{Files, client};
use crate::nats_wire::{Server, Wire, publish};
use crate::web_socket::WebSocket;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn users_of_a_file_and_those_who_say_nothing() {
    let file = "authorization {
          default_permissions { publish: [\"d.>\"] }
          users = [
            { user: ann, password: secret, permissions {
                publish { allow: \"a.>\", deny: \"a.secret\" }, subscribe: [\"a.*\", \"_INBOX.>\"] } }
            { user: bob, password: secret }
            { user: guest, permissions { pub: g, sub: g } }
          ]
        }
        no_auth_user: guest";
    let violation =
        |subject: &str| format!("-ERR 'Permissions Violation for Publish to \"{subject}\"'\r\n");
    for server in Server::both_of_file(file) {
        let name = server.name();
        let login = |user: &str| json!({"user": user, "pass": "secret"});
        let mut ann = server.client(&login("ann"));
        assert_eq!(ann.ask(&publish("a.b", "", "")), "", "{name}");
        for forbidden in ["a.secret", "d.b", "g"] {
            assert_eq!(ann.ask(&publish(forbidden, "", "")), violation(forbidden), "{name}");
        }
        let said = ann.ask("SUB b 1\r\n");
        assert_eq!(said, "-ERR 'Permissions Violation for Subscription to \"b\"'\r\n", "{name}");
        let mut bob = server.client(&login("bob"));
        assert_eq!(bob.ask(&publish("d.b", "", "")), "", "{name}");
        assert_eq!(bob.ask(&publish("a.b", "", "")), violation("a.b"), "{name}");
        let mut guest = Wire::open(&server.address());
        assert!(guest.info.get("auth_required").is_none(), "{name}: {}", guest.info);
        assert_eq!(guest.connect(&json!({})), "", "{name}");
        assert_eq!(guest.ask("SUB g 1\r\nPUB g 1\r\nx\r\n"), "MSG g 1 1\r\nx\r\n", "{name}");
        assert_eq!(guest.ask(&publish("a.b", "", "")), violation("a.b"), "{name}");
        for wrong in [login("eve"), json!({"user": "ann", "pass": "wrong"})] {
            let said = Wire::open(&server.address()).connect(&wrong);
            assert_eq!(said, "-ERR 'Authorization Violation'\r\n<closed>", "{name} {wrong}");
        }
    }
}

#[test]
fn clients_may_begin_the_handshake_or_wait_for_info() {
    let files = Files::new();
    let (cert, key, ca) = (files.path("cert"), files.path("key"), files.path("ca"));
    let file = format!(
        "tls {{ cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{ca}\", verify: true,
           handshake_first: 3s }}
         authorization {{ user: ann, password: secret }}"
    );
    for server in Server::both_of_file(&file) {
        let name = server.name();
        let shown = files.authority.client(None, "somebody");
        let config = || client(&files.authority.pem, Some(&shown));
        let login = json!({"user": "ann", "pass": "secret"});
        let mut first = Wire::before_info(&server.address()).secure(config());
        first.send("");
        first.read_info();
        assert_eq!(first.info["tls_required"], true, "{name}");
        assert_eq!(first.connect(&login), "", "{name}");
        let waits = Wire::open(&server.address());
        assert_eq!(waits.info["tls_verify"], true, "{name}");
        assert_eq!(waits.secure(config()).connect(&login), "", "{name}");
    }
}

/// What a server tells of itself by HTTP.
fn varz(server: &Server) -> Value {
    let address = server.monitor().expect("it has been asked for");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // Of HTTP 1.0 the answer comes in one piece.
    let request = format!("GET /varz HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

#[test]
fn monitoring_tells_what_is_secured() {
    let files = Files::new();
    let (cert, key, ca) = (files.path("cert"), files.path("key"), files.path("ca"));
    let tls = format!("cert_file: \"{cert}\", key_file: \"{key}\", ca_file: \"{ca}\"");
    let websocket = "listen: \"127.0.0.1:-1\"";
    for (file, what) in [
        (
            format!(
                "http: \"127.0.0.1:-1\"\ntls {{ {tls}, verify: true }}\nwebsocket {{ {websocket}, no_tls: true }}"
            ),
            json!([true, true, true]),
        ),
        (
            format!("http: \"127.0.0.1:-1\"\nwebsocket {{ {websocket}, tls {{ {tls} }} }}"),
            json!([null, null, null]),
        ),
    ] {
        for server in Server::both_of_file(&file) {
            let varz = varz(&server);
            let told = [&varz["tls_required"], &varz["tls_verify"], &varz["websocket"]["no_tls"]];
            assert_eq!(json!(told), what, "{}: {file}", server.name());
        }
    }
}

#[test]
fn web_sockets_are_secured() {
    let files = Files::new();
    let (cert, key) = (files.path("cert"), files.path("key"));
    let file = format!(
        "websocket {{ listen: \"127.0.0.1:-1\", tls {{ cert_file: \"{cert}\", key_file: \"{key}\" }} }}"
    );
    for server in Server::both_of_file(&file) {
        let name = server.name();
        let address = server.websocket().unwrap_or_else(|| panic!("{name} has none"));
        let stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let localhost = "localhost".try_into().unwrap();
        let tls = rustls::ClientConnection::new(files.trusting(), localhost).unwrap();
        let stream = Box::new(rustls::StreamOwned::new(tls, stream));
        let mut client =
            WebSocket::open_over(stream, address.parse().unwrap(), "/", &[]).expect(name);
        let info = client.line();
        let info: Value = serde_json::from_str(info.strip_prefix("INFO ").unwrap()).unwrap();
        assert_eq!((&info["tls_required"], &info["tls_available"]), (&true.into(), &true.into()));
        client.send("CONNECT {\"verbose\":false}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n");
        assert_eq!(client.line(), "MSG a 1 1", "{name}");
        assert_eq!(client.bytes(1), b"x", "{name}");
        // The listener for TCP is not secured by that.
        assert_eq!(Wire::open(&server.address()).connect(&json!({})), "", "{name}");
    }
}
