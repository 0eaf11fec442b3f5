//! What servers send: functions that append it to an [`Output`].
//!
//! Subjects and ids are written as they are given. That they hold no blank or line end is for those
//! to see to who took them from a client.

use bytes::{BufMut, Bytes, BytesMut};

use super::info::Info;
use crate::wire::Output;

/// Bytes that a message's control line may have beside subject, id and reply: verb, two numbers of
/// 20 digits, blanks and line end.
const LINE_OVERHEAD: usize = 64;

/// Digits of the largest number.
const MOST_DIGITS: usize = 20;

/// Says what the server is.
pub fn info(out: &mut Output, info: &Info) {
    // Strings and numbers: it cannot fail.
    let json = serde_json::to_vec(info).unwrap_or_default();
    let line = out.bytes();
    line.put_slice(b"INFO ");
    line.put_slice(&json);
    line.put_slice(b" \r\n");
}

/// Says that an operation was taken, to a client that asked for that.
pub fn ok(out: &mut Output) {
    out.bytes().put_slice(b"+OK\r\n");
}

/// Asks for a sign of life.
pub fn ping(out: &mut Output) {
    out.bytes().put_slice(b"PING\r\n");
}

/// Answers PING.
pub fn pong(out: &mut Output) {
    out.bytes().put_slice(b"PONG\r\n");
}

/// Says what is wrong. `text` stands in single quotes, which some clients insist on.
pub fn error(out: &mut Output, text: &str) {
    let line = out.bytes();
    line.put_slice(b"-ERR '");
    line.put_slice(text.as_bytes());
    line.put_slice(b"'\r\n");
}

/// A message for the subscription `sid`; `reply` and `headers` may be empty. A receiver
/// `with_headers` gets them, another the payload alone. A large payload is not copied.
pub fn message(
    out: &mut Output,
    subject: &[u8],
    sid: &str,
    reply: &[u8],
    headers: &Bytes,
    payload: &Bytes,
    with_headers: bool,
) {
    let headers_len = if with_headers { headers.len() } else { 0 };
    let line = out.bytes();
    begin(line, subject, sid, headers_len);
    if !reply.is_empty() {
        line.put_slice(reply);
        line.put_u8(b' ');
    }
    sizes(line, headers_len, payload.len());
    if headers_len > 0 {
        out.put_shared(headers);
    }
    out.put_shared(payload);
    out.bytes().put_slice(b"\r\n");
}

/// A message whose subject, headers and payload lie one after the other in `data`, as those of a
/// stored record do (`Record::data`), for the subscription `sid`. `reply` appends the subject of
/// its acknowledgement, or nothing. A receiver `with_headers` gets them, another the payload alone.
/// Large messages are not copied.
pub fn delivery(
    out: &mut Output,
    data: &Bytes,
    subject_len: usize,
    headers_len: usize,
    sid: &str,
    with_headers: bool,
    reply: impl FnOnce(&mut BytesMut),
) {
    let (from, headers_len) = if with_headers {
        (subject_len, headers_len)
    } else {
        (subject_len.saturating_add(headers_len), 0)
    };
    let body = data.len().saturating_sub(from);
    let line = out.bytes();
    begin(line, data.get(..subject_len).unwrap_or_default(), sid, headers_len);
    let before = line.len();
    reply(line);
    if line.len() > before {
        line.put_u8(b' ');
    }
    sizes(line, headers_len, body.saturating_sub(headers_len));
    out.put_shared_from(data, from);
    out.bytes().put_slice(b"\r\n");
}

/// A message of a header block `head` alone, by which the server says how things stand: for example
/// `NATS/1.0 404 No Messages\r\n\r\n`. `reply` may be empty.
pub fn status(out: &mut Output, sid: &str, subject: &[u8], reply: &[u8], head: &[u8]) {
    let line = out.bytes();
    begin(line, subject, sid, head.len());
    if !reply.is_empty() {
        line.put_slice(reply);
        line.put_u8(b' ');
    }
    sizes(line, head.len(), 0);
    line.put_slice(head);
    line.put_slice(b"\r\n");
}

/// Appends a number in decimal digits, without memory of its own.
pub fn decimal(out: &mut BytesMut, mut value: u64) {
    let mut digits = [b'0'; MOST_DIGITS];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        // Below ten.
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        count += 1;
        if value == 0 {
            break;
        }
    }
    out.put_slice(digits.get(MOST_DIGITS - count..).unwrap_or_default());
}

/// A control line up to where the reply stands.
fn begin(line: &mut BytesMut, subject: &[u8], sid: &str, headers_len: usize) {
    line.reserve(subject.len() + sid.len() + LINE_OVERHEAD);
    line.put_slice(if headers_len > 0 { b"HMSG ".as_slice() } else { b"MSG ".as_slice() });
    line.put_slice(subject);
    line.put_u8(b' ');
    line.put_slice(sid.as_bytes());
    line.put_u8(b' ');
}

