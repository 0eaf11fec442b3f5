//! Plays the steps of a row on one server, and writes down what comes back.
//!
//! Every step that waits ends on a condition; what does not come in time ends the row, and is a part
//! of what is compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::connection::{Came, Connection, Operation};
use crate::lax_json;
use crate::mask::{Aliases, Style};
use crate::row::{Row, Step};

/// What a connection says first, unless its row says it otherwise.
pub(crate) const HANDSHAKE: &str = concat!(
    r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"#,
    r#""protocol":1,"echo":true}"#,
    "\r\n"
);
/// How long a step may wait.
const LIMIT: Duration = Duration::from_secs(5);
/// How often something is asked again that is waited for.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// The subscription of the inboxes.
const INBOX: &str = "inbox";

/// Plays a row, and returns what came back, by connection. `number` keeps inboxes of rows apart.
pub(crate) fn play(row: &Row, number: usize, address: &str) -> String {
    let mut player = Player {
        address,
        number,
        style: Style { shows_totals: row.is_fresh, is_verbatim: row.is_verbatim },
        peers: BTreeMap::new(),
        aliases: Aliases::default(),
        replies: Vec::new(),
    };
    for step in &row.steps {
        if let Err(Stuck) = player.step(step) {
            break;
        }
    }
    player.finish()
}

/// A step did not come to its end in time.
struct Stuck;

/// One connection of a row.
struct Peer {
    connection: Connection,
    /// What it has heard, after masking.
    lines: Vec<String>,
    requests: usize,
    has_inbox: bool,
    is_over: bool,
}

struct Player<'a> {
    address: &'a str,
    number: usize,
    style: Style,
    peers: BTreeMap<String, Peer>,
    aliases: Aliases,
    /// Where messages that came can be acknowledged, in the order in which they came.
    replies: Vec<String>,
}

