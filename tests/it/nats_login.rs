//! Who is let in over NATS, and what they may do. Where nats-server does the same, it is asked the same.

use std::time::Duration;

use base64::Engine as _;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::nats_wire::{Server, Wire, publish};

/// A key of NATS's documentation, and the seed of it without its prefix and checksum, in base 16.
pub(crate) const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
const SEED: &str = "29497ba00f41dd45936b4cc4bda1decb67c128e69fb3d490ee820daf7c318c0a";
/// Of `hunter2`.
const BCRYPT: &str = "$2b$04$abcdefghijklmnopqrstuuV3duMsC0HpUex6N9qapiuOHHWkwRXVm";
const ARGON2: &str = "$argon2id$v=19$m=256,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$y4SLniVRQwDdC5zaJfAw61JJdUYokRHWL+qh8q+w8Nc";

const VIOLATION: &str = "-ERR 'Authorization Violation'\r\n<closed>";

/// The users of most tests, for this server.
fn yaml() -> String {
    format!(
        r#"
users:
  - {{name: admin, password: secret}}
  - name: lim
    password: secret
    permissions:
      publish: {{allow: ["ok.>", "$JS.API.>", "$JS.ACK.>"], deny: ["ok.no"]}}
      subscribe:
        allow: ["_INBOX.>", "foo.*", "bar v1.>", "baz", "baz q1", "wide.>"]
        deny: ["foo.x", "wide.secret", "baz q1"]
  - name: deny
    password: secret
    permissions: {{subscribe: {{deny: ["secret.>", "half q", "> prod"]}}}}
  - name: resp
    password: secret
    permissions: {{subscribe: [svc, "_INBOX.>"], allow_responses: true}}
  - name: twice
    password: secret
    permissions: {{subscribe: svc, publish: x, allow_responses: {{max: 2, expires: 1m}}}}
  - {{name: hashed, password: "{BCRYPT}"}}
  - {{name: newer, password: "{ARGON2}"}}
  - {{name: kim, nkey: {KEY}, permissions: {{publish: kim}}}}
"#
    )
}

/// The same for nats-server, which knows no argon2.
fn configuration() -> String {
    format!(
        r#"authorization {{ users = [
  {{user: admin, password: secret}},
  {{user: lim, password: secret, permissions: {{
    publish: {{allow: ["ok.>", "$JS.API.>", "$JS.ACK.>"], deny: ["ok.no"]}},
    subscribe: {{allow: ["_INBOX.>", "foo.*", "bar v1.>", "baz", "baz q1", "wide.>"],
                deny: ["foo.x", "wide.secret", "baz q1"]}}}}}},
  {{user: deny, password: secret, permissions: {{
    subscribe: {{deny: ["secret.>", "half q", "> prod"]}}}}}},
  {{user: resp, password: secret, permissions: {{
    subscribe: ["svc", "_INBOX.>"], allow_responses: true}}}},
  {{user: twice, password: secret, permissions: {{
    subscribe: ["svc"], publish: ["x"], allow_responses: {{max: 2, expires: "1m"}}}}}},
  {{user: hashed, password: "{BCRYPT}"}},
  {{nkey: {KEY}, permissions: {{publish: ["kim"]}}}}
] }}"#
    )
}

fn both() -> Vec<Server> {
    Server::both(&yaml(), &configuration())
}

fn user(name: &str) -> Value {
    json!({"user": name, "pass": "secret"})
}

fn forbidden(what: &str) -> String {
    format!("-ERR 'Permissions Violation for {what}'\r\n")
}

/// The signature of what INFO asks to sign.
pub(crate) fn sign(nonce: &str) -> String {
    let byte = |at| u8::from_str_radix(&SEED[at..at + 2], 16).unwrap();
    let seed: Vec<u8> = (0..SEED.len()).step_by(2).map(byte).collect();
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(pair.sign(nonce.as_bytes()))
}

