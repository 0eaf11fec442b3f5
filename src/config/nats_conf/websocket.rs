//! `websocket`: the listener for clients over WebSocket.

use super::error::NatsConfError;
use super::mapping::{Table, asks_for_nothing, take};
use super::options::{NatsOptions, Port};
use super::secure::{self, TlsOptions};
use super::tree::{Entry, Kind};

/// The listener for WebSocket, as it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebSocketOptions {
    /// Its host; that of the others if nobody said.
    pub host: Option<String>,
    /// Its port; there is no listener without one.
    pub port: Option<Port>,
    /// How it is secured.
    pub tls: Option<TlsOptions>,
    /// Whether it may go without that.
    pub no_tls: bool,
    /// Hosts whose web pages may connect, beside its own.
    pub origins: Vec<String>,
    /// What was said and has no effect, in words.
    warnings: Vec<String>,
}

const WEBSOCKET: Table<WebSocketOptions> = Table {
    within: "websocket",
    rows: &[
        ("listen", |ws, e| {
            let (host, port) = e.listen()?;
            ws.port = Some(port);
            ws.host = host.or(ws.host.take());
            Ok(())
        }),
        ("port", |ws, e| e.port().map(|port| ws.port = Some(port))),
        ("host", host),
        ("net", host),
        ("addr", host),
        ("no_tls", |ws, e| e.boolean().map(|on| ws.no_tls = on)),
        ("tls", |ws, e| secure::tls(e, &mut ws.warnings).map(|tls| ws.tls = tls)),
        ("allowed_origins", origins),
        ("allowed_origin", origins),
        ("allow_origins", origins),
        ("allow_origin", origins),
        ("origins", origins),
        ("origin", origins),
    ],
    ignored: &[
        ("advertise", "there is one server, which clients know by the address they connect to"),
        ("same_origin", "web pages from elsewhere are refused always, but for allowed_origins"),
        ("compression", "messages are not compressed"),
        ("handshake_timeout", "requests have a limit of their own"),
        ("ping_interval", "it is that of all clients"),
    ],
    refused: &[
        ("user", ONE_LOGIN),
        ("username", ONE_LOGIN),
        ("pass", ONE_LOGIN),
        ("password", ONE_LOGIN),
        ("token", ONE_LOGIN),
        ("authorization", ONE_LOGIN),
        ("authentication", ONE_LOGIN),
        ("no_auth_user", ONE_LOGIN),
        ("jwt_cookie", "JWTs are not checked"),
        ("user_cookie", ONE_LOGIN),
        ("pass_cookie", ONE_LOGIN),
        ("token_cookie", ONE_LOGIN),
        ("headers", "answers have no headers that could be chosen"),
    ],
};

const ONE_LOGIN: &str = "clients say who they are in the same way everywhere (authorization)";

/// `websocket`.
pub(super) fn websocket(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    if asks_for_nothing(entry) {
        return Ok(());
    }
    let mut found = WebSocketOptions::default();
    take(&WEBSOCKET, entry.map()?, &mut found, &mut options.warnings)?;
    options.warnings.append(&mut found.warnings);
    if found.port.is_none() {
        // As in nats-server, a map without a port asks for no listener.
        return Ok(());
    }
    if found.tls.is_none() && !found.no_tls {
        return Err(entry
            .invalid("websocket requires TLS configuration; write no_tls: true to go without it"));
    }
    options.websocket = Some(found);
    Ok(())
}

fn host(ws: &mut WebSocketOptions, entry: &Entry) -> Result<(), NatsConfError> {
    ws.host = Some(entry.string()?).filter(|host| !host.is_empty());
    Ok(())
}

/// Origins, as browsers write them: `https://example.org`, maybe with a port.
fn origins(ws: &mut WebSocketOptions, entry: &Entry) -> Result<(), NatsConfError> {
    let texts = match &entry.value.kind {
        Kind::List(list) => list.iter().map(|value| value.text()).collect::<Option<Vec<_>>>(),
        _ => entry.value.text().map(|text| vec![text]),
    };
    let wrong = || entry.invalid("write origins as browsers do, for example https://example.org");
    ws.origins = texts
        .ok_or_else(wrong)?
        .into_iter()
        .map(|text| text.split_once("://").map(|(_, host)| without_port(host)).ok_or_else(wrong))
        .collect::<Result<_, _>>()?;
    Ok(())
}

/// The host alone: pages of one host may connect whichever port they came from.
fn without_port(host: &str) -> String {
    let bare = host.trim_end_matches('/');
    match bare.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host.to_owned(),
        _ => bare.to_owned(),
    }
}
