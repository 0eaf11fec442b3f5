//! Files that are read, and files that are refused with their place.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Reads `text` as `f.conf`, beside which `others` lie, in an environment of two variables.
fn read_with(text: &str, others: &[(&str, &str)]) -> Result<NatsOptions, NatsConfError> {
    let mut files: BTreeMap<&Path, &str> =
        others.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
    files.insert(Path::new("f.conf"), text);
    let read = |path: &Path| {
        let found = files.get(path).map(|text| (*text).to_owned());
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let variable = |name: &str| match name {
        "PORT" => Some("4444".to_owned()),
        "PASSWORD" => Some("a b } #c".to_owned()),
        "AROUND" => Some("$AROUND".to_owned()),
        _ => None,
    };
    load(Path::new("f.conf"), &Sources { read: &read, variable: &variable })
}

fn read(text: &str) -> Result<NatsOptions, NatsConfError> {
    read_with(text, &[])
}

fn good(text: &str) -> NatsOptions {
    read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn bad(text: &str) -> String {
    match read(text) {
        Ok(options) => panic!("{text:?} is read as {options:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn keys_and_values_come_in_all_their_forms() {
    for text in [
        "port: 4333\nhost: 127.0.0.1",
        "port = 4333\nhost = \"127.0.0.1\"",
        "port 4333\nhost '127.0.0.1'",
        "port: 4333; host: 127.0.0.1;",
        "port: 4333, host: 127.0.0.1",
        "{\"port\": 4333, \"host\": \"127.0.0.1\"}",
        "{\n  'port'=4333\n  host:127.0.0.1\n}\n# the end",
        "# first\nPORT: 4333 # second\n// third\r\nHost=127.0.0.1 // fourth",
        "listen: 127.0.0.1:4333",
        "listen: \"127.0.0.1:4333\"",
        "net: 127.0.0.1\nlisten: 4333",
        "\u{feff}addr: 127.0.0.1\nport: 1\nport: 4333",
        "P = 4333\nport: $P\nhost: (\n127.0.0.1\n)\n",
    ] {
        let options = good(text);
        assert_eq!(options.port, Port::Number(4333), "{text:?}");
        assert_eq!(options.host.unwrap().trim(), "127.0.0.1", "{text:?}");
    }
    assert_eq!(good(""), NatsOptions::default());
    assert_eq!(good("port: -1").port, Port::Any);
    assert_eq!(good("http: \"[::1]:8222\"").http_host.unwrap(), "::1");
    assert_eq!(good("server_name: a#b//c\\\\").server_name.unwrap(), "a#b//c\\");
    assert_eq!(good("server_name: \"a\\x41\\\"\"").server_name.unwrap(), "aA\"");
    assert_eq!(good("server_name: 'a\\x41'").server_name.unwrap(), "a\\x41");
}

#[test]
fn sizes_durations_and_switches() {
    for (text, size) in [
        ("65536", 65_536),
        ("64k", 64_000),
        ("64KB", 65_536),
        ("1MB", 1 << 20),
        ("\"1 MiB\"", 1 << 20),
        ("1Mi", 1 << 20),
    ] {
        assert_eq!(good(&format!("max_payload: {text}")).max_payload, Some(size), "{text}");
    }
    for (text, millis) in
        [("2s", 2000), ("\"1m30s\"", 90_000), ("250ms", 250), ("1.5h", 5_400_000), ("20", 20_000)]
    {
        let interval = good(&format!("ping_interval: {text}")).ping_interval;
        assert_eq!(interval, Some(Duration::from_millis(millis)), "{text}");
    }
    for (text, on) in [("true", true), ("YES", true), ("on", true), ("off", false), ("No", false)] {
        assert_eq!(good(&format!("debug: {text}")).debug, on, "{text}");
    }
    assert_eq!(good("max_connections: -1").max_connections, None);
    assert_eq!(good("max_connections: 64k").max_connections, Some(64_000));
    good("max_control_line: 4KB\nping_max: 2\nwrite_deadline: 10s\nmax_pending: 64MB");
}

#[test]
fn what_is_said_about_streams_and_tokens() {
    let options = good(
        "jetstream {\n  store_dir: /tmp/x\n  max_mem: 1G, max_file: 10G\n  sync_interval: always\n}\n\
         authorization: { token: s3cret, timeout: 0.5 }\nclient_advertise: x:1\n",
    );
    assert!(options.jetstream);
    assert_eq!(options.store_dir.as_deref(), Some(Path::new("/tmp/x")));
    assert_eq!(options.token.as_ref().unwrap().0, "s3cret");
    assert_eq!(options.auth_timeout, Some(Duration::from_millis(500)));
    assert_eq!(options.warnings.len(), 4, "{:?}", options.warnings);
    assert!(options.warnings[0].starts_with("f.conf:3:3: `max_mem` has no effect: "));
    assert!(!format!("{options:?}").contains("s3cret"));
    for on in ["true", "enabled", "{}", "{ enabled: true }"] {
        assert!(good(&format!("jetstream: {on}")).jetstream, "{on}");
    }
    assert!(!good("jetstream: disabled").jetstream);
}

#[test]
fn variables_come_from_above_and_from_the_environment() {
    assert_eq!(good("port: $PORT").port, Port::Number(4444));
    assert_eq!(good("authorization { token: $PASSWORD }").token.unwrap().0, "a b } #c");
    let options = good("T: outer\nserver_name: $T\nauthorization { T: inner, token: $T }");
    assert_eq!(
        (options.server_name.unwrap(), options.token.unwrap().0),
        ("outer".into(), "inner".into())
    );
    assert_eq!(good("authorization { token: \"$PORT\" }").token.unwrap().0, "$PORT");
    assert_eq!(good("authorization { token: $2a$10$abc }").token.unwrap().0, "$2a$10$abc");
    assert_eq!(
        bad("\nport: $NOPE"),
        "f.conf:2:7: there is no variable `NOPE`; set it above this line or in the environment, or \
         quote the text if it is none"
    );
    assert!(bad("port: $AROUND").contains("`$AROUND` is not a port"), "it is not expanded again");
    assert!(bad("X: 1").contains("unknown field"), "nothing uses it");
}

#[test]
fn files_include_others() {
    let others = [
        ("parts/auth.conf", "authorization { include token.conf }\n"),
        ("parts/token.conf", "token: t"),
    ];
    let text = "P: 4333\ninclude parts/auth.conf\nport: $P";
    let options = read_with(text, &others).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((options.port, options.token.unwrap().0.as_str()), (Port::Number(4333), "t"));
    assert!(
        bad("port: 1\ninclude 'none.conf'").starts_with("f.conf:2:1: cannot include none.conf: ")
    );
    assert!(bad("include f.conf").contains("lie in one another"));
    let error = read_with("include x.conf", &[("x.conf", "\n  prot: 1")]).unwrap_err().to_string();
    assert!(
        error.starts_with("x.conf:2:3: unknown field \"prot\"; did you mean `port`?"),
        "{error}"
    );
}

#[test]
fn errors_name_the_place_and_what_to_do() {
    for (text, expected) in [
        ("port: 4222\nfoo: 3", "f.conf:2:1: unknown field \"foo\""),
        (
            "jetstream {\n  storedirr: x\n}",
            "f.conf:2:3: unknown field \"storedirr\" in `jetstream`; did you mean",
        ),
        ("port: x", "f.conf:1:7: `port`: `x` is not a port"),
        ("port: 70000", "f.conf:1:7: `port`: `70000` is not a port"),
        ("listen: [1]", "f.conf:1:9: `listen`: a list is not an address"),
        ("max_payload: 1.5MB", "f.conf:1:14: `max_payload`: `1.5MB` is not a number or a size"),
        ("max_payload: 1TB", "is out of range; the least is 1, the most is 67108864"),
        ("max_control_line: 8KB", "8192 cannot be chosen; it is always 4096"),
        ("ping_interval: soon", "`soon` is not a duration"),
        ("debug: maybe", "f.conf:1:8: `debug`: `maybe` is not true or false"),
        (
            "server_name: a b",
            "f.conf:1:16: expected a new line, `,` or `;` after a value, found `b`",
        ),
        ("server_name: \"a b\"", "no spaces"),
        ("server_name: \"a", "f.conf:1:14: the text that begins here has no closing quote"),
        ("server_name: \"\\q\"", "can follow a backslash"),
        ("server_name: (\na)", "f.conf:1:14: the block that begins here"),
        ("jetstream {", "f.conf:1:12: a `}` is missing"),
        ("host: [1 2]", "f.conf:1:10: expected `,` or `]` in the list, found `2`"),
        ("host: [1,", "f.conf:1:10: a `]` is missing"),
        (": 1", "f.conf:1:1: expected a key, found `:`"),
        ("port", "f.conf:1:5: expected a value, found the end of the file"),
        ("port: 1 }", "found `}`"),
        ("{port: 1} x", "expected the end of the file, found `x`"),
        ("cluster { name: x }", "f.conf:1:1: `cluster` is not supported: there is one server"),
        ("accounts { A {}, B {} }", "`accounts` is not supported"),
        ("accounts { A { exports: [x] } }", "f.conf:1:16: `exports` is not supported"),
        ("mqtt { port: 1883 }", "`mqtt` is not supported"),
        ("tls { cert_file: x }", "`tls`: TLS Server private key must be present"),
        ("tls { cert_file: x, key_file: y, verify: true }", "`ca_file` (--tlscacert)"),
        ("tls { pinned_certs: [x] }", "`pinned_certs` is not supported"),
        ("websocket { port: 1 }", "websocket requires TLS configuration"),
        ("websocket { port: 1, no_tls: true, token: x }", "`token` is not supported"),
        ("authorization { users: [{pass: a}] }", "f.conf:1:25: `users`: a user needs `user`"),
        ("authorization { users: [{user: a, nkey: SUAX}] }", "f.conf:1:41: `nkey`: "),
        (
            "authorization { users: [{user: a, permissions: {publish: a..b}}] }",
            "`a..b` is not a subject",
        ),
        (
            "authorization { users: [{user: a, permission: {pub: {alow: x}}}] }",
            "did you mean `allow`?",
        ),
        ("authorization { users: [{user: a, pass: \"$2a$10$x\"}] }", "bcrypt"),
        ("authorization: yes", "is not a map"),
        ("jetstream { domain: a.b }", "a domain is one word of a subject"),
    ] {
        let error = bad(text);
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    // What is switched off is not asked for.
    good("cluster {}\ntls {}\nsyslog: false\naccounts: []\nwebsocket {}");
}

const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

#[test]
fn users_and_what_they_may_do() {
    let options = good(&format!(
        "authorization {{
           default_permissions {{ publish: \"orders.>\" }}
           users = [
             {{ user: ann, password: s3cret, permissions {{
                 sub: {{ allow: [\"_INBOX.>\", \"orders.* workers\"], deny: orders.secret }}
                 allow_responses: {{ max: 5, expires: 1m }} }} }}
             {{ nkey: {KEY} }}
             {{ username: guest }}
           ]
         }}
         no_auth_user: guest"
    ));
    assert!(!format!("{options:?}").contains("s3cret"));
    let users = options.logins().unwrap();
    let [ann, kim, guest] = &users[..] else { panic!("{users:?}") };
    assert!(!ann.grant.may_publish("orders.a"), "answers alone");
    assert!(ann.grant.may_subscribe("orders.x", Some("workers")));
    assert!(!ann.grant.may_receive("orders.secret", None));
    let responses = ann.grant.responses().unwrap();
    assert_eq!((responses.max, responses.expires), (Some(5), Some(Duration::from_secs(60))));
    assert_eq!(kim.name, KEY);
    for other in [kim, guest] {
        assert!(other.grant.may_publish("orders.a") && !other.grant.may_publish("x"));
    }
    assert_eq!(guest.credential, crate::server::Credential::Certificate);
    let one = good("authorization { user: ann, pass: b, timeout: 1 }").logins().unwrap();
    assert!(one.len() == 1 && one[0].grant.is_everything());
    let account = good("accounts { A { users: [{user: a, pass: b}], jetstream: enabled } }");
    assert_eq!(account.logins().unwrap()[0].name, "a");
    for (text, why) in [
        ("authorization { user: a }", "has no password"),
        ("authorization { pass: a }", "no user"),
        ("authorization { user: a, pass: b, token: t }", "Cannot have a user/pass and token"),
        ("authorization { user: a, pass: b, users: [{user: c}] }", "single user/pass and a users"),
        ("authorization { token: t, users: [{user: c}] }", "a token and a users array"),
        ("authorization { users: [{user: c}, {user: c}] }", "Duplicate user \"c\" detected"),
        ("authorization { users: [{user: c}] }\nno_auth_user: d", "\"d\" not present as user"),
    ] {
        let error = good(text).logins().expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn certificates_and_the_listener_for_websocket() {
    use crate::config::tls::Verify;
    use crate::server::HandshakeFirst;
    let files = "cert_file: c, key_file: k";
    for (more, first) in [
        ("", HandshakeFirst::Never),
        ("handshake_first: true", HandshakeFirst::Always),
        ("first: auto", HandshakeFirst::Within(Duration::from_millis(50))),
        ("handshake_first: 300ms", HandshakeFirst::Within(Duration::from_millis(300))),
    ] {
        let tls = good(&format!("tls {{ {files}, {more} }}")).tls.unwrap();
        assert_eq!((tls.first, tls.verify), (first, Verify::Off), "{more}");
    }
    for (more, verify) in [
        ("verify: true", Verify::On),
        ("verify_and_map: true, verify: true", Verify::Map),
        ("verify: true, verify_and_map: true", Verify::Map),
    ] {
        let tls = good(&format!("tls {{ {files}, ca_file: a, timeout: 2, {more} }}")).tls.unwrap();
        assert_eq!((tls.verify, tls.timeout), (verify, Some(Duration::from_secs(2))), "{more}");
    }
    let options = good(
        "websocket { listen: \"127.0.0.1:80\", no_tls: true, compression: true
         allowed_origins: [\"https://a.example:8443\", \"http://[::1]\"] }",
    );
    let websocket = options.websocket.unwrap();
    assert_eq!(
        (websocket.host.as_deref(), websocket.port),
        (Some("127.0.0.1"), Some(Port::Number(80)))
    );
    assert_eq!(websocket.origins, ["a.example", "[::1]"]);
    assert_eq!(options.warnings.len(), 1);
    let wss = good(&format!("websocket {{ port: 81, tls {{ {files}, min_version: 1.2 }} }}"));
    assert!(wss.websocket.unwrap().tls.is_some() && wss.warnings.len() == 1);
    assert_eq!(
        good("jetstream { limits { max_request_batch: 100 } }").max_request_batch,
        Some(100)
    );
}

#[test]
fn there_is_a_limit_to_depth_and_number() {
    assert!(bad(&"a{".repeat(10_000)).contains("lie in one another"));
    assert!(bad(&format!("a: {}", "[".repeat(10_000))).contains("lie in one another"));
    let mut text = "V0: [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    for n in 1..9 {
        let before = format!("$V{},", n - 1).repeat(10);
        text += &format!("V{n}: [{before}]\n");
    }
    assert!(bad(&text).contains("more than 100000 values"));
}

proptest! {
    #[test]
    fn any_text_is_options_or_an_error_with_its_place(text in "\\PC{0,80}") {
        check(&text);
    }

    #[test]
    fn so_is_any_text_of_the_marks_of_the_format(
        parts in proptest::collection::vec(prop_oneof![
            "[\\[\\]{}()\"'$#/,;:=\\\\ \n\r\t-]",
            proptest::sample::select(vec![
                "port", "listen", "include ", "jetstream", "authorization", "token", "max_payload",
                "1", "64KB", "2s", "true", "$PORT", "$AROUND", "\\x41", "µs", "\u{0}", "f.conf",
            ]).prop_map(str::to_owned),
        ], 0..40)
    ) {
        check(&parts.concat());
    }
}

/// Reading ends, without a panic, and errors have a place.
fn check(text: &str) {
    if let Err(error) = read(text) {
        let shown = error.to_string();
        let place = shown.split(": ").next().unwrap_or_default();
        let numbers = place.rsplit(':').take(2).filter(|part| part.parse::<u32>().is_ok()).count();
        assert_eq!(numbers, 2, "{text:?}: {shown}");
    }
}