#[test]
fn passwords_let_in_their_users_alone() {
    for server in both() {
        let mut wire = Wire::open(&server.address());
        assert_eq!(wire.info["auth_required"], true);
        assert_eq!(wire.connect(&user("admin")), "");
        assert_eq!(server.client(&json!({"user": "hashed", "pass": "hunter2"})).ask(""), "");
        for wrong in [
            json!({}),
            json!({"user": "admin"}),
            json!({"user": "admin", "pass": "Secret"}),
            json!({"user": "nobody", "pass": "secret"}),
            json!({"user": "hashed", "pass": "hunter3"}),
            json!({"user": "hashed", "pass": BCRYPT}),
            json!({"user": "", "pass": ""}),
            json!({"auth_token": "secret"}),
            json!({"nkey": KEY}),
            json!({"jwt": "e30.e30.e30"}),
            // CVE-2022-24450: what a client says of its account changes nothing.
            json!({"account": "$SYS", "new_account": true}),
        ] {
            let mut wire = Wire::open(&server.address());
            assert_eq!(wire.connect(&wrong), VIOLATION, "{} {wrong}", server.name());
        }
    }
    let server = Server::ours(&yaml());
    server.client(&json!({"user": "newer", "pass": "hunter2"}));
    let mut wire = Wire::open(&server.address());
    assert_eq!(wire.connect(&json!({"user": "newer", "pass": "hunter3"})), VIOLATION);
}

#[test]
fn tokens_let_in_beside_users() {
    let server = Server::ours(&format!("server: {{auth: {{token: t0ken}}}}\n{}", yaml()));
    assert_eq!(server.client(&json!({"auth_token": "t0ken"})).ask(&publish("any", "", "")), "");
    server.client(&user("admin"));
    for wrong in [json!({"auth_token": "token"}), json!({"user": "t0ken"}), json!({})] {
        assert_eq!(Wire::open(&server.address()).connect(&wrong), VIOLATION, "{wrong}");
    }
}

#[test]
fn keys_let_in_who_signs_the_nonce_of_this_connection() {
    for server in both() {
        let mut wire = Wire::open(&server.address());
        let nonce = wire.info["nonce"].as_str().expect("there are keys").to_owned();
        assert_eq!(nonce.len(), 15, "{nonce}");
        let signed = json!({"nkey": KEY, "sig": sign(&nonce)});
        assert_eq!(wire.connect(&signed), "", "{}", server.name());
        assert_eq!(wire.ask(&publish("kim", "", "")), "");
        assert_eq!(wire.ask(&publish("x", "", "")), forbidden("Publish to \"x\""));
        // What was signed on one connection is worth nothing on another.
        let mut other = Wire::open(&server.address());
        assert_eq!(other.connect(&signed), VIOLATION, "{}", server.name());
        // secnote-2026-23: signatures that are too short.
        for wrong in ["", "AA", "not base 64!"] {
            let mut wire = Wire::open(&server.address());
            assert_eq!(wire.connect(&json!({"nkey": KEY, "sig": wrong})), VIOLATION);
        }
    }
}

/// secnote-2026-16 and -24 of nats-server: a first operation other than CONNECT that was carried out.
#[test]
fn nothing_is_done_before_connect() {
    for server in both() {
        let mut admin = server.client(&user("admin"));
        admin.ask("SUB > 1\r\n");
        for first in [
            publish("a", "", ""),
            publish("$JS.API.INFO", "a", ""),
            "HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n".to_owned(),
            "SUB > 1\r\n".to_owned(),
            "UNSUB 1\r\n".to_owned(),
            "PING\r\n".to_owned(),
        ] {
            let mut wire = Wire::open(&server.address());
            wire.send(&first);
            let said = wire.until("<never>");
            let is_refused = said == VIOLATION || (first.starts_with('H') && said == "<closed>");
            assert!(is_refused, "{} {first:?}: {said}", server.name());
        }
        assert_eq!(admin.ask(""), "", "{}", server.name());
    }
}

