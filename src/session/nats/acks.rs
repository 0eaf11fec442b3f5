//! Acknowledgements: the subject that each delivery names for them, and what clients publish there.
//!
//! `$JS.ACK.<stream>.<consumer>.<attempts>.<stream seq>.<consumer seq>.<time>.<pending>` (ADR-15, version 1);
//! the second version, with domain and account before the stream, is understood as well.

use std::time::Duration;

use bytes::BytesMut;
use claudebus_storage::{NewRecord, Record};

use super::pulls;
use crate::model::batch::MessageView;
use crate::model::duration::from_go;
use crate::model::event::{ConsumerPath, Delivery};
use crate::model::headers::{Block, names};
use crate::model::request::{Ack, AckKind, ReplyTo, Request};
use crate::wire::Output;
use crate::wire::native::strip;
use crate::wire::nats::line;

/// The part of the ack subjects that all deliveries of a consumer share.
pub(super) fn prefix(consumer: &ConsumerPath) -> String {
    format!("$JS.ACK.{}.{}.", consumer.stream, consumer.consumer)
}

/// Writes a delivery. Returns the bytes of its headers and payload.
pub(super) fn deliver(
    out: &mut Output,
    with_headers: bool,
    sid: &str,
    prefix: &str,
    delivery: &Delivery,
) -> usize {
    let stripped;
    let delivery = if delivery.headers_only {
        stripped = strip(delivery);
        &stripped
    } else {
        delivery
    };
    let pinned;
    let delivery = match &delivery.pin {
        Some(pin) if with_headers => {
            pinned = with_pin(delivery, pin);
            &pinned
        }
        _ => delivery,
    };
    let record = &delivery.record;
    let (subject, headers) = (record.subject_len(), record.headers_len());
    line::delivery(out, record.data(), subject, headers, sid, with_headers, |line| {
        put_reply(line, prefix, delivery);
    });
    let left_out = if with_headers { subject } else { subject + headers };
    record.data().len().saturating_sub(left_out)
}

/// The delivery with a header that says which client the consumer is pinned to, behind its own.
fn with_pin(delivery: &Delivery, pin: &str) -> Delivery {
    let record = &delivery.record;
    let mut headers = Block::from_existing(record.headers());
    headers.add(names::PIN_ID, pin);
    let new = NewRecord {
        subject: record.subject(),
        headers: &headers.finish(),
        payload: record.payload(),
        time: record.time,
        expires: record.expires,
        message_id: None,
    };
    Delivery { record: Record::copy_of(record.seq, &new), ..delivery.clone() }
}

/// The subject by which a delivery is acknowledged.
pub(super) fn subject(prefix: &str, delivery: &Delivery) -> BytesMut {
    let mut subject = BytesMut::new();
    put_reply(&mut subject, prefix, delivery);
    subject
}

fn put_reply(reply: &mut BytesMut, prefix: &str, delivery: &Delivery) {
    let Delivery { record, consumer_seq, attempts, pending, .. } = delivery;
    reply.extend_from_slice(prefix.as_bytes());
    for number in [*attempts, record.seq, *consumer_seq, record.time] {
        line::decimal(reply, number);
        reply.extend_from_slice(b".");
    }
    line::decimal(reply, *pending);
}

/// Acknowledgements of one consumer that follow each other, on their way into one request.
#[derive(Debug, Default)]
pub(super) struct AckRun {
    ack: Option<Ack>,
}

impl AckRun {
    /// Adds a plain acknowledgement.
    fn add(&mut self, stream: &str, consumer: &str, seq: u64, requests: &mut Vec<Request>) {
        if let Some(ack) = &mut self.ack
            && ack.stream == stream
            && ack.consumer == consumer
        {
            match ack.sequences.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(seq) => *last = seq,
                _ => ack.sequences.push((seq, seq)),
            }
            return;
        }
        self.flush(requests);
        self.ack = Some(Ack {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            sequences: vec![(seq, seq)],
            kind: AckKind::Ack,
            confirm: None,
            subject: String::new(),
        });
    }

    /// Ends the row.
    pub(super) fn flush(&mut self, requests: &mut Vec<Request>) {
        requests.extend(self.ack.take().map(Request::Ack));
    }
}

/// What an ack subject names: stream, consumer, stream sequence.
fn parse(subject: &str) -> Option<(&str, &str, u64)> {
    let count = subject.split('.').count();
    let mut tokens = subject.split('.').skip(2);
    if count != 9 {
        if count < 11 {
            return None;
        }
        tokens.nth(1);
    }
    let (stream, consumer) = (tokens.next()?, tokens.next()?);
    Some((stream, consumer, tokens.nth(1)?.parse().ok()?))
}

