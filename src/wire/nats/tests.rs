//! Properties of the decoder as a whole.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::batch::{MessageBatch, MessageView};
use crate::wire::Output;

const MAX_PAYLOAD: usize = 3000;
const MAX_LINE: usize = 200;

/// What a connection means that begins with bytes in these parts: its operations, with messages one
/// by one however they were put together, and what was wrong. Headers are allowed as CONNECT says.
fn meaning(parts: &[&[u8]]) -> (Vec<String>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(MAX_PAYLOAD, MAX_LINE);
    let mut seen = Vec::new();
    for part in parts {
        decoder.buffer().extend_from_slice(part);
        loop {
            match decoder.next_operation() {
                Ok(Some(Operation::Publish(batch))) => {
                    assert!(!batch.is_empty());
                    seen.extend(batch.iter().map(message_text));
                }
                Ok(Some(other)) => {
                    if let Operation::Connect(connect) = &other {
                        decoder.allow_headers(connect.headers);
                    }
                    seen.push(format!("{other:?}"));
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_operation().unwrap_err(), error);
                    return (seen, Some(error));
                }
            }
        }
        assert!(decoder.buffer().len() <= MAX_PAYLOAD + MAX_LINE + 12);
    }
    (seen, None)
}

fn message_text(message: MessageView<'_>) -> String {
    format!("{message:?}")
}

/// Cuts bytes into parts of these lengths, over and over.
fn cut<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let (mut rest, mut parts) = (bytes, Vec::new());
    let mut lengths = lengths.iter().cycle();
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
        parts.push(part);
        rest = after;
    }
    parts
}

/// A verb in a mixture of cases.
fn verb(name: &'static str) -> impl Strategy<Value = String> {
    any::<u8>().prop_map(move |mask| {
        let mixed = |(at, c): (usize, char)| {
            if (mask >> at) & 1 == 1 { c.to_ascii_lowercase() } else { c }
        };
        name.chars().enumerate().map(mixed).collect::<String>()
    })
}

fn word() -> impl Strategy<Value = String> {
    "[a-cé.*>$]{1,9}"
}

fn blank() -> impl Strategy<Value = String> {
    "[ \t]{1,3}"
}

fn end() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("\r\n"), Just("\n")]
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

/// The bytes of an operation, and what `meaning` is to say of it; nothing if it is skipped.
type Written = (Vec<u8>, Option<String>);

fn publish() -> impl Strategy<Value = Written> {
    let names = (verb("PUB"), verb("HPUB"), word(), prop::option::of(word()));
    let body = (prop::option::of(bytes(30)), bytes(2000));
    (names, blank(), end(), body).prop_map(
        |((plain, with_headers, subject, reply), blank, end, (headers, payload))| {
            let reply = reply.unwrap_or_default();
            let mut words = vec![if headers.is_some() { with_headers } else { plain }];
            words.push(subject.clone());
            words.extend(Some(reply.clone()).filter(|reply| !reply.is_empty()));
            words.extend(headers.as_ref().map(|headers| headers.len().to_string()));
            let headers = headers.unwrap_or_default();
            words.push((headers.len() + payload.len()).to_string());
            let mut text = (words.join(blank.as_str()) + end).into_bytes();
            text.extend_from_slice(&headers);
            text.extend_from_slice(&payload);
            text.extend_from_slice(b"\r\n");
            let message = MessageView {
                subject: &subject,
                reply: &reply,
                headers: &headers,
                payload: &payload,
            };
            (text, Some(message_text(message)))
        },
    )
}

fn subscribe() -> impl Strategy<Value = Written> {
    (verb("SUB"), word(), prop::option::of(word()), word(), blank(), end()).prop_map(
        |(verb, subject, queue, sid, blank, end)| {
            let words = [Some(&verb), Some(&subject), queue.as_ref(), Some(&sid)];
            let words: Vec<&str> = words.into_iter().flatten().map(String::as_str).collect();
            let text = (words.join(blank.as_str()) + end).into_bytes();
            let operation = Operation::Subscribe {
                sid: sid.into(),
                subject: subject.into(),
                queue: queue.map(Into::into),
            };
            (text, Some(format!("{operation:?}")))
        },
    )
}

fn unsubscribe() -> impl Strategy<Value = Written> {
    (verb("UNSUB"), word(), prop::option::of(0..1_000_000_000u64), blank(), end()).prop_map(
        |(verb, sid, max, blank, end)| {
            let max_text = max.map(|max| format!("{blank}{max}")).unwrap_or_default();
            let text = format!("{verb}{blank}{sid}{max_text}{end}").into_bytes();
            let max = max.filter(|max| *max > 0);
            let operation = Operation::Unsubscribe { sid: sid.into(), max };
            (text, Some(format!("{operation:?}")))
        },
    )
}