/// CVE-2026-33218 and others: a CONNECT that is malformed, or comes twice, ended the server.
#[test]
fn a_second_connect_is_another_login() {
    for server in both() {
        let mut wire = server.client(&user("lim"));
        assert_eq!(wire.connect(&user("admin")), "");
        assert_eq!(wire.ask(&publish("anything", "", "")), "", "{}", server.name());
        assert_eq!(wire.connect(&user("lim")), "");
        assert_eq!(wire.ask(&publish("any", "", "")), forbidden("Publish to \"any\""));
        let wrong = json!({"user": "admin", "pass": "wrong"});
        assert_eq!(wire.connect(&wrong), VIOLATION, "{}", server.name());
        for malformed in ["CONNECT {\r\n", "CONNECT [1]\r\n", "CONNECT {\"user\":1}\r\n"] {
            let mut wire = Wire::open(&server.address());
            let said = wire.ask(malformed);
            assert!(said.ends_with("<closed>"), "{} {malformed:?}: {said}", server.name());
        }
        server.client(&user("admin"));
    }
}

/// What was subscribed to under one user does not go on under another.
#[test]
fn subscriptions_end_with_the_login_that_permitted_them() {
    let server = Server::ours(&yaml());
    let mut wire = server.client(&user("admin"));
    assert_eq!(wire.ask("SUB secret.a 1\r\n"), "");
    assert_eq!(wire.connect(&user("deny")), "");
    server.client(&user("admin")).ask(&publish("secret.a", "", "x"));
    assert_eq!(wire.ask(""), "");
}

#[test]
fn what_is_forbidden_to_publish_is_said_and_not_done() {
    for server in both() {
        let mut admin = server.client(&user("admin"));
        admin.ask("SUB > 1\r\n");
        let mut lim = server.client(&user("lim"));
        assert_eq!(lim.ask(&publish("ok.a", "", "1")), "");
        assert_eq!(lim.ask(&publish("ok.*", "", "2")), "");
        for (subject, quoted) in
            [("ok.no", "ok.no"), ("zz", "zz"), ("*.no", "*.no"), ("z\"qé\\", "z\\\"qé\\\\")]
        {
            let expected = forbidden(&format!("Publish to \"{quoted}\""));
            assert_eq!(lim.ask(&publish(subject, "", "")), expected, "{}", server.name());
        }
        // In a row, those that are permitted arrive.
        let row = publish("no", "", "") + &publish("ok.b", "", "3") + &publish("ok.no", "", "");
        let said = forbidden("Publish to \"no\"") + &forbidden("Publish to \"ok.no\"");
        assert_eq!(lim.ask(&row), said, "{}", server.name());
        let came = "MSG ok.a 1 1\r\n1\r\nMSG ok.* 1 1\r\n2\r\nMSG ok.b 1 1\r\n3\r\n";
        assert_eq!(admin.ask(""), came, "{}", server.name());
        let mut verbose = Wire::open(&server.address());
        let mut options = user("lim");
        options["verbose"] = true.into();
        assert_eq!(verbose.connect(&options), "+OK\r\n");
        let words = publish("ok.a", "", "") + &publish("no", "", "") + "SUB no 1\r\nSUB baz 2\r\n";
        let said = "+OK\r\n".to_owned()
            + &forbidden("Publish to \"no\"")
            + &forbidden("Subscription to \"no\"")
            + "+OK\r\n";
        assert_eq!(verbose.ask(&words), said, "{}", server.name());
    }
}

#[test]
fn what_is_forbidden_to_subscribe_to_is_said_and_not_done() {
    for server in both() {
        let mut lim = server.client(&user("lim"));
        for permitted in
            ["foo.a", "foo.*", "bar v1.a", "baz", "wide.>", "wide.*", "wide.secret.x", "_INBOX.>"]
        {
            let said = lim.ask(&format!("SUB {permitted} 9\r\nUNSUB 9\r\n"));
            assert_eq!(said, "", "{} {permitted}", server.name());
        }
        for refused in ["foo.x", ">", "*", "bar", "bar v2", "baz q1", "baz q2", "wide.secret", "no"]
        {
            let text = match refused.split_once(' ') {
                Some((subject, queue)) => {
                    format!("Subscription to \"{subject}\" using queue \"{queue}\"")
                }
                None => format!("Subscription to \"{refused}\""),
            };
            let said = lim.ask(&format!("SUB {refused} 9\r\n"));
            assert_eq!(said, forbidden(&text), "{}", server.name());
        }
        let mut deny = server.client(&user("deny"));
        for (subscription, is_permitted) in [
            ("secret.a", false),
            ("secret.>", false),
            (">", true),
            ("*", true),
            ("half", true),
            ("half q", false),
            ("half r", true),
            ("x prod", false),
            ("x dev", true),
        ] {
            let said = deny.ask(&format!("SUB {subscription} 9\r\nUNSUB 9\r\n"));
            assert_eq!(said.is_empty(), is_permitted, "{} {subscription}", server.name());
        }
    }
    // Here nats-server lets a client have more than it may.
    let server = Server::ours(&yaml());
    let said = server.client(&user("lim")).ask("SUB foo.> 9\r\n");
    assert_eq!(said, forbidden("Subscription to \"foo.>\""));
}

