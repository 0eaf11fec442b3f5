//! Properties of the codec as a whole.

use std::time::Duration;

use bytes::Bytes;
use claudebus_storage::{NewRecord, Record};
use proptest::prelude::*;

use super::*;
use crate::model::batch::MessageBatch;
use crate::model::error::ApiError;
use crate::model::event::{CoreMessage, Delivery, PullStatus};
use crate::model::request::{AckKind, ProducerId};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, 0..=VARINT_MAX]
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn batch(replies: bool) -> impl Strategy<Value = MessageBatch> {
    let reply = if replies { "[a-z]{0,3}" } else { "" };
    let message = ("[a-b.]{0,3}", reply, bytes(20), bytes(2000));
    prop::collection::vec(message, 1..20).prop_map(|messages| {
        let mut writer = MessagesWriter::new();
        for (subject, reply, headers, payload) in &messages {
            writer.push(subject, reply, headers, payload);
        }
        let mut out = Output::new();
        writer.encode_send(false, &mut out);
        match ClientFrame::decode(all_frames(&out.take()).remove(0)) {
            Ok(ClientFrame::Send { batch, .. }) => batch,
            other => panic!("SEND became {other:?}"),
        }
    })
}

fn ack_kind() -> impl Strategy<Value = AckKind> {
    prop_oneof![
        Just(AckKind::Ack),
        number().prop_map(|n| AckKind::Nak { delay: Duration::from_nanos(n) }),
        Just(AckKind::InProgress),
        ".{0,8}".prop_map(|reason| AckKind::Terminate { reason }),
    ]
}

fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((1..1000u64, 0..1000u64), 0..20).prop_map(|steps| {
        let mut end = 0;
        steps
            .into_iter()
            .map(|(gap, more)| {
                let from = end + gap;
                end = from + more;
                (from, end)
            })
            .collect()
    })
}

fn pull() -> impl Strategy<Value = PullFrame> {
    (number(), 1..VARINT_MAX, number(), number(), any::<[bool; 2]>(), number()).prop_map(
        |(token, batch, max_bytes, expires, [no_wait, renewable], heartbeat)| PullFrame {
            token,
            batch,
            max_bytes,
            expires: (expires > 0).then(|| Duration::from_nanos(expires)),
            no_wait,
            renewable,
            heartbeat: (heartbeat > 0).then(|| Duration::from_nanos(heartbeat)),
        },
    )
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    prop_oneof![
        (any::<u32>(), ".{0,9}", prop::option::of(".{0,9}")).prop_map(|(minor, name, token)| {
            ClientFrame::Hello(Hello { minor, name, version: "1".into(), token })
        }),
        (number(), "[A-Z.]{0,9}", bytes(3000)).prop_map(|(id, operation, body)| {
            ClientFrame::Request { id, operation, body: body.into() }
        }),
        any::<u128>().prop_map(|id| ClientFrame::OpenPublisher { producer: ProducerId(id) }),
        (number(), batch(false)).prop_map(|(first, batch)| ClientFrame::Publish { first, batch }),
        (".{0,9}", ".{0,9}")
            .prop_map(|(stream, consumer)| ClientFrame::OpenConsumer { stream, consumer }),
        pull().prop_map(ClientFrame::Pull),
        (number(), number(), number()).prop_map(|(token, more, more_bytes)| {
            ClientFrame::Raise { token, more, more_bytes }
        }),
        number().prop_map(|token| ClientFrame::Cancel { token }),
        (ack_kind(), ranges(), prop::option::of(1..VARINT_MAX))
            .prop_map(|(kind, sequences, confirm)| ClientFrame::Ack { kind, sequences, confirm }),
        Just(ClientFrame::OpenMessages),
        (number(), ".{0,9}", prop::option::of(".{1,9}")).prop_map(|(token, subject, queue)| {
            ClientFrame::Subscribe { token, subject, queue }
        }),
        (number(), prop::option::of(1..VARINT_MAX))
            .prop_map(|(token, max)| ClientFrame::Unsubscribe { token, max }),
        (batch(true), any::<bool>()).prop_map(|(batch, echo)| ClientFrame::Send { batch, echo }),
        number().prop_map(|token| ClientFrame::Barrier { token }),
    ]
}

fn stored_range() -> impl Strategy<Value = StoredRange> {
    ([number(), number(), number()], any::<bool>())
        .prop_map(|([count, alias, seq], duplicate)| StoredRange { count, alias, seq, duplicate })
}

fn error() -> impl Strategy<Value = ApiError> {
    (any::<u16>(), any::<u32>(), ".{0,30}").prop_map(|(code, err_code, text)| ApiError {
        code,
        err_code,
        description: text.into(),
    })
}

fn record() -> impl Strategy<Value = Record> {
    (1..VARINT_MAX, number(), "[a-z.]{0,9}", bytes(30), bytes(3000)).prop_map(
        |(seq, time, subject, headers, payload)| {
            let record = NewRecord {
                subject: &subject,
                headers: &headers,
                payload: &payload,
                time,
                expires: None,
                message_id: None,
            };
            Record::copy_of(seq, &record)
        },
    )
}