impl Player<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Stuck> {
        let (verb, rest) = step.verb();
        let name = step.connection.as_str();
        let rest = &self.aliases.fill_in(rest);
        if !self.peers.contains_key(name) {
            let peer = self.connect(!matches!(verb, "open" | "greet"));
            self.peers.insert(name.to_owned(), peer);
        }
        self.peer(name).lines.push(format!("-- {}", step.text));
        match verb {
            "greet" => self.wait(name, |operation| operation.verb() == "INFO")?,
            "open" => {
                let heard = self.peer(name).lines.len();
                self.wait(name, |operation| operation.verb() == "INFO")?;
                self.peer(name).lines.truncate(heard);
            }
            ">" => self.send(name, &[unescape(rest), b"\r\n".to_vec()].concat()),
            ">>" => self.send(name, &unescape(rest)),
            "sub" => self.send(name, format!("SUB {rest}\r\n").as_bytes()),
            "unsub" => self.send(name, format!("UNSUB {rest}\r\n").as_bytes()),
            "pub" => self.publish(name, rest, None),
            "hpub" => self.publish_with_headers(name, rest, None),
            "req" => self.request(name, rest)?,
            "hreq" => {
                let inbox = self.inbox(name);
                self.publish_with_headers(name, rest, Some(&inbox));
                self.wait_answer(name, rest, &inbox)?;
            }
            "api" => self.request(name, &api(rest))?,
            "stream" => self.create_stream(name, rest)?,
            "consumer" => self.create_consumer(name, rest)?,
            "publish" => self.publish_many(name, rest)?,
            "pull" => self.pull(name, rest)?,
            "ack" => {
                let (reply, payload) = self.acknowledgement(rest);
                self.publish(name, &format!("{reply} {payload}"), None);
            }
            "ackreq" => {
                let (reply, payload) = self.acknowledgement(rest);
                self.request(name, &format!("{reply} {payload}"))?;
            }
            "await" => self.wait_messages(name, rest.parse().expect("await takes a count"))?,
            "until" => self.wait_text(name, rest)?,
            "pong" => {
                let heard = self.peer(name).lines.len();
                self.send(name, b"PING\r\n");
                self.wait(name, |operation| operation.verb() == "PONG")?;
                if rest == "sorted" {
                    self.sort(name, heard);
                }
            }
            "poll" => self.poll(name, rest)?,
            "closed" => self.wait_end(name)?,
            "close" => {
                self.peer(name).connection.close();
                self.peer(name).is_over = true;
            }
            _ => panic!("there is no step {verb:?}"),
        }
        Ok(())
    }

    /// Sorts what a connection has heard from a line on, operation by operation.
    fn sort(&mut self, name: &str, from: usize) {
        let lines = &mut self.peer(name).lines;
        let mut operations: Vec<Vec<String>> = Vec::new();
        for line in lines.split_off(from) {
            match operations.last_mut() {
                // Headers and bodies are indented.
                Some(operation) if line.starts_with("  ") => operation.push(line),
                _ => operations.push(vec![line]),
            }
        }
        operations.sort();
        lines.extend(operations.concat());
    }

    /// What everybody has heard. What is still on its way comes first.
    fn finish(mut self) -> String {
        let names: Vec<String> = self.peers.keys().cloned().collect();
        let mut text = Vec::new();
        for name in &names {
            if !self.peer(name).is_over {
                self.peer(name).lines.push("-- end".to_owned());
                self.send(name, b"PING\r\n");
                let _ = self.wait(name, |operation| operation.verb() == "PONG");
            }
            text.push(format!("@{name}"));
            text.append(&mut self.peer(name).lines);
        }
        text.join("\n")
    }

    fn peer(&mut self, name: &str) -> &mut Peer {
        self.peers.get_mut(name).expect("the connection is open")
    }

    fn connect(&self, shakes_hands: bool) -> Peer {
        let mut connection = Connection::open(self.address);
        if shakes_hands {
            connection.send(format!("{HANDSHAKE}PING\r\n").as_bytes());
            let deadline = Instant::now() + LIMIT;
            loop {
                match connection.next(deadline) {
                    Came::Operation(operation) if operation.verb() == "PONG" => break,
                    Came::Operation(_) => {}
                    Came::End | Came::Nothing => panic!("{} does not shake hands", self.address),
                }
            }
        }
        Peer { connection, lines: Vec::new(), requests: 0, has_inbox: false, is_over: false }
    }

    fn send(&mut self, name: &str, bytes: &[u8]) {
        self.peer(name).connection.send(bytes);
    }

    /// Reads until the end is seen. What comes is written down, but for what comes with the handshake.
    fn wait(
        &mut self,
        name: &str,
        mut is_end: impl FnMut(&Operation) -> bool,
    ) -> Result<(), Stuck> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.read(name, deadline) {
                Came::Operation(operation) => {
                    self.write_down(name, &operation);
                    if is_end(&operation) {
                        return Ok(());
                    }
                }
                Came::End => {
                    let peer = self.peer(name);
                    peer.is_over = true;
                    peer.lines.push("(the server closed the connection)".to_owned());
                    return Err(Stuck);
                }
                Came::Nothing => {
                    let line = format!("(not within {} s)", LIMIT.as_secs());
                    self.peer(name).lines.push(line);
                    return Err(Stuck);
                }
            }
        }
    }

    /// The next operation that a script can mean: not a PING, nor an INFO after the first, unless every byte
    /// counts.
    fn read(&mut self, name: &str, deadline: Instant) -> Came {
        let skips_info = !self.style.is_verbatim;
        loop {
            let peer = self.peer(name);
            let came = peer.connection.next(deadline);
            if let Came::Operation(operation) = &came {
                match operation.verb() {
                    "PING" => {
                        peer.connection.send(b"PONG\r\n");
                        continue;
                    }
                    "INFO" if skips_info && operation.line.contains("\"connect_info\":true") => {
                        continue;
                    }
                    _ => self.learn(operation),
                }
            }
            return came;
        }
    }

    /// Remembers where the message can be acknowledged, and names that the server made up.
    fn learn(&mut self, operation: &Operation) {
        if let Some(reply) = operation.reply().filter(|reply| reply.starts_with("$JS.")) {
            self.replies.push(reply.to_owned());
        }
        let Ok(body) = serde_json::from_slice::<Value>(&operation.payload) else { return };
        let is_created = body["type"] == "io.nats.jetstream.api.v1.consumer_create_response";
        let is_named = body["config"].get("durable_name").is_some();
        if let Some(made_up) = body["name"].as_str().filter(|_| is_created && !is_named) {
            // Those that rows choose are shorter.
            if made_up.len() >= 8 {
                self.aliases.add(made_up);
            }
        }
    }

    fn write_down(&mut self, name: &str, operation: &Operation) {
        let lines = self.style.lines(operation, &self.aliases);
        self.peer(name).lines.extend(lines);
    }

    fn wait_messages(&mut self, name: &str, count: usize) -> Result<(), Stuck> {
        let mut left = count;
        self.wait(name, |operation| {
            left = left.saturating_sub(usize::from(operation.subscription().is_some()));
            left == 0
        })
    }

    /// Waits for the answer to a request. One that can be answered with a message of a stream is
    /// answered by whatever comes to an inbox: such a message has the subject it was stored under.
    fn wait_answer(&mut self, name: &str, request: &str, inbox: &str) -> Result<(), Stuck> {
        let asks_for_messages =
            request.starts_with("$JS.API.CONSUMER.MSG.NEXT.") || request.starts_with("$JS.ACK.");
        self.wait(name, |operation| match asks_for_messages {
            true => operation.subscription() == Some(INBOX),
            false => operation.subject() == Some(inbox),
        })
    }

    fn wait_text(&mut self, name: &str, text: &str) -> Result<(), Stuck> {
        let style = self.style;
        self.wait(name, |operation| {
            style.lines(operation, &Aliases::default()).iter().any(|line| line.contains(text))
        })
    }

    /// Waits until the server closes the connection.
    fn wait_end(&mut self, name: &str) -> Result<(), Stuck> {
        let _ = self.wait(name, |_| false);
        if self.peer(name).is_over { Ok(()) } else { Err(Stuck) }
    }

    /// The subject all inboxes of a connection begin with. It listens to them from the first use.
    fn inboxes(&mut self, name: &str) -> String {
        let prefix = format!("_INBOX.{}.{name}", self.number);
        let peer = self.peer(name);
        if !peer.has_inbox {
            peer.has_inbox = true;
            peer.connection.send(format!("SUB {prefix}.* {INBOX}\r\n").as_bytes());
        }
        prefix
    }

    /// A new inbox for one request whose answer is written down.
    fn inbox(&mut self, name: &str) -> String {
        let prefix = self.inboxes(name);
        let peer = self.peer(name);
        peer.requests += 1;
        format!("{prefix}.{}", peer.requests)
    }

    /// `SUBJECT[^REPLY] PAYLOAD`.
    fn publish(&mut self, name: &str, text: &str, reply: Option<&str>) {
        let (subject, payload) = text.split_once(' ').unwrap_or((text, ""));
        let payload = unescape(payload);
        let mut bytes =
            format!("PUB {} {}\r\n", target(subject, reply), payload.len()).into_bytes();
        bytes.extend_from_slice(&payload);
        bytes.extend_from_slice(b"\r\n");
        self.send(name, &bytes);
    }

    /// `SUBJECT[^REPLY] {NAME: VALUE; NAME: VALUE} PAYLOAD`.
    fn publish_with_headers(&mut self, name: &str, text: &str, reply: Option<&str>) {
        let (subject, rest) = text.split_once(" {").expect("headers stand in braces");
        let (headers, payload) = rest.split_once('}').expect("headers end with a brace");
        let mut block = b"NATS/1.0\r\n".to_vec();
        for header in headers.split("; ").filter(|header| !header.is_empty()) {
            block.extend_from_slice(&unescape(header));
            block.extend_from_slice(b"\r\n");
        }
        block.extend_from_slice(b"\r\n");
        let payload = unescape(payload.strip_prefix(' ').unwrap_or(payload));
        let total = block.len() + payload.len();
        let line = format!("HPUB {} {} {total}\r\n", target(subject, reply), block.len());
        self.send(name, &[line.as_bytes(), &block, &payload, b"\r\n"].concat());
    }

    fn request(&mut self, name: &str, text: &str) -> Result<(), Stuck> {
        let inbox = self.inbox(name);
        self.publish(name, text, Some(&inbox));
        self.wait_answer(name, text, &inbox)
    }

    /// Asks, and writes down only what is wrong. Returns the answer.
    fn ask(&mut self, name: &str, text: &str) -> Result<Value, Stuck> {
        let inbox = format!("{}.quiet", self.inboxes(name));
        self.publish(name, text, Some(&inbox));
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.read(name, deadline) {
                Came::Operation(o) if o.subject() == Some(inbox.as_str()) => {
                    let answer: Value = serde_json::from_slice(&o.payload).unwrap_or_default();
                    if answer.is_null() || answer.get("error").is_some() {
                        self.write_down(name, &o);
                    }
                    return Ok(answer);
                }
                Came::Operation(operation) => self.write_down(name, &operation),
                Came::End | Came::Nothing => {
                    self.peer(name).lines.push("(no answer)".to_owned());
                    return Err(Stuck);
                }
            }
        }
    }

    /// `NAME {CONFIG}`.
    fn create_stream(&mut self, name: &str, text: &str) -> Result<(), Stuck> {
        let (stream, config) = text.split_once(' ').unwrap_or((text, "{}"));
        let config = merge(json!({ "name": stream }), config);
        self.ask(name, &format!("$JS.API.STREAM.CREATE.{stream} {config}")).map(drop)
    }

    /// `STREAM NAME {CONFIG}`; durable, with explicit acknowledgements, unless it says otherwise.
    fn create_consumer(&mut self, name: &str, text: &str) -> Result<(), Stuck> {
        let mut words = text.splitn(3, ' ');
        let (stream, consumer) = (words.next().unwrap(), words.next().expect("a consumer's name"));
        let durable = json!({ "durable_name": consumer, "ack_policy": "explicit" });
        let config = merge(durable, words.next().unwrap_or("{}"));
        let body = json!({ "stream_name": stream, "config": config });
        let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{consumer}");
        self.ask(name, &format!("{subject} {body}")).map(drop)
    }

    /// `SUBJECT COUNT`: the payloads are 1, 2, and so on.
    fn publish_many(&mut self, name: &str, text: &str) -> Result<(), Stuck> {
        let (subject, count) = text.rsplit_once(' ').expect("a subject and a count");
        for n in 1..=count.parse().expect("a count") {
            let _: u32 = n;
            self.ask(name, &format!("{subject} {n}"))?;
        }
        Ok(())
    }

    /// `STREAM CONSUMER COUNT|end {REQUEST}`: waits for as many messages or statuses, or for the status
    /// that ends the request. Heartbeats do not count.
    fn pull(&mut self, name: &str, text: &str) -> Result<(), Stuck> {
        let mut words = text.splitn(4, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (stream, consumer, count, body) = (word(), word(), word(), word());
        let inbox = self.inbox(name);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let body = lax_json::quote(body);
        self.publish(name, &format!("{subject} {body}"), Some(&inbox));
        let mut left: usize = match count {
            "end" => usize::MAX,
            "0" => return Ok(()),
            count => count.parse().expect("pull takes a count or end"),
        };
        self.wait(name, |operation| match (operation.subscription(), operation.status()) {
            (Some(INBOX), Some(100)) => false,
            (Some(INBOX), status) => {
                left -= 1;
                left == 0 || (count == "end" && status.is_some())
            }
            _ => false,
        })
    }

    /// `N|last PAYLOAD`: where the nth message that came is acknowledged, and with what.
    fn acknowledgement<'t>(&self, text: &'t str) -> (String, &'t str) {
        let (which, payload) = text.split_once(' ').unwrap_or((text, ""));
        let reply = match which {
            "last" => self.replies.last(),
            n => n.parse::<usize>().ok().and_then(|n| self.replies.get(n.checked_sub(1)?)),
        };
        // What did not come cannot be acknowledged: the request finds nobody, which is compared.
        (reply.cloned().unwrap_or_else(|| "$JS.ACK.nothing.came".to_owned()), payload)
    }

    /// `API [BODY] until TEXT`: asks until a line of the answer has the text.
    fn poll(&mut self, name: &str, text: &str) -> Result<(), Stuck> {
        let (request, wanted) = text.split_once(" until ").expect("poll says until when");
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self.ask(name, &api(request))?;
            let lines = self.style.json(answer.to_string().as_bytes()).unwrap_or_default();
            let is_there = lines.iter().any(|line| line.contains(wanted));
            if is_there || Instant::now() > end {
                self.peer(name).lines.extend(lines);
                return if is_there { Ok(()) } else { Err(Stuck) };
            }
            std::thread::sleep(ASK_EVERY);
        }
    }
}