/// CVE-2022-29946, secnote-2026-17 and -18: wildcards and queue groups that led around a denial.
#[test]
fn what_overlaps_a_denial_gets_only_the_rest() {
    for server in both() {
        let mut admin = server.client(&user("admin"));
        let mut lim = server.client(&user("lim"));
        lim.ask("SUB wide.> 5\r\nSUB wide.* 6\r\nSUB wide.> q 7\r\n");
        admin.ask(&(publish("wide.secret", "", "no") + &publish("wide.a", "", "yes")));
        let said = lim.ask("");
        assert_eq!(said.matches("yes").count(), 3, "{} {said}", server.name());
        assert!(!said.contains("secret"), "{} {said}", server.name());
    }
    // What one member of a group may not get, another one gets.
    let server = Server::ours(&yaml());
    let mut admin = server.client(&user("admin"));
    let mut deny = server.client(&user("deny"));
    deny.ask("SUB secret.> g 1\r\nSUB > g 2\r\n");
    admin.ask("SUB secret.* g 1\r\n");
    for _ in 0..20 {
        let said = admin.ask(&publish("secret.a", "", "x"));
        assert_eq!(said, "MSG secret.a 1 1\r\nx\r\n");
    }
    assert_eq!(deny.ask(""), "");
}

#[test]
fn answers_are_permitted_as_often_as_is_said() {
    for server in both() {
        let mut admin = server.client(&user("admin"));
        admin.ask("SUB rr.> 4\r\n");
        for (name, times) in [("resp", 1), ("twice", 2)] {
            let mut answering = server.client(&user(name));
            assert_eq!(answering.ask("SUB svc 1\r\n"), "");
            let reply = format!("rr.{name}");
            let answer = publish(&reply, "", "a");
            let refused = forbidden(&format!("Publish to \"{reply}\""));
            assert_eq!(answering.ask(&answer), refused, "{}: nothing was asked", server.name());
            admin.ask(&publish("svc", &reply, "q"));
            // The permission begins when the question arrives.
            answering.until("q\r\n");
            for _ in 0..times {
                assert!(!answering.ask(&answer).contains("-ERR"), "{} {name}", server.name());
            }
            assert_eq!(answering.ask(&answer), refused, "{} {name}", server.name());
            assert_eq!(admin.ask("").matches("MSG rr.").count(), times, "{}", server.name());
        }
    }
}

/// A stream `S` of `secret.>` and `ok.>`, with a message of each.
fn with_stream(server: &Server) -> Wire {
    let mut admin = server.client(&user("admin"));
    admin.ask("SUB _INBOX.admin 1\r\n");
    let config = r#"{"name":"S","subjects":["secret.>","ok.>"]}"#;
    admin.send(&publish("$JS.API.STREAM.CREATE.S", "_INBOX.admin", config));
    let said = admin.until("}\r\n");
    assert!(said.contains("did_create"), "{said}");
    for subject in ["secret.a", "ok.a"] {
        admin.send(&publish(subject, "_INBOX.admin", subject));
        let said = admin.until("}\r\n");
        assert!(said.contains("\"seq\""), "{said}");
    }
    admin
}