fn delivery() -> impl Strategy<Value = Delivery> {
    (record(), number(), number(), number()).prop_map(
        |(record, consumer_seq, attempts, pending)| Delivery {
            record,
            consumer_seq,
            attempts,
            pending,
            headers_only: false,
            pin: None,
        },
    )
}

fn status() -> impl Strategy<Value = StatusFrame> {
    (number(), any::<u16>(), ".{0,20}", [number(), number(), number(), number()], any::<bool>())
        .prop_map(|(token, code, text, [messages, bytes, consumer, stream], ended)| StatusFrame {
            token,
            status: PullStatus {
                code,
                text: text.into(),
                pending_messages: messages,
                pending_bytes: bytes,
                last: (consumer, stream),
                ended,
                stalled: None,
                reply: None,
            },
        })
}

fn server_frame() -> impl Strategy<Value = ServerFrame> {
    let message = ("[a-z.]{1,9}", "[a-z.]{0,9}", bytes(30), bytes(3000));
    prop_oneof![
        ".{0,9}".prop_map(|name| ServerFrame::Welcome(Welcome { name, ..Welcome::default() })),
        error().prop_map(ServerFrame::Refused),
        (number(), any::<[bool; 2]>(), bytes(3000)).prop_map(|(id, [ok, more], body)| {
            ServerFrame::Response { id, ok, more, body: body.into() }
        }),
        (number(), ".{0,9}", record()).prop_map(|(id, stream, record)| {
            ServerFrame::ResponseMessage(DirectMessage { id, stream, record })
        }),
        Just(ServerFrame::PublisherReady),
        (number(), prop::collection::vec(stored_range(), 1..4))
            .prop_map(|(first, ranges)| ServerFrame::Published { first, ranges }),
        (number(), ".{0,9}").prop_map(|(alias, name)| ServerFrame::StreamName { alias, name }),
        (number(), error())
            .prop_map(|(counter, error)| ServerFrame::RefusedMessage { counter, error }),
        Just(ServerFrame::ConsumerReady),
        (number(), prop::collection::vec(delivery(), 1..20))
            .prop_map(|(token, deliveries)| ServerFrame::Deliver { token, deliveries }),
        status().prop_map(ServerFrame::Status),
        (number(), prop::option::of(error()))
            .prop_map(|(token, error)| ServerFrame::AckConfirmed { token, error }),
        Just(ServerFrame::MessagesReady),
        (number(), message).prop_map(|(token, (subject, reply, headers, payload))| {
            let message = CoreMessage {
                subject: subject.into(),
                reply: reply.into(),
                headers: headers.into(),
                payload: payload.into(),
            };
            ServerFrame::Message { token, message }
        }),
        number().prop_map(|token| ServerFrame::BarrierReached { token }),
    ]
}

fn joined(chunks: &[Bytes]) -> Vec<u8> {
    chunks.concat()
}

fn all_frames(chunks: &[Bytes]) -> Vec<Frame> {
    let mut decoder = Decoder::new(usize::MAX);
    decoder.buffer().extend_from_slice(&joined(chunks));
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame().expect("encoded frames are well formed") {
        frames.push(frame);
    }
    decoder.finish().expect("nothing is left over");
    frames
}