/// CONNECT that allows headers, so that what follows may have some.
fn connect() -> impl Strategy<Value = Written> {
    (verb("CONNECT"), "[ \t]{0,2}", "[a-z\"\\\\é]{0,9}", end()).prop_map(
        |(verb, blank, name, end)| {
            let options = serde_json::json!({ "headers": true, "name": name });
            let connect = Connect { headers: true, name: Some(name), ..Connect::default() };
            let operation = Operation::Connect(Box::new(connect));
            (format!("{verb}{blank}{options}{end}").into_bytes(), Some(format!("{operation:?}")))
        },
    )
}

fn sign() -> impl Strategy<Value = Written> {
    let line = |(verb, end): (String, &str), seen: Option<Operation>| {
        ((verb + end).into_bytes(), seen.map(|seen| format!("{seen:?}")))
    };
    prop_oneof![
        (verb("PING"), end()).prop_map(move |text| line(text, Some(Operation::Ping))),
        (verb("PONG"), end()).prop_map(move |text| line(text, Some(Operation::Pong))),
        (verb("+OK"), end()).prop_map(move |text| line(text, None)),
        (verb("INFO"), end())
            .prop_map(|(verb, end)| (format!("{verb} {{}}{end}").into_bytes(), None)),
    ]
}

fn operation() -> impl Strategy<Value = Written> {
    prop_oneof![4 => publish(), 1 => subscribe(), 1 => unsubscribe(), 1 => connect(), 1 => sign()]
}

/// Pieces of operations.
const PIECES: &[&[u8]] = &[
    b"PUB ",
    b"HPUB ",
    b"SUB ",
    b"UNSUB ",
    b"CONNECT {\"headers\":true}\r\n",
    b"CONNECT {",
    b"ping",
    b"PONG\r\n",
    b"+OK\r\n",
    b"INFO {}\r\n",
    b"INFO",
    b"-ERR ",
    b"a.b ",
    b"\xff ",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"12 12\r\nNATS/1.0\r\n\r\n\r\n",
    b"3001\r\n",
    b"99999999999\r\n",
    b"7\r\n",
    b"x",
    b" \t",
    b"\r",
    b"\n",
    &[b'l'; MAX_LINE - 2],
];

/// Pieces in any order: mostly wrong, but wrong at interesting places.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(PIECES), 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn operations_mean_what_was_written_however_they_are_cut(
        operations in prop::collection::vec(operation(), 0..8),
        lengths in prop::collection::vec(1..200usize, 1..50),
    ) {
        let mut text = b"CONNECT {\"headers\":true}\r\n".to_vec();
        let mut expected = Vec::new();
        for (operation, seen) in operations {
            text.extend_from_slice(&operation);
            expected.extend(seen);
        }
        for parts in [vec![&text[..]], cut(&text, &lengths), cut(&text, &[1])] {
            let (seen, error) = meaning(&parts);
            prop_assert_eq!(error, None);
            prop_assert_eq!(&seen[1..], &expected[..]);
        }
    }

    #[test]
    fn what_is_wrong_is_as_wrong_however_it_is_cut(
        text in soup(),
        lengths in prop::collection::vec(1..20usize, 1..50),
    ) {
        let whole = meaning(&[&text]);
        prop_assert_eq!(&whole, &meaning(&cut(&text, &lengths)));
        prop_assert_eq!(&whole, &meaning(&cut(&text, &[1])));
    }

    #[test]
    fn any_bytes_mean_something_or_are_an_error(text in bytes(300)) {
        prop_assert_eq!(meaning(&[&text]), meaning(&cut(&text, &[1])));
    }

    /// What the server writes is what a client reads: a message that is sent on comes back.
    #[test]
    fn messages_come_back(
        subject in word(),
        reply in prop_oneof![Just(String::new()), word()],
        headers in bytes(2000),
        payload in bytes(2000),
    ) {
        let mut out = Output::new();
        let (head, body) = (Bytes::from(headers.clone()), Bytes::from(payload.clone()));
        line::message(&mut out, subject.as_bytes(), "7", reply.as_bytes(), &head, &body, true);
        // A client's PUB is the server's MSG without the subscription.
        let text = out.take().concat();
        let at = text.windows(3).position(|three| three == b" 7 ").unwrap();
        let verb: &[u8] = if headers.is_empty() { b"PUB" } else { b"HPUB" };
        let names = &text[verb.len()..at];
        let published = [verb, names, &text[at + 2..]].concat();
        let mut decoder = Decoder::new(1 << 20, 4096);
        decoder.allow_headers(true);
        decoder.buffer().extend_from_slice(&published);
        let batch = row(decoder.next_operation());
        let expected =
            MessageView { subject: &subject, reply: &reply, headers: &headers, payload: &payload };
        prop_assert_eq!(batch.iter().collect::<Vec<_>>(), [expected]);
        prop_assert!(decoder.buffer().is_empty());
    }
}

