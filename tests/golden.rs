//! Golden bytes: every frame of `claudebus/1` as it must be on the wire.
//!
//! `tests/golden/native.txt` holds one frame a line: its name and its bytes in hex. A change of
//! these bytes breaks every client there is. `docs/protocol.md` shows the same bytes. To write the
//! file for new frames, run the test with `CLAUDEBUS_BLESS=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claudebus::model::error::ApiError;
use claudebus::model::event::{CoreMessage, Delivery, Gap, PullStatus};
use claudebus::model::request::{AckKind, ProducerId};
use claudebus::wire::native::{
    ClientFrame, Decoder, DirectMessage, Frame, Hello, MessagesWriter, Output, PullFrame,
    ServerFrame, StatusFrame, StoredRange, Welcome, WireLimits,
};
use claudebus_storage::{NewRecord, Record};

const TIME: u64 = 1_700_000_000_000_000_000;
const HEADERS: &[u8] = b"NATS/1.0\r\nA: 1\r\n\r\n";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn encoded(encode: impl FnOnce(&mut Output)) -> String {
    let mut out = Output::new();
    encode(&mut out);
    hex(&out.take().concat())
}

fn record(seq: u64, headers: &[u8], payload: &[u8]) -> Record {
    let record = NewRecord {
        subject: "orders.new",
        headers,
        payload,
        time: TIME,
        expires: None,
        message_id: None,
    };
    Record::copy_of(seq, &record)
}

fn messages() -> MessagesWriter {
    let mut writer = MessagesWriter::new();
    writer.push("orders.new", "", b"", b"one");
    writer.push("orders.new", "", HEADERS, b"two");
    writer.push("orders.paid", "", b"", b"");
    writer
}

fn ack(kind: AckKind, sequences: &[(u64, u64)], confirm: Option<u64>) -> ClientFrame {
    ClientFrame::Ack { kind, sequences: sequences.to_vec(), confirm }
}

fn client_frames() -> Vec<(&'static str, String)> {
    let frame = |frame: ClientFrame| encoded(|out| frame.encode(out));
    let mut send = MessagesWriter::new();
    send.push("greet", "inbox.1", b"", b"hi");
    vec![
        (
            "HELLO",
            frame(ClientFrame::Hello(Hello {
                minor: 0,
                name: "example".into(),
                version: "1.0".into(),
                token: None,
            })),
        ),
        (
            "REQUEST",
            frame(ClientFrame::Request {
                id: 1,
                operation: "STREAM.CREATE.ORDERS".into(),
                body: Bytes::from_static(br#"{"subjects":["orders.>"]}"#),
            }),
        ),
        (
            "OPEN_PUBLISHER",
            frame(ClientFrame::OpenPublisher {
                producer: ProducerId(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f),
            }),
        ),
        ("PUBLISH", encoded(|out| messages().numbered(1).encode(out))),
        (
            "OPEN_CONSUMER",
            frame(ClientFrame::OpenConsumer { stream: "ORDERS".into(), consumer: "bill".into() }),
        ),
        (
            "PULL",
            frame(ClientFrame::Pull(PullFrame {
                token: 1,
                batch: 100,
                max_bytes: 0,
                expires: Some(Duration::from_secs(30)),
                no_wait: false,
                renewable: true,
                heartbeat: Some(Duration::from_secs(5)),
            })),
        ),
        ("RAISE", frame(ClientFrame::Raise { token: 1, more: 50, more_bytes: 0 })),
        ("CANCEL", frame(ClientFrame::Cancel { token: 1 })),
        ("ACK", frame(ack(AckKind::Ack, &[(1, 100), (102, 102)], None))),
        ("ACK nak", frame(ack(AckKind::Nak { delay: Duration::from_secs(1) }, &[(7, 7)], Some(3)))),
        ("ACK in progress", frame(ack(AckKind::InProgress, &[(8, 8)], None))),
        ("ACK terminate", {
            frame(ack(AckKind::Terminate { reason: "bad json".into() }, &[(9, 9)], None))
        }),
        ("OPEN_MESSAGES", frame(ClientFrame::OpenMessages)),
        (
            "SUBSCRIBE",
            frame(ClientFrame::Subscribe { token: 1, subject: "greet.>".into(), queue: None }),
        ),
        ("SUBSCRIBE queue", {
            let queue = Some("workers".into());
            frame(ClientFrame::Subscribe { token: 2, subject: "greet".into(), queue })
        }),
        ("UNSUBSCRIBE", frame(ClientFrame::Unsubscribe { token: 1, max: None })),
        ("SEND", encoded(|out| send.encode_send(true, out))),
        ("BARRIER", frame(ClientFrame::Barrier { token: 1 })),
    ]
}

fn stored(count: u64, alias: u64, seq: u64) -> StoredRange {
    StoredRange { count, alias, seq, duplicate: false }
}

fn server_frames() -> Vec<(&'static str, ServerFrame)> {
    let not_found = ApiError::stream_not_found;
    let delivery = |seq, headers, payload, pending, headers_only| Delivery {
        record: record(seq, headers, payload),
        consumer_seq: seq,
        attempts: 1,
        pending,
        headers_only,
        pin: None,
    };
    vec![
        (
            "WELCOME",
            ServerFrame::Welcome(Welcome {
                minor: 0,
                server_id: "5f".into(),
                name: "bus".into(),
                version: "0.1.0".into(),
                durability: "sync".into(),
                limits: WireLimits {
                    max_frame: 1_114_112,
                    max_payload: 1_048_576,
                    max_headers: 65_536,
                    max_batch_messages: 4096,
                    max_streams: 64,
                },
            }),
        ),
        ("REFUSED", ServerFrame::Refused(not_found())),
        ("RESPONSE", {
            let body = Bytes::from_static(br#"{"success":true}"#);
            ServerFrame::Response { id: 1, ok: true, more: false, body }
        }),
        ("RESPONSE error", {
            let body = serde_json::to_vec(&not_found()).unwrap().into();
            ServerFrame::Response { id: 2, ok: false, more: false, body }
        }),
        ("RESPONSE_MESSAGE", {
            let record = record(5, HEADERS, b"two");
            ServerFrame::ResponseMessage(DirectMessage { id: 3, stream: "ORDERS".into(), record })
        }),
        ("PUBLISHER_READY", ServerFrame::PublisherReady),
        ("STREAM_NAME", ServerFrame::StreamName { alias: 0, name: "ORDERS".into() }),
        ("PUBLISHED", ServerFrame::Published { first: 1, ranges: vec![stored(3, 0, 1001)] }),
        ("PUBLISHED duplicate", {
            let duplicate = StoredRange { duplicate: true, ..stored(3, 0, 1001) };
            ServerFrame::Published { first: 1, ranges: vec![duplicate] }
        }),
        ("PUBLISHED two ranges", {
            ServerFrame::Published { first: 1, ranges: vec![stored(3, 0, 1001), stored(1, 1, 7)] }
        }),
        ("REFUSED_MESSAGE", {
            ServerFrame::RefusedMessage { counter: 4, error: ApiError::message_too_large() }
        }),
        ("CONSUMER_READY", ServerFrame::ConsumerReady),
        (
            "DELIVER",
            ServerFrame::Deliver {
                token: 1,
                deliveries: vec![
                    delivery(5, HEADERS, b"two", 1, false),
                    delivery(6, b"", b"three", 0, false),
                ],
            },
        ),
        ("STATUS", {
            let status = PullStatus {
                code: 408,
                text: "Request Timeout".into(),
                pending_messages: 100,
                pending_bytes: 0,
                last: (0, 0),
                ended: true,
                stalled: None,
                reply: None,
            };
            ServerFrame::Status(StatusFrame { token: 1, status })
        }),
        ("ACK_CONFIRMED", ServerFrame::AckConfirmed { token: 3, error: None }),
        ("ACK_CONFIRMED error", {
            ServerFrame::AckConfirmed { token: 3, error: Some(ApiError::consumer_not_found()) }
        }),
        ("GAP", {
            let gap = Gap {
                stream: "ORDERS".into(),
                first: 5,
                last: 9,
                file: "segments/0000000000000001.seg".into(),
                offset: 96,
                is_certain: true,
            };
            ServerFrame::Gap { token: 1, gap: Arc::new(gap) }
        }),
        ("MESSAGES_READY", ServerFrame::MessagesReady),
        (
            "MESSAGE",
            ServerFrame::Message {
                token: 1,
                message: CoreMessage {
                    subject: Bytes::from_static(b"greet.all"),
                    reply: Bytes::from_static(b"inbox.1"),
                    headers: Bytes::new(),
                    payload: Bytes::from_static(b"hi"),
                },
            },
        ),
        ("BARRIER_REACHED", ServerFrame::BarrierReached { token: 1 }),
    ]
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn file() -> PathBuf {
    root().join("tests/golden/native.txt")
}

/// Name and hex of each line of the file.
fn golden(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).expect("the golden file is there");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, hex) = line.rsplit_once(' ').expect("a name and hex");
            (name.trim().to_owned(), hex.to_owned())
        })
        .collect()
}