/// `NAME [BODY]` of the API as a subject and JSON.
fn api(text: &str) -> String {
    let (subject, body) = text.split_once(' ').unwrap_or((text, ""));
    format!("$JS.API.{subject} {}", lax_json::quote(body))
}

/// An object with the fields of a second one.
fn merge(mut object: Value, lax: &str) -> Value {
    let text = lax_json::quote(lax);
    let more: Map<String, Value> = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{text} is not an object: {error}"));
    object.as_object_mut().expect("an object").extend(more);
    object
}

/// The subject and the reply of a publish: the given one, or what follows `^`.
fn target(text: &str, reply: Option<&str>) -> String {
    let (subject, own) = text.split_once('^').map_or((text, None), |(s, own)| (s, Some(own)));
    match own.or(reply) {
        Some(reply) => format!("{subject} {reply}"),
        None => subject.to_owned(),
    }
}

/// Bytes as rows write them: `\r`, `\n`, `\t`, `\0`, `\\`, `\xff`; `x*1000` alone is a thousand times x.
fn unescape(text: &str) -> Vec<u8> {
    if let Some((one, count)) = text.split_once('*')
        && one.chars().count() == 1
        && let Ok(count) = count.parse()
    {
        return one.repeat(count).into_bytes();
    }
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, used) = match after.as_bytes().first() {
            Some(b'r') => (b'\r', 1),
            Some(b'n') => (b'\n', 1),
            Some(b't') => (b'\t', 1),
            Some(b'0') => (0, 1),
            Some(b'x') => {
                let digits = after.get(1..3).expect("two digits after \\x");
                (u8::from_str_radix(digits, 16).expect("digits after \\x"), 3)
            }
            Some(b'\\') => (b'\\', 1),
            other => panic!("an unknown escape {other:?} in {text:?}"),
        };
        bytes.push(byte);
        rest = &after[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[test]
fn escapes_are_bytes() {
    assert_eq!(unescape(r"a\r\n\x00\\b"), b"a\r\n\x00\\b");
    assert_eq!(unescape("x*3"), b"xxx");
    assert_eq!(unescape("2*3x"), b"2*3x");
}
