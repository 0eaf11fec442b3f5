//! nats.js in a web page of a real browser, over WebSocket. The same page talks to a NATS server, which
//! shows that it asks for nothing but what such a server does.

use std::path::{Path, PathBuf};

use crate::nats_login::KEY;
use crate::nats_wire::Server;
use crate::node::{is_set_up, run, skip};

const TESTS: usize = 7;

/// The browser: named by the environment, or where Debian's package has it.
fn browser() -> Option<PathBuf> {
    let named = std::env::var_os("CLAUDEBUS_TEST_CHROMIUM").map(PathBuf::from);
    let found = named.unwrap_or("/usr/bin/chromium".into());
    found.exists().then_some(found)
}

/// The pages' tests, with these servers.
fn visit(home: &Path, browser: &Path, [open, login, token]: [&Server; 3], is_ours: bool) {
    let environment = [
        ("CHROMIUM", browser.display().to_string()),
        ("OPEN_URL", open.websocket_url()),
        ("LOGIN_URL", login.websocket_url()),
        ("TOKEN_URL", token.websocket_url()),
        ("OWN_ORIGINS", if is_ours { "yes" } else { "no" }.to_owned()),
    ];
    run(&["browser/browser"], home, &environment, TESTS - usize::from(!is_ours));
}

#[test]
fn pages_of_a_browser_work_with_this_server() {
    if !is_set_up() {
        return;
    }
    let Some(browser) = browser() else { return skip("Chromium") };
    let users = format!(
        r#"
users:
  - {{name: ann, password: secret, permissions: {{publish: "ann.>"}}}}
  - {{name: kim, nkey: {KEY}, permissions: {{publish: kim}}}}
"#
    );
    let open = Server::ours("server: {http_hosts: friend.example}");
    let login = Server::ours(&users);
    let token = Server::ours("server: {auth: {token: t0ken}}");
    let home = tempfile::tempdir().unwrap();
    visit(home.path(), &browser, [&open, &login, &token], true);
}

#[test]
fn the_same_pages_work_with_a_nats_server() {
    if !is_set_up() {
        return;
    }
    let Some(browser) = browser() else { return skip("Chromium") };
    let real = |authorization: &str| {
        let listener = "websocket { listen: \"127.0.0.1:-1\", no_tls: true }";
        Server::real(&format!("{listener}\n{authorization}"))
    };
    let users = format!(
        r#"authorization {{ users = [
  {{user: ann, password: secret, permissions: {{publish: ["ann.>"]}}}},
  {{nkey: {KEY}, permissions: {{publish: ["kim"]}}}}
] }}"#
    );
    let open = real("");
    let login = real(&users);
    let token = real("authorization { token: t0ken }");
    let (Some(open), Some(login), Some(token)) = (open, login, token) else { return };
    let home = tempfile::tempdir().unwrap();
    visit(home.path(), &browser, [&open, &login, &token], false);
}