fn decode(hex: &str) -> Frame {
    let mut decoder = Decoder::new(1 << 20);
    decoder.buffer().extend_from_slice(&unhex(hex));
    let frame = decoder.next_frame().expect("well formed").expect("complete");
    decoder.finish().expect("one frame");
    frame
}

#[test]
fn frames_have_the_bytes_they_always_had() {
    let mut frames: Vec<(String, String)> =
        client_frames().into_iter().map(|(name, hex)| (name.to_owned(), hex)).collect();
    frames.extend(
        server_frames()
            .into_iter()
            .map(|(name, frame)| (name.to_owned(), encoded(|out| frame.encode(out)))),
    );
    if std::env::var_os("CLAUDEBUS_BLESS").is_some() {
        let mut text = "# Frames of claudebus/1: name, bytes in hex.\n".to_owned();
        for (name, hex) in &frames {
            writeln!(text, "{name:20} {hex}").unwrap();
        }
        fs::write(file(), text).unwrap();
    }
    assert_eq!(golden(&file()), frames);
}

#[test]
fn golden_frames_are_read() {
    let frames = golden(&file());
    let (client, server) = frames.split_at(client_frames().len());
    for (name, hex) in client {
        let frame = ClientFrame::decode(decode(hex)).expect(name);
        assert!(name.starts_with(frame.name()), "{name} was read as {}", frame.name());
        assert_eq!(encoded(|out| frame.encode(out)), *hex, "{name}");
    }
    for ((name, hex), (_, expected)) in server.iter().zip(server_frames()) {
        assert_eq!(ServerFrame::decode(decode(hex)).expect(name), expected);
    }
}

#[test]
fn the_protocol_document_shows_the_golden_bytes() {
    let document = fs::read_to_string(root().join("docs/protocol.md")).expect("the document");
    let shown: String = document.chars().filter(|c| !c.is_whitespace()).collect();
    for (name, hex) in golden(&file()) {
        assert!(shown.contains(&hex), "docs/protocol.md does not show {name} as {hex}");
    }
}