/// The batch that an operation is.
fn row(operation: Result<Option<Operation>, ProtocolError>) -> MessageBatch {
    match operation {
        Ok(Some(Operation::Publish(batch))) => batch,
        other => panic!("{other:?} is no row of messages"),
    }
}

fn decoder_of(text: &[u8]) -> Decoder {
    let mut decoder = Decoder::new(10, 50);
    decoder.buffer().extend_from_slice(text);
    decoder
}

/// The answers of nats-server 2.15.1 to the same bytes, after CONNECT with headers.
#[test]
fn faults_are_answered_as_nats_server_does() {
    let unknown = Some("Unknown Protocol Operation");
    let payload = Some("Maximum Payload Violation");
    let line = Some("maximum control line exceeded");
    let long = format!("SUB {} 1\r\n", "a".repeat(49));
    for (text, wire_text) in [
        ("PUB\r\n", unknown),
        ("PUB \r\n", None),
        ("PUB a\r\n", None),
        ("PUB a b c d\r\n", None),
        ("PUB a x\r\n", None),
        ("PUB a -1\r\n", None),
        ("PUB a 9999999999\r\n", None),
        ("PUB a 0000000005\r\nhello\r\n", None),
        ("PUB a 999999999\r\n", payload),
        ("PUB a 4\r\nhello", unknown),
        ("PUB a 5\r\nhello\n", unknown),
        ("PUB a 5\r\nhi\r\nPING\r\n", unknown),
        ("HPUB a 5\r\n", None),
        ("HPUB a b c d e\r\n", None),
        ("HPUB a 12 5\r\n", None),
        ("HPUB a x 5\r\n", None),
        ("SUB\r\n", unknown),
        ("SUB a\r\n", None),
        ("SUB a b c d\r\n", None),
        ("UNSUB\r\n", unknown),
        ("UNSUB \r\n", None),
        ("UNSUB 1 2 3\r\n", None),
        ("\r\n", unknown),
        ("X", unknown),
        ("MSG a 1 0\r\n\r\n", unknown),
        ("INFO\r\n", None),
        ("INFO {\r\n", None),
        ("INFO []\r\n", None),
        ("CONNECT x\r\n", None),
        ("CONNECT\r\n", None),
        ("CONNECT {\"verbose\":\"a\"}\r\n", None),
        (&long, line),
    ] {
        let mut decoder = decoder_of(text.as_bytes());
        decoder.allow_headers(true);
        let error = decoder.next_operation().expect_err(text);
        assert_eq!(error.wire_text(), wire_text, "{text:?}: {error}");
    }
}

#[test]
fn headers_must_be_announced() {
    let text = b"HPUB a 2 3\r\nhhp\r\n";
    let mut decoder = decoder_of(text);
    let error = decoder.next_operation().unwrap_err();
    assert_eq!((error.clone(), error.wire_text()), (ProtocolError::HeadersNotAllowed, None));
    let mut decoder = decoder_of(text);
    decoder.allow_headers(true);
    let batch = row(decoder.next_operation());
    let message = batch.get(0).unwrap();
    assert_eq!((message.headers, message.payload), (&b"hh"[..], &b"p"[..]));
}

#[test]
fn a_payload_at_the_limit_passes_and_one_byte_more_is_refused_before_it_comes() {
    let mut decoder = decoder_of(b"PUB a 10\r\n0123456789\r\nPUB a 11\r\n");
    assert_eq!(row(decoder.next_operation()).get(0).unwrap().payload, b"0123456789");
    let error = decoder.next_operation().unwrap_err();
    assert_eq!(error, ProtocolError::MaximumPayload { size: 11, limit: 10 });

    let mut decoder = decoder_of(b"HPUB a 5 10\r\nhhhhhppppp\r\nHPUB a 5 11\r\n");
    decoder.allow_headers(true);
    assert_eq!(row(decoder.next_operation()).len(), 1);
    let error = decoder.next_operation().unwrap_err();
    assert_eq!(error, ProtocolError::MaximumPayload { size: 11, limit: 10 });
}

