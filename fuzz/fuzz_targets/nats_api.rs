//! Requests of NATS clients to JetStream's API: whatever their bodies say, the server answers each one, in
//! JSON where that is the answer, goes on, and never panics.
//!
//! The input is text, a request on each line: what follows `$JS.API.` and the body, with a blank between;
//! a line with another subject in full (`$JS.ACK.`, or one that a stream stores) is a message. Each request
//! is made as it stands, and again with fields left out, added, or of other kinds and sizes.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use claudebus::broker::{Broker, BrokerOptions};
use claudebus::model::event::{Delivery, Event};
use claudebus::model::limits::Limits;
use claudebus::model::request::{ConnectionId, Request, SessionId};
use claudebus::model::time::Now;
use claudebus::session::nats::Session;
use claudebus::wire::Output;
use claudebus::wire::nats::Decoder;
use claudebus_storage::MemoryLog;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const ME: SessionId = SessionId(1);
const WALL: u64 = 1_700_000_000_000_000_000;
const MOST_LINES: usize = 16;
/// How often each request is made with a field that is not as it was.
const VARIANTS: u64 = 6;
const CONNECT: &str = "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n\
                       SUB _INBOX.> 1\r\n";
/// Where answers in JSON go, and all others.
const JSON: &str = "_INBOX.json";
const ANY: &str = "_INBOX.any";

/// What fields are made to hold: nothing, too much, too little, another kind.
const VALUES: &[&str] = &[
    "null",
    "true",
    "0",
    "1",
    "-1",
    "2147483648",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999999",
    "1e308",
    "-1e999",
    "0.5",
    "\"\"",
    "\"x\"",
    "\"S\"",
    "\"s.a\"",
    "\">\"",
    "\"a.*.>\"",
    "\"a b\\r\\n\\u0000\"",
    "\"$JS.API.>\"",
    "\"9999-12-31T23:59:59.999999999Z\"",
    "\"0001-01-01T00:00:00Z\"",
    "\"-1h\"",
    "[]",
    "[null]",
    "[\"s.a\",\"s.a\",null]",
    "[{}]",
    "[-1,0,9223372036854775807]",
    "{}",
    "{\"name\":\"S\"}",
    "{\"\":null}",
];

/// Fields that a request may get beside its own.
const FIELDS: &[&str] = &[
    "ack_policy",
    "ack_wait",
    "action",
    "allow_direct",
    "allow_msg_ttl",
    "backoff",
    "batch",
    "config",
    "consumer_limits",
    "deliver_group",
    "deliver_policy",
    "deliver_subject",
    "duplicate_window",
    "durable_name",
    "expires",
    "filter_subject",
    "filter_subjects",
    "first_seq",
    "flow_control",
    "group",
    "headers_only",
    "idle_heartbeat",
    "inactive_threshold",
    "keep",
    "last_by_subj",
    "limit",
    "max_ack_pending",
    "max_age",
    "max_batch",
    "max_bytes",
    "max_deliver",
    "max_expires",
    "max_msgs",
    "max_msgs_per_subject",
    "max_waiting",
    "mem_storage",
    "metadata",
    "mirror",
    "multi_last",
    "name",
    "next_by_subj",
    "no_wait",
    "num_replicas",
    "offset",
    "opt_start_seq",
    "opt_start_time",
    "pause_until",
    "placement",
    "priority_groups",
    "priority_policy",
    "rate_limit_bps",
    "replay_policy",
    "republish",
    "retention",
    "sample_freq",
    "seq",
    "sources",
    "start_time",
    "storage",
    "stream_name",
    "subject",
    "subject_delete_marker_ttl",
    "subject_transform",
    "subjects",
    "subjects_filter",
    "up_to_seq",
    "up_to_time",
];

/// A client and the server, with a stream, a consumer and some messages.
struct Bench {
    broker: Broker<MemoryLog>,
    session: Session,
    out: Output,
    at: Duration,
}

impl Bench {
    fn open() -> Self {
        let at = Duration::from_secs(1);
        let broker =
            Broker::open(MemoryLog::new(), BrokerOptions::default(), now(at)).expect("it opens");
        let session = Session::new(Arc::new(Limits::default()), "bus".into(), true);
        let mut bench = Self { broker, session, out: Output::new(), at };
        bench.broker.handle(now(at), ME, Request::Opened { connection: ConnectionId(1) });
        bench.send(CONNECT.as_bytes());
        bench.request("STREAM.CREATE.S", br#"{"name":"S","subjects":["s.>"],"allow_direct":true}"#);
        let config =
            br#"{"stream_name":"S","config":{"durable_name":"c","ack_policy":"explicit"}}"#;
        bench.request("CONSUMER.CREATE.S.c", config);
        for subject in ["s.a", "s.b", "s.a"] {
            bench.publish(subject, ANY, b"x");
        }
        bench
    }

    /// What the client is told when it says this.
    fn send(&mut self, words: &[u8]) -> Vec<u8> {
        let mut decoder = Decoder::new(1 << 20, 1 << 20);
        decoder.allow_headers(true);
        decoder.buffer().extend_from_slice(words);
        let mut requests = Vec::new();
        self.session.set_time(self.at);
        while let Ok(Some(operation)) = decoder.next_operation() {
            match self.session.receive(operation, &mut requests, &mut self.out) {
                Ok(true) => self.session.admit(&mut requests, &mut self.out),
                Ok(false) => {}
                Err(ending) => panic!("a request ends no connection: {ending}"),
            }
        }
        for request in requests {
            self.broker.handle(now(self.at), ME, request);
        }
        self.turn();
        self.out.take().concat()
    }

    fn turn(&mut self) {
        for _ in 0..8 {
            self.broker.commit();
            self.broker.handle_log(now(self.at)).expect("memory does not fail");
            while let Some((_, event)) = self.broker.poll_event() {
                if let Event::Deliver { deliveries, .. } = &event {
                    let bytes = deliveries.iter().map(Delivery::charge).sum();
                    self.broker.handle(now(self.at), ME, Request::Sent { bytes });
                }
                self.session.event(event, &mut self.out).expect("the connection goes on");
            }
            if self.broker.poll_timeout().is_some_and(|due| due <= self.at) {
                self.broker.handle_timeout(now(self.at));
            }
        }
    }

    fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) -> Vec<u8> {
        let head = format!("PUB {subject} {reply} {}\r\n", payload.len());
        self.send(&[head.as_bytes(), payload, b"\r\n"].concat())
    }