/// secnote-2026-26: what was stored passed by the denial that holds for what is published.
#[test]
fn what_is_stored_is_filtered_like_what_is_published() {
    for server in both() {
        let _admin = with_stream(&server);
        let mut deny = server.client(&user("deny"));
        deny.ask("SUB _INBOX.> 1\r\n");
        let config = r#"{"stream_name":"S","config":{"name":"c","ack_policy":"explicit"}}"#;
        deny.send(&publish("$JS.API.CONSUMER.CREATE.S.c", "_INBOX.c", config));
        deny.until("}\r\n");
        let pull = r#"{"batch":5,"no_wait":true}"#;
        deny.send(&publish("$JS.API.CONSUMER.MSG.NEXT.S.c", "_INBOX.p", pull));
        let said = deny.until("404 No Messages");
        assert!(said.contains("MSG ok.a") && !said.contains("secret"), "{} {said}", server.name());
    }
}

/// secnote-2026-20 and CVE-2026-33249: what a request names as the place for its answer made the server
/// publish where the client could not. nats-server lets most of these be.
#[test]
fn the_server_does_not_publish_where_its_client_may_not() {
    let server = Server::ours(&yaml());
    let mut admin = with_stream(&server);
    admin.ask("SUB hidden.> 2\r\nSUB plans.> 3\r\n");
    let mut lim = server.client(&user("lim"));
    lim.ask("SUB _INBOX.me 1\r\n");
    let with_reply = forbidden("Publish with Reply of \"hidden.r\"");
    let config = r#"{"stream_name":"S","config":{"name":"c","ack_policy":"explicit"}}"#;
    lim.send(&publish("$JS.API.CONSUMER.CREATE.S.c", "_INBOX.me", config));
    assert!(lim.until("}\r\n").contains("consumer_create_response"));
    for subject in [
        "$JS.API.INFO",
        "$JS.API.CONSUMER.MSG.NEXT.S.c",
        "$JS.API.DIRECT.GET.S.ok.a",
        "$JS.ACK.S.c.1.1.1.1700000000000000000.0",
    ] {
        assert_eq!(lim.ask(&publish(subject, "hidden.r", "")), with_reply, "{subject}");
    }
    let push = r#"{"stream_name":"S","config":{"name":"p","deliver_subject":"hidden.p"}}"#;
    lim.send(&publish("$JS.API.CONSUMER.CREATE.S.p", "_INBOX.me", push));
    let said = lim.until("}\r\n");
    assert!(said.contains("Permissions Violation"), "{said}");
    // It is stored, and the answer goes nowhere.
    assert_eq!(lim.ask(&publish("ok.stored", "hidden.r", "x")), "");
    lim.send(&publish("$JS.API.STREAM.INFO.S", "_INBOX.me", ""));
    assert!(lim.until("}\r\n").contains("\"messages\":3"));
    let headers = "NATS/1.0\r\nNats-Schedule: @daily\r\nNats-Schedule-Target: secret.b\r\n\r\n";
    let size = headers.len();
    let said = lim.ask(&format!("HPUB ok.plan {size} {size}\r\n{headers}\r\n"));
    assert_eq!(said, forbidden("Publish to \"secret.b\""));
    assert_eq!(admin.ask(""), "");
}

