//! Scripted sessions: what a client sends and events in, requests and lines out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use bytes::Bytes;
use claudebus_storage::{NewRecord, Record};

use super::*;
use crate::model::event::{ConsumerPath, PullStatus};
use crate::model::request::{ReplyTo, Token};
use crate::wire::nats::Decoder;

/// A session and what came out of it.
struct Script {
    session: Session,
    decoder: Decoder,
    requests: Vec<Request>,
    out: Output,
}

impl Script {
    fn new(open: bool) -> Self {
        Self {
            session: Session::new(
                Arc::new(Limits { max_subscriptions: 2, ..Limits::default() }),
                "claudebus".into(),
                open,
            ),
            decoder: Decoder::new(1 << 20, 4096),
            requests: Vec::new(),
            out: Output::new(),
        }
    }

    /// A client that has said what nearly all do.
    fn connected() -> Self {
        let mut script = Self::new(true);
        script
            .send("CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"protocol\":1}\r\n")
            .unwrap();
        assert!(matches!(script.take()[..], [Request::NoResponders { tell: true }]));
        assert_eq!(script.lines(), "");
        script
    }

    fn send(&mut self, text: &str) -> Result<(), Ending> {
        self.decoder.buffer().extend_from_slice(text.as_bytes());
        while let Some(operation) = self.decoder.next_operation().unwrap() {
            if self.session.receive(operation, &mut self.requests, &mut self.out)? {
                self.decoder.allow_headers(self.session.client().headers);
                self.session.admit(&mut self.requests, &mut self.out);
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event) {
        self.session.event(event, &mut self.out).unwrap();
    }

    fn lines(&mut self) -> String {
        String::from_utf8(self.out.take().concat()).unwrap()
    }

    fn take(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    fn subscribed(&mut self, subject: &str, sid: &str) -> Token {
        self.send(&format!("SUB {subject} {sid}\r\n")).unwrap();
        match &self.take()[..] {
            [Request::Subscribe { token, .. }] => *token,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn info_comes_once_more_behind_the_first_pong_to_those_who_take_it() {
    for (protocol, comes) in [(0, false), (1, true)] {
        let mut script = Script::new(true);
        let info = Info { nonce: Some("x".into()), ..Info::default() };
        script.session.greet(info, &mut script.out);
        assert!(script.lines().contains("\"nonce\":\"x\""));
        let connect = format!("CONNECT {{\"verbose\":false,\"protocol\":{protocol}}}\r\nPING\r\n");
        script.send(&connect).unwrap();
        assert_eq!(script.lines(), "");
        script.event(Event::Barrier { token: PONG });
        let lines = script.lines();
        assert!(lines.starts_with("PONG\r\n"), "{lines}");
        let says_so = lines.contains("\"connect_info\":true,\"remote_account\":\"$G\"");
        assert_eq!((says_so, lines.contains("nonce")), (comes, false), "{lines}");
        script.event(Event::Barrier { token: PONG });
        assert_eq!(script.lines(), "PONG\r\n");
    }
}

#[test]
fn pong_waits_for_what_was_sent_before() {
    let mut script = Script::connected();
    script.send("SUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n").unwrap();
    assert!(matches!(
        script.take()[..],
        [
            Request::Subscribe { .. },
            Request::Send { echo: true, .. },
            Request::Barrier { token: PONG },
        ]
    ));
    assert_eq!(script.lines(), "");
    script.event(Event::Barrier { token: PONG });
    assert_eq!(script.lines(), "PONG\r\n");
}

#[test]
fn a_client_that_says_nothing_of_itself_is_answered_each_time() {
    let mut script = Script::new(true);
    script.send("SUB a 1\r\nPUB a 0\r\n\r\nUNSUB 1\r\nPUB a.* 0\r\n\r\n").unwrap();
    assert_eq!(script.lines(), "-ERR 'Invalid Publish Subject'\r\n");
    let confirmed: Vec<bool> = script
        .take()
        .iter()
        .map(|request| matches!(request, Request::Barrier { token: OK }))
        .collect();
    assert_eq!(confirmed, [false, true, true, false, false, true, true, false]);
    script.event(Event::Barrier { token: OK });
    assert_eq!(script.lines(), "+OK\r\n");
}

#[test]
fn nobody_does_anything_before_it_is_let_in() {
    let mut script = Script::new(false);
    let ending = script.send("PING\r\n").unwrap_err();
    assert_eq!(ending, Ending::Refused("Authorization Violation"));
    assert_eq!(script.lines(), "-ERR 'Authorization Violation'\r\n");
}

#[test]
fn what_connect_may_not_say() {
    for (options, why) in [
        ("{\"protocol\":2}", "invalid client protocol"),
        ("{\"no_responders\":true}", "no responders requires headers support"),
    ] {
        let mut script = Script::new(true);
        let ending = script.send(&format!("CONNECT {options}\r\n")).unwrap_err();
        assert_eq!(ending, Ending::Refused(why));
        assert_eq!(script.lines(), format!("-ERR '{why}'\r\n"));
    }
}

#[test]
fn subscriptions_at_the_limit_and_one_past_and_of_no_subject() {
    let mut script = Script::connected();
    script.subscribed("a", "1");
    script.subscribed("b", "2");
    script.send("SUB c 3\r\nSUB a..b 4\r\n").unwrap();
    assert!(script.take().is_empty());
    assert_eq!(
        script.lines(),
        "-ERR 'maximum subscriptions exceeded'\r\n-ERR 'Invalid Subject'\r\n"
    );
}

#[test]
fn a_message_has_the_sid_of_its_subscription() {
    let mut script = Script::connected();
    let token = script.subscribed("a.*", "s7");
    let message = CoreMessage {
        subject: Bytes::from_static(b"a.b"),
        payload: Bytes::from_static(b"hi"),
        ..CoreMessage::default()
    };
    script.event(Event::Message { token, message: message.clone() });
    assert_eq!(script.lines(), "MSG a.b s7 2\r\nhi\r\n");
    script.send("UNSUB s7\r\n").unwrap();
    script.event(Event::Message { token, message: message.clone() });
    assert_eq!(script.lines(), "MSG a.b s7 2\r\nhi\r\n", "it was published before the end");
    script.event(Event::Unsubscribed { token });
    script.event(Event::Message { token, message });
    assert_eq!(script.lines(), "");
}

#[test]
fn requests_to_the_server_and_messages_keep_their_order() {
    let mut script = Script::connected();
    script
        .send(
            "PUB a 1\r\nx\r\nPUB $JS.API.INFO r 0\r\n\r\nPUB $JS.ACK.S.c.1.1.1.0.0 0\r\n\r\n\
             PUB $JS.ACK.S.c.1.2.2.0.0 0\r\n\r\nPUB b 1\r\ny\r\nPUB c 1\r\nz\r\n\
             PUB $JS.API.CONSUMER.MSG.NEXT.S.c in.1 1\r\n5\r\n",
        )
        .unwrap();
    let requests = script.take();
    let [
        Request::Send { batch: first, .. },
        Request::Overhear { batch: asked, .. },
        Request::ApiTo { reply, .. },
        Request::Ack(ack),
        Request::Send { batch: second, .. },
        Request::Overhear { .. },
        Request::Pull(pull),
    ] = &requests[..]
    else {
        panic!("{requests:?}");
    };
    assert_eq!((first.len(), second.len(), reply.as_str()), (1, 2, "r"));
    assert_eq!(asked.iter().map(|message| message.subject).collect::<Vec<_>>(), ["$JS.API.INFO"]);
    assert_eq!(ack.sequences, [(1, 2)]);
    assert_eq!((pull.batch, &pull.reply), (5, &ReplyTo::Subject("in.1".into())));
    assert!(script.session.take_publishes() && !script.session.take_publishes());
}

#[test]
fn acknowledgements_that_say_something_are_requests_of_their_own() {
    let mut script = Script::connected();
    script
        .send(
            "PUB $JS.ACK.S.c.1.1.1.0.0 4\r\n-NAK\r\nPUB $JS.ACK.S.c.1.2.2.0.0 r 4\r\n+ACK\r\n\
             PUB $JS.ACK.S.c.1.3.3.0.0 in 4\r\n+NXT\r\nPUB $JS.ACK.nonsense r 0\r\n\r\n",
        )
        .unwrap();
    let requests = script.take();
    let [
        Request::Ack(nak),
        Request::Ack(confirmed),
        Request::Ack(next),
        Request::Pull(pull),
        Request::Unheard { .. },
    ] = &requests[..]
    else {
        panic!("{requests:?}");
    };
    assert!(matches!(nak.kind, crate::model::request::AckKind::Nak { .. }));
    assert_eq!(confirmed.confirm, Some(ReplyTo::Subject("r".into())));
    assert_eq!(confirmed.subject, "$JS.ACK.S.c.1.2.2.0.0");
    assert_eq!((next.sequences.as_slice(), pull.batch), (&[(3, 3)][..], 1));
}

fn delivery(headers: &[u8], headers_only: bool) -> Delivery {
    let record = NewRecord {
        subject: "orders.new",
        headers,
        payload: b"hello",
        time: 77,
        expires: None,
        message_id: None,
    };
    Delivery {
        record: Record::copy_of(7, &record),
        consumer_seq: 3,
        attempts: 2,
        pending: 9,
        headers_only,
        pin: None,
    }
}

#[test]
fn deliveries_have_the_stored_subject_and_name_where_to_acknowledge() {
    let mut script = Script::connected();
    let token = script.subscribed("in.*", "1");
    let consumer = Arc::new(ConsumerPath { stream: "S".into(), consumer: "c".into() });
    let deliveries = vec![delivery(b"", false), delivery(b"", true)];
    script.event(Event::Deliver { token, consumer, deliveries });
    assert_eq!(
        script.lines(),
        "MSG orders.new 1 $JS.ACK.S.c.2.7.3.77.9 5\r\nhello\r\n\
         HMSG orders.new 1 $JS.ACK.S.c.2.7.3.77.9 30 30\r\nNATS/1.0\r\nNats-Msg-Size: 5\r\n\r\n\r\n"
    );
    assert!(script.session.take_delivered() > 0);
}

#[test]
fn deliveries_tell_who_is_pinned_behind_their_own_headers() {
    let mut script = Script::connected();
    let token = script.subscribed("in.*", "1");
    let consumer = Arc::new(ConsumerPath { stream: "S".into(), consumer: "c".into() });
    let own = b"NATS/1.0\r\nNats-Pin-Id: own\r\n\r\n";
    let pinned = |headers: &[u8], headers_only, pin: &str| Delivery {
        pin: Some(pin.into()),
        ..delivery(headers, headers_only)
    };
    let deliveries = vec![pinned(own, false, "p"), pinned(b"", true, "p"), pinned(b"", false, "")];
    script.event(Event::Deliver { token, consumer, deliveries });
    let line = |head: &str, payload: &str| {
        let (head_size, size) = (head.len(), head.len() + payload.len());
        format!(
            "HMSG orders.new 1 $JS.ACK.S.c.2.7.3.77.9 {head_size} {size}\r\n{head}{payload}\r\n"
        )
    };
    assert_eq!(
        script.lines(),
        line("NATS/1.0\r\nNats-Pin-Id: own\r\nNats-Pin-Id: p\r\n\r\n", "hello")
            + &line("NATS/1.0\r\nNats-Msg-Size: 5\r\nNats-Pin-Id: p\r\n\r\n", "")
            + &line("NATS/1.0\r\nNats-Pin-Id: \r\n\r\n", "hello")
    );
}

#[test]
fn traffic_is_counted_by_headers_and_payloads() {
    let mut script = Script::connected();
    let token = script.subscribed("in.*", "1");
    assert_eq!((script.session.traffic(), script.session.subscriptions()), (Traffic::default(), 1));
    script.send("PUB a 2\r\nhi\r\nHPUB b 12 15\r\nNATS/1.0\r\n\r\nyou\r\n").unwrap();
    let consumer = Arc::new(ConsumerPath { stream: "S".into(), consumer: "c".into() });
    script.event(Event::Deliver { token, consumer, deliveries: vec![delivery(b"", false)] });
    let counted = Traffic { in_msgs: 2, in_bytes: 17, out_msgs: 1, out_bytes: 5 };
    assert_eq!(script.session.traffic(), counted);
}

#[test]
fn statuses_go_to_the_inbox_of_the_pull() {
    let mut script = Script::connected();
    let token = script.subscribed("in.*", "1");
    let status = PullStatus {
        code: 404,
        text: "No Messages".into(),
        pending_messages: 1,
        pending_bytes: 0,
        last: (0, 0),
        ended: true,
        reply: Some("in.7".into()),
        stalled: None,
    };
    script.event(Event::PullStatus { token, status });
    assert_eq!(script.lines(), "HMSG in.7 1 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n");
}

#[test]
fn a_client_that_answers_no_ping_is_stale() {
    let mut script = Script::connected();
    for _ in 0..MAX_PINGS {
        script.session.ping(&mut script.out).unwrap();
    }
    assert!(script.session.ping(&mut script.out).is_err());
    assert_eq!(script.lines(), "PING\r\nPING\r\n-ERR 'Stale Connection'\r\n");
    script.send("PONG\r\n").unwrap();
    assert!(script.session.ping(&mut script.out).is_ok());
}

#[test]
fn requests_in_flight_at_the_limit_and_one_below() {
    let mut script = Script::connected();
    for _ in 0..MAX_REQUESTS_IN_FLIGHT {
        assert!(!script.session.is_busy());
        script.send("PUB $JS.API.INFO r 0\r\n\r\n").unwrap();
    }
    assert!(script.session.is_busy());
    script.event(Event::Answered);
    assert!(!script.session.is_busy());
}