/// The rest of a control line, after the reply.
fn sizes(line: &mut BytesMut, headers_len: usize, payload_len: usize) {
    if headers_len > 0 {
        decimal(line, headers_len as u64);
        line.put_u8(b' ');
    }
    decimal(line, (headers_len + payload_len) as u64);
    line.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call appends.
    fn written(write: impl FnOnce(&mut Output)) -> String {
        let mut out = Output::new();
        write(&mut out);
        String::from_utf8(out.take().concat()).unwrap()
    }

    static HEADERS: Bytes = Bytes::from_static(b"NATS/1.0\r\nA: b\r\n\r\n");
    static PAYLOAD: Bytes = Bytes::from_static(b"hello");

    #[test]
    fn short_lines() {
        assert_eq!(written(ok), "+OK\r\n");
        assert_eq!(written(ping), "PING\r\n");
        assert_eq!(written(pong), "PONG\r\n");
        assert_eq!(written(|out| error(out, "Stale Connection")), "-ERR 'Stale Connection'\r\n");
    }

    #[test]
    fn info_has_the_fields_that_apply_in_order() {
        let mut says = Info {
            server_id: "I".into(),
            server_name: "N".into(),
            version: "2.11.9".into(),
            host: "::1".into(),
            port: 4222,
            max_payload: 1 << 20,
            client_id: 7,
            client_ip: "127.0.0.1".into(),
            api_lvl: 1,
            ..Info::default()
        };
        assert_eq!(
            written(|out| info(out, &says)),
            "INFO {\"server_id\":\"I\",\"server_name\":\"N\",\"version\":\"2.11.9\",\"proto\":1,\
             \"host\":\"::1\",\"port\":4222,\"headers\":true,\"max_payload\":1048576,\
             \"jetstream\":true,\"client_id\":7,\"client_ip\":\"127.0.0.1\",\"api_lvl\":1} \r\n"
        );
        says.auth_required = true;
        says.tls_required = true;
        says.tls_verify = true;
        says.tls_available = true;
        says.nonce = Some("x".into());
        says.domain = Some("d".into());
        says.ldm = true;
        says.connect_info = true;
        says.remote_account = Some("$G".into());
        assert_eq!(
            written(|out| info(out, &says)),
            "INFO {\"server_id\":\"I\",\"server_name\":\"N\",\"version\":\"2.11.9\",\"proto\":1,\
             \"host\":\"::1\",\"port\":4222,\"headers\":true,\"auth_required\":true,\
             \"tls_required\":true,\"tls_verify\":true,\"tls_available\":true,\
             \"max_payload\":1048576,\"jetstream\":true,\"client_id\":7,\
             \"client_ip\":\"127.0.0.1\",\"nonce\":\"x\",\"domain\":\"d\",\"ldm\":true,\
             \"connect_info\":true,\"remote_account\":\"$G\",\"api_lvl\":1} \r\n"
        );
    }

    #[test]
    fn messages_with_and_without_reply_and_headers() {
        let none = Bytes::new();
        for (reply, headers, with_headers, expected) in [
            ("", &none, true, "MSG a.b 12 5\r\nhello\r\n"),
            ("r", &none, true, "MSG a.b 12 r 5\r\nhello\r\n"),
            ("", &HEADERS, true, "HMSG a.b 12 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n"),
            ("r", &HEADERS, true, "HMSG a.b 12 r 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n"),
            ("r", &HEADERS, false, "MSG a.b 12 r 5\r\nhello\r\n"),
        ] {
            let text = written(|out| {
                message(out, b"a.b", "12", reply.as_bytes(), headers, &PAYLOAD, with_headers);
            });
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn deliveries_are_cut_from_the_bytes_of_a_record() {
        let data = Bytes::from_static(b"a.bNATS/1.0\r\nA: b\r\n\r\nhello");
        let with = |with_headers, reply: &'static [u8]| {
            written(|out| {
                delivery(out, &data, 3, 18, "s", with_headers, |line| line.put_slice(reply));
            })
        };
        assert_eq!(with(true, b"$A"), "HMSG a.b s $A 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n");
        assert_eq!(with(true, b""), "HMSG a.b s 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n");
        assert_eq!(with(false, b"$A"), "MSG a.b s $A 5\r\nhello\r\n");
        let data = Bytes::from_static(b"a.b");
        let empty = written(|out| delivery(out, &data, 3, 0, "s", true, |_| {}));
        assert_eq!(empty, "MSG a.b s 0\r\n\r\n");
    }

    #[test]
    fn large_payloads_are_not_copied() {
        let data = Bytes::from([b"a.b".as_slice(), &[b'x'; 5000]].concat());
        let mut out = Output::new();
        delivery(&mut out, &data, 3, 0, "s", true, |_| {});
        message(&mut out, b"a", "s", b"", &Bytes::new(), &data, true);
        let chunks = out.take();
        assert_eq!(chunks[1].as_ptr(), data[3..].as_ptr());
        assert_eq!(chunks[3].as_ptr(), data.as_ptr());
        assert_eq!(chunks[2], b"\r\nMSG a s 5003\r\n"[..]);
    }

    #[test]
    fn a_status_is_a_header_block_alone() {
        let head = b"NATS/1.0 404 No Messages\r\n\r\n";
        assert_eq!(
            written(|out| status(out, "9", b"_INBOX.x", b"", head)),
            "HMSG _INBOX.x 9 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n"
        );
        assert_eq!(
            written(|out| status(out, "9", b"d", b"r", head)),
            "HMSG d 9 r 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n"
        );
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_does() {
        for value in [0, 1, 9, 10, 99, 100, 1234, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = BytesMut::new();
            decimal(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }
}