    /// Makes a request, and looks at the answer.
    fn request(&mut self, operation: &str, body: &[u8]) {
        let is_json =
            !operation.starts_with("DIRECT.GET.") && !operation.starts_with("CONSUMER.MSG.NEXT.");
        let reply = if is_json { JSON } else { ANY };
        let subject = format!("$JS.API.{operation}");
        let said = self.publish(&subject, reply, body);
        let answers: Vec<&[u8]> =
            messages(&said).filter(|(to, _)| *to == JSON).map(|m| m.1).collect();
        let shown = String::from_utf8_lossy(&said);
        if is_json {
            assert_eq!(answers.len(), 1, "{operation} {}: {shown}", String::from_utf8_lossy(body));
        }
        for answer in answers {
            if answer.is_empty() && operation.split('.').any(str::is_empty) {
                // It was no subject, so that nobody got the request.
                assert!(shown.contains("NATS/1.0 503"), "{shown}");
                continue;
            }
            let answer: Value = serde_json::from_slice(answer).expect("an answer is JSON");
            assert!(answer["type"].is_string(), "{shown}");
        }
    }
}

fn now(at: Duration) -> Now {
    Now { monotonic: at, wall: WALL + u64::try_from(at.as_nanos()).expect("it is short") }
}

/// The messages in what a client is told: for which subject, and what follows the headers.
fn messages(mut said: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let end = said.windows(2).position(|two| two == b"\r\n")?;
            let line = std::str::from_utf8(&said[..end]).expect("a line is text");
            said = &said[end + 2..];
            let words: Vec<&str> = line.split(' ').collect();
            let count = |word: &str| word.parse::<usize>().expect("a size");
            let (head, size) = match words.as_slice() {
                ["MSG", .., size] => (0, count(size)),
                ["HMSG", .., head, size] => (count(head), count(size)),
                _ => continue,
            };
            let (message, rest) = said.split_at(size);
            said = rest.strip_prefix(b"\r\n").expect("a message ends its line");
            return Some((words[1], &message[head..]));
        }
    })
}

/// The same body with one field left out, added, or holding something else, as `chance` says; that of an
/// object in it if that is where the fields are.
fn varied(body: &[u8], chance: u64) -> Option<String> {
    let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let pick = |from: usize, shift: u32| (chance >> shift) as usize % from;
    let value = VALUES[pick(VALUES.len(), 8)];
    let mut parts: Vec<(String, String)> =
        fields.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
    let inner = parts.iter().position(|(_, value)| value.starts_with("{\""));
    match (chance % 4, inner) {
        (1 | 2 | 3, Some(at)) if pick(4, 40) > 0 => {
            parts[at].1 = varied(parts[at].1.as_bytes(), chance.rotate_right(13))?;
        }
        (0 | 1, _) => parts.push((FIELDS[pick(FIELDS.len(), 16)].to_owned(), value.to_owned())),
        (_, _) if parts.is_empty() => return None,
        (2, _) => {
            parts.remove(pick(parts.len(), 24));
        }
        _ => {
            let at = pick(parts.len(), 24);
            parts[at].1 = value.to_owned();
        }
    }
    let parts: Vec<String> = parts
        .iter()
        .map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())))
        .collect();
    Some(format!("{{{}}}", parts.join(",")))
}

/// Whether a line can be part of a PUB: words of text without blanks.
fn is_word(subject: &str) -> bool {
    !subject.is_empty() && subject.bytes().all(|byte| byte.is_ascii_graphic())
}

fuzz_target!(|input: &[u8]| {
    let mut bench = Bench::open();
    for line in input.split(|byte| *byte == b'\n').take(MOST_LINES) {
        let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (subject, body) = (&line[..end], line.get(end + 1..).unwrap_or_default());
        let Some(subject) = std::str::from_utf8(subject).ok().filter(|word| is_word(word)) else {
            continue;
        };
        if subject.starts_with("$JS.ACK.") || subject.starts_with("s.") {
            bench.publish(subject, ANY, body);
            continue;
        }
        bench.request(subject, body);
        for variant in 0..VARIANTS {
            if let Some(body) = varied(body, xxh3_64_with_seed(line, variant)) {
                bench.request(subject, body.as_bytes());
            }
        }
        bench.at += Duration::from_millis(300);
        bench.turn();
    }
    bench.out.take();
    // Whatever became of the streams, the server is there.
    bench.request("INFO", b"");
});