/// What a payload says. `None` for words that mean nothing.
fn kind_of(payload: &[u8]) -> Option<AckKind> {
    let text = std::str::from_utf8(payload).ok()?;
    match text {
        "" | "+ACK" | "+OK" => return Some(AckKind::Ack),
        "+WPI" => return Some(AckKind::InProgress),
        _ => {}
    }
    if let Some(rest) = text.strip_prefix("-NAK") {
        return Some(AckKind::Nak { delay: delay(rest.trim()) });
    }
    let reason = text.strip_prefix("+TERM")?.trim().to_owned();
    Some(AckKind::Terminate { reason })
}

/// The delay of a `-NAK`: JSON with nanoseconds, or a duration as Go writes it.
fn delay(text: &str) -> Duration {
    if let Some(delay) = from_go(text) {
        return delay;
    }
    let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
    json.and_then(|json| json.get("delay")?.as_u64()).map(Duration::from_nanos).unwrap_or_default()
}

/// An acknowledgement arrives.
pub(super) fn receive(message: &MessageView<'_>, run: &mut AckRun, requests: &mut Vec<Request>) {
    let Some((stream, consumer, seq)) = parse(message.subject) else {
        // Nothing listens there.
        let (subject, reply) = (message.subject.to_owned(), message.reply.to_owned());
        requests.push(Request::Unheard { subject, reply });
        return;
    };
    let next = message.payload.strip_prefix(b"+NXT");
    let kind = if next.is_some() { Some(AckKind::Ack) } else { kind_of(message.payload) };
    if kind == Some(AckKind::Ack) && (next.is_some() || message.reply.is_empty()) {
        run.add(stream, consumer, seq, requests);
        if let Some(body) = next {
            run.flush(requests);
            pulls::receive(stream, consumer, message.reply, body, requests);
        }
        return;
    }
    run.flush(requests);
    // What says nothing is still answered, as nats-server does.
    let sequences = kind.iter().map(|_| (seq, seq)).collect();
    let confirm = (!message.reply.is_empty()).then(|| ReplyTo::Subject(message.reply.to_owned()));
    let subject = if confirm.is_some() { message.subject.to_owned() } else { String::new() };
    requests.push(Request::Ack(Ack {
        stream: stream.to_owned(),
        consumer: consumer.to_owned(),
        sequences,
        kind: kind.unwrap_or(AckKind::InProgress),
        confirm,
        subject,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_subjects_are_read() {
        assert_eq!(parse("$JS.ACK.S.c.1.7.3.1700000000000000000.5"), Some(("S", "c", 7)));
        let second = "$JS.ACK._.ACCHASH.S.c.1.7.3.1700000000000000000.5";
        assert_eq!(parse(second), Some(("S", "c", 7)));
        assert_eq!(parse(&format!("{second}.extra")), Some(("S", "c", 7)));
        for bad in ["$JS.ACK.S.c.1", "$JS.ACK.S.c.1.x.3.4.5", "$JS.ACK.a.b.c.d.e.f.g.h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn words_of_acknowledgements() {
        let nak = |delay| Some(AckKind::Nak { delay });
        assert_eq!(kind_of(b""), Some(AckKind::Ack));
        assert_eq!(kind_of(b"+ACK"), Some(AckKind::Ack));
        assert_eq!(kind_of(b"+OK"), Some(AckKind::Ack));
        assert_eq!(kind_of(b"-NAK"), nak(Duration::ZERO));
        assert_eq!(kind_of(b"-NAK {\"delay\": 5000000}"), nak(Duration::from_millis(5)));
        assert_eq!(kind_of(b"-NAK 5s"), nak(Duration::from_secs(5)));
        assert_eq!(kind_of(b"+WPI"), Some(AckKind::InProgress));
        assert_eq!(kind_of(b"+TERM"), Some(AckKind::Terminate { reason: String::new() }));
        assert_eq!(kind_of(b"+TERM no use"), Some(AckKind::Terminate { reason: "no use".into() }));
        assert_eq!(kind_of(b"hello"), None);
        assert_eq!(kind_of(b"\xff"), None);
    }

    #[test]
    fn acknowledgements_in_a_row_are_one_request() {
        let mut requests = Vec::new();
        let mut run = AckRun::default();
        for (consumer, seq) in [("c", 1), ("c", 2), ("c", 5), ("d", 6)] {
            let subject = format!("$JS.ACK.S.{consumer}.1.{seq}.{seq}.0.0");
            let message = MessageView { subject: &subject, reply: "", headers: b"", payload: b"" };
            receive(&message, &mut run, &mut requests);
        }
        run.flush(&mut requests);
        let ranges: Vec<_> = requests
            .iter()
            .map(|request| match request {
                Request::Ack(ack) => (ack.consumer.as_str(), ack.sequences.clone()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ranges, [("c", vec![(1, 2), (5, 5)]), ("d", vec![(6, 6)])]);
    }
}
