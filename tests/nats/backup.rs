//! Backups: a snapshot of either server is restored into either of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::connection::{Came, Connection, Operation};
use crate::script::HANDSHAKE;
use crate::server::{Kind, Server};

/// For each answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of the parts in which a snapshot is given back, which are not those it came in.
const PART: usize = 777;

/// The subscription to the parts of snapshots.
const PARTS: &str = "2";

/// A client that waits for one thing at a time.
struct Client {
    connection: Connection,
    asked: usize,
    /// Parts of snapshots that came while something else was waited for: the first may overtake the answer
    /// of the real server.
    parts: VecDeque<Operation>,
}

impl Client {
    fn of(server: &Server) -> Self {
        let mut connection = Connection::open(server.address());
        connection.send(format!("{HANDSHAKE}SUB _INBOX.b.* 1\r\nSUB parts {PARTS}\r\n").as_bytes());
        Self { connection, asked: 0, parts: VecDeque::new() }
    }

    /// The next message for a subscription.
    fn message(&mut self, subscription: &str) -> Operation {
        if subscription == PARTS
            && let Some(part) = self.parts.pop_front()
        {
            return part;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connection.next(deadline) {
                Came::Operation(found) if found.subscription() == Some(subscription) => {
                    return found;
                }
                Came::Operation(found) if found.subscription() == Some(PARTS) => {
                    self.parts.push_back(found);
                }
                Came::Operation(_) => {}
                Came::End | Came::Nothing => panic!("nothing came for {subscription}"),
            }
        }
    }

    fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) {
        let head = format!("PUB {subject} {reply} {}\r\n", payload.len());
        self.connection.send(&[head.as_bytes(), payload, b"\r\n"].concat());
    }

    fn request(&mut self, subject: &str, payload: &[u8]) -> Operation {
        self.asked += 1;
        let inbox = format!("_INBOX.b.{}", self.asked);
        self.publish(subject, &inbox, payload);
        loop {
            let answer = self.message("1");
            if answer.subject() == Some(&inbox) || answer.reply().is_some() {
                return answer;
            }
        }
    }

    fn api(&mut self, operation: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.request(&format!("$JS.API.{operation}"), body.as_bytes());
        serde_json::from_slice(&answer.payload).expect("JSON")
    }

    /// A stream with holes, headers and a consumer that has worked.
    fn fill(&mut self) {
        let config = json!({ "name": "S", "subjects": ["s.>"], "description": "a stream" });
        self.api("STREAM.CREATE.S", &config);
        for number in 0..300 {
            self.request(
                &format!("s.{}", number % 3),
                format!("body {number} ").repeat(9).as_bytes(),
            );
        }
        for seq in [3, 300] {
            self.api("STREAM.MSG.DELETE.S", &json!({ "seq": seq }));
        }
        let config = json!({ "durable_name": "c", "ack_policy": "explicit" });
        self.api("CONSUMER.CREATE.S.c", &json!({ "stream_name": "S", "config": config }));
        for answer in ["+ACK", "", ""] {
            let message = self.request("$JS.API.CONSUMER.MSG.NEXT.S.c", b"");
            if !answer.is_empty() {
                let reply = message.reply().expect("a delivery").to_owned();
                self.request(&reply, answer.as_bytes());
            }
        }
    }

    /// What is to be the same after a restore.
    fn seen(&mut self) -> Vec<Value> {
        let mut seen: Vec<Value> = [1, 2, 3, 4, 299, 300]
            .into_iter()
            .map(|seq| self.api("STREAM.MSG.GET.S", &json!({ "seq": seq }))["message"].take())
            .collect();
        let info = self.api("STREAM.INFO.S", &Value::Null);
        for field in ["messages", "bytes", "first_seq", "first_ts", "last_seq", "num_deleted"] {
            seen.push(info["state"][field].clone());
        }
        seen.push(info["config"]["description"].clone());
        let info = self.api("CONSUMER.INFO.S.c", &Value::Null);
        for place in
            ["/delivered/stream_seq", "/ack_floor/stream_seq", "/num_ack_pending", "/num_pending"]
        {
            seen.push(info.pointer(place).cloned().unwrap_or_default());
        }
        seen
    }

    /// A snapshot, and what was said of it.
    fn snapshot(&mut self) -> (Value, Vec<u8>) {
        let asked = json!({ "deliver_subject": "parts", "chunk_size": 1024, "window_size": 4096 });
        let said = self.api("STREAM.SNAPSHOT.S", &asked);
        let mut bytes = Vec::new();
        loop {
            let part = self.message(PARTS);
            if let Some(reply) = part.reply() {
                let reply = reply.to_owned();
                self.publish(&reply, "", b"");
            }
            if part.payload.is_empty() {
                // A snapshot that ended before its time says so in the status.
                let status = part.headers.as_deref().map(String::from_utf8_lossy);
                assert!(
                    status.as_ref().is_none_or(|s| s.starts_with("NATS/1.0 204")),
                    "{status:?}"
                );
                assert!(bytes.len() > 1024, "more than one part");
                return (said, bytes);
            }
            bytes.extend(part.payload);
        }
    }

    fn restore(&mut self, said: &Value, bytes: &[u8]) {
        let asked = json!({ "config": said["config"], "state": said["state"] });
        let begun = self.api("STREAM.RESTORE.S", &asked);
        let subject =
            begun["deliver_subject"].as_str().unwrap_or_else(|| panic!("{begun}")).to_owned();
        for part in bytes.chunks(PART) {
            let answer = self.request(&subject, part);
            assert!(answer.payload.is_empty() && answer.headers.is_none(), "{answer:?}");
        }
        let answer: Value = serde_json::from_slice(&self.request(&subject, b"").payload).unwrap();
        assert_eq!(answer["type"], "io.nats.jetstream.api.v1.stream_create_response");
        assert!(answer.get("error").is_none(), "{answer}");
    }
}

#[test]
fn a_backup_of_either_server_is_restored_into_either() {
    for from in [Kind::Real, Kind::Ours] {
        let home = tempfile::tempdir().unwrap();
        let origin = Server::start(from, &home.path().join("origin"));
        let mut client = Client::of(&origin);
        client.fill();
        let seen = client.seen();
        let (said, bytes) = client.snapshot();
        for to in [Kind::Real, Kind::Ours] {
            let target = Server::start(to, &home.path().join(format!("{to:?}")));
            let mut client = Client::of(&target);
            client.restore(&said, &bytes);
            assert_eq!(client.seen(), seen, "{from:?} into {to:?}");
        }
    }
}