/// CVE-2025-30215 and CVE-2026-33222: requests that were carried out for who may not make them, or on
/// another stream than the one they were checked for.
#[test]
fn requests_need_permission_for_what_they_act_on() {
    let yaml = r#"
users:
  - {name: admin, password: secret}
  - name: reader
    password: secret
    permissions:
      publish: ["$JS.API.STREAM.INFO.S", "$JS.API.STREAM.UPDATE.S", "$JS.API.CONSUMER.CREATE.S.>"]
      subscribe: "_INBOX.>"
"#;
    let server = Server::ours(yaml);
    let mut admin = with_stream(&server);
    let mut reader = server.client(&user("reader"));
    reader.ask("SUB _INBOX.me 1\r\n");
    for operation in [
        "INFO",
        "STREAM.CREATE.T",
        "STREAM.INFO.T",
        "STREAM.NAMES",
        "STREAM.LIST",
        "STREAM.DELETE.S",
        "STREAM.PURGE.S",
        "STREAM.MSG.GET.S",
        "STREAM.MSG.DELETE.S",
        "DIRECT.GET.S",
        "DIRECT.GET.S.secret.a",
        "CONSUMER.CREATE.T.c",
        "CONSUMER.DURABLE.CREATE.S.c",
        "CONSUMER.INFO.S.c",
        "CONSUMER.DELETE.S.c",
        "CONSUMER.MSG.NEXT.S.c",
        "CONSUMER.PAUSE.S.c",
        "BATCH.PUBLISH",
        "SCHEDULE.DELETE.S",
        "DEAD.DROP.S",
    ] {
        let subject = format!("$JS.API.{operation}");
        let said = reader.ask(&publish(&subject, "_INBOX.me", "{}"));
        assert_eq!(said, forbidden(&format!("Publish to \"{subject}\"")));
    }
    for (operation, body) in [
        ("STREAM.UPDATE.S", r#"{"name":"T","subjects":["x"]}"#),
        ("CONSUMER.CREATE.S.c", r#"{"stream_name":"T","config":{"name":"c"}}"#),
    ] {
        reader.send(&publish(&format!("$JS.API.{operation}"), "_INBOX.me", body));
        let said = reader.until("}\r\n");
        assert!(said.contains("10056"), "{operation}: {said}");
    }
    admin.send(&publish("$JS.API.STREAM.INFO.S", "_INBOX.admin", ""));
    assert!(admin.until("}\r\n").contains("\"messages\":2"));
}

/// CVE-2026-33216 and others: secrets in what a server tells of itself.
#[test]
fn secrets_are_not_told() {
    let server = Server::ours(&yaml());
    let wrong = json!({"user": "admin", "pass": "5ecret-of-a-client"});
    assert_eq!(Wire::open(&server.address()).connect(&wrong), VIOLATION);
    let Server::Ours(serving) = &server else { panic!("it is ours") };
    let talk = serving.talk();
    assert!(talk.contains("plain text") && talk.contains("admin"), "{talk}");
    assert!(!talk.contains("secret") && !talk.contains("5ecret") && !talk.contains("$2b$"));
}

#[test]
fn users_protect_a_server_that_others_can_reach() {
    let arguments = ["--nats", "0.0.0.0:0", "--http", "0.0.0.0:0"];
    let server = Server::ours_with(&yaml(), &arguments);
    let port = server.address().rsplit_once(':').unwrap().1.to_owned();
    let mut wire = Wire::open(&format!("127.0.0.1:{port}"));
    assert_eq!(wire.connect(&json!({})), VIOLATION);
}

/// A client that says nothing keeps no place.
#[test]
fn time_to_log_in_is_limited() {
    let yaml = format!("server: {{connections: {{nats_login: 100ms}}}}\n{}", yaml());
    let server = Server::ours(&yaml);
    let mut wire = Wire::open(&server.address());
    assert_eq!(wire.until("<never>"), "-ERR 'Authentication Timeout'\r\n<closed>");
}

/// Something that a library does, in the time it may take.
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let limit = tokio::time::timeout(Duration::from_secs(20), work);
    limit.await.unwrap_or_else(|_| panic!("no {what} in time"))
}

#[tokio::test]
async fn a_client_library_logs_in() {
    let server = tokio::task::spawn_blocking(|| Server::ours(&yaml())).await.unwrap();
    let connect = |user: &str, password: &str| {
        async_nats::ConnectOptions::new()
            .user_and_password(user.to_owned(), password.to_owned())
            .connect(format!("nats://{}", server.address()))
    };
    let admin = in_time("login", connect("admin", "secret")).await.unwrap();
    let error = in_time("refusal", connect("admin", "wrong")).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::ConnectErrorKind::AuthorizationViolation);
    let answering = in_time("login", connect("resp", "secret")).await.unwrap();
    let mut heard = answering.subscribe("svc").await.unwrap();
    in_time("flush", answering.flush()).await.unwrap();
    let answer = async {
        let question = heard.next().await.unwrap();
        answering.publish(question.reply.unwrap(), "yes".into()).await.unwrap();
        answering.flush().await.unwrap();
    };
    let ask = async {
        loop {
            // Until the subscription has arrived, nobody answers.
            match admin.request("svc", "?".into()).await {
                Ok(answer) => return answer.payload,
                Err(error) => assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders),
            }
        }
    };
    let (answered, ()) = in_time("answer", async { tokio::join!(ask, answer) }).await;
    assert_eq!(answered, "yes");
}