#[test]
fn messages_before_a_fault_are_not_lost() {
    let mut decoder = decoder_of(b"PUB a 1\r\n1\r\nPUB b 1\r\n2\r\nPUB c d e f\r\n");
    let batch = row(decoder.next_operation());
    assert_eq!(batch.iter().map(|m| m.subject).collect::<Vec<_>>(), ["a", "b"]);
    assert!(matches!(decoder.next_operation(), Err(ProtocolError::Parse(_))));
}

#[test]
fn what_is_no_text_is_a_fault_where_it_stands() {
    let mut decoder = decoder_of(b"PUB a 1\r\n1\r\nPUB \xff 1\r\n2\r\nPUB c 1\r\n3\r\n");
    assert_eq!(row(decoder.next_operation()).len(), 1);
    for _ in 0..2 {
        assert_eq!(decoder.next_operation().unwrap_err(), ProtocolError::NotText);
    }
    for text in
        [&b"PUB a \xff 0\r\n\r\n"[..], b"SUB \xff 1\r\n", b"SUB a \xff 1\r\n", b"UNSUB \xff\r\n"]
    {
        assert_eq!(decoder_of(text).next_operation().unwrap_err(), ProtocolError::NotText);
    }
}

#[test]
fn a_row_ends_at_the_limit() {
    let mut decoder = decoder_of(&b"PUB a 0\r\n\r\n".repeat(4097));
    assert_eq!(row(decoder.next_operation()).len(), 4096);
    assert_eq!(row(decoder.next_operation()).len(), 1);
    assert!(matches!(decoder.next_operation(), Ok(None)));

    let large = 1 << 20;
    let mut decoder = Decoder::new(large, 50);
    let mut text = format!("PUB a {large}\r\n").into_bytes();
    text.resize(text.len() + large, b'x');
    text.extend_from_slice(b"\r\n");
    decoder.buffer().extend_from_slice(&text.repeat(9));
    assert_eq!(row(decoder.next_operation()).len(), 8);
    assert_eq!(row(decoder.next_operation()).len(), 1);
}

#[test]
fn another_operation_ends_a_row_and_skipped_ones_too() {
    let mut decoder = decoder_of(b"PUB a 0\r\n\r\n+OK\r\nPUB a 0\r\n\r\nPING\r\nPUB a 0\r\n\r\nPU");
    assert_eq!(row(decoder.next_operation()).len(), 1);
    assert_eq!(row(decoder.next_operation()).len(), 1);
    assert!(matches!(decoder.next_operation(), Ok(Some(Operation::Ping))));
    assert_eq!(row(decoder.next_operation()).len(), 1);
    assert!(matches!(decoder.next_operation(), Ok(None)));
    assert_eq!(&decoder.buffer()[..], b"PU");
}

#[test]
fn it_is_known_how_many_bytes_are_missing() {
    let mut decoder = decoder_of(b"PUB a 10");
    assert!(matches!(decoder.next_operation(), Ok(None)));
    assert_eq!(decoder.missing(), 0);
    decoder.buffer().extend_from_slice(b"\r\n012");
    assert!(matches!(decoder.next_operation(), Ok(None)));
    // The rest of the payload and the first byte of its end.
    assert_eq!(decoder.missing(), 8);
    decoder.buffer().extend_from_slice(b"3456789\r");
    assert!(matches!(decoder.next_operation(), Ok(None)));
    assert_eq!(decoder.missing(), 1);
    decoder.buffer().extend_from_slice(b"\n");
    assert_eq!(row(decoder.next_operation()).len(), 1);
    assert_eq!(decoder.missing(), 0);
}

#[test]
fn messages_stay_where_they_arrived() {
    let mut decoder = decoder_of(b"PUB a r 2\r\nhi\r\nPUB b 2\r\nho\r\n");
    let range = decoder.buffer().as_ptr_range();
    let batch = row(decoder.next_operation());
    for message in batch.iter() {
        assert!(range.contains(&message.subject.as_ptr()));
        assert!(range.contains(&message.payload.as_ptr()));
    }
}

#[test]
fn the_number_of_unsub_is_none_where_it_is_no_number() {
    for (text, expected) in
        [("1 5", Some(5)), ("1", None), ("1 0", None), ("1 x", None), ("1 -5", None)]
    {
        let operation = decoder_of(format!("UNSUB {text}\r\n").as_bytes()).next_operation();
        let Ok(Some(Operation::Unsubscribe { sid, max })) = operation else { panic!("{text}") };
        assert_eq!((&*sid, max), ("1", expected), "{text}");
    }
}