/// Batches cannot be compared: their debug texts tell all.
fn text(frames: &[ClientFrame]) -> Vec<String> {
    frames
        .iter()
        .map(|frame| match frame {
            ClientFrame::Publish { first, batch } => {
                format!("{first} {:?}", batch.iter().collect::<Vec<_>>())
            }
            ClientFrame::Send { batch, echo } => {
                format!("{echo} {:?}", batch.iter().collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        })
        .collect()
}

proptest! {
    #[test]
    fn client_frames_come_back(frames in prop::collection::vec(client_frame(), 0..5)) {
        let mut out = Output::new();
        for frame in &frames {
            frame.encode(&mut out);
        }
        let decoded: Result<Vec<_>, _> =
            all_frames(&out.take()).into_iter().map(ClientFrame::decode).collect();
        prop_assert_eq!(text(&decoded.unwrap()), text(&frames));
    }

    #[test]
    fn server_frames_come_back(frames in prop::collection::vec(server_frame(), 0..5)) {
        let mut out = Output::new();
        for frame in &frames {
            frame.encode(&mut out);
        }
        let decoded: Result<Vec<_>, _> =
            all_frames(&out.take()).into_iter().map(ServerFrame::decode).collect();
        prop_assert_eq!(decoded.unwrap(), frames);
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_frames(
        frames in prop::collection::vec(server_frame(), 1..5),
        cuts in prop::collection::vec(1..200usize, 1..50),
    ) {
        let mut out = Output::new();
        for frame in &frames {
            frame.encode(&mut out);
        }
        let bytes = joined(&out.take());
        let mut decoder = Decoder::new(1 << 20);
        let mut decoded = Vec::new();
        let mut rest = &bytes[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            rest = after;
            decoder.buffer().extend_from_slice(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                decoded.push(ServerFrame::decode(frame).unwrap());
            }
        }
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_never_a_panic(kind in any::<u8>(), body in bytes(300)) {
        let frame = Frame { kind, body: body.into() };
        let _ = ClientFrame::decode(frame.clone());
        let _ = ServerFrame::decode(frame);
    }

    #[test]
    fn damaged_frames_are_an_error_and_never_a_panic(
        frame in client_frame(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut out = Output::new();
        frame.encode(&mut out);
        let whole = all_frames(&out.take()).remove(0);
        let mut body = whole.body.to_vec();
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let cut = at.index(body.len() + 1);
        let _ = ClientFrame::decode(Frame { kind: whole.kind, body: body[..cut].to_vec().into() });
        let _ = ClientFrame::decode(Frame { kind: whole.kind, body: body.into() });
    }
}

#[test]
fn bytes_after_a_frame_are_refused() {
    let frame = Frame { kind: 0x23, body: Bytes::from_static(&[7, 0]) };
    let error = ClientFrame::decode(frame).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Malformed);
}

#[test]
fn a_frame_of_more_stored_ranges_than_may_be_is_refused() {
    let range = StoredRange { count: 1, alias: 0, seq: 1, duplicate: false };
    let encoded = |count| {
        let mut out = Output::new();
        ServerFrame::Published { first: 1, ranges: vec![range; count] }.encode(&mut out);
        let mut frames = all_frames(&out.take());
        ServerFrame::decode(frames.remove(0))
    };
    assert!(encoded(MAX_STORED_RANGES).is_ok());
    assert_eq!(encoded(MAX_STORED_RANGES + 1).unwrap_err().code(), ErrorCode::Malformed);
}

#[test]
fn an_unknown_field_of_hello_is_refused_and_named() {
    let body = Bytes::from_static(br#"{"minor":0,"name":"x","version":"1","tokn":"s"}"#);
    let error = ClientFrame::decode(Frame { kind: 0x01, body }).unwrap_err();
    assert!(error.to_string().contains("tokn"), "{error}");
}

#[test]
fn a_payload_that_is_left_out_is_measured_in_the_headers() {
    let record = NewRecord {
        subject: "a",
        headers: b"",
        payload: &[0; 5000],
        time: 1,
        expires: None,
        message_id: None,
    };
    let delivery = Delivery {
        record: Record::copy_of(9, &record),
        consumer_seq: 1,
        attempts: 1,
        pending: 0,
        headers_only: true,
        pin: None,
    };
    let mut out = Output::new();
    ServerFrame::encode_deliveries(1, &[delivery], &mut out);
    let frame = ServerFrame::decode(all_frames(&out.take()).remove(0)).unwrap();
    let ServerFrame::Deliver { deliveries, .. } = frame else { panic!("not DELIVER") };
    assert_eq!(deliveries[0].record.headers(), b"NATS/1.0\r\nNats-Msg-Size: 5000\r\n\r\n");
    assert!(deliveries[0].record.payload().is_empty() && deliveries[0].headers_only);
}

fn delivered(numbers: [u64; 5]) -> Delivery {
    let [seq, consumer_seq, attempts, time, pending] = numbers;
    let (subject, headers, payload) = ("a", &b""[..], &b"x"[..]);
    let record = NewRecord { subject, headers, payload, time, expires: None, message_id: None };
    let record = Record::copy_of(seq, &record);
    Delivery { record, consumer_seq, attempts, pending, headers_only: false, pin: None }
}

#[test]
fn numbers_go_on_only_where_they_do() {
    let deliveries: Vec<_> = [
        [9, 4, 1, 1000, 20],
        [10, 5, 1, 1000, 19],
        // A filter left some out, and time passed.
        [400, 6, 1, 90_000, 18],
        // Delivered again, from before.
        [3, 7, 2, 10, 18],
        [401, 8, 1, 90_001, 17],
        // The clock was set back.
        [402, 9, 1, 90_000, 16],
        // Messages came between.
        [403, 10, 1, 90_000, 99],
        [403, 11, 3, 90_000, 98],
    ]
    .map(delivered)
    .into();
    let mut out = Output::new();
    ServerFrame::encode_deliveries(1, &deliveries, &mut out);
    let frame = all_frames(&out.take()).remove(0);
    assert_eq!(frame.body.len(), 2 + (12 + 8 + 12) + (11 + 12) + (15 + 16 + 16));
    let frame = ServerFrame::decode(frame).unwrap();
    let ServerFrame::Deliver { deliveries: read, .. } = frame else { panic!("not DELIVER") };
    assert_eq!(read, deliveries);
}

#[test]
fn the_first_message_of_a_frame_goes_on_from_none() {
    let body = Bytes::from_static(&[1, 1, 2, 1, 0, 1, 0, 0, b'a']);
    let error = ServerFrame::decode(Frame { kind: 0xa1, body }).unwrap_err();
    assert!(error.to_string().contains("goes on from one that is not there"), "{error}");
}
